"""Budgets: threshold, linear program and enumeration agree; prices are slopes; edges, ties, refusals."""

import itertools
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from causal.targeting import program
from causal.targeting.budget import Plan, by_program, by_threshold
from causal.targeting.policies import threshold
from simlab.errors import BadInput

Array = np.ndarray


def problem(luck: np.random.Generator, rows: int, arms: int) -> tuple[Array, Array, Array, float]:
    effect, cost = luck.normal(0.3, 1, (rows, arms)), luck.exponential(size=(rows, arms))
    cost[luck.random((rows, arms)) < 0.05] = 0
    weight = luck.uniform(0.2, 2, rows)
    return effect, cost, weight, float(luck.uniform(0, 0.8) * weight @ cost.mean(1))


def check(plan: Plan, effect: Array, cost: Array, weight: Array, budget: float, worth: float = 1.0) -> None:
    """What a plan says of itself is so."""
    chance = plan.assignment.chance
    assert ((chance >= 0) & (chance <= 1)).all()
    np.testing.assert_allclose(chance.sum(1), 1, atol=1e-12)
    mass = weight[:, None] * chance[:, 1:]
    assert plan.gain == pytest.approx(worth * (mass * effect).sum(), abs=1e-9)
    assert plan.spend == pytest.approx((mass * cost).sum(), abs=1e-9)
    assert plan.spend <= budget * (1 + 1e-12) + 1e-12


@pytest.mark.parametrize("arms", [1, 2, 5])
def test_threshold_and_program_agree(arms: int) -> None:
    luck = np.random.default_rng(arms)
    for _ in range(20):
        effect, cost, weight, budget = problem(luck, int(luck.integers(1, 120)), arms)
        first = by_threshold(effect, cost, budget, weight=weight)
        second = by_program(effect, cost, budget, weight=weight)
        for plan in (first, second):
            check(plan, effect, cost, weight, budget)
            assert plan.fractional <= 1
            assert (plan.assignment.chance[:, 1:][effect <= 0] == 0).all()
        assert first.gain == pytest.approx(second.gain, abs=1e-9)
        assert first.price == pytest.approx(second.price, abs=1e-7)
        np.testing.assert_allclose(first.assignment.chance, second.assignment.chance, atol=1e-7)


def vertices(effect: Array, cost: Array, budget: float) -> float:
    """Return the best of all assignments, and of all mixtures of two that spend the budget."""
    rows, arms = effect.shape
    gain, paid = np.column_stack([np.zeros(rows), effect]), np.column_stack([np.zeros(rows), cost])
    every = np.array(list(itertools.product(range(arms + 1), repeat=rows)))
    g, c = gain[np.arange(rows), every].sum(1), paid[np.arange(rows), every].sum(1)
    best = float(g[c <= budget].max())
    under, over = np.flatnonzero(c <= budget), np.flatnonzero(c > budget)
    if len(over):
        part = (budget - c[under, None]) / (c[over] - c[under, None])
        best = max(best, float((g[under, None] * (1 - part) + g[over] * part).max()))
    return best


def test_both_are_the_best_of_all_assignments_and_their_mixtures() -> None:
    luck = np.random.default_rng(9)
    for arms, rows in ((1, 6), (2, 5), (3, 4)):
        for _ in range(10):
            effect, cost, _, budget = problem(luck, rows, arms)
            best = vertices(effect, cost, budget)
            assert by_threshold(effect, cost, budget).gain == pytest.approx(best, abs=1e-9)
            assert by_program(effect, cost, budget).gain == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("arms", [1, 3])
