"""A slate learner of stable-baselines3 as an agent of the lab: it learns in a world and keeps a folder."""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from stable_baselines3.common.callbacks import BaseCallback

from agents.core.algorithm import back, plain
from envs.sb3 import WorldVecEnv
from envs.world import SlateWorld
from simlab.context import Context
from simlab.errors import BadInput, nearest
from simlab.files import write_whole
from simlab.policy import Policy
from simlab.seeds import Seed
from simlab.slates import Deterministic, SlateDistribution
from simlab.training.store import read_json

OWN = ("num_envs", "greedy")
_FIXED = ("self", "policy", "env", "seed", "verbose", "tensorboard_log", "_init_setup_model")


class SlateAgent:
    """Any slate learner of stable-baselines3 behind `learn(world, users, steps, seed)`.

    Users × steps is the number of user-steps that it learns from; users who end make room for new ones.

    Args:
        **settings: of the learner, checked by name, and
            `num_envs`: users at a time (1,024, or fewer where `users` are fewer);
            `greedy`: act by the likeliest slate instead of a drawn one.

    Raises:
        BadInput: for a setting that the learner does not have, with the nearest one.
    """

    name: ClassVar[str]
    algorithm: ClassVar[Any]
    users_at_once: ClassVar[int] = 1024

    def __init__(self, **settings: Any) -> None:
        known = [k for k in inspect.signature(self.algorithm.__init__).parameters if k not in _FIXED]
        for key in settings:
            if key not in (*known, *OWN):
                raise BadInput(f"agent {self.name} has no setting {key}{nearest(key, [*known, *OWN])}")
        self.greedy = bool(settings.pop("greedy", False))
        self.num_envs = int(settings.pop("num_envs", self.users_at_once))
        if self.num_envs < 1:
            raise BadInput(f"num_envs is at least 1, not {self.num_envs}")
        self.settings = settings
        self.model: Any = None

    def learn(
        self,
        world: SlateWorld[Any],
        users: int,
        steps: int,
        seed: Seed,
        report: Callable[[str], None] = lambda text: None,
    ) -> "SlateAgent":
        """Learn from users × steps user-steps.

        Args:
            world: where to learn.
            users: how many users to meet, if all stay for `steps`.
            steps: steps of each.
            seed: of everything random.
            report: is told of the progress.

        Raises:
            BadInput: for less than one user or step, and as the learner.
        """
        if users < 1 or steps < 1:
            raise BadInput(f"an agent learns from at least one user and one step, not {users} and {steps}")
        total = users * steps
        settings = dict(self.settings)
        envs = min(self.num_envs, users)
        known = inspect.signature(self.algorithm.__init__).parameters
        if "n_steps" in known:  # a roll-out is no longer than the budget
            wished = settings.get("n_steps", known["n_steps"].default)
            settings["n_steps"] = max(1, min(wished, total // envs))
        if "learning_starts" in known:  # of a small budget, at most a quarter is spent before learning
            wished = settings.get("learning_starts", known["learning_starts"].default)
            settings["learning_starts"] = min(wished, total // 4)
        self.model = self.algorithm(
            env=WorldVecEnv(world, envs),
            seed=seed.split("learner").value >> 33,
            device=world.device,
            **settings,
        )
        self.model.learn(total, callback=_Tell(report, total), log_interval=None)
        return self

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return the distribution over slates that was learned.

        Raises:
            BadInput: if nothing was learned yet.
        """
        chosen: SlateDistribution = self._ready().distribution(context, slots)
        if not self.greedy:
            return chosen
        return Deterministic(chosen.mode(), context.candidates.shape[1])

    def save(self, folder: Path) -> None:
        """Write weights and settings (safetensors with a JSON header) and the agent's name (JSON).

        Raises:
            BadInput: if nothing was learned yet.
        """
        self._ready().save(folder / "learner.safetensors")
        facts = {"agent": self.name, "greedy": self.greedy, "num_envs": self.num_envs}
        facts["settings"] = {k: plain(k, v) for k, v in self.settings.items()}
        write_whole(folder / "agent.json", (json.dumps(facts, indent=2) + "\n").encode())

    @classmethod
    def load(cls, folder: Path) -> "SlateAgent":
        """Read what `save` wrote.

        Raises:
            BadInput: naming the file that is missing, damaged, or of another agent.
        """
        where = folder / "agent.json"
        facts = read_json(where)
        if facts.get("agent") != cls.name:
            raise BadInput(f"{where} is not of an agent named {cls.name}")
        settings = {k: back(v) for k, v in facts.get("settings", {}).items()}
        agent = cls(greedy=facts.get("greedy", False), num_envs=facts.get("num_envs", 1), **settings)
        agent.model = cls.algorithm.load(folder / "learner.safetensors")
        return agent

    def _ready(self) -> Any:
        if self.model is None:
            raise BadInput(f"agent {self.name} has not learned yet: call learn or load first")
        return self.model


@dataclass(frozen=True)
class Greedy:
    """Acts by the likeliest slate of another policy.

    Attributes:
        policy: whose.
    """

    policy: Policy

    @property
    def name(self) -> str:
        """The name in tables and logs."""
        return f"greedy({self.policy.name})"

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return all mass on the likeliest slate."""
        with torch.no_grad():
            chosen = self.policy.distribution(context, slots).mode()
        return Deterministic(chosen, context.candidates.shape[1])


class _Tell(BaseCallback):
    """Tells of the progress, ten times in all."""

    def __init__(self, report: Callable[[str], None], total: int) -> None:
        super().__init__()
        self.report, self.total, self.told = report, total, 0

    def _on_step(self) -> bool:
        share = 10 * self.num_timesteps // self.total
        if share > self.told:
            self.told = share
            ends: list[Any] = list(self.model.ep_info_buffer or [])
            mean = (
                f"mean return {sum(e['r'] for e in ends) / len(ends):.2f}" if ends else "no episode has ended"
            )
            self.report(f"{self.num_timesteps:,} of {self.total:,} user-steps, {mean}")
        return True
