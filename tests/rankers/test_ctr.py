"""Feature-interaction families: each against its equation, written with loops over fields."""

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional

from simlab.context import Catalog, Context
from simlab.errors import BadInput
from simlab.rankers._fields import FieldRanker, Layers, SplitLinear
from simlab.rankers.contract import Sizes
from simlab.rankers.dcn_v2 import DCNv2, _Full, _Mixture
from simlab.rankers.deepfm import DeepFM
from simlab.rankers.fm import FM
from simlab.rankers.nfm import NFM
from simlab.rankers.wide_deep import WideDeep
from simlab.rankers.xdeepfm import XDeepFM
from simlab.seeds import Seed
from simlab.training.fit import fit
from tests.contracts.rankers import SIZES, catalog, context, make, near
from tests.rankers import ctr_case

FAMILIES: list[type[FieldRanker]] = [FM, NFM, WideDeep, DeepFM, XDeepFM, DCNv2]


def shaken(family: type[FieldRanker], settings: dict[str, Any], items: Catalog | None) -> FieldRanker:
    """Return a ranker in float64 whose weights are all far from their first values."""
    ranker = family.build(SIZES, settings, items, Seed(2)).double().eval()
    assert isinstance(ranker, FieldRanker)
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in ranker.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=g, dtype=p.dtype))
        for side in (ranker.user_fields, ranker.item_fields):
            assert side.table is not None
            side.table.weight[-1] = 0  # what is unknown
    return ranker


def wide(c: Context) -> Context:
    return replace(c, features=c.features.double(), feedback=c.feedback.double())


def rows_of_user(ranker: FieldRanker, c: Context, row: int) -> list[Tensor]:
    """Return x_f [v_f, w_f] of each field of the user and the moment."""
    side = ranker.user_fields
    assert side.table is not None
    assert side.numeric is not None
    assert side.history is not None
    assert c.categories is not None
    table, zero = side.table.weight, torch.zeros(side.table.embedding_dim, dtype=torch.float64)
    found = [table[int(c.user[row])] if int(c.user[row]) < SIZES.n_users else zero]
    begin = SIZES.n_users
    for column, size in enumerate(SIZES.categories):
        value = int(c.categories[row, column])
        found.append(table[begin + value] if value >= 0 else zero)
        begin += size
    for f in range(SIZES.n_features):
        found.append(c.features[row, f] * side.numeric[f])
    clicked = [int(i) for i, f in zip(c.history[row], c.feedback[row], strict=True) if i >= 0 and f > 0]
    found.append(sum((side.history.weight[i] for i in clicked), zero) / max(len(clicked), 1))
    return found


def rows_of_item(ranker: FieldRanker, item: int, items: Catalog | None) -> list[Tensor]:
    """Return x_f [v_f, w_f] of each field of the item."""
    side = ranker.item_fields
    table, zero = side.table.weight, torch.zeros(side.table.embedding_dim, dtype=torch.float64)
    found = [table[item]]
    if items is None:
        return found
    begin = SIZES.n_items
    for field in items.fields:
        values = [int(v) for v in field.values[item] if v >= 0]
        found.append(sum((table[begin + v] for v in values), zero) / max(len(values), 1))
        begin += field.size
    x = items.features.double()
    assert side.numeric is not None
    for f in range(x.shape[1]):
        found.append((x[item, f] - x[:, f].mean()) / x[:, f].std(correction=0) * side.numeric[f])
    assert side.projection is not None
    assert items.vectors is not None
    found.append(items.vectors[item].double() @ side.projection)
    return found


def perceptron(layers: Layers, x: Tensor) -> Tensor:
    """Return the MLP of the first layer's sums."""
    for layer in layers.hidden:
        x = layer(functional.relu(x))
    x = functional.relu(x)
    if layers.out is None:
        return x
    logit: Tensor = layers.out(x)
    return logit[0]


def first(layer: SplitLinear, x: Tensor) -> Tensor:
    """Return W x + b."""
    assert layer.bias is not None
    return layer.weight @ x + layer.bias


def pairs(vectors: list[Tensor]) -> Tensor:
    """Return Σ_{f<g} v_f ⊙ v_g."""
    total = torch.zeros_like(vectors[0])
    for f in range(len(vectors)):
        for g in range(f + 1, len(vectors)):
            total = total + vectors[f] * vectors[g]
    return total


