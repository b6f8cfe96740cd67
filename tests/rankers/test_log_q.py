"""Sampled softmax: corrected by log q its gradient tends to the full softmax's, without it to another.

One user, eight items, logits that differ, and drawing probabilities that differ more. Every expectation over
draws is an exact sum where it can be listed, and otherwise a mean over many draws with its standard error.
"""

import itertools
import math

import pytest
import torch
from torch import Tensor

from simlab.context import Context
from simlab.log import Log
from simlab.rankers.contract import Sizes
from simlab.rankers.two_tower import TwoTower
from simlab.seeds import Seed
from simlab.training.examples import Source
from simlab.training.losses import softmax
from simlab.training.settings import FitSettings
from simlab.training.units import Rounds

Z = torch.tensor([1.0, 0.4, -0.3, 0.9, -1.2, 0.0, 2.0, -0.5], dtype=torch.float64)
Q = torch.tensor([0.40, 0.25, 0.02, 0.03, 0.15, 0.05, 0.02, 0.08], dtype=torch.float64)
TARGET = 3
N = len(Z)
OTHERS = Q * (torch.arange(N) != TARGET)
OTHERS = OTHERS / OTHERS.sum()
"""What is drawn from: everything but the target."""


def full() -> Tensor:
    """Return the gradient of the full softmax: softmax(z) minus the target."""
    p = Z.softmax(0)
    p[TARGET] -= 1
    return p


def gradients(drawn: Tensor, corrected: bool) -> Tensor:
    """Return the gradient in z of the loss of each row of drawn items, as `softmax` and autograd have it.

    The target is the first column and is never drawn again, as in training.
    """
    rows, n = drawn.shape
    z = Z.expand(rows, -1).clone().requires_grad_()
    columns = torch.cat([torch.full((rows, 1), TARGET), drawn], dim=1)
    logits = z.gather(1, columns)
    if corrected:
        logits = logits - torch.cat([torch.zeros(rows, 1), (n * OTHERS[drawn]).log()], dim=1)
    target = torch.zeros_like(logits)
    target[:, 0] = 1
    loss, count = softmax(logits, target, torch.ones_like(logits))
    assert float(count) == rows
    torch.autograd.backward(loss)
    assert z.grad is not None
    return z.grad


def expected(n: int, corrected: bool) -> Tensor:
    """Return the gradient's expectation over n draws with replacement, every one of them listed."""
    free = [i for i in range(N) if i != TARGET]
    drawn = torch.tensor(list(itertools.product(free, repeat=n)))
    chance = OTHERS[drawn].prod(1)
    assert float(chance.sum()) == pytest.approx(1)
    return (chance.unsqueeze(1) * gradients(drawn, corrected)).sum(0)


def sampled(n: int, corrected: bool, draws: int = 2000) -> tuple[Tensor, Tensor]:
    """Return the gradient's mean over draws, and its standard error."""
    g = torch.Generator().manual_seed(7)
    drawn = torch.multinomial(OTHERS, draws * n, replacement=True, generator=g).view(draws, n)
    each = gradients(drawn, corrected)
    return each.mean(0), each.std(0) / math.sqrt(draws)


def far(gradient: Tensor) -> float:
    """Return the distance to the full softmax's gradient."""
    return float((gradient - full()).norm())


def test_one_draw_by_hand() -> None:
    """With one draw j, the loss is log(1 + exp(z_j - log q_j - z_t)), and its slope in z_j the sigmoid."""
    for j in (0, 2, 6):
        gap = float(Z[j] - OTHERS[j].log() - Z[TARGET])
        found = gradients(torch.tensor([[j]]), corrected=True)[0]
        slope = 1 / (1 + math.exp(-gap))
        assert float(found[j]) == pytest.approx(slope, abs=1e-12)
        assert float(found[TARGET]) == pytest.approx(-slope, abs=1e-12)


def test_the_sum_over_items_is_estimated_without_bias() -> None:
    """E Σ exp(z_j - log(n q_j)) over n draws is Σ exp(z_j) over the items that can be drawn, for every n."""
    free = torch.arange(N) != TARGET
    for n in (1, 2, 3):
        drawn = torch.tensor(list(itertools.product(free.nonzero().squeeze(1).tolist(), repeat=n)))
        each = (Z[drawn] - (n * OTHERS[drawn]).log()).exp().sum(1)
        mean = (OTHERS[drawn].prod(1) * each).sum()
        assert float(mean) == pytest.approx(float(Z[free].exp().sum()), rel=1e-12)


