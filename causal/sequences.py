"""Confidence sequences: intervals that hold after every row at once, so a log may be watched as it grows.

A 95 % interval holds at one row that was fixed beforehand. Who looks after every day, and stops when the
interval excludes zero, is wrong far more often than 5 %. The intervals here all hold together with the
stated chance, so any look, and any rule of stopping, is allowed; the price is width.

Rows must come in the order in which they were logged, one after the other independent. Where users have
several rows, add their scores up first (`causal.intervals.clustered`) and let users be the rows.
"""

import math
from dataclasses import dataclass
from itertools import combinations_with_replacement

import torch
from jaxtyping import Float
from scipy import special
from torch import Tensor

from causal.contract import Interval, Scores, check_finite, check_level, value
from simlab.errors import BadInput

PLANNED = 1000
"""The number of rows at which asymptotic sequences are tightest, unless told. It must not be read off the
log; a hundred times more or fewer rows cost a fifth of the width."""
START = 200
"""The first look at an asymptotic sequence, unless told: before it the central limit theorem is a wish."""
EFFECTIVE = 40.0
"""How many rows must carry the influence, (Σψ²)² / Σψ⁴, before an asymptotic sequence says anything: forty
clicks, say, whatever the number of rows. Without both rules a sequence of small overlap (3 % of the rows hold
the weight), watched from its 50th row, was wrong in half of the logs; with them in 5 to 9 %."""
_CAP = 0.5
"""The largest bet; Waudby-Smith and Ramdas (2024) say 1/2 or 3/4."""
_GRID = 1000
"""Means that are tried. They are finest near 0 and 1; a bound is rounded outwards to one of them, by at most
.0016 of the range."""


@dataclass(frozen=True, eq=False)
class Sequence:
    """Intervals after every row.

    Attributes:
        low: lower ends, in the reward's unit; -inf where nothing can be said yet.
        high: upper ends.
        kind: how it was made.
        level: the share of logs whose intervals should *all* hold the truth.
    """

    low: Float[Tensor, " round"]
    high: Float[Tensor, " round"]
    kind: str
    level: float

    def __len__(self) -> int:
        """Return N."""
        return len(self.low)

    def after(self, rows: int) -> Interval:
        """Return the interval after so many rows.

        Raises:
            BadInput: if there are not so many.
        """
        if not 1 <= rows <= len(self):
            raise BadInput(f"the sequence has {len(self)} rows, so there is no interval after {rows}")
        return Interval(float(self.low[rows - 1]), float(self.high[rows - 1]), self.kind, self.level)

    def running(self) -> "Sequence":
        """Return the intersection with all earlier intervals.

        They all hold at once, so what they share holds too. Where nothing is left (low above high) the mean
        moved, or the sequence missed. For an asymptotic sequence early rows are the weakest, so intersecting
        with them is not advised.
        """
        return Sequence(self.low.cummax(0).values, self.high.cummin(0).values, self.kind, self.level)


def asymptotic(
    scores: Scores, level: float = 0.95, *, planned: int = PLANNED, start: int = START
) -> Sequence:
    """Return an asymptotic confidence sequence for the value of any scores.

    After t rows, with V_t and the influence's deviation s_t of these rows alone,

        V_t ± s_t √( 2 (t ρ² + 1) / (t² ρ²) · log( √(t ρ² + 1) / α ) ).

    A ratio enters through its running influence, linearised anew at every row. Its estimating equation
    (numerator - V · denominator, solved for V) would give the same up to 1/t, but does not exist for sums of
    ratios. As every interval from the central limit theorem it holds in the limit of a late first look. So
    it says nothing (unbounded) before `start` rows, and while fewer than `EFFECTIVE` rows carry the
    influence: a log without a click yet, or with one giant weight, has no spread to go by. Where overlap is
    so small that hardly any such row has come by `start`, take `bounded` or `off_policy`.

    Args:
        scores: rows in the order of the log, float64.
        level: the chance that all intervals hold.
        planned: the number of rows at which the sequence is tightest (`mixture`); fixed before looking.
        start: the first look; until then the intervals are unbounded.

    Source: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024), "Time-uniform central limit theory and
    asymptotic confidence sequences", Annals of Statistics 52(6): the Gaussian mixture boundary of section 2,
    whose root is Robbins (1970), "Statistical methods related to the law of the iterated logarithm".

    Raises:
        BadInput: for scores that are not finite, a level outside (0, 1), or a planned size or start below 2.
    """
    check_level(level)
    check_finite(scores)
    if planned < 2:
        raise BadInput(f"planned is {planned}, but a sequence is planned for at least 2 rows")
    if start < 2:
        raise BadInput(f"start is {start}, but a spread cannot be told before 2 rows")
    middle, spread, carry = running(scores)
    t = torch.arange(1, len(middle) + 1, dtype=torch.float64, device=middle.device)
    half = spread * mixture(t, level, planned)
    early = ~((t >= start) & (carry >= EFFECTIVE) & (spread > 1e-12 * middle.abs()))
    inf = torch.full_like(half, math.inf)
    return Sequence(
        torch.where(early, -inf, middle - half), torch.where(early, inf, middle + half), "anytime", level
    )


