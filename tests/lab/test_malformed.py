"""Every malformed log, through the command line: exit code 2, one line, and an earlier run left as it was."""

from pathlib import Path

import pytest

from simlab.lab.cli import main
from tests.tables.malformed import ALL, Bad

PLAIN = [bad for bad in ALL if set(bad.options) <= {"layout", "n_items"}]
"""Those that options of the command line can describe."""


@pytest.mark.parametrize("bad", PLAIN, ids=[f"{i} {bad.says[:50]}" for i, bad in enumerate(PLAIN)])
def test_a_malformed_log_is_two(bad: Bad, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / bad.file
    path.write_bytes(bad.content)
    out = tmp_path / "run"
    out.mkdir()
    for name in ("config.yaml", "versions.json", "report.html"):
        (out / name).write_text(f"earlier: {name}")
    words = ["evaluate", str(path), "--policy", "uniform", "--out", str(out), "--overwrite"]
    for option, value in bad.options.items():
        words += [{"layout": "--layout", "n_items": "--items"}[option], str(value)]
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("simlab: ")
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    assert bad.file in said.err
    assert bad.says.rstrip("…") in said.err
    assert sorted(f.name for f in out.iterdir()) == ["config.yaml", "report.html", "versions.json"]
    assert all(f.read_text() == f"earlier: {f.name}" for f in out.iterdir())
    assert not out.with_name("run.partial").exists()


def test_there_are_at_least_forty_of_them() -> None:
    assert len(PLAIN) >= 40
