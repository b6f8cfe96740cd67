"""Fairness among users and items: slow formulas, SciPy, listed orders, and the spread over samples."""

from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from simlab.errors import BadInput
from simlab.metrics.exposure import exposure, per_provider
from simlab.metrics.item_fairness import (
    attention_of,
    expected_exposure,
    exposure_parity,
    geometric_attention,
    log_attention,
)
from simlab.metrics.means import PerUser, per_user
from simlab.metrics.user_fairness import by_group, user_difference, user_ratio
from simlab.statistics import Summary, mean_interval


def served(seed: int = 0, n: int = 60) -> tuple[PerUser, Tensor]:
    g = torch.Generator().manual_seed(seed)
    first = torch.arange(n) % 3 == 0
    value = torch.rand(n, generator=g) + 0.3 * first + 0.2
    return per_user(value, torch.rand(n, generator=g) > 0.1), first


def test_difference_of_groups_is_welchs() -> None:
    metric, first = served()
    a, b = metric.value[first & metric.counts].numpy(), metric.value[~first & metric.counts].numpy()
    theirs = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.9)
    mine = user_difference(metric, first, 0.9)
    assert (mine.mean, mine.low, mine.high) == pytest.approx((a.mean() - b.mean(), theirs.low, theirs.high))
    assert mine.stderr == pytest.approx(np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)))
    assert mine.n == len(a) + len(b)
    parts = by_group(metric, first.long(), 0.9)
    assert list(parts) == [0, 1]
    assert (parts[1].mean, parts[1].n) == pytest.approx((a.mean(), len(a)))
    assert parts[0].skipped + parts[1].skipped == metric.skipped > 0
    same = user_difference(per_user(torch.ones(6)), torch.arange(6) < 3)
    assert (same.mean, same.stderr, same.low, same.high) == (0, 0, 0, 0)


def test_difference_of_groups_with_weights() -> None:
    """GAUC by group: users count as often as they were shown something."""
    metric, first = served(1)
    weight = 1 + torch.arange(60).double() % 7
    weighted = PerUser(metric.value, metric.counts, weight)
    a, b = first & metric.counts, ~first & metric.counts
    expected = [float((weight * metric.value)[x].sum() / weight[x].sum()) for x in (a, b)]
    found = user_difference(weighted, first)
    assert found.mean == pytest.approx(expected[0] - expected[1], abs=1e-12)
    assert by_group(weighted, first.long())[1].mean == pytest.approx(expected[0], abs=1e-12)


def test_ratio_of_groups() -> None:
    metric, first = served(2)
    a, b = metric.value[first & metric.counts].numpy(), metric.value[~first & metric.counts].numpy()
    found, turned = user_ratio(metric, first), user_ratio(metric, ~first)
    assert found.mean == pytest.approx(a.mean() / b.mean())
    relative = np.sqrt(stats.sem(a) ** 2 / a.mean() ** 2 + stats.sem(b) ** 2 / b.mean() ** 2)
    assert found.stderr == pytest.approx(found.mean * relative)
    assert (1 / turned.high, 1 / turned.low) == pytest.approx((found.low, found.high))
    with pytest.raises(BadInput, match="means above 0"):
        user_ratio(per_user(torch.zeros(6)), torch.arange(6) < 3)


def test_a_group_of_one_has_no_error() -> None:
    metric, _ = served()
    with pytest.raises(BadInput, match="at least two"):
        user_difference(metric, torch.arange(60) == int(metric.counts.nonzero()[0]))


def test_intervals_of_groups_cover() -> None:
    """300 draws of 12 and 30 users: within 3 standard errors of 95 %."""
    g = torch.Generator().manual_seed(3)
    first = torch.arange(42) < 12
    inside = np.zeros(2)
    for _ in range(300):
        metric = per_user(2 + torch.randn(42, generator=g) * torch.where(first, 0.8, 0.3) + first)
        one, two = user_difference(metric, first), user_ratio(metric, first)
        inside += [one.low <= 1 <= one.high, two.low <= 1.5 <= two.high]
    assert (abs(inside / 300 - 0.95) < 0.038).all()


