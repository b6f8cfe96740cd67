"""`simlab uplift` from end to end: known effects, who is best, refusals, and what is left behind."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from jaxtyping import Float

from causal.targeting.rate import autoc
from causal.targeting.scores import average
from causal.uplift.contract import Array, Average, Trial, UpliftLearner
from simlab.errors import BadInput
from simlab.lab import uplift_work
from simlab.lab.cli import main
from simlab.lab.uplift import UpliftConfig
from simlab.lab.uplift_data import check, learners, load, named
from simlab.lab.uplift_drivers import drivers
from simlab.lab.uplift_work import places, uplift
from simlab.parts import part
from simlab.seeds import Seed
from tests.lab.browser import browse

HILLSTROM = Path(__file__).parents[2] / "../shared/data/hillstrom"
IHDP = Path(__file__).parents[2] / "../shared/data/ihdp"
FAST = ("--learners", "linear-dr", "s-learner", "--folds", "2")


def run(*arguments: str | Path | float) -> int:
    return main(["uplift", *map(str, arguments)])


def drawn(n: int = 3000, seed: int = 5, confounded: bool = False) -> pd.DataFrame:
    """A trial with effect 1 + age of treatment; age, income and a city without meaning."""
    luck = np.random.default_rng(seed)
    age, income = luck.normal(size=(2, n))
    chance = 1 / (1 + np.exp(-1.2 * income)) if confounded else np.full(n, 0.5)
    t = (luck.random(n) < chance).astype(int)
    return pd.DataFrame(
        {
            "age": age,
            "income": income,
            "city": luck.choice(["Bern", "Oslo", "Rome"], size=n),
            "mailed": t,
            "spend": 2 * income + t * (1 + age) + luck.normal(size=n),
            "customer": np.arange(n) // 3,
        }
    )


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "trial.csv"
    drawn().to_csv(path, index=False)
    return path


WORDS = ("--treatment", "mailed", "--outcome", "spend", "--user", "customer", "--propensity", "0.5")


@pytest.fixture(scope="module")
def finished(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "first"
    assert run(table, *WORDS, *FAST, "--cost", 0.5, "--out", out) == 0
    return out


def results(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "results.parquet").set_index("learner")


def metrics(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "metrics.json").read_text("utf-8"))
    assert isinstance(found, dict)
    return found


def saved(folder: Path, frame: pd.DataFrame) -> Path:
    path = folder / "data.csv"
    frame.to_csv(path, index=False)
    return path


# --- what it finds ---------------------------------------------------------------------------------------


def test_the_average_effect_is_in_its_interval(finished: Path) -> None:
    truth = 1 + drawn()["age"].mean()
    row = results(finished).loc["linear DR"]
    assert row["ate_low"] < truth < row["ate_high"]
    assert 0.02 < row["ate_stderr"] < 0.1
    found = metrics(finished)["effects"]["1"]["average"]
    assert abs(found["value"] - truth) < 4 * found["stderr"]


def test_the_order_is_as_good_as_the_truth_allows_and_calibrated(finished: Path) -> None:
    found = results(finished)
    assert found["behind"].iloc[0] == 0
    assert found["autoc"].is_monotonic_decreasing
    assert found.loc["linear DR", "slope_low"] < 1 < found.loc["linear DR", "slope_high"]
    # With effects 1 + N(0, 1), TOC(u) is the mean of the top share of a normal: its area is ∫ φ(z_u)/u du.
    u = (np.arange(200_000) + 0.5) / 200_000
    from scipy.stats import norm

    area = float(np.mean(norm.pdf(norm.ppf(u)) / u))
    row = found.loc["linear DR"]
    assert row["autoc_low"] < area < row["autoc_high"]


def test_the_numbers_are_those_of_the_effects_file(finished: Path) -> None:
    kept = pd.read_parquet(finished / "effects.parquet")
    assert list(kept.columns) == [
        "row",
        "fold",
        "arm",
        "outcome",
        "chance",
        "score",
        "linear-dr",
        "s-learner",
    ]
    assert kept["row"].tolist() == list(range(3000))
    fold, effect = kept["fold"].to_numpy(), kept["linear-dr"].to_numpy()
    user = np.arange(3000) // 3
    again = autoc(places(effect, fold, np.ones(3000)), kept["score"].to_numpy(), user=user)
    assert results(finished).loc["linear DR", "autoc"] == pytest.approx(again.value, rel=1e-12)
    assert results(finished).loc["linear DR", "autoc_stderr"] == pytest.approx(again.stderr, rel=1e-12)
    trial = Trial.of(np.zeros((3000, 1)), kept["arm"].to_numpy(), kept["outcome"].to_numpy(), user=user)
    mean = average(kept["score"].to_numpy(), trial)
    said = metrics(finished)["effects"]["1"]["average"]
    assert (said["value"], said["stderr"]) == pytest.approx((mean.value[0], mean.stderr[0]), rel=1e-12)
    # Users are whole: a user's rows are in one fold.
    assert (kept.groupby(user)["fold"].nunique() == 1).all()


def test_the_feature_that_drives_the_effect_is_named(finished: Path) -> None:
    found = metrics(finished)["effects"]["1"]["drivers"]
    assert found[0]["feature"] == "age"
    assert found[0]["importance"] > 0.9
    assert [f["feature"] for f in found if f["feature"] == "city"] == ["city"]  # its levels are one feature
    # The mean of a normal above its median less that below is 2 · √(2/π).
    assert abs(found[0]["contrast"] - 2 * np.sqrt(2 / np.pi)) < 4 * found[0]["contrast_stderr"]


def test_whom_to_treat_pays_for_the_cost(finished: Path) -> None:
    found = metrics(finished)["effects"]["1"]["return"]
    share, value = np.array(found["share"]), np.array(found["value"])
    # Treating where 1 + age > cost is best: P(age > -1/2) = 69 %.
    assert 0.55 <= share[value.argmax()] <= 0.85
    truth = 1 + drawn()["age"].mean() - 0.5
    assert abs(value[-1] - truth) < 4 * found["stderr"][-1]
    assert "treating the top" in " ".join(metrics(finished)["verdict"]["sentences"])
    assert metrics(finished)["verdict"]["level"] == "ok"


class Useless(UpliftLearner):
    """Effects that have nothing to do with the rows."""

    name: ClassVar[str] = "useless"

    def __init__(self, *, random_state: int = 0) -> None:
        self.random_state = random_state

    def _fit(self, trial: Trial) -> None:
        self.mean_ = float(trial.y[trial.arm == 1].mean() - trial.y[trial.arm == 0].mean())

    def _effect(self, x: Float[Array, "round feat"]) -> Float[Array, "round treated"]:
        # A constant of the training rows: pooled over folds it would rank folds against their own luck.
        return np.full((len(x), 1), self.mean_)

    def _ate(self) -> Average:
        return Average((self.mean_,), (float("nan"),), self.arms_[1:], "difference of means")


class Guess(Useless):
    """Effects that are luck."""

    name: ClassVar[str] = "guess"

    def _effect(self, x: Float[Array, "round feat"]) -> Float[Array, "round treated"]:
        return np.random.default_rng(self.random_state).normal(size=(len(x), 1))


def test_a_good_learner_stands_before_one_that_guesses(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        uplift_work, "part", lambda kind, name: Guess if name == "s_learner" else part(kind, name)
    )
    assert run(table, *WORDS, *FAST, "--out", tmp_path / "run") == 0
    found = results(tmp_path / "run")
    assert list(found.index) == ["linear DR", "guess"]
    assert found.loc["guess", "behind_low"] > 0
    assert found.loc["guess", "autoc_low"] < 0 < found.loc["guess", "autoc_high"]
    assert found.loc["guess", "slope_low"] < 0 < found.loc["guess", "slope_high"]
    assert found.loc["linear DR", "qini"] > found.loc["guess", "qini"] + 0.05
    assert np.isnan(found.loc["guess", "ate_stderr"])


def test_a_constant_learner_ranks_nobody(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uplift_work, "part", lambda kind, name: Useless)
    assert run(table, *WORDS, "--learners", "s-learner", "--out", tmp_path / "run") == 0
    row = results(tmp_path / "run").loc["useless"]
    assert row["autoc"] == 0
    assert abs(row["qini"]) < 1e-12
    assert np.isnan(row["slope"])
    assert metrics(tmp_path / "run")["effects"]["1"]["groups"] is None
    words = " ".join(metrics(tmp_path / "run")["verdict"]["sentences"])
    assert "no learner surely tells whom the treatment moves more" in words


def test_confounding_is_seen_and_mended(tmp_path: Path) -> None:
    frame = drawn(4000, seed=8, confounded=True)
    path = saved(tmp_path, frame)
    words = ("--treatment", "mailed", "--outcome", "spend", "--drop", "customer")
    assert run(path, *words, *FAST, "--trim", 0.02, "--force", "--out", tmp_path / "run") == 0
    found = metrics(tmp_path / "run")
    assert not found["random"]
    assert found["verdict"]["level"] != "ok"
    assert "Features tell the arm" in " ".join(found["notes"])
    naive = frame.groupby("mailed")["spend"].mean().diff().iloc[-1]
    mean = found["effects"]["1"]["average"]
    assert abs(naive - 1) > 1
    assert abs(mean["value"] - 1) < 5 * mean["stderr"]


def test_each_arm_stands_against_control(tmp_path: Path) -> None:
    luck = np.random.default_rng(2)
    arm = luck.choice(["none", "blue", "red"], size=1500)
    x = luck.normal(size=1500)
    y = x + (arm == "blue") * 2 + (arm == "red") * x + luck.normal(size=1500)
    path = saved(tmp_path, pd.DataFrame({"x": x, "arm": arm, "y": y}))
    words = ("--treatment", "arm", "--outcome", "y", "--control", "none", *FAST)
    assert run(path, *words, "--out", tmp_path / "run") == 0
    frame = pd.read_parquet(tmp_path / "run" / "results.parquet")
    assert frame["arm"].tolist() == ["blue", "blue", "red", "red"]
    first = frame[frame["learner"] == "linear DR"].set_index("arm")
    assert abs(first.loc["blue", "ate"] - 2) < 4 * first.loc["blue", "ate_stderr"]
    assert first.loc["red", "slope_low"] < 1 < first.loc["red", "slope_high"]
    kept = pd.read_parquet(tmp_path / "run" / "effects.parquet")
    assert {"score:blue", "score:red", "linear-dr:blue", "linear-dr:red"} <= set(kept.columns)
    assert "Learners: blue" in (tmp_path / "run" / "report.html").read_text("utf-8")


def test_a_test_share_is_judged_alone(table: Path, tmp_path: Path) -> None:
    assert run(table, *WORDS, *FAST, "--test-share", 0.3, "--out", tmp_path / "run") == 0
    kept = pd.read_parquet(tmp_path / "run" / "effects.parquet")
    assert len(kept) == metrics(tmp_path / "run")["judged"] == 900
    assert not set(kept["row"] // 3) & (set(range(1000)) - set(kept["row"] // 3))
    assert kept["row"].groupby(kept["row"] // 3).size().eq(3).all()


def test_the_truth_of_a_data_set_stands_beside(tmp_path: Path) -> None:
    if not IHDP.is_dir():
        pytest.skip("the data of IHDP are not here")
    words = f"ihdp(replication=2):{IHDP}"
    assert run(words, *FAST, "--force", "--out", tmp_path / "run") == 0
    assert results(tmp_path / "run")["root_pehe"].between(0.3, 3).all()
    assert metrics(tmp_path / "run")["effects"]["1"]["truth"] == pytest.approx(4, abs=1)


# --- what it leaves behind -------------------------------------------------------------------------------


def test_the_run_leaves_everything_that_says_how_it_was_made(finished: Path) -> None:
    assert {p.name for p in finished.iterdir()} == {
        *("config.yaml", "versions.json", "seed.json", "results.parquet", "effects.parquet"),
        *("metrics.json", "report.html"),
    }
    found = metrics(finished)
    assert found["arms"] == ["0", "1"]
    assert found["overlap"]["trimmed"] == 0
    assert found["random"] is True


def test_the_page_has_its_figures(finished: Path, tmp_path: Path) -> None:
    page = (finished / "report.html").read_text("utf-8")
    for title in ("Verdict", "Learners", "Curves", "Deciles", "Return", "Drivers", "Overlap"):
        assert f">{title}</h2>" in page
    assert page.count('class="plot"') == 9
    assert "NaN" not in page.split("<script>")[0]
    assert "Uplift by decile" in page
    drawn_page, said = browse(finished / "report.html", tmp_path)
    assert 'data-state="ready"' in drawn_page
    assert drawn_page.count('class="main-svg"') >= 9
    assert "Uncaught" not in said


def test_the_same_seed_gives_the_same_bytes(finished: Path, table: Path, tmp_path: Path) -> None:
    assert run(table, *WORDS, *FAST, "--cost", 0.5, "--out", tmp_path / "again") == 0
    for name in ("results.parquet", "effects.parquet", "metrics.json", "report.html"):
        assert (tmp_path / "again" / name).read_bytes() == (finished / name).read_bytes(), name


def test_a_stopped_run_keeps_its_fits_and_goes_on(
    finished: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    fits = uplift_work._Fits.whole

    def stop(self: Any, key: str) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(uplift_work._Fits, "whole", stop)
    out = tmp_path / "run"
    assert run(table, *WORDS, *FAST, "--cost", 0.5, "--out", out) == 130
    assert "stopped; 2 fits are kept, go on with: simlab uplift --resume" in capsys.readouterr().err
    monkeypatch.setattr(uplift_work._Fits, "whole", fits)
    fresh: list[str] = []
    make = uplift_work._Fits.fresh

    def noted(self: Any, key: str, fold: str) -> Any:
        fresh.append(f"{key} {fold}")
        return make(self, key, fold)

    monkeypatch.setattr(uplift_work._Fits, "fresh", noted)
    assert run("--resume", out) == 0
    assert "linear_dr 0" not in fresh
    assert "s_learner 1" in fresh
    for name in ("results.parquet", "effects.parquet", "metrics.json"):
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name


def test_a_resumed_run_wants_the_same_data(tmp_path: Path) -> None:
    frame = drawn(200)
    trial = Trial.of(frame[["age"]], frame["mailed"], frame["spend"])
    uplift_work._same_trial(trial, tmp_path)
    uplift_work._same_trial(trial, tmp_path)
    with pytest.raises(BadInput, match="the data have changed since the run was stopped"):
        uplift_work._same_trial(trial.rows(slice(1, None)), tmp_path)


# --- what it refuses -------------------------------------------------------------------------------------


def refused(path: Path | str, *words: str | float, capsys: Any) -> str:
    capsys.readouterr()
    assert run(path, *words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert not (Path.cwd() / "runs").exists() or not list((Path.cwd() / "runs").iterdir())
    return str(said)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--treatment", "mailed"), "--outcome is missing: name the column of the outcome"),
        (("--treatment", "maild", "--outcome", "spend"), "did you mean mailed?"),
        (
            ("--treatment", "mailed", "--outcome", "spend", "--control", "2"),
            "control is '2', but the arms are 0, 1",
        ),
        ((*WORDS, "--learners", "t-lerner"), "did you mean t-learner?"),
        ((*WORDS, "--learners"), "--learners is empty"),
        ((*WORDS, "--folds", "1"), "folds is 1, but"),
        ((*WORDS, "--level", "95"), "level is 95.0, but a coverage is between 0 and 1"),
        ((*WORDS, "--test-share", "2"), "test-share is 2.0, but it is between 0 and 1"),
        ((*WORDS, "--trim", "0.7"), "trim is 0.7, but it is at least 0 and below 0.5"),
        ((*WORDS[:6], "--propensity", "1.5"), "chances lie between 0 and 1 and sum to 1"),
        ((*WORDS[:6], "--propensity", "0.2", "0.3", "0.5"), "propensity has 3 numbers, but there are 2 arms"),
        ((*WORDS[:6], "--propensity", "0.2", "age"), "give numbers or columns, not both"),
        ((*WORDS, "--cost", "1", "--budget", "0"), "budget is 0.0, but it is a finite number above 0"),
        ((*WORDS, "--cost", "-1"), "cost is -1, but treating a row costs at least 0"),
        ((*WORDS, "--value", "-1"), "value is -1, but rows of the largest effects are treated first"),
        ((*WORDS, "--value", "0"), "value is 0, but"),
        ((*WORDS, "--budget", "5"), "--budget needs a --cost of treating a row above 0, and it is 0"),
        ((*WORDS, "--features", "nothing*"), "no column is or matches nothing*"),
    ],
)
def test_bad_options_are_one_sentence(
    words: tuple[str, ...], sentence: str, table: Path, capsys: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(table, *words, capsys=capsys)


def bad(case: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """A table with one thing wrong with it."""
    frame = drawn(2000)
    words: tuple[str, ...] = ()
    if case == "outcome":
        frame["copy"] = frame["spend"]
    elif case == "arm":
        frame["opened"] = frame["mailed"] * np.random.default_rng(0).integers(0, 2, 2000)
    elif case == "name":
        frame["conversion"] = np.random.default_rng(0).integers(0, 2, 2000)
    elif case == "constant":
        frame["mailed"] = 1
    elif case == "flat":
        frame["spend"] = 3.0
    elif case == "tiny":
        frame["mailed"] = (np.arange(2000) < 12).astype(int)
    elif case == "overlap":
        frame["mailed"] = (frame["income"] + 0.1 * frame["age"] > 0).astype(int)
    elif case == "overlap once more":
        frame["mailed"] = (np.random.default_rng(0).random(2000) < 1 / (1 + np.exp(-9 * frame["income"]))) * 1
        words = ("--trim", "0.05")
    elif case == "words":
        frame["mailed"] = np.where(frame["mailed"] == 1, "email", "hold out")
    elif case == "dates":
        frame["joined on"] = pd.date_range("2024-01-01", periods=2000, freq="h")
    elif case == "dates with gaps":
        frame["joined"] = pd.date_range("2024-01-01", periods=2000, freq="h")
        frame.loc[0, "joined"] = pd.NaT
        words = ("--missing", "impute")
    elif case == "text of each row":
        frame["key"] = [f"k{i}" for i in range(2000)]
    elif case == "a gap":
        frame.loc[5, "age"] = np.nan
    elif case == "a town's gap":
        frame.loc[5, "city"] = None
    elif case == "chances":
        frame["p"] = np.where(np.arange(2000) == 7, 0.0, 0.5)
        words = ("--propensity", "p")
    elif case == "one user":
        frame["who"] = 1
        words = ("--user", "who")
    elif case == "balance":
        frame["after"] = frame["mailed"] + np.random.default_rng(0).normal(size=2000)
        words = ("--propensity", "0.5")
    return frame, words


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("outcome", "feature copy equals the outcome in every row; leave it out with --drop copy"),
        ("arm", "whose opened is 1 got"),
        ("name", "feature conversion has the name of an outcome or a treatment"),
        ("constant", "column mailed has one value, 1: without a second arm there is no effect"),
        ("flat", "the outcome is 3 in every row"),
        ("tiny", "arm 1 has 12 rows"),
        ("overlap", "of the rows had a chance below 0.05 of some arm"),
        ("balance", "feature after has mean"),
        ("overlap once more", "that is after --trim 0.05; take a larger one, or go on with --force"),
        ("words", "column mailed has the arms email, hold out, and nothing says which of them the others"),
        ("dates", "is of type timestamp[s], not a number; --drop 'joined on' leaves it out"),
        ("dates with gaps", "column joined is of type timestamp[s], not a number; --drop joined leaves it"),
        (
            "text of each row",
            "column key has 2,000 levels, too many for columns of 0 and 1; --drop key leaves",
        ),
        (
            "a gap",
            "column age, row 5: an empty cell where a value is needed; --missing impute puts the median",
        ),
        ("a town's gap", "column city, row 5: None is missing; --missing impute makes it a level"),
        ("chances", "column p, row 7: [1.0, 0.0] are not chances in (0, 1)"),
        ("one user", "column who names 1 user, but"),
    ],
)
def test_the_guards_refuse_in_one_sentence(
    case: str, sentence: str, capsys: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    frame, more = bad(case)
    path = saved(tmp_path, frame.drop(columns="customer"))
    said = refused(path, "--treatment", "mailed", "--outcome", "spend", *more, *FAST, capsys=capsys)
    assert sentence in said


def test_too_many_groups_are_refused_before_anything_is_learned(
    table: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(uplift_work._Fits, "make", lambda fits: pytest.fail("it learned"))
    rows = len(pd.read_csv(table))
    config = UpliftConfig(str(table), "mailed", "spend", drop=("customer",), groups=rows, test_share=0.5)
    with pytest.raises(BadInput, match=f"groups is {rows}, but {rows // 2} judged rows fill at most"):
        uplift(config, tmp_path)
    config = replace(config, drop=(), user="customer", groups=rows // 2, test_share=None)
    with pytest.raises(BadInput, match="judged users fill at most"):
        uplift(config, tmp_path)


def test_force_goes_on_and_says_so(tmp_path: Path) -> None:
    frame, _ = bad("arm")
    path = saved(tmp_path, frame.drop(columns="customer"))
    words = ("--treatment", "mailed", "--outcome", "spend", *FAST, "--force")
    assert run(path, *words, "--out", tmp_path / "run") == 0
    assert metrics(tmp_path / "run")["verdict"]["level"] == "refused"
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "The trial cannot answer" in page
    # A column with a telling name is taken if its owner names it.
    named_frame, _ = bad("name")
    path = saved(tmp_path, named_frame.drop(columns="customer"))
    config = UpliftConfig(str(path), "mailed", "spend", features=("age", "conversion"))
    assert load(config, Seed(0)).trial.names == ("age", "conversion")


def test_what_a_data_set_takes() -> None:
    found = named(UpliftConfig("hillstrom:data/h", "mens", "spend"))
    assert (found.arms, found.outcome, found.path) == ("mens", "spend", "data/h")
    assert named(UpliftConfig("ihdp(replication=3):x")).replication == 3
    for config, sentence in (
        (UpliftConfig("hilstrom:x"), "did you mean hillstrom?"),
        (UpliftConfig("ihdp:x", outcome="y"), "ihdp has no choice of outcome"),
        (UpliftConfig("ihdp(replicaton=1):x"), "did you mean replication?"),
        (UpliftConfig("ihdp:x", user="u"), "--user does not apply"),
    ):
        with pytest.raises(BadInput) as wrong:
            check(config)
        assert sentence in str(wrong.value)


def test_who_learns() -> None:
    assert learners(UpliftConfig("x")) == ["t_learner", "x_learner", "dr_learner", "linear_dr"]
    assert set(learners(UpliftConfig("x", learners=("all",)))) > {"causal_forest", "tarnet"}
    assert learners(UpliftConfig("x", learners=("T-Learner".lower(), "quick")))[0] == "t_learner"


def test_importance_is_the_total_effect_index() -> None:
    """For τ = a + b with independent a, b of variances 1 and 4, the indices are 1/5 and 4/5; c has none."""

    class Sum:
        def effect(self, x: Float[Array, "round feat"]) -> Float[Array, " round"]:
            return np.asarray(x[:, 0] + 2 * x[:, 1])

    luck = np.random.default_rng(0)
    x = luck.normal(size=(4000, 3))
    trial = Trial.of(x, np.arange(4000) % 2, luck.normal(size=4000), names=("a", "b", "c"))
    found = drivers(Sum(), 0, trial, trial, x[:, 0] + 2 * x[:, 1], Seed(1)).set_index("feature")
    assert list(found.index) == ["b", "a", "c"]
    for name, index in (("a", 0.2), ("b", 0.8), ("c", 0.0)):
        assert abs(found.loc[name, "importance"] - index) < 4 * found.loc[name, "stderr"] + 0.03


@pytest.mark.slow
def test_hillstrom_through_the_command(tmp_path: Path) -> None:
    if not HILLSTROM.is_dir():
        pytest.skip("the data of Hillstrom are not here")
    words = (f"hillstrom:{HILLSTROM}", "--treatment", "womens", "--outcome", "visit")
    assert run(*words, *FAST, "--out", tmp_path / "run") == 0
    found = results(tmp_path / "run")
    # The average effect of the e-mail is known from the arms' means, .0454 ± .0032.
    assert found.loc["linear DR", "ate"] == pytest.approx(0.0454, abs=0.0005)
    assert found.loc["linear DR", "ate_stderr"] == pytest.approx(0.0032, abs=0.0001)
    assert found.loc["linear DR", "autoc_low"] > 0
    assert metrics(tmp_path / "run")["overlap"]["known"]


def test_a_budget_goes_to_whom_the_treatment_moves_most(table: Path, tmp_path: Path, capsys: Any) -> None:
    """Effect 1 + age, cost 0.5, 3000 rows: 300 buys the 600 of the largest effects, and their true gain."""
    out = tmp_path / "budget"
    words = (*WORDS, *FAST, "--cost", 0.5, "--budget", 300)
    assert run(table, *words, "--out", out) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "all of the budget of 300 treats 600 of 3,000 rows and gains" in said
    found = pd.read_parquet(out / "budget.parquet").set_index("learner")
    best = found.iloc[0]
    effects, frame = pd.read_parquet(out / "effects.parquet"), pd.read_csv(table)
    treat, age = effects["treat"].to_numpy(), frame["age"].to_numpy()[effects["row"]]
    assert treat.sum() * 0.5 == pytest.approx(300) == best["spend"]
    assert best["treated"] == pytest.approx(600)
    truth = float((treat * (1 + age)).sum())
    most = float(np.sort(1 + age)[-600:].sum())
    assert 0.98 * most < truth <= most
    error = (best["gain_high"] - best["gain_low"]) / (2 * 1.96)
    assert 0 < error < 0.15 * truth
    assert abs(best["gain"] - truth) < 4 * error
    assert abs(best["promised"] - truth) < 4 * error
    assert best["return"] == pytest.approx(best["gain"] - 300)
    # As many at random gain their share of the mean effect.
    random = 600 * float((1 + age).mean())
    between = (best["beyond_random_high"] - best["beyond_random_low"]) / (2 * 1.96)
    assert abs(best["beyond_random"] - (truth - random)) < 4 * between
    # At the edge one row more costs 0.5 and brings the effect there: its worth, less itself.
    cut = float(np.sort(1 + age)[-600])
    assert best["price"] == pytest.approx(cut / 0.5 - 1, rel=0.1)
    # The gain is the mean of the scores of those who are treated.
    assert best["gain"] == pytest.approx(float((treat * effects["score"]).sum()))
    assert metrics(out)["budget"]["learners"][best.name]["gain"] == best["gain"]
    page = (out / "report.html").read_text("utf-8")
    assert page.count("shadow price") >= 2


def test_a_budget_that_is_too_large_is_not_used_up(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "ample"
    assert run(table, *WORDS, *FAST, "--cost", 0.5, "--budget", 1e6, "--out", out) == 0
    best = pd.read_parquet(out / "budget.parquet").iloc[0]
    effects = pd.read_parquet(out / "effects.parquet")
    worth = effects["linear-dr"] > 0.5
    assert best["price"] == 0
    assert best["spend"] == pytest.approx(0.5 * worth.sum())
    assert (effects["treat"] == worth).all()


def test_a_cost_that_nothing_repays(table: Path, tmp_path: Path, capsys: Any) -> None:
    """Treating a row costs 50, and the largest effect is about 4.5: nobody is worth it."""
    out = tmp_path / "dear"
    assert run(table, *WORDS, *FAST, "--cost", 50, "--budget", 300, "--out", out) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "at this cost no share returns more than it takes" in said
    assert "returns most" not in said
    assert "nobody is worth the cost, so the budget is not spent" in said
    best = pd.read_parquet(out / "budget.parquet").iloc[0]
    assert best["treated"] == best["spend"] == best["gain"] == best["price"] == 0
