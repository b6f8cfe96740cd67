"""The set-up itself: pins, laziness, layers, and that shapes are really checked in these tests."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

from simlab.slates import Deterministic

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "econml", "pandas", "plotly", "sklearn", "stable_baselines3", "gymnasium")


def _key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {_key(re.split(r"[\s<>=!~\[;]", line)[0]) for line in wanted}
    missing = names - {_key(name) for name in _pins()}
    assert not missing, f"constraints.txt does not pin {sorted(missing)}"


def test_pins_are_plain_versions() -> None:
    # A local tag such as +cpu would forbid the CUDA build that other machines need.
    odd = {name: pin for name, pin in _pins().items() if not re.fullmatch(r"\d+(\.\w+)*", pin)}
    assert not odd


def test_importing_simlab_imports_nothing_heavy() -> None:
    code = f"import sys, simlab; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_shapes_are_checked_in_tests() -> None:
    # Without the jaxtyping hook (or with it lost in a worker process) this would pass silently.
    with pytest.raises(TypeCheckError, match="columns"):
        Deterministic(torch.zeros(3, dtype=torch.long), 4)


def test_old_python_is_refused_in_one_sentence(tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not on the PATH")
    old = tmp_path / "python3.9"
    # Version checks fail; `-V` answers.
    old.write_text('#!/bin/sh\n[ "$1" = "-V" ] && echo "Python 3.9.1" && exit 0\nexit 1\n')
    old.chmod(0o755)
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    done = subprocess.run(
        ["make", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}", "install"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "simlab needs Python 3.11 or newer" in done.stderr
    assert "Python 3.9.1" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text()
    assert "set -euo pipefail" in text
    assert "make --no-print-directory test" in text
    assert "make test" in (ROOT / "README.md").read_text()


def test_typed_packages_say_so() -> None:
    for package in ("simlab", "envs", "agents", "causal"):
        assert (ROOT / package / "py.typed").exists(), f"{package} ships no py.typed"
