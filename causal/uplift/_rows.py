"""Rows of a trial: those that count, those held out, and folds; users are kept whole, arms spread evenly."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from causal.uplift.contract import Array, Trial
from simlab.errors import BadInput
from simlab.seeds import Seed

ENOUGH = 40
"""Users from which some are held out."""


def counted(trial: Trial) -> Trial:
    """Return the rows of weight above 0.

    Raises:
        BadInput: for an arm without any.
    """
    if trial.weight is not None and not trial.weight.all():
        trial = trial.rows(trial.weight > 0)
        every_arm(trial, "among rows of weight above 0")
    return trial


def every_arm(trial: Trial, where: str) -> None:
    """Raise BadInput for an arm without rows."""
    missing = np.flatnonzero(np.bincount(trial.arm, minlength=len(trial.arms)) == 0)
    if len(missing):
        raise BadInput(f"arm {trial.arms[missing[0]]!r} has no row {where}")


def _users(trial: Trial) -> tuple[Array, Array]:
    """Return the first row of each user, and the user of each row as a number from 0."""
    if trial.user is None:
        return np.arange(len(trial)), np.arange(len(trial))
    _, first, number = np.unique(trial.user, return_index=True, return_inverse=True)
    return first, number


def _ranks(trial: Trial, seed: Seed) -> tuple[Array, Array, Array]:
    """Return a user's random rank among users of the same first arm, their count, and each row's user."""
    first, number = _users(trial)
    arm = trial.arm[first]
    order = seed.numpy().permutation(len(first))
    order = order[np.argsort(arm[order], kind="stable")]
    count = np.bincount(arm, minlength=len(trial.arms))
    rank = np.empty(len(first), np.int64)
    rank[order] = np.arange(len(first)) - (np.cumsum(count) - count)[arm[order]]
    return rank, count[arm], number


def held_out(trial: Trial, share: float, seed: Seed) -> tuple[Int[Tensor, " train"], Int[Tensor, " held"]]:
    """Return rows to train on and held-out rows: whole users, the same share of each arm."""
    rank, count, number = _ranks(trial, seed)
    held = (rank < np.round(share * count)) & (len(rank) >= ENOUGH)
    away = held[number]
    if len(np.unique(trial.arm[~away])) < len(trial.arms):
        away = np.zeros(len(trial), bool)
    return torch.from_numpy(np.flatnonzero(~away)), torch.from_numpy(np.flatnonzero(away))


def dealt(trial: Trial, folds: int, seed: Seed) -> Int[Array, " round"]:
    """Return the fold of each row: users whole, arms spread evenly."""
    rank, _, number = _ranks(trial, seed)
    fold: Int[Array, " round"] = (rank % folds)[number]
    return fold
