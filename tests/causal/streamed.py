"""Files, models and policies that the tests of streams share."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from causal.bandit.dr import DR
from causal.bandit.ips import IPS
from causal.bandit.sndr import SNDR
from causal.bandit.snips import SNIPS
from causal.contract import Estimator, Rounds
from causal.rewards import Fitted
from causal.stream import (
    ColumnTarget,
    Streamed,
)
from simlab.context import Context
from simlab.log import Log
from simlab.seeds import Seed

TARGET = ColumnTarget("target_propensity")
MODEL = ColumnTarget("target_propensity", "q_logged", "q_target")
ALL: tuple[Estimator[Rounds], ...] = (IPS(), SNIPS(), DR(), SNDR())


def made(n: int = 700, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Draw columns of single rounds; users come back."""
    random = np.random.default_rng(seed)
    return {
        "user": random.integers(0, n // 4, n),
        "propensity": random.uniform(0.05, 1, n),
        "target_propensity": random.uniform(0, 1, n),
        "reward": random.normal(2, 1, n),
        "q_logged": random.normal(2, 0.2, n),
        "q_target": random.normal(2, 0.2, n),
    }


def in_memory(columns: dict[str, NDArray[Any]], group: bool = False) -> Rounds:
    c = {name: torch.from_numpy(values) for name, values in columns.items()}
    weight = c["target_propensity"] / c["propensity"]
    return Rounds(c["reward"], weight, c["q_logged"], c["q_target"], c["user"] if group else None)


def write(folder: Path, columns: dict[str, Any], cuts: tuple[int, ...] = (), group: int = 1 << 20) -> Path:
    """Write a table as files that end at the cuts."""
    folder.mkdir(exist_ok=True)
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    bounds = [0, *cuts, table.num_rows]
    for i, (a, b) in enumerate(itertools.pairwise(bounds)):
        pq.write_table(table.slice(a, b - a), folder / f"part-{i:03d}.parquet", row_group_size=group)
    return folder


def same(a: Streamed, b: Streamed) -> None:
    """Hold two results to be the same to the last bit."""
    assert a.names == b.names
    assert a.tally.widths == b.tally.widths
    assert a.tally.sums.count == b.tally.sums.count
    for name in ("sums", "cross", "buckets", "rows"):
        assert torch.equal(getattr(a.tally.sums, name), getattr(b.tally.sums, name)), name
    assert a.tally.weights.keys() == b.tally.weights.keys()
    for key, weights in a.tally.weights.items():
        assert torch.equal(weights, b.tally.weights[key])


def slates_of(n: int, slots: int = 3, seed: int = 1) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    columns = {
        "slot_propensity": random.uniform(0.05, 1, (n, slots)).astype(np.float32),
        "click": (random.random((n, slots)) < 0.3).astype(np.float32),
        "target": random.uniform(0, 1, (n, slots)).astype(np.float32),
    }
    return {name: fixed(values) for name, values in columns.items()}


def fixed(values: NDArray[Any]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


@dataclass(frozen=True, eq=False)
class Spy:
    """A reward model that knows whom it has seen, and predicts the mean reward of its rows."""

    past: int = 0

    def fit(self, log: Log, slots: int, seed: Seed, weight: Tensor | None = None) -> Fitted:
        assert weight is None
        return FittedSpy(torch.unique(log.user), float(log.reward.mean()))


@dataclass(frozen=True, eq=False)
class FittedSpy:
    users: Tensor
    mean: float

    def predict(self, context: Context, position: Tensor) -> Tensor:
        assert not bool(torch.isin(context.user, self.users).any()), "a model scores a user that it has seen"
        shape = (*position.shape, context.candidates.shape[1])
        return torch.full(shape, self.mean, dtype=torch.float64)


@dataclass(frozen=True)
class Table:
    """A policy by the probabilities of three items in two contexts."""

    chance: Tensor
    name: str = "table"

    def distribution(self, context: Context, slots: int) -> Any:
        from simlab.slates import PlackettLuce

        return PlackettLuce(self.chance.log()[context.features[:, 0].long()], slots, context.mask)
