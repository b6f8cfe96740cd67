"""Rankers and checkpoints on disk: safetensors and JSON, whole or not at all, and no code in them."""

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from simlab.context import Catalog
from simlab.errors import BadInput
from simlab.files import write_whole
from simlab.parts import part
from simlab.rankers.contract import Ranker, Sizes, hollow

VERSION = 1
"""The version of the layout, kept in every file."""


def write_tensors(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and, in the same file's header, facts as JSON."""
    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    write_whole(path, save(plain, metadata={"simlab": json.dumps({"version": VERSION, **facts})}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote.

    Raises:
        BadInput: if the file is missing, damaged or not ours.
    """
    if not path.is_file():
        raise BadInput(f"there is no file {path}")
    tensors, header = _open(path)
    try:
        facts = json.loads(header) if header is not None else None
    except ValueError as error:
        raise BadInput(f"{path} is damaged or not a safetensors file ({error})") from error
    if not isinstance(facts, dict):
        raise BadInput(f"{path} was not written by simlab: its header says nothing of it")
    _check_version(path, facts)
    return tensors, facts


def _open(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """Return the tensors of a safetensors file, and what its header holds of ours."""
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("simlab")
            return {key: file.get_tensor(key) for key in file.keys()}, header  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput(f"{path} is damaged or not a safetensors file ({error})") from error


def first_line(error: Exception) -> str:
    """Return the kind and the first line of another library's error, to stand in our one sentence."""
    return " ".join([type(error).__name__, *str(error).splitlines()[:1]])


def _check_version(path: Path, facts: dict[str, Any]) -> None:
    """Refuse a layout that this version does not know."""
    found = facts.get("version")
    if found != VERSION:
        raise BadInput(f"{path} has version {found}, but this simlab reads version {VERSION}")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        BadInput: if the file is missing or is no JSON object.
    """
    if not path.is_file():
        raise BadInput(f"there is no file {path}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is damaged or not JSON ({error})") from error
    if not isinstance(value, dict):
        raise BadInput(f"{path} holds a JSON {type(value).__name__}, not an object")
    return value


def save_ranker(ranker: Ranker, folder: Path) -> None:
    """Write a ranker's weights and settings into a folder.

    The weights' file is named by its content, and `ranker.json` names it; the rename of `ranker.json` is the
    moment at which the new ranker replaces the old one.
    """
    data = save({k: v.detach().cpu().contiguous() for k, v in ranker.state_dict().items()})
    name = f"weights-{hashlib.sha256(data).hexdigest()[:16]}.safetensors"
    write_whole(folder / name, data)
    settings = {"version": VERSION, **ranker.settings(), "weights": name}
    write_whole(folder / "ranker.json", (json.dumps(settings, indent=2) + "\n").encode())
    for old in folder.glob("weights-*.safetensors"):
        if old.name != name:
            old.unlink()


def load_ranker(folder: Path, catalog: Catalog | None = None) -> Ranker:
    """Read what `save_ranker` wrote; the ranker is on the CPU and in eval mode.

    Args:
        folder: where it is.
        catalog: the items; by default what was saved of them with the weights.

    Raises:
        BadInput: naming the file that is missing, damaged, or does not fit the settings.
    """
    where = folder / "ranker.json"
    settings = read_json(where)
    _check_version(where, settings)
    try:
        family = part("ranker", str(settings["ranker"]))
        # JSON has no tuples; every sequence in a frozen spec is one.
        spec = {k: tuple(v) if isinstance(v, list) else v for k, v in settings["spec"].items()}
        weights = str(settings["weights"])
        if Path(weights).name != weights:
            raise BadInput(f"{where}: the weights' file {weights} is outside the folder")
        sizes = Sizes(**settings["sizes"] | {"categories": tuple(settings["sizes"].get("categories", ()))})
        if catalog is None and "catalog" in settings:
            catalog = hollow(settings["catalog"], sizes.n_items)
        ranker = family.build(sizes, spec, catalog)  # type: ignore[attr-defined]
    except BadInput:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadInput(f"{where} does not describe a ranker ({first_line(error)})") from error
    assert isinstance(ranker, Ranker)
    path = folder / weights
    if not path.is_file():
        raise BadInput(f"there is no file {path}, which {where} names")
    restore(ranker, _open(path)[0], path)
    return ranker.eval()


def restore(ranker: Ranker, tensors: dict[str, Tensor], path: Path) -> None:
    """Put weights into a ranker.

    Raises:
        BadInput: naming the first weight that is missing, unknown or of another shape.
    """
    own = ranker.state_dict()
    for key in sorted(own.keys() | tensors.keys()):
        if key not in tensors or key not in own:
            what = "lacks" if key in own else "has an unknown"
            raise BadInput(f"{path} {what} weight {key} of ranker {ranker.name}")
        if own[key].shape != tensors[key].shape:
            raise BadInput(f"{path}: weight {key} is {list(tensors[key].shape)}, not {list(own[key].shape)}")
    ranker.load_state_dict(tensors)
