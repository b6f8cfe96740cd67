"""A ranker in every place of every EconML learner: weights, clicks as classes, and several arms.

In this world the plain difference of arms is far off, and a fifth of the rows lie and have weight 0, so that
a learner that adjusts badly or a ranker that overlooks its weights is found out. The bar is four standard
errors of the best estimator there is, by the true chances and variances, on as many rows as are used.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import joblib
import numpy as np
import pandas as pd
import pytest
from econml import dml, dr, metalearners, orf, policy
from econml.score import RScorer
from econml.validate import DRTester
from sklearn.base import clone
from sklearn.linear_model import LassoCV

from causal.uplift._nuisance import ChanceAsNumber
from simlab.adapters.nuisance import RankerClassifier, RankerEstimator, RankerRegressor

PAGE = Path(__file__).parents[2] / "docs/nuisances.md"

pytestmark = pytest.mark.filterwarnings("ignore")  # EconML's own, of scikit-learn's renamings


@dataclass(frozen=True)
class Case:
    """What is asked of a learner: weights, outcomes of 0 and 1, and how many arms."""

    weights: bool = False
    clicks: bool = False
    arms: int = 2

    def __str__(self) -> str:
        said = ["weights"] * self.weights + ["clicks"] * self.clicks + ["three arms"] * (self.arms > 2)
        return ", ".join(said) or "plain"


@dataclass(frozen=True)
class World:
    """Rows, of which `good` tell the truth, and the effect of each arm on each."""

    x: Any
    arm: Any
    y: Any
    weight: Any
    good: Any
    effect: Any
    noise: Any
    """Of each row and arm but control: variance of the best score around the row's own effect."""

    def bar(self, arm: int, share: float) -> float:
        """Return four standard errors of an estimator that uses a share of the good rows."""
        w = np.where(self.good, self.weight, 0.0)
        return float(4 * np.sqrt((w**2 @ self.noise[:, arm - 1]) / share) / w.sum())

    @property
    def truth(self) -> Any:
        return self.effect[self.good].mean(0)


def world(case: Case, rows: int = 900, seed: int = 0) -> World:
    """Arm k of K has chance ∝ exp(x0 k / (K - 1)) and adds k (1 + x1 / 2), to clicks' logit. x0 confounds.

    Rows of weight 0 lie: with treatment 6 more, without it 6 less (all clicks, none).
    """
    g = np.random.default_rng(seed)
    rows += rows // 4 if case.weights else 0
    x = g.normal(size=(rows, 3))
    levels = np.arange(case.arms)
    chance = np.exp(1.0 / (case.arms - 1) * levels * x[:, :1])
    chance /= chance.sum(1, keepdims=True)
    arm = (chance.cumsum(1)[:, :-1] < g.uniform(size=(rows, 1))).sum(1)
    mean = (1 + case.clicks) * x[:, :1] + 0.5 * np.sin(2 * x[:, 2:]) + levels * (1 + 0.5 * x[:, 1:2])
    if case.clicks:
        mean = 1 / (1 + np.exp(-mean))
        y = (g.uniform(size=rows) < mean[np.arange(rows), arm]).astype(float)
        spread = mean * (1 - mean)
    else:
        y = mean[np.arange(rows), arm] + 0.5 * g.normal(size=rows)
        spread = np.full_like(mean, 0.25)
    weight, good = np.ones(rows), np.ones(rows, bool)
    if case.weights:
        good = g.permutation(rows) >= rows // 5
        weight = g.uniform(0.5, 1.5, rows) * good
        lie = (arm > 0).astype(float) if case.clicks else y + np.where(arm > 0, 6, -6)
        y = np.where(good, y, lie)
    noise = (spread / chance)[:, 1:] + (spread / chance)[:, :1]
    return World(x, arm, y, weight, good, mean[:, 1:] - mean[:, :1], noise)


def reg(place: int = 0) -> RankerRegressor:
    """A regressor; the seed tells its place."""
    return RankerRegressor(epochs=30, random_state=place)


def clf(place: int = 0) -> RankerClassifier:
    return RankerClassifier(epochs=30, random_state=place)


def effects(place: int = 3) -> RankerRegressor:
    """For scores, which are mostly noise: a held-out tenth is too small to say when to stop."""
    return RankerRegressor(epochs=30, validation=0.0, random_state=place)


def either(case: Case, place: int) -> Any:
    return clf(place) if case.clicks else reg(place)


def number(case: Case, place: int) -> Any:
    """The outcome's model of learners that have no `discrete_outcome`: a chance is then a number."""
    return ChanceAsNumber(clf(place)) if case.clicks else reg(place)


