"""Policy gradients against the enumerated gradient: 6 items, slates of 3, all 120 of them."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from agents.maths.plackett_luce import gumbel_top_k, slot_log_probs
from agents.maths.policy_gradient import (
    inclusion_with_replacement,
    per_slot_advantage,
    pl_rank,
    placement_loss,
    ppo_loss,
    reinforce_loss,
    to_go_advantage,
    top_k_multiplier,
    top_k_off_policy_loss,
)

ITEMS, SLOTS = 6, 3
# Total variances, REINFORCE with its mean as baseline being one: by enumeration, and at 100 candidates.
PLACEMENT, PLAIN, CENTRED = 5.29, 1.86, 0.764
WIDE_PLACEMENT, WIDE_PLAIN, WIDE_CENTRED = 9.4, 6.0, 0.264
SLATES = torch.tensor(list(itertools.permutations(range(ITEMS), SLOTS)))
N = len(SLATES)
LUCK = torch.Generator().manual_seed(0)
ROW = torch.randn(1, ITEMS, dtype=torch.float64, generator=LUCK) * 1.2
ANY_REWARD = torch.rand(N, dtype=torch.float64, generator=LUCK) * 3
THETA = torch.tensor([[1.0, 0.6, 0.35]], dtype=torch.float64)
WORTH = torch.rand(1, ITEMS, dtype=torch.float64, generator=LUCK) * 2
EARNED = THETA * WORTH[0][SLATES]
LEVEL = torch.full((N, SLOTS), 0.7, dtype=torch.float64) * THETA


def _everything() -> tuple[Tensor, Tensor, Tensor]:
    """The logits as a leaf, and the slot log-probabilities and the probability of every slate."""
    row = ROW.clone().requires_grad_()
    log_prob, _ = slot_log_probs(row.expand(N, ITEMS), SLATES, None)
    return row, log_prob, log_prob.sum(1).exp()


def _truth(reward: Tensor) -> Tensor:
    row, _, chance = _everything()
    return torch.autograd.grad((chance * reward).sum(), row)[0]


def _expected(loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Minus the mean gradient of a loss [user], over all slates with their probabilities."""
    row, log_prob, chance = _everything()
    return -torch.autograd.grad((chance.detach() * loss(log_prob)).sum(), row)[0]


