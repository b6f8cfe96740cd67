"""What all bandits share: act, look, update after every step; come and go from disk."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from envs.contract import Response
from envs.world import SlateWorld
from simlab.context import Context
from simlab.errors import BadInput
from simlab.files import write_whole
from simlab.policy import Policy
from simlab.rankers.contract import Sizes, checked
from simlab.seeds import Seed
from simlab.slates import SlateDistribution
from simlab.training.store import first_line, read_json, read_tensors, write_tensors


def silent(text: str) -> None:
    """Report to nobody."""


@dataclass(eq=False)
class Bandit(ABC):
    """A policy with statistics that are updated after every step, once for the whole batch.

    All users of a step act on the same statistics, and their answers are added up together: t rounds of the
    paper are t users here, seen in batches. Statistics are sums, so the order within a batch does not matter.
    `learn` starts anew each time. A bandit does not stop exploring when learning ends: it goes on acting by
    its rule, with the statistics it then has.

    A subclass is a dataclass of settings. It says what it keeps (`KEEPS`, tensors in `state`), and how it
    begins, updates and acts.

    Attributes:
        state: the statistics, by name; empty before learning.
        earned: clicks per user of each step of the last `learn`; not kept on disk.
    """

    KEEPS: ClassVar[tuple[str, ...]]
    state: dict[str, Tensor] = field(default_factory=dict, kw_only=True, repr=False)
    earned: list[float] = field(default_factory=list, kw_only=True, repr=False)

    @property
    def name(self) -> str:
        """The file's name, as on the command line."""
        return type(self).__module__.rsplit(".", 1)[-1]

    @abstractmethod
    def begin(self, world: SlateWorld[Any], context: Context, seed: Seed) -> None:
        """Lay out `state` for a world; `context` is the first batch."""

    @abstractmethod
    def update(self, context: Context, slate: Int[Tensor, "user slot"], response: Response) -> None:
        """Add what the whole batch answered to the statistics."""

    @abstractmethod
    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return the distribution over slates.

        Raises:
            BadInput: if it has not learned yet, or is asked about items that it does not know.
        """

    def refresh(self, seed: Seed) -> None:  # noqa: B027 (most have nothing to prepare)
        """Prepare to act, after `begin` and after every `update`: draw from a posterior, say."""

    def learn(
        self,
        world: SlateWorld[Any],
        users: int,
        steps: int,
        seed: Seed,
        report: Callable[[str], None] = silent,
    ) -> "Bandit":
        """Act for `users` users at once, and update after each of their steps.

        It ends early when nobody is left: users who leave are not replaced.

        Args:
            world: where to learn.
            users: how many users to meet, all in one market.
            steps: for how many steps each.
            seed: of everything random.
            report: is told what was earned.

        Raises:
            BadInput: for less than one user or step.
        """
        if users < 1 or steps < 1:
            raise BadInput(f"learning takes at least one user and one step, not {users} and {steps}")
        world_seed, mine = seed.split("world"), seed.split("policy").torch(world.device)
        self.state, self.earned = {}, []
        with torch.no_grad():
            self.begin(world, world.observe(world.reset(users, world_seed)), seed.split("begin"))
            self.refresh(seed.split("draw -1"))
            acts = play(world, self, users, steps, world_seed, mine)
            for t, (context, _, columns, response) in enumerate(acts):
                self.update(context, context.slate(columns), response)
                self.refresh(seed.split(f"draw {t}"))
                self.earned.append(float(response.click.sum()) / users)
        report(f"{self.name}: {users} users, {len(self.earned)} steps, {sum(self.earned):.4f} clicks a user")
        return self

    def ready(self) -> dict[str, Tensor]:
        """Return the statistics.

        Raises:
            BadInput: if there are none.
        """
        if not self.state:
            raise BadInput(f"agent {self.name} has not learned yet: call learn or load first")
        return self.state

    def settings(self) -> dict[str, Any]:
        """Return the settings as plain JSON."""
        return {f.name: getattr(self, f.name) for f in fields(self) if not f.kw_only}

    @classmethod
    def rebuild(cls, settings: dict[str, Any]) -> "Bandit":
        """Return the agent with these settings, as `settings` gave them."""
        build: Callable[..., Bandit] = cls
        return build(**settings)

    def save(self, folder: Path) -> None:
        """Write the statistics (safetensors) and the settings (JSON).

        The statistics' file is named by its content; the rename of `agent.json` is the moment at which the
        new agent replaces the old one.

        Raises:
            BadInput: if it has not learned yet.
        """
        state = self.ready()
        digest = hashlib.sha256(json.dumps(sorted(state)).encode())
        for name in sorted(state):
            digest.update(state[name].detach().cpu().contiguous().numpy().tobytes())
        file = f"state-{digest.hexdigest()[:16]}.safetensors"
        write_tensors(folder / file, state, {"agent": self.name})
        kept = {"agent": self.name, "settings": self.settings(), "state": file}
        write_whole(folder / "agent.json", (json.dumps(kept, indent=2) + "\n").encode())
        for old in folder.glob("state-*.safetensors"):
            if old.name != file:
                old.unlink()

    @classmethod
    def load(cls, folder: Path) -> "Bandit":
        """Read what `save` wrote; the agent is on the CPU.

        Raises:
            BadInput: naming the file that is missing, damaged or of another agent.
        """
        where = folder / "agent.json"
        kept = read_json(where)
        mine = cls.__module__.rsplit(".", 1)[-1]
        if kept.get("agent") != mine:
            raise BadInput(f"{where} is not of an agent named {mine}")
        try:
            file, given = str(kept["state"]), dict(kept["settings"])
            agent = cls.rebuild({k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
        except (KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{where} does not describe an agent ({first_line(error)})") from error
        if Path(file).name != file:
            raise BadInput(f"{where}: the file {file} is outside the folder")
        agent.state, _ = read_tensors(folder / file)
        lacking = sorted(set(cls.KEEPS) ^ set(agent.state))
        if lacking:
            raise BadInput(f"{folder / file} lacks or does not know {lacking[0]} of agent {mine}")
        return agent


def play(
    world: SlateWorld[Any],
    policy: Policy,
    users: int,
    steps: int,
    seed: Seed,
    luck: torch.Generator,
    first_user: int = 0,
) -> Iterator[tuple[Context, SlateDistribution, Int[Tensor, "user slot"], Response]]:
    """Let a policy act for one shard, and stop after each step so that it may learn.

    Args:
        world: where.
        policy: who acts; it is asked anew at each step.
        users: of the shard.
        steps: how many at most; it ends when nobody is left.
        seed: of the world.
        luck: of the policy.
        first_user: id of the first user.

    Yields:
        What the policy saw, its distribution, the columns that were shown, and the answers.
    """
    state = world.reset(users, seed, first_user)
    for t in range(steps):
        if t and not bool(state.active.any()):
            break
        context = world.observe(state)
        chosen = policy.distribution(context, world.slots)
        columns = chosen.sample(luck)
        state, response = world.step(state, context.slate(columns), seed)
        yield context, chosen, columns, response


def within(context: Context, n_items: int, n_features: int = 0) -> Context:
    """Return the context with every masked id inside the catalogue.

    Raises:
        BadInput: naming the row and candidate that is outside, or the features that do not fit.
    """
    return checked(context, Sizes(n_users=0, n_items=n_items, n_features=n_features))


def theta_of(world: SlateWorld[Any]) -> Float[Tensor, " slot"]:
    """Return the world's examination θ; ones where who sees a slot depends on the items above it."""
    try:
        theta = world.examination()
    except BadInput:
        return torch.ones(world.slots, dtype=torch.float64, device=world.device)
    return theta.to(world.device, torch.float64)
