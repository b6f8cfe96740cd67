"""Where a table comes from: a CSV file, a Parquet file, or memory. All answer the same four questions.

Arrow's own messages never reach the reader: each failure is said again in one sentence.
"""

import gzip
import os
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from simlab.errors import BadInput
from simlab.tables.about import KEY

_PARQUET, _GZIP = b"PAR1", b"\x1f\x8b"
_RAGGED = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+): (.*)", re.DOTALL)


@runtime_checkable
class ArrowStream(Protocol):
    """Anything that hands out Arrow data: pandas 3, polars, duckdb, pyarrow."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return a capsule with a stream of record batches."""
        ...


class Source(ABC):
    """A table whose columns can be read by name.

    Attributes:
        names: its columns.
        metadata: what a log that this library wrote says of itself, JSON.
        text: whether all cells began as text.
        exact: whether floats keep their precision, all of them.
    """

    names: Sequence[str]
    metadata: bytes | None = None
    text: bool = False
    exact: bool = False

    @abstractmethod
    def load(self, columns: Sequence[str]) -> pa.Table:
        """Return some columns whole."""

    @abstractmethod
    def stream(self, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
        """Return some columns, at most `rows` rows at a time."""

    def check_names(self) -> None:
        """Refuse two columns of one name, and no columns.

        Raises:
            BadInput: naming the column.
        """
        twice = [n for i, n in enumerate(self.names) if n and n in self.names[:i]]
        if twice:
            raise BadInput(f"column {twice[0]} is there twice")
        if len(self.names) == 1 and any(c in self.names[0] for c in ";\t"):
            raise BadInput(f"the columns are not separated by commas: the header is {self.names[0]!r}")


class CsvFile(Source):
    """Comma-separated text in UTF-8 with a header (tabs where the name ends in .tsv), gzip or not."""

    text = True

    def __init__(self, path: Path) -> None:
        self.path = path
        _check_text(path)
        self.parse = pa.csv.ParseOptions(delimiter="\t" if ".tsv" in path.suffixes else ",")
        with self._said():
            self.names = pa.csv.open_csv(path, parse_options=self.parse).schema.names

    def load(self, columns: Sequence[str]) -> pa.Table:
        """Read the columns; types are inferred from the whole file."""
        convert = pa.csv.ConvertOptions(
            include_columns=list(columns), null_values=[""], strings_can_be_null=True
        )
        with self._said():
            return pa.csv.read_csv(self.path, parse_options=self.parse, convert_options=convert)

    def stream(self, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
        """Read the columns as bytes: a type inferred from the first block may be wrong for a later one."""
        convert = pa.csv.ConvertOptions(
            include_columns=list(columns),
            column_types={name: pa.binary() for name in columns},
            null_values=[""],
            strings_can_be_null=True,
        )
        with self._said():
            reader = pa.csv.open_csv(self.path, parse_options=self.parse, convert_options=convert)
            for batch in reader:
                for start in range(0, batch.num_rows, rows):
                    yield pa.Table.from_batches([batch.slice(start, rows)])

    def _said(self) -> "_Said":
        return _Said("damaged CSV", self._bad_row)

    def _bad_row(self) -> str | None:
        """Return the sentence on the first row with too few or too many cells."""
        try:
            # Only one thread counts the rows; the header is row 1. (A handler of invalid rows would print a
            # traceback where a row is not UTF-8.)
            pa.csv.read_csv(self.path, pa.csv.ReadOptions(use_threads=False), self.parse)
        except (pa.ArrowInvalid, OSError) as error:
            found = _RAGGED.search(str(error))
            if found:
                row, columns, cells, text = int(found[1]) - 2, found[2], found[3], found[4]
                plural = "" if cells == "1" else "s"
                return (
                    f"row {row}: {text[:60]!r} has {cells} cell{plural}, but the header has {columns} columns"
                )
        return None


class ParquetFile(Source):
    """A Parquet file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        _check_parquet(path)
        with _Said("damaged Parquet"), _open(path) as file:
            self.names = file.schema_arrow.names
            self.metadata = (file.schema_arrow.metadata or {}).get(KEY)

    def load(self, columns: Sequence[str]) -> pa.Table:
        """Read the columns."""
        with _Said("damaged Parquet"), _open(self.path) as file:
            return file.read(columns=list(columns))

    def stream(self, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
        """Read the columns, a part of a row group at a time."""
        with _Said("damaged Parquet"), _open(self.path) as file:
            for batch in file.iter_batches(rows, columns=list(columns)):
                yield pa.Table.from_batches([batch])


def _open(path: Path) -> Any:
    """Open Parquet so that a page whose checksum is wrong is refused."""
    return pa.parquet.ParquetFile(path, page_checksum_verification=True)


class Memory(Source):
    """A table in memory."""

    def __init__(self, table: ArrowStream, *, exact: bool = False) -> None:
        self.exact = exact
        with _Said("no Arrow table"):
            whole = (
                table if isinstance(table, pa.Table) else pa.RecordBatchReader.from_stream(table).read_all()
            )
        self.table = whole
        self.names = whole.schema.names
        self.metadata = (whole.schema.metadata or {}).get(KEY)

    def load(self, columns: Sequence[str]) -> pa.Table:
        """Return the columns."""
        return self.table.select(list(columns))

    def stream(self, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
        """Return slices of the columns."""
        chosen = self.load(columns)
        for start in range(0, chosen.num_rows, rows):
            yield chosen.slice(start, rows)


class _Said:
    """Say the failures of Arrow and of the file system again, in one sentence."""

    def __init__(self, what: str, better: Any = None) -> None:
        self.what, self.better = what, better

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, UnicodeDecodeError):
            raise BadInput("the names of the columns are not UTF-8 text") from None
        if isinstance(error, pa.ArrowException | OSError) and not isinstance(error, BadInput):
            lines = str(error).strip().splitlines() or [type(error).__name__]
            if "Empty CSV" in lines[0]:
                raise BadInput("empty: there is not even a header") from None
            sentence = self.better() if self.better else None
            raise BadInput(sentence or f"{self.what}: {lines[0].rstrip('.')}") from None


SUFFIXES: dict[str, type[CsvFile] | type[ParquetFile]] = {
    ".parquet": ParquetFile,
    ".pq": ParquetFile,
    ".csv": CsvFile,
    ".tsv": CsvFile,
    ".csv.gz": CsvFile,
    ".tsv.gz": CsvFile,
}
"""What a file is, by the end of its name."""


def suffix(path: Path) -> str:
    """Return the end of a file's name, with what .gz compresses."""
    ends = [s.lower() for s in path.suffixes]
    return "".join(ends[-2:]) if ends[-1:] == [".gz"] else "".join(ends[-1:])


def check_file(path: Path) -> None:
    """Refuse what cannot be read as a file.

    Raises:
        BadInput: if there is no such file, it is a directory, empty or forbidden.
    """
    try:
        if path.is_dir():
            raise BadInput("a directory, not a file")
        with path.open("rb") as file:
            if not file.read(1):
                raise BadInput("empty: the file has 0 bytes")
    except FileNotFoundError:
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = get_close_matches(path.name, beside, n=1)
        raise BadInput(f"no such file{f'; did you mean {near[0]}?' if near else ''}") from None
    except OSError as error:
        raise BadInput(f"cannot be read: {(error.strerror or str(error)).lower()}") from None


def open_source(path: str | os.PathLike[str]) -> Source:
    """Open a file by the end of its name.

    Raises:
        BadInput: for a file that cannot be read or is not what its name says.
    """
    file = Path(path)
    check_file(file)
    kind = SUFFIXES.get(suffix(file))
    if kind is None:
        raise BadInput(
            f"{suffix(file) or 'a name without an ending'} is no format of a log; known are "
            f"{', '.join(SUFFIXES)}, .npz"
        )
    return kind(file)


def _check_text(path: Path) -> None:
    """Refuse what is not UTF-8 text, by its first bytes."""
    with path.open("rb") as raw:
        head = raw.read(4)
    zipped = path.suffix.lower() == ".gz"
    if zipped != head.startswith(_GZIP):
        raise BadInput("not gzip, though the name says so" if zipped else "gzip: let the name end in .gz")
    try:
        with gzip.open(path) if zipped else path.open("rb") as file:
            head = file.read(512)
    except (OSError, EOFError, zlib.error):
        raise BadInput("damaged gzip: it cannot be unpacked") from None
    if head.startswith(_PARQUET):
        raise BadInput("Parquet, though the name says CSV: let the name end in .parquet")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in head:
        raise BadInput("UTF-16 or binary, not UTF-8 text: save it as CSV in UTF-8")


def _check_parquet(path: Path) -> None:
    """Refuse what is not whole Parquet, by its first and last bytes."""
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(max(0, path.stat().st_size - 4))
        tail = file.read(4)
    if head != _PARQUET:
        looks = "; it looks like text: let the name end in .csv" if head.isascii() else ""
        raise BadInput(f"not Parquet: the first bytes are {head!r}, not {_PARQUET!r}{looks}")
    if tail != _PARQUET:
        raise BadInput(f"truncated Parquet: the last bytes are {tail!r}, not {_PARQUET!r}")
