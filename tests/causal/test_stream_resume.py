"""Streams: who adds the rows up, and what interrupts it, changes no bit of the answer."""

import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from causal.bandit.ips import IPS
from causal.contract import Scored
from causal.stream import (
    Columns,
    Progress,
    stream,
)
from simlab.errors import BadInput
from simlab.seeds import Seed
from tests.causal.streamed import (
    ALL,
    MODEL,
    made,
    same,
    write,
)

# Interrupted, and taken up again.


class Interrupt(Exception):
    """The machine goes away."""


def stop_after(pieces: int) -> Callable[[Progress], None]:
    def tell(at: Progress) -> None:
        if at.pieces == pieces:
            raise Interrupt

    return tell


@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_resume_is_bit_equal_and_reads_no_piece_twice(tmp_path: Path, after: int) -> None:
    columns = made()
    folder = write(tmp_path / "log", columns, (100, 390, 500))
    whole = stream(folder, MODEL, ALL, batch_rows=31)
    state = tmp_path / "state" / "stream.safetensors"
    with pytest.raises(Interrupt):
        stream(folder, MODEL, ALL, batch_rows=31, checkpoint=state, progress=stop_after(after))
    assert [p.name for p in state.parent.iterdir()] == [state.name]  # and no temporary file
    told: list[Progress] = []
    again = stream(folder, MODEL, ALL, batch_rows=31, checkpoint=state, progress=told.append)
    same(whole, again)
    assert [p.pieces for p in told] == list(range(after, 5))
    assert told[0].rows == (100, 390, 500, 700)[after - 1]
    assert told[-1].rows == told[-1].total == 700


def test_a_finished_state_takes_tomorrow_s_file(tmp_path: Path) -> None:
    columns = made()
    table = pa.table(columns)
    folder = write(tmp_path / "log", table.slice(0, 500), (200,))
    state = tmp_path / "state"
    stream(folder, MODEL, ALL, checkpoint=state)
    pq.write_table(table.slice(500), folder / "part-900.parquet")
    told: list[Progress] = []
    found = stream(folder, MODEL, ALL, checkpoint=state, progress=told.append)
    assert [p.pieces for p in told] == [2, 3]
    same(found, stream(folder, MODEL, ALL))


def test_a_state_of_something_else_is_refused(tmp_path: Path) -> None:
    columns = made()
    folder = write(tmp_path / "log", columns, (200, 400))
    state = tmp_path / "state"
    run = functools.partial(stream, checkpoint=state, batch_rows=50, piece_rows=60)
    run(folder, MODEL, ALL)
    before = state.read_bytes()
    changes: list[tuple[dict[str, Any], str]] = [
        ({"seed": Seed(1)}, "made with seed 0, not 1"),
        ({"batch_rows": 51}, "made with batch_rows 50, not 51"),
        ({"piece_rows": 70}, "made with piece_rows 60, not 70"),
        ({"group": None}, "made with group user, not None"),
        ({"buckets": 64}, "made with buckets 8192, not 64"),
        ({"estimators": [IPS()]}, "made with estimators"),
        ({"weigh": replace(MODEL, q_target="q_logged")}, "of another target"),
    ]
    for change, match in changes:
        settings = {"weigh": MODEL, "estimators": ALL, "batch_rows": 50, "piece_rows": 60, **change}
        with pytest.raises(BadInput, match=match) as caught:
            stream(folder, checkpoint=state, **settings)
        assert str(state) in str(caught.value)
    second = folder / "part-001.parquet"
    content, told = second.read_bytes(), second.stat()
    os.utime(second, ns=(told.st_atime_ns, told.st_mtime_ns + 1))
    with pytest.raises(BadInput, match=r"part-001.parquet has changed since this state was written"):
        run(folder, MODEL, ALL)
    second.write_bytes(content)
    os.utime(second, ns=(told.st_atime_ns, told.st_mtime_ns))
    run(folder, MODEL, ALL)
    (folder / "part-000a.parquet").write_bytes(content)
    with pytest.raises(BadInput, match=r"part-000a.parquet now stands where this state holds .*part-001"):
        run(folder, MODEL, ALL)
    (folder / "part-000a.parquet").unlink()
    (folder / "part-002.parquet").unlink()
    with pytest.raises(BadInput, match=r"holds file part-002.parquet, which is not to be read now"):
        run(folder, MODEL, ALL)
    assert state.read_bytes() == before
    for junk in (b"", b"nonsense", before[:300]):
        state.write_bytes(junk)
        with pytest.raises(BadInput, match="not the state of a stream"):
            run(folder, MODEL, ALL)


