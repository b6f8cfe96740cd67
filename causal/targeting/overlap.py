"""Overlap: how likely each row was to get each arm, and how many rows could hardly get one."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from causal.targeting.scores import nuisances
from causal.uplift.contract import Array, Trial
from simlab.errors import BadInput
from simlab.seeds import Seed


@dataclass(frozen=True, eq=False)
class Overlap:
    """How likely each row was to get each arm, and how much would be trimmed.

    Attributes:
        chance: of each arm, control first; known, or estimated out of fold.
        known: whether the trial knew it.
        bound: a row is trimmed if any arm's chance is below this.
        trimmed: the share of the rows' weight that is trimmed.
        lowest: the smallest chance of each arm.
        highest: the greatest.
    """

    chance: Float[Array, "round arm"]
    known: bool
    bound: float
    trimmed: float
    lowest: tuple[float, ...]
    highest: tuple[float, ...]

    @property
    def keep(self) -> Bool[Array, " round"]:
        """The rows that are not trimmed."""
        return np.asarray((self.chance >= self.bound).all(1))


def overlap(
    trial: Trial, *, seed: Seed = Seed(0), bound: float = 0.05, folds: int = 5, model: Any = None
) -> Overlap:
    """Return the chances of arms, known or estimated out of fold, and the share of rows to be trimmed.

    Source: Crump, Hotz, Imbens and Mitnik (2009), "Dealing with limited overlap in estimation of average
    treatment effects", Biometrika 96, who advise trimming at 0.1.

    Args:
        trial: any.
        seed: of the folds.
        bound: chances below it are trimmed, in (0, 1 / arms).
        folds: how many.
        model: a classifier; a logistic regression of standardised features if None.

    Raises:
        BadInput: for a bound that cannot be, or an arm with too few rows for the folds.
    """
    if not 0 < bound < 1 / len(trial.arms):
        raise BadInput(f"bound is {bound:g}, but it is between 0 and 1 / {len(trial.arms)} arms")
    zero = np.zeros((len(trial), len(trial.arms)))
    chance = nuisances(trial, None, model, folds, seed, mu=zero, e=None if model else trial.propensity).e
    weight = np.ones(len(trial)) if trial.weight is None else trial.weight
    out = (chance < bound).any(1)
    return Overlap(
        chance,
        model is None and trial.propensity is not None,
        bound,
        float(weight[out].sum() / weight.sum()),
        tuple(chance.min(0).tolist()),
        tuple(chance.max(0).tolist()),
    )
