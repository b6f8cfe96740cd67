"""Slates drawn exactly as Plackett–Luce says: with replacement from the softmax, or by a race of clocks."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from agents.maths import _kernels
from agents.maths._tables import Table
from simlab.errors import BadInput


def drawn(
    table: Table, slots: int, generator: torch.Generator | None
) -> tuple[Int[Tensor, "user slot"], Float[Tensor, "user slot"]]:
    """Draw slates by a compiled loop, and return log P(a_k | above) of each slot beside them.

    The exponentials that are drawn from give the log-probabilities too. What is drawn hangs from one number
    of the generator and the place of a row: not from how rows are cut, nor from the number of threads.

    Raises:
        BadInput: naming the row that has fewer candidates than slots, or whose best logit is not finite.
    """
    if table.cands < slots:
        refuse(table.whole(), slots)
    key = np.uint64(int(torch.randint(1 << 62, (), generator=generator)))
    columns = torch.empty(table.rows, slots, dtype=torch.int64)
    gap, left = torch.empty(2, table.rows, slots)
    space = table.space(1)[0]
    for part in table.parts():
        logits = table.tile(part, space)
        given = len(logits), logits, logits.amax(1), part.start, key, columns[part], gap[part], left[part]
        if max(_kernels.each(_kernels.draw, *given)) >= 0:
            refuse(table.whole(), slots)
    return columns, gap.sub_(left.log_())


def race(
    logits: Float[Tensor, "user cand"], slots: int, generator: torch.Generator | None
) -> Int[Tensor, "user slot"]:
    """Let exponential clocks of rate exp(ℓ) ring; the first K, in order, are the slate.

    Raises:
        BadInput: as `drawn`; for logits beyond a CPU only where there are too few columns.
    """
    if logits.shape[1] < slots:
        raise BadInput(f"row 0 has {logits.shape[1]} candidates, but the slate has {slots} slots")
    noise = torch.empty_like(logits).exponential_(generator=generator)
    first, columns = noise.log_().sub_(logits).topk(slots, dim=1, largest=False)
    if logits.device.type == "cpu" and not bool(first[:, -1:].isfinite().all()):
        refuse(logits, slots)
    return columns


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
