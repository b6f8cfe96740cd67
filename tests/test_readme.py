"""The README's examples run as they are written, and say what it claims."""

import re
import shlex
from pathlib import Path

import pytest

from envs.registry import ids
from simlab.lab.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
PYTHON = [body for language, body in BLOCKS if language == "python"]
SHELL = [body for language, body in BLOCKS if language == "sh"]
COMMANDS = [[line for line in body.splitlines() if line.startswith("simlab ")] for body in SHELL]


def test_each_job_has_its_examples() -> None:
    assert len(PYTHON) == 5
    assert [len(commands) for commands in COMMANDS] == [0, 2, 3, 1]
    assert {language for language, _ in BLOCKS} == {"python", "sh"}


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE))
    said = re.findall(r"^make (\w+)", SHELL[0], flags=re.MULTILINE)
    assert said == ["demo", "test"]
    assert set(said) <= targets


@pytest.mark.parametrize("commands", [c for c in COMMANDS if c], ids=lambda c: c[0].split()[1])
def test_the_commands_run(commands: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if "uplift" in commands[0]:  # it reads the table that the Python above it writes
        exec(compile(next(b for b in PYTHON if "trial.csv" in b), "README.md", "exec"), {})
    for line in commands:
        words = shlex.split(line)[1:]
        assert main(words) == 0, line
        out = tmp_path / words[words.index("--out") + 1]
        assert (out / "report.html").is_file()
        assert (out / "results.parquet").is_file()


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_the_python_runs(
    number: int, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(PYTHON[number], f"README.md, block {number}", "exec"), {})
    said = capsys.readouterr().out
    if "ndcg" in PYTHON[number]:
        plain, weighted = (float(x) for x in re.findall(r"relevance: (\d\.\d+)", said))
        assert weighted > plain + 0.03, "weighting by 1 / P(examined) gives relevance back"
    elif "diagnose" in PYTHON[number]:
        assert "SNIPS" in said
        assert said.rstrip().endswith("ok")
    elif "autoc" in PYTHON[number]:
        top, everybody = (float(x) for x in re.findall(r"(?:first|everybody): (\d\.\d+)", said))
        assert top > 2 * everybody, "it finds who is moved"
    elif "make_sb3" in PYTHON[number]:
        assert said == f"{len(ids())} worlds, such as simlab/InterestEvolution-v1\n"
    else:
        assert "popularity" in said


def test_what_it_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    for link in links:
        assert link.startswith("http") or (ROOT / link).exists(), link


def test_it_is_plain_english_in_short_lines() -> None:
    assert max(len(line) for line in README.splitlines() if not line.startswith("![")) <= 120
