"""Known chances are the propensities inside EconML's learners: by hand, and where they are wrong it shows."""

from typing import Any

import numpy as np
import pytest
from econml.grf import CausalForest as Forest
from sklearn.base import is_classifier
from sklearn.linear_model import LassoCV, LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from causal.targeting.scores import aipw
from causal.uplift._econml import EconMLLearner
from causal.uplift._nuisance import Nuisance, weighable, without
from causal.uplift.causal_forest import CausalForest
from causal.uplift.contract import Trial
from causal.uplift.dr_learner import DRLearner
from causal.uplift.linear_dml import LinearDML
from causal.uplift.linear_dr import LinearDR
from causal.uplift.r_learner import RLearner
from causal.uplift.x_learner import XLearner
from simlab.errors import BadInput
from simlab.seeds import Seed

FINAL: dict[type[EconMLLearner], dict[str, Any]] = {
    RLearner: {"effect_model": LinearRegression()},
    DRLearner: {"effect_model": LinearRegression()},
    LinearDR: {},
    LinearDML: {},
    CausalForest: {"trees": 20, "leaf": 5},
}
"""The learners that take known chances of each row."""


def logged(n: int = 400, seed: int = 0, arms: int = 2) -> Trial:
    """Arms dealt by chances that depend on something no feature tells, and that moves the outcome."""
    luck = np.random.default_rng(seed)
    x, hidden = luck.normal(size=(n, 2)), luck.normal(size=n)
    score = np.exp(np.outer(hidden, np.arange(arms)) * 0.7)
    chance = score / score.sum(1, keepdims=True)
    arm = (luck.random(n)[:, None] > chance.cumsum(1)[:, :-1]).sum(1)
    y = x[:, 1] + 2 * hidden + arm * (1 + x[:, 0]) + luck.normal(size=n)
    return Trial.of(x, arm, y, propensity=chance)


def made(kind: type[EconMLLearner], **more: Any) -> EconMLLearner:
    return kind(LinearRegression(), folds=3, **FINAL[kind], **more)


def by_fold(learner: EconMLLearner, trial: Trial, *, with_arm: bool) -> Any:
    """What a linear outcome model says that has not seen the fold: [round arm], or [round] without arm."""
    n, arms = len(trial), len(trial.arms)
    told = np.eye(arms)[:, 1:]
    found = np.zeros((n, arms) if with_arm else n)
    for train, held in learner._splits(trial):
        if not with_arm:
            found[held] = LinearRegression().fit(trial.x[train], trial.y[train]).predict(trial.x[held])
            continue
        given = np.column_stack([trial.x, told[trial.arm]])
        model = LinearRegression().fit(given[train], trial.y[train])
        for a in range(arms):
            rows = np.column_stack([trial.x[held], np.tile(told[a], (len(held), 1))])
            found[held, a] = model.predict(rows)
    return found


@pytest.mark.parametrize("arms", [2, 3])
@pytest.mark.parametrize("kind", [DRLearner, LinearDR])
def test_doubly_robust_learners_by_hand(kind: type[EconMLLearner], arms: int) -> None:
    trial = logged(arms=arms)
    assert trial.propensity is not None
    learner = made(kind).learn(trial)
    mu = by_fold(learner, trial, with_arm=True)
    rows = np.arange(len(trial))
    each = mu.copy()
    each[rows, trial.arm] += (trial.y - mu[rows, trial.arm]) / trial.propensity[rows, trial.arm]
    wanted = LinearRegression().fit(trial.x, each[:, 1:] - each[:, :1]).predict(trial.x)
    assert learner.effect(trial.x).reshape(wanted.shape) == pytest.approx(wanted, abs=1e-8)


def test_residual_learners_by_hand() -> None:
    trial = logged()
    assert trial.propensity is not None
    r, line, forest = (made(kind).learn(trial) for kind in (RLearner, LinearDML, CausalForest))
    y = trial.y - by_fold(r, trial, with_arm=False)
    t = trial.arm - trial.propensity[:, 1]
    wanted = LinearRegression().fit(trial.x, y / t, sample_weight=t**2).predict(trial.x)
    assert r.effect(trial.x) == pytest.approx(wanted, abs=1e-8)
    assert line.effect(trial.x) == pytest.approx(wanted, abs=1e-8)
    settings = {"n_estimators": 20, "min_samples_leaf": 5, "min_samples_split": 10, "max_samples": 0.45}
    trees = Forest(**settings, min_var_fraction_leaf=None, random_state=0, n_jobs=1)
    trees.fit(trial.x, t[:, None], y[:, None])
    assert forest.effect(trial.x) == pytest.approx(trees.predict(trial.x)[:, 0], abs=1e-8)


def test_linear_dml_of_several_arms_by_hand() -> None:
    trial = logged(arms=3)
    assert trial.propensity is not None
    learner = made(LinearDML).learn(trial)
    y = trial.y - by_fold(learner, trial, with_arm=False)
    t = np.eye(3)[trial.arm][:, 1:] - trial.propensity[:, 1:]
    one = np.column_stack([np.ones(len(trial)), trial.x])
    design = (one[:, :, None] * t[:, None, :]).reshape(len(trial), -1)
    slope = np.linalg.lstsq(design, y, rcond=None)[0].reshape(3, 2)
    assert learner.effect(trial.x) == pytest.approx(one @ slope, abs=1e-8)


