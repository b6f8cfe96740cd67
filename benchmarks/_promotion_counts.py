"""What many logs of the promotion world say together: bias, spread, and how often intervals hold."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from benchmarks._promotion_cells import GROUPS, Array, Found
from simlab.statistics import Summary, mean_interval

POPULATION = 0.075
"""The mean effect of all users there could be, effect · (1 - sleeping dogs); `Promotion.ate()`."""


@dataclass(frozen=True)
class Cell:
    """What one interval did in many logs.

    Attributes:
        name: of the estimator.
        logs: how many.
        bias: mean estimate less the truth.
        bias_stderr: its standard error, over logs.
        spread: standard deviation of estimates.
        stderr: mean of the standard errors that were claimed.
        population: share of 95 % intervals that hold the mean effect of all users there could be.
        sample: share that hold the mean effect of the log's own users.
    """

    name: str
    logs: int
    bias: float
    bias_stderr: float
    spread: float
    stderr: float
    population: float
    sample: float

    @classmethod
    def of(cls, name: str, value: Array, stderr: Array, sample: Array, population: float) -> "Cell":
        """Count."""
        z = float(stats.norm.ppf(0.975))
        many = len(value)
        spread = float(value.std(ddof=1)) if many > 1 else math.nan
        return cls(
            name,
            many,
            float(value.mean()) - population,
            spread / math.sqrt(many),
            spread,
            float(stderr.mean()),
            float((np.abs(value - population) <= z * stderr).mean()),
            float((np.abs(value - sample) <= z * stderr).mean()),
        )


def averages(found: dict[int, Found], population: float) -> list[Cell]:
    """Return a cell for each estimator of the average effect."""
    logs = list(found.values())
    out = []
    for name in logs[0]["found"] if logs else ():
        value, stderr = np.array([log["found"][name] for log in logs]).T
        out.append(Cell.of(name, value, stderr, np.array([log["truth"] for log in logs]), population))
    return out


@dataclass(frozen=True)
class Deciles:
    """What intervals of effects by decile did.

    Attributes:
        name: of the learner.
        logs: how many.
        truth: mean true effect of each decile.
        bias: mean estimate less the truth of the same rows.
        spread: standard deviation of that difference.
        stderr: mean of the standard errors that were claimed.
        covered: share of intervals that hold the mean true effect of the decile's rows.
    """

    name: str
    logs: int
    truth: Array
    bias: Array
    spread: Array
    stderr: Array
    covered: Array


def deciles(found: dict[int, Found]) -> list[Deciles]:
    """Return the deciles of each learner."""
    logs = list(found.values())
    out = []
    for name in logs[0]["deciles"] if logs else ():
        effect, stderr, truth = np.array([log["deciles"][name] for log in logs]).transpose(1, 0, 2)
        off = effect - truth
        held = (np.abs(off) <= float(stats.norm.ppf(0.975)) * stderr).mean(0)
        spread = off.std(0, ddof=1) if len(logs) > 1 else np.full(GROUPS, math.nan)
        out.append(Deciles(name, len(logs), truth.mean(0), off.mean(0), spread, stderr.mean(0), held))
    return out


@dataclass(frozen=True)
class Gap:
    """The gain of treating by effect above treating by probability, in purchases a user.

    Attributes:
        name: of the learner.
        logs: how many.
        truth: true gain, with its interval over logs.
        won: share of logs in which it is above 0.
        estimate: mean of the doubly robust estimates.
        stderr: mean of their standard errors.
        covered: share of 95 % intervals that hold the true gain of the log's two rules.
        sure: share of intervals that are above 0.
    """

    name: str
    logs: int
    truth: Summary
    won: float
    estimate: float
    stderr: float
    covered: float
    sure: float


def gaps(found: dict[int, Found]) -> list[Gap]:
    """Return the gap of each learner."""
    logs = list(found.values())
    out = []
    for name in logs[0]["gaps"] if len(logs) > 1 else ():
        value, stderr, truth = np.array([log["gaps"][name] for log in logs]).T
        half = float(stats.norm.ppf(0.975)) * stderr
        held = float((np.abs(value - truth) <= half).mean())
        true = mean_interval(truth)
        mean = (float(value.mean()), float(stderr.mean()))
        out.append(
            Gap(name, len(logs), true, float((truth > 0).mean()), *mean, held, float((value > half).mean()))
        )
    return out


def gains(found: dict[int, Found]) -> dict[str, Summary]:
    """Return what each policy gains above treating nobody, in purchases a user, over logs."""
    logs = [log["gains"] for log in found.values()]
    return {name: mean_interval([log[name] for log in logs]) for name in (logs[0] if len(logs) > 1 else ())}
