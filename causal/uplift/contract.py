"""The contract of an uplift learner: whom a treatment moves, and by how much.

A trial is features, an arm and an outcome of each row. A learner writes `_fit`, `_effect` and `_ate`; it gets
checks of its data, arms by their labels, weights, users as folds and clusters, and a row of every report.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import stats
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from simlab.errors import BadInput

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Trial:
    """Who got which arm, and what came of it. NumPy, as scikit-learn and EconML take it.

    Attributes:
        x: what is known of each row before the treatment, float64.
        arm: 0 for control, 1 … for the other arms.
        y: the outcome, float64: 0 or 1, a count, or any number.
        arms: the owner's label of each arm, control first.
        weight: how much each row counts, or None for 1.
        user: whose row it is: folds keep users whole and standard errors cluster by them. None where each
            row is a user of its own.
        propensity: the chance of each arm, where it is known (an experiment), each row summing to 1.
        names: of the features.
        effect: the true effect of each arm but control, where a world or a simulated outcome knows it.
    """

    x: Float[Array, "round feat"]
    arm: Int[Array, " round"]
    y: Float[Array, " round"]
    arms: tuple[Hashable, ...]
    weight: Float[Array, " round"] | None = None
    user: Int[Array, " round"] | None = None
    propensity: Float[Array, "round arm"] | None = None
    names: tuple[str, ...] = ()
    effect: Float[Array, "round treated"] | None = None

    def __len__(self) -> int:
        """Return N."""
        return len(self.y)

    def rows(self, index: Array | slice) -> "Trial":
        """Return some rows only, in the order of the index."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {k: v[index] for k, v in values.items() if isinstance(v, np.ndarray)}
        return replace(self, **changed)

    @property
    def binary(self) -> bool:
        """Whether the outcome is 0 or 1."""
        return bool(np.isin(self.y, (0, 1)).all())

    @classmethod
    def of(
        cls,
        x: Any,
        arm: Any,
        y: Any,
        *,
        control: Hashable | None = None,
        weight: Any = None,
        user: Any = None,
        propensity: Any = None,
        names: Sequence[str] = (),
        effect: Any = None,
    ) -> "Trial":
        """Check and order what a user gives: arrays, lists, or pandas objects.

        Args:
            x: features, [round feat]; numbers and booleans.
            arm: labels of the arms; any values that can be sorted.
            y: outcomes.
            control: the label of the control arm; by default 0, False or the smallest label.
            weight: at least 0, some above 0.
            user: any labels.
            propensity: chance of each arm in the order control, then the others sorted; for two arms also the
                chance of treatment alone, [round].
            names: of the features; by default a DataFrame's columns, else x0, x1, …
            effect: true effects, [round] for two arms.

        Raises:
            BadInput: one sentence that names the column, the row and the value: lengths that differ, what is
                not finite, one arm only, a control that is no arm, weights or chances that cannot be.
        """
        columns = tuple(str(c) for c in getattr(x, "columns", names))
        features = _numbers(x, columns)
        outcome = _column("outcome", y, len(features))
        labels, number = _arms(arm, len(features), control)
        many = len(labels)
        made = cls(
            x=features,
            arm=number,
            y=outcome,
            arms=labels,
            weight=None if weight is None else _column("weight", weight, len(features)),
            user=None if user is None else _users(user, len(features)),
            propensity=None if propensity is None else _chances(propensity, len(features), many),
            names=columns or tuple(f"x{i}" for i in range(features.shape[1])),
            effect=None if effect is None else _effects(effect, len(features), many - 1),
        )
        if made.weight is not None:
            wrong = np.flatnonzero(made.weight < 0)
            if len(wrong):
                raise BadInput(f"column weight, row {wrong[0]}: {made.weight[wrong[0]]:g} is negative")
            if not made.weight.any():
                raise BadInput("column weight: all weights are 0, so nothing counts")
        if len(made.names) != features.shape[1]:
            raise BadInput(f"{features.shape[1]} features have {len(made.names)} names")
        return made


