"""Which features drive an effect: how far the effect moves when one of them is shuffled."""

import math
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from causal.targeting.measure import measure
from causal.uplift.contract import Array, Trial
from simlab.seeds import Seed

_ROWS = 2000
_REPEATS = 4
_SHOWN = 10


def drivers(
    learner: Any, k: int, trial: Trial, judged: Trial, gain: Float[Array, " row"], seed: Seed
) -> pd.DataFrame:
    """Return the ten features that drive a learner's effect of an arm, the strongest first.

    The importance of a feature is ½ E[(τ(x) - τ(x'))²] / Var τ(x), with x' the row with that feature from
    another row: the share of the effect's variance that this feature takes part in, where features are
    independent (the total effect index). Shuffled are up to 2,000 rows, 4 times. Levels of one category
    move together. It says what the learner uses, not what nature does. Beside it stands what the doubly
    robust scores say without the learner: the mean score of rows above the feature's median (of 1, for 0 and
    1) less that of the others.

    Source: Jansen 1999, "Analysis of variance designs for model output", Computer Physics Communications 117.

    Args:
        learner: fitted.
        k: which treated arm, from 0.
        trial: what it was fitted on.
        judged: the rows that have scores.
        gain: scores of the effect of these rows.
        seed: of the rows and the shuffles.
    """
    luck = seed.numpy()
    chosen = luck.permutation(len(trial))[:_ROWS]
    x = trial.x[chosen]

    def effect(values: Array) -> Array:
        found: Array = np.asarray(learner.effect(values)).reshape(len(values), -1)[:, k]
        return found

    usual = effect(x)
    spread = float(usual.var())
    rows = []
    for name, columns in _columns(trial.names).items():
        moved = np.zeros((_REPEATS, len(x)))
        for r in range(_REPEATS):
            other = x.copy()
            other[:, columns] = x[luck.permutation(len(x))][:, columns]
            moved[r] = 0.5 * (effect(other) - usual) ** 2
        each = moved.mean(0) / spread if spread > 0 else np.zeros(len(x))
        error = float(each.std(ddof=1) / math.sqrt(len(each))) if len(each) > 1 else math.nan
        gap, gap_error = _contrast(judged, gain, columns)
        rows.append(
            {
                "feature": name,
                "importance": float(each.mean()),
                "stderr": error,
                "contrast": gap,
                "contrast_stderr": gap_error,
            }
        )
    found = pd.DataFrame(rows).sort_values("importance", ascending=False, kind="stable")
    return found.head(_SHOWN).reset_index(drop=True)


def _columns(names: tuple[str, ...]) -> dict[str, list[int]]:
    """Return the columns of each feature: a category has several, and so has an imputed number."""
    found: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        found.setdefault(name.partition("=")[0].removesuffix(":missing"), []).append(i)
    return found


def _contrast(trial: Trial, gain: Float[Array, " row"], columns: list[int]) -> tuple[float, float]:
    """Return the mean score of rows above the median less that of the others; NaN for a category."""
    x = trial.x[:, columns[0]]
    high = x > np.median(x) if len(np.unique(x)) > 2 else x == x.max()
    weight = np.ones(len(x)) if trial.weight is None else trial.weight
    up, down = weight * high, weight * ~high
    if len(columns) > 1 or not up.any() or not down.any():
        return math.nan, math.nan
    up, down = up / up.sum(), down / down.sum()
    change = up * (gain - up @ gain) - down * (gain - down @ gain)
    found = measure(float(up @ gain - down @ gain), change, trial.user, "contrast")
    return found.value, found.stderr
