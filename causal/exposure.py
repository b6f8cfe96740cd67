"""The effect of showing an item to a user at a slot, where only what is examined has an effect.

A row is a pair of user and item. With θ_k the chance that slot k is examined (0 where the item is not shown),
p0 the chance of the outcome unseen and τ what being seen adds,

    E[y | x, slot k] = p0(x) + θ_k τ(x).

So θ is a dose. Where the chances π_k(x) of the slots are known (a stochastic logging policy), with
m = Σ_k π_k θ_k and v = Σ_k π_k θ_k² - m² the mean and variance of the dose,

    ψ = τ̂(x) + (θ - m) / v · (y - p̂0(x) - θ τ̂(x))

has the mean τ(x) given x, whatever τ̂ and p̂0 are: E[(θ - m) p0] = 0 and E[(θ - m) θ] = v. It is the score of
the partially linear model (Robinson 1988; Chernozhukov et al. 2018, "Double/debiased machine learning",
section 4.1) with a known mean of the dose; regressing ψ on x with weights v is the R-learner (Nie and Wager
2021, equation 4). What differs: the dose of a slot comes from a click model, and its mean from the policy.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from causal.targeting.measure import Array, Measure, column, measure, table, users, weights
from simlab.errors import BadInput

LEAST = 1e-9
"""Variance of a dose below which a row's slot was certain, so that nothing can be learned from it."""


