"""Every family that the catalogue finds × every check, and a planted pattern that each must learn."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from simlab.log import Log
from simlab.metrics.classification import auc
from simlab.parts import all_parts
from simlab.policies.greedy import scores
from simlab.rankers.contract import Ranker, Sizes
from simlab.seeds import Seed
from simlab.training.fit import FitSettings, fit
from tests.contracts.rankers import CHECKS, Check, context, make

FAMILIES = all_parts("ranker")


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", FAMILIES)
def test_ranker(name: str, check: Check, tmp_path: Path) -> None:
    family = FAMILIES[name]
    assert issubclass(family, Ranker)
    assert family.name == name
    check(family, tmp_path)


def test_the_catalogue_finds_the_first_three() -> None:
    assert {"mf", "neumf", "popularity"} <= FAMILIES.keys()
    assert len(CHECKS) <= 10


ITEMS, STEPS = 12, 10
IMPERSONAL = {"popularity", "bias"}
"""Families that say the same to everyone: they can but learn what the larger group likes."""


def two_tastes() -> tuple[Log, Tensor]:
    """Return slates of an even and an odd item, and who likes the odd ones: a third of the users."""
    g = torch.Generator().manual_seed(0)
    odd = torch.arange(60) % 3 == 0
    user = torch.arange(60).repeat_interleave(STEPS)
    pair = 2 * torch.randint(0, ITEMS // 2, (len(user), 2), generator=g) + torch.tensor([0, 1])
    flip = torch.rand(len(user), 1, generator=g) < 0.5
    slate = torch.where(flip, pair.flip(1), pair)
    click = ((slate % 2 == 1) == odd[user].unsqueeze(1)).double()
    log = Log(
        user=user,
        slate=slate,
        propensity=torch.ones(len(user), dtype=torch.float64),
        reward=click.sum(1),
        click=click,
        step=torch.arange(STEPS).repeat(60),
        n_items=ITEMS,
    )
    return log, odd


@pytest.mark.parametrize("name", FAMILIES)
def test_a_planted_pattern_is_learned_in_seconds(name: str) -> None:
    """By its own recipe, but for the size of steps, a family finds out who likes which half of the items."""
    family = FAMILIES[name]
    assert issubclass(family, Ranker)
    log, odd = two_tastes()
    ranker = family.build(Sizes.of(log), {}, None, Seed(1))
    quick = {"epochs": 20, "min_steps": 8, "learning_rate": 0.01, "weight_decay": 0.01}
    quick["batch_size"] = 128 * (1 + int(ranker.recipe.get("negatives", 0)))
    settings = FitSettings.of(ranker, **quick, validation=0.0, bf16=False)
    assert log.click is not None
    outcomes = {task: log.click.float() for task in ranker.tasks[1:]}
    fit(ranker, log, seed=Seed(1), settings=settings, outcomes=outcomes or None)
    assert log.step is not None
    last = log.context(ranker.past).rows(log.step == STEPS - 1)
    found = scores(ranker, last)
    own = (torch.arange(ITEMS) % 2 == 1) == odd.unsqueeze(1)
    areas = torch.tensor([auc(row, mine) for row, mine in zip(found, own, strict=True)])
    if name in IMPERSONAL:
        assert float(areas[~odd].mean()) > 0.9
    else:
        assert float(areas[odd].mean()) > 0.8, areas
        assert float(areas[~odd].mean()) > 0.8, areas


@pytest.mark.parametrize("name", FAMILIES)
def test_a_gpu_says_the_same(name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    family = FAMILIES[name]
    assert issubclass(family, Ranker)
    ranker, c = make(family), context()
    here = scores(ranker, c)
    there = scores(ranker.to("cuda"), c.to("cuda")).cpu()
    torch.testing.assert_close(there, here, atol=1e-4 * max(1.0, float(here.abs().max())), rtol=1e-4)
