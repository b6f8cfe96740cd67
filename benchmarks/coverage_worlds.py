"""Worlds in which the coverage of intervals is measured: the truth is an integral over one context."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from causal.contract import MODEL, Estimator, Rounds
from simlab.seeds import Seed

Table = Callable[[Float[Tensor, " round"]], Float[Tensor, "round cand"]]
"""What each action has, for each context."""


@dataclass(frozen=True)
class World:
    """A context u, uniform on (0, 1), and what loggers, targets and clicks do for it; a reward is 0 or 1.

    Attributes:
        name: as in the table.
        words: what it is, in a sentence.
        logger: probabilities of the actions.
        target: probabilities of the actions.
        chance: of a click.
        model: q̂, what the reward model says; fixed, as if fitted on other rows.
        bound: the largest weight, where there is one.
    """

    name: str
    words: str
    logger: Table
    target: Table
    chance: Table
    model: Table
    bound: float | None = None

    def draw(self, rows: int, seed: Seed) -> Rounds:
        """Draw independent rounds."""
        u, v, w = torch.rand(3, rows, generator=seed.torch(), dtype=torch.float64)
        action = (self.logger(u).cumsum(1)[:, :-1] < v[:, None]).sum(1)
        click = w < _pick(self.chance(u), action)
        return self._rounds(u, action, click.double())

    def listed(self, grid: int = 40_000) -> tuple[Rounds, Float[Tensor, " round"]]:
        """List every round on a grid of contexts, finest near 0 where weights are large, with its chance."""
        v = (torch.arange(grid, dtype=torch.float64) + 0.5) / grid
        u, mass = v**3, 3 * v**2 / grid
        parts, chances = [], []
        for a in range(self.logger(u[:1]).shape[1]):
            action = torch.full((grid,), a)
            click, shown = _pick(self.chance(u), action), _pick(self.logger(u), action)
            for r in (0.0, 1.0):
                parts.append(self._rounds(u, action, torch.full_like(u, r)))
                chances.append(mass * shown * (click if r else 1 - click))
        fields = ("reward", "weight", *MODEL)
        return Rounds(**{f: torch.cat([getattr(p, f) for p in parts]) for f in fields}), torch.cat(chances)

    def truth(self) -> float:
        """Return the value of the target."""
        rounds, chance = self.listed()
        return float((chance * rounds.weight * rounds.reward).sum())

    def limit(self, estimator: Estimator[Rounds]) -> float:
        """Return what an estimator tends to: the truth and its bias. A row's score must be its own affair."""
        rounds, chance = self.listed()
        scores = estimator.score(rounds)
        return sum(float((chance * s.numerator).sum() / (chance * s.denominator).sum()) for s in scores)

    def _rounds(self, u: Tensor, action: Tensor, reward: Tensor) -> Rounds:
        target, model = self.target(u), self.model(u)
        weight = _pick(target, action) / _pick(self.logger(u), action)
        return Rounds(reward, weight, _pick(model, action), (target * model).sum(1))


def _pick(table: Float[Tensor, "round cand"], action: Int[Tensor, " round"]) -> Float[Tensor, " round"]:
    return table.gather(1, action[:, None]).squeeze(1)


def lines(start: Sequence[float], slope: Sequence[float]) -> Table:
    """Return a table whose columns are lines in u."""

    def table(u: Float[Tensor, " round"]) -> Float[Tensor, "round cand"]:
        return torch.tensor(start, dtype=u.dtype) + u[:, None] * torch.tensor(slope, dtype=u.dtype)

    return table


def always(*column: float) -> Table:
    """Return a table that is the same for every u."""
    return lines(column, [0.0] * len(column))


def softmax(scale: float) -> Table:
    """Return the probabilities of a softmax over five actions."""
    logits = lines([0.0, 0.3, 0.6, 0.2, -0.2], [1.2, 0.4, -0.8, 0.0, 0.8])
    return lambda u: (scale * logits(u)).softmax(1)


def rare(share: float, power: float) -> Table:
    """Return two actions, the first with probability share · u^power: P(weight > t) ~ t^-(1 + 1/power)."""
    return lambda u: torch.stack([share * u**power, 1 - share * u**power], dim=1)


_CLICKS = lines([0.5, 0.3, 0.2, 0.4, 0.6], [-0.2, 0.3, 0.4, 0.0, -0.3])

WORLDS = (
    World(
        "well-specified",
        "Five actions, softmax logger and target, weights up to 6.4 (an effective sample of 36 %); the "
        "reward model is the truth.",
        logger=softmax(-0.5),
        target=softmax(5.0),
        chance=_CLICKS,
        model=_CLICKS,
        bound=6.5,
    ),
    World(
        "heavy-tailed",
        "Two actions; P(w > t) falls as t^-2.5, so weights have a variance but no third moment. Clicks are "
        "likelier where weights are large, and the reward model tells a third of that.",
        logger=rare(0.9, 2 / 3),
        target=always(0.9, 0.1),
        chance=lines([0.6, 0.3], [-0.3, 0.0]),
        model=lines([0.5, 0.4], [-0.1, 0.0]),
    ),
    World(
        "small overlap",
        "Three actions; the target's favourite (80 %) is shown in 3 % of the rounds, with weight 26.7, so "
        "500 rounds hold 15 that count. The reward model is wrong about it.",
        logger=lines([0.03, 0.57, 0.4], [0.0, -0.2, 0.2]),
        target=always(0.8, 0.1, 0.1),
        chance=lines([0.5, 0.3, 0.3], [0.2, 0.2, -0.1]),
        model=lines([0.4, 0.3, 0.3], [-0.1, 0.1, 0.1]),
        bound=27.0,
    ),
    World(
        "no variance",
        "As heavy-tailed, but P(w > t) falls as t^-1.5: weights have no variance, so no interval that rests "
        "on a central limit theorem has a right to its level.",
        logger=rare(0.9, 2.0),
        target=always(0.9, 0.1),
        chance=lines([0.6, 0.3], [-0.3, 0.0]),
        model=lines([0.5, 0.4], [-0.1, 0.0]),
    ),
)
"""The band is wanted of the first three; the last shows where intervals end."""
