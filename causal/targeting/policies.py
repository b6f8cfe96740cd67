"""From effects to decisions: which arm each row gets, or with what chance.

A rule that treats by effect and a rule that treats by the chance of an outcome (a "response model") are one
function of two scores. An effect has to come from other rows than those that judge the rule (`value.py`).
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from causal.targeting.curves import top, window
from causal.targeting.measure import Array, column, table, weights
from causal.targeting.ranks import Ranks
from simlab.errors import BadInput
from simlab.seeds import Seed


@dataclass(frozen=True, eq=False)
class Edge:
    """How an assignment gives way: its cut lies where these very rows use up a share or a budget.

    Other rows would move the cut, and an honest standard error counts that (`value.py`).

    Attributes:
        used: what each row uses of the share or budget that is held.
        shift: where chances would move if a little more could be used, smoothed over rows near the cut.
        per: what each row would use more by its shift.
    """

    used: Float[Array, " round"]
    shift: Float[Array, "round arm"]
    per: Float[Array, " round"]


@dataclass(frozen=True, eq=False)
class Assignment:
    """The chance of each arm for each row.

    >>> Assignment.of([[0.0, 1.0], [0.5, 0.5]]).share.tolist()
    [0.25, 0.75]

    Attributes:
        chance: of each arm, control first; each row sums to 1.
        name: in tables.
        edge: how the cut moves with the rows, where a share or budget of these rows sets it.
    """

    chance: Float[Array, "round arm"]
    name: str = "assignment"
    edge: Edge | None = field(default=None, repr=False)

    @classmethod
    def of(cls, chance: Any, name: str = "assignment") -> "Assignment":
        """Check chances of arms: [round arm], or the chance of treatment alone, [round].

        Raises:
            BadInput: for a cell out of [0, 1], or a row that does not sum to 1 (within 1e-6).
        """
        found = np.asarray(chance)
        single = found.ndim == 1
        found = table("chance", chance)
        found = np.column_stack([1 - found, found]) if single else found
        wrong = np.argwhere((found < 0) | (found > 1))
        if len(wrong):
            row, arm = wrong[0]
            raise BadInput(f"chance, row {row}, arm {arm}: {found[row, arm]:g} is no chance in [0, 1]")
        total = found.sum(1)
        bad = np.flatnonzero(np.abs(total - 1) > 1e-6)
        if len(bad):
            raise BadInput(f"chance, row {bad[0]}: the arms sum to {total[bad[0]]:g}, not to 1")
        return cls(found / total[:, None], name)

    @classmethod
    def fixed(cls, arm: Any, arms: int = 2, name: str = "assignment") -> "Assignment":
        """Return the assignment that gives each row the arm of that number, 0 for control.

        Raises:
            BadInput: for a number that is no arm.
        """
        said = column("arm", arm)
        wrong = np.flatnonzero((said != np.floor(said)) | (said < 0) | (said >= arms))
        if len(wrong):
            raise BadInput(f"column arm, row {wrong[0]}: {said[wrong[0]]:g} is no arm from 0 to {arms - 1}")
        return cls(np.eye(arms)[said.astype(np.int64)], name)

    def __len__(self) -> int:
        """Return N."""
        return len(self.chance)

    @property
    def treated(self) -> Float[Array, " round"]:
        """Each row's chance of any arm but control."""
        found: Array = 1 - self.chance[:, 0]
        return found

    @property
    def share(self) -> Float[Array, " arm"]:
        """The mean chance of each arm."""
        found: Array = self.chance.mean(0)
        return found

    @property
    def fractional(self) -> int:
        """How many rows are left to chance."""
        return fractional(self.chance)

    def draw(self, seed: Seed) -> Int[Array, " round"]:
        """Draw an arm for each row, one uniform a row: two close assignments differ in few rows."""
        luck = seed.split("assignment").numpy().random(len(self))
        last = self.chance.shape[1] - 1
        arm: Array = (luck[:, None] >= np.cumsum(self.chance, 1)).sum(1)
        found: Array = np.minimum(arm, last).astype(np.int64)
        return found

    def rows(self, index: Array | slice) -> "Assignment":
        """Return some rows only; a share or budget that all of them held is not held by some, so no edge."""
        return Assignment(self.chance[index], self.name)


