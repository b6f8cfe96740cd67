"""A slate actor-critic as a policy of stable-baselines3: stock PPO and A2C train it as it is."""

from collections.abc import Mapping
from typing import Any

import torch
from gymnasium import spaces
from jaxtyping import Float, Int
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from agents.core.choice import Choice
from agents.core.networks import SlateNetwork, build_ranker, known_settings
from agents.core.rows import context_of, n_items_of, slots_of
from agents.core.tally import Tally
from simlab.context import Catalog, Context, Field
from simlab.errors import BadInput, nearest
from simlab.seeds import Seed
from simlab.slates.contract import check_slots


class PlackettLuceDistribution(Distribution):
    """Plackett–Luce as a `Distribution` of stable-baselines3: slates without repeats.

    Args:
        slots: K.

    Attributes:
        choice: what there is to choose from.
    """

    def __init__(self, slots: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.slots = slots
        self.choice = Choice(torch.zeros(0, 0), slots)

    def proba_distribution_net(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Refuse: logits come from a ranker, not from a layer of their own.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("logits come from a ranker: use SlateActorCriticPolicy")

    @property
    def logits(self) -> Float[Tensor, "user cand"]:
        """Of each candidate, -inf where masked."""
        return self.choice.logits

    def proba_distribution(self, choice: Choice | Float[Tensor, "user cand"]) -> "PlackettLuceDistribution":
        """Take what there is to choose from: logits, -inf where a candidate may not be shown, or more."""
        self.choice = choice if isinstance(choice, Choice) else Choice(choice, self.slots)
        return self

    def log_prob(self, actions: Tensor) -> Float[Tensor, " user"]:
        """Return log P(slate)."""
        return self.choice.log_probs(self._columns(actions), entropy=None)[0].sum(1)

    def entropy(self) -> Float[Tensor, " user"]:
        """Return the sum of the slots' entropies along one drawn slate: the slate's entropy on average."""
        return self.choice.log_probs(self.sample())[1]

    def sample(self) -> Int[Tensor, "user slot"]:
        """Draw slates of columns."""
        with torch.no_grad():
            return self.choice.draw()

    def mode(self) -> Int[Tensor, "user slot"]:
        """Return the likeliest slates."""
        return self.choice.mode()

    def actions_from_params(
        self, choice: Choice | Float[Tensor, "user cand"], deterministic: bool = False
    ) -> Int[Tensor, "user slot"]:
        """Return slates for this choice."""
        return self.proba_distribution(choice).get_actions(deterministic)

    def log_prob_from_params(
        self, choice: Choice | Float[Tensor, "user cand"]
    ) -> tuple[Int[Tensor, "user slot"], Float[Tensor, " user"]]:
        """Return drawn slates and their log-probabilities."""
        columns = self.actions_from_params(choice)
        return columns, self.log_prob(columns)

    def _columns(self, actions: Tensor) -> Int[Tensor, "user slot"]:
        return actions.long().reshape(-1, self.slots)


class SlateActorCriticPolicy(ActorCriticPolicy):
    """Any ranker as actor, and a critic on its state, over slates without repeats.

    `PPO(SlateActorCriticPolicy, make_sb3("simlab/Feed-v0", 64))` works as it stands; `SlatePPO` is faster and
    learns more from the same steps.

    Args:
        observation_space: a Dict with the keys of `envs.spaces.observation_space`.
        action_space: MultiDiscrete([C] * slots), or Discrete(C) for one slot.
        lr_schedule: of the optimiser.
        ranker: the family of the actor's body.
        spec: settings of the family.
        catalog: what is known of the items, for families that use it.
        body: see `SlateNetwork`.
        hidden: widths of the critics' layers.
        slot_values: whether each slot has a baseline of its own.
        groups: a categorical field of the catalogue (by its name): an item's logit falls, by what is learned,
            with every item of the same category above it. An item counts by its first category.
        tally: whether the critic knows what happened so far in an episode; see `agents.core.tally.Tally`. For
            the learners of this package alone: stable-baselines3 does not count.
        network_seed: of the first weights.
        **stock: what every policy of stable-baselines3 takes.

    Raises:
        BadInput: for spaces that are not those of slates, and for an unknown family, setting or body.
    """

    network: SlateNetwork
    tally: Tally | None

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Any,
        *,
        ranker: str = "two_tower",
        spec: Mapping[str, Any] | None = None,
        catalog: Catalog | None = None,
        body: str = "own",
        hidden: tuple[int, ...] = (64,),
        slot_values: bool = False,
        groups: str | None = None,
        tally: bool = False,
        network_seed: int = 0,
        **stock: Any,
    ) -> None:
        known_settings(type(self), ActorCriticPolicy, stock)
        self.n_items = n_items_of(observation_space, action_space)
        self.slots = slots_of(action_space)
        if catalog is not None and catalog.n_items < self.n_items:
            raise BadInput(
                f"the catalogue has {catalog.n_items} items, but the spaces speak of {self.n_items}"
            )
        if catalog is not None:
            self.n_items = catalog.n_items
        self._made = (ranker, spec, catalog, body, hidden, slot_values, groups, tally, network_seed)
        super().__init__(observation_space, action_space, lr_schedule, **stock)

    def _build(self, lr_schedule: Any) -> None:
        family, spec, catalog, body, hidden, slot_values, groups, tally, number = self._made
        space, seed = self.observation_space, Seed(number)
        assert isinstance(space, spaces.Dict)
        width = space["features"].shape[0] if "features" in space.spaces else 0  # type: ignore[index]
        ranker = build_ranker(family, spec, self.n_items, width, catalog, seed.split("ranker"))
        self.tally = Tally(catalog) if tally else None
        self.network = SlateNetwork(
            ranker,
            self.slots,
            body=body,
            hidden=tuple(hidden),
            slot_values=slot_values,
            groups=None if groups is None else category(catalog, groups),
            tally=0 if self.tally is None else self.tally.width,
            seed=seed.split("critics"),
        )
        self.action_dist = PlackettLuceDistribution(self.slots)
        make: Any = self.optimizer_class
        self.optimizer = make(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    def context(self, obs: Any) -> Context:
        """Return observations as a context."""
        return context_of(obs, self.n_items)

    def forward(self, obs: Any, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return actions, values [user 1] and log-probabilities [user]."""
        context = self.context(obs)
        choice, future, slot = self.network(context)
        found = self._over(choice, context)
        columns = found.get_actions(deterministic)
        return self._action(columns), (future + slot.sum(1)).unsqueeze(1), found.log_prob(columns)

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return values [user 1], log-probabilities and entropies [user] of given slates."""
        context = self.context(obs)
        choice, future, slot = self.network(context)
        log_prob, entropy = choice.log_probs(actions.long().reshape(-1, self.slots))
        return (future + slot.sum(1)).unsqueeze(1), log_prob.sum(1), entropy

    def get_distribution(self, obs: Any) -> Any:
        """Return the distribution over slates."""
        context = self.context(obs)
        return self._over(self.network.choice(context), context)

    def predict_values(self, obs: Any) -> Tensor:
        """Return values [user 1]."""
        return self.network.values(self.context(obs)).unsqueeze(1)

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        return self._action(self.get_distribution(observation).get_actions(deterministic))

    def _over(self, choice: Choice, context: Context) -> PlackettLuceDistribution:
        check_slots(context.mask, self.slots)
        return PlackettLuceDistribution(self.slots).proba_distribution(choice)

    def _action(self, columns: Int[Tensor, "user slot"]) -> Tensor:
        return columns.squeeze(1) if isinstance(self.action_space, spaces.Discrete) else columns


def category(catalog: Catalog | None, name: str) -> Field:
    """Return a categorical field of the catalogue.

    Raises:
        BadInput: for a field that the catalogue does not have, with the nearest one.
    """
    fields = () if catalog is None else catalog.fields
    if not isinstance(name, str):
        raise BadInput(f"groups are the name of a categorical field of the catalogue, not {name!r}")
    for field in fields:
        if field.name == name:
            if not field.values.shape[1]:
                raise BadInput(f"groups are of the field {name}, which has no values")
            return field
    known = [f.name for f in fields]
    have = f"it has {', '.join(known)}{nearest(name, known)}" if known else "it has none"
    raise BadInput(f"groups are a categorical field of the catalogue, and {name} is none of them: {have}")
