"""What every estimator is held to; `test_estimators.py` runs each of these on each file of the room."""

import functools
import math
import operator
import re
from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from causal.contract import Estimator, Rounds, influence, possible, stderr, value
from causal.evaluation import overlap
from causal.intervals import interval
from causal.sums import ScoreSums
from simlab.errors import BadInput
from simlab.seeds import Seed
from tests.worlds import BanditWorld, bandit_world, population_value, table, take

EXACT = 1e-10


Bandit = Estimator[Rounds]

MODELLED = ("q_logged", "q_target", "robust_logged", "robust_target")
"""What is in the reward's unit, besides the reward."""


def matched_world() -> BanditWorld:
    """Return the world of replay: a uniform logger and a target that always shows one item."""
    world = bandit_world()
    third = torch.full_like(world.logger, 1 / 3)
    return replace(world, logger=third, target=table([0.0, 0.0, 1.0], [1.0, 0.0, 0.0]))


WORLDS: dict[str, Callable[[], BanditWorld]] = {"replay": matched_world}
"""Worlds of estimators that refuse the usual one, by the estimator's name."""


def _correction(rounds: Rounds) -> Float[Tensor, " round"]:
    """Return w (r - q_logged), what DR adds to the model."""
    return rounds.weight * (rounds.reward - rounds.model()[0])


def _harmonic(rounds: Rounds) -> Float[Tensor, " round"]:
    """Return the share of its weight that a row loses to the harmonic mean with λ = .01."""
    return 0.01 * (rounds.weight - 1) / (0.99 + 0.01 * rounds.weight)


def _over(rounds: Rounds) -> Float[Tensor, " round"]:
    """Return the share of its weight that a row loses to a clip at 10."""
    return (1 - 10 / rounds.weight).clamp(min=0)


LOSS: dict[str, Callable[[Rounds], Float[Tensor, " round"]]] = {
    "DM": _correction,
    "clipped IPS": lambda d: _over(d) * d.weight * d.reward,
    "clipped DR": lambda d: _over(d) * _correction(d),
    "Switch-DR": lambda d: (d.weight > 10) * _correction(d),
    "DRos": lambda d: d.weight**2 / (d.weight**2 + 100) * _correction(d),
    "sub-Gaussian IPS": lambda d: _harmonic(d) * d.weight * d.reward,
    "sub-Gaussian DR": lambda d: _harmonic(d) * _correction(d),
}
"""What V falls short by, in expectation: the bias that the docstring of a biased estimator states, at its
defaults. It is held to that formula for a wrong model, as an unbiased one is held to the truth."""


def world_of(estimator: Bandit) -> BanditWorld:
    """Return the world that an estimator is checked in."""
    return WORLDS.get(estimator.name, bandit_world)()


def wrong(world: BanditWorld) -> Float[Tensor, "context cand"]:
    """Return a reward model that is wrong."""
    return 1 - world.reward**2


def drawn(estimator: Bandit, n: int, seed: int) -> Rounds:
    """Draw a log with a reward model that is wrong. Its rounds are dealt to two loggers, which are alike."""
    world = world_of(estimator)
    rounds, probability = world.rounds(q=wrong(world))
    generator = torch.Generator().manual_seed(seed)
    rounds = take(rounds, torch.multinomial(probability, n, replacement=True, generator=generator))
    return replace(rounds, logger=torch.arange(n) % 2)


def aim(estimator: Bandit, rounds: Rounds, probability: Float[Tensor, " round"]) -> float:
    """Return what it should find: the truth, less what its docstring says it loses."""
    truth = world_of(estimator).value()
    loss = LOSS.get(estimator.name)
    return truth if loss is None else truth - float((probability * loss(rounds)).sum())


def check_exact_on_the_listed_population(estimator: Bandit) -> None:
    """In expectation it is the truth, or with a wrong model falls short by just what it says.

    A biased estimator without such a formula must be exact with the right model, where weights are moderate.
    """
    world = world_of(estimator)
    rounds, probability = world.rounds(q=wrong(world))
    assert not (estimator.unbiased and estimator.name in LOSS)
    if estimator.unbiased or estimator.name in LOSS:
        found = population_value(estimator.score(rounds), probability)
        assert abs(found - aim(estimator, rounds, probability)) < EXACT
    rounds, probability = world.rounds()
    assert float(rounds.weight.max()) < 10
    found = population_value(estimator.score(rounds), probability)
    assert abs(found - aim(estimator, rounds, probability)) < EXACT


def check_on_policy(estimator: Bandit) -> None:
    """The logger's own value is the mean reward, or nearer the model by what the estimator says it loses."""
    world = world_of(estimator)
    rounds, probability = world.rounds(target=world.logger)
    pick = torch.multinomial(probability, 200, replacement=True, generator=torch.Generator().manual_seed(1))
    rounds = take(rounds, pick)
    assert bool((rounds.weight == 1).all())
    _, q_target = rounds.model()
    rounds = replace(rounds, q_logged=q_target, robust_logged=rounds.robust_target)
    lost = LOSS[estimator.name](rounds) if estimator.name in LOSS else torch.zeros(200)
    assert abs(value(estimator.score(rounds)) - float((rounds.reward - lost).mean())) < EXACT


def check_rows_do_not_see_each_other(estimator: Bandit) -> None:
    """A row's score is the same whichever rows are beside it, if it `streams`; if not, then some differ."""
    rounds = drawn(estimator, 60, seed=2)
    some = torch.arange(24)
    whole, part = estimator.score(rounds), estimator.score(take(rounds, some))
    assert len(whole) == len(part)
    same = []
    for a, b in zip(whole, part, strict=True):
        assert a.numerator.dtype == a.denominator.dtype == torch.float64
        same += [torch.equal(a.numerator[some], b.numerator)]
        same += [torch.equal(a.denominator[some], b.denominator)]
    assert all(same) == estimator.streams


