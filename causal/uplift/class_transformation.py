"""Class transformation: one model of one outcome whose mean is the effect itself."""

from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int
from sklearn.base import is_classifier
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from causal.targeting.scores import nuisances
from causal.uplift._econml import asked
from causal.uplift._influence import average, scores
from causal.uplift._nuisance import Nuisance
from causal.uplift._rows import counted
from causal.uplift.contract import Array, Average, Trial, UpliftLearner
from simlab.adapters.seeding import seeded
from simlab.errors import BadInput
from simlab.seeds import Seed


class ClassTransformation(UpliftLearner):
    """τ_a(x) = 2 P(Z = 1 | x) - 1 with Z = 1[y = 1[arm = a]], for outcomes 0 and 1: one classifier an arm.

    It learns from rows of arm a and of control. At equal chances of both every row counts alike. At other
    chances a row counts by 1 / e_arm(x), which makes them equal: P(Z = 1 | x) is then (μ_a + 1 - μ_0) / 2.

    With a regressor, and for outcomes that are any numbers, it is the regression on x of the transformed
    outcome y* = y (1[arm = a] / e_a - 1[arm = 0] / e_0), which is y (t - e) / (e (1 - e)) in two arms; its
    mean given x is τ_a(x). With `stable` it is the regression of 2 y (1[arm = a] - 1[arm = 0]) on the rows of
    both arms, where a row counts by 1 / e_arm(x): the same mean, but a row of a small chance has a large
    weight and not a large outcome. At equal chances of two arms both are the same.

    Only the chances must be right. But y* is as noisy as y is large: a constant added to every y changes no
    effect and a lot of noise, so an outcome far from 0 is for the DR- or R-learner.

    `ate()` is the difference of the arms' means weighted by 1 / e, with the standard error of its influence
    function, clustered by user; it does not ask the model.

    Source: Jaśkowski and Jaroszewicz (2012), "Uplift modeling for clinical trial data", ICML workshop on
    clinical data analysis; Athey and Imbens (2016), "Recursive partitioning for heterogeneous causal
    effects", PNAS, for the transformed outcome.

    Args:
        effect_model: a classifier of Z, or a regressor of the transformed outcome. By default gradient
            boosting of the one for outcomes 0 and 1, of the other for all else.
        propensity_model: a classifier of the arm, cross-fitted. By default the trial's known chances, and
            logistic regression where it knows none.
        stable: whether a regressor gets the chances as weights.
        folds: of the propensity's cross-fitting.
        clip: the least estimated chance of an arm; known chances are taken as they are.
        random_state: seed of folds and models.

    Raises:
        BadInput: from `fit`, for a classifier where outcomes are not 0 and 1, or weights that the model does
            not take.

    >>> import numpy as np
    >>> g = np.random.default_rng(0)
    >>> x, t = g.normal(size=(4000, 2)), g.integers(0, 2, 4000)
    >>> y = g.random(4000) < 0.3 + 0.4 * t * (x[:, 0] > 0)
    >>> found = ClassTransformation().fit(x, t, y, propensity=0.5).effect([[1.0, 0.0], [-1.0, 0.0]])
    >>> bool(abs(found[0] - 0.4) < 0.15 and abs(found[1]) < 0.15)
    True
    """

    name: ClassVar[str] = "class transformation"

    def __init__(
        self,
        effect_model: Any = None,
        propensity_model: Any = None,
        *,
        stable: bool = False,
        folds: int = 5,
        clip: float = 0.01,
        random_state: int = 0,
    ) -> None:
        self.effect_model = effect_model
        self.propensity_model = propensity_model
        self.stable = stable
        self.folds = folds
        self.clip = clip
        self.random_state = random_state

    def _fit(self, trial: Trial) -> None:
        trial = counted(trial)
        model = seeded(self._model(trial), self.random_state)
        chance = self._chance(trial)
        own = chance[np.arange(len(trial)), trial.arm]
        weight = np.ones(len(trial)) if trial.weight is None else trial.weight
        self.models_ = []
        for arm in range(1, chance.shape[1]):
            if is_classifier(model):
                rows, target, mass = _classes(trial, arm, own)
            elif self.stable:
                rows, target, mass = _weighed(trial, arm, own)
            else:
                rows, target, mass = _transformed(trial, arm, own)
            self.models_.append(_fitted(model, trial.x[rows], target, mass * weight[rows]))
        self._average = _mean(trial, chance, weight, known=self._knows(trial))

    def _effect(self, x: Float[Array, "round feat"]) -> Float[Array, "round treated"]:
        return np.stack([_said(m, x) for m in self.models_], 1)

    def _ate(self) -> Average:
        return self._average

    def _knows(self, trial: Trial) -> bool:
        return trial.propensity is not None and self.propensity_model is None

    def _chance(self, trial: Trial) -> Float[Array, "round arm"]:
        zero = np.zeros((len(trial), len(trial.arms)))
        model = asked(self.propensity_model, self.random_state)
        found = nuisances(trial, None, model, self.folds, Seed(self.random_state), mu=zero).e
        return found if self._knows(trial) else np.maximum(found, self.clip)

    def _model(self, trial: Trial) -> Any:
        if self.effect_model is None:
            kind = HistGradientBoostingClassifier if trial.binary else HistGradientBoostingRegressor
            return kind(max_iter=100, max_leaf_nodes=15, learning_rate=0.05)
        if is_classifier(self.effect_model) and not trial.binary:
            row = int(np.flatnonzero(~np.isin(trial.y, (0, 1)))[0])
            what = f"column outcome, row {row}: {trial.y[row]:g}"
            raise BadInput(f"{what}, but a classifier needs 0 or 1; give a regressor")
        return self.effect_model


