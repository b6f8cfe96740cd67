"""What feature-interaction families share: a row's fields, split into a user's side and an item's side."""

from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from simlab.context import Catalog, Context
from simlab.errors import BadInput
from simlab.rankers._blocks import clicked_mean, shared_candidates, standardised
from simlab.rankers.contract import Ranker, Sizes


class FieldRanker(Ranker):
    """A ranker of fields: x_f v_f for each field f of a (user, item) row.

    A row's fields are the user's (id, numeric features of the moment, categories, the mean of the clicked
    history) and the item's (id, numeric features, categories, the given embedding); a field of several
    values is their mean. A family says what one side alone makes of its fields, and what the two make of
    each other. So a user's part is made once per user and an item's once per item, however many candidates
    there are, and a pair costs only what neither side can do alone.

    Args:
        sizes: the data's sizes.
        spec: has `dim`, `past` and `spread`.
        catalog: what is known of the items; kept with the weights.
    """

    linear: ClassVar[bool] = True
    """Whether each field also has a first-order weight."""

    def __init__(self, sizes: Sizes, spec: Any, catalog: Catalog | None = None) -> None:
        super().__init__(sizes, spec, catalog)
        self.past, self.dim = spec.past, spec.dim
        width = spec.dim + self.linear
        self.user_fields = UserFields(sizes, width, spec.past, spec.spread, self.linear)
        self.item_fields = ItemFields(sizes.n_items, width, catalog, spec.spread, self.linear)
        self.user_width, self.item_width = (
            fields.count * spec.dim for fields in (self.user_fields, self.item_fields)
        )
        self.bias = nn.Parameter(torch.zeros(()))

    @abstractmethod
    def user_side(self, fields: Float[Tensor, "user field width"]) -> Float[Tensor, "user dim"]:
        """Return everything that a user's fields say without an item; the intercept belongs here.

        Args:
            fields: the vector of each field, and in the last column its first-order weight if there is one.
        """

    @abstractmethod
    def item_side(self, fields: Float[Tensor, "item field width"]) -> Float[Tensor, "item side"]:
        """Return everything that an item's fields say without a user."""

    @abstractmethod
    def pair(
        self, user: Float[Tensor, "user dim"], item: Float[Tensor, "#user cand side"]
    ) -> Float[Tensor, "user cand"]:
        """Return the logits of pairs; one row of items may serve all users."""

    def encode(self, context: Context) -> Float[Tensor, "user dim"]:
        """Return the user's part."""
        fields: Tensor = self.user_fields(context)
        return self.user_side(fields)

    def score(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand"]:
        """Bring the two sides together; memory is user × cand × the widest layer."""
        state = self.encode(context) if state is None else state
        return self.pair(state, self.candidate_sides(context))

    def candidate_sides(self, context: Context) -> Float[Tensor, "row cand side"]:
        """Return the candidates' part: one row if all users share them.

        Each item's part is made once for the whole catalogue where the candidates are as many.
        """
        shared = shared_candidates(context)
        items = context.candidates if shared is None else shared.unsqueeze(0)
        if items.numel() < self.sizes.n_items:
            sides = self.item_side(self.item_fields(items.reshape(-1)))
            return sides.view(*items.shape, sides.shape[-1])
        return functional.embedding(items, self.item_side(self.item_fields(None)))

    def start(self, logit: float) -> None:
        """Set the intercept."""
        if self.bias.item() == 0:
            nn.init.constant_(self.bias, logit)


class UserFields(nn.Module):
    """The fields of a user and the moment: id, numeric features, categories, the mean of the history.

    Ids and categories stand in one table, so that they cost one lookup. Its last row is the vector of what
    is unknown, and stays zero. A user's own vector starts at zero, so that a user without training data
    scores like a new user.

    Args:
        sizes: the data's sizes.
        width: of each field's row.
        past: H, how many items of history count; 0 leaves the field out.
        spread: standard deviation of the first vectors.
        linear: the last column is a first-order weight, and starts at zero.
    """

    def __init__(self, sizes: Sizes, width: int, past: int, spread: float, linear: bool) -> None:
        super().__init__()
        self.width, self.past = width, past
        self.with_id, self.n_categories = sizes.n_users > 0, len(sizes.categories)
        known = ((sizes.n_users,) if self.with_id else ()) + sizes.categories
        offset = [0]
        for size in known:
            offset.append(offset[-1] + size)
        self.known: Tensor
        self.offset: Tensor
        self.register_buffer("known", torch.tensor(known, dtype=torch.long), persistent=False)
        self.register_buffer("offset", torch.tensor(offset[:-1], dtype=torch.long), persistent=False)
        self.table = _table(offset[-1], width, spread, linear) if known else None
        if self.table is not None and self.with_id:
            nn.init.zeros_(self.table.weight[: sizes.n_users])
        self.numeric = _rows(sizes.n_features, width, spread, linear) if sizes.n_features else None
        self.history = None
        if past > 0:
            self.history = nn.Embedding(sizes.n_items, width)
            _draw(self.history.weight, spread, linear)
        self.count = len(known) + sizes.n_features + (past > 0)
        """How many fields there are."""

    def ids(self, context: Context) -> Int[Tensor, "user field"]:
        """Return the table's row of each id and category; its last row where that is unknown."""
        assert self.table is not None
        columns = [context.user.unsqueeze(1)] if self.with_id else []
        if self.n_categories and context.categories is not None:
            columns.append(context.categories)
        elif self.n_categories:
            columns.append(context.user.new_full((len(context), self.n_categories), -1))
        ids = columns[0] if len(columns) == 1 else torch.cat(columns, 1)
        there = (ids >= 0) & (ids < self.known)
        return torch.where(there, ids + self.offset, self.table.num_embeddings - 1)

    def forward(self, context: Context) -> Float[Tensor, "user field width"]:
        """Return x_f v_f of each field."""
        found: list[Tensor] = []
        if self.table is not None:
            found.append(self.table(self.ids(context)))
        if self.numeric is not None:
            found.append(context.features.unsqueeze(2) * self.numeric)
        if self.history is not None:
            found.append(clicked_mean(self.history, context, self.past).unsqueeze(1))
        if not found:
            return self.offset.new_zeros((len(context), 0, self.width), dtype=context.features.dtype)
        return found[0] if len(found) == 1 else torch.cat(found, 1)


class ItemFields(nn.Module):
    """The fields of an item: id, categories, numeric features, the given embedding projected to one field.

    Numeric features are standardised over the catalogue. What is known of the items is kept with the
    weights, so a saved ranker needs no catalogue.

    Args:
        n_items: size of the catalogue.
        width: of each field's row.
        catalog: what is known of the items.
        spread: standard deviation of the first vectors.
        linear: the last column is a first-order weight, and starts at zero.
    """

    def __init__(
        self, n_items: int, width: int, catalog: Catalog | None, spread: float, linear: bool
    ) -> None:
        super().__init__()
        fields = () if catalog is None else catalog.fields
        features = torch.zeros(n_items, 0) if catalog is None else catalog.features.float()
        vectors = None if catalog is None else catalog.vectors
        rows = n_items + sum(f.size for f in fields)
        ids, share, begin = [torch.arange(n_items).unsqueeze(1)], [torch.ones(n_items, 1)], n_items
        for field in fields:
            there = field.values >= 0
            ids.append(torch.where(there, field.values + begin, rows))
            share.append((1 / there.sum(1, keepdim=True).clamp(min=1)).expand(there.shape))
            begin += field.size
        self.widths = [x.shape[1] for x in ids]
        self.ids: Tensor
        self.share: Tensor
        self.features: Tensor
        self.vectors: Tensor
        self.register_buffer("ids", torch.cat(ids, 1))
        self.register_buffer("share", torch.cat(share, 1))
        self.register_buffer("features", standardised(features))
        given = torch.zeros(n_items, 0) if vectors is None else vectors.float().clone()
        self.register_buffer("vectors", given)
        self.table = _table(rows, width, spread, linear)
        n_features = features.shape[1]
        self.numeric = _rows(n_features, width, spread, linear) if n_features else None
        self.projection = None
        if self.vectors.shape[1]:
            self.projection = nn.Parameter(torch.empty(self.vectors.shape[1], width))
            _draw(self.projection, spread / self.vectors.shape[1] ** 0.5, linear)
        self.count = len(ids) + n_features + (self.projection is not None)
        """How many fields there are."""

    def forward(self, items: Int[Tensor, " item"] | None) -> Float[Tensor, "item field width"]:
        """Return x_f v_f of each field of these items, or of the whole catalogue."""
        ids, share, features, vectors = (
            x if items is None else x[items] for x in (self.ids, self.share, self.features, self.vectors)
        )
        rows: Tensor = self.table(ids)
        found = [rows]
        if max(self.widths) > 1:  # the mean of a field's values
            pieces = torch.split(rows, self.widths, 1)
            parts = torch.split(share.unsqueeze(2), self.widths, 1)
            found = [
                piece if piece.shape[1] == 1 else piece.sum(1, keepdim=True) * part[:, :1]
                for piece, part in zip(pieces, parts, strict=True)
            ]
        if self.numeric is not None:
            found.append(features.unsqueeze(2) * self.numeric)
        if self.projection is not None:
            found.append((vectors @ self.projection).unsqueeze(1))
        return found[0] if len(found) == 1 else torch.cat(found, 1)


class SplitLinear(nn.Module):
    """W [u, i] + b, linear in a concatenation, and so the sum of a user's part and an item's part.

    Args:
        user: width of u.
        item: width of i.
        out: width of the result.
        bias: whether there is a b.
    """

    def __init__(self, user: int, item: int, out: int, bias: bool = True) -> None:
        super().__init__()
        self.split = user
        self.weight = nn.Parameter(torch.empty(out, user + item))
        self.bias = nn.Parameter(torch.zeros(out)) if bias else None
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")

    def user(self, fields: Float[Tensor, "user in"]) -> Float[Tensor, "user out"]:
        """Return W_u u + b."""
        return functional.linear(fields, self.weight[:, : self.split], self.bias)

    def item(self, fields: Float[Tensor, "item in"]) -> Float[Tensor, "item out"]:
        """Return W_i i."""
        return functional.linear(fields, self.weight[:, self.split :])

    def forward(self, both: Float[Tensor, "*any in"]) -> Float[Tensor, "*any out"]:
        """Return W x + b of a concatenation."""
        return functional.linear(both, self.weight, self.bias)


class Layers(nn.Module):
    """A perceptron after its first layer's sums, which the sides share: h ← ReLU(W h + b), then wᵀ h.

    Args:
        name: of the family, for refusals.
        sizes: widths of the layers, the first included.
        dropout: share of each hidden layer that is left out in training.
        out: whether one number comes out; else the last hidden layer does.

    Raises:
        BadInput: if there is no layer.
    """

    def __init__(self, name: str, sizes: Sequence[int], dropout: float, out: bool = True) -> None:
        super().__init__()
        if not sizes:
            raise BadInput(f"{name} needs at least one layer in its MLP, and layers is empty")
        self.first, self.last = sizes[0], sizes[-1]
        self.dropout = dropout
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        for layer in self.hidden:
            assert isinstance(layer, nn.Linear)
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        self.out = nn.Linear(sizes[-1], 1, bias=False) if out else None

    def forward(self, first: Float[Tensor, "*any first"]) -> Float[Tensor, "*any out"]:
        """Go on from the first layer's sums; they are overwritten."""
        hidden = self._after(first)
        for layer in self.hidden:
            hidden = self._after(layer(hidden))
        if self.out is None:
            return hidden
        logit: Tensor = self.out(hidden)
        return logit

    def _after(self, sums: Float[Tensor, "*any hidden"]) -> Float[Tensor, "*any hidden"]:
        return self.drop(functional.relu_(sums))

    def drop(self, hidden: Float[Tensor, "*any hidden"]) -> Float[Tensor, "*any hidden"]:
        """Leave some of it out in training."""
        return functional.dropout(hidden, self.dropout, self.training) if self.dropout else hidden


def interactions(
    vectors: Float[Tensor, "row field dim"], total: Float[Tensor, "row dim"]
) -> Float[Tensor, "row dim"]:
    """Return Σ_{f<g} v_f ⊙ v_g = ½ [(Σ v)² - Σ v²]: what the fields of one side make of each other.

    Source: Rendle (2010), lemma 3.1; He and Chua (2017), equation 4.
    """
    return 0.5 * (total.square() - vectors.square().sum(1))


def alone(
    vectors: Float[Tensor, "row field dim"],
    weights: Float[Tensor, "row field 1"],
    total: Float[Tensor, "row dim"],
) -> Float[Tensor, "row 1"]:
    """Return Σ_f w_f + Σ_{f<g} ⟨v_f, v_g⟩: what a factorisation machine makes of one side alone."""
    return weights.sum(1) + interactions(vectors, total).sum(1, keepdim=True)


def products(
    user: Float[Tensor, "user dim"], item: Float[Tensor, "#user cand dim"]
) -> Float[Tensor, "user cand"]:
    """Return ⟨u, i⟩ of each pair: one matrix product where one row of items serves all users."""
    if item.shape[0] == 1:
        return user @ item[0].T
    if item.shape[1] == 1:  # one candidate each: thousands of tiny matrix products cost more
        return (user.unsqueeze(1) * item).sum(2)
    return (item @ user.unsqueeze(2)).squeeze(2)


def _table(rows: int, width: int, spread: float, linear: bool) -> nn.Embedding:
    """Return a table with one row more, of zeros, for what is unknown."""
    table = nn.Embedding(rows + 1, width, padding_idx=rows)
    _draw(table.weight[:rows], spread, linear)
    return table


def _rows(count: int, width: int, spread: float, linear: bool) -> nn.Parameter:
    """Return a vector for each numeric feature."""
    rows = nn.Parameter(torch.empty(count, width))
    _draw(rows, spread, linear)
    return rows


@torch.no_grad()
def _draw(rows: Float[Tensor, "row width"], spread: float, linear: bool) -> None:
    """Draw first vectors, with first-order weights of zero."""
    rows.normal_(std=spread)
    if linear:
        rows[:, -1] = 0
