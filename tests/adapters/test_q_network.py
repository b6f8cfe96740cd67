"""Q-networks: formulas written out, masks, targets that share nothing, double Q-learning."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from simlab.adapters.q_network import QNetwork, double
from simlab.errors import BadInput
from tests.adapters.bodies import body, context, families


def same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-5)


def test_values_are_the_logits_scaled_and_shifted() -> None:
    ranker, c = body(), context()
    assert torch.equal(QNetwork(ranker, affine=False)(c), ranker.score(c))
    q = QNetwork(ranker)
    assert torch.equal(q(c), ranker.score(c))  # at first
    assert q.scale is not None
    assert q.shift is not None
    q.scale.data.fill_(3.0)
    q.shift.data.fill_(-2.0)
    assert same(q(c), 3 * ranker.score(c) - 2)


@pytest.mark.parametrize("affine", [True, False])
def test_dueling_splits_a_value_from_the_advantages(affine: bool) -> None:
    """The mean over allowed candidates is V; what is masked moves nothing."""
    ranker, c = body(), context()
    q = QNetwork(ranker, affine=affine, dueling=True)
    assert q.value is not None
    torch.nn.init.normal_(q.value.layers[-1].weight, std=0.5)  # type: ignore[arg-type]
    if q.scale is not None:
        q.scale.data.fill_(2.0)
    found, value = q(c).detach(), q.value(q.encode(c)).detach()
    for row in range(len(c)):
        allowed = c.mask[row]
        logits = ranker.score(c)[row].detach()
        mean = sum(float(x) for x in logits[allowed]) / int(allowed.sum())
        wanted = (2.0 if affine else 1.0) * (logits - mean) + value[row]
        assert same(found[row], wanted)
        assert float(found[row][allowed].mean()) == pytest.approx(float(value[row]), abs=1e-5)
    assert float(value.std()) > 0.01


def test_a_state_at_hand_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    c = context()
    for dueling in (False, True):
        ranker = body()
        q = QNetwork(ranker, dueling=dueling)
        state, whole = q.encode(c), q(c)
        monkeypatch.setattr(ranker, "encode", lambda _: pytest.fail("the state was at hand"))
        assert torch.equal(q(c, state), whole)


def test_masked_candidates_are_never_chosen() -> None:
    ranker, c = body(), context()
    q = QNetwork(ranker)
    values = q(c)
    rows = torch.arange(len(c))
    top = values.argmax(1)
    c = replace(c, mask=torch.ones_like(c.mask).scatter(1, top.unsqueeze(1), False))
    value, column = q.best(c)
    assert bool((column != top).all())
    assert torch.equal(value, values[rows, column])
    assert torch.equal(value, values.scatter(1, top.unsqueeze(1), -torch.inf).max(1).values)
    slate = q.greedy(c, 6)
    assert not bool((slate == top.unsqueeze(1)).any())
    assert bool((values.gather(1, slate).diff(dim=1) <= 0).all())
    assert bool(q(c).isfinite().all())  # so that a chance of 0 times a value is 0
    nothing = replace(c, mask=torch.zeros_like(c.mask))
    assert bool(q.best(nothing)[0].isneginf().all())


@pytest.mark.parametrize("name", families())
def test_a_copy_shares_no_weight(name: str) -> None:
    """Not even after a training pass, which some families keep something of."""
    c = context()
    q = QNetwork(body(name).train(), dueling=True)
    q(c).sum().backward()
    target = q.copy()
    mine = {x.data_ptr() for x in q.state_dict().values() if x.numel()}
    assert not mine & {x.data_ptr() for x in target.state_dict().values() if x.numel()}
    assert not any(p.requires_grad for p in target.parameters())
    assert not target.training
    before = target(c)
    with torch.no_grad():
        for p in q.parameters():
            p.add_(0.1)
    assert torch.equal(target(c), before)
    target.soft_update(q, 1.0)
    assert all(
        torch.equal(a, b) for a, b in zip(q.state_dict().values(), target.state_dict().values(), strict=True)
    )


def test_a_soft_update_is_a_weighted_mean() -> None:
    online, target = QNetwork(body(seed=1)), QNetwork(body(seed=2)).copy()
    old = {k: v.clone() for k, v in target.state_dict().items()}
    target.soft_update(online, 0.25)
    for name, value in target.state_dict().items():
        if not value.is_floating_point():
            continue
        assert same(value, 0.25 * online.state_dict()[name] + 0.75 * old[name])
    with pytest.raises(BadInput, match=r"tau is a share in \[0, 1\], not 1.5"):
        target.soft_update(online, 1.5)


def test_double_q_learning_lets_one_choose_and_the_other_value() -> None:
    online, target, c = QNetwork(body(seed=1)), QNetwork(body(seed=2)).copy(), context()
    found = double(online, target, c)
    mine, theirs = online(c).detach(), target(c)
    for row in range(len(c)):
        best = max((i for i in range(7) if c.mask[row, i]), key=lambda i: float(mine[row, i]))
        assert float(found[row]) == float(theirs[row, best])
    assert bool((found <= target.best(c)[0]).all())
    assert bool((found < target.best(c)[0]).any())  # they do not always agree
    assert not found.requires_grad


@pytest.mark.parametrize("dueling", [False, True])
def test_it_learns_values_far_from_logits(dueling: bool) -> None:
    """Returns of 50 + 10 x (item odd): the scale and the shift, or V, take the body there."""
    c = context(20)
    c = replace(c, candidates=torch.arange(7).expand(20, -1))  # all choose from the same ones
    wanted = 50 + 10.0 * (c.candidates % 2)
    q = QNetwork(body(), dueling=dueling)
    optimizer = torch.optim.Adam(q.parameters(), lr=0.05)
    for _ in range(250):
        loss = functional.mse_loss(q(c), wanted)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float(loss.detach()) < 1.0
    best = q.best(c)[1].unsqueeze(1)
    assert bool((wanted.gather(1, best) == 60).all())
