"""Any table with a row for each customer: pandas, polars, Arrow, Parquet or CSV."""

import os
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float

from causal.trials._files import Array, choose, one_hot
from causal.uplift.contract import Trial
from simlab.datasets._columns import Coded, Columns, of_source
from simlab.errors import BadInput, nearest
from simlab.tables.cells import Cells, is_text
from simlab.tables.sources import ArrowStream, Memory, Source, open_source

_INDEX = re.compile(r"|__index_level_\d+__|Unnamed: \d+")
"""Row numbers of pandas: as Arrow has them, and as pandas writes them to CSV and names them again."""
_MANY = 200
"""Levels of a category that are still opened to columns."""


@dataclass(frozen=True, eq=False)
class Frame:
    """A table of your own with a treatment, an outcome and features in each row; columns are named.

    Which columns are features: those that `features` names or matches (* and ? stand for letters), in the
    table's order; by default all that have no other part, but for the index of pandas and columns without a
    name. `drop` takes some away. A feature that is text, or matches `categories`, is a category; the rest are
    numbers, and true and false are 1 and 0.

    How categories are written: levels are put in order, as numbers if all are whole numbers, else as text.
    "onehot" gives each level but the first a column of 0 and 1 named such as zip=Urban; "ordinal" gives one
    column with the level's place, from 0. With more than 200 levels "onehot" is refused.

    Missing values (empty cells and NaN): "refuse" names the first row. "impute" puts a number's median and
    adds a column such as age:missing of 0 and 1; a category gets a last level "missing". A treatment, an
    outcome, a weight, a user or a chance is never imputed.

    Attributes:
        source: a path (.parquet, .csv, .csv.gz, .tsv) or a table in memory.
        treatment: the column of arms: any few labels.
        outcome: the column of outcomes: numbers, or true and false.
        features: names and patterns, such as ("age", "f*").
        drop: names and patterns of columns that are no features.
        categories: names and patterns of features that are categories though they are numbers.
        encoding: "onehot" or "ordinal".
        missing: "refuse" or "impute".
        control: the label of control; the smallest one (0, false) if None.
        weight: the column of weights, if any.
        user: the column that says whose row it is, if any.
        propensity: the column with the chance of treatment; or one for each arm, control first and the others
            sorted.
        effect: the column of true effects, where they are known.
    """

    source: str | os.PathLike[str] | ArrowStream | None = None
    treatment: str = "treatment"
    outcome: str = "outcome"
    features: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    encoding: str = "onehot"
    missing: str = "refuse"
    control: Hashable | None = None
    weight: str | None = None
    user: str | None = None
    propensity: str | tuple[str, ...] | None = None
    effect: str | None = None

    def __eq__(self, other: object) -> bool:
        """Compare settings; tables in memory are the same only if they are one."""
        if not isinstance(other, Frame):
            return NotImplemented
        both = [(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        known = (str, os.PathLike, tuple, int, float)
        return all(a is b or (isinstance(a, known) and isinstance(b, known) and a == b) for a, b in both)

    def __hash__(self) -> int:
        """Return a number that equal settings share."""
        return hash((self.treatment, self.outcome, self.features, self.drop, self.categories))

    def load(self) -> Trial:
        """Read the table.

        Raises:
            BadInput: for a column that is not there or has two parts, a pattern that matches nothing, a cell
                that cannot be, and what `Trial.of` refuses.
        """
        choose("encoding", self.encoding, ("onehot", "ordinal"))
        choose("rule for missing values", self.missing, ("refuse", "impute"))
        where, source = self._open()
        chosen = self._chosen(where, list(source.names))
        table = of_source(where, source, (*self._parts(), *chosen))
        columns: list[Array] = []
        names: list[str] = []
        for name in chosen:
            category = _matches(name, self.categories) or _is_word(table.cells[name])
            more, called = self._category(table, name) if category else self._number(table, name)
            columns += more
            names += called
        if not columns:
            raise BadInput(f"{where}: no feature is left: every category has one level")
        try:
            return Trial.of(
                np.stack(columns, 1),
                _labels(table, self.treatment),
                table.numbers(self.outcome),
                control=self.control,
                names=names,
                weight=None if self.weight is None else table.numbers(self.weight),
                user=None if self.user is None else table.ids(self.user).code,
                propensity=self._propensity(table),
                effect=None if self.effect is None else table.numbers(self.effect),
            )
        except BadInput as error:
            text = str(error)
            for part in ("treatment", "outcome", "weight", "user", "propensity"):  # in the table's own words
                called = getattr(self, part)
                if isinstance(called, str) and text.startswith(f"column {part}"):
                    text = text.replace(f"column {part}", f"column {called}", 1)
            raise BadInput(text if text.startswith(where) else f"{where}: {text}") from None

    def _open(self) -> tuple[str, Source]:
        if self.source is None:
            raise BadInput(
                "say which table to read: source=PATH or a DataFrame, a row for each customer, with columns "
                f"{self.treatment}, {self.outcome} and features"
            )
        if not isinstance(self.source, str | os.PathLike):
            return "table", Memory(self.source)
        path = os.fspath(self.source)
        try:
            return path, open_source(path)
        except BadInput as error:
            raise BadInput(f"{path}: {error}") from None

    def _parts(self) -> dict[str, str]:
        """Return the columns that are no features, and what they are."""
        many = (self.propensity,) if isinstance(self.propensity, str) else self.propensity or ()
        given = [
            (self.treatment, "treatment"),
            (self.outcome, "outcome"),
            (self.weight, "weight"),
            (self.user, "user"),
            *((name, "propensity") for name in many),
            (self.effect, "effect"),
        ]
        found: dict[str, str] = {}
        for name, part in given:
            if name is None:
                continue
            if name in found:
                raise BadInput(f"column {name} cannot be both {found[name]} and {part}")
            found[name] = part
        return found

    def _chosen(self, where: str, there: Sequence[str]) -> list[str]:
        """Return the features' columns, in the table's order."""
        parts = self._parts()
        for name, part in parts.items():
            if name not in there:
                raise BadInput(f"{where}: column {name}, the {part}, is missing{nearest(name, there)}")
        for pattern in (*self.features, *self.drop, *self.categories):
            if not any(_matches(name, (pattern,)) for name in there):
                raise BadInput(f"{where}: no column is or matches {pattern}{nearest(pattern, there)}")
        for name in self.features:
            if name in parts:
                raise BadInput(f"{where}: column {name} cannot be both {parts[name]} and a feature")
        wanted = [
            name
            for name in there
            if name not in parts
            and (_matches(name, self.features) if self.features else not _INDEX.fullmatch(name))
            and not _matches(name, self.drop)
        ]
        if not wanted:
            raise BadInput(f"{where}: no column is left to be a feature")
        return wanted

    def _number(self, table: Columns, name: str) -> tuple[list[Array], list[str]]:
        cells = table.cells[name]
        lost = np.asarray(pc.is_null(cells.values, nan_is_null=True).to_numpy(zero_copy_only=False))
        if not lost.any() or self.missing == "refuse":
            try:
                return [table.numbers(name)], [name]
            except BadInput as error:
                way = "missing='impute' puts the median" if lost.any() else f"drop=({name!r},) leaves it out"
                raise BadInput(f"{error}; {way}") from None
        if not _is_number(cells):
            raise BadInput(
                f"{table.where}: column {name} is of type {cells.values.type}, not a number; "
                f"drop=({name!r},) leaves it out"
            )
        if lost.all():
            raise BadInput(f"{table.where}: column {name}: every value is missing, so there is no median")
        filled = pc.if_else(pa.array(lost), 0.0, cells.values.cast(pa.float64(), safe=False))
        values = Columns(table.where, {name: replace(cells, values=filled)}).numbers(name)
        values = np.where(lost, np.median(values[~lost]), values)
        return [values, lost.astype(np.float64)], [name, f"{name}:missing"]

    def _category(self, table: Columns, name: str) -> tuple[list[Array], list[str]]:
        found = table.category(name)
        lost = found.code < 0
        if lost.any():
            if self.missing == "refuse":
                table.check(name, ~lost, "is missing; missing='impute' makes it a level")
            found = Coded(np.where(lost, len(found.names), found.code), (*found.names, "missing"))
        if self.encoding == "ordinal":
            return [found.code.astype(np.float64)], [name]
        if len(found.names) > _MANY:
            raise BadInput(
                f"{table.where}: column {name} has {len(found.names):,} levels, too many for columns of 0 "
                f"and 1; take encoding='ordinal', or drop=({name!r},) leaves it out"
            )
        more, called = one_hot(name, found.names, found.code)
        return list(more.T), called

    def _propensity(self, table: Columns) -> Float[Array, " round"] | Float[Array, "round arm"] | None:
        if self.propensity is None:
            return None
        if isinstance(self.propensity, str):
            return table.numbers(self.propensity)
        return np.stack([table.numbers(name) for name in self.propensity], 1)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Tell whether a name is one of the patterns or fits one."""
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


def _is_word(cells: Cells) -> bool:
    return bool(is_text(cells.values.type) or pa.types.is_dictionary(cells.values.type))


def _is_number(cells: Cells) -> bool:
    kind = cells.values.type
    return any(f(kind) for f in (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)) or bool(
        pa.types.is_decimal(kind) or pa.types.is_null(kind)
    )


def _labels(table: Columns, name: str) -> Array:
    """Return the arms' labels as text, truth values or numbers; 1.0 is 1."""
    cells = table.cells[name]
    lost = np.asarray(pc.is_null(cells.values, nan_is_null=True).to_numpy(zero_copy_only=False))
    table.check(name, ~lost, "is missing")
    if _is_word(cells):
        return np.asarray(cells.values.cast(pa.string()).to_pylist())
    if pa.types.is_boolean(cells.values.type):
        return np.asarray(cells.values.to_numpy(zero_copy_only=False), dtype=bool)
    found = table.numbers(name)
    return found.astype(np.int64) if (found == np.floor(found)).all() else found
