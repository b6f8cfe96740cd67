"""What learners on EconML share: nuisances, folds by user, effects, intervals, averages."""

import warnings
from abc import abstractmethod
from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.base import is_classifier
from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold

from causal.targeting.scores import aipw, average
from causal.uplift._nuisance import ChanceAsNumber, KnownChance, weighable, without
from causal.uplift._rows import counted
from causal.uplift.contract import Array, Average, Trial, UpliftLearner
from simlab.adapters.seeding import seeded
from simlab.errors import BadInput
from simlab.seeds import Seed


def outcome_of(model: Any, seed: int) -> Any:
    """Return a clone of the outcome model, or gradient boosting; seeded where it takes a seed."""
    if model is None:
        from sklearn.ensemble import HistGradientBoostingRegressor

        model = HistGradientBoostingRegressor(max_iter=100, max_leaf_nodes=15, learning_rate=0.05)
    return seeded(weighable(model), seed)


def chance_of(model: Any, seed: int) -> Any:
    """Return a clone of the propensity model, or logistic regression on standardised features."""
    if model is None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return seeded(weighable(model), seed)


def asked(model: Any, seed: int) -> Any:
    """Return a seeded clone of a model that takes weights; None, for a default, stays None."""
    return None if model is None else seeded(weighable(model), seed)


