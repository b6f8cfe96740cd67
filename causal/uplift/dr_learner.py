"""DR-learner: doubly robust scores, regressed on the features."""

from typing import Any, ClassVar

from causal.uplift._econml import EconMLLearner, outcome_of
from causal.uplift.contract import Trial


class DRLearner(EconMLLearner):
    """τ is the regression of ŷ_a - ŷ_0 on x, with ŷ_a = μ_a(x) + 1[arm = a] (y - μ_a(x)) / e_a(x).

    μ and e are cross-fitted. Right when either the outcomes or the propensities are. EconML's `DRLearner`.
    Chances below .01 count as .01, as in `causal.targeting.scores.aipw`: EconML's own bound is 1e-6, and a
    few rows whose chances a model puts too near 0 would then rule the mean.

    Source: Kennedy (2023), "Towards optimal doubly robust estimation of heterogeneous causal effects",
    Electronic Journal of Statistics; Foster and Syrgkanis (2023), "Orthogonal statistical learning".

    Args:
        outcome_model: of the outcome given features and arm.
        propensity_model: of the arm; by default the trial's known chances, and logistic regression where it
            knows none.
        effect_model: of τ, any regressor; gradient boosting by default.
        folds: of cross-fitting.
        random_state: seed of folds and models.
    """

    name: ClassVar[str] = "DR-learner"
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
        from econml.dr import DRLearner as Learner

        return Learner(
            model_regression=self._outcome(trial),
            model_propensity=self._propensity(trial),
            model_final=outcome_of(self.effect_model, self.random_state),
            discrete_outcome=self._sorts(trial),
            cv=self._splits(trial),
            min_propensity=0.01,
            random_state=self.random_state,
        )
