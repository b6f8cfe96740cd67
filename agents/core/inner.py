"""Scores that are inner products: chosen by and learned from without a table of all users' scores.

Where a ranker's score is ⟨state, v_i⟩ and all users choose from the whole catalogue, the vectors are made
once, and the scores a few users at a time, in the processor's cache. The numbers are those of the ranker's
own `score`, to rounding.
"""

from dataclasses import replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from agents.core.choice import Choice
from agents.core.networks import SlateNetwork
from agents.maths._tables import Product
from agents.maths.grouped import draw_by_groups
from agents.maths.plackett_luce import Entropy, draw_slates, slot_log_probs
from simlab.adapters._state import full
from simlab.context import Context
from simlab.rankers.contract import Ranker

WIDEST = 64
"""Vectors wider than this cost more to multiply twice than a table costs to keep."""


class InnerChoice(Choice):
    """Plackett–Luce over a product; the logits are made where they are asked for.

    Args:
        product: the logits.
        slots: K.
    """

    product: Product

    def __init__(self, product: Product, slots: int) -> None:
        for name, value in (("product", product), ("slots", slots), ("group", None), ("penalty", None)):
            object.__setattr__(self, name, value)

    @cached_property
    def logits(self) -> Float[Tensor, "user cand"]:
        """Of each candidate."""
        return self.product.whole()

    def log_probs(
        self, columns: Int[Tensor, "user slot"], entropy: Entropy | None = "slots"
    ) -> tuple[Float[Tensor, "user slot"], Float[Tensor, " user"]]:
        """Return log P(a_k | above), and an entropy; see `slot_log_probs`."""
        return slot_log_probs(self.product, columns, entropy)


def drawn(
    choice: Choice, generator: torch.Generator | None = None
) -> tuple[Int[Tensor, "user slot"], Float[Tensor, "user slot"]]:
    """Draw slates, and return the log-probability of each slot given those above it.

    Raises:
        BadInput: naming the row with too few candidates, or whose logits are not finite.
    """
    grouped = choice.grouped()
    if grouped is not None:
        return draw_by_groups(grouped, generator)
    table = choice.product if isinstance(choice, InnerChoice) else choice.logits
    return draw_slates(table, choice.slots, generator)


class Scorer:
    """What there is to choose from, of a network whose weights stand still for a while or for one forward.

    Args:
        network: the actor and its critics.

    Attributes:
        vectors: of the items, made when first needed.
    """

    def __init__(self, network: SlateNetwork) -> None:
        self.network = network
        self.vectors: Tensor | None = None

    def choice(self, context: Context) -> Choice:
        """Return what there is to choose from."""
        context = full(context, self.network.ranker.past)
        return self._choice(context, self.network.ranker.encode(context))

    def everything(
        self, context: Context
    ) -> tuple[Choice, Float[Tensor, " user"], Float[Tensor, "user slot"]]:
        """Return what there is to choose from, and the critics' F and b."""
        context = full(context, self.network.ranker.past)
        state = self.network.ranker.encode(context)
        future, slot = self.network.values_at(context, state)
        return self._choice(context, state), future, slot

    def _choice(self, context: Context, state: Float[Tensor, "user dim"]) -> Choice:
        network = self.network
        if network.steps is not None or not is_inner(network.ranker, context):
            return network.choice_at(context, state)
        if self.vectors is None:
            self.vectors = items_of(network.ranker, context)
        if self.vectors.shape[1] > WIDEST:
            return network.choice_at(context, state)
        return InnerChoice(Product(state, self.vectors), network.slots)


def is_inner(ranker: Ranker, context: Context) -> bool:
    """Tell whether scores are inner products with one whole catalogue for all, none masked, on a CPU."""
    candidates, mask = context.candidates, context.mask
    return (
        type(ranker).item_vectors is not Ranker.item_vectors
        and len(context) > 1
        and candidates.device.type == "cpu"
        and candidates.stride(0) == 0
        and candidates.shape[1] == ranker.sizes.n_items
        and mask.stride() == (0, 0)
        and bool(mask[0, 0])
    )


def items_of(ranker: Ranker, context: Context) -> Float[Tensor, "cand dim"]:
    """Return v of the candidates that all users share: of the catalogue, in their order."""
    vectors, first = ranker.item_vectors(), context.candidates[0]
    in_order = bool((first == torch.arange(len(first))).all())
    return vectors if in_order else vectors.index_select(0, first)


def narrowed(context: Context, columns: Int[Tensor, "user slot"]) -> Context:
    """Return the same users with these columns as all of their candidates."""
    candidates = context.candidates.gather(1, columns)
    mask = torch.ones(1, 1, dtype=torch.bool, device=context.device).expand(candidates.shape)
    return replace(context, candidates=candidates, mask=mask, popularity=None)
