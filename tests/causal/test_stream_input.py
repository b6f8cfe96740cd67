"""Streams: bad files, columns, cells and settings are refused in one sentence that names them."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from causal.bandit.dr import DR
from causal.bandit.ips import IPS
from causal.contract import Rounds, Scores, ones, value
from causal.contract import Score as OneScore
from causal.slate.clipped_iips import ClippedIIPS
from causal.stream import (
    Columns,
    ColumnTarget,
    Logged,
    PolicyRounds,
    Progress,
    SlateColumns,
    SlateMatrix,
    fit_folds,
    stream,
)
from causal.stream.files import find, survey
from simlab.errors import BadInput
from simlab.tables import ColumnMap, write_log
from tests.causal.streamed import ALL, MODEL, TARGET, Spy, Table, in_memory, made, slates_of, write
from tests.worlds import bandit_world, slate_world


def test_what_folds_refuse(tmp_path: Path) -> None:
    log = bandit_world().listed().draw(50, seed=3)
    write_log(log, tmp_path / "a.parquet")
    reader = Logged(PolicyRounds(Table(bandit_world().target)))
    for change, match in (
        ({"folds": 1}, "folds is 1"),
        ({"batch_rows": 0}, "batch_rows is 0"),
        ({"share": 0.0}, "share is 0.0"),
        ({"share": 1e-9}, "left no row to fit on"),
        ({"model": Spy(past=2)}, "wants past=2"),
        ({"folds": 500, "share": 0.05}, "the sample is too small"),
    ):
        settings: dict[str, Any] = {"model": Spy(), **change}
        with pytest.raises(BadInput, match=match):
            fit_folds(tmp_path, settings.pop("model"), reader, **settings)
    table = pa.table({"item": [0, 1], "propensity": [0.5, 0.5], "reward": [0.0, 1.0]})
    pq.write_table(table, tmp_path / "b.pq")
    with pytest.raises(BadInput, match=r"b.pq: folds keep users apart, but there is no column user"):
        fit_folds(tmp_path / "b.pq", Spy(), replace(reader, n_items=2))
    with pytest.raises(BadInput, match=r"b.pq: reading by batches needs n_items"):
        fit_folds(tmp_path / "b.pq", Spy(), reader)


def test_what_matrices_refuse(tmp_path: Path) -> None:
    half = torch.full((2, 2), 0.5)  # [slot item]
    one = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(BadInput, match=r"logger's matrix is \(2, 2\), the target's \(1, 2\)"):
        SlateMatrix(half, half[:1])
    with pytest.raises(BadInput, match=r"target's matrix, slot 1, item 0: -0.5 is no probability"):
        SlateMatrix(half, torch.tensor([[1.0, 0.5], [-0.5, 0.5]]))
    with pytest.raises(BadInput, match=r"logger's matrix, slot 1: the items sum to 0.75, not 1"):
        SlateMatrix(torch.tensor([[0.5, 0.5], [0.25, 0.5]]), half)
    with pytest.raises(BadInput, match=r"examination is a chance in \(0, 1\] for each of 2 slots"):
        SlateMatrix(half, half, torch.tensor([1.0, 0.0]))
    with pytest.raises(
        BadInput, match=r"examination is a chance in \(0, 1\] for each of 2 slots, not \[nan, 1"
    ):
        SlateMatrix(half, half, torch.tensor([torch.nan, 1.0]))
    with pytest.raises(BadInput, match=r"examination is a chance in \(0, 1\] for each of 2 slots, not 0.5"):
        SlateMatrix(half, half, torch.tensor(0.5))
    for wrong in (half[0], half[:0], half[:, :0], half.unsqueeze(0)):
        with pytest.raises(BadInput, match=r"logger's matrix is \[slot item\], not of shape \(.*\)"):
            SlateMatrix(wrong, wrong)
    with pytest.raises(BadInput, match=r"target's matrix, slot 0, item 1: nan is no probability"):
        SlateMatrix(half, torch.tensor([[1.0, torch.nan], [0.5, 0.5]]))
    with pytest.raises(
        BadInput, match=r"target's matrix, item 0: it is on a slate with chance 1.25, but it st"
    ):
        SlateMatrix(half, torch.tensor([[0.75, 0.25], [0.5, 0.5]]))
    with pytest.raises(
        BadInput, match=r"logger's matrix, item 0: it is on a slate with chance 1.5, but it stan"
    ):
        SlateMatrix(torch.full((3, 2), 0.5), torch.full((3, 2), 0.5))
    assert SlateMatrix(one.long(), half).logger.dtype == torch.float64
    assert SlateMatrix(one, half).lost.tolist() == [0.5, 0.5]

    def said(slate: list[list[int]], match: str) -> None:
        folder = write(tmp_path / "log", {"slate": slate, "click": [[1, 0]] * len(slate)})
        with pytest.raises(BadInput, match=match):
            stream(folder, SlateMatrix(one, half), [ClippedIIPS()], group=None)

    said([[0, 1], [1, 0]], r"000.parquet: column slate, row 1, slot 0: 1 was shown where .* says 0")
    said([[0, 1], [0, 0]], r"column slate, row 1, slot 1: 0 is in the slate twice")
    said([[0, 2]], r"column slate, row 0, slot 1: 2 is an unknown item: the catalogue has 2")
    said([[-1, 1]], r"column slate, row 0, slot 0: -1 is negative")
    said([[0]], r"column slate, row 0: it has length 1, but the matrices have 2 slots")


# Bad input.


def test_a_folder_of_files(tmp_path: Path) -> None:
    folder = write(tmp_path / "log", made(20))
    (folder / "part-000.parquet").rename(folder / "b.pq")
    (folder / "day=1").mkdir()
    for name in ("day=1/a.parquet", "_c.parquet", ".d.parquet", "e.txt"):
        (folder / name).write_bytes((folder / "b.pq").read_bytes())
    (folder / "_temporary").mkdir()
    (folder / "_temporary" / "f.parquet").write_bytes(b"half")
    assert [p.name for p in find(folder)] == ["b.pq", "a.parquet"]
    assert [p.name for p in find([folder / "day=1", folder / "b.pq"])] == ["a.parquet", "b.pq"]
    with pytest.raises(BadInput, match=r"b.pq: the file is there twice"):
        find([folder, folder / "b.pq"])
    with pytest.raises(BadInput, match="list of paths is empty"):
        find([])
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        BadInput, match=r"empty: there is no file in this folder that ends in .parquet or .pq"
    ):
        stream(tmp_path / "empty", TARGET)


def test_files_that_are_none(tmp_path: Path) -> None:
    good = write(tmp_path / "log", made(200)) / "part-000.parquet"
    content = good.read_bytes()

    def said(name: str, data: bytes, match: str) -> None:
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(BadInput, match=match) as caught:
            stream([good, path], TARGET, [IPS()])
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    said("a.csv", b"x,y\n1,2\n", "a stream reads Parquet")
    said("a.parquet", b"", "empty: the file has 0 bytes")
    said("b.parquet", b"x,y\n1,2\n", "not Parquet")
    said("c.parquet", content[:-9], "truncated Parquet")
    said("d.parquet", content[:4] + bytes(len(content) - 600) + content[-596:], "damaged Parquet")
    said("e.parquet", content[:200] + content[260:], "damaged Parquet")
    with pytest.raises(BadInput, match=r"part-00.parquet: no such file; did you mean part-000.parquet\?"):
        stream(tmp_path / "log" / "part-00.parquet", TARGET)
    none = write(tmp_path / "none", pa.table(made(20)).slice(0, 0))
    with pytest.raises(BadInput, match="empty: there are columns but no rows"):
        stream(none, TARGET)


def test_a_file_that_changes_meanwhile(tmp_path: Path) -> None:
    folder = write(tmp_path / "log", made(), (100,))

    def tell(at: Progress) -> None:
        if at.pieces == 1:
            os.utime(folder / "part-001.parquet", ns=(0, 0))

    with pytest.raises(BadInput, match=r"part-001.parquet: the file was changed while it was being read"):
        stream(folder, TARGET, [IPS()], progress=tell)


def test_columns_that_are_missing_or_of_another_kind(tmp_path: Path) -> None:
    columns = made(20)
    folder = write(tmp_path / "log", columns)
    with pytest.raises(
        BadInput, match=r"000.parquet: column target_prob is missing; did you mean target_pro"
    ):
        stream(folder, ColumnTarget("target_prob"))
    with pytest.raises(
        BadInput, match=r"column propensit \(our propensity\) is missing; did you mean propensity"
    ):
        stream(folder, replace(TARGET, fields=ColumnMap(propensity="propensit")))
    with pytest.raises(BadInput, match=r"column click is missing"):
        stream(folder, SlateColumns("target_propensity"))
    with pytest.raises(BadInput, match=r"column nothing is missing"):
        stream(folder, Columns(("nothing",), MODEL))
    second = folder / "part-001.parquet"
    table = pa.table(columns)
    pq.write_table(table.drop_columns(["reward"]).append_column("rewrd", table["reward"]), second)
    with pytest.raises(
        BadInput, match=r"001.parquet: column reward or click is missing; did you mean rewrd\?"
    ):
        stream(folder, TARGET)
    at = table.schema.get_field_index("reward")
    pq.write_table(table.set_column(at, "reward", table["reward"].cast(pa.float32())), second)
    with pytest.raises(BadInput, match=r"001.parquet: column reward is float, but double in .*000.parquet"):
        stream(folder, TARGET)
    pq.write_table(table.drop_columns(["user"]), second)
    with pytest.raises(BadInput, match=r"001.parquet: column user is missing"):
        stream(folder, TARGET)
    pq.write_table(table.select(table.column_names[::-1]).append_column("more", table["user"]), second)
    assert len(stream(folder, TARGET, [IPS()])) == 40  # another order, and columns that nobody reads


def test_logs_of_two_catalogues(tmp_path: Path) -> None:
    log = bandit_world().listed().draw(20, seed=1)
    write_log(log, tmp_path / "a.parquet")
    write_log(replace(log, n_items=9), tmp_path / "b.parquet")
    with pytest.raises(
        BadInput, match=r"b.parquet: the file was written with another n_items than .*a.parquet"
    ):
        stream(tmp_path, Logged(PolicyRounds(Table(bandit_world().target))))


@pytest.mark.parametrize(
    ("column", "bad", "match"),
    [
        ("propensity", 0.0, r"0.0 is not a probability in \(0, 1\]"),
        ("propensity", 1.5, r"1.5 is not a probability in \(0, 1\]"),
        ("propensity", np.nan, "nan is not a finite number"),
        ("propensity", None, "an empty cell where a value is needed"),
        ("target_propensity", -0.1, r"-0.1 is not a probability in \[0, 1\]"),
        ("target_propensity", 1.1, r"1.1 is not a probability in \[0, 1\]"),
        ("reward", np.inf, "inf is not a finite number"),
        ("reward", None, "an empty cell"),
        ("q_logged", np.nan, "nan is not a finite number"),
        ("user", -3, "-3 is negative, but ids count from 0"),
        ("user", None, "an empty cell"),
    ],
)
def test_a_bad_cell_is_named(tmp_path: Path, column: str, bad: Any, match: str) -> None:
    """With its file, and the row of the file: not of the batch, and not of the whole log."""
    columns: dict[str, Any] = made(90)
    values = columns[column].tolist()
    values[75] = bad
    columns[column] = pa.array(values, from_pandas=False)
    folder = write(tmp_path / "log", columns, (20,), group=30)
    with pytest.raises(BadInput, match=rf"part-001.parquet: column {column}, row 55: {match}"):
        stream(folder, MODEL, ALL, batch_rows=7, piece_rows=25)


def test_a_bad_cell_of_a_list_is_named(tmp_path: Path) -> None:
    for column, bad, match in (
        ("slot_propensity", 0.0, r"slot 2: 0.0 is not a probability in \(0, 1\]"),
        ("target", 2.0, r"slot 2: 2.0 is not a probability"),
        ("click", float("nan"), "slot 2: nan is not a finite"),
        ("click", None, "slot 2: an empty cell"),
    ):
        columns = slates_of(40)
        rows = columns[column].to_pylist()
        rows[33][2] = bad
        columns[column] = pa.array(rows, pa.list_(pa.float32(), 3))
        folder = write(tmp_path / "log", columns, (10,))
        with pytest.raises(BadInput, match=rf"001.parquet: column {column}, row 23, {match}"):
            stream(folder, SlateColumns("target"), [ClippedIIPS()], group=None, batch_rows=8)
    columns = slates_of(40)
    rows = columns["click"].to_pylist()
    rows[33] = rows[33][:2]
    columns["click"] = pa.array(rows)
    columns["slot_propensity"] = pa.array(columns["slot_propensity"].to_pylist())
    folder = write(tmp_path / "ragged", columns)
    with pytest.raises(BadInput, match=r"column click, row 33: \[[01., ]+\] has length 2, but row 0 has 3"):
        stream(folder, SlateColumns("target"), [ClippedIIPS()], group=None)


def test_slates_of_two_lengths_are_refused(tmp_path: Path) -> None:
    longer = {name: pa.array(c.to_pylist()) for name, c in slates_of(20, slots=4).items()}
    shorter = {name: pa.array(c.to_pylist()) for name, c in slates_of(20).items()}
    folder = write(tmp_path / "log", longer)
    pq.write_table(pa.table(shorter), folder / "part-001.parquet")
    with pytest.raises(BadInput, match=r"part-001.parquet: slates of 3 come after slates of 4"):
        stream(folder, SlateColumns("target"), [ClippedIIPS()], group=None)


def test_what_a_log_refuses_is_refused_here(tmp_path: Path) -> None:
    world = slate_world()
    log = world.listed().draw(30, seed=2)
    write_log(log, tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    weigh = Logged(PolicyRounds(world.target))

    def said(column: str, values: Any, match: str) -> None:
        at = table.schema.get_field_index(column)
        bad = table.set_column(at, table.schema.field(at), pa.chunked_array([values]))
        pq.write_table(bad, tmp_path / "b.parquet")
        with pytest.raises(BadInput, match=match):
            stream([tmp_path / "a.parquet", tmp_path / "b.parquet"], weigh, [IPS()], batch_rows=8)

    slates = table["slate"].to_pylist()
    kind = table.schema.field("slate").type
    twice, unknown = [*slates], [*slates]
    twice[20], unknown[9] = [1, 1], [2, 8]
    said("slate", pa.array(twice, kind), r"b.parquet: column slate, row 20, slot 1: 1 is in the slate twice")
    said("slate", pa.array(unknown, kind), r"b.parquet: column slate, row 9, slot 1: 8 is an unknown item")
    user = table["user"].to_pylist()
    said("user", pa.array([*user[:12], None, *user[13:]]), r"b.parquet: column user, row 12: an empty cell")
    one = pa.table({"item": [0], "propensity": [0.5], "reward": [1.0], "position": [0]})
    pq.write_table(one, tmp_path / "c.pq")
    with pytest.raises(BadInput, match=r"c.pq: a log with positions needs page_slots"):
        stream(tmp_path / "c.pq", replace(weigh, n_items=4, fields=ColumnMap(position_from=0)), [IPS()])


@dataclass(frozen=True)
class Whole:
    """An estimator that looks at all rows."""

    name: ClassVar[str] = "whole"
    needs: ClassVar[tuple[str, ...]] = ()
    leans: ClassVar[str] = ""
    unbiased: ClassVar[bool] = False
    streams: ClassVar[bool] = False

    def score(self, data: Rounds) -> Scores:
        return (OneScore(data.reward / data.reward.sum(), ones(data.reward)),)


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    columns = made(40)
    folder = write(tmp_path / "log", columns)
    for change, match in (
        ({"estimators": [IPS(), Whole()]}, "whole needs all rows at once, so it cannot stream"),
        ({"estimators": []}, "no estimator to apply"),
        ({"estimators": [IPS(), DR(), IPS()]}, r"estimator IPS\(\) is there twice"),
        ({"batch_rows": 0}, "batch_rows is 0"),
        ({"piece_rows": 0}, "piece_rows is 0"),
        ({"buckets": 1}, "buckets is 1"),
        ({"group": "session"}, "group is session"),
        ({"backend": "dask"}, "no backend named dask"),
        ({"workers": 0}, "workers is 0"),
        ({"weigh": {}}, "no target"),
        ({"estimators": [DR()], "weigh": TARGET}, "000.parquet: this estimator needs a reward model"),
    ):
        settings: dict[str, Any] = {"weigh": MODEL, "estimators": ALL, **change}
        with pytest.raises(BadInput, match=match):
            stream(folder, **settings)
    with pytest.raises(BadInput, match="only one was given"):
        ColumnTarget("target_propensity", q_logged="q_logged")
    nobody = write(tmp_path / "nobody", {k: v for k, v in columns.items() if k != "user"})
    with pytest.raises(BadInput, match="there is no column user: say group=None"):
        stream(nobody, TARGET, [IPS()])
    found = stream(nobody, TARGET, [IPS()], group=None)
    for kind, match in (
        ("bca", "no interval named bca from sums"),
        ("cluster", "cluster interval needs a group"),
    ):
        with pytest.raises(BadInput, match=match):
            found.estimates(kind)
    with pytest.raises(BadInput, match=r"level is 1\.0"):
        found.estimates(level=1.0)
    with pytest.raises(BadInput, match="replicates is 1"):
        found.estimates("poisson", replicates=1)
    bare = stream(nobody, TARGET, [IPS()], group=None, buckets=0)
    assert bare.estimates()[0].stderr == pytest.approx(found.estimates()[0].stderr)
    with pytest.raises(BadInput, match="carry none"):
        bare.estimates("poisson")


def test_functions_may_leave_users_out_but_not_rows(tmp_path: Path) -> None:
    columns = made()
    folder = write(tmp_path / "log", columns, (300,))

    def young(batch: pa.RecordBatch) -> Rounds:
        data = TARGET(batch)
        assert data.group is not None
        return data.rows(data.group < 50)

    found = stream(folder, young, [IPS()])
    keep = columns["user"] < 50
    data = in_memory({name: values[keep] for name, values in columns.items()})
    assert len(found) == keep.sum()
    assert found.sums("IPS").value() == pytest.approx(value(IPS().score(data)), rel=1e-12)
    with pytest.raises(BadInput, match="only rows of users may be left out"):
        stream(folder, young, [IPS()], group=None)
    with pytest.raises(BadInput, match="target all keeps other rows than the first"):
        stream(folder, {"young": young, "all": TARGET}, [IPS()])

    def nobody(batch: pa.RecordBatch) -> Rounds:
        return TARGET(batch).rows(slice(0, 0))

    for first, second in ((nobody, TARGET), (TARGET, nobody)):  # also where one of them keeps no row at all
        with pytest.raises(BadInput, match="target b keeps other rows than the first"):
            stream(folder, {"a": first, "b": second}, [IPS()])
    with pytest.raises(BadInput, match="no row of any file was kept"):
        stream(folder, lambda batch: TARGET(batch).rows(slice(0, 0)), [IPS()])


def test_a_score_that_is_no_number_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "log", made(40))

    def broken(batch: pa.RecordBatch) -> Rounds:
        data = TARGET(batch)
        return replace(data, weight=torch.where(data.weight == data.weight.max(), torch.nan, data.weight))

    row = int(np.argmax(made(40)["target_propensity"] / made(40)["propensity"]))
    with pytest.raises(BadInput, match=rf"column \(score of IPS\), row {row}: nan is not finite"):
        stream(folder, broken, [IPS()])


def test_progress_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "log", made(1100), (1000,))
    stream(folder, TARGET, [IPS()], progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == ("\r1,000 of 1,100 rows, 1 of 2 pieces, 0 s\r1,100 of 1,100 rows, 2 of 2 pieces, 0 s\n")
    stream(folder, TARGET, [IPS()])
    assert capsys.readouterr() == ("", "")


def test_only_what_scores_need_is_read(tmp_path: Path) -> None:
    columns = made(20)
    folder = write(tmp_path / "log", columns)
    _, read = survey(folder, TARGET.columns)
    assert set(read) == {"target_propensity", "reward", "propensity", "user"}
    seen: list[list[str]] = []

    def spy(batch: pa.RecordBatch) -> Rounds:
        seen.append(batch.schema.names)
        return MODEL(batch)

    stream(folder, spy, [IPS()])  # a plain function gets all
    assert seen == [list(columns)]
