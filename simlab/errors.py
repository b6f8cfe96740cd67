"""The one exception that a user is meant to read."""

import difflib
from collections.abc import Iterable


class BadInput(ValueError):
    """Input that its owner can mend. The text is one sentence; the command line exits with 2."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?" for a near miss, else the known words.

    >>> nearest("popularty", ["random", "popularity"])
    '; did you mean popularity?'
    >>> nearest("zzz", ["random", "popularity"])
    '; known are popularity, random'
    """
    words = sorted(set(known))
    close = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(words)}"
