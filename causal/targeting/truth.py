"""How far off an effect is where the truth is known: √PEHE, error of the average, risk and regret."""

from typing import Any

import numpy as np

from causal.targeting.measure import Array, Measure, column, measure, users, weights
from causal.targeting.policies import costs
from simlab.errors import BadInput


def root_pehe(effect: Any, estimate: Any, *, weight: Any = None, user: Any = None) -> Measure:
    """Return √ of the mean squared error of single effects, in the outcome's unit.

    >>> round(root_pehe([0, 0, 1, 1], [3, -3, 1, 1]).value, 4)
    2.1213

    Args:
        effect: true effects, [round], for one arm.
        estimate: of each row.
        weight: of each row.
        user: whose row it is.

    Raises:
        BadInput: for columns that do not fit.

    Source: Hill 2011, "Bayesian nonparametric modeling for causal inference", JCGS 20.
    """
    truth, found, share, who = _pair(effect, estimate, weight, user)
    square = (found - truth) ** 2
    mean = float(share @ square)
    root = float(np.sqrt(mean))
    change = share * (square - mean) / (2 * root) if root > 0 else np.zeros_like(share)
    return measure(root, change, who, "√PEHE")


def ate_error(effect: Any, estimate: Any, *, weight: Any = None, user: Any = None) -> Measure:
    """Return the mean estimated effect less the mean true effect on the same rows, in the outcome's unit.

    The sign stays; the ε_ATE of the literature is its absolute value.

    Raises:
        BadInput: for columns that do not fit.
    """
    truth, found, share, who = _pair(effect, estimate, weight, user)
    gap = float(share @ (found - truth))
    return measure(gap, share * (found - truth - gap), who, "error of the average effect")


def policy_regret(
    effect: Any, treat: Any, *, cost: Any = 0.0, weight: Any = None, user: Any = None
) -> Measure:
    """Return what the best treatment of each row gains above the policy's, in the outcome's unit; 0 at best.

    Args:
        effect: true effects, [round] or [round treated].
        treat: the policy's arm, 0 for control, [round].
        cost: of treating a row, in the outcome's unit: one number, one of each arm, or of each row (and arm).
        weight: of each row.
        user: whose row it is.

    Raises:
        BadInput: for columns that do not fit, a negative cost, or an arm that is not there.
    """
    truth = np.asarray(effect, dtype=np.float64)
    truth = truth[:, None] if truth.ndim == 1 else truth
    arm = _arm(treat, len(truth), truth.shape[1])
    worth = np.column_stack([np.zeros(len(truth)), truth - costs(cost, *truth.shape)])
    lost = column("effect", worth.max(1) - worth[np.arange(len(worth)), arm])
    mass, who = weights(weight, len(lost)), users(user, len(lost))
    share = mass / mass.sum()
    mean = float(share @ lost)
    return measure(mean, share * (lost - mean), who, "regret")


def policy_risk(y: Any, arm: Any, treat: Any, *, weight: Any = None, user: Any = None) -> Measure:
    """Return 1 - the value of a policy, from rows whose arm was random (the randomised part of Jobs).

    With π the share that the policy treats, 1 - (π E[Y | treated as it says] + (1 - π) E[Y | control as it
    says]), Shalit, Johansson and Sontag 2017, "Estimating individual treatment effect", section 5. Outcomes
    are in [0, 1].

    Args:
        y: outcomes, in [0, 1].
        arm: 0 or 1, what each row got at random.
        treat: 0 or 1, what the policy says.
        weight: of each row.
        user: whose row it is.

    Raises:
        BadInput: for columns that do not fit, outcomes out of [0, 1], or a part of the policy that no row
            followed.
    """
    out = column("outcome", y)
    if ((out < 0) | (out > 1)).any():
        row = int(np.flatnonzero((out < 0) | (out > 1))[0])
        raise BadInput(f"column outcome, row {row}: {out[row]:g} is out of [0, 1]; take policy_regret")
    got, said = _arm(arm, len(out), 1), _arm(treat, len(out), 1)
    mass, who = weights(weight, len(out)), users(user, len(out))
    total = float(mass.sum())
    value, change = 0.0, np.zeros(len(out))
    for a in (0, 1):
        wanted = (said == a).astype(np.float64)
        share = float(mass @ wanted) / total
        if share == 0:
            continue
        followed = mass * wanted * (got == a)
        below = float(followed.sum())
        if below == 0:
            raise BadInput(f"the policy says {a} for some rows, but none of them got it")
        mean = float(followed @ out) / below
        value += share * mean
        change += mass * (wanted - share) / total * mean + share * followed * (out - mean) / below
    return measure(1 - value, -change, who, "policy risk")


def _pair(effect: Any, estimate: Any, weight: Any, user: Any) -> tuple[Array, Array, Array, Array | None]:
    truth = column("effect", effect)
    mass = weights(weight, len(truth))
    return truth, column("estimate", estimate, len(truth)), mass / mass.sum(), users(user, len(truth))


def _arm(values: Any, rows: int, most: int) -> Array:
    found = column("arm", values, rows)
    wrong = np.flatnonzero((found != np.floor(found)) | (found < 0) | (found > most))
    if len(wrong):
        raise BadInput(f"column arm, row {wrong[0]}: {found[wrong[0]]:g} is no arm from 0 to {most}")
    return found.astype(np.int64)
