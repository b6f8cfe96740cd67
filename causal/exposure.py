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

What is taken for granted: θ depends on the slot alone (a position-based model), and the items of a slate do
not change each other's outcomes. Where they do, E[y | x, slot k] is a mean over what the logging policy shows
beside the item, and ψ has the mean Cov(θ, E[y | x, slot]) / v: the slope of that mean, over the logger's own
slates (an average direct effect: Hudgens and Halloran 2008, "Toward causal inference with interference").
Sums of such effects need not be the gain of another slate: whole-slate estimators (`causal/slate`) judge it.
Of a user's later slates it is the effect at that time, after what the logger had shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from causal.targeting.measure import Array, Measure, column, measure, table, users, weights
from simlab.errors import BadInput


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
        chance: Any = None,
        *,
        propensity: Any = None,
        user: Any = None,
        weight: Any = None,
        names: Sequence[str] = (),
        item: Any = None,
        slate: Any = None,
    ) -> "Exposures":
        """Check what a user gives: arrays, tensors, lists, or pandas objects.

        Where only the chance of what happened is known (`propensity`), each row weighs ρ / propensity, with ρ
        the log's own share of its place, and has the chances ρ: as if a policy that knows no user had shown
        the pairs. That is right where every place of the log was possible for every pair, and less sharp than
        all chances. Rows that were not shown may be missing: slots are then compared with each other.

        Args:
            x: features, [round feat].
            slot: from 0; -1, K or missing where the item was not shown (with `propensity`: -1 or missing).
            y: outcomes.
            chance: of each slot, and last of not being shown, [round place].
            propensity: in place of `chance`: that of the row's slot; of not being shown, where it was not.
            user: any labels.
            weight: at least 0.
            names: of the features; by default a DataFrame's columns, else x0, x1, …
            item: ids, whole numbers; other labels are numbered in their order.
            slate: which slate each row is of, likewise.

        Raises:
            BadInput: naming the column, the row and the value: what is not finite, a slot that is none, a
                chance outside [0, 1], rows that do not sum to 1, a logged slot of chance 0, an item twice in
                a slate, or a log with nothing to compare.
        """
        x, slot, y, chance, propensity, user, weight, item, slate = (
            v.detach().cpu().numpy() if isinstance(v, Tensor) else v
            for v in (x, slot, y, chance, propensity, user, weight, item, slate)
        )
        titles = tuple(str(c) for c in getattr(x, "columns", names))
        features = table("x", _numbers(x))
        rows = len(features)
        outcome = column("y", y, rows)
        place = column("slot", np.where(pd.isna(slot), -1.0, slot), rows)
        if titles and len(titles) != features.shape[1]:
            raise BadInput(f"{features.shape[1]} features have {len(titles)} names")
        mass = None if weight is None else weights(weight, rows)
        if (chance is None) == (propensity is None):
            raise BadInput("give either chance, of every slot, or propensity, of what happened")
        if chance is None:
            given, where, mass = _by_propensity(place, propensity, mass)
        else:
            given, where = _by_chance(place, table("chance", chance, rows))
        made = cls(
            features,
            where,
            outcome,
            given,
            _labels("user", user, rows),
            mass,
            titles or tuple(f"x{i}" for i in range(features.shape[1])),
            _ids("item", item, rows),
            _ids("slate", slate, rows),
        )
        _refuse_twice(made)
        return made


