"""MLP: a small network over a user's and an item's vector."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from simlab.context import Catalog
from simlab.rankers._ncf import NCF, RECIPE
from simlab.rankers.contract import Sizes


class MLP(NCF):
    """logit(u, i) = μ + MLP([p_u, q_i]): the second half of NeuMF alone.

    What p and q are, and where we differ from the paper, is said in `simlab/rankers/_ncf.py`.

    Source: He et al. (2017), "Neural collaborative filtering", WWW, equation 10.

    Args:
        sizes: the data's sizes.
        spec: `dim` of p and q, `layers` of the network, its `dropout`, `past` items of history, `spread` of
            the first vectors.
        catalog: what is known of the items.

    Raises:
        BadInput: if the network has no layer, or for a dropout that is no share.
    """

    @dataclass(frozen=True)
    class Spec:
        """Settings of the family."""

        dim: int = 32
        layers: tuple[int, ...] = (64, 32, 16)
        dropout: float = 0.0
        past: int = 50
        spread: float = 0.1

    name: ClassVar[str] = "mlp"
    recipe: ClassVar[Mapping[str, Any]] = RECIPE

    def __init__(self, sizes: Sizes, spec: Spec, catalog: Catalog | None = None) -> None:
        super().__init__(sizes, spec, catalog, product=False, layers=spec.layers, dropout=spec.dropout)
