"""Popularity: the most popular first."""

from dataclasses import dataclass

from simlab.context import Context
from simlab.errors import BadInput
from simlab.slates import Ranked, SlateDistribution


@dataclass(frozen=True)
class Popularity:
    """Sort the candidates by the popularity that everyone sees; equals stand in random order."""

    name: str = "popularity"

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return the ranking by `context.popularity`.

        Raises:
            BadInput: if the context says nothing of popularity.
        """
        if context.popularity is None:
            raise BadInput(f"policy {self.name} needs a context with popularity, and this one has none")
        return Ranked(context.popularity, slots, context.mask)
