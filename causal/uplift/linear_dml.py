"""Linear DML: residuals on residuals, with a line of the features as effect."""

from typing import Any, ClassVar

from causal.uplift._econml import EconMLLearner, inferred
from causal.uplift.contract import Average, Trial


class LinearDML(EconMLLearner):
    """τ(x) = a + bᵀx by least squares of y - m(x) on (t - e(x)) (1, x), cross-fitted, with intervals.

    EconML's `LinearDML`; standard errors are robust to unequal spreads, and treat rows as independent.

    Source: Chernozhukov et al. (2018), "Double/debiased machine learning for treatment and structural
    parameters", Econometrics Journal.

    Args:
        outcome_model: of the outcome given features, without the arm.
        propensity_model: of the arm; by default the trial's known chances, and logistic regression where it
            knows none.
        folds: of cross-fitting.
        random_state: seed of folds and models.
    """

    name: ClassVar[str] = "linear DML"
    intervals: ClassVar[bool] = True
    chances = True

    def _make(self, trial: Trial) -> Any:
        from econml.dml import LinearDML as Learner

        return Learner(
            model_y=self._outcome(trial),
            model_t=self._propensity(trial),
            discrete_treatment=True,
            discrete_outcome=self._sorts(trial),
            cv=self._splits(trial),
            random_state=self.random_state,
        )

    def _ate(self) -> Average:
        if self._trial.weight is not None or self._trial.user is not None:
            return super()._ate()
        return inferred(self.model_, self._trial, "EconML's, of the linear fit", self.arms_)
