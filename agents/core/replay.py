"""What happened, kept as tensors to be learned from again: n steps at a time, evenly or by priority."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from agents.core.rows import Step
from simlab.context import Context
from simlab.errors import BadInput

BETA = 0.4
"""How much of the priorities' bias the weights take back by default."""
_WHERE = ("features", "history", "feedback", "candidates", "mask", "tally")


@dataclass(frozen=True)
class Batch:
    """Some user-steps, each with what followed.

    Attributes:
        context: what was seen.
        columns: what was shown.
        click: what was clicked.
        earned: what each slot earned, at the first step alone.
        reward: Σ_{j<m} γ^j r_{t+j}, with m steps up to n, the episode's end or the newest step kept.
        follow: what was seen after those m steps.
        terminated: the user was gone for good then.
        discount: γ^m.
        weight: what the row counts; below 1 where priorities drew it too often.
        index: where it is kept: the step and the row.
    """

    context: Context
    columns: Int[Tensor, "row slot"]
    click: Float[Tensor, "row slot"]
    earned: Float[Tensor, "row slot"]
    reward: Float[Tensor, " row"]
    follow: Context
    terminated: Bool[Tensor, " row"]
    discount: Float[Tensor, " row"]
    weight: Float[Tensor, " row"]
    index: Int[Tensor, " row"]

    def __len__(self) -> int:
        """Return how many user-steps there are."""
        return len(self.columns)


