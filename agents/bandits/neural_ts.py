"""Neural Thompson sampling: a ranker makes the features, a Bayesian last layer explores on them."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from agents.bandits._agent import Bandit, play, silent, theta_of, within
from agents.bandits._ensemble import Ensemble
from envs.contract import Response
from envs.rollout import Trajectories
from envs.world import SlateWorld
from simlab.context import Context
from simlab.errors import BadInput
from simlab.log import Log, joined
from simlab.parts import part
from simlab.policies.random import Random
from simlab.rankers.contract import Ranker, Sizes
from simlab.seeds import Seed
from simlab.slates import SlateDistribution
from simlab.training.fit import FitSettings, fit
from simlab.training.store import load_ranker, save_ranker

SPECS: dict[str, dict[str, Any]] = {
    "two_tower": {"dim": 16, "layers": (32,), "past": 20, "unit": False, "temperature": 1.0}
}
"""Settings of a family in place of its own defaults: small, and free to say how likely a click is."""
ROWS = 4096
"""Contexts that are encoded at once."""


@dataclass(eq=False)
class NeuralTS(Bandit):
    """Neural linear: E[click] = θ_k φ(u, i)ᵀ w with φ(u, i) = [1, s_u ∘ v_i], and w drawn from its posterior.

    s_u is a ranker's `encode` and v_i its `item_vectors`, so that w = [0, 1, …, 1] is the ranker's own logit:
    w is its last layer. N(ŵ, v² A⁻¹) is the posterior of the ridge regression of clicks on θ_k φ, and M draws
    of it, made anew after every step, are an `Ensemble`: propensities are exact for these draws.

    The users to learn from are split evenly over 1 + `rounds` collections, each a market of its own. The
    first is shown random slates. After each, a fresh ranker is fitted to everything (clicks weighted by
    1 / θ_k), and A and r are summed anew with its features. Within the later collections A and r are updated
    after every step, once for the whole batch.

    Source: Riquelme, Tucker and Snoek (2018), "Deep Bayesian bandits showdown", ICLR (NeuralLinear).
    Differences: one weight vector over products s ∘ v, where they have a regression of each action on the
    state; v is a setting, where they have an inverse-Gamma prior; M shared draws. It is not NeuralTS of Zhang
    et al. (2021), whose features are gradients of all weights.

    Attributes:
        family: of the ranker; one with item vectors.
        spec: its settings, over those of `SPECS`.
        rounds: collections by its own posterior.
        spread: v; 0 does not explore.
        draws: M.
        ridge: λ.
        training: how the ranker is fitted.
        ranker: what was learned, or None.

    Raises:
        BadInput: for an unknown family or setting, or numbers that cannot be.
    """

    KEEPS: ClassVar[tuple[str, ...]] = ("precision", "moment", "vectors", "theta", "draws")

    family: str = "two_tower"
    spec: dict[str, Any] = field(default_factory=dict)
    rounds: int = 3
    spread: float = 0.1
    draws: int = 32
    ridge: float = 1.0
    training: FitSettings = field(default_factory=lambda: FitSettings(epochs=8, batch_size=2048))
    ranker: Ranker | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        for name, low in (("rounds", 1), ("draws", 1), ("spread", 0)):
            if not getattr(self, name) >= low:
                raise BadInput(f"{name} is at least {low}, not {getattr(self, name)}")
        if not self.ridge > 0:
            raise BadInput(f"ridge is above 0, not {self.ridge}")
        self._fresh(None, 0, Seed(0)).item_vectors()  # refuses an unfit family now, not after a collection

    def begin(self, world: SlateWorld[Any], context: Context, seed: Seed) -> None:
        """Do nothing: the features come with the first ranker."""

    def learn(
        self,
        world: SlateWorld[Any],
        users: int,
        steps: int,
        seed: Seed,
        report: Callable[[str], None] = silent,
    ) -> "NeuralTS":
        """Collect, fit, and collect again; the posterior of the last layer moves after every step.

        Args:
            world: where to learn.
            users: how many users to meet in all, at least one a collection.
            steps: for how many steps each.
            seed: of everything random.
            report: is told of each collection.

        Raises:
            BadInput: for fewer users than collections.
        """
        parts = 1 + self.rounds
        if users < parts or steps < 1:
            raise BadInput(f"{users} users for {steps} steps are too few for {parts} collections")
        self.state, self.earned, self.ranker = {}, [], None
        logs: list[Log] = []
        for turn in range(parts):
            first, last = turn * users // parts, (turn + 1) * users // parts
            with torch.no_grad():
                logs.append(
                    self._collect(world, first, last - first, steps, seed.split(f"collection {turn}"))
                )
            log = logs[0] if len(logs) == 1 else joined(logs)
            width = 0 if log.features is None else log.features.shape[1]
            ranker = self._fresh(world, width, seed.split(f"ranker {turn}")).to(world.device)
            theta = theta_of(world)
            # Where nobody looks, nothing is clicked: any finite weight is right.
            worth = torch.where(theta > 0, 1 / theta.clamp(min=1e-6), 0.0).float().cpu()
            worth = worth.expand(log.slate.shape)
            fit(ranker, log, click_weight=worth, settings=self.training, seed=seed.split(f"fit {turn}"))
            self.ranker = ranker
            with torch.no_grad():
                self._lay(log, world, theta)
                self.refresh(seed.split(f"draw {turn}"))
            ctr = float(logs[-1].reward.mean()) / world.slots
            report(f"{self.name}: collection {turn + 1} of {parts}, {len(logs[-1])} slates, {ctr:.4f} a slot")
        self.earned = [clicks / users for clicks in self.earned]
        return self

    def _collect(self, world: SlateWorld[Any], first: int, users: int, steps: int, seed: Seed) -> Log:
        """Act for one shard, with a posterior that follows, and return the log."""
        kept: dict[str, list[Tensor]] = {}
        policy = Random() if self.ranker is None else self
        luck = seed.split("policy").torch(world.device)
        start = world.reset(users, seed.split("world"), first)
        for t, (context, chosen, columns, response) in enumerate(
            play(world, policy, users, steps, seed.split("world"), luck, first)
        ):
            slate = context.slate(columns)
            for name, value in (
                ("slate", slate),
                ("click", response.click),
                ("reward", response.reward),
                ("active", response.active),
                ("terminated", response.terminated),
                ("truncated", response.truncated),
                ("features", context.features),
                ("propensity", chosen.log_prob(columns).double().exp()),
            ):
                kept.setdefault(name, []).append(value)
            if self.ranker is not None:
                self.update(context, slate, response)
                self.refresh(seed.split(f"draw {t}"))
            before = self.earned[t] if t < len(self.earned) else 0.0
            self.earned[t : t + 1] = [before + float(response.click.sum())]
        rows: dict[str, Any] = {name: torch.stack(values) for name, values in kept.items()}
        return Trajectories(
            user=start.user,
            candidates=None,
            slot_propensity=None,
            popularity_first=start.popularity,
            popularity_last=start.popularity,
            market=start.market,
            policy=policy.name,
            **rows,
        ).log(world)

    def _lay(self, log: Log, world: SlateWorld[Any], theta: Float[Tensor, " slot"]) -> None:
        """Sum A and r over a whole log with the features of the ranker."""
        ranker = self._ranker()
        vectors = ranker.item_vectors().detach().double()
        d = 1 + vectors.shape[1]
        self.state = {
            "precision": self.ridge * torch.eye(d, dtype=torch.float64, device=world.device),
            "moment": vectors.new_zeros(d),
            "vectors": torch.nn.functional.pad(vectors, (1, 0), value=1.0),
            "theta": theta,
        }
        assert log.click is not None
        seen = log.context(max(ranker.past, 1)).to(world.device)
        for i in range(0, len(log), ROWS):
            rows = slice(i, i + ROWS)
            there = torch.ones(len(log.slate[rows]), 1, dtype=torch.float64, device=world.device)
            self._add(
                self._users(seen.rows(rows)),
                log.slate[rows].to(world.device),
                log.click[rows].to(world.device).double(),
                there,
            )

    def update(self, context: Context, slate: Int[Tensor, "user slot"], response: Response) -> None:
        """Add Σ θ² φ φᵀ and Σ θ · click · φ."""
        there = response.active.unsqueeze(1).double()
        self._add(self._users(context), slate, response.click.double(), there)

    def _add(
        self,
        a: Float[Tensor, "user dim"],
        slate: Int[Tensor, "user slot"],
        click: Float[Tensor, "user slot"],
        there: Float[Tensor, "user 1"],
    ) -> None:
        state = self.state
        phi = a.unsqueeze(1) * state["vectors"][slate] * (state["theta"] * there).unsqueeze(2)
        phi = phi.reshape(-1, phi.shape[2])
        state["precision"] += phi.T @ phi
        state["moment"] += phi.T @ click.reshape(-1)

    def refresh(self, seed: Seed) -> None:
        """Draw w = ŵ + v L⁻ᵀ z with A = L Lᵀ."""
        state = self.state
        factor = torch.linalg.cholesky(state["precision"])
        mean = torch.cholesky_solve(state["moment"].unsqueeze(1), factor)
        noise = torch.randn(len(mean), self.draws, generator=seed.torch(), dtype=torch.float64)
        moved = torch.linalg.solve_triangular(factor.mT, noise.to(mean.device), upper=True)
        state["draws"] = (mean + self.spread * moved).T.contiguous()

    def _users(self, context: Context) -> Float[Tensor, "user dim"]:
        """Return [1, s_u]."""
        with torch.no_grad():
            s = self._ranker().encode(context).double()
        return torch.nn.functional.pad(s, (1, 0), value=1.0)

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return the even mixture of the draws' rankings."""
        state, ranker = self.ready(), self._ranker()
        context = within(context, ranker.sizes.n_items, ranker.sizes.n_features)
        weights = state["draws"].unsqueeze(1) * state["vectors"]
        return Ensemble(
            self._users(context), weights.to(context.device), context.candidates, context.mask, slots
        )

    def settings(self) -> dict[str, Any]:
        """Return the settings as plain JSON."""
        return {**super().settings(), "training": asdict(self.training)}

    @classmethod
    def rebuild(cls, settings: dict[str, Any]) -> "NeuralTS":
        """Return the agent with these settings."""
        spec = {k: tuple(v) if isinstance(v, list) else v for k, v in settings["spec"].items()}
        return cls(**{**settings, "training": FitSettings(**settings["training"]), "spec": spec})

    def save(self, folder: Path) -> None:
        """Write the ranker, the posterior and the settings.

        Raises:
            BadInput: if it has not learned yet.
        """
        save_ranker(self._ranker(), folder / "ranker")
        super().save(folder)

    @classmethod
    def load(cls, folder: Path) -> "NeuralTS":
        """Read what `save` wrote.

        Raises:
            BadInput: naming the file that is missing, damaged or of another agent.
        """
        agent = super().load(folder)
        assert isinstance(agent, NeuralTS)
        agent.ranker = load_ranker(folder / "ranker")
        if agent.ranker.name != agent.family:
            raise BadInput(f"{folder} is of {agent.family}, but the ranker in it is {agent.ranker.name}")
        return agent

    def _ranker(self) -> Ranker:
        if self.ranker is None:
            raise BadInput(f"agent {self.name} has not learned yet: call learn or load first")
        return self.ranker

    def _fresh(self, world: SlateWorld[Any] | None, n_features: int, seed: Seed) -> Ranker:
        """Return an untrained ranker for which all users are new."""
        family = part("ranker", self.family)
        n_items, slots = (1, 1) if world is None else (world.catalog.n_items, world.slots)
        sizes = Sizes(n_users=0, n_items=n_items, n_features=n_features, slots=slots)
        catalog = None if world is None else world.catalog
        spec = SPECS.get(self.family, {}) | self.spec
        ranker = family.build(sizes, spec, catalog, seed)  # type: ignore[attr-defined]
        assert isinstance(ranker, Ranker)
        return ranker
