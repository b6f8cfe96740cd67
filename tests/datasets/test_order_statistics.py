"""The K largest of independent Beta scores, against closed forms, listed slates and plain integrals."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

from simlab.errors import BadInput
from simlab.seeds import Seed
from simlab.slates import OrderStatistics

ALPHA = torch.tensor([3.0, 8.0, 142.0, 0.7, 40.0], dtype=torch.float64)
BETA = torch.tensor([2367.0, 3566.0, 35522.0, 300.0, 9000.0], dtype=torch.float64)


def every_slate(cands: int, slots: int) -> torch.Tensor:
    return torch.tensor(list(itertools.permutations(range(cands), slots)))


def test_two_scores_have_a_closed_form() -> None:
    """P(X > Y) for X ~ Beta(a, b), Y ~ Beta(c, 1) with P(Y < y) = y^c is E[X^c] = B(a + c, b) / B(a, b)."""
    a, b, c = 2.5, 7.0, 3.0
    one = OrderStatistics(torch.tensor([a, c]).double(), torch.tensor([b, 1.0]).double(), 1, 1)
    expected = math.exp(
        sum(s * math.lgamma(x) for s, x in ((1, a + c), (1, a + b), (-1, a + b + c), (-1, a)))
    )
    assert one.slot_marginals()[0, 0, 0].item() == pytest.approx(expected, abs=1e-12)
    assert one.log_prob(torch.tensor([[0]])).exp().item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("slots", [1, 2, 3, 5])
def test_listed_slates_sum_to_one_and_to_the_marginals(slots: int) -> None:
    slates = every_slate(5, slots)
    scores = OrderStatistics(ALPHA, BETA, slots, len(slates))
    chance = scores.log_prob(slates).exp()
    assert chance.sum().item() == pytest.approx(1, abs=1e-11)
    table = torch.zeros(slots, 5, dtype=torch.float64)
    for k in range(slots):
        table[k].index_add_(0, slates[:, k], chance)
    torch.testing.assert_close(table, scores.slot_marginals()[0], atol=1e-11, rtol=0)
    assert scores.mode()[0].tolist() == slates[chance.argmax()].tolist()
    given = scores.marginals(slates)
    torch.testing.assert_close(given, table[torch.arange(slots), slates], atol=1e-11, rtol=0)


def test_against_adaptive_integrals_in_score_space() -> None:
    """A different route: SciPy's adaptive quadrature over the score itself, and enumerated counts."""
    law = [stats.beta(a, b) for a, b in zip(ALPHA.tolist(), BETA.tolist(), strict=True)]
    marginals = OrderStatistics(ALPHA, BETA, 3, 1).slot_marginals()[0]

    def integrand(x: float, i: int, k: int) -> float:
        others = [j for j in range(5) if j != i]
        count = sum(
            np.prod([law[j].sf(x) if j in above else law[j].cdf(x) for j in others])
            for above in itertools.combinations(others, k)
        )
        return float(law[i].pdf(x) * count)

    for i, k in ((0, 0), (2, 1), (4, 2)):
        # The peak is at a few thousandths of [0, 1]: cut where the mass ends and break inside it.
        value, _ = quad(
            integrand, 1e-9, 0.02, args=(i, k), points=[0.002, 0.004, 0.006], epsabs=1e-11, limit=200
        )
        assert marginals[k, i].item() == pytest.approx(value, abs=1e-8)


def test_equal_scores_are_a_uniform_shuffle() -> None:
    same = OrderStatistics(torch.full((6,), 20.0), torch.full((6,), 1e4), 2, 1)
    torch.testing.assert_close(
        same.slot_marginals()[0], torch.full((2, 6), 1 / 6, dtype=torch.float64), atol=1e-11, rtol=0
    )
    assert same.log_prob(torch.tensor([[4, 1]])).exp().item() == pytest.approx(1 / 30, abs=1e-11)
    assert same.mode().tolist() == [[0, 1]]  # ties go to the lower column


@pytest.mark.parametrize(
    ("alpha", "beta"),
    [([0.05, 1, 1e5], [0.05, 1e5, 1]), ([1e6, 1.01e6, 3], [1e8, 1e8, 900]), ([1] * 7, [1] * 7)],
)
def test_rows_sum_to_one_for_hard_parameters(alpha: list[float], beta: list[float]) -> None:
    table = OrderStatistics(torch.tensor(alpha).double(), torch.tensor(beta).double(), 3, 1).slot_marginals()[
        0
    ]
    torch.testing.assert_close(table.sum(1), torch.ones(3).double(), atol=1e-10, rtol=0)
    assert (table >= 0).all()
    assert (table.sum(0) <= 1 + 1e-10).all()


@pytest.mark.parametrize("keyed", [True, False])
def test_draws_follow_the_probabilities(keyed: bool) -> None:
    rows = 40_000
    scores = OrderStatistics(ALPHA, BETA, 2, rows)
    seed = Seed(5)
    users = torch.arange(rows)
    drawn = scores.sample(seed.at(users, torch.zeros_like(users)) if keyed else seed.torch())
    slates = every_slate(5, 2)
    chance = OrderStatistics(ALPHA, BETA, 2, len(slates)).log_prob(slates).exp()
    code = drawn[:, 0] * 5 + drawn[:, 1]
    seen = torch.bincount(code, minlength=25)[slates[:, 0] * 5 + slates[:, 1]]
    assert seen.sum() == rows
    common = chance * rows > 5  # chi-squared wants expected counts above five
    expected = torch.cat([chance[common], (1 - chance[common].sum())[None]]) * rows
    observed = torch.cat([seen[common], (rows - seen[common].sum())[None]]).double()
    statistic = ((observed - expected).square() / expected).sum().item()
    assert stats.chi2.sf(statistic, len(expected) - 1) > 1e-4  # seeded: the same draws every time


def test_keyed_draws_do_not_depend_on_the_batch() -> None:
    users, zeros = torch.arange(50), torch.zeros(50, dtype=torch.long)
    whole = OrderStatistics(ALPHA, BETA, 3, 50).sample(Seed(2).at(users, zeros))
    part = OrderStatistics(ALPHA, BETA, 3, 20).sample(Seed(2).at(users[30:], zeros[30:]))
    assert torch.equal(whole[30:], part)


def test_a_repeat_cannot_be_drawn() -> None:
    value = OrderStatistics(ALPHA, BETA, 2, 2).log_prob(torch.tensor([[1, 1], [1, 2]]))
    assert value[0] == -torch.inf
    assert value[1].isfinite()


def test_bad_parameters_are_refused() -> None:
    with pytest.raises(BadInput, match=r"beta of candidate 1 is 0\.0, but it must be at least"):
        OrderStatistics(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]), 1, 1)
    with pytest.raises(BadInput, match="alpha of candidate 0 is nan"):
        OrderStatistics(torch.tensor([torch.nan, 2.0]), torch.tensor([1.0, 1.0]), 1, 1)
    with pytest.raises(BadInput, match="slate has 3 slots"):
        OrderStatistics(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]), 3, 1)
