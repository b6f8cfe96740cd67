"""`simlab evaluate --stream`: the numbers of memory from files of any size, and what it refuses."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import causal.stream.run as running
from causal.bandit.dr import DR
from causal.evaluation import estimate
from causal.rewards import CrossFit
from causal.rounds import rounds
from causal.stream import Logged, PolicyRounds, Progress, fit_folds
from simlab.context import Catalog
from simlab.datasets.open_bandit import OpenBandit
from simlab.errors import BadInput
from simlab.lab.cli import main, read
from simlab.lab.stream_options import command_of
from simlab.lab.stream_progress import Watch, spoken, watched
from simlab.lab.stream_source import Named
from simlab.policies.random import Random
from simlab.rankers.contract import Sizes
from simlab.rankers.popularity import Popularity
from simlab.seeds import Seed
from simlab.tables import read_log, write_log
from simlab.training.store import save_ranker

COLUMN = ("--policy", "column:target")
NUMBERS = ["value", "stderr", "low", "high", "ess", "max_weight_share", "n", "lift", "lift_low", "lift_high"]


def run(*arguments: str | Path) -> int:
    return main(["evaluate", *map(str, arguments)])


def results(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "results.parquet").set_index("estimator")


def evaluated(out: Path, *arguments: str | Path) -> pd.DataFrame:
    assert run(*arguments, "--out", out) == 0
    return results(out)


def metrics(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "metrics.json").read_text("utf-8"))
    assert isinstance(found, dict)
    return found


def rounds_of(n: int = 3000, users: bool = False) -> pd.DataFrame:
    """Rounds of four items, uneven propensities, and the probabilities of two targets."""
    luck = np.random.default_rng(3)
    chance, aim = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.4, 0.3, 0.2, 0.1])
    item = luck.choice(4, size=n, p=chance)
    click = (luck.random(n) < np.array([0.5, 0.4, 0.3, 0.2])[item]).astype(float)
    frame = pd.DataFrame({"item": item, "propensity": chance[item], "reward": click, "target": aim[item]})
    frame["other"] = 0.25
    if users:
        frame["user"] = np.arange(n) // 4
    return frame


def slates_of(n: int = 900) -> pd.DataFrame:
    """Slates of two, with a target's probability of each slot's item."""
    luck = np.random.default_rng(4)
    below = luck.uniform(0.2, 0.5, (n, 2))
    above = below * luck.uniform(0, 2, (n, 2))
    return pd.DataFrame(
        {
            "slate": [luck.permutation(5)[:2].tolist() for _ in range(n)],
            "click": (luck.random((n, 2)) < 0.3).astype(float).tolist(),
            "propensity": below.prod(1),
            "slot_propensity": below.tolist(),
            "target": above.tolist(),
            "whole": below.prod(1) / 2,
        }
    )


def cut(frame: pd.DataFrame, folder: Path, files: int = 5) -> Path:
    """Write a table as several files of uneven length."""
    folder.mkdir()
    bounds = [0, *(len(frame) * i * i // files**2 for i in range(1, files + 1))]
    for i in range(files):
        frame[bounds[i] : bounds[i + 1]].to_parquet(folder / f"day-{i}.parquet")
    return folder


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.parquet"
    rounds_of().to_parquet(path)
    return path


@pytest.fixture
def slates(tmp_path: Path) -> Path:
    path = tmp_path / "slates.parquet"
    slates_of().to_parquet(path)
    return path


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of slates of three from eight items, three steps a session."""
    out = tmp_path_factory.mktemp("log") / "uniform"
    words = ["--policy", "random", "--items", "8", "--slots", "3", "--users", "400", "--steps", "3"]
    assert main(["log", *words, "--shard", "200", "--seed", "5", "--out", str(out)]) == 0
    return out / "log.parquet"


@pytest.fixture
def ranker(tmp_path: Path) -> str:
    """A saved ranker that prefers some of eight items."""
    made = Popularity(Sizes(1, 8), Popularity.Spec())
    made.clicks += torch.arange(8, dtype=torch.float64) * 30
    save_ranker(made, tmp_path / "ranker")
    return f"softmax(saved:{tmp_path / 'ranker'}, temperature=3)"


