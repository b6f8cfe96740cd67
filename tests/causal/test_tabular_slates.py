"""Slates from plain tensors: the builder's numbers, a reference case, and tables that cannot be."""

from typing import Any

import pytest
import torch
from torch import Tensor

from causal.contract import Estimator, Slates, value
from causal.evaluation import estimate, evaluate
from causal.slate.cascade_dr import CascadeDR
from causal.slate.iips import IIPS
from causal.slate.rips import RIPS
from causal.slate.sips import SIPS
from causal.slate.sniips import SNIIPS
from causal.slate.snrips import SNRIPS
from causal.slate.snsips import SNSIPS
from causal.slates import slates
from causal.tabular_slates import Chances, tabular_slates, wide
from simlab.errors import BadInput
from tests.causal.test_reference import case
from tests.slate_worlds import (
    EXACT,
    EXAMINATION,
    off,
    position_world,
)


@pytest.mark.parametrize("policy", ["softmax3", "antisoftmax3"])
def test_the_reference_case(policy: str) -> None:
    z, answer = case("slate_cascade_additive_linear_1000")
    names = ("reward", "action", "pscore", "pscore_item_position", "pscore_cascade")
    aims = tuple(f"{policy}_{n}" for n in names[2:])
    mixed = torch.randperm(3000, generator=torch.Generator().manual_seed(0))  # long form has no order
    place, row = z["position"][mixed], z["slate_id"][mixed]
    reward, item, *chances = wide(row, place, *(z[n][mixed] for n in (*names, *aims)))
    logger, target = (Chances(c[0][:, 0], c[1], c[2]) for c in (chances[:3], chances[3:]))
    q, following = (z[f"{policy}_{n}"].reshape(1000, 3, 10) for n in ("q_hat", "action_dist"))
    found = tabular_slates(reward, logger, target, item=item, q=q, following=following)
    estimators: dict[str, Estimator[Slates]] = {
        "sips": SIPS(),
        "iips": IIPS(),
        "rips": RIPS(),
        "snsips": SNSIPS(),
        "sniips": SNIIPS(),
        "snrips": SNRIPS(),
        "cascade-dr": CascadeDR(),
    }
    results = answer["results"][policy]["estimates"]
    for name, estimator in estimators.items():
        assert value(estimator.score(found)) == pytest.approx(results[name]["value"], rel=1e-9), name
    one = estimate(SIPS(), found)
    assert one.ess == pytest.approx(answer["results"][policy]["ess_slate"], rel=1e-9)
    every = evaluate(found)
    assert {e.name for e in every} == {
        "SIPS", "IIPS", "RIPS", "SNSIPS", "SNIIPS", "SNRIPS", "Cascade-DR", "clipped IIPS",
    }  # fmt: skip


def test_plain_tensors_equal_the_builder() -> None:
    world = position_world()
    every = world.listed()
    built = slates(every.log, world.target, logger=world.logger, examination=EXAMINATION)
    tables = [world.placed(world.law(p))[every.context] for p in (world.logger, world.target)]
    logger, target = Chances(table=tables[0]), Chances(table=tables[1])
    assert every.log.click is not None
    found = tabular_slates(every.log.click, logger, target, item=every.log.slate, examination=EXAMINATION)
    for name in ("marginal", "document", "examined"):
        assert torch.allclose(found.need(name), built.need(name), atol=EXACT, rtol=0)
    whole = tabular_slates(
        every.log.reward, Chances(every.log.propensity), Chances(every.log.propensity * built.need("joint"))
    )
    assert not whole.per_slot
    assert abs(off(SIPS(), whole, world, every)) < EXACT
    alone = tabular_slates(every.log.click, logger, target, item=every.log.slate, independent=True)
    assert torch.allclose(alone.need("pseudo"), built.need("marginal").sum(1) - 2, atol=EXACT, rtol=0)


def chances(**given: Any) -> Chances:
    return Chances(**{k: torch.tensor(v, dtype=torch.float64) for k, v in given.items()})


