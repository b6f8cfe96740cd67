"""A bar while a stream reads, and what a stopped one says."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from causal.stream import Progress


@dataclass
class Watch:
    """How far a pass is.

    Attributes:
        total: rows of all files.
        of: pieces of all files.
        checkpoint: where the state is kept, if anywhere.
        move: moves a bar to some rows, with words beside it.
        resumed: whether there is a state to go on from.
        first: what that state held.
        now: what was told last.
        began: when the pass began.
    """

    total: int
    of: int
    checkpoint: Path | None = None
    move: Callable[[int, str], None] = lambda rows, said: None
    resumed: bool = False
    first: Progress | None = None
    now: Progress | None = None
    began: float = field(default_factory=perf_counter)

    def tell(self, now: Progress) -> None:
        """Take note of a piece; of a state that is gone on from, a stream tells before its own first one."""
        if self.resumed and self.now is None:
            self.first = now
        self.now = now
        self.move(now.rows, spoken(now, self.first))

    def took(self) -> str:
        """Say how long the pass took, and what it had not to read."""
        said = f"added up in {perf_counter() - self.began:,.1f} s"
        return said if self.first is None else f"{said}, {count(self.first.rows, 'row')} of them before"

    def stopped(self, command: str) -> str:
        """Say what a stopped pass has kept, and how to go on.

        Args:
            command: the command line of this run.
        """
        if self.checkpoint is None:
            return "stopped, and nothing is kept: with --checkpoint FILE a run can go on"
        if self.now is None:
            return "stopped before any piece was added up"
        done = f"{self.now.pieces} of {count(self.of, 'piece')}"
        return f"stopped with {done} added up in {self.checkpoint}; go on with: {command}"


@contextmanager
def watched(total: int, of: int, checkpoint: Path | None) -> Iterator[Watch]:
    """Watch a pass, with a bar on standard error where that is a terminal.

    Args:
        total: rows of all files.
        of: pieces of all files.
        checkpoint: where the state is kept, if anywhere.
    """
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    watch = Watch(total, of, checkpoint, resumed=checkpoint is not None and checkpoint.exists())
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield watch
        return
    columns = (TextColumn("reading"), BarColumn(20), TextColumn("{task.description}"), TimeElapsedColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task(f"{count(total, 'row')} in {count(of, 'piece')}", total=total)
        watch.move = lambda rows, said: bar.update(task, completed=rows, description=said)
        yield watch


def spoken(now: Progress, first: Progress | None = None) -> str:
    """Say how far a pass is and, from its speed so far, how long it will take.

    >>> spoken(Progress(30, 120, 1, 4, "a.parquet", 50.0))
    '30 of 120 rows, 1 of 4 pieces, about 2 min left'

    Args:
        now: how far it is.
        first: what it did not have to read, and took no time.
    """
    done = now.rows - (0 if first is None else first.rows)
    said = f"{now.rows:,} of {now.total:,} rows, {now.pieces} of {count(now.of, 'piece')}"
    if done <= 0 or now.rows == now.total:
        return said
    seconds = (now.total - now.rows) * now.seconds / done
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{said}, about {seconds / size:.0f} {unit} left"
    return f"{said}, about {seconds:.0f} s left"


def count(n: int, word: str) -> str:
    """Return a number with its word.

    >>> count(1, "file"), count(2000, "row")
    ('1 file', '2,000 rows')
    """
    return f"{n:,} {word}" if n == 1 else f"{n:,} {word}s"
