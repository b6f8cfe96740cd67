"""X-learner: each arm's rows ask the other arm's model what would have happened."""

from typing import Any, ClassVar

import numpy as np
from sklearn.base import is_classifier

from causal.uplift._econml import EconMLLearner, chance_of, outcome_of
from causal.uplift._nuisance import OneChance
from causal.uplift.contract import Trial


class XLearner(EconMLLearner):
    """τ(x) = e(x) τ_0(x) + (1 - e(x)) τ_1(x), with τ_a fitted to imputed effects of arm a's rows.

    Good where one arm is much larger than the other. EconML's `XLearner`; it takes no weights.

    Source: Künzel, Sekhon, Bickel and Yu (2019), "Metalearners for estimating heterogeneous treatment effects
    using machine learning", PNAS.

    Args:
        outcome_model: of the outcome given features; gradient boosting by default.
        propensity_model: of the arm. By default the trial's known chances where they are the same in all
            rows; chances that differ by row would not be known of rows to come, so they are learned, by
            logistic regression, as where none is known.
        effect_model: of imputed effects, a regressor; the outcome model, or gradient boosting where that is a
            classifier.
        folds: only for the standard error of the average effect.
        random_state: seed of the models.
    """

    name: ClassVar[str] = "X-learner"
    weights = False

    def __init__(
        self,
        outcome_model: Any = None,
        propensity_model: Any = None,
        effect_model: Any = None,
        *,
        folds: int = 5,
        random_state: int = 0,
    ) -> None:
        super().__init__(outcome_model, propensity_model, folds=folds, random_state=random_state)
        self.effect_model = effect_model

    def _make(self, trial: Trial) -> Any:
        from econml.metalearners import XLearner as Learner

        self._sorts(trial)
        second = self.effect_model
        if second is None and self.outcome_model is not None and not is_classifier(self.outcome_model):
            second = self.outcome_model
        return Learner(
            models=self._outcome(trial, number=True),
            cate_models=outcome_of(second, self.random_state),
            propensity_model=self._weight_model(trial),
        )

    def _weight_model(self, trial: Trial) -> Any:
        known = trial.propensity
        if known is not None and self.propensity_model is None and np.ptp(known, axis=0).max() < 1e-9:
            return OneChance(tuple(known[0].tolist()))
        return chance_of(self.propensity_model, self.random_state)

    def _given(self, trial: Trial) -> dict[str, Any]:
        return {}
