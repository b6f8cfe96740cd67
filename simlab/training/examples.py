"""Examples: what a ranker is trained on, cut from a log.

An example is a (context, item, target, weight). Examples that share a context stand in one row, so that the
user's side is encoded once for all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from simlab.context import PAD, Context
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
        shift: what is added to each logit: -log(n q) of what was drawn; None for nothing.
    """

    round: Int[Tensor, " row"]
    items: Int[Tensor, "row pick"]
    target: Float[Tensor, "row pick"]
    weight: Float[Tensor, "row pick"]
    slot: Int[Tensor, "row pick"] | None
    shift: Float[Tensor, "row pick"] | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.round)

    def rows(self, index: Tensor) -> "Examples":
        """Return some rows only."""

        def pick(value: Tensor) -> Tensor:
            return value.index_select(0, index)  # much faster than value[index]

        return Examples(
            pick(self.round),
            pick(self.items),
            pick(self.target),
            pick(self.weight),
            None if self.slot is None else pick(self.slot),
            None if self.shift is None else pick(self.shift),
        )


class Source:
    """A log as examples, on one device.

    Args:
        log: with clicks.
        past: H, how many earlier items of the user are in each context.
        pairwise: the loss compares a click with a non-click: what a click is worth weighs the pair instead of
            changing its target.
        weight: how much each (round, slot) counts; 1 by default.
        click_weight: what a click at each (round, slot) is worth; 1 by default.
        outcomes: what else came back at each (round, slot), by the name of the task; NaN where unknown.

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
        outcomes: Mapping[str, Tensor] | None = None,
    ) -> None:
        if log.click is None:
            raise BadInput("a ranker learns from clicks, and this log has no column click")
        for name, value in (("weight", weight), ("click_weight", click_weight)):
            if value is not None:
                _check_weight(name, value, log)
        self.log, self.past = log, past
        self.clicked = log.click > 0
        ones = torch.ones(log.slate.shape, device=log.slate.device)
        click, self.weight = log.click.float(), ones if weight is None else weight.float()
        worth = ones if click_weight is None else click_weight.float()
        self.target = click if pairwise else click * worth
        self.pairwise = pairwise
        self.worth = worth
        self.slot = _slots(log)
        self.outcomes = dict(outcomes or {})
        for name, value in self.outcomes.items():
            if value.shape != log.slate.shape:
                raise BadInput(
                    f"outcome {name} is {list(value.shape)}, but the log's slates are {list(log.slate.shape)}"
                )
        self.features = None if log.features is None else log.features.float()
        self.order = log.order()
        self.place = torch.empty_like(self.order)
        self.place[self.order] = torch.arange(len(log), device=self.order.device)
        user = log.user[self.order]
        fresh = torch.ones(len(log), dtype=torch.bool, device=user.device)
        fresh[1:] = user[1:] != user[:-1]
        first = torch.where(fresh, torch.arange(len(log), device=user.device), 0).cummax(0).values
        self.begin = first[self.place]
        """Where each round's user begins in the order."""
        self.flat_items = log.slate[self.order].reshape(-1)
        self.flat_feedback = click[self.order].reshape(-1)

    def history(
        self, rounds: Int[Tensor, " row"], past: int | None = None
    ) -> tuple[Int[Tensor, "row past"], Float[Tensor, "row past"]]:
        """Return what `Log.history` says of these rounds."""
        past = self.past if past is None else past
        device, k = rounds.device, self.log.slots
        if past == 0:
            empty = self.flat_items.new_zeros(len(rounds), 0)
            return empty, empty.float()
        back = torch.arange(-past, 0, device=device)
        at = (self.place[rounds] * k).unsqueeze(1) + back
        known = at >= (self.begin[rounds] * k).unsqueeze(1)
        at = at.clamp(min=0)
        return self.flat_items[at].where(known, PAD), self.flat_feedback[at] * known

    def context(
        self,
        rounds: Int[Tensor, " row"],
        user: Int[Tensor, " row"],
        candidates: Int[Tensor, "row cand"] | None = None,
    ) -> Context:
        """Return the contexts of some rounds, by default with the whole catalogue as candidates."""
        history, feedback = self.history(rounds)
        return Context.of(
            user,
            self.log.n_items,
            features=None if self.features is None else self.features[rounds],
            history=history,
            feedback=feedback,
            candidates=candidates,
            categories=None if self.log.categories is None else self.log.categories[rounds],
        )

    def logged(self, rounds: Int[Tensor, " round"]) -> Examples:
        """Return one row for each round: the whole slate, clicked or not."""
        weight = self.weight[rounds]
        if self.pairwise:
            weight = torch.where(self.clicked[rounds], weight * self.worth[rounds], weight)
        slot = None if self.slot is None else self.slot[rounds]
        return Examples(rounds, self.log.slate[rounds], self.target[rounds], weight, slot)

    def clicks(self, rounds: Int[Tensor, " round"]) -> Examples:
        """Return one row for each click: the clicked item alone.

        Raises:
            BadInput: if nothing was clicked in these rounds.
        """
        pair = self.clicked[rounds].nonzero()
        if len(pair) == 0:
            raise BadInput(f"nothing was clicked in {len(rounds)} rounds, so there is nothing to learn from")
        at, slot = rounds[pair[:, 0]], pair[:, 1]
        weight = self.weight[at, slot]
        if self.pairwise:
            weight = weight * self.worth[at, slot]
        columns = (self.log.slate[at, slot], self.target[at, slot], weight)
        items, target, weight = (x.unsqueeze(1) for x in columns)
        return Examples(at, items, target, weight, None)

    def sampled(
        self,
        rounds: Int[Tensor, " round"],
        negatives: Negatives,
        count: int,
        seed: Seed,
        *,
        log_q: bool = False,
        popular: bool = False,
    ) -> Examples:
        """Return one row for each click: the clicked item, then `count` items that the user never clicked.

        Args:
            rounds: where the clicks are.
            negatives: the sampler.
            count: how many are drawn for each click.
            seed: of the draw.
            log_q: note -log(n q) of what was drawn as `shift`.
            popular: draw by popularity instead of evenly.

        Raises:
            BadInput: if nothing was clicked in these rounds.
        """
        clicks = self.clicks(rounds)
        at = clicks.round
        # Drawn on the CPU, so that every device meets the same negatives.
        luck = torch.rand(len(at), count, generator=seed.torch(), dtype=torch.float64).to(at.device)
        drawn = (
            negatives.popular(self.log.user[at], luck) if popular else negatives.draw(self.log.user[at], luck)
        )
        items = torch.cat([clicks.items, drawn], dim=1)
        target = torch.zeros(items.shape, device=items.device)
        target[:, :1] = clicks.target
        weight = clicks.weight.repeat(1, count + 1)
        if self.pairwise:  # a pair's weight is the product of its two
            weight[:, 1:] = 1.0
        shift = None
        if log_q:
            q = negatives.log_q(self.log.user[at], drawn, popular=popular)
            shift = torch.cat([torch.zeros_like(q[:, :1]), -(q + torch.tensor(float(count)).log())], dim=1)
        return Examples(at, items, target, weight, None, shift)

    def negatives(self, rounds: Int[Tensor, " round"] | None = None) -> Negatives:
        """Return a sampler that never draws what the user clicked in these rounds, by default anywhere."""
        clicked = self.clicked
        if rounds is not None:
            kept = torch.zeros(len(self.log), 1, dtype=torch.bool, device=rounds.device)
            kept[rounds] = True
            clicked = clicked & kept
        row, slot = clicked.nonzero().unbind(1)
        return Negatives(self.log.user[row], self.log.slate[row, slot], self.log.n_items)

    def interactions(self, rounds: Int[Tensor, " round"]) -> Interactions:
        """Return the logged examples of these rounds, flat, each user's in time order."""
        kept = torch.zeros(len(self.log), dtype=torch.bool, device=rounds.device)
        kept[rounds] = True
        order = self.order[kept[self.order]]
        return Interactions(
            user=self.log.user[order].repeat_interleave(self.log.slots),
            item=self.log.slate[order].reshape(-1),
            target=self.target[order].reshape(-1),
            weight=self.weight[order].reshape(-1),
        )


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
