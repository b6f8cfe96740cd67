"""Whom to treat for a budget: the most that it buys, by a threshold or by a linear program.

Of N rows and treated arms k, with w the rows' weights, g = worth · effect (less the cost if `net`) and π the
chance of an arm,

    maximise Σ w π g   so that   Σ w π c ≤ budget,   Σ_k π ≤ 1 in each row,
                                 least_k ≤ Σ w π_k ≤ most_k for each arm.

With a budget alone it is a fractional knapsack of multiple choice: in each row the arms on the upper hull of
(cost, gain) are steps of falling gain per cost, and the budget is spent on the steepest steps first (Sinha
and Zoltners 1979, "The multiple-choice knapsack problem", Operations Research 27). That is one sort, and
exact. With limits on arms it is a linear program, solved by HiGHS.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from causal.targeting.curves import top, window
from causal.targeting.measure import Array, weights
from causal.targeting.policies import Assignment, Edge, costs, fractional, tidy, worths
from causal.targeting.program import Program, solve
from causal.targeting.ranks import Ranks
from simlab.errors import BadInput


@dataclass(frozen=True, eq=False)
class Plan:
    """Who is treated, and what that takes.

    Attributes:
        assignment: the chance of each arm for each row.
        gain: Σ w π g, what the effects promise, in the unit of worth.
        spend: Σ w π c; within the budget to rounding.
        price: shadow price: gain of one more unit of budget, 0 where the budget is not used up. Where the
            price jumps just at the budget, `by_threshold` gives that of more, and `by_program` one between
            that of less and that of more.
        arm_price: gain of one more row in each treated arm's capacity, less that of one more in its minimum.
        fractional: rows that are left to chance. If no rows are equal they are at most as many as there are
            binding limits on budget and arms (a vertex). Equal rows, and by threshold all that tie at the
            edge, share what is left evenly.
    """

    assignment: Assignment
    gain: float
    spend: float
    price: float
    arm_price: Float[Array, " treated"]
    fractional: int


def by_threshold(
    effect: Any,
    cost: Any,
    budget: float | int,
    *,
    worth: float | int = 1.0,
    net: bool = False,
    weight: Any = None,
    name: str = "budget",
) -> Plan:
    """Spend a budget where it buys most: sort by gain over cost. Exact; one sort.

    The order of rows does not matter: rows that tie at the edge share what is left of the budget evenly. Arms
    of a row that cost and bring the same share it evenly. What brings nothing is never treated, and what
    costs nothing and brings something always is.

    >>> plan = by_threshold([4.0, 3.0, 1.0, -1.0], [2.0, 1.0, 1.0, 0.0], budget=2.0)
    >>> plan.assignment.treated.tolist(), plan.gain, plan.spend, plan.price
    ([0.5, 1.0, 0.0, 0.0], 5.0, 2.0, 2.0)

    Args:
        effect: of each treated arm, [round] or [round treated], in the outcome's unit.
        cost: one number, one of each arm, or of each row (and arm); at least 0. Control costs nothing.
        budget: at least 0, for all rows together; infinite for no limit.
        worth: of one unit of the outcome.
        net: whether what is spent counts against the gain (in the unit of worth), as money does that could be
            kept. Without, the budget is there to be spent.
        weight: how many rows a row stands for, in gain and in cost.
        name: of the assignment.

    Raises:
        BadInput: for what is not a finite number, a negative cost or budget, or shapes that do not fit.
    """
    gain, price, mass = _given(effect, cost, worth, net, weight)
    limit = _limit("budget", budget)
    first, row, left, taken, up, over = _steps(gain, price)
    rows, arms = gain.shape
    chance = np.zeros((rows, arms + 1))
    chance[np.arange(rows), first] = 1.0
    value = float(mass @ np.column_stack([np.zeros(rows), gain])[np.arange(rows), first])
    spend, rate, edge = 0.0, 0.0, None
    heavy = mass[row] * over
    if (heavy > 0).any():
        ranks = Ranks.of(up / over, heavy)
        part = tidy(top(ranks, heavy, limit)) if limit < np.inf else (heavy > 0).astype(np.float64)
        np.add.at(chance, (row, left), -part)
        np.add.at(chance, (row, taken), part)
        value += float((part * mass[row]) @ up)
        spend = float(part @ heavy)
        open_ = part[ranks.order] < 1
        if open_.any():
            at = ranks.order[int(open_.argmax())]
            rate = float(up[at] / over[at])
        total = float(heavy.sum())
        if 0 < limit < total:
            near = window(ranks, heavy, limit / total)
            shift = np.zeros_like(chance)
            np.add.at(shift, (row, left), -near)
            np.add.at(shift, (row, taken), near)
            used = (chance[:, 1:] * price).sum(1)
            edge = Edge(used, shift, (shift[:, 1:] * price).sum(1))
    many = fractional(chance)
    _even(chance, gain, price)
    return Plan(Assignment(chance, name, edge), value, spend, rate, np.zeros(arms), many)


def by_program(
    effect: Any,
    cost: Any,
    budget: float | int = np.inf,
    *,
    most: Any = np.inf,
    least: Any = 0.0,
    worth: float | int = 1.0,
    net: bool = False,
    weight: Any = None,
    name: str = "program",
) -> Plan:
    """Solve the linear program, with limits on arms besides the budget.

    The solution is a vertex, with few rows left to chance; rows of equal gain and cost share theirs, so the
    order of rows does not matter. The assignment has no edge, so its value's standard error takes the cuts as
    given. Exact for a million rows (`program.py`), but much slower than `by_threshold`.

    >>> plan = by_program([[4.0, 5.0], [3.0, 9.0], [1.0, 2.0]], [1.0, 2.0], budget=4.0, most=[np.inf, 1])
    >>> plan.assignment.chance.argmax(1).tolist(), plan.gain, plan.spend
    ([1, 2, 1], 14.0, 4.0)

    Args:
        effect: as in `by_threshold`.
        cost: as in `by_threshold`.
        budget: as in `by_threshold`.
        most: rows that an arm can take, by weight: one number, or one of each treated arm.
        least: rows that an arm must take, whatever it brings.
        worth: as in `by_threshold`.
        net: as in `by_threshold`.
        weight: as in `by_threshold`.
        name: as in `by_threshold`.

    Raises:
        BadInput: as `by_threshold`; for minimums that cannot be met; for too many rows that are nearly
            indifferent (`program.MOST_CORE`).
    """
    gain, price, mass = _given(effect, cost, worth, net, weight)
    rows, arms = gain.shape
    limit, high, low = _limit("budget", budget), _limits("most", most, arms), _limits("least", least, arms)
    _possible(price, mass, limit, high, low)
    keep = (gain > 0) | (low > 0)
    part, prices = solve(Program(gain, price, mass, keep, limit, high, low))
    chance = np.zeros((rows, arms + 1))
    chance[:, 1:] = part
    chance[:, 0] = np.maximum(1 - part.sum(1), 0.0)
    found = part * mass[:, None]
    return Plan(
        Assignment(chance, name),
        float((found * gain).sum()),
        float((found * price).sum()),
        prices.budget,
        prices.arm,
        fractional(chance),
    )


def _steps(
    gain: Float[Array, "round treated"], cost: Float[Array, "round treated"]
) -> tuple[Int[Array, " round"], Array, Array, Array, Array, Array]:
    """Return each row's free arm, and its steps along the upper hull: (row, from, to, gain more, cost more).

    Arms on a straight line between two others are passed over.
    """
    rows, arms = gain.shape
    free = np.where(cost == 0, gain, 0.0)
    first = np.where(free.max(1) > 0, free.argmax(1) + 1, 0)
    height, paid = np.maximum(free.max(1), 0.0), np.zeros(rows)
    at, alive = first.copy(), np.arange(rows)
    last = np.full(rows, np.inf)
    out: list[tuple[Array, ...]] = []
    for _ in range(arms):
        up, over = gain[alive] - height[alive, None], cost[alive] - paid[alive, None]
        rises = (up > 0) & (over > 0)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            slope = np.where(rises, up / over, -np.inf)
        steep = slope.max(1, keepdims=True)
        to = np.where(rises & (slope == steep), up, -np.inf).argmax(1)
        go = np.flatnonzero(steep[:, 0] > 0)
        if not len(go):
            break
        alive, to = alive[go], to[go]
        up, over = up[go, to], over[go, to]
        # A step that is steeper than the one before is so by rounding: the two are one slope.
        up = np.minimum(up, last[alive] * over) if arms > 1 else up
        out.append((alive, at[alive], to + 1, up, over))
        at[alive], height[alive], paid[alive] = to + 1, gain[alive, to], cost[alive, to]
        last[alive] = up / over
    if not out:
        none, nothing = np.zeros(0, dtype=np.int64), np.zeros(0)
        return first, none, none, none, nothing, nothing
    row, left, taken, up, over = (np.concatenate(c) for c in zip(*out, strict=True))
    return first, row, left, taken, up, over


def _even(
    chance: Float[Array, "round arm"],
    gain: Float[Array, "round treated"],
    cost: Float[Array, "round treated"],
) -> None:
    """Share a row evenly among arms that cost and bring the same, in place."""
    arms = gain.shape[1]
    if arms < 2:
        return
    before = chance[:, 1:].copy()
    for k in range(arms):
        same = (gain == gain[:, k : k + 1]) & (cost == cost[:, k : k + 1])
        chance[:, k + 1] = (before * same).sum(1) / same.sum(1)


def _possible(
    price: Float[Array, "round treated"],
    mass: Float[Array, " round"],
    limit: float,
    high: Float[Array, " treated"],
    low: Float[Array, " treated"],
) -> None:
    """Refuse minimums that cannot be met."""
    wrong = np.flatnonzero(low > high)
    if len(wrong):
        k = int(wrong[0])
        raise BadInput(f"arm {k + 1} must take at least {low[k]:g} rows, but can take {high[k]:g}")
    total = float(mass.sum())
    if low.sum() > total * (1 + 1e-12):
        raise BadInput(f"the arms must take at least {low.sum():g} rows together, but there are {total:g}")
    if low.any() and limit < np.inf:
        part, _ = solve(Program(-price, price, mass, np.ones(price.shape, dtype=bool), np.inf, high, low))
        least = float(((mass[:, None] * part) * price).sum())
        if least > limit * (1 + 1e-9):
            raise BadInput(f"the minimums of the arms cost at least {least:g}, but the budget is {limit:g}")


def _given(
    effect: Any, cost: Any, worth: float | int, net: bool, weight: Any
) -> tuple[Float[Array, "round treated"], Float[Array, "round treated"], Float[Array, " round"]]:
    gain = worths(effect, worth)
    price = costs(cost, *gain.shape)
    return gain - price if net else gain, price, weights(weight, len(gain))


def _limit(name: str, value: float | int) -> float:
    if not value >= 0:
        raise BadInput(f"{name} is {value}, but it is a number of at least 0")
    return float(value)


def _limits(name: str, values: Any, arms: int) -> Float[Array, " treated"]:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim > 0 and found.shape != (arms,):
        raise BadInput(f"{name} has shape {found.shape}, and one number or {arms} are asked for")
    found = np.broadcast_to(found, (arms,))
    wrong = np.flatnonzero(~(found >= 0) | ((name == "least") & np.isinf(found)))
    if len(wrong):
        raise BadInput(f"{name} of arm {wrong[0] + 1} is {found[wrong[0]]}, but it is a number of at least 0")
    return found
