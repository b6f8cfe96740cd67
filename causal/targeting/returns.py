"""Gain, cost and return of treating the rows that a score puts first, the more of them the further right.

With Γ a score of the effect (`scores.py`) and c what treating a row costs, both a row of the population,

    gain(u) = E[Γ 1{in the top u}],   cost(u) = E[c 1{in the top u}],   return(u) = value · gain(u) - cost(u).

All are sums, so tied rows at the edge count by their chance of a place: the exact mean over orders of ties.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

from causal.targeting.measure import Array, Measure, column, measure, users, weights
from causal.targeting.ranks import Ranks
from causal.targeting.tops import shares as shares_of
from causal.targeting.tops import tops
from simlab.errors import BadInput


@dataclass(frozen=True, eq=False)
class Returns:
    """Gain, cost and return at some shares, a row of the population, with pointwise standard errors.

    Attributes:
        share: of the rows treated, best first.
        gain: outcomes gained.
        gain_stderr: its standard error.
        cost: what it costs.
        cost_stderr: its standard error; that of a known, equal cost is 0.
        net: value · gain - cost.
        net_stderr: its standard error.
        per_treated: gain / share, outcomes gained a treated row.
        per_cost: gain / cost; NaN where nothing is spent.
        per_cost_stderr: its standard error by the delta method.
    """

    share: Float[Array, " point"]
    gain: Float[Array, " point"]
    gain_stderr: Float[Array, " point"]
    cost: Float[Array, " point"]
    cost_stderr: Float[Array, " point"]
    net: Float[Array, " point"]
    net_stderr: Float[Array, " point"]
    per_treated: Float[Array, " point"]
    per_cost: Float[Array, " point"]
    per_cost_stderr: Float[Array, " point"]

    def interval(self, level: float = 0.95) -> tuple[Float[Array, " point"], Float[Array, " point"]]:
        """Return (low, high) of the return at each share, by the normal distribution."""
        z = float(stats.norm.ppf((1 + level) / 2)) * self.net_stderr
        return self.net - z, self.net + z


def returns(
    priority: Any,
    scores: Any,
    *,
    value: float = 1.0,
    cost: Any = 0.0,
    shares: Any = None,
    weight: Any = None,
    user: Any = None,
) -> Returns:
    """Return the incremental return of treating the top shares.

    >>> import numpy as np
    >>> found = returns([3, 2, 1, 0], [4.0, 2.0, 0.0, -2.0], cost=1.0, shares=[0.5, 1.0])
    >>> found.gain.tolist(), found.net.tolist(), found.per_treated.tolist()
    ([1.5, 1.0], [1.0, 0.0], [3.0, 1.0])

    Args:
        priority: what ranks the rows, [round]; an effect, or an effect over its cost.
        scores: Γ of each row, [round].
        value: what one unit of the outcome is worth.
        cost: of treating a row: one number, [round], or scores of a cost that is itself an outcome (`aipw` of
            it).
        shares: in (0, 1]; by default .05, .1, … 1.
        weight: of each row.
        user: whose row it is.

    Raises:
        BadInput: for columns that do not fit, or shares out of (0, 1].
    """
    ranks, gain, price, mass, who = _columns(priority, scores, cost, weight, user)
    found = tops(ranks, np.stack([gain, price], 1), mass, who, shares_of(shares))
    up, spent = found.value.T
    every = range(len(up))
    known = bool((price == price[0]).all())  # then what a share costs is exact

    def error(gained: float, paid: float, i: int) -> float:
        return found.stderr(i, np.array([gained, 0.0 if known else paid, 0.0, 0.0]))

    ratio = np.divide(up, spent, out=np.full(len(up), np.nan), where=spent != 0)
    per_cost = [error(1 / spent[i], -ratio[i] / spent[i], i) if spent[i] else np.nan for i in every]
    return Returns(
        share=found.share,
        gain=up,
        gain_stderr=np.array([error(1.0, 0.0, i) for i in every]),
        cost=spent,
        cost_stderr=np.array([error(0.0, 1.0, i) for i in every]),
        net=value * up - spent,
        net_stderr=np.array([error(value, -1.0, i) for i in every]),
        per_treated=up / found.share,
        per_cost=ratio,
        per_cost_stderr=np.array(per_cost),
    )


def cost_area(priority: Any, scores: Any, cost: Any, *, weight: Any = None, user: Any = None) -> Measure:
    """Return the area under gain against cost, over total gain · total cost: ½ for a random order.

    It is the AUCC of Du, Lee and Ghaffarizadeh 2019, "Improve user retention with causal learning" (section
    3.3), with scores in place of differences of means. Ties are straight lines.

    Args:
        priority: what ranks the rows, [round]; best is effect over cost.
        scores: Γ of each row, [round].
        cost: of treating a row: one number, or [round].
        weight: of each row.
        user: whose row it is.

    Raises:
        BadInput: for columns that do not fit, or a total gain or cost of 0.
    """
    ranks, gain, price, mass, who = _columns(priority, scores, cost, weight, user)
    gain, price, mass = (ranks.ordered(v) for v in (gain, price, mass))
    up, spent = ranks.blocks(mass * gain), ranks.blocks(mass * price)
    height, so_far = np.cumsum(up), np.cumsum(spent)
    if height[-1] == 0 or so_far[-1] == 0:
        raise BadInput(f"the total {'gain' if height[-1] == 0 else 'cost'} is 0, so there is no share of it")
    middle = height - up / 2
    later = so_far[-1] - so_far + spent / 2
    area, below = float(middle @ spent), float(height[-1] * so_far[-1])
    change = mass * (gain * ranks.repeat(later) + price * ranks.repeat(middle))
    d_below = mass * (gain * so_far[-1] + price * height[-1])
    change = (change - area / below * d_below) / below
    return measure(area / below, ranks.put(change), who, "area under the cost curve")


def _columns(
    priority: Any, scores: Any, cost: Any, weight: Any, user: Any
) -> tuple[Ranks, Array, Array, Array, Array | None]:
    gain = column("scores", scores)
    rows = len(gain)
    price = np.full(rows, float(cost)) if np.ndim(cost) == 0 else column("cost", cost, rows)
    mass, who = weights(weight, rows), users(user, rows)
    ranks = Ranks.by(priority, mass)
    if ranks.rows != rows:
        raise BadInput(f"column priority has {ranks.rows} rows, but the scores have {rows}")
    return ranks, gain, price, mass, who
