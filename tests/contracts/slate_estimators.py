"""What every slate estimator is held to; `test_slate_estimators.py` runs each on each file of the room."""

import functools
import operator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from causal.contract import Estimator, Slates, influence, possible, stderr, value
from causal.intervals import interval
from causal.sums import ScoreSums
from simlab.errors import BadInput
from simlab.seeds import Seed
from tests.slate_worlds import CONTEXTS, SLOTS, cascade_world, flat_world
from tests.worlds import population_value

EXACT = 1e-10

Ranking = Estimator[Slates]


@functools.cache
def population(right: bool = False) -> tuple[Slates, Tensor]:
    """List the world where every assumption holds, with a model that is wrong by default."""
    world = flat_world()
    q = (
        None
        if right
        else torch.rand(CONTEXTS, 24, SLOTS, generator=torch.Generator().manual_seed(0)).double()
    )
    if q is not None:  # of the items down to each slot only
        law = world.law(world.target)
        q = replace(world, mean=q).truth(law)
    return world.twin(q=q), world.listed().probability


@functools.cache
def own() -> Slates:
    """List that world with the logger as its target."""
    return flat_world().twin(flat_world().logger)


@functools.cache
def cascade() -> Slates:
    """List the world where users read from the top."""
    return cascade_world().twin()


def drawn(n: int, seed: int) -> Slates:
    """Draw slates from that world."""
    found, probability = population()
    generator = torch.Generator().manual_seed(seed)
    return found.rows(torch.multinomial(probability, n, replacement=True, generator=generator))


def check_exact_on_the_listed_population(estimator: Ranking) -> None:
    """In expectation it is the truth: for any model if `unbiased`, else where nothing is clipped."""
    for right in (False, True):
        found, probability = population(right)
        assert found.marginal is not None
        assert float(found.marginal.max()) < 10
        assert abs(population_value(estimator.score(found), probability) - flat_world().value()) < EXACT


def check_on_policy(estimator: Ranking) -> None:
    """The logger's own value is the mean reward."""
    world, found = flat_world(), own()
    pick = torch.multinomial(
        world.listed().probability, 200, replacement=True, generator=torch.Generator().manual_seed(1)
    )
    found = replace(found.rows(pick), q_logged=found.rows(pick).q_target)
    wanted = float(found.reward.sum(1).mean())
    assert abs(value(estimator.score(found)) - wanted) < EXACT


def check_rows_do_not_see_each_other(estimator: Ranking) -> None:
    """A row's score is the same whichever rows are beside it; this is why scores stream."""
    found = drawn(50, seed=2)
    some = torch.tensor([3, 41, 7])
    for whole, part in zip(estimator.score(found), estimator.score(found.rows(some)), strict=True):
        assert torch.equal(whole.numerator[some], part.numerator)
        assert torch.equal(whole.denominator[some], part.denominator)
        assert whole.numerator.dtype == whole.denominator.dtype == torch.float64


def check_it_changes_nothing(estimator: Ranking) -> None:
    """The slates are the same after as before."""
    found = drawn(50, seed=2)
    before = {k: v.clone() for k, v in vars(found).items() if isinstance(v, Tensor)}
    estimator.score(found)
    assert all(torch.equal(v, getattr(found, k)) for k, v in before.items())


def check_order_does_not_matter(estimator: Ranking) -> None:
    """The same slates in another order give the same value and standard error."""
    found = drawn(200, seed=3)
    one, two = estimator.score(found), estimator.score(found.rows(torch.arange(199, -1, -1)))
    assert abs(value(one) - value(two)) < EXACT
    assert abs(stderr(one) - stderr(two)) < EXACT


def check_scales_with_the_reward(estimator: Ranking) -> None:
    """Rewards in pence give a value, a standard error and an interval in pence."""
    found = drawn(200, seed=4)
    assert found.q_logged is not None
    assert found.q_target is not None
    pence = replace(
        found, reward=100 * found.reward, q_logged=100 * found.q_logged, q_target=100 * found.q_target
    )
    one, two = estimator.score(found), estimator.score(pence)
    assert abs(100 * value(one) - value(two)) < 1e-8
    assert abs(100 * stderr(one) - stderr(two)) < 1e-8
    assert abs(100 * interval(one, "bca").high - interval(two, "bca").high) < 1e-8


