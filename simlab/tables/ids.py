"""Ids: whole numbers from 0 stay as they are; names are numbered from 0 in sorted order.

Sorted, not by first appearance: the same names get the same ids however the rows are ordered.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int

from simlab.context import PAD
from simlab.errors import BadInput
from simlab.tables.cells import Cells, integers, is_text

LARGEST_ID = 2**31 - 1
"""Ids above this are refused: they are names, and a table of all ids up to them would not fit."""


def ids(
    columns: Sequence[Cells], what: str, known: Sequence[str] = (), recode: bool = False
) -> tuple[list[Int[np.ndarray, " row"]], tuple[str, ...]]:
    """Return the ids of a few columns that speak of the same things, and the names of those things.

    Args:
        columns: such as the slates' items and the candidates.
        what: "item" or "user", for the sentences.
        known: names by id; every cell is then one of these names.
        recode: number whole numbers like names.

    Raises:
        BadInput: for an empty or unknown name, a fraction, a number too large, numbers mixed with names.
    """
    for cells in columns:
        cells.full()
    if known and len(set(known)) != len(known):
        raise BadInput(f"the {what} names are not all different")
    if not known and not recode and not any(_named(cells, what) for cells in columns):
        numbers = [integers(cells) for cells in columns]
        for cells, values in zip(columns, numbers, strict=True):
            if len(values) and values.max() > LARGEST_ID:
                why = f"is above {LARGEST_ID}: say recode={what} to number such ids from 0"
                cells.refuse(int((values > LARGEST_ID).argmax()), why)
        return numbers, ()
    texts = [_texts(cells, what) for cells in columns]
    names = tuple(known) or _sorted(texts, all(not is_text(cells.values.type) for cells in columns))
    table = pa.array(names, pa.large_string())
    codes = []
    for cells, text in zip(columns, texts, strict=True):
        code = pc.index_in(text, value_set=table)
        padded = pc.equal(text, str(PAD)).to_numpy(zero_copy_only=False)
        absent = pc.is_null(code).to_numpy(zero_copy_only=False) & ~padded
        if absent.any():
            cells.refuse(int(absent.argmax()), f"is not one of the {len(names)} known {what} names")
        codes.append(np.asarray(pc.fill_null(code, PAD).to_numpy(zero_copy_only=False), dtype=np.int64))
    return codes, names


def _named(cells: Cells, what: str) -> bool:
    """Tell whether the cells are names. Text out of a text file may be numbers, but not partly."""
    if not is_text(cells.values.type):
        return False
    if not cells.text:
        return True
    number = pc.match_substring_regex(cells.values, r"^\s*-?\d+(\.\d*)?\s*$").to_numpy(zero_copy_only=False)
    if number.any() and not number.all():
        why = f"is not a number, but other ids are: say recode={what} if all of them are names"
        cells.refuse(int((~number).argmax()), why)
    return not bool(number.all())


def _texts(cells: Cells, what: str) -> Any:
    """Return the ids as text, from any column of text or of whole numbers."""
    if not is_text(cells.values.type):
        return pa.array(integers(cells)).cast(pa.large_string())
    text = pc.utf8_trim_whitespace(cells.values).cast(pa.large_string())
    empty = pc.equal(text, "").to_numpy(zero_copy_only=False)
    if empty.any():
        cells.refuse(int(empty.argmax()), f"is not the name of any {what}")
    return text


def _sorted(texts: Sequence[Any], numbers: bool) -> tuple[str, ...]:
    """Return the different names in order; whole numbers are ordered as numbers, and -1 only pads."""
    different = {str(name) for text in texts for name in pc.unique(text).to_pylist()}
    if not numbers:
        return tuple(sorted(different))
    return tuple(sorted(different - {str(PAD)}, key=int))
