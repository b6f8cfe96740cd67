"""CFR: TARNet whose representation is drawn to look alike under all arms."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from causal.uplift._deep import DeepLearner
from causal.uplift._ipm import DISTANCES
from causal.uplift._net import Batch, Net
from causal.uplift.contract import Trial
from simlab.errors import BadInput, nearest


class CFR(DeepLearner):
    """TARNet plus α · IPM(Φ of control rows, Φ of rows of arm a), the mean over arms a, in each batch.

    The distance is the squared difference of means (`linear`), MMD² with a Gaussian kernel (`rbf`), or the
    Sinkhorn divergence with the Euclidean cost (`wasserstein`).

    We differ from the paper: Φ is divided by its root mean square length in the batch before it is compared,
    so that shrinking Φ gains nothing (their code can divide each row by its own length); each arm is compared
    with control, so that several arms are taken; and the divergence is debiased, so it is 0 for equal
    samples. The rest is as in TARNet.

    Source: Shalit, Johansson and Sontag (2017), "Estimating individual treatment effect: generalization
    bounds and algorithms", ICML, equation 3 and algorithm 1.

    Args:
        ranker: and all others: those of `DeepLearner` in `causal/uplift/_deep.py`.
        alpha: weight of the distance; 0 is TARNet. Outcomes that are numbers are standardised.
        distance: linear, rbf or wasserstein.
        compared: rows of each arm in a batch that are compared at most; the last two distances look at
            pairs of rows.

    Raises:
        BadInput: from `fit`, for a distance that is not there, or settings that cannot be.
    """

    name: ClassVar[str] = "CFR"
    balanced: ClassVar[bool] = True

    def __init__(
        self,
        ranker: Any = "mlp",
        *,
        alpha: Any = 0.1,
        distance: Any = "wasserstein",
        compared: Any = 64,
        **shared: Any,
    ) -> None:
        super().__init__(ranker, **shared)
        self.alpha = alpha
        self.distance = distance
        self.compared = compared

    def _check(self, trial: Trial) -> None:
        super()._check(trial)
        if self.distance not in DISTANCES:
            known = ", ".join(DISTANCES)
            raise BadInput(f"distance is {known}, not {self.distance}{nearest(self.distance, DISTANCES)}")
        if not self.alpha >= 0:
            raise BadInput(f"alpha is at least 0, not {self.alpha}")
        if not self.compared >= 2:
            raise BadInput(f"compared is at least 2 rows, not {self.compared}")

    def _penalty(self, net: Net, phi: Float[Tensor, "row dim"], batch: Batch) -> Float[Tensor, ""]:
        if self.alpha == 0:
            return torch.zeros(())
        scale = phi.square().sum(1).mean().clamp(min=1e-12).sqrt()
        arms = len(self.arms_)
        # The first rows of each arm: batches are shuffled. An arm that a batch lacks adds nothing to it.
        rows = [(batch.arm == a).nonzero().squeeze(1)[: self.compared] for a in range(arms)]
        points = [phi.index_select(0, at) / scale for at in rows]
        mass = [batch.weight.index_select(0, at) for at in rows]
        parts = [
            DISTANCES[self.distance](points[0], points[a], mass[0], mass[a])
            for a in range(1, arms)
            if len(rows[a]) and len(rows[0])
        ]
        if not parts:
            return torch.zeros(())
        total: Tensor = torch.stack(parts).sum() * (self.alpha / (arms - 1))
        return total
