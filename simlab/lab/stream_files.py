"""The files that a stream of `simlab evaluate` reads, and what their first rows say."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from causal.contract import Scored
from causal.stream import Logged
from causal.stream.files import Piece, batches, named, open_parquet, survey
from causal.stream.run import ROWS
from causal.stream.weigh import user_column
from simlab.errors import BadInput
from simlab.lab.evaluation_units import COLUMN
from simlab.lab.log_source import column_map
from simlab.log import Log
from simlab.tables.about import KEY, about
from simlab.tables.columns import ColumnMap, find

if TYPE_CHECKING:
    from simlab.lab.evaluate import EvaluateConfig


@dataclass(frozen=True, eq=False)
class Files:
    """The files of a log, and what their first rows say.

    Attributes:
        paths: files and folders as they were named.
        pieces: of all files, in order.
        schema: of the first file that has rows.
        fields: which column is which.
        n_items: size of the catalogue, if it was said.
    """

    paths: tuple[str, ...]
    pieces: tuple[Piece, ...]
    schema: pa.Schema
    fields: ColumnMap
    n_items: int | None = None

    @property
    def rows(self) -> int:
        """How many rows all files have."""
        return sum(piece.rows for piece in self.pieces)

    @cached_property
    def reader(self) -> Logged:
        """Batches as a log.

        Raises:
            BadInput: for columns that make no log, or a catalogue of unknown size.
        """
        if self.n_items is None and not about((self.schema.metadata or {}).get(KEY)):
            raise BadInput(
                "a stream does not know the largest item before it has read all rows: say with --items how "
                "many items there are"
            )
        return Logged(_unmade, self.fields, self.n_items)

    def first(self, columns: Sequence[str]) -> pa.RecordBatch:
        """Return some columns of the first rows."""
        read = batches(self.pieces[0], columns, ROWS)
        try:
            return next(read)
        finally:
            read.close()

    @cached_property
    def log(self) -> Log:
        """The first rows as a log."""
        with self.blamed():
            return self.reader.log(self.first(self.reader.columns(self.schema)))[0]

    @cached_property
    def pages(self) -> int | None:
        """How many places a page has, where a row logs one of them: the largest position of all, plus one.

        Where positions start is what the first row's position in the file and in the log differ by.
        """
        position = self.log.position
        if position is None:
            return None
        name = find("position", self.fields, self.schema.names)
        assert name is not None
        start = self.first([name]).column(name)[0].as_py() - int(position[0])
        most = [
            pc.max(batch.column(name)).as_py()
            for piece in self.pieces
            for batch in batches(piece, [name], 1 << 20)
        ]
        return int(max(x for x in most if x is not None) - start) + 1

    def blamed(self) -> named:
        """Put the first file's name in front of a refusal."""
        return named(self.pieces[0].path, self.pieces[0].row)

    def knows_users(self, words: Sequence[str]) -> bool:
        """Tell whether all targets can say who the user of a row is."""
        columns = [w.startswith(COLUMN) for w in words]
        says = not any(columns) or bool(user_column(self.fields, self.schema.names))
        return says and (all(columns) or self.reader.reader(self.schema).user is not None)


def open_files(config: "EvaluateConfig") -> Files:
    """Read the footers of the files.

    Raises:
        BadInput: for a file that is none, or a log that has a row for each item of a slate.
    """
    paths = (config.log, *config.more)
    pieces, _ = survey(paths, lambda schema: ())
    with named(pieces[0].path), open_parquet(pieces[0].path) as file:
        schema = file.schema_arrow
    files = Files(paths, tuple(pieces), schema, column_map(config), config.items)
    group, item, slate = (find(f, files.fields, schema.names) for f in ("round", "item", "slate"))
    if group is not None and item is not None and slate is None:
        held = files.first([group]).column(group)
        if len(pc.unique(held)) < len(held):
            raise BadInput(
                f"{pieces[0].path}: column {group} gives a round several rows, and a stream needs one for "
                "each: read the log without --stream and write it with simlab.tables.write_log"
            )
    return files


def _unmade(log: Log) -> Scored:
    """Stand for what a target makes of a log, where only the log is read."""
    raise AssertionError
