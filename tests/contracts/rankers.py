"""What every ranker is held to, in ten sentences. `test_rankers.py` runs each on every family."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from simlab.context import Catalog, Context, Field
from simlab.rankers.contract import Interactions, Ranker, Sizes
from simlab.seeds import Seed
from simlab.training.store import load_ranker, save_ranker

SIZES = Sizes(n_users=20, n_items=30, n_features=4, slots=3, categories=(3, 5))


def catalog() -> Catalog:
    """Return items with numeric features, a brand, genres and a given embedding."""
    g = torch.Generator().manual_seed(9)
    genres = torch.rand(SIZES.n_items, 6, generator=g).topk(3).indices
    genres[3] = -1
    genres[4, 1:] = -1
    brand = torch.randint(0, 4, (SIZES.n_items, 1), generator=g)
    return Catalog(
        5 + 3 * torch.randn(SIZES.n_items, 2, generator=g),
        fields=(Field("brand", brand, 4), Field("genres", genres, 6)),
        vectors=torch.randn(SIZES.n_items, 3, generator=g),
    )


ZERO_START = {"bias"}
"""Families whose first weights are all zero."""

Check = Callable[[type[Ranker], Path], None]


def context(rows: int = 8, cands: int = 7, past: int = 6, users: int = 20, seed: int = 5) -> Context:
    """Return users with features, a history with clicks, and candidates of their own."""
    g = torch.Generator().manual_seed(seed)
    history = torch.randint(0, SIZES.n_items, (rows, past), generator=g)
    history[1, :2] = -1
    feedback = (torch.rand(rows, past, generator=g) < 0.5).float() * (history >= 0)
    feedback[:, -1] = 1.0
    return Context.of(
        torch.randperm(users, generator=g)[:rows],
        SIZES.n_items,
        features=torch.randn(rows, SIZES.n_features, generator=g),
        history=history,
        feedback=feedback,
        candidates=torch.rand(rows, SIZES.n_items, generator=g).topk(cands).indices,
        categories=torch.stack([torch.randint(-1, n, (rows,), generator=g) for n in SIZES.categories], 1),
    )


def interactions(seed: int = 6) -> Interactions:
    """Return ten examples of every user, and of one user who has no id; every item is clicked by someone."""
    g = torch.Generator().manual_seed(seed)
    user = torch.arange(SIZES.n_users + 1).repeat_interleave(10)
    item = torch.cat([torch.randperm(SIZES.n_items, generator=g)[:10] for _ in range(SIZES.n_users + 1)])
    target = (torch.rand(len(user), generator=g) < 0.6).float()
    target[torch.stack([(item == i).nonzero()[0, 0] for i in range(SIZES.n_items)])] = 1.0
    return Interactions(user, item, target, torch.ones(len(user)))


def make(family: type[Ranker], seed: int = 1) -> Ranker:
    """Return a ranker that has learned a little, so that no weight is at its first value."""
    ranker = family.build(SIZES, {}, catalog(), Seed(seed))
    ranker.prepare(interactions())
    c, g = context(), torch.Generator().manual_seed(seed)
    target = (torch.rand(c.candidates.shape, generator=g) < 0.4).float()
    if not ranker.trainable:
        return ranker.eval()
    optimizer = torch.optim.Adam(ranker.parameters(), lr=0.05)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(5):
            loss = functional.binary_cross_entropy_with_logits(ranker(c), target) + ranker.penalty()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    return ranker.eval()


def near(a: Tensor, b: Tensor) -> None:
    """Assert equality to rounding, which is that of the largest score: sums of large terms may be small."""
    largest = float(b.detach().abs().max()) if b.numel() else 1.0
    torch.testing.assert_close(a, b, atol=2e-6 * max(1.0, largest), rtol=2e-5)


def padding_never_matters(family: type[Ranker], folder: Path) -> None:
    """More -1 or cold items to the left of the history, whatever the feedback there, change no score."""
    ranker, c = make(family), context()
    pads = torch.full((len(c), 5), -1)
    wide = replace(
        c,
        history=torch.cat([pads, c.history], 1),
        feedback=torch.cat([torch.ones(len(c), 5), c.feedback], 1),
    )
    near(ranker(wide), ranker(c))
    for cold in (SIZES.n_items, 10**12):  # ids that the catalogue does not have
        near(ranker(replace(wide, history=torch.cat([torch.full_like(pads, cold), c.history], 1))), ranker(c))


def candidate_order_never_matters(family: type[Ranker], folder: Path) -> None:
    """Candidates in another order get the same scores in that order."""
    ranker, c = make(family), context()
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    near(ranker(replace(c, candidates=c.candidates[:, order])), ranker(c)[:, order])


def rows_never_mix(family: type[Ranker], folder: Path) -> None:
    """A row alone is scored as in a batch, and in any order of rows; no rows get no scores."""
    ranker, c = make(family), context()
    together = ranker(c)
    near(torch.cat([ranker(c.rows(slice(i, i + 1))) for i in range(len(c))]), together)
    flip = torch.arange(len(c)).flip(0)
    near(ranker(c.rows(flip)), together[flip])
    nobody, width = c.rows(slice(0, 0)), ranker.encode(c).shape[1]
    shared = Context.of(c.user[:0], SIZES.n_items, features=c.features[:0])
    for training in (False, True):
        ranker.train(training)
        assert ranker.encode(nobody).shape == (0, width)
        assert ranker(nobody).shape == ranker.score(nobody, ranker.encode(nobody)).shape == (0, 7)
        assert ranker.score_all(nobody).shape == ranker(shared).shape == (0, SIZES.n_items)
        if ranker.tasks:
            assert ranker.score_tasks(nobody).shape == (0, 7, len(ranker.tasks))


def a_saved_ranker_scores_the_same(family: type[Ranker], folder: Path) -> None:
    """What is saved and loaded gives the same bits, and no pickle is written."""
    ranker, c = make(family), context()
    save_ranker(ranker, folder / "kept")
    again = load_ranker(folder / "kept")
    assert type(again) is family
    assert again.spec == ranker.spec
    assert again.sizes == ranker.sizes
    assert torch.equal(again(c), ranker(c))
    assert {p.suffix for p in (folder / "kept").iterdir()} == {".json", ".safetensors"}


def a_state_can_be_used_again(family: type[Ranker], folder: Path) -> None:
    """Scoring from `encode`'s state gives the same bits, and the state does not see the candidates."""
    ranker, c = make(family), context()
    state = ranker.encode(c)
    assert torch.equal(ranker.score(c, state), ranker(c))
    other = replace(c, candidates=c.candidates.flip(1)[:, :3], mask=c.mask[:, :3])
    assert torch.equal(ranker.encode(other), state)
    near(ranker.score(other, state), ranker(other))


