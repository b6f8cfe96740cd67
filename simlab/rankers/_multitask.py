"""What multi-task families share: one input for all heads, cheap for many candidates, parallel networks."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from simlab.context import Catalog, Context
from simlab.errors import BadInput, nearest
from simlab.rankers._blocks import ItemTable, UserSide, shared_candidates
from simlab.rankers.contract import Ranker, Sizes

KINDS = ("binary", "value")
"""What a head may say: the logit of something that happens or not, or a number."""


@dataclass(frozen=True)
class TaskSpec:
    """Settings of every multi-task family.

    Attributes:
        tasks: names of the heads.
        kinds: what each head says, "binary" (a logit) or "value" (a number, such as a dwell time).
        rank_by: the head whose output is `score`; the first if empty.
        dim: width of every vector.
        past: items of history in the user's vector.
        dropout: share of hidden units that are dropped in training.
        spread: standard deviation of the first vectors.
    """

    tasks: tuple[str, ...] = ("click", "convert")
    kinds: tuple[str, ...] = ("binary", "binary")
    rank_by: str = ""
    dim: int = 16
    past: int = 50
    dropout: float = 0.1
    spread: float = 0.1


class MultiTask(Ranker):
    """A ranker with several heads over x = [u, v_i, u ⊙ v_i].

    u is the user's id, history, features and categories, v_i the item's vector. A family says `bottom_width`,
    how many outputs of a linear map of x it wants, `towers`, a network for each head that ends in one number,
    and `heads`, how the map's outputs go through the towers.

    That map is split: A u + a is part of the state, and B v + C (u ⊙ v) = (B + C diag(u)) v, so C candidates
    cost one matrix product and one broadcast addition.

    Args:
        sizes: the data's sizes.
        spec: a `TaskSpec`.
        bottom_width: outputs of the first linear map.
        catalog: the items; what is known of them goes into v.

    Raises:
        BadInput: for heads without a name, with the same name or of an unknown kind, or an unknown `rank_by`.
    """

    recipe: ClassVar[Mapping[str, Any]] = {"learning_rate": 0.003, "batch_size": 2048}

    def __init__(self, sizes: Sizes, spec: Any, bottom_width: int, catalog: Catalog | None = None) -> None:
        super().__init__(sizes, spec, catalog)
        _check(self.name, spec.tasks, spec.kinds, spec.rank_by)
        self.tasks: tuple[str, ...] = spec.tasks
        self.kinds: tuple[str, ...] = spec.kinds
        self.ranked = self.tasks.index(spec.rank_by) if spec.rank_by else 0
        self.past, self.dim = spec.past, spec.dim
        self.users = UserSide(sizes, spec.dim, spec.past, spec.spread)
        self.items = ItemTable(sizes.n_items, spec.dim, catalog, spec.spread)
        self.from_user = nn.Linear(spec.dim, bottom_width)
        self.from_item = nn.Linear(spec.dim, bottom_width, bias=False)
        self.from_product = nn.Linear(spec.dim, bottom_width, bias=False)
        self.towers: Networks

    @abstractmethod
    def heads(self, x: Float[Tensor, "pair width"]) -> Float[Tensor, "task pair"]:
        """Return the output of each head, given the first linear map's."""

    def encode(self, context: Context) -> Float[Tensor, "user dim"]:
        """Return [u, A u + a]."""
        user: Tensor = self.users(context)
        return torch.cat([user, self.from_user(user)], dim=1)

    def score_tasks(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand task"]:
        """Return the output of each head; memory is user × cand × width, so ask in chunks of users."""
        said = self.heads(self.bottom(context, state).flatten(0, 1))
        return said.T.reshape(*context.candidates.shape, len(self.tasks))

    def score(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand"]:
        """Return the output of the head `rank_by`."""
        return self.score_tasks(context, state)[:, :, self.ranked]

    def bottom(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand width"]:
        """Return the first linear map of each user and candidate."""
        state = self.encode(context) if state is None else state
        user, first = state.tensor_split([self.dim], dim=1)
        shared = shared_candidates(context)
        cands = context.candidates.shape[1]
        items: Tensor = self.items(context.candidates if shared is None else shared)
        if cands <= self.from_item.out_features:  # the products are smaller than a matrix for each user
            pair = torch.cat([items.expand(len(user), -1, -1), user.unsqueeze(1) * items], dim=2)
            both = torch.cat([self.from_item.weight, self.from_product.weight], dim=1)
            return functional.linear(pair, both) + first.unsqueeze(1)
        folded = torch.addcmul(self.from_item.weight, self.from_product.weight, user.unsqueeze(1))
        return torch.baddbmm(first.unsqueeze(1), items.expand(len(user), -1, -1), folded.mT)

    def start(self, logit: float) -> None:
        """Set the intercept of the first head, if it says a logit."""
        bias = self.towers.biases[-1][0]
        if self.kinds[0] == "binary" and bias.item() == 0:
            nn.init.constant_(bias, logit)


def apart(x: Float[Tensor, "pair width"], n: int) -> Float[Tensor, "net pair part"]:
    """Cut the first linear map's output into n networks' parts."""
    return x.reshape(len(x), n, x.shape[1] // n).transpose(0, 1)


class Networks(nn.Module):
    """n networks of one shape, layer by layer as batched matrix products: each layer is W ReLU(x) + b.

    The input is what a linear map gave, before its ReLU.

    Args:
        n: how many networks.
        widths: of the input, the hidden layers and the output.
        dropout: share of each layer's inputs that is dropped in training.
    """

    def __init__(self, n: int, widths: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.n, self.dropout = n, nn.Dropout(dropout)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for a, b in pairwise(widths):
            bound = a**-0.5  # as nn.Linear has it
            self.weights.append(nn.Parameter(torch.empty(n, a, b).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.zeros(n, 1, b)))

    def forward(self, x: Float[Tensor, "#net pair inputs"]) -> Float[Tensor, "net pair outputs"]:
        """Return each network's output; an input that all share is given once."""
        x = x.expand(self.n, -1, -1)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            x = torch.baddbmm(bias, self.dropout(functional.relu(x)), weight)
        return x


def _check(name: str, tasks: tuple[str, ...], kinds: tuple[str, ...], rank_by: str) -> None:
    """Refuse heads that cannot be."""
    if not tasks:
        raise BadInput(f"{name} needs at least one head, and tasks is empty")
    if len(kinds) != len(tasks):
        raise BadInput(f"{name} has {len(tasks)} tasks and {len(kinds)} kinds: give one kind for each task")
    for number, task in enumerate(tasks):
        if task in tasks[:number]:
            raise BadInput(f"{name} has two tasks named {task}")
        if kinds[number] not in KINDS:
            raise BadInput(f"{name}, task {task}: kind is binary or value, not {kinds[number]}")
    if rank_by and rank_by not in tasks:
        raise BadInput(f"{name} has no task {rank_by} to rank by{nearest(rank_by, tasks)}")


def at_least_one(name: str, **layers: tuple[int, ...]) -> None:
    """Refuse networks without a layer.

    Raises:
        BadInput: naming the family and the setting.
    """
    for setting, widths in layers.items():
        if not widths:
            raise BadInput(f"{name} needs at least one layer, and {setting} is empty")
