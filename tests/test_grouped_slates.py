"""Plackett–Luce with a memory of groups: against its definition, slate by slot, by listing every slate."""

import math
from itertools import permutations

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from simlab.errors import BadInput
from simlab.seeds import Seed
from simlab.slates import GroupedPlackettLuce, PlackettLuce
from simlab.slates.grouped import _check

CANDS, SLOTS = 6, 3
GROUP = torch.tensor([[0, 1, 0, 2, 1, 0]])
LOGITS = torch.tensor([[0.3, -1.0, 1.2, 0.0, 0.4, -0.5]], dtype=torch.float64)
PENALTY = torch.tensor([[[0.0, 1.5, 2.5], [0.3, -1.0, 0.7], [0.0, 4.0, 9.0]]], dtype=torch.float64)
CASES = {
    "plain": (LOGITS, PENALTY),
    "no penalty": (LOGITS, torch.zeros_like(PENALTY)),
    "a masked item": (LOGITS.masked_fill(torch.arange(CANDS) == 2, -torch.inf), PENALTY),
    "a masked group": (LOGITS.masked_fill(GROUP == 1, -torch.inf), PENALTY),
    "far apart": (LOGITS * 12, PENALTY * 2),
    "three are left": (LOGITS.masked_fill(torch.tensor([[0, 1, 0, 1, 0, 1]]).bool(), -torch.inf), PENALTY),
}