def slow(ranker: FieldRanker, c: Context, row: int, item: int, items: Catalog | None) -> Tensor:
    """Return a family's logit, from its equation."""
    rows = rows_of_user(ranker, c, row) + rows_of_item(ranker, item, items)
    vectors = [x[: ranker.dim] for x in rows]
    x_0 = torch.cat(vectors)
    if isinstance(ranker, DCNv2):
        return ranker.bias + dcn(ranker, x_0)
    linear = ranker.bias + sum(x[-1] for x in rows)
    if isinstance(ranker, FM):
        return linear + pairs(vectors).sum()
    if isinstance(ranker, NFM):
        return linear + perceptron(ranker.rest, ranker.first(pairs(vectors)))
    assert isinstance(ranker, WideDeep | DeepFM | XDeepFM)
    deep = perceptron(ranker.rest, first(ranker.first, x_0))
    if isinstance(ranker, DeepFM):
        return linear + pairs(vectors).sum() + deep
    if isinstance(ranker, XDeepFM):
        return linear + network(ranker, torch.stack(vectors)) + deep
    return linear + deep + (hashed(ranker, c, row, item, items) if ranker.crosses is not None else 0)


def network(ranker: XDeepFM, x_0: Tensor) -> Tensor:
    """Return Σ_k w_kᵀ p^k: Lian et al. (2018), equations 6 to 8."""
    x, total = x_0, x_0.new_zeros(())
    for layer, out in zip(ranker.maps, ranker.outs, strict=True):
        after = []
        for w in layer:
            maps = torch.zeros(ranker.dim, dtype=torch.float64)
            for i in range(len(x)):
                for j in range(len(x_0)):
                    maps = maps + w[i, j] * x[i] * x_0[j]
            after.append(maps)
        x = torch.stack(after)
        total = total + out @ x.sum(1)
    return total


def dcn(ranker: DCNv2, x_0: Tensor) -> Tensor:
    """Return the crosses and the perceptron: Wang et al. (2021), equations 1, 3 and 4."""
    x = x_0
    for cross in ranker.crosses:
        if isinstance(cross, _Full):
            x = x_0 * first(cross.inner, x) + x
            continue
        assert isinstance(cross, _Mixture)
        down = cross.inner.weight[: cross.experts * cross.rank].view(cross.experts, cross.rank, -1)
        gates = cross.inner.weight[cross.experts * cross.rank :] @ x
        share = gates.softmax(0) if cross.experts > 1 else torch.ones(1, dtype=torch.float64)
        after = x
        for e in range(cross.experts):
            low = torch.tanh(cross.core[e].T @ torch.tanh(down[e] @ x))
            after = after + share[e] * x_0 * (cross.up[e].T @ low + cross.bias[e])
        x = after
    below = x_0 if ranker.parallel else x
    hidden = perceptron(ranker.rest, first(ranker.first, below))
    logit: Tensor = ranker.out(torch.cat([x, hidden]) if ranker.parallel else hidden)
    return logit[0]


def hashed(ranker: WideDeep, c: Context, row: int, item: int, items: Catalog | None) -> Tensor:
    """Return the sum over (category, item field) of the mean weight of the crosses."""
    assert ranker.crosses is not None
    assert c.categories is not None
    total, begin = torch.zeros((), dtype=torch.float64), SIZES.n_users
    for column, size in enumerate(SIZES.categories):
        value = int(c.categories[row, column])
        left, begin = begin + value, begin + size
        if value < 0:
            continue
        fields, other = [[item]], SIZES.n_items
        for field in () if items is None else items.fields:
            fields.append([other + int(v) for v in field.values[item] if v >= 0])
            other += field.size
        for right in fields:
            for v in right:
                bucket = ((left * 2654435761) ^ ((v + 1) * 40503)) % len(ranker.crosses)
                total = total + ranker.crosses[bucket] / len(right)
    return total


