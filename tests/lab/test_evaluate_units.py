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
        (["--logger", "column:propensity"], "--logger is a policy: the chances of the logger are column"),
        (["--estimators", "pbm"], "PBM needs the logger's probability of each item at every slot"),
        (["--examination", "1", "1", "1"], "--examination needs --logger"),
        (
            ["--logger", "random", "--examination", "1", "1", "1", "--estimators", "iips"],
            "--examination is for the estimator pbm, and --estimators does not name it",
        ),
        (
            ["--reward-model", "ridge"],
            "--reward-model ridge cannot be used: a model of slates needs --logger, the policy that logged",
        ),
        (
            ["--estimators", "cascade-dr"],
            "Cascade-DR needs a reward model: a model of slates needs --logger, the policy that logged them",
        ),
        (
            ["--logger", "random", "--estimators", "cascade-dr", "--reward-model", "none"],
            "Cascade-DR needs a reward model: there is no reward model",
        ),
        (
            ["--unit", "trajectory", "--reward-model", "sklearn.linear_model.LogisticRegression"],
            "so its model is a regressor, and LogisticRegression is a classifier",
        ),
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


@pytest.fixture
def unclicked(log: Path, tmp_path: Path) -> Path:
    """The same log with the reward of whole slates alone."""
    path = tmp_path / "unclicked.parquet"
    pd.read_parquet(log).drop(columns="click").to_parquet(path)
    return path


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_slates_without_clicks_have_what_weighs_whole_slates(
    unclicked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By default what needs clicks is left out, and one sentence says so, on the screen and on the page."""
    note = "Estimators that weigh slots are left out: they need what each slot earned"
    for name, more, wanted in (
        ("plain", (), {"SIPS", "SNSIPS"}),
        ("logger", ("--logger", "random", "--examination", "1", "1", "1"), {"SIPS", "SNSIPS", "PI", "SNPI"}),
    ):
        words = ("--policy", "random", "--unit", "slate", "--items", "8", *more)
        frame = evaluated(unclicked, tmp_path / name, *words)
        assert set(frame.index) == wanted
        assert frame["value"].nunique() == 1 or frame["value"].std() < 1e-6
        assert said(capsys).count(note) == 1
        assert (tmp_path / name / "report.html").read_text("utf-8").count(note) == 1
        assert (
            sum(note in n for n in json.loads((tmp_path / name / "metrics.json").read_text())["notes"]) == 1
        )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--estimators", "iips"], "IIPS needs what each slot earned, and the log has one reward a slate"),
        (["--logger", "random", "--estimators", "cascade-dr"], "needs what each slot earned"),
        (
            ["--logger", "random", "--reward-model", "ridge"],
            "--reward-model ridge cannot be used: a model of slates needs what each slot earned",
        ),
    ],
)
def test_what_is_named_and_needs_clicks_is_refused(
    unclicked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    out = tmp_path / "out"
    line = ["evaluate", str(unclicked), "--policy", "random", "--items", "8", "--out", str(out), *arguments]
    assert main(line) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1
    assert not out.exists()


def test_a_page_place_by_place_has_trajectories_without_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fitted-Q evaluation cannot be had, so DR is left out where nobody named it."""
    rows = [
        (u, 0, t, (u + t) % 4, t % 2, 0.25, float((u * 7 + t) % 3 == 0)) for u in range(60) for t in (0, 1)
    ]
    path, words = tmp_path / "places.csv", ("--policy", "random", "--unit", "trajectory")
    columns = ["user", "session", "step", "item", "position", "propensity", "reward"]
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)
    frame = evaluated(path, tmp_path / "places", *words)
    assert set(frame.index) == {"TIS", "WIS", "PDIS", "WPDIS"}
    assert "DM, DR, WDR are left out: fitted-Q evaluation needs whole slates" in said(capsys)
    for more, why in (
        (("--estimators", "dr"), "DR needs a reward model: fitted-Q evaluation needs whole slates"),
        (("--reward-model", "ridge"), "fitted-Q evaluation needs whole slates"),
    ):
        assert main(["evaluate", str(path), "--out", str(tmp_path / "no"), *words, *more]) == 2
        assert why in capsys.readouterr().err
    few = pd.read_csv(path).query("user < 3").drop(columns="position")
    few.to_csv(path, index=False)
    evaluated(path, tmp_path / "few", *words, "--folds", "5", "--force")
    assert "DM, DR, WDR are left out: the log has 3 users, too few for 5 folds." in said(capsys)


def test_a_model_that_nothing_needs_is_told(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--policy", "random", "--estimators", "iips", "--reward-model", "ridge")
    evaluated(log, tmp_path / "idle", *words)
    assert "No estimator here needs --reward-model ridge." in said(capsys)
    evaluated(log, tmp_path / "untuned", "--policy", "random", "--estimators", "iips", "--tune", "slope")
    assert "No estimator here has anything that --tune slope could choose." in said(capsys)