def mixture(t: Float[Tensor, " round"], level: float, planned: int) -> Float[Tensor, " round"]:
    """Return how many deviations of a row the mean of t rows may be off, at all t at once.

    The boundary at t is least where y = t ρ² + 1 solves y e^-y = α² / e: then it is √(y / t), 3.0 / √t at
    95 %, where an interval for one look has 1.96 / √t.

    Args:
        t: numbers of rows.
        level: the chance that all hold.
        planned: the t at which the boundary is least.
    """
    alpha = 1 - level
    least = -float(special.lambertw(-(alpha**2) / math.e, -1).real)
    x = t * (least - 1) / planned
    return ((x + 1) / x * (torch.log1p(x) - 2 * math.log(alpha)) / t).sqrt()


def bounded(x: Float[Tensor, " round"], bound: float, level: float = 0.95) -> Sequence:
    """Return a confidence sequence for the mean of rows that are known to lie in [0, bound].

    A guarantee at every number of rows, without any limit, by betting (`_lower`): once against every mean
    that is too low, and once, with bound - x, against every mean that is too high.

    Args:
        x: rows in the order of the log, such as clicks, or w r where weights and rewards have a bound.
        bound: the largest value that a row can have; a fact about the logger and the target, not the largest
            that was seen.
        level: the chance that all intervals hold.

    Source: Waudby-Smith and Ramdas (2024), "Estimating means of bounded random variables by betting", JRSS-B
    86(1), the hedged capital process.

    Raises:
        BadInput: naming the row, if one is outside [0, bound].
    """
    check_level(level)
    if not (bound > 0 and math.isfinite(bound)):
        raise BadInput(f"bound is {bound}, but the largest value of a row is a finite number above 0")
    _check_range(x, bound, "x")
    side = (1 + level) / 2
    low, high = _lower(x / bound, side), 1 - _lower(1 - x / bound, side)
    return Sequence(bound * low, bound * high, "betting", level)


def off_policy(
    reward: Float[Tensor, " round"],
    weight: Float[Tensor, " round"],
    bound: float = 1.0,
    level: float = 0.95,
) -> Sequence:
    """Return a confidence sequence for a target's value from weights of any size.

    Two one-sided sequences: E[w r] from below, and E[w (bound - r)] = bound - V from below, which is V from
    above. Each needs only that its rows are at least 0; the weights may have any tail, and no largest weight
    need be known. Besides, E[w] = 1 must hold: right propensities, and a logger that could show all that the
    target shows.

    Args:
        reward: in [0, bound].
        weight: w, at least 0.
        bound: the largest reward.
        level: the chance that all intervals hold.

    Source: Waudby-Smith, Wu, Ramdas, Karampatziakis and Mineiro (2024), "Anytime-valid off-policy inference
    for contextual bandits", ACM/IMS Journal of Data Science 1(3): w r and w (1 - r), each from below.

    Differs: their closed form (an empirical Bernstein bound) pays for the square of every row, so a weight of
    27 while bets are large is never made good; a bet is won by it. Of 5,000 rounds with such weights the
    closed form knew nothing, and betting is .4 wide.

    Raises:
        BadInput: naming the row, for a reward outside [0, bound] or a weight that is not at least 0.
    """
    check_level(level)
    if not (bound > 0 and math.isfinite(bound)):
        raise BadInput(f"bound is {bound}, but the largest reward is a finite number above 0")
    _check_range(reward, bound, "reward")
    _check_range(weight, math.inf, "weight")
    side, share = (1 + level) / 2, reward / bound
    low, high = _lower(weight * share, side), 1 - _lower(weight * (1 - share), side)
    return Sequence(bound * low, bound * high, "betting", level)


