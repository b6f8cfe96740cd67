"""Means with their uncertainty."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simlab.errors import BadInput


@dataclass(frozen=True)
class Summary:
    """A mean and its interval.

    Attributes:
        mean: the estimate.
        stderr: its standard error.
        low: lower end of the interval.
        high: upper end.
        n: independent units behind it: values, or groups where there are any.
    """

    mean: float
    stderr: float
    low: float
    high: float
    n: int


def mean_interval(x: ArrayLike, level: float = 0.95, groups: ArrayLike | None = None) -> Summary:
    """Return the mean of x with a Student-t interval.

    Without groups: s / √n and n - 1 degrees of freedom. With groups (seeds, users), values of one group may
    depend on each other: the residuals are summed by group first,

        se² = G / (G - 1) · Σ_g (Σ_{i in g} (x_i - x̄))² / n²,

    with G - 1 degrees of freedom (Liang and Zeger 1986, for a mean; the small-sample factor makes it the
    standard error of the group means where groups have the same size).

    Args:
        x: values.
        level: in (0, 1).
        groups: a label for each value.

    Raises:
        BadInput: for fewer than two values or groups, a value that is not finite, or a level outside (0, 1).
    """
    from scipy.stats import t

    values = np.asarray(x, dtype=np.float64).ravel()
    if not 0 < level < 1:
        raise BadInput(f"a level is between 0 and 1, not {level}")
    if not np.isfinite(values).all():
        where = int(np.flatnonzero(~np.isfinite(values))[0])
        raise BadInput(f"value {where} is {values[where]}, so it has no mean")
    residual, n = _by_group(values, groups)
    if n < 2:
        raise BadInput(f"an interval needs at least two {'values' if groups is None else 'groups'}, not {n}")
    mean = float(values.mean())
    stderr = float(np.sqrt(n / (n - 1) * np.square(residual).sum()) / len(values))
    half = float(t.ppf((1 + level) / 2, n - 1)) * stderr
    return Summary(mean, stderr, mean - half, mean + half, n)


def paired_interval(
    a: ArrayLike, b: ArrayLike, groups: ArrayLike | None = None, level: float = 0.95
) -> Summary:
    """Return the mean of a - b with its interval, pair by pair.

    Under common random numbers a pair is one user who met both policies, and users of one seed share a
    market: pass their seeds as `groups`.

    Args:
        a: values.
        b: values of the same units in the same order.
        groups: a label for each pair.
        level: in (0, 1).

    Raises:
        BadInput: if a and b have different shapes, or as `mean_interval`.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise BadInput(f"pairs need as many of each: {first.shape} and {second.shape} are not")
    return mean_interval(first - second, level, groups)


def _by_group(values: NDArray[np.float64], groups: ArrayLike | None) -> tuple[NDArray[np.float64], int]:
    """Return the residuals summed by group, and the number of groups."""
    if len(values) == 0:
        return values, 0
    residual = values - values.mean()
    if groups is None:
        return residual, len(values)
    labels = np.asarray(groups).ravel()
    if len(labels) != len(values):
        raise BadInput(f"{len(values)} values have {len(labels)} groups; give one for each")
    names, index = np.unique(labels, return_inverse=True)
    total = np.zeros(len(names))
    np.add.at(total, index, residual)
    return total, len(names)
