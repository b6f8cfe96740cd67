"""Several loggers behind one log: the mixture's weights, and weights by inverse variance.

What estimators do with them:

- `ips`, `dr`: naive pooling. Each round has its own logger's propensity, and nothing else is needed.
- `logger_weighted_ips`, `logger_weighted_dr`: each logger's estimate by the inverse of its variance.
- `logger_balanced_ips`, `logger_balanced_dr`: the propensity of the mixture of all loggers.

All of them take it that each logger met users of the same kind.
"""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from causal.contract import Rounds, Score, Scores
from simlab.errors import BadInput

_SAME = 1e-6
"""How far a propensity may be from the logged one, relative: logs may keep them as float32."""


def several(
    rounds: Rounds,
    logged: Float[Tensor, " round"],
    logger: Int[Tensor, " round"],
    propensity: Float[Tensor, "round logger"],
    share: Float[Tensor, " logger"] | None = None,
) -> Rounds:
    """Fill in `logger` and `mixture`: what the weights are under all loggers together.

    With π_l(a|x) every logger's propensity of what was shown and ρ_l its share of the rounds, the mixture's
    weight is w π_own / Σ_l ρ_l π_l.

    Args:
        rounds: with weights for each round's own logger, as `causal.rounds` makes them.
        logged: the propensity that the log has, `log.propensity`.
        logger: which logger showed each round, from 0.
        propensity: each logger's probability of what each round shows; 0 where it never would.
        share: ρ, how much each logger logs in the long run; by default the shares of these rounds, which
            keeps the mixture unbiased when the numbers of rounds were fixed beforehand.

    Raises:
        BadInput: naming the row and the value: a number that is no probability, a logger that is not there or
            has no rounds, a round whose own logger's propensity is not the logged one, or shares that are not
            positive or do not sum to 1.
    """
    n, count = propensity.shape
    for what, size in (("logged propensities", len(logged)), ("loggers", len(logger)), ("rows", n)):
        if size != len(rounds):
            raise BadInput(f"there are {size} {what} for {len(rounds)} rounds")
    chance = propensity.double()
    bad = ~((chance >= 0) & (chance <= 1 + _SAME))
    if bool(bad.any()):
        row, column = (int(x) for x in bad.nonzero()[0])
        value = float(chance[row, column])
        raise BadInput(f"propensity, row {row}, logger {column}: {value} is not in [0, 1]")
    off = (logger < 0) | (logger >= count)
    if bool(off.any()):
        row = int(off.nonzero()[0])
        raise BadInput(
            f"logger, row {row}: {int(logger[row])} is not one of the {count} loggers, counted from 0"
        )
    number = torch.bincount(logger, minlength=count)
    if bool((number == 0).any()):
        raise BadInput(f"logger {int((number == 0).nonzero()[0])} has no rounds: leave its column out")
    own = chance.gather(1, logger.unsqueeze(1)).squeeze(1)
    apart = ~((own > 0) & ((own - logged.double()).abs() <= _SAME * logged.double()))
    if bool(apart.any()):
        row = int(apart.nonzero()[0])
        raise BadInput(
            f"propensity, row {row}: logger {int(logger[row])} would show this with probability "
            f"{float(own[row]):g}, but the log says {float(logged[row]):g}"
        )
    share = number.double() / n if share is None else _shares(share.to(chance), count)
    return replace(rounds, logger=logger, mixture=rounds.weight * own / (chance @ share))


def _shares(share: Float[Tensor, " logger"], count: int) -> Float[Tensor, " logger"]:
    """Refuse what are not the shares of the loggers."""
    if len(share) != count:
        raise BadInput(f"there are {len(share)} shares for {count} loggers")
    wrong = ~((share > 0) & (share <= 1))
    if bool(wrong.any()):
        which = int(wrong.nonzero()[0])
        raise BadInput(f"share, logger {which}: {float(share[which])} is not in (0, 1]")
    if abs(float(share.sum()) - 1) > _SAME:
        raise BadInput(f"the shares of the loggers sum to {float(share.sum()):g}, not to 1")
    return share


