"""What every estimator is held to; `test_estimators.py` runs each of these on each file of the room."""

import functools
import operator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from causal.contract import Estimator, Rounds, influence, stderr, value
from causal.intervals import interval
from causal.sums import ScoreSums
from simlab.errors import BadInput
from simlab.seeds import Seed
from tests.worlds import bandit_world, population_value, take

EXACT = 1e-10


Bandit = Estimator[Rounds]


def drawn(n: int, seed: int) -> Rounds:
    """Draw a log from the bandit world, with a reward model that is wrong."""
    world = bandit_world()
    rounds, probability = world.rounds(q=1 - world.reward**2)
    generator = torch.Generator().manual_seed(seed)
    return take(rounds, torch.multinomial(probability, n, replacement=True, generator=generator))


def check_exact_on_the_listed_population(estimator: Bandit) -> None:
    """In expectation it is the truth: for any reward model if `unbiased`, else where nothing is clipped."""
    world = bandit_world()
    if estimator.unbiased:
        rounds, probability = world.rounds(q=1 - world.reward**2)
        assert abs(population_value(estimator.score(rounds), probability) - world.value()) < EXACT
    rounds, probability = world.rounds()
    assert float(rounds.weight.max()) < 10
    assert abs(population_value(estimator.score(rounds), probability) - world.value()) < EXACT


def check_on_policy(estimator: Bandit) -> None:
    """The logger's own value is the mean reward, or the mean of the model for a method that believes it."""
    world = bandit_world()
    rounds, probability = world.rounds(target=world.logger)
    pick = torch.multinomial(probability, 200, replacement=True, generator=torch.Generator().manual_seed(1))
    rounds = take(rounds, pick)
    assert bool((rounds.weight == 1).all())
    _, q_target = rounds.model()
    rounds = replace(rounds, q_logged=q_target)
    wanted = rounds.reward.mean() if estimator.name != "DM" else q_target.mean()
    assert abs(value(estimator.score(rounds)) - float(wanted)) < EXACT


def check_rows_do_not_see_each_other(estimator: Bandit) -> None:
    """A row's score is the same whichever rows are beside it; this is why scores stream."""
    rounds = drawn(50, seed=2)
    some = torch.tensor([3, 41, 7])
    for whole, part in zip(estimator.score(rounds), estimator.score(take(rounds, some)), strict=True):
        assert torch.equal(whole.numerator[some], part.numerator)
        assert torch.equal(whole.denominator[some], part.denominator)
        assert whole.numerator.dtype == whole.denominator.dtype == torch.float64


def check_order_does_not_matter(estimator: Bandit) -> None:
    """The same rounds in another order give the same value and standard error."""
    rounds = drawn(200, seed=3)
    one = estimator.score(rounds)
    two = estimator.score(take(rounds, torch.arange(199, -1, -1)))
    assert abs(value(one) - value(two)) < EXACT
    assert abs(stderr(one) - stderr(two)) < EXACT


def check_scales_with_the_reward(estimator: Bandit) -> None:
    """Rewards in pence give a value, a standard error and an interval in pence."""
    rounds = drawn(200, seed=4)
    q_logged, q_target = rounds.model()
    pence = Rounds(100 * rounds.reward, rounds.weight, 100 * q_logged, 100 * q_target)
    one, two = estimator.score(rounds), estimator.score(pence)
    assert abs(100 * value(one) - value(two)) < 1e-8
    assert abs(100 * stderr(one) - stderr(two)) < 1e-8
    assert abs(100 * interval(one, "bca").high - interval(two, "bca").high) < 1e-8


def check_the_influence_is_the_derivative(estimator: Bandit) -> None:
    """N times the derivative of the value by a row's share is the row's influence."""
    scores = estimator.score(drawn(40, seed=5))
    share = torch.full((40,), 1 / 40, dtype=torch.float64, requires_grad=True)
    total: Tensor = torch.zeros((), dtype=torch.float64)
    for s in scores:
        total = total + (share * s.numerator).sum() / (share * s.denominator).sum()
    (slope,) = torch.autograd.grad(total, share)
    # Shares need not sum to one here, so a plain mean's derivative is without its centre.
    assert torch.allclose(slope - slope.mean(), influence(scores), atol=EXACT)


def check_sums_merge(estimator: Bandit) -> None:
    """Sums of three parts, merged, are the sums of the whole: value, standard error and replicates."""
    scores = estimator.score(drawn(300, seed=6))
    whole = ScoreSums.of(scores, seed=Seed(3))
    parts = []
    for a, b in ((0, 17), (17, 200), (200, 300)):
        some = tuple(type(s)(s.numerator[a:b], s.denominator[a:b]) for s in scores)
        parts.append(ScoreSums.of(some, rows=a, seed=Seed(3)))
    merged = functools.reduce(operator.add, reversed(parts))
    assert merged.count == 300
    assert abs(merged.value() - value(scores)) < EXACT
    assert abs(merged.stderr() - stderr(scores)) < EXACT
    assert abs(whole.stderr() - stderr(scores)) < EXACT
    assert torch.allclose(merged.draws(50), whole.draws(50), atol=EXACT)


def check_needs_what_it_says(estimator: Bandit) -> None:
    """It asks for a reward model only if `needs_model`, and then in one sentence."""
    rounds = drawn(20, seed=7)
    bare = Rounds(rounds.reward, rounds.weight)
    if estimator.needs:
        with pytest.raises(BadInput, match="needs a reward model"):
            estimator.score(bare)
    else:
        assert abs(value(estimator.score(bare)) - value(estimator.score(rounds))) < EXACT


def check_covers(estimator: Bandit) -> None:
    """The 95 % interval holds the truth in 92 to 98 of 100 logs (400 logs: three binomial deviations)."""
    world = bandit_world()
    rounds, probability = world.rounds(q=world.reward if not estimator.unbiased else 1 - world.reward**2)
    truth = world.value()
    generator = torch.Generator().manual_seed(8)
    hits = 0
    for _ in range(400):
        pick = torch.multinomial(probability, 400, replacement=True, generator=generator)
        found = interval(estimator.score(take(rounds, pick)))
        hits += found.low <= truth <= found.high
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
    check_covers,
)
