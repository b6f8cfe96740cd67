"""Training speed and latency of the rankers on one core, beside well-known libraries in the same run.

The data are made: as many users, items and clicks as MovieLens 100K, items by Zipf's law, so that nothing has
to be fetched. Training goes through `fit`, everything included: negatives, batches, the optimiser. The peers
come from PyPI, each in its own environment, and run on the same data at the same sizes: RecTools (SASRec),
torch-rechub (DeepFM, DIN), cornac (BPR). RecBole 1.2.1 does not install beside NumPy 2; on the real
MovieLens 100K it was measured at 413 targets, 80,000 rows and 330,000 pairs a CPU second.

    python benchmarks/rankers.py                     # about ten minutes, and the peers' installation once
    python benchmarks/rankers.py --quick --no-peer
    python benchmarks/rankers.py --device cuda       # wall seconds, synchronised; larger batches
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.harness import (
    Row,
    arguments,
    finish,
    machine,
    median_seconds,
    peer_environment,
    peer_json,
    write_page,
)  # fmt: skip
from benchmarks.peers_rankers import (
    BPR_SCRIPT,
    CORNAC,
    DEEPFM_SCRIPT,
    DIN_SCRIPT,
    RECHUB,
    RECTOOLS,
    RECTOOLS_SCRIPT,
)  # fmt: skip
from simlab.context import Catalog, Context, Field
from simlab.log import Log
from simlab.parts import all_parts, part
from simlab.rankers.contract import Ranker, Sizes
from simlab.seeds import Seed
from simlab.training.fit import FitSettings, fit

USERS, ITEMS = 943, 1682
NAMES = ("user", "age", "gender", "occupation", "item", "year", "class")
SIZES = (USERS, 61, 2, 21, ITEMS, 72, 216)
"""The fields of the click-through rows, and how many values each has (as in MovieLens 100K)."""


def clicks(seed: int = 0) -> Log:
    """Return about 98,000 clicks in time order, each user's without repeats."""
    g = np.random.default_rng(seed)
    share = 1 / np.arange(1, ITEMS + 1) ** 0.8
    counts = np.clip(g.lognormal(4.2, 0.95, USERS), 18, 735).astype(int)
    user = np.repeat(np.arange(USERS), counts)
    item = np.concatenate([g.choice(ITEMS, n, replace=False, p=share / share.sum()) for n in counts])
    step = np.concatenate([np.arange(n) for n in counts])
    n = len(user)
    return Log(
        user=torch.from_numpy(user),
        slate=torch.from_numpy(item).unsqueeze(1),
        propensity=torch.ones(n, dtype=torch.float64),
        reward=torch.ones(n, dtype=torch.float64),
        click=torch.ones(n, 1),
        step=torch.from_numpy(step),
        n_items=ITEMS,
    )


def rows(log: Log, seed: int = 1) -> tuple[Log, Catalog]:
    """Return the clicks as labelled rows with the categories of users and items."""
    g = torch.Generator().manual_seed(seed)
    of_user = torch.stack([torch.randint(0, s, (USERS,), generator=g) for s in SIZES[1:4]], dim=1)
    fields = tuple(
        Field(name, torch.randint(0, size, (ITEMS, 1), generator=g), size)
        for name, size in zip(NAMES[5:], SIZES[5:], strict=True)
    )
    label = (torch.rand(len(log), 1, generator=g) < 0.55).float()
    values = {f: getattr(log, f) for f in ("user", "slate", "propensity", "n_items", "step")}
    labelled = Log(
        **values,
        reward=label[:, 0].double(),
        click=label,
        categories=of_user[log.user],
        category_sizes=SIZES[1:4],
    )
    return labelled, Catalog(torch.zeros(ITEMS, 0), fields=fields)