def _lower(x: Float[Tensor, " round"], level: float) -> Float[Tensor, " round"]:
    """Return lower bounds, all valid at once, for a mean in [0, 1] of rows of at least 0.

    Who bets λ_t of a capital of 1 that row t is above m has Π (1 + λ_t (x_t - m)) after t rows. The bets are
    the paper's predictable plug-in: they hang on earlier rows only, and are below 1, so the capital stays
    above 0. If the mean is m the game is fair, and the capital ever reaches 1/α with a chance of at most α
    (Ville). It falls in m, so all means up to the largest that made the bettor so rich are out.
    """
    t = torch.arange(1, len(x) + 1, dtype=torch.float64, device=x.device)
    odds = -math.log(1 - level)
    guess = ((0.5 + x.cumsum(0)) / (t + 1)).clamp(max=1)
    variance = (0.25 + (x - guess).square().cumsum(0)) / (t + 1)
    # What row t may use ends at row t - 1.
    variance = torch.cat([variance.new_full((1,), 0.25), variance])[:-1]
    bet = (2 * odds / (variance * t * torch.log1p(t))).sqrt().clamp(max=_CAP)
    low = torch.zeros_like(x)
    for k in range(1, _GRID):
        mean = (1 - math.cos(math.pi * k / _GRID)) / 2
        rich = torch.log1p(bet * (x - mean)).cumsum(0) >= odds
        if not bool(rich.any()):
            break
        low[rich] = mean
    return low


def running(
    scores: Scores,
) -> tuple[Float[Tensor, " round"], Float[Tensor, " round"], Float[Tensor, " round"]]:
    """Return V_t, the influence's deviation and the rows that carry it, (Σψ²)² / Σψ⁴, after every row.

    NaN where a denominator is still 0. Sums are of numerator - V_N · denominator, so that a constant reward
    has no spread at all; the shift cancels from the results, and no row is told of a later one.
    """
    n = len(scores[0].numerator)
    t = torch.arange(1, n + 1, dtype=torch.float64, device=scores[0].numerator.device)
    shift = [value((s,)) for s in scores]
    rows, slopes, middle = [], [], torch.full_like(t, sum(shift))
    for score, v in zip(scores, shift, strict=True):
        above, below = score.numerator - v * score.denominator, score.denominator
        mean = below.cumsum(0) / t
        ratio = above.cumsum(0) / t / mean
        middle = middle + ratio
        # After t rows the influence is Σ (above - ratio_t · below) / mean_t.
        rows += [above, below]
        slopes += [1 / mean, -ratio / mean]
    square = _power(rows, slopes, 2).clamp(min=0)
    return middle, (square / (t - 1)).sqrt(), square.square() / _power(rows, slopes, 4)


def _power(
    rows: list[Float[Tensor, " round"]], slopes: list[Float[Tensor, " round"]], degree: int
) -> Float[Tensor, " round"]:
    """Return Σ_{i ≤ t} (Σ_c slope_c(t) row_c(i))^degree for every t: multinomial, from running sums."""
    out = torch.zeros_like(rows[0])
    for chosen in combinations_with_replacement(range(len(rows)), degree):
        times = math.factorial(degree)
        factor, term = torch.ones_like(out), torch.ones_like(out)
        for c in chosen:
            factor, term = factor * slopes[c], term * rows[c]
        for c in set(chosen):
            times //= math.factorial(chosen.count(c))
        out += times * factor * term.cumsum(0)
    return out


def _check_range(x: Float[Tensor, " round"], bound: float, name: str) -> None:
    wrong = ~((x >= 0) & (x <= bound) & x.isfinite())
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise BadInput(f"row {row}: {name} is {float(x[row])}, which is not in [0, {bound:g}]")
