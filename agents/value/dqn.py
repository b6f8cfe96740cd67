"""DQN for slates: every slot is an action of its own, valued by one network."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from agents.core.agent import SlateAgent
from agents.core.off_policy import SlateBasePolicy, SlateOffPolicy
from agents.core.replay import Batch
from agents.maths.returns import td_target
from simlab.adapters.q_network import QNetwork
from simlab.context import Context
from simlab.slates import Deterministic, SlateDistribution
from simlab.slates.contract import masked


class DQNPolicy(SlateBasePolicy):
    """Q(s, i) and its target."""

    def build(self) -> None:
        """Make the networks."""
        self.check_options("double", "dueling")
        dueling = bool(self.options.get("dueling", False))
        ranker = self.new_ranker("values")
        self.q = QNetwork(ranker, dueling=dueling, hidden=self.hidden, seed=self.seed.split("dueling"))
        self.q_target = self.q.copy()
        # What a slot is worth beside what stands in it.
        self.slot = torch.nn.Parameter(torch.zeros(self.slots), requires_grad=self.slots > 1)

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return all mass on the items with the highest values."""
        return Deterministic(self.q.greedy(context, slots), context.candidates.shape[1])


class SlateDQN(SlateOffPolicy):
    """DQN whose slots learn each for itself: the slate's value is the sum of its items' values.

    With Q(s, A) = Σ_k [Q(s, a_k) + β_k], slot k earned c_k and goes on as slot k of the best next slate:

        Q(s, a_k) + β_k ← c_k + γ [Q(s', a'_k) + β_k],    a' = the K highest Q(s', ·).

    The sum over slots is the ordinary target of the slate. One slot is plain DQN. What no slot earned (a
    reward without clicks) is shared evenly. Options: `double` (the online network picks a', the target
    network values it: van Hasselt et al. 2016; on by default) and `dueling` (Wang et al. 2016); `n_step` and
    `priority` are settings. With n steps a slot bootstraps from the mean value of the slots then: which slot
    goes on as which is lost.

    Source: Mnih et al. (2015), "Human-level control through deep reinforcement learning", Nature; the
    sum over slots as in Sunehag et al. (2015), "Deep reinforcement learning with attention for slate Markov
    decision processes with high-dimensional states and actions". A sum has no choice between the items of a
    slate in it: where only one of them is chosen, `SlateQ` has the right form.

    Args:
        options: `double` and `dueling`.
        **settings: see `SlateOffPolicy`.
    """

    name: ClassVar[str] = "dqn"
    policy_aliases: ClassVar[dict[str, Any]] = {"SlatePolicy": DQNPolicy}
    policy: DQNPolicy

    def losses(self, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, " row"], dict[str, Tensor]]:
        """Return the temporal-difference loss of all slots."""
        policy = self.policy
        options: Mapping[str, Any] = policy.options
        slots = policy.slots
        with torch.no_grad():
            target = policy.q_target(batch.follow)
            chooser = policy.q(batch.follow) if options.get("double", True) else target
            best = masked(chooser, batch.follow.mask).topk(slots, dim=1).indices
            later = target.gather(1, best) + policy.slot
            # What a slot earned is its own; the rest, and what comes in later steps, is shared.
            own = batch.earned + ((batch.reward - batch.earned.sum(1)) / slots).unsqueeze(1)
            if self.n_step > 1:
                later = later.mean(1, keepdim=True).expand(-1, slots)
            ends = batch.terminated.unsqueeze(1).expand(-1, slots)
            goal = td_target(own, later, ends, batch.discount.unsqueeze(1).expand(-1, slots))
        found = policy.q(batch.context).gather(1, batch.columns) + policy.slot
        # Squared, not Huber: an end of the episode is rare and large, and its mean is what counts.
        each = 0.5 * (found - goal).square().sum(1)
        loss = (batch.weight * each).mean()
        error = (found - goal).detach()
        return loss, error.abs().mean(1), {"td_error": error.abs().mean(), "q": found.detach().mean()}

    def after(self) -> None:
        """Move the target network."""
        if self._n_updates % self.target_every == 0:
            self.policy.q_target.soft_update(self.policy.q, self.tau)


class DQNAgent(SlateAgent):
    """`SlateDQN` as an agent of the lab."""

    name: ClassVar[str] = "dqn"
    algorithm: ClassVar[Any] = SlateDQN
    users_at_once: ClassVar[int] = 64


PART = DQNAgent
__all__ = ["PART", "DQNAgent", "DQNPolicy", "SlateDQN"]
