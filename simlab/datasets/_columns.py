"""The columns of a data set's file, checked cell by cell; every refusal names file, column, row and value."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from jaxtyping import Float, Int
from numpy.typing import NDArray

from simlab.context import PAD
from simlab.errors import BadInput, nearest
from simlab.tables.cells import Cells, floats, integers, is_list, is_text, plain, truth, utf8
from simlab.tables.lists import elements, width
from simlab.tables.sources import Source

Array = NDArray[Any]
ID = pa.dictionary(pa.int32(), pa.string())
"""How ids and categories are read: each word once."""
NUMBER = pa.float64()
"""How numbers are read."""

_RAGGED = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+): (.*)", re.DOTALL)


@dataclass(frozen=True, eq=False)
class Coded:
    """Words by number: cells, or the elements of cells, and the different words that they hold.

    Attributes:
        code: a word's number for each cell, -1 where there is none.
        names: the words, in order: as numbers if all of them are whole numbers, else as text.
        row: the row of each element, or None where every row has one.
    """

    code: Int[np.ndarray, " element"]
    names: tuple[str, ...]
    row: Int[np.ndarray, " element"] | None = None

    def among(self, names: Sequence[str]) -> Int[np.ndarray, " element"]:
        """Return the codes in another list of words, -1 where a word is not in it."""
        place = {name: i for i, name in enumerate(names)}
        table = np.array([*(place.get(name, PAD) for name in self.names), PAD], dtype=np.int64)
        return np.asarray(table[self.code])


def ordered(*words: Sequence[str]) -> tuple[str, ...]:
    """Return the different words in order: as numbers if all are whole numbers, else as text.

    >>> ordered(["10", "9"], ["9", "1"]), ordered(["10", "9", "a"])
    (('1', '9', '10'), ('10', '9', 'a'))
    """
    different = {word for each in words for word in each}
    whole = all(re.fullmatch(r"0|-?[1-9]\d*", word) for word in different)
    return tuple(sorted(different, key=int) if whole else sorted(different))


def joined(parts: Sequence[Coded]) -> Coded:
    """Lay columns with one word a cell one after the other."""
    names = ordered(*(part.names for part in parts))
    return Coded(np.concatenate([part.among(names) for part in parts]), names)


@dataclass(frozen=True, eq=False)
class Columns:
    """Some columns of one file or table.

    Attributes:
        where: the file, for refusals.
        cells: the columns by name.
    """

    where: str
    cells: Mapping[str, Cells]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self.cells.values())).values)

    def ids(self, name: str) -> Coded:
        """Return a column in which every cell is an id.

        Raises:
            BadInput: for an empty cell, NaN, and numbers that are not whole.
        """
        cells = self.cells[name]
        with self._said():
            cells.full()
            coded = _coded(cells)
            if (coded.code < 0).any():
                cells.refuse(int((coded.code < 0).argmax()), "is no id")
        return coded

    def category(self, name: str) -> Coded:
        """Return a column of categories; an empty cell, or NaN, is an unknown one."""
        with self._said():
            return _coded(self.cells[name])

    def categories(self, name: str, separator: str) -> Coded:
        """Return a column whose cells hold several categories: lists, or text with a separator."""
        cells = self.cells[name]
        with self._said():
            values = cells.values
            if pa.types.is_dictionary(values.type):
                values = values.cast(pa.string())
            if is_text(values.type):
                bare = pc.replace_substring_regex(values, r"^\s*\[(.*)\]\s*$", r"\1")
                values = pc.split_pattern(bare, separator)
            if not is_list(values.type):
                return _coded(cells)
            row = np.repeat(
                np.arange(len(values)),
                pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False),
            )
            flat = plain(pa.chunked_array([values.flatten()]))
            coded = _coded(Cells(name, flat, cells.text))
        known = coded.code >= 0
        return Coded(coded.code[known], coded.names, row[known])

    def numbers(self, name: str) -> Float[np.ndarray, " row"]:
        """Return a column of finite numbers.

        Raises:
            BadInput: for an empty cell, text that is no number, NaN and infinity.
        """
        with self._said():
            return floats(self.cells[name])

    def vectors(self, name: str) -> Float[np.ndarray, "row width"]:
        """Return a column whose cells hold as many numbers each, in lists or as text."""
        with self._said():
            cells = self.cells[name]
            if pa.types.is_dictionary(cells.values.type):
                cells = replace(cells, values=cells.values.cast(pa.string()))
            flat = elements(cells)
            return floats(flat).reshape(-1, width(flat))

    def times(self, name: str) -> Array:
        """Return a column of times: numbers, timestamps, dates, or text such as 2020-07-05 09:00:00.

        Raises:
            BadInput: for an empty cell, NaN, and text that is neither.
        """
        cells = self.cells[name]
        with self._said():
            cells.full()
            kind = cells.values.type
            if pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind):
                whole = pa.int32() if pa.types.is_date32(kind) or pa.types.is_time32(kind) else pa.int64()
                return np.asarray(cells.values.cast(whole).cast(pa.int64()))
            if pa.types.is_integer(kind):
                return integers(cells)
            if is_text(kind):
                try:
                    return np.asarray(cells.values.cast(pa.timestamp("us")).cast(pa.int64()))
                except pa.ArrowInvalid:
                    return _one_by_one(cells)
            return floats(cells)

    def check(self, name: str, fine: Array, why: str) -> None:
        """Refuse the first cell that is not fine.

        Raises:
            BadInput: naming file, column, row and value.
        """
        if not fine.all():
            with self._said():
                self.cells[name].refuse(int((~fine).argmax()), why)

    def keep(self, rows: Array) -> "Columns":
        """Return some rows only."""
        chosen = pa.array(rows)
        return Columns(
            self.where, {n: replace(c, values=c.values.filter(chosen)) for n, c in self.cells.items()}
        )

    @contextmanager
    def _said(self) -> Iterator[None]:
        """Put the file's name in front of a refusal."""
        try:
            yield
        except BadInput as error:
            raise BadInput(f"{self.where}: {error}") from None


