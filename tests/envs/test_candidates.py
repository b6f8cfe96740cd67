"""Candidates are drawn without replacement, every ordered choice equally likely."""

import torch
from scipy import stats

from envs.world import sample_without_replacement


def test_every_ordered_choice_is_equally_likely() -> None:
    """All 60 ordered choices of 3 of 5, by a chi-squared test over 60,000 draws."""
    uniform = torch.rand(60_000, 3, generator=torch.Generator().manual_seed(0))
    chosen = sample_without_replacement(uniform, 5)
    code = (chosen * torch.tensor([25, 5, 1])).sum(1)
    count = torch.unique(code, return_counts=True)[1]
    assert len(count) == 60
    assert stats.chisquare(count).pvalue > 1e-3


def test_a_draw_of_everything_is_a_permutation_and_the_first_draws_do_not_depend_on_the_rest() -> None:
    uniform = torch.rand(500, 8, generator=torch.Generator().manual_seed(1))
    chosen = sample_without_replacement(uniform, 8)
    assert torch.equal(chosen.sort(1).values, torch.arange(8).expand(500, 8))
    assert torch.equal(sample_without_replacement(uniform[:, :3], 8), chosen[:, :3])


def test_uniforms_at_their_ends_stay_inside() -> None:
    low, high = 2.0**-24, 1 - 2.0**-24
    ends = torch.tensor([[low] * 4, [high] * 4])
    assert sample_without_replacement(ends, 6).tolist() == [[0, 1, 2, 3], [5, 4, 3, 2]]
