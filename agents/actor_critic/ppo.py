"""PPO for slates: a Plackett–Luce actor, a ratio and an advantage for each slot."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn
from torch.nn import functional

from agents.core.agent import SlateAgent
from agents.core.algorithm import known_seed, linear, same_names, with_catalog
from agents.core.inner import Scorer
from agents.core.on_policy import Nothing, Rollout, SlateOnPolicy
from agents.core.policy import SlateActorCriticPolicy
from agents.core.rows import slots_of
from agents.maths.policy_gradient import per_slot_advantage, ppo_loss
from simlab.errors import BadInput


class SlatePPO(SlateOnPolicy, PPO):
    """Proximal policy optimisation over slates, a class of stable-baselines3's PPO.

    The actor is Plackett–Luce over a ranker's logits. Every slot has its own ratio and its own advantage,

        ρ_k = π(a_k | above, s) / π_old(a_k | above, s),
        A_k = (c_k - b_k(s)) + (A - Σ_j (c_j - b_j(s))),

    with c_k what slot k earned and A the advantage (GAE) of the whole slate: a slot answers for its own
    surprise and for the future, not for the luck of the other slots. The loss is the mean over slots of
    -min(ρ_k A_k, clip(ρ_k) A_k). With `per_slot=False` it is PPO of the joint slate: one ratio, one
    advantage. A slate of one slot is always stock PPO.

    Source: Schulman et al. (2017), "Proximal policy optimization algorithms", equation 7; Schulman et al.
    (2016), "High-dimensional continuous control using generalized advantage estimation", equation 16.
    Differs: ratios and advantages per slot; V = F + Σ_k b_k, where F learns the return without what the slots
    earned now, and b_k what slot k earned. A clip per slot bounds a slate's ratio more loosely than one clip.

    Args:
        policy: `SlateActorCriticPolicy`, or "SlatePolicy".
        env: where to learn: `make_sb3(id, num_envs)`, or another `VecEnv` with its observations.
        learning_rate: at the start.
        final_learning_rate: at the end of `learn`, in a straight line; None stays at `learning_rate`.
        n_steps: steps of a roll-out.
        batch_size: user-steps of a gradient step.
        n_epochs: passes over a roll-out.
        gamma: discount of a step.
        gae_lambda: λ.
        clip_range: ε.
        normalize_advantage: to mean 0 and standard deviation 1 in each batch.
        ent_coef: weight of the entropy, the sum over slots.
        vf_coef: weight of F's squared error.
        slot_coef: weight of the b_k's squared error.
        max_grad_norm: largest norm of the gradient.
        per_slot: see above.
        reward_scale: rewards are multiplied by it; None is 1 / K.
        target_kl: stop a roll-out's passes where the policy moved further.
        tensors: step a world's own batch without copies.
        stats_window_size: finished episodes in the logged means.
        tensorboard_log: a folder, or None.
        policy_kwargs: settings of the policy: ranker, spec, body, hidden, …
        verbose: 1 prints tables.
        seed: of everything random.
        device: where to learn.

    Raises:
        BadInput: for spaces that are not those of slates, fewer candidates than slots, and where a loss or
            a reward stops being finite.
    """

    name: ClassVar[str] = "ppo"
    policy_aliases: ClassVar[dict[str, Any]] = {"SlatePolicy": SlateActorCriticPolicy}
    kept: ClassVar[Mapping[str, str]] = {
        "learning_rate": "base_learning_rate",
        "clip_range": "clip",
        "reward_scale": "_scale",
        **same_names(
            "final_learning_rate n_steps batch_size n_epochs gamma gae_lambda normalize_advantage ent_coef "
            "vf_coef slot_coef max_grad_norm per_slot target_kl tensors seed"
        ),
    }

    def __init__(
        self,
        policy: str | type[SlateActorCriticPolicy] = "SlatePolicy",
        env: VecEnv | None = None,
        learning_rate: float = 3e-3,
        final_learning_rate: float | None = None,
        n_steps: int = 25,
        batch_size: int = 3200,
        n_epochs: int = 4,
        gamma: float = 0.95,
        gae_lambda: float = 0.95,
        clip_range: float = 0.2,
        normalize_advantage: bool = True,
        ent_coef: float = 0.001,
        vf_coef: float = 0.5,
        slot_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        per_slot: bool = True,
        reward_scale: float | None = None,
        target_kl: float | None = None,
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
        self.clip, self.slot_coef, self.tensors = clip_range, slot_coef, tensors
        self.per_slot, self._scale = per_slot, reward_scale
        if batch_size < 1 or n_epochs < 1:
            name, value = ("batch_size", batch_size) if batch_size < 1 else ("n_epochs", n_epochs)
            raise BadInput(f"{name} is {value}, but it takes at least 1")
        whole = batch_size if env is None else env.num_envs * n_steps  # stock warns of any other batch
        seed = known_seed(seed)
        super().__init__(
            policy,
            env,  # type: ignore[arg-type]
            learning_rate=linear(learning_rate, final_learning_rate),
            n_steps=n_steps,
            batch_size=max(whole, 2),
            n_epochs=n_epochs,
            gamma=gamma,
            gae_lambda=gae_lambda,
            clip_range=clip_range,
            normalize_advantage=False,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            rollout_buffer_class=Nothing,  # type: ignore[arg-type]
            target_kl=target_kl,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=with_catalog(policy_kwargs, env),
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )
        self.batch_size, self.normalize_advantage = batch_size, normalize_advantage
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
        """Take `n_epochs` passes over the last roll-out."""
        assert self.rollout is not None
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        rollout, n = self.rollout, len(self.rollout)
        total, count = torch.zeros(6, device=self.device), 0
        parameters = [p for p in self.policy.parameters() if p.requires_grad]
        for _ in range(self.n_epochs):
            order = torch.randperm(n, generator=self.luck, device=self.device)
            far = False
            for batch in torch.split(order, self.batch_size):
                loss, about = self._loss(rollout.rows(batch))
                if self.target_kl is not None and float(about[4]) > 1.5 * self.target_kl:
                    far = True
                    break
                self.policy.optimizer.zero_grad()
                torch.autograd.backward(loss)
                nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
                self.policy.optimizer.step()
                total += about
                count += 1
            if far:
                break
        self._n_updates += self.n_epochs
        means = (total / max(count, 1)).tolist()
        self.check_finite(sum(means))
        names = (
            "policy_gradient_loss",
            "value_loss",
            "slot_value_loss",
            "entropy",
            "approx_kl",
            "clip_fraction",
        )
        for key, value in zip(names, means, strict=True):
            self.logger.record(f"train/{key}", value)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _loss(self, batch: Rollout) -> tuple[Float[Tensor, ""], Float[Tensor, " figure"]]:
        """Return the loss of a batch, and six figures about it."""
        choice, future, slot = Scorer(self.network).everything(batch.context)
        log_prob, entropy = choice.log_probs(batch.columns, entropy="slots" if self.ent_coef else None)
        old = batch.log_prob
        if self.per_slot:
            advantage = per_slot_advantage(batch.advantage, batch.earned, self._baseline(batch, slot))
        else:
            log_prob, old, advantage = log_prob.sum(1), old.sum(1), batch.advantage
        if self.normalize_advantage and advantage.numel() > 1:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        policy = ppo_loss(log_prob, old, advantage, self.clip)
        zero = policy.new_zeros(())
        later = batch.returns - batch.earned.sum(1) if self.per_slot else batch.returns
        value = functional.mse_loss(future, later)
        own = functional.mse_loss(slot, batch.earned) if self.per_slot else zero
        chaos = entropy.mean()
        loss = policy + self.vf_coef * value + self.slot_coef * own - self.ent_coef * chaos
        with torch.no_grad():
            gap = log_prob - old
            kl = (gap.exp() - 1 - gap).mean()
            clipped = ((gap.exp() - 1).abs() > self.clip).float().mean()
        return loss, torch.stack([policy, value, own, chaos, kl, clipped]).detach()

    def _baseline(self, batch: Rollout, slot: Float[Tensor, "row slot"]) -> Float[Tensor, "row slot"]:
        return slot.detach()


class PPOAgent(SlateAgent):
    """`SlatePPO` as an agent of the lab."""

    name: ClassVar[str] = "ppo"
    algorithm: ClassVar[Any] = SlatePPO


PART = PPOAgent
