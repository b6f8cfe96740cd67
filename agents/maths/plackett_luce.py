"""Plackett–Luce, fused: slot log-probabilities, slot entropies and their gradient, and fast exact samples.

P(slate) = Π_k exp(ℓ_{a_k}) / Σ_{i not shown above k} exp(ℓ_i)   (Plackett 1975; Luce 1959).

`simlab.slates.PlackettLuce` says the same by plain autograd. This is for learners, which need the gradient
for thousands of rows of a thousand candidates: nothing of the size of the logits is kept between forward and
backward, and rows are worked off a few at a time, so that they stay in the processor's cache.

Sums over what is left at a slot start from what is never shown, and add the shown items from the last slot
up. So nothing is the difference of two large sums, and gaps of any size between logits are safe.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from simlab.errors import BadInput

FLOOR = -1e30
"""Stands for -inf inside: zero times it is zero, not NaN."""
LOWEST = -80.0
"""Candidates this far below the best of the never shown have no weight among these (e^-80 is 2e-35)."""
CACHE = 1 << 17
"""Numbers of logits that are worked off together on a CPU."""
DRAWS = 6
"""Draws with replacement beyond the slots that a first round makes."""
RACE_BELOW = 12
"""Candidates per slot below which noise for every candidate is cheaper than drawing with replacement."""

Entropy = Literal["slots", "first", "slate"]


def slot_log_probs(
    logits: Float[Tensor, "user cand"],
    columns: Int[Tensor, "user slot"],
    entropy: Entropy | None = "slots",
) -> tuple[Float[Tensor, "user slot"], Float[Tensor, " user"]]:
    """Return log P(a_k | what is above it) for each slot, and an entropy, both with an exact fast gradient.

    With H_k the entropy of the softmax over what is left at slot k, the entropy is one of

    - `"slots"`: Σ_k H_k along the given slate. Averaged over slates it is the slate's entropy (chain rule).
      Its gradient is the pathwise one: H_k as a function of the logits with the slate held fixed. It leaves
      out that the logits also change which slates are drawn, E[Σ_k H_k ∇ log P(a_1 … a_{k-1})].
    - `"slate"`: the same value, and an unbiased gradient of the slate's entropy (see `entropy_surrogate`),
      if the slates are drawn from these logits.
    - `"first"`: H_1, the entropy of the first slot: the same for every slate, and no estimate.
    - None: zeros without a gradient; the cost is saved.

    Args:
        logits: scores, -inf where a candidate may not be shown; the gradient there is exactly zero.
        columns: slates without repeats. A masked candidate gets -inf, and passes no gradient on.
        entropy: which entropy.
    """
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    log_prob, entropies = _Slots.apply(logits, columns, entropy is not None)  # type: ignore[no-untyped-call]
    if entropy is None or entropy == "first":
        return log_prob, entropies[:, 0]
    if entropy == "slate":
        return log_prob, entropy_surrogate(log_prob, entropies)
    return log_prob, entropies.sum(1)


def slot_entropies(
    logits: Float[Tensor, "user cand"], columns: Int[Tensor, "user slot"]
) -> tuple[Float[Tensor, "user slot"], Float[Tensor, "user slot"]]:
    """Return log P(a_k | above) and H_k, the entropy of the softmax over what is left at slot k."""
    log_prob, entropies = _Slots.apply(logits, columns, True)  # type: ignore[no-untyped-call]
    return log_prob, entropies


def entropy_surrogate(
    log_prob: Float[Tensor, "user slot"], entropies: Float[Tensor, "user slot"]
) -> Float[Tensor, " user"]:
    """Return Σ_k H_k with a gradient that is unbiased for the entropy of the slate.

    ∇H = E[ Σ_k ∇H_k + Σ_j ∇log P(a_j | above) · (Σ_{k>j} H_k - (K-j) H_j) ], slots counted from 1.

    The first sum is the pathwise part, the second the score-function part. What is subtracted there depends
    on the items above slot j only, so it changes no expectation; it guesses that later slots are as open as
    this one, which leaves little variance.

    Args:
        log_prob: of each slot, from `slot_entropies`, for slates drawn from the very same logits.
        entropies: H_k, from the same call.
    """
    fixed = entropies.detach()
    slots = fixed.shape[1]
    below = torch.arange(slots - 1, -1, -1, device=fixed.device, dtype=fixed.dtype)
    later = fixed.flip(1).cumsum(1).flip(1) - fixed
    score = log_prob - log_prob.detach()
    return (entropies + score.nan_to_num(0.0) * (later - below * fixed)).sum(1)


def slate_entropy_surrogate(
    logits: Float[Tensor, "user cand"], columns: Int[Tensor, "user slot"]
) -> Float[Tensor, " user"]:
    """Return Σ_k H_k of drawn slates, with an unbiased gradient of the slate's entropy."""
    return slot_log_probs(logits, columns, "slate")[1]


