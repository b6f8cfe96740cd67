"""The examples of the adapters' README run and say what they say."""

import doctest
from pathlib import Path

import simlab.adapters


def test_the_readme_s_examples() -> None:
    where = Path(simlab.adapters.__file__).parent / "README.md"
    found = doctest.testfile(str(where), module_relative=False)
    assert found.failed == 0
    assert found.attempted > 20
