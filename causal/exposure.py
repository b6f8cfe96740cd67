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
from sklearn.base import BaseEstimator, is_classifier
from sklearn.utils.validation import check_is_fitted

from causal.targeting.measure import Array, Measure, column, measure, table, users, weights
from simlab.adapters.seeding import fit_weighted, seeded
from simlab.errors import BadInput
from simlab.seeds import Seed

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
    """

    x: Float[Array, "round feat"]
    slot: Int[Array, " round"]
    y: Float[Array, " round"]
    chance: Float[Array, "round place"]
    user: Int[Array, " round"] | None = None
    weight: Float[Array, " round"] | None = None
    names: tuple[str, ...] = ()

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

        With ones it is shown or not, as if every slot were seen: the effect is then too small, by
        E[θ | shown].

        Raises:
            BadInput: for another number of slots, a θ outside [0, 1], or a row whose dose was certain.
        """
        theta = column("examination", examination)
        if len(theta) != data.slots:
            raise BadInput(f"examination is of {len(theta)} slots, but the log has {data.slots}")
        wrong = np.flatnonzero((theta < 0) | (theta > 1))
        if len(wrong):
            raise BadInput(f"examination of slot {wrong[0]} is {theta[wrong[0]]:g}, no chance in [0, 1]")
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


class ExposureEffect(BaseEstimator):  # type: ignore[misc]
    """τ(x): what being seen adds to the outcome of a pair, from a log of slates with known chances.

    Nuisances are cross-fitted by user: q̂(x) = E[y | x], a first τ̂ from (y - q̂) / (θ - m) with weights
    (θ - m)², and p̂0 = q̂ - m τ̂. The scores ψ are then regressed on x with weights v.

    >>> luck = np.random.default_rng(0)
    >>> x, slot = luck.normal(size=(4000, 1)), luck.integers(0, 3, 4000)
    >>> theta = np.array([1.0, 0.5])
    >>> y = x[:, 0] + np.append(theta, 0.0)[slot] * 0.7 + luck.normal(size=4000)
    >>> found = ExposureEffect(theta).fit(Exposures.of(x, slot, y, np.full((4000, 3), 1 / 3)))
    >>> round(found.ate().value, 1), found.effect_at(x[:1], 1).shape
    (0.7, (1,))

    Args:
        examination: θ of each slot, [slot]: known, from a click model, or from `examination_of`. Its own
            error is in no standard error here.
        outcome_model: of E[y | x]: any scikit-learn model or a ranker (`simlab.adapters.nuisance`); a
            classifier for outcomes 0 and 1. By default linear regression on standardised features.
        effect_model: of τ; a regressor that takes weights. By default the same.
        folds: of cross-fitting, at least 2.
        random_state: seed of folds and models.

    Attributes:
        scores_: ψ of each row of the log.
        fold_: the fold of each row.
    """

    def __init__(
        self,
        examination: Any,
        outcome_model: Any = None,
        effect_model: Any = None,
        *,
        folds: int = 5,
        random_state: int = 0,
    ) -> None:
        self.examination = examination
        self.outcome_model = outcome_model
        self.effect_model = effect_model
        self.folds = folds
        self.random_state = random_state

    def fit(self, data: Exposures) -> "ExposureEffect":
        """Learn from a log.

        Raises:
            BadInput: for doses that cannot be (`Dose.of`), fewer than 2 folds, or fewer users than folds.
        """
        dose = Dose.of(data, self.examination)
        mass = weights(data.weight, len(data))
        self.fold_ = deal(data, self.folds, Seed(self.random_state))
        effect, baseline = np.zeros(len(data)), np.zeros(len(data))
        for number in range(self.folds):
            train, held = np.flatnonzero(self.fold_ != number), np.flatnonzero(self.fold_ == number)
            usual = self._usual(data, mass, train)
            off = dose.seen[train] - dose.mean[train]
            some = np.abs(off) > LEAST**0.5
            rough = (data.y[train] - usual(data.x[train]))[some] / off[some]
            own = train[some]
            model = fit_weighted(self._effects(), data.x[own], rough, mass[own] * off[some] ** 2)
            effect[held] = np.asarray(model.predict(data.x[held]), dtype=np.float64).reshape(len(held))
            baseline[held] = usual(data.x[held]) - dose.mean[held] * effect[held]
        self.scores_ = score(data, dose, effect, baseline)
        self.model_ = fit_weighted(self._effects(), data.x, self.scores_, mass * dose.variance)
        self._data, self._dose, self._mass = data, dose, mass
        self.n_features_in_ = data.x.shape[1]
        return self

    def effect(self, X: Any) -> Float[Array, " round"]:
        """Return τ of each row: what being seen adds, in the outcome's unit.

        Raises:
            BadInput: for another number of features, or what is not finite.
        """
        check_is_fitted(self, "model_")
        x = table("x", X)
        if x.shape[1] != self.n_features_in_:
            raise BadInput(f"the effect knows {self.n_features_in_} features, and these are {x.shape[1]}")
        return np.asarray(self.model_.predict(x), dtype=np.float64).reshape(len(x))

    def effect_at(self, X: Any, slot: int) -> Float[Array, " round"]:
        """Return θ_k τ of each row: what showing the item at a slot adds.

        Raises:
            BadInput: for a slot that is none, and as `effect`.
        """
        theta = column("examination", self.examination)
        if not 0 <= slot < len(theta):
            raise BadInput(f"slot is {slot}, but slots run from 0 to {len(theta) - 1}")
        found: Array = theta[slot] * self.effect(X)
        return found

    def ate(self) -> Measure:
        """Return the mean of τ over all pairs of the log, with a standard error clustered by user.

        A pair that the policy hardly ever shows has a score of large variance; `overlap_average` is sharper.
        """
        check_is_fitted(self, "model_")
        return _mean(self.scores_, self._mass, self._data.user, "average effect of being seen")

    def overlap_average(self) -> Measure:
        """Return the mean of τ with weights v: over pairs in proportion to how open their slot was.

        That is the average for which the log speaks loudest (overlap weights: Li, Morgan and Zaslavsky 2018,
        "Balancing covariates via propensity score weighting").
        """
        check_is_fitted(self, "model_")
        mass = self._mass * self._dose.variance
        return _mean(self.scores_, mass, self._data.user, "overlap-weighted effect of being seen")

    def _usual(self, data: Exposures, mass: Array, train: Array) -> Any:
        """Fit E[y | x] and return it as a function."""
        model = self.outcome_model
        if model is None:
            model = _linear()
        made = seeded(model, self.random_state)
        if not is_classifier(made):
            found = fit_weighted(made, data.x[train], data.y[train], mass[train])
            return lambda x: np.asarray(found.predict(x), dtype=np.float64).reshape(len(x))
        wrong = np.flatnonzero(~np.isin(data.y, (0, 1)))
        if len(wrong):
            row = int(wrong[0])
            raise BadInput(f"column y, row {row}: {data.y[row]:g}, but a classifier needs 0 or 1")
        label = data.y[train].astype(np.int64)
        if (label == label[0]).all():
            return lambda x: np.full(len(x), float(label[0]))
        sorted_ = fit_weighted(made, data.x[train], label, mass[train])
        one = list(sorted_.classes_).index(1)
        return lambda x: np.asarray(sorted_.predict_proba(x)[:, one], dtype=np.float64)

    def _effects(self) -> Any:
        return seeded(_linear() if self.effect_model is None else self.effect_model, self.random_state)


def deal(data: Exposures, folds: int, seed: Seed) -> Int[Array, " round"]:
    """Deal users to folds at random, whole; rows where there are no users.

    Raises:
        BadInput: for fewer than 2 folds, or fewer users or rows than folds.
    """
    if folds < 2:
        raise BadInput(f"folds is {folds}, but a model that scores rows it has not seen needs at least 2")
    whose = np.arange(len(data)) if data.user is None else data.user
    many = int(whose.max()) + 1
    if many < folds:
        raise BadInput(
            f"the log has {many} {'rows' if data.user is None else 'users'}, too few for {folds} folds"
        )
    place = np.arange(many) % folds
    found: Array = seed.split("folds").numpy().permutation(place)[whose]
    return found


def _linear() -> Any:
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LinearRegression())


def _mean(scores: Array, mass: Array, user: Array | None, name: str) -> Measure:
    share = mass / mass.sum()
    mean = float(share @ scores)
    return measure(mean, share * (scores - mean), user, name)
