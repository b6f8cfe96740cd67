"""The contract of a click model: what is clicked on a slate, given how attractive each item is.

The **attraction** a_k of an item is P(click | examined); in a model of choice, where items compete, it is the
probability of a click on the item shown alone. Attractions are in [0, 1]. A model is frozen data: its
parameters are tensors with one value, one a slot [slot], one a row and slot [user slot], or a table.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from simlab.errors import BadInput


@dataclass(frozen=True)
class Parameter:
    """What a fit may move: one tensor of a click model.

    Attributes:
        start: where the fit begins, in the parameter's own shape: [], [slot] or another.
        low: the smallest value.
        high: the largest value.
        free: False at the entries that stay at `start`, so that the rest is identified.
    """

    start: Float[Tensor, "*shape"]
    free: Bool[Tensor, "*shape"]
    low: float = 0.0
    high: float = 1.0


class ClickModel(ABC):
    """What is clicked on a slate. Batched and differentiable in attraction and parameters.

    One method defines the model: `conditional`, the chance of a click given the clicks above it. Everything
    else follows from it; a model overrides what it can do faster.

    Attributes:
        speaks_unasked: an item without any attraction may be clicked (trust bias). The world keeps an empty
            slot silent all the same.
        of_items: fields that may also hold a value of their own for each row and slot, because they belong to
            the item (satisfaction); a fit can estimate one value for each item.
    """

    speaks_unasked: ClassVar[bool] = False
    of_items: ClassVar[tuple[str, ...]] = ()

    @classmethod
    @abstractmethod
    def typical(cls, slots: int) -> "ClickModel":
        """Return the model with parameters of a usual strength, for K slots."""

    @classmethod
    @abstractmethod
    def parameters(cls, slots: int) -> dict[str, Parameter]:
        """Return what a fit may move, by the name of the field; `cls(**tensors)` is the fitted model."""

    @abstractmethod
    def conditional(
        self, attraction: Float[Tensor, "user slot"], click: Float[Tensor, "user slot"]
    ) -> Float[Tensor, "user slot"]:
        """Return P(click at k | the clicks above k), for every slot k of a click vector of 0 and 1."""

    @abstractmethod
    def probs(self, attraction: Float[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return the marginal click probability of each slot."""

    @abstractmethod
    def examined(self, attraction: Float[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return the marginal probability that each slot is examined."""

    def theta(self) -> Float[Tensor, " slot"]:
        """Return the position bias θ = P(examined), where it is the same whatever is shown.

        Raises:
            BadInput: where who sees a slot depends on the items above it.
        """
        raise BadInput(f"{type(self).__name__} has no position bias of its own: see `examined`")

    def log_prob(
        self, attraction: Float[Tensor, "user slot"], click: Float[Tensor, "user slot"]
    ) -> Float[Tensor, " user"]:
        """Return the joint log-probability of a click vector: Σ_k log P(c_k | the clicks above k)."""
        chance, hit = self.conditional(attraction, click), click > 0
        # Each logarithm sees only its own side: 0 · ∞ would make the gradient NaN at chances of 0 and 1.
        log_click = torch.where(hit, chance, 1.0).log()
        log_pass = torch.where(hit, 0.0, -chance).log1p()
        return (log_click + log_pass).sum(1)

    def expected_reward(
        self, attraction: Float[Tensor, "user slot"], value: Float[Tensor, "user slot"] | None = None
    ) -> Float[Tensor, " user"]:
        """Return the exact expected reward of a slate: Σ_k P(click at k) · value_k.

        Args:
            attraction: of the item at each slot.
            value: what a click on it is worth; 1 where nothing is said.
        """
        chance = self.probs(attraction)
        return chance.sum(1) if value is None else (chance * value).sum(1)

    def draws(self, slots: int) -> int:
        """Return how many uniforms `sample` needs for each row."""
        return slots

    def sample(
        self, attraction: Float[Tensor, "user slot"], uniform: Float[Tensor, "user draw"]
    ) -> Float[Tensor, "user slot"]:
        """Turn uniforms into clicks of 0 and 1: two slates can so be shown under the same luck.

        Here slot after slot: a click where the slot's uniform is below P(click | the clicks above).
        """
        click = torch.zeros_like(attraction)
        for k in range(attraction.shape[1]):
            chance = self.conditional(attraction[:, : k + 1], click[:, : k + 1])[:, k]
            click[:, k] = (uniform[:, k] < chance).to(attraction.dtype)
        return click

    def to(self, device: torch.device | str) -> "ClickModel":
        """Return the same model on another device."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        moved = {name: x.to(device) for name, x in values.items() if isinstance(x, Tensor)}
        return replace(self, **moved)  # type: ignore[type-var]


def check_slots(name: str, value: Float[Tensor, "*shape"], attraction: Float[Tensor, "user slot"]) -> None:
    """Refuse a parameter with fewer slots than the slate, whose values would be spread over all of it."""
    have, slots = value.shape[-1] if value.ndim else 0, attraction.shape[1]
    if have < slots:
        raise BadInput(f"{name} has {have} slots, but the slate has {slots}")


def check_probability(name: str, value: Float[Tensor, "*shape"]) -> None:
    """Refuse a parameter that is not a probability, naming it, the first such slot and its value."""
    bad = ~((value >= 0) & (value <= 1))
    if bool(bad.any()):
        place = tuple(int(i) for i in bad.nonzero()[0])
        where = f", slot {place[-1]}" if place else ""
        raise BadInput(f"{name}{where}: {float(value[place]):g} is not a probability")