def test_the_price_is_what_more_budget_buys(arms: int) -> None:
    luck = np.random.default_rng(20 + arms)
    effect, cost, weight, budget = problem(luck, 60, arms)
    step = 1e-5
    for solve in (by_threshold, by_program):
        more, less = (solve(effect, cost, budget + s, weight=weight).gain for s in (step, -step))
        assert solve(effect, cost, budget, weight=weight).price == pytest.approx(
            (more - less) / (2 * step), abs=1e-6
        )
    # at a corner the threshold gives what more would buy
    corner = by_threshold([4.0, 3.0], [1.0, 1.0], 1.0)
    assert (corner.price, corner.fractional) == (3.0, 0)


def test_arm_prices_are_what_more_room_buys() -> None:
    luck = np.random.default_rng(30)
    effect, cost, weight, budget = problem(luck, 40, 3)
    most, least = np.array([4.0, np.inf, 9.0]), np.array([0.0, 24.0, 0.0])

    def gain(money: float, high: Array, low: Array) -> Plan:
        return by_program(effect, cost, money, most=high, least=low, weight=weight)

    plan, step = gain(budget, most, least), 1e-5
    check(plan, effect, cost, weight, budget)
    rows = weight @ plan.assignment.chance[:, 1:]
    assert (rows <= most + 1e-9).all()
    assert (rows >= least - 1e-9).all()
    ends = [gain(budget + s, most, least).gain for s in (step, -step)]
    assert plan.price == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-6)
    bound = int(plan.price > 0)
    for arm in range(3):
        move = step * np.eye(3)[arm]
        ends = [gain(budget, most + s * move, least + s * move * (least > 0)).gain for s in (1, -1)]
        assert plan.arm_price[arm] == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-6)
        bound += plan.arm_price[arm] != 0
    assert plan.arm_price[1] < 0 < plan.arm_price[0]  # a minimum costs, a capacity pays
    assert 1 <= plan.fractional <= bound


def test_the_order_of_rows_does_not_matter() -> None:
    luck = np.random.default_rng(40)
    effect, cost = luck.integers(-1, 4, (80, 2)) * 1.0, luck.integers(0, 3, (80, 2)) * 1.0
    weight, order = luck.integers(1, 3, 80) * 1.0, luck.permutation(80)
    for budget in (0.0, 7.3, 31.0, 900.0):
        plan = by_threshold(effect, cost, budget, weight=weight)
        moved = by_threshold(effect[order], cost[order], budget, weight=weight[order])
        np.testing.assert_allclose(moved.assignment.chance, plan.assignment.chance[order], atol=1e-12)
        swapped = by_threshold(effect[:, ::-1], cost[:, ::-1], budget, weight=weight)
        np.testing.assert_allclose(
            swapped.assignment.chance[:, [0, 2, 1]], plan.assignment.chance, atol=1e-12
        )
        one, two = (by_program(effect[o], cost[o], budget, weight=weight[o]) for o in (np.arange(80), order))
        assert one.gain == pytest.approx(plan.gain, abs=1e-9)
        assert two.gain == pytest.approx(plan.gain, abs=1e-9)


def test_tied_rows_share_what_is_left() -> None:
    plan = by_threshold([2.0, 1.0, 1.0, 1.0, 0.5], 1.0, 2.5)
    np.testing.assert_allclose(plan.assignment.treated, [1, 0.5, 0.5, 0.5, 0])
    assert (plan.fractional, plan.price) == (3, 1)
    # steps of one slope in a row of several arms are one step
    line = by_threshold([[1.0, 2.0, 3.0]], [[1.0, 2.0, 3.0]], 1.5)
    np.testing.assert_allclose(line.assignment.chance, [[0.5, 0, 0, 0.5]])
    near = by_threshold([[0.1, 0.2, 0.1 + 0.2]], [[0.1, 0.2, 0.3]], 0.15)
    assert (near.assignment.chance >= 0).all()
    assert near.gain == pytest.approx(0.15)


