"""R-learner: residuals on residuals, with any model of the effect."""

from typing import Any, ClassVar

from causal.uplift._econml import EconMLLearner, outcome_of
from causal.uplift.contract import Trial


class RLearner(EconMLLearner):
    """τ = argmin Σ [(y - m(x)) - τ(x) (t - e(x))]², cross-fitted.

    Robust to errors of m and e to first order. EconML's `NonParamDML`; two arms.

    Source: Nie and Wager (2021), "Quasi-oracle estimation of heterogeneous treatment effects", Biometrika.

    Args:
        outcome_model: of the outcome given features, without the arm.
        propensity_model: of the arm; by default the trial's known chances, and logistic regression where it
            knows none.
        effect_model: of τ, a regressor that takes weights; gradient boosting by default.
        folds: of cross-fitting.
        random_state: seed of folds and models.
    """

    name: ClassVar[str] = "R-learner"
    several: ClassVar[bool] = False
    chances = True

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
        from econml.dml import NonParamDML

        return NonParamDML(
            model_y=self._outcome(trial),
            model_t=self._propensity(trial),
            model_final=outcome_of(self.effect_model, self.random_state),
            discrete_treatment=True,
            discrete_outcome=self._sorts(trial),
            cv=self._splits(trial),
            random_state=self.random_state,
        )
