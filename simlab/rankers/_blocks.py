"""Blocks that many families share: an item's vector, a user's vector, and their inner product."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from simlab.context import PAD, Catalog, Context
from simlab.rankers.contract import Sizes

FEW = 8
"""Up to so many candidates a row are taken one by one: small batched products are slow."""


class _FewDots(torch.autograd.Function):
    """⟨state, v⟩ of a few candidates a row, without a copy of the candidates' vectors.

    A row's candidates are a bag, and the dots are to a weighted bag what its weights' gradient is: the
    kernels of `embedding_bag` gather, multiply and add in one pass over memory, which is what this costs.
    """

    @staticmethod
    def forward(ctx: Any, state: Tensor, vectors: Tensor, candidates: Tensor) -> Tensor:
        rows, few = candidates.shape
        flat = candidates.reshape(-1)
        first = torch.arange(0, rows * few, few, device=flat.device)
        bag_of = torch.arange(rows, device=flat.device).repeat_interleave(few)
        ctx.save_for_backward(state.detach(), vectors.detach(), candidates, first)
        dots: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            state.detach(), vectors.detach(), flat, first, bag_of, 0, -1
        )
        return dots.view(rows, few)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        state, vectors, candidates, first = ctx.saved_tensors
        out = grads[0].contiguous()
        by_state = functional.embedding_bag(
            candidates.reshape(-1), vectors, first, mode="sum", per_sample_weights=out.view(-1)
        )
        by_vector = torch.ops.aten.embedding_dense_backward(
            state.unsqueeze(1) * out.unsqueeze(2), candidates, len(vectors), -1, False
        )
        return by_state, by_vector, None


class ItemTable(nn.Module):
    """v_i = e_i + F x_i + Σ_f mean of the vectors of i's categories in field f + P g_i.

    e_i is the id's vector, x_i the numeric features (standardised over the catalogue), g_i the given
    embedding. What the catalogue does not have is left out. What is known of the items is kept with the
    weights, so a saved ranker needs no catalogue.

    Args:
        n_items: size of the catalogue.
        dim: width of the vectors.
        catalog: what is known of the items.
        spread: standard deviation of the first id and category vectors.
    """

    def __init__(self, n_items: int, dim: int, catalog: Catalog | None, spread: float) -> None:
        super().__init__()
        self.n_items, self.dim = n_items, dim
        self.ids = nn.Embedding(n_items, dim)
        nn.init.normal_(self.ids.weight, std=spread)
        features = torch.zeros(n_items, 0) if catalog is None else catalog.features.float()
        vectors = None if catalog is None else catalog.vectors
        fields = () if catalog is None else catalog.fields
        self.features: Tensor
        self.vectors: Tensor
        self.register_buffer("features", standardised(features))
        given = torch.zeros(n_items, 0) if vectors is None else vectors.float().clone()
        self.register_buffer("vectors", given)
        self.from_features = nn.Linear(features.shape[1], dim, bias=False) if features.shape[1] else None
        self.from_vectors = nn.Linear(self.vectors.shape[1], dim, bias=False) if vectors is not None else None
        self.fields = nn.ModuleList(nn.Embedding(f.size, dim) for f in fields)
        for number, field in enumerate(fields):
            table = self.fields[number]
            assert isinstance(table, nn.Embedding)
            nn.init.normal_(table.weight, std=spread)
            self.register_buffer(f"field_{number}", field.values.clone())
        self.plain = not (fields or features.shape[1] or self.vectors.shape[1])
        """Whether there is nothing but ids."""

    def all(self) -> Float[Tensor, "item dim"]:
        """Return the vector of every item."""
        return self._joined(self.ids.weight, lambda known: known)

    def _joined(
        self, vector: Float[Tensor, "row dim"], pick: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "row dim"]:
        """Add what is known of the items, of which `pick` takes the rows."""
        if self.from_features is not None:
            vector = vector + self.from_features(pick(self.features))
        if self.from_vectors is not None:
            vector = vector + self.from_vectors(pick(self.vectors))
        for number, table in enumerate(self.fields):
            assert isinstance(table, nn.Embedding)
            vector = vector + bag(table, pick(self.get_buffer(f"field_{number}")))
        return vector

    def forward(self, items: Int[Tensor, "*any"]) -> Float[Tensor, "*any dim"]:
        """Return the vectors of these items; zeros for an id outside the catalogue (padding, a blank)."""
        known = (items >= 0) & (items < self.n_items)
        at = items.where(known, 0)
        if self.plain or items.numel() >= self.n_items:
            table = self.ids.weight if self.plain else self.all()
            return functional.embedding(at, table) * known.unsqueeze(-1)
        flat = at.reshape(-1)
        vectors = self._joined(functional.embedding(flat, self.ids.weight), lambda known: known[flat])
        return vectors.view(*items.shape, self.dim) * known.unsqueeze(-1)


class UserSide(nn.Module):
    """p_u + mean over clicked j of the last `past` of y_j + W x + Σ_c e_{c, category}.

    x are the context's features. p_u starts at zero, so that a user without training data scores like a new
    user.

    Args:
        sizes: the data's sizes.
        dim: width of the vector.
        past: H, how many items of history count; 0 leaves the history out.
        spread: standard deviation of the first vectors of history and categories.
    """

    def __init__(self, sizes: Sizes, dim: int, past: int, spread: float) -> None:
        super().__init__()
        self.past, self.dim = past, dim
        self.ids = nn.Embedding(sizes.n_users, dim)
        nn.init.zeros_(self.ids.weight)
        self.history = nn.Embedding(sizes.n_items, dim) if past > 0 else None
        if self.history is not None:
            nn.init.normal_(self.history.weight, std=spread)
        self.side = ContextSide(sizes, dim, spread)

    def forward(self, context: Context) -> Float[Tensor, "user dim"]:
        """Return the vector of each row."""
        vector = user_rows(self.ids, context.user)
        if self.history is not None:
            vector = vector + clicked_mean(self.history, context, self.past)
        if not self.side.empty:
            vector = vector + self.side(context.features, context.categories)
        return vector


class ContextSide(nn.Module):
    """W x + Σ_c e_{c, category}: what the features and categories of a moment say; zeros without any.

    Args:
        sizes: the data's sizes.
        dim: width of the vector.
        spread: standard deviation of the first vectors of categories.
    """

    def __init__(self, sizes: Sizes, dim: int, spread: float) -> None:
        super().__init__()
        self.dim = dim
        self.empty = not (sizes.n_features or sizes.categories)
        self.features = nn.Linear(sizes.n_features, dim, bias=False) if sizes.n_features else None
        self.categories = nn.ModuleList(nn.Embedding(size, dim) for size in sizes.categories)
        for table in self.categories:
            assert isinstance(table, nn.Embedding)
            nn.init.normal_(table.weight, std=spread)

    def forward(
        self, features: Float[Tensor, "user feat"], categories: Int[Tensor, "user field"] | None
    ) -> Float[Tensor, "user dim"]:
        """Return the vector of each row."""
        vector = features.new_zeros(len(features), self.dim)
        if self.features is not None:
            vector = vector + self.features(features)
        if categories is not None:
            for column, table in enumerate(self.categories):
                assert isinstance(table, nn.Embedding)
                vector = vector + user_rows(table, categories[:, column])
        return vector


def standardised(features: Float[Tensor, "item feat"]) -> Float[Tensor, "item feat"]:
    """Return columns with mean 0 and standard deviation 1; a constant column becomes 0."""
    if features.numel() == 0:
        return features
    centred = features - features.mean(0)
    spread = centred.square().mean(0).sqrt()
    return centred / spread.where(spread > 1e-6 * (1 + features.abs().amax(0)), torch.inf)


def bag(table: nn.Embedding, values: Int[Tensor, "row value"]) -> Float[Tensor, "row dim"]:
    """Return the mean vector of each row's values; -1 pads, and a row of nothing gets zeros."""
    there = values >= 0
    share = there / there.sum(1, keepdim=True).clamp(min=1)
    return functional.embedding_bag(
        values.clamp(min=0), table.weight, mode="sum", per_sample_weights=share.to(table.weight.dtype)
    )


