"""What learners of a latent action share: critics first, then the actor, each by an optimiser of its own."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from gymnasium import spaces
from jaxtyping import Float, Int
from torch import Tensor, nn

from agents.core.networks import build_ranker
from agents.core.off_policy import SlateBasePolicy, SlateOffPolicy
from agents.core.replay import Batch, SlateReplay
from agents.core.rows import Step
from simlab.context import Context
from simlab.errors import BadInput
from simlab.rankers.contract import Ranker


class LatentPolicy(SlateBasePolicy):
    """A policy whose networks have two layers by default, and whose options are numbers of least size.

    Args:
        *spaces_and_rate: as `SlateBasePolicy`.
        hidden: widths of the layers of actor and critics.
        **settings: as `SlateBasePolicy`.
    """

    def __init__(self, *spaces_and_rate: Any, hidden: tuple[int, ...] = (128, 128), **settings: Any) -> None:
        super().__init__(*spaces_and_rate, hidden=hidden, **settings)

    def numbers(self, **known: tuple[float | int, float | int]) -> dict[str, float | int]:
        """Return the options, each a number: its default and the least that it may be.

        Raises:
            BadInput: for an option that is not known, is no number or is too small.
        """
        self.check_options(*known)
        found = {}
        for key, (default, low) in known.items():
            value = self.options.get(key, default)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (number and low <= value < math.inf):
                raise BadInput(f"{key} is a number and at least {low:g}, not {value}")
            found[key] = value
        return found

    def ranker_with(self, spec: Mapping[str, Any], what: str) -> Ranker:
        """Return an untrained ranker of the policy's family, with other settings."""
        space = self.observation_space
        assert isinstance(space, spaces.Dict)
        width = space["features"].shape[0] if "features" in space.spaces else 0  # type: ignore[index]
        return build_ranker(self.family, spec, self.n_items, width, self.catalog, self.seed.split(what))

    def adam(self, parameters: Any, lr_schedule: Any) -> torch.optim.Optimizer:
        """Return an optimiser of some parameters."""
        make: Any = self.optimizer_class
        made: torch.optim.Optimizer = make(list(parameters), lr=lr_schedule(1), **self.optimizer_kwargs)
        return made


class LatentOffPolicy(SlateOffPolicy):
    """Takes the critics' step by `losses`, then the actor's by `improve`; `prepare` may come before both."""

    policy: Any

    def prepare(self, batch_size: int) -> bool:
        """Do what comes before gradient steps; return whether it is time for them."""
        return True

    def improve(self, batch: Batch) -> dict[str, Tensor]:
        """Take the actor's gradient step, and return figures for the log."""
        raise NotImplementedError

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Take gradient steps on draws from the buffer."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self._optimizers())
        if not self.prepare(batch_size):
            return
        buffer: Any = self.replay_buffer
        total = torch.zeros((), device=self.device)
        figures: dict[str, Tensor] = {}
        for _ in range(gradient_steps):
            batch = self.drawn(batch_size)
            loss, error, figures = self.losses(batch)
            self.descend(loss, "critic_optimizer")
            buffer.rate(batch.index, error)
            figures |= self.improve(batch)
            self._n_updates += 1
            self.after()
            total = total + loss.detach()
        # One number is looked at every hundred turns, so that no turn waits for it.
        if not math.isfinite(float(total)) or self._n_updates % 100 < gradient_steps:
            self.check_finite(float(total))
            self.logger.record("train/loss", float(total) / gradient_steps)
            for key, value in figures.items():
                self.logger.record(f"train/{key}", float(value.detach()))
            self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
            self.logger.record("rollout/exploration_rate", self.exploring())

    def descend(self, loss: Float[Tensor, ""], name: str) -> None:
        """Take one step of one optimiser; no parameter of another gets a gradient."""
        optimizer: torch.optim.Optimizer = getattr(self.policy, name)
        wanted = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        optimizer.zero_grad()
        torch.autograd.backward(loss, inputs=wanted)
        nn.utils.clip_grad_norm_(wanted, self.max_grad_norm)
        optimizer.step()

    def drawn(self, rows: int) -> Any:
        """Return user-steps from the buffer, with scaled rewards."""
        buffer: Any = self.replay_buffer
        batch = buffer.sample(rows, self.luck, n_step=self.n_step, discount=self.gamma)
        if self.reward_scale == 1:
            return batch
        scale = self.reward_scale
        return replace(batch, reward=batch.reward * scale, earned=batch.earned * scale)


@dataclass(frozen=True)
class LatentBatch(Batch):
    """User-steps with their latent actions.

    Attributes:
        latent: the point that was decoded.
    """

    latent: Float[Tensor, "row dim"]


class LatentReplay(SlateReplay):
    """A replay buffer that keeps latent actions too: set `pending` before `add`."""

    pending: Tensor | None = None

    def add(self, context: Context, columns: Int[Tensor, "user slot"], step: Step) -> None:
        """Keep one step of all users, and the pending latent actions."""
        assert self.pending is not None, "act comes first"
        at = self.at
        super().add(context, columns, step)
        if "latent" not in self.kept:
            self.kept["latent"] = torch.zeros(self.steps, *self.pending.shape, device=self.device)
        self.kept["latent"][at] = self.pending

    def sample(self, rows: int, luck: torch.Generator, **settings: Any) -> LatentBatch:
        """Draw user-steps with replacement; the settings are those of `SlateReplay.sample`."""
        batch = super().sample(rows, luck, **settings)
        known = {f.name: getattr(batch, f.name) for f in fields(batch)}
        return LatentBatch(**known, latent=self.kept["latent"].flatten(0, 1)[batch.index])

    def forget(self) -> None:
        """Drop everything."""
        self.at, self.count, self.top = 0, 0, 1.0
