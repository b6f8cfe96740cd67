"""Losses against their formulas, one example at a time."""

import math

import pytest
import torch

from simlab.training.losses import LOSSES, bce, bpr, mse

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
