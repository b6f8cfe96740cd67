"""How SARDINE's users get bored of a topic and recover: a queue of clicks and a clock for each topic.

What a user remembers is a few small whole numbers. They are packed into 64-bit words, so that all topics are
counted, compared and timed at once. A word of topics has 5 bits a topic, topic 0 lowest; the queue has 4 bits
a click, newest lowest, and holds topic + 1; the tally has 8 bits a step, newest lowest.
"""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

BITS = 5
"""Bits of a topic in a word: counts and times up to 15, and one more to compare with."""

CLICK = 4
"""Bits of a click in the queue: topic + 1, and 0 is no click."""

STEP = 8
"""Bits of a step in the tally."""

AT_ONCE = 3
"""Clicks of the queue that one look into the table counts."""


@dataclass(frozen=True)
class SardineUsers:
    """What changes in a user.

    Attributes:
        taste: u, a unit vector over topics; it goes on under the boredom.
        queue: main topics of the last clicks.
        tally: how many clicks the user made at each of the last steps.
        count: n, clicks of each topic among the last clicks of the last steps.
        bored: 1 for each topic that bores.
        timeout: steps until each topic bores no more; the full time where it does not bore.
    """

    taste: Float[Tensor, "user topic"]
    queue: Int[Tensor, " user"]
    tally: Int[Tensor, " user"]
    count: Int[Tensor, " user"]
    bored: Int[Tensor, " user"]
    timeout: Int[Tensor, " user"]


@dataclass(frozen=True)
class Boredom:
    """The rule: a topic bores for `window` steps once `threshold` of the remembered clicks are on it.

    Remembered are the last `recall` clicks, as far as they were made in the last `window` steps.

    Attributes:
        topics: at most 12.
        threshold: θ; above `recall`, nothing ever bores.
        recall: at most 15.
        window: at most 7.
        device: where the words are.
    """

    topics: int
    threshold: int
    recall: int
    window: int
    device: torch.device
    ones: int = field(init=False)
    _table: Int[Tensor, " code"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Lay down the word with a 1 for each topic, and the table that counts three clicks at once."""
        code = torch.arange(1 << (CLICK * AT_ONCE), device=self.device)
        table = torch.zeros_like(code)
        for place in range(AT_ONCE):
            click = (code >> (CLICK * place)) & 15
            known = (click > 0) & (click <= self.topics)
            table += torch.where(known, 1 << (BITS * (click - 1).clamp(0, self.topics - 1)), 0)
        object.__setattr__(self, "ones", sum(1 << (BITS * t) for t in range(self.topics)))
        object.__setattr__(self, "_table", table)

    def begin(self, taste: Float[Tensor, "user topic"]) -> SardineUsers:
        """Return users who have clicked nothing yet."""
        none = torch.zeros(len(taste), dtype=torch.long, device=self.device)
        return SardineUsers(taste, none, none, none, none, none + self.window * self.ones)

    def after(
        self,
        users: SardineUsers,
        topic: Int[Tensor, "slot user"],
        click: Int[Tensor, "slot user"],
    ) -> SardineUsers:
        """Return users after a step; their taste is left as it was.

        Args:
            users: as they were.
            topic: main topic + 1 of the item at each slot, top first; 0 for none.
            click: 1 where it was clicked.
        """
        joins, shift = topic * click, click * CLICK
        queue = users.queue
        for k in range(len(topic)):  # lower slots are newer; what is shifted out is forgotten
            queue = (queue << shift[k]).bitwise_or_(joins[k])
        made = click.sum(0).clamp_(max=self.recall)
        kept = users.tally & ((1 << (STEP * (self.window - 1))) - 1)
        tally = (kept << STEP).bitwise_or_(made)
        queue.bitwise_and_(_low(self._remembered(tally)))
        count = self._count(queue)
        bored, timeout = self._tick(users.bored, users.timeout, count)
        return replace(users, queue=queue, tally=tally, count=count, bored=bored, timeout=timeout)

    def _remembered(self, tally: Int[Tensor, " user"]) -> Int[Tensor, " user"]:
        """Return how many clicks are remembered: the sum of the tally's steps, at most `recall`."""
        spread = sum(1 << (STEP * s) for s in range(self.window))
        total = (tally * spread) >> (STEP * (self.window - 1))
        return total.bitwise_and_((1 << STEP) - 1).clamp_(max=self.recall)

    def _count(self, queue: Int[Tensor, " user"]) -> Int[Tensor, " user"]:
        """Return the clicks of each topic in a queue."""
        mask = len(self._table) - 1
        count = self._table.index_select(0, queue & mask)
        for first in range(AT_ONCE, self.recall, AT_ONCE):
            count += self._table.index_select(0, (queue >> (CLICK * first)) & mask)
        return count

    def _tick(
        self, bored: Int[Tensor, " user"], timeout: Int[Tensor, " user"], count: Int[Tensor, " user"]
    ) -> tuple[Int[Tensor, " user"], Int[Tensor, " user"]]:
        """Let time pass for bored topics, wind up the clock of the others, then let topics bore."""
        timeout = timeout - bored
        left = (timeout + 15 * self.ones).bitwise_right_shift_(BITS - 1).bitwise_and_(self.ones)  # time > 0
        bored = bored & left
        keep = bored * 31
        timeout = (timeout & keep).bitwise_or_(~keep & (self.window * self.ones))
        return bored.bitwise_or_(self._reach(count)), timeout

    def _reach(self, count: Int[Tensor, " user"]) -> Int[Tensor, " user"]:
        """Return 1 for each topic with at least θ clicks: the sum with 16 - θ then has its fifth bit."""
        far = max(16 - self.threshold, 0) * self.ones
        return (count + far).bitwise_right_shift_(BITS - 1).bitwise_and_(self.ones)

    def unpack(self, word: Int[Tensor, " user"]) -> Float[Tensor, "user topic"]:
        """Return the number of each topic in a word."""
        shift = torch.arange(0, BITS * self.topics, BITS, device=self.device)
        return (word.unsqueeze(1) >> shift).bitwise_and_((1 << BITS) - 1).float()

    def soon(self, users: SardineUsers, new: int) -> Float[Tensor, "user topic"]:
        """Return the clicks of each topic that are still remembered after the next step.

        Args:
            users: as they are.
            new: how many clicks the next step is taken to bring; the oldest give way to them.
        """
        stay = self._remembered((users.tally << STEP) & ((1 << (STEP * self.window)) - 1))
        queue = users.queue & _low(stay.clamp(max=max(self.recall - new, 0)))
        return self.unpack(self._count(queue))


def _low(clicks: Int[Tensor, " user"]) -> Int[Tensor, " user"]:
    """Return the mask of this many newest clicks of a queue."""
    return (torch.ones_like(clicks) << (clicks * CLICK)).sub_(1)