class SlateReplay:
    """A ring of the last steps of B users.

    What all rows of all steps share (the whole catalogue as candidates) is kept once. Ids are kept as int32.

    Args:
        size: user-steps that it holds at most, rounded up to whole steps.
        observation_space: ignored: the shapes are those of what is added.
        action_space: ignored.
        device: where it is.
        n_envs: B.
        optimize_memory_usage: ignored.
        priority: α, the power of the priority in the chance to be drawn; 0 draws evenly.

    Source of the priorities: Schaul et al. (2016), "Prioritized experience replay", ICLR, equations 1 and 2.
    """

    def __init__(
        self,
        size: int,
        observation_space: Any = None,
        action_space: Any = None,
        device: torch.device | str = "cpu",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        priority: float = 0.0,
    ) -> None:
        if size < 1:
            raise BadInput(f"a replay buffer holds at least 1 user-step, not {size}")
        self.steps, self.n_envs, self.device = -(-size // n_envs), n_envs, torch.device(device)
        self.priority = priority
        self.at, self.count = 0, 0
        self.kept: dict[str, Tensor] = {}
        self.shared: dict[str, Tensor] = {}
        self.top = 1.0

    def __len__(self) -> int:
        """Return how many user-steps it holds."""
        return self.count * self.n_envs

    def add(self, context: Context, columns: Int[Tensor, "user slot"], step: Step) -> None:
        """Keep one step of all users."""
        found = {"columns": columns, "click": step.click, "earned": step.earned, "reward": step.reward}
        found |= {"terminated": step.terminated, "done": step.done}
        for prefix, seen in (("", context), ("next.", step.last)):
            for name in _WHERE:
                value = getattr(seen, name)
                if value is None:  # nobody counts
                    continue
                if (
                    value.dim() == 2
                    and value.stride(0) == 0
                    and (name == "candidates" or value.stride(1) == 0)
                ):
                    self.shared[prefix + name] = value[:1]
                else:
                    found[prefix + name] = value
        if self.priority:
            found["priority"] = torch.full((self.n_envs,), self.top, device=self.device)
        for name, value in found.items():
            if name not in self.kept:
                kind = torch.int32 if value.dtype == torch.long else value.dtype
                shape = (self.steps, *value.shape)
                self.kept[name] = torch.zeros(shape, dtype=kind, device=self.device)
            self.kept[name][self.at] = value
        self.at = (self.at + 1) % self.steps
        self.count = min(self.count + 1, self.steps)

    def sample(
        self, rows: int, luck: torch.Generator, *, n_step: int = 1, discount: float = 0.99, beta: float = BETA
    ) -> Batch:
        """Draw user-steps with replacement.

        Args:
            rows: how many.
            luck: of the draw.
            n_step: n, rewards that are added up before the value.
            discount: γ of a step.
            beta: how much of the priorities' bias the weights take back; 1 is all.

        Raises:
            BadInput: if nothing was added yet.
        """
        if not self.count:
            raise BadInput("the replay buffer is empty: nothing was seen yet")
        index, weight = self._draw(rows, luck, beta)
        age = index // self.n_envs  # 0 is the oldest step
        user = index % self.n_envs
        first = (self.at - self.count) % self.steps
        step = (first + age) % self.steps
        reward = torch.zeros(rows, device=self.device)
        gamma = torch.ones(rows, device=self.device)
        alive = torch.ones(rows, dtype=torch.bool, device=self.device)
        last = step
        for ahead in range(n_step):
            now = (step + ahead) % self.steps
            last = torch.where(alive, now, last)
            reward = reward + self.kept["reward"][now, user] * gamma * alive
            gamma = torch.where(alive, gamma * discount, gamma)
            alive = alive & ~self.kept["done"][now, user] & (age + ahead + 1 < self.count)
        return Batch(
            context=self._context("", step, user),
            columns=self.kept["columns"][step, user].long(),
            click=self.kept["click"][step, user],
            earned=self.kept["earned"][step, user],
            reward=reward,
            follow=self._context("next.", last, user),
            terminated=self.kept["terminated"][last, user],
            discount=gamma,
            weight=weight,
            index=step * self.n_envs + user,
        )

    def cut(self) -> None:
        """Let no row go on behind the newest step: what comes next is of other users."""
        if self.count:
            self.kept["done"][(self.at - 1) % self.steps] = True

    def rate(self, index: Int[Tensor, " row"], error: Float[Tensor, " row"]) -> None:
        """Set priorities to |error|, a little above 0; does nothing where steps are drawn evenly."""
        if self.priority:
            size = error.detach().abs() + 1e-3
            self.kept["priority"].view(-1)[index] = size
            self.top = max(self.top, float(size.max()))

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that it holds."""
        facts = torch.tensor([self.at, self.count, self.top], dtype=torch.float64)
        shared = {f"shared.{k}": v for k, v in self.shared.items()}
        return {"facts": facts, **{f"kept.{k}": v for k, v in self.kept.items()}, **shared}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` returned."""
        self.at, self.count = int(tensors["facts"][0]), int(tensors["facts"][1])
        self.top = float(tensors["facts"][2])
        for prefix, mine in (("kept.", self.kept), ("shared.", self.shared)):
            mine.clear()
            found = {k: v for k, v in tensors.items() if k.startswith(prefix)}
            mine.update({k.removeprefix(prefix): v.to(self.device) for k, v in found.items()})

    def _draw(
        self, rows: int, luck: torch.Generator, beta: float
    ) -> tuple[Int[Tensor, " row"], Float[Tensor, " row"]]:
        """Return positions counted from the oldest step, and weights."""
        n = len(self)
        if not self.priority:
            index = torch.randint(0, n, (rows,), generator=luck, device=self.device)
            return index, torch.ones(rows, device=self.device)
        first = (self.at - self.count) % self.steps
        ring = self.kept["priority"].roll(-first, 0)[: self.count].reshape(-1)
        mass = ring.double() ** self.priority
        upto = mass.cumsum(0)
        point = torch.rand(rows, generator=luck, device=self.device, dtype=torch.float64) * upto[-1]
        index = torch.searchsorted(upto, point, right=True).clamp(max=n - 1)
        weight = (n * mass[index] / upto[-1]) ** -beta
        return index, (weight / weight.max()).float()

    def _context(self, prefix: str, step: Int[Tensor, " row"], user: Int[Tensor, " row"]) -> Context:
        found: dict[str, Any] = {}
        for name in _WHERE:
            key = prefix + name
            if key in self.kept:
                value = self.kept[key][step, user]
                found[name] = value.long() if value.dtype == torch.int32 else value
            elif key in self.shared:
                found[name] = self.shared[key].expand(len(step), -1)
        return Context(user=torch.zeros_like(step), **found)