# --- the same numbers as in memory -----------------------------------------------------------------------


@pytest.mark.parametrize("interval", ["student-t", "normal"])
def test_a_column_of_rounds_is_memory(log: Path, tmp_path: Path, interval: str) -> None:
    """Without users every number is the same, intervals included: both come from the same sums."""
    words = (log, *COLUMN, "--versus", "column:other", "--interval", interval, "--truth", "0.4")
    mine = evaluated(tmp_path / "stream", *words, "--stream")
    theirs = evaluated(tmp_path / "memory", *words)
    assert list(mine.index) == list(theirs.index)
    for name in [*NUMBERS, "versus", "versus_low", "versus_high"]:
        assert mine[name].to_numpy(float) == pytest.approx(theirs[name].to_numpy(float), rel=1e-12), name
    assert (mine["interval"] == interval).all()
    mine_, theirs_ = metrics(tmp_path / "stream"), metrics(tmp_path / "memory")
    assert mine_["truth"] == theirs_["truth"]
    assert mine_["logged"]["value"] == pytest.approx(theirs_["logged"]["value"], rel=1e-12)
    assert mine_["logged"]["stderr"] == pytest.approx(theirs_["logged"]["stderr"], rel=1e-12)
    assert mine_["stream"] == {"files": 1, "rows": 3000}
    # The same words of the same figures: the verdict on rounds is that of memory.
    found = [json.loads((tmp_path / w / "diagnostics.json").read_text("utf-8")) for w in ("stream", "memory")]
    assert found[0]["verdict"] == found[1]["verdict"]
    assert found[0]["weights"][0]["mean"] == pytest.approx(found[1]["mean_weight"], rel=1e-12)
    assert found[0]["weights"][0]["mean_z"] == pytest.approx(found[1]["mean_weight_z"], rel=1e-9)


def test_users_are_the_units_in_buckets(tmp_path: Path) -> None:
    """Values are memory's; the spread is of buckets of users, which tell it to a few per cent."""
    frame = rounds_of(4000, users=True)
    frame["reward"] += frame["user"] % 3 * 2
    path = tmp_path / "log.parquet"
    frame.to_parquet(path)
    mine = evaluated(tmp_path / "stream", path, *COLUMN, "--stream", "--interval", "cluster")
    theirs = evaluated(tmp_path / "memory", path, *COLUMN, "--interval", "cluster")
    for name in ("value", "lift", "ess", "max_weight_share"):
        assert mine[name].to_numpy() == pytest.approx(theirs[name].to_numpy(), rel=1e-12), name
    assert mine["stderr"].to_numpy() == pytest.approx(theirs["stderr"].to_numpy(), rel=0.1)
    # Not those of rows: users differ, and that is part of the spread.
    frame.drop(columns="user").to_parquet(tmp_path / "rows.parquet")
    rows = evaluated(tmp_path / "rows", tmp_path / "rows.parquet", *COLUMN, "--stream")
    assert (mine["stderr"] > 1.2 * rows["stderr"]).all()
    page = (tmp_path / "stream" / "report.html").read_text("utf-8")
    assert "take users as independent" in page


def test_policies_of_slates_are_memory(simulated: Path, tmp_path: Path, ranker: str) -> None:
    logger = ("--logger", "random", "--examination", "1", "0.7", "0.5")
    words = (
        simulated,
        "--policy",
        ranker,
        *logger,
        "--versus",
        "epsilon(random, 0.5)",
        "--reward-model",
        "none",
        "--reward-range",
        "0",
        "3",
    )
    mine = evaluated(tmp_path / "stream", *words, "--stream")
    theirs = evaluated(tmp_path / "memory", *words)
    assert list(mine.index) == list(theirs.index)
    assert len(mine) >= 11
    for name in ("value", "ess", "max_weight_share", "n", "lift", "versus"):
        assert mine[name].to_numpy(float) == pytest.approx(theirs[name].to_numpy(float), rel=1e-12), name
    assert mine["stderr"].to_numpy() == pytest.approx(theirs["stderr"].to_numpy(), rel=0.1)  # users
    said = metrics(tmp_path / "stream")
    assert said["policy"] == metrics(tmp_path / "memory")["policy"]


