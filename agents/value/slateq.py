"""SlateQ: the value of a slate from the values of its items, with a choice model and the null item."""

from copy import deepcopy
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from agents.core.agent import SlateAgent
from agents.core.inner import is_inner, items_of, narrowed
from agents.core.off_policy import SlateBasePolicy, SlateOffPolicy
from agents.core.replay import BETA, Batch
from agents.core.tally import Tally, tally_of
from agents.maths.best_slate import dinkelbach, greedy, top_k
from agents.maths.slateq import chosen_slot, chosen_value, slate_value, slateq_target
from simlab.adapters._state import ValueHead, state_width
from simlab.adapters.q_network import QNetwork
from simlab.context import Context
from simlab.errors import BadInput, nearest
from simlab.slates import Deterministic, SlateDistribution
from simlab.slates.contract import masked

CLICKS = ("one", "many")
OPTIMISERS = ("exact", "greedy", "top_k")
AT_ONCE = 1 << 18
"""Values of candidates that are made together."""
LIMIT = 8.0
"""Log-odds of the learned choice model are held within ±8."""


class SlateQPolicy(SlateBasePolicy):
    """Q̄(s, i) and Q̄(s, null), their targets, and log v(s, i) of the choice model."""

    def build(self) -> None:
        """Make the networks."""
        self.check_options("clicks", "optimiser", "null", "tally")
        options = {"clicks": "one", "optimiser": "exact", "null": True, "tally": False, **self.options}
        self.clicks, self.optimiser, self.null_item = (options[k] for k in ("clicks", "optimiser", "null"))
        for name, among in (("clicks", CLICKS), ("optimiser", OPTIMISERS)):
            if options[name] not in among:
                raise BadInput(
                    f"{name} is {' or '.join(among)}, not {options[name]}{nearest(options[name], among)}"
                )
        ranker = self.new_ranker("values")
        self.q = QNetwork(ranker)
        self.none = ValueHead(state_width(ranker), self.hidden, self.seed.split("null"))
        self.tally: Tally | None = None
        self.late: ValueHead | None = None
        if options["tally"]:
            if not self.null_item:
                raise BadInput("a tally moves all values alike, the null item's too, so it needs null")
            self.tally = Tally(self.catalog)
            width, beside = state_width(ranker), self.tally.width
            self.late = ValueHead(width, self.hidden, self.seed.split("tally"), beside=beside)
        self.late_target = None if self.late is None else deepcopy(self.late).requires_grad_(False)
        self.choice = self.new_ranker("choice")
        # θ_k as a logit, at first .88; for one click, slots do not matter.
        self.slot = torch.nn.Parameter(torch.full((self.slots,), 2.0), requires_grad=self.clicks == "many")
        self.q_target = self.q.copy()
        self.none_target = deepcopy(self.none).requires_grad_(False)

    def values(
        self, context: Context, target: bool = False
    ) -> tuple[Float[Tensor, "user cand"], Float[Tensor, " user"]]:
        """Return Q̄(s, i) of the candidates and Q̄(s, null)."""
        q, none, late = (
            (self.q_target, self.none_target, self.late_target) if target else (self.q, self.none, self.late)
        )
        state = q.encode(context)
        null: Tensor = none(state)
        null = null if self.null_item else torch.zeros_like(null)
        value = q(context, state)
        # Nothing is counted where slates are chosen: what moves all values alike is not needed there.
        if late is None or self.tally is None or context.tally is None:
            return value, null
        more: Tensor = late(state, tally_of(context, self.tally.width))
        return value + more.unsqueeze(1) if self.clicks == "one" else value, null + more

    def log_odds(self, context: Context) -> Float[Tensor, "user cand"]:
        """Return log v(s, i); the null item's is 0."""
        choice = self.choice
        return choice.score(context, choice.encode(context)).clamp(-LIMIT, LIMIT)

    def best(
        self,
        mask: Bool[Tensor, "user cand"],
        value: Float[Tensor, "user cand"],
        null: Float[Tensor, " user"],
        log_odds: Float[Tensor, "user cand"],
    ) -> Int[Tensor, "user slot"]:
        """Return the best slate by these values."""
        return self._best(mask, value, null, log_odds.clone())

    def _best(self, mask: Tensor, value: Tensor, null: Tensor, log_odds: Tensor) -> Tensor:
        """Return the best slate; the log-odds are overwritten."""
        if self.clicks == "many":
            score = log_odds.sigmoid_().mul_(value)
            columns = masked(score, mask).topk(self.slots, dim=1).indices
            order = self.slot.detach().argsort(descending=True)  # the best item stands where most is seen
            return torch.empty_like(columns).index_copy_(1, order, columns)
        odds, one = log_odds.exp_(), torch.ones_like(null)
        if self.optimiser == "exact":
            return dinkelbach(odds, value, one, null, self.slots, mask=mask)[0]
        pick = greedy if self.optimiser == "greedy" else top_k
        return pick(odds, value, one, null, self.slots, mask=mask)

    def value_of(
        self,
        columns: Tensor,
        value: Float[Tensor, "user cand"],
        null: Float[Tensor, " user"],
        log_odds: Float[Tensor, "user cand"],
    ) -> Float[Tensor, " user"]:
        """Return Q(s, A)."""
        return self.together(value.gather(1, columns), null, log_odds.gather(1, columns))

    def together(
        self,
        shown: Float[Tensor, "user slot"],
        null: Float[Tensor, " user"],
        odds: Float[Tensor, "user slot"],
    ) -> Float[Tensor, " user"]:
        """Return Q(s, A) from Q̄ and log v of what A shows, and from the null item's Q̄."""
        if self.clicks == "many":
            return null + (self.slot.detach().sigmoid() * odds.sigmoid() * shown).sum(1)
        return slate_value(odds.exp(), shown, torch.ones_like(null), null)

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return all mass on the best slate."""
        return Deterministic(self.best_slates(context), context.candidates.shape[1])

    @torch.no_grad()
    def best_slates(self, context: Context) -> Int[Tensor, "user slot"]:
        """Return the best slates, where that is faster for a few users at a time: nothing is large then."""
        q, choice = self.q, self.choice
        if not (is_inner(q.ranker, context) and is_inner(choice, context)):
            value, null = self.values(context)
            return self._best(context.mask, value, null, self.log_odds(context))
        state, wish = q.encode(context), choice.encode(context)
        null = self.none(state) if self.null_item else state.new_zeros(len(state))
        items, wanted = items_of(q.ranker, context).T, items_of(choice, context).T
        # A scale and a shift of all values go into the product.
        state = state if q.scale is None else state * q.scale
        if q.shift is not None:
            state = torch.cat([state, q.shift.expand(len(state), 1)], 1)
            items = torch.cat([items, items.new_ones(1, items.shape[1])])
        size, found = max(1, AT_ONCE // items.shape[1]), []
        space = state.new_empty(2, min(size, len(state)), items.shape[1])  # used again: fresh memory is slow
        for at in range(0, len(state), size):
            part = slice(at, at + size)
            value, odds = space[:, : len(state[part])]
            torch.mm(state[part], items, out=value)
            torch.mm(wish[part], wanted, out=odds).clamp_(-LIMIT, LIMIT)
            found.append(self._best(context.mask[part], value, null[part], odds))
        return torch.cat(found)

    def shown(
        self, context: Context, columns: Int[Tensor, "user slot"], target: bool = False
    ) -> tuple[Float[Tensor, "user slot"], Float[Tensor, " user"]]:
        """Return Q̄(s, i) of what was shown, and Q̄(s, null)."""
        if is_inner(self.q.ranker, context):
            return self.values(narrowed(context, columns), target)
        value, null = self.values(context, target)
        return value.gather(1, columns), null

    def shown_odds(self, context: Context, columns: Int[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return log v(s, i) of what was shown."""
        if is_inner(self.choice, context):
            return self.log_odds(narrowed(context, columns))
        return self.log_odds(context).gather(1, columns)


