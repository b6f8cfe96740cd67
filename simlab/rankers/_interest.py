"""What DIN and DIEN share: what counts in the history, activations, the network over the user's interest."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from simlab.context import Context
from simlab.errors import BadInput, nearest
from simlab.rankers._blocks import ItemTable, UserSide, shared_candidates, user_rows
from simlab.rankers.contract import Sizes

ACTIVATIONS = ("dice", "prelu", "sigmoid")

CELLS = {"cpu": 1 << 18, "cuda": 1 << 26}
"""How many numbers a block of (user, candidate) pairs may hold when scoring, by kind of device."""


class Dice(nn.Module):
    """f(s) = p s + (1 − p) α s with p = σ((s − E[s]) / √(Var[s] + ε)), by column.

    Means and variances are of the batch in training and running averages afterwards. Rows that are padding
    count in neither.

    Source: Zhou et al. (2018), "Deep interest network for click-through rate prediction", KDD, equation 3.
    """

    eps = 1e-8
    momentum = 0.1

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(width))
        self.mean: Tensor
        self.var: Tensor
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("var", torch.ones(width))

    def forward(
        self, rows: Float[Tensor, "row width"], there: Float[Tensor, " row"] | None = None
    ) -> Float[Tensor, "row width"]:
        """Return f of each number.

        Args:
            rows: s.
            there: 1 where a row counts in the statistics, 0 where it is padding; by default all count.
        """
        mean, var = self.mean, self.var
        if self.training:
            mean, var = self._statistics(rows, there)
        scale = (var + self.eps).rsqrt()
        p = torch.addcmul(-mean * scale, rows, scale).sigmoid()
        return rows * torch.addcmul(self.alpha, p, 1 - self.alpha)

    def _statistics(
        self, rows: Float[Tensor, "row width"], there: Float[Tensor, " row"] | None
    ) -> tuple[Float[Tensor, " width"], Float[Tensor, " width"]]:
        """Return the batch's mean and variance, and move the running averages."""
        there = rows.new_ones(len(rows)) if there is None else there
        total = there.sum()
        share = there / total.clamp(min=1)
        mean = share @ rows
        var = share @ (rows - mean).square()
        with torch.no_grad():
            step = self.momentum * (total > 0)  # a batch of padding alone says nothing
            self.mean.lerp_(mean.detach().float(), step)
            self.var.lerp_(var.detach().float(), step)
        return mean, var


class Activation(nn.Module):
    """One of `ACTIVATIONS` over the last axis.

    Raises:
        BadInput: for another name, with the nearest one.
    """

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        if kind not in ACTIVATIONS:
            raise BadInput(
                f"activation is one of {', '.join(ACTIVATIONS)}, not {kind}{nearest(kind, ACTIVATIONS)}"
            )
        self.dice = Dice(width) if kind == "dice" else None
        self.slope = nn.Parameter(torch.full((width,), 0.25)) if kind == "prelu" else None

    def forward(
        self, x: Float[Tensor, "*any width"], there: Tensor | None = None
    ) -> Float[Tensor, "*any width"]:
        """Return the activation of each number; `there` is what `Dice` takes."""
        rows = x.reshape(-1, x.shape[-1])
        if self.dice is not None:
            rows = self.dice(rows, None if there is None else there.reshape(-1))
        elif self.slope is not None:
            rows = functional.prelu(rows, self.slope)
        else:
            rows = rows.sigmoid()
        return rows.view(x.shape)


class History(nn.Module):
    """v_j, or v_j + r_{feedback}, of the items of the history that count.

    Args:
        items: the items' vectors.
        past: H, how many items of history count.
        unclicked: also let the items count that were shown and not clicked; then each item's vector has one
            added that says which of the two came back.
        spread: standard deviation of the first vectors r.
    """

    def __init__(self, items: ItemTable, past: int, unclicked: bool, spread: float) -> None:
        super().__init__()
        self.past, self.n_items = past, items.n_items
        self.feedback = nn.Embedding(2, items.dim) if unclicked else None
        if self.feedback is not None:
            nn.init.normal_(self.feedback.weight, std=spread)

    def counts(self, context: Context) -> tuple[Int[Tensor, "user past"], Bool[Tensor, "user past"], Tensor]:
        """Return the last items, where they count, and whether they were clicked."""
        width = min(self.past, context.history.shape[1])
        start = context.history.shape[1] - width
        history, clicked = context.history[:, start:], context.feedback[:, start:] > 0
        there = (history >= 0) & (history < self.n_items)
        return history, there if self.feedback is not None else there & clicked, clicked

    def vectors(
        self, items: ItemTable, history: Int[Tensor, "user past"], clicked: Bool[Tensor, "user past"]
    ) -> Float[Tensor, "user past dim"]:
        """Return the vector of each item of the history."""
        keys: Tensor = items(history)
        return keys if self.feedback is None else keys + self.feedback(clicked.long())


