"""The cells of one column: Arrow values on one side, checked arrays of numbers on the other.

The good path is a few Arrow kernels; which cell is wrong is only searched for when one is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int

from simlab.log import BadCell


@dataclass(frozen=True)
class Cells:
    """One column, or all elements of a column of lists.

    Attributes:
        name: the file's name of the column.
        values: its values; `pa.Array`.
        text: the file was text, so that text may be numbers.
        first: row of the file at which the values start.
        offsets: for elements of lists: where each row's list starts in `values`, and where the last ends.
    """

    name: str
    values: Any
    text: bool = False
    first: int = 0
    offsets: Int[np.ndarray, " bound"] | None = None

    def refuse(self, index: int, why: str, shown: str = "") -> NoReturn:
        """Raise for one of the values; `shown` stands for it in the sentence.

        Raises:
            BadCell: always.
        """
        shown = shown or show(self.values[index].as_py())
        row, slot = index, None
        if self.offsets is not None:
            row = int(np.searchsorted(self.offsets, index, side="right")) - 1
            slot = index - int(self.offsets[row])
            if (np.diff(self.offsets) == 1).all():
                slot = None  # one value in every row: there is nothing to tell apart
        raise BadCell(self.name, self.first + row, why, shown, slot)

    def refuse_row(self, row: int, why: str) -> NoReturn:
        """Raise for one row's whole list.

        Raises:
            BadCell: always.
        """
        assert self.offsets is not None
        held = self.values[int(self.offsets[row]) : int(self.offsets[row + 1])].to_pylist()
        raise BadCell(self.name, self.first + row, why, show(held))

    def full(self) -> None:
        """Refuse an empty cell."""
        if self.values.null_count:
            index = int(np.argmax(pc.is_null(self.values).to_numpy(zero_copy_only=False)))
            self.refuse(index, "cell where a value is needed", "an empty")


def show(value: object) -> str:
    """Return a value on one short line: text quoted, the rest plain."""
    text = repr(value) if isinstance(value, str | bytes | list | dict) else str(value)
    return text if len(text) <= 60 else text[:57] + "…" + text[-1]


def is_text(kind: Any) -> bool:
    """Tell whether an Arrow type is text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_list(kind: Any) -> bool:
    """Tell whether an Arrow type is a list."""
    t = pa.types
    return bool(
        t.is_list(kind)
        or t.is_large_list(kind)
        or t.is_fixed_size_list(kind)
        or t.is_list_view(kind)
        or t.is_large_list_view(kind)
    )


def floats(cells: Cells) -> Float[np.ndarray, " row"]:
    """Return the column as finite float64.

    Raises:
        BadCell: for an empty cell, text that is no number, NaN and infinity.
    """
    cells.full()
    kind = cells.values.type
    if is_text(kind):
        values = _parse(cells, pa.float64(), "is not a number")
    elif pa.types.is_boolean(kind) or _is_number(kind):
        values = cells.values.cast(pa.float64(), safe=False)
    else:
        cells.refuse(0, f"is {_article(kind)}, not a number")
    out = np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64)
    wrong = ~np.isfinite(out)
    if wrong.any():
        index = int(wrong.argmax())
        cells.refuse(index, "is not a finite number", str(out[index]))
    return out


def integers(cells: Cells) -> Int[np.ndarray, " row"]:
    """Return the column as int64; 3.0 is 3.

    Raises:
        BadCell: for an empty cell, a fraction, a truth value and what does not fit 64 bits.
    """
    cells.full()
    kind = cells.values.type
    if pa.types.is_integer(kind):
        try:
            return np.asarray(cells.values.cast(pa.int64()).to_numpy(zero_copy_only=False))
        except pa.ArrowInvalid:
            big = pc.greater(cells.values, pa.scalar(2**63 - 1, pa.uint64())).to_numpy(zero_copy_only=False)
            cells.refuse(int(big.argmax()), "does not fit a signed 64-bit number")
    if is_text(kind):
        try:
            return np.asarray(_parse(cells, pa.int64(), "").to_numpy(zero_copy_only=False))
        except BadCell:
            pass  # perhaps "3.0"; if not, the next line says what is wrong
    elif not _is_number(kind):
        cells.refuse(0, f"is {_article(kind)}, not a whole number")
    real = floats(cells)
    for wrong, why in (
        (real != np.floor(real), "is not a whole number"),
        (np.abs(real) >= 2.0**63, "does not fit a signed 64-bit number"),
    ):
        if wrong.any():
            cells.refuse(int(wrong.argmax()), why)
    return real.astype(np.int64)