GOOD = {"joint": [0.1, 0.2], "marginal": [[0.5, 0.2], [0.4, 0.5]], "cascade": [[0.5, 0.1], [0.4, 0.2]]}
TABLE = [[[0.5, 0.5], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"joint": [0.1, 0.0]}, r"joint of the logger, row 1: 0 is not in \(0, 1\]"),
        ({"joint": [0.1, float("nan")]}, r"joint of the logger, row 1: nan is not in"),
        ({"marginal": [[0.5, 0.2], [0.4, 1.4]]}, r"marginal of the logger, row 1, slot 1: 1.4 is not in"),
        ({"marginal": [[0.5, 0.2], [-0.4, 0.5]]}, r"marginal of the logger, row 1, slot 0: -0.4 is not in"),
        (
            {"cascade": [[0.5, 0.1], [0.2, 0.4]]},
            "cascade of the logger, row 1, slot 1: 0.4 is likelier than the shorter beginning",
        ),
        (
            {"cascade": [[0.5, 0.2], [0.4, 0.2]]},
            "cascade of the logger, row 0, slot 1: 0.2 is not joint",
        ),
        (
            {"cascade": [[0.45, 0.1], [0.4, 0.2]]},
            "cascade of the logger, row 0, slot 0: 0.45 is not marginal, but the first item stands",
        ),
        (
            {"marginal": [[0.5, 0.2], [0.4, 0.1]]},
            "marginal of the logger, row 1, slot 1: 0.1 is below cascade, of a slate with that item there",
        ),
        ({"joint": None}, "the target has joint probabilities, and the logger has none"),
        ({"joint": [[0.1, 0.2]]}, r"joint of the logger has shape \(1, 2\), but there are 2 slates of 2"),
        ({"joint": [[0.1], [0.2]]}, r"joint of the logger has shape \(2, 1\), but there are 2 slates of 2"),
        ({"marginal": [0.5, 0.2]}, r"marginal of the logger has shape \(2,\), but there are 2 slates of 2"),
        (
            {"table": [[0.5, 0.5], [0.5, 0.5]]},
            r"table of the logger has shape \(2, 2\), but there are 2",
        ),
        (
            {"table": [[[], []], [[], []]]},
            r"table of the logger has shape \(2, 2, 0\), but there are 2",
        ),
    ],
)
def test_tables_that_cannot_be(change: dict[str, Any], says: str) -> None:
    logger = chances(**{k: v for k, v in {**GOOD, **change}.items() if v is not None})
    with pytest.raises(BadInput, match=says):
        tabular_slates(torch.ones(2, 2), logger, chances(**GOOD))


def test_more_tables_that_cannot_be() -> None:
    reward, item, good = torch.ones(2, 2), torch.tensor([[0, 1], [1, 0]]), chances(table=TABLE)
    low = chances(joint=[0.1, 0.3], marginal=[[0.5, 0.2], [0.2, 0.5]])
    with pytest.raises(
        BadInput, match=r"marginal of the logger, row 1, slot 0: 0.2 is below joint, of a slate with"
    ):
        tabular_slates(reward, low, low)
    short = chances(table=[TABLE[0], [[0.5, 0.25], [0.5, 0.5]]])
    with pytest.raises(BadInput, match=r"row 1, slot 0: it sums to 0\.75, not 1"):
        tabular_slates(reward, good, short, item=item)
    with pytest.raises(BadInput, match=r"joint of the logger has shape \(2,\), but there are 3 slates of 2"):
        tabular_slates(torch.ones(3, 2), chances(**GOOD), chances(**GOOD))
    with pytest.raises(
        BadInput, match=r"marginal of the logger has shape \(2, 2\), but there are 2 slates of 3"
    ):
        tabular_slates(torch.ones(2, 3), chances(marginal=GOOD["marginal"]), chances(**GOOD))
    with pytest.raises(BadInput, match="needs item: which ones were shown"):
        tabular_slates(reward, good, good)
    never = chances(table=[TABLE[0], [[1.0, 0.0], [0.5, 0.5]]])
    with pytest.raises(BadInput, match=r"table at what was shown of the logger, row 1, slot 0: 0 is not in"):
        tabular_slates(reward, never, good, item=item)
    with pytest.raises(BadInput, match="a model of slates needs q, following and item"):
        tabular_slates(reward, good, good, item=item, q=torch.ones(2, 2, 2))
    with pytest.raises(BadInput, match="reward, row 1, slot 0: nan is not a finite number"):
        tabular_slates(torch.tensor([[0.0, 1.0], [float("nan"), 0]]), good, good, item=item)
    with pytest.raises(BadInput, match="examination needs tables of both"):
        tabular_slates(reward, chances(**GOOD), chances(**GOOD), examination=torch.ones(2))
    with pytest.raises(BadInput, match="from marginals, and there are none"):
        tabular_slates(torch.ones(2), chances(joint=[0.1, 0.3]), chances(joint=[0.1, 0.3]), independent=True)
    with pytest.raises(BadInput, match="there is one reward a slate"):
        tabular_slates(torch.ones(2), good, good, item=item, slot_weight=torch.ones(2))


