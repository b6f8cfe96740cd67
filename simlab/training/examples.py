"""Examples: what a ranker is trained on, cut from a log.

An example is a (context, item, target, weight). Examples that share a context stand in one row, so that the
user's side is encoded once for all of them.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from simlab.context import Context
from simlab.errors import BadInput
from simlab.log import Log
from simlab.rankers.contract import Interactions
from simlab.seeds import Seed
from simlab.training.negatives import Negatives


@dataclass(frozen=True)
class Examples:
    """Rows of examples.

    Attributes:
        round: the log's row that each row comes from.
        items: what was, or could have been, shown.
        target: what came back, or is taken to have come back.
        weight: how much each example counts.
        slot: where it was shown, if that is known.
    """

    round: Int[Tensor, " row"]
    items: Int[Tensor, "row pick"]
    target: Float[Tensor, "row pick"]
    weight: Float[Tensor, "row pick"]
    slot: Int[Tensor, "row pick"] | None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.round)

    def rows(self, index: Tensor) -> "Examples":
        """Return some rows only."""
        slot = None if self.slot is None else self.slot[index]
        return Examples(self.round[index], self.items[index], self.target[index], self.weight[index], slot)


class Source:
    """A log as examples, on one device.

    Args:
        log: with clicks.
        past: H, how many earlier items of the user are in each context.
        pairwise: the loss compares a click with a non-click: what a click is worth weighs the pair instead of
            changing its target.
        weight: how much each (round, slot) counts; 1 by default.
        click_weight: what a click at each (round, slot) is worth; 1 by default.

    Raises:
        BadInput: for a log without clicks, or a weight that is negative, not a number or of a wrong shape.
    """

    def __init__(
        self,
        log: Log,
        past: int,
        *,
        pairwise: bool = False,
        weight: Tensor | None = None,
        click_weight: Tensor | None = None,
    ) -> None:
        if log.click is None:
            raise BadInput("a ranker learns from clicks, and this log has no column click")
        for name, value in (("weight", weight), ("click_weight", click_weight)):
            if value is not None:
                _check_weight(name, value, log)
        self.log = log
        self.clicked = log.click > 0
        ones = torch.ones(log.slate.shape, device=log.slate.device)
        click, self.weight = log.click.float(), ones if weight is None else weight.float()
        worth = ones if click_weight is None else click_weight.float()
        self.target = click if pairwise else click * worth
        self.pairwise = pairwise
        self.worth = worth
        self.slot = _slots(log)
        self.history, self.feedback = log.history(past)
        self.features = None if log.features is None else log.features.float()

    def context(self, examples: Examples, user: Int[Tensor, " row"]) -> Context:
        """Return the contexts of rows of examples, with their items as candidates."""
        at = examples.round
        return Context.of(
            user,
            self.log.n_items,
            features=None if self.features is None else self.features[at],
            history=self.history[at],
            feedback=self.feedback[at],
            candidates=examples.items,
        )

    def logged(self, rounds: Int[Tensor, " round"]) -> Examples:
        """Return one row for each round: the whole slate, clicked or not."""
        weight = self.weight[rounds]
        if self.pairwise:
            weight = torch.where(self.clicked[rounds], weight * self.worth[rounds], weight)
        slot = None if self.slot is None else self.slot[rounds]
        return Examples(rounds, self.log.slate[rounds], self.target[rounds], weight, slot)

    def interactions(self, rounds: Int[Tensor, " round"]) -> Interactions:
        """Return the logged examples of these rounds, flat, each user's in time order."""
        kept = torch.zeros(len(self.log), dtype=torch.bool, device=rounds.device)
        kept[rounds] = True
        order = self.log.order()
        order = order[kept[order]]
        return Interactions(
            user=self.log.user[order].repeat_interleave(self.log.slots),
            item=self.log.slate[order].reshape(-1),
            target=self.target[order].reshape(-1),
            weight=self.weight[order].reshape(-1),
        )

    def sampled(
        self, rounds: Int[Tensor, " round"], negatives: Negatives, count: int, seed: Seed
    ) -> Examples:
        """Return one row for each click: the clicked item, then `count` items that the user never clicked.

        Raises:
            BadInput: if nothing was clicked in these rounds.
        """
        pair = self.clicked[rounds].nonzero()
        if len(pair) == 0:
            raise BadInput(f"nothing was clicked in {len(rounds)} rounds, so there is nothing to learn from")
        at, slot = rounds[pair[:, 0]], pair[:, 1]
        # Drawn on the CPU, so that every device meets the same negatives.
        luck = torch.rand(len(at), count, generator=seed.torch(), dtype=torch.float64).to(at.device)
        drawn = negatives.draw(self.log.user[at], luck)
        items = torch.cat([self.log.slate[at, slot].unsqueeze(1), drawn], dim=1)
        target = torch.zeros(items.shape, device=items.device)
        target[:, 0] = self.target[at, slot]
        weight = self.weight[at, slot].unsqueeze(1).repeat(1, count + 1)
        if self.pairwise:  # a pair's weight is the product of its two
            weight[:, 0] *= self.worth[at, slot]
            weight[:, 1:] = 1.0
        return Examples(at, items, target, weight, None)

    def negatives(self) -> Negatives:
        """Return a sampler that never draws what the user clicked anywhere in the log."""
        row, slot = self.clicked.nonzero().unbind(1)
        return Negatives(self.log.user[row], self.log.slate[row, slot], self.log.n_items)


def _slots(log: Log) -> Int[Tensor, "round slot"] | None:
    """Return the slot of each item on its page; None where a one-item log does not say."""
    if log.position is not None:
        return log.position.unsqueeze(1)
    if log.slots == 1:
        return None
    return torch.arange(log.slots, device=log.slate.device).expand(log.slate.shape)


def _check_weight(name: str, value: Tensor, log: Log) -> None:
    """Refuse weights that cannot be.

    Raises:
        BadInput: naming the first round and slot.
    """
    if value.shape != log.slate.shape:
        raise BadInput(f"{name} is {list(value.shape)}, but the log's slates are {list(log.slate.shape)}")
    wrong = ~((value >= 0) & value.isfinite())
    if bool(wrong.any()):
        row, slot = (int(x) for x in wrong.nonzero()[0])
        raise BadInput(
            f"{name}, row {row}, slot {slot}: {float(value[row, slot])} is not at least 0 and finite"
        )
