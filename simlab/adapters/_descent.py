"""Gradient descent for adapters: small batches, averaged weights, early stopping on what is held out."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from simlab.errors import BadInput
from simlab.rankers.contract import Ranker
from simlab.seeds import Seed
from simlab.training.watch import bar

MEMORY = 0.8
"""What an epoch leaves of the weights' average: it reaches back about five epochs."""

ENOUGH = 40
"""Rows from which some are held out; fewer are too few to judge by."""


@dataclass(frozen=True)
class Descent:
    """How an adapter is fitted.

    Attributes:
        epochs: passes over the rows at most.
        batch_size: rows per step at most.
        min_steps: steps of an epoch at least, as long as each still has 32 rows.
        learning_rate: of AdamW.
        weight_decay: of AdamW, decoupled.
        validation: share of the rows held out for early stopping; 0 trains on all of them for all epochs.
        patience: epochs without a better held-out loss before training stops.
        verbose: show a progress bar.

    Raises:
        BadInput: naming the setting and its value.
    """

    epochs: int = 100
    batch_size: int = 256
    min_steps: int = 8
    learning_rate: float | int = 0.01
    weight_decay: float | int = 0.3
    validation: float | int = 0.1
    patience: int = 10
    verbose: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "min_steps", "patience"):
            if not getattr(self, name) >= 1:
                raise BadInput(f"{name} is at least 1, not {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise BadInput(f"learning_rate is above 0, not {self.learning_rate}")
        if not self.weight_decay >= 0:
            raise BadInput(f"weight_decay is at least 0, not {self.weight_decay}")
        if not 0 <= self.validation < 1:
            raise BadInput(f"validation is a share in [0, 1), not {self.validation}")

    def split(self, rows: int, seed: Seed) -> tuple[Int[Tensor, " train"], Int[Tensor, " held"]]:
        """Return the rows to train on and the rows held out, if there are enough."""
        order = torch.randperm(rows, generator=seed.split("held out").torch())
        held = min(round(self.validation * rows), rows - 1) if rows >= ENOUGH else 0
        return order[held:], order[:held]


@dataclass(frozen=True)
class Descended:
    """What training did.

    Attributes:
        train: mean loss of each epoch, measured while training.
        held: mean loss of the held-out rows after each epoch, empty without any.
        best_epoch: the epoch, from 1, whose averaged weights the ranker has.
    """

    train: tuple[float, ...]
    held: tuple[float, ...]
    best_epoch: int


def descend(
    ranker: Ranker,
    loss: Callable[[Int[Tensor, " row"]], Float[Tensor, " row"]],
    weight: Float[Tensor, " round"],
    train: Int[Tensor, " train"],
    held: Int[Tensor, " held"],
    how: Descent,
    seed: Seed,
) -> Descended:
    """Minimise Σ w ℓ / Σ w over the rows of `train` and leave the ranker in eval mode.

    An exponential average of the weights is what is judged and kept: it has the low noise of a small
    learning rate at the pace of a large one (Polyak and Juditsky 1992, "Acceleration of stochastic
    approximation by averaging"; theirs is a plain mean). No global generator is drawn from for good: dropout
    borrows torch's and gives it back.

    Args:
        ranker: is changed in place.
        loss: of these rows, each, in the ranker's current mode.
        weight: how much each row counts; not all 0.
        train: rows to learn from.
        held: rows that judge; may be none, and then the last average is kept.
        how: the settings.
        seed: of the order and of dropout.

    Raises:
        BadInput: if the loss is not a number.
    """
    device = weight.device
    weight, train, held = weight / weight.mean(), train.to(device), held.to(device)
    parameters = [p for p in ranker.parameters() if p.requires_grad]
    live = [p.data for p in parameters]
    average = [p.clone() for p in live]
    optimizer = torch.optim.AdamW(parameters, lr=how.learning_rate, weight_decay=how.weight_decay, fused=True)
    size = min(how.batch_size, max(32, len(train) // how.min_steps))
    steps = -(-len(train) // size)
    order = seed.split("order").torch()
    best, kept, step = 0, _copy(ranker), 0
    said: list[float] = []
    judged: list[float] = []
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), bar(how.verbose, how.epochs) as tick:
        luck = torch.cuda.default_generators[device.index or 0] if cuda else torch.default_generator
        luck.manual_seed(seed.split("dropout").value)
        while len(said) < how.epochs and len(said) - best < how.patience:
            ranker.train()
            total = torch.zeros((), dtype=torch.float64, device=device)
            shuffled = train[torch.randperm(len(train), generator=order).to(device)]
            for rows in shuffled.tensor_split(steps):
                value = (weight.index_select(0, rows) * loss(rows)).mean()
                optimizer.zero_grad()
                torch.autograd.backward(value + ranker.penalty())
                optimizer.step()
                step += 1
                with torch.no_grad():
                    torch._foreach_lerp_(average, live, 1 - min(MEMORY ** (1 / steps), step / (step + 9)))
                total += value.detach() * len(rows)
            said.append(float(total) / len(train))
            if not said[-1] < float("inf"):
                raise BadInput(f"the loss of epoch {len(said)} is not a number: try a smaller learning_rate")
            now = [p.clone() for p in live]
            torch._foreach_copy_(live, average)
            if len(held):
                judged.append(_mean(ranker, loss, weight, held, 4 * how.batch_size))
            if not best or not len(held) or judged[-1] < judged[best - 1]:
                best, kept = len(said), _copy(ranker)
            torch._foreach_copy_(live, now)
            tick(f"loss {said[-1]:.4f}" + (f", held out {judged[-1]:.4f}" if judged else ""), 1.0)
    ranker.load_state_dict(kept)
    ranker.eval()
    return Descended(tuple(said), tuple(judged), best)


def _copy(ranker: Ranker) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in ranker.state_dict().items()}


@torch.no_grad()
def _mean(
    ranker: Ranker,
    loss: Callable[[Int[Tensor, " row"]], Float[Tensor, " row"]],
    weight: Float[Tensor, " round"],
    held: Int[Tensor, " held"],
    size: int,
) -> float:
    """Return the mean loss of the held-out rows, in eval mode."""
    ranker.eval()
    parts = [held[i : i + size] for i in range(0, len(held), size)]
    above = math.fsum(float((weight[rows] * loss(rows)).sum()) for rows in parts)
    return above / max(float(weight[held].sum()), 1e-300)