class _Slots(torch.autograd.Function):
    """Slot log-probabilities and slot entropies.

    Let R be the log-mass that is never shown and Z_k the log-mass left at slot k: Z_{K+1} = R and
    Z_k = log(e^{Z_{k+1}} + e^{ℓ_{a_k}}). With p_k = e^{ℓ_{a_k} - Z_k} and q_k = 1 - p_k = e^{Z_{k+1} - Z_k},

        H_k = -p_k log p_k - q_k log q_k + q_k H_{k+1},

    the chain rule of entropy, where H_{K+1} is that of the softmax over what is never shown. For upstream
    gradients g_k of log P(a_k) and h_k of H_k, an item i that is left up to and including slot j gets

        -e^{ℓ_i - Z_j} · (A_j + (ℓ_i - Z_j) B_j),   B_j = h_j + q_{j-1} B_{j-1},
        A_j = g_j + h_j H_j + q_{j-1} (A_{j-1} + (Z_j - Z_{j-1}) B_{j-1}),

    plus g_j where it is the one chosen at j. What is never shown is left up to slot K+1, with g = h = 0.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, columns: Tensor, wanted: bool) -> tuple[Tensor, Tensor]:
        rows, slots = columns.shape
        top = logits.new_empty(rows, 1)  # the largest of the never shown
        mass = logits.new_empty(rows, 1)  # Σ exp(ℓ - top) over the never shown
        mean = logits.new_zeros(rows, 1)  # Σ exp(ℓ - top) (ℓ - top) over the never shown
        space = _space(logits)
        for part in _parts(logits):
            shifted, weight = space[:, : len(columns[part])]
            _rest(logits[part], columns[part], shifted)
            torch.amax(shifted, 1, keepdim=True, out=top[part])
            _exp(shifted.sub_(top[part]), weight)
            torch.sum(weight, 1, keepdim=True, out=mass[part])
            if wanted:
                mean[part] = torch.linalg.vecdot(weight, shifted).unsqueeze(1)
        picked = logits.gather(1, columns)
        dead = picked <= FLOOR
        chosen = picked.clamp_min(FLOOR).T.contiguous()  # [slot user]
        left = logits.new_empty(slots + 1, rows)  # Z
        left[slots] = (top + mass.log()).squeeze(1)
        for k in range(slots - 1, -1, -1):
            torch.logaddexp(left[k + 1], chosen[k], out=left[k])
        own = chosen - left[:-1]  # log p_k
        other = left[1:] - left[:-1]  # log q_k
        entropies = torch.zeros_like(left)
        if wanted:
            stay = other.exp()
            entropies[slots] = (mass.log() - mean / mass).squeeze(1)
            split = -(own.exp() * own) - stay * other
            for k in range(slots - 1, -1, -1):
                torch.addcmul(split[k], stay[k], entropies[k + 1], out=entropies[k])
        ctx.save_for_backward(logits, columns, dead, top, mass, own, other, entropies)
        ctx.wanted = wanted
        out = entropies[:-1].T.contiguous()
        if not wanted:
            ctx.mark_non_differentiable(out)
        return own.T.masked_fill(dead, -torch.inf), out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_log_prob: Tensor, of_entropy: Tensor) -> tuple[Tensor, None, None]:
        logits, columns, dead, top, mass, own, other, entropies = ctx.saved_tensors
        slots = columns.shape[1]
        g = of_log_prob.masked_fill(dead, 0.0).T.contiguous()  # [slot user]
        stay = other.exp()
        a = torch.empty_like(entropies)
        b = torch.zeros_like(entropies)
        a[:slots] = g
        a[slots] = 0.0
        if ctx.wanted:
            b[:slots] = of_entropy.T
            a.addcmul_(b, entropies)
            for k in range(1, slots + 1):
                b[k].addcmul_(stay[k - 1], b[k - 1])
                a[k].addcmul_(stay[k - 1], torch.addcmul(a[k - 1], other[k - 1], b[k - 1]))
        else:
            for k in range(1, slots + 1):
                a[k].addcmul_(stay[k - 1], a[k - 1])
        of_chosen = (g - own.exp() * torch.addcmul(a[:-1], own, b[:-1])).T.masked_fill(dead, 0.0)
        # Over the never shown: -(weight / mass) · (a + (shifted - log mass) b).
        slope = -b[slots].unsqueeze(1) / mass
        level = -a[slots].unsqueeze(1) / mass - slope * mass.log()
        out = torch.empty_like(logits)
        space = _space(logits)
        for part in _parts(logits):
            shifted, weight = space[:, : len(columns[part])]
            _rest(logits[part], columns[part], shifted)
            _exp(shifted.sub_(top[part]), weight)
            if ctx.wanted:
                torch.mul(weight, shifted.mul_(slope[part]).add_(level[part]), out=out[part])
            else:
                torch.mul(weight, level[part], out=out[part])
            out[part].scatter_(1, columns[part], of_chosen[part])
        return out, None, None


def _size(logits: Tensor) -> int:
    """Return how many rows are worked off together: on a CPU as many as its cache takes, else all."""
    rows, cands = logits.shape
    return max(1, min(rows, CACHE // cands) if logits.device.type == "cpu" else rows)


def _parts(logits: Tensor) -> Iterator[slice]:
    """Cut the rows into parts."""
    size = _size(logits)
    return (slice(start, start + size) for start in range(0, len(logits), size))


def _space(logits: Tensor) -> Tensor:
    """Return two tables for the rows of a part, used again for each: fresh memory is slow to touch."""
    return logits.new_empty(2, _size(logits), logits.shape[1])


def _rest(logits: Tensor, columns: Tensor, out: Tensor) -> None:
    """Copy the logits, with the floor for what is shown or masked."""
    torch.clamp_min(logits, FLOOR, out=out).scatter_(1, columns, FLOOR)


def _exp(shifted: Tensor, out: Tensor) -> None:
    """Take the exponential, and zero for -80 or less: some libraries are 100 times slower on underflow."""
    torch.exp(shifted.clamp_min_(LOWEST), out=out)
    torch.threshold_(out, 2.0 * math.exp(LOWEST), 0.0)


def gumbel_top_k(
    logits: Float[Tensor, "user cand"], slots: int, generator: torch.Generator | None = None
) -> Int[Tensor, "user slot"]:
    """Draw one slate for each row, exactly as Gumbel top-k does (Yellott 1977; Kool et al. 2019, section 3).

    Few candidates, or another device than the CPU: noise for every candidate, and the K best. Many
    candidates on a CPU, where that noise is most of the cost: draw with replacement by inverting the
    cumulative softmax, and keep the first of each. Leaving out repeats is drawing again until the item is
    new, which is the softmax over what is left, so the law is the same. Rows that found too few different
    items go on with what is left, shifted anew, so peaked logits cost more rounds, not exactness.

    Args:
        logits: scores, -inf where a candidate may not be shown.
        slots: K.
        generator: of torch, on the device of the logits; the global one if None.

    Raises:
        BadInput: naming the row that has fewer candidates than slots, or whose best logit is not finite.
    """
    logits = logits.detach()
    if logits.device.type != "cpu" or logits.shape[1] < RACE_BELOW * slots:
        return _race(logits, slots, generator)
    return _Inversion(logits, slots, generator).sample()


def _race(logits: Tensor, slots: int, generator: torch.Generator | None) -> Tensor:
    """Let exponential clocks of rate exp(ℓ) ring; the first K, in order, are the slate."""
    if logits.shape[1] < slots:
        raise BadInput(f"row 0 has {logits.shape[1]} candidates, but the slate has {slots} slots")
    if logits.device.type == "cpu":  # three times as fast there as `exponential_`, and 53 bits deep
        noise = torch.rand(logits.shape, dtype=torch.float64, generator=generator).log_().neg_()
    else:
        noise = torch.empty_like(logits).exponential_(generator=generator)
    clock = noise.to(logits.dtype).log_().sub_(logits)
    first, columns = clock.topk(slots, dim=1, largest=False)
    if logits.device.type == "cpu" and not bool(first[:, -1:].isfinite().all()):
        _refuse(logits, slots)
    return columns


class _Inversion:
    """Draw with replacement until each row has K different columns, in the order of their first draw."""

    def __init__(self, logits: Tensor, slots: int, generator: torch.Generator | None) -> None:
        self.logits = logits
        self.slots = slots
        self.generator = generator
        self.space = _space(logits)
        self.total = torch.empty(self.space.shape[1:], dtype=torch.float64)
        draws = slots + DRAWS
        self.earlier = torch.ones(draws, draws, dtype=torch.bool).tril_(-1)

    def sample(self) -> Tensor:
        """Go round by round until no row is short."""
        rows, slots = len(self.logits), self.slots
        out = torch.zeros(rows, slots + 1, dtype=torch.int64)  # the last column takes what is not wanted
        found = torch.zeros(rows, dtype=torch.int64)
        for part in _parts(self.logits):
            self._round(self.logits[part], out[part], found[part])
        place = torch.arange(slots)
        while len(short := (found < slots).nonzero().squeeze(1)) > 0:
            for part in _parts(self.logits[: len(short)]):
                who = short[part]
                drawn, have = out[who], found[who]
                known = torch.where(place < have.unsqueeze(1), drawn[:, :slots], drawn[:, :1])
                self._round(self.logits[who].scatter_(1, known, -torch.inf), drawn, have)
                out[who], found[who] = drawn, have
        return out[:, :slots]

    def _round(self, left: Tensor, out: Tensor, found: Tensor) -> None:
        """Draw K and some from the softmax over what is left, and write the new ones in place."""
        rows, cands = left.shape
        highest = left.amax(1, keepdim=True)
        if not bool(highest.isfinite().all()):
            _refuse(self.logits, self.slots)
        shifted, weight = self.space[:, :rows]
        _exp(torch.sub(left, highest, out=shifted), weight)
        total = self.total[:rows].copy_(weight)  # double, or the rare would be rounded away
        torch.cumsum(total, 1, out=total)
        point = torch.rand(rows, len(self.earlier), dtype=torch.float64, generator=self.generator)
        drawn = torch.searchsorted(total, point.mul_(total[:, -1:]), right=True).clamp_max_(cands - 1)
        new = ~(drawn.unsqueeze(2) == drawn.unsqueeze(1)).logical_and_(self.earlier).any(2)
        place = new.cumsum(1).add_(found.unsqueeze(1)).sub_(1).masked_fill_(~new, self.slots)
        out.scatter_(1, place.clamp_max_(self.slots), drawn)
        found.add_(new.sum(1)).clamp_max_(self.slots)


def _refuse(logits: Tensor, slots: int) -> None:
    """Say which row cannot be drawn from."""
    wrong = logits.isnan() | logits.isposinf()
    if bool(wrong.any()):
        row, column = wrong.nonzero()[0].tolist()
        value = float(logits[row, column])
        raise BadInput(f"row {row} has the logit {value} at column {column}; it must be finite or -inf")
    count = logits.isfinite().sum(1)
    row = int(count.argmin())
    raise BadInput(f"row {row} has {int(count[row])} candidates, but the slate has {slots} slots")