def shown_or_not(data: Exposures) -> Measure:
    """Return the naive effect: mean outcome of what was shown less that of what was not.

    It is wrong for two reasons: a policy shows what sells anyway, and not all that is shown is seen. (Rows
    made by `propensity` are weighted against the first.)

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


def _by_chance(
    place: Float[Array, " round"], given: Float[Array, "round place"]
) -> tuple[Float[Array, "round place"], Int[Array, " round"]]:
    """Check the chances of every slot, and return them with the slots."""
    rows = len(place)
    wrong = np.argwhere((given < 0) | (given > 1 + 1e-6))
    if len(wrong):
        row, at = wrong[0]
        raise BadInput(f"chance, row {row}, slot {at}: {given[row, at]:g} is no chance in [0, 1]")
    total, slots = given.sum(1), given.shape[1] - 1
    bad = np.flatnonzero(np.abs(total - 1) > 1e-6)
    if len(bad):
        raise BadInput(f"chance, row {bad[0]}: slots and not being shown sum to {total[bad[0]]:g}, not to 1")
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
    return given / total[:, None], where


def _by_propensity(
    place: Float[Array, " round"], propensity: Any, mass: Float[Array, " round"] | None
) -> tuple[Float[Array, "round place"], Int[Array, " round"], Float[Array, " round"]]:
    """Return the log's own shares of places as chances, the slots, and weights that make them so."""
    rows = len(place)
    known = column("propensity", propensity, rows)
    wrong = np.flatnonzero(~((known > 0) & (known <= 1 + 1e-6)))
    if len(wrong):
        raise BadInput(f"column propensity, row {wrong[0]}: {known[wrong[0]]:g} is no chance in (0, 1]")
    out = np.flatnonzero((place != np.floor(place)) | (place < -1))
    if len(out):
        raise BadInput(f"column slot, row {out[0]}: {place[out[0]]:g} is no slot, from 0, and not -1")
    if len(np.unique(place)) < 2:
        where_all = "not shown" if place[0] < 0 else f"shown at slot {place[0]:g}"
        raise BadInput(f"column slot: every row was {where_all}, so there is nothing to compare with")
    slots = int(place.max()) + 1
    where = np.where(place < 0, slots, place).astype(np.int64)
    own = np.ones(rows) if mass is None else mass
    share = np.bincount(where, own, minlength=slots + 1) / own.sum()
    return np.tile(share, (rows, 1)), where, own * share[where] / known


def _numbers(x: Any) -> Any:
    """Return features as they are, if no column of a DataFrame is text.

    Raises:
        BadInput: naming the column.
    """
    kinds = getattr(x, "dtypes", None)
    if isinstance(x, pd.DataFrame) and kinds is not None:
        for name, kind in kinds.items():
            if not pd.api.types.is_numeric_dtype(kind):
                raise BadInput(
                    f"feature {name} is no column of numbers; make it one, as by pandas.get_dummies"
                )
    return x


def _labels(name: str, values: Any, rows: int) -> Int[Array, " round"] | None:
    """Return labels numbered from 0 in their order, or None.

    Raises:
        BadInput: for a label that is missing, or another number of rows.
    """
    if values is not None:
        lost = np.flatnonzero(pd.isna(np.asarray(values, dtype=object).reshape(-1)))
        if len(lost):
            raise BadInput(f"column {name}, row {lost[0]}: the value is missing")
    return users(values, rows)


def _ids(name: str, values: Any, rows: int) -> Int[Array, " round"] | None:
    """Return whole numbers as they are, other labels numbered, or None."""
    if values is None:
        return None
    if not pd.api.types.is_numeric_dtype(np.asarray(values).dtype):
        return _labels(name, values, rows)
    found = column(name, values, rows)
    wrong = np.flatnonzero(found != np.floor(found))
    if len(wrong):
        raise BadInput(f"column {name}, row {wrong[0]}: {found[wrong[0]]:g} is not a whole number")
    return found.astype(np.int64)


def _refuse_twice(data: Exposures) -> None:
    """Refuse an item that has two rows in a slate: its dose would be neither's."""
    whose = data.user if data.slate is None else data.slate
    if data.item is None or whose is None:
        return
    order = np.lexsort((data.item, whose))
    again = (np.diff(data.item[order]) == 0) & (np.diff(whose[order]) == 0)
    if again.any():
        first, row = sorted(order[np.flatnonzero(again)[0] :][:2].tolist())
        of = "slate" if data.slate is not None else "user"
        hint = (
            "an item stands once on a slate" if data.slate is not None else "say of which `slate` each row is"
        )
        raise BadInput(f"row {row}: item {data.item[row]} of this {of} has row {first}, too; {hint}")