def test_whole_slates_are_rounds(simulated: Path, tmp_path: Path) -> None:
    words = (simulated, "--policy", "random", "--unit", "round", "--reward-model", "none")
    mine = evaluated(tmp_path / "stream", *words, "--stream")
    theirs = evaluated(tmp_path / "memory", *words)
    names = [name for name in theirs.index if name != "replay"]  # it asks all rows whether it applies
    assert list(mine.index) == names
    assert mine["value"].to_numpy() == pytest.approx(theirs.loc[names, "value"].to_numpy(), rel=1e-12)


def test_a_column_of_slots(slates: Path, tmp_path: Path) -> None:
    """A list column holds the chances of the slots: numerators by hand."""
    mine = evaluated(tmp_path / "stream", slates, *COLUMN, "--stream")
    assert list(mine.index) == ["IIPS", "SNIIPS", "clipped IIPS"]
    frame = slates_of()
    above, below, click = (np.array(frame[c].tolist()) for c in ("target", "slot_propensity", "click"))
    weight = above / below
    assert mine.loc["IIPS", "value"] == pytest.approx((weight * click).sum(1).mean(), rel=1e-12)
    own = ((weight * click).sum(0) / weight.sum(0)).sum()
    assert mine.loc["SNIIPS", "value"] == pytest.approx(own, rel=1e-12)
    ess = (weight.sum(0) ** 2 / (weight**2).sum(0)).min()
    assert mine.loc["IIPS", "ess"] == pytest.approx(ess, rel=1e-12)
    assert metrics(tmp_path / "stream")["logged"]["value"] == pytest.approx(click.sum(1).mean(), rel=1e-12)
    table = json.loads((tmp_path / "stream" / "diagnostics.json").read_text("utf-8"))["weights"]
    assert [row["slot"] for row in table] == [0, 1]
    z = (weight.mean(0) - 1) / (weight.std(0, ddof=1) / len(weight) ** 0.5)
    assert [row["mean_z"] for row in table] == pytest.approx(z, rel=1e-9)


def test_positions_of_open_bandit_are_memory(tmp_path: Path) -> None:
    data = OpenBandit("random", "men")
    write_log(data.load(), tmp_path / "men.parquet")
    words = ("--policy", "bernoulli-ts(men)", "--estimators", "ips", "snips", "--interval", "normal")
    mine = evaluated(tmp_path / "stream", tmp_path / "men.parquet", *words, "--stream")
    theirs = evaluated(tmp_path / "memory", "open-bandit:random/men", *words)
    assert mine["value"].to_numpy() == pytest.approx(theirs["value"].to_numpy(), rel=1e-12)
    assert mine["ess"].to_numpy() == pytest.approx(theirs["ess"].to_numpy(), rel=1e-12)
    # Each round has a user of its own, but buckets stand for users: 8,192 of them.
    assert mine["stderr"].to_numpy() == pytest.approx(theirs["stderr"].to_numpy(), rel=0.05)


