"""What sequence families share: a state after every item of a history, and inner products with the items."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from simlab.context import Catalog, Context
from simlab.rankers._blocks import ContextSide, ItemTable, clicked_history, dot
from simlab.rankers.contract import Ranker, Sizes

PIECE = 64
"""How many histories of about the same length are read at once on the CPU: what they need fits its cache."""


class SequenceRanker(Ranker):
    """A ranker that reads the clicked items of the history in order: logit = ⟨h_t + W x, v_i⟩.

    A family says `hidden`: the state after every item. So `fit` can train a target per token
    (`unit="token"`): the state after item t predicts item t + 1. The features and categories of the moment
    of choice join late, after the sequence.

    Args:
        sizes: the data's sizes.
        spec: has `dim`, `past` and `spread`.
        catalog: what is known of the items; it goes into their vectors.
    """

    cloze: ClassVar[bool] = False
    """Whether `hidden` looks both ways, and is trained to fill in masked items (id `n_items` is the mask)."""

    least: ClassVar[Mapping[str, int]] = {"past": 1}

    def __init__(self, sizes: Sizes, spec: Any, catalog: Catalog | None = None) -> None:
        super().__init__(sizes, spec, catalog)
        self.past = spec.past
        self.items = ItemTable(sizes.n_items, spec.dim, catalog, spec.spread)
        self.side = ContextSide(sizes, spec.dim, spec.spread)

    @abstractmethod
    def hidden(self, history: Int[Tensor, "user past"]) -> Float[Tensor, "user past dim"]:
        """Return the state after each item of a history of clicks.

        Args:
            history: newest last, padded on the left with -1. Where padded, the state is any finite number.
                A family with `cloze` may also meet the id `n_items`, the mask.
        """

    def last(self, history: Int[Tensor, "user past"]) -> Float[Tensor, "user dim"]:
        """Return the state that chooses the next item; zeros for an empty history."""
        if history.shape[1] == 0:
            return self.items.ids.weight.new_zeros(len(history), self.items.dim)
        return self.hidden(history)[:, -1] * (history[:, -1:] >= 0)

    def encode(self, context: Context) -> Float[Tensor, "user dim"]:
        """Return the state after the last click, plus what the moment's features say."""
        history = clicked_history(context, self.past, self.sizes.n_items)
        said: Tensor = self.side(context.features, context.categories)
        if history.device.type != "cpu" or len(history) <= PIECE:  # elsewhere nothing waits for a length
            return self.last(history) + said
        length = (history >= 0).sum(1)
        order = length.argsort(stable=True)
        states = []
        for rows in torch.split(order, PIECE):
            width = int(length[rows[-1]])
            states.append(self.last(history[rows][:, history.shape[1] - width :]))
        return torch.cat(states)[order.argsort()] + said

    def score(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand"]:
        """Return inner products with the items' vectors."""
        state = self.encode(context) if state is None else state
        return dot(state, self.item_vectors(), context)

    def item_vectors(self) -> Float[Tensor, "item dim"]:
        """Return the items' vectors."""
        return self.items.all()


class ForwardRanker(SequenceRanker):
    """A sequence family whose state after an item depends on this item and what came before it.

    Each row is turned so that its oldest item stands at the left and the padding at the right, where nothing
    looks: so padding never matters, no kernel needs a mask of it, and the state after an item is the same
    whatever comes later.
    """

    @abstractmethod
    def states(self, history: Int[Tensor, "user past"]) -> Float[Tensor, "user past dim"]:
        """Return the state after each item.

        Args:
            history: oldest first, padded on the **right** with -1.
        """

    def hidden(self, history: Int[Tensor, "user past"]) -> Float[Tensor, "user past dim"]:
        """Turn the rows, ask for the states, and turn them back."""
        rows, width = history.shape
        if width == 0:
            return self.items.ids.weight.new_zeros(rows, 0, self.items.dim)
        pads = (history < 0).sum(1, keepdim=True)
        column = torch.arange(width, device=history.device)
        states = self.states(history.gather(1, (column + pads) % width))
        first = torch.arange(0, rows * width, width, device=history.device).unsqueeze(1)
        back = ((column - pads) % width + first).flatten()
        return states.flatten(0, 1).index_select(0, back).view(rows, width, states.shape[-1])
