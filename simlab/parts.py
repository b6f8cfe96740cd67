"""The catalogue of parts: find them by walking the folders.

A part is one file. The file's name is the part's name on the command line.
"""

import importlib
import inspect
import pkgutil
from functools import cache

from simlab.errors import BadInput, nearest

FOLDERS = {
    "ranker": ("simlab.rankers",),
    "policy": ("simlab.policies",),
    "world": ("envs.users",),
    "click model": ("envs.clicks",),
    "agent": ("agents", "agents.actor_critic", "agents.value", "agents.bandits", "agents.two_stage"),
    "estimator": ("causal.bandit",),
    "slate estimator": ("causal.slate",),
    "trajectory estimator": ("causal.rl",),
    "uplift learner": ("causal.uplift",),
    "dataset": ("simlab.datasets",),
    "trial": ("causal.trials",),
}
"""Where the parts of each kind live."""

_NOT_PARTS = {"contract", "guards"}


def names(kind: str) -> list[str]:
    """Return the names of the parts of a kind, without importing them.

    >>> "snips" in names("estimator")
    True
    """
    return sorted(_homes(kind))


def _homes(kind: str) -> dict[str, str]:
    """Return the folder of each part."""
    found: dict[str, str] = {}
    for folder in FOLDERS[kind]:
        package = importlib.import_module(folder)
        for module in pkgutil.iter_modules(package.__path__):
            if not (module.ispkg or module.name in _NOT_PARTS or module.name.startswith("_")):
                found[module.name] = folder
    return found


@cache
def part(kind: str, name: str) -> type:
    """Import one part: the class that its file defines.

    A file that defines several public classes says which one is the part with `PART = TheClass`.

    Raises:
        BadInput: for a name that is not there, with the nearest one.
    """
    key = name.replace("-", "_")
    if key not in names(kind):
        raise BadInput(f"there is no {kind} named {name}{nearest(key, names(kind))}")
    module = importlib.import_module(f"{_homes(kind)[key]}.{key}")
    if hasattr(module, "PART"):
        chosen = module.PART
        assert isinstance(chosen, type)
        return chosen
    own = [
        c
        for n, c in vars(module).items()
        if inspect.isclass(c) and c.__module__ == module.__name__ and not n.startswith("_")
    ]
    if len(own) != 1:
        raise RuntimeError(
            f"{module.__name__} defines {len(own)} public classes; name the part with PART = …"
        )
    return own[0]


def all_parts(kind: str) -> dict[str, type]:
    """Import every part of a kind, by name."""
    return {name: part(kind, name) for name in names(kind)}