def test_a_reward_model_is_fitted_on_a_sample(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    rounds_of(2000, users=True).to_parquet(path)
    words = (path, "--policy", "uniform", "--items", "4", "--reward-model", "ridge", "--stream")
    mine = evaluated(tmp_path / "stream", *words, "--folds", "2", "--estimators", "dm", "dr")
    reader = Logged(PolicyRounds(Random()), n_items=4)
    model = fit_folds(path, Named("ridge", Catalog.bare(4)), reader, folds=2, seed=Seed(0).split("folds"))
    found = read_log(path, n_items=4)
    fitted = CrossFit((model,), torch.zeros(len(found), dtype=torch.long))
    theirs = estimate(DR(), rounds(found, Random(), fitted))
    assert mine.loc["DR", "value"] == pytest.approx(theirs.value, rel=1e-12)
    assert "ridge was fitted on 2,000 of 2,000 rows" in " ".join(metrics(tmp_path / "stream")["notes"])


def test_the_sample_is_of_whole_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simlab.lab.stream_source.SAMPLE", 500)
    path = tmp_path / "log.parquet"
    rounds_of(2000, users=True).to_parquet(path)
    words = (path, "--policy", "uniform", "--items", "4", "--reward-model", "gradient-boosting", "--stream")
    evaluated(tmp_path / "stream", *words, "--estimators", "ips", "dr")
    said = re.search(r"fitted on ([\d,]+) of 2,000 rows", " ".join(metrics(tmp_path / "stream")["notes"]))
    assert said is not None
    sample = int(said[1].replace(",", ""))
    assert sample % 4 == 0
    assert 350 < sample < 650


# --- files, workers, interruptions -----------------------------------------------------------------------


def test_one_file_and_five_are_the_same(log: Path, tmp_path: Path) -> None:
    words = (*COLUMN, "--versus", "column:other", "--stream", "--interval", "poisson")
    one = evaluated(tmp_path / "one", log, *words)
    folder = cut(rounds_of(), tmp_path / "days")
    many = evaluated(tmp_path / "many", folder, *words)
    files = sorted(folder.iterdir())
    named = evaluated(tmp_path / "named", *files, *words)
    pd.testing.assert_frame_equal(many, named)
    pd.testing.assert_frame_equal(one, many, check_exact=False, rtol=1e-11, atol=1e-15)
    assert metrics(tmp_path / "many")["stream"] == {"files": 5, "rows": 3000}
    page = (tmp_path / "named" / "report.html").read_text("utf-8")
    assert "day-0.parquet and 4 more" in page
    assert "5 files with 3,000 rows, added up in " in page


def stopped_after(pieces: int) -> Callable[..., Any]:
    """Stand for a stream that is interrupted after some pieces."""
    real = running.stream

    def stream(*arguments: Any, progress: Callable[[Progress], None], **options: Any) -> Any:
        def tell(at: Progress) -> None:
            progress(at)
            if at.pieces == pieces:
                raise KeyboardInterrupt

        return real(*arguments, progress=tell, **options)

    return stream


def test_a_resumed_run_leaves_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, state = cut(rounds_of(), tmp_path / "days"), tmp_path / "the state"
    words: tuple[str | Path, ...] = (folder, *COLUMN, "--stream", "--reward-range", "0", "1")
    assert run(*words, "--out", tmp_path / "whole") == 0
    kept = (*words, "--checkpoint", state)
    with monkeypatch.context() as patch:
        patch.setattr("simlab.lab.evaluation_stream.stream", stopped_after(3))
        capsys.readouterr()
        assert run(*kept, "--out", tmp_path / "resumed") == 130
    said = capsys.readouterr().err
    assert said.startswith(
        f"simlab: stopped with 3 of 5 pieces added up in {state}; go on with: simlab evaluate "
    )
    assert f"--checkpoint '{state}'" in said
    assert said.count("\n") == 1
    assert state.is_file()
    assert not (tmp_path / "resumed").exists()
    assert not (tmp_path / "resumed.partial").exists()
    assert run(*kept, "--out", tmp_path / "resumed") == 0
    assert "1,080 rows of them before" in " ".join(capsys.readouterr().out.split())
    for name in ("results.parquet", "metrics.json", "diagnostics.json", "config.yaml"):
        assert (tmp_path / "resumed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    # A finished state answers again, without reading; and takes up the next day's file.
    assert run(*kept, "--out", tmp_path / "again") == 0
    assert (tmp_path / "again" / "results.parquet").read_bytes() == (
        tmp_path / "whole" / "results.parquet"
    ).read_bytes()
    rounds_of(500).to_parquet(folder / "day-9.parquet")
    assert (evaluated(tmp_path / "next", *kept)["n"] == 3500).all()
    # With another target, it is not this state.
    assert run(folder, "--policy", "column:other", *kept[3:], "--out", tmp_path / "other") == 2
    assert "this state is of another target" in capsys.readouterr().err


def test_what_is_said_of_a_stop(tmp_path: Path) -> None:
    watch = Watch(100, 4)
    assert watch.stopped("x") == "stopped, and nothing is kept: with --checkpoint FILE a run can go on"
    watch = Watch(100, 4, tmp_path / "state")
    assert watch.stopped("x") == "stopped before any piece was added up"
    watch.tell(Progress(25, 100, 1, 4, "a", 3.0))
    assert watch.first is None
    assert "1 of 4 pieces added up in " in watch.stopped("x")


def test_time_left_is_of_this_run_alone() -> None:
    first = Progress(500, 1000, 5, 10, "a", 0.0)
    assert spoken(first, first) == "500 of 1,000 rows, 5 of 10 pieces"
    now = Progress(600, 1000, 6, 10, "a", 30.0)
    assert spoken(now, first).endswith(", about 2 min left")  # 100 rows took 30 s, and 400 are left
    assert spoken(now).endswith(", about 20 s left")
    assert spoken(Progress(100, 100_000, 1, 2, "a", 60.0)).endswith(", about 17 h left")
    assert spoken(Progress(1000, 1000, 10, 10, "a", 60.0)) == "1,000 of 1,000 rows, 10 of 10 pieces"


def test_a_terminal_has_a_bar_and_a_file_has_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with watched(100, 2, None) as watch:
        watch.tell(Progress(50, 100, 1, 2, "a", 1.0))
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with watched(100, 2, None) as watch:
        watch.tell(Progress(50, 100, 1, 2, "a", 1.0))
    said = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", capsys.readouterr().err)
    assert "50 of 100 rows, 1 of 2 pieces, about 1 s left" in said


def test_the_command_to_go_on_is_read_back() -> None:
    words = ["a b.parquet", "c.parquet", "--policy", "column:x y", "--stream", "--columns", "reward=r"]
    words += ["--columns", "user=", "--reward-range", "-1", "2", "--workers", "3", "--checkpoint", "s t"]
    config = read("evaluate", words)
    import shlex

    program, command, *rest = shlex.split(command_of(config))
    assert (program, command) == ("simlab", "evaluate")
    assert read("evaluate", rest) == config


@pytest.mark.slow
def test_workers_change_nothing(tmp_path: Path, simulated: Path) -> None:
    folder = cut(rounds_of(), tmp_path / "days")
    for name, words in (
        ("columns", (folder, *COLUMN, "--versus", "column:other", "--interval", "poisson")),
        ("policy", (folder, "--policy", "epsilon(random, 0.3)", "--items", "4")),
    ):
        for workers in ("1", "2"):
            assert run(*words, "--stream", "--workers", workers, "--out", tmp_path / f"{name}-{workers}") == 0
        for file in ("results.parquet", "metrics.json", "config.yaml"):
            one, two = (tmp_path / f"{name}-{w}" / file for w in (1, 2))
            assert one.read_bytes() == two.read_bytes(), (name, file)


@pytest.mark.slow
def test_control_c_keeps_the_state(tmp_path: Path) -> None:
    """A real interruption of a real process, at a moment of its own choice."""
    folder, state = tmp_path / "days", tmp_path / "state"
    folder.mkdir()
    for i in range(60):
        rounds_of(60_000).to_parquet(folder / f"day-{i:02d}.parquet")
    words = ["evaluate", str(folder), *COLUMN, "--stream", "--checkpoint", str(state), "--out"]
    program = "import sys; from simlab.lab.cli import main; sys.exit(main(sys.argv[1:]))"
    child = subprocess.Popen(
        [sys.executable, "-c", program, *words, str(tmp_path / "run")], stderr=subprocess.PIPE, text=True
    )
    while not state.exists() and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=120)
    assert child.returncode == 130, said
    assert re.search(r"simlab: stopped with \d+ of 60 pieces added up in ", said)
    assert run(*words[1:], tmp_path / "run") == 0
    assert run(*words[1:4], "--stream", "--out", tmp_path / "whole") == 0
    found = [(tmp_path / w / "results.parquet").read_bytes() for w in ("run", "whole")]
    assert found[0] == found[1]


# --- verdicts --------------------------------------------------------------------------------------------


def test_rounds_that_cannot_answer_are_refused(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run(log, *COLUMN, "--stream", "--out", out) == 0
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    frame = rounds_of()
    frame.loc[7, "propensity"] = 1e-4
    frame.to_parquet(log)
    capsys.readouterr()
    words: tuple[str | Path, ...] = (log, *COLUMN, "--out", out, "--overwrite")
    assert run(*words) == 2
    memory = capsys.readouterr().err
    assert run(*words, "--stream") == 2
    stream = capsys.readouterr()
    assert stream.out == ""
    assert stream.err == memory  # the same sentence
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert run(*words, "--stream", "--force") == 0
    assert metrics(out)["verdict"] == "refused"
    assert 'class="note bad"' in (out / "report.html").read_text("utf-8")


def test_wrong_propensities_are_seen_in_the_mean(
    log: Path, slates: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = rounds_of()
    frame["propensity"] /= 2
    frame.to_parquet(log)
    assert run(log, *COLUMN, "--stream", "--out", tmp_path / "rounds") == 2
    assert "the mean weight is 2.1" in capsys.readouterr().err
    wide = slates_of()
    wide["slot_propensity"] = [[p[0], p[1] / 3] for p in wide["slot_propensity"]]
    wide.to_parquet(slates)
    assert run(slates, *COLUMN, "--stream", "--out", tmp_path / "slates") == 2
    said = capsys.readouterr().err
    assert said.startswith("simlab: IIPS, SNIIPS, clipped IIPS: at slot 1 the mean weight is ")
    assert said.endswith(": refused; use --force to print it anyway\n")
    assert run(slates, *COLUMN, "--stream", "--out", tmp_path / "slates", "--force") == 0
    assert metrics(tmp_path / "slates")["verdict"] == "refused"


def test_each_estimator_of_slates_is_judged_by_its_own_weights(
    simulated: Path, tmp_path: Path, ranker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sharp target: whole slates rest on few rows and are not printed, slots are."""
    sharp = f"epsilon(greedy({ranker.removeprefix('softmax(').partition(',')[0]}), 0.3)"
    words = (simulated, "--policy", sharp, "--logger", "random", "--estimators", "sips", "iips", "--stream")
    assert list(evaluated(tmp_path / "sharp", *words).index) == ["IIPS"]
    assert "SIPS: ESS" in " ".join(capsys.readouterr().out.split())
    assert list(evaluated(tmp_path / "forced", *words, "--force").index) == ["SIPS", "IIPS"]
    # The second policy is judged, too: where its estimator is refused there is no difference.
    against = (simulated, "--policy", "random", "--versus", sharp, *words[3:])
    frame = evaluated(tmp_path / "against", *against)
    assert frame["versus"].isna().to_dict() == {"SIPS": True, "IIPS": False}
    alone = (*against[:5], "--logger", "random", "--estimators", "sips", "--stream")
    capsys.readouterr()
    assert run(*alone, "--out", tmp_path / "no") == 2
    assert capsys.readouterr().err.startswith("simlab: --versus epsilon(greedy(")


def test_what_takes_long_for_the_whole_log_is_asked_for_by_name(
    simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A logger that is uniform, but does not look it: its slates would have to be listed."""
    words = (simulated, "--policy", "random", "--logger", "epsilon(random, 0.5)", "--stream")
    most = len(read_log(simulated)) * 8 * 7 * 6
    monkeypatch.setattr("causal.pseudo_inverse.LONG", most - 1)
    left_out = evaluated(tmp_path / "all", *words)
    assert "SIPS" in left_out.index
    assert "PI" not in left_out.index
    found = evaluated(tmp_path / "named", *words, "--estimators", "pi")
    assert found.loc["PI", "value"] == pytest.approx(left_out.loc["SIPS", "value"], rel=1e-9)  # all weigh 1
    monkeypatch.setattr("causal.pseudo_inverse.LONG", most)
    assert "PI" in evaluated(tmp_path / "worth", *words).index


def test_replay_looks_at_the_weights_of_all_batches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within each file the logger is uniform; over both it is not, and no batch can see that."""
    folder = tmp_path / "days"
    folder.mkdir()
    for i, chance in enumerate((0.5, 0.25)):
        frame = rounds_of(400)
        frame["propensity"], frame["target"] = chance, (np.arange(400) % 2).astype(float) * 2 * chance
        frame.to_parquet(folder / f"{i}.parquet")
    words: tuple[str | Path, ...] = (*COLUMN, "--stream", "--estimators", "replay", "ips")
    found = evaluated(tmp_path / "same", folder / "0.parquet", *words)
    assert found.loc["replay", "value"] == rounds_of(400)["reward"][1::2].mean()
    frame = rounds_of(400)
    frame["propensity"], frame["target"] = 0.4, (np.arange(400) % 2).astype(float) * 0.9
    frame.to_parquet(folder / "1.parquet")
    assert run(folder, *words, "--out", tmp_path / "no") == 2
    assert "replay needs a uniformly random logger, but the weights differ" in capsys.readouterr().err


# --- refusals --------------------------------------------------------------------------------------------

REFUSED = {
    "a folder in memory": (
        ["FOLDER", *COLUMN],
        "is a folder, and a folder of Parquet files is read with --str",
    ),
    "files in memory": (["LOG", "SLATES", *COLUMN], "is a second file, and several are read with --stream"),
    "workers in memory": (["LOG", *COLUMN, "--workers", "2"], "--workers is for --stream"),
    "a state in memory": (["LOG", *COLUMN, "--checkpoint", "x"], "--checkpoint is for --stream"),
    "a data set": (
        ["open-bandit:random/men", *COLUMN, "--stream"],
        "is a data set, and --stream reads Parquet",
    ),
    "CSV": (["CSV", *COLUMN, "--stream"], "a stream reads Parquet"),
    "no file": (["nowhere.parquet", *COLUMN, "--stream"], "nowhere.parquet"),
    "twice": (["LOG", "LOG", *COLUMN, "--stream"], "the file is there twice"),
    "trajectories": (
        ["LOG", *COLUMN, "--stream", "--unit", "trajectory"],
        "rounds may lie in several batches",
    ),
    "discount": (["LOG", *COLUMN, "--stream", "--discount", "0.9"], "--discount is for --unit trajectory"),
    "tuning": (["LOG", *COLUMN, "--stream", "--tune", "slope"], "--stream does not go with --tune slope"),
    "recode": (["LOG", *COLUMN, "--stream", "--recode", "user"], "--stream does not go with --recode"),
    "long": (["LOG", *COLUMN, "--stream", "--layout", "long"], "--stream does not go with --layout long"),
    "a long file": (["LONG", *COLUMN, "--stream"], "column round gives a round several rows"),
    "bca": (
        ["LOG", *COLUMN, "--stream", "--interval", "bca"],
        "sums give normal, student-t, cluster, poisson",
    ),
    "clusters": (["LOG", *COLUMN, "--stream", "--interval", "cluster"], "the log has no column user"),
    "folds": (["LOG", *COLUMN, "--stream", "--folds", "5"], "--folds without --reward-model"),
    "workers": (["LOG", *COLUMN, "--stream", "--workers", "0"], "workers is 0, but it takes at least 1"),
    "a state folder": (
        ["LOG", *COLUMN, "--stream", "--checkpoint", "FOLDER"],
        "is a folder, and it takes a file",
    ),
    "a state of nothing": (
        ["LOG", *COLUMN, "--stream", "--checkpoint", "CSV"],
        "this is not the state of a stream",
    ),
    "swapped": (["LOG", *COLUMN, "--stream", "--reward-range", "1", "0"], "the lowest reward comes first"),
    "outside": (
        ["LOG", *COLUMN, "--stream", "--reward-range", "0", "0.5"],
        "outside the declared range 0 … 0.5",
    ),
    "no column": (["LOG", "--policy", "column:tarjet", "--stream"], "did you mean target"),
    "no name": (["LOG", "--policy", "column:", "--stream"], "column:NAME"),
    "model of a column": (
        ["LOG", *COLUMN, "--stream", "--reward-model", "ridge"],
        "a column does not say it",
    ),
    "modelled": (
        ["LOG", *COLUMN, "--stream", "--estimators", "dr"],
        "DR needs a reward model: a stream fits",
    ),
    "logger of a column": (["SLATES", *COLUMN, "--stream", "--logger", "random"], "--logger is for a policy"),
    "logger of rounds": (
        ["LOG", "--policy", "uniform", "--items", "4", "--stream", "--logger", "random"],
        "--logger is for --unit slate",
    ),
    "looks": (["SLATES", *COLUMN, "--stream", "--examination", "1", "0.5"], "--examination needs --logger"),
    "items": (["LOG", "--policy", "uniform", "--stream"], "say with --items how many items there are"),
    "a ranker": (
        ["LOG", "--policy", "epsilon(greedy(mf), 0.1)", "--items", "4", "--stream"],
        "mf would have to learn from the log, and a stream keeps no rows: train it on a sample first",
    ),
    "a logging ranker": (
        ["SLATES", "--policy", "uniform", "--items", "5", "--stream", "--logger", "softmax(popularity)"],
        "popularity would have to learn from the log",
    ),
    "a world": (["LOG", "--policy", "oracle", "--items", "4", "--stream"], "simulated world"),
    "whole slates": (
        ["SLATES", "--policy", "column:whole", "--stream", "--unit", "slate"],
        "use --unit round",
    ),
    "lists": (["SLATES", *COLUMN, "--stream", "--unit", "round"], "use --unit slate"),
    "two units": (["SLATES", *COLUMN, "--versus", "column:whole", "--stream"], "each round: say --unit"),
    "slots of rounds": (
        ["LOG", "--policy", "uniform", "--items", "4", "--stream", "--unit", "slate"],
        "--unit slate needs several items a row",
    ),
    "estimators of slates": (["LOG", *COLUMN, "--stream", "--estimators", "iips"], "for --unit slate"),
    "needs": (
        ["SLATES", *COLUMN, "--stream", "--estimators", "pi"],
        "PI needs the logger's probabilities of pairs",
    ),
    "all rows": (["LOG", *COLUMN, "--stream", "--estimators", "logger-weighted-ips"], "so it cannot stream"),
    "model of slates": (
        ["SLATES", "--policy", "uniform", "--items", "5", "--stream", "--reward-model", "ridge"],
        "a stream models rounds, and these are slates",
    ),
    "folds without users": (
        ["LOG", "--policy", "uniform", "--items", "4", "--stream", "--reward-model", "ridge"],
        "no column user",
    ),
    "a bad cell": (["WRONG", *COLUMN, "--stream"], "column propensity, row 3"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_refusals_are_one_sentence_and_touch_nothing(
    case: str, log: Path, slates: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in ("config.yaml", "versions.json", "report.html"):
        (out / name).write_text(f"earlier: {name}")
    frame = rounds_of(40)
    frame.to_csv(tmp_path / "log.csv", index=False)
    frame.assign(round=np.arange(40) // 2).to_parquet(tmp_path / "long.parquet")
    frame.loc[3, "propensity"] = 1.5
    frame.to_parquet(tmp_path / "wrong.parquet")
    arguments, expected = REFUSED[case]
    places = {"LOG": log, "SLATES": slates, "FOLDER": tmp_path, "CSV": tmp_path / "log.csv"}
    places |= {"LONG": tmp_path / "long.parquet", "WRONG": tmp_path / "wrong.parquet"}
    assert run(*(places.get(a, a) for a in arguments), "--out", out, "--overwrite") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("simlab: ")
    assert said.err.count("\n") == 1
    assert expected in said.err
    assert {p.name: p.read_text() for p in out.iterdir()} == {
        name: f"earlier: {name}" for name in ("config.yaml", "versions.json", "report.html")
    }
    assert not (tmp_path / "run.partial").exists()


def test_a_ranker_with_history_is_refused(tmp_path: Path, simulated: Path) -> None:
    from simlab.lab.targets import fixed_policy
    from simlab.parts import part

    family: Any = part("ranker", "sasrec")
    save_ranker(family.build(Sizes(1, 8), {}, None), tmp_path / "ranker")
    with pytest.raises(BadInput, match=r"looks at the last \d+ items of a user, and a batch"):
        fixed_policy(f"greedy(saved:{tmp_path / 'ranker'})", Catalog.bare(8))
