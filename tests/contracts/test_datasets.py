"""Every data set that the catalogue finds is a valid log of its own catalogue, read the same twice."""

import pytest

from simlab.datasets.contract import Dataset
from simlab.log import Log
from simlab.parts import all_parts

DATASETS = all_parts("dataset")


@pytest.mark.parametrize("name", DATASETS)
def test_data_set(name: str) -> None:
    data = DATASETS[name]()
    assert isinstance(data, Dataset)
    log = data.load()
    assert isinstance(log, Log)  # a log that cannot be is refused when it is built
    assert log.n_items == data.catalog().n_items
    assert data.load() == log
    assert DATASETS[name]() == data


def test_the_catalogue_finds_the_first_one() -> None:
    assert "open_bandit" in DATASETS
