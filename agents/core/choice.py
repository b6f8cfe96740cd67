"""What an actor chooses from at one moment: slates to draw, their log-probabilities, and the best one."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

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
        grouped = self._grouped()
        if grouped is None:
            return gumbel_top_k(self.logits, self.slots, generator)
        bad = self.logits.isnan() | self.logits.isposinf()
        if bool(bad.any()):
            row, column = bad.nonzero()[0].tolist()
            raise BadInput(
                f"row {row} has the logit {float(self.logits[row, column])} at column {column}; it must be "
                "finite or -inf"
            )
        return grouped.sample(torch.default_generator if generator is None else generator)

    def log_probs(
        self, columns: Int[Tensor, "user slot"], entropy: Entropy | None = "slots"
    ) -> tuple[Float[Tensor, "user slot"], Float[Tensor, " user"]]:
        """Return log P(a_k | above), and the sum of the slots' entropies; see `slot_log_probs`."""
        grouped = self._grouped()
        if grouped is None:
            return slot_log_probs(self.logits, columns, entropy)
        log_prob, each = grouped.slot_log_probs(columns)
        return log_prob, each.sum(1) if entropy else log_prob.new_zeros(len(log_prob))

    def mode(self) -> Int[Tensor, "user slot"]:
        """Return the likeliest slate; with groups the greedy one."""
        grouped = self._grouped()
        return top(self.logits, self.slots) if grouped is None else grouped.mode()

    def distribution(self) -> SlateDistribution:
        """Return the distribution, with its propensities."""
        return self._grouped() or PlackettLuce(self.logits, self.slots)

    def _grouped(self) -> GroupedPlackettLuce | None:
        if self.group is None or self.penalty is None:
            return None
        return GroupedPlackettLuce(self.logits, self.slots, self.group, self.penalty)
