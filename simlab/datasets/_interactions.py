"""From interactions and side tables to a log and a catalogue: a data set only reads its files."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from simlab.context import PAD, Catalog, Field
from simlab.datasets._columns import Array, Coded, ordered
from simlab.errors import BadInput
from simlab.log import Log


@dataclass(frozen=True, eq=False)
class Side:
    """What is known of users or of items, in the order of their own table.

    Attributes:
        ids: who or what each row is of.
        where: the table, for refusals.
        categories: columns of categories, one or several values a row.
        numbers: columns of finite numbers.
        vectors: a given embedding of each row, or None.
    """

    ids: Coded
    where: str = ""
    categories: Mapping[str, Coded] = field(default_factory=dict)
    numbers: Mapping[str, Array] = field(default_factory=dict)
    vectors: Float[np.ndarray, "row width"] | None = None

    def __post_init__(self) -> None:
        count = np.bincount(self.ids.code, minlength=1)
        if count.max() > 1:
            row = int(np.flatnonzero(count[self.ids.code] > 1)[1])
            name = self.ids.names[self.ids.code[row]]
            raise BadInput(f"{self.where}: row {row}: {name!r} is there twice")

    def rows(self, names: tuple[str, ...]) -> Int[np.ndarray, " name"]:
        """Return the row of each name, -1 where the table has none."""
        out = np.full(len(names), PAD, dtype=np.int64)
        code = self.ids.among(names)
        out[code[code >= 0]] = np.flatnonzero(code >= 0)
        return out


@dataclass(frozen=True, eq=False)
class Table:
    """Interactions as they were read, a row each.

    Attributes:
        user: who.
        item: with what.
        time: when, or None where nobody knows.
        rating: how much it was liked, or None.
        users: what is known of the users.
        items: what is known of the items.
        categories: context of each row as categories.
        numbers: context of each row as numbers.
        outcomes: what else came back, by name.
        propensity: how likely each row's item was, or None where that is not known.
        treatment: arm of each row.
        policy: name of the logging policy, one for all rows or one each.
    """

    user: Coded
    item: Coded
    time: Array | None = None
    rating: Array | None = None
    users: Side | None = None
    items: Side | None = None
    categories: Mapping[str, Coded] = field(default_factory=dict)
    numbers: Mapping[str, Array] = field(default_factory=dict)
    outcomes: Mapping[str, Array] = field(default_factory=dict)
    propensity: Array | None = None
    treatment: Array | None = None
    policy: tuple[str, ...] = ("unknown",)


@dataclass(frozen=True, kw_only=True)
class Interactions(ABC):
    """A data set with a row for each time a user met an item.

    The log has a row for each of them in the file's order: a slate of K = 1 and `reward` equal to `click`.
    `propensity` is 1, since the data do not say how likely the item was: such a log trains rankers, but
    weighting by its propensities corrects nothing. Users and items are numbered from 0 in the order of their
    own ids, which stay as `user_names` and `item_names`. `step` is the rank of the row's time among the
    user's times, from 0; rows of one time share a step, and `Log.order()` then keeps the file's order. A file
    need not be in order of time: what reads the log sorts by step, and does not warn. A time that is missing
    (empty, NaN or NaT) is refused by row.

    Attributes:
        threshold: None makes a click of every row (implicit feedback); a number makes clicks of the rows
            rated at least so much, and 0 of the others.
        value: "click", or "rating" to keep the rating itself as click and reward, for regression.
        sides: whether to read the tables on users and items.
        unseen: whether users and items of these tables that no row has are numbered too.
    """

    threshold: float | int | None = None
    value: Literal["click", "rating"] = "click"
    sides: bool = True
    unseen: bool = True

    @abstractmethod
    def _read(self) -> Table:
        """Read the files."""

    def load(self) -> Log:
        """Read the rounds.

        Raises:
            BadInput: for a file or column that is missing, and a cell that cannot be, naming all of them.
        """
        table = self._read()
        users, items = self._names(table)
        user, item = table.user.among(users), table.item.among(items)
        click = torch.from_numpy(self._click(table))
        names, codes, sizes = _context_categories(table, user, users)
        numbers = {**_of_users(table.users, user, users), **table.numbers}
        features = np.stack(list(numbers.values()), 1).astype(np.float32) if numbers else None
        ones = np.ones(len(user)) if table.propensity is None else table.propensity
        return Log(
            user=torch.from_numpy(user),
            slate=torch.from_numpy(item).unsqueeze(1),
            propensity=torch.from_numpy(ones),
            reward=click,
            n_items=len(items),
            step=None if table.time is None else torch.from_numpy(dense_rank(user, table.time)),
            features=None if features is None else torch.from_numpy(features),
            click=click.float().unsqueeze(1),
            treatment=None if table.treatment is None else torch.from_numpy(table.treatment),
            policy=table.policy,
            feature_names=tuple(numbers),
            item_names=items,
            user_names=users,
            categories=codes,
            category_names=names,
            category_sizes=sizes,
        )

    def catalog(self) -> Catalog:
        """Read the items; a number that is not known of an item is 0.

        Raises:
            BadInput: as in `load`.
        """
        table = self._read()
        names = self._names(table)[1]
        side = table.items
        if side is None:
            return Catalog(torch.zeros(len(names), 0), names=names)
        at = side.rows(names)
        known = at >= 0
        features = np.zeros((len(names), len(side.numbers)), dtype=np.float32)
        for column, values in enumerate(side.numbers.values()):
            features[known, column] = values[at[known]]
        vectors = None
        if side.vectors is not None:
            vectors = np.zeros((len(names), side.vectors.shape[1]), dtype=np.float32)
            vectors[known] = side.vectors[at[known]]
        return Catalog(
            torch.from_numpy(features),
            names=names,
            feature_names=tuple(side.numbers),
            fields=tuple(_field(name, coded, at) for name, coded in side.categories.items()),
            vectors=None if vectors is None else torch.from_numpy(vectors),
        )

    def times(self) -> Int[Tensor, " round"] | Float[Tensor, " round"]:
        """Read when each round of `load()` was, in the file's own unit.

        Raises:
            BadInput: as in `load`, and where the data have no times.
        """
        time = self._read().time
        if time is None:
            raise BadInput(f"{type(self).__name__} has no times")
        return torch.from_numpy(np.array(time))

    def outcomes(self) -> dict[str, Float[Tensor, "round slot"]]:
        """Read what else came back for each round of `load()`, by name, float32, for multi-task training.

        Raises:
            BadInput: as in `load`.
        """
        table = self._read()
        found = dict(table.outcomes)
        if table.rating is not None:
            found.setdefault("rating", table.rating)
        return {n: torch.from_numpy(v.astype(np.float32)).unsqueeze(1) for n, v in found.items()}

    def labels(self) -> dict[str, tuple[str, ...]]:
        """Read the owner's words for the categories of each column of `Log.categories`.

        Raises:
            BadInput: as in `load`.
        """
        table = self._read()
        both = {**_single(table.users), **table.categories}
        return {name: coded.names for name, coded in both.items()}

    def _names(self, table: Table) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the users and the items, in the order of their numbers."""
        out = []
        for coded, side in ((table.user, table.users), (table.item, table.items)):
            more = side.ids.names if side is not None and self.unseen else ()
            out.append(ordered(coded.names, more) if more else coded.names)
        return out[0], out[1]

    def _click(self, table: Table) -> Float[np.ndarray, " round"]:
        """Return what came back for each row."""
        if self.value not in ("click", "rating"):
            raise BadInput(f"value is {self.value!r}, but it is click or rating")
        if self.threshold is None and self.value == "click":
            return np.ones(len(table.user.code))
        if table.rating is None:
            asked = "value is rating" if self.value == "rating" else f"threshold is {self.threshold}"
            raise BadInput(f"{asked}, but the data have no ratings")
        if self.value == "click":
            return (table.rating >= self.threshold).astype(np.float64)
        if self.threshold is not None:
            raise BadInput(f"threshold is {self.threshold}, but value=rating keeps the ratings as they are")
        return table.rating.astype(np.float64)