def of_source(where: str, source: Source, names: Sequence[str]) -> Columns:
    """Return the columns of a table, which must be there."""
    try:
        source.check_names()
        for name in names:
            if name not in source.names:
                raise BadInput(f"column {name} is missing{nearest(name, source.names)}")
        table = source.load(list(names))
        if table.num_rows == 0:
            raise BadInput("empty: there are columns but no rows")
        cells = {n: truth(utf8(Cells(n, plain(table.column(n)), source.text))) for n in names}
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None
    return Columns(where, cells)


def read(
    path: Path,
    kinds: Mapping[str, pa.DataType],
    hint: str,
    *,
    separator: str = ",",
    header: Sequence[str] = (),
    encoding: str = "utf8",
    quoted: bool = True,
) -> Columns:
    """Read columns of a text file.

    Args:
        path: the file.
        kinds: the wanted columns, `ID` or `NUMBER` each.
        hint: where to get the file and how the folder should look, said if it is not there.
        separator: what stands between cells; `::` too.
        header: the columns' names where the file does not begin with them.
        encoding: of the text.
        quoted: whether cells may stand in double quotes.

    Raises:
        BadInput: naming the file, and the column, row (the first row of data is 0) and value where it can.
    """
    if not path.is_file():
        raise BadInput(f"{path} is not {'a file' if path.exists() else 'there'}: {hint}")
    mark = separator if len(separator) == 1 else "\x1f"

    def table(kinds: Mapping[str, pa.DataType], threads: bool = True) -> pa.Table:
        source: Any = str(path)
        if mark != separator:  # Arrow cuts at one character
            source = pa.BufferReader(path.read_bytes().replace(separator.encode(), mark.encode()))
        return pa.csv.read_csv(
            source,
            pa.csv.ReadOptions(column_names=list(header) or None, encoding=encoding, use_threads=threads),
            pa.csv.ParseOptions(delimiter=mark, quote_char='"' if quoted else False),
            pa.csv.ConvertOptions(
                include_columns=list(kinds),
                column_types=dict(kinds),
                null_values=[""],
                strings_can_be_null=True,
            ),
        )

    try:
        found = table(kinds)
    except KeyError as error:
        there = table({}).column_names
        name = next((k for k in kinds if k not in there), str(error))
        raise BadInput(f"{path}: column {name} is missing{nearest(name, there)}") from None
    except (pa.ArrowInvalid, OSError) as error:
        found = _mended(path, kinds, table, bool(header), error)
    if found.num_rows == 0:
        raise BadInput(f"{path}: empty: there are no rows")
    cells = {n: Cells(n, found.column(n).unify_dictionaries().combine_chunks(), True) for n in kinds}
    cells = {n: replace(c, values=_whole(c.values)) for n, c in cells.items()}
    return Columns(str(path), cells)


