"""Algorithms on disk: one safetensors file whose header is JSON. Nothing in it is code."""

from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from simlab.errors import BadInput

Kept = TypeVar("Kept")


def file_of(path: str | Path) -> Path:
    """Return the file that a name stands for: `.safetensors` is added where there is no ending.

    Raises:
        BadInput: for another ending, such as a `.zip` of stable-baselines3, which may hold code.
    """
    path = Path(path)
    if path.suffix == "":
        return path.with_name(path.name + ".safetensors")
    if path.suffix != ".safetensors":
        raise BadInput(
            f"{path} ends in {path.suffix}, but weights are kept as .safetensors, which is never code"
        )
    return path


def space_json(space: spaces.Space[Any]) -> dict[str, Any]:
    """Return a space as JSON.

    Raises:
        BadInput: for a kind of space that slates do not need.
    """
    if isinstance(space, spaces.Dict):
        return {"kind": "Dict", "of": {k: space_json(v) for k, v in space.spaces.items()}}
    if isinstance(space, spaces.Box):
        low, high = (_short(x) for x in (space.low, space.high))
        return {
            "kind": "Box",
            "low": low,
            "high": high,
            "shape": list(space.shape),
            "dtype": str(space.dtype),
        }
    if isinstance(space, spaces.MultiDiscrete):
        return {"kind": "MultiDiscrete", "nvec": space.nvec.tolist()}
    if isinstance(space, spaces.Discrete):
        return {"kind": "Discrete", "n": int(space.n)}
    raise BadInput(f"a {type(space).__name__} space cannot be kept: it is no space of slates")


def space_of(facts: Any) -> spaces.Space[Any]:
    """Return the space that `space_json` described.

    Raises:
        BadInput: for anything else.
    """
    try:
        match facts["kind"]:
            case "Dict":
                return spaces.Dict({k: space_of(v) for k, v in facts["of"].items()})
            case "Box":
                shape, dtype = tuple(facts["shape"]), np.dtype(facts["dtype"])
                low, high = (
                    np.array(np.broadcast_to(np.asarray(facts[e], dtype=dtype), shape))
                    for e in ("low", "high")
                )
                kind: Any = dtype.type
                return spaces.Box(low, high, dtype=kind)
            case "MultiDiscrete":
                return spaces.MultiDiscrete(facts["nvec"])
            case "Discrete":
                return spaces.Discrete(facts["n"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"the file does not describe a space ({type(error).__name__} {error})") from error
    raise BadInput(f"the file describes a {facts['kind']} space, which is no space of slates")


def _short(ends: Any) -> Any:
    """Return one number where all are the same."""
    flat = ends.reshape(-1)
    return flat[0].item() if len(flat) and bool((flat == flat[0]).all()) else ends.tolist()


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return what an optimiser remembers, by the number of the parameter and the name."""
    found = {}
    for number, kept in optimizer.state_dict()["state"].items():
        for name, value in kept.items():
            found[f"{number}.{name}"] = value if isinstance(value, Tensor) else torch.tensor(value)
    return found


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def flat_tensors(value: Any, prefix: str = "") -> dict[str, Tensor]:
    """Return the tensors of nested dataclasses and tuples by their paths.

    >>> sorted(flat_tensors((torch.zeros(1), (torch.ones(2),))))
    ['.0', '.1.0']
    """
    if isinstance(value, Tensor):
        return {prefix: value}
    if isinstance(value, tuple | list):
        return {k: v for i, x in enumerate(value) for k, v in flat_tensors(x, f"{prefix}.{i}").items()}
    if is_dataclass(value):
        parts = ((f.name, getattr(value, f.name)) for f in fields(value))
        return {k: v for name, x in parts for k, v in flat_tensors(x, f"{prefix}.{name}").items()}
    return {}


def filled(template: Kept, tensors: dict[str, Tensor], prefix: str = "") -> Kept:
    """Return a copy of nested dataclasses with other tensors; a tuple becomes as long as what was kept."""
    if prefix in tensors:
        return tensors[prefix]  # type: ignore[return-value]
    below = {k for k in tensors if k.startswith(prefix + ".")}
    if isinstance(template, tuple):
        count = len({k[len(prefix) + 1 :].partition(".")[0] for k in below})
        return tuple(_nested(tensors, f"{prefix}.{i}") for i in range(count))  # type: ignore[return-value]
    if is_dataclass(template):
        parts = ((f.name, getattr(template, f.name)) for f in fields(template))
        new = {name: filled(value, tensors, f"{prefix}.{name}") for name, value in parts}
        return replace(template, **new)  # type: ignore[type-var]
    return template


def _nested(tensors: dict[str, Tensor], prefix: str) -> Any:
    """Return a tensor, or a tuple of them."""
    if prefix in tensors:
        return tensors[prefix]
    count = len({k[len(prefix) + 1 :].partition(".")[0] for k in tensors if k.startswith(prefix + ".")})
    return tuple(_nested(tensors, f"{prefix}.{i}") for i in range(count))