class InterestHead(nn.Module):
    """b_u + b_i + MLP([u, z, v, z ⊙ v, u ⊙ v]): u the user's side, z the user's interest in item v.

    The first layer is split: the user's part is made once for all candidates.

    Args:
        sizes: the data's sizes.
        dim: width of u, z and v.
        layers: widths of the hidden layers.
        activation: between the layers.
        dropout: share of the first layer's inputs and of hidden units that are dropped in training.
        spread: standard deviation of the first vectors of categories.

    Raises:
        BadInput: if there is no hidden layer.
    """

    def __init__(
        self, sizes: Sizes, dim: int, layers: Sequence[int], activation: str, dropout: float, spread: float
    ) -> None:
        super().__init__()
        if not layers:
            raise BadInput("the network needs at least one layer, and layers is empty")
        self.dim, self.first = dim, layers[0]
        self.user = UserSide(sizes, dim, 0, spread)
        self.user_bias = nn.Embedding(sizes.n_users, 1)
        self.item_bias = nn.Embedding(sizes.n_items, 1)
        nn.init.zeros_(self.user_bias.weight)
        nn.init.zeros_(self.item_bias.weight)
        self.from_user = nn.Linear(dim, layers[0])
        self.from_pair = nn.Linear(4 * dim, layers[0], bias=False)
        self.rest = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(layers))
        self.activations = nn.ModuleList(Activation(activation, width) for width in layers)
        self.out = nn.Linear(layers[-1], 1)
        nn.init.zeros_(self.out.bias)
        self.dropout = nn.Dropout(dropout)

    def state(
        self, context: Context, past: Float[Tensor, "user past dim"], there: Bool[Tensor, "user past"]
    ) -> Float[Tensor, "user state"]:
        """Return [A u + a, u, b_u], the vectors of the past, and which of them count, in one row per user."""
        user = self.dropout(self.user(context))
        bias = user_rows(self.user_bias, context.user)
        return torch.cat([self.from_user(user), user, bias, past.flatten(1), there.to(past.dtype)], dim=1)

    def parts(
        self, state: Float[Tensor, "user state"]
    ) -> tuple[Float[Tensor, "user side"], Float[Tensor, "user past dim"], Bool[Tensor, "user past"]]:
        """Return what `state` put together: the user's part, the vectors of the past, which of them count."""
        side = self.first + self.dim + 1
        past = (state.shape[1] - side) // (self.dim + 1)
        user, flat, there = state.tensor_split([side, side + past * self.dim], dim=1)
        return user, flat.reshape(len(state), past, self.dim), there > 0

    def forward(
        self,
        side: Float[Tensor, "user side"],
        interest: Float[Tensor, "user cand dim"],
        items: Float[Tensor, "user cand dim"],
        bias: Float[Tensor, "user cand"],
    ) -> Float[Tensor, "user cand"]:
        """Return the logits.

        Args:
            side: the user's part of the state.
            interest: z.
            items: v.
            bias: b_i.
        """
        first, user, user_bias = side.tensor_split([self.first, self.first + self.dim], dim=1)
        pair = torch.cat([interest, items, interest * items, user.unsqueeze(1) * items], dim=2)
        x = first.unsqueeze(1) + self.from_pair(self.dropout(pair))
        for number, activation in enumerate(self.activations):
            x = self.dropout(activation(x if number == 0 else self.rest[number - 1](x)))
        said: Tensor = self.out(x).squeeze(2)
        return said + user_bias + bias

    def start(self, logit: float) -> None:
        """Set the intercept."""
        if self.out.bias.item() == 0:
            nn.init.constant_(self.out.bias, logit)


def candidate_vectors(
    table: ItemTable, bias: nn.Embedding, context: Context
) -> tuple[Float[Tensor, "user cand dim"], Float[Tensor, "user cand"]]:
    """Return the candidates' vectors and biases: looked up once where all rows share their candidates."""
    shared = shared_candidates(context)
    items = context.candidates if shared is None else shared.unsqueeze(0)
    rows = len(context)
    return table(items).expand(rows, -1, -1), bias(items).squeeze(2).expand(rows, -1)


def blocks(users: int, cands: int, each: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Cut users × candidates into blocks that fit into memory near the processor.

    Args:
        users: how many.
        cands: how many.
        each: numbers that a pair needs.
        device: where.
    """
    room = max(1, CELLS.get(device.type, CELLS["cuda"]) // max(each, 1))
    wide = max(1, min(cands, room))
    # Candidates in blocks of equal size; several users at once where one does not fill the room.
    wide = -(-cands // -(-cands // wide)) if cands else 1
    tall = max(1, room // wide)
    for user in range(0, users, tall):
        for cand in range(0, cands, wide):
            yield slice(user, user + tall), slice(cand, cand + wide)