def check_order_does_not_matter(estimator: Bandit) -> None:
    """The same rounds in another order give the same score of each, value and standard error."""
    rounds = drawn(estimator, 200, seed=3)
    back = torch.arange(199, -1, -1)
    one = estimator.score(rounds)
    two = estimator.score(take(rounds, back))
    assert abs(value(one) - value(two)) < EXACT
    assert abs(stderr(one) - stderr(two)) < EXACT
    assert torch.allclose(influence(one)[back], influence(two), atol=EXACT)


def check_scales_with_the_reward(estimator: Bandit) -> None:
    """Rewards in pence give a value, a standard error and an interval in pence."""
    rounds = drawn(estimator, 200, seed=4)
    models = {name: 100 * rounds.need(name) for name in MODELLED}
    pence = replace(rounds, reward=100 * rounds.reward, **models)
    one, two = estimator.score(rounds), estimator.score(pence)
    assert abs(100 * value(one) - value(two)) < 1e-8
    assert abs(100 * stderr(one) - stderr(two)) < 1e-8
    assert abs(100 * interval(one, "bca").high - interval(two, "bca").high) < 1e-8


def check_the_influence_is_the_derivative(estimator: Bandit) -> None:
    """N times the derivative of the value by a row's share is the row's influence."""
    scores = estimator.score(drawn(estimator, 40, seed=5))
    share = torch.full((40,), 1 / 40, dtype=torch.float64, requires_grad=True)
    total: Tensor = torch.zeros((), dtype=torch.float64)
    for s in scores:
        total = total + (share * s.numerator).sum() / (share * s.denominator).sum()
    (slope,) = torch.autograd.grad(total, share)
    # Shares need not sum to one here, so a plain mean's derivative is without its centre.
    assert torch.allclose(slope - slope.mean(), influence(scores), atol=EXACT)


def check_sums_merge(estimator: Bandit) -> None:
    """Sums of three parts, merged, are the sums of the whole: value, standard error and replicates.

    An estimator that streams scores each part by itself. One that does not scores the log once; what it
    scored then merges like any other.
    """
    rounds = drawn(estimator, 300, seed=6)
    scores = estimator.score(rounds)
    whole = ScoreSums.of(scores, seed=Seed(3))
    parts = []
    for a, b in ((0, 17), (17, 200), (200, 300)):
        some = tuple(type(s)(s.numerator[a:b], s.denominator[a:b]) for s in scores)
        if estimator.streams:
            some = estimator.score(rounds.rows(slice(a, b)))
        parts.append(ScoreSums.of(some, rows=a, seed=Seed(3)))
    merged = functools.reduce(operator.add, reversed(parts))
    assert merged.count == 300
    assert abs(merged.value() - value(scores)) < EXACT
    assert abs(merged.stderr() - stderr(scores)) < EXACT
    assert abs(whole.stderr() - stderr(scores)) < EXACT
    assert torch.allclose(merged.draws(50), whole.draws(50), atol=EXACT)


def check_needs_what_it_says(estimator: Bandit) -> None:
    """It scores with no more than its `needs`, and says in one sentence which of them it misses."""
    rounds = drawn(estimator, 20, seed=7)
    optional = {f.name for f in fields(Rounds)} - {"reward", "weight"}
    assert set(estimator.needs) <= optional
    bare = replace(rounds, **dict.fromkeys(optional - set(estimator.needs)))  # type: ignore[arg-type]
    assert possible(estimator, bare)
    assert abs(value(estimator.score(bare)) - value(estimator.score(rounds))) < EXACT
    for name in estimator.needs:
        without = replace(rounds, **{name: None})  # type: ignore[arg-type]
        assert not possible(estimator, without)
        with pytest.raises(BadInput, match=re.escape(f"needs {Rounds.words[name]}, and none was given")):
            estimator.score(without)


def check_leans_on_what_it_needs(estimator: Bandit) -> None:
    """Diagnostics judge weights that it cannot do without, or none if it believes its model."""
    ess, share = overlap(estimator, drawn(estimator, 50, seed=9))
    if estimator.leans:
        assert estimator.leans in ("weight", *estimator.needs)
        assert 0 < ess <= 50
        assert 0 < share < 1
    else:
        assert math.isnan(ess)
        assert math.isnan(share)


def check_covers(estimator: Bandit) -> None:
    """The 95 % interval holds what it aims at in 92 to 98 of 100 logs (400 logs: three deviations)."""
    world = world_of(estimator)
    rounds, probability = world.rounds(q=wrong(world) if estimator.unbiased else world.reward)
    wanted = aim(estimator, rounds, probability)
    generator = torch.Generator().manual_seed(8)
    hits = 0
    for _ in range(400):
        pick = torch.multinomial(probability, 400, replacement=True, generator=generator)
        found = interval(estimator.score(replace(take(rounds, pick), logger=torch.arange(400) % 2)))
        hits += found.low <= wanted <= found.high
    assert 0.92 <= hits / 400 <= 0.98


CHECKS = (
    check_exact_on_the_listed_population,
    check_on_policy,
    check_rows_do_not_see_each_other,
    check_order_does_not_matter,
    check_scales_with_the_reward,
    check_the_influence_is_the_derivative,
    check_sums_merge,
    check_needs_what_it_says,
    check_leans_on_what_it_needs,
    check_covers,
)
