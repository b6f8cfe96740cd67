"""One batch of a larger wide table: the plan is made once from the schema, then batches come in any order."""

from collections.abc import Sequence

import pyarrow as pa

from simlab.errors import BadInput
from simlab.log import Log
from simlab.tables.columns import ColumnMap
from simlab.tables.fields import Rows
from simlab.tables.read import _OPEN_BANDIT, _fixed, _plan, _same_names
from simlab.tables.sources import Memory
from simlab.tables.wide import read_wide


class BatchReader:
    """Read batches of a wide table as logs.

    One batch cannot know what the others hold, so what `iter_log` needs is needed here: `n_items`, and names
    for ids that are text, unless this library wrote the file.

    Args:
        schema: `pa.Schema` of the table.
        columns: which column is which field.
        n_items: size of the catalogue.
        item_names: names of the items by id.
        user_names: names of the users by id.

    Attributes:
        columns: what a batch needs to have.
        user: the column of users, or None.

    Raises:
        BadInput: for a missing or ambiguous column, or what one batch cannot know.
    """

    def __init__(
        self,
        schema: pa.Schema,
        columns: ColumnMap = ColumnMap(),  # noqa: B008 (frozen)
        *,
        n_items: int | None = None,
        item_names: Sequence[str] = (),
        user_names: Sequence[str] = (),
    ) -> None:
        table = Memory(schema.empty_table())
        layout = "obp" if set(schema.names) >= _OPEN_BANDIT else "wide"
        _, plan = _plan(table, columns, layout, n_items, item_names, user_names)  # type: ignore[arg-type]
        if plan.n_items is None and not plan.item_names:
            raise BadInput("reading by batches needs n_items, because one batch does not know the largest id")
        if not plan.own:
            _fixed(plan)
        self._plan = plan
        self.columns: tuple[str, ...] = tuple(plan.needed())
        self.user: str | None = plan.columns.get("user")

    def read(self, batch: pa.RecordBatch, first: int = 0) -> Log:
        """Return the log of a batch.

        Args:
            batch: it has the columns of `columns`.
            first: the row, of the file, at which it starts; sentences count from there. Where there is no
                column of users, it is the first round's user too.

        Raises:
            BadInput: naming column, row and value.
        """
        log = read_wide(Rows(pa.Table.from_batches([batch]), self._plan, first=first))
        _same_names(log, self._plan)
        return log
