"""NeuMF: a factorisation and a small network, added up."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from simlab.context import Catalog
from simlab.rankers._ncf import NCF, RECIPE
from simlab.rankers.contract import Sizes


class NeuMF(NCF):
    """logit(u, i) = μ + ⟨h, p_u ⊙ q_i⟩ + MLP([p'_u, q'_i]), with separate vectors for the two halves.

    What they are, and where we differ from the paper, is said in `simlab/rankers/_ncf.py`; `gmf` and `mlp`
    are the halves alone.

    Source: He et al. (2017), "Neural collaborative filtering", WWW, equations 9, 10 and 12.

    Args:
        sizes: the data's sizes.
        spec: `dim` of every vector, `layers` of the network, its `dropout`, `past` items of history, `spread`
            of the first vectors.
        catalog: what is known of the items.

    Raises:
        BadInput: if the network has no layer, or for a dropout that is no share.
    """

    @dataclass(frozen=True)
    class Spec:
        """Settings of the family."""

        dim: int = 16
        layers: tuple[int, ...] = (64, 32, 16)
        dropout: float = 0.0
        past: int = 50
        spread: float = 0.1

    name: ClassVar[str] = "neumf"
    recipe: ClassVar[Mapping[str, Any]] = RECIPE

    def __init__(self, sizes: Sizes, spec: Spec, catalog: Catalog | None = None) -> None:
        super().__init__(sizes, spec, catalog, product=True, layers=spec.layers, dropout=spec.dropout)
