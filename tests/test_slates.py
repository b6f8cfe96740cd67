"""Slate distributions against the list of all slates."""

from itertools import permutations

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from simlab.errors import BadInput
from simlab.seeds import Seed
from simlab.slates import Deterministic, Mixture, PlackettLuce, Ranked, SlateDistribution, Uniform

CANDS, SLOTS = 5, 3
ALL = torch.tensor(list(permutations(range(CANDS), SLOTS)))  # [slate slot]
ONE_MASKED = torch.tensor([[True, True, False, True, True]])

LOGITS = {
    "plain": [0.3, -1.2, 0.0, 2.0, 0.7],
    "equal": [1.0] * 5,
    "extreme": [50.0, -50.0, 0.0, 50.0, -50.0],
    "far apart": [-50.0, 50.0, -50.0, 49.0, 0.0],
    "minus infinity": [0.5, -torch.inf, 1.0, 0.0, -0.5],
    "just enough": [0.5, -torch.inf, 1.0, 0.0, -torch.inf],
}


def logits(name: str) -> Tensor:
    return torch.tensor([LOGITS[name]], dtype=torch.float64)


def distributions() -> dict[str, SlateDistribution]:
    pl = PlackettLuce(logits("plain"), SLOTS, ONE_MASKED)
    uniform = Uniform(ONE_MASKED, SLOTS)
    one = Deterministic(torch.tensor([[4, 0, 1]]), CANDS)
    tied = torch.tensor([[1.0, 2.0, 9.0, 1.0, 1.0]], dtype=torch.float64)
    mixed = Mixture((pl, uniform, one), (0.5, 0.3, 0.2))
    return {
        **{f"plackett-luce, {n}": PlackettLuce(logits(n), SLOTS) for n in LOGITS},
        "plackett-luce, masked": pl,
        "uniform": Uniform(torch.ones(1, CANDS, dtype=torch.bool), SLOTS),
        "uniform, masked": uniform,
        "deterministic": one,
        "ranked, tied": Ranked(tied, SLOTS, ONE_MASKED),
        "ranked, all tied": Ranked(torch.zeros(1, CANDS), SLOTS),
        "ranked, minus infinity": Ranked(logits("minus infinity"), 5 - 1),
        "mixture": mixed,
        "mixture of mixtures": Mixture((mixed, Mixture((one, uniform), (0.4, 0.6))), (0.7, 0.3)),
    }


def listed(d: SlateDistribution) -> tuple[Tensor, Tensor]:
    """Return all slates and their log-probabilities, asked for one row at a time."""
    slates = torch.tensor(list(permutations(range(CANDS), d.slots)))
    return slates, torch.stack([d.log_prob(s.unsqueeze(0))[0] for s in slates]).double()


