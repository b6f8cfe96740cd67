"""What an actor chooses from at one moment: slates to draw, their log-probabilities, and the best one."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from agents.maths.grouped import draw_by_groups, grouped_slot_log_probs
from agents.maths.plackett_luce import Entropy, gumbel_top_k, slot_log_probs
from simlab.errors import BadInput
from simlab.slates import GroupedPlackettLuce, PlackettLuce, SlateDistribution
from simlab.slates.contract import top


@dataclass(frozen=True)
class Choice:
    """Plackett–Luce over logits; with groups, less a penalty for each item of the same group above.

    Attributes:
        logits: -inf where a candidate may not be shown.
        slots: K.
        group: of each candidate, or None.
        penalty: of each group after n items of it, or None.
    """

    logits: Float[Tensor, "user cand"]
    slots: int
    group: Int[Tensor, "user cand"] | None = None
    penalty: Float[Tensor, "user group slot"] | None = None

    def draw(self, generator: torch.Generator | None = None) -> Int[Tensor, "user slot"]:
        """Draw slates; without a generator from torch's global one.

        Raises:
            BadInput: naming the row with too few candidates, or whose logits are not finite.
        """
        grouped = self.grouped()
        if grouped is None:
            return gumbel_top_k(self.logits, self.slots, generator)
        return draw_by_groups(grouped, generator)[0]

    def log_probs(
        self, columns: Int[Tensor, "user slot"], entropy: Entropy | None = "slots"
    ) -> tuple[Float[Tensor, "user slot"], Float[Tensor, " user"]]:
        """Return log P(a_k | above), and an entropy; see `slot_log_probs`.

        Raises:
            BadInput: with groups, for another entropy than the sum over slots.
        """
        grouped = self.grouped()
        if grouped is None:
            return slot_log_probs(self.logits, columns, entropy)
        if entropy not in ("slots", None):
            raise BadInput(f'with groups there is the entropy "slots" alone, not {entropy}')
        log_prob, each = grouped_slot_log_probs(grouped, columns, entropy is not None)
        return log_prob, each.sum(1)

    def mode(self) -> Int[Tensor, "user slot"]:
        """Return the likeliest slate; with groups the greedy one."""
        grouped = self.grouped()
        return top(self.logits, self.slots) if grouped is None else grouped.mode()

    def distribution(self) -> SlateDistribution:
        """Return the distribution, with its propensities."""
        return self.grouped() or PlackettLuce(self.logits, self.slots)

    def grouped(self) -> GroupedPlackettLuce | None:
        """Return the distribution by groups; None where there are none.

        Raises:
            BadInput: for more slots than penalties were learned for.
        """
        if self.group is None or self.penalty is None:
            return None
        learned = self.penalty.shape[2]
        if self.slots > learned:
            raise BadInput(
                f"this agent learned slates of {learned} by groups, and {self.slots} are asked for"
            )
        penalty = self.penalty[:, :, : self.slots]
        return GroupedPlackettLuce(self.logits, self.slots, self.group, penalty, check=False)