def check_the_influence_is_the_derivative(estimator: Ranking) -> None:
    """N times the derivative of the value by a row's share is the row's influence."""
    scores = estimator.score(drawn(40, seed=5))
    share = torch.full((40,), 1 / 40, dtype=torch.float64, requires_grad=True)
    total: Tensor = torch.zeros((), dtype=torch.float64)
    for s in scores:
        total = total + (share * s.numerator).sum() / (share * s.denominator).sum()
    (slope,) = torch.autograd.grad(total, share)
    # Shares need not sum to one here, so a plain mean's derivative is without its centre.
    assert torch.allclose(slope - slope.mean(), influence(scores), atol=EXACT)


def check_sums_merge(estimator: Ranking) -> None:
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


def check_needs_what_it_says(estimator: Ranking) -> None:
    """With only what it needs it says the same; without any one of it, one sentence."""
    found = drawn(20, seed=7)
    assert estimator.needs
    assert estimator.leans in estimator.needs
    only = Slates(found.reward, **{name: getattr(found, name) for name in estimator.needs})
    assert abs(value(estimator.score(only)) - value(estimator.score(found))) < EXACT
    for name in estimator.needs:
        with pytest.raises(BadInput, match=r"this estimator needs .*, and none was given"):
            estimator.score(Slates(**{**vars(only), name: None}))


def check_one_reward_a_slate(estimator: Ranking) -> None:
    """Where slots are not told apart it says the same of the whole slate, or refuses."""
    found = drawn(20, seed=7)
    whole = torch.zeros_like(found.reward)
    whole[:, 0] = found.reward.sum(1)
    one = replace(found, reward=whole, per_slot=False)
    assert possible(estimator, found)
    assert possible(estimator, one) == (estimator.leans in ("joint", "pseudo"))
    if possible(estimator, one):
        assert abs(value(estimator.score(one)) - value(estimator.score(found))) < EXACT
    else:
        with pytest.raises(BadInput, match="needs what each slot earned"):
            estimator.score(one)


def check_no_support_is_refused_or_told(estimator: Ranking) -> None:
    """Weights of zero are no value for a ratio, and zero (or the model) for a mean."""
    found = drawn(20, seed=9)
    weights: dict[str, Any] = {
        n: torch.zeros_like(getattr(found, n)) for n in estimator.needs if not n.startswith("q_")
    }
    nothing = replace(found, **weights)
    scores = estimator.score(nothing)
    if bool((scores[0].denominator == 0).all()):
        with pytest.raises(BadInput, match="never does what was logged"):
            value(scores)
    elif "q_target" in estimator.needs:
        assert found.q_target is not None
        assert abs(value(scores) - float(found.q_target[:, 0].mean())) < EXACT
    else:
        assert value(scores) == 0


def check_covers(estimator: Ranking) -> None:
    """The 95 % interval holds the truth in 92 to 98 of 100 logs (400 logs: three binomial deviations)."""
    found, probability = population()
    truth = flat_world().value()
    generator = torch.Generator().manual_seed(8)
    hits = 0
    for _ in range(400):
        pick = torch.multinomial(probability, 400, replacement=True, generator=generator)
        say = interval(estimator.score(found.rows(pick)))
        hits += say.low <= truth <= say.high
    assert 0.92 <= hits / 400 <= 0.98


def check_it_is_wrong_only_where_it_says(estimator: Ranking) -> None:
    """In a cascade only weights of beginnings and of whole slates are exact; the others are well off."""
    world = cascade_world()
    off = abs(population_value(estimator.score(cascade()), world.listed().probability) - world.value())
    if estimator.leans in ("joint", "cascade"):
        assert off < EXACT
    else:
        assert off > 5e-4


CHECKS = (
    check_exact_on_the_listed_population,
    check_on_policy,
    check_rows_do_not_see_each_other,
    check_it_changes_nothing,
    check_order_does_not_matter,
    check_scales_with_the_reward,
    check_the_influence_is_the_derivative,
    check_sums_merge,
    check_needs_what_it_says,
    check_one_reward_a_slate,
    check_no_support_is_refused_or_told,
    check_covers,
    check_it_is_wrong_only_where_it_says,
)
