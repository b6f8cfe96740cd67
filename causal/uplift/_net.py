"""Networks of deep uplift learners: a ranker's body, layers on it, and small networks by arm.

    x → encode of any ranker → layers shared by all → Φ(x) → a head for each arm, and other heads

A network is itself a ranker whose items are the arms, so it is trained like every other one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from causal.uplift._outcomes import Outcome
from causal.uplift.contract import Array
from simlab.adapters._columns import Columns
from simlab.adapters._state import full, state_width
from simlab.context import Context
from simlab.rankers.contract import Ranker

BLOCK = 1 << 14
"""Rows that are predicted at once."""

Shape = tuple[int, tuple[int, ...]]
"""Of heads: how many, and the widths of the hidden layers of each."""


class Heads(nn.Module):
    """Networks of one shape on the same input, one number each, all in one product per layer.

    Args:
        width: of the input.
        hidden: widths of the layers of each head, with ELU; none for linear heads.
        count: how many heads.
    """

    def __init__(self, width: int, hidden: tuple[int, ...], count: int) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for a, b in pairwise((width, *hidden, 1)):
            self.weights.append(nn.Parameter(torch.empty(count, a, b).uniform_(-1, 1) * a**-0.5))
            self.biases.append(nn.Parameter(torch.zeros(count, 1, b)))

    def forward(self, phi: Float[Tensor, "row dim"]) -> Float[Tensor, "row head"]:
        """Return each head's number for each row."""
        x = phi.expand(self.weights[0].shape[0], *phi.shape)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, functional.elu(x) if layer else x, weight)
        return x.squeeze(2).T


class Net(Ranker):
    """A ranker's body with heads on it; the items that it scores are the arms.

    Args:
        body: any ranker; only its `encode` is used.
        shared: widths of the layers between the body's state and Φ, each after an ELU; none for the state.
        heads: shapes by name; "outcome" has one head an arm.
    """

    name: ClassVar[str] = "uplift"

    def __init__(self, body: Ranker, shared: tuple[int, ...], heads: Mapping[str, Shape]) -> None:
        super().__init__(body.sizes, None)
        self.body, self.past = body, body.past
        widths = (state_width(body), *shared)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.heads = nn.ModuleDict({k: Heads(widths[-1], hidden, n) for k, (n, hidden) in heads.items()})
        self.epsilon = nn.Parameter(torch.zeros(heads["outcome"][0]))
        """Of targeted regularisation, by arm; others leave it."""
        self.extra: Tensor = torch.zeros(())
        """What the last batch adds to the mean loss."""

    def encode(self, context: Context) -> Float[Tensor, "user dim"]:
        """Return Φ."""
        phi = self.body.encode(full(context, self.past))
        for layer in self.layers:
            phi = layer(functional.elu(phi))
        return functional.elu(phi)

    def score(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand"]:
        """Return the predictor of the outcome under each arm among the candidates."""
        state = self.encode(context) if state is None else state
        said: Tensor = self.heads["outcome"](state)
        return said.gather(1, context.candidates)

    def start_at(self, predictor: Float[Tensor, " arm"]) -> None:
        """Take these as the intercepts of the outcome's heads."""
        outcome = self.heads["outcome"]
        assert isinstance(outcome, Heads)
        nn.init.zeros_(outcome.biases[-1]).data.add_(predictor.view(-1, 1, 1))

    def penalty(self) -> Float[Tensor, ""]:
        """Return the body's penalty and the learner's."""
        return self.body.penalty() + self.extra


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows that are trained on, in the units of training.

    Attributes:
        arm: which arm.
        y: the outcome; a number is standardised.
        weight: how much each row counts.
        chance: known chance of each arm, or None.
        kind: what the outcome is.
    """

    arm: Int[Tensor, " row"]
    y: Float[Tensor, " row"]
    weight: Float[Tensor, " row"]
    chance: Float[Tensor, "row arm"] | None
    kind: Outcome

    def own(self, table: Float[Tensor, "row arm"]) -> Float[Tensor, " row"]:
        """Return the column of each row's own arm."""
        return table.gather(1, self.arm.unsqueeze(1)).squeeze(1)


@dataclass(frozen=True, eq=False)
class Fitted:
    """Trained networks, and how to read them.

    Attributes:
        nets: whose answers are averaged.
        columns: of the features.
        arms: how many.
        kind: what the outcome is.
        mean: what is added to a number.
        spread: what a number is multiplied by, before that.
        held: of each net, the held-out loss of each epoch.
        epochs: of each net, how many epochs it was trained.
    """

    nets: tuple[Net, ...]
    columns: Columns
    arms: int
    kind: Outcome
    mean: float
    spread: float
    held: tuple[tuple[float, ...], ...]
    epochs: tuple[int, ...]

    def mean_of(self, x: Float[Array, "round feat"]) -> Float[Array, "round arm"]:
        """Return the mean outcome under each arm."""
        return self._asked(x, "outcome", self.kind.inverse) * self.spread + self.mean

    def chance_of(self, x: Float[Array, "round feat"]) -> Float[Array, "round arm"]:
        """Return the chance of each arm, of networks that have a head for it."""
        return self._asked(x, "propensity", lambda said: said.softmax(1))

    @torch.no_grad()
    def _asked(
        self, x: Float[Array, "round feat"], head: str, read: Callable[[Tensor], Tensor]
    ) -> Float[Array, "round arm"]:
        device = self.nets[0].epsilon.device
        out = np.empty((len(x), self.arms))
        for start in range(0, len(x), BLOCK):
            rows = self.columns.rows(x[start : start + BLOCK], self.arms, torch.float64, device)
            context = rows.context(torch.arange(len(rows.user), device=device))
            said = torch.stack([read(net.heads[head](net.encode(context))) for net in self.nets])
            out[start : start + BLOCK] = said.mean(0).cpu().numpy()
        return out