def gradient_reaches_all_parameters(family: type[Ranker], folder: Path) -> None:
    """Every parameter moves the scores; a family without parameters says that it is not trainable."""
    ranker = make(family)
    parameters = list(ranker.parameters())
    assert ranker.trainable == bool(parameters)
    if parameters:
        ranker.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            scores = ranker.score_tasks(context()) if ranker.tasks else ranker(context())
            far = (scores * torch.randn(scores.shape, generator=Seed(2).torch())).sum()
            torch.autograd.backward(far + ranker.penalty())
    for name, p in ranker.named_parameters():
        assert p.grad is not None, name
        assert bool((p.grad != 0).any()), name


def the_whole_catalogue_agrees(family: type[Ranker], folder: Path) -> None:
    """`score_all`, shared candidates and item vectors give each item the score it has as a candidate."""
    ranker, c = make(family), context()
    everything = ranker.score_all(c)
    assert everything.shape == (8, SIZES.n_items)
    near(everything.gather(1, c.candidates), ranker(c))
    copied = torch.arange(SIZES.n_items).repeat(8, 1)
    near(ranker(replace(c, candidates=copied, mask=torch.ones_like(copied).bool())), everything)
    few = torch.tensor([4, 2, 9]).expand(8, 3)
    near(ranker(replace(c, candidates=few, mask=torch.ones_like(few).bool())), everything[:, [4, 2, 9]])
    if type(ranker).item_vectors is not Ranker.item_vectors:
        near(ranker.encode(c) @ ranker.item_vectors().T, everything)


def the_seed_decides(family: type[Ranker], folder: Path) -> None:
    """One seed gives the same bits whatever was drawn before, and leaves the global generator alone."""
    c = context()
    before = torch.random.get_rng_state()
    first = family.build(SIZES, {}, catalog(), Seed(3))
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.rand(17)
        again = family.build(SIZES, {}, catalog(), Seed(3))
    other = family.build(SIZES, {}, catalog(), Seed(4))
    for ranker in (first, again, other):
        ranker.prepare(interactions())
        ranker.eval()
    assert torch.equal(first(c), again(c))
    if first.trainable and first.name not in ZERO_START:
        assert not torch.equal(first(c), other(c))


def scores_are_finite(family: type[Ranker], folder: Path) -> None:
    """Logits are finite for a user with nothing: no history, no clicks, features far out."""
    ranker = make(family)
    c = context()
    empty = replace(c, history=torch.full_like(c.history, -1), feedback=torch.zeros_like(c.feedback))
    bare = replace(c, history=c.history[:, :0], feedback=c.feedback[:, :0], features=1e3 * c.features)
    for case in (c, empty, bare):
        scores = ranker(case)
        assert scores.shape == case.candidates.shape
        assert bool(scores.isfinite().all())


def new_users_are_welcome(family: type[Ranker], folder: Path) -> None:
    """Ids that were not in training are accepted, are all alike, and need no table at all."""
    ranker, c = make(family), context()
    new, newer = (replace(c, user=torch.full_like(c.user, n)) for n in (SIZES.n_users, 10**12))
    assert torch.equal(ranker(new), ranker(newer))
    tableless = family.build(replace(SIZES, n_users=0), {}, None, Seed(1))
    tableless.prepare(interactions())
    tableless.eval()
    assert torch.equal(tableless(new), tableless(c))
    unknown = replace(c, categories=torch.full_like(torch.zeros(8, 2, dtype=torch.long), 99))
    near(ranker(unknown), ranker(replace(c, categories=torch.full((8, 2), -1))))


CHECKS: tuple[Check, ...] = (
    padding_never_matters,
    candidate_order_never_matters,
    rows_never_mix,
    a_saved_ranker_scores_the_same,
    a_state_can_be_used_again,
    gradient_reaches_all_parameters,
    the_whole_catalogue_agrees,
    the_seed_decides,
    scores_are_finite,
    new_users_are_welcome,
)
