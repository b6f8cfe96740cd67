"""What an assignment is worth on a trial, with its standard error: off-policy evaluation of arms.

The trial's randomisation is the logger, the assignment the target: the weight of a row is π(its arm) / e(its
arm). So every estimator of `causal/bandit` applies. With the doubly robust one a row adds

    Σ_k π_k μ_k(x) + π_a / e_a (y - μ_a(x)),

and the difference from treating nobody is the mean of Σ_k π_k Γ_k, with Γ the scores of `aipw`.

**The assignment must come from other rows.** A rule that was learned on the rows that judge it is praised for
fitting their noise, and no interval here knows that. Learn on a part and judge on the rest; or take effects
that each row got from a learner of the other folds, with `by_score(..., fold=...)` for shares, as the scores
of two learners do not compare.

A share or a budget of the judged rows themselves puts the cut where other rows would put it elsewhere. That
is counted: see `Edge`, and `tops.py` for the formula of one share. The truth that the interval is about is
the value of the rule "the best share by this score" over all rows there could be.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from causal.bandit.dr import DR
from causal.contract import Estimator, Rounds, Score, Scores, check_finite, influence
from causal.contract import value as ratio
from causal.targeting.measure import Array, Measure, measure, weights
from causal.targeting.policies import Assignment, costs, everybody, nobody
from causal.targeting.scores import Nuisances, nuisances
from causal.uplift.contract import Trial
from simlab.errors import BadInput
from simlab.seeds import Seed

_DR = DR()


def value(
    assignment: Assignment,
    trial: Trial,
    found: Nuisances | None = None,
    *,
    estimator: Estimator[Rounds] = _DR,
    cost: Any = 0.0,
    worth: float | int = 1.0,
    clip: float = 0.01,
    seed: Seed = Seed(0),
) -> Measure:
    """Return the mean outcome of a row if arms were given as assigned, in the outcome's unit.

    With a worth and a cost it is worth · outcome - cost, in the cost's unit; the cost of an assignment is
    known, so it is not weighed. `value(a, …).minus(value(b, …))` is the paired difference of two assignments,
    if both get the same nuisances.

    >>> trial = Trial.of(np.zeros((4, 1)), [0, 1, 0, 1], [0.0, 2, 0, 4], propensity=0.5)
    >>> found = nuisances(trial, mu=np.zeros((4, 2)))
    >>> both = value(Assignment.of([1.0, 1.0, 1.0, 1.0]), trial, found, cost=1.0)
    >>> both.value, round(both.stderr, 4)
    (2.0, 1.9149)

    Args:
        assignment: learned on other rows.
        trial: who got which arm, and what came of it. Its weights count, and its users cluster.
        found: outcomes and chances of arms (`nuisances`); by default the known chances, or cross-fitted
            ones, and cross-fitted linear or logistic outcomes. Take it once for several assignments.
        estimator: of `causal/bandit`. One that needs no reward model (`IPS`, `SNIPS`) fits none.
        cost: of each treated arm, as in `threshold`; control costs nothing.
        worth: of one unit of the outcome.
        clip: chances below it count as it, as in `aipw`.
        seed: of folds, where nuisances are fitted here.

    Raises:
        BadInput: for another number of rows or arms, an estimator that needs more than a trial has, or fewer
            than two rows or users.
    """
    found = _found(trial, found, estimator, seed)
    price = _prices(trial, cost)
    every = scores(assignment, trial, found, estimator=estimator, cost=price[:, 1:], worth=worth, clip=clip)
    change = influence(every).numpy() / len(trial)
    if assignment.edge is not None:
        change = change - _yield(assignment, trial, found, price, worth, clip)
    return measure(ratio(every), change, trial.user, f"value of {assignment.name}")


def against(
    assignment: Assignment,
    trial: Trial,
    found: Nuisances | None = None,
    *,
    others: Mapping[str, Assignment] | None = None,
    estimator: Estimator[Rounds] = _DR,
    cost: Any = 0.0,
    worth: float | int = 1.0,
    clip: float = 0.01,
    seed: Seed = Seed(0),
) -> dict[str, Measure]:
    """Return what an assignment is worth above others, paired row by row.

    Args:
        assignment: learned on other rows.
        trial: as in `value`.
        found: as in `value`.
        others: by default nobody, everybody (for several arms each, by its label), and random: each arm as
            often as the assignment gives it, to rows drawn at random.
        estimator: as in `value`.
        cost: as in `value`.
        worth: as in `value`.
        clip: as in `value`.
        seed: as in `value`.

    Raises:
        BadInput: as `value`.
    """
    found = _found(trial, found, estimator, seed)
    how: dict[str, Any] = {"estimator": estimator, "cost": cost, "worth": worth, "clip": clip}
    own = value(assignment, trial, found, **how)
    if others is not None:
        return {name: own.minus(value(other, trial, found, **how)) for name, other in others.items()}
    rows, arms = assignment.chance.shape
    made = {"nobody": nobody(rows, arms)}
    for k in range(1, arms):
        made["everybody" if arms == 2 else f"everybody {trial.arms[k]}"] = everybody(rows, arms, k)
    gaps = {name: own.minus(value(other, trial, found, **how)) for name, other in made.items()}
    gaps["random"] = own.minus(random_value(assignment, trial, found, **how))
    return gaps


def random_value(
    assignment: Assignment,
    trial: Trial,
    found: Nuisances | None = None,
    *,
    estimator: Estimator[Rounds] = _DR,
    cost: Any = 0.0,
    worth: float | int = 1.0,
    clip: float = 0.01,
    seed: Seed = Seed(0),
) -> Measure:
    """Return the value of giving each arm as often as an assignment does, to rows at random.

    How often that is varies from sample to sample, unless a share is held; the standard error counts it.
    Arguments as for `value`.

    Raises:
        BadInput: as `value`.
    """
    found = _found(trial, found, estimator, seed)
    _fits(assignment, trial)
    price = _prices(trial, cost)
    share = _share(trial)
    mean = share @ assignment.chance
    flat = Assignment(np.broadcast_to(mean, assignment.chance.shape), f"random like {assignment.name}")
    every = scores(flat, trial, found, estimator=estimator, cost=price[:, 1:], worth=worth, clip=clip)
    arms = np.array(
        [share @ _linear(np.broadcast_to(row, flat.chance.shape), trial, found, price, worth, clip)
         for row in np.eye(len(mean))]
    )  # fmt: skip
    change = influence(every).numpy() / len(trial) + share * ((assignment.chance - mean) @ arms)
    edge = assignment.edge
    if edge is not None:
        held = share * (edge.used - share @ edge.used)
        change = change - held * float((share @ edge.shift) @ arms) / _width(edge.per, share)
    return measure(ratio(every), change, trial.user, f"value of {flat.name}")


def scores(
    assignment: Assignment,
    trial: Trial,
    found: Nuisances,
    *,
    estimator: Estimator[Rounds] = _DR,
    cost: Any = 0.0,
    worth: float | int = 1.0,
    clip: float = 0.01,
) -> Scores:
    """Return an estimator's scores of an assignment, for the intervals of `causal.intervals`.

    Weights of the trial multiply both sides; what is paid is a score of its own. Where a share or budget of
    these rows sets the cut, the scores do not know that it moves; `value` does.

    Raises:
        BadInput: as `value`.
    """
    given = rounds(assignment, trial, found, clip=clip)
    price = _prices(trial, cost)
    if not np.isfinite(worth):
        raise BadInput(f"worth is {worth}, not a finite number")
    every = tuple(Score(worth * s.numerator, s.denominator) for s in estimator.score(given))
    if price.any():
        paid = torch.as_tensor((assignment.chance * price).sum(1))
        every = (*every, Score(-paid, torch.ones_like(paid)))
    if trial.weight is not None:
        mass = torch.as_tensor(weights(trial.weight, len(trial)))
        every = tuple(Score(mass * s.numerator, mass * s.denominator) for s in every)
    check_finite(every)
    return every


def rounds(assignment: Assignment, trial: Trial, found: Nuisances, *, clip: float = 0.01) -> Rounds:
    """Return a trial as logged rounds: arms are actions, the randomisation logged them, users are clusters.

    Rounds have no weights: those of the trial come in with `scores`.

    Raises:
        BadInput: for another number of rows or arms.
    """
    _fits(assignment, trial)
    every = np.arange(len(trial))
    arm = trial.arm
    chance = np.maximum(found.e[every, arm], clip)
    return Rounds(
        reward=torch.as_tensor(trial.y),
        weight=torch.as_tensor(assignment.chance[every, arm] / chance),
        q_logged=torch.as_tensor(found.mu[every, arm]),
        q_target=torch.as_tensor((assignment.chance * found.mu).sum(1)),
        group=None if trial.user is None else torch.as_tensor(trial.user),
    )


def _yield(
    assignment: Assignment, trial: Trial, found: Nuisances, price: Array, worth: float | int, clip: float
) -> Float[Array, " round"]:
    """Return what a row's use of the held share or budget takes from the rows at the edge.

    With U_i used by row i, and ζ the gain of the rows at the edge for each unit that they use, it is
    ζ (U_i - mean U) / N.
    """
    edge = assignment.edge
    assert edge is not None
    share = _share(trial)
    gain = _linear(edge.shift, trial, found, price, worth, clip)
    rate = float(share @ gain) / _width(edge.per, share)
    found_: Array = share * rate * (edge.used - share @ edge.used)
    return found_


def _linear(
    chance: Float[Array, "round arm"],
    trial: Trial,
    found: Nuisances,
    price: Array,
    worth: float | int,
    clip: float,
) -> Float[Array, " round"]:
    """Return the doubly robust net score of any combination of arms, chances or their changes."""
    every, arm = np.arange(len(trial)), trial.arm
    rest = (trial.y - found.mu[every, arm]) / np.maximum(found.e[every, arm], clip)
    gain: Array = worth * ((chance * found.mu).sum(1) + chance[every, arm] * rest) - (chance * price).sum(1)
    return gain


def _found(trial: Trial, found: Nuisances | None, estimator: Estimator[Rounds], seed: Seed) -> Nuisances:
    if found is None:
        plain = not any("q_" in name or "robust" in name for name in estimator.needs)
        mu = np.zeros((len(trial), len(trial.arms))) if plain else None
        return nuisances(trial, seed=seed, mu=mu)
    if found.mu.shape != (len(trial), len(trial.arms)):
        raise BadInput(
            f"nuisances have shape {found.mu.shape}, but the trial has {len(trial)} rows and "
            f"{len(trial.arms)} arms"
        )
    return found


def _fits(assignment: Assignment, trial: Trial) -> None:
    wanted = (len(trial), len(trial.arms))
    if assignment.chance.shape != wanted:
        raise BadInput(
            f"assignment {assignment.name} has shape {assignment.chance.shape}, but the trial has "
            f"{wanted[0]} rows and {wanted[1]} arms"
        )


def _prices(trial: Trial, cost: Any) -> Float[Array, "round arm"]:
    """Return what each arm costs, control nothing."""
    treated = costs(cost, len(trial), len(trial.arms) - 1)
    return np.column_stack([np.zeros(len(trial)), treated])


def _share(trial: Trial) -> Float[Array, " round"]:
    mass = weights(trial.weight, len(trial))
    found: Array = mass / mass.sum()
    return found


def _width(per: Array, share: Array) -> float:
    found = float(share @ per)
    if found <= 0:
        raise BadInput("the rows at the assignment's edge have no weight in the trial: take other rows")
    return found
