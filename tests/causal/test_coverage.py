"""95 % intervals hold the truth in 92 to 98 of 100 logs: 400 logs, so three binomial deviations.

The table of every estimator, kind and world is `docs/ope-coverage.md`; the slow tests here make it again.
"""

import math
import re
from functools import cache
from pathlib import Path

import pytest
import torch

from benchmarks import ope_coverage as coverage
from benchmarks.coverage_worlds import WORLDS, World
from causal.bandit.clipped_ips import ClippedIPS
from causal.bandit.dr import DR
from causal.bandit.ips import IPS
from causal.bandit.sndr import SNDR
from causal.bandit.snips import SNIPS
from causal.contract import Estimator, Rounds, value
from causal.evaluation import paired_difference
from causal.intervals import interval
from simlab.seeds import Seed
from tests.worlds import bandit_world, take

LOGS = 400
UNBIASED: list[Estimator[Rounds]] = [IPS(), SNIPS(), DR(), SNDR()]
PAGE = Path(__file__).parents[2] / "docs" / "ope-coverage.md"


def logs(n: int, per_user: int = 1) -> tuple[list[Rounds], float]:
    """Draw logs; a user's rounds share the context, the luck of the action and so the reward's mean.

    With several rounds a user, half of a user's rounds repeat the first one: rows are far from independent.
    """
    world = bandit_world()
    rounds, probability = world.rounds(q=1 - world.reward)
    generator = torch.Generator().manual_seed(n + per_user)
    out = []
    for _ in range(LOGS):
        pick = torch.multinomial(probability, n * per_user, replacement=True, generator=generator)
        pick = pick.view(n, per_user)
        copy = torch.rand(n, per_user, generator=generator) < (0.5 if per_user > 1 else 0.0)
        pick = torch.where(copy, pick[:, :1], pick).reshape(-1)
        users = torch.arange(n).repeat_interleave(per_user)
        one = take(rounds, pick)
        out.append(Rounds(one.reward, one.weight, one.q_logged, one.q_target, users))
    return out, world.value()


@cache
def independent() -> tuple[list[Rounds], float]:
    return logs(400)


@cache
def repeated() -> tuple[list[Rounds], float]:
    return logs(300, per_user=4)


def covered(
    estimator: Estimator[Rounds], kind: str, made: tuple[list[Rounds], float], replicates: int
) -> float:
    every, truth = made
    hits = 0
    for rounds in every:
        group = rounds.group if kind == "cluster" else None
        scores = estimator.score(rounds)
        found = interval(scores, kind, group=group, replicates=replicates)
        hits += found.low <= truth <= found.high
    return hits / LOGS


@pytest.mark.parametrize("estimator", UNBIASED, ids=lambda e: e.name)
@pytest.mark.parametrize("kind", ["normal", "student-t", "bca"])
def test_independent_rounds(estimator: Estimator[Rounds], kind: str) -> None:
    assert 0.92 <= covered(estimator, kind, independent(), replicates=400) <= 0.98


@pytest.mark.parametrize("estimator", UNBIASED, ids=lambda e: e.name)
def test_users_with_several_rounds(estimator: Estimator[Rounds]) -> None:
    assert 0.92 <= covered(estimator, "cluster", repeated(), replicates=2) <= 0.98
    # Taken as independent, the same rounds promise too much.
    assert covered(estimator, "student-t", repeated(), replicates=2) < 0.92


@pytest.mark.slow
@pytest.mark.parametrize("estimator", UNBIASED, ids=lambda e: e.name)
@pytest.mark.parametrize("kind", ["bootstrap", "poisson"])
@pytest.mark.parametrize("n", [400, 2000])
def test_bootstraps(estimator: Estimator[Rounds], kind: str, n: int) -> None:
    assert 0.92 <= covered(estimator, kind, logs(n), replicates=1000) <= 0.98


@pytest.mark.parametrize("estimator", UNBIASED, ids=lambda e: e.name)
def test_bernstein_is_on_the_safe_side(estimator: Estimator[Rounds]) -> None:
    assert covered(estimator, "bernstein", independent(), replicates=2) >= 0.99


