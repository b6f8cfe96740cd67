"""A ranker that learns from clicks: explore, fit, act, and explore again with what was learned."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from envs.rollout import roll
from envs.world import SlateWorld
from simlab.context import Context
from simlab.errors import BadInput, nearest
from simlab.files import write_whole
from simlab.log import Log, joined
from simlab.parts import part
from simlab.policies.random import Random
from simlab.policies.softmax import Softmax
from simlab.policies.softmax_popularity import SoftmaxPopularity
from simlab.rankers.contract import Ranker, Sizes
from simlab.seeds import Seed
from simlab.slates import Mixture, SlateDistribution
from simlab.training.fit import FitSettings, fit
from simlab.training.store import first_line, load_ranker, read_json, save_ranker

DEBIAS = ("none", "ips")
"""What is done about position bias: nothing, or clicks weighted by 1 / P(examined)."""


def _silent(text: str) -> None:
    """Report to nobody."""


@dataclass(frozen=True)
class _Explorer:
    """Random slates, and slates by popularity: half of the users' steps each."""

    name: str = "random + popularity"

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        parts = (Random(), SoftmaxPopularity())
        return Mixture([p.distribution(context, slots) for p in parts], (0.5, 0.5))


@dataclass
class ClickRanker:
    """A ranker fitted to the clicks of users who saw an exploring policy, then its own.

    The users to learn from are split evenly over 1 + `rounds` collections. The first is shown random and
    popular items; in each later one the ranker fitted so far acts by a softmax. After each, a fresh ranker is
    fitted to everything collected. Every collection is a market of its own, and all users are new to the
    ranker: it personalises by history and features alone, as it must for the users it will meet.

    It acts as Plackett–Luce over logits / temperature, so its propensities are exact.

    Attributes:
        family: the ranker's name.
        spec: the ranker's settings.
        debias: "none", or "ips" with the world's true examination (Joachims et al. 2017).
        rounds: collections by its own policy.
        temperature: of the policy that acts.
        collect_temperature: of the policy that collects: warmer, so that it goes on exploring.
        settings: of `fit`.
        ranker: what was learned, or None.

    Raises:
        BadInput: for an unknown family, setting or debias, with the nearest one.
    """

    family: str = "mf"
    spec: dict[str, Any] = field(default_factory=dict)
    debias: str = "none"
    rounds: int = 1
    temperature: float = 0.1
    collect_temperature: float = 0.5
    settings: FitSettings = field(default_factory=FitSettings)
    ranker: Ranker | None = None

    def __post_init__(self) -> None:
        if self.debias not in DEBIAS:
            raise BadInput(f"there is no debias {self.debias}{nearest(self.debias, DEBIAS)}")
        if self.rounds < 0:
            raise BadInput(f"rounds is at least 0, not {self.rounds}")
        for name in ("temperature", "collect_temperature"):
            if not getattr(self, name) > 0:
                raise BadInput(f"{name} is above 0, not {getattr(self, name)}")
        self._new(1, 0, Seed(0))  # refuses an unknown family or setting now, not after the collection

    @property
    def name(self) -> str:
        """Name it by the family and the debiasing, as on the command line."""
        return f"learned({self.family}{'' if self.debias == 'none' else ', ' + self.debias})"

    def learn(
        self,
        world: SlateWorld[Any],
        users: int,
        steps: int,
        seed: Seed,
        report: Callable[[str], None] = _silent,
    ) -> "ClickRanker":
        """Collect clicks and fit, 1 + `rounds` times.

        Args:
            world: where to learn.
            users: how many users to meet in all, at least one a collection.
            steps: for how many steps each.
            seed: of everything random.
            report: is told of each collection and fit.

        Raises:
            BadInput: for fewer users than collections, or if nothing was clicked.
        """
        parts = 1 + self.rounds
        if users < parts or steps < 1:
            raise BadInput(f"{users} users for {steps} steps are too few for {parts} collections")
        logs: list[Log] = []
        for turn in range(parts):
            first, last = turn * users // parts, (turn + 1) * users // parts
            behaviour = _Explorer() if turn == 0 else Softmax(self._ready(), self.collect_temperature)
            seen = roll(
                world,
                behaviour,
                last - first,
                seed.split(f"collection {turn}"),
                first_user=first,
                steps=steps,
                propensities=True,
            )
            logs.append(seen.log(world))
            log = logs[0] if len(logs) == 1 else joined(logs)
            ctr = float(logs[-1].reward.mean()) / world.slots
            report(
                f"collection {turn + 1} of {parts}: {len(logs[-1])} slates by {behaviour.name}, CTR {ctr:.4f}"
            )
            width = 0 if log.features is None else log.features.shape[1]
            ranker = self._new(world.catalog.n_items, width, seed.split(f"ranker {turn}"), world)
            ranker.to(world.device)
            worth = None
            if self.debias == "ips":
                examined = world.examination().cpu().to(torch.float32)
                # Where nobody looks, nothing is clicked: any finite weight is right.
                worth = torch.where(examined > 0, 1 / examined.clamp(min=1e-6), 0.0).expand(log.slate.shape)
            done = fit(
                ranker, log, click_weight=worth, settings=self.settings, seed=seed.split(f"fit {turn}")
            )
            if done.best_epoch:
                loss = (done.validation or done.train)[done.best_epoch - 1]
                report(f"fitted {self.family} for {len(done.train)} epochs, loss {loss:.4f}")
            self.ranker = ranker
        return self

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return Plackett–Luce over the ranker's logits.

        Raises:
            BadInput: if it has not learned yet.
        """
        return Softmax(self._ready(), self.temperature).distribution(context, slots)

    def save(self, folder: Path) -> None:
        """Write the ranker (safetensors) and the settings (JSON).

        Raises:
            BadInput: if it has not learned yet.
        """
        save_ranker(self._ready(), folder / "ranker")
        kept = {
            "agent": "learned",
            "family": self.family,
            "spec": self.spec,
            "debias": self.debias,
            "rounds": self.rounds,
            "temperature": self.temperature,
            "collect_temperature": self.collect_temperature,
            "settings": asdict(self.settings),
        }
        write_whole(folder / "agent.json", (json.dumps(kept, indent=2) + "\n").encode())

    @classmethod
    def load(cls, folder: Path) -> "ClickRanker":
        """Read what `save` wrote.

        Raises:
            BadInput: naming the file that is missing or damaged.
        """
        where = folder / "agent.json"
        kept = read_json(where)
        if kept.pop("agent", None) != "learned":
            raise BadInput(f"{where} is not of an agent named learned")
        try:
            kept["settings"] = FitSettings(**kept["settings"])
            kept["spec"] = {k: tuple(v) if isinstance(v, list) else v for k, v in kept["spec"].items()}
            agent = cls(**kept)
        except (KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{where} does not describe an agent ({first_line(error)})") from error
        agent.ranker = load_ranker(folder / "ranker")
        if agent.ranker.name != agent.family:
            raise BadInput(f"{where} says {agent.family}, but the ranker beside it is {agent.ranker.name}")
        return agent

    def _ready(self) -> Ranker:
        if self.ranker is None:
            raise BadInput(f"agent {self.name} has not learned yet: call learn or load first")
        return self.ranker

    def _new(self, n_items: int, n_features: int, seed: Seed, world: SlateWorld[Any] | None = None) -> Ranker:
        """Return an untrained ranker for which all users are new."""
        family = part("ranker", self.family)
        slots = 1 if world is None else world.slots
        sizes = Sizes(n_users=0, n_items=n_items, n_features=n_features, slots=slots)
        catalog = None if world is None else world.catalog
        ranker = family.build(sizes, self.spec, catalog, seed)  # type: ignore[attr-defined]
        assert isinstance(ranker, Ranker)
        return ranker
