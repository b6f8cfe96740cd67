"""Files that are whole or not there: written under a temporary name in their folder, then renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a temporary name to write to; it takes the place of `path` when the block has ended well.

    On an error the temporary file is removed, and an earlier file stays as it was. The folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.parent / f".{path.name}.{token_hex(4)}"
    try:
        yield hidden
        with hidden.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(hidden, path)
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole: a reader never sees half of it."""
    with whole(path) as hidden:
        hidden.write_bytes(data)
