"""Rankers as nuisances in EconML: each learner finds a known effect."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from econml.dml import CausalForestDML, LinearDML, NonParamDML
from econml.dr import DRLearner, ForestDRLearner, LinearDRLearner
from econml.metalearners import DomainAdaptationLearner, SLearner, TLearner, XLearner
from econml.policy import DRPolicyForest, DRPolicyTree

from simlab.adapters.nuisance import RankerClassifier, RankerRegressor

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # EconML's own


@dataclass(frozen=True)
class Trial:
    """Confounded rows, and the effect of each arm against the first for each row."""

    x: Any
    arm: Any
    y: Any
    effect: Any
    weight: Any


def trial(rows: int = 800, arms: int = 2, binary: bool = False, seed: int = 0) -> Trial:
    """Arm k has chance ∝ exp(k x0 / 2) and effect k (1 + x1 / 2), on a logit if the outcome is binary.

    x0 confounds: without it the mean of treated less untreated is 0.4 too high.
    """
    g = np.random.default_rng(seed)
    x = g.normal(size=(rows, 4))
    chance = np.exp(0.5 * np.arange(arms) * x[:, :1])
    chance /= chance.sum(1, keepdims=True)
    arm = (chance.cumsum(1) < g.uniform(size=(rows, 1))).sum(1)
    base, each = x[:, 0] + np.sin(x[:, 2]), 1 + 0.5 * x[:, 1]
    levels = np.arange(1, arms) * each[:, None]
    weight = g.uniform(0.5, 1.5, rows)
    if not binary:
        return Trial(x, arm, base + each * arm + 0.5 * g.normal(size=rows), levels, weight)
    p = 1 / (1 + np.exp(-(base + each * arm)))
    before = 1 / (1 + np.exp(-base))
    after = 1 / (1 + np.exp(-(base[:, None] + levels)))
    return Trial(x, arm, (g.uniform(size=rows) < p).astype(int), after - before[:, None], weight)


def reg() -> RankerRegressor:
    return RankerRegressor(epochs=60)


def clf() -> RankerClassifier:
    return RankerClassifier(epochs=60)


DML: dict[str, Any] = {"discrete_treatment": True, "cv": 2, "random_state": 1}
DR: dict[str, Any] = {"cv": 2, "random_state": 1}
Make = Callable[[], Any]

POINTS: dict[str, Make] = {
    "S": lambda: SLearner(overall_model=reg()),
    "T": lambda: TLearner(models=reg()),
    "X": lambda: XLearner(models=reg(), propensity_model=clf()),
    "domain adaptation": lambda: DomainAdaptationLearner(
        models=reg(), final_models=reg(), propensity_model=clf()
    ),
    "DR": lambda: DRLearner(model_regression=reg(), model_propensity=clf(), model_final=reg(), **DR),
    "non-parametric DML": lambda: NonParamDML(model_y=reg(), model_t=clf(), model_final=reg(), **DML),
}
INTERVALS: dict[str, Make] = {
    "linear DR": lambda: LinearDRLearner(model_regression=reg(), model_propensity=clf(), **DR),
    "forest DR": lambda: ForestDRLearner(
        model_regression=reg(), model_propensity=clf(), n_estimators=40, **DR
    ),
    "linear DML": lambda: LinearDML(model_y=reg(), model_t=clf(), **DML),
    "causal forest": lambda: CausalForestDML(model_y=reg(), model_t=clf(), n_estimators=40, **DML),
}
SLOW = {"DR", "X", "causal forest", "domain adaptation", "forest DR", "non-parametric DML"}


def marked(names: dict[str, Make]) -> list[Any]:
    return [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in names]


def holds(learner: Any, world: Trial, arm: int = 1, tolerance: float = 0.12) -> None:
    """The mean effect of an arm is within a third of the confounding; rows differ as they do."""
    found = learner.effect(world.x, T0=0, T1=arm).ravel()
    truth = world.effect[:, arm - 1]
    assert abs(found.mean() - truth.mean()) < tolerance
    assert np.corrcoef(found, truth)[0, 1] > 0.8


@pytest.mark.parametrize("name", marked(POINTS))
def test_meta_learners_find_the_effect(name: str) -> None:
    world = trial()
    holds(POINTS[name]().fit(world.y, world.arm, X=world.x), world)


@pytest.mark.parametrize("weighted", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", marked(INTERVALS))
def test_the_effect_is_in_its_interval(name: str, weighted: bool) -> None:
    """Of 99 %, as there are ten of these."""
    world = trial(rows=1200)
    learner = INTERVALS[name]()
    learner.fit(world.y, world.arm, X=world.x, sample_weight=world.weight if weighted else None)
    holds(learner, world)
    low, high = learner.ate_interval(world.x, T0=0, T1=1, alpha=0.01)
    assert low < world.effect.mean() < high
    assert high - low < 1.2


@pytest.mark.slow
def test_weights_change_what_is_learned() -> None:
    """Nearly all weight on x1 > 0, where the effect bends: the line is that half's, not the whole's."""
    world = trial(rows=1500)
    half = world.x[:, 1] > 0
    y = world.y + world.arm * (2.0 * half - world.effect[:, 0])  # an effect of 2 there and 0 elsewhere
    learner = LinearDML(model_y=reg(), model_t=clf(), **DML)
    plain = learner.fit(y, world.arm, X=world.x).effect(world.x[half]).mean()
    found = learner.fit(y, world.arm, X=world.x, sample_weight=0.05 + half).effect(world.x[half]).mean()
    assert found == pytest.approx(2, abs=0.2)
    assert plain < found - 0.1


@pytest.mark.parametrize(
    "name", ["T", *(pytest.param(n, marks=pytest.mark.slow) for n in ("linear DR", "linear DML"))]
)
def test_several_arms(name: str) -> None:
    world = trial(rows=1200, arms=3, seed=1)
    learner = (POINTS | INTERVALS)[name]().fit(world.y, world.arm, X=world.x)
    for arm in (1, 2):
        holds(learner, world, arm, tolerance=0.12 * arm)


@pytest.mark.filterwarnings("ignore:A column-vector y")  # EconML hands some outcomes as columns
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(
            lambda: LinearDRLearner(
                model_regression=clf(), model_propensity=clf(), discrete_outcome=True, **DR
            ),
            marks=pytest.mark.slow,
        ),
        lambda: LinearDML(model_y=clf(), model_t=clf(), discrete_outcome=True, **DML),
        pytest.param(
            lambda: CausalForestDML(
                model_y=clf(), model_t=clf(), discrete_outcome=True, n_estimators=40, **DML
            ),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["linear DR", "linear DML", "causal forest"],
)
def test_a_binary_outcome(make: Make) -> None:
    """Without adjustment the difference is 0.09 too high."""
    world = trial(rows=1200, binary=True, seed=2)
    learner = make().fit(world.y, world.arm, X=world.x)
    found = float(np.mean(learner.effect(world.x, T0=0, T1=1)))
    assert found == pytest.approx(world.effect.mean(), abs=0.05)


@pytest.mark.slow
def test_a_continuous_treatment_has_regressors_on_both_sides() -> None:
    g = np.random.default_rng(3)
    world = trial()
    dose = 0.7 * world.x[:, 0] + g.normal(size=len(world.x))
    y = world.x[:, 0] + np.sin(world.x[:, 2]) + world.effect[:, 0] * dose + 0.5 * g.normal(size=len(dose))
    learner = LinearDML(model_y=reg(), model_t=reg(), cv=2, random_state=1).fit(y, dose, X=world.x)
    low, high = learner.ate_interval(world.x)
    assert low - 0.02 < world.effect.mean() < high + 0.02


@pytest.mark.parametrize(
    "learner",
    [
        pytest.param(DRPolicyTree, marks=pytest.mark.slow),
        pytest.param(DRPolicyForest, marks=pytest.mark.slow),
    ],
)
def test_a_policy_treats_whom_it_helps(learner: Any) -> None:
    world = trial()
    g = np.random.default_rng(4)
    gain = 2 * world.x[:, 1]
    y = world.x[:, 0] + gain * world.arm + 0.5 * g.normal(size=len(gain))
    more = {"n_estimators": 40} if learner is DRPolicyForest else {}
    policy = learner(model_regression=reg(), model_propensity=clf(), max_depth=2, **DR, **more)
    chosen = policy.fit(y, world.arm, X=world.x).predict(world.x)
    assert ((chosen == 1) == (gain > 0)).mean() > 0.95