def everybody(rows: int, arms: int = 2, arm: int = 1) -> Assignment:
    """Give one arm to all rows."""
    return Assignment.fixed(np.full(rows, arm), arms, f"everybody {arm}" if arms > 2 else "everybody")


def nobody(rows: int, arms: int = 2) -> Assignment:
    """Give control to all rows."""
    return Assignment.fixed(np.zeros(rows), arms, "nobody")


def threshold(effect: Any, cost: Any = 0.0, worth: float | int = 1.0, name: str = "threshold") -> Assignment:
    """Treat where effect · worth > cost, with the arm of the largest difference.

    A difference of exactly 0 is not worth treating. Arms that are equally best share a row evenly, so the
    order of arms does not matter.

    >>> threshold([0.3, 0.1, -0.2], cost=2.0, worth=10.0).treated.tolist()
    [1.0, 0.0, 0.0]

    Args:
        effect: of each treated arm, [round] or [round treated], in the outcome's unit.
        cost: of treating a row: one number, one of each arm, or of each row (and arm), in money.
        worth: of one unit of the outcome, in the cost's unit; below 0 where the outcome is a harm.
        name: in tables.

    Raises:
        BadInput: for what is not a finite number, a negative cost, or shapes that do not fit.
    """
    gain = worths(effect, worth)
    net = gain - costs(cost, *gain.shape)
    best = net.max(1, keepdims=True)
    wins = (net == best) & (best > 0)
    many = wins.sum(1)
    return Assignment(np.column_stack([many == 0, wins / np.maximum(many, 1)[:, None]]), name)


def by_score(
    score: Any,
    *,
    share: float | int | None = None,
    above: float | int | None = None,
    weight: Any = None,
    fold: Any = None,
    name: str = "by score",
) -> Assignment:
    """Treat the rows of the highest score: the top share, or all above a cut. Any score will do.

    The score decides who is treated, not whether it helps: the top share is filled whatever its sign, so that
    two scores can be compared at an equal share. Tied rows at the edge of a share get equal chances of what
    is left of it, the mean over orders of ties.

    >>> by_score([3.0, 1.0, 1.0, 0.0], share=0.5).treated.tolist()
    [1.0, 0.5, 0.5, 0.0]
    >>> by_score([0.9, 0.2], above=0.2).treated.tolist()
    [1.0, 0.0]

    Args:
        score: [round], or [round treated] for several arms: each row is ranked by its best arm, and gets it;
            arms that are equally best share it evenly.
        share: of the rows by weight, in [0, 1].
        above: treat where the score is above this.
        weight: of each row; rows of weight 0 have no part in a share, and are not treated.
        fold: where effects of each fold come from a learner of its own: the share is then of each fold, as
            scores of two learners do not compare.
        name: in tables.

    Raises:
        BadInput: for neither share nor above or both, a share out of [0, 1], or columns that do not fit.
    """
    found = table("score", score)
    if (share is None) == (above is None):
        raise BadInput("by_score takes a share or a cut that scores are above, one of the two")
    best = found.max(1)
    wins = found == best[:, None]
    arm = np.column_stack([np.zeros(len(best)), wins / wins.sum(1, keepdims=True)])
    if share is None:
        cut = column("above", [above])[0]
        return _give((best > cut).astype(np.float64), arm, name)
    if not 0 <= share <= 1:
        raise BadInput(f"share is {share:g}, but a share is in [0, 1]")
    mass = weights(weight, len(best))
    part, near = np.zeros(len(best)), np.zeros(len(best))
    for rows in _folds(fold, len(best)):
        ranks = Ranks.of(best[rows], mass[rows])
        if not len(ranks.order):
            continue
        part[rows] = tidy(top(ranks, mass[rows], share * float(mass[rows].sum())))
        near[rows] = window(ranks, mass[rows], share) if 0 < share < 1 else 0.0
    given = _give(part, arm, name)
    if not near.any():  # the share is 0 or 1, and no row can move it
        return given
    shift = near[:, None] * arm
    shift[:, 0] = -near
    return Assignment(given.chance, name, Edge(part, shift, near))


