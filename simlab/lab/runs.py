"""Every run leaves a folder, whole or not at all.

A run works in `NAME.partial` beside its target and takes the target's name when it has succeeded. An earlier
run that it replaces is untouched until then. A run that was stopped keeps its finished jobs in
`NAME.partial/parts`, from where it resumes.
"""

import hashlib
import json
import os
import platform
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simlab import __version__
from simlab.errors import BadInput
from simlab.files import whole, write_whole

if TYPE_CHECKING:
    import pandas as pd

WHERE = ("config", "out", "overwrite", "resume", "workers", "checkpoint")
"""Options that say where or how fast a run is made, but not what it computes."""

_PACKAGES = ("torch", "numpy", "scipy", "pandas", "pyarrow", "scikit-learn", "econml", "gymnasium")


@dataclass(frozen=True)
class Run:
    """The folder of a run in progress.

    Attributes:
        folder: where to write now.
        target: the folder's name after success.
    """

    folder: Path
    target: Path

    @property
    def parts(self) -> Path:
        """Where finished jobs are kept until the run is complete."""
        return self.folder / "parts"

    def json(self, name: str, value: object) -> None:
        """Write a JSON file whole."""
        write_whole(self.folder / name, (json.dumps(value, indent=2, default=str) + "\n").encode())

    def table(self, name: str, frame: "pd.DataFrame") -> None:
        """Write a Parquet file whole."""
        with whole(self.folder / name) as hidden:
            frame.to_parquet(hidden, index=False)


@contextmanager
def open_run(
    command: str,
    config: Any,
    *,
    out: Path | None = None,
    overwrite: bool = False,
    resume: Path | None = None,
) -> Iterator[Run]:
    """Give a run its folder, with config.yaml, versions.json and the seed in it, and publish it at the end.

    Args:
        command: the subcommand's name.
        config: the resolved settings, a dataclass or a dictionary.
        out: the target folder; by default runs/<command>-<time>-<hash of the settings>.
        overwrite: replace an earlier run's folder, once this run has succeeded.
        resume: the folder of a stopped run to go on with.

    Raises:
        BadInput: if the target is in the way, or what is to be resumed was started with other settings.
    """
    settings = resolved(command, config)
    if resume is not None:
        run = _reopen(command, settings, resume)
    else:
        target = Path(os.path.abspath(out)) if out is not None else _default(command, settings)
        run = _start(settings, target, overwrite)
    try:
        yield run
        _publish(run)
        shutil.rmtree(run.target / "parts", ignore_errors=True)
    except BaseException:
        if run.folder.is_dir() and not (run.parts.is_dir() and any(run.parts.iterdir())):
            shutil.rmtree(run.folder, ignore_errors=True)
        raise


def resolved(command: str, config: Any) -> dict[str, Any]:
    """Return the settings as plain data: what config.yaml holds, and what `--config` reads back."""
    values = asdict(config) if is_dataclass(config) and not isinstance(config, type) else dict(config)
    return {"command": command, **{k: _plain(v) for k, v in values.items() if k not in WHERE}}


def unfinished(target: Path) -> Path:
    """Return the name under which the run of this target works."""
    return target.with_name(target.name + ".partial")


def versions() -> dict[str, str]:
    """Return what made the results: Python, the packages, the platform and the device."""
    found = {"simlab": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    found["device"] = _device()
    return found


def is_run(folder: Path) -> bool:
    """Tell whether a folder was written by a run: only such a folder is ever replaced."""
    return (folder / "config.yaml").is_file() and (folder / "versions.json").is_file()


def _start(settings: dict[str, Any], target: Path, overwrite: bool) -> Run:
    if target.exists() and not target.is_dir():
        raise BadInput(f"{target} is a file; --out takes a folder")
    if target.is_dir() and any(target.iterdir()):
        if not overwrite:
            raise BadInput(f"{target} is not empty; choose another --out, or add --overwrite to replace it")
        if not is_run(target):
            raise BadInput(f"{target} was not written by simlab, so --overwrite does not replace it")
    folder = unfinished(target)
    if folder.exists():
        if not overwrite:
            raise BadInput(
                f"{folder} holds an unfinished run; go on with --resume, or drop it with --overwrite"
            )
        if not is_run(folder):
            raise BadInput(f"{folder} was not written by simlab, so --overwrite does not replace it")
        shutil.rmtree(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    except OSError as error:
        raise BadInput(f"cannot make the folder {folder}: {error.strerror}") from None
    run = Run(folder, target)
    _write_settings(run, settings)
    return run


def _reopen(command: str, settings: dict[str, Any], resume: Path) -> Run:
    folder = Path(os.path.abspath(resume))
    if not folder.name.endswith(".partial"):
        if is_run(folder) and not unfinished(folder).exists():
            raise BadInput(f"{folder} is complete, so there is nothing to resume")
        folder = unfinished(folder)
    if not is_run(folder):
        raise BadInput(f"{resume} is not the folder of a stopped run")
    _same_versions(folder)
    before = _read(folder)
    for key in [*settings, *(k for k in before if k not in settings)]:
        if before.get(key) != settings.get(key):
            raise BadInput(
                f"{folder} was started with {key} {before.get(key)}, not {settings.get(key)}; "
                "resume with the same settings"
            )
    return Run(folder, folder.with_name(folder.name.removesuffix(".partial")))


def settings_of(folder: Path) -> Path | None:
    """Return the file of settings of a run, whether it is complete or was stopped, if there is one."""
    for place in (unfinished(folder), folder):
        if (place / "config.yaml").is_file():
            return place / "config.yaml"
    return None


def _read(folder: Path) -> dict[str, Any]:
    """Return the settings that a run was started with."""
    import yaml

    try:
        found = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"{folder} has no readable config.yaml, so it cannot be resumed") from error
    if not isinstance(found, dict):
        raise BadInput(f"{folder}/config.yaml does not hold settings, so it cannot be resumed")
    return found


def _same_versions(folder: Path) -> None:
    """Refuse to mix results of two versions in one table."""
    try:
        before = json.loads((folder / "versions.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder} has no readable versions.json, so it cannot be resumed") from error
    now = versions()
    for name in ("simlab", "torch", "numpy"):
        if before.get(name) != now[name]:
            raise BadInput(f"{folder} was started with {name} {before.get(name)}, and here is {now[name]}")


def _write_settings(run: Run, settings: dict[str, Any]) -> None:
    import yaml

    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    write_whole(run.folder / "config.yaml", text.encode())
    run.json("versions.json", versions())
    run.json("seed.json", settings.get("seed"))


def _publish(run: Run) -> None:
    """Give the folder its name; the folder that it replaces goes only after that."""
    old = None
    if run.target.is_dir():
        if any(run.target.iterdir()):
            old = run.target.with_name(f".{run.target.name}.{uuid.uuid4().hex[:8]}.old")
            os.rename(run.target, old)
        else:
            run.target.rmdir()
    os.rename(run.folder, run.target)
    if old is not None:
        shutil.rmtree(old)


def _default(command: str, settings: dict[str, Any]) -> Path:
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=3).hexdigest()
    name = f"{command}-{datetime.now():%Y%m%d-%H%M%S}-{digest}"
    target, n = Path.cwd() / "runs" / name, 2
    while target.exists() or unfinished(target).exists():
        target, n = target.with_name(f"{name}-{n}"), n + 1
    return target


def _plain(value: Any) -> Any:
    """Turn settings into what YAML and JSON hold."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _device() -> str:
    """Name the device without importing torch for it: a run that used torch has it loaded."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"cpu, {platform.machine()}"
