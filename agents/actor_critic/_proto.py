"""Proto-actions: points in a space of item vectors that stand for slates, and what learners of them share."""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar, TypeVar

import torch
from gymnasium import spaces
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from agents.core.networks import build_ranker
from agents.core.off_policy import SlateBasePolicy, SlateOffPolicy
from agents.core.replay import Batch
from simlab.adapters._state import copied, state_width
from simlab.context import Catalog, Context
from simlab.errors import BadInput, nearest
from simlab.rankers._blocks import dot, standardised
from simlab.rankers.contract import Ranker
from simlab.retrieval import KINDS, Retriever, RetrieverSettings
from simlab.seeds import Seed
from simlab.slates.contract import masked, top

SOURCES = ("clicks", "features", "vectors")
"""Where item vectors come from: learned from clicks, or the catalogue's numeric features or given vectors."""
LARGE = 4096
"""From so many items on, a whole catalogue without masks is searched by a `Retriever`."""
SIZE = 0.5
"""Root mean square of the vectors' coordinates, so that nearly all items lie in the box [-1, 1]^d."""

Algorithm = TypeVar("Algorithm", bound=type[SlateOffPolicy])


class ItemSpace(nn.Module):
    """Item vectors v_i, and the items nearest to a proto-action.

    Vectors are centred (which changes no order by inner product nor by distance) and scaled to `SIZE`. Given
    features are standardised column by column first; learned vectors are scaled by one number, so that their
    shape stays what the clicks taught.

    Learned vectors are a ranker's `item_vectors`, trained to σ(⟨state, v_i⟩ + θ_k) = P(click at slot k), and
    are copied into this space by `refresh`: between two copies a proto-action means the same slates.

    Args:
        source: one of `SOURCES`.
        ranker: learns the vectors; None where they are given.
        catalog: has the given ones.
        slots: K.
        by_distance: nearest by Euclidean distance; otherwise by inner product.
        kind: how a large catalogue is searched: a kind of `RetrieverSettings`.

    Raises:
        BadInput: where the catalogue lacks what is asked for, and for an unknown source or kind.
    """

    vectors: Float[Tensor, "item dim"]

    def __init__(
        self,
        source: str,
        ranker: Ranker | None,
        catalog: Catalog | None,
        slots: int,
        by_distance: bool,
        kind: str = "exact",
    ) -> None:
        super().__init__()
        if source not in SOURCES:
            raise BadInput(f"items is {', '.join(SOURCES)}, not {source}{nearest(source, SOURCES)}")
        if kind not in KINDS:
            raise BadInput(f"retriever is {', '.join(KINDS)}, not {kind}{nearest(kind, KINDS)}")
        self.by_distance, self.kind = by_distance, kind
        self.ranker = ranker
        self.slot = nn.Parameter(torch.zeros(slots), requires_grad=ranker is not None)
        given: Tensor | None = None
        if ranker is not None:
            with torch.no_grad():
                found = ranker.item_vectors()
        else:
            given = None if catalog is None else catalog.features if source == "features" else catalog.vectors
            if given is None or given.shape[1] == 0:
                raise BadInput(f"items is {source}, but the catalogue has no {source}")
            found = standardised(given.float())
        self.register_buffer("vectors", _sized(found))
        self._search: tuple[Any, Retriever] | None = None

    @property
    def width(self) -> int:
        """How many numbers a vector has."""
        return self.vectors.shape[1]

    def of(self, context: Context, columns: Int[Tensor, "user near"]) -> Float[Tensor, "user near dim"]:
        """Return the vectors of the items in these columns."""
        items = context.candidates.gather(1, columns).clamp(0, len(self.vectors) - 1)
        return functional.embedding(items, self.vectors)

    def click_loss(
        self, context: Context, columns: Int[Tensor, "user slot"], click: Float[Tensor, "user slot"]
    ) -> Float[Tensor, ""]:
        """Return the cross-entropy of the clicks on the shown slates."""
        assert self.ranker is not None
        shown = context.slate(columns)
        seen = replace(context, candidates=shown, mask=torch.ones_like(shown, dtype=torch.bool))
        logits = self.ranker.score(seen) + self.slot
        return functional.binary_cross_entropy_with_logits(logits, (click > 0).float())

    @torch.no_grad()
    def refresh(self) -> None:
        """Take what was learned since the last time."""
        if self.ranker is not None:
            self.vectors.copy_(_sized(self.ranker.item_vectors()))

    @torch.no_grad()
    def nearest(
        self, context: Context, proto: Float[Tensor, "user dim"], count: int
    ) -> Int[Tensor, "user near"]:
        """Return the columns nearest to a proto-action, nearest first; masked ones stand last."""
        count = min(count, context.candidates.shape[1])
        if self._whole(context):
            return self._retriever().search(self._query(proto), count)[0]
        score = dot(self._query(proto), self._keys(), _known(context, len(self.vectors)))
        return top(masked(score, context.mask), count)

    def near_slots(
        self, context: Context, proto: Float[Tensor, "user slot dim"], count: int
    ) -> Int[Tensor, "user slot near"]:
        """Return the columns nearest to the proto-action of each slot: `count`, and never fewer than K."""
        count = max(count, proto.shape[1])
        return torch.stack([self.nearest(context, p, count) for p in proto.unbind(1)], dim=1)

    def decode(
        self, context: Context, proto: Float[Tensor, "user proto dim"], slots: int
    ) -> Int[Tensor, "user slot"]:
        """Return the slate of a proto-action: the K nearest, or for each slot the nearest that is left.

        Raises:
            BadInput: for neither one proto-action nor one a slot.
        """
        if proto.shape[1] == 1:
            return self.nearest(context, proto[:, 0], slots)
        if proto.shape[1] != slots:
            raise BadInput(f"the learner has proto-actions for {proto.shape[1]} slots, not for {slots}")
        return first_free(self.near_slots(context, proto, slots))

    def _query(self, proto: Float[Tensor, "user dim"]) -> Float[Tensor, "user key"]:
        """Return [p, 1] where ⟨[p, 1], [v, -|v|²/2]⟩ = (|p|² - |p - v|²)/2 orders by distance."""
        return torch.cat([proto, torch.ones_like(proto[:, :1])], 1) if self.by_distance else proto

    def _keys(self) -> Float[Tensor, "item key"]:
        v = self.vectors
        return torch.cat([v, -0.5 * v.square().sum(1, keepdim=True)], 1) if self.by_distance else v

    def _whole(self, context: Context) -> bool:
        """Tell whether all rows choose from all items of a large catalogue: then a column is an item."""
        n, candidates, mask = len(self.vectors), context.candidates, context.mask
        if n < LARGE or candidates.shape[1] != n or candidates.stride(0) != 0 or mask.stride() != (0, 0):
            return False
        everything = torch.arange(n, device=candidates.device)
        return bool(mask[0, 0]) and bool((candidates[0] == everything).all())

    def _retriever(self) -> Retriever:
        """Return a retriever of the vectors as they are now."""
        now = (self.vectors.data_ptr(), self.vectors._version)
        if self._search is None or self._search[0] != now:
            self._search = (now, Retriever(self._keys(), RetrieverSettings(kind=self.kind)))
        return self._search[1]


