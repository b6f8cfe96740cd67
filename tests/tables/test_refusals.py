"""Every malformed log is refused in one sentence that names the file, the column, the row and the value."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from simlab.errors import BadInput
from simlab.log import Log
from simlab.tables import ColumnMap, iter_log, read_log, write_log
from tests.tables.malformed import ALL, CELLS, SLATES, Bad


def refusal(call: Any) -> str:
    with pytest.raises(BadInput) as caught:
        call()
    # Nothing of the library underneath shows: no chained traceback, no second line.
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    said = str(caught.value)
    assert "\n" not in said
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize("bad", ALL, ids=[f"{i} {bad.says[:50]}" for i, bad in enumerate(ALL)])
def test_a_malformed_log_is_refused(bad: Bad, tmp_path: Path) -> None:
    path = tmp_path / bad.file
    path.write_bytes(bad.content)
    said = refusal(lambda: read_log(path, **bad.options))
    if bad.says.endswith("…"):
        assert said.startswith(f"{path}: {bad.says[:-1]}")
        assert len(said) < len(str(path)) + 150
    else:
        assert said == f"{path}: {bad.says}"


def test_there_are_enough_of_them() -> None:
    """Each says something else, or the same of another kind of file."""
    assert len({(bad.file, bad.content, bad.says) for bad in ALL}) == len(ALL) >= 100


STREAMED = [b for b in [*CELLS, *SLATES] if set(b.options) <= {"n_items", "columns"} and b.file != "log.npz"]


@pytest.mark.parametrize("bad", STREAMED, ids=[f"{i} {bad.says[:50]}" for i, bad in enumerate(STREAMED)])
def test_a_malformed_log_is_refused_in_a_stream_too(bad: Bad, tmp_path: Path) -> None:
    path = tmp_path / bad.file
    path.write_bytes(bad.content)
    options: dict[str, Any] = {"n_items": 99, "item_names": ()} | bad.options
    said = refusal(lambda: list(iter_log(path, **options)))
    assert said.startswith(f"{path}: column ")


def test_a_stream_counts_the_rows_of_the_whole_file(tmp_path: Path) -> None:
    rows = [[i % 7, 0.5, 1.0] for i in range(100)]
    rows[57][1] = 2.0
    frame = pd.DataFrame(rows, columns=["item", "propensity", "reward"])
    for path in (tmp_path / "log.csv", tmp_path / "log.parquet"):
        if path.suffix == ".csv":
            frame.to_csv(path, index=False)
        else:
            frame.to_parquet(path)
        given: list[Log] = []
        with pytest.raises(BadInput, match=r"column propensity, row 57: 2.0 is not a probability"):
            given.extend(iter_log(path, rows=10, n_items=7))
    frame["propensity"], frame["user"] = 0.5, "ana"
    for options, why in [
        ({}, r"needs n_items, because one chunk does not know the largest id"),
        ({"n_items": 7}, "column user holds names: reading by chunks needs user_names"),
        ({"n_items": 7, "columns": ColumnMap(recode=("item",))}, "cannot recode item without item_names"),
    ]:
        assert why in refusal(lambda options=options: list(iter_log(frame, **options)))


def test_damage_is_refused_or_harmless(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Bytes changed, lost or added at random: never anything but a log or one sentence."""
    rng = np.random.default_rng(0)
    rows = "".join(f"{i % 3},{i % 5}|{(i + 1) % 5},0|1,0.5,true\n" for i in range(12))
    log = Log(
        user=torch.arange(30),
        slate=torch.stack([torch.arange(30) % 5, (torch.arange(30) + 2) % 5], 1),
        propensity=torch.full((30,), 0.5),
        reward=torch.ones(30),
        n_items=5,
        policy=tuple("ab" * 15),
    )
    files = {tmp_path / "x.csv": f"user,slate,click,propensity,terminated\n{rows}".encode()}
    files[tmp_path / "x.parquet"] = write_log(log, tmp_path / "x.parquet").read_bytes()
    refused: list[str] = []
    for path, good in files.items():
        for _ in range(150):
            data, at = bytearray(good), int(rng.integers(len(good)))
            how = rng.integers(3)
            if how == 0:
                data[at] = int(rng.integers(256))
            elif how == 1:
                del data[at : at + int(rng.integers(1, 20))]
            else:
                data[at:at] = bytes(rng.choice(list(b',"|\n\0-.19aNn \xff'), 3).tolist())
            path.write_bytes(data)
            for read in (
                read_log,
                lambda path: list(iter_log(path, n_items=None if "parquet" in str(path) else 5)),
            ):
                try:
                    read(path)
                except BadInput as error:
                    refused.append(str(error))
    assert len(refused) > 100
    assert all(said.startswith(str(tmp_path / "x.")) and "\n" not in said for said in refused)
    assert capfd.readouterr() == ("", "")  # Arrow printed no traceback of its own either


def test_what_is_not_a_file(tmp_path: Path) -> None:
    (tmp_path / "rounds.parquet").mkdir()
    assert refusal(lambda: read_log(tmp_path / "rounds.parquet")).endswith(
        "rounds.parquet: a directory, not a file"
    )
    (tmp_path / "log.csv").write_text("item\n")
    assert (
        refusal(lambda: read_log(tmp_path / "lgo.csv"))
        == f"{tmp_path}/lgo.csv: no such file; did you mean log.csv?"
    )
    assert refusal(lambda: read_log(tmp_path / "no" / "x.csv")).endswith("x.csv: no such file")
    assert refusal(lambda: read_log("")).endswith("a directory, not a file")


def test_a_forbidden_file(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("item\n1\n")
    path.chmod(0)
    me = os.geteuid()
    if me == 0:  # root may read every file; nobody may not
        os.seteuid(65534)
    try:
        assert refusal(lambda: read_log(path)) == f"{path}: cannot be read: permission denied"
    finally:
        os.seteuid(me)


def test_a_column_that_is_there_twice_in_parquet(tmp_path: Path) -> None:
    table = pa.table([[1], [0.5], [0.5], [1.0]], names=["item", "propensity", "propensity", "reward"])
    path = tmp_path / "log.parquet"
    pa.parquet.write_table(table, path)
    assert refusal(lambda: read_log(path)) == f"{path}: column propensity is there twice"
    assert refusal(lambda: read_log(table)) == "table: column propensity is there twice"


def test_a_table_in_memory_is_named_table() -> None:
    frame = pd.DataFrame({"item": [1, 2], "propensity": [0.5, 0.0], "reward": [1.0, 1.0]})
    assert refusal(lambda: read_log(frame)).startswith(
        "table: column propensity, row 1: 0.0 is not a probability"
    )
    mixed = pd.DataFrame({"item": pd.Series([1, "a"], dtype=object), "propensity": 0.5, "reward": 1.0})
    assert refusal(lambda: read_log(mixed)).startswith("table: no Arrow table: ")


def test_a_map_that_says_nonsense() -> None:
    assert refusal(lambda: ColumnMap(position_from=2)) == "position_from is 0 or 1, not 2"
    assert refusal(lambda: ColumnMap(recode=("session",))) == "recode is for user and item, not session"
