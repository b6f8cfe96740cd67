"""Wide tables with a column for each slot: `item_0, item_1, …` read as if they were one column of lists."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
import pyarrow as pa

from simlab.errors import BadInput
from simlab.tables.cells import Cells, is_list, is_text, plain, truth, utf8
from simlab.tables.columns import ColumnMap, close
from simlab.tables.sources import Source

FIELDS = ("slate", "slot_propensity", "click", "candidates")
"""The fields that have a value for each slot (or candidate), so that a pattern may name their columns."""


def gathered(source: Source, columns: ColumnMap) -> tuple[Source, ColumnMap]:
    """Return the table with a column of lists for each pattern of the map, such as `slate="item_*"`.

    The columns of a pattern are taken in the order of the numbers that they end with, which count from 0 or
    from 1 without a gap. Refusals then name the pattern as the column.

    Raises:
        BadInput: if a pattern finds nothing, or columns whose numbers have a gap.
    """
    found: dict[str, list[str]] = {}
    names = list(source.names)
    for field in FIELDS:
        said = getattr(columns, field)
        if said and "*" in said and said not in names:
            found[said] = _ordered(field, said, names)
    if not found:
        return source, columns
    if columns.slate in found and columns.item is None:
        columns = replace(columns, item="")  # item_0 may look like an item of its own, and is not
    return Gathered(source, found), columns


def _ordered(field: str, pattern: str, names: Sequence[str]) -> list[str]:
    """Return the columns that a pattern finds, in the order of their slots."""
    hits = [name for name in names if fnmatchcase(name, pattern)]
    if not hits:
        raise BadInput(f"column {pattern} (our {field}) is missing{close(pattern.replace('*', ''), names)}")
    ends = [re.search(r"\d+$", name) for name in hits]
    for name, end in zip(hits, ends, strict=True):
        if end is None:
            raise BadInput(
                f"column {name} of {pattern} (our {field}) does not end with the number of its slot"
            )
    slot = [int(end[0]) for end in ends if end is not None]
    order = sorted(range(len(hits)), key=slot.__getitem__)
    first = slot[order[0]]
    for place, index in enumerate(order):
        if first > 1 or slot[index] != first + place:
            wanted = first + place if first <= 1 else "0 or 1"
            raise BadInput(
                f"column {hits[index]} of {pattern} (our {field}) ends with {slot[index]}, "
                f"but slots count on from 0 or 1, and {wanted} is missing"
            )
    return [hits[i] for i in order]


class Gathered(Source):
    """A table some of whose columns are laid together as lists.

    Args:
        source: the table.
        groups: the columns of each new column, slot 0 first.
    """

    def __init__(self, source: Source, groups: dict[str, list[str]]) -> None:
        taken = {name for group in groups.values() for name in group}
        self.source, self.groups = source, groups
        self.names = [n for n in source.names if n not in taken] + list(groups)
        self.metadata, self.text, self.exact = None, source.text, source.exact

    def check_names(self) -> None:
        """Refuse two columns of one name, and no columns.

        Raises:
            BadInput: naming the column.
        """
        self.source.check_names()
        super().check_names()

    def load(self, columns: Sequence[str]) -> pa.Table:
        """Return some columns whole."""
        return self._laid(self.source.load(self._wanted(columns)), columns)

    def stream(self, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
        """Return some columns, at most `rows` rows at a time."""
        first = 0
        for part in self.source.stream(self._wanted(columns), rows):
            yield self._laid(part, columns, first)
            first += part.num_rows

    def _wanted(self, columns: Sequence[str]) -> list[str]:
        return list(dict.fromkeys(c for name in columns for c in self.groups.get(name, [name])))

    def _laid(self, table: pa.Table, columns: Sequence[str], first: int = 0) -> pa.Table:
        return pa.table(
            {n: self._lists(table, n, first) if n in self.groups else table.column(n) for n in columns}
        )

    def _lists(self, table: pa.Table, name: str, first: int) -> pa.Array:
        """Return columns side by side as one of lists."""
        group = self.groups[name]
        cells = (Cells(c, plain(table.column(c)), self.text, first) for c in group)
        parts = [truth(utf8(c)).values for c in cells]
        kind = _common(group, [p.type for p in parts])
        rows, slots = table.num_rows, len(group)
        flat = pa.concat_arrays([p.cast(kind) for p in parts])
        where = np.arange(rows * slots).reshape(slots, rows).T.reshape(-1)
        return pa.LargeListArray.from_arrays(np.arange(rows + 1) * slots, flat.take(pa.array(where)))


def _common(names: Sequence[str], kinds: Sequence[pa.DataType]) -> pa.DataType:
    """Return the one type that all columns of a group can have.

    Raises:
        BadInput: if some are text and others numbers, or one is a list.
    """
    t = pa.types
    for name, kind in zip(names, kinds, strict=True):
        if is_list(kind):
            raise BadInput(f"column {name} holds lists, but a column for each slot holds single values")
    known = [k for k in kinds if not t.is_null(k)]
    if all(k == known[0] for k in known):
        return known[0] if known else pa.int64()
    if all(is_text(k) for k in known):
        return pa.large_string()
    whole = [t.is_integer(k) or t.is_boolean(k) for k in known]
    if all(whole):
        return pa.int64()
    if all(fits or t.is_floating(k) for fits, k in zip(whole, known, strict=True)):
        return pa.float64()
    said = " and ".join(f"{n} {k}" for n, k in zip(names, kinds, strict=True))
    raise BadInput(f"the columns of one field are of different kinds: {said}")
