"""The linear program of a budget with limits on arms (`budget.py`), on as few rows as decide it.

At the optimum a row takes the arm of the largest gain - price · cost - arm price, so prices decide all rows
but those that are nearly indifferent. Prices of a random part of the rows (found the same way) say which
these are; HiGHS solves them, the *core*, with what the others leave of each limit. If at the prices of the
core no other row wants another arm, prices and chances are optimal for all rows, by duality; else the core
grows. So the answer is exact, whatever was drawn. (Balas and Zemel 1980, "An algorithm for large zero-one
knapsack problems", Operations Research 28, call it the core.)
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse
from scipy.optimize import linprog

from causal.targeting.measure import Array
from causal.targeting.policies import tidy
from simlab.errors import BadInput
from simlab.seeds import Seed

CORE = 4_000
"""Rows times arms that are solved at once without a search for the core."""
MOST_CORE = 100_000
"""Rows times arms that a core may have: HiGHS takes some 10 seconds for them, four times that for twice as
many."""
_PART = 8
"""One row in so many is drawn for the prices."""
_NEAR = 8.0
"""Rows of the first core for each √rows: prices of a part err by about 1/√rows."""


@dataclass(frozen=True, eq=False)
class Program:
    """Maximise Σ w π g within limits (`budget.py`).

    Attributes:
        gain: g.
        cost: c.
        mass: w.
        keep: cells that may be treated.
        limit: of Σ w π c.
        high: of Σ w π of each arm.
        low: that Σ w π of each arm must reach.
    """

    gain: Float[Array, "round treated"]
    cost: Float[Array, "round treated"]
    mass: Float[Array, " round"]
    keep: Bool[Array, "round treated"]
    limit: float
    high: Float[Array, " treated"]
    low: Float[Array, " treated"]

    def rows(
        self, index: Array, limit: float, high: Float[Array, " treated"], low: Float[Array, " treated"]
    ) -> "Program":
        """Return some rows with limits of their own."""
        return Program(
            self.gain[index], self.cost[index], self.mass[index], self.keep[index], limit, high, low
        )

    def wants(self, prices: "Prices") -> Float[Array, "round arm"]:
        """Return gain less prices of each arm, control first."""
        net = self.gain - prices.budget * self.cost - prices.arm
        return np.column_stack([np.zeros(len(net)), np.where(self.keep, net, -np.inf)])


@dataclass(frozen=True, eq=False)
class Prices:
    """What one more unit of each limit would bring.

    Attributes:
        budget: of the budget.
        arm: of each arm's room, less that of its minimum.
    """

    budget: float
    arm: Float[Array, " treated"]


Solved = tuple[Float[Array, "round treated"], Prices]


def solve(program: Program) -> Solved:
    """Return the chances of the treated arms and the prices.

    Rows of equal gain and cost are one row of their common weight, and share its chance; which cells are kept
    hangs on gain alone. A row without weight shares that of its equals, or is not treated.

    Raises:
        BadInput: where nothing meets the limits, or more than `MOST_CORE` cells are nearly indifferent.
    """
    order = np.lexsort((*program.gain.T, *program.cost.T))
    changed = np.zeros(len(order), dtype=bool)
    for values in (program.gain, program.cost):
        ordered = values[order]
        changed[1:] |= (ordered[1:] != ordered[:-1]).any(1)
    where = np.empty(len(order), dtype=np.int64)
    where[order] = np.cumsum(changed)
    first = order[np.append(0, np.flatnonzero(changed))]
    mass = np.bincount(where, program.mass)
    some = np.flatnonzero(mass > 0)
    part = np.zeros((len(mass), program.gain.shape[1]))
    index = first[some]
    merged = Program(
        program.gain[index],
        program.cost[index],
        mass[some],
        program.keep[index],
        program.limit,
        program.high,
        program.low,
    )
    found = _sift(merged, Seed(0).split("core").numpy())
    if found is None:
        raise BadInput(f"the budget of {program.limit:g} just fails to pay for the minimums of the arms")
    part[some] = found[0]
    return part[where], found[1]


def _sift(program: Program, luck: np.random.Generator) -> Solved | None:
    """Solve by a core; None where nothing meets the limits."""
    rows, arms = program.gain.shape
    if rows * arms <= CORE:
        return _solve(program)
    drawn = np.sort(luck.permutation(rows)[: -(-rows // _PART)])
    scale = float(program.mass[drawn].sum() / program.mass.sum())
    part = program.rows(drawn, program.limit * scale, program.high * scale, program.low * scale)
    guess = _sift(part, luck)
    prices = Prices(0.0, np.zeros(arms)) if guess is None else guess[1]
    want = program.wants(prices)
    choice = want.argmax(1)
    two = np.partition(want, arms - 1, 1)[:, arms - 1 :]
    near = np.argsort(two[:, 1] - two[:, 0], kind="stable")
    size, core = int(_NEAR * np.sqrt(rows)), np.zeros(rows, dtype=bool)
    small = 1e-10 * float(np.abs(program.gain).max())
    while size < rows:
        core[near[:size]] = True
        if core.sum() * arms > MOST_CORE:
            break
        found = _with_rest(program, core, choice)
        if found is None:
            size *= 2
            continue
        want = program.wants(found[1])
        wrong = ~core & (want.max(1) > want[np.arange(rows), choice] + small)
        if not wrong.any():
            return found
        if wrong.sum() <= size:
            core |= wrong
        else:
            size *= 2
    if rows * arms > MOST_CORE:
        raise BadInput(
            f"over {MOST_CORE} rows times arms are nearly indifferent at the best prices, "
            "too many for a linear program: round effects and costs, so that equal rows are solved as one"
        )
    return _solve(program)


def _with_rest(program: Program, core: Bool[Array, " round"], choice: Int[Array, " round"]) -> Solved | None:
    """Solve the core with what the other rows leave; None where they leave too little."""
    arms = program.gain.shape[1]
    rest = np.eye(arms + 1)[choice][:, 1:]
    rest[core] = 0.0
    heavy = rest * program.mass[:, None]
    left = program.limit - float((heavy * program.cost).sum())
    room, must = program.high - heavy.sum(0), np.maximum(program.low - heavy.sum(0), 0.0)
    if left < 0 or (room < 0).any():
        return None
    index = np.flatnonzero(core)
    found = _solve(program.rows(index, left, room, must))
    if found is None:
        return None
    rest[index] = found[0]
    return rest, found[1]


def _solve(program: Program) -> Solved | None:
    """Solve by HiGHS's dual simplex, whose answer is a vertex; None where nothing meets the limits."""
    rows, arms = program.gain.shape
    row, arm = np.nonzero(program.keep & (program.mass > 0)[:, None])
    part, arm_price, limit = np.zeros((rows, arms)), np.zeros(arms), program.limit
    if not len(row):
        return None if program.low.any() else (part, Prices(0.0, arm_price))
    heavy = program.mass[row]
    worth, paid = heavy * program.gain[row, arm], heavy * program.cost[row, arm]
    # HiGHS's tolerances are absolute, so all is put to a scale of about 1.
    unit, coin = float(np.abs(worth).max()) or 1.0, float(paid.max()) or 1.0
    crowd = float(heavy.max())
    of_arm = sparse.csr_array((heavy / crowd, (arm, np.arange(len(row)))), shape=(arms, len(row)))
    count = np.bincount(row, minlength=rows)
    several = np.flatnonzero(count > 1)
    place = np.cumsum(count > 1) - 1
    mine = np.flatnonzero(count[row] > 1)
    capped, forced = np.flatnonzero(np.isfinite(program.high)), np.flatnonzero(program.low > 0)
    blocks: list[Any] = [of_arm[capped], -of_arm[forced]]
    bounds = [program.high[capped] / crowd, -program.low[forced] / crowd]
    blocks.append(sparse.csr_array((np.ones(len(mine)), (place[row[mine]], mine)), (len(several), len(row))))
    bounds.append(np.ones(len(several)))
    if limit < np.inf:
        blocks.append(sparse.csr_array(paid[None, :] / coin))
        bounds.append(np.array([limit / coin]))
    bound = np.concatenate(bounds)
    found = linprog(
        -worth / unit,
        A_ub=sparse.vstack(blocks, format="csr") if len(bound) else None,
        b_ub=bound if len(bound) else None,
        bounds=(0.0, 1.0),
        method="highs-ds",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if found.status == 2:
        return None
    if found.status != 0:
        raise BadInput(f"the linear program found no solution: {found.message}")
    part[row, arm] = tidy(np.clip(found.x, 0.0, 1.0))
    dual = -np.asarray(found.ineqlin.marginals) * unit if len(bound) else np.zeros(1)
    many = len(capped) + len(forced)
    arm_price[capped] += dual[: len(capped)] / crowd
    arm_price[forced] -= dual[len(capped) : many] / crowd
    return part, Prices(max(float(dual[-1]) / coin, 0.0) if limit < np.inf else 0.0, arm_price)
