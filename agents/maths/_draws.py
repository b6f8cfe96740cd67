"""Slates drawn exactly as Plackett–Luce says: by a race of clocks, or by inverting the cumulative softmax."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from agents.maths._tables import FLOOR, Table
from simlab.errors import BadInput

DRAWS = (2, 12)
"""Least and most draws with replacement beyond the slots in a round."""
PEAKED = 5.0
"""Repeats among K draws, beyond which a race of all candidates is sooner done."""
GROUP = 8
"""Candidates of which the sum is drawn from first."""
BELOW_ONE = 1 - 2.0**-53
SURE = 0.05
"""Share of the softmax that is never shown, above which differences of sums are precise."""


def race(
    logits: Float[Tensor, "user cand"], slots: int, generator: torch.Generator | None
) -> Int[Tensor, "user slot"]:
    """Let exponential clocks of rate exp(ℓ) ring; the first K, in order, are the slate."""
    if logits.shape[1] < slots:
        raise BadInput(f"row 0 has {logits.shape[1]} candidates, but the slate has {slots} slots")
    first, columns = clocks(logits, generator).topk(slots, dim=1, largest=False)
    if logits.device.type == "cpu" and not bool(first[:, -1:].isfinite().all()):
        refuse(logits, slots)
    return columns


def clocks(
    logits: Float[Tensor, "user cand"], generator: torch.Generator | None
) -> Float[Tensor, "user cand"]:
    """Return when each clock rings, as a logarithm."""
    if logits.device.type == "cpu":  # three times as fast there as `exponential_`, and 53 bits deep
        noise = torch.rand(logits.shape, dtype=torch.float64, generator=generator).log_().neg_()
    else:
        noise = torch.empty_like(logits).exponential_(generator=generator)
    return noise.to(logits.dtype).log_().sub_(logits)


class Inversion:
    """Draw with replacement until each row has K different columns, in the order of their first draw.

    There are as many draws as few rows will need more than; their exponentials also give the
    log-probabilities. Rows that found too few go on by a race of what is left, and where most rows would,
    all race: a peaked softmax draws the same few again and again.

    Args:
        table: the logits.
        slots: K.
        generator: of torch; the global one if None.

    Attributes:
        columns: the slates.
        log_prob: of each slot given those above it, where `sure`.
        sure: rows whose log-probabilities are precise; the others are not worked out.

    Raises:
        BadInput: naming the row that has fewer candidates than slots, or whose best logit is not finite.
    """

    columns: Int[Tensor, "user slot"]
    log_prob: Float[Tensor, "user slot"]
    sure: Bool[Tensor, " user"]

    def __init__(self, table: Table, slots: int, generator: torch.Generator | None) -> None:
        self.table, self.slots, self.generator = table, slots, generator
        self.space = table.space()
        size = min(GROUP, table.cands)
        groups, rest = divmod(table.cands, size)
        self.offsets = torch.arange(size) * groups
        width = 1 << (groups + rest).bit_length()  # a power of two, and one: 0, the sums, and no end
        self.upto = torch.full((self.space.shape[1], width + 1), math.inf, dtype=torch.float64)
        self.upto[:, 0] = 0.0
        if table.cands < slots:
            refuse(table.whole(), slots)
        first = self._first()
        if first is None:
            self.columns = self._raced()
            self.log_prob = table.given.new_zeros(table.rows, slots)
            self.sure = torch.zeros(table.rows, dtype=torch.bool)
            return
        drawn, far, mass = first
        short, have = self._different(drawn, far)
        # log P(a_k | above) = shifted - log(what is left), in double: what was shown above is taken off.
        own = self.far.double()
        weight = own.exp()
        seen = weight.cumsum(1)
        self.log_prob = own.sub_(torch.log(mass - (seen - weight))).to(self.far.dtype)
        self.sure = (seen[:, -1:] < (1 - SURE) * mass).squeeze(1)
        if len(short):
            self.sure[short] = False
            self._fill(short, have)

    def _first(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return draws with replacement, how far each is from its row's best logit, and Σ exp of that.

        None says that most rows would draw too few.
        """
        table, draws = self.table, 0
        mass = torch.empty(table.rows, 1, dtype=torch.float64)
        drawn, far = mass.new_empty(0, dtype=torch.int64), table.given.new_empty(0)
        for part in table.parts():
            shifted, weight = self.space[:, : len(mass[part])]
            table.read(part, shifted)
            self._weigh(shifted, weight)
            if not draws:
                draws = self._needed(weight)
                if not draws:
                    return None
                drawn, far = drawn.new_empty(table.rows, draws), far.new_empty(table.rows, draws)
            drawn[part], mass[part] = self._search(weight, draws)
            torch.gather(shifted, 1, drawn[part], out=far[part])
        return drawn, far, mass

    def _weigh(self, left: Tensor, out: Tensor) -> None:
        """Take exp(ℓ - the highest ℓ); what is left of ℓ is the difference."""
        highest = left.amax(1, keepdim=True)
        if not bool(((highest > FLOOR) & (highest < math.inf)).all()):
            refuse(self.table.whole(), self.slots)
        self.table.exp(left.sub_(highest), out)

    def _search(self, weight: Tensor, draws: int) -> tuple[Tensor, Tensor]:
        """Draw columns with replacement by their weights; also return the sums of the weights."""
        size = len(self.offsets)
        groups = weight.shape[1] // size  # group j: columns j, j + groups, j + 2 · groups …
        body = groups * size
        sums = weight[:, :body].view(-1, size, groups).sum(1)
        if body < weight.shape[1]:  # what is left over are groups of one
            sums = torch.cat([sums, weight[:, body:]], 1)
        count, upto = sums.shape[1], self.upto[: len(weight)]
        torch.cumsum(sums, 1, dtype=torch.float64, out=upto[:, 1 : count + 1])
        mass = upto[:, count : count + 1].clone()
        point = torch.rand(len(weight), draws, dtype=torch.float64, generator=self.generator).mul_(mass)
        # How many groups end at or below the point, by halving: `searchsorted` branches, and guesses wrong.
        group = torch.zeros(point.shape, dtype=torch.int64)
        step = (upto.shape[1] - 1) // 2
        while step:
            group.add_(upto.gather(1, group + step) <= point, alpha=step)
            step //= 2
        low = upto.gather(1, group)
        share = point.sub_(low).div_(upto.gather(1, group + 1).sub_(low)).clamp_(0.0, BELOW_ONE)
        first = group.clamp_max(groups - 1) if body < weight.shape[1] else group
        inside = (first.unsqueeze(2) + self.offsets).flatten(1)
        within = weight.gather(1, inside).view(*first.shape, size).cumsum(2, dtype=torch.float64)
        # Below the last sum, so the first above it is of an item with a weight: what has none is not drawn.
        place = (within <= share.unsqueeze(2).mul(within[:, :, -1:])).sum(2)
        columns = first.add(place, alpha=groups)
        if body < weight.shape[1]:
            columns = torch.where(group < groups, columns, group + (body - groups))
        return columns, mass

    def _needed(self, weight: Tensor) -> int:
        """Return K and some more draws, by how many repeats these rows expect; 0 where they expect many.

        Two draws are alike with the chance Σ p², so K draws have K (K - 1) / 2 · Σ p² repeats.
        """
        alike = torch.linalg.vecdot(weight, weight) / weight.sum(1).square()
        repeats = float(alike.mean()) * self.slots * (self.slots - 1) / 2
        return 0 if repeats > PEAKED else self.slots + min(DRAWS[1], DRAWS[0] + math.ceil(2 * repeats))

    def _different(self, drawn: Tensor, far: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the first K different draws of each row; return the rows with fewer, and how many."""
        self.columns, self.far = drawn[:, : self.slots].clone(), far[:, : self.slots].clone()
        slot = self.columns.T.contiguous()
        twice = torch.zeros(len(drawn), dtype=torch.bool)
        for k in range(1, self.slots):
            twice |= (slot[:k] == slot[k]).any(0)
        again = twice.nonzero().squeeze(1)
        if not len(again):
            return again, again
        drawn, far = drawn[again], far[again]
        out = torch.zeros(len(again), self.slots + 1, dtype=torch.int64)  # the last takes what is too many
        place, found = _places(drawn, self.slots)
        self.columns[again] = out.scatter_(1, place, drawn)[:, :-1]
        self.far[again] = far.new_zeros(out.shape).scatter_(1, place, far)[:, :-1]
        few = found < self.slots
        return again[few], found[few]

    def _fill(self, short: Tensor, have: Tensor) -> None:
        """Let what is left race for the slots of these rows below those that they have."""
        place, table = torch.arange(self.slots), self.table.take(short)
        for part in table.parts():
            columns, full = self.columns[short[part]], have[part].unsqueeze(1)
            left = self.space[0, : len(columns)]
            table.read(part, left)
            known = torch.where(place < full, columns, columns[:, :1])
            left.scatter_(1, known, 10 * FLOOR)  # below those that may not be shown
            ring, rest = clocks(left, self.generator).topk(self.slots - int(full.min()), 1, largest=False)
            at = (full + torch.arange(rest.shape[1])).clamp_max_(self.slots)
            if bool((ring.gt(-0.5 * FLOOR) & (at < self.slots)).any()):
                refuse(self.table.whole(), self.slots)
            self.columns[short[part]] = torch.nn.functional.pad(columns, (0, 1)).scatter_(1, at, rest)[:, :-1]

    def _raced(self) -> Int[Tensor, "user slot"]:
        """Return the slates of a race of all candidates."""
        found = torch.empty(self.table.rows, self.slots, dtype=torch.int64)
        for part in self.table.parts():
            left = self.space[0, : len(found[part])]
            self.table.read(part, left)
            ring, found[part] = clocks(left, self.generator).topk(self.slots, 1, largest=False)
            if not bool((ring[:, -1].abs() < -0.5 * FLOOR).all()):
                refuse(self.table.whole(), self.slots)
        return found


def _places(drawn: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    """Return the slot of each draw, K for a repeat or one too many, and how many slots are then full."""
    draws = drawn.shape[1]
    earlier = torch.ones(draws, draws, dtype=torch.bool).tril_(-1)
    new = ~(drawn.unsqueeze(2) == drawn.unsqueeze(1)).logical_and_(earlier).any(2)
    count = new.cumsum(1)
    place = (count - 1).masked_fill_(~new, slots).clamp_max_(slots)
    return place, count[:, -1].clamp_max(slots)


def refuse(logits: Tensor, slots: int) -> None:
    """Say which row cannot be drawn from.

    Raises:
        BadInput: always.
    """
    wrong = logits.isnan() | logits.isposinf()
    if bool(wrong.any()):
        row, column = wrong.nonzero()[0].tolist()
        value = float(logits[row, column])
        raise BadInput(f"row {row} has the logit {value} at column {column}; it must be finite or -inf")
    count = logits.isfinite().sum(1)
    row = int(count.argmin())
    raise BadInput(f"row {row} has {int(count[row])} candidates, but the slate has {slots} slots")