CV: dict[str, Any] = {"cv": 2, "random_state": 1}
TREES: dict[str, Any] = {"n_estimators": 40, "n_jobs": 1}


def doubly(kind: Any, final: bool = False, **more: Any) -> Callable[[Case], Any]:
    """Place 1 is the outcome's, 2 the arm's, 3 the effect's."""

    def make(case: Case) -> Any:
        models = {"model_regression": either(case, 1), "model_propensity": clf(2)}
        effect = {"model_final": effects()} if final else {}
        return kind(**models, **effect, discrete_outcome=case.clicks, **CV, **more)

    return make


def residual(kind: Any, final: Any = None, lists: bool = False, **more: Any) -> Callable[[Case], Any]:
    def make(case: Case) -> Any:
        y: Any = either(case, 1)
        arm: Any = clf(2)
        if lists:  # the better of the ranker and a line, by cross-validation
            y, arm = [y, "linear"], [arm, "linear"]
        effect = {} if final is None else {"model_final": clone(final)}
        kinds = {"discrete_treatment": True, "discrete_outcome": case.clicks}
        return kind(model_y=y, model_t=arm, **kinds, **effect, **CV, **more)

    return make


def chooser(kind: Any, **more: Any) -> Callable[[Case], Any]:
    """Policies have no `discrete_outcome`."""
    return lambda case: kind(model_regression=number(case, 1), model_propensity=clf(2), **CV, **more)


@dataclass(frozen=True)
class Way:
    """How a learner is made, and what it takes.

    Attributes:
        make: the learner for a case.
        places: of the rankers within it.
        weights: whether it takes `sample_weight`.
        several: whether it takes more than two arms.
        share: of the rows that its mean effect rests on; honest trees keep half for their shape.
        mean: effect of an arm on rows.
    """

    make: Callable[[Case], Any]
    places: tuple[int, ...] = (1, 2)
    weights: bool = True
    several: bool = True
    share: float = 1.0
    mean: Callable[[Any, Any, int], Any] = lambda learner, x, arm: learner.effect(x, T0=0, T1=arm)


def of_policy(learner: Any, x: Any, arm: int) -> Any:
    return learner.predict_value(x)[:, arm - 1]


WAYS: dict[str, Way] = {
    "SLearner": Way(lambda c: metalearners.SLearner(overall_model=number(c, 1)), (1,), False),
    "TLearner": Way(lambda c: metalearners.TLearner(models=number(c, 1)), (1,), False),
    "XLearner": Way(
        lambda c: metalearners.XLearner(models=number(c, 1), propensity_model=clf(2), cate_models=effects()),
        (1, 2, 3),
        False,
    ),
    "DomainAdaptationLearner": Way(
        lambda c: metalearners.DomainAdaptationLearner(
            models=number(c, 1), propensity_model=clf(2), final_models=effects()
        ),
        (1, 2, 3),
        False,
    ),
    "DRLearner": Way(doubly(dr.DRLearner, final=True), (1, 2, 3)),
    "LinearDRLearner": Way(doubly(dr.LinearDRLearner)),
    "SparseLinearDRLearner": Way(doubly(dr.SparseLinearDRLearner)),
    "ForestDRLearner": Way(doubly(dr.ForestDRLearner, **TREES)),
    "DML": Way(residual(dml.DML, LassoCV(fit_intercept=False))),
    "LinearDML": Way(residual(dml.LinearDML)),
    "LinearDML, a list of models": Way(residual(dml.LinearDML, lists=True)),
    "SparseLinearDML": Way(residual(dml.SparseLinearDML)),
    "KernelDML": Way(residual(dml.KernelDML)),
    "NonParamDML": Way(residual(dml.NonParamDML, effects()), (1, 2, 3), several=False),
    "CausalForestDML": Way(residual(dml.CausalForestDML, **TREES)),
    "DRPolicyTree": Way(chooser(policy.DRPolicyTree, min_samples_leaf=40), share=0.5, mean=of_policy),
    "DRPolicyForest": Way(chooser(policy.DRPolicyForest, **TREES), mean=of_policy),
}
"""Learners of effects; orthogonal forests, scorers and testers have tests of their own."""

FAST = [
    ("TLearner", Case()),
    ("LinearDRLearner", Case(weights=True, arms=3)),
    ("LinearDML", Case(weights=True, clicks=True)),
]
CASES = [Case(*c) for c in product((False, True), (False, True), (2, 3))]
MATRIX = [
    pytest.param(name, case, id=f"{name}, {case}", marks=() if (name, case) in FAST else pytest.mark.slow)
    for name, case in product(WAYS, CASES)
    if (WAYS[name].weights or not case.weights) and (WAYS[name].several or case.arms == 2)
]


