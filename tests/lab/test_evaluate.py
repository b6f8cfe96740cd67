"""`simlab evaluate` from end to end: values, refusals, what is left behind, and what is not touched."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from simlab.context import Catalog
from simlab.datasets.open_bandit import BernoulliTS, OpenBandit
from simlab.errors import BadInput
from simlab.lab.cli import main
from simlab.lab.evaluate import EvaluateConfig
from simlab.lab.evaluation import check
from simlab.lab.reward_models import check_word, reward_model
from simlab.lab.targets import halves, make_target
from simlab.log import Log
from simlab.rankers.contract import Sizes
from simlab.rankers.popularity import Popularity
from simlab.seeds import Seed
from simlab.training.store import save_ranker
from tests.lab.browser import browse

CASES = Path(__file__).parents[2] / "../shared/cases/ope"


def run(*arguments: str | Path) -> int:
    return main(["evaluate", *map(str, arguments)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one evaluation of the packaged sample."""
    out = tmp_path_factory.mktemp("runs") / "men"
    assert run("open-bandit:random/men", "--policy", "bernoulli-ts", "--out", out) == 0
    return out


@pytest.fixture
def logged(tmp_path: Path) -> Path:
    """A well-behaved CSV: 2,000 rounds, four items, uneven propensities, and a target's probabilities."""
    luck = np.random.default_rng(3)
    chance, aim = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.4, 0.3, 0.2, 0.1])
    item = luck.choice(4, size=2000, p=chance)
    click = (luck.random(2000) < np.array([0.5, 0.4, 0.3, 0.2])[item]).astype(int)
    frame = pd.DataFrame({"item": item, "propensity": chance[item], "reward": click, "target": aim[item]})
    frame["user"] = np.arange(2000) // 4
    path = tmp_path / "log.csv"
    frame.to_csv(path, index=False)
    return path


def results(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "results.parquet").set_index("estimator")


def metrics(folder: Path) -> dict[str, object]:
    found = json.loads((folder / "metrics.json").read_text("utf-8"))
    assert isinstance(found, dict)
    return found