def twin(logits: Tensor, group: Tensor, penalty: Tensor, slate: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return the log-probability and the entropy of each slot of one user's slate, by the definition."""
    count, above, log_prob, entropy = [0] * len(penalty), set(), [], []
    for item in slate:
        left = [i for i in range(len(logits)) if i not in above]
        score = torch.stack([logits[i] - penalty[int(group[i]), count[int(group[i])]] for i in left])
        log_prob.append((score - score.logsumexp(0))[left.index(item)])
        chance = score.softmax(0)
        entropy.append(-(chance * score.log_softmax(0).clamp_min(-1e30)).sum())
        above.add(item)
        count[int(group[item])] += 1
    return torch.stack(log_prob), torch.stack(entropy)


def made(name: str, rows: int = 1) -> GroupedPlackettLuce:
    logits, penalty = CASES[name]
    return GroupedPlackettLuce(
        logits.expand(rows, -1), SLOTS, GROUP.expand(rows, -1), penalty.expand(rows, -1, -1)
    )


def listed(name: str) -> tuple[Tensor, Tensor]:
    slates = list(permutations(range(CANDS), SLOTS))
    logits, penalty = CASES[name]
    chance = [
        twin(logits[0], GROUP[0], penalty[0], s)[0].sum().nan_to_num(-torch.inf, neginf=-torch.inf)
        for s in slates
    ]
    return torch.tensor(slates), torch.stack(chance)


@pytest.mark.parametrize("name", CASES)
def test_it_is_its_definition(name: str) -> None:
    slates, truth = listed(name)
    found = made(name, len(slates))
    torch.testing.assert_close(found.log_prob(slates), truth, atol=1e-12, rtol=1e-12)
    assert float(truth.exp().sum()) == pytest.approx(1, abs=1e-12)
    possible = truth > -torch.inf
    entropy = torch.stack(
        [twin(CASES[name][0][0], GROUP[0], CASES[name][1][0], tuple(s))[1] for s in slates[possible].tolist()]
    )
    torch.testing.assert_close(found.slot_log_probs(slates)[1][possible], entropy, atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_marginals_are_those_of_the_listed_slates(name: str) -> None:
    slates, log_prob = listed(name)
    truth = torch.zeros(SLOTS, CANDS, dtype=torch.float64)
    for k in range(SLOTS):
        truth[k].index_add_(0, slates[:, k], log_prob.exp())
    found = made(name)
    assert found.exact_marginals
    torch.testing.assert_close(found.slot_marginals()[0], truth, atol=1e-12, rtol=0)
    assert not bool(found.marginals_error(slates[:1]).any())
    possible = log_prob > -torch.inf
    mean, error = made(name, len(slates))._marginals(slates)
    of = truth[torch.arange(SLOTS), slates]
    assert bool(((mean - of).abs() <= 5 * error + 3e-3)[possible].all())
    assert bool((mean > 0)[possible].all())


@pytest.mark.parametrize("keyed", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_samples_have_the_stated_probabilities(name: str, keyed: bool) -> None:
    n = 20_000
    slates, log_prob = listed(name)
    user = torch.arange(n)
    generator = Seed(7).at(user, torch.zeros_like(user)) if keyed else Seed(7).torch()
    drawn = made(name, n).sample(generator)
    base = CANDS ** torch.arange(SLOTS)
    count = torch.bincount((drawn * base).sum(1), minlength=CANDS**SLOTS).double()[(slates * base).sum(1)]
    assert int(count.sum()) == n
    often = log_prob.exp() * n >= 5
    expected = torch.cat([log_prob.exp()[often] * n, (log_prob.exp()[~often].sum() * n).view(1)])
    seen = torch.cat([count[often], count[~often].sum().view(1)])
    some = expected > 0
    assert not bool(seen[~some].any())
    statistic = float(((seen - expected).square() / expected)[some].sum())
    assert statistic <= float(chi2.ppf(1 - 1e-6, max(int(some.sum()) - 1, 1)))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("slate", [(2, 0, 5), (1, 4, 3), (3, 2, 1)])
def test_gradients_are_those_of_the_definition(slate: tuple[int, ...], shared: bool) -> None:
    group = GROUP.expand(2, -1) if shared else GROUP.repeat(2, 1)

    def both(logits: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
        found = GroupedPlackettLuce(logits, SLOTS, group, penalty)
        return found.slot_log_probs(torch.tensor([slate, slate[::-1]]))

    def plain(logits: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
        first = twin(logits[0], group[0], penalty[0], slate)
        second = twin(logits[1], group[1], penalty[1], slate[::-1])
        return torch.stack([first[0], second[0]]), torch.stack([first[1], second[1]])

    weight = torch.tensor([[0.7, -1.1, 0.4], [2.0, 0.1, -0.3]], dtype=torch.float64)
    answers = []
    for form in (both, plain):
        logits = torch.cat([LOGITS, LOGITS.flip(1)]).requires_grad_()
        penalty = torch.cat([PENALTY, PENALTY * 0.5]).requires_grad_()
        log_prob, entropy = form(logits, penalty)
        total = (weight * log_prob).sum() + (weight.flip(1) * entropy).sum()
        answers.append((log_prob, entropy, *torch.autograd.grad(total, (logits, penalty))))
    for found, truth in zip(*answers, strict=True):
        torch.testing.assert_close(found, truth, atol=1e-12, rtol=1e-12)


def test_without_penalties_it_is_plackett_luce_of_a_thousand() -> None:
    luck = Seed(3).torch()
    logits = 3 * torch.randn(40, 1000, generator=luck)
    group = torch.randint(0, 12, (1000,), generator=luck).expand(40, -1)
    found = GroupedPlackettLuce(logits, 10, group, torch.zeros(40, 12, 10))
    plain = PlackettLuce(logits, 10)
    columns = plain.sample(luck)
    torch.testing.assert_close(found.log_prob(columns), plain.log_prob(columns), atol=1e-9, rtol=0)
    torch.testing.assert_close(found.mode(), plain.mode())
    grad = []
    for one in (found, plain):
        one.logits = logits.clone().requires_grad_()
        log_prob = one.slot_log_probs(columns)
        log_prob = log_prob[0] if isinstance(log_prob, tuple) else log_prob
        grad.append(torch.autograd.grad(log_prob.sum(), one.logits)[0])
    torch.testing.assert_close(*grad, atol=1e-5, rtol=1e-4)


def test_a_group_that_tires_is_left_after_its_first_item() -> None:
    penalty = torch.tensor([0.0, 20.0, 20.0]).expand(500, 3, 3)
    found = GroupedPlackettLuce(LOGITS.float().expand(500, -1), SLOTS, GROUP.expand(500, -1), penalty)
    seen = GROUP[0][found.sample(Seed(1).torch())].sort(1).values
    assert bool((seen == torch.arange(3)).all())
    assert found.mode()[0].tolist() == [2, 4, 3]


def test_the_greedy_slate_breaks_ties_by_the_column() -> None:
    found = GroupedPlackettLuce(torch.zeros(1, CANDS), SLOTS, GROUP, torch.zeros(1, 3, SLOTS))
    assert found.mode()[0].tolist() == [0, 1, 2]


def test_estimated_marginals_of_many_candidates() -> None:
    logits = torch.linspace(-1, 1, 12, dtype=torch.float64).unsqueeze(0)
    group = (torch.arange(12) % 3).unsqueeze(0)
    found = GroupedPlackettLuce(logits, 2, group, torch.tensor([[[0.0, 2.0]] * 3], dtype=torch.float64))
    truth = torch.zeros(2, 12, dtype=torch.float64)
    for slate in permutations(range(12), 2):
        chance = found.log_prob(torch.tensor([slate])).exp()[0]
        truth[0, slate[0]] += chance
        truth[1, slate[1]] += chance
    assert not found.exact_marginals
    columns = torch.tensor([[11, 3]])
    error = found.marginals_error(columns)[0]
    assert float(error[0]) == 0
    assert 0 < float(error[1]) < 0.01
    own = found.marginals(columns)[0]
    assert float((own - truth[torch.arange(2), columns[0]]).abs().max()) < 0.01
    table = found.slot_marginals()[0]
    assert float((table[0] - truth[0]).abs().max()) < 1e-12
    assert float((table[1] - truth[1]).abs().max()) < 0.01
    assert float(table[1].sum()) == pytest.approx(1, abs=1e-12)


def test_an_item_that_hardly_ever_stands_there_still_has_a_chance() -> None:
    """It stands above in all drawn slates, so only the given slate says that it can stand here."""
    logits = torch.tensor([[9.0] + [0.0] * 11])
    found = GroupedPlackettLuce(logits, 3, torch.zeros_like(logits).long(), torch.zeros(1, 1, 3))
    columns = torch.tensor([[4, 0, 7]])
    truth = PlackettLuce(logits, 3).marginals(columns)
    assert float(found.marginals(columns)[0, 1]) > 0
    assert bool(((found.marginals(columns) - truth).abs() <= 5 * found.marginals_error(columns) + 5e-3).all())
    alone = found.marginals(columns)
    beside = GroupedPlackettLuce(
        torch.cat([logits.flip(1), logits]), 3, torch.zeros(2, 12).long(), torch.zeros(2, 1, 3)
    )
    torch.testing.assert_close(beside.marginals(columns.repeat(2, 1))[1:], alone)


def test_one_slot_is_a_softmax_less_the_first_penalty() -> None:
    logits, penalty = torch.randn(2, 100, generator=Seed(1).torch()), torch.tensor([[[0.0], [3.0]]])
    group = (torch.arange(100) % 2).expand(2, -1)
    found = GroupedPlackettLuce(logits, 1, group, penalty.expand(2, -1, -1))
    truth = (logits - 3.0 * group).double().softmax(1)
    torch.testing.assert_close(found.slot_marginals()[:, 0], truth)
    columns = found.sample(Seed(2).torch())
    torch.testing.assert_close(found.log_prob(columns).exp(), truth.gather(1, columns)[:, 0])


def test_all_candidates_in_one_group_and_far_apart_in_float32() -> None:
    logits = torch.tensor([[80.0, -40.0, 0.0]])
    group, penalty = torch.zeros(1, 3).long(), torch.tensor([[[0.0, 20.0, -20.0]]])
    each = [
        GroupedPlackettLuce(logits, 3, group, penalty).log_prob(torch.tensor([s])).exp()
        for s in permutations(range(3))
    ]
    assert float(torch.stack(each).sum()) == pytest.approx(1, abs=1e-6)
    none = GroupedPlackettLuce(logits[:0], 3, group[:0], penalty[:0])
    assert none.sample(Seed(1).torch()).shape == (0, 3)


def test_bad_input_is_named() -> None:
    good = torch.zeros(1, 3, SLOTS)
    with pytest.raises(BadInput, match="row 0 has 2 candidates, but the slate has 3 slots"):
        GroupedPlackettLuce(LOGITS[:, :2], SLOTS, GROUP[:, :2], good)
    with pytest.raises(BadInput, match="penalties are for 3 items above, but a slate has 2 slots"):
        GroupedPlackettLuce(LOGITS, 2, GROUP, good)
    with pytest.raises(BadInput, match="row 0, column 3: group 2 has no penalty, there are 2 from 0"):
        GroupedPlackettLuce(LOGITS, SLOTS, GROUP, good[:, :2])
    with pytest.raises(BadInput, match=r"logits have shape \(1, 6\), but groups \(2, 6\) and penalties"):
        _check(LOGITS, GROUP.expand(2, -1), good, SLOTS)
    few = GroupedPlackettLuce(LOGITS.masked_fill(GROUP < 2, -torch.inf), SLOTS, GROUP, good)
    with pytest.raises(BadInput, match="row 0 has 1 candidates, but the slate has 3 slots"):
        few.sample(Seed(1).torch())
    lost = GroupedPlackettLuce(LOGITS * torch.nan, SLOTS, GROUP, good)
    with pytest.raises(BadInput, match="row 0 has the logit nan at column 0"):
        lost.sample(Seed(1).torch())
    wrong = good.clone()
    wrong[0, 1, 2] = math.nan
    with pytest.raises(BadInput, match="row 0: the penalty of group 1 after 2 items is nan, but it"):
        GroupedPlackettLuce(LOGITS, SLOTS, GROUP, wrong)
