"""LightGCN: vectors of users and items, smoothed over the graph of who clicked what."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from simlab.context import Catalog, Context
from simlab.rankers._blocks import ItemTable, clicked_history, dot
from simlab.rankers.contract import Interactions, Ranker, Sizes


class LightGCN(Ranker):
    """logit(u, i) = ⟨e_u, e_i⟩, each the mean of its layers 0 … L.

    e_u^(k+1) = Σ_{i in N_u} e_i^(k) / √(|N_u| |N_i|), and the same with users and items exchanged. N are
    the training clicks, which `prepare` lays out as a graph. Layer 0 is what is trained. The graph is
    walked at every training step, and once after training.

    A user without an id or without a training click is folded in: N_u is the clicked history, each item once,
    e_u^(0) is zero, and the items' layers stay as they are. So a training user folded in from all of the
    training clicks has the same vector but for e_u^(0) / (L + 1). A second `prepare` lays another graph; it
    does not add to the first.

    Source: He et al. (2020), "LightGCN: simplifying and powering graph convolution network for
    recommendation", SIGIR, equations 3, 4 and 8, with α_k = 1 / (L + 1). The paper penalises the squares of
    the vectors of a batch, we decay all weights. What is known of the items joins e_i^(0); features and
    categories of the context have no place in a graph of ids, and are not used. The recipe is
    the full softmax; the paper's BPR was worse on MovieLens 100K (NDCG@10 of the validation clicks 0.075 to
    0.086), and is for catalogues that are too large for it.

    Args:
        sizes: the data's sizes.
        spec: `dim` of the vectors, `layers` L, `past` items of history to fold a new user in, `spread` of the
            first vectors; `edges` is written by `prepare`.
        catalog: what is known of the items.

    Raises:
        BadInput: for fewer than one layer.
    """

    @dataclass(frozen=True)
    class Spec:
        """Settings of the family."""

        dim: int = 64
        layers: int = 2
        past: int = 200
        spread: float = 0.03
        edges: int = 0

    name: ClassVar[str] = "lightgcn"
    recipe: ClassVar[Mapping[str, Any]] = {
        "loss": "softmax",
        "epochs": 60,
        "batch_size": 2048,
        "min_steps": 32,
        "learning_rate": 0.005,
        "weight_decay": 0.1,
        "split": "round",
        "judge": "ndcg",
        "patience": 8,
    }

    def __init__(self, sizes: Sizes, spec: Spec, catalog: Catalog | None = None) -> None:
        super().__init__(sizes, spec, catalog)
        self.past, self.layers = spec.past, spec.layers
        self.users = nn.Embedding(sizes.n_users, spec.dim)
        nn.init.normal_(self.users.weight, std=spec.spread)
        self.items = ItemTable(sizes.n_items, spec.dim, catalog, spec.spread)
        self.user: Tensor
        self.item: Tensor
        self.register_buffer("user", torch.zeros(spec.edges, dtype=torch.long))
        self.register_buffer("item", torch.zeros(spec.edges, dtype=torch.long))
        self._graph: _Graph | None = None
        self._kept: _Walk | None = None
        self._versions: tuple[int, ...] = ()

    def prepare(self, seen: Interactions) -> None:
        """Lay the graph: one edge for each user with an id and clicked item."""
        clicks = seen.clicks()
        clicks = clicks.rows(clicks.user < self.sizes.n_users)
        edges = torch.unique(clicks.user * self.sizes.n_items + clicks.item)
        self.user, self.item = edges // self.sizes.n_items, edges % self.sizes.n_items
        self.spec = replace(self.spec, edges=len(edges))  # a saved ranker is built from its spec
        self._graph = self._kept = None

    def _apply(self, *args: Any, **how: Any) -> "LightGCN":
        """Forget the walk and the graph: they may be on another device, or of another precision."""
        self._graph = self._kept = None
        super()._apply(*args, **how)  # type: ignore[no-untyped-call]
        return self

    def train(self, mode: bool = True) -> "LightGCN":
        """Forget the walk: the weights may change."""
        self._kept = None
        super().train(mode)
        return self

    def load_state_dict(self, *args: Any, **how: Any) -> Any:
        """Forget the walk and the graph."""
        self._graph = self._kept = None
        return super().load_state_dict(*args, **how)

    def walk(self) -> "_Walk":
        """Return the vectors of all users with an id and of all items; in eval mode they are kept."""
        versions = tuple(p._version for p in self.parameters())  # a target network changes in eval mode, too
        keep = not (self.training or torch.is_grad_enabled())
        if keep and self._kept is not None and self._versions == versions:
            return self._kept
        users, items = self.users.weight, self.items.all()
        if self._graph is None:
            self._graph = _Graph(self.user, self.item, self.sizes.n_users, self.sizes.n_items, users.dtype)
        graph = self._graph
        user_sum, item_sum, below = users, items, items
        for layer in range(self.layers):
            users, items = graph.to_users(items), graph.to_items(users)
            user_sum, item_sum = user_sum + users, item_sum + items
            if layer < self.layers - 1:
                below = below + items
        count = self.layers + 1
        found = _Walk(user_sum / count, item_sum / count, below * graph.item_norm.unsqueeze(1) / count)
        if keep:
            self._kept, self._versions = found, versions
        return found

    def encode(self, context: Context) -> Float[Tensor, "user dim"]:
        """Return e_u, folded in where the user has no id or no edge."""
        return self._encode(context, self.walk())

    def _encode(self, context: Context, walk: "_Walk") -> Float[Tensor, "user dim"]:
        if self.sizes.n_users == 0:
            return self._folded(context, walk.below)
        assert self._graph is not None
        known = (context.user >= 0) & (context.user < self.sizes.n_users)
        known &= self._graph.member[context.user.where(known, 0)]
        own = functional.embedding(context.user.where(known, 0), walk.users)
        # Elsewhere than on a CPU nothing waits for an answer.
        if known.device.type == "cpu" and bool(known.all()):
            return own
        return own.where(known.unsqueeze(1), self._folded(context, walk.below))

    def _folded(self, context: Context, below: Float[Tensor, "item dim"]) -> Float[Tensor, "user dim"]:
        """Return the vectors of users whose neighbours are their clicked histories."""
        history = clicked_history(context, self.past, self.sizes.n_items).sort(dim=1).values
        if history.shape[1] == 0:
            return below.new_zeros(len(context), below.shape[1])
        there = history >= 0
        there[:, 1:] &= history[:, 1:] != history[:, :-1]  # an edge is there or not, as in the graph
        share = there / there.sum(1, keepdim=True).clamp(min=1).sqrt()
        return functional.embedding_bag(
            history.clamp(min=0), below, mode="sum", per_sample_weights=share.to(below.dtype)
        )

    def score(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand"]:
        """Return inner products."""
        walk = self.walk()
        return dot(self._encode(context, walk) if state is None else state, walk.items, context)

    def item_vectors(self) -> Float[Tensor, "item dim"]:
        """Return e_i."""
        return self.walk().items


class _Walk(NamedTuple):
    """The vectors after all layers, and what a folded-in user adds up of each item."""

    users: Float[Tensor, "member dim"]
    items: Float[Tensor, "item dim"]
    below: Float[Tensor, "item dim"]


class _Graph:
    """The normalised adjacency, laid out by user and by item, for sums over neighbours."""

    def __init__(
        self,
        user: Int[Tensor, " edge"],
        item: Int[Tensor, " edge"],
        users: int,
        items: int,
        dtype: torch.dtype,
    ) -> None:
        by_user = torch.bincount(user, minlength=users)
        by_item = torch.bincount(item, minlength=items)
        self.member = by_user > 0
        self.item_norm = by_item.clamp(min=1).to(dtype).rsqrt()
        weight = (by_user[user].to(dtype) * by_item[item].to(dtype)).rsqrt()
        order = item.argsort(stable=True)  # the edges come sorted by user
        self.rows = _Rows(item, by_user.cumsum(0) - by_user, weight)
        self.columns = _Rows(user[order], by_item.cumsum(0) - by_item, weight[order])

    def to_users(self, items: Float[Tensor, "item dim"]) -> Float[Tensor, "member dim"]:
        """Return Σ_{i in N_u} e_i / √(|N_u| |N_i|) for every user."""
        found: Tensor = _Product.apply(items, self.rows, self.columns)  # type: ignore[no-untyped-call]
        return found

    def to_items(self, users: Float[Tensor, "member dim"]) -> Float[Tensor, "item dim"]:
        """Return Σ_{u in N_i} e_u / √(|N_u| |N_i|) for every item."""
        found: Tensor = _Product.apply(users, self.columns, self.rows)  # type: ignore[no-untyped-call]
        return found


@dataclass(frozen=True)
class _Rows:
    """A sparse matrix by rows: the columns of its entries, where each row begins, and the entries."""

    column: Tensor
    begin: Tensor
    weight: Tensor

    def times(self, dense: Tensor) -> Tensor:
        """Return the product with a dense matrix."""
        if len(self.begin) == 0 or len(self.column) == 0:
            return dense.new_zeros(len(self.begin), dense.shape[1])
        return functional.embedding_bag(
            self.column, dense, self.begin, mode="sum", per_sample_weights=self.weight
        )


class _Product(torch.autograd.Function):
    """A x, whose gradient Aᵀ g is the same kind of sum: much faster than scattering."""

    @staticmethod
    def forward(ctx: Any, dense: Tensor, matrix: _Rows, transposed: _Rows) -> Tensor:
        ctx.transposed = transposed
        return matrix.times(dense.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.transposed.times(grads[0].contiguous()), None, None
