"""What every sequential estimator is held to; each check runs on each file of `causal/rl`."""

import functools
import operator
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from causal.contract import Estimator, Trajectories, influence, stderr, value
from causal.evaluation import overlap
from causal.intervals import interval
from causal.sums import ScoreSums
from simlab.errors import BadInput
from simlab.seeds import Seed
from tests.sequential import bare, chain, wrong
from tests.worlds import population_value

EXACT = 1e-10

Sequential = Estimator[Trajectories]


def drawn(n: int, seed: int) -> Trajectories:
    """Draw trajectories from the chain, with a Q-model that is wrong."""
    world = chain()
    every = world.listed()
    return world.trajectories(every, wrong(world.q())).rows(every.pick(n, seed))


def without(data: Trajectories, name: str) -> Trajectories:
    """Return trajectories that lack a field."""
    values: dict[str, Any] = {name: None}
    return replace(data, **values)


def check_exact_on_the_listed_population(estimator: Sequential) -> None:
    """In expectation it is the truth: for any Q-model if `unbiased`, else with the right one."""
    world = chain()
    every = world.listed()
    assert abs(float(every.probability.sum()) - 1) < EXACT
    assert 0.2 < float((~world.trajectories(every).valid).any(1).double() @ every.probability) < 0.8
    if estimator.unbiased:
        data = world.trajectories(every, wrong(world.q()))
        assert abs(population_value(estimator.score(data), every.probability) - world.value()) < EXACT
    data = world.trajectories(every)
    assert abs(population_value(estimator.score(data), every.probability) - world.value()) < EXACT


def check_doubly_robust(estimator: Sequential) -> None:
    """With a right Q-model it is exact whatever the weights; an estimator without a model is then wrong."""
    world = chain()
    every = world.listed()
    data = world.trajectories(every, claimed=torch.full_like(world.logger, 0.5))
    # A weight may depend on all that was seen up to its choice, and on nothing after it.
    seen = torch.stack([every.state, every.action], 2).flatten(1).double()
    keys = [torch.unique(seen[:, : 2 * t + 2], dim=0, return_inverse=True)[1] for t in range(3)]
    odd = torch.stack([1 + 0.5 * torch.sin(k.double()) for k in keys], dim=1)
    data = replace(data, state=data.need("state") * odd, state_action=odd)
    off = abs(population_value(estimator.score(data), every.probability) - world.value())
    assert off < EXACT if "v_target" in estimator.needs else off > 0.01


def check_on_policy(estimator: Sequential) -> None:
    """The logger's own value is the mean return, or the mean of the model for a method that believes it."""
    world = chain()
    every = world.listed()
    data = world.trajectories(every, wrong(world.q()), target=world.logger).rows(every.pick(200, 1))
    assert bool((data.ratio == 1).all())
    assert torch.allclose(data.need("state"), torch.ones_like(data.ratio))
    v = data.need("v_target")
    if not estimator.unbiased:
        assert abs(value(estimator.score(data)) - float(v[:, 0].mean())) < EXACT
        return
    silent = replace(data, q_logged=torch.zeros_like(v), v_target=torch.zeros_like(v))
    assert abs(value(estimator.score(silent)) - float(data.returns().mean())) < EXACT
    if "v_target" in estimator.needs:  # with nothing to correct, the model's own mean comes back
        after = torch.cat([v[:, 1:], torch.zeros(200, 1, dtype=torch.float64)], dim=1)
        fits = replace(data, q_logged=data.reward + data.discount * after)
        assert abs(value(estimator.score(fits)) - float(v[:, 0].mean())) < EXACT


def check_rows_do_not_see_each_other(estimator: Sequential) -> None:
    """A trajectory's score is the same whichever others are beside it; this is why scores stream."""
    data, some = drawn(50, 2), torch.tensor([3, 41, 7])
    for whole, part in zip(estimator.score(data), estimator.score(data.rows(some)), strict=True):
        assert torch.equal(whole.numerator[some], part.numerator)
        assert torch.equal(whole.denominator[some], part.denominator)
        assert whole.numerator.dtype == whole.denominator.dtype == torch.float64


def check_order_does_not_matter(estimator: Sequential) -> None:
    """The same trajectories in another order give the same value and standard error."""
    data = drawn(200, 3)
    one, two = estimator.score(data), estimator.score(data.rows(torch.arange(199, -1, -1)))
    assert abs(value(one) - value(two)) < EXACT
    assert abs(stderr(one) - stderr(two)) < EXACT