@contextmanager
def watched() -> Iterator[dict[int, list[Any]]]:
    """Collect the weights that each fit of each place is given; None for a fit without."""
    seen: dict[int, list[Any]] = {}
    original = RankerEstimator._weights

    def note(self: Any, given: Any, x: Any) -> Any:
        seen.setdefault(self.random_state, []).append(None if given is None else np.array(given))
        return original(self, given, x)

    with patch.object(RankerEstimator, "_weights", note):
        yield seen


def fitted(way: Way, case: Case, data: World, **more: Any) -> Any:
    if case.weights:
        more["sample_weight"] = data.weight
    return way.make(case).fit(data.y, data.arm, X=data.x, **more)


@pytest.mark.parametrize("arms", [2, 3])
@pytest.mark.parametrize("clicks", [False, True])
def test_the_world_misleads_who_does_not_adjust(clicks: bool, arms: int) -> None:
    """The plain difference of arms misses the bar, and twice the bar if the rows that lie are counted."""
    for data in (world(Case(False, clicks, arms)), world(Case(True, clicks, arms))):
        y, arm = data.y[data.good], data.arm[data.good]
        plain = y[arm == arms - 1].mean() - y[arm == 0].mean()
        assert abs(plain - data.truth[-1]) > data.bar(arms - 1, 1.0)
    everyone = data.y[data.arm == 1].mean() - data.y[data.arm == 0].mean()
    assert abs(everyone - data.truth[0]) > 2 * data.bar(1, 1.0)


@pytest.mark.parametrize(("name", "case"), MATRIX)
def test_a_ranker_in_every_place(name: str, case: Case) -> None:
    """The mean effect is within the bar, effects follow the truth, and each place has been trained."""
    way, data = WAYS[name], world(case)
    with watched() as seen:
        learner = fitted(way, case, data)
    assert set(seen) == set(way.places)
    for place, fits in seen.items():
        handed = [w for w in fits if w is not None]
        assert not case.weights or len(handed) == len(fits), place
        if case.weights and name != "NonParamDML":  # its effect's weights are times the arm's residuals
            assert all(np.isin(w, data.weight).all() and (w == 0).any() for w in handed), place
    x = data.x[data.good]
    for arm in range(1, case.arms):
        found = np.asarray(way.mean(learner, x, arm))
        assert found.shape in [(len(x),), (len(x), 1)]  # EconML keeps an axis of outcomes that are classes
        found = found.ravel()
        assert np.isfinite(found).all()
        gap, bar = abs(found.mean() - data.truth[arm - 1]), data.bar(arm, way.share)
        print(f"{name} | {case} | arm {arm}: off {gap:.3f} of {bar:.3f}")
        assert gap < bar
        if not case.clicks and way.mean is not of_policy:  # a policy's leaves part gains from losses only
            assert np.corrcoef(found, data.effect[data.good, arm - 1])[0, 1] > 0.7


SAME = [
    pytest.param(name, marks=() if name == "LinearDRLearner" else pytest.mark.slow)
    for name in WAYS
    if name not in ("DML", "LinearDML, a list of models")
]


@pytest.mark.parametrize("name", SAME)
def test_the_same_seed_says_the_same(name: str) -> None:
    """From labels in a DataFrame, too, and through joblib's pickles."""
    way, case = WAYS[name], Case()
    data = world(case, rows=240)
    x, arm = pd.DataFrame(data.x, columns=["a", "b", "c"]), np.array(["no", "yes"])[data.arm]
    first = fitted(way, case, data)
    found = np.asarray(way.mean(first, data.x, 1))
    again = way.make(case).fit(data.y, arm, X=x)
    with BytesIO() as file:
        joblib.dump(again, file)
        again = joblib.load(BytesIO(file.getvalue()))
    said = of_policy(again, x, 1) if way.mean is of_policy else again.effect(x, T0="no", T1="yes")
    assert np.abs(np.asarray(said) - found).max() < 1e-12  # a DataFrame lies in memory by columns


@pytest.mark.parametrize(
    "name",
    [n if n == "LinearDML" else pytest.param(n, marks=pytest.mark.slow) for n in WAYS if WAYS[n].weights],
)
def test_a_row_of_weight_zero_is_no_row(name: str) -> None:
    """What is said of it does not matter at all: any other outcome leaves every effect as it was."""
    way, case = WAYS[name], Case(weights=True)
    data = world(case, rows=240)
    found = np.asarray(way.mean(fitted(way, case, data), data.x, 1))
    other = World(data.x, data.arm, np.where(data.good, data.y, 99.0), *list(vars(data).values())[3:])
    assert np.abs(np.asarray(way.mean(fitted(way, case, other), data.x, 1)) - found).max() < 1e-8


