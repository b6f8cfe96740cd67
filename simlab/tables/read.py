"""Reading a log: find the layout and the columns, load what is needed, and hand over to the layout's file."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pyarrow.compute as pc

from simlab.errors import BadInput
from simlab.log import Log
from simlab.tables import columns as names_of
from simlab.tables.about import about
from simlab.tables.cells import plain
from simlab.tables.columns import LONG, NEEDED, WIDE, ColumnMap, missing
from simlab.tables.fields import Plan, Rows
from simlab.tables.gathered import gathered
from simlab.tables.long import read_long
from simlab.tables.obp import as_table, load_npz
from simlab.tables.sources import ArrowStream, Memory, Source, check_file, open_source, suffix
from simlab.tables.wide import read_wide

Layout = Literal["auto", "wide", "long", "obp"]
LogSource = str | os.PathLike[str] | ArrowStream | Mapping[str, Any]

_OPEN_BANDIT = {"item_id", "position", "click", "propensity_score", "user_feature_0"}


def read_log(
    source: LogSource,
    columns: ColumnMap = ColumnMap(),  # noqa: B008 (frozen)
    *,
    layout: Layout = "auto",
    n_items: int | None = None,
    item_names: Sequence[str] = (),
    user_names: Sequence[str] = (),
) -> Log:
    """Read a log from Parquet, CSV, OBP's dictionary or anything that hands out Arrow data.

    Args:
        source: a path (.parquet, .csv, .csv.gz, .tsv, .npz), a table (pandas, polars, duckdb, pyarrow) or
            the feedback dictionary of Open Bandit Pipeline.
        columns: which column is which field, where names and aliases do not tell.
        layout: "wide" is a row per slate, "long" a row per item, "obp" Open Bandit's own files (wide, with
            positions from 1) or dictionary. "auto" is long if rounds repeat in a file with single items, obp
            if the columns are those of the Open Bandit Dataset, and wide otherwise.
        n_items: size of the catalogue; by default the number of names, or the largest id + 1.
        item_names: known names of the items by id, such as those of another log of the same catalogue.
        user_names: known names of the users by id.

    Raises:
        BadInput: one sentence that names the file, the column, the row (the first row of data is 0, a
            header does not count) and the value.
    """
    with _named(source):
        table, columns, n_items = _open(source, columns, layout, n_items)
        layout, plan = _plan(table, columns, layout, n_items, item_names, user_names)
        rows = Rows(table.load(plan.needed()), plan, table.text)
        if not len(rows):
            raise BadInput("empty: there are columns but no rows")
        return read_long(rows) if layout == "long" else read_wide(rows)


def iter_log(
    source: LogSource,
    columns: ColumnMap = ColumnMap(),  # noqa: B008 (frozen)
    *,
    rows: int = 65_536,
    n_items: int | None = None,
    item_names: Sequence[str] = (),
    user_names: Sequence[str] = (),
) -> Iterator[Log]:
    """Read a wide log a chunk at a time, for files larger than memory.

    One chunk cannot know what the others hold. So a file that this library did not write needs `n_items`,
    and names for ids that are text; positions need `position_from`, categories `category_sizes`.

    Args:
        source: as for `read_log`.
        columns: as for `read_log`.
        rows: how many rows a chunk has at most.
        n_items: size of the catalogue.
        item_names: names of the items by id.
        user_names: names of the users by id.

    Raises:
        BadInput: as for `read_log`; rows are counted in the whole file. Earlier chunks were already given.
    """
    if rows < 1:
        raise BadInput(f"a chunk has at least 1 row, not {rows}")
    with _named(source):
        table, columns, n_items = _open(source, columns, "wide", n_items)
        layout: Layout = "obp" if set(table.names) >= _OPEN_BANDIT else "wide"
        _, plan = _plan(table, columns, layout, n_items, item_names, user_names)
        if plan.n_items is None and not plan.item_names:
            raise BadInput("reading by chunks needs n_items, because one chunk does not know the largest id")
        if not plan.own:
            _fixed(plan)
    first = 0
    chunks = table.stream(plan.needed(), rows)
    while True:
        with _named(source):
            chunk = next(chunks, None)
            if chunk is None:
                break
            if chunk.num_rows == 0:
                continue
            log = read_wide(Rows(chunk, plan, table.text, first))
            _same_names(log, plan)
        first += chunk.num_rows
        yield log
    if first == 0:
        with _named(source):
            raise BadInput("empty: there are columns but no rows")


class _named:  # noqa: N801 (reads as a word)
    """Put the file's name in front of a refusal."""

    def __init__(self, source: LogSource) -> None:
        file = isinstance(source, str | os.PathLike)
        self.name = os.fspath(source) if file else "feedback" if isinstance(source, Mapping) else "table"  # type: ignore[arg-type]

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, BadInput):
            raise BadInput(f"{self.name}: {error}") from None


