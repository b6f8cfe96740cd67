"""Random: every slate is equally likely."""

from dataclasses import dataclass

from simlab.context import Context
from simlab.slates import SlateDistribution, Uniform


@dataclass(frozen=True)
class Random:
    """Show any allowed candidates in any order: the baseline, and the logger with the fewest assumptions."""

    name: str = "random"

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return the uniform distribution over the mask."""
        return Uniform(context.mask, slots)
