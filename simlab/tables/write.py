"""Writing a log: Parquet whose schema says what it is, under a temporary name until it is whole."""

import json
import os
from dataclasses import fields
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from torch import Tensor

from simlab.errors import BadInput
from simlab.log import Log
from simlab.tables.about import KEY, describe

GROUP = 131_072
"""Rows of a row group: large enough to compress well, small enough to stream."""


def to_arrow(log: Log) -> pa.Table:
    """Return the log as an Arrow table; `.to_pandas()` makes it a DataFrame.

    Columns are the fields that the log has, a row a round. The schema's metadata holds, as JSON under
    `simlab`, the version, n_items, the names and the dtypes.
    """
    values = {f.name: getattr(log, f.name) for f in fields(log)}
    columns = {k: _column(v) for k, v in values.items() if isinstance(v, Tensor)}
    codes = {name: i for i, name in enumerate(dict.fromkeys(log.policy))}
    index = np.array([codes[name] for name in log.policy], dtype=np.int32)
    index = np.zeros(len(log), np.int32) if len(log.policy) == 1 else index
    columns["policy"] = pa.DictionaryArray.from_arrays(index, pa.array(list(codes), pa.string()))
    return pa.table(columns).replace_schema_metadata({KEY: describe(log)})


def write_log(log: Log, path: str | os.PathLike[str]) -> Path:
    """Write a log as Parquet and return the path; `read_log` gives the same log back, bit for bit.

    Raises:
        BadInput: if the path is no place for a Parquet file. What was there before is then untouched.
    """
    with LogWriter(path) as writer:
        writer.write(log)
    return writer.path


class LogWriter:
    """Write a log piece by piece, for roll-outs larger than memory.

    The file has its name only when the `with` block has ended well; on an error nothing is left behind and
    an earlier file stays as it was.

    Args:
        path: where to; the name ends in .parquet.
        group: rows of a row group at most.

    Raises:
        BadInput: if the path is no place for a Parquet file, a piece does not fit the first, or nothing was
            written.
    """

    def __init__(self, path: str | os.PathLike[str], *, group: int = GROUP) -> None:
        self.path, self.group, self.rows = Path(path), group, 0
        if self.path.suffix not in (".parquet", ".pq"):
            raise BadInput(f"{self.path}: a log is written as Parquet: let the name end in .parquet")
        if self.path.is_dir():
            raise BadInput(f"{self.path}: a directory, not a file")
        if not self.path.parent.is_dir():
            raise BadInput(f"{self.path}: there is no folder {self.path.parent}")
        self._part = self.path.with_name(f".{self.path.name}.{token_hex(4)}.part")
        self._file: Any = None
        self._schema: pa.Schema | None = None

    def __enter__(self) -> "LogWriter":
        """Start."""
        return self

    def write(self, log: Log) -> None:
        """Append the rounds of a log.

        Raises:
            BadInput: if its columns, dtypes, names or catalogue are not those of the first piece.
        """
        table = to_arrow(log)
        if self._schema is None:
            self._schema = table.schema
            try:
                self._file = pa.parquet.ParquetWriter(self._part, table.schema, write_page_checksum=True)
            except OSError as error:
                raise BadInput(f"{self.path}: cannot be written: {error.strerror or error}") from None
        elif not table.schema.equals(self._schema, check_metadata=True):
            raise BadInput(f"{self.path}: {_difference(self._schema, table.schema)}")
        self._file.write_table(table, row_group_size=self.group)
        self.rows += len(log)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the file its name, or remove it."""
        try:
            if self._file is not None:
                self._file.close()
            if kind is None:
                if self._file is None:
                    raise BadInput(f"{self.path}: nothing was written")
                os.replace(self._part, self.path)
        finally:
            self._part.unlink(missing_ok=True)


def _column(tensor: Tensor) -> pa.Array:
    """Return a tensor as a column: numbers, or lists of numbers."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:  # neither NumPy nor Arrow has it; float32 holds it exactly
        tensor = tensor.float()
    values = tensor.contiguous().numpy()
    if values.ndim == 1:
        return pa.array(values)
    rows, width = values.shape
    if values.size > 2**31 - 1:
        return pa.LargeListArray.from_arrays(np.arange(rows + 1) * width, pa.array(values.reshape(-1)))
    offsets = np.arange(rows + 1, dtype=np.int32) * width
    return pa.ListArray.from_arrays(offsets.astype(np.int32), pa.array(values.reshape(-1)))


def _difference(first: pa.Schema, now: pa.Schema) -> str:
    """Say in what a piece differs from the first."""
    for name in sorted(set(first.names) ^ set(now.names)):
        where = "only the first piece" if name in first.names else "a later piece, but not the first,"
        return f"{where} has column {name}"
    for name in first.names:
        if first.field(name).type != now.field(name).type:
            return f"column {name} is {now.field(name).type}, but {first.field(name).type} in the first piece"
    one, two = (json.loads(schema.metadata[KEY]) for schema in (first, now))
    key = next(k for k in one if one[k] != two[k])
    return f"a later piece differs from the first in {key}"
