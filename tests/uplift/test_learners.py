"""Learners on EconML: the references of Hillstrom, any ranker as nuisance, folds that cannot be."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from causal.trials.hillstrom import Hillstrom
from causal.uplift._econml import EconMLLearner
from simlab.adapters.nuisance import RankerClassifier, RankerRegressor
from simlab.errors import BadInput
from simlab.parts import all_parts
from tests.contracts.uplift_learners import drawn, quick

CASES = Path(__file__).parents[2] / "../shared/cases/causal"
DATA = Path(__file__).parents[2] / "../shared/data/hillstrom"
FOUND: dict[str, Any] = {k: v for k, v in all_parts("uplift learner").items() if issubclass(v, EconMLLearner)}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["numbers", "clicks", "weights", "arms"])
@pytest.mark.parametrize("name", FOUND)
def test_a_ranker_is_any_nuisance(name: str, how: str) -> None:
    given, effect = drawn(600, seed=6, arms=3 if how == "arms" else 2)
    truth = effect.mean(0)
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
    learner = quick(FOUND[name], **settings)
    if (how == "arms" and not learner.several) or (how == "weights" and not learner.weights):
        pytest.skip(f"{learner.name} does not take {how}")
    if how == "weights":
        given["sample_weight"] = np.random.default_rng(1).uniform(0.5, 2, 600)
    found = learner.fit(**given).effect(given["X"])
    assert np.isfinite(found).all()
    if how != "clicks":
        assert np.abs(np.atleast_2d(found.T).mean(1) - truth).max() < 0.8


def test_refusals() -> None:
    given, _ = drawn(60, seed=8)
    with pytest.raises(BadInput, match=r"column outcome, row 0: .* but a classifier needs 0 or 1"):
        quick(FOUND["dr_learner"], outcome_model=LogisticRegression()).fit(**given)
    with pytest.raises(BadInput, match="folds is 1, but a model that has not seen a row needs at least 2"):
        quick(FOUND["linear_dr"], folds=1).fit(**given)
    with pytest.raises(BadInput, match="the trial has 2 users, too few for 3 folds"):
        quick(FOUND["linear_dr"]).fit(**given, groups=np.arange(60) // 30)
    with pytest.raises(
        BadInput, match=r"arm True has no rows outside fold \d to learn from: take fewer folds"
    ):
        quick(FOUND["linear_dr"]).fit(given["X"], np.arange(60) == 3, given["Y"])
    rare = (np.arange(60) == 4).astype(int)
    with pytest.raises(BadInput, match="the outcome is 0 in all rows outside fold"):
        quick(FOUND["linear_dr"], outcome_model=LogisticRegression()).fit(given["X"], given["T"], rare)


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
