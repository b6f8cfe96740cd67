"""Any table with a row for each time a user met an item: pandas, polars, Arrow, Parquet or CSV."""

import os
from dataclasses import dataclass, fields

from simlab.datasets._columns import Columns, of_source
from simlab.datasets._interactions import Interactions, Side, Table
from simlab.errors import BadInput
from simlab.tables.sources import ArrowStream, Memory, open_source


@dataclass(frozen=True, eq=False)
class Frame(Interactions):
    """A table of your own with a user, an item and a time in each row; columns are mapped by name.

    Ids may be words or whole numbers. Times may be numbers, timestamps, dates or text such as
    2020-07-05 09:00:00; they need not be in order. Categories may be words or whole numbers; empty ones are
    unknown. Tables on users and items share the id column's name with the interactions. What else holds is
    told by `Interactions`.

    Attributes:
        source: the interactions: a path (.parquet, .csv, .csv.gz, .tsv) or a table in memory.
        user: the column of users.
        item: the column of items.
        time: the column of times; None for data without, whose log then has no steps.
        rating: the column of ratings, if any.
        features: columns of numbers that are known before the choice.
        categories: columns of categories that are known before the choice.
        extra: columns of numbers that came back beside the click, for `outcomes()`.
        users: a table on users, if any.
        user_features: its columns of numbers.
        user_categories: its columns of categories.
        items: a table on items, if any.
        item_features: its columns of numbers.
        fields: its columns of categories: one each, or several in lists or text with `separator` between.
        vectors: its column of given embeddings, lists of numbers.
        separator: what stands between several categories in text.
    """

    source: str | os.PathLike[str] | ArrowStream | None = None
    user: str = "user"
    item: str = "item"
    time: str | None = "time"
    rating: str | None = None
    features: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    users: str | os.PathLike[str] | ArrowStream | None = None
    user_features: tuple[str, ...] = ()
    user_categories: tuple[str, ...] = ()
    items: str | os.PathLike[str] | ArrowStream | None = None
    item_features: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    vectors: str | None = None
    separator: str = "|"

    def __eq__(self, other: object) -> bool:
        """Compare settings; tables in memory are the same only if they are one."""
        if not isinstance(other, Frame):
            return NotImplemented
        both = [(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        plain = (str, os.PathLike, tuple, int, float)
        return all(a is b or (isinstance(a, plain) and isinstance(b, plain) and a == b) for a, b in both)

    def __hash__(self) -> int:
        """Return a number that equal settings share."""
        return hash((self.user, self.item, self.time, self.rating, self.features, self.categories))

    def _read(self) -> Table:
        if self.source is None:
            raise BadInput(
                "say which table to read: source=PATH or a DataFrame, a row each time a user met an item, "
                f"with columns {self.user}, {self.item}{f' and {self.time}' if self.time else ''}"
            )
        single = [name for name in (self.time, self.rating) if name is not None]
        rows = _open(
            "interactions",
            self.source,
            (self.user, self.item, *single, *self.features, *self.categories, *self.extra),
        )
        users = items = None
        if self.sides and self.users is not None:
            table = _open("users", self.users, (self.user, *self.user_features, *self.user_categories))
            users = Side(
                table.ids(self.user),
                table.where,
                {name: table.category(name) for name in self.user_categories},
                {name: table.numbers(name) for name in self.user_features},
            )
        if self.sides and self.items is not None:
            vectors = () if self.vectors is None else (self.vectors,)
            table = _open("items", self.items, (self.item, *self.item_features, *self.fields, *vectors))
            items = Side(
                table.ids(self.item),
                table.where,
                {name: table.categories(name, self.separator) for name in self.fields},
                {name: table.numbers(name) for name in self.item_features},
                None if self.vectors is None else table.vectors(self.vectors),
            )
        return Table(
            user=rows.ids(self.user),
            item=rows.ids(self.item),
            time=None if self.time is None else rows.times(self.time),
            rating=None if self.rating is None else rows.numbers(self.rating),
            users=users,
            items=items,
            categories={name: rows.category(name) for name in self.categories},
            numbers={name: rows.numbers(name) for name in self.features},
            outcomes={name: rows.numbers(name) for name in self.extra},
        )


def _open(what: str, source: str | os.PathLike[str] | ArrowStream, names: tuple[str, ...]) -> Columns:
    """Read columns of a file or of a table in memory."""
    wanted = tuple(dict.fromkeys(names))
    if not isinstance(source, str | os.PathLike):
        return of_source(f"table of {what}", Memory(source), wanted)
    path = os.fspath(source)
    try:
        opened = open_source(path)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    return of_source(path, opened, wanted)
