"""How much of a pair was seen: the dose of its slot, an unbiased score, and what an estimated dose costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from causal.exposure import Exposures
from causal.targeting.measure import Array, Measure, column, measure
from simlab.errors import BadInput

LEAST = 1e-20
"""Variance of a dose, over the largest θ², up to which a row's slot was certain."""


@dataclass(frozen=True, eq=False)
class Dose:
    """How much of each row was seen, and what its policy made of it.

    Attributes:
        seen: θ of the row's slot, 0 where it was not shown.
        mean: m, over the slots that the policy could have drawn.
        variance: v.
    """

    seen: Float[Array, " round"]
    mean: Float[Array, " round"]
    variance: Float[Array, " round"]

    @classmethod
    def of(cls, data: Exposures, examination: Any) -> "Dose":
        """Return doses for the chances that slots are examined, [slot].

        With another θ̂ than the true one, the scores' mean given x is τ Cov(θ̂, θ) / Var(θ̂) over the slots of
        the policy. So θ is needed up to a factor c only, and effects are then 1/c as large. With ones it is
        shown or not, as if every slot were seen: the effect is then too small, by E[θ | shown].

        Args:
            data: the rows.
            examination: numbers in [0, 1], or estimates (`examination_of`, each a `Measure`), which may err
                out of that.

        Raises:
            BadInput: for another number of slots, a θ outside [0, 1], or a row whose dose was certain.
        """
        theta, _ = examined(examination, data.slots)
        dose = np.append(theta, 0.0)
        mean = data.chance @ dose
        variance = ((dose - mean[:, None]) ** 2 * data.chance).sum(1)
        sure = np.flatnonzero(variance <= LEAST * np.square(theta).max())
        if len(sure):
            row = int(sure[0])
            raise BadInput(
                f"row {row}: its slot was certain (variance of the dose {variance[row]:.0e}), so its effect "
                "cannot be told; leave such rows out, or log with a policy that explores"
            )
        return cls(dose[data.slot], mean, variance)


def examined(examination: Any, slots: int | None = None) -> tuple[Float[Array, " slot"], tuple[Measure, ...]]:
    """Return θ of each slot, and the estimates that it comes from; none where it is known.

    Raises:
        BadInput: for a θ that is not finite, a known one outside [0, 1], or another number of slots.
    """
    several = isinstance(examination, Sequence) and len(examination) > 0
    if several and all(isinstance(m, Measure) for m in examination):
        found = tuple(examination)
        theta = column("examination", [m.value for m in found])
    else:
        found, theta = (), column("examination", examination)
        wrong = np.flatnonzero((theta < 0) | (theta > 1))
        if len(wrong):
            raise BadInput(f"examination of slot {wrong[0]} is {theta[wrong[0]]:g}, no chance in [0, 1]")
    if slots is not None and len(theta) != slots:
        raise BadInput(f"examination is of {len(theta)} slots, but the log has {slots}")
    return theta, found


def score(
    data: Exposures, dose: Dose, effect: Float[Array, " round"], baseline: Float[Array, " round"]
) -> Float[Array, " round"]:
    """Return ψ: unbiased for τ(x) whatever the guesses are, if they do not know the row's outcome and slot.

    Args:
        data: the rows.
        dose: their doses.
        effect: τ̂, a guess.
        baseline: p̂0, a guess.
    """
    left = data.y - baseline - dose.seen * effect
    found: Array = effect + (dose.seen - dose.mean) / dose.variance * left
    return found


def pull(data: Exposures, dose: Dose, examination: Any) -> Float[Array, "round slot"]:
    """Return π_k (θ_k - m) of each row: Cov(1{slot k}, θ), half of what θ_k does to the variance v."""
    theta, _ = examined(examination, data.slots)
    found: Array = data.chance[:, :-1] * (theta - dose.mean[:, None])
    return found


def with_examination(
    value: float, own: Float[Array, " round"], slope: Any, data: Exposures, examination: Any, name: str
) -> Measure:
    """Return a number whose error is that of its rows and, by its slope, that of an estimated θ.

    Args:
        value: the number.
        own: what each row adds, θ taken as known.
        slope: its derivative by each θ_k, [slot].
        data: the rows.
        examination: θ; estimates come from the same rows, or from other users. Rows that are partly the same
            cannot be told from others: do not give such.
        name: of the number.
    """
    user = data.user
    _, estimates = examined(examination, data.slots)
    if not estimates:
        return measure(value, own, user, name)
    theirs = np.stack([m.influence for m in estimates], 1) @ slope
    same = estimates[0].user
    alike = user is same if user is None or same is None else np.array_equal(user, same)
    if alike and len(theirs) == len(own):
        return measure(value, own + theirs, user, name)
    whose, other = (
        np.arange(len(part)) if who is None else who for part, who in ((own, user), (theirs, same))
    )
    both = np.concatenate([whose, whose.max() + 1 + other])
    return measure(value, np.concatenate([own, theirs]), both, name)
