"""Plackett–Luce, fused: slot log-probabilities, slot entropies and their gradient, and fast exact samples.

P(slate) = Π_k exp(ℓ_{a_k}) / Σ_{i not shown above k} exp(ℓ_i)   (Plackett 1975; Luce 1959).

`simlab.slates.PlackettLuce` says the same by plain autograd. This is for learners, which need the gradient
for thousands of rows of a thousand candidates: nothing of the size of the logits is kept between forward and
backward, and rows are worked off a few at a time, so that they stay in the processor's cache.

Sums over what is left at a slot start from what is never shown, and add the shown items from the last slot
up. So nothing is the difference of two large sums, and gaps of any size between logits are safe.
"""

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from agents.maths import _kernels
from agents.maths._draws import drawn, race
from agents.maths._tables import FLOOR, Product, Table

Entropy = Literal["slots", "first", "slate"]


def slot_log_probs(
    logits: Float[Tensor, "user cand"] | Product,
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
        logits: scores, -inf where a candidate may not be shown; the gradient there is exactly zero. Of a
            product the gradient goes to both factors, and nothing of the size of the logits is made.
        columns: slates without repeats. A masked candidate gets -inf, and passes no gradient on.
        entropy: which entropy.
    """
    log_prob, entropies = _slots(logits, columns, entropy is not None)
    if entropy is None or entropy == "first":
        return log_prob, entropies[:, 0]
    if entropy == "slate":
        return log_prob, entropy_surrogate(log_prob, entropies)
    return log_prob, entropies.sum(1)


def slot_entropies(
    logits: Float[Tensor, "user cand"] | Product, columns: Int[Tensor, "user slot"]
) -> tuple[Float[Tensor, "user slot"], Float[Tensor, "user slot"]]:
    """Return log P(a_k | above) and H_k, the entropy of the softmax over what is left at slot k."""
    return _slots(logits, columns, True)


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


def _slots(logits: Tensor | Product, columns: Tensor, wanted: bool) -> tuple[Tensor, Tensor]:
    """Work in single precision at least."""
    logits = _single(logits)
    given, vectors = (logits.state, logits.vectors) if isinstance(logits, Product) else (logits, None)
    log_prob, entropies = _Slots.apply(given, vectors, columns, wanted)  # type: ignore[no-untyped-call]
    return log_prob, entropies


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
    def forward(
        ctx: Any, given: Tensor, vectors: Tensor | None, columns: Tensor, wanted: bool
    ) -> tuple[Tensor, Tensor]:
        rows, slots = columns.shape
        table = Table(given, vectors)
        picked = given.new_empty(rows, slots)
        top = given.new_empty(rows, 1)  # the largest of the never shown
        mass = given.new_empty(rows, 1)  # Σ exp(ℓ - top) over the never shown
        mean = given.new_zeros(rows, 1)  # Σ exp(ℓ - top) (ℓ - top) over the never shown
        if table.compiled:
            space = table.space(1)[0]
            for part in table.parts():
                tile = table.tile(part, space)
                torch.gather(tile, 1, columns[part], out=picked[part])
                torch.amax(tile, 1, keepdim=True, out=top[part])
                about = (top[part].clamp_min_(FLOOR), mass[part], mean[part])
                _kernels.each(
                    _kernels.unshown, len(tile), tile, columns[part], *(x.squeeze(1) for x in about)
                )
            picked.clamp_min_(FLOOR)
        else:
            _Slots._unshown(table, columns, picked, top, mass, mean if wanted else None)
        dead = picked <= FLOOR
        chosen = picked.T.contiguous()  # [slot user]
        left = given.new_empty(slots + 1, rows)  # Z
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
        ctx.save_for_backward(given, vectors, columns, dead, top, mass, own, other, entropies)
        ctx.wanted = wanted
        out = entropies[:-1].T.contiguous()
        if not wanted:
            ctx.mark_non_differentiable(out)
        return own.T.masked_fill(dead, -torch.inf), out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, of_log_prob: Tensor, of_entropy: Tensor
    ) -> tuple[Tensor, Tensor | None, None, None]:
        given, vectors, columns, dead, top, mass, own, other, entropies = ctx.saved_tensors
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
        table, out = Table(given, vectors), torch.empty_like(given)
        of_vectors = None if vectors is None else torch.zeros_like(vectors)
        space = table.space()
        for part in table.parts():
            of_logits = out[part] if vectors is None else space[1, : len(columns[part])]
            if table.compiled:
                about = [columns[part], *(x[part].squeeze(1) for x in (top, level, slope)), of_chosen[part]]
                tile = table.tile(part, space[0])
                _kernels.each(_kernels.pulled, len(tile), tile, *about, of_logits)
            else:
                shifted, weight = space[:, : len(columns[part])]
                table.read(part, shifted)
                shifted.scatter_(1, columns[part], FLOOR)
                table.exp(shifted.sub_(top[part]), weight)
                torch.mul(weight, shifted.mul_(slope[part]).add_(level[part]), out=of_logits)
                of_logits.scatter_(1, columns[part], of_chosen[part])
            if vectors is not None and of_vectors is not None:
                torch.mm(of_logits, vectors, out=out[part])
                of_vectors.addmm_(of_logits.T, given[part])
        return out, of_vectors, None, None

    @staticmethod
    def _unshown(
        table: Table, columns: Tensor, picked: Tensor, top: Tensor, mass: Tensor, mean: Tensor | None
    ) -> None:
        """Measure what is never shown, by tensors: what the kernel of this name does."""
        space = table.space()
        for part in table.parts():
            shifted, weight = space[:, : len(columns[part])]
            table.read(part, shifted)
            torch.gather(shifted, 1, columns[part], out=picked[part])
            shifted.scatter_(1, columns[part], FLOOR)
            torch.amax(shifted, 1, keepdim=True, out=top[part])
            table.exp(shifted.sub_(top[part]), weight)
            torch.sum(weight, 1, keepdim=True, out=mass[part])
            if mean is not None:
                torch.sum(shifted.mul_(weight), 1, keepdim=True, out=mean[part])


def gumbel_top_k(
    logits: Float[Tensor, "user cand"] | Product, slots: int, generator: torch.Generator | None = None
) -> Int[Tensor, "user slot"]:
    """Draw one slate for each row, exactly as Gumbel top-k does (Yellott 1977; Kool et al. 2019, section 3).

    On a CPU: draw with replacement by inverting the cumulative softmax, and keep the first of each. Leaving
    out repeats is drawing again until the item is new, which is the softmax over what is left, so the law is
    the same. Where what is drawn is nearly all of the mass, the rest is weighed anew, so peaked logits cost
    time, not exactness. On another device, and for double precision: noise for every candidate, and the K
    best.

    Args:
        logits: scores, -inf where a candidate may not be shown.
        slots: K.
        generator: of torch, on the device of the logits; the global one if None.

    Raises:
        BadInput: naming the row that has fewer candidates than slots, or whose best logit is not finite.
    """
    logits = _single(logits)
    if _compiled(logits):
        return drawn(Table.of(logits), slots, generator)[0]
    return race(_whole(logits), slots, generator)


def random_slates(
    mask: Bool[Tensor, "user cand"], slots: int, generator: torch.Generator | None = None
) -> Int[Tensor, "user slot"]:
    """Draw one slate for each row, all slates of allowed candidates alike.

    Raises:
        BadInput: naming the row that has fewer candidates than slots.
    """
    alike = torch.zeros(1, 1, device=mask.device).expand(mask.shape)
    return gumbel_top_k(alike.masked_fill(~mask, -torch.inf), slots, generator)


@torch.no_grad()
def draw_slates(
    logits: Float[Tensor, "user cand"] | Product, slots: int, generator: torch.Generator | None = None
) -> tuple[Int[Tensor, "user slot"], Float[Tensor, "user slot"]]:
    """Draw what `gumbel_top_k` draws, and return log P(a_k | above) of each slot beside it.

    Args:
        logits: scores, -inf where a candidate may not be shown.
        slots: K.
        generator: of torch, on the device of the logits; the global one if None.

    Raises:
        BadInput: as `gumbel_top_k`.
    """
    logits = _single(logits)
    if _compiled(logits):
        return drawn(Table.of(logits), slots, generator)
    whole = _whole(logits)
    columns = race(whole, slots, generator)
    return columns, slot_log_probs(whole, columns, None)[0]


def _compiled(logits: Tensor | Product) -> bool:
    return Table.of(logits).compiled


def _whole(logits: Tensor | Product) -> Tensor:
    return logits.whole() if isinstance(logits, Product) else logits


def _single(logits: Tensor | Product) -> Tensor | Product:
    """Return half precision as single."""
    half = (torch.float16, torch.bfloat16)
    if isinstance(logits, Product):
        return Product(logits.state.float(), logits.vectors.float()) if logits.state.dtype in half else logits
    return logits.float() if logits.dtype in half else logits
