"""Plackett–Luce with a memory: what stands above makes more of its kind less (or more) likely.

P(a_k = i | above) = exp(ℓ_i - φ_{g(i)}(n_{g(i)})) / Σ_{j not above} exp(ℓ_j - φ_{g(j)}(n_{g(j)})),

where g(i) is the group of item i and n_g counts the items of group g above slot k. Penalties of zero give
Plackett–Luce.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simlab.errors import BadInput
from simlab.seeds import Generator, Seed, uniforms
from simlab.slates.contract import SlateDistribution, check_slots, masked, repeated

FLOOR = -1e30
"""Stands for -inf inside: zero times it is zero, not NaN."""
LOWEST = -80.0
"""Candidates this far below the best of the never shown have no mass (e^-80 is 2e-35)."""
STEEPEST = 20.0
"""The largest penalty. Two groups move at most 40 apart, so what has no mass has at most e^-40 of it."""
CACHE = 1 << 17
"""Numbers of logits that are worked off together on a CPU."""
SETS_UP_TO = 8
"""Candidates up to which slot marginals are sums over sets; above, they are estimated."""
DRAWS = 512
"""Slates behind an estimate of slot marginals."""


class GroupedPlackettLuce(SlateDistribution):
    """Plackett–Luce over logits, less a penalty for each item of the same group above.

    A slate of an independent softmax cannot avoid a third item of a topic; this one can, and it stays exact:
    the softmax over what is left is one over groups, then one within a group, so `log_prob` costs O(cand)
    for a whole slate. Within a group the order is Plackett–Luce, whatever stands between; so `sample` ranks
    each group once by Gumbel noise and then draws groups. A group that is used up has no chance.

    `mode` fills the slate greedily, slot by slot; with penalties that need not be the likeliest slate. Slot
    marginals have no closed form: up to `SETS_UP_TO` candidates they are exact (sums over sets); above, they
    are the mean of P(candidate at slot | above) over `DRAWS` slates of a fixed seed (`marginals_error`).

    Source: ours. The idea of marking down what is like the items above is maximal marginal relevance
    (Carbonell and Goldstein 1998, "The use of MMR, diversity-based reranking", SIGIR); here it is a
    distribution whose penalties can be learned.

    Args:
        logits: any real scores; float32 or float64.
        slots: K.
        group: of each candidate, from 0.
        penalty: φ_g(n) for n = 0 … K - 1 items of the group above; at most 20 in size.
        mask: True where a candidate may be shown; all by default.
        check: whether to look at groups and penalties; a learner's own are right as they are made.

    Raises:
        BadInput: if a row has fewer candidates than slots, for a group without a penalty, or a penalty that
            is not within ±20.
    """

    def __init__(
        self,
        logits: Float[Tensor, "user cand"],
        slots: int,
        group: Int[Tensor, "user cand"],
        penalty: Float[Tensor, "user group slot"],
        mask: Bool[Tensor, "user cand"] | None = None,
        *,
        check: bool = True,
    ) -> None:
        free = torch.ones(1, 1, dtype=torch.bool).expand(1, logits.shape[1]) if mask is None else mask
        check_slots(free, slots)
        if mask is not None:
            logits = masked(logits, mask)
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        if check:
            _check(logits, group, penalty, slots)
        self.logits, self.slots, self.group, self.penalty = logits, slots, group, penalty.to(logits.dtype)

    @property
    def exact_marginals(self) -> bool:
        """Whether slot marginals are exact, not an estimate."""
        return self.slots == 1 or self.logits.shape[1] <= SETS_UP_TO

    def sample(self, generator: Generator) -> Int[Tensor, "user slot"]:
        """Draw exactly: rank each group by Gumbel noise, then draw the group of each slot."""
        rows, cands = self.logits.shape
        device = self.logits.device
        noise = uniforms(generator, "plackett-luce", rows, cands, device).log_().neg_().log_().neg_()
        shape = (rows, self.slots, self.penalty.shape[1])
        which = uniforms(generator, "plackett-luce groups", rows, shape[1] * shape[2], device)
        gumbel = which.log_().neg_().log_().neg_().view(shape)
        with torch.no_grad():
            return self._fill(self.logits + noise.to(self.logits.dtype), gumbel)

    def mode(self) -> Int[Tensor, "user slot"]:
        """Return the greedy slate: at each slot the likeliest of what is left; ties to the lower column."""
        with torch.no_grad():
            return self._fill(self.logits, None)

    def _fill(
        self, score: Float[Tensor, "user cand"], gumbel: Float[Tensor, "user slot group"] | None
    ) -> Int[Tensor, "user slot"]:
        """Take the best of a group each time: of the group drawn, or of the one whose best item is likeliest.

        Args:
            score: what orders the items of a group.
            gumbel: noise of each slot's groups; None to be greedy.
        """
        ranked, worth = self._ranked(score, greedy=gumbel is None)  # [user group rank]
        rows, groups, _ = ranked.shape
        count = torch.zeros(rows, groups, 1, dtype=torch.int64, device=score.device)
        at = torch.arange(rows, device=score.device)
        out = torch.empty(rows, self.slots, dtype=torch.int64, device=score.device)
        for k in range(self.slots):
            now = (worth.gather(2, count) - self.penalty.gather(2, count)).squeeze(2)
            if gumbel is not None:
                now = now + gumbel[:, k]
            if not bool((now.amax(1) > -torch.inf).all()):
                self._refuse(now)
            best = now.argmax(1) if gumbel is not None else self._first(now, ranked.gather(2, count))
            place = count[at, best, 0]
            out[:, k] = ranked[at, best, place]
            # A group of fewer than K items ends with rows of no worth, so the count stays within.
            count[at, best, 0] = (place + 1).clamp_max(self.slots - 1)
        return out

    def _refuse(self, now: Float[Tensor, "user group"]) -> None:
        """Say which row has nothing left to show, or logits that are no numbers."""
        row = int((~(now.amax(1) > -torch.inf)).nonzero()[0])
        wrong = (self.logits[row].isnan() | self.logits[row].isposinf()).nonzero()
        if len(wrong):
            column = int(wrong[0])
            value = float(self.logits[row, column])
            raise BadInput(f"row {row} has the logit {value} at column {column}; it must be finite or -inf")
        if not bool(self.penalty[row].isfinite().all()):
            raise BadInput(f"row {row} has a penalty that is not finite")
        count = int(self.logits[row].isfinite().sum())
        raise BadInput(f"row {row} has {count} candidates, but the slate has {self.slots} slots")

    def _first(
        self, now: Float[Tensor, "user group"], item: Int[Tensor, "user group 1"]
    ) -> Int[Tensor, " user"]:
        """Return the group of the likeliest item; among ties that of the lowest column."""
        best = now.amax(1, keepdim=True)
        return torch.where(now == best, item.squeeze(2), self.logits.shape[1]).argmin(1)

    def _ranked(
        self, score: Float[Tensor, "user cand"], greedy: bool
    ) -> tuple[Int[Tensor, "user group slot"], Float[Tensor, "user group slot"]]:
        """Return the K best of each group, and the log-mass (or logit) of what is left of it at each rank."""
        rows, groups = len(score), self.penalty.shape[1]
        column = torch.zeros(rows, groups, self.slots, dtype=torch.int64, device=score.device)
        worth = score.new_full((rows, groups, self.slots), -torch.inf)
        logits, shared = self.logits, _same(self.group) and rows > 0
        if shared:  # groups side by side, so that each is a slice
            place = self.group[0].argsort(stable=True)
            score, logits = score.index_select(1, place), logits.index_select(1, place)
            ends = torch.bincount(self.group[0], minlength=groups).cumsum(0).tolist()
        for g in range(groups):
            if shared:
                inside = slice(ends[g - 1] if g else 0, ends[g])
                own, logit = score[:, inside], logits[:, inside]
            else:
                other = self.group != g
                own, logit = score.masked_fill(other, -torch.inf), logits.masked_fill(other, -torch.inf)
            few = min(self.slots, own.shape[1])
            if not few:
                continue
            order = own.argsort(dim=1, descending=True, stable=True) if greedy else own.topk(few).indices
            order = order[:, :few]
            kept = logit.gather(1, order)
            if not greedy:
                rest = logit.scatter(1, order, -torch.inf).logsumexp(1, keepdim=True)
                terms = torch.cat([rest, kept.flip(1)], 1).clamp_min(FLOOR)
                kept = terms.logcumsumexp(1)[:, 1:].flip(1)
                kept = kept.masked_fill(kept <= FLOOR / 2, -torch.inf)
            column[:, g, :few] = place[inside][order] if shared else order
            worth[:, g, :few] = kept
        return column, worth

    def log_prob(self, columns: Int[Tensor, "user slot"]) -> Float[Tensor, " user"]:
        """Return the log-probability of each slate; in float64 where no gradient is asked for."""
        plain = not (self.logits.requires_grad or self.penalty.requires_grad)
        found = self._double() if plain else self
        return (
            found.slot_log_probs(columns, entropy=False)[0].sum(1).masked_fill(repeated(columns), -torch.inf)
        )

    def slot_log_probs(
        self, columns: Int[Tensor, "user slot"], entropy: bool = True
    ) -> tuple[Float[Tensor, "user slot"], Float[Tensor, "user slot"]]:
        """Return log P(a_k | above) and the entropy of slot k given what is above, with gradients.

        Args:
            columns: slates without repeats; a masked candidate gets -inf.
            entropy: False leaves the entropies out: zeros.
        """
        groups = self.penalty.shape[1]
        picked = self.logits.gather(1, columns)
        dead = picked.isneginf()
        chosen = picked.clamp_min(FLOOR)
        group = self.group.gather(1, columns)
        rest, mean, top = _Rest.apply(self.logits, columns, self.group, groups)  # type: ignore[no-untyped-call]
        is_of = group.unsqueeze(2) == torch.arange(groups, device=group.device)  # [user slot group]
        count = is_of.long().cumsum(1) - is_of.long()
        fine = -self.penalty.gather(2, count.transpose(1, 2)).transpose(1, 2)  # -φ of each group at slot k
        fine_of = fine.gather(2, group.unsqueeze(1).expand(-1, self.slots, -1))  # of the item of slot j
        # In units of the best that is left at slot k: no weight overflows, and one of them is 1.
        level = torch.cat([top, chosen.detach().flip(1)], 1).cummax(1).values[:, 1:].flip(1)
        here = torch.ones(self.slots, self.slots, dtype=torch.bool, device=group.device).triu()
        above = torch.where(here, chosen.unsqueeze(1) - level.unsqueeze(2), LOWEST * 2)
        share = (above + fine_of).exp() * (above > LOWEST * 2)  # of what is chosen at k or below
        never = (rest.unsqueeze(1) - level.unsqueeze(2) + fine).exp()
        total = share.sum(2) + never.sum(2)
        own = chosen - level + fine.gather(2, group.unsqueeze(2)).squeeze(2)
        log_prob = (own - total.log()).masked_fill(dead, -torch.inf)
        if not entropy:
            return log_prob, torch.zeros_like(log_prob)
        # H = log Σ - E[ℓ - φ], over the never shown by their groups, and over the chosen that are still left.
        inside = never * ((mean.unsqueeze(1) - level.unsqueeze(2)).masked_fill(never == 0, 0.0) + fine)
        chosen_part = share * (above.masked_fill(share == 0, 0.0) + fine_of)
        return log_prob, total.log() - (inside.sum(2) + chosen_part.sum(2)) / total

    def slot_marginals(self) -> Float[Tensor, "user slot cand"]:
        """Return P(candidate at slot); float64, without a gradient."""
        with torch.no_grad():
            if self.slots == 1:
                fine = self.penalty[:, :, 0].gather(1, self.group).double()
                return (self.logits.double() - fine).softmax(1).unsqueeze(1)
            if self.exact_marginals:
                return self._over_sets()
            exact, shape = self._double(), (len(self.logits), self.slots, self.logits.shape[1])
            total = torch.zeros(shape, dtype=torch.float64, device=self.logits.device)
            for drawn in exact._drawn():
                total += exact._given_above(drawn)
            return total / DRAWS

    def marginals(self, columns: Int[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return P(candidate at slot) for the given slate; an estimate is never 0 where the slate can be."""
        if self.exact_marginals:
            return super().marginals(columns)
        return self._marginals(columns)[0]

    def marginals_error(self, columns: Int[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return the standard error of `marginals`: zero where they are exact.

        Where the item stood above in nearly all drawn slates, few of them say anything: the error is then at
        least the mean over √DRAWS.
        """
        if self.exact_marginals:
            return torch.zeros(columns.shape, dtype=torch.float64, device=self.logits.device)
        return self._marginals(columns)[1]

    @torch.no_grad()
    def _marginals(
        self, columns: Int[Tensor, "user slot"]
    ) -> tuple[Float[Tensor, "user slot"], Float[Tensor, "user slot"]]:
        """Return the mean of P(item at slot | above) over drawn slates and this one, and its standard error.

        The given slate counts as one draw more. If it came from this distribution, that is a draw like the
        others; else it adds at most one part in DRAWS.
        """
        exact = self._double()
        first = second = torch.zeros(columns.shape, dtype=torch.float64, device=columns.device)
        for drawn in (*exact._drawn(), columns):
            chance = exact._at(columns, drawn)
            first, second = first + chance, second + chance.square()
        mean = first / (DRAWS + 1)
        spread = ((second / (DRAWS + 1) - mean.square()).clamp_min(0) / DRAWS).sqrt()
        sure = self._first_slot(columns)
        return mean, torch.maximum(spread, mean / DRAWS**0.5).masked_fill(sure, 0.0)

    def _first_slot(self, columns: Int[Tensor, "user slot"]) -> Bool[Tensor, "user slot"]:
        """Tell the first slot, above which nothing stands: its chance is exact."""
        return (torch.arange(self.slots, device=columns.device) == 0).expand(columns.shape)

    def _drawn(self) -> Iterator[Int[Tensor, "user slot"]]:
        """Draw slates that depend on a row's place in no way: every row has the same luck."""
        rows, device = len(self.logits), self.logits.device
        for draw in range(DRAWS):
            user = torch.full((rows,), draw, device=device)
            yield self.sample(Seed(0).split("marginals").at(user, torch.zeros_like(user)))

    def _at(
        self, columns: Int[Tensor, "user slot"], above: Int[Tensor, "user slot"]
    ) -> Float[Tensor, "user slot"]:
        """Return P(columns[k] at slot k | the items of another slate above slot k)."""
        given = GroupedPlackettLuce(self.logits, self.slots, self.group, self.penalty)
        log_prob = given.slot_log_probs(above, entropy=False)[0]
        groups = self.penalty.shape[1]
        group, own = self.group.gather(1, above), self.group.gather(1, columns)
        is_of = torch.nn.functional.one_hot(group, groups)
        count = (is_of.cumsum(1) - is_of).transpose(1, 2)
        fine = self.penalty.gather(2, count).transpose(1, 2)  # [user slot group]
        worth = self.logits.gather(1, columns) - fine.gather(2, own.unsqueeze(2)).squeeze(2)
        shown = self.logits.gather(1, above) - fine.gather(2, group.unsqueeze(2)).squeeze(2)
        before = (above.unsqueeze(1) == columns.unsqueeze(2)) & torch.ones(
            self.slots, self.slots, dtype=torch.bool, device=columns.device
        ).tril(-1)
        # shown - log_prob is the log-mass of what is left at slot k.
        return (worth - (shown - log_prob)).exp().nan_to_num(0.0).masked_fill(before.any(2), 0.0)

    def _given_above(self, columns: Int[Tensor, "user slot"]) -> Float[Tensor, "user slot cand"]:
        """Return P(candidate at slot | what this slate has above the slot)."""
        count = torch.zeros(len(columns), self.penalty.shape[1], 1, dtype=torch.int64, device=columns.device)
        group, logits, out = self.group.gather(1, columns), self.logits.clone(), []
        for k in range(self.slots):
            fine = self.penalty.gather(2, count).squeeze(2).gather(1, self.group)
            out.append((logits - fine).softmax(1))
            logits.scatter_(1, columns[:, k : k + 1], -torch.inf)
            count.scatter_add_(1, group[:, k : k + 1].unsqueeze(2), torch.ones_like(count[:, :1]))
            count.clamp_max_(self.slots - 1)
        return torch.stack(out, 1)

    def _over_sets(self) -> Float[Tensor, "user slot cand"]:
        """Sum over the sets that may stand above each slot: P(set) flows from set to set plus one item."""
        exact = self._double()
        rows, cands = self.logits.shape
        device, groups = self.logits.device, self.penalty.shape[1]
        sets = torch.arange(1 << cands, device=device)
        inside = ((sets.unsqueeze(1) >> torch.arange(cands, device=device)) & 1).bool()  # [set cand]
        size = inside.sum(1)
        of = (self.group.unsqueeze(2) == torch.arange(groups, device=device)).double()  # [user cand group]
        out = torch.zeros(rows, self.slots, cands, dtype=torch.float64, device=device)
        mass = torch.zeros(rows, 1 << cands, dtype=torch.float64, device=device)
        mass[:, 0] = 1.0
        for k in range(self.slots):
            now = (size == k).nonzero().squeeze(1)
            count = (inside[now].double() @ of).long().transpose(1, 2)  # [user group set]
            fine = exact.penalty.gather(2, count.clamp_max(self.slots - 1))
            of_item = self.group.unsqueeze(2).expand(-1, -1, len(now))
            logit = exact.logits.unsqueeze(2) - fine.gather(1, of_item)  # [user cand set]
            logit = logit.masked_fill(inside[now].T, -torch.inf)
            flow = logit.softmax(1).nan_to_num(0.0).transpose(1, 2) * mass[:, now].unsqueeze(2)
            out[:, k] = flow.sum(1)
            if k + 1 < self.slots:
                into = now.unsqueeze(1) | (1 << torch.arange(cands, device=device))
                free = ~inside[now]
                mass.scatter_add_(1, into[free].expand(rows, -1), flow[:, free])
        return out

    def _double(self) -> "GroupedPlackettLuce":
        return GroupedPlackettLuce(
            self.logits.detach().double(), self.slots, self.group, self.penalty.detach().double()
        )


class _Rest(torch.autograd.Function):
    """Log-mass and mean logit of the never shown of each group, M_g = Σ e^ℓ and m_g = Σ e^ℓ ℓ / M_g.

    Beside them the largest logit of the never shown, which has no gradient.

    ∂ log M_g / ∂ℓ_i = e^{ℓ_i} / M_g and ∂ m_g / ∂ℓ_i = e^{ℓ_i} (1 + ℓ_i - m_g) / M_g. Nothing of the size of
    the logits is kept between forward and backward, and rows are worked off a few at a time.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, columns: Tensor, group: Tensor, groups: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows = len(logits)
        top = logits.new_empty(rows, 1)
        mass, moment = (logits.new_empty(rows, groups) for _ in range(2))
        side = _Side(group, groups, logits.dtype)
        for part in _parts(logits):
            far, weight = _weights(logits[part], columns[part], top[part])
            mass[part] = side.summed(weight, part)
            moment[part] = side.summed(weight.mul_(far), part)
        ctx.save_for_backward(logits, columns, group, top, mass, moment)
        empty = mass == 0
        log_mass = (mass.log() + top).masked_fill(empty, FLOOR)
        ctx.mark_non_differentiable(top)
        return log_mass, (moment / mass + top).masked_fill(empty, 0.0), top

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, of_log_mass: Tensor, of_mean: Tensor, of_top: Tensor
    ) -> tuple[Tensor, None, None, None]:
        logits, columns, group, top, mass, moment = ctx.saved_tensors
        empty = mass == 0
        slope = (of_mean / mass).masked_fill(empty, 0.0)
        level = ((of_log_mass + of_mean) / mass - slope * moment / mass).masked_fill(empty, 0.0)
        side = _Side(group, mass.shape[1], logits.dtype)
        out = torch.empty_like(logits)
        for part in _parts(logits):
            far, weight = _weights(logits[part], columns[part], top[part])
            far.mul_(side.spread(slope[part], part)).add_(side.spread(level[part], part))
            torch.mul(weight, far, out=out[part])
        return out, None, None, None


class _Side:
    """Sums over groups, and back: a matrix product where all rows have the same groups.

    Args:
        group: of each candidate.
        groups: how many.
        dtype: of the logits.
    """

    def __init__(self, group: Int[Tensor, "user cand"], groups: int, dtype: torch.dtype) -> None:
        self.group, self.groups = group, groups
        every = torch.arange(groups, device=group.device)
        self.table = (group[0].unsqueeze(1) == every).to(dtype) if len(group) and _same(group) else None

    def summed(self, x: Float[Tensor, "part cand"], part: slice) -> Float[Tensor, "part group"]:
        """Add up each group."""
        if self.table is not None:
            return x @ self.table
        return x.new_zeros(len(x), self.groups).scatter_add_(1, self.group[part], x)

    def spread(self, x: Float[Tensor, "part group"], part: slice) -> Float[Tensor, "part cand"]:
        """Give each candidate what is its group's."""
        return x.gather(1, self.group[part]) if self.table is None else x @ self.table.T


def _weights(logits: Tensor, columns: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
    """Return ℓ - top and its exponential for the never shown, zero for the rest; `top` is written."""
    far = torch.clamp_min(logits, FLOOR).scatter_(1, columns, FLOOR)
    torch.amax(far, 1, keepdim=True, out=top)
    far.sub_(top).clamp_min_(LOWEST)
    weight = far.exp()
    # Where all candidates are shown, every one of the floor is its own best: it has no mass.
    weight.masked_fill_((far <= LOWEST) | (top <= FLOOR / 2), 0.0)
    return far, weight


def _parts(logits: Tensor) -> Iterator[slice]:
    """Cut the rows into parts: on a CPU as many as its cache takes, else all."""
    rows, cands = logits.shape
    size = max(1, min(rows, CACHE // max(cands, 1)) if logits.device.type == "cpu" else rows)
    return (slice(start, start + size) for start in range(0, rows, size))


def _same(group: Tensor) -> bool:
    """Tell whether all rows have the same groups, by how the tensor was made."""
    return group.stride(0) == 0 or len(group) == 1


def _check(logits: Tensor, group: Tensor, penalty: Tensor, slots: int) -> None:
    if group.shape != logits.shape or len(penalty) != len(logits):
        raise BadInput(
            f"logits have shape {tuple(logits.shape)}, but groups {tuple(group.shape)} and penalties "
            f"{tuple(penalty.shape)}"
        )
    if penalty.shape[2] != slots:
        raise BadInput(f"penalties are for {penalty.shape[2]} items above, but a slate has {slots} slots")
    some = group[:1] if _same(group) else group
    if some.numel() and not (int(some.min()) >= 0 and int(some.max()) < penalty.shape[1]):
        row, column = ((some < 0) | (some >= penalty.shape[1])).nonzero()[0].tolist()
        raise BadInput(
            f"row {row}, column {column}: group {int(some[row, column])} has no penalty, there are "
            f"{penalty.shape[1]} from 0"
        )
    wrong = ~(penalty.detach().abs() <= STEEPEST)
    if bool(wrong.any()):
        row, of, n = wrong.nonzero()[0].tolist()
        raise BadInput(
            f"row {row}: the penalty of group {of} after {n} items is {float(penalty[row, of, n])}, but it "
            f"is within ±{STEEPEST:g}"
        )
