"""Learning from a replay buffer: acting, keeping, and gradient steps between."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from jaxtyping import Float, Int
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import RolloutReturn
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from agents.core.algorithm import SlateAlgorithm, known_seed, linear, same_names, with_catalog
from agents.core.networks import build_ranker, known_settings
from agents.core.replay import Batch, SlateReplay
from agents.core.rows import context_of, n_items_of, slots_of
from agents.maths.plackett_luce import random_slates
from simlab.context import Catalog, Context
from simlab.errors import BadInput, nearest
from simlab.rankers.contract import Ranker
from simlab.seeds import Seed
from simlab.slates import Mixture, SlateDistribution, Uniform
from simlab.slates.contract import check_slots


class SlateBasePolicy(BasePolicy):
    """Networks that choose slates, for learners with a replay buffer. A learner's policy fills in `build`.

    Args:
        observation_space: a Dict with the keys of `envs.spaces.observation_space`.
        action_space: MultiDiscrete([C] * slots), or Discrete(C) for one slot.
        lr_schedule: of the optimiser.
        ranker: the family of the networks' body.
        spec: settings of the family.
        catalog: what is known of the items, for families that use it.
        hidden: widths of the layers of heads.
        network_seed: of the first weights.
        options: settings of the learner that its networks need.
        optimizer_class: of torch.
        optimizer_kwargs: of the optimiser.

    Raises:
        BadInput: for spaces that are not those of slates, and for an unknown family or setting.
    """

    optimizer: torch.optim.Optimizer

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Any,
        *,
        ranker: str = "two_tower",
        spec: Mapping[str, Any] | None = None,
        catalog: Catalog | None = None,
        hidden: tuple[int, ...] = (64,),
        network_seed: int = 0,
        options: Mapping[str, Any] | None = None,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        **stock: Any,
    ) -> None:
        known_settings(type(self), BasePolicy, stock)
        super().__init__(
            observation_space,
            action_space,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            **stock,
        )
        self.slots = slots_of(action_space)
        self.n_items = n_items_of(observation_space, action_space)
        if catalog is not None:
            if catalog.n_items < self.n_items:
                have = catalog.n_items
                raise BadInput(f"the catalogue has {have} items, but the spaces speak of {self.n_items}")
            self.n_items = catalog.n_items
        self.family, self.spec, self.catalog = ranker, spec, catalog
        self.hidden, self.seed, self.options = tuple(hidden), Seed(network_seed), dict(options or {})
        with torch.random.fork_rng(devices=[]):  # layers draw their first weights from the global generator
            torch.default_generator.manual_seed(self.seed.split("policy").value & ((1 << 63) - 1))
            self.build()
        self.make_optimizers(lr_schedule)

    def build(self) -> None:
        """Make the networks."""
        raise NotImplementedError

    def make_optimizers(self, lr_schedule: Any) -> None:
        """Make the optimisers; one of everything that is trained, unless a learner says otherwise."""
        wanted = [p for p in self.parameters() if p.requires_grad]
        make: Any = self.optimizer_class
        self.optimizer = make(wanted, lr=lr_schedule(1), **self.optimizer_kwargs)

    def check_options(self, *known: str) -> None:
        """Refuse an option that is not among the known ones.

        Raises:
            BadInput: naming the option, and the nearest one.
        """
        for key in self.options:
            if key not in known:
                raise BadInput(f"{type(self).__name__} has no option {key}{nearest(key, known)}")

    def new_ranker(self, what: str) -> Ranker:
        """Return an untrained ranker of the policy's family."""
        space = self.observation_space
        assert isinstance(space, spaces.Dict)
        width = space["features"].shape[0] if "features" in space.spaces else 0  # type: ignore[index]
        return build_ranker(self.family, self.spec, self.n_items, width, self.catalog, self.seed.split(what))

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return the distribution over slates that is acted by, without exploration."""
        raise NotImplementedError

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        context = context_of(observation, self.n_items)
        check_slots(context.mask, self.slots)
        chosen = self.distribution(context, self.slots)
        # As everywhere in stable-baselines3, an unseeded draw is by torch's own generator.
        columns = chosen.mode() if deterministic else chosen.sample(torch.default_generator)
        return columns.squeeze(1) if isinstance(self.action_space, spaces.Discrete) else columns


class SlateOffPolicy(SlateAlgorithm, OffPolicyAlgorithm):
    """Acts, keeps what happened, and takes gradient steps on draws from it.

    A learner writes `losses` (and `after`, for target networks). Exploration is a uniform slate with
    probability ε for each user alone, and ε goes in a straight line from `explore[0]` to `explore[1]` over
    the share `explore[2]` of the training.

    Args:
        policy: the learner's own.
        env: where to learn.
        learning_rate: at the start.
        final_learning_rate: at the end; None stays.
        buffer_size: user-steps that are kept.
        learning_starts: user-steps of uniform slates before the first gradient step.
        batch_size: user-steps of a gradient step.
        gamma: discount of a step.
        train_freq: steps of the batch of users between two turns of gradient steps.
        gradient_steps: of a turn.
        tau: share of the online network that a target takes over at a time.
        target_every: gradient steps between two such times.
        n_step: rewards that are added up before the value.
        priority: α of the prioritised replay; 0 draws evenly.
        explore: first ε, last ε, share of the training that it falls in.
        max_grad_norm: largest norm of the gradient.
        reward_scale: rewards are multiplied by it before anything is learned.
        tensors: step a world's own batch without copies.
        stats_window_size: finished episodes in the logged means.
        tensorboard_log: a folder, or None.
        policy_kwargs: settings of the policy.
        options: settings of the learner for its policy, by name.
        verbose: 1 prints tables.
        seed: of everything random.
        device: where to learn.

    Raises:
        BadInput: for spaces that are not those of slates, fewer candidates than slots, and where a loss or
            a reward stops being finite.
    """

    kept: ClassVar[Mapping[str, str]] = {
        "learning_rate": "base_learning_rate",
        **same_names(
            "final_learning_rate buffer_size learning_starts batch_size gamma gradient_steps tau "
            "target_every n_step priority explore max_grad_norm reward_scale tensors seed"
        ),
        "train_freq": "every",
    }

    def __init__(
        self,
        policy: str | type[SlateBasePolicy] = "SlatePolicy",
        env: VecEnv | None = None,
        learning_rate: float = 1e-3,
        final_learning_rate: float | None = None,
        buffer_size: int = 200_000,
        learning_starts: int = 2_000,
        batch_size: int = 512,
        gamma: float = 0.95,
        train_freq: int = 1,
        gradient_steps: int = 1,
        tau: float = 1.0,
        target_every: int = 100,
        n_step: int = 1,
        priority: float = 0.0,
        explore: tuple[float, ...] = (1.0, 0.05, 0.5),
        max_grad_norm: float = 10.0,
        reward_scale: float = 1.0,
        tensors: bool = True,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = 0,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        for key, value in {
            "gradient_steps": gradient_steps,
            "n_step": n_step,
            "train_freq": train_freq,
        }.items():
            if value < 1:
                raise BadInput(f"{key} is at least 1, not {value}")
        explore = tuple(explore)
        if len(explore) != 3 or not all(0 <= x <= 1 for x in explore):
            raise BadInput(f"explore is a first ε, a last ε and a share, each in [0, 1], not {explore}")
        self.base_learning_rate, self.final_learning_rate = learning_rate, final_learning_rate
        self.target_every, self.n_step, self.priority = target_every, n_step, priority
        self.explore, self.max_grad_norm, self.reward_scale = explore, max_grad_norm, reward_scale
        self.tensors, self.every, seed = tensors, train_freq, known_seed(seed)
        kwargs = with_catalog(policy_kwargs, env)
        super().__init__(
            policy,
            env,  # type: ignore[arg-type]
            linear(learning_rate, final_learning_rate),
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            replay_buffer_class=SlateReplay,  # type: ignore[arg-type]
            replay_buffer_kwargs={"priority": priority},
            policy_kwargs=kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
            sde_support=False,
            supported_action_spaces=(spaces.MultiDiscrete, spaces.Discrete),
        )
        self.policy_kwargs = {"network_seed": int(seed or 0)} | self.policy_kwargs
        if options:
            self.policy_kwargs["options"] = dict(options)
        if _init_setup_model:
            self._setup_model()

    def begin(self, past: int) -> Any:
        """Return the batch of users that is being learned from; what was kept of others ends there."""
        if self._rows is None and self.replay_buffer is not None:
            buffer: Any = self.replay_buffer
            buffer.cut()
        return super().begin(past)

    def losses(self, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, " row"], dict[str, Tensor]]:
        """Return the loss of a batch, each row's error (for the priorities), and figures for the log."""
        raise NotImplementedError

    def after(self) -> None:
        """Do what follows a gradient step: move target networks."""

    def exploring(self) -> float:
        """Return ε now."""
        first, last, share = self.explore
        gone = 1 - self._current_progress_remaining
        return last if gone >= share else first + (last - first) * gone / share

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return the distribution over slates that was learned, with the last exploration of training."""
        self.check_fits(context)
        if slots != self.policy.slots:
            raise BadInput(f"{self.name} learned slates of {self.policy.slots} slots, not of {slots}")
        self.policy.set_training_mode(False)
        with torch.no_grad():
            best: SlateDistribution = self.policy.distribution(context, slots)
        rate = self.explore[1]
        return best if rate == 0 else Mixture([best, Uniform(context.mask, slots)], (1 - rate, rate))

    def act(self, context: Context) -> Int[Tensor, "user slot"]:
        """Return slates to learn from: a uniform one with probability ε for each user."""
        n, slots = len(context), self.policy.slots
        rate = 1.0 if self.num_timesteps < self.learning_starts else self.exploring()
        if rate >= 1:
            return random_slates(context.mask, slots, self.luck)
        dice = torch.rand(n, generator=self.luck, device=self.device) < rate
        with torch.no_grad():
            if self.device.type != "cpu":  # to count rows is to wait there
                best = self.policy.distribution(context, slots).sample(self.luck)
                return torch.where(dice.unsqueeze(1), random_slates(context.mask, slots, self.luck), best)
            columns = torch.zeros(n, slots, dtype=torch.long)
            some, others = dice.nonzero().squeeze(1), (~dice).nonzero().squeeze(1)
            if len(some):
                columns[some] = random_slates(context.mask[some], slots, self.luck)
            if len(others):
                columns[others] = self.policy.distribution(context.rows(others), slots).sample(self.luck)
        return columns

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        train_freq: Any,
        replay_buffer: Any,
        action_noise: Any = None,
        learning_starts: int = 0,
        log_interval: int | None = None,
    ) -> RolloutReturn:
        """Act for `train_freq` steps and keep what happened."""
        rows = self.begin(self._past())
        self.policy.set_training_mode(False)
        callback.on_rollout_start()
        assert self._context is not None
        check_slots(self._context.mask, self.policy.slots)
        # A resumed run explores from the first step on as it did when it was kept.
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        ends, steps = [], int(train_freq.frequency)
        go_on = True
        for _ in range(steps):
            context = self._context
            columns = self.act(context)
            step = self.tallied(context, columns, rows.step(columns))
            if not bool(step.reward.isfinite().all()):
                row = int((~step.reward.isfinite()).nonzero()[0])
                raise BadInput(
                    f"after {self.num_timesteps} steps the reward of row {row} is no finite number"
                )
            replay_buffer.add(context, columns, step)
            ends.append(self.count_reward(step.reward, step.done))
            self._context = step.context
            self.num_timesteps += rows.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                go_on = False
                break
            self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        before = self._episode_num
        self.note_ends(ends)
        self._episode_num += int(sum(int(done.sum()) for done, _, _ in ends))
        if log_interval and before // log_interval < self._episode_num // log_interval:
            self.dump_logs()
        callback.on_rollout_end()
        return RolloutReturn(steps * rows.num_envs, self._episode_num - before, go_on)

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Take gradient steps on draws from the buffer."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self._optimizers())
        buffer: Any = self.replay_buffer
        total = torch.zeros((), device=self.device)
        figures: dict[str, Tensor] = {}
        parameters = [p for p in self.policy.parameters() if p.requires_grad]
        for _ in range(gradient_steps):
            batch = buffer.sample(batch_size, self.luck, n_step=self.n_step, discount=self.gamma)
            if self.reward_scale != 1:
                scale = self.reward_scale
                batch = replace(batch, reward=batch.reward * scale, earned=batch.earned * scale)
            loss, error, figures = self.losses(batch)
            for optimizer in self._optimizers():
                optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
            for optimizer in self._optimizers():
                optimizer.step()
            buffer.rate(batch.index, error)
            self._n_updates += 1
            self.after()
            total = total + loss.detach()
        # One number a turn is looked at, so that a bad one stops the training there.
        if not math.isfinite(float(total)) or self._n_updates % 100 < gradient_steps:
            self.check_finite(float(total))
            self.logger.record("train/loss", float(total) / gradient_steps)
            for key, value in figures.items():
                self.logger.record(f"train/{key}", float(value.detach()))
            self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
            self.logger.record("rollout/exploration_rate", self.exploring())

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        return [getattr(self.policy, name) for name in self.optimizers]

    def _more(self) -> dict[str, Tensor]:
        buffer: Any = self.replay_buffer
        found: dict[str, Tensor] = buffer.tensors()
        return found

    def _take(self, more: dict[str, Tensor]) -> None:
        buffer: Any = self.replay_buffer
        buffer.restore(more)
