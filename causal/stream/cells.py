"""Columns of a record batch as checked float64 tensors; a refusal names the column, the row and the value."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from simlab.log import BadCell
from simlab.tables.cells import Cells, floats, integers, is_text, plain
from simlab.tables.columns import ColumnMap, find, missing
from simlab.tables.lists import elements, width

EDGE = 1e-6
"""How far above 1 rounding may put a target's probability."""


def column(batch: pa.RecordBatch, name: str) -> Cells:
    """Return a column of a batch."""
    return Cells(name, plain(pa.chunked_array([batch.column(name)])))


def vector(batch: pa.RecordBatch, name: str) -> Float[Tensor, " round"]:
    """Return a column of numbers; a list of one number is a number.

    Raises:
        BadCell: for an empty cell, NaN, infinity, text, or a list of another length.
    """
    return matrix(batch, name, 1)[:, 0]


def matrix(batch: pa.RecordBatch, name: str, slots: int | None = None) -> Float[Tensor, "round slot"]:
    """Return a column of lists of numbers, one length for all.

    Args:
        batch: some rows.
        name: of the column.
        slots: K, the length; by default that of the first row.

    Raises:
        BadCell: for an empty cell, NaN, infinity, text, or a list of another length.
    """
    return _read(batch, name, slots)[0]


def propensities(batch: pa.RecordBatch, name: str, slots: int | None = None) -> Float[Tensor, "round slot"]:
    """Return a column of the logger's probabilities, in (0, 1]; the sentences are the log's.

    Raises:
        BadCell: for the first cell that is none.
    """
    x, low, high = _read(batch, name, slots)
    if low <= 0 or high > 1:
        cents = 2 <= high <= 100 and low > 0
        hint = "; if these are per cent, divide by 100" if cents else ""
        _refuse(name, x, (x <= 0) | (x > 1), f"is not a probability in (0, 1]{hint}", slots)
    return x


def chances(batch: pa.RecordBatch, name: str, slots: int | None = None) -> Float[Tensor, "round slot"]:
    """Return a column of the target's probabilities, in [0, 1]; rounding above 1 is cut.

    Raises:
        BadCell: for the first cell that is none.
    """
    x, low, high = _read(batch, name, slots)
    if low < 0 or high > 1 + EDGE:
        _refuse(name, x, (x < 0) | (x > 1 + EDGE), "is not a probability in [0, 1]", slots)
    return x.clamp(max=1) if high > 1 else x


def _read(
    batch: pa.RecordBatch, name: str, slots: int | None
) -> tuple[Float[Tensor, "round slot"], float, float]:
    """Return a column of lists of numbers, and the smallest and the largest of them."""
    flat, wide = _plain(batch.column(name))
    if flat is not None and (slots is None or wide == slots):
        low, high = float(flat.min()), float(flat.max())
        if math.isfinite(low) and math.isfinite(high):
            return torch.from_numpy(flat.astype(np.float64)).reshape(-1, wide), low, high
    cells = elements(column(batch, name))
    wide = width(cells, "row 0" if slots is None else "the others", slots)
    x = _tensor(floats(cells)).reshape(batch.num_rows, wide)
    low, high = (float(end) for end in x.aminmax())
    return x, low, high


def _plain(values: Any) -> tuple[NDArray[Any] | None, int]:
    """Return the numbers of a plain column as they lie in memory, and how many a row has; or None.

    The long way, which finds what is wrong and says where, costs as much as to decode the column.
    """
    kind, flat, wide = values.type, values, 1
    if not len(values) or values.null_count:
        return None, 0
    if pa.types.is_fixed_size_list(kind):
        wide, flat = kind.list_size, values.flatten()
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        bounds = values.offsets.to_numpy()
        wide, flat = int(bounds[1] - bounds[0]), values.flatten()
        if not (np.diff(bounds) == wide).all():
            return None, 0
    known = pa.types.is_floating(flat.type) or pa.types.is_integer(flat.type)
    return (flat.to_numpy(), wide) if known and wide and not flat.null_count else (None, 0)


def items(batch: pa.RecordBatch, name: str, n_items: int) -> Int[Tensor, "round slot"]:
    """Return a column of slates.

    Raises:
        BadCell: for what is no id of a known item, an item that is twice in its slate, and ragged lengths.
    """
    flat = elements(column(batch, name))
    wide = width(flat)
    slate = _tensor(integers(flat)).reshape(batch.num_rows, wide)
    refuse(name, slate, slate < 0, "is negative, but ids count from 0")
    refuse(name, slate, slate >= n_items, f"is an unknown item: the catalogue has {n_items}")
    ordered = slate.sort(1).values
    twice = (ordered[:, 1:] == ordered[:, :-1]).any(1)
    if bool(twice.any()):
        row = int(twice.nonzero()[0])
        again = (slate[row].unsqueeze(1) == slate[row]).tril(-1).any(1).nonzero()[0]
        raise BadCell(name, row, "is in the slate twice", int(slate[row, again]), int(again))
    return slate


def users(batch: pa.RecordBatch, name: str) -> Int[Tensor, " round"]:
    """Return a column of user ids: whole numbers as they are, names as a 64-bit hash that never changes.

    Raises:
        BadCell: for an empty cell, a fraction, or a negative number.
    """
    cells = column(batch, name)
    cells.full()
    if is_text(cells.values.type):
        coded = pc.dictionary_encode(cells.values)
        names = np.array(coded.dictionary.to_pylist(), dtype=object)
        hashed = pd.util.hash_array(names, categorize=False).view(np.int64)
        return torch.from_numpy(hashed[coded.indices.to_numpy()])
    ids = _tensor(integers(cells))
    refuse(name, ids, ids < 0, "is negative, but ids count from 0")
    return ids


def refuse(name: str, value: Tensor, wrong: Tensor, why: str) -> None:
    """Raise for the first wrong cell.

    Raises:
        BadCell: naming it.
    """
    if bool(wrong.any()):
        where = [int(i) for i in wrong.nonzero()[0]]
        slot = where[1] if len(where) > 1 else None
        raise BadCell(name, where[0], why, value[tuple(where)].item(), slot)


def _refuse(name: str, value: Tensor, wrong: Tensor, why: str, slots: int | None) -> None:
    """Raise for the first wrong cell; one number a row has no slot."""
    if slots == 1:
        value, wrong = value[:, 0], wrong[:, 0]
    refuse(name, value, wrong, why)


def needed(field: str, columns: ColumnMap, names: Sequence[str]) -> str:
    """Return the file's column of a field.

    Raises:
        BadInput: if there is none, with the nearest column, or if two could be it.
    """
    found = find(field, columns, names)
    if found is None:
        raise missing((field,), names)
    return found


def _tensor(values: NDArray[Any]) -> Tensor:
    """Return an array as a tensor of the same memory. It may be Arrow's, so nothing may write to it."""
    return from_dlpack(pa.array(values))
