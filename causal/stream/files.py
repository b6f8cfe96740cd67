"""Parquet files as pieces, read in record batches; every failure is one sentence that names the file."""

import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from simlab.errors import BadInput
from simlab.log import BadCell
from simlab.tables.about import KEY, about
from simlab.tables.columns import close
from simlab.tables.sources import ParquetFile, check_file

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

ENDINGS = (".parquet", ".pq")
"""What a file of a folder is read by."""

PIECE = 1 << 22
"""Rows of a file that are summed together, to a row group: what one worker does between two merges."""


@dataclass(frozen=True)
class Piece:
    """Row groups of a file that one worker adds up.

    Attributes:
        path: of the file.
        first: row group at which it starts.
        last: row group before which it ends.
        row: row of the file at which it starts.
        start: row of the whole log at which it starts.
        rows: how many rows it has.
        size: of the file, in bytes.
        changed: when the file was last written, in ns.
    """

    path: str
    first: int
    last: int
    row: int
    start: int
    rows: int
    size: int
    changed: int


class named:  # noqa: N801 (reads as a word)
    """Put the file's name in front of a refusal, and count its rows from the file's start.

    Args:
        path: of the file.
        row: row of the file that the block calls 0.
    """

    def __init__(self, path: str, row: int = 0) -> None:
        self.path, self.row = path, row

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, BadCell):
            error = BadCell(error.column, self.row + error.row, error.why, error.value, error.slot)
        if isinstance(error, BadInput):
            raise BadInput(f"{self.path}: {error}") from None
        if isinstance(error, OSError) and error.strerror:
            raise BadInput(f"{self.path}: cannot be read: {error.strerror.lower()}") from None
        if isinstance(error, pa.ArrowException | OSError):
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise BadInput(f"{self.path}: damaged Parquet: {lines[0].rstrip('.')}") from None


def find(paths: Paths) -> list[Path]:
    """Return the files: a folder stands for those inside it that end in .parquet or .pq, sorted by name.

    What begins with a dot or an underscore is passed over, as every reader of such folders does.

    Raises:
        BadInput: for no file at all, a folder without one, or a file that is there twice.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    out: list[Path] = []
    for path in map(Path, given):
        if not path.is_dir():
            out.append(path)
            continue
        inside = sorted(p for p in path.rglob("*") if p.suffix in ENDINGS and _shown(p.relative_to(path)))
        if not inside:
            raise BadInput(f"{path}: there is no file in this folder that ends in {' or '.join(ENDINGS)}")
        out += inside
    if not out:
        raise BadInput("there is no file to read: the list of paths is empty")
    seen: set[str] = set()
    for path in out:
        real = os.path.realpath(path)
        if real in seen:
            raise BadInput(f"{path}: the file is there twice, and its rows would count twice")
        seen.add(real)
    return out


def survey(
    paths: Paths, needed: Callable[[pa.Schema], Sequence[str]], piece: int = PIECE
) -> tuple[list[Piece], tuple[str, ...]]:
    """Read the footers of all files; return the pieces, in order, and the columns to read.

    Args:
        paths: files and folders.
        needed: says which columns of a schema are wanted, or refuses it.
        piece: rows of a piece; a file is cut only where a row group ends.

    Raises:
        BadInput: for a file that is none, a missing column, a column of another type than in the
            first file, another catalogue, or no rows at all.
    """
    pieces: list[Piece] = []
    first: tuple[Path, pa.Schema, tuple[str, ...]] | None = None
    start = 0
    for path in find(paths):
        schema, groups = _footer(path)
        with named(str(path)):
            columns = tuple(needed(schema))
            for name in columns:
                if name not in schema.names:
                    raise BadInput(f"column {name} is missing{close(name, schema.names)}")
            if first is None:
                first = path, schema, columns
            else:
                _same(first, schema, columns)
        made = _cut(path, groups, start, piece)
        pieces += made
        start += sum(groups)
    assert first is not None
    if start == 0:
        raise BadInput(f"{first[0]}: empty: there are columns but no rows")
    return pieces, first[2]


def batches(piece: Piece, columns: Sequence[str], rows: int) -> Generator[pa.RecordBatch, None, None]:
    """Read some columns of a piece, at most `rows` rows at a time, on this thread only.

    What is held at once is at most one row group of these columns.

    Raises:
        BadInput: if the file is damaged, or not the one that was surveyed.
    """
    with named(piece.path):
        now = os.stat(piece.path)
        if (now.st_size, now.st_mtime_ns) != (piece.size, piece.changed):
            raise BadInput("the file was changed while it was being read")
        with open_parquet(piece.path) as file:
            for group in range(
                piece.first, piece.last
            ):  # one at a time: Arrow keeps the pages of all of them
                yield from file.iter_batches(
                    rows, row_groups=[group], columns=list(columns), use_threads=False
                )


def open_parquet(path: str | Path) -> Any:
    """Open a file so that a page whose checksum is wrong is refused."""
    return pa.parquet.ParquetFile(path, page_checksum_verification=True)


def _shown(path: Path) -> bool:
    return not any(part.startswith((".", "_")) for part in path.parts)


def _footer(path: Path) -> tuple[pa.Schema, list[int]]:
    """Return the schema and the rows of each row group."""
    with named(str(path)):
        if path.suffix not in ENDINGS:
            raise BadInput(f"a stream reads Parquet: let the name end in {' or '.join(ENDINGS)}")
        check_file(path)
        ParquetFile(path).check_names()
        with open_parquet(path) as file:
            footer = file.metadata
            return file.schema_arrow, [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]


def _same(
    first: tuple[Path, pa.Schema, tuple[str, ...]], schema: pa.Schema, columns: tuple[str, ...]
) -> None:
    """Refuse a file that is not of the first one's kind."""
    path, wanted, names = first
    for name in names:
        if name not in schema.names:
            raise BadInput(f"column {name} is missing{close(name, schema.names)}")
        if schema.field(name).type != wanted.field(name).type:
            raise BadInput(
                f"column {name} is {schema.field(name).type}, but {wanted.field(name).type} in {path}"
            )
    for name in columns:
        if name not in names:
            raise BadInput(f"column {name} is there, but not in {path}")
    here, there = (about((s.metadata or {}).get(KEY)) for s in (schema, wanted))
    for key in ("n_items", "items", "users"):
        if here and there and here[key] != there[key]:
            raise BadInput(f"the file was written with another {key} than {path}")


def _cut(path: Path, groups: list[int], start: int, piece: int) -> list[Piece]:
    """Cut a file into runs of row groups of about `piece` rows."""
    told = path.stat()
    out: list[Piece] = []
    first = row = held = 0
    for number, rows in enumerate(groups):
        held += rows
        if held and (held >= piece or number == len(groups) - 1):
            last = number + 1
            out.append(Piece(str(path), first, last, row, start + row, held, told.st_size, told.st_mtime_ns))
            first, row, held = last, row + held, 0
    return out
