"""The CTR split of MovieLens 100K: 80,000 ratings to train on, 10,000 to choose by, 10,000 to test; 4 and 5
stars are a click."""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from simlab.context import PAD, Catalog, Context, Field
from simlab.log import Log

CASE = Path(__file__).parents[2] / "../shared/cases/rank/ml100k_ctr.parquet"
AGES = (18, 25, 35, 45, 50, 56)
"""Where the age groups of MovieLens begin, but for the youngest."""


@dataclass(frozen=True)
class CtrCase:
    """The case as a log.

    Attributes:
        log: a round for each rating, in the file's order; `step` is the user's time order over all splits,
            where ratings of the same second stay in the file's order. Categories: age group, gender,
            occupation.
        catalog: year of release, genres.
        split: "train", "valid" or "test" of each round.
        history: the last 50 items that the user rated in the training split in an *earlier second*, by time
            and then by the file's order. `Log.history` is not the same: it also has what was rated in the
            same second, and what is in the other splits.
        feedback: their labels.
    """

    log: Log
    catalog: Catalog
    split: np.ndarray
    history: Tensor
    feedback: Tensor

    def rounds(self, split: str) -> Tensor:
        """Return the rounds of a split."""
        return torch.from_numpy((self.split == split).nonzero()[0])

    def fitting(self) -> tuple[Log, Tensor]:
        """Return the log of the training and validation splits, and which of its rounds are held out."""
        kept = torch.from_numpy(self.split != "test")
        return self.log.rows(kept), torch.from_numpy(self.split == "valid")[kept]

    def context(self, rounds: Tensor, past: int = 50) -> Context:
        """Return the contexts of some rounds with the file's own histories, each with its one item."""
        log = self.log.rows(rounds)
        begin = self.history.shape[1] - past
        return Context.of(
            log.user,
            log.n_items,
            history=self.history[rounds][:, begin:],
            feedback=self.feedback[rounds][:, begin:],
            candidates=log.slate,
            categories=log.categories,
        )

    def label(self, rounds: Tensor) -> Tensor:
        """Return the labels of some rounds."""
        assert self.log.click is not None
        return self.log.click[rounds, 0]


@cache
def load(histories: bool = True, ages: str = "groups") -> CtrCase:
    """Read the case.

    Args:
        histories: read the file's own histories too; else they are empty.
        ages: "groups" of MovieLens, or "years": each age is a category.
    """
    if not CASE.exists():
        pytest.skip("the reference cases are not here")
    rows = pd.read_parquet(CASE)
    n = len(rows)
    items = rows.drop_duplicates("item_id").set_index("item_id").reindex(range(1, 1683))
    years = sorted(set(items["release_year"]))
    words = [str(x).split() for x in items["class"]]
    genres = sorted({word for some in words for word in some})
    lists = torch.full((len(items), max(map(len, words))), PAD)
    for item, some in enumerate(words):
        lists[item, : len(some)] = torch.tensor([genres.index(word) for word in some])
    catalog = Catalog(
        torch.zeros(len(items), 0),
        fields=(
            Field("year", torch.tensor([[years.index(y)] for y in items["release_year"]]), len(years)),
            Field("genres", lists, len(genres), tuple(genres)),
        ),
    )
    age = np.digitize(rows["age"], AGES) if ages == "groups" else pd.Categorical(rows["age"]).codes
    categories = [age, *(pd.Categorical(rows[c]).codes for c in ("gender", "occupation"))]
    time = rows.sort_values(["user_id", "timestamp", "row"])
    step = time.groupby("user_id").cumcount().reindex(rows.index)
    click = torch.from_numpy(rows["label"].to_numpy(dtype=np.float64, copy=True))
    log = Log(
        user=_ids(rows["user_id"]) - 1,
        slate=_ids(rows["item_id"]).unsqueeze(1) - 1,
        propensity=torch.ones(n, dtype=torch.float64),
        reward=click,
        n_items=len(items),
        step=_ids(step),
        click=click.unsqueeze(1),
        categories=torch.stack([torch.from_numpy(np.asarray(c, dtype=np.int64)) for c in categories], 1),
        category_names=("age", "gender", "occupation"),
    )
    past = 50 if histories else 0
    history = torch.full((n, past), PAD)
    feedback = torch.zeros(n, past)
    if histories:
        for row, (some, labels) in enumerate(zip(rows["hist_items"], rows["hist_labels"], strict=True)):
            begin = past - len(some)
            history[row, begin:] = torch.from_numpy(some.astype(np.int64)) - 1
            feedback[row, begin:] = torch.from_numpy(labels.astype(np.float32))
    return CtrCase(log, catalog, rows["split"].to_numpy(dtype=object), history, feedback)


def as_new_users(context: Context) -> Context:
    """Return the same rows of users without an id."""
    return replace(context, user=torch.full_like(context.user, 1 << 40))


def _ids(column: "pd.Series[int]") -> Tensor:
    return torch.from_numpy(column.to_numpy(dtype=np.int64, copy=True))
