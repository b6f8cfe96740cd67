"""Does somebody else own a folder of ours? `agents`, `envs` and `causal` are common names."""

import importlib.util
from importlib import metadata
from pathlib import Path

import simlab
from simlab.errors import BadInput

OURS = ("simlab", "envs", "agents", "causal")


def check_names() -> None:
    """Refuse to run with a stranger's package under one of our names.

    Quick: no metadata is read if all is well.

    Raises:
        BadInput: naming the package, where it lies and, where known, who installed it.
    """
    home = Path(simlab.__file__).resolve().parent.parent
    for name in OURS[1:]:
        place = location(name)
        if place is None or place != home or not (home / name / "contract.py").is_file():
            raise BadInput(clash(name, place, owners().get(name, [])))


def location(name: str) -> Path | None:
    """Return the folder that holds the top-level package of this name, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).resolve().parent.parent


def owners() -> dict[str, list[str]]:
    """Return the other installed distributions that own one of our top-level names."""
    found = metadata.packages_distributions()
    strangers = {name: sorted({d for d in found.get(name, ()) if d.lower() != "simlab"}) for name in OURS}
    return {name: who for name, who in strangers.items() if who}


def clash(name: str, place: Path | None, who: list[str]) -> str:
    """Say in one sentence what is wrong with a name and what to do."""
    if who:
        owner = ", ".join(who)
        return f"the package {name} belongs to the installed {owner}; use an environment without it"
    if place is None:
        return f"the package {name} of simlab is missing; install simlab again"
    return f"the package {name} is found in {place}, which is not simlab's; use an environment without it"
