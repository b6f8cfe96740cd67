"""Criteo's uplift data, version 2.1: 13,979,592 users of advertising experiments, 12 features.

Source: Diemert, Betlei, Renaudin, Amini, Gregoir and Rahier (2021), "A Large Scale Benchmark for Individual
Treatment Effect Prediction and Uplift Modeling", arXiv:2111.10106. See the page of the data for its licence,
which is for research and not for commerce.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from causal.trials._files import Array, PathLike, choose, locate
from causal.uplift.contract import Trial
from simlab.errors import BadInput, nearest
from simlab.seeds import Seed
from simlab.tables.cells import Cells, floats, plain, utf8
from simlab.tables.sources import open_source

_X = tuple(f"f{i}" for i in range(12))
_OUTCOMES = ("visit", "conversion")
_FLAGS = ("treatment", "exposure", *_OUTCOMES)
_NAME = "criteo-research-uplift-v2.1.csv.gz"
_HINT = f"save {_NAME} of https://ailab.criteo.com/criteo-uplift-prediction-dataset there (297 MB)"
_CHUNK = 1 << 18
"""Rows in memory as text; what is kept of them is numbers."""


@dataclass(frozen=True)
class Criteo:
    """Users who could be shown adverts or not: visits and purchases; 85 % are treated, visits are 4.7 %.

    Treatment is that an advertiser took part in the auctions, at random; `exposure`, that it won one, comes
    after the treatment, so it is neither a feature nor an arm. The file is read in pieces: the peak in memory
    is twice the numbers that are kept (3.1 GB for all rows).

    Attributes:
        outcome: "visit" or "conversion", 0 or 1.
        rows: how many of the file's first rows are read; all if None.
        share: of the rows that are read, the share that is kept at random, in (0, 1].
        seed: which ones.
        path: the file (.csv, .csv.gz or .parquet) or its folder; `data/criteo` if None.
    """

    outcome: str = "visit"
    rows: int | None = None
    share: float = 1.0
    seed: Seed = Seed(0)
    path: PathLike | None = None

    def load(self) -> Trial:
        """Read users, in the file's order; nothing is known of chances and of true effects.

        Raises:
            BadInput: for a setting that cannot be, a missing file or column, or a cell that is no number.
        """
        choose("outcome of Criteo", self.outcome, _OUTCOMES)
        if self.rows is not None and self.rows < 1:
            raise BadInput(f"rows is {self.rows}, but at least 1 row is read")
        if not 0 < self.share <= 1:
            raise BadInput(f"share is {self.share:g}, but it is above 0 and at most 1")
        luck = self.seed.split("criteo").numpy()
        kept = []
        for piece in self._pieces():
            keep = slice(None) if self.share == 1 else luck.random(len(piece)) < self.share
            kept.append(piece[keep])
        found = np.concatenate(kept) if kept else np.zeros((0, len(_X) + 2))
        if len(found) == 0:
            raise BadInput(f"{self._path()}: empty: no rows are left")
        return Trial.of(found[:, 2:], found[:, 0].astype(np.int64), found[:, 1], control=0, names=_X)

    def _path(self) -> Any:
        return locate(self.path, "data/criteo", _NAME)

    def _pieces(self) -> Iterator[Float[Array, "piece column"]]:
        """Read treatment, outcome and features a piece at a time."""
        path = self._path()
        if not path.is_file():
            raise BadInput(f"{path} is not {'a file' if path.exists() else 'there'}: {_HINT}")
        wanted = ("treatment", self.outcome, *_X)
        first = 0
        try:
            source = open_source(path)
            source.check_names()
            for name in wanted:
                if name not in source.names:
                    raise BadInput(f"column {name} is missing{nearest(name, source.names)}")
            for table in source.stream(wanted, _CHUNK):
                if self.rows is not None:
                    table = table.slice(0, self.rows - first)
                if table.num_rows == 0:
                    return
                columns = []
                for name in wanted:
                    cells = utf8(Cells(name, plain(table.column(name)), source.text, first))
                    values = floats(cells)
                    if name in _FLAGS and (wrong := (values != 0) & (values != 1)).any():
                        cells.refuse(int(wrong.argmax()), "is neither 0 nor 1")
                    columns.append(values)
                first += table.num_rows
                yield np.stack(columns, 1)
        except BadInput as error:
            raise BadInput(f"{path}: {error}") from None
