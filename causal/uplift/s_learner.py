"""S-learner: one outcome model, with the arm among its features."""

from typing import Any, ClassVar

from causal.uplift._econml import EconMLLearner
from causal.uplift.contract import Trial


class SLearner(EconMLLearner):
    """τ(x) = μ(x, a) - μ(x, 0), with one model μ of all arms.

    A model that penalises or seldom splits by the arm draws the effect towards 0. EconML's `SLearner`; it
    takes no weights.

    Source: Künzel, Sekhon, Bickel and Yu (2019), "Metalearners for estimating heterogeneous treatment effects
    using machine learning", PNAS.

    Args:
        outcome_model: of the outcome given features and arm; gradient boosting by default.
        propensity_model: only for the standard error of the average effect.
        folds: only for the standard error of the average effect.
        random_state: seed of the model.
    """

    name: ClassVar[str] = "S-learner"
    weights = False

    def _make(self, trial: Trial) -> Any:
        from econml.metalearners import SLearner as Learner

        self._sorts(trial)
        return Learner(overall_model=self._outcome(trial, number=True))

    def _given(self, trial: Trial) -> dict[str, Any]:
        return {}
