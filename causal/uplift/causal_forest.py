"""Causal forest: honest trees on residuals, with intervals."""

from typing import Any, ClassVar

import numpy as np

from causal.uplift._econml import EconMLLearner, chance_of
from causal.uplift.contract import Average, Trial


class CausalForest(EconMLLearner):
    """τ(x) by a generalised random forest of residuals on residuals, cross-fitted; honest trees.

    EconML's `CausalForestDML`. The average effect is its doubly robust one (`drate`).

    Source: Athey, Tibshirani and Wager (2019), "Generalized random forests", Annals of Statistics.

    Args:
        outcome_model: of the outcome given features, without the arm.
        propensity_model: of the arm.
        trees: of the forest; a multiple of 4.
        leaf: rows of a leaf, at least.
        folds: of cross-fitting.
        random_state: seed of folds, models and trees.
    """

    name: ClassVar[str] = "causal forest"
    intervals: ClassVar[bool] = True

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
            model_y=self._outcome(),
            model_t=chance_of(self.propensity_model, self.random_state),
            discrete_treatment=True,
            discrete_outcome=self._sorts(trial),
            cv=self._splits(trial),
            n_estimators=self.trees,
            min_samples_leaf=self.leaf,
            n_jobs=1,
            random_state=self.random_state,
        )

    def _ate(self) -> Average:
        if self._trial.weight is not None or self._trial.user is not None:
            return super()._ate()
        value, error = np.ravel(self.model_.ate_), np.ravel(self.model_.ate_stderr_)
        how = "EconML's doubly robust average effect"
        return Average(tuple(map(float, value)), tuple(map(float, error)), self.arms_[1:], how)