def test_budgets_of_nothing_and_of_plenty() -> None:
    luck = np.random.default_rng(50)
    effect, cost, weight, _ = problem(luck, 200, 3)
    for solve in (by_threshold, by_program):
        none = solve(effect, cost, 0.0, weight=weight)
        assert none.spend == 0
        free = np.where(cost == 0, effect, 0).max(1).clip(0)
        assert none.gain == pytest.approx(weight @ free)
        for plenty in (1e6, np.inf):
            all_ = solve(effect, cost, plenty, weight=weight)
            assert (all_.price, all_.fractional) == (0, 0)
            assert all_.gain == pytest.approx(weight @ effect.max(1).clip(0))
            kept = solve(effect, cost, plenty, weight=weight, net=True, worth=2.0)
            best = threshold(effect, cost, 2.0)
            np.testing.assert_allclose(kept.assignment.chance, best.chance, atol=1e-12)
    assert by_threshold([1.0, 2.0], 1.0, 0.0).price == 2  # what the first unit would buy
    for solve in (by_threshold, by_program):
        harm = solve([-1.0, 0.0, -2.0], 0.0, 5.0)
        assert (harm.gain, harm.spend, harm.assignment.treated.max()) == (0, 0, 0)


def test_a_weight_is_so_many_rows() -> None:
    luck = np.random.default_rng(60)
    effect, cost = luck.normal(size=(30, 2)), luck.random((30, 2))
    many = luck.integers(0, 4, 30)
    twice = np.repeat(np.arange(30), many)
    for solve in (by_threshold, by_program):
        one = solve(effect, cost, 5.0, weight=many)
        all_ = solve(effect[twice], cost[twice], 5.0)
        assert (one.gain, one.spend, one.price) == pytest.approx((all_.gain, all_.spend, all_.price))


def dual(
    effect: Array, cost: Array, weight: Array, budget: float, most: Array, least: Array, plan: Plan
) -> float:
    """Return the bound on all plans' gain that prices give (weak duality)."""
    capped, forced = plan.arm_price > 0, plan.arm_price < 0
    net = effect - plan.price * cost - plan.arm_price
    limits = plan.arm_price[capped] @ most[capped] + plan.arm_price[forced] @ least[forced]
    spent = plan.price * budget if plan.price > 0 else 0.0
    return float(weight @ net.max(1).clip(0) + limits + spent)


@pytest.mark.parametrize("arms", [1, 3])
@pytest.mark.parametrize("grid", [False, True])
def test_many_rows_are_solved_exactly_by_a_core(arms: int, grid: bool) -> None:
    luck = np.random.default_rng(70 + arms)
    rows = 30_000
    effect, cost, weight = (luck.normal(size=(rows, arms)), luck.random((rows, arms)), luck.random(rows))
    if grid:  # most rows tie
        effect, cost = np.round(effect, 1), np.ceil(cost * 3)
    most, least = np.full(arms, 0.1 * rows), np.full(arms, 0.03 * rows)
    for budget in (0.02 * rows, 0.05 * rows, np.inf):
        budget += 0.06 * rows * arms * grid
        plan = by_program(effect, cost, budget, most=most, least=least, weight=weight)
        check(plan, effect, cost, weight, budget)
        taken = weight @ plan.assignment.chance[:, 1:]
        assert (taken <= most * (1 + 1e-12)).all()
        assert (taken >= least * (1 - 1e-12)).all()
        bound = dual(effect, cost, weight, budget, most, least, plan)
        assert plan.gain == pytest.approx(bound, rel=1e-10)  # no plan can be better
        assert grid or plan.fractional <= 1 + 2 * arms
    order = luck.permutation(rows)
    moved = by_program(effect[order], cost[order], budget, most=most, least=least, weight=weight[order])
    np.testing.assert_allclose(moved.assignment.chance, plan.assignment.chance[order], atol=1e-9)


