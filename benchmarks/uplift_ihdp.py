"""How near deep uplift learners come to the true effects of IHDP, over ten replications.

Replication r is split by `default_rng(r).permutation(747)`: 672 rows to learn from ("in"), 75 fresh ("out").
The error is √PEHE, the root mean square of effect − (μ1 − μ0), averaged over replications as the reference
table averages it. The ninth replication has outcomes ten times as large as the others, so it
makes most of the mean.

    python benchmarks/uplift_ihdp.py --data FOLDER --seeds 3
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from causal.uplift._deep import DeepLearner
from causal.uplift.cfr import CFR
from causal.uplift.contract import UpliftLearner
from causal.uplift.descn import DESCN
from causal.uplift.dragonnet import DragonNet
from causal.uplift.tarnet import TARNet
from simlab.seeds import Seed

REPLICATIONS = tuple(range(1, 11))
TRAIN = 672

LEARNERS: dict[str, Callable[[Seed], DeepLearner]] = {
    "TARNet": lambda seed: TARNet(random_state=seed.value),
    "CFR, linear MMD": lambda seed: CFR(distance="linear", random_state=seed.value),
    "CFR, Gaussian MMD": lambda seed: CFR(distance="rbf", random_state=seed.value),
    "CFR, Wasserstein": lambda seed: CFR(random_state=seed.value),
    "DragonNet": lambda seed: DragonNet(random_state=seed.value),
    "DESCN": lambda seed: DESCN(random_state=seed.value),
}
"""With the defaults of each: nothing is tuned for these data."""


@dataclass(frozen=True)
class Errors:
    """Of one replication.

    Attributes:
        inside: √PEHE of the rows that were learned from.
        outside: of fresh rows.
        average: |ATE − mean effect| of the rows that were learned from.
        errors: the same, in standard errors.
    """

    inside: float
    outside: float
    average: float
    errors: float


def replication(folder: Path, number: int, make: Callable[[], UpliftLearner]) -> Errors:
    """Fit one replication of `ihdp_npci_<number>.csv`: treatment, y, other y, μ0, μ1, 25 features."""
    table = np.loadtxt(folder / f"ihdp_npci_{number}.csv", delimiter=",")
    order = np.random.default_rng(number).permutation(len(table))
    inside, outside = order[:TRAIN], order[TRAIN:]
    effect = table[:, 4] - table[:, 3]
    learner = make().fit(table[inside, 5:], table[inside, 0].astype(int), table[inside, 1])
    squares = (learner.effect(table[:, 5:]) - effect) ** 2
    said = learner.ate()
    away = abs(said.value[0] - float(effect[inside].mean()))
    return Errors(
        float(squares[inside].mean() ** 0.5),
        float(squares[outside].mean() ** 0.5),
        away,
        away / said.stderr[0],
    )


def main() -> None:
    """Print a row for each learner and seed."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--data", type=Path, required=True, help="folder of ihdp_npci_1.csv …")
    ask.add_argument("--seeds", type=int, default=3)
    ask.add_argument("--learners", nargs="*", default=list(LEARNERS), choices=list(LEARNERS))
    ask.add_argument("--json", type=Path)
    given = ask.parse_args()
    torch.set_num_threads(1)
    out = []
    print(f"{'learner':20} {'seed':>4} {'in':>6} {'out':>6} {'|ATE|':>6} {'ATE covered':>14} {'CPU s':>6}")
    for name in given.learners:
        for seed in range(given.seeds):
            before = time.process_time()
            each = [replication(given.data, r, partial(LEARNERS[name], Seed(seed))) for r in REPLICATIONS]
            took = time.process_time() - before
            inside, outside, average = (
                float(np.mean([getattr(e, k) for e in each])) for k in ("inside", "outside", "average")
            )
            covered = sum(e.errors < 1.96 for e in each)
            figures = f"{inside:6.3f} {outside:6.3f} {average:6.3f} {covered:>8} of 10 {took:6.1f}"
            print(f"{name:20} {seed:4} {figures}", flush=True)
            out.append(
                {
                    "name": f"IHDP, {name}, seed {seed}",
                    "in": inside,
                    "out": outside,
                    "ate_error": average,
                    "covered": covered,
                    "cpu_seconds": took,
                    "by_replication": [[e.inside, e.outside] for e in each],
                }
            )
    if given.json:
        given.json.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
