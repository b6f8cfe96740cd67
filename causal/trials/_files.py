"""Where a trial's file is, whether it is the published one, and its columns as arrays.

A file whose SHA-256 is not the published one is read with a warning, not refused: a copy saved again, with
other line ends or cut to some rows, is still data, and what cannot be read is refused by cell anyway. The
warning says that numbers of the literature need not hold.
"""

import hashlib
import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from causal.trials.contract import UnknownFile
from simlab.datasets._columns import Columns
from simlab.errors import BadInput, nearest

Array = np.ndarray
PathLike = str | os.PathLike[str]


def locate(path: PathLike | None, folder: str, name: str) -> Path:
    """Return the file: the path itself, or a name in the folder that it is.

    Args:
        path: a file or a folder, or None.
        folder: where to look if it is None, such as data/hillstrom.
        name: of the file in a folder.
    """
    place = Path(folder) if path is None else Path(path)
    return place / name if place.is_dir() or path is None else place


def check_digest(path: Path, known: Mapping[str, Collection[str]]) -> None:
    """Warn if a file's name is a published one but its content is not.

    Args:
        path: the file; nothing is done if it is not there.
        known: SHA-256 of each name, one or more; a name that is not among them says nothing.
    """
    if path.name not in known or not path.is_file():
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found not in known[path.name]:
        warnings.warn(
            f"{path} is not the published file: its SHA-256 begins with {found[:12]}, not "
            f"{' or '.join(d[:12] for d in known[path.name])}, so published numbers need not hold; it is "
            "read all the same",
            UnknownFile,
            stacklevel=3,
        )


def numbers(columns: Columns, names: Sequence[str]) -> Float[Array, "round feat"]:
    """Return columns of finite numbers side by side."""
    return np.stack([columns.numbers(name) for name in names], 1)


def bits(columns: Columns, name: str) -> Int[Array, " round"]:
    """Return a column of zeros and ones.

    Raises:
        BadInput: for the first other value.
    """
    found = columns.numbers(name)
    columns.check(name, (found == 0) | (found == 1), "is neither 0 nor 1")
    return found.astype(np.int64)


def one_hot(
    name: str, levels: Sequence[str], code: Int[Array, " round"]
) -> tuple[Float[Array, "round level"], list[str]]:
    """Return a column of 0 and 1 for each level but the first, named "name=level"; code -1 is all 0."""
    wanted = np.arange(1, max(len(levels), 1))
    return (code[:, None] == wanted).astype(np.float64), [f"{name}={level}" for level in levels[1:]]


def choose(what: str, value: str, known: Collection[str]) -> None:
    """Refuse a setting that is not known.

    Raises:
        BadInput: with the nearest known one.
    """
    if value not in known:
        raise BadInput(f"there is no {what} {value!r}{nearest(value, known)}")


def kinds(names: Sequence[str], kind: pa.DataType) -> dict[str, pa.DataType]:
    """Return one kind for all columns."""
    return dict.fromkeys(names, kind)