def first_free(near: Int[Tensor, "user slot near"]) -> Int[Tensor, "user slot"]:
    """Return for each slot its nearest column that no slot above it took."""
    chosen = near[:, 0, :1]
    for slot in range(1, near.shape[1]):
        free = (near[:, slot].unsqueeze(2) != chosen.unsqueeze(1)).all(2)
        first = free.to(torch.uint8).argmax(1, keepdim=True)
        chosen = torch.cat([chosen, near[:, slot].gather(1, first)], dim=1)
    return chosen


def squashed_log_prob(
    raw: Float[Tensor, "*row dim"], mean: Float[Tensor, "*row dim"], log_std: Float[Tensor, "*row dim"]
) -> Float[Tensor, "*row"]:
    """Return log p(tanh u) for u ~ N(mean, e^{2 log_std}), a density over the box (-1, 1)^d.

    log p(a) = Σ_j log N(u_j) - log(1 - tanh² u_j), with log(1 - tanh² u) = 2 (log 2 - u - softplus(-2u)),
    which loses nothing where tanh u rounds to 1.

    Source: Haarnoja et al. (2018), "Soft actor-critic", ICML, appendix C, equation 21.
    """
    normal = -0.5 * ((raw - mean) / log_std.exp()).square() - log_std - 0.5 * math.log(2 * math.pi)
    squash = 2 * (math.log(2) - raw - functional.softplus(-2 * raw))
    return (normal - squash).sum(-1)


