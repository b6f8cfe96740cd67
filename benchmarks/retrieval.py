"""Latency of retrieval at recall .97 of a million items on one core, beside faiss alone and plain torch.

Two sets of vectors, 64 wide. "clustered": 1,000 centres by a standard Gaussian, and as much Gaussian spread
around each: structure, as trained vectors have. "isotropic": Gaussian without any, the hard case. Queries
are drawn like the items. HNSW is built from 100,000 items only: a million take minutes.

Recall is the share of the true best 100 that is found. Each index is tuned on 128 queries (`Retriever.tune`)
until it finds .97, and judged by 256 others. The peer of an index is the same index asked by faiss itself, so
the ratio shows our overhead; the peer of the exact search is one product and one `topk` in torch.

    python benchmarks/retrieval.py                # about four minutes of one core
    python benchmarks/retrieval.py --quick        # 100,000 items
    python benchmarks/retrieval.py --device cuda  # the exact search; wall seconds, synchronised
"""

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.harness import Row, arguments, finish, machine, median_seconds, write_page
from simlab.errors import BadInput
from simlab.retrieval import Retriever, RetrieverSettings
from simlab.retrieval.index import faiss
from simlab.seeds import Seed

DIM, COUNT, QUERIES = 64, 100, 256
PLANS = (
    ("exact", 1_000_000, RetrieverSettings("exact")),
    ("ivf", 1_000_000, RetrieverSettings("ivf")),
    ("pq", 1_000_000, RetrieverSettings("pq")),
    ("hnsw", 100_000, RetrieverSettings("hnsw")),
)
"""Name, items, settings."""


def vectors(kind: str, n: int, seed: int) -> Tensor:
    """Return vectors; the centres are the same for every seed."""
    g = Seed(seed).torch()
    spread = torch.randn(n, DIM, generator=g)
    if kind == "isotropic":
        return spread
    centres = torch.randn(1000, DIM, generator=Seed(0).torch())
    return spread.add_(centres[torch.randint(0, 1000, (n,), generator=g)])


def alone(retriever: Retriever, states: Tensor) -> Callable[[], Any]:
    """Return what the peer does for the same question."""
    settings, index = retriever.settings, retriever._index
    if index is None:
        items = retriever.vectors.T
        return lambda: (states @ items).topk(COUNT, dim=1)
    library, query = faiss(), states.numpy()
    made = {
        "ivf": lambda: library.SearchParametersIVF(nprobe=min(settings.probes, index.nlist)),
        "pq": lambda: library.IndexRefineSearchParameters(k_factor=float(settings.rerank)),
        "hnsw": lambda: library.SearchParametersHNSW(efSearch=max(settings.effort, COUNT)),
    }[settings.kind]()
    return lambda: index.search(query, COUNT, params=made)


def setting(retriever: Retriever) -> str:
    """Say how much a query looks at."""
    name = {"ivf": "probes", "pq": "rerank", "hnsw": "effort"}.get(retriever.settings.kind, "")
    lists = f" of {retriever._index.nlist}" if name == "probes" else ""
    return f"{name} {getattr(retriever.settings, name)}{lists}" if name else ""


def _each(work: list[Callable[[], Any]], batch: int, sync: Callable[[], Any] | None) -> float:
    """Return milliseconds of one query; single ones are different ones, so that caches are as in use."""
    return 1e3 / batch / len(work) * median_seconds(lambda: [ask() for ask in work], 3, 1, sync)


def main() -> None:
    """Measure, print, write."""
    options = arguments(__doc__ or "")
    torch.set_num_threads(1)
    device, quick = options.device, options.quick
    sync = None if device == "cpu" else torch.cuda.synchronize
    rows: list[Row] = []
    plans = PLANS[:1] if sync is not None else PLANS
    try:
        faiss().omp_set_num_threads(1)
    except BadInput as error:
        print(f"without the indices: {error}")
        plans = PLANS[:1]
    for kind in ("clustered", "isotropic"):
        whole = vectors(kind, 100_000 if quick else 1_000_000, 1).to(device)
        states = vectors(kind, QUERIES, 2).to(device)
        for name, n, settings in plans:
            begin = time.process_time()
            retriever = Retriever(whole[:n], settings)
            built = time.process_time() - begin
            n = retriever.n_items
            retriever.tune(vectors(kind, 128, 3).to(device), COUNT)
            recall = float(retriever.recall(states, COUNT).mean())
            facts = {"items": n, "dim": DIM, "count": COUNT, "recall": recall, "build_s": built}
            facts |= {"vectors": kind, "kind": name, "search": setting(retriever)}
            for batch in (1, QUERIES):
                asked = [states[i : i + batch] for i in range(0, 20 if batch == 1 else QUERIES, batch)]
                ours = _each([partial(retriever.search, some, COUNT) for some in asked], batch, sync)
                peer = None if options.no_peer else _each([alone(retriever, x) for x in asked], batch, sync)
                rows.append(
                    Row(
                        f"{name}, {kind}, {n:,} items, {batch} at once",
                        ours,
                        "ms / query",
                        None if peer is None else ("torch" if name == "exact" else "faiss"),
                        peer,
                        None if peer is None else peer / ours,
                        facts | {"batch": batch},
                        device,
                    )
                )
                print(f"{rows[-1].name}: {ours:.3f} ms, recall {recall:.3f}", flush=True)
    clock = "CPU seconds" if device == "cpu" else "wall seconds"
    finish(f"Retrieval of {COUNT}, {clock}, one core", rows, options.json)
    if options.markdown:
        write_page(options.markdown, page(rows, device))


HEAD = (
    "kind",
    "vectors",
    "items",
    "search",
    "at once",
    "ms / query",
    "peer",
    "its ms",
    "recall",
    "built in s",
)


def page(rows: list[Row], device: str) -> list[str]:
    """Return the table of docs/agents/two_stage.md."""
    lines = [f"Best {COUNT} of vectors {DIM} wide, {machine()}, one thread, device {device}:", ""]
    lines += ["| " + " | ".join(HEAD) + " |", "|---|---|---:|---|---:|---:|---|---:|---:|---:|"]
    for r in rows:
        s = r.settings
        peer = "" if r.peer_value is None else f"{r.peer_value:.3f}"
        cells = (s["kind"], s["vectors"], f"{s['items']:,}", s["search"], s["batch"], f"{r.value:.3f}")
        more = (r.peer or "", peer, f"{s['recall']:.3f}", f"{s['build_s']:.1f}")
        lines.append("| " + " | ".join(map(str, (*cells, *more))) + " |")
    return lines


if __name__ == "__main__":
    main()
