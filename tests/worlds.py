"""Worlds so small that every round can be listed with its probability, so the truth is a sum."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations, product

import torch
from jaxtyping import Float, Int
from torch import Tensor

from causal.contract import Rounds, Scores
from simlab.context import Context
from simlab.log import Log
from simlab.slates import PlackettLuce, SlateDistribution


def table(*rows: list[float]) -> Float[Tensor, "context cand"]:
    return torch.tensor(rows, dtype=torch.float64)


@dataclass(frozen=True)
class Softmax:
    """The smallest policy: Plackett–Luce over one row of logits for each context (its index is feature 0)."""

    logits: Float[Tensor, "context cand"]
    name: str = "softmax"

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        which = context.features[:, 0].long()
        return PlackettLuce(self.logits[which].gather(1, context.candidates), slots, context.mask)


@dataclass(frozen=True)
class Listed:
    """Every round that can happen under the logger, each once.

    `probability` sums to one, and `context` says which context each row has.
    """

    log: Log
    probability: Float[Tensor, " round"]
    context: Int[Tensor, " round"]

    def draw(self, n: int, seed: int) -> Log:
        """Draw a log of n independent rounds."""
        return self.log.rows(self.pick(n, seed))

    def pick(self, n: int, seed: int) -> Int[Tensor, " round"]:
        """Draw which of the listed rounds happen."""
        generator = torch.Generator().manual_seed(seed)
        return torch.multinomial(self.probability, n, replacement=True, generator=generator)


def population_value(scores: Scores, probability: Float[Tensor, " round"]) -> float:
    """Return Σ E[numerator] / E[denominator] over the listed rounds."""
    return sum(float((probability * s.numerator).sum() / (probability * s.denominator).sum()) for s in scores)


def take(rounds: Rounds, rows: Int[Tensor, " round"]) -> Rounds:
    """Return some rows only."""
    return rounds.rows(rows)


@dataclass(frozen=True)
class BanditWorld:
    """Two contexts, three actions, rewards of 0 or 1."""

    chance: Float[Tensor, " context"]
    reward: Float[Tensor, "context cand"]
    logger: Float[Tensor, "context cand"]
    target: Float[Tensor, "context cand"]

    def value(self, policy: Float[Tensor, "context cand"] | None = None) -> float:
        """Return the true value of a policy: the target's by default."""
        policy = self.target if policy is None else policy
        return float((self.chance[:, None] * policy * self.reward).sum())

    def listed(self) -> Listed:
        """List every (context, action, reward)."""
        axes = torch.arange(2), torch.arange(self.reward.shape[1]), torch.arange(2)
        context, action, reward = torch.cartesian_prod(*axes).unbind(1)
        mean = self.reward[context, action]
        propensity = self.logger[context, action]
        log = Log(
            user=torch.arange(len(context)),
            slate=action[:, None],
            propensity=propensity,
            reward=reward.double(),
            n_items=self.reward.shape[1],
            features=context[:, None].double(),
        )
        return Listed(
            log, self.chance[context] * propensity * torch.where(reward == 1, mean, 1 - mean), context
        )

    def rounds(
        self,
        q: Float[Tensor, "context cand"] | None = None,
        *,
        propensity: Float[Tensor, "context cand"] | None = None,
        target: Float[Tensor, "context cand"] | None = None,
    ) -> tuple[Rounds, Float[Tensor, " round"]]:
        """List every round as estimators see it, with its probability.

        Args:
            q: the reward model; the truth by default.
            propensity: what the log claims of its logger; the truth by default.
            target: the target policy; the world's by default.
        """
        every = self.listed()
        context, action = every.context, every.log.slate[:, 0]
        q = self.reward if q is None else q
        pi = self.target if target is None else target
        claimed = self.logger if propensity is None else propensity
        rounds = Rounds(
            reward=every.log.reward,
            weight=pi[context, action] / claimed[context, action],
            q_logged=q[context, action],
            q_target=(pi * q).sum(1)[context],
        )
        # One logger, a right density ratio, items that are their own embedding, and the same model twice.
        weight = rounds.weight
        more = {"mixture": weight, "balance": weight, "embedding": weight}
        more |= {"robust_logged": rounds.model()[0], "robust_target": rounds.model()[1]}
        return replace(rounds, logger=torch.zeros_like(context), **more), every.probability


