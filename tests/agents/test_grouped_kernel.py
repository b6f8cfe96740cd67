"""Plackett–Luce with groups by compiled loops, against the distribution in double precision."""

import itertools

import pytest
import torch
from torch import Tensor

from agents.maths import _grouped
from agents.maths.grouped import draw_by_groups, grouped_slot_log_probs
from simlab.errors import BadInput
from simlab.slates import GroupedPlackettLuce

CANDS, SLOTS, GROUPS = 60, 5, 4


def problem(scale: float, shared: bool, rows: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits with masked candidates, groups (one of them empty) and penalties of either sign."""
    luck = torch.Generator().manual_seed(int(scale))
    logits = scale * torch.randn(rows, CANDS, generator=luck)
    logits[:, 7] = logits[:5, 10:] = -torch.inf
    logits[5, SLOTS + 2 :] = -torch.inf
    logits[6, SLOTS:] = -torch.inf  # exactly as many as slots
    penalty = (2 * torch.randn(rows, GROUPS + 1, SLOTS, generator=luck)).cumsum(2).clamp(-20, 20)
    group = torch.randint(GROUPS, (rows, CANDS), generator=luck)
    return logits, group[:1].expand(rows, CANDS) if shared else group, penalty


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("scale", [1.0, 6.0, 30.0, 300.0])
def test_values_and_gradients_are_those_in_double_precision(scale: float, shared: bool) -> None:
    logits, group, penalty = problem(scale, shared)
    luck = torch.Generator().manual_seed(3)
    columns, drawn = draw_by_groups(GroupedPlackettLuce(logits, SLOTS, group, penalty), luck)
    assert (columns.sort(1).values.diff(dim=1) > 0).all()
    assert logits.gather(1, columns).isfinite().all()
    up, up_entropy = torch.randn(2, len(logits), SLOTS, generator=luck)
    found: list[list[Tensor]] = []
    for dtype in (torch.float64, torch.float32):
        leaves = [x.to(dtype).requires_grad_() for x in (logits, penalty)]
        choice = GroupedPlackettLuce(leaves[0], SLOTS, group, leaves[1])
        log_prob, entropy = grouped_slot_log_probs(choice, columns)
        loss = (log_prob * up.to(dtype)).sum() + (entropy * up_entropy.to(dtype)).sum()
        found.append([log_prob, entropy, *torch.autograd.grad(loss, leaves)])
    for one, other in zip(*found, strict=True):
        assert one.dtype != other.dtype
        torch.testing.assert_close(other.double(), one, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(drawn.double(), found[0][0].detach(), rtol=1e-5, atol=1e-5)


def test_the_way_in_double_precision_is_the_distribution() -> None:
    """What the loops are compared with is not theirs."""
    logits, group, penalty = problem(1.0, True)
    choice = GroupedPlackettLuce(logits.double(), SLOTS, group, penalty.double())
    columns, log_prob = draw_by_groups(choice, torch.Generator().manual_seed(3))
    assert torch.equal(columns, choice.sample(torch.Generator().manual_seed(3)))
    assert torch.equal(log_prob, choice.slot_log_probs(columns, False)[0])


@pytest.mark.parametrize("peak", [0.0, 4.0, 30.0])
def test_slates_have_the_law_of_the_distribution(peak: float) -> None:
    """Chi-square over all slates; the penalties change which second item of a group is likely."""
    from scipy.stats import chi2

    rows, cands, slots = 100_000, 7, 3
    logits = torch.tensor([0.5, 0.0, -0.5, 1.0, 0.3, -1.0, -torch.inf]) + peak * torch.eye(7)[3]
    group = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    penalty = torch.tensor([[0.0, 2.0, 3.0], [0.0, -1.5, 0.5], [1.0, 4.0, 4.0]])
    everyone = [x.expand(rows, *x.shape) for x in (logits, group, penalty)]
    choice = GroupedPlackettLuce(everyone[0], slots, everyone[1], everyone[2])
    columns, log_prob = draw_by_groups(choice, torch.Generator().manual_seed(1))
    slates = torch.tensor(list(itertools.permutations(range(6), slots)))
    n = len(slates)
    exact = GroupedPlackettLuce(
        logits.double().expand(n, -1), slots, group.expand(n, -1), penalty.double().expand(n, -1, -1)
    )
    chance = exact.log_prob(slates).exp()
    assert float(chance.sum()) == pytest.approx(1.0)
    base = torch.tensor([cands**2, cands, 1])
    count = torch.bincount(columns @ base, minlength=cands**3)[slates @ base].double()
    assert count.sum() == rows
    often = rows * chance > 5
    count, want = (torch.cat([x[often], x[~often].sum().view(1)]) for x in (count, rows * chance))
    assert chi2.sf(float(((count - want) ** 2 / want.clamp(min=1e-9)).sum()), int(often.sum())) > 1e-3
    which = (columns @ base).unsqueeze(1) == (slates @ base)
    torch.testing.assert_close(
        log_prob.sum(1).double(), chance.log()[which.int().argmax(1)], atol=1e-5, rtol=1e-5
    )


def test_slates_repeat_by_seed_whatever_the_threads() -> None:
    logits, group, penalty = problem(2.0, True, rows=200)
    choice = GroupedPlackettLuce(logits, SLOTS, group, penalty)
    one, other = (draw_by_groups(choice, torch.Generator().manual_seed(s)) for s in (1, 2))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        again = draw_by_groups(choice, torch.Generator().manual_seed(1))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one[0], again[0])
    assert torch.equal(one[1], again[1])
    assert not torch.equal(one[0], other[0])


def test_no_penalty_is_plackett_luce() -> None:
    from agents.maths.plackett_luce import slot_entropies

    logits, group, penalty = problem(2.0, False)
    choice = GroupedPlackettLuce(logits, SLOTS, group, torch.zeros_like(penalty))
    columns, _ = draw_by_groups(choice)
    for one, other in zip(
        grouped_slot_log_probs(choice, columns), slot_entropies(logits, columns), strict=True
    ):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-5)


def test_what_may_not_be_shown_passes_nothing_on() -> None:
    logits = torch.tensor([[0.0, 1.0, -torch.inf, 0.5]], requires_grad=True)
    penalty = torch.zeros(1, 2, 3, requires_grad=True)
    choice = GroupedPlackettLuce(logits, 3, torch.tensor([[0, 1, 0, 1]]), penalty)
    log_prob, entropy = grouped_slot_log_probs(choice, torch.tensor([[0, 2, 1]]))
    assert log_prob[0].isneginf().tolist() == [False, True, False]
    (log_prob.nan_to_num(neginf=0.0).sum() + entropy.sum()).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert penalty.grad is not None
    assert logits.grad.isfinite().all()
    assert penalty.grad.isfinite().all()
    assert logits.grad[0, 2] == 0


def test_rows_that_cannot_be_drawn_from_are_named() -> None:
    logits, group, penalty = problem(1.0, True)
    few = logits.clone()
    few[9, 3:] = -torch.inf
    with pytest.raises(BadInput, match="row 9 has 3 candidates, but the slate has 5 slots"):
        draw_by_groups(GroupedPlackettLuce(few, SLOTS, group, penalty))
    bad = logits.clone()
    bad[4, 2] = torch.nan
    with pytest.raises(BadInput, match="row 4 has the logit nan at column 2"):
        draw_by_groups(GroupedPlackettLuce(bad, SLOTS, group, penalty))
    steep = penalty.clone()
    steep[3] = torch.nan
    with pytest.raises(BadInput, match="row 3 has a penalty that is not finite"):
        draw_by_groups(GroupedPlackettLuce(logits, SLOTS, group, steep, check=False))


def test_groups_are_laid_side_by_side() -> None:
    group = torch.tensor([2, 0, 2, 4, 0, 2])
    members, ends = torch.empty(6, dtype=torch.int64), torch.empty(5, dtype=torch.int64)
    _grouped.sorted_by_group(group.numpy(), members.numpy(), ends.numpy())
    assert members.tolist() == [1, 4, 0, 2, 5, 3]
    assert ends.tolist() == [2, 2, 5, 5, 6]
