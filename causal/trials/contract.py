"""The contract of a data set for uplift: one method, a trial out."""

from typing import Protocol, runtime_checkable

from causal.uplift.contract import Trial


@runtime_checkable
class TrialData(Protocol):
    """A frozen dataclass of settings (which arms, which outcome, which path) that can be read.

    Every setting has a default, so that the catalogue can build it with none. Nothing is read before
    `load`, and nothing is downloaded. Arms are labelled as the owner labels them, control first; features
    are known before the treatment; `effect` is there where the truth is known.
    """

    def load(self) -> Trial:
        """Read the trial.

        Raises:
            BadInput: one sentence naming the file, and the column, row and value where there are such; where
                a file is missing it says where to get it.
        """
        ...


class UnknownFile(UserWarning):
    """A file has the right columns, but its bytes are not those of the published file."""
