"""Scikit-learn models: luck from the seed alone, and weights that arrive at the last step."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    BaggingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.feature_selection import RFE, RFECV, SelectFromModel
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    KFold,
    TunedThresholdClassifierCV,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier, OutputCodeClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.tree import DecisionTreeClassifier

from simlab.adapters.seeding import fit_weighted, seeded, weight_key
from simlab.errors import BadInput


def forest() -> RandomForestRegressor:
    return RandomForestRegressor(n_estimators=3, max_depth=3)


RANDOM: dict[str, Any] = {
    "alone": forest(),
    "last step": make_pipeline(StandardScaler(), forest()),
    "early step": make_pipeline(SelectFromModel(forest()), LinearRegression()),
    "pipe in a pipe": make_pipeline(StandardScaler(), make_pipeline(PolynomialFeatures(), forest())),
    "wrapped": TransformedTargetRegressor(forest()),
    "stacked": StackingRegressor([("one", forest()), ("two", forest())], forest(), cv=3),
    "voted": VotingRegressor([("one", make_pipeline(forest())), ("two", Ridge())]),
    "bagged": BaggingRegressor(forest(), n_estimators=2),
    "searched": GridSearchCV(forest(), {"max_depth": [1, 3]}, cv=2),
    "shuffled": StackingRegressor([("one", Ridge())], Ridge(), cv=KFold(3, shuffle=True)),
}


def rows() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    luck = np.random.default_rng(0)
    x = luck.normal(size=(80, 3))
    return x, x[:, 0] * x[:, 1] + luck.normal(size=80), luck.uniform(0.1, 3, 80)


@pytest.mark.parametrize("name", RANDOM)
def test_a_seeded_model_neither_reads_nor_moves_the_global_state(name: str) -> None:
    x, y, _ = rows()
    said = []
    for state in (1, 2):
        np.random.seed(state)
        before = np.random.get_state()[1].copy()  # type: ignore[index]
        said.append(seeded(RANDOM[name], 7).fit(x, y).predict(x))
        assert np.array_equal(np.random.get_state()[1], before)  # type: ignore[index]
    assert np.array_equal(*said)
    assert not np.array_equal(seeded(RANDOM[name], 8).fit(x, y).predict(x), said[0])


def test_each_state_gets_its_own_number_and_what_is_set_stays() -> None:
    made = seeded(StackingRegressor([("a", forest()), ("b", forest())], forest(), cv=KFold(3)), 1)
    found = [v for k, v in made.get_params().items() if k.endswith("random_state")]
    assert len(found) == 3
    assert len(set(found)) == 3
    assert all(isinstance(v, int) and 0 <= v < 1 << 31 for v in found)
    assert made.cv.random_state is not None
    kept = make_pipeline(RandomForestRegressor(random_state=5), Ridge())
    assert seeded(kept, 1)[0].random_state == 5
    assert seeded(KNeighborsRegressor(), 1).get_params() == KNeighborsRegressor().get_params()


def test_the_model_itself_is_not_changed() -> None:
    cut = KFold(3, shuffle=True)
    model = StackingRegressor([("a", forest())], forest(), cv=cut)
    seeded(model, 1)
    assert model.final_estimator.random_state is None
    assert cut.random_state is None


@pytest.mark.parametrize(
    "model",
    [
        Ridge(),
        make_pipeline(StandardScaler(), Ridge()),
        make_pipeline(PolynomialFeatures(), make_pipeline(StandardScaler(), Ridge())),
        GridSearchCV(make_pipeline(StandardScaler(), Ridge()), {"ridge__alpha": [1.0]}, cv=2),
        VotingRegressor([("only", Ridge())]),
    ],
    ids=lambda model: type(model).__name__,
)
def test_weights_arrive_at_the_last_step(model: Any) -> None:
    """Rows of weight 2 are rows that are there twice; scalers see the rows alone, as scikit-learn has it."""
    x, y, _ = rows()
    x = np.concatenate([x, -x])  # doubled rows must not move the scalers' middle or width
    y = np.concatenate([y, y**2])
    weight = np.where(np.arange(len(x)) % 80 < 40, 2.0, 1.0)
    x[40:80] = x[:40]
    x[120:] = x[80:120]  # so each point is there with weight 2 and with weight 1
    found = fit_weighted(clone(model), x, y, weight)
    if isinstance(model, Pipeline):
        steps = clone(model)
        seen = steps[:-1].fit_transform(x, y)
        last = fit_weighted(steps[-1], seen, y, weight)
        assert found.predict(x) == pytest.approx(last.predict(seen), abs=1e-12)
    again = np.repeat(np.arange(len(x)), weight.astype(int))
    plain = clone(model).fit(x[again], y[again])
    assert found.predict(x) == pytest.approx(plain.predict(x), abs=1e-9)
    assert not np.allclose(found.predict(x), clone(model).fit(x, y).predict(x))


def test_without_weights_any_model_is_fitted() -> None:
    x, y, weight = rows()
    near = make_pipeline(StandardScaler(), KNeighborsRegressor())
    found = fit_weighted(clone(near), x, y, None)
    assert np.array_equal(found.predict(x), clone(near).fit(x, y).predict(x))
    with pytest.raises(BadInput, match="a pipeline that ends in KNeighborsRegressor takes no sample_weight"):
        fit_weighted(near, x, y, weight)


def test_a_calibrated_pipeline_takes_no_weights_for_its_inner_model_would_not_see_them() -> None:
    x, y, weight = rows()
    pipe = CalibratedClassifierCV(make_pipeline(StandardScaler(), LogisticRegression()), cv=2)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        pipe.fit(x, y > 0, sample_weight=weight)
    assert any("will only be used for the calibration itself" in str(w.message) for w in said)
    assert weight_key(pipe) is None
    assert weight_key(CalibratedClassifierCV(LogisticRegression())) == "sample_weight"
    with pytest.raises(BadInput, match="CalibratedClassifierCV of Pipeline takes no sample_weight"):
        fit_weighted(pipe, x, y > 0, weight)


def test_keys() -> None:
    assert weight_key(LogisticRegression()) == "sample_weight"
    assert weight_key(make_pipeline(PolynomialFeatures(), KNeighborsRegressor())) is None
    assert weight_key(RandomForestClassifier()) == "sample_weight"
    assert weight_key(GridSearchCV(KNeighborsRegressor(), {})) is None
    stack = StackingRegressor([("a", Ridge()), ("b", KNeighborsRegressor())], Ridge())
    assert weight_key(stack) is None
    assert weight_key(StackingRegressor([("a", Ridge())], Ridge())) == "sample_weight"


def _logistic(strength: float = 1.0) -> LogisticRegression:
    return LogisticRegression(C=strength)


def _stack() -> StackingClassifier:
    return StackingClassifier([("a", _logistic()), ("b", _logistic(0.1))], _logistic(), cv=2)


def _grid(model: Any, name: str) -> GridSearchCV:
    return GridSearchCV(model, {name: [0.5, 2.0]}, cv=2)


TAKES: dict[str, Any] = {
    "rfe": RFE(_logistic()),
    "calibrated": CalibratedClassifierCV(_logistic(), cv=2),
    "stack": _stack(),
    "stack of a search": StackingClassifier([("a", _grid(_logistic(), "C"))], _logistic(), cv=2),
    "vote": VotingClassifier([("a", _logistic()), ("b", _stack())], voting="soft"),
    "bag": BaggingClassifier(_logistic(), n_estimators=3),
    "bag of stacks": BaggingClassifier(_stack(), n_estimators=2),
    "boosted": AdaBoostClassifier(DecisionTreeClassifier(max_depth=1), n_estimators=3),
    "search": _grid(_logistic(), "C"),
    "pipe to a stack": make_pipeline(StandardScaler(), _stack()),
    "several": MultiOutputClassifier(_logistic()),
}
TAKES_NONE: dict[str, Any] = {
    "one against the rest": OneVsRestClassifier(_logistic()),
    "one against one": OneVsOneClassifier(_logistic()),
    "codes": OutputCodeClassifier(_logistic()),
    "self-training": SelfTrainingClassifier(_logistic()),
    "rfe, searched": RFECV(_logistic(), cv=2),
    "tuned threshold": TunedThresholdClassifierCV(_logistic(), cv=2),
    "fixed threshold": FixedThresholdClassifier(_logistic()),
    "chain": ClassifierChain(_logistic()),
    "calibrated stack": CalibratedClassifierCV(_stack(), cv=2),
    "calibrated search": CalibratedClassifierCV(_grid(_logistic(), "C"), cv=2),
    "stack of a pipe": StackingClassifier([("a", make_pipeline(_logistic()))], _logistic(), cv=2),
    "stack of one against the rest": StackingClassifier([("a", OneVsRestClassifier(_logistic()))], cv=2),
    "search of one against the rest": _grid(OneVsRestClassifier(_logistic()), "estimator__C"),
}


def _several(model: Any) -> bool:
    return isinstance(model, MultiOutputClassifier | ClassifierChain)


def _said(model: Any, weight: NDArray[np.float64] | None, key: str) -> NDArray[np.float64]:
    x, y, _ = rows()
    label = (y > 0).astype(int)
    made = seeded(model, 1).fit(
        x, np.stack([label, 1 - label], 1) if _several(model) else label,
        **({} if weight is None else {key: weight}),
    )  # fmt: skip
    return np.asarray(made.predict_proba(x))


@pytest.mark.parametrize("name", TAKES)
def test_who_says_it_takes_weights_does(name: str) -> None:
    """`fit` goes through without a warning, and the weights move what it says."""
    key = weight_key(TAKES[name])
    assert key is not None
    assert not np.allclose(_said(TAKES[name], rows()[2], key), _said(TAKES[name], None, key))


@pytest.mark.parametrize("name", TAKES_NONE)
def test_who_would_stop_or_drop_weights_says_so(name: str) -> None:
    assert weight_key(TAKES_NONE[name]) is None
    with pytest.raises((ValueError, TypeError, UserWarning)):  # warnings are errors here
        _said(TAKES_NONE[name], rows()[2], "sample_weight")


def test_a_class_and_a_frozen_splitter_are_not_written_to() -> None:
    class Splits:
        random_state = None

    class Holds(BaseEstimator):  # type: ignore[misc]
        def __init__(self, kind: Any = Splits) -> None:
            self.kind = kind

    seeded(Holds(), 1)
    assert Splits.random_state is None

    @dataclass(frozen=True)
    class Frozen:
        random_state: int | None = None

    with pytest.raises(BadInput, match="kind of Holds has no random_state and cannot be given one: set it"):
        seeded(Holds(Frozen()), 1)
    seeded(Holds(Frozen(3)), 1)
