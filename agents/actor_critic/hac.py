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
from simlab.errors import BadInput
from simlab.rankers._blocks import dot
from simlab.rankers.contract import Ranker
from simlab.slates import Deterministic, SlateDistribution, Uniform
from simlab.slates.contract import check_slots, masked, top

TINY = 1e-6
"""Shorter vectors have no direction."""


class HACPolicy(LatentPolicy):
    """A ranker as hyper-actor, twin critics on a ranker of their own, and the targets of both.

    The hyper-action Z is the ranker's state, so any family whose logit is ⟨state, item vector⟩ will do.
    """

    def build(self) -> None:
        """Make the networks.

        Raises:
            BadInput: for an unknown or wrong option, and a family without item vectors.
        """
        self.chosen = self.numbers(
            noise=(0.3, 0), align=(0.1, 0), clicks=(1.0, 0), items=(1.0, 0), tries=(1, 1)
        )
        # An actor must find its way in that space: eight numbers, if nothing else is said.
        few = {"layers": (64, 8)} if self.family == "two_tower" else {}
        self.actor = self.ranker_with(few | dict(self.spec or {}), "actor")
        with torch.no_grad():
            width = self.actor.item_vectors().shape[1]
        self.slot = torch.nn.Parameter(torch.zeros(self.slots))
        self.actor_target = copied(self.actor).requires_grad_(False)
        self.critic = TwinCritic(self.new_ranker("critic"), 1, width, self.hidden, self.seed.split("heads"))
        self.critic_target = self.critic.copy()
        tries = self.chosen["tries"]
        if tries != int(tries):
            raise BadInput(f"tries is a whole number, not {tries}")
        # The same for all users and times: what is shown is a function of what is seen.
        luck = self.seed.split("tries").torch()
        self.aside: Tensor
        self.register_buffer("aside", torch.randn(int(tries) - 1, width, generator=luck))

    def make_optimizers(self, lr_schedule: Any) -> None:
        """Make one optimiser each for actor and critics."""
        self.actor_optimizer = self.adam([*self.actor.parameters(), self.slot], lr_schedule)
        self.critic_optimizer = self.adam(self.critic.parameters(), lr_schedule)

    def points(self) -> Float[Tensor, "item dim"]:
        """Return v_i: the ranker's item vectors, centred and of length 1."""
        vectors = self.actor.item_vectors()
        return functional.normalize(vectors - vectors.mean(0), dim=1, eps=TINY)

    def hyper(self, context: Context, ranker: Ranker | None = None) -> Float[Tensor, "user dim"]:
        """Return Z."""
        ranker = self.actor if ranker is None else ranker
        return ranker.encode(full(context, ranker.past))

    @torch.no_grad()
    def effect(
        self, context: Context, hyper: Float[Tensor, "user dim"], slots: int
    ) -> Int[Tensor, "user slot"]:
        """Return the slate A(Z): the K largest ⟨Z, v_i⟩.

        Raises:
            BadInput: where a row has fewer candidates than slots.
        """
        check_slots(context.mask, slots)
        points = self.points()
        return top(masked(dot(hyper, points, known(context, len(points))), context.mask), slots)

    @torch.no_grad()
    def tried(
        self, context: Context, hyper: Float[Tensor, "user dim"], slots: int, critic: TwinCritic
    ) -> Int[Tensor, "user slot"]:
        """Return the slate of Z, or of a point beside it where both critics say that it is worth more."""
        best = self.effect(context, hyper, slots)
        if not len(self.aside):
            return best
        state = critic.encode(context)
        size = hyper.square().mean(1, keepdim=True).sqrt()
        most = critic(state, self.inverse(context, best).unsqueeze(1)).amin(1)
        for way in self.aside:
            other = self.effect(context, hyper + size * way, slots)
            worth = critic(state, self.inverse(context, other).unsqueeze(1)).amin(1)
            best = torch.where((worth > most).unsqueeze(1), other, best)
            most = torch.maximum(most, worth)
        return best

    def inverse(self, context: Context, columns: Int[Tensor, "user slot"]) -> Float[Tensor, "user dim"]:
        """Return h(A), the direction of the mean of a slate's v_i."""
        mean = functional.embedding(context.slate(columns), self.points()).mean(1)
        return functional.normalize(mean, dim=1, eps=TINY)

    def click_logits(
        self, context: Context, hyper: Float[Tensor, "user dim"], columns: Int[Tensor, "user slot"]
    ) -> Float[Tensor, "user slot"]:
        """Return ⟨Z, v_i⟩ + b_k of the shown items."""
        shown = functional.embedding(context.slate(columns), self.points())
        return (shown @ hyper.unsqueeze(2)).squeeze(2) + self.slot

    def value(
        self, critic: TwinCritic, context: Context, point: Float[Tensor, "user dim"]
    ) -> Float[Tensor, "user twin"]:
        """Return g_1 and g_2 of a direction, be it a hyper-action's or what a slate stands for."""
        found: Tensor = critic(critic.encode(context), point.unsqueeze(1))
        return found

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return all mass on the slate of Z."""
        columns = self.tried(context, self.hyper(context), slots, self.critic)
        return Deterministic(columns, context.candidates.shape[1])


@with_defaults(tau=0.01, target_every=1, explore=(1.0, 0.05, 0.5))
class HAC(LatentOffPolicy):
    """Hyper-actor critic: the actor's vector scores all items, and a critic reads the slate back as one.

    An off-policy algorithm of stable-baselines3.

    The actor's **hyper-action** is a point Z(s) of the space of item vectors v_i (centred, of length 1), and
    the **effect-action** is the slate A(Z) of the K candidates with the largest ⟨Z, v_i⟩. The inverse map
    h(A), the direction of Σ_{a ∈ A} v_a, takes a slate back to that space, so that one critic g values both:
    Q(s, A) = g(s, h(A)) and Q(s, Z) = g(s, Z/|Z|). The direction of Z is what acts, its length the contrast
    of the clicks.

        g_j(s, h(A)) ← y = r + γ (1 - terminated) min_j g'_j(s', h(A')),    A' = A(Z'(s')),
        Z ← argmin -g_1(s, Z/|Z|) + λ_h ½ |Z/|Z| - h(A(Z))|² + λ_c BCE,
        v ← argmin λ_c BCE + λ_v ½ Σ_j (g_j(s, h(A)) - y)²,
        BCE of the shown slate's clicks, P(click on a_k) = σ(⟨Z, v_{a_k}⟩ + b_k).

    To the alignment, the second term of Z, h(A) is a constant. The critics learn from what was shown, so any
    slate teaches them, a uniform one too.

    A gradient finds the best direction nearby. Where the best slates lie apart, `tries` n > 1 looks further:
    of the slates of Z and of Z + |Z| ξ_j / √dim for n - 1 fixed Gaussian directions ξ_j, the one that both
    critics value most takes the place of A(Z) everywhere: what is shown, the next state's value, and the
    alignment's h(A(Z)), which draws Z there.

    Exploration adds Gaussian noise to Z, as large as `noise` times the root mean square of its coordinates,
    and shows uniform slates with probability ε. `distribution` is A(Z), mixed with the uniform slates of the
    exploration's end: exact for what it draws, but in training there was noise too.

    Source: Liu et al. (2023), "Exploration and regularization of the latent action space in recommendation",
    WWW, section 4. Differs: see docs/agents/hac.md.

    Args:
        options: `noise`; `align` λ_h; `clicks` λ_c; `items` λ_v; `tries` n.
        **settings: see `SlateOffPolicy`; by default τ = 0.01 at each gradient step.
    """

    name: ClassVar[str] = "hac"
    policy_aliases: ClassVar[dict[str, Any]] = {"SlatePolicy": HACPolicy}
    optimizers: ClassVar[tuple[str, ...]] = ("actor_optimizer", "critic_optimizer")
    policy: HACPolicy
    _goal: Tensor
    """y of the batch at hand."""

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
            columns = policy.tried(context, hyper + size * noise, policy.slots, policy.critic)
        dice = torch.rand(len(context), 1, generator=self.luck, device=self.device) < rate
        return torch.where(dice, random, columns)

    def goal(self, batch: Batch) -> Float[Tensor, " row"]:
        """Return y: what the critics' values of the shown slates should be."""
        policy, follow = self.policy, batch.follow
        with torch.no_grad():
            hyper = policy.hyper(follow, policy.actor_target)
            after = policy.tried(follow, hyper, policy.slots, policy.critic_target)
            later = policy.value(policy.critic_target, follow, policy.inverse(follow, after)).amin(1)
            return td_target(batch.reward, later, batch.terminated, batch.discount)

    def losses(self, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, " row"], dict[str, Tensor]]:
        """Return the critics' loss."""
        policy = self.policy
        self._goal = self.goal(batch)
        point = policy.inverse(batch.context, batch.columns).detach()
        value = policy.value(policy.critic, batch.context, point)
        error = value - self._goal.unsqueeze(1)
        loss = 0.5 * (batch.weight.unsqueeze(1) * error.square()).sum(1).mean()
        size = error.detach().abs().mean(1)
        return loss, size, {"td_error": size.mean(), "q": value.detach().mean()}

    def actor_losses(self, batch: Batch, goal: Float[Tensor, " row"]) -> dict[str, Tensor]:
        """Return what the actor lowers: -Q, the alignment, the clicks' cross-entropy, the items' TD error."""
        policy, context = self.policy, batch.context
        with torch.no_grad():
            state = policy.critic.encode(context)
        hyper = policy.hyper(context)
        direction = functional.normalize(hyper, dim=1, eps=TINY)
        worth = policy.critic(state, direction.unsqueeze(1))[:, 0]
        back = policy.inverse(context, policy.tried(context, hyper, policy.slots, policy.critic)).detach()
        shown = policy.critic(state, policy.inverse(context, batch.columns).unsqueeze(1))
        logits = policy.click_logits(context, hyper, batch.columns)
        return {
            "actor_loss": -worth.mean(),
            "align_loss": 0.5 * (direction - back).square().sum(1).mean(),
            "click_loss": functional.binary_cross_entropy_with_logits(logits, (batch.click > 0).float()),
            "item_loss": 0.5 * (shown - goal.unsqueeze(1)).square().sum(1).mean(),
        }

    def improve(self, batch: Batch) -> dict[str, Tensor]:
        """Take a step of the actor."""
        found, chosen = self.actor_losses(batch, self._goal), self.policy.chosen
        loss = found["actor_loss"]
        for key, name in (("align", "align_loss"), ("clicks", "click_loss"), ("items", "item_loss")):
            loss = loss + chosen[key] * found[name]
        self.descend(loss, "actor_optimizer")
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
