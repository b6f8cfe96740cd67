"""Class transformation: scikit-uplift's digits, exact worlds at unequal chances, averages by hand."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from causal.uplift.class_transformation import ClassTransformation
from causal.uplift.contract import Trial
from simlab.errors import BadInput

CASE = Path(__file__).parents[2] / "../shared/cases/causal/hillstrom_womens.npz"

MEAN = np.array([[0.2, 0.5, 0.1], [0.7, 0.4, 0.9], [0.3, 0.3, 0.6]])
"""P(y = 1) in three cells of x, under three arms."""
CHANCE = np.array([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1], [0.4, 0.1, 0.5]])
"""Chances of the arms in those cells."""
SHARE = np.array([0.5, 0.3, 0.2])


def listed(arms: int) -> tuple[Trial, Any]:
    """Every (cell, arm, outcome) once, with its probability as weight, and the true effects of the cells."""
    chance = CHANCE[:, :arms] / CHANCE[:, :arms].sum(1, keepdims=True)
    rows = list(product(range(3), range(arms), (0, 1)))
    cell, arm, y = (np.array(v) for v in zip(*rows, strict=True))
    mean = MEAN[cell, arm]
    weight = SHARE[cell] * chance[cell, arm] * np.where(y == 1, mean, 1 - mean)
    trial = Trial.of(np.eye(3)[cell], arm, y, weight=weight, propensity=chance[cell])
    return trial, MEAN[:, 1:arms] - MEAN[:, :1]


@pytest.mark.parametrize("arms", [2, 3])
@pytest.mark.parametrize(
    ("model", "stable"),
    [(LinearRegression(), False), (LinearRegression(), True), (DecisionTreeClassifier(), False)],
    ids=["transformed outcome", "weights", "classes"],
)
def test_exact_on_the_listed_population(arms: int, model: Any, stable: bool) -> None:
    trial, truth = listed(arms)
    learner = ClassTransformation(model, stable=stable).learn(trial)
    assert np.abs(learner.effect(np.eye(3)).reshape(3, -1) - truth).max() < 1e-12
    # A chance that is wrong is a wrong effect: nothing else corrects it.
    even = replace(trial, propensity=np.full((len(trial), arms), 1 / arms))
    wrong = ClassTransformation(model, stable=stable).learn(even).effect(np.eye(3)).reshape(3, -1)
    assert np.abs(wrong - truth).max() > 0.05
    assert learner.ate().value == pytest.approx(tuple(SHARE @ truth), abs=1e-12)


def test_scikit_uplift_s_digits() -> None:
    """Its ClassTransformation (0.5.1) on Hillstrom's women's e-mail, with the same logistic regression."""
    if not CASE.is_file():
        pytest.skip("the reference cases are not here")
    case = np.load(CASE, allow_pickle=True)
    x, arm, y, train, test = (case[k] for k in ("X", "T", "visit", "train", "test"))
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    learner = ClassTransformation(model).fit(x[train], arm[train], y[train], propensity=0.5)
    found = learner.effect(x[test])
    by_hand = model.fit(x[train], y[train] == arm[train]).predict_proba(x[test])[:, 1]
    assert np.abs(found - (2 * by_hand - 1)).max() < 1e-12
    assert found[:4] == pytest.approx([0.09049221, 0.02305183, 0.06368758, 0.04956195], abs=2e-6)
    assert found.mean() == pytest.approx(0.0479763370, abs=1e-6)
    # At chances of one half the average is the difference of means.
    told, control = (y[train][arm[train] == a] for a in (1, 0))
    average = learner.ate()
    assert average.value[0] == pytest.approx(told.mean() - control.mean(), abs=1e-12)
    assert average.stderr[0] == pytest.approx(
        np.sqrt(told.var() / len(told) + control.var() / len(control)), rel=0.01
    )


def test_both_forms_agree_at_even_chances_of_two_arms() -> None:
    luck = np.random.default_rng(0)
    given = (luck.normal(size=(50, 2)), luck.integers(0, 2, 50), luck.normal(size=50))
    one, two = (
        ClassTransformation(LinearRegression(), stable=s).fit(*given, propensity=0.5) for s in (False, True)
    )
    assert one.effect(given[0]) == pytest.approx(two.effect(given[0]), abs=1e-12)


def test_the_average_by_hand_with_weights_and_users() -> None:
    luck = np.random.default_rng(1)
    n = 40
    x, arm, y = luck.normal(size=(n, 2)), luck.integers(0, 2, n), luck.normal(size=n) + 3
    e, w, user = luck.uniform(0.2, 0.8, n), luck.uniform(0.5, 2, n), luck.integers(0, 12, n)
    trial = Trial.of(x, arm, y, weight=w, user=user, propensity=e)
    found = ClassTransformation(LinearRegression()).learn(trial).ate()
    told, control = w * arm / e, w * (1 - arm) / (1 - e)
    high, low = (told * y).sum() / told.sum(), (control * y).sum() / control.sum()
    assert found.value[0] == pytest.approx(high - low, abs=1e-12)
    each = told * (y - high) - control * (y - low)
    clusters = np.array([each[user == u].sum() for u in np.unique(user)])
    many = len(clusters)
    assert found.stderr[0] == pytest.approx(np.sqrt((clusters**2).sum() * many / (many - 1)) / w.sum())
    assert found.how == "means of arms weighted by known chances, clustered by user"


def test_estimated_chances_come_from_other_users() -> None:
    luck = np.random.default_rng(2)
    n = 90
    x = np.column_stack([luck.normal(size=n), np.arange(n) // 3])
    seen: list[tuple[Any, Any]] = []

    class Spy(LogisticRegression):  # type: ignore[misc]
        def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "Spy":
            self.users = set(X[:, 1])
            super().fit(X[:, :1], y)
            return self

        def predict_proba(self, X: Any) -> Any:
            seen.append((self.users, set(X[:, 1])))
            return super().predict_proba(X[:, :1])

    trial = Trial.of(x, luck.integers(0, 2, n), luck.normal(size=n), user=x[:, 1])
    average = ClassTransformation(LinearRegression(), Spy(), folds=3).learn(trial).ate()
    assert len(seen) == 3
    assert all(not fitted & asked for fitted, asked in seen)
    assert set.union(*(asked for _, asked in seen)) == set(x[:, 1])
    assert "estimated" in average.how


def test_one_class_has_one_effect() -> None:
    """All who were told bought, and no other: Z is always 1."""
    x, arm = np.arange(8.0)[:, None], np.arange(8) % 2
    assert ClassTransformation().fit(x, arm, arm, propensity=0.5).effect(x).tolist() == [1.0] * 8
    nothing = ClassTransformation(LinearRegression()).fit(x, arm, np.zeros(8), propensity=0.5)
    assert nothing.effect(x).tolist() == [0.0] * 8


class Plain(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A model that takes no sample_weight."""

    def fit(self, X: Any, y: Any) -> "Plain":
        self.mean_ = y.mean()
        return self

    def predict(self, X: Any) -> Any:
        return np.full(len(X), self.mean_)


def test_refusals() -> None:
    x, arm, y = np.arange(8.0)[:, None], np.arange(8) % 2, np.arange(8) % 3
    with pytest.raises(BadInput, match="column outcome, row 2: 2, but a classifier needs 0 or 1"):
        ClassTransformation(LogisticRegression()).fit(x, arm, y)
    learner = ClassTransformation(KNeighborsClassifier(2))
    learner.fit(x, arm, y > 0, propensity=0.5)
    with pytest.raises(BadInput, match="KNeighborsClassifier takes no sample_weight"):
        learner.fit(x, arm, y > 0, propensity=0.3)
    plain = ClassTransformation(Plain()).fit(x, arm, y, propensity=0.3)
    assert len(set(plain.effect(x))) == 1
    with pytest.raises(BadInput, match="Plain takes no sample_weight"):
        plain.fit(x, arm, y, propensity=0.3, sample_weight=y + 1)