def test_the_bias_vanishes_as_one_over_the_number_of_draws() -> None:
    """Corrected, the listed expectation comes closer with every draw; samples go on as 1 / n."""
    exact = [far(expected(n, corrected=True)) for n in (1, 2, 3, 4)]
    assert exact == sorted(exact, reverse=True)
    mean, error = sampled(4, corrected=True)
    assert bool(((mean - expected(4, corrected=True)).abs() < 5 * error + 1e-12).all())
    bias = {n: far(sampled(n, corrected=True)[0]) for n in (16, 64, 512)}
    noise = {n: float(sampled(n, corrected=True)[1].norm()) for n in (16, 64, 512)}
    assert bias[64] < 0.4 * bias[16] + 3 * noise[64]  # a quarter, by theory
    assert bias[512] < 3 * noise[512] + 0.05 * bias[16]


def test_without_the_correction_the_bias_stays() -> None:
    """Then the draws' softmax has the weights q exp(z): its limit is another gradient, and far off."""
    tilted = OTHERS * Z.exp()
    # For n draws the target stands beside n q_j exp(z_j): the more draws, the less of the target is left.
    for n in (64, 512):
        total = Z[TARGET].exp() + n * tilted.sum()
        limit = n * tilted / total
        limit[TARGET] = Z[TARGET].exp() / total - 1
        mean, error = sampled(n, corrected=False)
        assert float((mean - limit).norm()) < 0.02 + 3 * float(error.norm())
        assert far(mean) > 0.3
        assert far(mean) > n / 16 * far(sampled(n, corrected=True)[0])


def test_even_draws_need_only_their_number() -> None:
    """Drawn evenly, log q is the same for all: corrected, log(n / (N - 1)) alone is taken off."""
    drawn = torch.tensor([[0, 6, 2], [1, 1, 5]])
    logits = torch.cat([Z[[TARGET, TARGET]].unsqueeze(1), Z[drawn] - math.log(3 / (N - 1))], dim=1)
    target = torch.zeros_like(logits)
    target[:, 0] = 1
    found, _ = softmax(logits, target, torch.ones_like(logits))
    slow = sum(
        math.log(math.exp(Z[TARGET]) + sum((N - 1) / 3 * math.exp(Z[j]) for j in row)) - float(Z[TARGET])
        for row in drawn.tolist()
    )
    assert float(found) == pytest.approx(slow, abs=1e-12)


@pytest.mark.parametrize("sampler", ["uniform", "popularity"])
def test_drawn_rows_carry_their_correction(sampler: str) -> None:
    """A click stands first, uncorrected; a drawn item has -log(n q), q over what its user did not click."""
    user, item = torch.tensor([0, 0, 1, 1, 1, 2]), torch.tensor([0, 1, 1, 2, 3, 1])
    ones = torch.ones(6, dtype=torch.float64)
    log = Log(user, item.unsqueeze(1), ones, ones, n_items=6, click=ones.unsqueeze(1))
    how = FitSettings(loss="softmax", negatives=4, sampler=sampler)
    rounds = Rounds(Source(log, 0), how)
    rounds.lay(torch.arange(6), Seed(3))
    clicks = [1, 3, 1, 1, 0, 0]
    mass = [1.0] * 6 if sampler == "uniform" else [max(c, 0.5) ** 0.75 for c in clicks]
    assert rounds.rows.shift is not None
    for u, row, shift in zip(user.tolist(), rounds.rows.items.tolist(), rounds.rows.shift, strict=True):
        free = set(range(6)) - {i for v, i in zip(user.tolist(), item.tolist(), strict=True) if v == u}
        assert set(row[1:]) <= free
        total = sum(mass[i] for i in free)
        expected = [0.0] + [-math.log(4 * mass[i] / total) for i in row[1:]]
        assert shift.tolist() == pytest.approx(expected, abs=1e-6)
    ranker = TwoTower.build(Sizes(3, 6), {"dim": 4, "layers": ()}, None, Seed(1))
    assert isinstance(ranker, TwoTower)
    torch.nn.init.normal_(ranker.user.ids.weight, generator=Seed(2).torch())
    ranker.requires_grad_(False)
    above, below = rounds.loss(ranker, torch.arange(6), user)
    everything = ranker.score_all(Context.of(user, 6))
    logits = everything.gather(1, rounds.rows.items) + rounds.rows.shift
    assert float(above / below) == pytest.approx(float(-logits.log_softmax(1)[:, 0].mean()), abs=1e-5)
