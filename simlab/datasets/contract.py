"""The contract of a data set: one method, a log out."""

from typing import Protocol, runtime_checkable

from simlab.context import Catalog
from simlab.log import Log


@runtime_checkable
class Dataset(Protocol):
    """A frozen dataclass of settings (which part, which folder) that can be read.

    Every setting has a default, so that the catalogue can build it with none. Nothing is read before
    `load`, and nothing is downloaded.
    """

    def load(self) -> Log:
        """Read the rounds.

        Raises:
            BadInput: one sentence naming the file, and the column, row and value where there are such.
        """
        ...

    def catalog(self) -> Catalog:
        """Read the items; `Catalog.bare(n)` where nothing is known of them.

        Raises:
            BadInput: as in `load`.
        """
        ...