CASES: list[tuple[type[FieldRanker], dict[str, Any]]] = [
    (FM, {}),
    (NFM, {"layers": (8, 6)}),
    (WideDeep, {"layers": (8, 6)}),
    (WideDeep, {"layers": (8,), "crosses": 50}),
    (DeepFM, {"layers": (8, 6)}),
    (XDeepFM, {"cross": (5,), "layers": (8, 6)}),
    (XDeepFM, {"cross": (5, 4), "layers": (8,)}),
    (XDeepFM, {"cross": (5, 4, 3, 2), "layers": (8,)}),
    (DCNv2, {"layers": (8, 6)}),
    (DCNv2, {"layers": (8,), "crosses": 3, "structure": "stacked"}),
    (DCNv2, {"layers": (8,), "experts": 1, "rank": 3}),
    (DCNv2, {"layers": (8,), "experts": 3, "rank": 2, "structure": "stacked"}),
]


@pytest.mark.parametrize("known", [True, False], ids=["catalogue", "ids"])
@pytest.mark.parametrize(("family", "settings"), CASES, ids=lambda x: getattr(x, "name", str(x)))
def test_a_family_is_its_equation(family: type[FieldRanker], settings: dict[str, Any], known: bool) -> None:
    items = catalog() if known else None
    ranker, c = shaken(family, {"dim": 4, **settings}, items), wide(context())
    with torch.no_grad():
        scores, everything = ranker(c), ranker.score_all(c)
        for row in (0, 1, 5):
            for column in (0, 6):
                item = int(c.candidates[row, column])
                truth = slow(ranker, c, row, item, items)
                torch.testing.assert_close(scores[row, column], truth, atol=1e-6, rtol=1e-6)
                torch.testing.assert_close(everything[row, item], truth, atol=1e-6, rtol=1e-6)


def test_the_score_of_fm_is_an_inner_product() -> None:
    ranker, c = shaken(FM, {}, catalog()), wide(context())
    near(ranker.encode(c) @ ranker.item_vectors().T, ranker.score_all(c))


@pytest.mark.parametrize("family", FAMILIES)
def test_history_personalises_a_new_user(family: type[FieldRanker]) -> None:
    ranker, c = shaken(family, {}, catalog()), wide(context())
    assert c.categories is not None
    new = replace(c, user=torch.full_like(c.user, 99), features=torch.zeros_like(c.features))
    new = replace(new, categories=torch.full_like(c.categories, -1))
    same = replace(new, candidates=c.candidates[:1].expand(8, -1), mask=c.mask)
    scores = ranker(same)
    assert not torch.allclose(scores[0], scores[2], atol=1e-4)
    unclicked = ranker(replace(same, feedback=torch.zeros_like(c.feedback)))
    near(unclicked[0], unclicked[2])  # what was shown and not clicked says nothing here


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_last_items_count(family: type[FieldRanker]) -> None:
    ranker, c = shaken(family, {"past": 2}, None), wide(context())
    near(ranker(c), ranker(replace(c, history=c.history[:, -2:], feedback=c.feedback[:, -2:])))
    assert not torch.allclose(ranker(c), ranker(replace(c, history=c.history.roll(1, 1))))
    blank = replace(c, history=torch.full_like(c.history, SIZES.n_items))  # an empty slot of a world
    near(ranker(blank), ranker(replace(c, history=torch.full_like(c.history, -1))))
    without = shaken(family, {"past": 0}, None)
    near(without(c), without(replace(c, history=c.history.flip(0))))


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_known_of_users_leaves_the_items(family: type[FieldRanker]) -> None:
    """A user side without any field: all users get the same scores, and those differ by item."""
    ranker = family.build(Sizes(n_users=0, n_items=30), {"past": 0}, catalog(), Seed(1))
    assert isinstance(ranker, FieldRanker)
    with torch.no_grad():
        for p in ranker.item_fields.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    c = Context.of(torch.arange(3), 30)
    scores = ranker(c)
    near(scores[0], scores[2])
    assert float(scores[0].detach().std()) > 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_unknown_stays_zero_and_an_unseen_user_is_a_new_user(family: type[FieldRanker]) -> None:
    """Also after training with weight decay on rows with unknown categories and padded fields."""
    ranker, c = make(family), context()
    assert isinstance(ranker, FieldRanker)
    for side in (ranker.user_fields, ranker.item_fields):
        assert side.table is not None
        assert not side.table.weight[-1].any()
        assert side.table.weight[:-1].any(1).sum() > len(side.table.weight) / 2
    unseen = next(u for u in range(SIZES.n_users) if u not in c.user.tolist())
    rows = [replace(c, user=torch.full_like(c.user, u)) for u in (unseen, SIZES.n_users)]
    near(ranker(rows[0]), ranker(rows[1]))


