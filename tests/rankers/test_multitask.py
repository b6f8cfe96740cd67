"""Multi-task families against their formulas, written out slowly for each user and candidate."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from simlab.context import Context
from simlab.errors import BadInput
from simlab.log import Log
from simlab.rankers._multitask import MultiTask, Networks
from simlab.rankers.contract import Ranker, Sizes
from simlab.rankers.esmm import ESMM
from simlab.rankers.mmoe import MMoE
from simlab.rankers.shared_bottom import SharedBottom
from simlab.rankers.soft_sharing import SoftSharing
from simlab.seeds import Seed
from simlab.training.fit import FitSettings, fit
from simlab.training.store import load_ranker, save_ranker
from tests.contracts.rankers import SIZES, catalog, context, near

FAMILIES: list[type[MultiTask]] = [SharedBottom, SoftSharing, ESMM, MMoE]
THREE: dict[str, Any] = {
    "tasks": ("click", "convert", "dwell"),
    "kinds": ("binary", "binary", "value"),
    "dropout": 0.0,
}


def among(c: Context, items: Tensor) -> Context:
    """Return the same users with these candidates."""
    return replace(c, candidates=items, mask=torch.ones_like(items).bool())


def loss_of(ranker: Ranker, seed: int = 1) -> Tensor:
    """Return what training would minimise, for outcomes drawn from a seed."""
    c, g = context(), torch.Generator().manual_seed(seed)
    said = ranker.score_tasks(c)
    total = ranker.penalty()
    for task, kind in enumerate(ranker.kinds):  # type: ignore[arg-type]
        if kind == "binary":
            target = (torch.rand(c.candidates.shape, generator=g) < 0.4).float()
            total = total + functional.binary_cross_entropy_with_logits(said[..., task], target)
        else:
            target = 3 + torch.randn(c.candidates.shape, generator=g)
            total = total + (said[..., task] - target).square().mean()
    return total


def trained(family: type[Ranker], **settings: Any) -> Any:
    """Return a ranker that learned a little, in eval mode."""
    ranker = family.build(SIZES, {**THREE, **settings}, catalog(), Seed(1))
    optimizer = torch.optim.Adam(ranker.parameters(), lr=0.05)
    for _ in range(5):
        optimizer.zero_grad()
        torch.autograd.backward(loss_of(ranker))
        optimizer.step()
    return ranker.eval()


def first(ranker: Any, row: int, item: int) -> Tensor:
    """Return one wide linear layer of [u, v, u v]."""
    u = ranker.users(context().rows(slice(row, row + 1)))[0]
    v = ranker.items(torch.tensor(item))
    weight = torch.cat([ranker.from_user.weight, ranker.from_item.weight, ranker.from_product.weight], 1)
    said: Tensor = weight @ torch.cat([u, v, u * v]) + ranker.from_user.bias
    return said


def network(nets: Networks, number: int, x: Tensor) -> Tensor:
    """Return the output of one of the networks for one input."""
    for weight, bias in zip(nets.weights, nets.biases, strict=True):
        x = x.clamp(min=0) @ weight[number] + bias[number, 0]
    return x


def slowly(ranker: Any, row: int, item: int) -> Tensor:
    """Return each head's output for one user and item, as the papers have it."""
    x = first(ranker, row, item)
    n = len(ranker.tasks)
    if isinstance(ranker, SharedBottom):
        bottom = network(ranker.shared, 0, x)
        return torch.stack([network(ranker.towers, t, bottom)[0] for t in range(n)])
    if isinstance(ranker, MMoE):
        width, experts = ranker.spec.expert[0], ranker.spec.experts
        parts = [
            network(ranker.experts, e, x[e * width : (e + 1) * width]).clamp(min=0) for e in range(experts)
        ]
        said = []
        for t in range(n):
            gate = x[experts * width + t * experts :][:experts].exp()
            mixed = torch.stack([g / gate.sum() * p for g, p in zip(gate, parts, strict=True)]).sum(0)
            said.append(network(ranker.towers, t, mixed)[0])
        return torch.stack(said)
    width = ranker.spec.tower[0]
    out = [network(ranker.towers, t, x[t * width : (t + 1) * width])[0] for t in range(n)]
    if isinstance(ranker, ESMM):
        p = out[0].double().sigmoid() * out[1].double().sigmoid()
        out[1] = (p / (1 - p)).log().float()
    return torch.stack(out)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("narrow", [False, True])
def test_each_family_is_its_equation(family: type[MultiTask], narrow: bool) -> None:
    # A first layer narrower than the 7 candidates folds u into the weights, a wider one lays out u ⊙ v.
    settings: dict[str, Any] = {}
    if narrow:
        key = {SharedBottom: "bottom", MMoE: "expert"}.get(family, "tower")
        settings = {key: (2,) if family is not SharedBottom else (2, 3), "dim": 5}
        settings |= {"experts": 2, "tower": ()} if family is MMoE else {}
        settings |= {"tasks": THREE["tasks"][:2], "kinds": THREE["kinds"][:2]}
    ranker, c = trained(family, **settings), context()
    said = ranker.score_tasks(c)
    assert said.shape == (8, 7, len(ranker.tasks))
    for row, column in ((0, 0), (1, 6), (5, 3)):
        near(said[row, column], slowly(ranker, row, int(c.candidates[row, column])))


