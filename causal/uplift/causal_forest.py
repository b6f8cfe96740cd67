"""Causal forest: honest trees on residuals, with intervals."""

from typing import Any, ClassVar

import numpy as np

from causal.targeting.scores import average
from causal.uplift._econml import EconMLLearner
from causal.uplift.contract import Average, Trial


class CausalForest(EconMLLearner):
    """τ(x) by a generalised random forest of residuals on residuals, cross-fitted; honest trees.

    EconML's `CausalForestDML`. The average effect of two arms is its doubly robust one (`drate`). With
    several arms that one is wrong in EconML 0.17: residuals are divided by each arm's variance, and not by
    the arms' covariance, and the standard error by the root of rows times arms, so it is √2 too small for
    two treated arms. There, and with weights or users, the average effect is the mean of cross-fitted doubly
    robust scores (`causal/targeting/scores.py`).

    Source: Athey, Tibshirani and Wager (2019), "Generalized random forests", Annals of Statistics.

    Args:
        outcome_model: of the outcome given features, without the arm.
        propensity_model: of the arm; by default the trial's known chances, and logistic regression where it
            knows none.
        trees: of the forest; a multiple of 4.
        leaf: rows of a leaf, at least.
        folds: of cross-fitting.
        random_state: seed of folds, models and trees.
    """

    name: ClassVar[str] = "causal forest"
    intervals: ClassVar[bool] = True
    chances = True

    def __init__(
        self,
        outcome_model: Any = None,
        propensity_model: Any = None,
        *,
        trees: int = 200,
        leaf: int = 10,
        folds: int = 5,
        random_state: int = 0,
    ) -> None:
        super().__init__(outcome_model, propensity_model, folds=folds, random_state=random_state)
        self.trees = trees
        self.leaf = leaf

    def _make(self, trial: Trial) -> Any:
        from econml.dml import CausalForestDML

        return CausalForestDML(
            model_y=self._outcome(trial),
            model_t=self._propensity(trial),
            discrete_treatment=True,
            discrete_outcome=self._sorts(trial),
            cv=self._splits(trial),
            n_estimators=self.trees,
            min_samples_leaf=self.leaf,
            n_jobs=1,
            random_state=self.random_state,
        )

    def _ate(self) -> Average:
        trial = self._trial
        if trial.weight is not None or trial.user is not None or len(trial.arms) > 2:
            return average(self._scores(), trial)
        value, error = np.ravel(self.model_.ate_), np.ravel(self.model_.ate_stderr_)
        how = "EconML's doubly robust average effect"
        return Average(tuple(map(float, value)), tuple(map(float, error)), self.arms_[1:], how)