Targets = tuple[Int[Array, " some"], Array, Float[Array, " some"]]
"""Rows, what to learn from them, and how much each counts."""


def _classes(trial: Trial, arm: int, own: Float[Array, " round"]) -> Targets:
    """Return Z of the rows of an arm and of control, each counting by 1 / 2e."""
    rows = np.flatnonzero((trial.arm == arm) | (trial.arm == 0))
    return rows, (trial.y[rows] == (trial.arm[rows] == arm)).astype(np.int64), 0.5 / own[rows]


def _weighed(trial: Trial, arm: int, own: Float[Array, " round"]) -> Targets:
    """Return ±2y of the rows of an arm and of control, each counting by 1 / 2e."""
    rows = np.flatnonzero((trial.arm == arm) | (trial.arm == 0))
    return rows, np.where(trial.arm[rows] == arm, 2.0, -2.0) * trial.y[rows], 0.5 / own[rows]


def _transformed(trial: Trial, arm: int, own: Float[Array, " round"]) -> Targets:
    """Return y* of all rows; a row of a third arm has 0."""
    sign = (trial.arm == arm) * 1.0 - (trial.arm == 0)
    return np.arange(len(trial)), sign * trial.y / own, np.ones(len(trial))


def _fitted(model: Any, x: Float[Array, "some feat"], target: Array, weight: Float[Array, " some"]) -> Any:
    """Return a fitted model, or the one value that there is."""
    if (target == target[0]).all():
        return float(2 * target[0] - 1) if is_classifier(model) else float(target[0])
    return Nuisance(model).fit(x, target, None if (weight == weight[0]).all() else weight)


def _said(model: Any, x: Float[Array, "round feat"]) -> Float[Array, " round"]:
    if isinstance(model, float):
        return np.full(len(x), model)
    if not is_classifier(model):
        return np.asarray(model.predict(x), dtype=np.float64).reshape(len(x))
    chance = np.asarray(model.predict_proba(x), dtype=np.float64)
    return 2 * chance[:, 1] - 1


def _mean(
    trial: Trial, chance: Float[Array, "round arm"], weight: Float[Array, " round"], known: bool
) -> Average:
    """Return the difference of the arms' means weighted by 1 / e, whose influence `scores` has at them."""
    own = weight / chance[np.arange(len(trial)), trial.arm]
    mean = np.bincount(trial.arm, own * trial.y) / np.bincount(trial.arm, own)
    each = np.broadcast_to(mean, chance.shape)
    how = f"means of arms weighted by {'known' if known else 'estimated'} chances"
    return average(scores(trial.y, trial.arm, each, chance), trial.weight, trial.user, trial.arms, how)
