"""Exposure against its definitions."""

import pytest
import torch

from simlab.errors import BadInput
from simlab.metrics.exposure import coverage, drift, exposure, gini, per_provider


def test_exposure_counts_items() -> None:
    shown = exposure(torch.tensor([[0, 2], [2, 3], [2, 0]]), 5)
    assert shown.tolist() == [2, 0, 3, 1, 0]
    assert coverage(shown) == pytest.approx(3 / 5)


def test_gini_is_half_the_relative_mean_difference() -> None:
    x = torch.tensor([5.0, 0.0, 1.0, 2.5, 2.5, 7.0], dtype=torch.float64)
    difference = (x.unsqueeze(0) - x.unsqueeze(1)).abs().mean()
    assert gini(x) == pytest.approx(float(difference / (2 * x.mean())), abs=1e-12)


@pytest.mark.parametrize(
    ("amount", "value"),
    [([3.0] * 7, 0.0), ([0.0] * 9 + [4.0], 0.9), ([1.0], 0.0), ([0.0, 1.0], 0.5), ([1.0, 3.0], 0.25)],
)
def test_gini_known_values(amount: list[float], value: float) -> None:
    assert gini(torch.tensor(amount)) == pytest.approx(value, abs=1e-12)
    assert gini(10 * torch.tensor(amount)) == pytest.approx(value, abs=1e-12)


def test_gini_refuses() -> None:
    with pytest.raises(BadInput, match="no item was shown"):
        gini(torch.zeros(3))
    with pytest.raises(BadInput, match="not -1"):
        gini(torch.tensor([2.0, -1.0]))


def test_drift_is_total_variation() -> None:
    a, b = torch.tensor([2.0, 2.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 2.0, 1.0])
    assert drift(a, b) == pytest.approx(0.75)  # shares ½ ½ 0 0 and 0 ¼ ½ ¼
    assert drift(a, 7 * a) == 0
    assert drift(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 9.0])) == 1
    with pytest.raises(BadInput, match="popularity after has no shares"):
        drift(a, torch.zeros(4))


def test_exposure_per_provider_is_in_fair_shares() -> None:
    """Provider 0 has one item of four and 6 of 12 impressions: twice its share."""
    shown = torch.tensor([6.0, 1.0, 2.0, 3.0], dtype=torch.float64)
    got = per_provider(shown, torch.tensor([0, 1, 1, 1]))
    torch.testing.assert_close(got, torch.tensor([2.0, 0.5 / 0.75], dtype=torch.float64))
    with pytest.raises(BadInput, match="provider 1 has no items"):
        per_provider(shown, torch.tensor([0, 0, 2, 2]))
    with pytest.raises(BadInput, match="no item was shown"):
        per_provider(torch.zeros(2), torch.tensor([0, 1]))
