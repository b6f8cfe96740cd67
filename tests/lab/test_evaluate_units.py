"""`simlab evaluate` on slates and trajectories: the same numbers as the library, and a verdict on each."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from causal.evaluation import estimate
from causal.rl.pdis import PDIS
from causal.slate.iips import IIPS
from causal.slate.rips import RIPS
from causal.slates import slates
from causal.trajectories import trajectories
from simlab.lab.cli import main
from simlab.policies.random import Random
from simlab.tables import read_log


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A uniform log of slates of three from eight items, three steps a session."""
    out = tmp_path_factory.mktemp("log") / "uniform"
    arguments = ["--policy", "random", "--items", "8", "--slots", "3", "--users", "400", "--steps", "3"]
    assert main(["log", *arguments, "--shard", "200", "--seed", "5", "--out", str(out)]) == 0
    return out / "log.parquet"


def evaluated(log: Path, out: Path, *arguments: str) -> pd.DataFrame:
    assert main(["evaluate", str(log), "--out", str(out), *arguments]) == 0
    return pd.read_parquet(out / "results.parquet").set_index("estimator")


@pytest.mark.parametrize(
    ("arguments", "least"),
    [
        (("--logger", "random", "--examination", "1", "0.7", "0.5", "--reward-model", "none"), 11),
        (("--unit", "trajectory", "--discount", "0.9"), 6),
        (("--unit", "round", "--reward-model", "none"), 3),
    ],
)
def test_the_loggers_own_value(log: Path, tmp_path: Path, arguments: tuple[str, ...], least: int) -> None:
    """All weights are one, so every estimator that weighs says the mean of the log."""
    frame = evaluated(log, tmp_path / "own", "--policy", "random", *arguments)
    found = read_log(log)
    wanted = float(found.reward.double().mean())
    if "trajectory" in arguments:
        assert found.step is not None
        worth = found.reward.double() * 0.9 ** found.step.double()
        wanted = float(worth.sum()) / len(torch.unique(found.user))
    weighing = frame[frame["ess"].notna()]
    biased = weighing.index.str.startswith("sub-Gaussian")
    assert len(weighing) >= least
    # Doubly robust forms correct a model that was fitted out of fold, so they differ by noise.
    plain = weighing[~biased & ~weighing.index.isin(["DR", "WDR", "Cascade-DR"])]
    assert plain["value"].to_numpy() == pytest.approx(wanted, rel=1e-6)


def test_slates_are_those_of_the_library(log: Path, tmp_path: Path) -> None:
    words = ["--policy", "epsilon(greedy(popularity), 0.9)", "--logger", "random", "--seed", "3"]
    frame = evaluated(log, tmp_path / "slates", *words, "--estimators", "iips", "rips")
    assert list(frame.index) == ["IIPS", "RIPS"]
    metrics = json.loads((tmp_path / "slates" / "metrics.json").read_text("utf-8"))
    assert metrics["logged"]["n"] == len(read_log(log)) // 2
    assert "learned from 584 rounds" in " ".join(metrics["notes"])
    # The same policy on the same half, from Python.
    from simlab.context import Catalog
    from simlab.lab.targets import make_target
    from simlab.seeds import Seed

    target = make_target(words[1], read_log(log), Catalog.bare(8), Seed(3))
    assert not isinstance(target.policy, torch.Tensor)
    data = slates(target.log, target.policy, logger=Random(), past=target.past)
    for estimator in (IIPS(), RIPS()):
        mine = estimate(estimator, data)
        row = frame.loc[estimator.name]
        assert row["value"] == pytest.approx(mine.value, rel=1e-12)
        assert row["stderr"] == pytest.approx(mine.stderr, rel=1e-12)
        assert row["ess"] == pytest.approx(mine.ess, rel=1e-12)


def test_trajectories_are_those_of_the_library(log: Path, tmp_path: Path) -> None:
    options = ["--unit", "trajectory", "--discount", "0.8", "--horizon", "2", "--estimators", "pdis"]
    frame = evaluated(log, tmp_path / "paths", "--policy", "random", *options)
    mine = estimate(PDIS(), trajectories(read_log(log), Random(), 0.8, horizon=2))
    assert frame.loc["PDIS", "value"] == pytest.approx(mine.value, rel=1e-12)
    assert frame.loc["PDIS", "n"] == 400


