"""Bernoulli Thompson sampling for slates: a Beta posterior of each click rate, the top K of a draw."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from agents.bandits._agent import Bandit, theta_of, within
from agents.bandits._ensemble import Ensemble
from envs.contract import Response
from envs.world import SlateWorld
from simlab.context import Context
from simlab.errors import BadInput
from simlab.seeds import Seed
from simlab.slates import OrderStatistics, SlateDistribution
from simlab.slates.beta_scores import SMALLEST


@dataclass(eq=False)
class BernoulliTS(Bandit):
    """Draw a click rate r_i ~ Beta(α_i, β_i) for each item and show the K largest in order.

    After a step, for every item shown at slot k to a user who was there:

        α_i += click,    β_i += (1 - click) · θ_k (1 - r̄_i) / (1 - θ_k r̄_i),    r̄_i = α_i / (α_i + β_i)

    The last factor is P(examined | not clicked) under the position-based model at the posterior mean. It is 1
    where θ_k is 1: then this is the exact posterior, and obp's `BernoulliTS` (Saito et al. 2021). Where it is
    not, the posterior is no Beta, and this is one step of EM in its place (Lagrée et al. 2016 sample it by
    rejection). Worlds without a θ, and `corrected=False`, count every showing as examined.

    Where all rows may be shown the same candidates, the distribution is `OrderStatistics`: every draw is the
    user's own, and probabilities are exact integrals. Elsewhere it is an `Ensemble` of `draws` posterior
    draws, and probabilities are exact for those.

    Source: Chapelle and Li (2011), "An empirical evaluation of Thompson sampling", algorithm 2, with the top
    K. Difference: the posterior is updated once for a batch of users.

    Attributes:
        alpha: prior successes of all items, or of each; at least 0.05.
        beta: prior failures of all items, or of each; at least 0.05. With a value of each item the agent can
            act before it has learned anything.
        corrected: whether the world's θ is used.
        draws: M of the ensemble.

    Raises:
        BadInput: for a prior that is too small, priors of different lengths or of another catalogue, or
            fewer than one draw.
    """

    KEEPS: ClassVar[tuple[str, ...]] = ("alpha", "beta", "theta", "seed")

    alpha: float | int | tuple[float | int, ...] = 1.0
    beta: float | int | tuple[float | int, ...] = 1.0
    corrected: bool = True
    draws: int = 64

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise BadInput(f"draws is at least 1, not {self.draws}")
        given = {"alpha": self.alpha, "beta": self.beta}
        for name, prior in given.items():
            for i, value in enumerate(prior if isinstance(prior, tuple) else (prior,)):
                if not SMALLEST <= value < float("inf"):
                    raise BadInput(f"{name} of item {i} is {value}, but it must be at least {SMALLEST}")
        lengths = {len(p) for p in given.values() if isinstance(p, tuple)}
        if len(lengths) > 1:
            raise BadInput(f"alpha and beta are of {' and '.join(map(str, sorted(lengths)))} items")
        if lengths:
            self._lay(lengths.pop(), torch.device("cpu"))

    def _lay(self, n_items: int, device: torch.device) -> None:
        """Start from the priors."""
        self.state = {"theta": torch.ones(0, dtype=torch.float64), "seed": torch.zeros((), dtype=torch.long)}
        for name, prior in (("alpha", self.alpha), ("beta", self.beta)):
            if isinstance(prior, tuple) and len(prior) != n_items:
                raise BadInput(f"{name} is of {len(prior)} items, but the world has {n_items}")
            values = torch.tensor(prior, dtype=torch.float64, device=device)
            self.state[name] = values.expand(n_items).clone()

    def begin(self, world: SlateWorld[Any], context: Context, seed: Seed) -> None:
        """Start from the priors, with the world's θ."""
        self._lay(world.catalog.n_items, world.device)
        theta = theta_of(world)
        self.state["theta"] = theta if self.corrected else torch.ones_like(theta)

    def refresh(self, seed: Seed) -> None:
        """Keep the seed of the draws."""
        self.state["seed"] = torch.tensor(seed.value & ((1 << 63) - 1))

    def update(self, context: Context, slate: Int[Tensor, "user slot"], response: Response) -> None:
        """Add clicks to α, and what was seen and not clicked to β."""
        state = self.ready()
        mean = (state["alpha"] / (state["alpha"] + state["beta"]))[slate]
        click, there = response.click.double(), response.active.unsqueeze(1).double()
        # 1 - θ r̄ is zero for no mean below 1, and a mean of exactly 1 would need β = 0.
        seen = state["theta"] * (1 - mean) / (1 - state["theta"] * mean)
        state["alpha"].index_add_(0, slate.reshape(-1), (click * there).reshape(-1))
        state["beta"].index_add_(0, slate.reshape(-1), ((1 - click) * seen * there).reshape(-1))

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return the order statistics of the posterior, or the ensemble where rows differ."""
        state = self.ready()
        alpha, beta = state["alpha"], state["beta"]
        context = within(context, len(alpha))
        shared = context.candidates[:1]
        alike = context.candidates.stride(0) == 0 or bool((context.candidates == shared).all())
        if len(shared) and alike and bool(context.mask.all()):
            own = shared[0]
            return OrderStatistics(
                alpha.to(context.device)[own], beta.to(context.device)[own], slots, len(context)
            )
        luck = np.random.default_rng(int(state["seed"]))
        drawn = luck.beta(alpha.cpu().numpy(), beta.cpu().numpy(), size=(self.draws, len(alpha)))
        return Ensemble(
            torch.ones(len(context), 1, dtype=torch.float64, device=context.device),
            torch.from_numpy(drawn).to(context.device).unsqueeze(2),
            context.candidates,
            context.mask,
            slots,
        )

    def means(self) -> Float[Tensor, " item"]:
        """Return the posterior mean of each item's click rate."""
        state = self.ready()
        return state["alpha"] / (state["alpha"] + state["beta"])
