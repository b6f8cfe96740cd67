"""How good tuned estimators are, and whether their intervals hold: `python -m tests.causal.tuning_study`."""

import argparse
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from causal.bandit.clipped_ips import ClippedIPS
from causal.bandit.dros import DRos
from causal.bandit.switch_dr import SwitchDR
from causal.contract import Estimator, Rounds, value
from causal.evaluation import estimate
from causal.tuning import CrossValidation, EstimatedMSE, Paired, Slope, family, tune
from causal.tuning.choice import Rule

CLIPS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, math.inf)
FAMILIES: dict[str, tuple[Estimator[Any], ...]] = {
    "clipped IPS": family(ClippedIPS(), clip=CLIPS),
    "Switch-DR": family(SwitchDR(), threshold=CLIPS),
    "DRos": family(DRos(), shrinkage=tuple(c * c for c in CLIPS)),
}
RULES: dict[str, Rule] = {
    "SLOPE": Slope(),
    "SLOPE, intersection": Slope(rule="intersection"),
    "paired": Paired(),
    "MSE": EstimatedMSE(),
    "MSE, direct": EstimatedMSE("direct"),
    "MSE, weights": EstimatedMSE("weights"),
    "cv": CrossValidation(),
}


@dataclass(frozen=True, eq=False)
class Lists:
    """Contexts and items with known click rates, a softmax logger, a softmax target and a wrong model."""

    rate: NDArray[np.float64]
    logger: NDArray[np.float64]
    target: NDArray[np.float64]
    model: NDArray[np.float64]

    @classmethod
    def of(cls, sharp: float, other: float, wrong: float, seed: int) -> "Lists":
        """Draw 50 contexts and 20 items.

        Args:
            sharp: how sure the logger is.
            other: how sure the target is, of other items.
            wrong: standard deviation of the model's error in a rate.
            seed: of everything.
        """
        random = np.random.default_rng(seed)
        shape = (50, 20)
        rate = 1 / (1 + np.exp(-(random.normal(size=shape) - 1)))
        logger = _softmax(sharp * random.normal(size=shape))
        target = _softmax(other * (random.normal(size=shape) + 2 * rate))
        return cls(rate, logger, target, np.clip(rate + wrong * random.normal(size=shape), 0, 1))

    def truth(self) -> float:
        """Return the target's value."""
        return float((self.target * self.rate).sum(1).mean())

    def rows(
        self, context: NDArray[np.int64], item: NDArray[np.int64], reward: NDArray[np.float64]
    ) -> Rounds:
        """Return rounds as estimators see them."""
        weight = (self.target / self.logger)[context, item]
        aimed = (self.target * self.model).sum(1)[context]
        arrays = (reward, weight, self.model[context, item], aimed)
        return Rounds(*(torch.from_numpy(np.ascontiguousarray(x)) for x in arrays))

    def draw(self, n: int, random: np.random.Generator) -> Rounds:
        """Draw independent rounds."""
        context = random.integers(50, size=n)
        item = (self.logger.cumsum(1)[context] < random.random((n, 1))).sum(1).clip(0, 19)
        return self.rows(context, item, (random.random(n) < self.rate[context, item]).astype(np.float64))

    def mean(self, estimator: Estimator[Any]) -> float:
        """Return the expectation of an estimator that is a plain mean: its truth plus its bias."""
        context, item = (x.ravel() for x in np.meshgrid(np.arange(50), np.arange(20), indexing="ij"))
        chance = torch.from_numpy((self.logger / 50).ravel())
        # The scores are linear in the reward, so the expected reward gives the expected score.
        (score,) = estimator.score(self.rows(context, item, self.rate[context, item]))
        return float((chance * score.numerator).sum())


def _softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    up = np.exp(x)
    out: NDArray[np.float64] = up / up.sum(1, keepdims=True)
    return out


WORLDS = {
    "mild": Lists.of(1.0, 1.0, 0.1, 0),
    "small overlap": Lists.of(2.0, 1.5, 0.1, 1),
    "wrong model": Lists.of(1.5, 1.5, 0.3, 2),
}


