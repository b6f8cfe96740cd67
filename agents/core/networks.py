"""An actor and its critics on one ranker: logits of the candidates, a value, and what each slot earns."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from agents.core.choice import Choice
from agents.core.tally import tally_of
from simlab.adapters._state import ValueHead, copied, full, state_width
from simlab.context import PAD, Catalog, Context, Field
from simlab.errors import BadInput, nearest
from simlab.parts import part
from simlab.rankers.contract import Ranker, Sizes, hollow
from simlab.seeds import Seed
from simlab.slates.contract import masked
from simlab.slates.grouped import STEEPEST

BODIES = ("own", "shared", "detached")
"""Whose state the critics read: a copy of the ranker, or the actor's, with or without a gradient to it."""

SPEC: Mapping[str, Mapping[str, Any]] = {
    "two_tower": {"dim": 32, "layers": (128, 32), "past": 50, "unit": False, "temperature": 1.0}
}
"""Settings of a family that suit an actor, where they differ from its own."""


def build_ranker(
    family: str,
    spec: Mapping[str, Any] | None,
    n_items: int,
    n_features: int,
    catalog: Catalog | None,
    seed: Seed,
) -> Ranker:
    """Return an untrained ranker for which all users are new.

    Raises:
        BadInput: for an unknown family or setting, and for one without anything to train.
    """
    kind: Any = part("ranker", family)
    sizes = Sizes(n_users=0, n_items=n_items, n_features=n_features)
    ranker = kind.build(sizes, {**SPEC.get(kind.name, {}), **(spec or {})}, catalog, seed)
    assert isinstance(ranker, Ranker)
    if not ranker.trainable:
        raise BadInput(f"ranker {family} has nothing to train by gradients, so it cannot be an agent's body")
    return ranker


def known_settings(kind: type, stock: type, given: Mapping[str, Any]) -> None:
    """Refuse settings that neither a policy nor the class of stable-baselines3 behind it has.

    Raises:
        BadInput: naming the setting, and the nearest one.
    """
    behind = set(inspect.signature(stock.__init__).parameters)  # type: ignore[misc]
    known = behind | set(inspect.signature(kind.__init__).parameters) - {"stock"}  # type: ignore[misc]
    for key in given:
        if key not in behind:
            words = known - {"self", "observation_space", "action_space", "lr_schedule", "args", "kwargs"}
            raise BadInput(f"{kind.__name__} has no setting {key}{nearest(key, words)}")


class SlateNetwork(nn.Module):
    """Logits ℓ(s, i), the value V(s) = F(s) + Σ_k b_k(s), and b_k(s): what slot k earns now.

    F is the value of all that is not earned by a slot now: the future. That V is a sum lets every slot have a
    baseline of its own, and the critics learn each part from its own target.

    With groups, an item's logit falls with every item of its group above it: φ_g(n) = δ_g1(s) + … + δ_gn(s),
    with δ a linear head on the actor's state that starts at zero (`simlab.slates.GroupedPlackettLuce`).

    With a tally, F also knows what happened so far in the episode (`agents.core.tally`); the actor and the
    b_k do not.

    Args:
        ranker: scores the candidates; it is used, not copied.
        slots: K.
        body: whose state the critics read: "own" (a copy of the ranker), "shared" or "detached".
        hidden: widths of the critics' layers.
        slot_values: whether there are b_k; without them V = F.
        groups: a category of each item (the first counts); None to choose by logits alone.
        tally: how many sums of `Context.tally` F reads.
        seed: of the critics' first weights.

    Raises:
        BadInput: for an unknown body, with the nearest one.
    """

    def __init__(
        self,
        ranker: Ranker,
        slots: int,
        *,
        body: str = "own",
        hidden: tuple[int, ...] = (64,),
        slot_values: bool = True,
        groups: Field | None = None,
        tally: int = 0,
        seed: Seed = Seed(0),
    ) -> None:
        super().__init__()
        if body not in BODIES:
            raise BadInput(f"body is {', '.join(BODIES)}, not {body}{nearest(body, BODIES)}")
        self.ranker, self.slots, self.body = ranker, slots, body
        self.critic_body = copied(ranker) if body == "own" else None
        if self.critic_body is not None:
            # A body that only encodes has no gradient where candidates are scored.
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed.split("critic body").value & ((1 << 63) - 1))
                for module in self.critic_body.modules():
                    if isinstance(module, nn.Linear):
                        module.reset_parameters()
        width = state_width(ranker)
        self.tally = tally
        self.future = ValueHead(width, hidden, seed.split("future"), beside=tally)
        self.slot = ValueHead(width, hidden, seed.split("slot"), outputs=slots) if slot_values else None
        self.steps: ValueHead | None = None
        if groups is not None and slots > 1:
            self.n_groups = groups.size
            self.group: Tensor
            first = groups.values[:, 0]
            self.register_buffer("group", first.where(first != PAD, self.n_groups))
            count = self.n_groups * (slots - 1)
            self.steps = ValueHead(width, (), seed.split("groups"), outputs=count)

    def forward(self, context: Context) -> tuple[Choice, Float[Tensor, " user"], Float[Tensor, "user slot"]]:
        """Return what there is to choose from, F and b."""
        context = full(context, self.ranker.past)
        state = self.ranker.encode(context)
        future, slot = self.values_at(context, state)
        return self.choice_at(context, state), future, slot

    def choice(self, context: Context) -> Choice:
        """Return what there is to choose from."""
        context = full(context, self.ranker.past)
        return self.choice_at(context, self.ranker.encode(context))

    def choice_at(self, context: Context, state: Float[Tensor, "user dim"]) -> Choice:
        """Return what there is to choose from, where the ranker's state is at hand."""
        logits = masked(self.ranker.score(context, state), context.mask)
        if self.steps is None:
            return Choice(logits, self.slots)
        step: Tensor = self.steps(state)
        rise = step.view(len(state), self.n_groups, self.slots - 1).cumsum(2)
        # Nothing is taken off the first of a group, or from items of none.
        penalty = nn.functional.pad(STEEPEST * torch.tanh(rise / STEEPEST), (1, 0, 0, 1))
        shown = context.candidates
        same = shown.stride(0) == 0 and len(shown) > 0
        group = self.group[shown[0]].expand(len(shown), -1) if same else self.group[shown]
        return Choice(logits, self.slots, group, penalty)

    def values(self, context: Context) -> Float[Tensor, " user"]:
        """Return V."""
        future, slot = self.value_parts(context)
        return future + slot.sum(1)

    def value_parts(self, context: Context) -> tuple[Float[Tensor, " user"], Float[Tensor, "user slot"]]:
        """Return F and b."""
        context = full(context, self.ranker.past)
        return self.values_at(context, None if self.critic_body is not None else self.ranker.encode(context))

    def values_at(
        self, context: Context, state: Float[Tensor, "user dim"] | None
    ) -> tuple[Float[Tensor, " user"], Float[Tensor, "user slot"]]:
        """Return F and b; the ranker's state is not needed where the critics have a body of their own."""
        if self.critic_body is not None:
            state = self.critic_body.encode(context)
        assert state is not None
        if self.body == "detached":
            state = state.detach()
        future: Tensor = self.future(state, tally_of(context, self.tally) if self.tally else None)
        if self.slot is None:
            return future, future.new_zeros(len(state), self.slots)
        slot: Tensor = self.slot(state)
        return future, slot.view(len(state), self.slots)


def empty_catalog(shape: Mapping[str, Any], n_items: int) -> Catalog | None:
    """Return a catalogue of this shape of which nothing is known; None where nothing would be."""
    return hollow(shape, n_items) if any(shape.values()) else None