def snapshot(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


# --- the packaged sample -------------------------------------------------------------------------------


def test_ips_and_snips_of_the_sample_are_exact(finished: Path) -> None:
    log = OpenBandit("random", "men").load()
    context = log.context()
    assert log.position is not None
    table = BernoulliTS("men").distribution(context, 3).slot_marginals().double()[0].numpy()
    item, place = log.slate[:, 0].numpy(), log.position.numpy()
    weight = table[place, item] / log.propensity.numpy()
    found = results(finished)
    assert found.loc["IPS", "value"] == pytest.approx((weight * log.reward.numpy()).mean(), rel=1e-12)
    own = (weight * log.reward.numpy()).sum() / weight.sum()
    assert found.loc["SNIPS", "value"] == pytest.approx(own, rel=1e-12)
    assert found.loc["SNIPS", "ess"] == pytest.approx(weight.sum() ** 2 / (weight**2).sum(), rel=1e-12)
    assert found.loc["SNIPS", "max_weight_share"] == pytest.approx(weight.max() / weight.sum(), rel=1e-12)
    assert (found["n"] == 10_000).all()


def test_the_sample_agrees_with_the_reference(finished: Path) -> None:
    if not (CASES / "obd_random_to_bts_men.json").is_file():
        pytest.skip("the reference cases are not here")
    answers = json.loads((CASES / "obd_random_to_bts_men.json").read_text("utf-8"))["results"]
    arrays = np.load(CASES / "obd_random_to_bts_men.npz")
    chance = arrays["action_dist_one_round"][0]
    # The reference drew its target's probabilities 100,000 times; this is what that luck does to IPS.
    clicked = arrays["reward"] == 1
    share = 1 / arrays["pscore"][clicked] / 1e4
    pull = np.zeros_like(chance)
    np.add.at(pull, (arrays["action"][clicked], arrays["position"][clicked]), share)
    luck = float(np.sqrt((pull**2 * chance * (1 - chance) / 1e5).sum()))
    found = results(finished)
    assert abs(found.loc["IPS", "value"] - answers["ipw"]["value"]) < 4 * luck
    # SNIPS has a random denominator, too; the numerator's luck dominates.
    assert abs(found.loc["SNIPS", "value"] - answers["snipw"]["value"]) < 6 * luck
    assert luck < 2e-5


def test_every_estimator_has_a_row_with_an_interval(finished: Path) -> None:
    found = results(finished)
    simple, modelled = ["IPS", "SNIPS", "clipped IPS"], ["DM", "DR", "SNDR", "Switch-DR"]
    assert [name for name in found.index if name in simple + modelled] == [
        *simple,
        "DM",
        "DR",
        "SNDR",
        "Switch-DR",
    ]
    # The target does not always agree with the random logger, so replay is not for this log.
    assert "replay" not in found.index
    assert (found["low"] < found["value"]).all()
    assert (found["value"] < found["high"]).all()
    assert (found["stderr"] > 0).all()
    width = (found["high"] - found["low"]).drop("DM")
    assert (width / found["stderr"].drop("DM")).between(2 * 1.95, 2 * 1.97).all()
    # The log's own mean is 46 clicks in 10,000 rounds.
    assert found["lift"].to_numpy() == pytest.approx(found["value"].to_numpy() - 0.0046, abs=1e-12)
    assert (found["lift_low"] < found["lift"]).all()


def test_the_other_policys_own_log_stands_beside_the_estimates(finished: Path) -> None:
    truth = metrics(finished)["truth"]
    assert isinstance(truth, dict)
    assert truth["value"] == pytest.approx(0.0069, abs=1e-12)  # 69 clicks in 10,000 rounds
    assert truth["low"] == pytest.approx(0.0069 - 1.9602 * 0.000827833 * (10_000 / 9_999) ** 0.5, abs=1e-7)
    page = (finished / "report.html").read_text("utf-8")
    assert "Where the policy bts acted itself, it earned 0.006900" in page
    assert "mean of the 10,000 rounds that it logged (69 clicks)" in page
    assert "went on learning while it logged" in page


def test_the_run_leaves_everything_that_says_how_it_was_made(finished: Path) -> None:
    names = {p.name for p in finished.iterdir()}
    assert names == {
        *("config.yaml", "versions.json", "seed.json", "results.parquet"),
        *("metrics.json", "diagnostics.json", "report.html"),
    }
    diagnostics = json.loads((finished / "diagnostics.json").read_text("utf-8"))
    assert diagnostics["verdict"]["level"] == "ok"
    assert diagnostics["n"] == 10_000
    assert len(diagnostics["calibration"]["z"]) == 34 * 3


def test_a_runs_config_makes_it_again(finished: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    assert run("--config", finished / "config.yaml", "--out", again) == 0
    for name in ("results.parquet", "diagnostics.json", "metrics.json", "config.yaml"):
        assert (again / name).read_bytes() == (finished / name).read_bytes(), name


def test_a_browser_draws_the_report(finished: Path, tmp_path: Path) -> None:
    drawn, said = browse(finished / "report.html", tmp_path / "profile")
    assert 'data-state="ready"' in drawn
    assert drawn.count('class="plot js-plotly-plot"') == 4
    assert "CONSOLE" not in said


# --- a column of the file ------------------------------------------------------------------------------


def test_a_column_is_the_target(logged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(logged, "--policy", "column:target", "--out", tmp_path / "run") == 0
    frame = pd.read_csv(logged)
    weight = frame["target"] / frame["propensity"]
    found = results(tmp_path / "run")
    assert list(found.index) == ["IPS", "SNIPS", "clipped IPS", "sub-Gaussian IPS"]
    assert found.loc["IPS", "value"] == pytest.approx((weight * frame["reward"]).mean(), rel=1e-12)
    said = " ".join(capsys.readouterr().out.split())
    assert "DM, DR, DRos, SNDR, " in said
    assert "sub-Gaussian DR are left out: a reward model needs to know all" in said


def test_a_column_reads_the_same_in_every_layout(tmp_path: Path) -> None:
    luck = np.random.default_rng(5)
    slate = np.stack([luck.permutation(3)[:2] for _ in range(600)])
    click, aim = luck.integers(0, 2, (600, 2)), luck.choice([0.0, 1 / 6, 1 / 3], 600)
    wide = pd.DataFrame(
        {
            "slate": slate.tolist(),
            "click": click.tolist(),
            "propensity": 1 / 6,
            "reward": click.sum(1),
            "aim": aim,
        }
    )
    long = pd.DataFrame(
        {
            "round": np.repeat(np.arange(600), 2),
            "slot": np.tile([0, 1], 600),
            "item": slate.ravel(),
            "propensity": 1 / 6,
            "click": click.ravel(),
            "aim": np.repeat(aim, 2),
        }
    )
    wide.to_parquet(tmp_path / "wide.parquet")
    long.to_csv(tmp_path / "long.csv", index=False)
    expected = (aim * 6 * click.sum(1)).mean()
    for name in ("wide.parquet", "long.csv"):
        out = tmp_path / f"run-{name}"
        assert run(tmp_path / name, "--policy", "column:aim", "--out", out) == 0
        assert results(out).loc["IPS", "value"] == pytest.approx(expected, rel=1e-12), name


def test_a_column_cannot_feed_a_reward_model(
    logged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run(logged, "--policy", "column:target", "--estimators", "ips", "dr", "--out", out) == 2
    assert "DR needs a reward model" in capsys.readouterr().err
    assert not out.exists()


def test_columns_are_mapped(logged: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(logged)
    renamed = frame.rename(columns={"item": "sku", "propensity": "p", "reward": "bought", "user": "who"})
    renamed.to_parquet(tmp_path / "renamed.parquet")
    mapping = ["item=sku", "propensity=p", "reward=bought", "user=who"]
    flags = [word for pair in mapping for word in ("--columns", pair)]
    assert run(tmp_path / "renamed.parquet", "--policy", "uniform", *flags, "--out", tmp_path / "a") == 0
    assert run(logged, "--policy", "uniform", "--out", tmp_path / "b") == 0
    pd.testing.assert_frame_equal(results(tmp_path / "a"), results(tmp_path / "b"))


# --- refusals ------------------------------------------------------------------------------------------


@pytest.fixture
def hopeless(logged: Path) -> Path:
    """The same log, with one round that holds most of the weight."""
    frame = pd.read_csv(logged)
    frame.loc[7, "propensity"] = 1e-4
    path = logged.with_name("hopeless.csv")
    frame.to_csv(path, index=False)
    return path


def test_a_log_that_cannot_answer_is_refused(
    logged: Path, hopeless: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run(logged, "--policy", "column:target", "--out", out) == 0
    before = snapshot(out)
    capsys.readouterr()
    assert run(hopeless, "--policy", "column:target", "--out", out, "--overwrite") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("simlab: ESS ")
    assert said.err.endswith(" of the weight: refused; use --force to print it anyway\n")
    assert said.err.count("\n") == 1
    assert snapshot(out) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hopeless.csv", "log.csv", "run"]


def test_force_prints_it_anyway_and_says_so(
    hopeless: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run(hopeless, "--policy", "column:target", "--force", "--out", out) == 0
    assert "refused" in capsys.readouterr().out
    assert metrics(out)["verdict"] == "refused"
    assert 'class="note bad"' in (out / "report.html").read_text("utf-8")
    assert results(out).loc["IPS", "max_weight_share"] > 0.2


BAD = {
    "no such file": (["nowhere.csv", "--policy", "uniform"], "nowhere.csv"),
    "a folder": ([".", "--policy", "uniform"], ""),
    "no such column": (["LOG", "--policy", "column:tarjet"], "did you mean target"),
    "column without a name": (["LOG", "--policy", "column:"], "column:NAME"),
    "probabilities above 1": (["LOG", "--policy", "column:item"], "not in [0, 1]"),
    "no such policy": (["LOG", "--policy", "unifrm"], "did you mean uniform"),
    "no such ranker": (["LOG", "--policy", "greedy(poplarity)"], "did you mean popularity"),
    "a policy that needs a world": (["LOG", "--policy", "epsilon(oracle, 0.1)"], "simulated world"),
    "broken grammar": (["LOG", "--policy", "greedy(mf"], "expected"),
    "no such estimator": (["LOG", "--policy", "uniform", "--estimators", "snipz"], "did you mean snips"),
    "no such interval": (["LOG", "--policy", "uniform", "--interval", "student"], "did you mean student-t"),
    "level": (["LOG", "--policy", "uniform", "--level", "95"], "between 0 and 1"),
    "folds": (["LOG", "--policy", "uniform", "--folds", "1"], "at least 2"),
    "no such reward model": (["LOG", "--policy", "uniform", "--reward-model", "logstic"], "mean logistic"),
    "no such import": (
        ["LOG", "--policy", "uniform", "--reward-model", "sklearn.svm.SVM"],
        "sklearn.svm.SVM",
    ),
    "not an estimator": (["LOG", "--policy", "uniform", "--reward-model", "os.path.join"], "no fit"),
    "not of rewards": (
        ["LOG", "--policy", "uniform", "--reward-model", "sklearn.cluster.KMeans"],
        "predicts labels of its own",
    ),
    "made with arguments": (
        ["LOG", "--policy", "uniform", "--reward-model", "sklearn.multioutput.MultiOutputRegressor"],
        "cannot be made without arguments",
    ),
    "truth": (["LOG", "--policy", "uniform", "--truth", "nan"], "truth is nan"),
    "no positions": (["LOG", "--policy", "uniform", "--position-from", "1"], "has no column of positions"),
    "no such field": (["LOG", "--policy", "uniform", "--columns", "itm=item"], "did you mean item"),
    "a map without =": (["LOG", "--policy", "uniform", "--columns", "item"], "FIELD=COLUMN"),
    "a field twice": (
        ["LOG", "--policy", "uniform", "--columns", "item=item", "--columns", "item=user"],
        "item twice",
    ),
    "no such data set": (["open-bandt:random/men", "--policy", "uniform"], "did you mean open-bandit"),
    "no such campaign": (["open-bandit:random/man", "--policy", "uniform"], "did you mean men"),
    "too many settings": (["open-bandit:random/men/3", "--policy", "uniform"], "takes"),
    "columns of a data set": (["open-bandit:random/men", "--policy", "uniform", "--items", "3"], "--items"),
    "priors without a campaign": (["LOG", "--policy", "bernoulli-ts"], "campaign"),
    "a propensity above 1": (["WRONG", "--policy", "uniform"], "row 3"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_is_one_sentence_and_touches_nothing(
    case: str, logged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in ("config.yaml", "versions.json", "report.html"):
        (out / name).write_text(f"earlier: {name}")
    before = snapshot(out)
    wrong = tmp_path / "wrong.csv"
    frame = pd.read_csv(logged)
    frame.loc[3, "propensity"] = 1.5
    frame.to_csv(wrong, index=False)
    arguments, expected = BAD[case]
    words = [{"LOG": str(logged), "WRONG": str(wrong)}.get(a, a) for a in arguments]
    assert run(*words, "--out", out, "--overwrite") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("simlab: ")
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    assert expected in said.err
    assert snapshot(out) == before
    assert not out.with_name("run.partial").exists()


def test_an_earlier_run_is_not_replaced_unasked(
    logged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run(logged, "--policy", "uniform", "--estimators", "ips", "--out", out) == 0
    before = snapshot(out)
    assert run(logged, "--policy", "column:target", "--out", out) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert snapshot(out) == before


# --- targets and reward models -------------------------------------------------------------------------


def toy(rounds: int = 400, users: int = 40) -> Log:
    luck = np.random.default_rng(1)
    item = luck.integers(0, 5, rounds)
    return Log(
        user=torch.from_numpy(luck.integers(0, users, rounds)),
        slate=torch.from_numpy(item).unsqueeze(1),
        propensity=torch.full((rounds,), 0.2, dtype=torch.float64),
        reward=torch.from_numpy((luck.random(rounds) < 0.1 + 0.15 * item).astype(float)),
        n_items=5,
    )


def test_halves_share_no_user_and_lose_no_round() -> None:
    log = toy()
    one, other, what = halves(log, Seed(0))
    assert what == "users"
    assert not set(one.user.tolist()) & set(other.user.tolist())
    assert len(one) + len(other) == len(log)
    assert abs(len(one) - len(other)) < len(log) / 5
    lonely = replace(log, user=torch.arange(len(log)))
    assert halves(lonely, Seed(0))[2] == "rounds"


def test_a_ranker_learns_from_one_half_and_is_judged_on_the_other() -> None:
    log = toy()
    learn, judge, _ = halves(log, Seed(4).split("halves"))
    target = make_target("greedy(popularity)", log, Catalog.bare(5), Seed(4))
    assert target.log.user.tolist() == judge.user.tolist()
    clicks = torch.zeros(5, dtype=torch.float64).index_add_(0, learn.slate[:, 0], learn.reward.double())
    assert not isinstance(target.policy, torch.Tensor)
    shown = target.policy.distribution(target.log.context(target.past), 1).mode()
    assert (shown == int(clicks.argmax())).all()
    # The word popularity alone is the same policy: a log has no market whose popularity could be read.
    assert make_target("popularity", log, Catalog.bare(5), Seed(4)).name == target.name
    # What learns nothing is judged on everything.
    assert len(make_target("uniform", log, Catalog.bare(5), Seed(4)).log) == len(log)


def test_a_saved_ranker_is_judged_on_every_round(logged: Path, tmp_path: Path) -> None:
    ranker = Popularity(Sizes(500, 4), Popularity.Spec())
    ranker.clicks += torch.tensor([0.0, 9.0, 0.0, 0.0], dtype=torch.float64)  # item 1 leads
    save_ranker(ranker, tmp_path / "ranker")
    frame = pd.read_csv(logged)
    for policy, chance in (
        (f"saved:{tmp_path / 'ranker'}", frame["item"] == 1),
        (f"epsilon(saved:{tmp_path / 'ranker'}, 0.2)", 0.8 * (frame["item"] == 1) + 0.05),
    ):
        out = tmp_path / f"run-{policy[:5]}"
        assert run(logged, "--policy", policy, "--estimators", "ips", "--out", out) == 0
        expected = (chance / frame["propensity"] * frame["reward"]).mean()
        assert results(out).loc["IPS", "value"] == pytest.approx(expected, rel=1e-12)
        assert results(out).loc["IPS", "n"] == 2000


@pytest.mark.parametrize(
    ("word", "reward", "kind"),
    [
        ("auto", [0.0, 1.0], "LogisticRegression"),
        ("auto", [0.0, 2.5], "Ridge"),
        ("logistic", [0.0, 1.0], "LogisticRegression"),
        ("gradient-boosting", [0.0, 1.0], "HistGradientBoostingClassifier"),
        ("gradient-boosting", [0.0, 2.5], "HistGradientBoostingRegressor"),
        ("sklearn.tree.DecisionTreeRegressor", [0.0, 2.5], "DecisionTreeRegressor"),
    ],
)
def test_reward_models_by_name(word: str, reward: list[float], kind: str) -> None:
    log = replace(toy(2, 2), reward=torch.tensor(reward))
    check_word(word)
    model = reward_model(word, log)
    assert type(getattr(model, "estimator", None)).__name__ == kind


def test_folds_without_a_reward_model_say_so() -> None:
    with pytest.raises(BadInput, match="folds is 5, but --reward-model is none"):
        check(EvaluateConfig("log.csv", "random", folds=5, reward_model="none"))
    check(EvaluateConfig("log.csv", "random", reward_model="none"))


def test_a_ranker_is_a_reward_model() -> None:
    model = reward_model("mf(dim=4, past=3)", toy())
    assert model is not None
    assert model.past == 3
    assert reward_model("none", toy()) is None
    with pytest.raises(BadInput, match="did you mean dim"):
        check_word("mf(dims=4)")
    # A dense column for each item is no way to lay out a large catalogue.
    large = reward_model("auto", replace(toy(), n_items=5000))
    assert type(large).__name__ == "RankerReward"


def test_dm_of_a_constant_model_is_the_mean_of_the_other_folds(logged: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["--estimators", "dm", "dr", "ips", "--reward-model", "sklearn.dummy.DummyRegressor"]
    assert run(logged, "--policy", "uniform", *words, "--folds", "2", "--out", out) == 0
    frame, found = pd.read_csv(logged), results(out)
    # With folds of equal size, the means that the folds lend each other average to the mean of all.
    assert found.loc["DM", "value"] == pytest.approx(frame["reward"].mean(), abs=1e-12)
    assert list(found.index) == ["DM", "DR", "IPS"]


def test_users_are_the_units_where_they_come_back(logged: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["--estimators", "ips", "--interval", "cluster"]
    assert run(logged, "--policy", "column:target", *words, "--out", out) == 0
    frame = pd.read_csv(logged)
    score = frame["target"] / frame["propensity"] * frame["reward"]
    by_user = score.groupby(frame["user"]).sum() / 4
    found = results(out)
    assert found.loc["IPS", "stderr"] == pytest.approx(by_user.std() / np.sqrt(len(by_user)), rel=1e-9)
    assert found.loc["IPS", "interval"] == "cluster"


def test_a_given_truth_is_drawn(logged: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(logged, "--policy", "column:target", "--truth", "0.4", "--out", out) == 0
    assert "The policy is known to earn 0.4000: given with --truth." in (out / "report.html").read_text(
        "utf-8"
    )


def test_the_seed_decides_the_bootstrap(logged: Path, tmp_path: Path) -> None:
    low = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        words = ["--estimators", "snips", "--interval", "bootstrap", "--seed", seed]
        assert run(logged, "--policy", "column:target", *map(str, words), "--out", tmp_path / name) == 0
        low[name] = results(tmp_path / name).loc["SNIPS", "low"]
    assert low["a"] == low["b"]
    assert low["a"] != low["c"]


def test_slates_of_a_simulated_log_are_evaluated(tmp_path: Path) -> None:
    """One log of K = 2, a target of slates: the weight is that of the whole slate."""
    luck = np.random.default_rng(9)
    slate = np.stack([luck.permutation(4)[:2] for _ in range(1500)])
    click = (luck.random((1500, 2)) < np.array([0.1, 0.2, 0.3, 0.4])[slate]).astype(int)
    frame = pd.DataFrame(
        {"slate": slate.tolist(), "click": click.tolist(), "propensity": 1 / 12, "reward": click.sum(1)}
    )
    frame.to_parquet(tmp_path / "log.parquet")
    words = ("--policy", "uniform", "--unit", "round")
    assert run(tmp_path / "log.parquet", *words, "--out", tmp_path / "run") == 0
    found = results(tmp_path / "run")
    assert found.loc["IPS", "value"] == pytest.approx(click.sum(1).mean(), rel=1e-12)
    assert found.loc["IPS", "ess"] == pytest.approx(1500)
    # The additive model is right here, so it may not be far off: 0.5 clicks a slate.
    assert found.loc["DM", "value"] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("slots", [1, 3])
def test_a_trained_ranker_is_target_and_reward_model_of_a_simulated_log(slots: int, tmp_path: Path) -> None:
    """From `simlab log` to `simlab evaluate`, with the features and users that a world brings."""
    size = ["--items", "12", "--slots", str(slots), "--users", "500", "--steps", "4"]
    assert main(["log", "--policy", "random", *size, "--out", str(tmp_path / "log")]) == 0
    policy = "softmax(mf, temperature=2)"
    log, out = tmp_path / "log" / "log.parquet", tmp_path / "run"
    assert run(log, "--policy", policy, "--unit", "round", "--reward-model", "neumf", "--out", out) == 0
    found = results(out)
    assert {"IPS", "DM", "DR"} <= set(found.index)
    # The target is mild, so its value is near the log's own mean, and the two kinds of estimate agree.
    own = float(metrics(out)["logged"]["value"])  # type: ignore[index]
    assert abs(found.loc["DR", "value"] - own) < 0.3 * own
    assert abs(found.loc["DR", "value"] - found.loc["IPS", "value"]) < 3 * found.loc["IPS", "stderr"]
