"""DESCN: responses over the entire space, crossed with a head for the effect."""

from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from causal.uplift._deep import DeepLearner
from causal.uplift._net import Batch, Net, Shape
from causal.uplift.contract import Trial
from simlab.errors import BadInput


class DESCN(DeepLearner):
    """Heads for each arm's propensity π_a, response μ_a and, but for control, pseudo effect τ_a, on one Φ.

    Kept from the paper are all five losses. The propensity's cross-entropy. The entire space: π_a μ_a is
    fitted to 1(arm = a) · y on all rows, for each arm (ESTR and ESCR of two arms), so heads of rare arms
    learn from all rows. The cross network: on rows of arm a ≠ 0 the response is fitted by μ_0 moved by +τ_a,
    on control rows by μ_a moved by −τ_a, on the scale of the predictor η. `effect` is μ_a − μ_0, as in the
    authors' code.

    We differ: the body is any ranker and the widths are ours; a control row's cross loss is the mean over
    arms, so several arms are taken; one weight goes with each pair of losses, where they have one each;
    outcomes may be numbers and counts; and heads of responses are also fitted to their own rows' outcomes
    (`own`; 0 is the paper's loss, whose √PEHE on ten replications of IHDP is 1.33 where ours is 1.03). The
    known propensity is not put in π's place in training: π is what ties the spaces.

    Source: Zhong et al. (2022), "DESCN: Deep entire space cross networks for individual treatment effect
    estimation", KDD, section 4.

    Args:
        ranker: and all others: those of `DeepLearner` in `causal/uplift/_deep.py`.
        propensity: weight of the propensity's loss.
        entire: weight of the losses over the entire space.
        cross: weight of the cross losses.
        own: weight of each row's loss under its own arm.
    """

    name: ClassVar[str] = "DESCN"

    def __init__(
        self,
        ranker: Any = "mlp",
        *,
        propensity: Any = 0.5,
        entire: Any = 0.5,
        cross: Any = 0.5,
        own: Any = 0.5,
        **shared: Any,
    ) -> None:
        super().__init__(ranker, **shared)
        self.propensity = propensity
        self.entire = entire
        self.cross = cross
        self.own = own

    def _check(self, trial: Trial) -> None:
        super()._check(trial)
        for name in ("propensity", "entire", "cross", "own"):
            if not getattr(self, name) >= 0:
                raise BadInput(f"{name} is at least 0, not {getattr(self, name)}")
        if self.entire + self.cross + self.own == 0:
            raise BadInput("entire, cross and own are all 0, so nothing is learned of the outcome")

    def _extra_heads(self, arms: int) -> Mapping[str, Shape]:
        hidden = tuple(self.heads)
        return {"propensity": (arms, hidden), "effect": (arms - 1, hidden)}

    def _loss(self, net: Net, phi: Float[Tensor, "row dim"], batch: Batch) -> Float[Tensor, " row"]:
        kind, y, arm = batch.kind, batch.y, batch.arm
        eta, tau = net.heads["outcome"](phi), net.heads["effect"](phi)
        said = net.heads["propensity"](phi)
        loss = self.propensity * functional.cross_entropy(said, arm, reduction="none")
        is_arm = functional.one_hot(arm, eta.shape[1]).to(y.dtype)
        joint = said.softmax(1) * kind.inverse(eta)
        loss = loss + self.entire * kind.loss_of_mean(joint, is_arm * y.unsqueeze(1)).sum(1)
        crossed = kind.loss(eta[:, :1] + tau, y.unsqueeze(1))  # right for a row of that arm
        back = kind.loss(eta[:, 1:] - tau, y.unsqueeze(1)).mean(1)  # right for control rows
        loss = loss + self.cross * ((crossed * is_arm[:, 1:]).sum(1) + back * is_arm[:, 0])
        total: Tensor = loss + self.own * kind.loss(batch.own(eta), y)
        return total
