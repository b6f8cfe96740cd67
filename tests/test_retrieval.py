"""Retrieval: the exact search is a sort, an index finds nearly the same, and nothing unreadable is read."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from simlab.context import Context
from simlab.errors import BadInput
from simlab.rankers.contract import Ranker, Sizes
from simlab.rankers.mf import MF
from simlab.rankers.neumf import NeuMF
from simlab.rankers.two_tower import TwoTower
from simlab.retrieval import Retriever, RetrieverSettings, exact
from simlab.seeds import Seed

INDEXED = ("ivf", "pq", "hnsw")


def need_faiss() -> None:
    pytest.importorskip("faiss", reason="faiss is not installed: pip install faiss-cpu")


def clustered(n: int, dim: int, seed: int) -> Tensor:
    """Return vectors around 50 centres that are the same for every seed."""
    g = Seed(seed).torch()
    centres = torch.randn(50, dim, generator=Seed(77).torch())
    return centres[torch.randint(0, 50, (n,), generator=g)] + 0.5 * torch.randn(n, dim, generator=g)


@pytest.mark.parametrize(
    ("n", "count"), [(5, 5), (31, 1), (33, 7), (640, 5), (641, 5), (1000, 1), (3333, 26), (4096, 10)]
)
@pytest.mark.parametrize("cells", [1 << 22, 500])
def test_the_exact_search_is_a_sort(monkeypatch: pytest.MonkeyPatch, n: int, count: int, cells: int) -> None:
    """Small integers: products are exact in any order, so scores are equal to the bit."""
    monkeypatch.setattr(exact, "CELLS", cells)
    g = Seed(n).torch()
    vectors = torch.randint(-9, 10, (n, 6), generator=g).float()
    states = torch.randint(-9, 10, (37, 6), generator=g).float()
    items, scores = Retriever(vectors).search(states, count)
    every = states @ vectors.T
    assert torch.equal(scores, every.sort(1, descending=True).values[:, :count])
    assert torch.equal(scores, every.gather(1, items))
    assert all(len(set(row)) == count for row in items.tolist())


def test_nobody_asks() -> None:
    items, scores = Retriever(torch.ones(4, 2)).search(torch.zeros(0, 2), 3)
    assert items.shape == scores.shape == (0, 3)


@pytest.mark.parametrize("family", [MF, TwoTower])
def test_it_finds_what_the_ranker_ranks_first(family: type[Ranker]) -> None:
    """The state's and the vectors' inner product is the score, biases and temperature included."""
    ranker = family.build(Sizes(20, 300, n_features=3), seed=Seed(1)).eval()
    with torch.no_grad():
        for p in ranker.parameters():  # users' ids and the biases start at zero
            p.add_(torch.randn(p.shape, generator=Seed(p.numel()).torch()), alpha=0.1)
    context = Context.of(
        torch.arange(20),
        300,
        features=torch.randn(20, 3, generator=Seed(2).torch()),
        history=torch.randint(0, 300, (20, 4), generator=Seed(3).torch()),
        feedback=torch.ones(20, 4),
    )
    with torch.no_grad():
        every = ranker.score_all(context)
        items, scores = Retriever.of(ranker).search(ranker.encode(context), 11)
    torch.testing.assert_close(scores, every.topk(11).values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores, every.gather(1, items), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", INDEXED)
@pytest.mark.parametrize("dim", [16, 33])
def test_an_index_finds_nearly_the_same(kind: str, dim: int) -> None:
    need_faiss()
    retriever = Retriever(clustered(6000, dim, 1), RetrieverSettings(kind))
    states = clustered(64, dim, 2)
    items, scores = retriever.search(states, 50)
    by_hand = (retriever.vectors[items] * states.unsqueeze(1)).sum(2)
    torch.testing.assert_close(scores, by_hand, rtol=1e-4, atol=1e-3)
    assert bool((scores[:, 1:] <= scores[:, :-1] + 1e-4).all())
    # Recall, written out by sets.
    best = (states @ retriever.vectors.T).topk(50).indices.tolist()
    share = [len(set(a) & set(b)) / 50 for a, b in zip(items.tolist(), best, strict=True)]
    torch.testing.assert_close(retriever.recall(states, 50), torch.tensor(share))
    assert sum(share) / 64 > 0.95


@pytest.mark.parametrize("kind", INDEXED)
def test_it_finds_as_many_as_it_was_asked_for(kind: str) -> None:
    """Lists that hold too few, and a count of everything, are made up by the exact search."""
    need_faiss()
    vectors = clustered(1200, 8, 1)
    retriever = Retriever(vectors, RetrieverSettings(kind, probes=1))
    states = clustered(5, 8, 2)
    items, scores = retriever.search(states, 1200)
    assert items.sort(1).values.equal(torch.arange(1200).expand(5, -1))
    torch.testing.assert_close(
        scores, (states @ vectors.T).sort(1, descending=True).values, rtol=1e-4, atol=1e-4
    )


def test_more_probes_find_more() -> None:
    need_faiss()
    states = torch.randn(64, 16, generator=Seed(2).torch())
    vectors = torch.randn(6000, 16, generator=Seed(1).torch())  # isotropic: the hard case
    found = [
        float(Retriever(vectors, RetrieverSettings("ivf", lists=64, probes=p)).recall(states, 50).mean())
        for p in (1, 8, 64)
    ]
    assert found[0] < found[1] - 0.1 < found[2] - 0.2
    assert found[2] == 1.0


@pytest.mark.parametrize(("kind", "name"), [("ivf", "probes"), ("hnsw", "effort"), ("pq", "rerank")])
def test_it_is_tuned_to_a_recall(kind: str, name: str) -> None:
    """It ends at the first doubling that reaches the aim, judged by the same queries."""
    need_faiss()
    states = torch.randn(64, 16, generator=Seed(2).torch())
    vectors = torch.randn(4000, 16, generator=Seed(1).torch())
    settings: Any = {"kind": kind, name: 1}
    retriever = Retriever(vectors, RetrieverSettings(**settings))
    first = float(retriever.recall(states, 20).mean())
    reached = retriever.tune(states, 20, 0.98)
    assert first < 0.98 <= reached == float(retriever.recall(states, 20).mean())
    much = getattr(retriever.settings, name)
    assert much & (much - 1) == 0
    retriever.settings = RetrieverSettings(**settings | {name: much // 2})
    assert float(retriever.recall(states, 20).mean()) < 0.98
    assert Retriever(vectors).tune(states, 20) == 1.0


@pytest.mark.parametrize("kind", ["exact", "ivf"])
def test_training_does_not_move_what_is_searched(kind: str) -> None:
    if kind != "exact":
        need_faiss()
    vectors, states = clustered(2000, 8, 1), clustered(9, 8, 2)
    retriever = Retriever(vectors, RetrieverSettings(kind))
    before = retriever.search(states, 10)[1]
    vectors.mul_(2)
    assert torch.equal(retriever.search(states, 10)[1], before)
    retriever.update(vectors)
    torch.testing.assert_close(retriever.search(states, 10)[1], 2 * before)


@pytest.mark.parametrize("kind", ["exact", *INDEXED])
def test_it_comes_back_from_disk(kind: str, tmp_path: Path) -> None:
    if kind != "exact":
        need_faiss()
    states = clustered(20, 16, 2)
    Retriever(clustered(1500, 16, 3)).save(tmp_path)  # is replaced
    retriever = Retriever(clustered(1500, 16, 1), RetrieverSettings(kind, probes=3))
    retriever.save(tmp_path)
    again = Retriever.load(tmp_path)
    assert again.settings == retriever.settings
    for ours, theirs in zip(again.search(states, 30), retriever.search(states, 30), strict=True):
        assert torch.equal(ours, theirs)
    suffixes = sorted(f.suffix for f in tmp_path.iterdir())
    assert suffixes == [".json", ".safetensors"] if kind == "exact" else [".faiss", ".json", ".safetensors"]


def test_what_is_damaged_is_refused(tmp_path: Path) -> None:
    need_faiss()
    with pytest.raises(BadInput, match="there is no file"):
        Retriever.load(tmp_path)
    Retriever(clustered(1500, 16, 1), RetrieverSettings("ivf")).save(tmp_path)
    (index,) = tmp_path.glob("*.faiss")
    whole = index.read_bytes()
    index.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BadInput, match="is damaged: its SHA-256"):
        Retriever.load(tmp_path)
    index.unlink()
    with pytest.raises(BadInput, match=r"there is no file .*, which .* names"):
        Retriever.load(tmp_path)
    where = tmp_path / "retriever.json"
    kept = json.loads(where.read_text())
    changes: list[tuple[dict[str, Any], str]] = [
        ({"index": "../x.faiss"}, "is outside the folder"),
        ({"retriever": {"kind": "exact"}}, "is of kind exact, and has an index"),
        ({"retriever": {"colour": 3}}, "does not describe a retriever"),
        ({"sha256": "0"}, "is damaged: its SHA-256"),
    ]
    for change, words in changes:
        where.write_text(json.dumps(kept | change))
        with pytest.raises(BadInput, match=words):
            Retriever.load(tmp_path)


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = torch.ones(4, 2)
    retriever = Retriever(vectors)
    for count in (0, 5):
        with pytest.raises(BadInput, match=f"count is 1 to 4, the number of items, not {count}"):
            retriever.search(vectors, count)
    with pytest.raises(BadInput, match=r"states are \[user, 2\] as the vectors are, not \[1, 3\]"):
        retriever.search(torch.ones(1, 3), 1)
    with pytest.raises(BadInput, match=r"recall is in \(0, 1\], not 1.5"):
        retriever.tune(vectors, 1, 1.5)
    broken = torch.ones(4, 2)
    broken[2, 1] = torch.nan
    with pytest.raises(BadInput, match="states, row 2, column 1: nan is not finite"):
        retriever.search(broken, 1)
    with pytest.raises(BadInput, match="vectors, item 2, column 1: nan is not finite"):
        Retriever(broken)
    with pytest.raises(BadInput, match="the vectors have 3 columns, but the retriever has 2"):
        retriever.update(torch.ones(4, 3))
    assert torch.equal(retriever.vectors, vectors)
    with pytest.raises(BadInput, match="at least one of each"):
        Retriever(torch.ones(0, 2))
    with pytest.raises(BadInput, match="no retriever of kind ivff; did you mean ivf"):
        RetrieverSettings("ivff")
    with pytest.raises(BadInput, match="probes is at least 1, not 0"):
        RetrieverSettings("ivf", probes=0)
    with pytest.raises(BadInput, match="the score of neumf is not an inner product"):
        Retriever.of(NeuMF.build(Sizes(2, 5)))

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(BadInput, match="pip install faiss-cpu"):
        Retriever(vectors, RetrieverSettings("ivf"))
