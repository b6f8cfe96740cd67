"""HAC: an actor chooses a point of the item vectors' space, and the critic values points and slates alike."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from agents.actor_critic._latent import LatentOffPolicy, LatentPolicy
from agents.actor_critic._proto import TwinCritic, polyak, with_defaults
from agents.actor_critic._vae import known
from agents.core.agent import SlateAgent
from agents.core.replay import Batch
from agents.maths.returns import td_target
from simlab.adapters._state import copied, full
from simlab.context import Context
from simlab.rankers._blocks import dot
from simlab.rankers.contract import Ranker
from simlab.slates import Deterministic, SlateDistribution, Uniform
from simlab.slates.contract import check_slots, masked, top


class HACPolicy(LatentPolicy):
    """A ranker as hyper-actor, twin critics on a ranker of their own, and the targets of both.

    The hyper-action Z is the ranker's state, so any family whose logit is ⟨state, item vector⟩ will do.
    """

    def build(self) -> None:
        """Make the networks.

        Raises:
            BadInput: for an unknown option, and a family without item vectors.
        """
        self.chosen = self.numbers(noise=(0.3, 0), align=(1.0, 0), clicks=(1.0, 0))
        # An actor must find its way in that space: eight numbers, if nothing else is said.
        few = {"layers": (64, 8)} if self.family == "two_tower" else {}
        self.actor = self.ranker_with(few | dict(self.spec or {}), "actor")
        with torch.no_grad():
            width = self.actor.item_vectors().shape[1]
        self.slot = torch.nn.Parameter(torch.zeros(self.slots))
        self.actor_target = copied(self.actor).requires_grad_(False)
        self.critic = TwinCritic(self.new_ranker("critic"), 1, width, self.hidden, self.seed.split("heads"))
        self.critic_target = self.critic.copy()

    def make_optimizers(self, lr_schedule: Any) -> None:
        """Make one optimiser each for actor and critics."""
        self.actor_optimizer = self.adam([*self.actor.parameters(), self.slot], lr_schedule)
        self.critic_optimizer = self.adam(self.critic.parameters(), lr_schedule)

    def hyper(self, context: Context, ranker: Ranker | None = None) -> Float[Tensor, "user dim"]:
        """Return Z."""
        ranker = self.actor if ranker is None else ranker
        return ranker.encode(full(context, ranker.past))

    def effect(
        self, context: Context, hyper: Float[Tensor, "user dim"], slots: int
    ) -> Int[Tensor, "user slot"]:
        """Return the slate of a hyper-action: the K largest ⟨Z, v_i⟩.

        Raises:
            BadInput: where a row has fewer candidates than slots.
        """
        check_slots(context.mask, slots)
        with torch.no_grad():
            vectors = self.actor.item_vectors()
            return top(masked(dot(hyper, vectors, known(context, len(vectors))), context.mask), slots)

    def inverse(self, context: Context, columns: Int[Tensor, "user slot"]) -> Float[Tensor, "user dim"]:
        """Return h(A), the point that a slate stands for: the mean of its vectors, without gradient."""
        with torch.no_grad():
            return functional.embedding(context.slate(columns), self.actor.item_vectors()).mean(1)

    def click_logits(
        self, context: Context, hyper: Float[Tensor, "user dim"], columns: Int[Tensor, "user slot"]
    ) -> Float[Tensor, "user slot"]:
        """Return ⟨Z, v_i⟩ + b_k of the shown items."""
        shown = functional.embedding(context.slate(columns), self.actor.item_vectors())
        return (shown @ hyper.unsqueeze(2)).squeeze(2) + self.slot

    def value(
        self, critic: TwinCritic, context: Context, point: Float[Tensor, "user dim"]
    ) -> Float[Tensor, "user twin"]:
        """Return Q_1 and Q_2 of a point, be it a hyper-action or what a slate stands for."""
        found: Tensor = critic(critic.encode(context), point.unsqueeze(1))
        return found

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return all mass on the slate of Z."""
        columns = self.effect(context, self.hyper(context), slots)
        return Deterministic(columns, context.candidates.shape[1])