@dataclass(frozen=True)
class Average:
    """An average effect of each arm but control.

    Attributes:
        value: in the outcome's unit.
        stderr: its standard error; NaN where the learner has none.
        arms: labels of the arms.
        how: whose standard error it is, in a few words.
    """

    value: tuple[float, ...]
    stderr: tuple[float, ...]
    arms: tuple[Hashable, ...]
    how: str

    def interval(self, level: float = 0.95) -> tuple[tuple[float, float], ...]:
        """Return (low, high) of each arm by the normal distribution."""
        z = float(stats.norm.ppf((1 + level) / 2))
        return tuple((v - z * s, v + z * s) for v, s in zip(self.value, self.stderr, strict=True))


class UpliftLearner(BaseEstimator, ABC):  # type: ignore[misc]
    """Write `_fit` and `_effect`; the rest follows.

    As everywhere in scikit-learn, `__init__` stores its arguments under their own names and checks nothing;
    `fit` refuses what cannot be. A learner can be cloned, and its parameters searched.

    Attributes:
        name: the learner's name in tables.
        several: whether it takes more than two arms.
        intervals: whether it has intervals of single effects.
    """

    name: ClassVar[str]
    several: ClassVar[bool] = True
    intervals: ClassVar[bool] = False

    def fit(
        self, X: Any, T: Any, Y: Any, *, sample_weight: Any = None, groups: Any = None, **more: Any
    ) -> "UpliftLearner":
        """Learn from a trial, given as arrays or DataFrames (see `Trial.of`).

        Args:
            X: features, [round feat].
            T: arms.
            Y: outcomes.
            sample_weight: of each row.
            groups: users: folds keep them whole, and standard errors cluster by them.
            more: `control`, `propensity`, `names` of `Trial.of`.

        Raises:
            BadInput: in one sentence, for data that cannot be.
        """
        return self.learn(Trial.of(X, T, Y, weight=sample_weight, user=groups, **more))

    def learn(self, trial: Trial) -> "UpliftLearner":
        """Learn from a trial.

        Raises:
            BadInput: for more arms than the learner takes.
        """
        if len(trial.arms) > 2 and not self.several:
            raise BadInput(f"{self.name} takes two arms, and this trial has {len(trial.arms)}")
        self.arms_ = trial.arms
        self.names_ = trial.names
        self.n_features_in_ = trial.x.shape[1]
        self._fit(trial)
        self.fitted_ = True
        return self

    def effect(self, X: Any) -> Float[Array, " round"] | Float[Array, "round treated"]:
        """Return the effect of treatment on each row: [round] for two arms, else [round treated].

        Raises:
            BadInput: for another number of features, or what is not finite.
        """
        found = self._effect(self._features(X))
        return found[:, 0] if found.shape[1] == 1 else found

    def effect_interval(self, X: Any, alpha: float = 0.05) -> tuple[Array, Array]:
        """Return (low, high) of each effect, of the shape of `effect`.

        Raises:
            BadInput: if the learner has none.
        """
        if not self.intervals:
            raise BadInput(
                f"{self.name} has no interval of single effects; linear DR and causal forests have"
            )
        low, high = self._interval(self._features(X), alpha)
        return (low[:, 0], high[:, 0]) if low.shape[1] == 1 else (low, high)

    def ate(self) -> Average:
        """Return the average effect over the rows of the trial, with its standard error."""
        check_is_fitted(self, "fitted_")
        return self._ate()

    @abstractmethod
    def _fit(self, trial: Trial) -> None:
        """Learn."""

    @abstractmethod
    def _effect(self, x: Float[Array, "round feat"]) -> Float[Array, "round treated"]:
        """Return the effect of each arm but control."""

    @abstractmethod
    def _ate(self) -> Average:
        """Return the average effect on the trial."""

    def _interval(
        self, x: Float[Array, "round feat"], alpha: float
    ) -> tuple[Float[Array, "round treated"], Float[Array, "round treated"]]:
        """Return the ends of an interval of each effect."""
        raise NotImplementedError

    def _features(self, X: Any) -> Float[Array, "round feat"]:
        check_is_fitted(self, "fitted_")
        x = _numbers(X, tuple(str(c) for c in getattr(X, "columns", self.names_)))
        if x.shape[1] != self.n_features_in_:
            raise BadInput(
                f"{self.name} was fitted on {self.n_features_in_} features, and these are {x.shape[-1]}"
            )
        return x