class Head(nn.Module):
    """Numbers from a state: layer norm, then a ReLU network.

    Unlike a `ValueHead` its last layer does not start at zero: a proto-action of zero is no direction.

    Args:
        width: of the state.
        hidden: widths of the layers.
        shape: of what comes out for each row.
        seed: of the first weights.
    """

    def __init__(self, width: int, hidden: tuple[int, ...], shape: tuple[int, ...], seed: Seed) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.LayerNorm(width)]
        with seeded(seed):
            for out in hidden:
                layers += [nn.Linear(width, out), nn.ReLU()]
                width = out
            layers.append(nn.Linear(width, math.prod(shape)))
        self.layers, self.shape = nn.Sequential(*layers), shape

    def forward(self, state: Float[Tensor, "user dim"]) -> Float[Tensor, "user *shape"]:
        """Return the numbers of each state."""
        found: Tensor = self.layers(state)
        return found.view(len(state), *self.shape)


class TwinCritic(nn.Module):
    """Two values Q_1, Q_2 of a state and the vectors of an action, on one ranker's state.

    The first layer is linear in the action, so what another item in one slot changes is added to it: the
    re-ranking of k items in a slot costs k rows of that slot's width, not of the whole action's.

    Args:
        ranker: makes the state; it is used, not copied.
        protos: vectors of an action.
        width: of a vector.
        hidden: widths of the layers.
        seed: of the first weights.

    Raises:
        BadInput: without a layer.
    """

    def __init__(self, ranker: Ranker, protos: int, width: int, hidden: tuple[int, ...], seed: Seed) -> None:
        super().__init__()
        if not hidden:
            raise BadInput("hidden is empty, but a critic of actions needs at least one layer")
        self.ranker, self.protos, self.units = ranker, protos, hidden[0]
        self.norm = nn.LayerNorm(state_width(ranker))
        with seeded(seed):
            self.from_state = nn.Linear(state_width(ranker), 2 * hidden[0])
            self.from_action = nn.Linear(protos * width, 2 * hidden[0], bias=False)
            self.twins = nn.ModuleList(_tail(hidden) for _ in range(2))

    def encode(self, context: Context) -> Float[Tensor, "user dim"]:
        """Return the state."""
        state: Tensor = self.norm(self.ranker.encode(context))
        return state

    def forward(
        self, state: Float[Tensor, "user dim"], action: Float[Tensor, "user proto width"]
    ) -> Float[Tensor, "user twin"]:
        """Return Q_1 and Q_2."""
        halves = (self.from_state(state) + self.from_action(action.flatten(1))).chunk(2, dim=1)
        return torch.cat([tail(half) for tail, half in zip(self.twins, halves, strict=True)], dim=1)

    def first(
        self, state: Float[Tensor, "user dim"], action: Float[Tensor, "user proto width"]
    ) -> Float[Tensor, "user unit"]:
        """Return the first layer of Q_1, before its ReLU."""
        action, few = action.flatten(1), self.units
        known = functional.linear(state, self.from_state.weight[:few], self.from_state.bias[:few])
        return known + functional.linear(action, self.from_action.weight[:few])

    def change(self, slot: int, by: Float[Tensor, "*row width"]) -> Float[Tensor, "*row unit"]:
        """Return what the first layer of Q_1 gains when the vector of a slot changes."""
        width = by.shape[-1]
        return functional.linear(by, self.from_action.weight[: self.units, slot * width : (slot + 1) * width])

    def rest(self, first: Float[Tensor, "*row unit"]) -> Float[Tensor, "*row"]:
        """Return Q_1 from its first layer."""
        value: Tensor = self.twins[0](first)
        return value.squeeze(-1)

    def copy(self) -> "TwinCritic":
        """Return a target: the same values, no weight in common, nothing to train, in eval mode."""
        return deepcopy(self, {id(self.ranker): copied(self.ranker)}).requires_grad_(False).eval()


def _tail(hidden: tuple[int, ...]) -> nn.Sequential:
    """Return what follows the first layer, up to one number."""
    layers: list[nn.Module] = [nn.ReLU()]
    for width, out in pairwise(hidden):
        layers += [nn.Linear(width, out), nn.ReLU()]
    last = nn.Linear(hidden[-1], 1)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