@pytest.mark.slow
@pytest.mark.parametrize("arms", [2, 3])
def test_orthogonal_forests(arms: int) -> None:
    """Each leaf trains rankers of its own, by weights: few trees, and a wide bar for three rows."""
    data = world(Case(arms=arms), rows=800)
    asked = np.array([[0.0, -1, 0], [0, 0, 0], [0, 1, 0]])
    how: dict[str, Any] = {"n_trees": 8, "min_leaf_size": 100, "max_depth": 1, "n_jobs": 1, "random_state": 1}
    makers: tuple[Callable[[], Any], ...] = (
        lambda: orf.DROrthoForest(propensity_model=clf(2), model_Y=reg(1), **how),
        lambda: orf.DMLOrthoForest(model_T=clf(2), model_Y=reg(1), discrete_treatment=True, **how),
    )
    for make in makers:
        with watched() as seen:
            learner = make().fit(data.y, data.arm, X=data.x[:, :2], W=data.x[:, 2:])
            for arm in range(1, arms):
                found = learner.effect(asked[:, :2], T0=0, T1=arm)
                truth = arm * (1 + 0.5 * asked[:, 1])
                print(f"{type(learner).__name__} | {arms} arms | arm {arm}: {found.round(2)} for {truth}")
                assert np.abs(found - truth).max() < 0.5 * arm
        assert set(seen) == {1, 2}
        assert any(w is not None and len(np.unique(w)) > 1 for w in seen[2])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_scorer_prefers_what_is_true(case: Case) -> None:
    """RScorer with rankers: an effect that bends as the truth does beats one that is turned around."""
    data = world(case)
    more = {"sample_weight": data.weight} if case.weights else {}
    kinds = {"discrete_treatment": True, "discrete_outcome": case.clicks}
    with watched() as seen:
        scorer = RScorer(model_y=either(case, 1), model_t=clf(2), **kinds, **CV)
        scorer.fit(data.y, data.arm, X=data.x, **more)
    assert all((w is not None) == case.weights for fits in seen.values() for w in fits)

    @dataclass
    class Said:
        sign: float

        def const_marginal_effect(self, x: Any) -> Any:
            at = x[:, None, :]
            mean = (1 + case.clicks) * at[..., 0] + 0.5 * np.sin(2 * at[..., 2])
            mean = mean + np.arange(case.arms) * (1 + 0.5 * at[..., 1])
            mean = 1 / (1 + np.exp(-mean)) if case.clicks else mean
            return self.sign * (mean[:, 1:] - mean[:, :1])[:, None, :]

    right, wrong = scorer.score(Said(1.0)), scorer.score(Said(-1.0))
    print(f"RScorer | {case}: {right:.3f} for the truth, {wrong:.3f} against it")
    assert wrong < -0.1 < -0.01 < right  # the noise of 900 clicks hides what the truth explains of them


@pytest.mark.slow
@pytest.mark.parametrize("arms", [2, 3])
@pytest.mark.parametrize("clicks", [False, True])
def test_a_tester_finds_the_effect(clicks: bool, arms: int) -> None:
    """DRTester with rankers: its average effect is within the bar, and the truth is calibrated."""
    case = Case(clicks=clicks, arms=arms)
    data = world(case)

    class Truth:
        def effect(self, X: Any, T0: Any = 0, T1: Any = 1) -> Any:
            return data.effect[:, int(np.ravel(T1)[0]) - 1]

    tester = DRTester(model_regression=number(case, 1), model_propensity=clf(2), cate=Truth(), cv=2)
    tester.fit_nuisance(data.x, data.arm, data.y)
    found = np.ravel(tester.dr_val_.mean(0))
    for arm in range(1, arms):
        gap, bar = abs(found[arm - 1] - data.truth[arm - 1]), data.bar(arm, 1.0)
        print(f"DRTester | {case} | arm {arm}: off {gap:.3f} of {bar:.3f}")
        assert gap < bar
    said = tester.evaluate_blp(data.x).params
    if not clicks:
        assert np.abs(np.asarray(said) - 1).max() < 0.5


def test_the_page_runs_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    """Its average effect of 1 is in the interval, the plain difference is not; and each learner is named."""
    page = PAGE.read_text("utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(compile(block, "nuisances.md", "exec"), {"__name__": "page"})
    plain, value, low, high = map(float, re.findall(r"\d+\.\d\d", capsys.readouterr().out))
    assert low < 1 < high < plain
    assert low < value < high
    for name in (*WAYS, "DROrthoForest", "DMLOrthoForest", "RScorer", "DRTester"):
        assert f"`{name.split(',')[0]}`" in page, name
    assert max(map(len, page.splitlines())) <= 120
