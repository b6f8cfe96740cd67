"""The same slates as pandas, polars and Arrow, long and wide, give the same log."""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from simlab.errors import BadInput
from simlab.log import Log
from simlab.tables import ColumnMap, iter_log, read_log, to_long

N, K = 30, 3


def wanted() -> Log:
    generator = torch.Generator().manual_seed(0)
    slate = torch.rand(N, 7, generator=generator).argsort(1)[:, :K]
    each = 0.2 + 0.8 * torch.rand(N, K, generator=generator, dtype=torch.float64)
    click = (torch.rand(N, K, generator=generator) < 0.4).float()
    return Log(
        user=torch.arange(N) % 5,
        slate=slate,
        propensity=each.prod(1),
        reward=click.sum(1).double(),
        n_items=7,
        slot_propensity=each,
        click=click,
        step=torch.arange(N) // 5,
    )


def cells(layout: str, text: bool = False) -> dict[str, list[Any]]:
    """The log as plain columns: a row per item, a list per slate, or a column per slot (from 1)."""
    log = wanted()
    assert log.slot_propensity is not None
    assert log.click is not None
    assert log.step is not None
    rows: dict[str, list[Any]] = {
        "user": log.user.tolist(),
        "step": log.step.tolist(),
        "propensity": log.propensity.tolist(),
    }
    lists = {
        "item": log.slate.tolist(),
        "slot_propensity": log.slot_propensity.tolist(),
        "click": log.click.int().tolist(),
    }
    if text:
        lists["item"] = [[f"film {i}" for i in row] for row in lists["item"]]
    if layout == "lists":
        return rows | {"slate": lists.pop("item")} | lists
    if layout == "columns":  # out of order, as tables are after a join
        slots = {f"{k}_{i + 1}": [row[i] for row in v] for k, v in lists.items() for i in (2, 0, 1)}
        return rows | slots
    again = {k: [x for x in v for _ in range(K)] for k, v in rows.items()}
    place = {"slate_id": [i for i in range(N) for _ in range(K)], "slot": list(range(K)) * N}
    return again | place | {k: [x for row in v for x in row] for k, v in lists.items()}


def table(library: str, layout: str, text: bool = False) -> Any:
    made = cells(layout, text)
    if library == "pandas":
        return pd.DataFrame(made)
    if library == "polars":
        return pytest.importorskip("polars").DataFrame(made)
    return pa.table(made)


SLOTS = ColumnMap(slate="item_*", slot_propensity="slot_propensity_*", click="click_*")


@pytest.mark.parametrize("library", ["pandas", "polars", "arrow"])
@pytest.mark.parametrize("layout", ["long", "lists", "columns"])
def test_every_table_gives_the_same_log(library: str, layout: str) -> None:
    columns = SLOTS if layout == "columns" else ColumnMap()
    assert read_log(table(library, layout), columns, n_items=7) == wanted()
    named = read_log(table(library, layout, text=True), columns)
    assert named.item_names == tuple(f"film {i}" for i in range(7))
    assert torch.equal(named.slate, wanted().slate)


@pytest.mark.parametrize("end", ["parquet", "csv"])
def test_a_column_per_slot_in_files_and_chunks(end: str, tmp_path: Path) -> None:
    path = tmp_path / f"log.{end}"
    frame = table("pandas", "columns")
    if end == "csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    assert read_log(path, SLOTS, n_items=7) == wanted()
    chunks = list(iter_log(path, SLOTS, rows=11, n_items=7))
    assert [len(c) for c in chunks] == [11, 11, 8]
    assert torch.equal(torch.cat([c.slate for c in chunks]), wanted().slate)


@pytest.mark.parametrize("slots", [10, 12])
def test_ten_comes_after_nine(slots: int) -> None:
    frame = pd.DataFrame({f"i{k}": [k] for k in sorted(range(slots), key=str)} | {"propensity": [0.5]})
    log = read_log(frame.assign(reward=1.0), ColumnMap(slate="i*"))
    assert log.slate.tolist() == [list(range(slots))]


def columns(**change: Any) -> pd.DataFrame:
    frame = pd.DataFrame({"item_0": [0, 1], "item_1": [1, 2], "propensity": 0.5, "reward": 1.0})
    frame = frame.assign(p_0=0.5, p_1=0.25)
    return frame.assign(**change)


MAP = ColumnMap(slate="item_*", slot_propensity="p_*")
BAD: list[tuple[pd.DataFrame, ColumnMap, str]] = [
    (columns(item_1=[1, 1]), MAP, r"table: column item_\*, row 1, slot 1: 1 is in the slate twice"),
    (columns(p_1=[0.5, 0.0]), MAP, r"table: column p_\*, row 1, slot 1: 0.0 is not a probability"),
    (columns(p_0=[None, 0.5]), MAP, r"table: column p_\*, row 0, slot 0: an empty cell"),
    (columns(item_3=[3, 3]), MAP, r"column item_3 of item_\* \(our slate\) ends with 3, .* 2 is missing"),
    (columns().rename(columns={"item_0": "item_2"}).rename(columns={"item_1": "item_3"}), MAP, "0 or 1"),
    (columns(item_x=[3, 3]), MAP, "column item_x of item_\\* .* does not end with the number of its slot"),
    (columns(item_1=["a", "b"]), MAP, "the columns of one field are of different kinds: item_0 int64 and"),
    (columns(item_1=[[1], [2]]), MAP, "column item_1 holds lists"),
    (columns(), ColumnMap(slate="film_*"), r"column film_\* \(our slate\) is missing"),
    (columns(p_2=[0.5, 0.5]), MAP, "length 3, but column item_\\* has 2"),
    (columns().drop(columns="propensity"), MAP, "a whole slate's probability does not follow"),
]


@pytest.mark.parametrize(("frame", "how", "says"), BAD, ids=range(len(BAD)))
def test_bad_columns_are_refused_in_one_sentence(frame: pd.DataFrame, how: ColumnMap, says: str) -> None:
    assert read_log(columns(), MAP).slots == 2
    with pytest.raises(BadInput, match=says) as caught:
        read_log(frame, how)
    assert "\n" not in str(caught.value)


def test_rows_per_item_out_and_in_again() -> None:
    long = to_long(wanted())
    assert long.num_rows == N * K
    assert long.column_names[:3] == ["round", "slot", "item"]
    assert read_log(long, layout="long", n_items=7) == wanted()
    assert read_log(long.to_pandas(), n_items=7) == wanted()
    one = read_log(
        pd.DataFrame({"item": [0, 1], "propensity": 0.5, "reward": [1.0, 0.0], "position": [0, 1]})
    )
    with pytest.raises(BadInput, match="it is long already"):
        to_long(one)
    assert one.position is not None


def test_features_and_candidates_are_repeated_in_the_rows_of_a_round() -> None:
    log = read_log(
        pd.DataFrame(
            {
                "slate": [[0, 1], [2, 1]],
                "propensity": 0.5,
                "click": [[1, 0], [0, 0]],
                "candidates": [[0, 1, 2], [2, 1]],
                "features": [[0.5, 1.0], [0.25, 2.0]],
                "policy": ["a", "b"],
                "terminated": [False, True],
            }
        )
    )
    assert read_log(to_long(log), n_items=3) == log
