"""LastFM of HetRec 2011: how often 1,892 users listened to artists, and who is whose friend.

Source: Cantador, Brusilovsky and Kuflik (2011), "Second Workshop on Information Heterogeneity and Fusion in
Recommender Systems", RecSys; and the cut of it that He et al. (2020), "LightGCN", SIGIR, gives with its code.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from simlab.datasets._columns import ID, NUMBER, Columns, joined, read
from simlab.datasets._interactions import Interactions, Side, Table
from simlab.errors import BadInput, nearest
from simlab.splits import Split

_HINTS = {
    "hetrec": "unpack hetrec2011-lastfm-2k.zip of https://grouplens.org/datasets/hetrec-2011 there, "
    "so that the folder holds user_artists.dat, artists.dat and user_friends.dat",
    "lightgcn": "copy data/lastfm of https://github.com/gusye1234/LightGCN-PyTorch there, "
    "so that the folder holds data1.txt, test1.txt and trustnetwork.txt",
}
_PLAYS = ("user", "artist", "plays")


@dataclass(frozen=True)
class LastFM(Interactions):
    """LastFM, a row for each user and artist with the number of plays as its rating; nobody knows when.

    Without times the log has no steps: leave-one-out would follow the file's order, so use `at_random`, or
    for "lightgcn" its own `split()`. Names and tags of artists are left out. What else holds is told by
    `Interactions`.

    Attributes:
        part: "hetrec" (92,834 rows of 17,632 artists) or "lightgcn" (its 52,668 rows of 1,880 users and
            4,489 artists).
        root: the folder with the files; `data/lastfm` if None.
    """

    part: str = "hetrec"
    root: Path | None = None

    def split(self) -> Split:
        """Return the split that came with "lightgcn": data1.txt to train on, test1.txt to test.

        Raises:
            BadInput: for "hetrec", which has none, and as in `load`.
        """
        if self.part != "lightgcn":
            raise BadInput(f"LastFM {self.part} has no split of its own; lightgcn has")
        train = torch.arange(len(self._read().user.code)) < len(self._plays("data1.txt"))
        return Split(train, torch.zeros_like(train), ~train)

    def friends(self) -> Int[Tensor, "edge 2"]:
        """Read pairs of friends, as numbers of users in the log; a pair with anyone else is left out.

        Raises:
            BadInput: for a file, column or cell that is missing or cannot be.
        """
        table = self._read()
        if self.part == "hetrec":
            pairs = self._file("user_friends.dat", ("userID", "friendID"))
            columns = [pairs.ids("userID"), pairs.ids("friendID")]
        else:
            pairs = self._file("trustnetwork.txt", ("user", "friend"))
            columns = [pairs.ids("user"), pairs.ids("friend")]
        edges = np.stack([c.among(table.user.names) for c in columns], 1)
        return torch.from_numpy(edges[(edges >= 0).all(1)])

    def _read(self) -> Table:
        if self.part not in _HINTS:
            raise BadInput(f"there is no LastFM {self.part}{nearest(self.part, _HINTS)}")
        if self.part == "lightgcn":
            both = [self._plays(name) for name in ("data1.txt", "test1.txt")]
            user, item = (joined([columns.ids(name) for columns in both]) for name in _PLAYS[:2])
            return Table(user, item, rating=np.concatenate([c.numbers("plays") for c in both]))
        rows = self._file("user_artists.dat", ("userID", "artistID"), "weight")
        items = None
        if self.sides:
            artists = self._file("artists.dat", ("id",))
            items = Side(artists.ids("id"), artists.where)
        return Table(rows.ids("userID"), rows.ids("artistID"), rating=rows.numbers("weight"), items=items)

    def _plays(self, name: str) -> Columns:
        return self._file(name, _PLAYS[:2], _PLAYS[2])

    def _file(self, name: str, ids: tuple[str, ...], number: str = "") -> Columns:
        """Read columns of ids and one of numbers."""
        root = Path("data/lastfm") if self.root is None else Path(self.root)
        kinds = dict.fromkeys(ids, ID) | ({number: NUMBER} if number else {})
        bare = self.part == "lightgcn"
        return read(
            root / name,
            kinds,
            _HINTS[self.part],
            separator="\t",
            header=list(kinds) if bare else (),
            quoted=False,
        )
