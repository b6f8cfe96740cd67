"""Read typed columns from CSV or Parquet, and say in one sentence which cell is wrong."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from jaxtyping import Bool

from simlab.errors import BadInput, nearest


def read(path: Path, types: dict[str, pa.DataType]) -> pa.Table:
    """Read these columns only, so that a file of many columns costs what is asked of it.

    Args:
        path: a file ending in .csv or .parquet.
        types: the wanted columns and their types.

    Raises:
        BadInput: naming the file, and the column, row (from 0, header aside) and value where it can.
    """
    if not path.is_file():
        raise BadInput(f"{path} is not there" if not path.exists() else f"{path} is not a file")
    try:
        if path.suffix == ".parquet":
            there = pa.parquet.read_schema(path).names
        else:
            with pa.csv.open_csv(path) as opened:
                there = opened.schema.names
        for name in types:
            if name not in there:
                raise BadInput(f"{path} has no column {name}{nearest(name, there)}")
        if path.suffix == ".parquet":
            table = _typed(path, pa.parquet.read_table(path, columns=list(types)), types)
        else:
            table = _csv(path, types)
    except (pa.ArrowException, OSError) as problem:
        first = str(problem).strip().splitlines()[0].rstrip(".")
        raise BadInput(f"{path} cannot be read as {path.suffix[1:].upper()}: {first}") from problem
    if table.num_rows == 0:
        raise BadInput(f"{path} has no rows")
    for name in types:
        if table[name].null_count:
            row = int(np.flatnonzero(table[name].is_null().to_numpy())[0])
            raise BadInput(f"{path}, column {name}, row {row}: the value is missing")
    return table


def refuse(path: Path, name: str, value: np.ndarray, wrong: Bool[np.ndarray, " row"], why: str) -> None:
    """Raise for the first wrong cell of a column.

    Raises:
        BadInput: naming file, column, row and value.
    """
    if wrong.any():
        row = int(wrong.argmax())
        raise BadInput(f"{path}, column {name}, row {row}: {value[row]} {why}")


def _csv(path: Path, types: dict[str, pa.DataType]) -> pa.Table:
    """Read a CSV at once; where a cell does not fit, read it again as bytes to find which."""

    def options(types: dict[str, pa.DataType]) -> pa.csv.ConvertOptions:
        return pa.csv.ConvertOptions(
            include_columns=list(types), column_types=types, strings_can_be_null=True
        )

    try:
        return pa.csv.read_csv(path, convert_options=options(types))
    except pa.ArrowInvalid:
        plain = pa.csv.read_csv(path, convert_options=options(dict.fromkeys(types, pa.binary())))
        _typed(path, plain, types)
        raise  # every cell fits: the fault is elsewhere


def _typed(path: Path, table: pa.Table, types: dict[str, pa.DataType]) -> pa.Table:
    """Give the columns their types, or name the first cell that has another."""
    for i, (name, kind) in enumerate(types.items()):
        column = table[name]
        if column.type == kind:
            continue
        target = pa.string() if pa.types.is_dictionary(kind) else kind
        try:
            table = table.set_column(i, name, _cast(column, target).cast(kind))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            for row, cell in enumerate(column):
                try:
                    _cast(pa.chunked_array([[cell.as_py()]], column.type), target)
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                    raise BadInput(
                        f"{path}, column {name}, row {row}: {_shown(cell.as_py())} is not {_word(target)}"
                    ) from None
    return table


def _cast(column: pa.ChunkedArray, target: pa.DataType) -> pa.ChunkedArray:
    """Cast bytes by way of text."""
    return (column.cast(pa.string()) if pa.types.is_binary(column.type) else column).cast(target)


def _shown(value: object) -> str:
    """Return a cell's value as text."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _word(kind: pa.DataType) -> str:
    """Say what a cell should have been."""
    if pa.types.is_integer(kind):
        return "a whole number"
    if pa.types.is_floating(kind):
        return "a number"
    return "a time" if pa.types.is_timestamp(kind) else "text in UTF-8"
