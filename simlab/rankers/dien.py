"""DIEN: what a user wants now, as one candidate sees it evolve over the history."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from simlab.context import Catalog, Context
from simlab.rankers._blocks import ItemTable
from simlab.rankers._interest import History, InterestHead, blocks, candidate_vectors
from simlab.rankers.contract import Ranker, Sizes


class DIEN(Ranker):
    """logit(u, i) = b_u + b_i + MLP([u, z, v_i, z ⊙ v_i, u ⊙ v_i]), z the last state of an AUGRU.

    A GRU reads the history: h_t is the interest after item t. A candidate gives each a share
    a_t = softmax_t(⟨h_t, W v_i⟩), and a second GRU reads the h_t with its update gate times a_t:
    h'_t = (1 − a_t u_t) ⊙ h'_{t−1} + a_t u_t ⊙ n_t. A padded place has a_t = 0, which leaves h' as it was, so
    padding is exact; a user without history has z = 0. The second GRU's input side, R h_t, is shared by all
    candidates, and the candidates run side by side.

    In training h_t must also tell the next item from a drawn one: `penalty` is α times the mean of
    −log σ⟨h_t, k_{t+1}⟩ − log(1 − σ⟨h_t, v_drawn⟩).

    Source: Zhou et al. (2019), "Deep interest evolution network for click-through rate prediction", AAAI,
    equations 2 to 5 (GRU), 7 (loss of the extractor), 8 (attention), 14 and 15 (AUGRU). The drawn item is any
    that is not the next one, where the paper's is any that the user did not click. The last network is DIN's
    (see there). The reset gate is applied after the product with the state, as in cuDNN.

    Args:
        sizes: the data's sizes.
        spec: `dim` of every vector and state; `layers` of the network; `past` items of history; `auxiliary`,
            the loss's weight α; `activation` dice, prelu or sigmoid; `unclicked`: also read what was shown
            and not clicked, with a vector that says so (only a click is the next item of the loss);
            `dropout`; `spread` of the first weights.
        catalog: the items; what is known of them goes into v and k.

    Raises:
        BadInput: if the network has no layer, or for an unknown activation.
    """

    @dataclass(frozen=True)
    class Spec:
        """Settings of the family."""

        dim: int = 16
        layers: tuple[int, ...] = (64, 32)
        past: int = 50
        auxiliary: float = 0.5
        activation: str = "prelu"
        unclicked: bool = False
        dropout: float = 0.2
        spread: float = 0.05

    name: ClassVar[str] = "dien"
    recipe: ClassVar[Mapping[str, Any]] = {"learning_rate": 0.003, "batch_size": 2048}

    def __init__(self, sizes: Sizes, spec: Spec, catalog: Catalog | None = None) -> None:
        super().__init__(sizes, spec, catalog)
        self.past, self.dim = spec.past, spec.dim
        self.items = ItemTable(sizes.n_items, spec.dim, catalog, spec.spread)
        self.history = History(self.items, spec.past, spec.unclicked, spec.spread)
        self.extractor = nn.GRU(spec.dim, spec.dim, batch_first=True)
        self.attention = nn.Linear(spec.dim, spec.dim, bias=False)
        self.evolve_input = nn.Linear(spec.dim, 3 * spec.dim)
        self.evolve_state = nn.Linear(spec.dim, 3 * spec.dim)
        self.head = InterestHead(sizes, spec.dim, spec.layers, spec.activation, spec.dropout, spec.spread)
        self._auxiliary: Tensor | None = None

    def encode(self, context: Context) -> Float[Tensor, "user dim"]:
        """Return the head's part, the interests h_t from the oldest on, and which of them count."""
        history, there, clicked = self.history.counts(context)
        # What counts moves to the left, so that the GRU meets padding only after it.
        order = (~there).to(torch.uint8).argsort(dim=1, stable=True)
        history, there, clicked = (x.gather(1, order) for x in (history, there, clicked))
        keys = self.history.vectors(self.items, history, clicked) * there.unsqueeze(2)
        states = self.extractor(keys)[0] * there.unsqueeze(2) if keys.shape[1] else keys
        if self.training:
            self._auxiliary = self._next_click(states, keys, history, there & clicked)
        return self.head.state(context, states, there)

    def score(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand"]:
        """Return the logits; outside training in blocks of users and candidates, so memory does not grow."""
        state = self.encode(context) if state is None else state
        side, states, there = self.head.parts(state)
        past = states.shape[1]
        items, bias = candidate_vectors(self.items, self.head.item_bias, context)
        if self.training:
            said: Tensor = self.head(side, self.interest(items, states, there), items, bias)
            return said
        logits = bias.new_empty(bias.shape)
        for u, c in blocks(len(bias), bias.shape[1], past + 4 * self.dim, bias.device):
            interest = self.interest(items[u, c], states[u], there[u])
            logits[u, c] = self.head(side[u], interest, items[u, c], bias[u, c])
        return logits

    def interest(
        self,
        items: Float[Tensor, "user cand dim"],
        states: Float[Tensor, "user past dim"],
        there: Bool[Tensor, "user past"],
    ) -> Float[Tensor, "user cand dim"]:
        """Return z: the AUGRU's last state for every candidate."""
        evolved: Tensor = torch.zeros_like(items)
        if states.shape[1] == 0:
            return evolved
        asked: Tensor = self.attention(items)
        logits = asked @ states.mT
        hidden = ~there.unsqueeze(1)
        shares: Tensor = (
            logits.masked_fill(hidden, torch.finfo(logits.dtype).min).softmax(2).masked_fill(hidden, 0.0)
        )
        d = self.dim
        # Cut once, not with a slice per step: the gradient of a slice is as large as the whole.
        inputs = self.evolve_input(states).tensor_split([2 * d], dim=2)
        steps = zip(inputs[0].unbind(1), inputs[1].unbind(1), shares.unbind(2), strict=True)
        for to_gates, to_new, share in steps:
            gates, new = self.evolve_state(evolved).tensor_split([2 * d], dim=2)
            reset, update = (to_gates.unsqueeze(1) + gates).sigmoid().chunk(2, dim=2)
            new = torch.addcmul(to_new.unsqueeze(1), reset, new).tanh()
            step = (update * share.unsqueeze(2)).to(evolved.dtype)  # autocast mixes types, and lerp does not
            evolved = evolved.lerp(new.to(evolved.dtype), step)
        return evolved

    def penalty(self) -> Float[Tensor, ""]:
        """Return α times the extractor's loss in the last forward in training; 0 before any."""
        if self._auxiliary is None:
            return torch.zeros((), device=self.head.out.bias.device)
        return self._auxiliary * float(self.spec.auxiliary)

    def train(self, mode: bool = True) -> "DIEN":
        """Change the mode; the loss of the last forward is forgotten, and its graph with it."""
        self._auxiliary = None
        super().train(mode)
        return self

    def start(self, logit: float) -> None:
        """Set the intercept."""
        self.head.start(logit)

    def _next_click(
        self,
        states: Float[Tensor, "user past dim"],
        keys: Float[Tensor, "user past dim"],
        history: Tensor,
        clicked: Bool[Tensor, "user past"],
    ) -> Float[Tensor, ""]:
        """Return the extractor's loss, a mean over all items that are a click with something before it."""
        drawn = torch.randint(0, self.sizes.n_items, history[:, 1:].shape, device=history.device)
        wrong: Tensor = self.items(drawn)
        if self.history.feedback is not None:  # both dress as a click: the loss is about the item
            wrong = wrong + self.history.feedback.weight[1]
        right = (states[:, :-1] * keys[:, 1:]).sum(2)
        other = (states[:, :-1] * wrong).sum(2)
        each = functional.softplus(-right) + functional.softplus(other) * (drawn != history[:, 1:])
        counted = clicked[:, 1:]
        return (each * counted).sum() / counted.sum().clamp(min=1)
