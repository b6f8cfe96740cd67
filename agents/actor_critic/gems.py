"""GeMS: a variational autoencoder makes a space of slates, and a soft actor-critic acts in it."""

import math
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from agents.actor_critic._latent import LatentBatch, LatentOffPolicy, LatentPolicy, LatentReplay
from agents.actor_critic._proto import Head, TwinCritic, polyak, squashed_log_prob, with_defaults
from agents.actor_critic._vae import SlateVAE
from agents.core.agent import SlateAgent
from agents.core.replay import Batch
from agents.maths.returns import td_target
from simlab.adapters._state import state_width
from simlab.context import Context
from simlab.errors import BadInput
from simlab.slates import Deterministic, SlateDistribution, Uniform

LOG_STD = (-5.0, 2.0)
"""Range of the Gaussian's log standard deviation."""
LOOK = 4096
"""User-steps whose posteriors decide how large the box of actions is."""


class GeMSPolicy(LatentPolicy):
    """The slate VAE, a squashed Gaussian over its latent box, twin critics and their targets, α."""

    centre: Tensor
    reach: Tensor

    def build(self) -> None:
        """Make the networks.

        Raises:
            BadInput: for an unknown option, or a value that cannot be.
        """
        found = self.numbers(
            latent=(8, 1), dim=(16, 1), beta=(0.02, 0), clicks=(0.5, 0), collect=(0.2, 0), fit=(1000, 1),
            temperature=(0.1, 1e-6), entropy=(-1.0, -math.inf),
        )  # fmt: skip
        if found["collect"] >= 1:
            raise BadInput(f"collect is a share of the training below 1, not {found['collect']}")
        self.chosen = found
        latent = int(found["latent"])
        self.vae = SlateVAE(
            self.n_items, self.slots, latent, int(found["dim"]), self.hidden, self.catalog,
            self.seed.split("vae"),
        )  # fmt: skip
        self.register_buffer("centre", torch.zeros(latent))
        self.register_buffer("reach", torch.full((latent,), 3.0))
        self.body = self.new_ranker("actor")
        self.head = Head(state_width(self.body), self.hidden, (2, latent), self.seed.split("actor head"))
        self.critic = TwinCritic(self.new_ranker("critic"), 1, latent, self.hidden, self.seed.split("heads"))
        self.critic_target = self.critic.copy()
        self.log_alpha = nn.Parameter(torch.tensor(math.log(found["temperature"])))
        self.wanted_entropy = found["entropy"] * latent

    def make_optimizers(self, lr_schedule: Any) -> None:
        """Make one optimiser each for VAE, actor, critics and temperature."""
        self.vae_optimizer = self.adam(self.vae.parameters(), lr_schedule)
        self.actor_optimizer = self.adam([*self.body.parameters(), *self.head.parameters()], lr_schedule)
        self.critic_optimizer = self.adam(self.critic.parameters(), lr_schedule)
        self.temperature_optimizer = self.adam([self.log_alpha], lr_schedule)

    def gaussian(self, context: Context) -> tuple[Float[Tensor, "user latent"], Float[Tensor, "user latent"]]:
        """Return mean and log standard deviation, before tanh."""
        mean, log_std = self.head(self.body.encode(context)).unbind(1)
        low, high = LOG_STD
        return mean, low + 0.5 * (high - low) * (1 + torch.tanh(log_std))

    def draw(
        self, context: Context, luck: torch.Generator
    ) -> tuple[Float[Tensor, "user latent"], Float[Tensor, " user"]]:
        """Return a drawn action, a point of (-1, 1)^d, and its log-density, both with a gradient."""
        mean, log_std = self.gaussian(context)
        raw = mean + log_std.exp() * torch.randn(mean.shape, generator=luck, device=mean.device)
        return raw.tanh(), squashed_log_prob(raw, mean, log_std)

    def slate(
        self, context: Context, action: Float[Tensor, "user latent"], slots: int
    ) -> Int[Tensor, "user slot"]:
        """Return the slate that an action is decoded to.

        Raises:
            BadInput: for more slots than the VAE has.
        """
        if slots > self.slots:
            raise BadInput(f"the learner decodes slates of {self.slots} slots, not of {slots}")
        return self.vae.slate(context, self.centre + self.reach * action, slots)

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return all mass on the slate of the mean action."""
        columns = self.slate(context, self.gaussian(context)[0].tanh(), slots)
        return Deterministic(columns, context.candidates.shape[1])


@with_defaults(tau=0.01, target_every=1, explore=(0.1, 0.05, 0.5))
class GeMS(LatentOffPolicy):
    """GeMS: a VAE turns slates into points, and SAC acts among the points.

    An off-policy algorithm of stable-baselines3.

    **First** the share `collect` of the training (and never less than `learning_starts`) shows uniform
    slates. On these logged slates and their clicks a VAE is fitted, once, by `fit` gradient steps on

        -Σ_k log p(a_k | z) - λ Σ_k log p(c_k | z) + β KL(q(z | A, c) ‖ N(0, I)),    z ~ q(z | A, c).

    **Then** the VAE stands still, and what was collected is forgotten. SAC acts in its latent space: an
    action u of (-1, 1)^d is the point z = centre + reach · u of the smallest box that holds μ ± σ of the
    posteriors, and each slot shows the likeliest candidate, argmax p(a_k | z), that no slot above it took. To
    the learner the decoder is part of the world:

        Q_j(s, u) ← r + γ (1 - terminated) [min_j Q'_j(s', u') - α log π(u' | s')],    u' ~ π(s'),
        π ← argmin E[α log π(u | s) - min_j Q_j(s, u)],
        log α ← log α · (-log π(u | s) - H) → 0,    H = `entropy` · d.

    With probability ε an action is uniform in the box. `distribution` is the slate of the mean action, mixed
    with the uniform slates of the exploration's end: the chance of a slate under the drawn u has no closed
    form. So it is not what acted in training, but it is exact for what it draws.

    Source: Deffayet et al. (2023), "Generative slate recommendation with reinforcement learning", WSDM,
    section 4; Haarnoja et al. (2018), "Soft actor-critic algorithms and applications", arXiv:1812.05905,
    equations 5, 7 and 18. Differs: see docs/agents/gems.md.

    Args:
        options: `latent` d and `dim` of the item vectors; `beta` β; `clicks` λ; `collect`; `fit`;
            `temperature`, the first α; `entropy`, wanted of each number of u.
        **settings: see `SlateOffPolicy`; by default τ = 0.01 at each gradient step, and ε from 0.1 to 0.05.
    """

    name: ClassVar[str] = "gems"
    policy_aliases: ClassVar[dict[str, Any]] = {"SlatePolicy": GeMSPolicy}
    optimizers: ClassVar[tuple[str, ...]] = (
        "vae_optimizer", "actor_optimizer", "critic_optimizer", "temperature_optimizer",
    )  # fmt: skip
    policy: GeMSPolicy

    def _setup_model(self) -> None:
        self.replay_buffer_class = LatentReplay  # type: ignore[assignment]
        super()._setup_model()

    @property
    def collecting(self) -> bool:
        """Whether slates are still shown for the VAE alone."""
        return self.num_timesteps < max(
            self.learning_starts, self.policy.chosen["collect"] * self._total_timesteps
        )

    def act(self, context: Context) -> Int[Tensor, "user slot"]:
        """Return slates to learn from: uniform ones while collecting, then those of drawn actions."""
        policy, buffer, n = self.policy, self._latents(), len(context)
        wild = 2 * torch.rand(n, len(policy.centre), generator=self.luck, device=self.device) - 1
        if self.collecting:
            buffer.pending = wild  # not what was shown: forgotten before anything is learned from it
            return Uniform(context.mask, policy.slots).sample(self.luck)
        with torch.no_grad():
            action, _ = policy.draw(context, self.luck)
            dice = torch.rand(n, 1, generator=self.luck, device=self.device) < self.exploring()
            buffer.pending = torch.where(dice, wild, action)
            return policy.slate(context, buffer.pending, policy.slots)

    def prepare(self, batch_size: int) -> bool:
        """Fit the VAE when enough was collected; return whether it was fitted before."""
        if self.collecting:
            return False
        if self._n_updates == 0:  # the VAE's steps count as updates, so a kept run knows that they were taken
            self.fit_vae(batch_size)
            return False
        return True

    def fit_vae(self, batch_size: int) -> None:
        """Fit the VAE to what is in the buffer, lay the box of actions, and forget what was collected."""
        policy, chosen = self.policy, self.policy.chosen
        figures: dict[str, Tensor] = {}
        total = torch.zeros((), device=self.device)
        for _ in range(int(chosen["fit"])):
            batch = self.drawn(batch_size)
            noise = torch.randn(batch_size, len(policy.centre), generator=self.luck, device=self.device)
            loss, figures = policy.vae.loss(
                batch.context, batch.columns, batch.click, noise, chosen["beta"], chosen["clicks"]
            )
            self.descend(loss, "vae_optimizer")
            self._n_updates += 1
            total = total + loss.detach()
        self.check_finite(float(total))
        for key, value in figures.items():
            self.logger.record(f"train/{key}", float(value.detach()))
        look = self.drawn(LOOK)
        centre, reach = policy.vae.box(look.context.slate(look.columns), look.click)
        policy.centre.copy_(centre)
        policy.reach.copy_(reach)
        self._latents().forget()

    def losses(self, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, " row"], dict[str, Tensor]]:
        """Return the critics' loss."""
        assert isinstance(batch, LatentBatch)
        policy, target = self.policy, self.policy.critic_target
        with torch.no_grad():
            action, log_prob = policy.draw(batch.follow, self.luck)
            later = target(target.encode(batch.follow), action.unsqueeze(1)).amin(1)
            later = later - policy.log_alpha.exp() * log_prob
            goal = td_target(batch.reward, later, batch.terminated, batch.discount)
        value = policy.critic(policy.critic.encode(batch.context), batch.latent.unsqueeze(1))
        error = value - goal.unsqueeze(1)
        loss = 0.5 * (batch.weight.unsqueeze(1) * error.square()).sum(1).mean()
        size = error.detach().abs().mean(1)
        return loss, size, {"td_error": size.mean(), "q": value.detach().mean()}

    def improve(self, batch: Batch) -> dict[str, Tensor]:
        """Take a step of the actor, then one of the temperature."""
        policy = self.policy
        alpha = policy.log_alpha.detach().exp()
        with torch.no_grad():
            state = policy.critic.encode(batch.context)
        action, log_prob = policy.draw(batch.context, self.luck)
        loss = (alpha * log_prob - policy.critic(state, action.unsqueeze(1)).amin(1)).mean()
        self.descend(loss, "actor_optimizer")
        off = (log_prob.detach() + policy.wanted_entropy).mean()
        self.descend(-policy.log_alpha * off, "temperature_optimizer")
        return {"actor_loss": loss, "alpha": alpha, "entropy": -log_prob.mean()}

    def after(self) -> None:
        """Move the target."""
        if self._n_updates % self.target_every == 0:
            polyak(self.policy.critic_target, self.policy.critic, self.tau)

    def _latents(self) -> LatentReplay:
        assert isinstance(self.replay_buffer, LatentReplay)
        return self.replay_buffer


class GeMSAgent(SlateAgent):
    """`GeMS` as an agent of the lab."""

    name: ClassVar[str] = "gems"
    algorithm: ClassVar[Any] = GeMS
    users_at_once: ClassVar[int] = 64


PART = GeMSAgent
__all__ = ["PART", "GeMS", "GeMSAgent", "GeMSPolicy"]
