"""Fairness among users: whether one group is served as well as another."""

import math

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from simlab.errors import BadInput
from simlab.metrics.means import PerUser, UserSummary
from simlab.statistics import Summary


def by_group(metric: PerUser, group: Int[Tensor, " user"], level: float = 0.95) -> dict[int, UserSummary]:
    """Return the mean of a metric in each group of users.

    Raises:
        BadInput: if a group has fewer than two users that count.
    """
    return {int(g): _part(metric, group == g, level) for g in torch.unique(group)}


def user_difference(metric: PerUser, first: Bool[Tensor, " user"], level: float = 0.95) -> Summary:
    """Return the mean of a metric in the first group less that in the rest; 0 is fair.

    The unfairness of Li et al. (2021), "User-oriented fairness in recommendation" (there without its sign).
    Users are independent: se² = se₁² + se₂², with Welch's (1947) degrees of freedom.

    Raises:
        BadInput: if either group has fewer than two users that count.
    """
    a, b = _part(metric, first, level), _part(metric, ~first, level)
    stderr, half = _welch(a.stderr, b.stderr, a, b, level)
    value = a.mean - b.mean
    return Summary(value, stderr, value - half, value + half, a.n + b.n)


def user_ratio(metric: PerUser, first: Bool[Tensor, " user"], level: float = 0.95) -> Summary:
    """Return the mean of a metric in the first group over that in the rest; 1 is fair.

    The standard error is the ratio's by the delta method; the interval is made on the scale of logarithms,
    so it is not symmetric and never reaches 0: ratio · exp(± t · se of the logarithm).

    Raises:
        BadInput: if either group has fewer than two users that count, or a mean that is not above 0.
    """
    a, b = _part(metric, first, level), _part(metric, ~first, level)
    if min(a.mean, b.mean) <= 0:
        raise BadInput(f"a ratio needs means above 0, not {a.mean} and {b.mean}")
    stderr, half = _welch(a.stderr / a.mean, b.stderr / b.mean, a, b, level)
    ratio = a.mean / b.mean
    return Summary(ratio, ratio * stderr, ratio * math.exp(-half), ratio * math.exp(half), a.n + b.n)


def _part(metric: PerUser, who: Bool[Tensor, " user"], level: float) -> UserSummary:
    """Return the summary of some users."""
    weight = None if metric.weight is None else metric.weight[who]
    return PerUser(metric.value[who], metric.counts[who], weight).summary(level)


def _welch(a: float, b: float, first: Summary, second: Summary, level: float) -> tuple[float, float]:
    """Return the standard error of a sum of two independent terms, and half the width of its interval."""
    from scipy.stats import t

    square = a**2 + b**2
    if square == 0:
        return 0.0, 0.0
    freedom = square**2 / (a**4 / (first.n - 1) + b**4 / (second.n - 1))
    return math.sqrt(square), float(t.ppf((1 + level) / 2, freedom)) * math.sqrt(square)