def _equal(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("baseline", [0.0, 1.3])
def test_reinforce_is_unbiased(baseline: float) -> None:
    _equal(_expected(lambda p: reinforce_loss(p, ANY_REWARD, ANY_REWARD * 0 + baseline)), _truth(ANY_REWARD))


@pytest.mark.parametrize("baseline", [0.0, 1.3])
def test_placement_is_unbiased(baseline: float) -> None:
    guess = LEVEL * baseline
    _equal(_expected(lambda p: placement_loss(p, EARNED, guess)), _truth(EARNED.sum(1)))


def test_placement_is_biased_if_rewards_look_down() -> None:
    """What `placement_loss` says it needs is needed: here a slot earns by what stands below it."""
    upside_down = EARNED.flip(1)
    gap = _expected(lambda p: placement_loss(p, upside_down, LEVEL * 0)) - _truth(upside_down.sum(1))
    assert gap.abs().max() > 0.01


@pytest.mark.parametrize("baseline", [None, 0.0, 0.8])
def test_pl_rank_is_unbiased(baseline: float | None) -> None:
    logits, worth = ROW.expand(N, ITEMS), WORTH.expand(N, ITEMS)
    guess = None if baseline is None else torch.full((N,), baseline, dtype=torch.float64)
    gradient = pl_rank(logits, SLATES, worth, THETA, guess)
    chance = _everything()[2].detach().unsqueeze(1)
    _equal((chance * gradient).sum(0, keepdim=True), _truth(EARNED.sum(1)))


def test_pl_rank_equals_the_formula_written_out() -> None:
    logits, worth = ROW.expand(N, ITEMS), WORTH.expand(N, ITEMS)
    got = pl_rank(logits, SLATES, worth, THETA, torch.zeros(N, dtype=torch.float64))
    for n, slate in enumerate(SLATES.tolist()):
        for i in range(ITEMS):
            rank = slate.index(i) if i in slate else SLOTS - 1
            total = float(EARNED[n, rank + 1 :].sum()) if i in slate else 0.0
            for k in range(rank + 1):
                left = [j for j in range(ITEMS) if j not in slate[:k]]
                p = float((ROW[0, i] - ROW[0, left].logsumexp(0)).exp())
                total += p * float(THETA[0, k] * WORTH[0, i] - EARNED[n, k:].sum())
            assert float(got[n, i]) == pytest.approx(total, abs=1e-12)


def test_pl_rank_leaves_masked_candidates_alone() -> None:
    logits = torch.cat([ROW, ROW.new_full((1, 2), -torch.inf)], 1).expand(N, ITEMS + 2)
    worth = torch.cat([WORTH, WORTH.new_full((1, 2), 9.0)], 1).expand(N, ITEMS + 2)
    got = pl_rank(logits, SLATES, worth, THETA)
    assert (got[:, ITEMS:] == 0).all()
    _equal(got[:, :ITEMS], pl_rank(ROW.expand(N, ITEMS), SLATES, WORTH.expand(N, ITEMS), THETA))


def _scores(logits: Tensor, columns: Tensor) -> Tensor:
    """∇ log P(a_k | above) for every slot, [user slot cand]: one for the chosen, less the softmax."""
    left, out = logits.clone(), []
    for k in range(columns.shape[1]):
        out.append(
            -left.softmax(1).scatter_add(1, columns[:, k : k + 1], left.new_full((len(left), 1), -1.0))
        )
        left = left.scatter(1, columns[:, k : k + 1], -torch.inf)
    return torch.stack(out, 1)


def _variances(logits: Tensor, columns: Tensor, worth: Tensor, theta: Tensor, chance: Tensor) -> list[float]:
    """Total variance of placement, of PL-Rank and of PL-Rank centred, REINFORCE with its mean as unit."""

    def variance(gradient: Tensor) -> float:
        mean = (chance.unsqueeze(1) * gradient).sum(0)
        return float((chance.unsqueeze(1) * (gradient - mean).square()).sum())

    score, earned = _scores(logits, columns), theta * worth.gather(1, columns)
    reward = earned.sum(1)
    unit = variance(score.sum(1) * (reward - (chance * reward).sum()).unsqueeze(1))
    placement = (score * earned.flip(1).cumsum(1).flip(1).unsqueeze(2)).sum(1)
    plain = pl_rank(logits, columns, worth, theta, torch.zeros(len(logits), dtype=logits.dtype))
    return [variance(g) / unit for g in (placement, plain, pl_rank(logits, columns, worth, theta))]


def _near(got: float, want: float) -> bool:
    return want / 4 < got < want * 4


def test_variance_by_enumeration() -> None:
    logits, worth = ROW.expand(N, ITEMS), WORTH.expand(N, ITEMS)
    placement, plain, centred = _variances(logits, SLATES, worth, THETA, _everything()[2].detach())
    assert _near(placement, PLACEMENT)
    assert _near(plain, PLAIN)
    assert _near(centred, CENTRED)


def test_variance_at_a_hundred_candidates() -> None:
    """Centring is what makes PL-Rank worth its name: without, it is no better than REINFORCE."""
    luck = torch.Generator().manual_seed(0)
    rows = 8_000
    logits = torch.randn(1, 100, dtype=torch.float64, generator=luck).expand(rows, 100)
    worth = torch.rand(1, 100, dtype=torch.float64, generator=luck).expand(rows, 100)
    theta = 0.85 ** torch.arange(10, dtype=torch.float64).unsqueeze(0)
    columns = gumbel_top_k(logits, 10, luck)
    placement, plain, centred = _variances(
        logits, columns, worth, theta, torch.full((rows,), 1 / rows, dtype=torch.float64)
    )
    assert _near(placement, WIDE_PLACEMENT)
    assert _near(plain, WIDE_PLAIN)
    assert _near(centred, WIDE_CENTRED)


def test_one_slot_keeps_the_advantage_to_the_last_bit() -> None:
    advantage, earned, baseline = torch.randn(3, 500, generator=LUCK).unbind()
    for function in (per_slot_advantage, to_go_advantage):
        got = function(advantage, earned.unsqueeze(1) * 7, baseline.unsqueeze(1) * 3)
        assert torch.equal(got[:, 0], advantage)


def test_advantage_of_each_slot_is_its_own_surprise_and_the_shared_one() -> None:
    earned = torch.tensor([[1.0, 0.0, 2.0]])
    baseline = torch.tensor([[0.5, 0.25, 1.0]])
    advantage = torch.tensor([4.0])  # surprises .5, -.25, 1: they sum to 1.25, so the future gave 2.75
    assert per_slot_advantage(advantage, earned, baseline).tolist() == [[3.25, 2.5, 3.75]]
    assert to_go_advantage(advantage, earned, baseline).tolist() == [[4.0, 3.5, 3.75]]


def test_advantages_against_the_enumerated_gradient() -> None:
    """A future that depends on the whole slate, and clicks at slots: to-go is exact, per-slot nearly."""
    total = EARNED.sum(1) + ANY_REWARD
    advantage = total - 2.0
    _equal(
        _expected(lambda p: -(to_go_advantage(advantage, EARNED, LEVEL) * p).sum(1)),
        want := _truth(total),
    )
    own = _expected(lambda p: -(per_slot_advantage(advantage, EARNED, LEVEL) * p).sum(1))
    assert (own - want).norm() > 0.01 * want.norm()
    assert float(torch.nn.functional.cosine_similarity(own, want)) > 0.98
    # Exact where what a slot earns does not depend on what it shows.
    fixed = THETA.expand(N, SLOTS)
    _equal(
        _expected(lambda p: -(per_slot_advantage(advantage, fixed, LEVEL) * p).sum(1)),
        want,
    )


def _stock(log_prob: Tensor, old: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """The lines of stable-baselines3's PPO.train."""
    ratio = torch.exp(log_prob - old)
    policy_loss_1 = advantage * ratio
    policy_loss_2 = advantage * torch.clamp(ratio, 1 - clip, 1 + clip)
    return -torch.min(policy_loss_1, policy_loss_2).mean()


def test_ppo_loss_is_that_of_stable_baselines3_at_one_slot() -> None:
    old, advantage = torch.randn(2, 300, generator=LUCK).unbind()
    moved = (old + 0.4 * torch.randn(300, generator=LUCK)).requires_grad_()
    want = _stock(moved, old, advantage, 0.2)
    joint = ppo_loss(moved, old, advantage, 0.2)
    slots = ppo_loss(moved.unsqueeze(1), old.unsqueeze(1), advantage.unsqueeze(1), 0.2)
    assert want == joint == slots
    assert torch.equal(torch.autograd.grad(want, moved)[0], torch.autograd.grad(slots, moved)[0])


def test_ppo_loss_by_hand() -> None:
    old = torch.zeros(2, 2)
    log_prob = torch.tensor([[2.0, 0.5], [0.9, 1.1]]).log()
    advantage = torch.tensor([[1.0, -1.0], [3.0, 0.0]])
    # clipped at 1.2; the pessimistic side at max(-.5, -.8) -> -.8; inside; nothing
    assert float(ppo_loss(log_prob, old, advantage, 0.2)) == pytest.approx(-(1.2 - 0.8 + 2.7 + 0.0) / 4)


def test_first_ppo_step_is_the_policy_gradient() -> None:
    """At ratio one the gradient is REINFORCE's, per slot the mean over slots."""
    total = EARNED.sum(1) + ANY_REWARD
    advantage = to_go_advantage(total, EARNED, LEVEL)
    row, log_prob, chance = _everything()
    weighted = advantage * chance.detach().unsqueeze(1) * N
    (step,) = torch.autograd.grad(-ppo_loss(log_prob, log_prob.detach(), weighted, 0.2), row)
    _equal(step * SLOTS, _truth(total))


def test_top_k_correction_is_the_gradient_of_draws_with_replacement() -> None:
    """All 6³ draws with repeats removed; the loss averaged over what another policy logged."""
    worth = WORTH[0]
    row = ROW.clone().requires_grad_()
    draws = torch.tensor(list(itertools.product(range(ITEMS), repeat=SLOTS)))
    chance = row.log_softmax(1)[0][draws].sum(1).exp()
    shown = torch.zeros(len(draws), ITEMS, dtype=torch.float64).scatter_(1, draws, 1.0)
    (want,) = torch.autograd.grad((chance * (shown @ worth)).sum(), row)
    inclusion = inclusion_with_replacement(ROW[0].log_softmax(0), SLOTS)
    _equal(inclusion, (chance.detach().unsqueeze(1) * shown).sum(0))

    old = (ROW[0].flip(0) * 0.5).log_softmax(0)
    log_prob = row.log_softmax(1)[0]
    loss = top_k_off_policy_loss(log_prob, old, worth, SLOTS)
    (got,) = torch.autograd.grad(-(old.exp() * loss).sum(), row)
    _equal(got, want)
    # Plackett–Luce shows items by another law: the two must not be mixed.
    member = torch.zeros(N, ITEMS, dtype=torch.float64).scatter_(1, SLATES, 1.0)
    without = (_everything()[2].detach().unsqueeze(1) * member).sum(0)
    assert (without - inclusion).abs().max() > 0.05


def test_top_k_multiplier_and_cap() -> None:
    log_prob = torch.tensor([0.0, -1e-3, -2.0, -30.0], dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(inclusion_with_replacement(log_prob[1:], 5).sum(), log_prob)
    got = top_k_multiplier(log_prob, 5).detach()
    torch.testing.assert_close(got[1:], (slope / log_prob.exp()).detach()[1:])
    assert got[0] == 0
    assert (top_k_multiplier(log_prob, 1) == 1).all()
    assert inclusion_with_replacement(torch.zeros(1), 3) == 1
    one = torch.zeros(1)
    capped = top_k_off_policy_loss(one - 1, one - 5, one + 2, 1, cap=3)
    assert float(capped) == pytest.approx(3 * 2 * 1.0)
    assert float(top_k_off_policy_loss(one - 1, one - 5, one + 2, 1)) == pytest.approx(
        2 * 2.718281828**4, rel=1e-5
    )