def test_no_plan_beats_the_bound_of_its_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    luck = np.random.default_rng(90)
    solved, said = 0, list[str]()
    for number in range(80):
        monkeypatch.setattr(program, "CORE", 20 if number % 2 else 4_000)  # cores of a few rows
        monkeypatch.setattr(program, "_NEAR", 1.0 if number % 3 else 8.0)
        rows, arms = int(luck.integers(1, 60)), int(luck.integers(1, 5))
        effect, cost = luck.integers(-3, 6, (rows, arms)) / 3, luck.integers(0, 4, (rows, arms)) / 7
        if number % 5 == 0:  # scales far from 1
            effect, cost = luck.normal(0, 1e-6, (rows, arms)), luck.exponential(1e5, (rows, arms))
        weight = luck.integers(0, 3, rows) * 1.0
        weight[0] = 1
        budget = float(luck.choice([0, 0.3, 1]) * luck.random() * weight @ cost.mean(1))
        one, two = (solve(effect, cost, budget, weight=weight) for solve in (by_threshold, by_program))
        assert one.gain == pytest.approx(two.gain, rel=1e-9)
        most = luck.random(arms) * weight.sum()
        least = np.minimum(most, luck.random(arms) * weight.sum() / arms / 2) * (luck.random(arms) < 0.5)
        try:
            plan = by_program(effect, cost, budget, most=most, least=least, weight=weight)
        except BadInput as refused:
            said.append(str(refused))
            continue
        check(plan, effect, cost, weight, budget)
        bound = dual(effect, cost, weight, budget, most, least, plan)
        assert plan.gain == pytest.approx(bound, abs=1e-8 * np.abs(effect).max())
        solved += 1
    assert solved > 50
    assert all(words.startswith("the minimums of the arms cost at least") for words in said)


def test_a_core_is_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "CORE", 50)
    monkeypatch.setattr(program, "MOST_CORE", 60)
    cost = np.random.default_rng(80).random(2_000)
    with pytest.raises(BadInput, match="over 60 rows times arms are nearly indifferent"):
        by_program(2 * cost, cost, 20.0, most=900.0)


def test_refusals() -> None:
    buy: Callable[..., Plan] = partial(by_threshold, [1.0, 2.0, 3.0], 1.0)
    plan: Callable[..., Plan] = partial(by_program, [1.0, 2.0, 3.0], 1.0)
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: by_threshold([1.0, np.nan], 1.0, 1.0), "effect, row 1, column 0: nan is not a finite"),
        (lambda: by_threshold([1.0, 2.0], [1.0, -1.0], 1.0), "cost, row 1, column 0: -1 is negative"),
        (lambda: by_threshold([1.0, 2.0], [1.0, 1.0, 1.0], 1.0), r"cost has shape \(3,\)"),
        (lambda: buy(-1.0), "budget is -1.0, but it is a number of at least 0"),
        (lambda: buy(np.nan), "budget is nan, but it is a number of at least 0"),
        (
            lambda: buy(1.0, weight=[1.0]),
            "column weight has 1 rows, but 3 are asked for",
        ),
        (
            lambda: buy(1.0, weight=[1.0, -1, 1]),
            "column weight, row 1: -1 is negative",
        ),
        (lambda: buy(1.0, worth=np.inf), "worth is inf, not a finite number"),
        (
            lambda: plan(most=-1),
            "most of arm 1 is -1.0, but it is a number of at least 0",
        ),
        (
            lambda: plan(most=[1, 2]),
            r"most has shape \(2,\), and one number or 1 are asked for",
        ),
        (
            lambda: plan(least=np.inf),
            "least of arm 1 is inf, but it is a number of at least 0",
        ),
        (
            lambda: plan(most=1, least=2),
            "arm 1 must take at least 2 rows, but can take 1",
        ),
        (
            lambda: plan(least=4),
            "the arms must take at least 4 rows together, but there are 3",
        ),
        (
            lambda: plan(1.5, least=2),
            "minimums of the arms cost at least 2, but the budget is 1",
        ),
    ]
    for call, words in calls:
        with pytest.raises(BadInput, match=words):
            call()
