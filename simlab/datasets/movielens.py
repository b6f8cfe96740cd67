"""MovieLens 100K and 1M: ratings of films from 1 to 5, with age, gender, occupation, genres and year.

Source: Harper and Konstan (2015), "The MovieLens Datasets: History and Context", ACM TiiS 5(4). The files are
GroupLens's and may not be passed on, so none of them is in this project.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simlab.datasets._columns import ID, NUMBER, Coded, Columns, ordered, read
from simlab.datasets._interactions import Interactions, Side, Table
from simlab.errors import BadInput, nearest

_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary"),
    *("Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller"),
    *("War", "Western"),
)
_BANDS = (0, 18, 25, 35, 45, 50, 56)
_ITEM = ("item", "title", "release", "video", "url", *_GENRES)
_PARTS = {
    "100k": "unpack ml-100k.zip of https://files.grouplens.org/datasets/movielens there, "
    "so that the folder holds u.data, u.item and u.user",
    "1m": "unpack ml-1m.zip of https://files.grouplens.org/datasets/movielens there, "
    "so that the folder holds ratings.dat, movies.dat and users.dat",
}


@dataclass(frozen=True)
class MovieLens(Interactions):
    """MovieLens 100K (943 users, 1,682 films) or 1M (6,040 users, 3,883 films, 3,706 of them rated).

    Categories of the user: gender, age (bands that begin at 0, 18, 25, 35, 45, 50 and 56, which are the only
    ages that 1M has) and occupation (words in 100K, numbers in 1M). Fields of a film: genre (several) and
    year of release. For 1M, `unseen=False` leaves the 177 films out that nobody rated, as most papers do.
    Zip codes are left out. What else holds is told by `Interactions`.

    Attributes:
        part: "100k" or "1m".
        root: the folder with the files; `data/ml-100k` or `data/ml-1m` if None.
    """

    part: str = "100k"
    root: Path | None = None

    def _read(self) -> Table:
        if self.part not in _PARTS:
            raise BadInput(f"there is no MovieLens {self.part}{nearest(self.part, _PARTS)}")
        small = self.part == "100k"
        rows = self._file(
            "u.data" if small else "ratings.dat",
            ("user", "item", "rating", "timestamp"),
            {"user": ID, "item": ID, "rating": NUMBER, "timestamp": NUMBER},
            "\t" if small else "::",
        )
        users = items = None
        if self.sides:
            users = self._users(small)
            items = self._films_100k() if small else self._films_1m()
        return Table(
            user=rows.ids("user"),
            item=rows.ids("item"),
            time=rows.numbers("timestamp"),
            rating=rows.numbers("rating"),
            users=users,
            items=items,
        )

    def _file(self, name: str, header: Sequence[str], kinds: dict[str, object], separator: str) -> Columns:
        root = Path(f"data/ml-{self.part}") if self.root is None else Path(self.root)
        hint = _PARTS[self.part]
        return read(
            root / name,
            kinds,
            hint,
            separator=separator,
            header=header,
            encoding="latin-1",
            quoted=False,
        )

    def _users(self, small: bool) -> Side:
        both = ("age", "gender", "occupation") if small else ("gender", "age", "occupation")
        kinds = {"user": ID, "gender": ID, "age": NUMBER, "occupation": ID}
        name = "u.user" if small else "users.dat"
        table = self._file(name, ("user", *both, "zip"), kinds, "|" if small else "::")
        age = table.numbers("age")
        table.check("age", (age >= 0) & (age < 150), "is no age")
        band = np.searchsorted(_BANDS, age, side="right") - 1
        return Side(
            table.ids("user"),
            table.where,
            {
                "gender": table.category("gender"),
                "age": Coded(band, tuple(map(str, _BANDS))),
                "occupation": table.category("occupation"),
            },
        )

    def _films_100k(self) -> Side:
        kinds = {"item": ID, "release": ID, **dict.fromkeys(_GENRES, NUMBER)}
        table = self._file("u.item", _ITEM, kinds, "|")
        flags = np.stack([table.numbers(genre) for genre in _GENRES], 1)
        for column, genre in enumerate(_GENRES):
            table.check(genre, (flags[:, column] == 0) | (flags[:, column] == 1), "is neither 0 nor 1")
        row, genre_of = flags.nonzero()
        years = _years(table.category("release"), -4, None)  # 01-Jan-1995
        return Side(table.ids("item"), table.where, {"genre": Coded(genre_of, _GENRES, row), "year": years})

    def _films_1m(self) -> Side:
        kinds = {"item": ID, "title": ID, "genre": ID}
        table = self._file("movies.dat", ("item", "title", "genre"), kinds, "::")
        years = _years(table.category("title"), -5, -1)  # Toy Story (1995)
        genres = table.categories("genre", "|")
        return Side(table.ids("item"), table.where, {"genre": genres, "year": years})


def _years(words: Coded, start: int, stop: int | None) -> Coded:
    """Return the years that words end with, unknown where they do not."""
    cut = [word[start:stop] for word in words.names]
    years = [year if year.isdecimal() and len(year) == 4 else "" for year in cut]
    names = ordered([year for year in years if year])
    code = Coded(np.arange(len(years)), tuple(years)).among(names)
    return Coded(np.append(code, -1)[words.code], names)
