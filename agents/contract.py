"""The contract of an agent: a policy that learns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from envs.world import SlateWorld
from simlab.policy import Policy
from simlab.seeds import Seed


@runtime_checkable
class Agent(Policy, Protocol):
    """A `Policy` that can also learn, and be kept on disk."""

    def learn(
        self, world: SlateWorld[Any], users: int, steps: int, seed: Seed, report: Callable[[str], None] = ...
    ) -> "Agent":
        """Learn from `users` users seen for `steps` steps, and return the agent.

        Args:
            world: where to learn.
            users: how many users to meet.
            steps: for how many steps each.
            seed: of everything random.
            report: is told of the progress, a sentence at a time.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write weights (safetensors) and settings (JSON), whole or not at all."""
        ...

    @classmethod
    def load(cls, folder: Path) -> "Agent":
        """Read what `save` wrote, without running any code from the folder."""
        ...