def _numbers(x: Any, names: Sequence[str]) -> Float[Array, "round feat"]:
    """Return features as float64, or say which cell is no finite number."""
    try:
        found = np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError):
        table = np.asarray(x, dtype=object)
        for (row, column), cell in np.ndenumerate(table):
            try:
                float(cell)
            except (TypeError, ValueError):
                name = names[column] if column < len(names) else column
                raise BadInput(f"feature {name}, row {row}: {cell!r} is not a number") from None
        raise
    if found.ndim != 2:
        raise BadInput(f"features are a table of rows and columns, not an array of {found.ndim} axes")
    wrong = np.argwhere(~np.isfinite(found))
    if len(wrong):
        row, column = (int(i) for i in wrong[0])
        name = names[column] if column < len(names) else column
        raise BadInput(f"feature {name}, row {row}: the value is missing or not finite")
    return found


def _column(name: str, values: Any, rows: int) -> Float[Array, " round"]:
    """Return a column of numbers as float64."""
    try:
        found = np.asarray(values, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        raise BadInput(f"column {name} holds what is not a number") from None
    if len(found) != rows:
        raise BadInput(f"column {name} has {len(found)} rows, but the features have {rows}")
    wrong = np.flatnonzero(~np.isfinite(found))
    if len(wrong):
        raise BadInput(f"column {name}, row {wrong[0]}: the value is missing or not finite")
    return found


def _arms(
    values: Any, rows: int, control: Hashable | None
) -> tuple[tuple[Hashable, ...], Int[Array, " round"]]:
    """Number the arms, control first."""
    given = np.asarray(values).reshape(-1)
    if len(given) != rows:
        raise BadInput(f"column treatment has {len(given)} rows, but the features have {rows}")
    lost = np.flatnonzero(pd.isna(given))
    if len(lost):
        raise BadInput(f"column treatment, row {lost[0]}: the value is missing")
    number, labels = pd.factorize(given, sort=True)
    known: list[Hashable] = labels.tolist()
    if len(known) < 2:
        raise BadInput(
            f"column treatment has one value, {known[0]!r}: without a second arm there is no effect"
        )
    if len(known) > 100:
        raise BadInput(f"column treatment has {len(known)} values; arms are few, such as 0 and 1")
    first = known.index(control) if control in known else None
    if control is not None and first is None:
        raise BadInput(f"control is {control!r}, but the arms are {', '.join(map(repr, known))}")
    if first is None:
        first = 0
    order = [first, *(i for i in range(len(known)) if i != first)]
    rank = np.empty(len(known), dtype=np.int64)
    rank[order] = np.arange(len(known))
    return tuple(known[i] for i in order), rank[number]


def _users(values: Any, rows: int) -> Int[Array, " round"]:
    found = np.asarray(values).reshape(-1)
    if len(found) != rows:
        raise BadInput(f"column user has {len(found)} rows, but the features have {rows}")
    number: Array = pd.factorize(found, sort=True)[0]
    return number.astype(np.int64)


def _chances(values: Any, rows: int, arms: int) -> Float[Array, "round arm"]:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim == 0:
        found = np.full(rows, float(found))
    if found.ndim == 1 and arms == 2:
        found = np.stack([1 - found, found], 1)
    if found.shape != (rows, arms):
        raise BadInput(f"propensity has shape {found.shape}, but there are {rows} rows and {arms} arms")
    wrong = np.flatnonzero(~((found > 0) & (found < 1)).all(1) | (np.abs(found.sum(1) - 1) > 1e-6))
    if len(wrong):
        row = int(wrong[0])
        raise BadInput(
            f"column propensity, row {row}: {found[row].tolist()} are not chances in (0, 1) that sum to 1"
        )
    return found


def _effects(values: Any, rows: int, treated: int) -> Float[Array, "round treated"]:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim == 1:
        found = found[:, None]
    if found.shape != (rows, treated):
        raise BadInput(
            f"effect has shape {found.shape}, but there are {rows} rows and {treated} treated arms"
        )
    return found
