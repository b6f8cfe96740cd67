"""SAC + top-K: a soft actor-critic over points of item space; the slate is the K items furthest that way."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from agents.actor_critic._proto import (
    Head,
    ProtoOffPolicy,
    ProtoPolicy,
    TwinCritic,
    polyak,
    squashed_log_prob,
    with_defaults,
)  # fmt: skip
from agents.core.agent import SlateAgent
from agents.core.replay import Batch, SlateReplay
from agents.core.rows import Step
from agents.maths.returns import td_target
from simlab.adapters._state import state_width
from simlab.context import Context
from simlab.errors import BadInput, nearest
from simlab.slates import Deterministic, SlateDistribution, Uniform
from simlab.slates.contract import check_slots

PROTOS = ("one", "slots")
LOG_STD = (-5.0, 2.0)
"""Range of the Gaussian's log standard deviation."""


class SACTopKPolicy(ProtoPolicy):
    """A squashed Gaussian over proto-actions, twin critics with their targets, and the temperature."""

    defaults: ClassVar[Mapping[str, Any]] = {"protos": "one", "entropy": None, "temperature": 0.1}

    def networks(self) -> None:
        """Make actor and critics."""
        protos, start = self.chosen["protos"], self.chosen["temperature"]
        if protos not in PROTOS:
            raise BadInput(f"protos is {' or '.join(PROTOS)}, not {protos}{nearest(protos, PROTOS)}")
        if not start > 0:
            raise BadInput(f"temperature is above 0, not {start}")
        shape = (1 if protos == "one" else self.slots, self.items.width)
        self.body = self.new_ranker("actor")
        self.head = Head(state_width(self.body), self.hidden, (2, *shape), self.seed.split("actor head"))
        self.critic = TwinCritic(
            self.new_ranker("critic"), *shape, self.hidden, self.seed.split("critic heads")
        )
        self.critic_target = self.critic.copy()
        self.log_alpha = nn.Parameter(torch.tensor(math.log(start)))
        wished = self.chosen["entropy"]
        self.wanted_entropy = float(-math.prod(shape) if wished is None else wished)

    def make_optimizers(self, lr_schedule: Any) -> None:
        """Make one optimiser each for actor, critics, temperature and items."""
        self.actor_optimizer = self.adam([*self.body.parameters(), *self.head.parameters()], lr_schedule)
        self.critic_optimizer = self.adam(self.critic.parameters(), lr_schedule)
        self.temperature_optimizer = self.adam([self.log_alpha], lr_schedule)
        self.item_optimizer = self.adam(self.items.parameters(), lr_schedule)

    def gaussian(
        self, context: Context
    ) -> tuple[Float[Tensor, "user proto dim"], Float[Tensor, "user proto dim"]]:
        """Return mean and log standard deviation, before tanh."""
        mean, log_std = self.head(self.body.encode(context)).unbind(1)
        low, high = LOG_STD
        return mean, low + 0.5 * (high - low) * (1 + torch.tanh(log_std))

    def draw(
        self, context: Context, luck: torch.Generator
    ) -> tuple[Float[Tensor, "user proto dim"], Float[Tensor, " user"]]:
        """Return a drawn proto-action and its log-density, both with a gradient."""
        mean, log_std = self.gaussian(context)
        noise = torch.randn(mean.shape, generator=luck, device=mean.device)
        raw = mean + log_std.exp() * noise
        return raw.tanh(), squashed_log_prob(raw.flatten(1), mean.flatten(1), log_std.flatten(1))

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return all mass on the slate of the mean proto-action."""
        check_slots(context.mask, slots)
        columns = self.items.decode(context, self.gaussian(context)[0].tanh(), slots)
        return Deterministic(columns, context.candidates.shape[1])


@dataclass(frozen=True)
class ProtoBatch(Batch):
    """User-steps with their proto-actions.

    Attributes:
        proto: the point that was drawn.
        decoded: the slate came from the point; a uniform slate came from none.
    """

    proto: Float[Tensor, "row proto dim"]
    decoded: Bool[Tensor, " row"]


class ProtoReplay(SlateReplay):
    """A replay buffer that keeps proto-actions too: set `pending` before `add`."""

    pending: tuple[Tensor, Tensor] | None = None

    def add(self, context: Context, columns: Int[Tensor, "user slot"], step: Step) -> None:
        """Keep one step of all users, and the pending proto-actions."""
        assert self.pending is not None, "act comes first"
        at = self.at
        super().add(context, columns, step)
        for name, value in zip(("proto", "decoded"), self.pending, strict=True):
            if name not in self.kept:
                shape = (self.steps, *value.shape)
                self.kept[name] = torch.zeros(shape, dtype=value.dtype, device=self.device)
            self.kept[name][at] = value

    def sample(self, rows: int, luck: torch.Generator, **settings: Any) -> ProtoBatch:
        """Draw user-steps with replacement; the settings are those of `SlateReplay.sample`."""
        batch = super().sample(rows, luck, **settings)
        known = {f.name: getattr(batch, f.name) for f in fields(batch)}
        proto, decoded = (self.kept[name].flatten(0, 1)[batch.index] for name in ("proto", "decoded"))
        return ProtoBatch(**known, proto=proto, decoded=decoded)


@with_defaults(tau=0.01, target_every=1, explore=(0.1, 0.05, 0.5))
class SACTopK(ProtoOffPolicy):
    """SAC + top-K: a vector for the user, and the K items nearest to it.

    An off-policy algorithm of stable-baselines3.

    The action is a point z of the box (-1, 1)^d of item vectors (`protos="one"`), or one for each slot
    (`protos="slots"`), drawn from tanh N(μ(s), σ(s)). The slate is the K candidates with the largest
    ⟨z, v_i⟩, or for each slot the largest that no slot above it took. To the learner the decoding is part of
    the world:

        Q_j(s, z) ← r + γ (1 - terminated) [min_j Q'_j(s', z') - α log π(z' | s')],    z' ~ π(s'),
        π ← argmin E[α log π(z | s) - min_j Q_j(s, z)],
        log α ← log α · (-log π(z | s) - H) → 0,    H = -dim z.

    Every drawn z is kept beside its slate. A uniform slate (exploration) came from no z: it teaches the item
    vectors, and the critics leave it out.

    `distribution` is the slate of tanh μ(s), mixed with the uniform slates of the exploration's end: the
    chance of a slate under the drawn z is an integral over a polytope, without a closed form. So it is not
    what acted in training, but it is exact for what it draws.

    Source: Haarnoja et al. (2018), "Soft actor-critic: off-policy maximum entropy deep reinforcement
    learning with a stochastic actor", ICML, and "Soft actor-critic algorithms and applications",
    arXiv:1812.05905, equations 5, 7 and 18. Differs: the decoding; actor and critics read rankers' states
    (the twins share one); log σ is squashed into its range.

    Args:
        options: `protos` ("one" or "slots"); `entropy` H; `temperature`, the first α; `items` ("clicks",
            "features" or "vectors" of the catalogue), `item_ranker` and `item_spec` (of learned vectors),
            `fit`, `settle`, `refresh` (see `ProtoOffPolicy`) and `retriever` (for large catalogues).
        **settings: see `SlateOffPolicy`; by default τ = 0.01 at each gradient step, and ε from 0.1 to 0.05.
    """

    name: ClassVar[str] = "sac_topk"
    policy_aliases: ClassVar[dict[str, Any]] = {"SlatePolicy": SACTopKPolicy}
    optimizers: ClassVar[tuple[str, ...]] = (
        "actor_optimizer", "critic_optimizer", "temperature_optimizer", "item_optimizer",
    )  # fmt: skip
    policy: SACTopKPolicy

    def _setup_model(self) -> None:
        self.replay_buffer_class = ProtoReplay  # type: ignore[assignment]
        super()._setup_model()

    def act(self, context: Context) -> Int[Tensor, "user slot"]:
        """Return slates to learn from: of drawn proto-actions, and uniform ones with probability ε each."""
        policy, rate, n = self.policy, self.rate_now(), len(context)
        random = Uniform(context.mask, policy.slots).sample(self.luck)
        with torch.no_grad():
            proto, _ = policy.draw(context, self.luck)
            columns = random if rate >= 1 else policy.items.decode(context, proto, policy.slots)
        dice = torch.rand(n, generator=self.luck, device=self.device) < rate
        self._buffer().pending = (proto, ~dice)
        return torch.where(dice.unsqueeze(1), random, columns)

    def losses(self, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, " row"], dict[str, Tensor]]:
        """Return the critics' loss."""
        assert isinstance(batch, ProtoBatch)
        policy = self.policy
        with torch.no_grad():
            proto, log_prob = policy.draw(batch.follow, self.luck)
            target = policy.critic_target
            later = target(target.encode(batch.follow), proto).amin(1) - policy.log_alpha.exp() * log_prob
            goal = td_target(batch.reward, later, batch.terminated, batch.discount)
        value = policy.critic(policy.critic.encode(batch.context), batch.proto)
        error = (value - goal.unsqueeze(1)) * batch.decoded.unsqueeze(1)
        known = batch.decoded.sum().clamp(min=1)
        loss = 0.5 * (batch.weight.unsqueeze(1) * error.square()).sum() / known
        size = error.detach().abs().mean(1)
        return loss, size, {"td_error": size.sum() / known, "q": value.detach().mean()}

    def improve(self, batch: Batch) -> dict[str, Tensor]:
        """Take a step of the actor, then one of the temperature."""
        policy = self.policy
        alpha = policy.log_alpha.detach().exp()
        with torch.no_grad():
            state = policy.critic.encode(batch.context)
        proto, log_prob = policy.draw(batch.context, self.luck)
        loss = (alpha * log_prob - policy.critic(state, proto).amin(1)).mean()
        self.descend(loss, "actor_optimizer")
        off = (log_prob.detach() + policy.wanted_entropy).mean()
        self.descend(-policy.log_alpha * off, "temperature_optimizer")
        return {"actor_loss": loss, "alpha": alpha, "entropy": -log_prob.mean()}

    def after(self) -> None:
        """Move the target."""
        if self._n_updates % self.target_every == 0:
            polyak(self.policy.critic_target, self.policy.critic, self.tau)


class SACTopKAgent(SlateAgent):
    """`SACTopK` as an agent of the lab."""

    name: ClassVar[str] = "sac_topk"
    algorithm: ClassVar[Any] = SACTopK
    users_at_once: ClassVar[int] = 64


PART = SACTopKAgent
__all__ = ["PART", "ProtoBatch", "ProtoReplay", "SACTopK", "SACTopKAgent", "SACTopKPolicy"]
