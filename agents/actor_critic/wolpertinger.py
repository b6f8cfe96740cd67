"""Wolpertinger: an actor points into item space, and a critic picks from the items nearest to the point."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from agents.actor_critic._proto import (
    Head,
    ProtoOffPolicy,
    ProtoPolicy,
    TwinCritic,
    first_free,
    polyak,
    with_defaults,
)  # fmt: skip
from agents.core.agent import SlateAgent
from agents.core.replay import Batch
from agents.maths.returns import td_target
from simlab.adapters._state import copied, state_width
from simlab.context import Context
from simlab.errors import BadInput, nearest
from simlab.rankers.contract import Ranker
from simlab.slates import Deterministic, SlateDistribution, Uniform
from simlab.slates.contract import check_slots

SEARCHES = ("slots", "slates")
MOST = 4096
"""Slates of a row that are valued at once, at most."""


class WolpertingerPolicy(ProtoPolicy):
    """An actor of one proto-action a slot, twin critics of slates, and the targets of both."""

    by_distance: ClassVar[bool] = True
    defaults: ClassVar[Mapping[str, Any]] = {
        "neighbours": 10, "search": "slots", "sweeps": 1, "delay": 2, "noise": 0.2, "smoothing": 0.2,
        "clip": 0.5,
    }  # fmt: skip

    def networks(self) -> None:
        """Make actor and critics."""
        found = self.chosen
        for key, low in (("neighbours", 1), ("sweeps", 1), ("delay", 1), ("noise", 0), ("smoothing", 0)):
            if not found[key] >= low:
                raise BadInput(f"{key} is at least {low}, not {found[key]}")
        if found["search"] not in SEARCHES:
            word = found["search"]
            raise BadInput(f"search is {' or '.join(SEARCHES)}, not {word}{nearest(word, SEARCHES)}")
        many = max(found["neighbours"], self.slots) ** self.slots
        if found["search"] == "slates" and many > MOST:
            raise BadInput(f"search is slates, but there are {many} of them for a row and {MOST} at most")
        shape = (self.slots, self.items.width)
        self.body = self.new_ranker("actor")
        self.head = Head(state_width(self.body), self.hidden, shape, self.seed.split("actor head"))
        self.body_target: Ranker = copied(self.body).requires_grad_(False)
        self.head_target = Head(state_width(self.body), self.hidden, shape, self.seed.split("actor head"))
        self.head_target.requires_grad_(False)
        self.critic = TwinCritic(
            self.new_ranker("critic"), *shape, self.hidden, self.seed.split("critic heads")
        )
        self.critic_target = self.critic.copy()

    def make_optimizers(self, lr_schedule: Any) -> None:
        """Make one optimiser each for actor, critics and items."""
        self.actor_optimizer = self.adam([*self.body.parameters(), *self.head.parameters()], lr_schedule)
        self.critic_optimizer = self.adam(self.critic.parameters(), lr_schedule)
        self.item_optimizer = self.adam(self.items.parameters(), lr_schedule)

    def proto(self, context: Context, target: bool = False) -> Float[Tensor, "user slot dim"]:
        """Return the actor's points."""
        body, head = (self.body_target, self.head_target) if target else (self.body, self.head)
        points: Tensor = head(body.encode(context)).tanh()
        return points

    @torch.no_grad()
    def refine(
        self, context: Context, proto: Float[Tensor, "user slot dim"], critic: TwinCritic
    ) -> Int[Tensor, "user slot"]:
        """Return the slate that the critic likes best of the points' nearest items.

        A slate's worth is Q_1. "slates" values every slate of the retrieved items.
        "slots" begins with the nearest items and goes through the slots from the top, `sweeps` times: each
        takes the best of its own nearest, or changes places with another slot, so that the worth never falls.
        """
        near = self.items.near_slots(context, proto, self.chosen["neighbours"])
        vectors = self.items.of(context, near.flatten(1)).view(*near.shape, -1)
        wrong = ~context.mask.gather(1, near.flatten(1)).view(near.shape)
        state = critic.encode(context)
        if self.chosen["search"] == "slates":
            return self._every(near, vectors, wrong, state, critic)
        columns = first_free(near)
        action = self.items.of(context, columns)
        for slot in [*range(self.slots)] * self.chosen["sweeps"]:
            taken = (near[:, slot].unsqueeze(2) == columns.unsqueeze(1)).any(2) | wrong[:, slot]
            mine = action[:, slot].unsqueeze(1)
            fresh = critic.change(slot, vectors[:, slot] - mine)
            # An item that stands in another slot changes places with this one's.
            swap = critic.change(slot, action - mine) + torch.stack(
                [critic.change(j, mine[:, 0] - action[:, j]) for j in range(self.slots)], dim=1
            )
            first = critic.first(state, action).unsqueeze(1) + torch.cat([fresh, swap], dim=1)
            worth = critic.rest(first)
            worth[:, : taken.shape[1]].masked_fill_(taken, -torch.inf)
            best = worth.argmax(1, keepdim=True)
            new = torch.cat([near[:, slot], columns], dim=1).gather(1, best)
            columns = columns.where(columns != new, columns[:, slot : slot + 1])
            columns = columns.index_copy(1, torch.tensor([slot], device=columns.device), new)
            action = self.items.of(context, columns)
        return columns

    def _every(
        self,
        near: Int[Tensor, "user slot near"],
        vectors: Float[Tensor, "user slot near dim"],
        wrong: Tensor,
        state: Float[Tensor, "user state"],
        critic: TwinCritic,
    ) -> Int[Tensor, "user slot"]:
        """Return the best of all slates of the retrieved items."""
        _, slots, count = near.shape
        ways = torch.cartesian_prod(*[torch.arange(count, device=near.device)] * slots).view(-1, slots)
        slot = torch.arange(slots, device=near.device)
        slates = near[:, slot, ways]  # [user way slot]
        repeats = (slates.unsqueeze(3) == slates.unsqueeze(2)).sum((2, 3)) > slots
        refused = repeats | wrong[:, slot, ways].any(2)
        first = critic.first(state, torch.zeros_like(vectors[:, :, 0])).unsqueeze(1)
        for k in range(slots):
            first = first + critic.change(k, vectors[:, k])[:, ways[:, k]]
        worth = critic.rest(first).masked_fill(refused, -torch.inf)
        best = worth.argmax(1).view(-1, 1, 1).expand(-1, 1, slots)
        return slates.gather(1, best).squeeze(1)

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return all mass on the refined slate."""
        check_slots(context.mask, slots)
        if slots != self.slots:
            raise BadInput(f"the learner has proto-actions for {self.slots} slots, not for {slots}")
        columns = self.refine(context, self.proto(context), self.critic)
        return Deterministic(columns, context.candidates.shape[1])


@with_defaults(tau=0.01, target_every=1, explore=(1.0, 0.05, 0.5))
class Wolpertinger(ProtoOffPolicy):
    """Wolpertinger: a vector, the items near it, and a critic that picks among them, with TD3's three tricks.

    An off-policy algorithm of stable-baselines3.

    The actor names a point f_k(s) of item space for each slot. Its `neighbours` nearest items are retrieved,
    and the critic chooses among them: π(s) = argmax_A Q_1(s, v_A) over slates A of the retrieved (see
    `WolpertingerPolicy.refine` for slates of several slots). With v_A the vectors of the shown items,

        Q_j(s, v_A) ← r + γ (1 - terminated) min_j Q'_j(s', v_π'(s')),   π' from f'(s') + clipped noise,
        f ← argmax E[Q_1(s, f(s))], at every `delay`-th gradient step.

    The critics learn from what was shown, so any slate teaches them, a uniform one too.

    `distribution` is π(s), mixed with the uniform slates of the exploration's end: exact for what it draws.
    In training the points had Gaussian noise too.

    Source: Dulac-Arnold et al. (2015), "Deep reinforcement learning in large discrete action spaces",
    arXiv:1512.07679, algorithms 1 and 2; Fujimoto et al. (2018), "Addressing function approximation error in
    actor-critic methods", ICML, algorithm 1. Differs: several slots; TD3 in place of DDPG; the points lie in
    a box by tanh; ε-uniform slates beside the noise; actor and critics read rankers' states.

    Args:
        options: `neighbours` k (at least K are taken); `search` ("slots" or "slates") and `sweeps`; `delay`;
            `noise` of the points in training; `smoothing` and `clip` of the target's noise; and, as in
            `SACTopK`, `items`, `item_ranker`, `item_spec`, `fit`, `settle`, `refresh` and `retriever`.
        **settings: see `SlateOffPolicy`; by default τ = 0.01 at each gradient step.
    """

    name: ClassVar[str] = "wolpertinger"
    policy_aliases: ClassVar[dict[str, Any]] = {"SlatePolicy": WolpertingerPolicy}
    optimizers: ClassVar[tuple[str, ...]] = ("actor_optimizer", "critic_optimizer", "item_optimizer")
    policy: WolpertingerPolicy

    def act(self, context: Context) -> Int[Tensor, "user slot"]:
        """Return slates to learn from: of points with noise, and uniform ones with probability ε each."""
        policy, rate = self.policy, self.rate_now()
        random = Uniform(context.mask, policy.slots).sample(self.luck)
        if rate >= 1:
            return random
        with torch.no_grad():
            proto = self._noisy(policy.proto(context), policy.chosen["noise"])
            columns = policy.refine(context, proto, policy.critic)
        dice = torch.rand(len(context), 1, generator=self.luck, device=self.device) < rate
        return torch.where(dice, random, columns)

    def losses(self, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, " row"], dict[str, Tensor]]:
        """Return the critics' loss."""
        policy, chosen, follow = self.policy, self.policy.chosen, batch.follow
        with torch.no_grad():
            proto = self._noisy(policy.proto(follow, target=True), chosen["smoothing"], chosen["clip"])
            target = policy.critic_target
            action = policy.items.of(follow, policy.refine(follow, proto, target))
            later = target(target.encode(follow), action).amin(1)
            goal = td_target(batch.reward, later, batch.terminated, batch.discount)
        shown = policy.items.of(batch.context, batch.columns)
        value = policy.critic(policy.critic.encode(batch.context), shown)
        error = value - goal.unsqueeze(1)
        loss = 0.5 * (batch.weight.unsqueeze(1) * error.square()).sum(1).mean()
        size = error.detach().abs().mean(1)
        return loss, size, {"td_error": size.mean(), "q": value.detach().mean()}

    def improve(self, batch: Batch) -> dict[str, Tensor]:
        """Take a step of the actor, where one is due."""
        policy = self.policy
        if self._n_updates % policy.chosen["delay"]:
            return {}
        with torch.no_grad():
            state = policy.critic.encode(batch.context)
        loss = -policy.critic(state, policy.proto(batch.context))[:, 0].mean()
        self.descend(loss, "actor_optimizer")
        return {"actor_loss": loss}

    def after(self) -> None:
        """Move the targets."""
        if self._n_updates % self.target_every == 0:
            policy = self.policy
            polyak(policy.critic_target, policy.critic, self.tau)
            polyak(policy.body_target, policy.body, self.tau)
            polyak(policy.head_target, policy.head, self.tau)

    def _noisy(self, proto: Tensor, size: float, most: float | None = None) -> Tensor:
        noise = size * torch.randn(proto.shape, generator=self.luck, device=proto.device)
        return (proto + (noise if most is None else noise.clamp(-most, most))).clamp(-1, 1)


class WolpertingerAgent(SlateAgent):
    """`Wolpertinger` as an agent of the lab."""

    name: ClassVar[str] = "wolpertinger"
    algorithm: ClassVar[Any] = Wolpertinger
    users_at_once: ClassVar[int] = 64


PART = WolpertingerAgent
__all__ = ["PART", "Wolpertinger", "WolpertingerAgent", "WolpertingerPolicy"]