def rate(
    family: str,
    log: Log,
    spec: dict[str, Any],
    how: dict[str, Any],
    device: str,
    catalog: Catalog | None = None,
) -> float:
    """Return examples per second of `fit`: CPU seconds of the difference of a short and a long run."""
    kind = part("ranker", family)
    assert issubclass(kind, Ranker)
    epochs = how.pop("measure", 3)

    def run(n: int) -> tuple[float, float]:
        ranker = kind.build(Sizes.of(log), spec, catalog, Seed(0)).to(device)
        settings = FitSettings.of(ranker, **{**how, "epochs": n, "validation": 0.0, "device": device})
        clock = time.process_time if device == "cpu" else time.perf_counter
        start = clock()
        done = fit(ranker, log, seed=Seed(0), settings=settings)
        if device != "cpu":
            torch.cuda.synchronize()
        return clock() - start, done.rows_per_second * done.seconds

    run(1)
    (short, one), (long, many) = run(1), run(1 + epochs)
    return (many - one) / (long - short)


def latency(family: str, spec: dict[str, Any], past: int, device: str, repeat: int) -> float:
    """Return seconds of one user with 1,000 candidates, given the history's ids."""
    kind = part("ranker", family)
    assert issubclass(kind, Ranker)
    ranker = kind.build(Sizes(USERS, ITEMS), spec, None, Seed(0)).to(device).eval()
    context = Context.of(
        torch.zeros(1, dtype=torch.long),
        ITEMS,
        history=torch.randint(0, ITEMS, (1, past), generator=Seed(1).torch()),
        feedback=torch.ones(1, past),
        candidates=torch.arange(1000).unsqueeze(0),
    ).to(device)

    def ask() -> None:
        with torch.no_grad():
            ranker.score(context)

    return median_seconds(ask, repeat, sync=None if device == "cpu" else torch.cuda.synchronize)


def main() -> None:
    """Measure, print, write."""
    options = arguments(__doc__ or "")
    torch.set_num_threads(1)
    device, quick, gpu = options.device, options.quick, options.device != "cpu"
    found: list[Row] = []
    log = clicks()
    labelled, catalog = rows(log)
    with tempfile.TemporaryDirectory() as folder:
        files = _write(Path(folder), log, labelled, catalog)

        def add(
            name: str, unit: str, value: float, peer: str, theirs: Callable[[], float | None], **settings: Any
        ) -> None:
            their = None if options.no_peer or gpu else theirs()
            ratio = None if their is None else (their / value if unit.startswith("ms") else value / their)
            known = peer if their is not None else None
            found.append(Row(name, value, unit, known, their, ratio, settings, device))
            print(
                f"{name}: {value:,.4g} {unit}" + ("" if their is None else f"; {peer} {their:,.4g}"),
                flush=True,
            )

        epochs = 1 if quick else 3
        batch = 1024 if gpu else 128
        how = {"unit": "token", "loss": "softmax", "bf16": True, "min_steps": 1, "batch_size": batch * 104}
        how |= {"compile": gpu, "measure": epochs}
        spec = {"dim": 64, "past": 200}
        targets = len(log) - USERS
        python = _peer("rectools", RECTOOLS, options.no_peer or gpu)
        add(
            "SASRec, L 200, d 64, full softmax",
            "targets / s",
            rate("sasrec", log, spec, how, device),
            "RecTools 0.19.0",
            lambda: _over(targets, _ask(python, RECTOOLS_SCRIPT, files["clicks"], "1" if quick else "2")),
            **spec,
        )
        python = _peer("torch-rechub", RECHUB, options.no_peer or gpu)
        size = 65536 if gpu else 4096
        spec = {"dim": 10, "layers": (128, 128, 128), "past": 0}
        how = {"loss": "bce", "negatives": 0, "batch_size": size, "min_steps": 1, "measure": 2 * epochs}
        add(
            "DeepFM, 7 fields, d 10, MLP 128-128-128",
            "rows / s",
            rate("deepfm", labelled, spec, how, device, catalog),
            "torch-rechub 0.9.0",
            lambda: _ask(python, DEEPFM_SCRIPT, files["rows"], "1" if quick else "3", str(size)),
            **spec,
            batch=size,
        )
        spec = {"dim": 32, "past": 50}
        add(
            "DIN, one user, 1,000 candidates, H 50",
            "ms",
            1e3 * latency("din", spec, 50, device, 5 if quick else 30),
            "torch-rechub 0.9.0",
            lambda: _thousand(_ask(python, DIN_SCRIPT, "5" if quick else "30", "32", "50")),
            **spec,
        )
        python = _peer("cornac", CORNAC, options.no_peer or gpu)
        spec = {"dim": 64, "past": 0}
        size = 262144 if gpu else 32768
        how = {"loss": "bpr", "negatives": 1, "batch_size": size, "min_steps": 1, "measure": 10 * epochs}
        add(
            "BPR, 64 factors",
            "pairs / s",
            rate("bpr", log, spec, how, device) / 2,  # two examples a pair
            "cornac 3.0.1",
            lambda: _ask(python, BPR_SCRIPT, files["clicks"], "1" if quick else "3"),
            **spec,
            batch=size,
        )
        if not quick:
            for family in sorted(all_parts("ranker")):
                value = 1e3 * latency(family, {}, 50, device, 10)
                found.append(
                    Row(f"{family}: one user, 1,000 candidates", value, "ms", settings={}, device=device)
                )
    clock = "CPU seconds" if device == "cpu" else "wall seconds"
    finish(f"Rankers, {clock}, one core", found, options.json)
    if options.markdown:
        write_page(options.markdown, page(found, device))