def errors(
    world: str, n: int, which: str, logs: int, crossfit: bool = False
) -> tuple[float, dict[str, float]]:
    """Return the best candidate's mean squared error, and each rule's as a multiple of it.

    "least biased" and "worst" are multiples of fixed candidates.
    """
    random = np.random.default_rng(7)
    here, candidates = WORLDS[world], FAMILIES[which]
    fixed, tuned = [], []
    for _ in range(logs):
        rounds = here.draw(n, random)
        fixed.append([value(e.score(rounds)) for e in candidates])
        tuned.append([tune(candidates, rounds, r, crossfit=crossfit).value for r in RULES.values()])
    mse = ((np.array(fixed) - here.truth()) ** 2).mean(0)
    rules = ((np.array(tuned) - here.truth()) ** 2).mean(0) / mse.min()
    out = {"least biased": float(mse[-1] / mse.min()), "worst": float(mse.max() / mse.min())}
    return float(mse.min()), out | dict(zip(RULES, rules.tolist(), strict=True))


@dataclass(frozen=True)
class Honesty:
    """How an interval does over many logs.

    Attributes:
        shift: mean of the error, in standard deviations of the error; the error is of the value around the
            mean of what was chosen (the truth plus the bias that no interval counts).
        noise: standard deviation of the error over the standard error that was reported.
        own: how often a 95 % interval holds the mean of what was chosen.
        truth: how often it holds the truth.
    """

    shift: float
    noise: float
    own: float
    truth: float


def honesty(world: str, which: str, rule: Rule, n: int, logs: int) -> dict[str, Honesty]:
    """Judge the interval of the least biased candidate, of one chosen on the same rows, and cross-fitted."""
    random = np.random.default_rng(9)
    here, candidates = WORLDS[world], FAMILIES[which]
    means = [here.mean(e) for e in candidates]
    rows: dict[str, list[list[float]]] = {"least biased": [], "same rows": [], "cross-fitted": []}
    for _ in range(logs):
        data = here.draw(n, random)
        tuned = tune(candidates, data, rule)
        assert tuned.fold is not None
        share = torch.bincount(tuned.fold).double() / n
        mixed = float((share * torch.tensor([means[c.index] for c in tuned.folds]).double()).sum())
        for name, found, aim in (
            ("least biased", estimate(candidates[-1], data), means[-1]),
            ("same rows", estimate(tuned.chosen, data), means[tuned.choice.index]),
            ("cross-fitted", tuned.estimate(), mixed),
        ):
            low, high = found.interval.low, found.interval.high
            rows[name].append(
                [found.value - aim, found.stderr**2, low <= aim <= high, low <= here.truth() <= high]
            )
    out = {}
    for name, each in rows.items():
        x = np.array(each, dtype=np.float64)
        error = x[:, 0]
        deviation = float(error.std())
        noise = deviation / math.sqrt(x[:, 1].mean())
        out[name] = Honesty(
            float(error.mean()) / deviation, noise, float(x[:, 2].mean()), float(x[:, 3].mean())
        )
    return out


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--logs", type=int, default=100)
    parser.add_argument("--sizes", type=int, nargs="*", default=[500, 5000])
    asked = parser.parse_args()
    logs, sizes = asked.logs, asked.sizes
    heads = ["world", "rows", "family", "cross-fitted", "best MSE", "least biased", "worst", *RULES]
    print(f"| {' | '.join(heads)} |")
    print("|" + "---|" * len(heads))
    for world in WORLDS:
        for n in sizes:
            for which in FAMILIES:
                for crossfit in (False, True):
                    best, found = errors(world, n, which, logs, crossfit)
                    cells = f"{best:.1e} | " + " | ".join(f"{x:.3g}" for x in found.values())
                    print(
                        f"| {world} | {n} | {which} | {'yes' if crossfit else 'no'} | {cells} |", flush=True
                    )
    print("\n| world | family | rule | interval | shift | noise | own mean | truth |\n|" + "---|" * 8)
    for world in WORLDS:
        for which in ("clipped IPS", "DRos"):
            for rule in ("SLOPE", "paired", "MSE", "cv"):
                for name, h in honesty(world, which, RULES[rule], 1000, 2 * logs).items():
                    said = f"{h.shift:+.2f} | {h.noise:.2f} | {h.own:.3f} | {h.truth:.3f}"
                    print(f"| {world} | {which} | {rule} | {name} | {said} |", flush=True)


if __name__ == "__main__":
    main()