@pytest.mark.parametrize("family", [NFM, WideDeep, DeepFM, XDeepFM, DCNv2])
def test_dropout_is_for_training_alone(family: type[FieldRanker]) -> None:
    ranker, c = family.build(SIZES, {"dropout": 0.5}, catalog(), Seed(1)), context()
    plain = family.build(SIZES, {}, catalog(), Seed(1)).eval()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        once, again = ranker.train()(c), ranker(c)
    assert not torch.equal(once, again)
    assert torch.equal(ranker.eval()(c), plain(c))
    assert torch.equal(plain.train()(c), plain.eval()(c))


def test_refusals() -> None:
    with pytest.raises(BadInput, match="deepfm needs at least one layer in its MLP"):
        DeepFM.build(SIZES, {"layers": ()})
    with pytest.raises(BadInput, match=r"dropout of nfm is a share in \[0, 1\), not 1.0"):
        NFM.build(SIZES, {"dropout": 1.0})
    with pytest.raises(BadInput, match="xdeepfm needs at least one layer of interactions"):
        XDeepFM.build(SIZES, {"cross": ()})
    with pytest.raises(BadInput, match="not stackt; did you mean stacked"):
        DCNv2.build(SIZES, {"structure": "stackt"})
    with pytest.raises(BadInput, match="crosses of dcn_v2 is at least 1, not 0"):
        DCNv2.build(SIZES, {"crosses": 0})
    with pytest.raises(BadInput, match="rank of dcn_v2 is at least 1, not 0"):
        DCNv2.build(SIZES, {"rank": 0})
    with pytest.raises(BadInput, match="crosses of wide_deep is at least 0, not -1"):
        WideDeep.build(SIZES, {"crosses": -1})
    with pytest.raises(BadInput, match="with the context's categories, and there are none"):
        WideDeep.build(replace(SIZES, categories=()), {"crosses": 10})
    with pytest.raises(BadInput, match="deepfm is not an inner product"):
        DeepFM.build(SIZES, {}).item_vectors()


def test_the_case_is_as_it_says() -> None:
    """Histories by the stated rule, from the log's own columns; the order within a second is the file's."""
    case = ctr_case.load()
    log = case.log
    assert log.click is not None
    assert log.step is not None
    assert len(log) == 100_000
    assert log.category_sizes == (7, 2, 21)
    assert [len(case.rounds(s)) for s in ("train", "valid", "test")] == [80_000, 10_000, 10_000]
    stamp = torch.from_numpy(pd.read_parquet(ctr_case.CASE)["timestamp"].to_numpy(copy=True))
    train = torch.from_numpy(case.split == "train")
    order = log.order()
    for user in (0, 21, 404):
        mine = order[log.user[order] == user]
        assert torch.equal(log.step[mine], torch.arange(len(mine)))
        assert bool((stamp[mine].diff() >= 0).all())
        for row in mine[::7].tolist():
            before = mine[train[mine] & (stamp[mine] < stamp[row])][-50:]
            begin = 50 - len(before)
            assert torch.equal(case.history[row, begin:], log.slate[before, 0])
            assert torch.equal(case.feedback[row, begin:], log.click[before, 0].float())
            assert bool((case.history[row, :begin] == -1).all())
    genres = case.catalog.fields[1]
    assert [genres.labels[g] for g in genres.values[0] if g >= 0] == ["Animation", "Children's", "Comedy"]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "least"), [(FM, 0.765)])
def test_auc_on_movielens(family: type[FieldRanker], least: float) -> None:
    """One seed; the standard error of an AUC of 10,000 rows is 0.0046. See `test_accuracy` for the rest."""
    case = ctr_case.load()
    log, held = case.fitting()
    ranker = family.build(Sizes.of(case.log), {"past": 0}, case.catalog, Seed(0))
    fit(ranker, log, seed=Seed(0), held=held)
    rows = case.rounds("test")
    with torch.no_grad():
        logits = torch.cat([ranker(case.context(some, 0))[:, 0] for some in torch.split(rows, 4096)])
    assert roc_auc_score(case.label(rows), logits) >= least
