"""A log whose truth is known: low-rank tastes, shown at random."""

from dataclasses import dataclass

import torch
from torch import Tensor

from simlab.log import Log


@dataclass(frozen=True)
class Planted:
    """A log and the click probability of every user and item behind it."""

    log: Log
    truth: Tensor
    examination: Tensor


def planted(
    users: int = 300,
    items: int = 60,
    rounds: int = 40,
    slots: int = 5,
    rank: int = 3,
    seed: int = 0,
    examination: Tensor | None = None,
    logger: Tensor | None = None,
) -> Planted:
    """Return a log of `rounds` random slates for each user.

    Args:
        users: how many.
        items: how many.
        rounds: slates for each user.
        slots: K.
        rank: of the tastes.
        seed: of everything.
        examination: P(examined) at each slot; 1 by default.
        logger: a score of each item that orders a slate; random order by default.
    """
    g = torch.Generator().manual_seed(seed)
    taste = torch.randn(users, rank, generator=g)
    topic = torch.randn(items, rank, generator=g)
    truth = (1.2 * taste @ topic.T + 0.5 * torch.randn(items, generator=g) - 1).sigmoid()
    user = torch.arange(users).repeat_interleave(rounds)
    slate = torch.rand(len(user), items, generator=g).topk(slots).indices
    if logger is not None:
        slate = slate.gather(1, logger[slate].argsort(dim=1, descending=True))
    seen = torch.ones(slots) if examination is None else examination
    chance = truth[user].gather(1, slate) * seen
    click = (torch.rand(chance.shape, generator=g) < chance).double()
    log = Log(
        user=user,
        slate=slate,
        propensity=torch.full((len(user),), 0.5, dtype=torch.float64),
        reward=click.sum(1),
        n_items=items,
        step=torch.arange(rounds).repeat(users),
        click=click,
    )
    return Planted(log, truth, seen)
