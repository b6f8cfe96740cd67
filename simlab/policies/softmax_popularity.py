"""Softmax popularity: the more popular, the likelier, but nothing is impossible."""

from dataclasses import dataclass

import torch

from simlab.context import Context
from simlab.errors import BadInput
from simlab.slates import PlackettLuce, SlateDistribution


@dataclass(frozen=True)
class SoftmaxPopularity:
    """Plackett–Luce over sharpness × log(popularity share), which explores with exact propensities.

    The share is mixed with the uniform share, share' = (1 - floor) · share + floor / n, so that an item
    without any popularity keeps a chance.

    Attributes:
        sharpness: 0 is uniform, 1 is in proportion to popularity, more is greedier.
        floor: in (0, 1].

    Raises:
        BadInput: for a negative sharpness or a floor outside (0, 1].
    """

    sharpness: float = 1.0
    floor: float = 0.1
    name: str = "softmax_popularity"

    def __post_init__(self) -> None:
        if not self.sharpness >= 0:
            raise BadInput(f"sharpness is at least 0, not {self.sharpness}")
        if not 0 < self.floor <= 1:
            raise BadInput(f"floor is in (0, 1], not {self.floor}")

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return Plackett–Luce over the smoothed shares.

        Raises:
            BadInput: if the context says nothing of popularity.
        """
        if context.popularity is None:
            raise BadInput(f"policy {self.name} needs a context with popularity, and this one has none")
        seen = context.popularity.clamp(min=0) * context.mask
        share = seen / seen.sum(1, keepdim=True).clamp(min=torch.finfo(seen.dtype).tiny)
        share = (1 - self.floor) * share + self.floor / context.mask.sum(1, keepdim=True)
        return PlackettLuce(self.sharpness * share.log(), slots, context.mask)
