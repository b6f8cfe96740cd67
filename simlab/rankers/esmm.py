"""ESMM: a conversion is a click and what follows on it, learned from everything that was shown."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from simlab.context import Catalog, Context
from simlab.errors import BadInput
from simlab.rankers._multitask import MultiTask, Networks, TaskSpec, apart, at_least_one
from simlab.rankers.contract import Sizes


class ESMM(MultiTask):
    """P(convert) = P(click) P(convert | click), each factor the sigmoid of a tower on x = [u, v_i, u ⊙ v_i].

    The first task is the click, the second the conversion. The conversion's head says the logit of the
    product, so its loss is over all that was shown, and P(convert | click) is never trained on clicks alone,
    which are a selection. With logits a and b that logit is −log(e^−a + e^−b + e^−a−b): nothing is subtracted
    from 1, so nothing is lost. Further tasks have a tower each and take no part in it.

    Source: Ma et al. (2018), "Entire space multi-task model: an effective approach for estimating post-click
    conversion rate", SIGIR, equations 1 and 3. The towers share the vectors u and v.

    Args:
        sizes: the data's sizes.
        spec: `TaskSpec` and the widths of each `tower`.
        catalog: the items; what is known of them goes into v.

    Raises:
        BadInput: unless the first two tasks are binary, if the towers have no layer, and for heads that
            cannot be.
    """

    @dataclass(frozen=True)
    class Spec(TaskSpec):
        """Settings of the family."""

        tower: tuple[int, ...] = (64, 32)

    name: ClassVar[str] = "esmm"

    def __init__(self, sizes: Sizes, spec: Spec, catalog: Catalog | None = None) -> None:
        at_least_one(self.name, tower=spec.tower)
        if len(spec.tasks) < 2 or spec.kinds[:2] != ("binary", "binary"):
            raise BadInput(
                f"esmm needs a click and a conversion, both binary, as its first tasks: {spec.tasks}"
            )
        super().__init__(sizes, spec, len(spec.tasks) * spec.tower[0], catalog)
        self.towers = Networks(len(spec.tasks), (*spec.tower, 1), spec.dropout)

    def heads(self, x: Float[Tensor, "pair width"]) -> Float[Tensor, "task pair"]:
        """Return the outputs: of the click, of click and conversion, and of the further tasks."""
        said = self._towers(x)
        a, b = said[0], said[1]
        both = -torch.stack([-a, -b, -a - b]).logsumexp(0)
        return torch.cat([said[:1], both.unsqueeze(0), said[2:]])

    def after_click(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand"]:
        """Return the logit of P(convert | click): what the item is worth once it is clicked."""
        said = self._towers(self.bottom(context, state).flatten(0, 1))
        return said[1].view(context.candidates.shape)

    def _towers(self, x: Float[Tensor, "pair width"]) -> Float[Tensor, "task pair"]:
        """Return the towers' outputs, each on its own part of the first layer."""
        said: Tensor = self.towers(apart(x, len(self.tasks)))
        return said.squeeze(2)
