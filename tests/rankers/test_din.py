"""DIN and DIEN against their formulas, written out slowly for each user and candidate."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional

from simlab.context import Context
from simlab.errors import BadInput
from simlab.rankers import _interest
from simlab.rankers._interest import Dice, InterestHead, blocks
from simlab.rankers.contract import Ranker, Sizes
from simlab.rankers.dien import DIEN
from simlab.rankers.din import DIN
from simlab.seeds import Seed
from simlab.training.fit import fit
from tests.contracts.rankers import SIZES, catalog, context, interactions, near
from tests.rankers import ctr_case

SEED_OF_A_HIT = 1
"""Draws the next item itself once."""


def trained(family: type[Ranker], seed: int = 1, **settings: Any) -> Any:
    """Return a ranker that learned a little with these settings."""
    ranker = family.build(SIZES, {"dropout": 0.0, **settings}, catalog(), Seed(seed))
    ranker.prepare(interactions())
    c, g = context(), torch.Generator().manual_seed(seed)
    target = (torch.rand(c.candidates.shape, generator=g) < 0.4).float()
    optimizer = torch.optim.Adam(ranker.parameters(), lr=0.05)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(5):
            loss = functional.binary_cross_entropy_with_logits(ranker(c), target) + ranker.penalty()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    return ranker.eval()


def among(c: Context, items: Tensor) -> Context:
    """Return the same users with these candidates."""
    return replace(c, candidates=items, mask=torch.ones_like(items).bool())


def plain(activation: Any, x: Tensor) -> Tensor:
    """Return an activation of one vector, in evaluation, number by number."""
    said = []
    for k, s in enumerate(x):
        if activation.dice is not None:
            dice = activation.dice
            p = torch.sigmoid((s - dice.mean[k]) / torch.sqrt(dice.var[k] + 1e-8))
            said.append(p * s + (1 - p) * dice.alpha[k] * s)
        elif activation.slope is not None:
            said.append(s if s > 0 else activation.slope[k] * s)
        else:
            said.append(1 / (1 + torch.exp(-s)))
    return torch.stack(said)


def shown(ranker: Any, c: Context, row: int) -> list[tuple[int, Tensor]]:
    """Return the items that count, oldest first, and their vectors."""
    found = []
    for item, feedback in zip(c.history[row].tolist(), c.feedback[row].tolist(), strict=True):
        if item < 0 or item >= SIZES.n_items:
            continue
        if ranker.spec.unclicked:
            kind = ranker.history.feedback.weight[int(feedback > 0)]
            found.append((item, ranker.items(torch.tensor(item)) + kind))
        elif feedback > 0:
            found.append((item, ranker.items(torch.tensor(item))))
    return found


def network(head: InterestHead, c: Context, row: int, item: int, v: Tensor, z: Tensor) -> Tensor:
    """Return b_u + b_i + MLP([u, z, v, z v, u v]) with one wide first layer."""
    u = head.user(c.rows(slice(row, row + 1)))[0]
    x = torch.cat([u, z, v, z * v, u * v])
    x = torch.cat([head.from_user.weight, head.from_pair.weight], 1) @ x + head.from_user.bias
    for number, activation in enumerate(head.activations):
        x = plain(activation, x if number == 0 else head.rest[number - 1](x))
    said: Tensor = head.out(x)[0] + head.user_bias.weight[c.user[row], 0] + head.item_bias.weight[item, 0]
    return said


SETTINGS: list[dict[str, Any]] = [
    {"unit": 3},
    {"unit": 50, "activation": "dice"},
    {"unit": 4, "activation": "sigmoid", "normalise": True},
    {"unclicked": True},
    {"unit": 2, "unclicked": True, "normalise": True},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_din_is_its_equation(settings: dict[str, Any]) -> None:
    ranker, c = trained(DIN, **settings), context()
    scores = ranker(c)  # 7 candidates and 6 items of history, which are folded into the weights
    few = among(c, c.candidates[:, [0, 3, 6]])
    near(ranker(few), scores[:, [0, 3, 6]])  # fewer candidates than history: these are folded
    for row in (0, 1, 5):
        keys = [k for _, k in shown(ranker, c, row)]
        assert keys
        for column in (0, 6):
            item = int(c.candidates[row, column])
            q = ranker.items(torch.tensor(item))
            weights = [
                ranker.unit_out(plain(ranker.unit_activation, ranker.unit(torch.cat([q, k, q - k, q * k]))))[
                    0
                ]
                for k in keys
            ]
            if ranker.spec.normalise:
                weights = list(torch.stack(weights).softmax(0))
            z = torch.stack([w * k for w, k in zip(weights, keys, strict=True)]).sum(0)
            near(scores[row, column], network(ranker.head, c, row, item, q, z))


@pytest.mark.parametrize("settings", [{}, {"activation": "dice", "unclicked": True}], ids=str)
def test_dien_is_its_equation_with_a_loop_over_cells(settings: dict[str, Any]) -> None:
    ranker, c = trained(DIEN, **settings), context()
    gru = ranker.extractor
    cell = torch.nn.GRUCell(ranker.dim, ranker.dim)
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in gru.state_dict().items()})
    w, r = ranker.evolve_input, ranker.evolve_state
    scores = ranker(c)
    for row in (0, 1, 5):
        h, states = torch.zeros(1, ranker.dim), []
        for _, k in shown(ranker, c, row):
            h = cell(k.unsqueeze(0), h)
            states.append(h[0])
        for column in (0, 6):
            item = int(c.candidates[row, column])
            v = ranker.items(torch.tensor(item))
            shares = torch.stack([s @ ranker.attention.weight @ v for s in states]).softmax(0)
            z = torch.zeros(ranker.dim)
            for share, state in zip(shares, states, strict=True):
                w_r, w_u, w_n = (w.weight @ state + w.bias).chunk(3)
                r_r, r_u, r_n = (r.weight @ z + r.bias).chunk(3)
                reset, update = torch.sigmoid(w_r + r_r), share * torch.sigmoid(w_u + r_u)
                z = (1 - update) * z + update * torch.tanh(w_n + reset * r_n)
            near(scores[row, column], network(ranker.head, c, row, item, v, z))


def test_the_extractor_tells_the_next_click_from_a_drawn_item() -> None:
    ranker = trained(DIEN, auxiliary=0.7)
    c = context()
    near(ranker.penalty(), torch.tensor(0.0))
    ranker.train()
    near(ranker.penalty(), torch.tensor(0.0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED_OF_A_HIT)
        ranker(c)
        said = ranker.penalty()
        torch.manual_seed(SEED_OF_A_HIT)
        drawn = torch.randint(0, SIZES.n_items, (8, c.history.shape[1] - 1))
    total, count, hits = torch.tensor(0.0), 0, 0
    for row in range(8):
        clicked = shown(ranker, c, row)
        states = ranker.extractor(torch.stack([k for _, k in clicked]).unsqueeze(0))[0][0]
        for t in range(len(clicked) - 1):
            item, k = clicked[t + 1]
            other = int(drawn[row, t])
            total = total - torch.log(torch.sigmoid(states[t] @ k))
            if other != item:
                total = total - torch.log(1 - torch.sigmoid(states[t] @ ranker.items(torch.tensor(other))))
            hits += other == item
            count += 1
    assert count > 8
    assert hits == 1  # the next item itself was drawn once, and is no wrong one
    near(said, 0.7 * total / count)
    ranker.eval()
    near(ranker.penalty(), torch.tensor(0.0))


def test_only_a_click_is_the_next_item_of_the_extractor() -> None:
    ranker = trained(DIEN, unclicked=True).train()
    c = context()
    for feedback, some in ((torch.zeros_like(c.feedback), False), (torch.ones_like(c.feedback), True)):
        ranker(replace(c, feedback=feedback))
        assert bool(ranker.penalty() > 0) == some


@pytest.mark.parametrize("family", [DIN, DIEN])
@pytest.mark.parametrize("unclicked", [False, True])
def test_what_does_not_count_changes_nothing(family: type[Ranker], unclicked: bool) -> None:
    ranker, c = trained(family, unclicked=unclicked), context()
    scores = ranker(c)
    # Padding, blanks and items that were not clicked anywhere between the others, and of any feedback.
    holes = torch.full((8, 3), -1)
    holes[:, 1] = SIZES.n_items
    mixed = replace(
        c,
        history=torch.cat([c.history[:, :4], holes, c.history[:, 4:], holes[:, :1]], 1),
        feedback=torch.cat([c.feedback[:, :4], torch.ones(8, 3), c.feedback[:, 4:], torch.ones(8, 1)], 1),
    )
    near(ranker(mixed), scores)
    missed = torch.where(c.feedback > 0, c.history, (c.history + 1).clamp(max=SIZES.n_items - 1))
    other = ranker(replace(c, history=missed.where(c.history >= 0, -1)))
    assert torch.allclose(other, scores, atol=1e-6) != unclicked


@pytest.mark.parametrize("family", [DIN, DIEN])
def test_a_user_without_history_has_no_interest(family: type[Ranker]) -> None:
    ranker, c = trained(family), context()
    bare = replace(c, history=c.history[:, :0], feedback=c.feedback[:, :0])
    scores = ranker(bare)
    for row, column in ((0, 0), (3, 6)):
        item = int(c.candidates[row, column])
        v = ranker.items(torch.tensor(item))
        head = ranker.head
        assert isinstance(head, InterestHead)
        near(scores[row, column], network(head, c, row, item, v, torch.zeros_like(v)))
    near(ranker(replace(c, feedback=torch.zeros_like(c.feedback))), scores)


@pytest.mark.parametrize("normalise", [False, True])
def test_the_weight_of_what_does_not_count_is_zero(normalise: bool) -> None:
    ranker = trained(DIN, normalise=normalise)
    items, keys = ranker.items(torch.arange(3)).expand(4, -1, -1), ranker.items(torch.arange(20).view(4, 5))
    there = torch.rand(4, 5, generator=torch.Generator().manual_seed(1)) < 0.5
    there[2] = False
    for cands in (items, items.repeat(1, 3, 1)):
        weights = ranker.weights(cands, keys, there)
        assert torch.equal(weights != 0, there.unsqueeze(1).expand_as(weights))
        if normalise:
            near(weights.sum(2), there.any(1, keepdim=True).float().expand(4, cands.shape[1]))


@pytest.mark.parametrize("family", [DIN, DIEN])
def test_only_the_last_items_count(family: type[Ranker]) -> None:
    ranker, c = trained(family, past=3, unclicked=True), context()
    near(ranker(c), ranker(replace(c, history=c.history[:, -3:], feedback=c.feedback[:, -3:])))
    assert not torch.allclose(ranker(c), ranker(replace(c, history=c.history.roll(1, 1))))
    without = family.build(SIZES, {"past": 0}).eval()
    near(without(c), without(replace(c, history=c.history.flip(0))))


def test_order_matters_to_dien_alone() -> None:
    c = context()
    back = replace(c, history=c.history.flip(1), feedback=c.feedback.flip(1))
    din, dien = trained(DIN), trained(DIEN)
    near(din(back), din(c))
    assert not torch.allclose(dien(back), dien(c), atol=1e-4)


@pytest.mark.parametrize("family", [DIN, DIEN])
def test_one_state_serves_any_candidates(family: type[Ranker], monkeypatch: pytest.MonkeyPatch) -> None:
    ranker, c = trained(family), context()
    state = ranker.encode(c)
    everything = ranker.score_all(c)
    monkeypatch.setattr(ranker, "encode", None)  # the history is not read again
    for count in (1, 2, 7, SIZES.n_items):
        some = torch.arange(count).repeat(8, 1)
        near(ranker.score(among(c, some), state), everything[:, :count])
    # Memory is cut into blocks of users and candidates; where it is cut does not matter.
    for cells in (1, 500, 3000, 20_000):
        monkeypatch.setitem(_interest.CELLS, "cpu", cells)
        near(ranker.score(among(c, torch.arange(SIZES.n_items).repeat(8, 1)), state), everything)


def test_blocks_cover_each_pair_once() -> None:
    for users, cands, each in (
        (5, 7, 10),
        (1, 1000, 700),
        (3, 1, 1 << 20),
        (40, 3, 9000),
        (0, 3, 1),
        (3, 0, 1),
    ):
        seen = torch.zeros(users, cands)
        for u, c in blocks(users, cands, each, torch.device("cpu")):
            seen[u, c] += 1
            assert seen[u, c].numel() * each <= _interest.CELLS["cpu"] or seen[u, c].numel() == 1
        assert bool((seen == 1).all())


def test_dice_takes_its_statistics_from_what_is_there() -> None:
    dice = Dice(2)
    torch.nn.init.constant_(dice.alpha, 0.3)
    rows = torch.tensor([[1.0, 2.0], [3.0, -1.0], [99.0, 99.0], [5.0, 0.0]])
    there = torch.tensor([1.0, 1.0, 0.0, 1.0])
    real = rows[there > 0]
    mean, var = real.mean(0), real.var(0, correction=0)
    p = ((real - mean) / (var + 1e-8).sqrt()).sigmoid()
    near(dice(rows, there)[there > 0], p * real + (1 - p) * 0.3 * real)
    near(dice.mean, 0.1 * mean)
    near(dice.var, 0.9 + 0.1 * var)
    before = dice.mean.clone(), dice.var.clone()
    dice(rows, torch.zeros(4))  # padding alone
    assert torch.equal(dice.mean, before[0])
    assert torch.equal(dice.var, before[1])
    norm = torch.nn.BatchNorm1d(2, eps=1e-8, affine=False).train()  # the same statistics, all there
    fresh = Dice(2)
    near(fresh(rows), norm(rows).sigmoid() * rows)
    near(fresh.mean, norm.running_mean)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", [DIN, DIEN])
def test_padding_never_matters_in_training(family: type[Ranker]) -> None:
    ranker, c = trained(family, activation="dice").train(), context()
    pads = torch.full((8, 5), -1)
    wide = replace(
        c, history=torch.cat([pads, c.history], 1), feedback=torch.cat([torch.ones(8, 5), c.feedback], 1)
    )
    near(ranker(wide), ranker(c))


@pytest.mark.parametrize("family", [DIN, DIEN])
def test_bad_settings_are_named(family: type[Ranker]) -> None:
    with pytest.raises(BadInput, match="layers is empty"):
        family.build(SIZES, {"layers": ()})
    with pytest.raises(BadInput, match=r"activation is one of dice, prelu, sigmoid, not prelo.*prelu"):
        family.build(SIZES, {"activation": "prelo"})


@pytest.mark.parametrize("family", [DIN, DIEN])
def test_a_taste_for_what_was_clicked_is_learned(family: type[Ranker]) -> None:
    """Items are of two kinds. A user likes what is of the kind of the last click; no user has an id."""
    g = torch.Generator().manual_seed(0)
    kind = torch.arange(SIZES.n_items) % 2
    side = torch.randint(0, 2, (600, 1), generator=g)
    history = 2 * torch.randint(0, 15, (600, 4), generator=g) + side
    candidates = torch.randint(0, SIZES.n_items, (600, 5), generator=g)
    c = Context.of(
        torch.full((600,), 99),
        SIZES.n_items,
        history=history,
        feedback=torch.ones(600, 4),
        candidates=candidates,
    )
    target = (kind[candidates] == side).float()
    ranker = family.build(replace(SIZES, n_users=0, n_features=0, categories=()), {"dim": 8}, None, Seed(2))
    optimizer = torch.optim.Adam(ranker.parameters(), lr=0.02)
    first, last = c.rows(slice(0, 400)), c.rows(slice(400, 600))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(40):
            loss = functional.binary_cross_entropy_with_logits(ranker(first), target[:400]) + ranker.penalty()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    ranker.eval()
    assert bool(((ranker(last) > 0) == (target[400:] > 0)).float().mean() > 0.98)


@pytest.mark.parametrize(("family", "activation"), [(DIN, "dice"), (DIN, "prelu"), (DIEN, "prelu")])
def test_bfloat16_is_near(family: type[Ranker], activation: str) -> None:
    ranker, c = trained(family, activation=activation), context()
    exact = ranker(c)
    with torch.autocast("cpu", torch.bfloat16):
        assert bool(((ranker(c) - exact).abs() < 0.05 * exact.abs().max()).all())
        torch.autograd.backward(ranker.train()(c).sum() + ranker.penalty())


@pytest.mark.slow
@pytest.mark.parametrize("family", [DIEN])
def test_clicks_of_movielens_are_told_apart(family: type[Ranker]) -> None:
    """Test AUC with the file's own histories, chosen by the validation split; torch-rechub's DIN has .768."""
    case = ctr_case.load()
    log, held = case.fitting()
    ranker = family.build(Sizes.of(log), {}, case.catalog, Seed(0))
    fit(ranker, log, seed=Seed(0), held=held)
    rounds = case.rounds("test")
    with torch.no_grad():
        said = torch.cat([ranker(case.context(some)) for some in torch.split(rounds, 2048)])[:, 0]
    assert roc_auc_score(case.label(rounds).numpy(), said.numpy()) > 0.775