def _mended(
    path: Path,
    kinds: Mapping[str, pa.DataType],
    table: Callable[..., pa.Table],
    bare: bool,
    error: Exception,
) -> pa.Table:
    """Say what was wrong with a file: a row's length, or the first cell that is no number."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    if "Empty CSV" in first:
        raise BadInput(f"{path}: empty: the file has no text") from None
    try:
        raw = table(dict.fromkeys(kinds, pa.binary()), False)  # only one thread counts the rows
    except (pa.ArrowInvalid, OSError) as again:
        ragged = _RAGGED.search(str(again))
        if ragged is None:
            raise BadInput(f"{path} cannot be read: {first}") from None
        row = int(ragged[1]) - (1 if bare else 2)
        held = ragged[4].replace("\x1f", "::")[:60]
        raise BadInput(f"{path}, row {row}: {held!r} has {ragged[3]} cells, not {ragged[2]}") from None
    try:
        for name, kind in kinds.items():
            cells = utf8(Cells(name, plain(raw.column(name)), True))
            if kind == NUMBER:
                floats(cells)
    except BadInput as refusal:
        raise BadInput(f"{path}: {refusal}") from None
    raise BadInput(f"{path} cannot be read: {first}") from None


def _whole(values: Any) -> Any:
    """Return one array of what may be chunks."""
    return pa.concat_arrays(values.chunks) if isinstance(values, pa.ChunkedArray) else values


def _coded(cells: Cells) -> Coded:
    """Number the words of a column; whole numbers are words too."""
    values = cells.values
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), None, values)
    if not (pa.types.is_dictionary(values.type) or is_text(values.type)):
        if pa.types.is_null(values.type):
            return Coded(np.full(len(values), PAD), ())
        if pa.types.is_boolean(values.type):
            values = values.cast(pa.int8())
        known = np.asarray(pc.is_valid(values))
        whole = integers(replace(cells, values=pc.fill_null(values, pa.scalar(0, values.type))))
        different, at = np.unique(whole[known], return_inverse=True)
        code = np.full(len(values), PAD, dtype=np.int64)
        code[known] = at
        return Coded(code, tuple(map(str, different.tolist())))
    coded = values if pa.types.is_dictionary(values.type) else pc.dictionary_encode(values)
    held = [str(word).strip() for word in coded.dictionary.to_pylist()]
    names = ordered([word for word in held if word and word.lower() != "nan"])
    at = Coded(np.arange(len(held)), tuple(held)).among(names)
    index = np.asarray(pc.fill_null(coded.indices, len(held)).to_numpy(zero_copy_only=False))
    return Coded(np.append(at, PAD)[index], names)


def _one_by_one(cells: Cells) -> Array:
    """Return times that are numbers in text, or name the first cell that is no time."""
    try:
        return floats(replace(cells, text=True))
    except BadInput:
        for row, cell in enumerate(cells.values):
            try:
                cell.cast(pa.timestamp("us"))
            except pa.ArrowInvalid:
                cells.refuse(row, "is not a time")
        raise
