"""Epsilon: another policy's slate, or now and then a random one."""

from dataclasses import dataclass

from simlab.context import Context
from simlab.errors import BadInput
from simlab.policy import Policy
from simlab.slates import Mixture, SlateDistribution, Uniform


@dataclass(frozen=True)
class Epsilon:
    """With probability ε a uniformly random slate, else the base policy's: ε is for whole slates.

    Attributes:
        base: any policy.
        epsilon: in [0, 1].
        name: in tables and logs.

    Raises:
        BadInput: for an ε outside [0, 1].
    """

    base: Policy
    epsilon: float = 0.1
    name: str = "epsilon"

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon <= 1:
            raise BadInput(f"epsilon is a probability in [0, 1], not {self.epsilon}")

    @property
    def privileged(self) -> bool:
        """Whether the base policy reads the state of a world."""
        return bool(getattr(self.base, "privileged", False))

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return (1 - ε) base + ε uniform."""
        parts = (self.base.distribution(context, slots), Uniform(context.mask, slots))
        return Mixture(parts, (1 - self.epsilon, self.epsilon))