def precision(
    scored: Float[Tensor, " round"], logger: Int[Tensor, " round"], leave_one_out: bool
) -> Float[Tensor, " round"]:
    """Return ω_l = (n_l / σ_l²) / Σ_j (n_j / σ_j²) of each round's logger.

    A logger that was lucky has a larger mean and, as luck is skewed, a larger variance. So weights by its own
    variance trust it less, and the sum is too low by about γ σ / (2 n_l) for two like loggers of skewness γ:
    for rare clicks, by half a click a logger. A round that is left out of the variance which weighs it is
    independent of its weight, and this bias goes. It is left out to first order, as in a jackknife,

        ω_l (1 + (1 - ω_l)(1 - σ²_{l,-i} / σ_l²)),

    which is from 0 to 2 ω_l and whose means over the loggers still sum to 1. With fewer than four or five
    rewards a logger nothing helps, and a balanced estimator is the better one.

    Where all rounds of the log score the same, any ω gives the same estimate, and ω is the share of rounds.
    One logger has ω = 1.

    Args:
        scored: what is averaged.
        logger: whose each round is.
        leave_one_out: leave each round out of the variance that weighs it, with divisors n_l - 1 and n_l - 2;
            else σ_l² is over all rounds of the logger, with divisor n_l.

    Raises:
        BadInput: for a logger all of whose rounds score the same, which would get all the weight, or that has
            too few to leave one out.
    """
    names, where = torch.unique(logger, return_inverse=True)
    number = torch.bincount(where).to(scored.dtype)
    if _alike(scored, where, len(names)):
        return number[where] / len(scored)
    flat = ~_varies(scored, where, len(names))
    if bool(flat.any()):
        which = int(flat.nonzero()[0])
        raise BadInput(
            f"logger {int(names[which])}: all its rounds score the same ({int(number[which])} of "
            f"{len(scored)}), so there is no variance to weigh it by: pool it with another, or use a "
            f"balanced estimator"
        )
    if leave_one_out and bool((number < 3).any()):
        which = int(number.argmin())
        raise BadInput(
            f"logger {int(names[which])} has {int(number[which])} rounds, but to leave one out and tell a "
            f"variance takes at least 3: pool it with another, or use a balanced estimator"
        )
    mean = torch.zeros_like(number).index_add_(0, where, scored) / number
    square = (scored - mean[where]).square()
    total = torch.zeros_like(number).index_add_(0, where, square)
    if not leave_one_out:
        sure = number.square() / total
        return (sure / sure.sum())[where]
    sure = number * (number - 1) / total
    own = (sure / sure.sum())[where]
    n, all_of_it = number[where], total[where]
    left = ((all_of_it - square * n / (n - 1)) / (n - 2)).clamp(min=0)
    return own * (1 + (1 - own) * (1 - left * (n - 1) / all_of_it))


def spreads(scored: Float[Tensor, " round"], logger: Int[Tensor, " round"], leave_one_out: bool) -> bool:
    """Tell whether `precision` can weigh the loggers."""
    names, where = torch.unique(logger, return_inverse=True)
    few = leave_one_out and bool((torch.bincount(where) < 3).any())
    return _alike(scored, where, len(names)) or (bool(_varies(scored, where, len(names)).all()) and not few)


def by_logger(scored: Float[Tensor, " round"], logger: Int[Tensor, " round"]) -> Scores:
    """Return a score for each logger that has rounds: the mean over them."""
    out = []
    for name in torch.unique(logger):
        mine = logger == name
        out.append(Score(scored.where(mine, 0.0), mine.to(scored.dtype)))
    return tuple(out)


def _alike(x: Float[Tensor, " round"], where: Int[Tensor, " round"], count: int) -> bool:
    """Tell whether there is nothing to weigh: one logger only, or one value only."""
    return count == 1 or not bool(_varies(x, torch.zeros_like(where), 1).any())


def _varies(x: Float[Tensor, " round"], where: Int[Tensor, " round"], count: int) -> Tensor:
    """Tell which groups hold values that differ by more than rounding."""
    high = torch.full((count,), -torch.inf, dtype=x.dtype, device=x.device)
    high = high.scatter_reduce(0, where, x, "amax")
    low = -torch.full_like(high, -torch.inf).scatter_reduce(0, where, -x, "amax")
    return high - low > 1e-12 * torch.maximum(high.abs(), low.abs())
