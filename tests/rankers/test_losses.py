"""Losses against their formulas, one example at a time."""

import math

import pytest
import torch

from simlab.training.full_softmax import full_softmax
from simlab.training.losses import LOSSES, bce, bpr, gbce, infonce, mse, softmax, softmax_at

Z = torch.tensor([[0.5, -1.0, 2.0], [3.0, 0.0, -30.0]], dtype=torch.float64)
Y = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]], dtype=torch.float64)
W = torch.tensor([[2.0, 0.5, 1.0], [1.0, 3.0, 0.0]], dtype=torch.float64)


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def cells() -> list[tuple[float, float, float]]:
    return list(zip(Z.reshape(-1).tolist(), Y.reshape(-1).tolist(), W.reshape(-1).tolist(), strict=True))


def test_bce() -> None:
    above, below = bce(Z, Y, W)
    expected = sum(-w * (y * math.log(sigmoid(z)) + (1 - y) * math.log1p(-sigmoid(z))) for z, y, w in cells())
    assert float(above) == pytest.approx(expected, abs=1e-12)
    assert float(below) == 7.5
    far, _ = bce(torch.tensor([[800.0]]), torch.tensor([[0.0]]), torch.tensor([[1.0]]))
    assert float(far) == 800  # no overflow


def test_bce_with_worth_above_one_is_unbiased() -> None:
    theta, chance, z = 0.25, 0.6, torch.tensor([[0.3]], dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64)
    clicked, _ = bce(z, one / theta, one)
    not_clicked, _ = bce(z, 0 * one, one)
    truth, _ = bce(z, chance * one, one)
    mean = theta * chance * clicked + (1 - theta * chance) * not_clicked
    assert float(mean) == pytest.approx(float(truth), abs=1e-12)


def test_mse() -> None:
    above, below = mse(Z, Y, W)
    assert float(above) == pytest.approx(sum(w * (z - y) ** 2 for z, y, w in cells()), abs=1e-12)
    assert float(below) == 7.5


def test_bpr() -> None:
    above, below = bpr(Z, Y, W)
    pairs = [(0.5 - -1.0, 2 * 0.5), (0.5 - 2.0, 2 * 1.0), (3.0 + 30.0, 0.0), (0.0 + 30.0, 0.0)]
    assert float(above) == pytest.approx(sum(-w * math.log(sigmoid(gap)) for gap, w in pairs), abs=1e-12)
    assert float(below) == 3.0


def test_bpr_without_a_pair_is_zero() -> None:
    above, below = bpr(Z, torch.ones_like(Y), W)
    assert (float(above), float(below)) == (0.0, 0.0)


def test_bpr_of_two_columns_is_the_pair_whichever_stands_first() -> None:
    for y in ([1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]):
        two = torch.tensor([y, y], dtype=torch.float64)
        three = torch.cat([two, two[:, :1]], dim=1)
        z, w = Z[:, :2], W[:, :2]
        wide = torch.cat([w, torch.zeros(2, 1, dtype=torch.float64)], dim=1)
        for a, b in zip(bpr(z, two, w), bpr(Z, three, wide), strict=True):
            assert float(a) == pytest.approx(float(b), abs=1e-12)


def test_softmax() -> None:
    above, below = softmax(Z, Y, W)
    first = math.log(sum(math.exp(z) for z in (0.5, -1.0, 2.0))) - 0.5
    second = math.log(sum(math.exp(z) for z in (3.0, 0.0)))  # the third has weight 0
    expected = 2 * first + 1 * (second - 3.0) + 3 * (second - 0.0)
    assert float(above) == pytest.approx(expected, abs=1e-12)
    assert float(below) == 2 + 1 + 3
    nothing, no_weight = softmax(Z, Y, torch.zeros_like(W))
    assert (float(nothing), float(no_weight)) == (0.0, 0.0)
    out = Z.clone()
    out[1, 1:] = -torch.inf
    only, _ = softmax(out[1:], Y[1:] * torch.tensor([1.0, 0.0, 0.0]), W[1:])
    assert float(only) == pytest.approx(0, abs=1e-12)
    for a, b in zip(infonce(Z, Y, W), softmax(Z, Y, W), strict=True):
        assert float(a) == float(b)


def test_softmax_of_one_positive_needs_no_targets() -> None:
    column, weight = torch.tensor([2, 0]), torch.tensor([0.5, 3.0], dtype=torch.float64)
    target = torch.zeros_like(Z)
    target[[0, 1], column] = weight
    for a, b in zip(softmax_at(Z, column, weight), softmax(Z, target, torch.ones_like(Z)), strict=True):
        assert float(a) == pytest.approx(float(b), abs=1e-12)


def test_gbce() -> None:
    """A positive's probability is raised to beta; t = 0 leaves beta at 1, and so does drawing everything."""
    rate, t = 0.1, 0.75
    beta = rate * (t * (1 - 1 / rate) + 1 / rate)
    above, below = gbce(Z, Y, W, rate, t)
    expected = sum(
        -w * (math.log(sigmoid(z) ** beta) if y else math.log1p(-sigmoid(z))) for z, y, w in cells()
    )
    assert float(above) == pytest.approx(expected, abs=1e-12)
    assert float(below) == 7.5
    for plain in (gbce(Z, Y, W, rate, 0.0), gbce(Z, Y, W, 1.0, t), gbce(Z, Y, W)):
        assert float(plain[0]) == pytest.approx(float(bce(Z, Y, W)[0]), abs=1e-12)


def test_the_softmax_in_pieces_is_the_softmax() -> None:
    """Values and gradients are those of cross_entropy: to rounding in float32, to a per cent in bfloat16."""
    g = torch.Generator().manual_seed(0)
    states, vectors = torch.randn(1200, 16, generator=g), torch.randn(70, 16, generator=g)
    target, weight = torch.randint(0, 70, (1200,), generator=g), torch.rand(1200, generator=g)

    def grads(how: torch.dtype | None) -> tuple[torch.Tensor, ...]:
        s, v = states.clone().requires_grad_(), vectors.clone().requires_grad_()
        if how is None:
            loss, _ = softmax_at(s @ v.T, target, weight)
        else:
            loss = full_softmax(s, v, target, weight, how)
        torch.autograd.backward(3 * loss)
        assert s.grad is not None
        assert v.grad is not None
        return loss.detach(), s.grad, v.grad

    exact = grads(None)
    for how, most in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        for found, expected in zip(grads(how), exact, strict=True):
            assert float((found - expected).norm() / expected.norm()) < most, how


@pytest.mark.parametrize("name", LOSSES)
def test_weight_zero_has_no_influence(name: str) -> None:
    loss, gone = LOSSES[name], W.clone()
    gone[0, 1] = 0
    z = Z.clone().requires_grad_()
    above, below = loss(z, Y, gone)
    torch.autograd.backward(above / below)
    assert z.grad is not None
    assert float(z.grad[0, 1]) == 0
    left = Z[:1, [0, 2]].clone().requires_grad_()
    second = Z[1:].clone().requires_grad_()
    first_part, second_part = loss(left, Y[:1, [0, 2]], gone[:1, [0, 2]]), loss(second, Y[1:], gone[1:])
    torch.autograd.backward((first_part[0] + second_part[0]) / (first_part[1] + second_part[1]))
    assert left.grad is not None
    torch.testing.assert_close(z.grad[0, [0, 2]], left.grad[0], atol=1e-15, rtol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients(name: str) -> None:
    z = Z.clamp(-3, 3).clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: LOSSES[name](v, Y, W)[0], (z,))