def dense_rank(user: Int[np.ndarray, " row"], time: Array) -> Int[np.ndarray, " row"]:
    """Return the rank of each row's time among the different times of its user, from 0."""
    order = np.lexsort((time, user))
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = user[order][1:] != user[order][:-1]
    later = ~fresh
    later[1:] &= time[order][1:] != time[order][:-1]
    count = later.cumsum()
    start = np.maximum.accumulate(np.where(fresh, count, 0))
    out = np.empty(len(order), dtype=np.int64)
    out[order] = count - start
    return out


def _single(side: Side | None) -> dict[str, Coded]:
    """Return the columns with one category a row."""
    return {} if side is None else {n: c for n, c in side.categories.items() if c.row is None}


def _context_categories(
    table: Table, user: Int[np.ndarray, " row"], users: tuple[str, ...]
) -> tuple[tuple[str, ...], Int[Tensor, "round field"] | None, tuple[int, ...]]:
    """Return names, codes and sizes of the categories of users and of rows."""
    columns: dict[str, Array] = {}
    sizes: list[int] = []
    if table.users is not None:
        at = table.users.rows(users)[user]
        for name, coded in _single(table.users).items():
            columns[name] = np.where(at >= 0, coded.code[at], PAD)
            sizes.append(len(coded.names))
    for name, coded in table.categories.items():
        if name in columns:
            raise BadInput(f"{name} is a column of the users and one of the interactions: choose one")
        columns[name] = coded.code
        sizes.append(len(coded.names))
    if not columns:
        return (), None, ()
    return tuple(columns), torch.from_numpy(np.stack(list(columns.values()), 1)), tuple(sizes)


def _of_users(side: Side | None, user: Int[np.ndarray, " row"], users: tuple[str, ...]) -> dict[str, Array]:
    """Return the numbers that are known of each row's user, 0 where there is none."""
    if side is None:
        return {}
    at = side.rows(users)[user]
    return {name: np.where(at >= 0, values[at], 0.0) for name, values in side.numbers.items()}


def _field(name: str, coded: Coded, at: Int[np.ndarray, " item"]) -> Field:
    """Return a column of the items' table as a field of the catalogue."""
    row = np.arange(len(coded.code)) if coded.row is None else coded.row
    count = np.bincount(row, minlength=1)
    place = np.arange(len(row)) - np.repeat(count.cumsum() - count, count)
    values = np.full((max(len(count), int(at.max()) + 1), max(1, int(count.max()))), PAD, dtype=np.int64)
    values[row, place] = coded.code
    values = np.where(at[:, None] >= 0, values[at], PAD)
    return Field(name, torch.from_numpy(values), len(coded.names), coded.names)
