"""Retrieve, then rank: a fast ranker picks hundreds of a million items, and a slow one chooses among them."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from agents.learned import ClickRanker
from agents.two_stage._candidates import Candidates, pick
from agents.two_stage._narrowed import Narrowed
from envs.rollout import roll
from envs.world import SlateWorld
from simlab.context import Context
from simlab.errors import BadInput
from simlab.files import write_whole
from simlab.log import Log, joined
from simlab.policies.greedy import scores
from simlab.policies.random import Random
from simlab.policies.softmax_popularity import SoftmaxPopularity
from simlab.policy import Policy
from simlab.rankers.contract import Ranker
from simlab.retrieval import Retriever, RetrieverSettings
from simlab.seeds import Seed
from simlab.slates import Mixture, PlackettLuce, SlateDistribution
from simlab.training.fit import fit
from simlab.training.store import first_line, read_json


def _silent(text: str) -> None:
    """Report to nobody."""


@dataclass
class RetrieveRank:
    """Plackett–Luce over the few candidates that a retrieval ranker picks, by the scores of another ranker.

    The candidates of a user are the `count` best of the catalogue by ⟨state, v⟩ of the first stage, and
    `explore` others drawn evenly, so that what the first stage overlooks is shown, clicked and learned. The
    draw is keyed by the user and what is seen of the user: the same context has the same candidates.

    **Propensities are given the candidates**, and exact: P(slate | candidates) is Plackett–Luce over the
    second stage's logits / temperature, and 0 for a slate with any other item. The logs of `collect` hold the
    candidates, so that another policy is asked what it would have shown among them; nothing can be said
    from such a log of items that were no candidates.

    With `correct`, a drawn candidate of inclusion probability q stands for 1 / q items: its logit /
    temperature is raised by -log q. Then Σ exp is an unbiased estimate of the sum over the whole catalogue,
    and the policy is, up to the noise of the draw, the softmax over the catalogue (Bengio and Senécal 2008,
    equation 8; Yi et al. 2019, section 3). Without it drawn items are what they are, a few among many.

    Both stages are fitted to the same clicks, as `agents.learned` says: first those of random and popular
    items among drawn candidates, then the agent's own, warmer. So no step looks at [user, item] scores.

    Source: Covington, Adams and Sargin (2016), "Deep neural networks for YouTube recommendations", RecSys,
    section 2 (two stages); Ma et al. (2020), "Off-policy learning in two-stage recommender systems", WWW,
    section 3 (the policy of two stages). Their policy sums over all sets of candidates; ours is given one.

    Attributes:
        first: the first stage, a family with item vectors; its temperatures and rounds are not used.
        second: the second stage: any family; `rounds`, `temperature` and `collect_temperature` are of both.
        count: how many to retrieve.
        explore: how many others to draw.
        correct: raise drawn candidates by -log q.
        search: how the first stage is searched.
        luck: what the draws are keyed by; `learn` sets it.

    Raises:
        BadInput: for a first stage without item vectors, for a count below 1, a negative explore, or if faiss
            is asked for and not installed.
    """

    first: ClickRanker = field(default_factory=lambda: ClickRanker("mf"))
    second: ClickRanker = field(default_factory=lambda: ClickRanker("neumf"))
    count: int = 200
    explore: int = 20
    correct: bool = False
    search: RetrieverSettings = field(default_factory=RetrieverSettings)
    luck: int = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise BadInput(f"count is at least 1, not {self.count}")
        if self.explore < 0:
            raise BadInput(f"explore is at least 0, not {self.explore}")
        Retriever.of(self.first._new(1, 0, Seed(0)), self.search)  # refuses now, not after the collection
        self._retriever: Retriever | None = None

    @property
    def name(self) -> str:
        """Name it by its stages."""
        return f"retrieve_rank({self.first.family}, {self.second.family})"

    def learn(
        self,
        world: SlateWorld[Any],
        users: int,
        steps: int,
        seed: Seed,
        report: Callable[[str], None] = _silent,
    ) -> "RetrieveRank":
        """Collect clicks and fit both stages, 1 + `second.rounds` times.

        Args:
            world: where to learn.
            users: how many users to meet in all, at least one a collection.
            steps: for how many steps each.
            seed: of everything random.
            report: is told of each collection and fit.

        Raises:
            BadInput: for fewer users than collections, for fewer candidates than slots, or if nothing was
                clicked.
        """
        parts = 1 + self.second.rounds
        if users < parts or steps < 1:
            raise BadInput(f"{users} users for {steps} steps are too few for {parts} collections")
        if min(self.count + self.explore, world.catalog.n_items) < world.slots:
            raise BadInput(f"{self.count} + {self.explore} candidates are too few for {world.slots} slots")
        self.luck = seed.split("candidates").value
        logs: list[Log] = []
        for turn in range(parts):
            first, last = turn * users // parts, (turn + 1) * users // parts
            behaviour = _Drawn(self) if turn == 0 else _Warm(self)
            turn_seed = seed.split(f"collection {turn}")
            logs.append(collect(world, behaviour, last - first, turn_seed, first_user=first, steps=steps))
            log = logs[0] if turn == 0 else joined(logs)
            ctr = float(logs[-1].reward.mean()) / world.slots
            report(
                f"collection {turn + 1} of {parts}: {len(logs[-1])} slates by {behaviour.name}, CTR {ctr:.4f}"
            )
            for stage, word in ((self.first, "first"), (self.second, "second")):
                _fit(stage, log, world, seed.split(f"{word} {turn}"))
                report(f"fitted {stage.family}, the {word} stage")
            ranker = self.first._ready()
            if self._retriever is None or turn == 0:
                self._retriever = Retriever.of(ranker, self.search)
            else:
                with torch.no_grad():
                    self._retriever.update(ranker.item_vectors())
        return self

    def candidates(self, context: Context) -> Candidates:
        """Return the few columns of each user that the second stage is asked about.

        Raises:
            BadInput: if it has not learned yet.
        """
        first, retriever = self._ready()
        return pick(context, retriever, first, self.count, self.explore, Seed(self.luck))

    def distribution(self, context: Context, slots: int) -> Narrowed:
        """Return Plackett–Luce over the candidates.

        Raises:
            BadInput: if it has not learned yet.
        """
        return self._act(context, slots, self.second.temperature)

    def save(self, folder: Path) -> None:
        """Write both rankers (safetensors) and the settings (JSON); an index of faiss is built anew.

        Raises:
            BadInput: if it has not learned yet.
        """
        self._ready()
        self.first.save(folder / "first")
        self.second.save(folder / "second")
        kept = {
            "agent": "retrieve_rank",
            "count": self.count,
            "explore": self.explore,
            "correct": self.correct,
            "search": asdict(self.search),
            "luck": self.luck,
        }
        write_whole(folder / "agent.json", (json.dumps(kept, indent=2) + "\n").encode())

    @classmethod
    def load(cls, folder: Path) -> "RetrieveRank":
        """Read what `save` wrote.

        Raises:
            BadInput: naming the file that is missing or damaged.
        """
        where = folder / "agent.json"
        kept = read_json(where)
        if kept.pop("agent", None) != "retrieve_rank":
            raise BadInput(f"{where} is not of an agent named retrieve_rank")
        try:
            kept["search"] = RetrieverSettings(**kept["search"])
            kept["first"], kept["second"] = (ClickRanker.load(folder / name) for name in ("first", "second"))
            agent = cls(**kept)
        except (KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{where} does not describe an agent ({first_line(error)})") from error
        agent._retriever = Retriever.of(agent.first._ready(), agent.search)
        return agent

    def _act(self, context: Context, slots: int, temperature: float) -> Narrowed:
        few = self.candidates(context)
        narrow = few.narrow(context)
        logits = scores(self.second._ready(), narrow) / temperature
        if self.correct:
            logits = logits - few.log_q
        return Narrowed(PlackettLuce(logits, slots, few.mask), few, narrow, context.candidates.shape[1])

    def _ready(self) -> tuple[Ranker, Retriever]:
        if self._retriever is None or self.first.ranker is None or self.second.ranker is None:
            raise BadInput(f"agent {self.name} has not learned yet: call learn or load first")
        return self.first.ranker, self._retriever


@runtime_checkable
class _Narrowing(Policy, Protocol):
    """A policy that says which candidates it looked at."""

    def distribution(self, context: Context, slots: int) -> Narrowed: ...


def collect(
    world: SlateWorld[Any],
    policy: _Narrowing,
    n: int,
    seed: Seed,
    *,
    first_user: int = 0,
    steps: int | None = None,
) -> Log:
    """Roll a two-stage policy, and return the log with the candidates that it looked at.

    Args:
        world: where.
        policy: who acts; its distributions say what they `offered`.
        n: how many users.
        seed: of the users and of all luck.
        first_user: id of the first user.
        steps: how many at most.
    """
    kept = _Kept(policy)
    seen = roll(world, kept, n, seed, first_user=first_user, steps=steps, propensities=True)
    return replace(seen, candidates=torch.stack(kept.offered)).log(world)


class _Kept:
    """The same policy, which keeps what it offered at each step."""

    def __init__(self, policy: _Narrowing) -> None:
        self.policy, self.name = policy, policy.name
        self.offered: list[Tensor] = []

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        chosen = self.policy.distribution(context, slots)
        self.offered.append(chosen.offered)
        return chosen


@dataclass(frozen=True)
class _Drawn:
    """Random slates, and slates by popularity, of candidates that are all drawn: before anything is known."""

    agent: RetrieveRank
    name: str = "random + popularity"

    def distribution(self, context: Context, slots: int) -> Narrowed:
        agent = self.agent
        few = pick(context, None, None, 0, agent.count + agent.explore, Seed(agent.luck))
        narrow = few.narrow(context)
        parts = [p.distribution(narrow, slots) for p in (Random(), SoftmaxPopularity())]
        return Narrowed(Mixture(parts, (0.5, 0.5)), few, narrow, context.candidates.shape[1])


@dataclass(frozen=True)
class _Warm:
    """The agent at the temperature at which it collects."""

    agent: RetrieveRank
    name: str = "softmax of two stages"

    def distribution(self, context: Context, slots: int) -> Narrowed:
        return self.agent._act(context, slots, self.agent.second.collect_temperature)


def _fit(stage: ClickRanker, log: Log, world: SlateWorld[Any], seed: Seed) -> None:
    """Fit a fresh ranker of this stage, as `ClickRanker.learn` does."""
    width = 0 if log.features is None else log.features.shape[1]
    ranker = stage._new(world.catalog.n_items, width, seed.split("ranker"), world).to(world.device)
    worth = None
    if stage.debias == "ips":
        examined = world.examination().cpu().to(torch.float32)
        worth = torch.where(examined > 0, 1 / examined.clamp(min=1e-6), 0.0).expand(log.slate.shape)
    fit(ranker, log, click_weight=worth, settings=stage.settings, seed=seed.split("fit"))
    stage.ranker = ranker


PART = RetrieveRank