def booleans(cells: Cells) -> Bool[np.ndarray, " row"]:
    """Return the column as truth values: true, false, 1 and 0.

    Raises:
        BadCell: for anything else.
    """
    cells.full()
    kind, why = cells.values.type, "is not true, false, 1 or 0"
    if pa.types.is_boolean(kind):
        return np.array(cells.values.to_numpy(zero_copy_only=False), dtype=np.bool_)
    if is_text(kind):
        lower = pc.utf8_lower(pc.utf8_trim_whitespace(cells.values))
        true = _isin(lower, ["true", "1", "1.0"])
        wrong = ~(true | _isin(lower, ["false", "0", "0.0"]))
    elif _is_number(kind):
        real = floats(cells)
        true, wrong = real == 1, (real != 0) & (real != 1)
    else:
        cells.refuse(0, why)
    if wrong.any():
        cells.refuse(int(wrong.argmax()), why)
    return true


def words(cells: Cells) -> list[str]:
    """Return the column as text.

    Raises:
        BadCell: for an empty cell or what cannot be text.
    """
    cells.full()
    try:
        return [str(word) for word in cells.values.cast(pa.large_string()).to_pylist()]
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        cells.refuse(0, f"is {_article(cells.values.type)}, not text")


def plain(column: Any) -> Any:
    """Return a chunked column as one `pa.Array` of a plain type: no dictionaries, no views of text.

    Views of lists stay: Arrow 26 casts those whose offsets do not ascend to invalid arrays.
    """
    kind = column.type
    if len(column) == 0:
        return pa.array([], kind)
    if pa.types.is_dictionary(kind):  # polars' are of views, which Arrow neither casts nor takes from
        value = pa.large_string() if is_text(kind.value_type) else kind.value_type
        column = pa.chunked_array([c.dictionary.cast(value).take(c.indices) for c in column.chunks], value)
    elif pa.types.is_string_view(kind):
        column = column.cast(pa.large_string())
    if column.nbytes > 2**31 - 1:  # 32-bit offsets would not reach
        if pa.types.is_string(column.type):
            column = column.cast(pa.large_string())
        elif pa.types.is_list(column.type):
            column = column.cast(pa.large_list(column.type.value_type))
    whole = column.combine_chunks()
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole


def utf8(cells: Cells) -> Cells:
    """Return bytes as text, which they are unless the encoding is another one.

    Raises:
        BadCell: for the first cell that is not UTF-8.
    """
    kind = cells.values.type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        return cells
    try:
        return replace(cells, values=cells.values.cast(pa.large_string()))
    except pa.ArrowInvalid:
        values = cells.values.to_pylist()
        cells.refuse(next(i for i, v in enumerate(values) if v and not _decodes(v)), "is not UTF-8 text")


def truth(cells: Cells) -> Cells:
    """Return text that only says true and false as truth values, as a reader of whole files has it."""
    values, said = cells.values, {"true", "false"}
    if not (cells.text and is_text(values.type) and len(values) and str(values[0]).lower() in said):
        return cells
    lower = pc.utf8_lower(values)
    if not _isin(lower, sorted(said)).all():
        return cells
    return replace(cells, values=pc.equal(lower, "true"))


def _decodes(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _parse(cells: Cells, kind: Any, why: str) -> Any:
    """Cast text to numbers; the first cell that is none is found by halving."""
    trimmed = pc.utf8_trim_whitespace(cells.values)
    try:
        return trimmed.cast(kind)
    except pa.ArrowInvalid:
        good, bad = 0, len(trimmed)  # the first `good` cells are numbers, among the first `bad` one is not
        while bad - good > 1:
            middle = (good + bad) // 2
            try:
                trimmed[good:middle].cast(kind)
                good = middle
            except pa.ArrowInvalid:
                bad = middle
    cells.refuse(good, why)


def _isin(values: Any, words: Sequence[str]) -> Bool[np.ndarray, " row"]:
    found = pc.is_in(values, value_set=pa.array(words, values.type))
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.bool_)


def _is_number(kind: Any) -> bool:
    t = pa.types
    return bool(t.is_integer(kind) or t.is_floating(kind) or t.is_decimal(kind))


def _article(kind: Any) -> str:
    if is_list(kind):
        return "a list"
    return "text" if is_text(kind) else {"bool": "a truth value"}.get(str(kind), f"of type {kind}")
