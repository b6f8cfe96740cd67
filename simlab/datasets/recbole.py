"""RecBole's atomic files: NAME.inter, NAME.item and NAME.user, whose headers tell the types of columns.

Source: Zhao et al. (2021), "RecBole: Towards a Unified, Comprehensive and Efficient Framework for
Recommendation Algorithms", CIKM; https://recbole.io/docs/user_guide/data/atomic_files.html.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simlab.datasets._columns import ID, NUMBER, Array, Coded, Columns, read
from simlab.datasets._interactions import Interactions, Side, Table
from simlab.errors import BadInput, nearest

_HINT = (
    "take a data set in atomic files from https://recbole.io/dataset_list.html or write one, so that the "
    "folder has NAME.inter with columns user_id:token and item_id:token, and if you like NAME.item, NAME.user"
)
_KINDS = ("token", "token_seq", "float", "float_seq")


@dataclass(frozen=True)
class RecBole(Interactions):
    """Any data set in RecBole's atomic files: NAME.inter and, where they are there, NAME.item and NAME.user.

    A column `x:token` of a side file becomes a category, `x:token_seq` (words between spaces) a field with
    several values, `x:float` a number and `x:float_seq` a part of the items' `Catalog.vectors`. Users have no
    place for sequences, so these are left out there. What else holds is told by `Interactions`.

    Attributes:
        name: name of the files.
        root: their folder; `data/NAME` if None.
        rating: the column of ratings, used where the file has it; "label" in some data sets.
        time: the column of times, used where the file has it.
        user_columns: the columns of NAME.user to take; None takes all.
        item_columns: the columns of NAME.item to take; None takes all.
        context: columns of NAME.inter that are known before the choice, as features of the log.
    """

    name: str = "ml-100k"
    root: Path | None = None
    rating: str = "rating"
    time: str = "timestamp"
    user_columns: tuple[str, ...] | None = None
    item_columns: tuple[str, ...] | None = None
    context: tuple[str, ...] = ()

    def _read(self) -> Table:
        there = self._header("inter")
        known = [c for c in (self.rating, self.time) if c in there]
        rows = self._open("inter", ["user_id", "item_id", *known, *self.context])
        context = self._known(rows, "inter", self.context)
        return Table(
            user=rows.ids("user_id"),
            item=rows.ids("item_id"),
            time=rows.numbers(self.time) if self.time in known else None,
            rating=rows.numbers(self.rating) if self.rating in known else None,
            users=self._side("user", self.user_columns),
            items=self._side("item", self.item_columns),
            categories=context.categories,
            numbers=context.numbers,
        )

    def _side(self, what: str, columns: tuple[str, ...] | None) -> Side | None:
        """Read a side file, or nothing where there is none."""
        if not self.sides or not self._path(what).is_file():
            return None
        key = f"{what}_id"
        chosen = tuple(c for c in self._header(what) if c != key) if columns is None else columns
        rows = self._open(what, [key, *chosen])
        known = self._known(rows, what, chosen)
        return Side(rows.ids(key), rows.where, known.categories, known.numbers, known.vectors)

    def _known(self, rows: Columns, what: str, columns: tuple[str, ...]) -> "_Known":
        """Sort columns by their types."""
        kinds = self._header(what)
        categories = {c: rows.category(c) for c in columns if kinds[c] == "token"}
        numbers = {c: rows.numbers(c) for c in columns if kinds[c] == "float"}
        vectors = []
        if what == "item":
            categories |= {c: rows.categories(c, " ") for c in columns if kinds[c] == "token_seq"}
            vectors = [rows.vectors(c) for c in columns if kinds[c] == "float_seq"]
        return _Known(categories, numbers, np.concatenate(vectors, 1) if vectors else None)

    def _path(self, what: str) -> Path:
        root = Path("data") / self.name if self.root is None else Path(self.root)
        return root / f"{self.name}.{what}"

    def _header(self, what: str) -> dict[str, str]:
        """Return the type of each column."""
        path = self._path(what)
        if not path.is_file():
            raise BadInput(f"{path} is not there: {_HINT}")
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            line = file.readline().rstrip("\r\n")
        kinds: dict[str, str] = {}
        for cell in line.split("\t"):
            name, colon, kind = cell.partition(":")
            if not colon or kind not in _KINDS:
                raise BadInput(
                    f"{path}: {cell[:60]!r} in the header is not NAME:TYPE, TYPE one of {', '.join(_KINDS)}"
                )
            kinds[name] = kind
        return kinds

    def _open(self, what: str, names: list[str]) -> Columns:
        """Read columns by their names without the types."""
        kinds = self._header(what)
        for name in names:
            if name not in kinds:
                raise BadInput(f"{self._path(what)}: column {name} is missing{nearest(name, kinds)}")
        typed = {f"{n}:{kinds[n]}": NUMBER if kinds[n] == "float" else ID for n in names}
        table = read(self._path(what), typed, _HINT, separator="\t", quoted=False)
        return Columns(table.where, {n.partition(":")[0]: c for n, c in table.cells.items()})


@dataclass(frozen=True, eq=False)
class _Known:
    """Columns by their types."""

    categories: dict[str, Coded]
    numbers: dict[str, Array]
    vectors: Array | None