@pytest.mark.parametrize("family", FAMILIES)
def test_candidates_and_states_are_shared(family: type[MultiTask]) -> None:
    ranker, c = trained(family), context()
    state = ranker.encode(c)
    everything = torch.arange(SIZES.n_items)
    for count in (1, 7, SIZES.n_items):
        shared = among(c, everything[:count].expand(8, count))
        copied = among(c, everything[:count].repeat(8, 1))
        near(ranker.score_tasks(shared, state), ranker.score_tasks(copied))
        for row, column in ((0, 0), (7, count - 1)):
            near(ranker.score_tasks(shared)[row, column], slowly(ranker, row, column))
    many = among(c, everything.repeat(8, 10))  # more than the first layer is wide
    once = ranker.score_tasks(among(c, everything.repeat(8, 1)))
    near(ranker.score_tasks(many), once.repeat(1, 10, 1))


@pytest.mark.parametrize("family", FAMILIES)
def test_one_head_ranks(family: type[MultiTask], tmp_path: Any) -> None:
    for name, head in (("", 0), ("click", 0), ("convert", 1), ("dwell", 2)):
        ranker, c = trained(family, rank_by=name), context()
        assert ranker.tasks == ("click", "convert", "dwell")
        assert ranker.kinds == ("binary", "binary", "value")
        assert torch.equal(ranker(c), ranker.score_tasks(c)[:, :, head])
    save_ranker(ranker, tmp_path)
    again = load_ranker(tmp_path)
    assert torch.equal(again.score_tasks(c), ranker.score_tasks(c))
    assert again.kinds == ranker.kinds


def test_esmm_multiplies_probabilities() -> None:
    ranker, c = trained(ESMM), context()
    said = ranker.score_tasks(c)
    click, both, after = said[..., 0].sigmoid(), said[..., 1].sigmoid(), ranker.after_click(c).sigmoid()
    near(both, click * after)
    assert bool((both <= click).all())
    assert bool((both < 0.99 * click).any())
    assert torch.equal(ranker.after_click(c, ranker.encode(c)), ranker.after_click(c))


def test_esmm_loses_nothing_far_out() -> None:
    """Logits of ±60 give the product's logit to rounding, and a finite gradient."""
    ranker = trained(ESMM)
    for a, b in ((60.0, 60.0), (-60.0, 60.0), (60.0, -60.0), (-60.0, -60.0), (100.0, 0.0), (0.0, 0.0)):
        for net, value in ((0, a), (1, b)):
            with torch.no_grad():
                ranker.towers.weights[-1][net].zero_()
                ranker.towers.biases[-1][net] = value
        ranker.zero_grad()
        said = ranker.score_tasks(context())[0, 0, 1]
        x, y = torch.tensor([a, b], dtype=torch.float64)
        exact = -torch.log(torch.exp(-x) + torch.exp(-y) + torch.exp(-x - y))
        torch.testing.assert_close(said.double(), exact, atol=1e-5, rtol=1e-6)
        torch.autograd.backward(said)
        grad = ranker.towers.biases[-1].grad[:2, 0, 0]
        assert bool(grad.isfinite().all())
        assert bool((grad.sum() > 0.9).all())


def test_a_conversion_teaches_both_factors() -> None:
    ranker, c = trained(ESMM).train(), context()
    ranker.zero_grad()
    torch.autograd.backward(
        functional.binary_cross_entropy_with_logits(ranker.score_tasks(c)[..., 1], torch.ones(8, 7))
    )
    for weight in ranker.towers.weights:
        there = (weight.grad != 0).flatten(1).any(1)
        assert there.tolist() == [True, True, False]
    # A click alone teaches the first factor alone.
    ranker.zero_grad()
    torch.autograd.backward(ranker.score_tasks(c)[..., 0].sum())
    assert [bool((g != 0).any()) for g in ranker.towers.weights[0].grad] == [True, False, False]


def test_gates_sum_to_one() -> None:
    ranker, c = trained(MMoE, experts=3), context()
    gates = ranker.gates(c)
    assert gates.shape == (8, 7, 3, 3)
    near(gates.sum(3), torch.ones(8, 7, 3))
    assert not torch.allclose(gates[:, :, 0], gates[:, :, 1], atol=1e-3)  # each task has its own
    x = first(ranker, 2, int(c.candidates[2, 4]))[3 * ranker.spec.expert[0] :]
    near(gates[2, 4, 1], x[3:6].exp() / x[3:6].exp().sum())