# Workers.


@pytest.mark.slow
def test_loky_gives_the_same_bits(tmp_path: Path) -> None:
    folder = write(tmp_path / "log", made(), (100, 390, 500))
    alone = stream(folder, MODEL, ALL)
    same(alone, stream(folder, MODEL, ALL, workers=2))


@pytest.mark.slow
def test_loky_is_interrupted_and_says_what_is_wrong(tmp_path: Path) -> None:
    columns = made()
    folder = write(tmp_path / "log", columns, (100, 390, 500))
    state = tmp_path / "state"
    alone = stream(folder, MODEL, ALL)
    with pytest.raises(Interrupt):
        stream(folder, MODEL, ALL, workers=2, checkpoint=state, progress=stop_after(2))
    same(alone, stream(folder, MODEL, ALL, workers=2, checkpoint=state))
    columns["reward"][450] = np.nan
    write(folder, columns, (100, 390, 500))
    with pytest.raises(
        BadInput, match=r"part-002.parquet: column reward, row 60: nan is not a finite number"
    ):
        stream(folder, MODEL, ALL, workers=2)


@pytest.fixture
def nodes() -> Iterator[Any]:
    """Yield a Ray cluster of a head that takes no work and two nodes that do, joined by this process."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'simlab[ray]'")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    cluster.wait_for_nodes()
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def alive(nodes: int) -> bool:
    """Wait until so many nodes are left: Ray takes a while to call a silent one dead."""
    import time

    import ray

    for _ in range(120):
        if sum(node["Alive"] for node in ray.nodes()) == nodes:
            return True
        time.sleep(0.5)
    return False


def slow_rounds(batch: pa.RecordBatch) -> Scored:
    """Weigh slowly, so that there is somebody to kill at work."""
    import time

    time.sleep(0.05)
    return MODEL(batch)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_node_is_killed_and_the_answer_is_the_same(tmp_path: Path, nodes: Any) -> None:
    columns = made()
    folder = write(tmp_path / "log", columns, tuple(range(50, 700, 50)))
    weigh = Columns(tuple(columns), slow_rounds)
    alone = stream(folder, weigh, ALL, batch_rows=10)
    told: list[int] = []

    def tell(at: Progress) -> None:
        told.append(at.pieces)
        if at.pieces == 3:
            nodes.remove_node(nodes.workers[0], allow_graceful=False)

    found = stream(folder, weigh, ALL, batch_rows=10, workers=2, backend="ray", progress=tell)
    same(alone, found)
    assert told == list(range(1, 15))
    assert alive(2)  # the head and one of the two
    columns["reward"][450] = np.nan
    write(folder, columns, tuple(range(50, 700, 50)))
    with pytest.raises(BadInput, match=r"part-009.parquet: column reward, row 0: nan is not a finite number"):
        stream(folder, weigh, ALL, workers=2, backend="ray")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_on_this_machine_alone(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'simlab[ray]'")
    folder = write(tmp_path / "log", made(), (100, 390, 500))
    same(stream(folder, MODEL, ALL), stream(folder, MODEL, ALL, workers=2, backend="ray"))
    assert not ray.is_initialized()


def test_without_ray_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    folder = write(tmp_path / "log", made(20))
    with pytest.raises(BadInput, match=r"not installed: pip install 'simlab\[ray\]'"):
        stream(folder, MODEL, ALL, backend="ray")
