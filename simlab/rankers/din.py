"""DIN: a user's interest in a candidate is a sum over the history, weighed by that candidate."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from simlab.context import Catalog, Context
from simlab.rankers._blocks import ItemTable
from simlab.rankers._interest import Activation, History, InterestHead, blocks, candidate_vectors
from simlab.rankers.contract import Ranker, Sizes


class DIN(Ranker):
    """logit(u, i) = b_u + b_i + MLP([u, z, v_i, z ⊙ v_i, u ⊙ v_i]), z = Σ_j a(v_i, k_j) k_j.

    The sum is over the items of the history that count, whose vectors k_j are those of the candidates. The
    activation unit is a(q, k) = w · f(W [q, k, q − k, q ⊙ k] + b) + c. Its weights are not normalised, as in
    the paper, so a strong interest has a long z; a user without history has z = 0. u is the id's vector plus
    what is known of the user and the moment.

    W = [A B C D] is split: W [...] = (A + C) q + (B − C) k + D (q ⊙ k), and the last is a matrix product too,
    D diag(k_j) q. So C candidates × H items cost one matrix product with a [H h, dim] matrix of the user's,
    and the history is never copied. f is PReLU by default: Dice, the paper's own, costs two to three times
    the time in training and scoring, and ranks no better on MovieLens-100K.

    Source: Zhou et al. (2018), "Deep interest network for click-through rate prediction", KDD, equations 2
    and 3. The paper's unit takes an outer product where its published code and this file take q − k and
    q ⊙ k. The biases and the products in the last network are of the published code, which has an item's
    bias and z ⊙ v, and of a factorisation. There is no mini-batch aware regularisation.

    Args:
        sizes: the data's sizes.
        spec: `dim` of every vector; `unit`, the width h of the activation unit; `layers` of the network;
            `past` items of history; `activation` dice, prelu or sigmoid; `normalise` the weights by softmax;
            `unclicked`: also read what was shown and not clicked, with a vector that says so; `dropout`;
            `spread` of the first weights.
        catalog: the items; what is known of them goes into v and k.

    Raises:
        BadInput: if the network has no layer, or for an unknown activation.
    """

    @dataclass(frozen=True)
    class Spec:
        """Settings of the family."""

        dim: int = 16
        unit: int = 36
        layers: tuple[int, ...] = (64, 32)
        past: int = 50
        activation: str = "prelu"
        normalise: bool = False
        unclicked: bool = False
        dropout: float = 0.2
        spread: float = 0.05

    name: ClassVar[str] = "din"
    recipe: ClassVar[Mapping[str, Any]] = {"learning_rate": 0.003, "batch_size": 2048}

    def __init__(self, sizes: Sizes, spec: Spec, catalog: Catalog | None = None) -> None:
        super().__init__(sizes, spec, catalog)
        self.past, self.dim = spec.past, spec.dim
        self.items = ItemTable(sizes.n_items, spec.dim, catalog, spec.spread)
        self.history = History(self.items, spec.past, spec.unclicked, spec.spread)
        self.unit = nn.Linear(4 * spec.dim, spec.unit)
        self.unit_activation = Activation(spec.activation, spec.unit)
        self.unit_out = nn.Linear(spec.unit, 1)
        self.head = InterestHead(sizes, spec.dim, spec.layers, spec.activation, spec.dropout, spec.spread)

    def encode(self, context: Context) -> Float[Tensor, "user dim"]:
        """Return the head's part, the vectors k_j of the history, and which of them count."""
        history, there, clicked = self.history.counts(context)
        keys = self.history.vectors(self.items, history, clicked) * there.unsqueeze(2)
        return self.head.state(context, keys, there)

    def score(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand"]:
        """Return the logits; outside training in blocks of users and candidates, so memory does not grow."""
        state = self.encode(context) if state is None else state
        side, keys, there = self.head.parts(state)
        past = keys.shape[1]
        items, bias = candidate_vectors(self.items, self.head.item_bias, context)
        if self.training:
            return self._logits(side, keys, there, items, bias)
        logits = bias.new_empty(bias.shape)
        each = max(past * self.spec.unit, 4 * self.dim)
        for u, c in blocks(len(bias), bias.shape[1], each, bias.device):
            logits[u, c] = self._logits(side[u], keys[u], there[u], items[u, c], bias[u, c])
        return logits

    def start(self, logit: float) -> None:
        """Set the intercept."""
        self.head.start(logit)

    def _logits(
        self,
        side: Float[Tensor, "user side"],
        keys: Float[Tensor, "user past dim"],
        there: Bool[Tensor, "user past"],
        items: Float[Tensor, "user cand dim"],
        bias: Float[Tensor, "user cand"],
    ) -> Float[Tensor, "user cand"]:
        """Return the logits of a block."""
        interest = self.weights(items, keys, there) @ keys
        said: Tensor = self.head(side, interest, items, bias)
        return said

    def weights(
        self,
        items: Float[Tensor, "user cand dim"],
        keys: Float[Tensor, "user past dim"],
        there: Bool[Tensor, "user past"],
    ) -> Float[Tensor, "user cand past"]:
        """Return a(q, k) of every candidate and item of the history; 0 where it does not count."""
        a, b, c, d = self.unit.weight.chunk(4, dim=1)
        of_items, of_keys = a + c, b - c
        # The shorter of the two sides is folded into the weights, and the longer passes through them.
        few = items.shape[1] < keys.shape[1]
        if few:
            x = self._unit(items, of_items, keys, of_keys, d)
        else:
            x = self._unit(keys, of_keys, items, of_items, d)
        counted = (there.unsqueeze(2) if few else there.unsqueeze(1)).expand(x.shape[:3])
        weights: Tensor = self.unit_out(self.unit_activation(x, counted.to(x.dtype))).squeeze(3)
        if few:
            weights, counted = weights.mT, counted.mT
        if self.spec.normalise:
            weights = weights.masked_fill(~counted, torch.finfo(weights.dtype).min).softmax(2)
        return weights * counted

    def _unit(
        self,
        folded: Float[Tensor, "user few dim"],
        of_folded: Float[Tensor, "unit dim"],
        passed: Float[Tensor, "user many dim"],
        of_passed: Float[Tensor, "unit dim"],
        of_product: Float[Tensor, "unit dim"],
    ) -> Float[Tensor, "user many few unit"]:
        """Return F f + P p + D (f ⊙ p) + b of every pair, as (P + D diag(f)) p + (F f + b)."""
        both = torch.addcmul(of_passed.T.unsqueeze(1), folded.mT.unsqueeze(3), of_product.T.unsqueeze(1))
        bias = functional.linear(folded, of_folded, self.unit.bias).flatten(1).unsqueeze(1)
        return torch.baddbmm(bias, passed, both.flatten(2)).view(
            *passed.shape[:2], folded.shape[1], len(of_product)
        )