@torch.no_grad()
def polyak(target: nn.Module, online: nn.Module, tau: float) -> None:
    """Move every weight to τ · online + (1 - τ) · target; what is no float (counts) is copied."""
    theirs = online.state_dict()
    for name, mine in target.state_dict().items():
        if mine.is_floating_point() and tau < 1:
            mine.lerp_(theirs[name], tau)
        else:
            mine.copy_(theirs[name])


class ProtoPolicy(SlateBasePolicy):
    """A policy that chooses a point of an `ItemSpace`, which is decoded to a slate.

    Args:
        *spaces_and_rate: as `SlateBasePolicy`.
        hidden: widths of the layers of actor and critics.
        **settings: as `SlateBasePolicy`.
    """

    by_distance: ClassVar[bool] = False
    defaults: ClassVar[Mapping[str, Any]] = {}
    """The learner's options, besides those of the item space."""
    shared: ClassVar[Mapping[str, Any]] = {
        "items": "clicks", "item_ranker": "two_tower", "item_spec": None, "retriever": "exact",
        "fit": 300, "settle": 0.5, "refresh": 100,
    }  # fmt: skip

    def __init__(self, *spaces_and_rate: Any, hidden: tuple[int, ...] = (128, 128), **settings: Any) -> None:
        super().__init__(*spaces_and_rate, hidden=hidden, **settings)

    def build(self) -> None:
        """Make the item space, then the networks."""
        known = {**self.shared, **self.defaults}
        for key in self.options:
            if key not in known:
                raise BadInput(f"there is no option {key}{nearest(key, known)}")
        self.chosen = {**known, **self.options}
        for key, low in (("fit", 0), ("refresh", 1), ("settle", 0)):
            if not self.chosen[key] >= low:
                raise BadInput(f"{key} is at least {low}, not {self.chosen[key]}")
        learned = self.chosen["items"] == "clicks"
        self.items = ItemSpace(
            self.chosen["items"],
            self._item_ranker() if learned else None,
            self.catalog,
            self.slots,
            self.by_distance,
            self.chosen["retriever"],
        )
        self.networks()

    def networks(self) -> None:
        """Make actor and critics."""
        raise NotImplementedError

    def _item_ranker(self) -> Ranker:
        space, family, spec = self.observation_space, self.chosen["item_ranker"], self.chosen["item_spec"]
        assert isinstance(space, spaces.Dict)
        width = space["features"].shape[0] if "features" in space.spaces else 0  # type: ignore[index]
        if spec is None and family == "two_tower":
            spec = {"layers": (64, 8)}  # eight numbers a vector: an actor must find its way in that space
        seed = self.seed.split("items")
        return build_ranker(family, spec, self.n_items, width, self.catalog, seed)

    def adam(self, parameters: Any, lr_schedule: Any) -> torch.optim.Optimizer:
        """Return an optimiser of some parameters."""
        make: Any = self.optimizer_class
        made: torch.optim.Optimizer = make(list(parameters), lr=lr_schedule(1), **self.optimizer_kwargs)
        return made