def test_attention() -> None:
    assert log_attention(3).tolist() == pytest.approx([1, 1 / np.log2(3), 0.5])
    assert geometric_attention(3, 0.5).tolist() == [1, 0.5, 0.25]
    with pytest.raises(BadInput, match="not 0"):
        geometric_attention(3, 0)


PROVIDER = torch.tensor([0, 0, 1, 2, 1, 2, 2, 0])


def slates(n: int = 50, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return (torch.rand(n, 8, generator=g) + torch.linspace(0, 0.5, 8)).argsort(1, descending=True)[:, :3]


def test_parity_without_attention_is_exposure_in_fair_shares() -> None:
    slate = slates()
    found = exposure_parity(slate, PROVIDER)
    torch.testing.assert_close(found.value, per_provider(exposure(slate, 8), PROVIDER))
    mine = torch.zeros(50, 3, dtype=torch.float64).scatter_add_(
        1, PROVIDER[slate], torch.ones(50, 3).double()
    )
    fair = torch.bincount(PROVIDER).double() / 8
    for g in range(3):  # slates have the same size, so the share is a plain mean over users
        plain = mean_interval((mine[:, g] / 3 / fair[g]).numpy())
        share = found.summary(g)
        assert (share.mean, share.stderr, share.low, share.high, share.n) == pytest.approx(
            (plain.mean, plain.stderr, plain.low, plain.high, plain.n)
        )


def slow_parity(slate: Tensor, weight: Tensor, merit: Tensor) -> np.ndarray:
    got, due = np.zeros(3), np.zeros(3)
    for user in range(len(slate)):
        for slot, item in enumerate(slate[user].tolist()):
            got[PROVIDER[item]] += float(weight[user, slot])
        for item in range(8):
            due[PROVIDER[item]] += float(merit[user, item])
    return np.asarray((got / got.sum()) / (due / due.sum()))


def test_parity_by_merit_and_its_jackknife() -> None:
    """Clicks as attention and a merit for each user: both shares are ratios. Users left out one by one."""
    g = torch.Generator().manual_seed(1)
    slate, merit = slates(), torch.rand(50, 8, generator=g).double()
    clicks = torch.rand(50, 3, generator=g).double().round()
    found = exposure_parity(slate, PROVIDER, clicks, merit)
    np.testing.assert_allclose(found.value.numpy(), slow_parity(slate, clicks, merit), atol=1e-12)
    kept = [torch.arange(50) != user for user in range(50)]
    without = np.array([slow_parity(slate[k], clicks[k], merit[k]) for k in kept])
    ratio = np.column_stack([without, without[:, 0] / without[:, 2]])
    jackknife = np.sqrt(49 / 50 * np.square(ratio - ratio.mean(0)).sum(0))
    mine = [found.summary(p).stderr for p in range(3)] + [found.ratio(0, 2).stderr]
    np.testing.assert_allclose(mine, jackknife, rtol=0.05)
    torch.testing.assert_close(found.influence.mean(0), torch.zeros(3).double(), atol=1e-12, rtol=0)


def test_disparate_treatment_is_that_of_singh_and_joachims() -> None:
    """Exposure(G) / U(G), each a mean over the items of the group, eq. of section 4.2."""
    slate, attention = slates(), log_attention(3)
    merit = torch.tensor([1.0, 2.0, 1.0, 0.5, 3.0, 1.0, 0.5, 1.0], dtype=torch.float64)
    amount = exposure(slate, 8, attention)
    groups = [p == PROVIDER for p in range(3)]
    each = [float(amount[mine].mean() / merit[mine].mean()) for mine in groups]
    found = exposure_parity(slate, PROVIDER, attention, merit)
    assert found.ratio(0, 2).mean == pytest.approx(each[0] / each[2])
    assert found.ratio(1, 1).stderr == pytest.approx(0, abs=1e-12)


def test_parity_refuses() -> None:
    slate = slates()
    with pytest.raises(BadInput, match="none of the 8"):
        exposure_parity(slate + 6, PROVIDER)
    with pytest.raises(BadInput, match="at least 0"):
        exposure_parity(slate, PROVIDER, -log_attention(3))
    with pytest.raises(BadInput, match="no slot gets attention"):
        exposure_parity(slate, PROVIDER, torch.zeros(50, 3))
    with pytest.raises(BadInput, match="provider 1 has no merit"):
        exposure_parity(slate, PROVIDER, merit=(PROVIDER != 1).double())
    nothing = exposure_parity(torch.tensor([[0, 1], [1, 7]]), PROVIDER)
    assert nothing.value.tolist() == [pytest.approx(8 / 3), 0, 0]
    with pytest.raises(BadInput, match="provider 2 got nothing"):
        nothing.ratio(0, 2)


def listed_attention(scores: list[float], attention: Tensor) -> np.ndarray:
    """The mean over all orders that never put a lower score first."""
    total, count = np.zeros(len(scores)), 0
    for order in permutations(range(len(scores))):
        if all(scores[a] >= scores[b] for a, b in pairwise(order)):
            count += 1
            for slot, item in enumerate(order[: len(attention)]):
                total[item] += float(attention[slot])
    return total / count


@pytest.mark.parametrize("slots", [1, 3, 6, 8])
def test_attention_of_ties_is_the_mean_over_orders(slots: int) -> None:
    rows = [[1.0, 2.0, 1.0, 1.0, 0.0, 2.0], [0.0] * 6, [5.0, 4.0, 3.0, 3.0, 1.0, 0.0]]
    attention = log_attention(slots)
    found = attention_of(torch.tensor(rows), attention)
    for row, mine in zip(rows, found.numpy(), strict=True):
        np.testing.assert_allclose(mine, listed_attention(row, attention), atol=1e-12)
    masked = attention_of(torch.tensor([[1.0, -torch.inf, -torch.inf]]), attention)
    assert masked.tolist() == [[1.0, 0.0, 0.0]]
    with pytest.raises(BadInput, match="numbers"):
        attention_of(torch.tensor([[torch.nan]]), attention)


def test_expected_exposure() -> None:
    """Two relevant items of four, two slots: a fixed order is unfair to one, a random order to none."""
    attention = torch.tensor([1.0, 0.5])
    relevance = torch.tensor([[1.0, 1.0, 0.0, 0.0]] * 3 + [[0.0] * 4])
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.0], [3.0, 3.0, 1.0, 0.0], [0.0] * 4, [0.0] * 4])
    found = expected_exposure(attention_of(scores, attention), relevance, attention)
    # due: ¾ each. Fixed: (1, ½). All random: 3/8 each.
    assert found.loss.value[:3].tolist() == pytest.approx([2 * 0.25**2, 0.0, 4 * 0.375**2], abs=1e-12)
    assert found.disparity.value[:3].tolist() == pytest.approx([1.25, 2 * 0.75**2, 4 * 0.375**2])
    assert found.relevance.value[:3].tolist() == pytest.approx([1.125, 2 * 0.75**2, 2 * 0.375 * 0.75])
    assert found.loss.skipped == found.disparity.skipped == found.relevance.skipped == 1
    whole = found.disparity.value - 2 * found.relevance.value + 2 * 0.75**2
    torch.testing.assert_close(found.loss.value[:3], whole[:3], atol=1e-12, rtol=0)
    assert isinstance(found.loss.summary(), Summary)
    with pytest.raises(BadInput, match="at least 0"):
        expected_exposure(torch.zeros(4, 4), -relevance, attention)
