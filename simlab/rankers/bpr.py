"""BPR: matrix factorisation that is trained to order pairs of a click and a non-click."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from simlab.rankers.mf import MF


class BPR(MF):
    """The score of `MF`, whose recipe is the pairwise loss −log σ(s_ui − s_uj), i clicked and j drawn.

    b_u and μ are the same in both halves of a pair: the loss leaves them where they are.

    Source: Rendle, Freudenthaler, Gantner and Schmidt-Thieme (2009), "BPR: Bayesian personalized ranking from
    implicit feedback", UAI, sections 4.1 (the loss) and 4.3.1 (matrix factorisation). We train by AdamW in
    batches, where the paper has single steps of gradient descent, and decay the weights instead of penalising
    those of a pair.
    """

    @dataclass(frozen=True)
    class Spec(MF.Spec):
        """Settings of the family."""

        dim: int = 64
        past: int = 50
        spread: float = 0.1

    name: ClassVar[str] = "bpr"
    recipe: ClassVar[Mapping[str, Any]] = {
        "loss": "bpr",
        "negatives": 1,
        "epochs": 40,
        "batch_size": 2048,
        "learning_rate": 0.003,
        "weight_decay": 0.3,
        "split": "round",
        "judge": "ndcg",
        "patience": 8,
    }