def test_soft_sharing_ties_each_pair_of_tasks() -> None:
    ranker = trained(SoftSharing, tie=0.3)
    width = ranker.spec.tower[0]

    def theta(t: int) -> Tensor:
        part = slice(t * width, (t + 1) * width)
        layers = [
            ranker.from_user.weight[part],
            ranker.from_item.weight[part],
            ranker.from_product.weight[part],
        ]
        layers += [ranker.from_user.bias[part], ranker.towers.weights[0][t], ranker.towers.biases[0][t]]
        return torch.cat([p.flatten() for p in layers])

    pairs = [(theta(s) - theta(t)).square().sum() for s in range(3) for t in range(s)]
    near(ranker.penalty(), 0.3 * torch.stack(pairs).sum())
    assert len(ranker.towers.weights) == 2  # the last layers are free
    loose, tied = trained(SoftSharing, tie=0.0), trained(SoftSharing, tie=1.0)
    near(loose.penalty(), torch.tensor(0.0))
    loose.spec = replace(loose.spec, tie=1.0)
    assert bool(tied.penalty() < 0.5 * loose.penalty())


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_learn_their_own_outcomes(family: type[MultiTask]) -> None:
    """Three outcomes of the item: a click on even items, a conversion on every fourth, minutes by its id."""
    ranker = family.build(SIZES, {**THREE, "past": 0}, None, Seed(0))
    c = context(cands=30)
    even, fourth = (c.candidates % 2 == 0).float(), (c.candidates % 4 == 0).float()
    minutes = c.candidates / 10
    optimizer = torch.optim.Adam(ranker.parameters(), lr=0.01)
    for _ in range(150):
        said = ranker.score_tasks(c)
        loss = functional.binary_cross_entropy_with_logits(said[..., 0], even)
        loss = loss + functional.binary_cross_entropy_with_logits(said[..., 1], fourth)
        loss = loss + (said[..., 2] - minutes).square().mean() + ranker.penalty()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    said = ranker.eval().score_tasks(c)
    assert torch.equal(said[..., 0] > 0, even > 0)
    assert torch.equal(said[..., 1] > 0, fourth > 0)
    assert bool((said[..., 2] - minutes).abs().mean() < 0.2)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_head_takes_the_base_rate(family: type[MultiTask]) -> None:
    ranker = family.build(SIZES, THREE, None, Seed(0)).eval()
    c = context()
    before = ranker.score_tasks(c)
    ranker.start(-2.0)
    after = ranker.score_tasks(c)
    near(after[..., 0], before[..., 0] - 2)
    near(after[..., 2], before[..., 2])
    ranker.start(5.0)  # an intercept that is there stays
    near(ranker.score_tasks(c), after)


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_that_cannot_be_are_named(family: type[MultiTask]) -> None:
    def refuse(match: str, **settings: Any) -> None:
        with pytest.raises(BadInput, match=match):
            family.build(SIZES, {**THREE, **settings})

    refuse("3 tasks and 2 kinds", kinds=("binary", "binary"))
    refuse("task dwell: kind is binary or value, not number", kinds=("binary", "binary", "number"))
    refuse("two tasks named click", tasks=("click", "click", "dwell"))
    refuse("no task clik to rank by.*click", rank_by="clik")
    layer = {SharedBottom: "bottom", MMoE: "expert"}.get(family, "tower")
    refuse(f"{layer} is empty", **{layer: ()})
    if family is ESMM:
        refuse("both binary", kinds=("binary", "value", "value"))
        refuse("both binary", tasks=("click",), kinds=("binary",))
    else:
        refuse("tasks is empty", tasks=(), kinds=())
        one = trained(family, tasks=("click",), kinds=("binary",))
        assert torch.equal(one(context()), one.score_tasks(context())[:, :, 0])
    if family is MMoE:
        refuse("^experts of mmoe is at least 1, not 0$", experts=0)


def test_fit_teaches_each_head_its_outcome() -> None:
    """Item 0 is never clicked, 1 is clicked for a minute, 2 is clicked and bought in three minutes."""
    g = torch.Generator().manual_seed(0)
    slate = torch.rand(300, 3, generator=g).topk(2).indices
    click = (slate > 0).double()
    minutes = torch.where(slate > 0, 2.0 * slate - 1, torch.nan)  # unknown where nothing was clicked
    log = Log(torch.arange(300) % 10, slate, torch.full((300,), 1 / 6.0), click.sum(1), 3, click=click)
    ranker = ESMM.build(Sizes.of(log), {**THREE, "past": 0}, None, Seed(0))
    outcomes = {"convert": (slate == 2).float(), "dwell": minutes}
    fit(ranker, log, seed=Seed(0), outcomes=outcomes, settings=FitSettings(epochs=30, validation=0.0))
    everything = Context.of(torch.arange(10), 3)
    said = ranker.score_tasks(everything)
    chance = said[..., :2].sigmoid()
    near_enough = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]).expand(10, 3, 2)
    assert bool(((chance - near_enough).abs() < 0.2).all())
    assert bool(((said[:, 1:, 2] - torch.tensor([1.0, 3.0])).abs() < 0.3).all())