def named(world: World) -> str:
    return world.name


@pytest.mark.parametrize("world", WORLDS, ids=named)
def test_the_worlds_truth_is_what_a_large_log_says(world: World) -> None:
    """The integral over contexts and a drawn log agree; so do an estimator's limit and its value there."""
    rounds = world.draw(200_000, Seed(1))
    everything, chance = world.listed()
    assert float(chance.sum()) == pytest.approx(1, abs=1e-8)
    assert float((chance * everything.weight).sum()) == pytest.approx(1, abs=1e-6)
    assert world.bound is None or float(everything.weight.max()) <= world.bound
    for estimator in (SNIPS(), ClippedIPS(), DR()):
        assert value(estimator.score(rounds)) == pytest.approx(world.limit(estimator), abs=0.02)
    assert world.limit(DR()) == pytest.approx(world.truth(), abs=1e-6)
    again = world.draw(200_000, Seed(1))
    assert torch.equal(rounds.weight, again.weight)


@pytest.mark.parametrize("kind", coverage.KINDS)
def test_many_intervals_at_once_are_the_same_intervals(kind: str) -> None:
    """The benchmark draws the bootstraps of many scores in one product of matrices; nothing else differs."""
    many = [e.score(WORLDS[1].draw(300, Seed(k))) for k in range(2) for e in (*UNBIASED, ClippedIPS())]
    found = coverage.ends(many, kind, replicates=150)
    for scores, pair in zip(many, found, strict=True):
        one = interval(scores, kind, replicates=150)
        assert pair == pytest.approx((one.low, one.high), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("world", WORLDS[:3], ids=named)
def test_five_hundred_rounds(world: World) -> None:
    """A part of the table, in the three worlds: kinds that need no resampling."""
    cells = coverage.measure(world, 500, LOGS, UNBIASED, ["student-t"])
    cells += coverage.measure(world, 500, LOGS, [SNIPS()], ["empirical-likelihood"])
    assert len(cells) == 5
    for cell in cells:
        assert 0.92 <= cell.coverage <= 0.98, cell


def test_biased_intervals_hold_where_they_tend_to() -> None:
    """Clipped IPS under small overlap: its intervals hold its own limit, and hardly ever the truth."""
    (cell,) = coverage.measure(WORLDS[2], 500, LOGS, [ClippedIPS()], ["student-t"])
    assert 0.92 <= cell.coverage <= 0.98
    assert cell.truth / cell.logs < 0.1
    rounds, chance = WORLDS[2].listed()
    lost = (rounds.weight - 10).clamp(min=0) * rounds.reward
    assert cell.bias == pytest.approx(-float((chance * lost).sum()), rel=1e-9)


def table() -> dict[tuple[str, str, int], list[float]]:
    """Read the page: coverages in per cent by world, estimator and size."""
    found: dict[tuple[str, str, int], list[float]] = {}
    world = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            world = line[3:].lower()
        cells = [c.strip() for c in line.strip("|").split("|")]
        if len(cells) == 2 + len(coverage.KINDS) and cells[1].replace(",", "").isdigit():
            shares = [float(re.sub(r"[*]|\(.*\)", "", c)) for c in cells[2:]]
            found[world, cells[0], int(cells[1].replace(",", ""))] = shares
    return found


def test_the_page_keeps_its_promise() -> None:
    """In the three worlds every published coverage of a method for one look is in the band."""
    rows = {k: v for k, v in table().items() if not k[1].startswith("truth by")}
    names = {world.name for world in WORLDS}
    assert {w for w, _, _ in rows} == names
    for world in names:
        assert {n for w, e, n in rows if w == world and e == "SNDR"} == set(coverage.SIZES)
    for (world, estimator, n), shares in rows.items():
        for kind, share in zip(coverage.KINDS, shares, strict=True):
            if world == "no variance" or (world, estimator, n, kind) in coverage.OUTSIDE:
                continue
            assert share >= 92, (world, estimator, n, kind)
            assert kind in coverage.WIDE or share <= 98, (world, estimator, n, kind)


@pytest.mark.slow
@pytest.mark.parametrize("n", coverage.SIZES)
@pytest.mark.parametrize("world", WORLDS, ids=named)
def test_the_page_is_what_comes_out_again(world: World, n: int) -> None:
    """The whole table, made again: the same logs, so the same coverages but for rounding of the machine."""
    page = table()
    estimators = coverage.applicable(world)
    cells = coverage.measure(world, n, coverage.LOGS, estimators)
    for estimator in estimators:
        row = [c for c in cells if c.estimator == estimator.name]
        assert [c.kind for c in row] == list(coverage.KINDS)
        published = page.get((world.name, estimator.name, n))
        if published is not None:  # a new estimator is not in the table yet
            assert [100 * c.coverage for c in row] == pytest.approx(published, abs=1.0)
        for cell in row:
            if (
                world.name != "no variance"
                and (world.name, cell.estimator, n, cell.kind) not in coverage.OUTSIDE
            ):
                assert cell.in_band, cell


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS[:3], ids=named)
def test_watching_a_log_grow(world: World) -> None:
    """Guaranteed sequences hold whatever the weights; looking at every row with t intervals does not."""
    paths = 400
    most = 0.05 + 3 * math.sqrt(0.05 * 0.95 / paths)
    for peek in coverage.peeks(world, paths, coverage.LOOKS, Seed(3)):
        if "every row" in peek.what:
            assert peek.ever > 0.3
        elif "anytime" not in peek.what:
            assert peek.ever <= most


