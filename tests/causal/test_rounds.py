"""From a log and a policy to weights and modelled rewards."""

from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from causal.bandit.ips import IPS
from causal.contract import Estimator, Rounds, possible, value
from causal.rounds import rounds
from simlab.context import Context
from simlab.errors import BadInput
from simlab.log import Log
from simlab.parts import all_parts
from simlab.policy import Policy
from simlab.seeds import Seed
from simlab.slates import PlackettLuce
from tests.worlds import Softmax, bandit_world, population_value, slate_world

EXACT = 1e-10


@dataclass(frozen=True)
class TrueReward:
    """A reward model that is given the truth: q [context slot cand] by feature 0."""

    q: Tensor
    past: ClassVar[int] = 0

    def fit(self, log: Log, slots: int, seed: Seed, weight: Tensor | None = None) -> "TrueReward":
        return self

    def predict(self, context: Context, position: Tensor) -> Tensor:
        which = context.features[:, 0].long()
        return self.q[which[:, None], position].gather(
            2, context.candidates[:, None].expand(-1, position.shape[1], -1)
        )


def applicable(found: Rounds) -> list[Estimator[Rounds]]:
    """Return the estimators without a documented bias that these rounds can feed, and those of the model."""
    every: list[Any] = [make() for make in all_parts("estimator").values()]
    chosen = [e for e in every if (e.unbiased or e.name in ("DM", "clipped IPS")) and possible(e, found)]
    assert {"IPS", "SNIPS", "DR"} <= {e.name for e in chosen}
    return chosen


@pytest.mark.parametrize("chunk", [None, 1, 5])
def test_bandit_is_exact_through_a_log(chunk: int | None) -> None:
    world = bandit_world()
    every = world.listed()
    found = rounds(every.log, Softmax(world.target.log()), TrueReward(world.reward[:, None, :]), chunk=chunk)
    wanted, _ = world.rounds()
    assert torch.allclose(found.weight, wanted.weight, atol=EXACT)
    assert found.q_logged is not None
    assert wanted.q_logged is not None
    assert torch.allclose(found.q_logged, wanted.q_logged, atol=EXACT)
    for make in applicable(found):
        assert abs(population_value(make.score(found), every.probability) - world.value()) < EXACT


@pytest.mark.parametrize("chunk", [None, 7])
def test_slates_are_exact_through_a_log(chunk: int | None) -> None:
    """Whole-slate weights and an additive model: every estimator finds the true number of clicks."""
    world = slate_world()
    every = world.listed()
    found = rounds(every.log, world.target, TrueReward(world.click_chance()), chunk=chunk)
    assert abs(float((every.probability * found.weight).sum()) - 1) < EXACT
    for estimator in applicable(found):
        truth = world.value()
        assert abs(population_value(estimator.score(found), every.probability) - truth) < EXACT, (
            estimator.name
        )


def test_a_page_of_which_one_place_is_logged() -> None:
    """Each row of this log shows one place, drawn evenly, of a Plackett–Luce page of two."""
    world = slate_world()
    q = world.click_chance()
    slates = list(permutations(range(4), 2))
    chance = world.slate_chance(world.logger)
    marginal = torch.zeros(2, 2, 4, dtype=torch.float64)
    for s, shown in enumerate(slates):
        for k, one in enumerate(shown):
            marginal[:, k, one] += chance[:, s]
    context, place, item, click = torch.cartesian_prod(
        torch.arange(2), torch.arange(2), torch.arange(4), torch.arange(2)
    ).unbind(1)
    p = q[context, place, item]
    probability = world.chance[context] * 0.5 * marginal[context, place, item]
    probability = probability * torch.where(click == 1, p, 1 - p)
    log = Log(
        user=torch.arange(len(context)),
        slate=item[:, None],
        propensity=marginal[context, place, item],
        reward=click.double(),
        n_items=4,
        features=context[:, None].double(),
        position=place,
    )
    found = rounds(log, world.target, TrueReward(q), chunk=3)
    for make in applicable(found):
        # One of two places is logged each time, so the mean row is worth half a page.
        assert abs(2 * population_value(make.score(found), probability) - world.value()) < EXACT
    # A page with a place that is never logged changes no marginal above it.
    wider = rounds(log, world.target, page_slots=3)
    assert torch.allclose(wider.weight, found.weight, atol=EXACT)
    with pytest.raises(BadInput, match="position 1 is off a page of 1 slots"):
        rounds(log, world.target, page_slots=1)


