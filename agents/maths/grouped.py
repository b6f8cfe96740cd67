"""Plackett–Luce with groups, for learners: `simlab.slates.GroupedPlackettLuce`, row by row on a CPU.

P(a_k = i | above) = exp(ℓ_i - φ_{g(i)}(n_{g(i)})) / Σ_{j not above} exp(ℓ_j - φ_{g(j)}(n_{g(j)})): each item
above of an item's group takes something off its logit. The softmax over what is left is one over groups, then
one within a group; so a row needs the mass of what is never shown of each group, and the K items.

The distribution says the same by tensors, on any device and in double precision.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from agents.maths import _grouped, _kernels
from simlab.slates import GroupedPlackettLuce


def draw_by_groups(
    choice: GroupedPlackettLuce, generator: torch.Generator | None = None
) -> tuple[Int[Tensor, "user slot"], Float[Tensor, "user slot"]]:
    """Draw slates, and return log P(a_k | above) of each slot.

    Args:
        choice: the logits, groups and penalties.
        generator: of torch, on the device of the logits; the global one if None.

    Raises:
        BadInput: naming the row that has fewer candidates than slots, or numbers that are not finite.
    """
    logits, slots = choice.logits.detach(), choice.slots
    luck = torch.default_generator if generator is None else generator
    if not _compiled(logits):
        columns = choice.sample(luck)
        return columns, choice.slot_log_probs(columns, False)[0].detach()
    penalty = choice.penalty.detach().contiguous()
    key = np.uint64(int(torch.randint(1 << 62, (), generator=generator)))
    columns = torch.empty(len(logits), slots, dtype=torch.int64)
    log_prob = logits.new_empty(len(logits), slots)
    given = logits.contiguous(), logits.amax(1), _rows(choice.group), penalty, penalty.neg().exp_()
    if max(_kernels.each(_grouped.draw, len(logits), *given, 0, key, columns, log_prob)) >= 0:
        choice.sample(luck)  # says which row, and why
    return columns, log_prob


def grouped_slot_log_probs(
    choice: GroupedPlackettLuce, columns: Int[Tensor, "user slot"], entropy: bool = True
) -> tuple[Float[Tensor, "user slot"], Float[Tensor, "user slot"]]:
    """Return log P(a_k | above) and H_k, with gradients of logits and penalties.

    Args:
        choice: the logits, groups and penalties.
        columns: slates without repeats; a masked candidate gets -inf, and passes no gradient on.
        entropy: False leaves the entropies out: zeros.
    """
    if not _compiled(choice.logits):
        return choice.slot_log_probs(columns, entropy)
    log_prob, entropies = _Slots.apply(choice.logits, choice.penalty, _rows(choice.group), columns)  # type: ignore[no-untyped-call]
    return log_prob, entropies if entropy else torch.zeros_like(log_prob)


def _compiled(logits: Tensor) -> bool:
    return logits.device.type == "cpu" and logits.dtype == torch.float32


def _rows(group: Int[Tensor, "user cand"]) -> Int[Tensor, "some cand"]:
    """Return the groups of each row, or one row where all are the same."""
    return (group[:1] if group.stride(0) == 0 else group).contiguous()


class _Slots(torch.autograd.Function):
    """Slot log-probabilities and entropies; the equations are in `agents.maths._grouped`."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, penalty: Tensor, group: Tensor, columns: Tensor
    ) -> tuple[Tensor, Tensor]:
        rows, slots = columns.shape
        logits, penalty = logits.contiguous(), penalty.contiguous()
        picked = logits.gather(1, columns)
        dead = picked.isneginf()
        picked.clamp_min_(_grouped.FLOOR)
        of = group[0][columns] if len(group) == 1 else group.gather(1, columns)
        top = logits.amax(1).clamp_min_(_grouped.FLOOR)
        mass, moment = torch.empty(2, rows, penalty.shape[1], dtype=torch.float64)
        _kernels.each(_grouped.unshown, rows, logits, columns, group, top, mass, moment)
        log_prob, entropies = logits.new_empty(2, rows, slots)
        about = picked, of, penalty, penalty.neg().exp_(), top, mass, moment
        _kernels.each(_grouped.slots_of, rows, *about, log_prob, entropies)
        ctx.save_for_backward(logits, columns, group, dead, *about)
        return log_prob.masked_fill_(dead, -torch.inf), entropies

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, up: Tensor, up_entropy: Tensor) -> tuple[Tensor, Tensor, None, None]:
        logits, columns, group, dead, *about = ctx.saved_tensors
        penalty, top = about[2], about[4]
        rows, slots = columns.shape
        level, slope = logits.new_empty(2, rows, penalty.shape[1])
        of_shown, of_penalty = logits.new_empty(rows, slots), torch.empty_like(penalty)
        ups = up.masked_fill(dead, 0.0).contiguous(), up_entropy.contiguous()
        _kernels.each(_grouped.slots_back, rows, *about, *ups, level, slope, of_shown, of_penalty)
        of_shown.masked_fill_(dead, 0.0)
        out = torch.empty_like(logits)
        _kernels.each(_grouped.pulled, rows, logits, columns, group, top, level, slope, of_shown, out)
        return out, of_penalty, None, None