@dataclass(frozen=True, eq=False)
class Exposures:
    """Pairs of a user and an item, shown at a slot or not, and what came of it.

    Attributes:
        x: what is known of the pair before, float64.
        slot: where the item stood, from 0; K where it was not shown.
        y: the outcome, such as a purchase, seen or not: a click is none, as nobody clicks what is not shown.
        chance: of each slot under the logging policy, and last of not being shown; each row sums to 1.
        user: whose row it is: folds keep users whole, and standard errors cluster by them.
        weight: how many pairs a row stands for, where not all pairs are kept.
        names: of the features.
        item: which item.
        slate: which slate the row is of: a round of a log. Without it a user saw one slate.
    """

    x: Float[Array, "round feat"]
    slot: Int[Array, " round"]
    y: Float[Array, " round"]
    chance: Float[Array, "round place"]
    user: Int[Array, " round"] | None = None
    weight: Float[Array, " round"] | None = None
    names: tuple[str, ...] = ()
    item: Int[Array, " round"] | None = None
    slate: Int[Array, " round"] | None = None

    def __len__(self) -> int:
        """Return N."""
        return len(self.y)

    @property
    def slots(self) -> int:
        """K."""
        return int(self.chance.shape[1]) - 1

    @property
    def shown(self) -> Array:
        """Whether the item was shown."""
        found: Array = self.slot < self.slots
        return found

    def rows(self, index: Array | slice) -> "Exposures":
        """Return some rows only, in the order of the index."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {k: v[index] for k, v in values.items() if isinstance(v, np.ndarray)}
        return replace(self, **changed)

    @classmethod
    def of(
        cls,
        x: Any,
        slot: Any,
        y: Any,
        chance: Any,
        *,
        user: Any = None,
        weight: Any = None,
        names: Sequence[str] = (),
        item: Any = None,
        slate: Any = None,
    ) -> "Exposures":
        """Check what a user gives: arrays, tensors, lists, or pandas objects.

        Args:
            x: features, [round feat].
            slot: from 0; K or -1 where the item was not shown.
            y: outcomes.
            chance: of each slot, and last of not being shown.
            user: any labels.
            weight: at least 0.
            names: of the features; by default a DataFrame's columns, else x0, x1, …
            item: ids, whole numbers.
            slate: which slate each row is of, whole numbers.

        Raises:
            BadInput: naming the column, the row and the value: what is not finite, a slot that is none, a
                chance outside [0, 1], rows that do not sum to 1, a logged slot of chance 0.
        """
        titles = tuple(str(c) for c in getattr(x, "columns", names))
        features = table("x", x)
        rows = len(features)
        outcome = column("y", y, rows)
        given = table("chance", chance, rows)
        place = column("slot", slot, rows)
        wrong = np.argwhere((given < 0) | (given > 1 + 1e-6))
        if len(wrong):
            row, at = wrong[0]
            raise BadInput(f"chance, row {row}, slot {at}: {given[row, at]:g} is no chance in [0, 1]")
        total, slots = given.sum(1), given.shape[1] - 1
        bad = np.flatnonzero(np.abs(total - 1) > 1e-6)
        if len(bad):
            raise BadInput(
                f"chance, row {bad[0]}: slots and not being shown sum to {total[bad[0]]:g}, not to 1"
            )
        if not slots:
            raise BadInput("chance has one column, but there is at least one slot beside not being shown")
        out = np.flatnonzero((place != np.floor(place)) | (place < -1) | (place > slots))
        if len(out):
            raise BadInput(
                f"column slot, row {out[0]}: {place[out[0]]:g} is no slot from 0 to {slots - 1}, and {slots} "
                "or -1 stand for not shown"
            )
        where = np.where(place < 0, slots, place).astype(np.int64)
        never = np.flatnonzero(given[np.arange(rows), where] <= 0)
        if len(never):
            row = int(never[0])
            what = "not being shown" if where[row] == slots else f"slot {where[row]}"
            raise BadInput(f"chance, row {row}: {what} was logged, but its chance is 0")
        if titles and len(titles) != features.shape[1]:
            raise BadInput(f"{features.shape[1]} features have {len(titles)} names")
        return cls(
            features,
            where,
            outcome,
            given / total[:, None],
            users(user, rows),
            None if weight is None else weights(weight, rows),
            titles or tuple(f"x{i}" for i in range(features.shape[1])),
            _ids("item", item, rows),
            _ids("slate", slate, rows),
        )


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
        theta, _ = examined(examination)
        if len(theta) != data.slots:
            raise BadInput(f"examination is of {len(theta)} slots, but the log has {data.slots}")
        dose = np.append(theta, 0.0)
        mean = data.chance @ dose
        variance = ((dose - mean[:, None]) ** 2 * data.chance).sum(1)
        sure = np.flatnonzero(variance < LEAST)
        if len(sure):
            row = int(sure[0])
            raise BadInput(
                f"row {row}: its slot was certain (variance of the dose {variance[row]:.0e}), so its effect "
                "cannot be told; leave such rows out, or log with a policy that explores"
            )
        return cls(dose[data.slot], mean, variance)


def examined(examination: Any) -> tuple[Float[Array, " slot"], tuple[Measure, ...]]:
    """Return θ of each slot, and the estimates that it comes from; none where it is known.

    Raises:
        BadInput: for a θ that is not finite, or a known one outside [0, 1].
    """
    several = isinstance(examination, Sequence) and len(examination) > 0
    if several and all(isinstance(m, Measure) for m in examination):
        found = tuple(examination)
        return column("examination", [m.value for m in found]), found
    theta = column("examination", examination)
    wrong = np.flatnonzero((theta < 0) | (theta > 1))
    if len(wrong):
        raise BadInput(f"examination of slot {wrong[0]} is {theta[wrong[0]]:g}, no chance in [0, 1]")
    return theta, ()


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


def shown_or_not(data: Exposures) -> Measure:
    """Return the naive effect: mean outcome of what was shown less that of what was not.

    It is wrong for two reasons: a policy shows what sells anyway, and not all that is shown is seen.

    Raises:
        BadInput: if nothing, or everything, was shown.
    """
    mass, shown = weights(data.weight, len(data)), data.shown
    influence, gap = np.zeros(len(data)), 0.0
    for side, sign in ((shown, 1.0), (~shown, -1.0)):
        own = mass * side
        if not own.any():
            raise BadInput(f"column slot: no item was {'shown' if sign > 0 else 'left out'}")
        share = own / own.sum()
        mean = float(share @ data.y)
        gap += sign * mean
        influence += sign * share * (data.y - mean)
    return measure(gap, influence, data.user, "shown less not shown")


def _ids(name: str, values: Any, rows: int) -> Int[Array, " round"] | None:
    """Return whole numbers, or None."""
    if values is None:
        return None
    found = column(name, values, rows)
    wrong = np.flatnonzero(found != np.floor(found))
    if len(wrong):
        raise BadInput(f"column {name}, row {wrong[0]}: {found[wrong[0]]:g} is not a whole number")
    return found.astype(np.int64)
