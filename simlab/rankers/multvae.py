"""MultVAE: a variational autoencoder whose clicks are draws from one softmax over the catalogue."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from simlab.context import Catalog, Context
from simlab.rankers._blocks import ContextSide, ItemTable, dot
from simlab.rankers._counts import multi_hot
from simlab.rankers._memory import check_room
from simlab.rankers.contract import Interactions, Ranker, Sizes


class MultVAE(Ranker):
    """logit(u, i) = ⟨w_i, tanh(D z_u + d)⟩ + b_i, z_u ~ N(μ_u, diag σ_u²).

    [μ_u, log σ_u²] = E tanh(V x_u + a + W s + Σ_c e_c) + e. x_u is 1 / √n for each of u's n clicked items,
    with dropout in training; s and c are the features and categories of the context. Users are known by their
    clicks alone, so a new one is like any other. [w_i, b_i] also has what is known of the item. In eval mode
    z_u = μ_u.

    Trained by `unit="user"` with the softmax over the catalogue, a user's loss is the multinomial likelihood
    of the clicks, and `penalty` is β KL(z_u ‖ N(0, I)), the mean over the batch. β rises linearly from 0 to
    `beta` over the first `anneal` steps and stays there.

    Memory is 4 (2 hidden + 1) bytes for each item, four times that in training (gradients and AdamW's two
    means), and about 24 bytes for each item and user of a batch. A million items by the settings below take
    4.5 GiB, 18 GiB in training, and 2.9 GiB for a batch of 128 users.

    Source: Liang, Krishnan, Hoffman and Jebara (2018), "Variational autoencoders for collaborative
    filtering", WWW, sections 2.1 (the likelihood, and the network of an encoder and a decoder) and 2.2 (β and
    its annealing). The sizes are the paper's; β and the shorter annealing suit MovieLens 100K.

    Args:
        sizes: the data's sizes.
        spec: `hidden` width, `dim` of z, `dropout` of the input, `beta`, `anneal`, `past` items of history,
            `spread` of the first vectors of items and categories.
        catalog: what is known of the items.

    Raises:
        BadInput: for no past, no annealing step, a negative beta, a dropout that is no share, or if the
            machine has less memory.
    """

    @dataclass(frozen=True)
    class Spec:
        """Settings of the family."""

        hidden: int = 600
        dim: int = 200
        dropout: float = 0.5
        beta: float = 0.5
        anneal: int = 500
        past: int = 1000
        spread: float = 0.05

    name: ClassVar[str] = "multvae"
    least: ClassVar[Mapping[str, int]] = {"past": 1}
    recipe: ClassVar[Mapping[str, Any]] = {
        "unit": "user",
        "loss": "softmax",
        "epochs": 100,
        "batch_size": 128,
        "learning_rate": 0.003,
        "judge": "ndcg",
        "patience": 15,
    }

    def __init__(self, sizes: Sizes, spec: Spec, catalog: Catalog | None = None) -> None:
        super().__init__(sizes, spec, catalog)
        self.past = spec.past
        self.clicked = nn.Linear(sizes.n_items, spec.hidden)
        self.side = ContextSide(sizes, spec.hidden, spec.spread)
        self.latent = nn.Linear(spec.hidden, 2 * spec.dim)
        self.decode = nn.Linear(spec.dim, spec.hidden)
        self.items = ItemTable(sizes.n_items, spec.hidden + 1, catalog, spec.spread)  # [w_i, b_i]
        self.dropout = nn.Dropout(spec.dropout)
        for layer in (self.clicked, self.latent, self.decode):
            nn.init.xavier_normal_(layer.weight)
            nn.init.normal_(layer.bias, std=0.001)
        nn.init.zeros_(self.items.ids.weight[:, -1])
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.divergence = torch.zeros(())

    @classmethod
    def check(cls, sizes: Sizes, spec: Spec) -> None:
        """Refuse weights that the machine cannot hold."""
        n = sizes.n_items
        check_room(cls.name, "the weights", n, 4 * n * (2 * spec.hidden + 1))

    def prepare(self, seen: Interactions) -> None:
        """Count nothing.

        Raises:
            BadInput: if there is not the memory to train so many weights.
        """
        n = self.sizes.n_items
        size = 16 * n * (2 * self.spec.hidden + 1)
        check_room(self.name, "and train the weights", n, size, seen.item.device.type)

    def encode(self, context: Context) -> Float[Tensor, "user dim"]:
        """Return [the decoder's hidden layer, 1]; in training mode of a drawn z, whose divergence is kept."""
        clicks = functional.normalize(multi_hot(context, self.past, self.sizes.n_items))
        hidden = self.clicked(self.dropout(clicks)) + self.side(context.features, context.categories)
        mean, log_variance = self.latent(hidden.tanh()).chunk(2, dim=1)
        z = mean
        if self.training:
            z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
            each = (log_variance.exp() + mean.square() - 1 - log_variance).sum(1) / 2
            self.divergence = each.mean()
            self.steps += 1
        return functional.pad(self.decode(z).tanh(), (0, 1), value=1.0)

    def score(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand"]:
        """Return inner products: one matrix product where all rows share their candidates."""
        state = self.encode(context) if state is None else state
        return dot(state, self.item_vectors(), context)

    def score_all(self, context: Context) -> Float[Tensor, "user item"]:
        """Return the logits of the multinomial."""
        return self.encode(context) @ self.item_vectors().T

    def item_vectors(self) -> Float[Tensor, "item dim"]:
        """Return [w_i, b_i]."""
        return self.items.all()

    def penalty(self) -> Float[Tensor, ""]:
        """Return β KL of the last batch in training, 0 in eval mode."""
        if not self.training:
            return torch.zeros((), device=self.steps.device)
        share = (self.steps / float(self.spec.anneal)).clamp(max=1.0)
        return float(self.spec.beta) * share * self.divergence