@pytest.mark.parametrize("kind", FINAL)
def test_right_chances_repair_and_wrong_ones_do_not(kind: type[EconMLLearner]) -> None:
    """What deals the arms is not among the features, so a model of the arm cannot find it."""
    trial = logged(4000, seed=1)
    assert trial.propensity is not None
    truth = 1 + trial.x[:, 0].mean()
    right = made(kind).learn(trial).effect(trial.x).mean()
    shuffled = trial.propensity[np.random.default_rng(2).permutation(len(trial))]
    wrong = Trial.of(trial.x, trial.arm, trial.y, propensity=shuffled)
    assert abs(right - truth) < 0.25
    assert abs(made(kind).learn(wrong).effect(trial.x).mean() - truth) > 0.6
    # A model that is asked for wins, here as in `causal.targeting.scores`.
    asked = made(kind, propensity_model=LogisticRegression()).learn(trial).effect(trial.x).mean()
    assert abs(asked - truth) > 0.6


@pytest.mark.parametrize("kind", FINAL)
def test_known_chances_with_weights_users_and_clicks(kind: type[EconMLLearner]) -> None:
    trial = logged(600, seed=3)
    luck = np.random.default_rng(4)
    more: dict[str, Any] = {"weight": luck.uniform(0.5, 2, 600), "user": luck.integers(0, 200, 600)}
    clicks = Trial.of(trial.x, trial.arm, trial.y > 0, propensity=trial.propensity, **more)
    settings = {"folds": 3} | FINAL[kind]
    for model in (make_pipeline(StandardScaler(), LogisticRegression()), LassoCV(cv=2)):
        found = kind(model, **settings).learn(clicks)
        assert 0 < found.effect(clicks.x).mean() < 0.6
        assert 0 < found.ate().stderr[0] < 0.1


def test_an_x_learner_mixes_by_the_known_chance() -> None:
    trial = logged(seed=5)
    x, arm, y = trial.x, trial.arm, trial.y
    models = [LinearRegression().fit(x[arm == a], y[arm == a]) for a in (0, 1)]
    left = LinearRegression().fit(x[arm == 0], models[1].predict(x[arm == 0]) - y[arm == 0]).predict(x)
    right = LinearRegression().fit(x[arm == 1], y[arm == 1] - models[0].predict(x[arm == 1])).predict(x)
    # Chances that are the same in every row are taken as they are; others are learned.
    found = XLearner(LinearRegression()).fit(x, arm, y, propensity=0.3).effect(x)
    assert found == pytest.approx(0.3 * left + 0.7 * right, abs=1e-9)
    learned, unknown = (
        XLearner(LinearRegression()).fit(x, arm, y, **more).effect(x)
        for more in ({"propensity": trial.propensity}, {})
    )
    assert np.array_equal(learned, unknown)
    three = Trial.of(x, np.arange(len(x)) % 3, y, propensity=np.tile([0.2, 0.5, 0.3], (len(x), 1)))
    wanted = XLearner(LinearRegression()).learn(three).model_.propensity_models[1].predict_proba(x)
    assert wanted[0] == pytest.approx([0.4, 0.6])


def test_a_forest_s_average_of_several_arms_is_doubly_robust() -> None:
    """EconML's own standard error of several arms is too small by the root of their number."""
    trial = logged(900, seed=6, arms=3)
    learner = made(CausalForest).learn(trial)
    scores = aipw(trial, LinearRegression(), folds=3, seed=Seed(0))
    found = learner.ate()
    assert found.value == pytest.approx(scores.mean(0))
    assert found.stderr == pytest.approx(scores.std(0, ddof=1) / 30)
    theirs = np.ravel(learner.model_.ate_stderr_)
    assert (np.array(found.stderr) > 1.2 * theirs).all()


def test_pipelines_take_weights_and_columns_are_hidden() -> None:
    luck = np.random.default_rng(7)
    x, y, w = luck.normal(size=(40, 4)), luck.normal(size=40), luck.uniform(0.1, 3, 40)
    plain = make_pipeline(StandardScaler(), LinearRegression())
    wanted = plain.fit(x, y, linearregression__sample_weight=w).predict(x)
    for model in (plain, Pipeline([("a", plain)])):
        assert weighable(model).fit(x, y, sample_weight=w).predict(x) == pytest.approx(wanted, abs=1e-12)
    some = x[:, [0, 3]]
    wanted = LinearRegression().fit(some, y, w).predict(some)
    for model in (LinearRegression(), weighable(make_pipeline(LinearRegression()))):
        blind = without(model, 1, 2).fit(x, y, sample_weight=w)
        assert blind.predict(x) == pytest.approx(wanted, abs=1e-12)
    assert not is_classifier(blind)
    assert not hasattr(blind, "predict_proba")
    assert is_classifier(without(LogisticRegression(), 1, 2))
    with pytest.raises(BadInput, match="KNeighborsRegressor takes no sample_weight"):
        without(KNeighborsRegressor(), 1, 2).fit(x, y, sample_weight=w)


@pytest.mark.parametrize("model", [LassoCV(cv=3), make_pipeline(StandardScaler(), LassoCV(cv=3))])
def test_a_model_that_chooses_its_penalty_gets_folds_of_whole_users(model: Any) -> None:
    trial = logged(120, seed=8)
    user = np.arange(120) // 2
    seen: list[Any] = []

    class Spy(Nuisance):
        def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Nuisance:
            seen.append((np.asarray(X)[:, 2], self.cv))
            return super().fit(X, y, sample_weight)

    x = np.column_stack([trial.x, user])
    LinearDML(Spy(model), LogisticRegression(), folds=3).fit(x, trial.arm, trial.y, groups=user)
    assert len(seen) == 3
    for column, folds in seen:
        assert len(folds) == 3
        assert all(not set(column[train]) & set(column[held]) for train, held in folds)
