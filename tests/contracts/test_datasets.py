"""Every data set that the catalogue finds is a valid log of its own catalogue, read the same twice."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from simlab.datasets.contract import Dataset
from simlab.errors import BadInput
from simlab.log import Log
from simlab.parts import all_parts
from tests.contracts.datasets import SAMPLES

DATASETS = all_parts("dataset")


@pytest.fixture(params=DATASETS)
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """The data set: as it ships, else of small files."""
    name = request.param
    return SAMPLES[name](tmp_path) if name in SAMPLES else DATASETS[name]()


def test_data_set(data: Any) -> None:
    log, catalog = data.load(), data.catalog()
    assert isinstance(log, Log)  # a log that cannot be is refused when it is built
    assert log.n_items == catalog.n_items
    assert catalog.names == log.item_names
    assert data.load() == log
    assert replace(data) == data
    assert isinstance(data, Dataset)


def test_times_and_outcomes_are_those_of_the_rounds(data: Any) -> None:
    if not hasattr(data, "outcomes"):
        pytest.skip("it has no other outcomes")
    log = data.load()
    assert all(value.shape == (len(log), 1) and value.isfinite().all() for value in data.outcomes().values())
    if log.step is None:
        with pytest.raises(BadInput, match="has no times"):
            data.times()
        return
    for user in log.user.unique():
        mine = log.user == user
        ranks = data.times()[mine].unique(return_inverse=True)[1]
        assert torch.equal(ranks, log.step[mine])


def test_labels_are_of_the_categories(data: Any) -> None:
    if not hasattr(data, "labels"):
        pytest.skip("it names its features instead")
    log = data.load()
    assert tuple(data.labels()) == log.category_names
    assert tuple(map(len, data.labels().values())) == log.category_sizes


@pytest.mark.parametrize("name", SAMPLES)
def test_data_that_are_not_there_say_where_to_get_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data: Any = DATASETS[name]()
    for read in (data.load, data.catalog):
        with pytest.raises(BadInput) as told:
            read()
        assert "\n" not in str(told.value)
        assert "https://" in str(told.value) or "source=" in str(told.value)


def test_the_catalogue_finds_them() -> None:
    assert {"open_bandit", *SAMPLES} <= set(DATASETS)