def page(found: list[Row], device: str) -> list[str]:
    """Return the tables as a page."""
    clock = "CPU seconds on one core" if device == "cpu" else "wall seconds"
    lines = [
        "# Speed of the rankers",
        "",
        "Made by `python benchmarks/rankers.py --markdown docs/rankers-speed.md` on",
    ]
    lines += [f"{machine()}; device {device}; {clock}, peers in the same run.", ""]
    lines += ["| what | value | unit | peer | its value | ratio |", "|---|---:|---|---|---:|---:|"]
    for r in found:
        if r.settings:
            peer = "" if r.peer_value is None else f"{r.peer_value:,.4g}"
            ratio = "" if r.ratio is None else f"{r.ratio:,.1f}"
            lines.append(f"| {r.name} | {r.value:,.4g} | {r.unit} | {r.peer or ''} | {peer} | {ratio} |")
    lines += ["", "Latency of one user with 1,000 candidates and 50 past items, settings as they come:", ""]
    lines += ["| family | ms |", "|---|---:|"]
    lines += [f"| {r.name.partition(':')[0]} | {r.value:.2f} |" for r in found if not r.settings]
    return lines


def _write(folder: Path, log: Log, labelled: Log, catalog: Catalog) -> dict[str, str]:
    """Write the data for the peers."""
    assert log.step is not None
    assert labelled.click is not None
    assert labelled.categories is not None
    item = log.slate[:, 0]
    np.savez(folder / "clicks.npz", user=log.user.numpy(), item=item.numpy(), step=log.step.numpy())
    of_item = [f.values[item, 0] for f in catalog.fields]
    columns = [log.user, *labelled.categories.unbind(1), item, *of_item]
    np.savez(
        folder / "rows.npz",
        names=np.array(NAMES),
        sizes=np.array(SIZES),
        columns=torch.stack(columns, dim=1).numpy(),
        label=labelled.click[:, 0].numpy(),
    )
    return {name: str(folder / f"{name}.npz") for name in ("clicks", "rows")}


def _peer(name: str, steps: Any, skip: bool) -> Path | None:
    return None if skip else peer_environment(name, steps)


def _ask(python: Path | None, script: str, *args: str) -> float | None:
    found = None if python is None else peer_json(python, script, *args)
    return None if found is None else float(found)


def _over(count: float, seconds: float | None) -> float | None:
    return None if seconds is None else count / seconds


def _thousand(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


if __name__ == "__main__":
    main()
