"""Do intervals of effects hold, and does uplift beat probability, in a world whose truth is known?

Logs come from `Promotion-v0`: coverage of average effects and of effects by decile, what confounding does,
and whom two policies treat, all beside the truth. Logs are kept in a folder as they are made, so a run that
was stopped goes on where it was.

    python benchmarks/uplift_promotion.py --markdown docs/uplift-promotion.md    # an hour of one core
    python benchmarks/uplift_promotion.py --quick
    python benchmarks/uplift_promotion.py --minutes 10    # begins nothing new after ten minutes
"""

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._promotion_cells import CELLS, SETTINGS, SLOTS, STEPS, USERS, Found
from benchmarks._promotion_counts import POPULATION, averages, deciles, gaps
from benchmarks._promotion_page import page
from benchmarks.harness import Row, finish, write_page
from simlab.files import write_whole
from simlab.statistics import mean_interval

CONFOUNDED = ("observed confounding", "heavy confounding")
CHUNK = 10
"""Logs that a process makes at once."""


@dataclass(frozen=True)
class Plan:
    """One cell of the page: which logs, and how many.

    Attributes:
        cell: name in `CELLS`.
        setting: name in `SETTINGS`.
        n: rows of a log.
        logs: how many.
    """

    cell: str
    setting: str
    n: int
    logs: int

    @property
    def file(self) -> str:
        """The name of the file that keeps its logs."""
        return f"{self.cell}-{self.setting.replace(',', '').replace(' ', '-')}-{self.n}.json"


PLANS = (
    *(Plan("scores", s, 3000, 1000) for s in SETTINGS),
    *(Plan("fresh", s, 3000, 600) for s in SETTINGS),
    Plan("slates", "experiment, chances estimated", 20_000, 40),
    Plan("slates", "observed confounding", 20_000, 40),
    Plan("clustered", "experiment", 3000, 600),
    *(Plan("learners", s, 3000, 300) for s in SETTINGS),
    *(Plan("dear", s, 3000, 60) for s in ("experiment", *CONFOUNDED)),
)


