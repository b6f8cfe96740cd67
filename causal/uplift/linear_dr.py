"""Linear DR: doubly robust scores on a line of the features, with intervals."""

from typing import Any, ClassVar

from causal.uplift._econml import EconMLLearner, inferred
from causal.uplift.contract import Average, Trial


class LinearDR(EconMLLearner):
    """τ(x) = a + bᵀx, the least-squares fit of cross-fitted doubly robust scores.

    Where the effect is not linear it is the best linear view of it, and intervals are of that. EconML's
    `LinearDRLearner`; standard errors are robust to unequal spreads, and treat rows as independent.
    Chances below .01 count as .01, as in the DR-learner.

    Source: Semenova and Chernozhukov (2021), "Debiased machine learning of conditional average treatment
    effects and other causal functions", Econometrics Journal.

    Args:
        outcome_model: of the outcome given features and arm.
        propensity_model: of the arm; by default the trial's known chances, and logistic regression where it
            knows none.
        folds: of cross-fitting.
        random_state: seed of folds and models.
    """

    name: ClassVar[str] = "linear DR"
    intervals: ClassVar[bool] = True
    chances = True

    def _make(self, trial: Trial) -> Any:
        from econml.dr import LinearDRLearner

        return LinearDRLearner(
            model_regression=self._outcome(trial),
            model_propensity=self._propensity(trial),
            discrete_outcome=self._sorts(trial),
            cv=self._splits(trial),
            min_propensity=0.01,
            random_state=self.random_state,
        )

    def _ate(self) -> Average:
        if self._trial.weight is not None or self._trial.user is not None:
            return super()._ate()
        return inferred(self.model_, self._trial, "EconML's, of the linear fit", self.arms_)