class SlateQ(SlateOffPolicy):
    """SlateQ: a value for each item if it is chosen, the null item too, and the best slate exactly.

    An off-policy algorithm of stable-baselines3.

    A user chooses one item of the slate, or the null item, by odds v; then

        Q(s, A) = Σ_{i ∈ A ∪ {null}} P(i | s, A) Q̄(s, i),    P(i | s, A) = v_i / Σ_{j ∈ A ∪ {null}} v_j,

    and a step with the choice i teaches Q̄(s, i) ← r + γ max_A Q(s', A): from the **next** state, and for the
    null item as for any other. The best slate is exact (`agents.maths.best_slate.dinkelbach`). v is learned
    from what is clicked (cross-entropy over the slate and the null item, whose odds are 1). The online
    network picks the slate and the target network values it (double Q-learning).

    Where several items of a slate can be clicked (`clicks="many"`), Q(s, A) = Q̄(s, null) + Σ_k P(click k)
    Q̄(s, a_k) instead, learned from (Q̄(s, null) + Σ_k c_k Q̄(s, a_k) - y)², so that Q̄(s, a) is what a click
    adds, with P(click k) = θ_k α(s, a_k), α = σ(log v), and θ_k learned. It takes the future to be additive
    in the clicks, which is an approximation; then the K largest α Q̄ are the best slate, in the order of θ.

    With a tally, U(s, n) is added to Q̄ of every item and of the null item, n being what happened so far in
    the episode (`agents.core.tally`). It moves all slates of a state alike, so acting does without it, and
    the policy asks nothing more of its users; the values of what follows a choice differ by what it cost.

    Source: Ie et al. (2019), "SlateQ: a tractable decomposition for reinforcement learning with
    recommendation sets", IJCAI, equations 11 to 17 (the extended version, arXiv:1905.12767). Differs: their
    code leaves the null item's value out; ours has it (`options={"null": False}` leaves it out). Their
    optimisers are a linear programme, greedy and top-k; ours is exact without one.

    Args:
        options: `clicks` ("one" or "many"), `optimiser` ("exact", "greedy", "top_k"), `null` and
            `tally`.
        **settings: see `SlateOffPolicy`.
    """

    name: ClassVar[str] = "slateq"
    policy_aliases: ClassVar[dict[str, Any]] = {"SlatePolicy": SlateQPolicy}
    policy: SlateQPolicy

    def losses(self, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, " row"], dict[str, Tensor]]:
        """Return the temporal-difference loss and the choice model's."""
        policy = self.policy
        with torch.no_grad():
            columns = policy.best_slates(batch.follow)
            next_value, next_null = policy.shown(batch.follow, columns, target=True)
            later = policy.together(next_value, next_null, policy.shown_odds(batch.follow, columns))
            goal = slateq_target(batch.reward, later, batch.terminated, batch.discount)
        shown, null = policy.shown(batch.context, batch.columns)
        odds = policy.shown_odds(batch.context, batch.columns)
        if policy.clicks == "many":
            found = null + (batch.click * shown).sum(1)
            chance = functional.logsigmoid(policy.slot) + functional.logsigmoid(odds)
            none = torch.log1p(-chance.exp().clamp(max=1 - 1e-6))
            choice = -torch.where(batch.click > 0, chance, none).sum(1)
        else:
            found = chosen_value(batch.click, shown, null)
            everything = torch.cat([odds, odds.new_zeros(len(odds), 1)], dim=1)
            choice = functional.cross_entropy(everything, chosen_slot(batch.click), reduction="none")
        error = found - goal
        # Squared, not Huber: an end of the episode is rare and large, and its mean is what counts.
        td = 0.5 * error.square()
        # Priorities follow the error, which hangs on what was clicked: the choice model takes that back.
        even = batch.weight ** (1 / BETA)
        choice = even / even.mean() * choice
        loss = (batch.weight * td).mean() + choice.mean()
        error = error.detach()
        return loss, error, {"td_error": error.abs().mean(), "choice_loss": choice.mean(), "q": found.mean()}

    def after(self) -> None:
        """Move the target networks."""
        if self._n_updates % self.target_every == 0:
            self.policy.q_target.soft_update(self.policy.q, self.tau)
            policy = self.policy
            pairs = ((policy.none_target, policy.none), (policy.late_target, policy.late))
            with torch.no_grad():
                for target, online in pairs:
                    if target is None or online is None:
                        continue
                    for mine, theirs in zip(target.parameters(), online.parameters(), strict=True):
                        mine.lerp_(theirs, self.tau)


class SlateQAgent(SlateAgent):
    """`SlateQ` as an agent of the lab."""

    name: ClassVar[str] = "slateq"
    algorithm: ClassVar[Any] = SlateQ
    users_at_once: ClassVar[int] = 64


PART = SlateQAgent
__all__ = ["PART", "SlateQ", "SlateQAgent", "SlateQPolicy"]
