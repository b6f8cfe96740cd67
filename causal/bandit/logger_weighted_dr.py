"""DR whose correction weighs each logger by how sure it is."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from causal.contract import MODEL, Rounds, Score, Scores, ones
from causal.loggers import by_logger, precision, spreads
from simlab.errors import BadInput


@dataclass(frozen=True)
class LoggerWeightedDR:
    """V = mean(q_target) + Σ_l ω_l mean_l(w (r - q_logged)), with ω_l ∝ n_l / σ_l².

    What the model says of the target does not depend on the logger, so all rounds say it together, and only
    the correction is weighed. With σ_l² the variance of the correction over logger l's rounds, no
    other ω gives a smaller variance: the covariance of model and correction is the same for each logger.
    Consistent when the propensities or the model are right, if all loggers meet the same users. Naive pooling
    is `DR` itself.

    Args:
        leave_one_out: weigh each round by a variance that it is no part of, against the bias that
            `causal.loggers.precision` tells of.
        variance_of: what σ_l² is of: "correction", or "score", q_target + w (r - q_logged), as in obp.

    Source: Agarwal, Basu, Schnabel and Joachims (2017), "Effective evaluation using logged bandit feedback
    from multiple loggers", KDD, for weights by inverse variance; here for the correction of DR.

    Differs: `multi_weighted_dr` of obp 0.5.7 leaves none out, and takes σ_l² from the whole score but applies
    ω_l to the correction alone: consistent, with a variance that is not the least. Its interval is wrong as
    the one that `causal.bandit.logger_weighted_ips` tells of.

    Raises:
        BadInput: for an unknown `variance_of`, or a logger all of whose rounds score the same, unless all
            rounds of the log do, or one of fewer than 3 rounds to leave one out of.
    """

    leave_one_out: bool = True
    variance_of: Literal["correction", "score"] = "correction"

    name: ClassVar[str] = "logger-weighted DR"
    needs: ClassVar[tuple[str, ...]] = (*MODEL, "logger")
    leans: ClassVar[str] = "weight"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.variance_of not in ("correction", "score"):
            raise BadInput(f"variance_of is {self.variance_of}, but it is correction or score")

    def suits(self, data: Rounds) -> bool:
        """Tell whether each logger has a variance to weigh it by."""
        q_logged, q_target = data.model()
        correction = data.weight * (data.reward - q_logged)
        scored = correction if self.variance_of == "correction" else q_target + correction
        return spreads(scored, data.need("logger"), self.leave_one_out)

    def score(self, data: Rounds) -> Scores:
        """Score the model once, and each logger's correction as a ratio of its own."""
        q_logged, q_target = data.model()
        logger = data.need("logger")
        correction = data.weight * (data.reward - q_logged)
        scored = correction if self.variance_of == "correction" else q_target + correction
        model = Score(q_target, ones(q_target))
        weight = precision(scored, logger, self.leave_one_out)
        return (model, *by_logger(weight * correction, logger))
