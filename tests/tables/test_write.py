"""What is written is read back bit for bit, or not written at all."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from simlab.errors import BadInput
from simlab.log import Log
from simlab.tables import ColumnMap, LogWriter, iter_log, read_log, to_arrow, write_log

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def any_log(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Log:
    """Logs of every shape: any column may be absent, of any width and precision."""
    n, slots = draw(st.integers(1, 30)), draw(st.integers(1, 5))
    n_items = draw(st.integers(slots + 2, 40))
    luck = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def real(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=luck, dtype=torch.float64).to(draw(st.sampled_from(FLOATS)))

    def chance(*shape: int) -> Tensor:
        return real(*shape).abs().clamp(2.0**-7, 1)

    def whole(*shape: int) -> Tensor:
        return torch.randint(9, shape, generator=luck).to(draw(st.sampled_from((torch.int32, torch.int64))))

    def either() -> Tensor:
        return torch.rand(n, generator=luck) < 0.5

    def maybe(make: Any, *shape: int) -> Tensor | None:
        return make(*shape) if draw(st.booleans()) else None

    ranked = torch.rand(n, n_items, generator=luck).argsort(1)
    candidates = None
    if draw(st.booleans()):
        candidates = ranked[:, : slots + 2].clone()
        candidates[::2, slots + 1 :] = -1
    features = maybe(real, n, draw(st.integers(0, 3)))
    names = draw(st.booleans())
    categories = maybe(whole, n, draw(st.integers(1, 3)))
    fields = 0 if categories is None else categories.shape[1]
    if categories is not None:
        categories[::3] = -1
    return Log(
        user=whole(n),
        slate=ranked[:, :slots],
        propensity=chance(n),
        reward=real(n),
        n_items=n_items,
        session=maybe(whole, n),
        step=maybe(whole, n),
        features=features,
        slot_propensity=maybe(chance, n, slots),
        click=maybe(real, n, slots),
        position=maybe(whole, n) if slots == 1 else None,
        candidates=candidates,
        treatment=maybe(whole, n),
        terminated=maybe(either),
        truncated=maybe(either),
        policy=tuple(f"π{i % 3}" for i in range(n)) if draw(st.booleans()) else ("π",),
        feature_names=() if features is None or names else tuple(f"x {i}" for i in range(features.shape[1])),
        item_names=tuple(f"item, {i}" for i in range(n_items)) if names else (),
        user_names=tuple("abcdefghi") if names else (),
        categories=categories,
        category_names=tuple(f"c {i}" for i in range(fields)) if names else (),
        category_sizes=tuple(range(9, 9 + fields)),
    )


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_log_comes_back_bit_for_bit(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    log = any_log(data.draw)
    path = tmp_path_factory.mktemp("logs") / "log.parquet"
    assert read_log(write_log(log, path)) == log
    assert read_log(to_arrow(log)) == log
    with LogWriter(path, group=7) as writer:
        for start in range(0, len(log), 4):
            writer.write(log.rows(slice(start, start + 4)))
    assert writer.rows == len(log)
    assert read_log(path) == log
    start = 0
    for chunk in iter_log(path, rows=5):
        assert chunk == log.rows(slice(start, start + len(chunk)))
        start += len(chunk)
    assert start == len(log)


def small(n: int = 3, **fields: Any) -> Log:
    known: dict[str, Any] = {
        "user": torch.arange(n),
        "slate": torch.arange(n).unsqueeze(1),
        "propensity": torch.full((n,), 0.5, dtype=torch.float64),
        "reward": torch.ones(n, dtype=torch.float64),
        "n_items": 10,
    }
    return Log(**(known | fields))


def test_the_columns_on_disk_are_plain_arrow(tmp_path: Path) -> None:
    """Other tools read the file without knowing us."""
    path = write_log(small(click=torch.ones(3, 1), policy=("a", "b", "a")), tmp_path / "log.parquet")
    frame = pd.read_parquet(path)
    assert list(frame) == ["user", "slate", "propensity", "reward", "click", "policy"]
    assert [list(x) for x in frame["slate"]] == [[0], [1], [2]]
    assert frame["policy"].tolist() == ["a", "b", "a"]
    schema = pyarrow.parquet.read_schema(path)
    assert b'"version": 1' in schema.metadata[b"simlab"]


def test_a_map_leaves_columns_of_our_own_file_out(tmp_path: Path) -> None:
    names = tuple("abcdefghij")
    log = small(click=torch.ones(3, 1), features=torch.ones(3, 2), feature_names=("x", "y"), item_names=names)
    path = write_log(log, tmp_path / "log.parquet")
    assert read_log(path) == log
    assert read_log(path, ColumnMap(click="")) == small(
        features=torch.ones(3, 2), feature_names=("x", "y"), item_names=names
    )
    assert read_log(path, ColumnMap(features=("",), click="")) == small(item_names=names)
    coded = small(
        categories=torch.tensor([[0, -1], [1, 2], [-1, 0]]), category_names=("g", "h"), category_sizes=(2, 9)
    )
    path = write_log(coded, tmp_path / "coded.parquet")
    assert read_log(path) == coded
    assert read_log(path, ColumnMap(categories=("",))) == small()
    with pytest.raises(BadInput, match="layout is long, but this library wrote the file with a row a slate"):
        read_log(path, layout="long")


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    """Each page has a checksum: a damaged propensity would else be another, valid one."""
    log = small(10, propensity=torch.linspace(0.1, 0.9, 10, dtype=torch.float64))
    path = write_log(log, tmp_path / "log.parquet")
    whole = path.read_bytes()
    start = whole.index(struct.pack("<d", float(log.propensity[4])))
    path.write_bytes(whole[:start] + bytes([whole[start] ^ 1]) + whole[start + 1 :])
    with pytest.raises(BadInput, match="damaged Parquet: "):
        read_log(path)


def test_an_error_leaves_the_earlier_file_and_nothing_else(tmp_path: Path) -> None:
    path = write_log(small(), tmp_path / "log.parquet")
    before = path.read_bytes()

    def roll_out() -> None:
        with LogWriter(path) as writer:
            writer.write(small(5))
            assert len(list(tmp_path.iterdir())) == 2  # the part lies beside it
            assert path.read_bytes() == before
            raise RuntimeError("the world ended")

    with pytest.raises(RuntimeError, match="the world ended"):
        roll_out()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_log_replaces_an_earlier_one(tmp_path: Path) -> None:
    path = write_log(small(), tmp_path / "log.parquet")
    write_log(small(7), path)
    assert len(read_log(path)) == 7
    assert list(tmp_path.iterdir()) == [path]


MISFITS: list[tuple[dict[str, Any], str]] = [
    ({"click": torch.ones(3, 1)}, "a later piece, but not the first, has column click"),
    ({"reward": torch.ones(3)}, "column reward is float, but double in the first piece"),
    ({"n_items": 11}, "a later piece differs from the first in n_items"),
    ({"item_names": tuple("abcdefghij")}, "a later piece differs from the first in items"),
    ({"categories": torch.ones(3, 1).long()}, "a later piece, but not the first, has column categories"),
    ({"slate": torch.tensor([[0, 1], [1, 2], [2, 3]])}, "a later piece differs from the first in slots"),
]


@pytest.mark.parametrize(("fields", "says"), MISFITS, ids=[s for _, s in MISFITS])
def test_pieces_must_fit(fields: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"

    def roll_out() -> None:
        with LogWriter(path) as writer:
            writer.write(small())
            writer.write(small(**fields))

    with pytest.raises(BadInput) as caught:
        roll_out()
    assert str(caught.value) == f"{path}: {says}"
    assert list(tmp_path.iterdir()) == []


def test_pieces_must_agree_on_how_many_categories_there_are(tmp_path: Path) -> None:
    """Sizes that each piece's rows happen to show would make one file of several meanings."""
    with LogWriter(tmp_path / "log.parquet") as writer:
        writer.write(small(categories=torch.full((3, 1), 1)))
        with pytest.raises(BadInput, match="a later piece differs from the first in category_sizes"):
            writer.write(small(categories=torch.full((3, 1), 2)))
        writer.write(small(categories=torch.full((3, 1), 0), category_sizes=(2,)))


def test_where_no_log_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder.parquet").mkdir()
    for name, says in [
        ("log.csv", "a log is written as Parquet: let the name end in .parquet"),
        ("folder.parquet", "a directory, not a file"),
        ("no/log.parquet", f"there is no folder {tmp_path}/no"),
    ]:
        with pytest.raises(BadInput) as caught:
            write_log(small(), tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}: {says}"
    path = tmp_path / "log.parquet"
    with pytest.raises(BadInput, match="nothing was written"), LogWriter(path):
        pass
    assert not path.exists()
