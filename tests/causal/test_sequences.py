"""Confidence sequences: slow twins, what they may not know, and how often they ever miss."""

import math
from collections.abc import Callable

import pytest
import torch
from scipy import optimize
from torch import Tensor

from causal.bandit.ips import IPS
from causal.bandit.sndr import SNDR
from causal.bandit.snips import SNIPS
from causal.contract import Estimator, Rounds, Score, Scores, influence, stderr, value
from causal.intervals import interval
from causal.sequences import START, Sequence, asymptotic, bounded, mixture, off_policy, running
from simlab.errors import BadInput
from tests.worlds import bandit_world, take

ROWS = 5000


def drawn(n: int, seed: int) -> Rounds:
    world = bandit_world()
    rounds, probability = world.rounds(q=0.5 * world.reward)
    generator = torch.Generator().manual_seed(seed)
    return take(rounds, torch.multinomial(probability, n, replacement=True, generator=generator))


def ones(x: Tensor) -> Tensor:
    return torch.ones_like(x)


@pytest.mark.parametrize("estimator", [IPS(), SNIPS(), SNDR()], ids=lambda e: e.name)
def test_asymptotic_is_its_formula_on_every_prefix(estimator: IPS | SNIPS | SNDR) -> None:
    """The slow twin starts anew at every row and writes the paper's boundary with its own ρ."""
    rounds = drawn(2500, seed=0)
    scores = estimator.score(rounds)
    found = asymptotic(scores, 0.9, planned=200)
    alpha = 0.1

    def boundary(t: float, rho2: float) -> float:
        return math.sqrt(2 * (t * rho2 + 1) / (t**2 * rho2) * math.log(math.sqrt(t * rho2 + 1) / alpha))

    # The paper's closed form approximates the best ρ; here it is searched.
    best = optimize.minimize_scalar(
        lambda log: boundary(200.0, math.exp(log)), bounds=(-9, 0), options={"xatol": 1e-10}
    )
    rho2 = math.exp(best.x)
    for t in (900, 1333, 2500):
        part = tuple(Score(s.numerator[:t], s.denominator[:t]) for s in scores)
        half = float(influence(part).std()) * boundary(float(t), rho2)
        assert found.after(t).low == pytest.approx(value(part) - half, rel=1e-6, abs=1e-7)
        assert found.after(t).high == pytest.approx(value(part) + half, rel=1e-6, abs=1e-7)
    assert found.after(START - 1).low == -math.inf
    assert found.after(START - 1).high == math.inf


def test_the_boundary_is_least_where_it_was_planned() -> None:
    """At its best it is √(y / t) with y - log y = 1 - 2 log α, and no other plan is lower there."""
    t = torch.tensor([1000.0], dtype=torch.float64)
    here = float(mixture(t, 0.95, 1000))
    y = 1000 * here**2
    assert y - math.log(y) == pytest.approx(1 - 2 * math.log(0.05), rel=1e-12)
    assert 3.0 < math.sqrt(y) < 3.1
    for planned in (100, 900, 1100, 10_000):
        assert float(mixture(t, 0.95, planned)) > here
    # A hundred times more rows cost a fifth of the width.
    late = 100 * t
    assert 1.1 < float(mixture(late, 0.95, 1000)) / float(mixture(late, 0.95, 100_000)) < 1.25


@pytest.mark.parametrize("estimator", [IPS(), SNIPS(), SNDR()], ids=lambda e: e.name)
def test_the_last_of_the_sequence_is_the_anytime_interval(estimator: IPS | SNIPS | SNDR) -> None:
    scores = estimator.score(drawn(2500, seed=1))
    found, last = interval(scores, "anytime", planned=300), asymptotic(scores, planned=300).after(2500)
    assert found.low == pytest.approx(last.low, rel=1e-10)
    assert found.high == pytest.approx(last.high, rel=1e-10)
    assert interval(scores, "anytime").width > interval(scores, "student-t").width
    middle, off, carry = running(scores)
    change = influence(scores)
    effective = float(change.square().sum()) ** 2 / float(change.pow(4).sum())
    assert float(carry[-1]) == pytest.approx(effective, rel=1e-8)
    assert float(middle[-1]) == pytest.approx(value(scores), rel=1e-12)
    assert float(off[-1]) / 50 == pytest.approx(stderr(scores), rel=1e-10)


def made(kind: str, rounds: Rounds) -> Sequence:
    if kind == "bounded":
        return bounded(rounds.weight * rounds.reward, 10.0)
    if kind == "off_policy":
        return off_policy(rounds.reward, rounds.weight)
    estimators: dict[str, Estimator[Rounds]] = {"ips": IPS(), "snips": SNIPS(), "sndr": SNDR()}
    return asymptotic(estimators[kind].score(rounds))