def bandit_world() -> BanditWorld:
    return BanditWorld(
        chance=table([0.3, 0.7])[0],
        reward=table([0.2, 0.5, 0.9], [0.6, 0.1, 0.4]),
        logger=table([0.6, 0.3, 0.1], [0.2, 0.5, 0.3]),
        target=table([0.1, 0.2, 0.7], [0.5, 0.25, 0.25]),
    )


@dataclass(frozen=True)
class SlateWorld:
    """Four candidates, two slots, clicks by position-based examination; Plackett–Luce logger and target."""

    chance: Float[Tensor, " context"]
    attraction: Float[Tensor, "context cand"]
    examination: Float[Tensor, " slot"]
    logger: Softmax
    target: Softmax

    @property
    def slots(self) -> int:
        return len(self.examination)

    @property
    def items(self) -> int:
        return self.attraction.shape[1]

    def slates(self) -> Int[Tensor, "slate slot"]:
        """Return every ordered slate."""
        return torch.tensor(list(permutations(range(self.items), self.slots)))

    def click_chance(self) -> Float[Tensor, "context slot cand"]:
        """Return P(click) of each candidate at each slot: the true, additive reward model."""
        return self.examination[None, :, None] * self.attraction[:, None, :]

    def slate_chance(self, policy: Softmax) -> Float[Tensor, "context slate"]:
        """Return the probability of every slate, by multiplying and dividing, in the order of `slates`."""
        weight = policy.logits.exp()
        out = torch.ones(len(self.chance), len(self.slates()), dtype=torch.float64)
        for s, slate in enumerate(self.slates().tolist()):
            left = weight.sum(1)
            for item in slate:
                out[:, s] *= weight[:, item] / left
                left = left - weight[:, item]
        return out

    def value(self, policy: Softmax | None = None) -> float:
        """Return the true expected number of clicks of a slate: the target's by default."""
        q = self.click_chance()
        total = 0.0
        slates = self.slates()
        chance = self.slate_chance(self.target if policy is None else policy)
        for c in range(len(self.chance)):
            for s, slate in enumerate(slates.tolist()):
                expected = sum(float(q[c, k, item]) for k, item in enumerate(slate))
                total += float(self.chance[c] * chance[c, s]) * expected
        return total

    def _outcomes(self) -> Iterator[tuple[int, int, tuple[int, ...]]]:
        clicks = list(product((0, 1), repeat=self.slots))
        for c in range(len(self.chance)):
            for s in range(len(self.slates())):
                for click in clicks:
                    yield c, s, click

    def listed(self) -> Listed:
        """List every (context, slate, click vector)."""
        outcomes = list(self._outcomes())
        context = torch.tensor([c for c, _, _ in outcomes])
        which = torch.tensor([s for _, s, _ in outcomes])
        click = torch.tensor([k for _, _, k in outcomes], dtype=torch.float64)
        slate = self.slates()[which]
        slots = torch.arange(self.slots)
        p = self.click_chance()[context[:, None], slots, slate]
        likely = torch.where(click == 1, p, 1 - p).prod(1)
        every = self.slate_chance(self.logger)
        marginal = torch.zeros(len(self.chance), self.slots, self.items, dtype=torch.float64)
        for s, items in enumerate(self.slates().tolist()):
            for k, item in enumerate(items):
                marginal[:, k, item] += every[:, s]
        log = Log(
            user=torch.arange(len(outcomes)),
            slate=slate,
            propensity=every[context, which],
            reward=click.sum(1),
            n_items=self.items,
            features=context[:, None].double(),
            slot_propensity=marginal[context[:, None], slots, slate],
            click=click,
        )
        return Listed(log, self.chance[context] * every[context, which] * likely, context)


def slate_world() -> SlateWorld:
    return SlateWorld(
        chance=table([0.4, 0.6])[0],
        attraction=table([0.9, 0.5, 0.3, 0.1], [0.2, 0.6, 0.4, 0.8]),
        examination=table([1.0, 0.5])[0],
        logger=Softmax(table([0.0, 0.3, -0.2, 0.5], [0.4, 0.0, 0.2, -0.3])),
        target=Softmax(table([1.0, 0.2, 0.0, -0.8], [-0.5, 0.6, 0.1, 0.9])),
    )
