"""T-learner: an outcome model for each arm."""

from typing import Any, ClassVar

from causal.uplift._econml import EconMLLearner
from causal.uplift.contract import Trial


class TLearner(EconMLLearner):
    """τ(x) = μ_a(x) - μ_0(x), each arm's model fitted on its own rows.

    The errors of the two models do not cancel: where arms differ in size, the difference is rough. EconML's
    `TLearner`; it takes no weights.

    Source: Künzel, Sekhon, Bickel and Yu (2019), "Metalearners for estimating heterogeneous treatment effects
    using machine learning", PNAS.

    Args:
        outcome_model: of the outcome given features; gradient boosting by default.
        propensity_model: only for the standard error of the average effect.
        folds: only for the standard error of the average effect.
        random_state: seed of the models.
    """

    name: ClassVar[str] = "T-learner"
    weights = False

    def _make(self, trial: Trial) -> Any:
        from econml.metalearners import TLearner as Learner

        self._sorts(trial)
        return Learner(models=self._outcome(trial, number=True))

    def _given(self, trial: Trial) -> dict[str, Any]:
        return {}
