"""`simlab doctor`: is this installation fit to be trusted?"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import simlab
from simlab.lab import names
from simlab.lab.runs import versions

if TYPE_CHECKING:
    from simlab.lab.options import DoctorConfig


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: what was looked at.
        well: whether it is as it should be.
        words: what was seen, or what is wrong and what to do.
    """

    check: str
    well: bool
    words: str


def run_doctor(config: "DoctorConfig") -> int:
    """Print every check, and return 1 if one of them failed."""
    import rich.box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    findings = examine()
    table = Table("check", "", "finding", box=rich.box.SIMPLE, pad_edge=False)
    for f in findings:
        table.add_row(
            Text(f.check), Text("ok", "green") if f.well else Text("WRONG", "bold red"), Text(f.words)
        )
    console = Console(highlight=False)
    console.print(table)
    wrong = [f for f in findings if not f.well]
    if wrong:
        console.print(f"{len(wrong)} of {len(findings)} checks found something wrong.")
        return 1
    console.print("All is well.")
    return 0


def examine() -> list[Finding]:
    """Make every check."""
    found = [Finding(name, True, version) for name, version in versions().items() if name != "device"]
    found += [guarded(name, check) for name, check in CHECKS.items()]
    return found


def guarded(name: str, check: Callable[[], tuple[bool, str]]) -> Finding:
    """Make one check; a check that breaks is a finding too."""
    try:
        well, words = check()
    except Exception as error:  # whatever breaks here is what the doctor is asked to find
        return Finding(name, False, f"{type(error).__name__}: {error}")
    return Finding(name, well, words)


def _device() -> tuple[bool, str]:
    import torch

    if torch.cuda.is_available():
        return True, f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    return True, "CPU"


def _threads() -> tuple[bool, str]:
    import torch

    return True, f"{torch.get_num_threads()} torch threads, {os.cpu_count()} cores"


def _names() -> tuple[bool, str]:
    home = Path(simlab.__file__).resolve().parent.parent
    strangers = names.owners()
    for name in names.OURS:
        place = names.location(name)
        if place != home or name in strangers:
            return False, names.clash(name, place, strangers.get(name, []))
    return True, f"{', '.join(names.OURS)} are ours, in {home}"


def _requirements() -> tuple[bool, str]:
    """Compare what is installed with what simlab's own metadata asks for."""
    from packaging.requirements import Requirement

    try:
        wanted = metadata.requires("simlab") or []
    except metadata.PackageNotFoundError:
        return False, "simlab is not installed; run pip install -e . in its folder"
    unmet = []
    for line in wanted:
        need = Requirement(line)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            have = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            unmet.append(f"{need.name} is missing")
            continue
        if not need.specifier.contains(have, prereleases=True):
            unmet.append(f"{need.name} is {have}, but {need.specifier} is needed")
    if unmet:
        return False, "; ".join(unmet)
    return True, "all required packages are there"


def _tested_versions() -> tuple[bool, str]:
    """Compare what is installed with the tested set, where the project's folder is at hand."""
    from packaging.requirements import Requirement

    file = Path(simlab.__file__).resolve().parent.parent / "constraints.txt"
    if not file.is_file():
        return True, "constraints.txt is not here, so the tested set is not compared"
    different = []
    for line in file.read_text("utf-8").splitlines():
        line = line.split("#")[0].strip()
        if not line or line.startswith("-"):
            continue
        need = Requirement(line)
        try:
            have = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            continue
        if not need.specifier.contains(have, prereleases=True):
            different.append(f"{need.name} {have} (tested: {need.specifier})")
    if different:
        return True, "other than the tested set, which may be fine: " + ", ".join(different)
    return True, "the tested set of constraints.txt"


def _world() -> tuple[bool, str]:
    """Run a small world twice with one seed: same bits, and clicks as often as the truth says."""
    import torch

    from envs.users.feed import Feed, FeedSpec
    from simlab.seeds import Seed

    world = Feed(FeedSpec(items=100, slots=5))
    users, seed = 4000, Seed(1)
    slate = torch.arange(5).expand(users, 5)
    state = world.reset(users, seed)
    _, first = world.step(state, slate, seed)
    _, again = world.step(world.reset(users, seed), slate, seed)
    if not torch.equal(first.click, again.click):
        return False, "the same seed gave two results"
    truth = world.expected(state, slate).double()
    gap = float((first.click - truth).sum()) / float((truth * (1 - truth)).sum()) ** 0.5
    if abs(gap) > 5:
        return False, f"clicks are {gap:.1f} standard errors away from their true probability"
    return True, f"same seed, same bits; clicks {gap:+.1f} standard errors from the truth"


def _estimator() -> tuple[bool, str]:
    """Evaluate a policy on a listed population, where the answer is known."""
    import torch

    from causal.contract import Rounds, value
    from simlab.parts import part

    logger = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    target = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)
    reward = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    listed = torch.tensor([0, 0, 1, 2])  # every action as often as the logger plays it
    truth = float((target * reward).sum())
    rounds = Rounds(reward[listed], (target / logger)[listed])
    seen = value(part("estimator", "snips")().score(rounds))
    if abs(seen - truth) > 1e-12:
        return False, f"SNIPS says {seen} where the truth is {truth}"
    return True, f"SNIPS is exact on a listed population ({seen:.3f})"


CHECKS: dict[str, Callable[[], tuple[bool, str]]] = {
    "device": _device,
    "threads": _threads,
    "names": _names,
    "requirements": _requirements,
    "versions": _tested_versions,
    "world": _world,
    "estimator": _estimator,
}
