"""Columns of lists: Arrow lists, or text such as `3 7 9`, `3|7|9`, `[3, 7, 9]`, or one value a row."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int

from simlab.context import PAD
from simlab.tables.cells import Cells, is_list, is_text, plain

SEPARATORS = "|;,"
"""What may stand between the elements of a list that is text; without any of these, white space does."""


def elements(cells: Cells) -> Cells:
    """Return all elements, row after row, with the offsets of the rows.

    Raises:
        BadCell: for an empty cell and for lists of lists.
    """
    cells.full()
    values, text = cells.values, cells.text
    if is_text(values.type):
        values, text = _split(cells), True
    if not is_list(values.type):
        return Cells(cells.name, values, text, cells.first, np.arange(len(values) + 1))
    lengths = pc.list_value_length(values).to_numpy(zero_copy_only=False)
    flat = plain(pa.chunked_array([values.flatten()]))
    if is_list(flat.type):
        cells.refuse(0, "is a list of lists, not a list of values")
    if text:
        flat = pc.utf8_trim(flat, characters=" \t'\"")
    return Cells(
        cells.name, flat, text, cells.first, np.concatenate([[0], lengths.cumsum()]).astype(np.int64)
    )


def lengths(flat: Cells) -> Int[np.ndarray, " row"]:
    """Return how long each row's list is."""
    assert flat.offsets is not None
    return np.diff(flat.offsets)


def width(flat: Cells, like: str = "row 0", wanted: int | None = None) -> int:
    """Return the one length of all lists.

    Args:
        flat: the elements.
        like: what the length is compared with.
        wanted: the length; None takes the first row's.

    Raises:
        BadCell: for the first list of another length.
    """
    long = lengths(flat)
    wanted = int(long[0]) if wanted is None else wanted
    wrong = long != wanted
    if wrong.any():
        row = int(wrong.argmax())
        flat.refuse_row(row, f"has length {long[row]}, but {like} has {wanted}")
    return wanted


def pad(ids: Int[np.ndarray, " element"], long: Int[np.ndarray, " row"]) -> Int[np.ndarray, "row longest"]:
    """Return lists of different lengths as one array, each padded with -1 at its end."""
    longest = int(long.max())
    if (long == longest).all():
        return ids.reshape(len(long), longest)
    out = np.full((len(long), longest), PAD, dtype=np.int64)
    out[np.arange(longest) < long[:, None]] = ids
    return out


def _split(cells: Cells) -> pa.Array:
    """Cut text into lists of text."""
    bare = pc.utf8_trim(cells.values, characters="[](){} \t\r\n")
    empty = pc.equal(bare, "").to_numpy(zero_copy_only=False)
    if empty.any():
        cells.refuse(int(empty.argmax()), "is an empty list")
    for separator in SEPARATORS:
        if pc.any(pc.match_substring(bare, separator)).as_py():
            return pc.split_pattern(bare, separator)
    return pc.utf8_split_whitespace(bare)