class ProtoOffPolicy(SlateOffPolicy):
    """Trains critics and item vectors by `losses`, then the actor by `improve`, each by its own optimiser.

    Item vectors are fitted to the clicks of the first, uniform slates (`fit` steps) before anything else is
    learned, go on learning over the share `settle` of the training, and then stand still.
    """

    policy: Any

    def improve(self, batch: Batch) -> dict[str, Tensor]:
        """Take the actor's gradient step, and return figures for the log."""
        raise NotImplementedError

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Take gradient steps on draws from the buffer."""
        policy, buffer = self.policy, self._buffer()
        policy.set_training_mode(True)
        self._update_learning_rate(self._optimizers())
        learned = policy.items.ranker is not None
        if learned and self._n_updates == 0:
            for _ in range(policy.chosen["fit"]):
                self.descend(self._click_loss(self._draw(batch_size)), "item_optimizer")
            policy.items.refresh()
        moving = learned and 1 - self._current_progress_remaining < policy.chosen["settle"]
        total = torch.zeros((), device=self.device)
        figures: dict[str, Tensor] = {}
        for _ in range(gradient_steps):
            batch = self._draw(batch_size)
            loss, error, figures = self.losses(batch)
            self.descend(loss, "critic_optimizer")
            if moving:
                figures["click_loss"] = self._click_loss(batch)
                self.descend(figures["click_loss"], "item_optimizer")
            buffer.rate(batch.index, error)
            figures |= self.improve(batch)
            self._n_updates += 1
            self.after()
            if moving and self._n_updates % policy.chosen["refresh"] == 0:
                policy.items.refresh()
            total = total + loss.detach()
        # One number is looked at every hundred turns, so that no turn waits for it.
        if not math.isfinite(float(total)) or self._n_updates % 100 < gradient_steps:
            self.check_finite(float(total))
            self.logger.record("train/loss", float(total) / gradient_steps)
            for key, value in figures.items():
                self.logger.record(f"train/{key}", float(value.detach()))
            self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
            self.logger.record("rollout/exploration_rate", self.exploring())

    def descend(self, loss: Float[Tensor, ""], name: str) -> None:
        """Take one step of one optimiser; no other parameter gets a gradient."""
        optimizer: torch.optim.Optimizer = getattr(self.policy, name)
        wanted = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        optimizer.zero_grad()
        torch.autograd.backward(loss, inputs=wanted)
        nn.utils.clip_grad_norm_(wanted, self.max_grad_norm)
        optimizer.step()

    def _click_loss(self, batch: Batch) -> Float[Tensor, ""]:
        loss: Tensor = self.policy.items.click_loss(batch.context, batch.columns, batch.click)
        return loss

    def _draw(self, rows: int) -> Batch:
        batch: Batch = self._buffer().sample(rows, self.luck, n_step=self.n_step, discount=self.gamma)
        if self.reward_scale == 1:
            return batch
        scale = self.reward_scale
        return replace(batch, reward=batch.reward * scale, earned=batch.earned * scale)

    def _buffer(self) -> Any:
        return self.replay_buffer

    def rate_now(self) -> float:
        """Return the share of uniform slates now."""
        return 1.0 if self.num_timesteps < self.learning_starts else self.exploring()


def with_defaults(**changed: Any) -> Callable[[Algorithm], Algorithm]:
    """Give a learner the settings of `SlateOffPolicy` with other defaults, by name in its signature."""

    def change(kind: Algorithm) -> Algorithm:
        signature = inspect.signature(SlateOffPolicy.__init__)
        parameters = [
            p.replace(default=changed[p.name]) if p.name in changed else p
            for p in signature.parameters.values()
        ]
        mine = signature.replace(parameters=parameters)

        @functools.wraps(SlateOffPolicy.__init__)
        def start(self: Any, *args: Any, **kwargs: Any) -> None:
            bound = mine.bind(self, *args, **kwargs)
            bound.apply_defaults()
            SlateOffPolicy.__init__(*bound.args, **bound.kwargs)

        start.__signature__ = mine  # type: ignore[attr-defined]
        kind.__init__ = start  # type: ignore[method-assign]
        return kind

    return change


def seeded(seed: Seed) -> Any:
    """Return a block in which layers draw their first weights from this seed."""
    return _Seeded(seed)


class _Seeded:
    """Forks the global generator of torch for a block."""

    def __init__(self, seed: Seed) -> None:
        self.seed, self.fork = seed, torch.random.fork_rng(devices=[])

    def __enter__(self) -> None:
        self.fork.__enter__()
        torch.default_generator.manual_seed(self.seed.value & ((1 << 63) - 1))

    def __exit__(self, *error: Any) -> None:
        self.fork.__exit__(*error)


def _sized(vectors: Float[Tensor, "item dim"]) -> Float[Tensor, "item dim"]:
    """Return the vectors centred, with `SIZE` as root mean square of their coordinates."""
    centred = vectors - vectors.mean(0)
    spread = centred.square().mean().sqrt()
    return centred * (SIZE / spread.where(spread > 0, 1.0))


def _known(context: Context, n_items: int) -> Context:
    """Return the context with ids of the catalogue only: a masked candidate may have any."""
    candidates = context.candidates
    if candidates.stride(0) == 0 and candidates.shape[1] == n_items:
        return context
    return replace(context, candidates=candidates.clamp(0, n_items - 1))
