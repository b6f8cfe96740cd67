"""Rankings by effect: what is shown is what showing changes, not what is likely anyway."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from causal.exposure_dose import examined
from simlab.context import Context
from simlab.errors import BadInput
from simlab.slates import Ranked, SlateDistribution
from simlab.slates.contract import masked, top

_CELLS = 1 << 20
"""Features that a model of pairs is asked about at once: 8 MB."""


@dataclass(frozen=True)
class UpliftRanking:
    """Sort candidates by their effect, not by how likely an outcome is; equal effects in random order.

    Where examination falls with the slot it is the best full slate of additive effects, by the rearrangement
    inequality. Items of a negative effect are shown only where nothing better is left; a policy fills every
    slot, and `slate_by_effect` may leave some empty. With a probability in place of the effect it is what
    uplift ranking is compared with.

    Attributes:
        effect: τ of each candidate, [user cand], from what a policy may see.
        name: in tables and logs.
    """

    effect: Callable[[Context], Float[Tensor, "user cand"]]
    name: str = "uplift ranking"

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return the ranking by effect.

        Raises:
            BadInput: for effects of another shape, or one that is not a number.
        """
        return Ranked(_checked(self.effect(context), context), slots, context.mask)


@dataclass(frozen=True)
class OfPairs:
    """A number for each candidate from a function of the features of pairs, as `UpliftRanking` takes it.

    Attributes:
        predict: from NumPy [pair feat] to [pair]: `ExposureEffect.effect`, a scikit-learn model's `predict`.
        features: of each user and candidate, [user cand feat].
    """

    predict: Callable[[Any], Any]
    features: Callable[[Context], Float[Tensor, "user cand feat"]]

    def __call__(self, context: Context) -> Float[Tensor, "user cand"]:
        """Return the number of each candidate; 0 where it may not be shown, and nothing need be known."""
        x, mask = self.features(context), context.mask
        pairs = x[mask].cpu().numpy()
        size = max(1, _CELLS // max(1, x.shape[2]))
        parts = [self.predict(pairs[i : i + size]) for i in range(0, len(pairs), size)]
        number = np.concatenate([np.asarray(p, dtype=np.float64).reshape(-1) for p in parts])
        found = torch.zeros(x.shape[:2], dtype=torch.float64)
        found[mask.cpu()] = torch.from_numpy(number)
        return found.to(x.device)


def slate_by_effect(
    effect: Float[Tensor, "user cand"],
    context: Context,
    examination: Any,
    *,
    blank: int,
    cost: float | int = 0.0,
) -> Int[Tensor, "user slot"]:
    """Return the best slate of item ids where slots may stay empty: by effect, blank where θ_k τ ≤ cost.

    Exact where effects add up and θ does not rise with the slot: what the n-th item adds falls with n.

    Args:
        effect: τ of each candidate.
        context: whose candidates they are.
        examination: θ of each slot.
        blank: the id that leaves a slot empty (`SlateWorld.blank`).
        cost: of showing an item, in the outcome's unit.

    Raises:
        BadInput: for a θ that rises with the slot, or an effect that is not a number.
    """
    theta = torch.from_numpy(examined(examination)[0]).to(effect.device)
    rises = (theta[1:] > theta[:-1]).nonzero()
    if len(rises):
        slot = int(rises[0]) + 1
        raise BadInput(
            f"examination of slot {slot} is {float(theta[slot]):g}, above that of slot {slot - 1}: the best "
            "slate is sorted by effect only where it does not rise"
        )
    open_ = masked(_checked(effect, context).double(), context.mask)
    columns = top(open_, len(theta))
    gain = open_.gather(1, columns)
    return context.slate(columns).masked_fill(gain.isneginf() | (gain * theta <= cost), blank)


def _checked(effect: Tensor, context: Context) -> Tensor:
    """Refuse effects that cannot be sorted: a NaN would stand first."""
    if effect.shape != context.candidates.shape:
        raise BadInput(
            f"effect has shape {tuple(effect.shape)}, but there are {tuple(context.candidates.shape)} users "
            "and candidates"
        )
    wrong = effect.isnan() & context.mask
    if bool(wrong.any()):
        row, column = (int(i) for i in wrong.nonzero()[0])
        raise BadInput(f"effect, user {int(context.user[row])}, candidate {column}: nan is not a number")
    return effect