def made(plan: Plan, logs: Sequence[int]) -> tuple[Plan, list[int], list[Found]]:
    """Make some logs of a plan."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, of EconML's habits
        return plan, list(logs), [CELLS[plan.cell](plan.setting, plan.n, log) for log in logs]


def kept_in(folder: Path, plan: Plan) -> dict[int, Found]:
    """Return all logs that are there, by their number."""
    path = folder / plan.file
    kept = json.loads(path.read_text()) if path.exists() else {}
    return {int(log): found for log, found in kept.items()}


def read(folder: Path, plan: Plan) -> dict[int, Found]:
    """Return the logs of the plan that are there; an earlier run may have made more."""
    return {log: found for log, found in kept_in(folder, plan).items() if log < plan.logs}


def run(plans: Sequence[Plan], folder: Path, processes: int, minutes: float) -> None:
    """Make the logs that are not there yet, in turns of all plans; keep each piece as it comes."""
    kept = {plan: kept_in(folder, plan) for plan in plans}
    until = time.monotonic() + 60 * minutes
    waiting: list[tuple[float, Plan, list[int]]] = []
    for plan in plans:
        rest = [log for log in range(plan.logs) if log not in kept[plan]]
        for i in range(0, len(rest), CHUNK):
            waiting.append((rest[i] / plan.logs, plan, rest[i : i + CHUNK]))
    waiting.sort(key=lambda piece: piece[0])  # all plans grow alike, so a stopped run still says something
    if not waiting:
        return

    def pieces() -> Iterator[tuple[Plan, list[int]]]:
        for _, plan, logs in waiting:
            if time.monotonic() < until:
                yield plan, logs

    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # of the processes, which are the parallel part
        os.environ[name] = "1"
    with multiprocessing.get_context("spawn").Pool(processes) as pool, Progress() as progress:
        bar = progress.add_task("logs", total=sum(len(logs) for *_, logs in waiting))
        running: list[multiprocessing.pool.AsyncResult[tuple[Plan, list[int], list[Found]]]] = []
        left = pieces()
        while True:
            while len(running) < 2 * processes and (new := next(left, None)) is not None:
                running.append(pool.apply_async(made, new))
            if not running:
                break
            ready = next((i for i, piece in enumerate(running) if piece.ready()), None)
            if ready is None:  # pieces take from one second to a minute, so none waits for another
                time.sleep(0.05)
                continue
            plan, logs, found = running.pop(ready).get()
            kept[plan] |= dict(zip(logs, found, strict=True))
            write_whole(folder / plan.file, json.dumps(kept[plan]).encode())
            progress.update(bar, advance=len(logs), description=f"{plan.cell}, {plan.setting}")


def rows(plans: Sequence[Plan], folder: Path) -> list[Row]:
    """Return the numbers for the table on the screen and for JSON."""
    out = []
    for p in plans:
        found = read(folder, p)
        where = {"setting": p.setting, "rows": p.n, "logs": len(found)}
        if p.cell == "slates" and len(found) > 1:
            apart = [log["exact"]["effect"] - log["exact"]["probability"] for log in found.values()]
            s = mean_interval(apart)
            settings = where | {"low": s.low, "high": s.high, "users": USERS, "steps": STEPS, "slots": SLOTS}
            out.append(Row(f"slates by effect, {p.setting}", s.mean, "purchases a step", settings=settings))
        elif p.cell == "fresh":
            for d in deciles(found):
                settings = where | {"each": d.covered.tolist()}
                name = f"deciles, {d.name}, {p.setting}"
                out.append(Row(name, 100 * float(d.covered.mean()), "% held", settings=settings))
            for g in gaps(found):
                settings = where | {"low": g.truth.low, "high": g.truth.high, "coverage": g.covered}
                out.append(Row(f"gap, {g.name}, {p.setting}", g.truth.mean, "purchases", settings=settings))
        elif p.cell != "slates":
            for c in averages(found, POPULATION):
                settings = where | {"bias": c.bias, "claimed": c.stderr, "spread": c.spread}
                out.append(Row(f"{c.name}, {p.setting}", 100 * c.population, "% held", settings=settings))
    return out


def paged(plans: Sequence[Plan], folder: Path) -> list[str]:
    """Return the lines of the page, from the logs that are there."""
    found = {(p.cell, p.setting): read(folder, p) for p in plans}
    whole = all(len(found[p.cell, p.setting]) == p.logs for p in plans)
    return page(found, "python benchmarks/uplift_promotion.py", whole)


def main() -> None:
    """Make the logs, print the table, write the page."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--quick", action="store_true", help="under a minute: a few logs of each cell")
    ask.add_argument("--json", type=Path, help="write the rows to this file")
    ask.add_argument("--markdown", type=Path, help="write the page here")
    ask.add_argument(
        "--device", default="cpu", choices=["cpu"], help="logs are small: there is nothing for a GPU"
    )
    ask.add_argument(
        "--out", type=Path, default=Path("runs/uplift-promotion"), help="folder of finished logs"
    )
    ask.add_argument("--processes", type=int, default=1)
    ask.add_argument("--minutes", type=float, default=math.inf, help="begin nothing new after so many")
    given = ask.parse_args()
    few = {"scores": 20, "fresh": 10, "slates": 2, "clustered": 10, "learners": 4, "dear": 1}
    plans = [Plan(p.cell, p.setting, p.n, few[p.cell]) for p in PLANS] if given.quick else PLANS
    run(plans, given.out, given.processes, given.minutes)
    finish("uplift in the promotion world", rows(plans, given.out), given.json)
    if given.markdown:
        write_page(given.markdown, paged(plans, given.out))


if __name__ == "__main__":
    main()