@pytest.mark.parametrize("name", distributions())
def test_probabilities_of_all_slates_sum_to_one(name: str) -> None:
    _, log_prob = listed(distributions()[name])
    assert not log_prob.isnan().any()
    assert float(log_prob.exp().sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", distributions())
def test_marginals_are_those_of_the_listed_slates(name: str) -> None:
    d = distributions()[name]
    slates, log_prob = listed(d)
    truth = torch.zeros(d.slots, CANDS, dtype=torch.float64)
    for k in range(d.slots):
        truth[k].index_add_(0, slates[:, k], log_prob.exp())
    table = d.slot_marginals()[0].double()
    torch.testing.assert_close(table, truth, atol=1e-12, rtol=0)
    torch.testing.assert_close(table.sum(1), torch.ones(d.slots, dtype=torch.float64), atol=1e-12, rtol=0)
    for slate in slates[:7]:
        asked = d.marginals(slate.unsqueeze(0))[0].double()
        torch.testing.assert_close(asked, truth[torch.arange(d.slots), slate], atol=1e-12, rtol=0)


@pytest.mark.parametrize("keyed", [True, False])
@pytest.mark.parametrize("name", distributions())
def test_samples_have_the_stated_probabilities(name: str, keyed: bool) -> None:
    d, n = distributions()[name], 20_000
    slates, log_prob = listed(d)
    probability = log_prob.exp()
    wide = _widen(d, n)
    generator = Seed(7).at(torch.arange(n), torch.zeros(n, dtype=torch.long)) if keyed else Seed(7).torch()
    drawn = wide.sample(generator)
    base = CANDS ** torch.arange(d.slots)
    code = (slates * base).sum(1)
    count = torch.bincount((drawn * base).sum(1), minlength=int(CANDS**d.slots)).double()[code]
    assert int(count.sum()) == n  # no slate with a repeat
    assert count[probability == 0].sum() == 0
    often = probability * n >= 5  # rarer slates are pooled, as the test's approximation needs
    expected = torch.cat([probability[often] * n, (probability[~often].sum() * n).unsqueeze(0)])
    seen = torch.cat([count[often], count[~often].sum().unsqueeze(0)])
    rare = float(expected[-1])
    if rare < 5:  # too few to have a distribution: bounded by Markov's inequality at 1e-6
        assert float(seen[-1]) <= max(1e6 * rare, 20)
        expected, seen = expected[:-1], seen[:-1]
    statistic = float(((seen - expected).square() / expected).sum())
    # One in a million draws of a right sampler is refused; seeds are fixed, so a pass stays a pass.
    assert statistic <= float(chi2.ppf(1 - 1e-6, max(len(seen) - 1, 1)))


def _widen(d: SlateDistribution, n: int) -> SlateDistribution:
    """Return the same distribution for n users."""
    match d:
        case PlackettLuce():
            return PlackettLuce(d.logits.expand(n, -1), d.slots)
        case Uniform():
            return Uniform(d.mask.expand(n, -1), d.slots)
        case Deterministic():
            return Deterministic(d.columns.expand(n, -1), d.candidates)
        case Ranked():
            return Ranked(d.scores.expand(n, -1), d.slots, d.scores.expand(n, -1) > -torch.inf)
        case Mixture():
            return Mixture([_widen(p, n) for p in d.parts], d.chances)
    raise AssertionError(d)


@pytest.mark.parametrize("name", distributions())
def test_a_repeated_item_has_no_probability(name: str) -> None:
    d = distributions()[name]
    slate = torch.arange(d.slots).unsqueeze(0)
    slate[0, 1] = slate[0, 0]
    assert float(d.log_prob(slate)[0]) == -torch.inf


@pytest.mark.parametrize("name", [n for n in distributions() if "mixture" not in n])
def test_mode_is_the_likeliest_slate(name: str) -> None:
    d = distributions()[name]
    slates, log_prob = listed(d)
    mode = d.mode()
    assert float(d.log_prob(mode)[0]) == pytest.approx(float(log_prob.max()), abs=1e-12)
    # Of the likeliest slates it is the first: ties go to the lower column.
    best = slates[log_prob >= log_prob.max() - 1e-12]
    assert mode[0].tolist() == min(best.tolist())


def test_mixture_mode_is_the_likeliest_of_the_parts_modes() -> None:
    pl = PlackettLuce(logits("plain"), SLOTS)
    one = Deterministic(torch.tensor([[4, 0, 1]]), CANDS)
    assert Mixture((pl, one), (0.6, 0.4)).mode()[0].tolist() == [4, 0, 1]
    assert Mixture((pl, one), (0.999, 0.001)).mode()[0].tolist() == [3, 4, 0]


@pytest.mark.parametrize("name", ["plain", "equal", "minus infinity"])
def test_gradient_of_log_prob(name: str) -> None:
    columns = torch.tensor([[3, 0, 2], [0, 2, 3]])
    x = logits(name).repeat(2, 1)
    free = x > -torch.inf
    values = x[free].clone().requires_grad_()

    def log_prob(v: Tensor) -> Tensor:
        return PlackettLuce(x.masked_scatter(free, v), SLOTS).log_prob(columns)

    assert torch.autograd.gradcheck(log_prob, (values,))


def test_gradient_where_every_candidate_is_shown() -> None:
    x = torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    order = torch.tensor([[2, 0, 1]])
    assert torch.autograd.gradcheck(lambda v: PlackettLuce(v, 3).log_prob(order), (x,))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_integrals_equal_sums_over_sets(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = 2 * torch.randn(4, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x[0, 3] = -torch.inf
    by_time = PlackettLuce(x, 4)
    shown = by_time.sample(Seed(seed).torch())
    answers = by_time.marginals(shown), by_time.slot_marginals(), by_time.placements(shown)
    monkeypatch.setattr("simlab.slates.plackett_luce.SETS_UP_TO", 10)
    for one, two in zip(
        answers, (by_time.marginals(shown), by_time.slot_marginals(), by_time.placements(shown)), strict=True
    ):
        torch.testing.assert_close(one, two, atol=1e-12, rtol=0)
    assert by_time.exact_marginals
    assert not bool(by_time.marginals_error(shown).any())


def test_the_table_of_extreme_logits_is_a_distribution() -> None:
    x = torch.tensor([[0.0] * 5 + [-2000.0] * 10, [1e4, 5e3, *([-1e4] * 12), -torch.inf]]).double()
    table = PlackettLuce(x, 6).slot_marginals()
    assert bool(table.isfinite().all())
    assert bool((table >= 0).all())
    torch.testing.assert_close(table.sum(2), torch.ones(2, 6, dtype=torch.float64), atol=1e-11, rtol=0)
    assert table[1, 0, 0].item() == 1.0
    assert table[1, 1, 1].item() == pytest.approx(1.0, abs=1e-12)


def test_marginals_are_never_zero_for_the_least_likely_item() -> None:
    x = torch.linspace(-30, 30, 40, dtype=torch.float64).unsqueeze(0)
    d = PlackettLuce(x, 5)
    worst = torch.tensor([[0, 1, 2, 3, 4]])
    assert bool((d.marginals(worst) > 0).all())


def test_ranked_is_deterministic_without_ties_and_even_with_them() -> None:
    distinct = Ranked(torch.tensor([[1.0, 1.0000001, 0.5, 3.0]]), 2)
    assert distinct.log_prob(torch.tensor([[3, 1]])).tolist() == [0.0]
    tied = Ranked(torch.tensor([[2.0, 1.0, 1.0, 1.0]]), 3)
    for rest in permutations((1, 2, 3), 2):
        assert float(tied.log_prob(torch.tensor([[0, *rest]])).exp()) == pytest.approx(1 / 6, abs=1e-15)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: PlackettLuce(torch.zeros(1, 2), 3), "row 0 has 2 candidates, but the slate has 3 slots"),
        (lambda: Uniform(ONE_MASKED, 5), "row 0 has 4 candidates, but the slate has 5 slots"),
        (lambda: Ranked(torch.zeros(1, 5), 5, ONE_MASKED), "row 0 has 4 candidates"),
        (lambda: Uniform(ONE_MASKED, 0), "a slate needs at least one slot, not 0"),
        (lambda: Mixture((Uniform(ONE_MASKED, 2),), (0.5,)), "sum to 1"),
        (lambda: Mixture((Uniform(ONE_MASKED, 2), Uniform(ONE_MASKED, 3)), (0.5, 0.5)), "different slots"),
        (lambda: Mixture((Uniform(ONE_MASKED, 2),), (0.5, 0.5)), "needs as many chances"),
    ],
)
def test_refusals(make: object, sentence: str) -> None:
    assert callable(make)
    with pytest.raises(BadInput, match=sentence):
        make()


def test_marginals_of_sure_slates_do_not_underflow() -> None:
    """Logits 800 apart, more than a float can tell apart as chances: the order is sure."""
    found = PlackettLuce(torch.tensor([[0.0, -800.0, -1600.0, -2400.0]]).double(), 3)
    table = found.slot_marginals()[0]
    assert torch.allclose(table, torch.eye(3, 4, dtype=torch.float64), atol=1e-15)
    assert float(found.log_prob(torch.tensor([[0, 1, 2]]))) == 0


def test_the_chance_of_a_slate_is_that_of_its_parts_also_in_float32() -> None:
    logits = 2 * torch.randn(50, 200, generator=torch.Generator().manual_seed(1))
    slates = PlackettLuce(logits, 10).sample(torch.Generator().manual_seed(2))
    wide = PlackettLuce(logits.double(), 10).log_prob(slates)
    assert torch.equal(PlackettLuce(logits, 10).log_prob(slates), wide)
