"""Nuisances as EconML wants them: weights through pipelines, known chances, classifiers as numbers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags
from sklearn.utils.metaestimators import available_if

from simlab.adapters.seeding import fit_weighted


class Nuisance(BaseEstimator):  # type: ignore[misc]
    """Any model behind one `fit` with weights, that does not see some columns.

    A pipeline's last step gets the weights; scikit-learn's own refuses them under that name. Where it has
    `cv`, such as `LassoCV`, so has this: EconML then gives it folds of whole users.

    Args:
        model: a regressor or a classifier, or a pipeline that ends in one.
        hidden: numbers of the columns that it does not see.
    """

    routes_weights = True

    def __init__(self, model: Any, hidden: tuple[int, ...] = ()) -> None:
        self.model = model
        self.hidden = hidden

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "Nuisance":
        """Fit a clone.

        Raises:
            BadInput: for weights that the model does not take.
        """
        self.fitted_ = fit_weighted(clone(self.model), self._seen(X), y, sample_weight)
        return self

    def predict(self, X: Any) -> Any:
        """Return the model's predictions."""
        return self.fitted_.predict(self._seen(X))

    @available_if(lambda self: hasattr(self.model, "predict_proba"))  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Any:
        """Return the chance of each class, if the model is a classifier."""
        return self.fitted_.predict_proba(self._seen(X))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the model's score."""
        return float(self.fitted_.score(self._seen(X), y, sample_weight=sample_weight))

    @property
    def classes_(self) -> Any:
        """The classes, if the model is a classifier."""
        return self.fitted_.classes_

    @property
    def cv(self) -> Any:
        """Folds by which the model chooses its own penalty, if it does."""
        return _last(self.model).cv

    @cv.setter
    def cv(self, folds: Any) -> None:
        _last(self.model).cv = folds

    def _seen(self, X: Any) -> Any:
        return np.delete(np.asarray(X), self.hidden, axis=1) if self.hidden else X

    def __sklearn_tags__(self) -> Any:
        return get_tags(self.model)


def _last(model: Any) -> Any:
    return _last(model.steps[-1][1]) if isinstance(model, Pipeline) else model


def weighable(model: Any) -> Any:
    """Return the model; a pipeline as one that takes weights."""
    return Nuisance(model) if isinstance(model, Pipeline) else model


def without(model: Any, start: int, count: int) -> Any:
    """Return a model that does not see some columns, `count` of them from `start` on."""
    inner = model.model if isinstance(model, Nuisance) else model
    return Nuisance(inner, tuple(range(start, start + count)))


class KnownChance(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier that learns nothing: the last columns of a row are its chances of the arms.

    Args:
        arms: how many columns.
    """

    def __init__(self, arms: int) -> None:
        self.arms = arms

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "KnownChance":
        """Note the arms."""
        self.classes_ = np.arange(self.arms)
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the last columns, [round arm]."""
        return np.asarray(X, dtype=np.float64)[:, -self.arms :]

    def predict(self, X: Any) -> NDArray[np.int64]:
        """Return the likeliest arm."""
        likeliest: NDArray[np.int64] = self.predict_proba(X).argmax(1)
        return likeliest


class OneChance(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier of control and one arm that learns nothing: chances are the same in all rows.

    Args:
        chances: of each arm, control first; those of the two arms at hand are made to sum to 1.
    """

    def __init__(self, chances: tuple[float, ...]) -> None:
        self.chances = chances

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "OneChance":
        """Note which two arms there are."""
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the same chances for each row, [round 2]."""
        here = np.asarray(self.chances)[self.classes_.astype(int)]
        return np.tile(here / here.sum(), (len(X), 1))

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the likelier arm."""
        likeliest: NDArray[Any] = self.classes_[self.predict_proba(X).argmax(1)]
        return likeliest


class ChanceAsNumber(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier of outcomes 0 and 1 as a regressor: it predicts the chance of 1.

    Args:
        classifier: any scikit-learn classifier.
    """

    def __init__(self, classifier: Any) -> None:
        self.classifier = classifier

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "ChanceAsNumber":
        """Fit a clone."""
        more = {} if sample_weight is None else {"sample_weight": sample_weight}
        self.fitted_ = clone(self.classifier).fit(X, y, **more)
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Return P(y = 1); 0 where all outcomes were 0."""
        found = self.fitted_.predict_proba(X)
        where = list(self.fitted_.classes_).index(1) if 1 in self.fitted_.classes_ else None
        out: NDArray[np.float64] = np.zeros(len(found)) if where is None else found[:, where]
        return out
