"""Shared bottom: one network for all tasks, with a tower for each on top."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from simlab.context import Catalog
from simlab.rankers._multitask import MultiTask, Networks, TaskSpec, at_least_one
from simlab.rankers.contract import Sizes


class SharedBottom(MultiTask):
    """y_t(u, i) = h_t(f(x)), x = [u, v_i, u ⊙ v_i]: f is shared, each task t has a tower h_t.

    Source: Caruana (1997), "Multitask learning", Machine Learning 28; as equation 1 of Ma et al. (2018),
    "Modeling task relationships in multi-task learning with multi-gate mixture-of-experts", KDD.

    Args:
        sizes: the data's sizes.
        spec: `TaskSpec` and the widths of the `bottom` and of each `tower`.
        catalog: the items; what is known of them goes into v.

    Raises:
        BadInput: if the bottom has no layer, and for heads that cannot be.
    """

    @dataclass(frozen=True)
    class Spec(TaskSpec):
        """Settings of the family."""

        bottom: tuple[int, ...] = (64, 32)
        tower: tuple[int, ...] = (16,)

    name: ClassVar[str] = "shared_bottom"

    def __init__(self, sizes: Sizes, spec: Spec, catalog: Catalog | None = None) -> None:
        at_least_one(self.name, bottom=spec.bottom)
        super().__init__(sizes, spec, spec.bottom[0], catalog)
        self.shared = Networks(1, spec.bottom, spec.dropout)
        self.towers = Networks(len(spec.tasks), (spec.bottom[-1], *spec.tower, 1), spec.dropout)

    def heads(self, x: Float[Tensor, "pair width"]) -> Float[Tensor, "task pair"]:
        """Return the towers' outputs on the shared network's."""
        said: Tensor = self.towers(self.shared(x.unsqueeze(0)))
        return said.squeeze(2)