def top_share(
    effect: Any, share: float | int, *, weight: Any = None, fold: Any = None, name: str = "top share"
) -> Assignment:
    """Treat the share of rows with the largest effects; `by_score` of an effect.

    >>> top_share([0.0, 2.0, 1.0, 3.0], 0.5).treated.tolist()
    [0.0, 1.0, 0.0, 1.0]

    Raises:
        BadInput: as `by_score`.
    """
    return by_score(effect, share=share, weight=weight, fold=fold, name=name)


def worths(effect: Any, worth: float | int) -> Float[Array, "round treated"]:
    """Return effect · worth of each treated arm.

    Raises:
        BadInput: for what is not a finite number.
    """
    if not np.isfinite(worth):
        raise BadInput(f"worth is {worth}, not a finite number")
    return table("effect", effect) * float(worth)


def costs(cost: Any, rows: int, treated: int) -> Float[Array, "round treated"]:
    """Return the cost of each treated arm for each row, from one number, one an arm, or one a row (and arm).

    With several arms a single axis is the arms.

    Raises:
        BadInput: for another shape, what is not a finite number, or a negative cost.
    """
    try:
        given = np.asarray(cost, dtype=np.float64)
    except (TypeError, ValueError):
        raise BadInput("cost holds what is not a number") from None
    if given.ndim == 1 and treated == 1 and len(given) == rows:
        given = given[:, None]
    if given.ndim > 2 or (given.ndim > 0 and given.shape not in {(treated,), (rows, treated)}):
        raise BadInput(
            f"cost has shape {given.shape}, and one number, one for each of {treated} treated arms, or "
            f"{rows} rows of them are asked for"
        )
    wrong = np.argwhere(~(np.isfinite(given) & (given >= 0)))
    if len(wrong):
        names = ("row", "column")[2 - given.ndim :]
        where = ", ".join(f"{n} {i}" for n, i in zip(names, wrong[0], strict=True))
        value = given[tuple(wrong[0])]
        raise BadInput(
            f"cost{', ' * bool(where)}{where}: {value:g} is "
            + ("negative" if value < 0 else "not a finite number")
        )
    return np.broadcast_to(given, (rows, treated))


def tidy(part: Float[Array, " step"]) -> Float[Array, " step"]:
    """Return shares, with what is 0 or 1 but for rounding made so."""
    part = np.where(part < _ROUNDING, 0.0, part)
    return np.where(part > 1 - _ROUNDING, 1.0, part)


def fractional(chance: Float[Array, "round arm"]) -> int:
    """Return how many rows are left to chance."""
    return int(((chance > _ROUNDING) & (chance < 1 - _ROUNDING)).any(1).sum())


_ROUNDING = 1e-9
"""A chance this close to 0 or 1 is that."""


def _give(part: Float[Array, " round"], arm: Float[Array, "round arm"], name: str) -> Assignment:
    chance = part[:, None] * arm
    chance[:, 0] = 1 - part
    return Assignment(chance, name)


def _folds(fold: Any, rows: int) -> list[Array]:
    if fold is None:
        return [np.arange(rows)]
    found = np.asarray(fold).reshape(-1)
    if len(found) != rows:
        raise BadInput(f"column fold has {len(found)} rows, but {rows} are asked for")
    return [np.flatnonzero(found == f) for f in np.unique(found)]
