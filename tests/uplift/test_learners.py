"""Learners on EconML: known effects, the references of Hillstrom, any nuisance, clear refusals."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LinearRegression, LogisticRegression

from causal.trials.hillstrom import Hillstrom
from causal.uplift._econml import EconMLLearner
from causal.uplift.contract import UpliftLearner
from simlab.adapters.nuisance import RankerClassifier, RankerRegressor
from simlab.errors import BadInput
from simlab.parts import all_parts

CASES = Path(__file__).parents[2] / "../shared/cases/causal"
DATA = Path(__file__).parents[2] / "../shared/data/hillstrom"
FOUND: dict[str, Any] = {k: v for k, v in all_parts("uplift learner").items() if issubclass(v, EconMLLearner)}
PLAIN = {"outcome_model": LinearRegression(), "propensity_model": LogisticRegression()}


def drawn(n: int, seed: int, arms: int = 2) -> dict[str, Any]:
    """A trial with effect 1 + x_0 of arm 1 (and 2 of arm 2), and an outcome that is linear in each arm."""
    luck = np.random.default_rng(seed)
    x = luck.normal(size=(n, 3))
    chance = 1 / (1 + np.exp(-0.5 * x[:, 1]))
    arm = luck.integers(0, 3, n) if arms == 3 else (luck.random(n) < chance).astype(int)
    effect = np.stack([1 + x[:, 0], np.full(n, 2.0)], 1)[:, : arms - 1]
    gain = np.where(arm > 0, effect[np.arange(n), np.maximum(arm - 1, 0)], 0.0)
    return {"X": x, "T": arm, "Y": x[:, 1] + gain + 0.5 * luck.normal(size=n), "effect": effect}


def quick(name: str, **more: Any) -> EconMLLearner:
    settings = dict(PLAIN) | {"folds": 3} | more
    if name in ("x_learner", "r_learner", "dr_learner"):
        settings.setdefault("effect_model", LinearRegression())
    if name == "causal_forest":
        settings |= {"trees": 40}
    made: EconMLLearner = FOUND[name](**settings)
    return made


@pytest.mark.parametrize("name", FOUND)
def test_a_linear_effect_is_found(name: str) -> None:
    given = drawn(2000, seed=1)
    truth = given.pop("effect")[:, 0]
    learner = quick(name).fit(**given)
    found = learner.effect(given["X"])
    # One additive model of all arms has one effect for everybody.
    wanted = np.full_like(truth, truth.mean()) if name == "s_learner" else truth
    assert np.sqrt(np.mean((found - wanted) ** 2)) < (0.5 if name == "causal_forest" else 0.15)
    average = learner.ate()
    assert abs(average.value[0] - truth.mean()) < 4 * max(average.stderr[0], 0.02)
    assert 0.01 < average.stderr[0] < 0.1
    if learner.intervals:
        low, high = learner.effect_interval(given["X"])
        assert np.mean((low <= truth) & (truth <= high)) > 0.85
    else:
        with pytest.raises(BadInput, match="has no interval of single effects"):
            learner.effect_interval(given["X"])


@pytest.mark.parametrize("name", FOUND)
def test_several_arms_or_a_refusal(name: str) -> None:
    given = drawn(1500, seed=2, arms=3)
    truth = given.pop("effect")
    given["T"] = np.array(["none", "men", "women"])[given["T"]]
    learner = quick(name)
    if not learner.several:
        with pytest.raises(BadInput, match="takes two arms, and this trial has 3"):
            learner.fit(**given, control="none")
        return
    learner.fit(**given, control="none")
    found = learner.effect(given["X"])
    assert found.shape == (1500, 2)
    assert np.abs(found.mean(0) - truth.mean(0)).max() < 0.25
    assert learner.ate().arms == ("men", "women")


@pytest.mark.parametrize("name", FOUND)
def test_a_clone_learns_the_same_and_the_global_state_stays(name: str) -> None:
    given = drawn(300, seed=3)
    given.pop("effect")
    np.random.seed(5)
    before = np.random.get_state()[1].tolist()  # type: ignore[index]
    learner = quick(name)
    one = learner.fit(**given).effect(given["X"])
    two = clone(learner).fit(**given).effect(given["X"])
    assert np.array_equal(one, two)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]


@pytest.mark.parametrize("name", FOUND)
def test_rows_of_weight_zero_do_not_matter(name: str) -> None:
    given = drawn(400, seed=4)
    given.pop("effect")
    learner = quick(name)
    weight = np.ones(400)
    if not learner.weights:
        with pytest.raises(BadInput, match="takes no weights"):
            learner.fit(**given, sample_weight=weight)
        return
    one = learner.fit(**given, sample_weight=weight).effect(given["X"])
    more = {k: np.concatenate([v, -v[:50] if k != "T" else v[:50]]) for k, v in given.items()}
    two = clone(learner).fit(**more, sample_weight=np.concatenate([weight, np.zeros(50)])).effect(given["X"])
    assert np.array_equal(one, two)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["numbers", "clicks", "weights", "arms"])
@pytest.mark.parametrize("name", FOUND)
def test_a_ranker_is_any_nuisance(name: str, how: str) -> None:
    given = drawn(600, seed=6, arms=3 if how == "arms" else 2)
    truth = given.pop("effect").mean(0)
    regressor = RankerRegressor("mlp", epochs=15)
    settings: dict[str, Any] = {
        "outcome_model": regressor,
        "propensity_model": RankerClassifier("mlp", epochs=15),
    }
    if how == "clicks":
        given["Y"] = (given["Y"] > 0).astype(int)
        settings["outcome_model"] = RankerClassifier("mlp", epochs=15)
    if name in ("x_learner", "r_learner", "dr_learner"):
        settings["effect_model"] = regressor
    learner = quick(name, **settings)
    if (how == "arms" and not learner.several) or (how == "weights" and not learner.weights):
        pytest.skip(f"{learner.name} does not take {how}")
    if how == "weights":
        given["sample_weight"] = np.random.default_rng(1).uniform(0.5, 2, 600)
    found = learner.fit(**given).effect(given["X"])
    assert np.isfinite(found).all()
    if how != "clicks":
        assert np.abs(np.atleast_2d(found.T).mean(1) - truth).max() < 0.8


def test_users_are_folds_and_clusters() -> None:
    """Every row four times under one user: the standard error does not fall."""
    given = drawn(400, seed=7)
    given.pop("effect")
    once = quick("dr_learner").fit(**given, groups=np.arange(400)).ate()
    four = {k: np.repeat(v, 4, axis=0) for k, v in given.items()}
    again = quick("dr_learner").fit(**four, groups=np.repeat(np.arange(400), 4)).ate()
    assert again.stderr[0] == pytest.approx(once.stderr[0], rel=0.25)


def test_refusals() -> None:
    given = drawn(60, seed=8)
    given.pop("effect")
    with pytest.raises(BadInput, match=r"column outcome, row 0: .* but a classifier needs 0 or 1"):
        quick("dr_learner", outcome_model=LogisticRegression()).fit(**given)
    learner: UpliftLearner = quick("t_learner").fit(**given)
    with pytest.raises(BadInput, match="was fitted on 3 features, and these are 2"):
        learner.effect(given["X"][:, :2])


@pytest.mark.slow
def test_hillstrom_is_the_reference() -> None:
    """Women's e-mail against none, outcome visit, with the nuisances of the reference."""
    lightgbm = pytest.importorskip("lightgbm")
    if not CASES.is_dir():
        pytest.skip("the reference cases are not here")
    answer = json.loads((CASES / "hillstrom_econml_full_ate.json").read_text())["res"]
    trial = replace(Hillstrom(path=DATA).load(), propensity=None)
    settings = {"n_estimators": 100, "num_leaves": 15, "learning_rate": 0.05, "min_child_samples": 100}
    model = lightgbm.LGBMRegressor(**settings, random_state=0, verbose=-1, n_jobs=1)
    how = {"outcome_model": model, "propensity_model": LogisticRegression(max_iter=1000), "random_state": 0}
    for name, key in (
        ("t_learner", "TLearner_lgbm"),
        ("x_learner", "XLearner_lgbm"),
        ("s_learner", "SLearner_lgbm"),
    ):
        found = FOUND[name](**how).learn(trial).ate()
        assert found.value[0] == pytest.approx(answer[f"{key}/seed0"]["ate"], rel=1e-6), name
    for name, key in (("linear_dr", "LinearDRLearner_lgbm"), ("linear_dml", "LinearDML_lgbm")):
        wanted = answer[f"{key}/seed0"]
        found = FOUND[name](**how).learn(trial).ate()
        assert abs(found.value[0] - wanted["ate"]) < 0.1 * wanted["ate_inference_se"], name
        assert found.stderr[0] == pytest.approx(wanted["ate_inference_se"], rel=0.02), name
    wanted = answer["CausalForestDML_200/seed0"]
    found = FOUND["causal_forest"](**how, trees=200).learn(trial).ate()
    assert abs(found.value[0] - wanted["ate_"][0]) < 0.1 * wanted["ate_stderr_"][0]
    assert found.stderr[0] == pytest.approx(wanted["ate_stderr_"][0], rel=0.02)
