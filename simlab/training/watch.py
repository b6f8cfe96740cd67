"""Watching training: a progress bar, a CSV file, and TensorBoard where it is installed."""

import contextlib
import csv
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from simlab.files import write_whole

COLUMNS = ("epoch", "loss", "validation", "seconds", "examples_per_second")


class Watch:
    """Writes a line for every epoch into a folder.

    `progress.csv` is written whole after each epoch. Where the package `tensorboard` is installed
    (`pip install simlab[tensorboard]`), the same numbers go into event files beside it.

    Args:
        folder: where to; made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "progress.csv"
        folder.mkdir(parents=True, exist_ok=True)
        self.rows: list[Sequence[object]] = []
        self.board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self.board = SummaryWriter(str(folder))

    def resume(self, epochs: int) -> None:
        """Keep the lines of the epochs that a checkpoint has."""
        if self.path.is_file():
            with self.path.open(newline="", encoding="utf-8") as file:
                self.rows = [tuple(row) for row in list(csv.reader(file))[1:] if int(row[0]) <= epochs]

    def epoch(
        self, number: int, loss: float, validation: float | None, seconds: float, examples: int
    ) -> None:
        """Write an epoch down."""
        rate = examples / max(seconds, 1e-9)
        judged = "" if validation is None else repr(validation)
        self.rows.append((number, repr(loss), judged, f"{seconds:.3f}", f"{rate:.0f}"))
        text = io.StringIO()
        csv.writer(text).writerows([COLUMNS, *self.rows])
        write_whole(self.path, text.getvalue().encode())
        if self.board is not None:
            self.board.add_scalar("loss", loss, number)
            if validation is not None:
                self.board.add_scalar("validation", validation, number)
            self.board.add_scalar("examples_per_second", rate, number)
            self.board.flush()

    def close(self) -> None:
        """Close the event file."""
        if self.board is not None:
            self.board.close()


@contextlib.contextmanager
def bar(show: bool, epochs: int) -> Iterator[Callable[[str, float], None]]:
    """Yield a function (text, epochs done since) that moves a progress bar, if there is one to show."""
    if not show:
        yield lambda text, done: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("training", total=epochs)

        def tick(text: str, done: float) -> None:
            progress.update(task, advance=done, description=f"training: {text}" if text else None)

        yield tick