class EconMLLearner(UpliftLearner):
    """A learner that EconML fits: write `_make`.

    Args:
        outcome_model: of the outcome given features (and arm): any scikit-learn model or
            `simlab.adapters.nuisance.RankerRegressor` or `RankerClassifier`; a classifier for 0 and 1.
        propensity_model: of the arm given features; a classifier. By default the trial's known chances, and
            logistic regression where it knows none.
        folds: of cross-fitting.
        random_state: seed of folds and models.
    """

    weights = True
    """Whether the learner of EconML takes weights."""

    chances = False
    """Whether known chances are columns that only the propensity's model sees (EconML's `W`)."""

    def __init__(
        self,
        outcome_model: Any = None,
        propensity_model: Any = None,
        *,
        folds: int = 5,
        random_state: int = 0,
    ) -> None:
        self.outcome_model = outcome_model
        self.propensity_model = propensity_model
        self.folds = folds
        self.random_state = random_state

    @abstractmethod
    def _make(self, trial: Trial) -> Any:
        """Return EconML's estimator, unfitted."""

    def _given(self, trial: Trial) -> dict[str, Any]:
        """Return what EconML's `fit` gets beside outcome, arm and features."""
        more: dict[str, Any] = {}
        if trial.weight is not None:
            more["sample_weight"] = trial.weight
        if trial.user is not None:
            more["groups"] = trial.user
        if self._knows(trial):
            more["W"] = trial.propensity
        return more

    def _knows(self, trial: Trial) -> bool:
        """Tell whether known chances are used."""
        return self.chances and trial.propensity is not None and self.propensity_model is None

    def _fit(self, trial: Trial) -> None:
        if trial.weight is not None and not self.weights:
            raise BadInput(f"{self.name} takes no weights: EconML's learner has none")
        trial = counted(trial)  # rows of weight 0 would still split folds and count in means
        self._trial = trial
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # EconML warns of each use of scikit-learn's own renamings
            self.model_ = self._make(trial)
            self.model_.fit(trial.y, trial.arm, X=trial.x, **self._given(trial))

    def _effect(self, x: Float[Array, "round feat"]) -> Float[Array, "round treated"]:
        arms = range(1, len(self.arms_))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = [np.asarray(self.model_.effect(x, T0=0, T1=a)).reshape(len(x)) for a in arms]
        return np.stack(found, 1).astype(np.float64)

    def _interval(
        self, x: Float[Array, "round feat"], alpha: float
    ) -> tuple[Float[Array, "round treated"], Float[Array, "round treated"]]:
        ends = [self.model_.effect_interval(x, T0=0, T1=a, alpha=alpha) for a in range(1, len(self.arms_))]
        low, high = (np.stack([np.asarray(e[i]).reshape(len(x)) for e in ends], 1) for i in (0, 1))
        return low.astype(np.float64), high.astype(np.float64)

    def _ate(self) -> Average:
        """Return the mean effect, with the efficient influence function's standard error."""
        effect = self._effect(self._trial.x)
        weight = np.ones(len(effect)) if self._trial.weight is None else self._trial.weight
        value = np.average(effect, axis=0, weights=weight)
        error = average(self._scores(), self._trial).stderr
        how = "mean effect; standard error of the efficient influence function, cross-fitted"
        return Average(tuple(map(float, value)), error, self.arms_[1:], how)

    def _scores(self) -> Float[Array, "round treated"]:
        """Return doubly robust scores of the trial, by the learner's own nuisances."""
        seed = self.random_state
        outcome, chance = asked(self.outcome_model, seed), asked(self.propensity_model, seed)
        return aipw(self._trial, outcome, chance, max(self.folds, 2), Seed(seed))

    def _splits(self, trial: Trial) -> list[tuple[Array, Array]]:
        """Return folds for EconML as (rows to learn from, rows held out): users whole, else each arm evenly.

        Raises:
            BadInput: for folds that cannot be.
        """
        names = np.arange(len(trial)) if trial.user is None else np.unique(trial.user)
        what = "rows" if trial.user is None else "users"
        if self.folds < 2:
            raise BadInput(f"folds is {self.folds}, but a model that has not seen a row needs at least 2")
        if len(names) < self.folds:
            raise BadInput(f"the trial has {len(names)} {what}, too few for {self.folds} folds")
        sorts = self._sorts(trial)
        strata = 2 * trial.arm + (trial.y == 1) if sorts else trial.arm  # as EconML does
        least = int(np.bincount(trial.arm).min())
        kind = StratifiedKFold if least >= self.folds else KFold
        how = {"shuffle": True, "random_state": self.random_state}
        folds = GroupKFold(self.folds) if trial.user is not None else kind(self.folds, **how)
        found: list[tuple[Array, Array]] = list(folds.split(trial.x, strata, trial.user))
        for number, (train, _) in enumerate(found):
            lost = np.setdiff1d(trial.arm, trial.arm[train])
            if len(lost):
                without = f"arm {trial.arms[lost[0]]!r} has no rows outside fold {number} to learn from"
                raise BadInput(f"{without}: take fewer folds")
            if sorts and np.ptp(trial.y[train]) == 0:
                raise BadInput(f"the outcome is {trial.y[train[0]]:g} in all rows outside fold {number}")
        return found

    def _outcome(self, trial: Trial, number: bool = False) -> Any:
        """Return the outcome model, blind to known chances; a classifier as a regressor for a number."""
        made = outcome_of(self.outcome_model, self.random_state)
        if self._knows(trial):
            made = without(made, trial.x.shape[1], len(trial.arms))
        return ChanceAsNumber(made) if number and is_classifier(made) else made

    def _propensity(self, trial: Trial) -> Any:
        """Return the model of the arm, or what tells the known chances."""
        return (
            KnownChance(len(trial.arms))
            if self._knows(trial)
            else chance_of(self.propensity_model, self.random_state)
        )

    def _sorts(self, trial: Trial) -> bool:
        """Tell whether the outcome model is a classifier, and refuse one for other outcomes than 0 and 1."""
        sorts = self.outcome_model is not None and is_classifier(self.outcome_model)
        if sorts and not trial.binary:
            row = int(np.flatnonzero(~np.isin(trial.y, (0, 1)))[0])
            what = f"column outcome, row {row}: {trial.y[row]:g}"
            raise BadInput(f"{what}, but a classifier needs 0 or 1; give a regressor")
        return bool(sorts)


def inferred(model: Any, trial: Trial, how: str, arms: tuple[Any, ...]) -> Average:
    """Return EconML's own average effect and standard error of each arm."""
    value, error = [], []
    for a in range(1, len(arms)):
        found = model.ate_inference(trial.x, T0=0, T1=a)
        value.append(float(np.ravel(found.mean_point)[0]))
        error.append(float(np.ravel(found.stderr_mean)[0]))
    return Average(tuple(value), tuple(error), arms[1:], how)
