"""Replay: keep the rounds in which the target agrees with the logger."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from causal.contract import Rounds, Score, Scores
from simlab.errors import BadInput
from simlab.log import BadCell


@dataclass(frozen=True)
class Replay:
    """V = Σ 1[match] r / Σ 1[match]: the mean reward of the rounds that the target would have logged too.

    For a uniformly random logger and a deterministic target. A round matches where its weight is above 0.
    Given that any round matches, its expectation is the target's value at every N: whatever the context, a
    match has the same chance, so matched rounds are a fair sample of the target's own. That chance is the
    same just when all positive weights are, so a log where they differ is refused: there, contexts whose item
    the logger liked match more often, and the mean is of the wrong contexts. Where it applies, it is SNIPS.

    Differs: `rm` of obp 0.5.7 takes any log. With a logger that prefers some items it converges to the wrong
    value; SNIPS does not.

    Source: Li, Chu, Langford and Wang (2011), "Unbiased offline evaluation of contextual-bandit-based news
    article recommendation algorithms", WSDM, section 3 (here for a target that does not learn meanwhile).

    Raises:
        BadInput: if two positive weights differ by more than one part in a million.
    """

    name: ClassVar[str] = "replay"
    needs: ClassVar[tuple[str, ...]] = ()
    leans: ClassVar[str] = "weight"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def suits(self, data: Rounds) -> bool:
        """Tell whether all positive weights are the same."""
        some = data.weight[data.weight > 0]
        return not len(some) or bool(some.max() <= some.min() * (1 + 1e-6))

    def check_sums(self, weights: Float[Tensor, "3 1"]) -> None:
        """Refuse a stream whose positive weights differ, which no single batch may have seen.

        None is below the largest exactly if Σw² = max w Σw.

        Args:
            weights: Σw, Σw² and the largest w of all rows so far.

        Raises:
            BadInput: if they differ.
        """
        total, square, largest = (float(x) for x in weights[:, 0])
        if square < largest * total * (1 - 1e-6):
            raise BadInput(f"{self.name} needs a uniformly random logger, but the weights differ: use snips")

    def score(self, data: Rounds) -> Scores:
        """Put the reward of a match above the line and the match below it."""
        match = data.weight > 0
        if not self.suits(data):
            here = float(data.weight[match][0])
            row = int(((data.weight / here - 1).abs() * match).argmax())
            why = f"is not the {here:g} of the first match: replay needs a uniformly random logger; use snips"
            raise BadCell("(weight)", row, why, float(data.weight[row]))
        return (Score(data.reward.where(match, 0.0), match.to(data.weight.dtype)),)