def check_padding_does_not_matter(estimator: Sequential) -> None:
    """Two more steps that nobody takes change nothing."""
    data = drawn(200, 4)

    def longer(x: Tensor | None, pad: float) -> Tensor | None:
        return None if x is None else torch.nn.functional.pad(x, (0, 2), value=pad)

    ratio = longer(data.ratio, 1.0)
    valid = torch.nn.functional.pad(data.valid, (0, 2), value=False)
    reward = longer(data.reward, 0.0)
    assert ratio is not None
    assert reward is not None
    # After the horizon everybody has finished, under any policy.
    more = replace(
        data,
        reward=reward,
        ratio=ratio,
        valid=valid,
        q_logged=longer(data.q_logged, 0.0),
        v_target=longer(data.v_target, 0.0),
        state=longer(data.state, 1.0),
        state_action=longer(data.state_action, 1.0),
    )
    one, two = estimator.score(data), estimator.score(more)
    assert abs(value(one) - value(two)) < EXACT
    assert abs(stderr(one) - stderr(two)) < EXACT


def check_scales_with_the_reward(estimator: Sequential) -> None:
    """Rewards in pence give a value, a standard error and an interval in pence."""
    data = drawn(200, 5)
    pence = replace(
        data,
        reward=100 * data.reward,
        q_logged=100 * data.need("q_logged"),
        v_target=100 * data.need("v_target"),
    )
    one, two = estimator.score(data), estimator.score(pence)
    assert abs(100 * value(one) - value(two)) < 1e-8
    assert abs(100 * stderr(one) - stderr(two)) < 1e-8
    assert abs(100 * interval(one, "bca").high - interval(two, "bca").high) < 1e-8


def check_the_influence_is_the_derivative(estimator: Sequential) -> None:
    """N times the derivative of the value by a trajectory's share is its influence."""
    scores = estimator.score(drawn(40, 6))
    share = torch.full((40,), 1 / 40, dtype=torch.float64, requires_grad=True)
    total: Tensor = torch.zeros((), dtype=torch.float64)
    for s in scores:
        total = total + (share * s.numerator).sum() / (share * s.denominator).sum()
    (slope,) = torch.autograd.grad(total, share)
    assert torch.allclose(slope - slope.mean(), influence(scores), atol=EXACT)


def check_sums_merge(estimator: Sequential) -> None:
    """Sums of three parts, merged, are the sums of the whole: value, standard error and replicates."""
    scores = estimator.score(drawn(300, 7))
    whole = ScoreSums.of(scores, seed=Seed(3))
    parts = []
    for a, b in ((0, 17), (17, 200), (200, 300)):
        some = tuple(type(s)(s.numerator[a:b], s.denominator[a:b]) for s in scores)
        parts.append(ScoreSums.of(some, rows=a, seed=Seed(3)))
    merged = functools.reduce(operator.add, reversed(parts))
    assert merged.count == 300
    assert abs(merged.value() - value(scores)) < EXACT
    assert abs(merged.stderr() - stderr(scores)) < EXACT
    assert torch.allclose(merged.draws(50), whole.draws(50), atol=EXACT)


def check_needs_what_it_says(estimator: Sequential) -> None:
    """Each of its needs is asked for in one sentence, and nothing else is looked at."""
    data = drawn(20, 8)
    for name in estimator.needs:
        with pytest.raises(BadInput, match=re.escape(f"needs {Trajectories.words[name]}")):
            estimator.score(without(data, name))
    only = replace(bare(data), **{name: getattr(data, name) for name in estimator.needs})
    assert abs(value(estimator.score(only)) - value(estimator.score(data))) < EXACT
    ess, share = overlap(estimator, data)
    assert (ess != ess) == (estimator.leans == "")
    if estimator.leans:
        assert 0 < ess <= 20
        assert 0 < share < 1


def check_covers(estimator: Sequential) -> None:
    """The 95 % interval holds the truth in 92 to 98 of 100 logs (400 logs: three binomial deviations)."""
    world = chain()
    every = world.listed()
    data = world.trajectories(every, wrong(world.q()) if estimator.unbiased else None)
    hits = 0
    for seed in range(400):
        found = interval(estimator.score(data.rows(every.pick(400, seed))))
        hits += found.low <= world.value() <= found.high
    assert 0.92 <= hits / 400 <= 0.98


CHECKS = (
    check_exact_on_the_listed_population,
    check_doubly_robust,
    check_on_policy,
    check_rows_do_not_see_each_other,
    check_order_does_not_matter,
    check_padding_does_not_matter,
    check_scales_with_the_reward,
    check_the_influence_is_the_derivative,
    check_sums_merge,
    check_needs_what_it_says,
    check_covers,
)