def test_items_and_models_that_cannot_be() -> None:
    reward, item, good = torch.ones(2, 2), torch.tensor([[0, 1], [1, 0]]), chances(table=TABLE)
    q, following = torch.ones(2, 2, 2), torch.full((2, 2, 2), 0.5)

    def said(match: str, **given: Any) -> None:
        settings = {"item": item, "logger": good, "target": good, "reward": reward, **given}
        with pytest.raises(BadInput, match=match):
            tabular_slates(settings.pop("reward"), settings.pop("logger"), settings.pop("target"), **settings)

    said(r"item, row 0, slot 1: 2 is none of the 2 columns of table of the logger", item=item * 2)
    said(r"item, row 0, slot 1: -1 is none of the 2 columns", item=-item)
    said(r"item has shape \(1, 2\), but there are 2 slates of 2", item=item[:1])
    said(r"item has shape \(2, 1\), but there are 2 slates of 2", item=item[:, :1])
    wide_ = chances(table=[[[0.5, 0.5, 0.0]] * 2] * 2)
    said(r"table of the target has 3 columns, but table of the logger has 2", target=wide_)
    said(r"q has 3 columns, but table of the logger has 2", q=torch.ones(2, 2, 3), following=following)
    said(r"q has shape \(2, 1, 2\), but there are 2 slates of 2", q=q[:, :1], following=following)
    said(r"following has shape \(1, 2, 2\), but there are 2 slates of 2", q=q, following=following[:1])
    said(r"q, row 1, slot 0, column 1: nan is not a finite", q=_with(q, (1, 0, 1)), following=following)
    said(r"following of the target, row 0, slot 1, column 0: nan is not", q=q, following=_with(q, (0, 1, 0)))
    said(r"following of the target, row 0, slot 0: it sums to 2, not 1", q=q, following=q)
    said(r"group has shape \(1,\), but there are 2 slates", group=torch.tensor([0]))
    said(r"there are no slates: reward has shape \(0, 2\)", reward=reward[:0])
    said(r"there are no slates: reward has shape \(2, 0\)", reward=reward[:, :0])
    said(r"reward is \[round slot\] or \[round\], not of shape \(2, 2, 1\)", reward=reward.unsqueeze(2))
    said(r"reward, row 1: inf is not a finite number", reward=torch.tensor([1.0, torch.inf]))
    other = Chances(table=good.table, marginal=torch.tensor([[0.5, 0.5], [0.5, 0.4]]))
    said(r"marginal of the logger, row 1, slot 1: 0.4 is not what table says, 0.5", logger=other)
    joint = Chances(joint=torch.tensor([0.25, 0.3]), table=good.table)
    said(
        r"joint of the logger, row 1: 0.3 is not the product of marginal, 0.25, as of independent slots",
        logger=joint,
        target=joint,
        independent=True,
    )
    said("examination of slot 1 is nan, but it must be in", examination=torch.tensor([1.0, torch.nan]))


def _with(x: Tensor, at: tuple[int, ...]) -> Tensor:
    out = x.clone()
    out[at] = torch.nan
    return out


@pytest.mark.parametrize(
    ("slate", "position", "says"),
    [
        ([3, 3, 4], [0, 1, 0], "slate 4 has slot 1 0 times, not once"),
        ([3, 3, 4, 4], [0, 1, 1, 1], "slate 4 has slot 0 0 times, not once"),
        ([3, 3], [0, -1], "column position, row 1: -1 is negative"),
        (
            [3, 3],
            [0, 1 << 40],
            "column position, row 1: 1099511627776 is beyond the 2 rows: a slot is",
        ),
        ([], [], "0 rows of slate and 0 of position are no slates"),
    ],
)
def test_long_forms_that_cannot_be(slate: list[int], position: list[int], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        wide(torch.tensor(slate, dtype=torch.long), torch.tensor(position, dtype=torch.long))


def test_columns_of_another_length_are_refused() -> None:
    slate, position = torch.tensor([0, 0]), torch.tensor([0, 1])
    with pytest.raises(BadInput, match="column 1 of those to turn has 3 rows, but slate has 2"):
        wide(slate, position, torch.ones(2), torch.ones(3))
