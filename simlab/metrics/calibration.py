"""Calibration: whether of what is given probability p, a share p happens."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from simlab.errors import BadInput
from simlab.metrics.classification import unit
from simlab.metrics.means import linear
from simlab.statistics import Summary

Binning = Literal["width", "mass"]


@dataclass(frozen=True)
class Calibration(Summary):
    """An expected calibration error and its interval.

    Attributes:
        floor: the error that a calibrated model with these probabilities would show by luck, about
            Σ_b √(2/π Σ_{i in b} p_i (1 - p_i)) / N. The standard error holds where the error is well above.
    """

    floor: float


@dataclass(frozen=True)
class Reliability:
    """The bins of a reliability diagram; an empty bin has NaN.

    Attributes:
        count: examples.
        probability: their mean probability.
        rate: the share that is positive.
    """

    count: Int[Tensor, " bin"]
    probability: Float[Tensor, " bin"]
    rate: Float[Tensor, " bin"]


def ece(
    probability: Float[Tensor, " example"],
    positive: Bool[Tensor, " example"],
    bins: int = 15,
    by: Binning = "width",
    level: float = 0.95,
    groups: ArrayLike | None = None,
) -> Calibration:
    """Return Σ_b n_b / N |share of positives - mean probability| over bins b, of the positive class.

    Source: Naeini, Cooper and Hauskrecht (2015); Guo et al. (2017), eq. 3, with the probability of the click
    where they, with many classes, take that of the predicted class. Bins of the same width are [0, 1/B), …,
    [(B-1)/B, 1]; bins of the same mass (Nguyen and O'Connor 2015) hold N / B examples each, but equal
    probabilities share a bin (that of their middle rank), so the order of the examples does not matter.

    With s_b the sign of a bin's gap, the error is the mean of s_b (y_i - p_i); its standard error is that of
    the mean, the signs held fixed (delta method). That fails where a gap is near 0: the error is a sum of
    absolute values, above 0 for a calibrated model too, so compare it with `floor`.

    Raises:
        BadInput: for a probability outside [0, 1], fewer than one bin, or fewer than two examples or groups.
    """
    place = _bins(probability, bins, by)
    p, y = probability.detach().double(), positive.double()
    gap = _sum(y - p, place, bins)
    signed = gap.sign()[place] * (y - p)
    value = signed.mean()
    luck = (2 / torch.pi * _sum(p * (1 - p), place, bins)).sqrt().sum() / len(p)
    found = linear(float(value), signed - value, level, groups)
    return Calibration(found.mean, found.stderr, found.low, found.high, found.n, float(luck))


def reliability(
    probability: Float[Tensor, " example"],
    positive: Bool[Tensor, " example"],
    bins: int = 15,
    by: Binning = "width",
) -> Reliability:
    """Return the bins of `ece`.

    Raises:
        BadInput: for a probability outside [0, 1], no examples, or fewer than one bin.
    """
    place = _bins(probability, bins, by)
    count = torch.bincount(place, minlength=bins)
    return Reliability(
        count,
        _sum(probability.detach().double(), place, bins) / count,
        _sum(positive.double(), place, bins) / count,
    )


def _bins(probability: Float[Tensor, " example"], bins: int, by: Binning) -> Int[Tensor, " example"]:
    """Return the bin of each example."""
    unit(probability)
    if bins < 1:
        raise BadInput(f"a calibration error needs at least one bin, not {bins}")
    if by not in ("width", "mass"):
        raise BadInput(f"bins are by width or by mass, not by {by!r}")
    n = len(probability)
    if n == 0:
        raise BadInput("a calibration error needs at least one example")
    p = probability.detach().double()
    if by == "width":
        edges = torch.arange(1, bins, dtype=torch.float64, device=p.device) / bins
        return torch.bucketize(p, edges, right=True)
    ordered = p.sort().values
    twice = torch.searchsorted(ordered, p) + torch.searchsorted(ordered, p, right=True)
    return ((twice - 1) * bins).div(2 * n, rounding_mode="floor")


def _sum(x: Float[Tensor, " example"], place: Int[Tensor, " example"], bins: int) -> Float[Tensor, " bin"]:
    """Return the sums by bin."""
    return torch.zeros(bins, dtype=torch.float64, device=x.device).scatter_add_(0, place, x)