@with_defaults(tau=0.01, target_every=1, explore=(1.0, 0.05, 0.5))
class HAC(LatentOffPolicy):
    """Hyper-actor critic, an off-policy algorithm of stable-baselines3.

    The actor's **hyper-action** is a point Z(s) of the space of item vectors v_i, and the **effect-action**
    is the slate A(Z) of the K candidates with the largest ⟨Z, v_i⟩. The inverse map h(A) = mean of v_a, a ∈ A
    takes a slate back to a point, so that one critic g values both: Q(s, A) = g(s, h(A)), Q(s, Z) = g(s, Z).

        g_j(s, h(A)) ← r + γ (1 - terminated) min_j g'_j(s', h(A')),    A' = A(Z'(s')),
        Z ← argmin E[-g_1(s, Z) / max(1, mean |g_1|) + λ_h |Z - h(A(Z))|² / d + λ_c BCE],
        BCE of the shown slate's clicks, P(click on a_k) = σ(⟨Z, v_{a_k}⟩ + b_k).

    The first term moves Z alone; so does the alignment, to which h(A) is a constant; the clicks teach Z, v
    and b. The critics learn from what was shown, so any slate teaches them, a uniform one too.

    Exploration adds Gaussian noise to Z, as large as `noise` times the root mean square of its coordinates,
    and shows uniform slates with probability ε. `distribution` is A(Z), mixed with the uniform slates of the
    exploration's end: exact for what it draws, but in training there was noise too.

    Source: Liu et al. (2023), "Exploration and regularization of the latent action space in recommendation",
    WWW, section 4. Differs: see docs/agents/hac.md.

    Args:
        options: `noise`; `align` λ_h; `clicks` λ_c.
        **settings: see `SlateOffPolicy`; by default τ = 0.01 at each gradient step.
    """

    name: ClassVar[str] = "hac"
    policy_aliases: ClassVar[dict[str, Any]] = {"SlatePolicy": HACPolicy}
    optimizers: ClassVar[tuple[str, ...]] = ("actor_optimizer", "critic_optimizer")
    policy: HACPolicy

    def act(self, context: Context) -> Int[Tensor, "user slot"]:
        """Return slates to learn from: of Z with noise, and uniform ones with probability ε each."""
        policy = self.policy
        rate = 1.0 if self.num_timesteps < self.learning_starts else self.exploring()
        random = Uniform(context.mask, policy.slots).sample(self.luck)
        if rate >= 1:
            return random
        with torch.no_grad():
            hyper = policy.hyper(context)
            noise = torch.randn(hyper.shape, generator=self.luck, device=hyper.device)
            size = policy.chosen["noise"] * hyper.square().mean(1, keepdim=True).sqrt()
            columns = policy.effect(context, hyper + size * noise, policy.slots)
        dice = torch.rand(len(context), 1, generator=self.luck, device=self.device) < rate
        return torch.where(dice, random, columns)

    def losses(self, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, " row"], dict[str, Tensor]]:
        """Return the critics' loss."""
        policy, follow = self.policy, batch.follow
        with torch.no_grad():
            after = policy.effect(follow, policy.hyper(follow, policy.actor_target), policy.slots)
            later = policy.value(policy.critic_target, follow, policy.inverse(follow, after)).amin(1)
            goal = td_target(batch.reward, later, batch.terminated, batch.discount)
        value = policy.value(policy.critic, batch.context, policy.inverse(batch.context, batch.columns))
        error = value - goal.unsqueeze(1)
        loss = 0.5 * (batch.weight.unsqueeze(1) * error.square()).sum(1).mean()
        size = error.detach().abs().mean(1)
        return loss, size, {"td_error": size.mean(), "q": value.detach().mean()}

    def actor_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return what the actor lowers: -Q, the alignment, and the clicks' cross-entropy."""
        policy, context = self.policy, batch.context
        hyper = policy.hyper(context)
        worth = policy.value(policy.critic, context, hyper)[:, 0]
        back = policy.inverse(context, policy.effect(context, hyper.detach(), policy.slots))
        logits = policy.click_logits(context, hyper, batch.columns)
        return {
            "actor_loss": -worth.mean() / worth.detach().abs().mean().clamp(min=1),
            "align_loss": (hyper - back).square().mean(),
            "click_loss": functional.binary_cross_entropy_with_logits(logits, (batch.click > 0).float()),
        }

    def improve(self, batch: Batch) -> dict[str, Tensor]:
        """Take a step of the actor."""
        found, chosen = self.actor_losses(batch), self.policy.chosen
        loss = found["actor_loss"] + chosen["align"] * found["align_loss"]
        self.descend(loss + chosen["clicks"] * found["click_loss"], "actor_optimizer")
        return found

    def after(self) -> None:
        """Move the targets."""
        if self._n_updates % self.target_every == 0:
            policy = self.policy
            polyak(policy.critic_target, policy.critic, self.tau)
            polyak(policy.actor_target, policy.actor, self.tau)


class HACAgent(SlateAgent):
    """`HAC` as an agent of the lab."""

    name: ClassVar[str] = "hac"
    algorithm: ClassVar[Any] = HAC
    users_at_once: ClassVar[int] = 64


PART = HACAgent
__all__ = ["HAC", "PART", "HACAgent", "HACPolicy"]
