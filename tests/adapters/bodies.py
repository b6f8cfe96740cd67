"""Contexts and rankers that the adapters' tests share."""

from dataclasses import replace

import torch

from simlab.context import Context
from simlab.parts import all_parts, part
from simlab.rankers.contract import Ranker
from tests.contracts import rankers

SIZES = rankers.SIZES


def context(rows: int = 6, seed: int = 5) -> Context:
    """Rows with features, a history and candidates of their own; in each row the third one is masked."""
    found = rankers.context(rows, users=max(20, rows), seed=seed)
    mask = torch.ones_like(found.candidates, dtype=torch.bool)
    mask[:, 2] = False
    return replace(found, mask=mask)


def body(name: str = "mlp", seed: int = 1) -> Ranker:
    """A ranker of these sizes that has learned a little."""
    family = part("ranker", name)
    assert issubclass(family, Ranker)
    ranker = rankers.make(family, seed)
    ranker.zero_grad()
    return ranker


def families() -> list[str]:
    """All families with something to train."""
    return [name for name in all_parts("ranker") if body(name).trainable]
