"""A verdict on each estimator of a stream, from the sums of its weights."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from causal.diagnostics import Diagnostics, Verdict, verdict
from causal.stream import Streamed
from simlab.errors import BadInput
from simlab.lab.evaluation_choice import Unit
from simlab.lab.evaluation_units import MEAN_ONE, by_mean, judge


def judged(
    found: Streamed, unit: Unit, chosen: list[Any], keys: list[str], *, force: bool
) -> tuple[list[Any], Verdict]:
    """Judge each estimator by its own weights: how many rows carry them, and whether their mean is 1.

    Args:
        found: the sums.
        unit: what was weighed. Rounds have one set of weights, and one verdict as in memory.
        chosen: the estimators.
        keys: the name of each in the sums.
        force: keep those that are refused.

    Returns:
        Those that may be printed, and the verdict.

    Raises:
        BadInput: if there is none, unless forced.
    """
    leans = [found.leans[found.names.index(key)] for key in keys]
    measured = [found.overlap(key) for key in keys]
    if unit == "round":
        return chosen, _of_rounds(found, leans, measured, force)
    kept, said = judge(chosen, measured, len(found), force=force)
    named = {e.name: x for e, x in zip(chosen, leans, strict=True)}
    return by_mean({key: means(found, key) for key in set(leans) if key}, kept, named, said, force)


def means(found: Streamed, key: str) -> tuple[Float[Tensor, " slot"], Float[Tensor, " slot"]]:
    """Return the mean weight of each slot, and its z-score against 1, with rows as independent."""
    n = len(found)
    total, square, _ = found.tally.weights[key]
    mean = total / n
    spread = ((square - n * mean.square()).clamp(min=0) / max(n - 1, 1) / n).sqrt()
    off = mean - 1
    return mean, torch.where(off.abs() < 1e-6, 0.0, off / spread)  # propensities may have been float32


def weight_rows(found: Streamed, policies: Mapping[str, str]) -> pd.DataFrame:
    """Return one row for each kind of weight and slot.

    Args:
        found: the sums.
        policies: the words of each target.
    """
    rows = []
    for key, (total, square, largest) in found.tally.weights.items():
        target, _, field = key.partition("/")
        mean, z = means(found, key)
        for slot in range(len(total)):
            all_, squares = float(total[slot]), float(square[slot])
            rows.append(
                {
                    "weights": field if len(policies) == 1 else f"{policies[target]}: {field}",
                    "slot": slot,
                    "mean": float(mean[slot]),
                    "mean_z": float(z[slot]) if field in MEAN_ONE else math.nan,
                    "ess": all_**2 / squares if squares > 0 else 0.0,
                    "max_weight_share": float(largest[slot]) / all_ if all_ > 0 else 1.0,
                }
            )
    return pd.DataFrame(rows)


def _of_rounds(
    found: Streamed, leans: list[str], measured: list[tuple[float, float]], force: bool
) -> Verdict:
    """Judge the one set of weights that rounds have, in the words of an evaluation in memory.

    Raises:
        BadInput: if it is refused, unless forced.
    """
    at = next((i for i, where in enumerate(leans) if where), None)
    if at is None:
        raise BadInput("none of --estimators leans on weights, by which an estimate is judged: add ips")
    (ess, share), (mean, z) = measured[at], (float(x[0]) for x in means(found, leans[at]))
    nan = math.nan  # what sums do not tell
    said = verdict(Diagnostics(len(found), ess, share, mean, z, (), nan, nan, nan, nan, None, None))
    if said.level == "refused" and not force:
        raise BadInput(said.sentences[0])
    return said
