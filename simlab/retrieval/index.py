"""How an index of faiss is built and asked."""

import importlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from simlab.errors import BadInput, nearest

KINDS = ("exact", "ivf", "pq", "hnsw")
SMALL = 1000
"""Below so many items every kind searches exactly: an index would be slower."""


@dataclass(frozen=True)
class RetrieverSettings:
    """How to search.

    Attributes:
        kind: "exact". "ivf": the lists of the nearest centroids, for vectors that have clusters, as trained
            ones do. "pq": all items by 4 bits a column, then the best exactly, for vectors without any
            structure. "hnsw": a graph.
        lists: of ivf; 0 takes about 2 √items.
        probes: lists that a query of ivf looks into.
        links: of each node of hnsw.
        effort: nodes that a query of hnsw keeps in view.
        rerank: pq scores so many times `count` items exactly.
        seed: of the centroids.

    Raises:
        BadInput: naming the setting and its value.
    """

    kind: str = "exact"
    lists: int = 0
    probes: int = 8
    links: int = 32
    effort: int = 256
    rerank: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BadInput(f"there is no retriever of kind {self.kind}{nearest(self.kind, KINDS)}")
        for name, low in (("lists", 0), ("probes", 1), ("links", 2), ("effort", 1), ("rerank", 1)):
            if getattr(self, name) < low:
                raise BadInput(f"{name} is at least {low}, not {getattr(self, name)}")


def build(vectors: Float[Tensor, "item dim"], settings: RetrieverSettings) -> Any:
    """Return the index of faiss, or None where the search is exact."""
    if settings.kind == "exact":
        return None
    library = faiss()
    n, dim = vectors.shape
    if n < SMALL:
        return None
    lists = settings.lists or 2 ** round(math.log2(2 * math.sqrt(n)))
    lists = max(1, min(lists, n // 39))  # faiss wants 39 vectors a centroid
    recipe = {
        "ivf": f"IVF{lists},Flat",
        "pq": f"PQ{dim}x4fs,RFlat",
        "hnsw": f"HNSW{settings.links}",
    }[settings.kind]
    index = library.index_factory(dim, recipe, library.METRIC_INNER_PRODUCT)
    data = vectors.cpu().numpy()
    sample = np.random.default_rng(settings.seed).permutation(n)[: 128 * max(lists, 1024)]
    if settings.kind == "ivf":
        # A sixteenth of the default's work, 25 passes over 256 a centroid: docs/agents/two_stage.md has the
        # recall that it reaches.
        index.cp.niter, index.cp.max_points_per_centroid, index.cp.seed = 6, 64, settings.seed + 1
    if settings.kind != "hnsw":
        index.train(data[np.sort(sample)])
    index.add(data)
    return index


def faiss() -> Any:
    """Return faiss, which is imported only where an index is asked for."""
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise BadInput(
            "an index needs faiss, which is not installed: run pip install faiss-cpu, or use kind exact"
        ) from error


def ask(
    index: Any, settings: RetrieverSettings, states: Float[Tensor, "user dim"], count: int
) -> tuple[Int[Tensor, "user cand"], Float[Tensor, "user cand"]]:
    """Search an index on the CPU; where its lists hold fewer than `count` items, the rest is item -1."""
    library = faiss()
    options: Any = None
    if settings.kind == "pq":
        options = library.IndexRefineSearchParameters(k_factor=float(settings.rerank))
    elif settings.kind == "hnsw":
        options = library.SearchParametersHNSW(efSearch=max(settings.effort, count))
    else:
        options = library.SearchParametersIVF(nprobe=min(settings.probes, index.nlist))
    query = np.ascontiguousarray(states.detach().float().cpu().numpy())
    scores, items = index.search(query, count, params=options)
    return torch.from_numpy(items), torch.from_numpy(scores)