@pytest.mark.parametrize("kind", ["bounded", "off_policy", "ips", "snips", "sndr"])
def test_no_row_knows_a_later_one(kind: str) -> None:
    """What stands after 1,000 rows is the same whatever comes then: nothing peeks."""
    rounds = drawn(1600, seed=2)
    other = drawn(1600, seed=3)
    mixed = Rounds(
        *(
            torch.cat([a[:1000], b[1000:]])
            for a, b in zip(
                (rounds.reward, rounds.weight, *rounds.model()),
                (other.reward, other.weight, *other.model()),
                strict=True,
            )
        )
    )
    one, two, short = made(kind, rounds), made(kind, mixed), made(kind, rounds.rows(slice(0, 1000)))
    for a in (two, short):
        assert torch.allclose(a.low[:1000], one.low[:1000], atol=1e-12, rtol=1e-10)
        assert torch.allclose(a.high[:1000], one.high[:1000], atol=1e-12, rtol=1e-10)
    assert not torch.allclose(two.low[1000:], one.low[1000:])


def bets(x: list[float], level: float) -> float:
    """Return the last lower bound row by row: the mean at which the bettor has just 1/α."""
    odds = math.log(1 / (1 - level))
    stakes = []
    variance = 0.25
    total = squares = 0.0
    for t, row in enumerate(x, start=1):
        stakes.append(min(0.5, math.sqrt(2 * odds / (variance * t * math.log(t + 1)))))
        total += row
        guess = min((0.5 + total) / (t + 1), 1.0)
        squares += (row - guess) ** 2
        variance = (0.25 + squares) / (t + 1)

    def gain(mean: float) -> float:
        return sum(math.log1p(b * (row - mean)) for b, row in zip(stakes, x, strict=True)) - odds

    return 0.0 if gain(0.0) <= 0 else float(optimize.brentq(gain, 0, 1, xtol=1e-12))


def test_bounded_and_off_policy_are_their_plain_twins() -> None:
    """The bounds are the twin's, rounded outwards to the grid of means."""
    rounds = drawn(300, seed=4)
    w, r = rounds.weight, rounds.reward
    found = off_policy(r, w, level=0.9)
    coarse = math.pi / 1000 / 2 + 1e-6
    for t in (1, 2, 40, 300):
        low, high = bets((w * r)[:t].tolist(), 0.95), 1 - bets((w * (1 - r))[:t].tolist(), 0.95)
        assert low - coarse <= found.after(t).low <= low
        assert high <= found.after(t).high <= high + coarse
    again = bounded(10 * r, 10.0)
    low, high = bets(r.tolist(), 0.975), 1 - bets((1 - r).tolist(), 0.975)
    assert low > 0.1
    assert high < 0.9
    assert 10 * low - 10 * coarse <= again.after(300).low <= 10 * low
    assert 10 * high <= again.after(300).high <= 10 * high + 10 * coarse


@pytest.mark.parametrize(("top", "mean"), [(1.0, 0.5), (1.0, 0.1), (4.0, 0.6), (50.0, 0.9)])
def test_the_guarantee_on_every_path(top: float, mean: float) -> None:
    """List all paths of seven rows of 0 or `top`: a lower bound is ever too high with chance α at most."""
    rows = 7
    chance = mean / top
    paths = torch.tensor([[(k >> i) & 1 for i in range(rows)] for k in range(1 << rows)]).double()
    likely = (chance * paths + (1 - chance) * (1 - paths)).prod(1)
    assert float(likely.sum()) == pytest.approx(1, rel=1e-12)
    level = 0.1  # a level at which seven rows can miss
    missed = torch.zeros(1 << rows, dtype=torch.bool)
    for k, path in enumerate(paths):
        missed[k] = bool((off_policy(ones(path), top * path, 1.0, level).low >= mean).any())
    ever = float((likely * missed).sum())
    assert ever <= (1 - level) / 2
    assert ever > 0  # and it is not empty


Make = Callable[[torch.Generator], tuple[Rounds, float]]


def fair(generator: torch.Generator) -> tuple[Rounds, float]:
    """Clicks in a fifth of the rounds, all weights 1."""
    r = (torch.rand(ROWS, generator=generator, dtype=torch.float64) < 0.2).double()
    return Rounds(r, ones(r)), 0.2


def heavy(generator: torch.Generator) -> tuple[Rounds, float]:
    """Weights whose fourth moment is infinite; clicks are likelier where they are large."""
    u = torch.rand(3, ROWS, generator=generator, dtype=torch.float64)
    shown = 0.9 * u[0] ** 0.4
    first = u[1] < shown
    w = torch.where(first, 0.9 / shown, 0.1 / (1 - shown))
    chance = torch.where(first, 0.6 - 0.3 * u[0], 0.3)
    return Rounds((u[2] < chance).double(), w), 0.9 * 0.45 + 0.1 * 0.3


def ever(found: Sequence, truth: float) -> bool:
    """Tell whether an interval after 50 rows or more misses."""
    return bool(((found.low > truth) | (found.high < truth))[49:].any())


def peeked(rounds: Rounds) -> Sequence:
    """A t interval at every row."""
    middle, off, _ = running(IPS().score(rounds))
    half = 1.96 * off / torch.arange(1, len(off) + 1, dtype=torch.float64).sqrt()
    return Sequence(middle - half, middle + half, "normal", 0.95)