def test_candidates_that_differ_by_row() -> None:
    world = slate_world()
    log = Log(
        user=torch.tensor([0, 1]),
        slate=torch.tensor([[2], [0]]),
        propensity=torch.tensor([0.5, 0.25]),
        reward=torch.tensor([1.0, 0.0]),
        n_items=4,
        features=torch.tensor([[0.0], [1.0]]),
        candidates=torch.tensor([[3, 2, -1, -1], [1, 0, 3, 2]]),
    )
    found = rounds(log, world.target)
    w = world.target.logits.exp()
    first, second = float(w[0, 2] / (w[0, 2] + w[0, 3])), float(w[1, 0] / w[1].sum())
    assert found.weight.tolist() == pytest.approx([first / 0.5, second / 0.25], rel=1e-12)


def test_given_probabilities_need_no_policy() -> None:
    world = bandit_world()
    every = world.listed()
    chance = world.target[every.context, every.log.slate[:, 0]]
    assert torch.equal(rounds(every.log, chance).weight, chance / every.log.propensity)
    with pytest.raises(BadInput, match="needs a target policy"):
        rounds(every.log, chance, TrueReward(world.reward[:, None, :]))
    with pytest.raises(BadInput, match="3 probabilities for 12 rounds"):
        rounds(every.log, chance[:3])
    with pytest.raises(BadInput, match=r"row 2: the target's probability 1.5 is not in \[0, 1\]"):
        rounds(every.log, torch.where(torch.arange(12) == 2, 1.5, chance))
    with pytest.raises(BadInput, match="row 4: the target's probability nan"):
        rounds(every.log, torch.where(torch.arange(12) == 4, float("nan"), chance))


def test_users_become_groups_only_where_they_repeat() -> None:
    world = bandit_world()
    log = world.listed().log
    target = Softmax(world.target.log())
    assert isinstance(target, Policy)
    assert rounds(log, target).group is None
    repeated = replace(log, user=torch.arange(12) // 2)
    found = rounds(repeated, target).group
    assert found is not None
    assert torch.equal(found, repeated.user)
    assert rounds(repeated, target, group_by_user=False).group is None


def test_float32_logs_are_weighed_in_float64() -> None:
    world = bandit_world()
    log = world.listed().log
    small = replace(log, propensity=log.propensity.float(), reward=log.reward.float())
    found = rounds(small, Softmax(world.target.log()))
    assert found.weight.dtype == found.reward.dtype == torch.float64
    assert value(IPS().score(found)) == pytest.approx(
        value(IPS().score(rounds(log, Softmax(world.target.log()))))
    )


def test_history_reaches_the_target() -> None:
    """A target that never repeats itself: it sees only what came before."""
    seen: list[Any] = []

    @dataclass(frozen=True)
    class Fresh:
        name: str = "fresh"

        def distribution(self, context: Context, slots: int) -> PlackettLuce:
            seen.append(context.history)
            shown = (context.candidates[:, :, None] == context.history[:, None, :]).any(2)
            return PlackettLuce(torch.where(shown, -1e9, 0.0).double(), slots)

    log = Log(
        user=torch.tensor([0, 0, 0]),
        slate=torch.tensor([[1], [1], [0]]),
        propensity=torch.full((3,), 0.5),
        reward=torch.zeros(3),
        n_items=2,
        step=torch.tensor([0, 1, 2]),
    )
    found = rounds(log, Fresh(), past=1)
    assert found.weight.tolist() == pytest.approx([1.0, 0.0, 2.0])
    assert torch.cat(seen).tolist() == [[-1], [1], [1]]
