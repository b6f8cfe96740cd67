"""Soft sharing: a network for each task, held near one another."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from simlab.context import Catalog
from simlab.rankers._multitask import MultiTask, Networks, TaskSpec, apart, at_least_one
from simlab.rankers.contract import Sizes


class SoftSharing(MultiTask):
    """y_t(u, i) = h_t(x), x = [u, v_i, u ⊙ v_i]: each task has a network of its own, and the loss a tie.

    `penalty` is λ Σ_{s<t} ‖θ_s − θ_t‖², θ_t the weights and biases of all hidden layers of task t. The last
    layers, which may say a logit and a number, are free. The vectors u and v are shared.

    Source: Duong et al. (2015), "Low resource dependency parsing: cross-lingual parameter sharing in a neural
    network parser", ACL, equation 3: there one of two networks is fixed, here all are trained together.

    Args:
        sizes: the data's sizes.
        spec: `TaskSpec`, the widths of each `tower` and λ, the strength of the `tie`.
        catalog: the items; what is known of them goes into v.

    Raises:
        BadInput: if the towers have no layer, and for heads that cannot be.
    """

    @dataclass(frozen=True)
    class Spec(TaskSpec):
        """Settings of the family."""

        tower: tuple[int, ...] = (64, 32)
        tie: float = 1e-3

    name: ClassVar[str] = "soft_sharing"

    def __init__(self, sizes: Sizes, spec: Spec, catalog: Catalog | None = None) -> None:
        at_least_one(self.name, tower=spec.tower)
        super().__init__(sizes, spec, len(spec.tasks) * spec.tower[0], catalog)
        self.towers = Networks(len(spec.tasks), (*spec.tower, 1), spec.dropout)

    def heads(self, x: Float[Tensor, "pair width"]) -> Float[Tensor, "task pair"]:
        """Return the towers' outputs, each on its own part of the first layer."""
        said: Tensor = self.towers(apart(x, len(self.tasks)))
        return said.squeeze(2)

    def penalty(self) -> Float[Tensor, ""]:
        """Return the tie between the tasks' hidden layers."""
        first = self.from_user, self.from_item, self.from_product
        theta = [p for layer in first for p in layer.parameters()]
        theta += [*self.towers.weights[:-1], *self.towers.biases[:-1]]
        each = torch.cat([p.reshape(len(self.tasks), -1) for p in theta], dim=1)
        # Σ_{s<t} ‖θ_s − θ_t‖² is n times the squares around the mean.
        apartness = len(each) * (each - each.mean(0)).square().sum()
        return apartness * float(self.spec.tie)