def test_constant_rewards_have_no_width() -> None:
    assert coverage.constant_width() < 1e-12


def covered_difference(kind: str, per_user: int, replicates: int, logs: int) -> float:
    """Return how often the paired interval of two targets on one log holds the difference of their values."""
    world = bandit_world()
    other = world.target.flip(1)
    one, probability = world.rounds(q=1 - world.reward)
    two, _ = world.rounds(q=1 - world.reward, target=other)
    truth = world.value() - world.value(other)
    generator = torch.Generator().manual_seed(per_user)
    hits = 0
    for _ in range(logs):
        pick = torch.multinomial(probability, 400, replacement=True, generator=generator)
        # A user's rounds are copies of the first one, but for a half of them.
        copy = torch.rand(400, generator=generator) < (0.5 if per_user > 1 else 0)
        first = (torch.arange(400) // per_user) * per_user
        pick = torch.where(copy, pick[first], pick)
        group = torch.arange(400) // per_user if per_user > 1 else None
        a, b = SNIPS().score(take(one, pick)), SNDR().score(take(two, pick))
        found = paired_difference(a, b, kind, group=group, replicates=replicates)
        hits += found.interval.low <= truth <= found.interval.high
    return hits / logs


@pytest.mark.parametrize("per_user", [1, 2])
def test_paired_differences(per_user: int) -> None:
    """SNIPS of one target less SNDR of another: three ratios of the same rows, with users and without."""
    assert 0.92 <= covered_difference("student-t", per_user, 2, LOGS) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bca", "bootstrap", "poisson", "empirical-likelihood"])
@pytest.mark.parametrize("per_user", [1, 2])
def test_paired_differences_by_every_kind(kind: str, per_user: int) -> None:
    assert 0.92 <= covered_difference(kind, per_user, 1000, 1000) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("estimator", UNBIASED, ids=lambda e: e.name)
@pytest.mark.parametrize("kind", ["bca", "bootstrap", "poisson", "empirical-likelihood"])
def test_users_with_several_rounds_by_every_kind(estimator: Estimator[Rounds], kind: str) -> None:
    """Every kind takes users as its units: the rows of one user are far from independent."""
    every, truth = repeated()
    hits = 0
    for rounds in every:
        found = interval(estimator.score(rounds), kind, group=rounds.group)
        hits += found.low <= truth <= found.high
    assert 0.92 <= hits / LOGS <= 0.98
