"""DragonNet: outcomes and treatment from one representation, with targeted regularisation."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from causal.uplift._deep import DeepLearner
from causal.uplift._influence import scores, targeted
from causal.uplift._net import Batch, Net, Shape
from causal.uplift._outcomes import chosen
from causal.uplift.contract import Array, Trial
from simlab.errors import BadInput


class DragonNet(DeepLearner):
    """Heads for each arm's outcome and a linear head for the chance of each arm, all on one Φ.

    The loss of a row is ℓ(η_a, y) + α · cross-entropy(g, a) + β · ℓ(η_a + ε_a / g_a, y), where η_a is the
    predictor of its own arm's mean, ℓ the outcome's loss and ε learned with the rest. Where ε is at its
    optimum Σ (y − μ_a) / g_a = 0 over the rows of each arm, so the plain mean of effects is doubly robust. At
    the end ε is solved for exactly on all rows, and `ate()` is that targeted estimate, with the standard
    error of its influence function. `effect` is μ_a − μ_0 without ε, as in the paper's code.

    We differ from the paper: each arm has its own ε (theirs is one, with h = t/g − (1−t)/(1−g)), so that
    several arms are taken and each arm's mean is targeted; ε moves the outcome's canonical predictor (logit,
    log), so means stay in their range, while theirs moves the mean by squared loss; and a known propensity
    takes the place of g in the targeting.

    Source: Shi, Blei and Veitch (2019), "Adapting neural networks for the estimation of treatment effects",
    NeurIPS, sections 2 and 3.

    Args:
        ranker: and all others: those of `DeepLearner` in `causal/uplift/_deep.py`; `clip` also bounds g in
            the loss.
        alpha: weight of the cross-entropy.
        beta: weight of targeted regularisation.
    """

    name: ClassVar[str] = "DragonNet"

    def __init__(self, ranker: Any = "mlp", *, alpha: Any = 1.0, beta: Any = 1.0, **shared: Any) -> None:
        super().__init__(ranker, **shared)
        self.alpha = alpha
        self.beta = beta

    def _check(self, trial: Trial) -> None:
        super()._check(trial)
        for name in ("alpha", "beta"):
            if not getattr(self, name) >= 0:
                raise BadInput(f"{name} is at least 0, not {getattr(self, name)}")

    def _extra_heads(self, arms: int) -> Mapping[str, Shape]:
        return {"propensity": (arms, ())}

    def _loss(self, net: Net, phi: Float[Tensor, "row dim"], batch: Batch) -> Float[Tensor, " row"]:
        eta = batch.own(net.heads["outcome"](phi))
        said = net.heads["propensity"](phi)
        loss = batch.kind.loss(eta, batch.y)
        loss = loss + self.alpha * functional.cross_entropy(said, batch.arm, reduction="none")
        chance = said.softmax(1).clamp(min=self.clip) if batch.chance is None else batch.chance
        moved = eta + net.epsilon.index_select(0, batch.arm) / batch.own(chance)
        moved_loss: Tensor = loss + self.beta * batch.kind.loss(moved, batch.y)
        return moved_loss

    def _estimates(self, trial: Trial) -> tuple[Float[Array, "round treated"], str]:
        mean, chance, how = self._nuisances(trial)
        fitted, kind = self.fitted_nets_, chosen(self.outcome, trial.y)
        weight = np.ones(len(trial)) if trial.weight is None else trial.weight
        unit = (trial.y - fitted.mean) / fitted.spread
        moved, self.epsilon_ = targeted(
            unit, trial.arm, (mean - fitted.mean) / fitted.spread, chance, weight, kind
        )
        found = scores(trial.y, trial.arm, moved * fitted.spread + fitted.mean, chance)
        return found, f"targeted, influence function, {how}"
