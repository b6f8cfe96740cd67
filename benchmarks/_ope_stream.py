"""What it costs to stream slates from Parquet: CPU seconds and peak memory of clipped per-position IPS.

    python -m benchmarks._ope_stream --slates 1000000

Files have three columns of lists: `slot_propensity`, `click` and the target's probability of each shown item,
float32, row groups of 131,072. Each measurement is a fresh process on one thread, decoding included.

What bounds it. About half of the CPU seconds of plain, nullable lists decode Parquet: each number carries a
level. Lists that have no nulls by their schema decode a third faster. A fifth turns float32 into checked
float64 and divides; a third scores, sums the weights for the effective sample size, deals rows to buckets and
adds them up (`stages` measures these three). Memory is one row group of the columns, and the buckets.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Row, finish

SLOTS = 10
ITEMS = 1000

ENCODINGS: dict[str, dict[str, Any]] = {
    "plain, no compression": {"use_dictionary": False, "compression": "none"},
    "plain, page checksums": {"use_dictionary": False, "compression": "none", "write_page_checksum": True},
    "pyarrow's defaults (snappy)": {},
    "byte stream split, zstd": {
        "use_dictionary": False,
        "use_byte_stream_split": True,
        "compression": "zstd",
    },
}
LAYOUTS = ("fixed-size list", "list", "required fixed-size list")


def make_files(
    folder: Path,
    slates: int,
    *,
    slots: int = SLOTS,
    files: int = 4,
    layout: str = "fixed-size list",
    encoding: str = "plain, no compression",
    seed: int = 0,
) -> int:
    """Write a log of slates of a position-based model, and return its size in bytes.

    Args:
        folder: where to.
        slates: how many rows in all.
        slots: K.
        files: how many files.
        layout: one of `LAYOUTS`; "required" has no nulls by its schema.
        encoding: one of `ENCODINGS`.
        seed: of the random rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(seed)
    size = 0
    for number in range(files):
        rows = slates // files + (number < slates % files)
        path = folder / f"part-{number:03d}.parquet"
        writer = None
        for start in range(0, rows, 131_072):
            table = _table(pa, random, min(131_072, rows - start), slots, layout)
            writer = writer or pq.ParquetWriter(path, table.schema, **ENCODINGS[encoding])
            writer.write_table(table)
        if writer is not None:
            writer.close()
            size += path.stat().st_size
    return size


def _table(pa: Any, random: np.random.Generator, rows: int, slots: int, layout: str) -> Any:
    """Draw some slates: softmax-like propensities, a target near the logger, clicks by position."""
    logger = random.gamma(0.7, 0.05, (rows, slots)).astype(np.float32).clip(1e-4, 1)
    target = (logger * random.lognormal(0, 0.7, (rows, slots)).astype(np.float32)).clip(0, 1)
    seen = 1 / (1 + np.arange(slots, dtype=np.float32))
    click = (random.random((rows, slots), dtype=np.float32) < 0.3 * seen).astype(np.float32)
    columns, fields = [], []
    for name, values in (("slot_propensity", logger), ("click", click), ("target_propensity", target)):
        flat = pa.array(values.reshape(-1))
        if layout == "list":
            bounds = pa.array(np.arange(rows + 1, dtype=np.int32) * slots)
            column = pa.ListArray.from_arrays(bounds, flat)
        elif layout == "fixed-size list":
            column = pa.FixedSizeListArray.from_arrays(flat, slots)
        else:
            kind = pa.list_(pa.field("element", pa.float32(), nullable=False), slots)
            column = pa.FixedSizeListArray.from_arrays(flat, type=kind)
        columns.append(column)
        fields.append(pa.field(name, column.type, nullable=not layout.startswith("required")))
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def measure(folder: Path) -> dict[str, float]:
    """Stream the folder in this process; return CPU seconds, memory beyond the imports, and the estimate."""
    import torch

    torch.set_num_threads(1)
    from causal.slate.clipped_iips import ClippedIIPS
    from causal.stream import SlateColumns, stream

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    found = stream(folder, SlateColumns("target_propensity"), [ClippedIIPS(10.0)], group=None)
    (estimate,) = found.estimates()
    cpu = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "cpu": cpu,
        "megabytes": (peak - before) / 1024,
        "slates": len(found),
        "value": estimate.value,
        "stderr": estimate.stderr,
    }


def stages(folder: Path, batch_rows: int) -> dict[str, float]:
    """Return CPU seconds of decoding alone, of decoding and weighing, and of all."""
    import torch

    torch.set_num_threads(1)
    from causal.slate.clipped_iips import ClippedIIPS
    from causal.stream import SlateColumns, stream
    from causal.stream.files import batches, survey

    weigh = SlateColumns("target_propensity")
    pieces, columns = survey(folder, weigh.columns)
    out = {}
    for name in ("decode", "weigh", "all"):
        start = time.process_time()
        if name == "all":
            stream(folder, weigh, [ClippedIIPS(10.0)], group=None, batch_rows=batch_rows)
        else:
            for piece in pieces:
                for batch in batches(piece, columns, batch_rows):
                    if name == "weigh":
                        weigh(batch)
        out[name] = time.process_time() - start
    return out


def rows(
    slates: int,
    layouts: Sequence[str] = LAYOUTS,
    encodings: Sequence[str] = tuple(ENCODINGS),
    repeat: int = 3,
) -> list[Row]:
    """Measure every layout with every encoding, each in processes of its own; medians."""
    out = []
    for layout in layouts:
        for encoding in encodings:
            with tempfile.TemporaryDirectory() as folder:
                size = make_files(Path(folder), slates, layout=layout, encoding=encoding)
                runs = [_fresh(folder) for _ in range(repeat)]
            cpu = sorted(run["cpu"] for run in runs)[repeat // 2]
            peak = max(run["megabytes"] for run in runs)
            settings = {
                "slates": slates,
                "slots": SLOTS,
                "megabytes_on_disk": round(size / 1e6),
                "peak_megabytes": round(peak),
                "repeat": repeat,
                "threads": 1,
            }
            name = f"stream of slates: {layout}, {encoding}"
            out.append(Row(name, cpu, "CPU s", settings=settings))
            out.append(Row(f"  memory beyond imports: {encoding}", peak, "MB", settings=settings))
    return out


def _fresh(folder: str) -> dict[str, float]:
    """Measure in a new process: its peak of memory is its own."""
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks._ope_stream", "--measure", folder]
    got = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    said: dict[str, float] = json.loads(got.stdout.strip().splitlines()[-1])
    return said


def main() -> None:
    """Print the table, or measure one folder for a parent process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slates", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--one", action="store_true", help="only plain fixed-size lists")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(measure(asked.measure)))
        return
    chosen = {"layouts": LAYOUTS[:1], "encodings": tuple(ENCODINGS)[:1]} if asked.one else {}
    finish("streamed slates", rows(asked.slates, repeat=asked.repeat, **chosen), asked.json)


if __name__ == "__main__":
    main()
