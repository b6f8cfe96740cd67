"""What is seen of training: the CSV file, its resumption, and what a loss that breaks says."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from simlab.context import Catalog, Context
from simlab.errors import BadInput
from simlab.rankers.contract import Ranker, Sizes
from simlab.rankers.mf import MF
from simlab.seeds import Seed
from simlab.training.fit import FitSettings, fit
from tests.rankers.worlds import planted


def read(folder: Path) -> list[dict[str, str]]:
    with (folder / "progress.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_epoch_has_a_line_and_a_pause_loses_none(tmp_path: Path) -> None:
    log = planted(users=60, items=30, rounds=15).log
    kept, watch = tmp_path / "fit.ckpt", tmp_path / "watch"

    def run(epochs: int) -> tuple[float, ...]:
        ranker = MF.build(Sizes.of(log), {}, None, Seed(1))
        settings = FitSettings(epochs=epochs, patience=9, split="round")
        done = fit(ranker, log, seed=Seed(0), settings=settings, checkpoint=kept, watch=watch)
        return done.train

    run(2)
    rows = read(watch)
    assert [r["epoch"] for r in rows] == ["1", "2"]
    train = run(4)
    rows = read(watch)
    assert [int(r["epoch"]) for r in rows] == [1, 2, 3, 4]
    assert [float(r["loss"]) for r in rows] == list(train)
    assert all(float(r["validation"]) > 0 and float(r["examples_per_second"]) > 0 for r in rows)


class Fragile(Ranker):
    """A bias that becomes no number as soon as a certain user is seen a second time."""

    @dataclass(frozen=True)
    class Spec:
        user: int = 7
        calls: int = 1

    least: ClassVar[Mapping[str, int]] = {"calls": 0}
    name: ClassVar[str] = "fragile"

    def __init__(self, sizes: Sizes, spec: Spec, catalog: Catalog | None = None) -> None:
        super().__init__(sizes, spec, catalog)
        self.bias = torch.nn.Parameter(torch.zeros(()))
        self.calls = 0

    def encode(self, context: Context) -> Float[Tensor, "user dim"]:
        if self.training and bool((context.user == self.spec.user).any()):
            self.calls += 1
            if self.calls > self.spec.calls:
                return self.bias.expand(len(context), 1) * torch.nan
        return self.bias.expand(len(context), 1)

    def score(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand"]:
        state = self.encode(context) if state is None else state
        return state.expand(context.candidates.shape)


def test_a_loss_that_breaks_names_step_rows_and_checkpoint(tmp_path: Path) -> None:
    log = planted(users=20, items=30, rounds=10).log
    settings = FitSettings(epochs=9, min_steps=1, batch_size=10**6, split="round", patience=9)
    ranker = Fragile.build(Sizes.of(log), {"calls": 2}, None, Seed(1))
    kept = tmp_path / "fit.ckpt"
    words = (
        r"the loss of epoch 3 is not a number from step 1 of 1 on \(rounds \d+, \d+, \d+, \d+, \d+, …\): "
        rf"try a smaller learning_rate; the ranker has the weights of epoch 2 and {kept} the last good"
    )
    with pytest.raises(BadInput, match=words):
        fit(ranker, log, seed=Seed(0), settings=settings, checkpoint=kept)
    assert isinstance(ranker, Fragile)
    assert bool(ranker.bias.isfinite())
    assert float(ranker.bias.detach()) != 0
    assert kept.is_file()


def test_a_loss_that_breaks_at_once_leaves_the_first_weights() -> None:
    log = planted(users=20, items=30, rounds=10).log
    ranker = Fragile.build(Sizes.of(log), {"calls": 0}, None, Seed(1))
    with pytest.raises(BadInput, match=r"from step 1 of 1 on .* the ranker has its first weights$"):
        fit(
            ranker,
            log,
            seed=Seed(0),
            settings=FitSettings(min_steps=1, batch_size=10**6, split="round", loss="mse"),
        )
    assert isinstance(ranker, Fragile)
    assert float(ranker.bias.detach()) == 0