def test_each_estimator_is_judged_by_its_own_weights(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sharp target: whole slates rest on few rows and are not printed, slots are."""
    words = ("--policy", "epsilon(greedy(popularity), 0.1)", "--logger", "random")
    frame = evaluated(log, tmp_path / "sharp", *words, "--estimators", "sips", "iips")
    assert list(frame.index) == ["IIPS"]
    said = capsys.readouterr().out.replace("\n", " ")
    assert "SIPS: ESS" in said
    assert "refused; use --force" in said
    forced = evaluated(log, tmp_path / "forced", *words, "--estimators", "sips", "iips", "--force")
    assert list(forced.index) == ["SIPS", "IIPS"]
    assert main(["evaluate", str(log), "--out", str(tmp_path / "no"), *words, "--estimators", "sips"]) == 2
    assert "SIPS: ESS" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--estimators", "pdis"],
            "estimator pdis is for --unit trajectory, and this evaluation weighs each slate",
        ),
        (["--unit", "slate", "--estimators", "iip"], "there is no estimator named iip; did you mean iips?"),
        (["--discount", "0.9"], "--discount is for --unit trajectory, and this evaluation weighs each slate"),
        (["--unit", "trajectory", "--logger", "random"], "--logger is for --unit slate"),
        (["--unit", "trajectory", "--discount", "1.5"], "discount is 1.5, but it is in [0, 1]"),
        (["--unit", "trajectory", "--horizon", "0"], "horizon is 0, but at least one step counts"),
        (
            ["--logger", "random", "--examination", "1", "0.5"],
            "--examination has 2 numbers, but slates have 3 slots",
        ),
        (["--logger", "random", "--examination", "1", "2", "1"], "examination has 2.0, but it is a chance"),
        (["--logger", "softmax(popularity)"], "learns from the log, so it cannot have logged it"),
        (["--logger", "first"], "first"),
        (["--estimators", "pbm"], "this estimator needs the logger's probability of each item at every slot"),
        (["--reward-range", "0", "1"], "is outside the declared range 0 … 1"),
    ],
)
def test_refusals(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    out = tmp_path / "out"
    assert main(["evaluate", str(log), "--policy", "random", "--out", str(out), *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not out.exists()


def test_a_second_policy_is_compared_on_the_same_rounds(log: Path, tmp_path: Path) -> None:
    """Against itself the difference is nothing; against the logger it is the lift."""
    words = ("--policy", "epsilon(greedy(popularity), 0.9)", "--estimators", "iips", "snsips", "clipped-iips")
    itself = evaluated(log, tmp_path / "itself", *words, "--versus", words[1])
    assert itself["versus"].abs().max() == 0
    assert (itself["versus_high"] - itself["versus_low"]).max() == 0
    # The logger's own weights are one, so its value is the mean of the same half of the log.
    own = evaluated(log, tmp_path / "own", *words, "--versus", "random")
    assert own["versus"].to_numpy() == pytest.approx(own["lift"].to_numpy(), rel=1e-6)
    assert own["versus_low"].to_numpy() == pytest.approx(own["lift_low"].to_numpy(), rel=1e-6)


@pytest.mark.parametrize("how", ["slope", "mse"])
def test_tuned_estimators_say_what_was_chosen(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    words = (
        "--policy",
        "epsilon(greedy(popularity), 0.9)",
        "--tune",
        how,
        "--estimators",
        "iips",
        "clipped-iips",
    )
    frame = evaluated(log, tmp_path / how, *words)
    plain, tuned = frame.index
    assert plain == "IIPS"
    assert tuned.startswith("clipped IIPS (clip ")
    assert "cross-fitted" in tuned
    # Whatever was chosen, a clip only takes away from rewards of at least 0.
    assert frame["value"].iloc[1] <= frame["value"].iloc[0] + 1e-12
    assert frame["value"].iloc[1] >= frame["value"].iloc[0] - 4 * frame["stderr"].iloc[0]
    said = capsys.readouterr().out
    assert "Tuned: clipped IIPS (clip" in said.replace("\n", " ")


@pytest.mark.parametrize("unit", ["slate", "trajectory"])
def test_wrong_propensities_are_refused(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], unit: str
) -> None:
    """Propensities twice too large: every value would be halved, with as many effective rows as ever."""
    frame = pd.read_parquet(log)
    frame["propensity"] = frame["propensity"] * 2
    frame["slot_propensity"] = frame["slot_propensity"].map(lambda p: p * 2)
    wrong = tmp_path / "wrong.parquet"
    frame.to_parquet(wrong)
    words = ["--policy", "random", "--unit", unit, "--reward-model", "none", "--items", "8"]
    assert main(["evaluate", str(wrong), "--out", str(tmp_path / "out"), *words]) == 2
    said = capsys.readouterr().err
    assert "the mean weight is 0." in said
    assert "where right propensities and full overlap give 1" in said
    assert main(["evaluate", str(wrong), "--out", str(tmp_path / "out"), *words, "--force"]) == 0
