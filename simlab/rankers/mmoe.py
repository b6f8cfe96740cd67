"""MMoE: experts that all tasks share, and a gate for each task that mixes them."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from simlab.context import Catalog, Context
from simlab.rankers._multitask import MultiTask, Networks, TaskSpec, apart, at_least_one
from simlab.rankers.contract import Sizes


class MMoE(MultiTask):
    """y_t(u, i) = h_t(Σ_e g_te f_e(x)), g_t = softmax(W_t x), x = [u, v_i, u ⊙ v_i].

    The experts' first layers and all gates are one linear map of x.

    Source: Ma et al. (2018), "Modeling task relationships in multi-task learning with multi-gate
    mixture-of-experts", KDD, equations 6 to 8. The gates have an intercept.

    Args:
        sizes: the data's sizes.
        spec: `TaskSpec`, how many `experts`, the widths of each `expert` and of each `tower`.
        catalog: the items; what is known of them goes into v.

    Raises:
        BadInput: if there are no experts, the experts have no layer, and for heads that cannot be.
    """

    @dataclass(frozen=True)
    class Spec(TaskSpec):
        """Settings of the family."""

        experts: int = 4
        expert: tuple[int, ...] = (32, 16)
        tower: tuple[int, ...] = (16,)

    name: ClassVar[str] = "mmoe"

    def __init__(self, sizes: Sizes, spec: Spec, catalog: Catalog | None = None) -> None:
        at_least_one(self.name, expert=spec.expert)
        expert_width = spec.experts * spec.expert[0]
        super().__init__(sizes, spec, expert_width + len(spec.tasks) * spec.experts, catalog)
        self.expert_width = expert_width
        self.experts = Networks(spec.experts, spec.expert, spec.dropout)
        self.towers = Networks(len(spec.tasks), (spec.expert[-1], *spec.tower, 1), spec.dropout)

    def heads(self, x: Float[Tensor, "pair width"]) -> Float[Tensor, "task pair"]:
        """Return the towers' outputs, each on its own mixture of the experts."""
        experts = functional.relu(self.experts(apart(x[:, : self.expert_width], self.spec.experts)))
        mixed: Tensor = torch.einsum("pte,epw->tpw", self._gates(x), experts)
        said: Tensor = self.towers(mixed)  # its ReLU changes nothing: a mixture of ReLUs is not negative
        return said.squeeze(2)

    def gates(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand task expert"]:
        """Return how much of each expert goes into each task; they sum to one over the experts."""
        gates = self._gates(self.bottom(context, state).flatten(0, 1))
        return gates.view(*context.candidates.shape, len(self.tasks), self.spec.experts)

    def _gates(self, x: Float[Tensor, "pair width"]) -> Float[Tensor, "pair task expert"]:
        """Return the gates."""
        return x[:, self.expert_width :].reshape(len(x), len(self.tasks), self.spec.experts).softmax(2)