def _open(
    source: LogSource, columns: ColumnMap, layout: Layout, n_items: int | None
) -> tuple[Source, ColumnMap, int | None]:
    """Return the table, with the columns and the catalogue's size that an OBP dictionary implies."""
    if n_items is not None and n_items < 1:
        raise BadInput(f"n_items is {n_items}, but a catalogue has at least one item")
    if isinstance(source, str | os.PathLike):
        if suffix(Path(source)) != ".npz":
            return *gathered(open_source(source), columns), n_items
        check_file(Path(source))
        source = load_npz(Path(source))
    if isinstance(source, Mapping):
        if columns != ColumnMap():
            raise BadInput("the keys of an OBP dictionary are fixed: leave the column map out")
        table, columns, known = as_table(source)
        return Memory(table, exact=True), columns, n_items or known
    return *gathered(Memory(source), columns), n_items


def _plan(
    table: Source,
    columns: ColumnMap,
    layout: Layout,
    n_items: int | None,
    item_names: Sequence[str],
    user_names: Sequence[str],
) -> tuple[Layout, Plan]:
    """Decide on the layout and on the column of every field."""
    table.check_names()
    own = about(table.metadata)
    names = list(table.names)
    if own:
        if n_items not in (None, own["n_items"]):
            raise BadInput(f"n_items is {n_items}, but the file was written with {own['n_items']}")
        if layout in ("long", "obp"):
            raise BadInput(f"layout is {layout}, but this library wrote the file with a row a slate")
        # What is not mapped has our own name: no alias could be meant.
        mine: dict[str, Any] = {f: f for f in WIDE if f in names and getattr(columns, f) is None}
        columns = replace(columns, position_from=0, recode=(), **mine)
        item_names, user_names, n_items, layout = own["items"], own["users"], own["n_items"], "wide"
    if layout == "auto":
        layout = _layout(table, columns, names)
    if layout == "obp":
        columns = columns if columns.position_from is not None else replace(columns, position_from=1)
    fields = LONG if layout == "long" else WIDE
    known = {f: names_of.find(f, columns, names) for f in fields if f != "features"}
    found = {f: c for f, c in known.items() if c is not None}
    if "slate" in found and "item" in found:
        raise BadInput(
            f"columns {found['slate']} and {found['item']} both say what was shown: "
            "leave one out with an empty name, or say layout=long"
        )
    for group in NEEDED["long" if layout == "long" else "wide"]:
        if not any(field in found for field in group):
            raise missing(group, names)
    chosen = tuple(names_of.several("features", columns, names))
    coded = tuple(names_of.several("categories", columns, names))
    plan = Plan(found, chosen, columns.position_from, columns.recode, n_items, own=own, exact=table.exact)
    plan = replace(plan, categories=coded, category_sizes=columns.category_sizes)
    return layout, replace(plan, item_names=tuple(item_names), user_names=tuple(user_names))


def _layout(table: Source, columns: ColumnMap, names: list[str]) -> Layout:
    """Guess the layout: nothing is guessed that two columns disagree on."""
    if set(names) >= _OPEN_BANDIT:
        return "obp"
    if names_of.find("slate", columns, names) or not names_of.find("item", columns, names):
        return "wide"
    group = names_of.find("round", columns, names)
    if group is None:
        return "wide"
    held = plain(table.load([group]).column(group))
    return "long" if len(pc.unique(held)) < len(held) else "wide"


def _fixed(plan: Plan) -> None:
    """Refuse a plan whose ids would be numbered anew in every chunk."""
    if plan.categories and not plan.category_sizes:
        raise BadInput("reading categories by chunks needs category_sizes: one chunk does not show them all")
    for what, names in (("item", plan.item_names), ("user", plan.user_names)):
        if what in plan.recode and not names:
            raise BadInput(f"reading by chunks cannot recode {what} without {what}_names")


def _same_names(log: Log, plan: Plan) -> None:
    """Refuse names that only one chunk knows."""
    for what, found, names in (
        ("item", log.item_names, plan.item_names),
        ("user", log.user_names, plan.user_names),
    ):
        if found != names:
            column = (
                plan.columns.get("slate") or plan.columns.get("item")
                if what == "item"
                else plan.columns["user"]
            )
            raise BadInput(f"column {column} holds names: reading by chunks needs {what}_names")
