"""Who chooses: a policy turns what it sees into a distribution over slates."""

from typing import Protocol, runtime_checkable

from simlab.context import Context
from simlab.slates import SlateDistribution


@runtime_checkable
class Policy(Protocol):
    """The contract that worlds act on, logs record and estimators evaluate.

    A policy does not sample: it says how likely every slate is, so that each roll-out is a valid log.
    """

    @property
    def name(self) -> str:
        """The name of the policy in tables and logs."""
        ...

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return the distribution over slates of `slots` columns of `context.candidates`."""
        ...