def user_rows(table: nn.Embedding, user: Int[Tensor, " user"]) -> Float[Tensor, "user dim"]:
    """Look up rows by id; an id that has no row gets zeros."""
    if table.num_embeddings == 0:
        return table.weight.new_zeros(len(user), table.embedding_dim)
    known = (user < table.num_embeddings) & (user >= 0)
    if len(user) > table.num_embeddings:  # a row of zeros at the end of a copy is cheaper than a mask
        weight = functional.pad(table.weight, (0, 0, 0, 1))
        return functional.embedding(torch.where(known, user, table.num_embeddings), weight)
    vectors: Tensor = table(torch.where(known, user, 0))
    return vectors * known.unsqueeze(1)


def clicked_mean(table: nn.Embedding, context: Context, past: int) -> Float[Tensor, "user dim"]:
    """Return the mean vector of the clicked items among the last `past` of the history; zeros without any."""
    if past == 0 or context.history.shape[1] == 0:
        return table.weight.new_zeros(len(context), table.embedding_dim)
    history, feedback = context.history[:, -past:], context.feedback[:, -past:]
    clicked = (feedback > 0) & (history >= 0) & (history < table.num_embeddings)  # neither pad nor blank
    return bag(table, history.where(clicked, PAD))


def clicked_history(context: Context, past: int, n_items: int) -> Int[Tensor, "user past"]:
    """Return the clicked items among the last `past` of the history: newest last, padded on the left with -1.

    What was shown and not clicked is taken out, and the rest moves together.
    """
    history, feedback = context.history[:, -past:], context.feedback[:, -past:]
    clicked = (feedback > 0) & (history >= 0) & (history < n_items)
    order = clicked.to(torch.uint8).argsort(dim=1, stable=True)  # what is not clicked goes to the left
    return history.where(clicked, PAD).gather(1, order)


def shared_candidates(context: Context) -> Int[Tensor, " cand"] | None:
    """Return the one list of candidates that all rows share without a copy, or None.

    An expanded row has stride 0, so a matrix product with one [cand, dim] table replaces a gather of
    [user, cand, dim].
    """
    return context.candidates[0] if len(context) > 1 and context.candidates.stride(0) == 0 else None


def dot(
    state: Float[Tensor, "user dim"], vectors: Float[Tensor, "item dim"], context: Context
) -> Float[Tensor, "user cand"]:
    """Return ⟨state, v⟩ of each candidate: one matrix product where all rows share their candidates."""
    items = shared_candidates(context)
    if items is not None:
        return state @ functional.embedding(items, vectors).T
    if 0 < context.candidates.shape[1] <= FEW:
        state = state.to(vectors.dtype)
        few: Tensor = _FewDots.apply(state, vectors, context.candidates)  # type: ignore[no-untyped-call]
        return few
    gathered = functional.embedding(context.candidates, vectors)
    return (gathered @ state.unsqueeze(2)).squeeze(2)
