"""Columns of lists: Arrow lists, or text such as `3 7 9`, `3|7|9`, `[3, 7, 9]`, or one value a row."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int

from simlab.context import PAD
from simlab.tables.cells import Cells, is_list, is_text, plain

SEPARATORS = "|;,"
"""What may stand between the elements of a list that is text; without any of these, white space does."""


_BRACKETS = r"^\[(.*)\]$|^\((.*)\)$"
_QUOTED = r"^\"(.*)\"$|^'(.*)'$"
_NUMBERS = r"^[-+0-9.eE\s]+$"


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
    if text and is_text(flat.type):
        flat = pc.replace_substring_regex(pc.utf8_trim_whitespace(flat), _QUOTED, r"\1\2")
    return Cells(
        cells.name, flat, text, cells.first, np.concatenate([[0], lengths.cumsum()]).astype(np.int64)
    )


def single(cells: Cells) -> Cells:
    """Return one element for each row; text is not cut.

    Raises:
        BadCell: for a list.
    """
    if is_list(cells.values.type):
        cells.refuse(0, "is a list, not one item")
    return Cells(cells.name, cells.values, cells.text, cells.first, np.arange(len(cells.values) + 1))


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
    bare = pc.replace_substring_regex(pc.utf8_trim_whitespace(cells.values), _BRACKETS, r"\1\2")
    bare = pc.utf8_trim_whitespace(bare)
    empty = pc.equal(bare, "").to_numpy(zero_copy_only=False)
    if empty.any():
        cells.refuse(int(empty.argmax()), "is an empty list")
    for separator in SEPARATORS:
        if pc.any(pc.match_substring(bare, separator)).as_py():
            return pc.split_pattern(bare, separator)
    number = pc.match_substring_regex(bare, _NUMBERS).to_numpy(zero_copy_only=False)
    if number.all():
        return pc.utf8_split_whitespace(bare)
    spaced = pc.match_substring_regex(bare, r"\s").to_numpy(zero_copy_only=False)
    if spaced.any():  # "Star Wars" is one name, "3 7" two numbers, and "3 x" could be either
        why = "is not a list of numbers, and names in a list are separated by | or ; or ,"
        cells.refuse(int(((~number) if (spaced & ~number).any() else spaced).argmax()), why)
    return pc.split_pattern(bare, SEPARATORS)  # one name a row
