"""Popularity: how often each item was clicked, the same for everyone."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from simlab.context import Catalog, Context
from simlab.errors import BadInput, nearest
from simlab.rankers._blocks import shared_candidates
from simlab.rankers.contract import Interactions, Ranker, Sizes


class Popularity(Ranker):
    """Score an item by the log of its smoothed clicks; nothing is trained, clicks are counted.

    - `by="count"`: log(Σ w·click + s). A softmax over it shows items in proportion to their clicks.
    - `by="rate"`: log((Σ w·click + s·m) / (Σ w + s)) with m the mean rate, itself smoothed by one click in
      two showings, so that it is never zero. An item that was never shown gets the mean.

    Counts add up over calls of `prepare`, so a second log continues the first.

    Args:
        sizes: the data's sizes.
        spec: `by`, and `smoothing`: s, in clicks (count) or in showings (rate).
        catalog: not used.

    Raises:
        BadInput: for an unknown `by`, or a smoothing that is not above zero: the log of no clicks is not
            finite.
    """

    @dataclass(frozen=True)
    class Spec:
        """Settings of the family."""

        by: str = "count"
        smoothing: float = 1.0

    name: ClassVar[str] = "popularity"

    def __init__(self, sizes: Sizes, spec: Spec, catalog: Catalog | None = None) -> None:
        super().__init__(sizes, spec, catalog)
        if spec.by not in ("count", "rate"):
            raise BadInput(
                f"popularity is by count or rate, not {spec.by}{nearest(spec.by, ('count', 'rate'))}"
            )
        self.clicks: Tensor
        self.shown: Tensor
        # float64, so that a million weighted clicks still count the next one.
        self.register_buffer("clicks", torch.zeros(sizes.n_items, dtype=torch.float64))
        self.register_buffer("shown", torch.zeros(sizes.n_items, dtype=torch.float64))

    def prepare(self, seen: Interactions) -> None:
        """Add weighted clicks and weighted showings."""
        self.clicks.index_add_(0, seen.item, (seen.target * seen.weight).double())
        self.shown.index_add_(0, seen.item, seen.weight.double())

    def table(self) -> Float[Tensor, " item"]:
        """Return the score of every item, float32."""
        s = float(self.spec.smoothing)
        if self.spec.by == "count":
            return (self.clicks + s).log().float()
        mean = (self.clicks.sum() + 1) / (self.shown.sum() + 2)
        return ((self.clicks + s * mean) / (self.shown + s)).log().float()

    def encode(self, context: Context) -> Float[Tensor, "user dim"]:
        """Return a constant: everyone is the same."""
        return torch.ones(len(context), 1, device=self.clicks.device)

    def score(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand"]:
        """Look the candidates up."""
        state = self.encode(context) if state is None else state
        items = shared_candidates(context)
        return state * self.table()[context.candidates if items is None else items]

    def item_vectors(self) -> Float[Tensor, "item dim"]:
        """Return the scores as vectors of one number."""
        return self.table().unsqueeze(1)
