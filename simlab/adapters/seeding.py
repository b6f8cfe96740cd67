"""Scikit-learn models under the house's rules: luck from a seed, and weights that arrive."""

from inspect import signature
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simlab.errors import BadInput
from simlab.seeds import Seed

_STOP = (
    *("OneVsRestClassifier", "OneVsOneClassifier", "OutputCodeClassifier", "ClassifierChain"),
    *("SelfTrainingClassifier", "RFECV", "TunedThresholdClassifierCV", "FixedThresholdClassifier"),
)
"""Scikit-learn's models whose `fit` has a place for keywords, and refuses any without metadata routing."""


def seeded(model: Any, seed: int) -> Any:
    """Return a clone that draws nothing from NumPy's global state.

    Every `random_state` that is None is set: those of steps, members and wrapped models, and those of
    splitters such as `KFold(shuffle=True)`. Each gets a number of its own, so that two forests of one stack
    are not the same forest. What the caller has set stays.

    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> made = seeded(make_pipeline(RandomForestClassifier()), 1)
    >>> made == seeded(made, 2), made[-1].random_state == seeded(made, 2)[-1].random_state
    (False, True)

    Args:
        model: any estimator that scikit-learn can clone; it is not changed.
        seed: any whole number.
    """
    from sklearn.base import clone

    made, luck = clone(model), Seed(seed)
    params = made.get_params(deep=True)
    # 31 bits, for libraries whose seeds are C integers.
    loose = [key for key, value in params.items() if value is None and key.endswith("random_state")]
    made.set_params(**{key: luck.split(key).value % (1 << 31) for key in loose})
    for key, value in params.items():  # a splitter has no parameters to set, but the clone has its own copy
        if not hasattr(value, "get_params") and getattr(value, "random_state", key) is None:
            if isinstance(value, type):  # a class is everybody's
                continue
            try:
                value.random_state = luck.split(key).value % (1 << 31)
            except AttributeError:
                raise BadInput(
                    f"{key} of {type(model).__name__} has no random_state and cannot be given one: set it"
                ) from None
    return made


def weight_key(model: Any) -> str | None:
    """Return the keyword by which a model's `fit` takes row weights, or None if it takes none.

    A pipeline hands them to its last step, and a search to the model that it tunes. A model that has models
    inside it (a stack, a vote, a calibration) takes weights only if each of those does under the plain name;
    else scikit-learn drops them inside with a warning, or stops. One with `routes_weights = True` hands
    them on by itself.

    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> weight_key(make_pipeline(StandardScaler(), Ridge()))
    'ridge__sample_weight'
    """
    from sklearn.ensemble._bagging import BaseBagging
    from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
    from sklearn.pipeline import Pipeline
    from sklearn.utils.validation import has_fit_parameter

    if getattr(model, "routes_weights", False):
        return "sample_weight"
    if isinstance(model, Pipeline):
        name, last = model.steps[-1]
        inner = weight_key(last)
        return None if inner is None else f"{name}__{inner}"
    if isinstance(model, GridSearchCV | RandomizedSearchCV):
        return weight_key(model.estimator)
    members = _members(model)
    own = has_fit_parameter(model, "sample_weight")
    if not own and not (members and _hands_on(model)):
        return None
    # A model with an argument of its own looks for one in its members, and what a stack hands on is none.
    plain = own and not isinstance(model, BaseBagging)
    taken = all(
        weight_key(m) == "sample_weight" and (has_fit_parameter(m, "sample_weight") or not plain)
        for m in members
    )
    return "sample_weight" if taken else None


def fit_weighted(model: Any, x: Any, y: Any, weight: NDArray[np.float64] | None) -> Any:
    """Fit a model to weighted rows, whatever name its weights go by, and return it.

    Args:
        model: a regressor, a classifier, or a pipeline that ends in one; it is fitted itself, not a clone.
        x: rows.
        y: targets.
        weight: of each row, at least 0; None where all rows count alike.

    Raises:
        BadInput: for weights that the model does not take.
    """
    if weight is None:
        return model.fit(x, y)
    key = weight_key(model)
    if key is None:
        raise BadInput(f"{_named(model)} takes no sample_weight, and the rows count unequally here")
    return model.fit(x, y, **{key: weight})


def _members(model: Any) -> list[Any]:
    """Return the predictors that a model is made of, one level down."""
    if not hasattr(model, "get_params"):
        return []
    found = []
    for value in model.get_params(deep=False).values():
        listed = [v[1] if isinstance(v, tuple) else v for v in value] if isinstance(value, list) else [value]
        found += [m for m in listed if hasattr(m, "predict") and not isinstance(m, type)]
    return found


def _hands_on(model: Any) -> bool:
    """Tell whether `fit` takes any keyword, as stacks and votes do to hand it to their members."""
    if type(model).__module__.startswith("sklearn.") and type(model).__name__ in _STOP:
        return False
    return any(p.kind is p.VAR_KEYWORD for p in signature(model.fit).parameters.values())


def _named(model: Any) -> str:
    """Name a model as a sentence does, and the models inside it."""
    from sklearn.pipeline import Pipeline

    if isinstance(model, Pipeline):
        return f"a pipeline that ends in {_named(model.steps[-1][1])}"
    inside = [type(m).__name__ for m in _members(model)]
    return f"{type(model).__name__} of {', '.join(inside)}" if inside else type(model).__name__
