"""REINFORCE for slates: returns less a learned value, and the top-K correction for draws with replacement."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn
from torch.nn import functional

from agents.core.agent import SlateAgent
from agents.core.algorithm import known_seed, linear, same_names, with_catalog
from agents.core.choice import Choice
from agents.core.inner import Scorer
from agents.core.on_policy import Nothing, Rollout, SlateOnPolicy
from agents.core.policy import SlateActorCriticPolicy
from agents.core.rows import WorldRows, slots_of
from agents.maths.policy_gradient import per_slot_advantage, to_go_advantage, top_k_off_policy_loss
from simlab.context import Context
from simlab.errors import BadInput, nearest

CREDITS = ("slate", "to_go", "slot", "top_k")
"""What a slot answers for: all of the slate, itself and the slots below, itself, or see `top_k`."""


class SlateReinforce(SlateOnPolicy):
    """REINFORCE with a value baseline over slates, an on-policy algorithm of stable-baselines3.

    The gradient is that of the mean over users and steps of -min(ρ, cap) Σ_k A_k log π(a_k | above, s), with
    ρ = π / π_old held fixed: 1 at the first pass over a roll-out. With G = r_0 + γ r_1 + … + γ^n V(s_n),
    A = G - V(s), c_k what slot k earned and b_k(s) a guess of it, A_k is by `credit`

    - `"slate"`: A for every slot (Williams 1992): unbiased, of high variance;
    - `"to_go"`: A - Σ_{j<k} (c_j - b_j): unbiased where no slot's reward hangs on what stands below it;
    - `"slot"`: (c_k - b_k) + (A - Σ_j (c_j - b_j)), as in `SlatePPO`: of the lowest variance;
    - `"top_k"`: slates are drawn another way too. K items are drawn from the softmax **with** replacement;
      what is drawn again is shown once, and its slot stays empty. Each draw a has the loss
      -min(π(a) / π_old(a), cap) λ_K(a) R log π(a), λ_K = K (1 - π(a))^{K-1}, and R = c of the item, plus
      A - Σ_j (c_j - b_j). No baseline is taken off c: under λ_K it would be paid for by the number of
      different items, which is not constant. `distribution` acts by Plackett–Luce over the same logits.

    Source: Williams (1992), "Simple statistical gradient-following algorithms for connectionist reinforcement
    learning"; Chen et al. (2019), "Top-K off-policy correction for a REINFORCE recommender system", WSDM,
    section 4.3; Oosterhuis (2021), "Computationally efficient optimization of Plackett-Luce ranking models",
    SIGIR, for "to_go". Differs: on-policy, from a simulator; V = F + Σ_k b_k as in `SlatePPO`; a roll-out may
    cut an episode, and then V of what follows is added.

    Args:
        policy: `SlateActorCriticPolicy`, or "SlatePolicy".
        env: where to learn: `make_sb3(id, num_envs)`, or another `VecEnv` with its observations.
        learning_rate: at the start.
        final_learning_rate: at the end of `learn`, in a straight line; None stays at `learning_rate`.
        n_steps: steps of a roll-out: the longest return.
        n_epochs: gradient steps on a roll-out, each on all of it.
        gamma: discount of a step.
        bootstrap: add V where a roll-out or the time limit cuts an episode. False is Monte-Carlo: nothing is
            added, so a roll-out should be whole episodes.
        cap: largest ρ.
        credit: see above.
        normalize_advantage: to mean 0 and standard deviation 1 in each roll-out; "top_k" keeps its mean.
        ent_coef: weight of the entropy, the sum over slots ("top_k": of one draw).
        vf_coef: weight of F's squared error.
        slot_coef: weight of the b_k's squared error.
        max_grad_norm: largest norm of the gradient.
        reward_scale: rewards are multiplied by it; None is 1 / K.
        tensors: step a world's own batch without copies.
        stats_window_size: finished episodes in the logged means.
        tensorboard_log: a folder, or None.
        policy_kwargs: settings of the policy: ranker, spec, body, hidden, …
        verbose: 1 prints tables.
        seed: of everything random.
        device: where to learn.

    Raises:
        BadInput: as `SlatePPO`, and for an unknown `credit`, with the nearest one.
    """

    name: ClassVar[str] = "reinforce"
    policy_aliases: ClassVar[dict[str, Any]] = {"SlatePolicy": SlateActorCriticPolicy}
    kept: ClassVar[Mapping[str, str]] = {
        "learning_rate": "base_learning_rate",
        "reward_scale": "_scale",
        **same_names(
            "final_learning_rate n_steps n_epochs gamma bootstrap cap credit normalize_advantage ent_coef "
            "vf_coef slot_coef max_grad_norm tensors seed"
        ),
    }

    def __init__(
        self,
        policy: str | type[SlateActorCriticPolicy] = "SlatePolicy",
        env: VecEnv | None = None,
        learning_rate: float = 3e-3,
        final_learning_rate: float | None = None,
        n_steps: int = 10,
        n_epochs: int = 1,
        gamma: float = 0.95,
        bootstrap: bool = True,
        cap: float | int = 10.0,
        credit: str = "slot",
        normalize_advantage: bool = True,
        ent_coef: float = 0.001,
        vf_coef: float = 0.5,
        slot_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        reward_scale: float | None = None,
        tensors: bool = True,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: Mapping[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = 0,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        if credit not in CREDITS:
            raise BadInput(f"credit is {', '.join(CREDITS)}, not {credit}{nearest(credit, CREDITS)}")
        if n_epochs < 1:
            raise BadInput(f"n_epochs is at least 1, not {n_epochs}")
        self.base_learning_rate, self.final_learning_rate = learning_rate, final_learning_rate
        self.n_epochs, self.bootstrap, self.cap, self.credit = n_epochs, bootstrap, cap, credit
        self.normalize_advantage, self.slot_coef = normalize_advantage, slot_coef
        self.tensors, self._scale = tensors, reward_scale
        seed = known_seed(seed)
        super().__init__(
            policy,
            env,  # type: ignore[arg-type]
            learning_rate=linear(learning_rate, final_learning_rate),
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=1.0,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=False,
            sde_sample_freq=-1,
            rollout_buffer_class=Nothing,  # type: ignore[arg-type]
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=with_catalog(policy_kwargs, env),
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
            supported_action_spaces=(spaces.MultiDiscrete, spaces.Discrete),
        )
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        slots = slots_of(self.action_space)
        self.reward_scale = 1 / slots if self._scale is None else self._scale
        slot_values = slots > 1 and self.credit != "slate"
        self.policy_kwargs = {"network_seed": int(self.seed or 0), **self.policy_kwargs}
        self.policy_kwargs["slot_values"] = slot_values
        super()._setup_model()
        if self.credit == "top_k" and self.network.steps is not None:
            raise BadInput('credit "top_k" draws each item on its own, so it takes no groups')

    def begin(self, past: int) -> Any:
        """Return the batch of users that is being learned from."""
        rows = super().begin(past)
        if isinstance(rows, WorldRows):
            rows.repeats = self.credit == "top_k"
        return rows

    def draw(self, choice: Choice) -> tuple[Int[Tensor, "user slot"], Float[Tensor, "user slot"]]:
        """Return slates and each slot's log-probability; with "top_k" draws with replacement."""
        if self.credit != "top_k":
            return super().draw(choice)
        chance = choice.logits.log_softmax(1)
        columns = chance.exp().multinomial(self.policy.slots, replacement=True, generator=self.luck)
        return columns, chance.gather(1, columns)

    def train(self) -> None:
        """Take `n_epochs` gradient steps on the last roll-out."""
        assert self.rollout is not None
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        rollout, figures = self.rollout, {}
        for _ in range(self.n_epochs):
            choice, future, slot = Scorer(self.network).everything(rollout.context)
            actor, entropy = self._actor_loss(choice, rollout, slot.detach())
            per_slot = self.network.slot is not None
            later = rollout.returns - rollout.earned.sum(1) if per_slot else rollout.returns
            figures = {
                "policy_loss": actor.mean(),
                "value_loss": functional.mse_loss(future, later),
                "slot_value_loss": functional.mse_loss(slot, rollout.earned) * per_slot,
                "entropy": entropy.mean(),
            }
            weights = (1.0, self.vf_coef, self.slot_coef, -self.ent_coef)
            loss = torch.stack([w * x for w, x in zip(weights, figures.values(), strict=True)]).sum()
            self.policy.optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
            self._n_updates += 1
        self.check_finite(sum(float(x.detach()) for x in figures.values()))
        for key, value in figures.items():
            self.logger.record(f"train/{key}", float(value.detach()))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _actor_loss(
        self, choice: Choice, rollout: Rollout, baseline: Float[Tensor, "row slot"]
    ) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"]]:
        """Return -min(ρ, cap) Σ_k A_k log π(a_k) of each user-step, and an entropy."""
        if self.credit == "top_k":
            return self._top_k_loss(choice.logits, rollout, baseline)
        log_prob, entropy = choice.log_probs(rollout.columns, entropy="slots" if self.ent_coef else None)
        match self.credit:
            case "slot":
                advantage = per_slot_advantage(rollout.advantage, rollout.earned, baseline)
            case "to_go":
                advantage = to_go_advantage(rollout.advantage, rollout.earned, baseline)
            case _:
                advantage = rollout.advantage.unsqueeze(1).expand_as(log_prob)
        advantage = self._even(advantage, centre=True)
        ratio = (log_prob.detach() - rollout.log_prob).sum(1).exp().clamp(max=self.cap)
        return -ratio * (advantage * log_prob).sum(1), entropy

    def _top_k_loss(
        self, logits: Float[Tensor, "row cand"], rollout: Rollout, baseline: Float[Tensor, "row slot"]
    ) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"]]:
        """Return the top-K loss of each user-step, mean over its draws, and the entropy of a draw."""
        columns, slots = rollout.columns, rollout.columns.shape[1]
        every = logits.log_softmax(1)
        first = (columns.unsqueeze(2) == columns.unsqueeze(1)).to(torch.uint8).argmax(2)
        shared = rollout.advantage - (rollout.earned - baseline).sum(1)
        reward = self._even(rollout.earned.gather(1, first) + shared.unsqueeze(1), centre=False)
        loss = top_k_off_policy_loss(
            every.gather(1, columns).reshape(-1),
            rollout.log_prob.reshape(-1),
            reward.reshape(-1),
            slots,
            self.cap,
        )
        entropy = -torch.linalg.vecdot(every.exp(), every.clamp(min=-1e30))
        return loss.view(-1, slots).mean(1), entropy

    def _even(self, advantage: Float[Tensor, "row slot"], *, centre: bool) -> Float[Tensor, "row slot"]:
        """Bring advantages to standard deviation 1 and, if wanted, to mean 0."""
        if not self.normalize_advantage or advantage.numel() < 2:
            return advantage
        mean, deviation = advantage.mean(), advantage.std() + 1e-8
        return (advantage - mean) / deviation if centre else advantage / deviation

    def _bootstrap(
        self, last: list[Context], truncated: Bool[Tensor, "step user"], follow: Float[Tensor, "step user"]
    ) -> Float[Tensor, "step user"]:
        """Put values where an episode was cut; nothing but zeros without `bootstrap`."""
        if self.bootstrap:
            return super()._bootstrap(last, truncated, follow)
        follow = follow.masked_fill(truncated, 0.0)
        follow[-1] = 0.0
        return follow


class ReinforceAgent(SlateAgent):
    """`SlateReinforce` as an agent of the lab."""

    name: ClassVar[str] = "reinforce"
    algorithm: ClassVar[Any] = SlateReinforce


PART = ReinforceAgent
__all__ = ["CREDITS", "PART", "ReinforceAgent", "SlateReinforce"]
