"""What builders of slates refuse, and what a slot earned."""

import torch
from jaxtyping import Float
from torch import Tensor

from simlab.context import Context
from simlab.errors import BadInput
from simlab.log import Log

AGREE = 1e-3
"""How far, relatively, a logged propensity may be from what a logger says of it: float32 and its sums."""

Table = Float[Tensor, "slot item"] | Float[Tensor, "round slot cand"]
"""The probability of each item at each slot, for all rounds or each."""


def refuse(name: str, values: Tensor, wrong: Tensor, why: str) -> None:
    """Refuse the first of some values, [round], [round slot] or [round slot cand].

    Raises:
        BadInput: naming the row, the slot, the column and the value.
    """
    if bool(wrong.any()):
        at = tuple(int(x) for x in wrong.nonzero()[0])
        place = ", ".join(f"{axis} {i}" for axis, i in zip(("row", "slot", "column"), at, strict=False))
        raise BadInput(f"{name}, {place}: {values[at].item():.6g} {why}")


def agree(name: str, logged: Tensor, said: Tensor, first: int) -> None:
    """Refuse a logger that is not the one of the log.

    Raises:
        BadInput: naming the row and both probabilities.
    """
    apart = (logged - said).abs() > AGREE * logged
    if bool(apart.any()):
        at = tuple(int(x) for x in apart.nonzero()[0])
        place = "" if len(at) == 1 else f", slot {at[1]}"
        raise BadInput(
            f"column {name}, row {first + at[0]}{place}: {float(logged[at]):.6g}, but the given logger says "
            f"{float(said[at]):.6g}; it is not the logger of this log"
        )


def rewards_of(
    log: Log, slot_weight: Tensor | None, alpha: Float[Tensor, " slot"]
) -> tuple[Float[Tensor, "round slot"], bool]:
    """Return r_k and whether slots are told apart.

    Raises:
        BadInput: if slots have weights and no clicks, or clicks are not what the reward counts.
    """
    reward = log.reward.double()
    if log.click is None:
        if slot_weight is not None and log.slots > 1:
            raise BadInput("slot_weight is what clicks are worth, and the log has no column click")
        wide = torch.zeros(len(log), log.slots, dtype=torch.float64, device=reward.device)
        wide[:, 0] = reward * alpha[0] if log.slots == 1 else reward
        return wide, log.slots == 1
    click = log.click.double() * alpha
    if slot_weight is None:
        other = (click.sum(1) - reward).abs() > 1e-6 * (1 + reward.abs())
        if bool(other.any()):
            row = int(other.nonzero()[0])
            raise BadInput(
                f"column reward, row {row}: {float(reward[row])} is not the sum of the row's clicks; give "
                "slot_weight to value clicks, or a log without column click to value the reward"
            )
    return click, True


def slot_values(
    given: Tensor | None, slots: int, name: str, device: torch.device, top: float = float("inf")
) -> Float[Tensor, " slot"]:
    """Return one number for each slot, 1 by default, on a device.

    Raises:
        BadInput: for another number of them, or one that is not in range.
    """
    if given is None:
        return torch.ones(slots, dtype=torch.float64, device=device)
    values = given.to(device, torch.float64)
    if values.shape != (slots,):
        raise BadInput(f"{name} has shape {tuple(values.shape)}, but a slate has {slots} slots")
    wrong = ~((values >= 0) & (values <= top) & values.isfinite())
    if bool(wrong.any()):
        slot = int(wrong.nonzero()[0])
        ends = "at least 0" if top == float("inf") else f"in [0, {top:g}]"
        raise BadInput(f"{name} of slot {slot} is {float(values[slot])}, but it must be {ends}")
    return values


def checked_table(table: Tensor, log: Log, context: Context) -> Table:
    """Check the logger's probabilities of items at slots.

    Raises:
        BadInput: for a wrong shape, what is no probability, a slot that does not sum to one, or an item that
            stands at several.
    """
    cands = context.candidates.shape[1]
    shapes = ((log.slots, log.n_items), (len(log), log.slots, cands))
    if tuple(table.shape) not in shapes:
        raise BadInput(
            f"the logger's table has shape {tuple(table.shape)}, but it is [slot item] {shapes[0]} or "
            f"[round slot cand] {shapes[1]}"
        )
    table = table.to(log.reward.device, torch.float64)
    wrong = ~((table >= 0) & (table <= 1))
    if bool(wrong.any()):
        at = tuple(int(x) for x in wrong.nonzero()[0])
        raise BadInput(f"the logger's table holds {float(table[at])} at {list(at)}, which is no probability")
    short = (table.sum(-1) - 1).abs() > 1e-6
    if bool(short.any()):
        at = tuple(int(x) for x in short.nonzero()[0])
        raise BadInput(
            f"the logger's table sums to {float(table.sum(-1)[at]):.6g}, not 1, at {list(at)}: "
            "each slot holds one item"
        )
    often = table.sum(-2)
    if bool((often > 1 + AGREE).any()):
        *row, column = (int(x) for x in (often > 1 + AGREE).nonzero()[0])
        what = f"candidate {column} of row {row[0]}" if row else f"item {column}"
        raise BadInput(
            f"the logger's table has {what} on a slate {float(often[(*row, column)]):.6g} times, but it "
            "stands at one slot at most"
        )
    return table


def table_rows(table: Table, rows: slice, seen: Context) -> Float[Tensor, "round slot cand"]:
    """Return the table of some rounds, in the order of their candidates."""
    if table.ndim == 3:
        return table[rows]
    return table[:, seen.candidates].permute(1, 0, 2)


def ratio(
    by: Float[Tensor, " slot"], aim: Float[Tensor, "round slot pick"], had: Float[Tensor, "round slot pick"]
) -> Float[Tensor, "round pick"]:
    """Return Σ_j by_j π(a at j) / Σ_j by_j π_0(a at j); 0 where the item earns nothing wherever it was."""
    above, below = (torch.einsum("j,rjp->rp", by, x) for x in (aim, had))
    return torch.where(below > 0, above / below, 0.0)
