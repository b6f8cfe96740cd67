"""A metric of each user, and its mean with the uncertainty that belongs to it."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from torch import Tensor

from simlab.errors import BadInput
from simlab.statistics import Summary, mean_interval


@dataclass(frozen=True)
class UserSummary(Summary):
    """A mean over users, its interval, and how many users have no value.

    Attributes:
        skipped: users that do not count.
    """

    skipped: int


@dataclass(frozen=True)
class PerUser:
    """A metric of each user; users for whom it is not defined do not count.

    Attributes:
        value: the metric; NaN where it is not defined, so that it cannot be averaged by mistake.
        counts: whether the user has a value.
        weight: what each user counts in the mean; all the same by default.
    """

    value: Float[Tensor, " user"]
    counts: Bool[Tensor, " user"]
    weight: Float[Tensor, " user"] | None = None

    @property
    def kept(self) -> Float[Tensor, " kept"]:
        """The values of the users that count."""
        return self.value[self.counts]

    @property
    def skipped(self) -> int:
        """How many users do not count."""
        return int((~self.counts).sum())

    def mean(self) -> float:
        """Return Σ w x / Σ w over the users that count.

        Raises:
            BadInput: if none counts.
        """
        if not bool(self.counts.any()):
            raise BadInput(f"a mean needs a user that counts, and all {len(self.counts)} are skipped")
        if self.weight is None:
            return float(self.kept.double().mean())
        weight = self.weight[self.counts].double()
        return float((weight * self.kept.double()).sum() / weight.sum())

    def summary(self, level: float = 0.95, groups: ArrayLike | None = None) -> UserSummary:
        """Return the mean with its standard error, interval, and the numbers of users kept and skipped.

        Users are the independent units, unless `groups` says which of them depend on each other (seeds).
        A weighted mean is a ratio of two means; its error is that of its linear part, w (x - mean) / w̄.

        Args:
            level: of the interval, in (0, 1).
            groups: a label for each user, skipped ones too.

        Raises:
            BadInput: as `mean_interval`; for fewer than two users that count, for instance.
        """
        mean = self.mean()
        value = self.kept.double()
        if self.weight is not None:
            weight = self.weight[self.counts].double()
            value = mean + weight / weight.mean() * (value - mean)
        found = mean_interval(value.cpu().numpy(), level, self._labels(groups))
        return UserSummary(mean, found.stderr, found.low, found.high, found.n, self.skipped)

    def minus(self, other: "PerUser") -> "PerUser":
        """Return this metric less another of the same users; who lacks one of them does not count.

        Raises:
            BadInput: if the users or their weights are not the same.
        """
        if len(self.value) != len(other.value):
            raise BadInput(f"{len(self.value)} users have no difference from {len(other.value)}")
        mine, theirs = self.weight, other.weight
        if (mine is None) != (theirs is None) or (
            mine is not None and theirs is not None and not mine.equal(theirs)
        ):
            raise BadInput("a difference needs the same weight for a user in both metrics")
        return PerUser(self.value - other.value, self.counts & other.counts, self.weight)

    def _labels(self, groups: ArrayLike | None) -> ArrayLike | None:
        """Return the labels of the users that count."""
        if groups is None:
            return None
        labels = np.asarray(groups).ravel()
        if len(labels) != len(self.counts):
            raise BadInput(f"{len(self.counts)} users have {len(labels)} groups; give one for each")
        kept: ArrayLike = labels[self.counts.cpu().numpy()]
        return kept


def per_user(value: Float[Tensor, " user"], counts: Bool[Tensor, " user"] | None = None) -> PerUser:
    """Return a metric of each user in float64, NaN where it does not count; all count by default."""
    value = value.double()
    if counts is None:
        return PerUser(value, torch.ones_like(value, dtype=torch.bool))
    return PerUser(value.masked_fill(~counts, torch.nan), counts)


def join(parts: Iterable[dict[str, PerUser]]) -> dict[str, PerUser]:
    """Return the metrics of all users from those of batches of users, in the order of the batches.

    Raises:
        BadInput: if there is no batch, or two differ in their metrics or in having weights.
    """
    batches = list(parts)
    if not batches:
        raise BadInput("metrics of no batch cannot be joined")
    whole = {}
    for name in batches[0]:
        if any(batch.keys() != batches[0].keys() for batch in batches):
            raise BadInput("batches to join have the same metrics")
        mine = [batch[name] for batch in batches]
        weights = [part.weight for part in mine if part.weight is not None]
        if len(weights) not in (0, len(mine)):
            raise BadInput(f"some batches of {name} have weights, and some have none")
        whole[name] = PerUser(
            torch.cat([part.value for part in mine]),
            torch.cat([part.counts for part in mine]),
            torch.cat(weights) if weights else None,
        )
    return whole


def linear(
    value: float,
    influence: Float[Tensor, " example"],
    level: float = 0.95,
    groups: ArrayLike | None = None,
) -> Summary:
    """Return a smooth function of means, its standard error and interval (the delta method).

    value ± t s / √n, where s is the standard deviation of the influences: what each example adds to the
    value to first order. Their mean is 0. Groups are handled as by `mean_interval`.

    Args:
        value: the estimate.
        influence: of each example.
        level: in (0, 1).
        groups: a label for each example, where examples of one group depend on each other (a user's rows).

    Raises:
        BadInput: as `mean_interval`.
    """
    found = mean_interval(influence.double().cpu().numpy(), level, groups)
    return Summary(value, found.stderr, value + found.low, value + found.high, found.n)
