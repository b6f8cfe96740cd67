"""A learner of exposure effects: cross-fitted guesses, unbiased scores, and any regression of them on x."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, is_classifier
from sklearn.utils.validation import check_is_fitted

from causal.exposure import Exposures
from causal.exposure_dose import Dose, examined, pull, score, with_examination
from causal.targeting.measure import Array, Measure, column, table, weights
from simlab.adapters.seeding import fit_weighted, seeded
from simlab.errors import BadInput
from simlab.seeds import Seed

NEAR = 1e-9
"""How far, as a share of the furthest, a dose is from its mean at least where a first effect is learned."""


class ExposureEffect(BaseEstimator):  # type: ignore[misc]
    """τ(x): what being seen adds to the outcome of a pair, from a log of slates with known chances.

    Nuisances are cross-fitted by user: q̂(x) = E[y | x], a first τ̂ from (y - q̂) / (θ - m) with weights
    (θ - m)², and p̂0 = q̂ - m τ̂. The scores ψ are then regressed on x with weights v.

    >>> luck = np.random.default_rng(0)
    >>> x, slot = luck.normal(size=(4000, 1)), luck.integers(0, 3, 4000)
    >>> theta = [1.0, 0.5]
    >>> y = x[:, 0] + np.array([*theta, 0.0])[slot] * 0.7 + luck.normal(size=4000)
    >>> found = ExposureEffect(theta).fit(Exposures.of(x, slot, y, np.full((4000, 3), 1 / 3)))
    >>> round(found.ate().value, 1), found.effect_at(x[:1], 1).shape
    (0.7, (1,))

    Args:
        examination: θ of each slot, [slot]: known, from a click model, or what `examination_of` returns; the
            error of the last is in the standard errors of averages here, if they come from these rows or from
            other users. A factor on θ divides the effects. Noise of θ̂ makes them smaller, as errors of a dose
            do: by about 7 % where θ̂ is known to ± .2 and slots are drawn evenly. Gains suffer less.
        outcome_model: of E[y | x]: any scikit-learn model or a ranker (`simlab.adapters.nuisance`); a
            classifier for outcomes 0 and 1. By default linear regression on standardised features.
        effect_model: of τ; a regressor that takes weights. By default the same.
        folds: of cross-fitting, at least 2.
        random_state: seed of folds and models.

    Attributes:
        effect_: τ̂ of each row of the log, a first guess by models of other folds.
        baseline_: p̂0 of each row, likewise.
        scores_: ψ of each row, from these guesses.
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
        self._guesses = []
        for number in range(self.folds):
            train, held = np.flatnonzero(self.fold_ != number), np.flatnonzero(self.fold_ == number)
            usual = self._usual(data, mass, train)
            off = dose.seen[train] - dose.mean[train]
            some = np.abs(off) > NEAR * np.abs(off).max()
            rough = (data.y[train] - usual(data.x[train]))[some] / off[some]
            own = train[some]
            model = fit_weighted(self._effects(), data.x[own], rough, mass[own] * off[some] ** 2)
            effect[held] = _predicted(model, data.x[held])
            baseline[held] = usual(data.x[held]) - dose.mean[held] * effect[held]
            self._guesses.append((usual, model))
        self.effect_, self.baseline_ = effect, baseline
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
        return _predicted(self.model_, x)

    def effect_at(self, X: Any, slot: int) -> Float[Array, " round"]:
        """Return θ_k τ of each row: what showing the item at a slot adds.

        Raises:
            BadInput: for a slot that is none, and as `effect`.
        """
        found: Array = self._theta(slot) * self.effect(X)
        return found

    def scores(self, data: Exposures) -> Float[Array, " round"]:
        """Return ψ of the rows of another log, with the guesses learned here: to judge what was learned here.

        With `effect(data.x)` as priority they are what the measures of `causal/targeting` read, such as
        `autoc`. For the rows of this log take `scores_`: their own guesses here have seen them.

        Raises:
            BadInput: as `Dose.of`, or for another number of features.
        """
        self.effect(data.x[:1])
        dose = Dose.of(data, self.examination)
        effect = np.mean([_predicted(model, data.x) for _, model in self._guesses], 0)
        usual = np.mean([usual(data.x) for usual, _ in self._guesses], 0)
        return score(data, dose, effect, usual - dose.mean * effect)

    def ate(self, where: Any = None, *, slot: int | None = None) -> Measure:
        """Return the mean of τ over all pairs of the log, with a standard error clustered by user.

        A pair that the policy hardly ever shows has a score of large variance, and where few such rows carry
        the mean its standard error is too small: leave them out (`least` of `exposures_of`), or take
        `overlap_average`.

        Args:
            where: which rows the mean is over, [round] of true and false, chosen by what was known before:
                those of one item, say. All by default.
            slot: for the mean of θ_k τ, what showing at this slot adds; by default of τ.

        Raises:
            BadInput: for a slot that is none, or no rows.
        """
        mass = self._over(where)
        share = mass / mass.sum()
        mean = float(share @ self.scores_)
        # E ψ is τ Cov(θ̂, θ) / v: its derivative by θ̂_k, at the truth, is -τ π_k (θ_k - m) / v.
        slope = -(share * self.scores_ / self._dose.variance) @ self._pull()
        return self._at(slot, mean, share * (self.scores_ - mean), slope, "average effect")

    def overlap_average(self, where: Any = None, *, slot: int | None = None) -> Measure:
        """Return the mean of τ with weights v: over pairs in proportion to how open their slot was.

        That is the average for which the log speaks loudest (overlap weights: Li, Morgan and Zaslavsky 2018,
        "Balancing covariates via propensity score weighting").

        Args:
            where: as in `ate`.
            slot: as in `ate`.

        Raises:
            BadInput: as `ate`.
        """
        mass = self._over(where)
        total = float(mass @ self._dose.variance)
        share = mass * self._dose.variance / total
        mean = float(share @ self.scores_)
        # v ψ has the mean τ Cov(θ̂, θ), whose derivative is τ π_k (θ_k - m); that of v is twice π_k (θ_k - m).
        slope = (mass * (self.scores_ - 2 * mean) / total) @ self._pull()
        return self._at(slot, mean, share * (self.scores_ - mean), slope, "overlap-weighted effect")

    def _over(self, where: Any) -> Float[Array, " round"]:
        """Return the weights of some rows, 0 for the others."""
        check_is_fitted(self, "model_")
        if where is None:
            return self._mass
        chosen = column("where", where, len(self._data)) != 0
        if not (self._mass * chosen).any():
            raise BadInput("column where: no row is chosen, so there is nothing to average")
        found: Array = self._mass * chosen
        return found

    def _pull(self) -> Float[Array, "round slot"]:
        return pull(self._data, self._dose, self.examination)

    def _at(
        self, slot: int | None, mean: float, own: Float[Array, " round"], slope: Array, name: str
    ) -> Measure:
        """Return the average of being seen, or of being shown at a slot, with all its error."""
        if slot is None:
            return with_examination(mean, own, slope, self._data, self.examination, f"{name} of being seen")
        theta = self._theta(slot)
        slope = theta * slope
        slope[slot] += mean
        return with_examination(
            theta * mean, theta * own, slope, self._data, self.examination, f"{name} of slot {slot}"
        )

    def _theta(self, slot: int) -> float:
        """Return θ of a slot."""
        theta, _ = examined(self.examination)
        if not 0 <= slot < len(theta):
            raise BadInput(f"slot is {slot}, but slots run from 0 to {len(theta) - 1}")
        return float(theta[slot])

    def _usual(self, data: Exposures, mass: Array, train: Array) -> "_Usual":
        """Fit E[y | x]."""
        made = seeded(_linear() if self.outcome_model is None else self.outcome_model, self.random_state)
        if not is_classifier(made):
            return _Usual(fit_weighted(made, data.x[train], data.y[train], mass[train]))
        wrong = np.flatnonzero(~np.isin(data.y, (0, 1)))
        if len(wrong):
            row = int(wrong[0])
            raise BadInput(f"column y, row {row}: {data.y[row]:g}, but a classifier needs 0 or 1")
        label = data.y[train].astype(np.int64)
        if (label == label[0]).all():
            return _Usual(None, float(label[0]))
        return _Usual(fit_weighted(made, data.x[train], label, mass[train]))

    def _effects(self) -> Any:
        return seeded(_linear() if self.effect_model is None else self.effect_model, self.random_state)


@dataclass(frozen=True)
class _Usual:
    """E[y | x]: of a regressor, of a classifier's 1, or a constant where there is no model."""

    model: Any
    constant: float = 0.0

    def __call__(self, x: Float[Array, "round feat"]) -> Float[Array, " round"]:
        if self.model is None:
            return np.full(len(x), self.constant)
        if not is_classifier(self.model):
            return _predicted(self.model, x)
        one = list(self.model.classes_).index(1)
        return np.asarray(self.model.predict_proba(x)[:, one], dtype=np.float64)


def deal(data: Exposures, folds: int, seed: Seed) -> Int[Array, " round"]:
    """Deal users to folds at random, whole; rows where there are no users.

    Raises:
        BadInput: for fewer than 2 folds, or fewer users or rows than folds.
    """
    if folds < 2:
        raise BadInput(f"folds is {folds}, but a model that scores rows it has not seen needs at least 2")
    whose = np.arange(len(data)) if data.user is None else np.unique(data.user, return_inverse=True)[1]
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


def _predicted(model: Any, x: Array) -> Float[Array, " round"]:
    return np.asarray(model.predict(x), dtype=np.float64).reshape(len(x))
