"""From finished jobs to the table of a comparison: means, paired differences, exposure, curves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from simlab.metrics.exposure import coverage, drift, gini
from simlab.statistics import Summary, mean_interval, paired_interval

if TYPE_CHECKING:
    import pyarrow as pa

_BY_USER = ["user", "return", "clicks", "shown", "steps", "stayed"]
_LORENZ_POINTS = 101


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        frame: one row for each policy, in the order given.
        users: one row for each policy and user met.
        markets: one row for each policy, seed and shard: how exposure and popularity were shared out.
        curves: mean reward of each step over all users who began, with its interval over markets.
        lorenz: share of exposure that the least-shown share of items gets, mean over markets.
        baseline: the policy that the others are compared with.
        confidence: level of every interval.
        clustered: whether intervals treat the users of one market as one observation.
        unit: what a return counts.
    """

    frame: pd.DataFrame
    users: pd.DataFrame
    markets: pd.DataFrame
    curves: pd.DataFrame
    lorenz: pd.DataFrame
    baseline: str
    confidence: float
    clustered: bool
    unit: str = "clicks"


def merge(
    tables: "Sequence[pa.Table]",
    names: Sequence[str],
    baseline: str,
    confidence: float,
    *,
    shared: bool,
    unit: str = "clicks",
) -> Comparison:
    """Merge finished jobs, which come in the order of their `Job`.

    Args:
        tables: what `jobs.work` returned.
        names: the policies, in the order of the table.
        baseline: one of them.
        confidence: level of the intervals.
        shared: whether the users of a market move each other (its popularity). They are then no independent
            observations, and the intervals cluster by market.
        unit: what a return counts.
    """
    users, markets, steps = _frames(tables)
    curves, lorenz = _curves(steps, names, confidence), _lorenz(tables, names)
    rows = []
    for name in names:
        mine = users[users["policy"] == name]
        ours = users[users["policy"] == baseline]
        _check_pairs(mine, ours)
        group = _market(mine) if shared else None
        value, base = mine["return"].to_numpy(), ours["return"].to_numpy()
        alone = len(value) < 2 if group is None else group.max() == 0  # one observation has no interval
        mean = _point(value) if alone else mean_interval(value, confidence, group)
        paired = _point(value - base) if alone else paired_interval(value, base, group, confidence)
        own = markets[markets["policy"] == name]
        rows.append(
            {
                "policy": name,
                "users": len(mine),
                "markets": len(own),
                "return": mean.mean,
                "return_lower": mean.low,
                "return_upper": mean.high,
                "difference": paired.mean,
                "difference_stderr": paired.stderr,
                "difference_lower": paired.low,
                "difference_upper": paired.high,
                "ctr": mine["clicks"].sum() / max(mine["shown"].sum(), 1),
                "reward_per_step": mine["return"].sum() / max(mine["steps"].sum(), 1),
                "active_end": mine["stayed"].mean(),
                "coverage": own["coverage"].mean(),
                "gini": own["gini"].mean(),
                "popularity_drift": own["popularity_drift"].mean(),
            }
        )
    frame = pd.DataFrame(rows)
    if {"random", "far-sighted"} <= set(names):  # the two ends of the normalised score: see `envs.scores`
        mean = frame.set_index("policy")["return"]
        floor, span = mean["random"], mean["far-sighted"] - mean["random"]
        frame.insert(4, "score", (frame["return"] - floor) / span if span > 0 else np.nan)
    return Comparison(frame, users, markets, curves, lorenz, baseline, confidence, shared, unit)


def _frames(tables: "Sequence[pa.Table]") -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Lay the jobs' lists out as rows by user, by market and by step."""
    users, markets, steps = [], [], []
    for table in tables:
        row = table.to_pylist()[0]
        key = {"policy": row["policy"], "seed": row["seed"], "shard": row["shard"]}
        users.append(pd.DataFrame({**key, **{k: row[k] for k in _BY_USER}}))
        exposure = torch.tensor(row["exposure"], dtype=torch.float64)
        markets.append(
            {
                **key,
                "coverage": coverage(exposure),
                "gini": gini(exposure),
                "popularity_drift": drift(
                    torch.tensor(row["popularity_first"], dtype=torch.float64),
                    torch.tensor(row["popularity_last"], dtype=torch.float64),
                ),
            }
        )
        met = len(row["user"])
        steps.append(
            pd.DataFrame(
                {
                    **key,
                    "step": np.arange(len(row["step_reward"])),
                    "reward": np.asarray(row["step_reward"]) / met,
                    "active": np.asarray(row["step_active"]) / met,
                }
            )
        )
    each = pd.concat(steps, ignore_index=True)
    last = each.loc[each["active"] > 0, "step"].max()  # a time limit may lie far behind the last user
    return pd.concat(users, ignore_index=True), pd.DataFrame(markets), each[each["step"] <= last]


def _curves(steps: pd.DataFrame, names: Sequence[str], confidence: float) -> pd.DataFrame:
    """Return the mean over markets at each step, with its Student-t interval where there are several."""
    from scipy.stats import t

    found = []
    for name in names:
        wide = steps[steps["policy"] == name].pivot(index=["seed", "shard"], columns="step", values="reward")
        stay = steps[steps["policy"] == name].groupby("step")["active"].mean()
        n, mean = len(wide), wide.mean()
        half: Any = np.nan
        if n > 1:
            half = t.ppf((1 + confidence) / 2, n - 1) * wide.std(ddof=1) / np.sqrt(n)
        found.append(
            pd.DataFrame(
                {
                    "policy": name,
                    "step": mean.index.to_numpy(),
                    "reward": mean.to_numpy(),
                    "lower": (mean - half).to_numpy(),
                    "upper": (mean + half).to_numpy(),
                    "active": stay.to_numpy(),
                }
            )
        )
    return pd.concat(found, ignore_index=True)


def _lorenz(tables: "Sequence[pa.Table]", names: Sequence[str]) -> pd.DataFrame:
    """Return each policy's Lorenz curve of exposure: the mean of its markets' curves, on a common grid."""
    grid = np.linspace(0, 1, _LORENZ_POINTS)
    sums: dict[str, NDArray[np.float64]] = {name: np.zeros_like(grid) for name in names}
    count = dict.fromkeys(names, 0)
    for table in tables:
        row = table.select(["policy", "exposure"]).to_pylist()[0]
        shown = np.sort(np.asarray(row["exposure"], dtype=float))
        total = shown.sum()
        if total == 0:
            continue
        heights = np.concatenate([[0.0], shown.cumsum() / total])
        sums[row["policy"]] += np.interp(grid, np.linspace(0, 1, len(heights)), heights)
        count[row["policy"]] += 1
    return pd.concat(
        [
            pd.DataFrame({"policy": name, "items": grid, "exposure": sums[name] / max(count[name], 1)})
            for name in names
        ],
        ignore_index=True,
    )


def _market(users: pd.DataFrame) -> NDArray[np.int64]:
    """Number the markets: pairs of seed and shard."""
    return np.asarray(users.groupby(["seed", "shard"], sort=True).ngroup(), dtype=np.int64)


def _point(values: NDArray[np.float64]) -> Summary:
    """Return a mean without an interval."""
    return Summary(float(values.mean()), math.nan, math.nan, math.nan, 1)


def _check_pairs(mine: pd.DataFrame, ours: pd.DataFrame) -> None:
    """Row by row the same user in the same market, or the differences would mean nothing."""
    for key in ("seed", "shard", "user"):
        assert (mine[key].to_numpy() == ours[key].to_numpy()).all(), f"{key} is not paired"