def shares(make: Make, paths: int, seed: int) -> dict[str, float]:
    """Return how many of the paths each sequence ever misses."""
    generator = torch.Generator().manual_seed(seed)
    missed: dict[str, int] = {}
    for _ in range(paths):
        rounds, truth = make(generator)
        found = {
            "ips": asymptotic(IPS().score(rounds)),
            "off policy": off_policy(rounds.reward, rounds.weight),
            "peeked": peeked(rounds),
        }
        if make is fair:
            found["bounded"] = bounded(rounds.reward, 1.0)
        else:
            found["snips"] = asymptotic(SNIPS().score(rounds))
        for name, sequence in found.items():
            missed[name] = missed.get(name, 0) + ever(sequence, truth)
    return {name: count / paths for name, count in missed.items()}


def hold(missed: dict[str, float], paths: int) -> None:
    """No sequence ever misses in more than 5 % of paths, three binomial deviations besides."""
    most = 0.05 + 3 * math.sqrt(0.05 * 0.95 / paths)
    assert missed.pop("peeked") > 0.35
    for name, share in missed.items():
        assert share <= most, name


@pytest.mark.parametrize("make", [fair, heavy])
def test_sequences_hardly_ever_miss_and_peeking_does(make: Make) -> None:
    hold(shares(make, 100, seed=5), 100)


@pytest.mark.slow
@pytest.mark.parametrize("make", [fair, heavy])
def test_sequences_hardly_ever_miss_over_many_paths(make: Make) -> None:
    missed = shares(make, 1000, seed=6)
    assert missed["off policy"] < 0.05  # a guarantee, not a limit
    hold(missed, 1000)


def test_nothing_is_said_while_nothing_varied() -> None:
    """Three hundred rows without a click, or all alike: there is no spread to go by yet."""
    weight = drawn(2000, seed=7).weight
    for reward in (torch.zeros_like(weight), ones(weight)):
        found = asymptotic(SNIPS().score(Rounds(reward, weight)))
        assert bool((found.high - found.low == math.inf).all())
    late = ones(weight)
    late[:300] = torch.arange(300) % 2
    found = asymptotic(IPS().score(Rounds(1 - late, ones(weight))))
    assert found.after(START - 1).width == math.inf
    assert found.after(START).width < 1
    giant = weight.clone()
    giant[1900] = 1e6
    found = asymptotic(IPS().score(Rounds(ones(weight), giant)))
    assert found.after(1900).width < math.inf
    assert found.after(1901).width == math.inf  # one row carries it all


def test_sequences_shrink_and_stay_in_range() -> None:
    rounds = drawn(4000, seed=8)
    found = off_policy(rounds.reward, rounds.weight)
    assert float(found.low.min()) >= 0
    assert float(found.high.max()) <= 1
    assert found.after(4000).width < 0.25
    closer = found.running()
    assert bool((closer.low.diff() >= 0).all())
    assert bool((closer.high.diff() <= 0).all())
    assert closer.after(4000).low <= bandit_world().value() <= closer.after(4000).high


def test_no_weight_yet_means_no_bound() -> None:
    """Self-normalised rows before the first weight have no value: unbounded, not a crash."""
    w = torch.cat([torch.zeros(300), torch.ones(100)]).double()
    r = torch.arange(400).double() % 2
    found = asymptotic(SNIPS().score(Rounds(r, w)))
    assert found.after(300).width == math.inf
    assert found.after(400).width < 1


def test_refusals() -> None:
    scores: Scores = (Score(torch.tensor([0.0, math.nan, 1.0]).double(), torch.ones(3).double()),)
    with pytest.raises(BadInput, match="row 1: the numerator of a score is nan, not a finite number"):
        asymptotic(scores)
    good = IPS().score(drawn(60, seed=9))
    with pytest.raises(BadInput, match="level is 95"):
        asymptotic(good, 95.0)
    with pytest.raises(BadInput, match="planned is 1"):
        asymptotic(good, planned=1)
    with pytest.raises(BadInput, match="start is 1"):
        asymptotic(good, start=1)
    with pytest.raises(BadInput, match="there is no interval after 61"):
        asymptotic(good).after(61)
    x = torch.tensor([0.0, 1.5, 0.5], dtype=torch.float64)
    with pytest.raises(BadInput, match=r"row 1: x is 1\.5, which is not in \[0, 1\]"):
        bounded(x, 1.0)
    with pytest.raises(BadInput, match="bound is inf"):
        bounded(x, math.inf)
    with pytest.raises(BadInput, match=r"row 1: reward is 1\.5"):
        off_policy(x, ones(x))
    with pytest.raises(BadInput, match=r"row 0: weight is -1\.0"):
        off_policy(x, -ones(x), bound=2.0)
    with pytest.raises(BadInput, match=r"level is 1\.0"):
        bounded(x, 2.0, 1.0)
    none = Rounds(ones(x), torch.zeros_like(x))
    with pytest.raises(BadInput, match="all weights are zero"):
        asymptotic(SNIPS().score(none))
