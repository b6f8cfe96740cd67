"""The state of a stream on disk: the sums after the last merged piece, and what they are sums of.

A state is only taken up again by the same settings, and only if the files that are in it have not changed.
Files that come after them may be new: tomorrow's file is then all that is read tomorrow.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from causal.stream.files import Piece
from causal.stream.fingerprint import fingerprint
from causal.stream.tally import Tally, Task
from causal.sums import ScoreSums
from simlab.errors import BadInput
from simlab.files import whole
from simlab.seeds import Seed

VERSION = 3


def settings(task: Task, piece_rows: int, version: str | None) -> dict[str, Any]:
    """Return all that the sums depend on, besides the files, as JSON.

    Args:
        task: what is done to each piece.
        piece_rows: how files were cut.
        version: what the targets are, in the user's words; None to hash them.

    Raises:
        BadInput: without a version, for what cannot be hashed.
    """
    try:
        scores: str | list[str] = fingerprint(*task.estimators)
    except BadInput:
        if version is None:
            raise
        scores = [version]
    said = {
        "version": VERSION,
        "targets": {n: fingerprint(m) if version is None else [version] for n, m in task.makes.items()},
        "estimators": [re.sub(r" at 0x[0-9a-fA-F]+", "", repr(e)) for e in task.estimators],
        "scores": scores,
        "columns": list(task.columns),
        "batch_rows": task.rows,
        "piece_rows": piece_rows,
        "group": "user" if task.grouped else None,
        "buckets": task.buckets,
        "seed": task.seed.value,
    }
    held: dict[str, Any] = json.loads(json.dumps(said))  # as it comes back: a tuple is a list there
    return held


def save(path: Path, said: Mapping[str, Any], done: Sequence[Piece], tally: Tally | None) -> None:
    """Write the state under a temporary name, then rename it: a reader never sees half of it."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    about: dict[str, Any] = {"settings": said, "pieces": [_told(p) for p in done]}
    if tally is not None:
        sums = tally.sums
        about |= {"count": sums.count, "widths": tally.widths, "steps": tally.steps}
        tensors = {name: getattr(sums, name) for name in ("sums", "cross", "buckets", "rows")}
        tensors |= {f"weights/{key}": w for key, w in tally.weights.items()}
    with whole(path) as hidden:
        save_file({k: v.contiguous() for k, v in tensors.items()}, hidden, {"simlab": json.dumps(about)})


def load(path: Path, said: Mapping[str, Any], pieces: Sequence[Piece]) -> tuple[int, Tally | None]:
    """Return how many pieces are merged, and their sums.

    Raises:
        BadInput: if the file is no state, or one of other settings or files.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["simlab"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        was, done = about["settings"], about["pieces"]
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"{path}: this is not the state of a stream ({reason})") from None
    with _blamed(path):
        _agree(was, said)
        _unchanged(done, pieces)
    if "count" not in about:
        return len(done), None
    sums = ScoreSums(
        count=about["count"],
        seed=Seed(said["seed"]),
        **{name: tensors[name] for name in ("sums", "cross", "buckets", "rows")},
    )
    weights = {k.removeprefix("weights/"): v for k, v in tensors.items() if k.startswith("weights/")}
    return len(done), Tally(sums, tuple(about["widths"]), weights, about["steps"])


class _blamed:  # noqa: N801 (reads as a word)
    """Put the state's name in front of a refusal, and what can be done behind it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, BadInput):
            raise BadInput(f"{self.path}: {error}: remove it to start again, or name another") from None


def _agree(was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse other settings, and name the first."""
    for key in now:
        before, after = was.get(key), now[key]
        if before == after:
            continue
        if key == "targets":
            raise BadInput(
                "this state is of another target (what weighs the rows has changed, if only in what it keeps "
                "from use: with a version= that does not count)"
            )
        if key == "scores":
            raise BadInput("the code of an estimator has changed since this state was written")
        raise BadInput(f"this state was made with {key} {before}, not {after}")


def _unchanged(done: Sequence[Mapping[str, Any]], pieces: Sequence[Piece]) -> None:
    """Refuse files that are not those of the state, as far as it goes."""
    for number, old in enumerate(done):
        if number >= len(pieces):
            raise BadInput(f"this state holds file {old['path']}, which is not to be read now")
        new = _told(pieces[number])
        if old == new:
            continue
        if old["path"] != new["path"]:
            raise BadInput(f"file {new['path']} now stands where this state holds {old['path']}")
        raise BadInput(f"file {new['path']} has changed since this state was written")


def _told(piece: Piece) -> dict[str, Any]:
    """Return a piece as JSON. Where its folder is does not matter; its name, size and time do."""
    return dataclasses.asdict(piece) | {"path": Path(piece.path).name}
