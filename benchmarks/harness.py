"""What every benchmark shares: CPU seconds, medians, a table, JSON, peers in environments of their own."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PEERS = Path(__file__).resolve().parent.parent / ".peers"


@dataclass(frozen=True)
class Row:
    """One measured number, beside the peer's where there is one."""

    name: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"


def arguments(doc: str) -> argparse.Namespace:
    """Parse the options that all benchmarks share."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under a minute: fewer repetitions, no compile")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--markdown", type=Path, help="write the table to this page")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--no-peer", action="store_true", help="do not install or run the peer")
    return parser.parse_args()


def median_seconds(
    work: Callable[[], Any], repeat: int, warm: int = 3, sync: Callable[[], Any] | None = None
) -> float:
    """Return the median CPU seconds of one call; wall seconds on a device, where `sync` is given."""
    clock = time.process_time if sync is None else time.perf_counter
    for _ in range(warm):
        work()
    taken = []
    for _ in range(repeat):
        if sync is not None:
            sync()
        start = clock()
        work()
        if sync is not None:
            sync()
        taken.append(clock() - start)
    return statistics.median(taken)


def peer_environment(name: str, steps: Sequence[Sequence[str]]) -> Path | None:
    """Create a virtual environment for a peer from PyPI, once; return its Python, or None if it fails.

    Args:
        name: folder under `.peers`.
        steps: arguments of successive `pip install` calls.
    """
    home = PEERS / name
    python = home / "bin" / "python"
    done = home / "installed"
    if not done.exists():
        print(f"installing the peer {name} from PyPI into {home} …", flush=True)
        venv.create(home, with_pip=True, clear=True)
        for step in steps:
            got = subprocess.run(
                [python, "-m", "pip", "install", "-q", *step], capture_output=True, text=True
            )
            if got.returncode:
                print(f"the peer {name} does not install here: {got.stderr.strip().splitlines()[-1]}")
                return None
        done.touch()
    return python


def peer_json(python: Path, script: str, *args: str) -> Any:
    """Run a script in the peer's environment on one core; return the JSON of its last line, or None."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}
    got = subprocess.run([python, "-c", script, *args], capture_output=True, text=True, env=env)
    if got.returncode:
        print(f"the peer failed: {got.stderr.strip().splitlines()[-1]}")
        return None
    return json.loads(got.stdout.strip().splitlines()[-1])


def finish(title: str, rows: Sequence[Row], path: Path | None) -> None:
    """Print the table and write the JSON."""
    print(f"\n{title}   ({machine()})")
    head = f"{'what':52s} {'value':>14s} {'unit':22s} {'peer':>12s} {'ratio':>9s}"
    print(head + "\n" + "-" * len(head))
    for row in rows:
        peer = "" if row.peer_value is None else f"{row.peer_value:,.4g}"
        ratio = "" if row.ratio is None else f"{row.ratio:,.1f} ×"
        print(f"{row.name:52s} {row.value:14,.4g} {row.unit:22s} {peer:>12s} {ratio:>9s}")
    if path is not None:
        write_json(path, rows)


def write_json(path: Path, rows: Sequence[Row]) -> None:
    """Write rows whole, or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    temporary.replace(path)


def write_page(path: Path, lines: Sequence[str]) -> None:
    """Write a page whole, or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text("\n".join([*lines, ""]))
    temporary.replace(path)


def machine() -> str:
    """Describe the machine in a few words."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    return f"{name}, {os.cpu_count()} cores, Python {sys.version.split()[0]}"
