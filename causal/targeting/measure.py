"""A number about a score, with its standard error: the spread of what each row adds to it.

Every metric here is a function θ(w) of the rows' weights that does not change when all weights are
multiplied. The influence of a row is dᵢ = wᵢ ∂θ/∂wᵢ, in closed form; the variance is Σ dᵢ², or Σ (Σ of a
user's dᵢ)² where rows come from users. That is the infinitesimal jackknife (Efron 1982, "The Jackknife, the
Bootstrap and Other Resampling Plans", chapter 6), the delta method without a model. The score is taken as
given: it was learned on other rows.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from simlab.errors import BadInput

Array = np.ndarray


@dataclass(frozen=True)
class Measure:
    """A metric's value with its standard error.

    Attributes:
        value: in the unit that the metric's docstring states.
        stderr: its standard error.
        name: what it is.
        influence: what each row adds, so that the squares' sum is the variance.
        user: whose row it is, or None.
    """

    value: float
    stderr: float
    name: str
    influence: Float[Array, " round"] = field(repr=False, compare=False)
    user: Int[Array, " round"] | None = field(default=None, repr=False, compare=False)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return (low, high) by the normal distribution."""
        z = float(stats.norm.ppf((1 + level) / 2)) * self.stderr
        return self.value - z, self.value + z

    def pvalue(self) -> float:
        """Return the two-sided p-value of the value 0, by the normal distribution; NaN without a spread."""
        return float(2 * stats.norm.sf(abs(self.value) / self.stderr)) if self.stderr > 0 else math.nan

    def minus(self, other: "Measure") -> "Measure":
        """Return the difference from another score's value on the same rows, paired row by row.

        Raises:
            BadInput: for another number of rows.
        """
        if len(self.influence) != len(other.influence):
            raise BadInput(
                f"a paired difference needs the same rows, and {self.name} has {len(self.influence)} but "
                f"{other.name} has {len(other.influence)}"
            )
        return measure(
            self.value - other.value,
            self.influence - other.influence,
            self.user,
            f"{self.name} - {other.name}",
        )


def measure(value: float, influence: Float[Array, " round"], user: Array | None, name: str) -> Measure:
    """Return a value with the standard error of its influences."""
    return Measure(float(value), spread(influence, user), name, influence, user)


def spread(influence: Float[Array, " round"], user: Array | None = None) -> float:
    """Return √(G/(G-1) Σ d²), with d summed by user first where there are users; G rows or users.

    Raises:
        BadInput: with fewer than two rows or users, from which no spread can be told.
    """
    each = influence if user is None else np.bincount(user, influence)
    many = len(each) if user is None else int(np.count_nonzero(np.bincount(user)))
    if many < 2:
        raise BadInput(f"a standard error needs at least 2 {'rows' if user is None else 'users'}, not {many}")
    return math.sqrt(float(each @ each) * many / (many - 1))


def covariance(influence: Float[Array, "round number"], user: Array | None = None) -> Float[Array, "n n"]:
    """Return the covariance of several numbers, clustered by user where there are users.

    Raises:
        BadInput: with fewer than two rows or users.
    """
    each, many = influence, len(influence)
    if user is not None:
        each = np.stack([np.bincount(user, column) for column in influence.T], 1)
        many = int(np.count_nonzero(np.bincount(user)))
    if many < 2:
        raise BadInput(f"a standard error needs at least 2 {'rows' if user is None else 'users'}, not {many}")
    found: Array = each.T @ each * (many / (many - 1))
    return found


def column(name: str, values: Any, rows: int | None = None) -> Float[Array, " round"]:
    """Return a column as float64.

    Raises:
        BadInput: for what is not a finite number, another length, or no rows.
    """
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise BadInput(f"column {name} holds what is not a number") from None
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != 1:
        raise BadInput(f"column {name} has shape {found.shape}, and one number a row is asked for")
    if rows is not None and len(found) != rows:
        raise BadInput(f"column {name} has {len(found)} rows, but {rows} are asked for")
    if not len(found):
        raise BadInput(f"column {name} has no rows")
    wrong = np.flatnonzero(~np.isfinite(found))
    if len(wrong):
        raise BadInput(f"column {name}, row {wrong[0]}: {found[wrong[0]]} is not a finite number")
    return found


def table(name: str, values: Any, rows: int | None = None) -> Float[Array, "round treated"]:
    """Return a table of one column for each treated arm as float64.

    Raises:
        BadInput: for what is not a finite number, or another shape.
    """
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise BadInput(f"{name} holds what is not a number") from None
    found = found[:, None] if found.ndim == 1 else found
    if found.ndim != 2 or (rows is not None and len(found) != rows) or not found.size:
        raise BadInput(f"{name} has shape {found.shape}, and a row for each of {rows} rows is asked for")
    wrong = np.argwhere(~np.isfinite(found))
    if len(wrong):
        row, arm = wrong[0]
        raise BadInput(f"{name}, row {row}, column {arm}: {found[row, arm]} is not a finite number")
    return found


def weights(values: Any, rows: int) -> Float[Array, " round"]:
    """Return weights, 1 where there are none.

    Raises:
        BadInput: for a negative weight, or where all are 0.
    """
    if values is None:
        return np.ones(rows)
    found = column("weight", values, rows)
    if (found < 0).any():
        row = int(np.flatnonzero(found < 0)[0])
        raise BadInput(f"column weight, row {row}: {found[row]:g} is negative")
    if not found.any():
        raise BadInput("column weight: all weights are 0, so nothing counts")
    return found


def users(values: Any, rows: int) -> Int[Array, " round"] | None:
    """Return users numbered from 0, or None.

    Raises:
        BadInput: for another number of rows.
    """
    if values is None:
        return None
    found = np.asarray(values).reshape(-1)
    if len(found) != rows:
        raise BadInput(f"column user has {len(found)} rows, but {rows} are asked for")
    return np.unique(found, return_inverse=True)[1].astype(np.int64)
