"""A2C for slates: one gradient step on each roll-out, with an advantage for each slot."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from stable_baselines3 import A2C
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn
from torch.nn import functional

from agents.core.agent import SlateAgent
from agents.core.algorithm import known_seed, linear, same_names, with_catalog
from agents.core.inner import Scorer
from agents.core.on_policy import Nothing, SlateOnPolicy
from agents.core.policy import SlateActorCriticPolicy
from agents.core.rows import slots_of
from agents.maths.policy_gradient import per_slot_advantage


class SlateA2C(SlateOnPolicy, A2C):
    """Advantage actor-critic over slates, a class of stable-baselines3's A2C.

    The gradient of a roll-out is that of mean over users and steps of -Σ_k A_k log π(a_k | above, s), with
    A_k as in `SlatePPO`: a slot answers for its own surprise and for the future. With `per_slot=False` every
    slot has the advantage of the whole slate; a slate of one slot always has.

    Source: Mnih et al. (2016), "Asynchronous methods for deep reinforcement learning", ICML, algorithm S3,
    in one process; GAE as in `SlatePPO`. Differs: advantages per slot; V = F + Σ_k b_k; Adam by default,
    where stable-baselines3 has RMSprop.

    Args:
        policy: `SlateActorCriticPolicy`, or "SlatePolicy".
        env: where to learn: `make_sb3(id, num_envs)`, or another `VecEnv` with its observations.
        learning_rate: at the start.
        final_learning_rate: at the end of `learn`, in a straight line; None stays at `learning_rate`.
        n_steps: steps of a roll-out.
        gamma: discount of a step.
        gae_lambda: λ.
        normalize_advantage: to mean 0 and standard deviation 1 in each roll-out.
        ent_coef: weight of the entropy, the sum over slots.
        vf_coef: weight of F's squared error.
        slot_coef: weight of the b_k's squared error.
        max_grad_norm: largest norm of the gradient.
        per_slot: see above.
        reward_scale: rewards are multiplied by it; None is 1 / K.
        tensors: step a world's own batch without copies.
        stats_window_size: finished episodes in the logged means.
        tensorboard_log: a folder, or None.
        policy_kwargs: settings of the policy: ranker, spec, body, hidden, …
        verbose: 1 prints tables.
        seed: of everything random.
        device: where to learn.

    Raises:
        BadInput: as `SlatePPO`.
    """

    name: ClassVar[str] = "a2c"
    policy_aliases: ClassVar[dict[str, Any]] = {"SlatePolicy": SlateActorCriticPolicy}
    kept: ClassVar[Mapping[str, str]] = {
        "learning_rate": "base_learning_rate",
        "reward_scale": "_scale",
        **same_names(
            "final_learning_rate n_steps gamma gae_lambda normalize_advantage ent_coef vf_coef slot_coef "
            "max_grad_norm per_slot tensors seed"
        ),
    }

    def __init__(
        self,
        policy: str | type[SlateActorCriticPolicy] = "SlatePolicy",
        env: VecEnv | None = None,
        learning_rate: float = 3e-3,
        final_learning_rate: float | None = None,
        n_steps: int = 5,
        gamma: float = 0.95,
        gae_lambda: float = 0.95,
        normalize_advantage: bool = True,
        ent_coef: float = 0.001,
        vf_coef: float = 0.5,
        slot_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        per_slot: bool = True,
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
        self.base_learning_rate, self.final_learning_rate = learning_rate, final_learning_rate
        self.slot_coef, self.tensors = slot_coef, tensors
        self.per_slot, self._scale = per_slot, reward_scale
        seed = known_seed(seed)
        super().__init__(
            policy,
            env,  # type: ignore[arg-type]
            learning_rate=linear(learning_rate, final_learning_rate),
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_rms_prop=False,
            rollout_buffer_class=Nothing,  # type: ignore[arg-type]
            normalize_advantage=normalize_advantage,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=with_catalog(policy_kwargs, env),
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        slots = slots_of(self.action_space)
        self.per_slot = self.per_slot and slots > 1
        self.reward_scale = 1 / slots if self._scale is None else self._scale
        # Whether there are slot values follows from what is learned, also where a file says otherwise.
        self.policy_kwargs = {"network_seed": int(self.seed or 0), **self.policy_kwargs}
        self.policy_kwargs["slot_values"] = self.per_slot
        super()._setup_model()

    def train(self) -> None:
        """Take one gradient step on the last roll-out."""
        assert self.rollout is not None
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        rollout = self.rollout
        choice, future, slot = Scorer(self.network).everything(rollout.context)
        log_prob, entropy = choice.log_probs(rollout.columns, entropy="slots" if self.ent_coef else None)
        if self.per_slot:
            advantage = per_slot_advantage(rollout.advantage, rollout.earned, slot.detach())
        else:
            advantage = rollout.advantage.unsqueeze(1)
        if self.normalize_advantage and advantage.numel() > 1:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        later = rollout.returns - rollout.earned.sum(1) if self.per_slot else rollout.returns
        parts = {
            "policy_loss": -(advantage * log_prob).sum(1).mean(),
            "value_loss": functional.mse_loss(future, later),
            "slot_value_loss": functional.mse_loss(slot, rollout.earned) * self.per_slot,
            "entropy": entropy.mean(),
        }
        weights = (1.0, self.vf_coef, self.slot_coef, -self.ent_coef)
        terms: list[Tensor] = [w * x for w, x in zip(weights, parts.values(), strict=True)]
        loss: Float[Tensor, ""] = torch.stack(terms).sum()
        self.policy.optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        self.policy.optimizer.step()
        self._n_updates += 1
        self.check_finite(float(loss.detach()))
        for key, value in parts.items():
            self.logger.record(f"train/{key}", float(value.detach()))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")


class A2CAgent(SlateAgent):
    """`SlateA2C` as an agent of the lab."""

    name: ClassVar[str] = "a2c"
    algorithm: ClassVar[Any] = SlateA2C


PART = A2CAgent
__all__ = ["PART", "A2CAgent", "SlateA2C"]
