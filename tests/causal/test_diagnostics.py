"""Made cases with known faults, and the words that they get."""

from dataclasses import replace

import pytest
import torch
from scipy import stats

from causal.calibration import calibrate
from causal.contract import Rounds
from causal.diagnostics import diagnose, unseen_mass, verdict, weight_table
from causal.rounds import rounds, tabular
from causal.tail import pareto_shape
from simlab.datasets.open_bandit import OpenBandit
from simlab.errors import BadInput
from simlab.log import Log
from simlab.policies.random import Random
from tests.worlds import Softmax, bandit_world, slate_world


def weighted(weight: torch.Tensor) -> Rounds:
    return Rounds(torch.zeros(len(weight), dtype=torch.float64), weight.double())


def test_one_row_with_most_of_the_weight_is_refused() -> None:
    weight = torch.full((10_000,), 1.0)
    weight[17] = 22_300.0  # 69 % of all
    d = diagnose(weighted(weight))
    assert d.ess == pytest.approx((22_300 + 9_999) ** 2 / (22_300**2 + 9_999), rel=1e-12)
    assert d.max_weight_share == pytest.approx(22_300 / 32_299, rel=1e-12)
    found = verdict(d)
    assert found.level == "refused"
    assert found.sentences[0] == (
        "ESS 2.1 of 10,000, one row holds 69 % of the weight: refused; use --force to print it anyway"
    )


def test_plain_weights_are_ok() -> None:
    world = bandit_world()
    log = world.listed().draw(5000, seed=1)
    target = Softmax(world.target.log())
    d = diagnose(rounds(log, target), log, target)
    found = verdict(d)
    assert found.level == "ok"
    assert len(found.sentences) == 1
    assert found.sentences[0].startswith("ESS 1,")
    assert found.sentences[0].endswith(": ok")
    assert abs(d.mean_weight_z) < 3
    assert d.unseen_mass == 0
    assert weight_table(d)["max"] == pytest.approx(7.0)


def test_few_effective_rows_want_caution_before_refusal() -> None:
    g = torch.Generator().manual_seed(2)
    some = torch.rand(3000, generator=g, dtype=torch.float64) < 0.04
    d = diagnose(weighted(torch.where(some, 25.0, 0.0)))
    assert d.zero_share == pytest.approx(1 - float(some.double().mean()))
    assert d.ess == pytest.approx(float(some.sum()))
    assert verdict(d).level == "caution"
    assert "ESS 1" in verdict(d).sentences[0]
    few = diagnose(weighted((torch.arange(3000) < 29) * 3000 / 29))
    assert verdict(few).level == "refused"


def test_nothing_in_common_is_refused_in_words() -> None:
    found = verdict(diagnose(weighted(torch.zeros(500))))
    assert found.level == "refused"
    assert "ESS 0.0 of 500" in found.sentences[0]
    assert any("the mean weight is 0.000" in s for s in found.sentences)


def test_a_mean_weight_off_one_shows() -> None:
    g = torch.Generator().manual_seed(3)
    w = torch.rand(4000, generator=g, dtype=torch.float64)
    d = diagnose(weighted(w))
    assert d.mean_weight_z == pytest.approx((float(w.mean()) - 1) / (float(w.std()) / 4000**0.5), rel=1e-12)
    assert verdict(d).level == "refused"
    assert f"the mean weight is {float(w.mean()):.3f} where" in verdict(d).sentences[0]
    slight = verdict(diagnose(weighted(w + 0.53)))
    assert slight.level == "caution"
    constant = diagnose(weighted(torch.full((4000,), 1.2)))
    assert constant.mean_weight_z == float("inf")
    # 1/34 as float32 and as float64 differ in the eighth digit: that is rounding, not a fault.
    rounded = torch.full((4000,), 1 / 34, dtype=torch.float64) / torch.full((4000,), 1 / 34).double()
    assert float(rounded[0]) != 1
    assert verdict(diagnose(weighted(rounded))).level == "ok"


def test_clipped_share_is_what_clipping_loses() -> None:
    w = torch.tensor([1.0, 2.0, 30.0, 7.0], dtype=torch.float64)
    assert diagnose(weighted(w), clip=10.0).clipped_share == pytest.approx(20 / 40)
    assert diagnose(weighted(w), clip=30.0).clipped_share == 0


def test_items_that_the_log_never_shows() -> None:
    world = bandit_world()
    log = world.listed().log
    kept = log.rows((log.slate[:, 0] != 2).nonzero().squeeze(1))
    target = Softmax(world.target.log())
    pages = kept.features[:, 0].long() if kept.features is not None else None
    assert pages is not None
    wanted = float(world.target[pages, 2].mean())
    assert unseen_mass(kept, target) == pytest.approx(wanted, rel=1e-12)
    many = kept.rows(torch.arange(len(kept)).repeat(500))
    d = diagnose(weighted(torch.ones(len(many))), many, target)
    found = verdict(d)
    assert found.level == "refused"
    assert f"items that make up {100 * wanted:.0f} % of what the target shows" in found.sentences[0]


def contextual(n: int, seed: int) -> Log:
    return bandit_world().listed().draw(n, seed)


def test_right_propensities_pass_and_wrong_ones_fail() -> None:
    """Two contexts, so propensities vary by row: a p-value that cries wolf no more often than it says."""
    ps = []
    for seed in range(60):
        found = calibrate(contextual(2000, seed))
        assert found is not None
        assert not found.context_free
        assert found.p_value is not None
        ps.append(found.p_value)
    low = sum(p <= 0.2 for p in ps)
    assert 1 <= low <= 60 * 0.2 + 3 * (60 * 0.16) ** 0.5, ps
    log = contextual(5000, 1)
    wrong = replace(log, propensity=torch.where(log.slate[:, 0] == 1, log.propensity * 0.8, log.propensity))
    off = calibrate(wrong)
    assert off is not None
    assert off.p_value is not None
    assert off.p_value < 1e-6
    assert off.worst_item == 1
    assert off.worst_z > 6
    d = diagnose(weighted(torch.ones(5000)), wrong)
    assert verdict(d).level == "caution"
    assert "worst is item 1" in verdict(d).sentences[0]


def test_rare_rounds_that_never_came_are_no_alarm() -> None:
    """ε-greedy over 1,000 items: each item is the greedy one for some users and almost never else.

    The rare events that would complete the sums of 1/p hardly occur in the log, and that is no fault of it.
    """
    n, items, epsilon = 20_000, 1000, 0.2
    g = torch.Generator().manual_seed(0)
    best = torch.randint(0, 20, (n,), generator=g)
    random = torch.rand(n, generator=g) < epsilon
    shown = torch.where(random, torch.randint(0, items, (n,), generator=g), best)
    chance = torch.where(shown == best, 1 - epsilon + epsilon / items, epsilon / items).double()
    log = Log(
        user=torch.arange(n),
        slate=shown[:, None],
        propensity=chance,
        reward=torch.zeros(n),
        n_items=items,
    )
    found = calibrate(log)
    assert found is not None
    assert found.p_value is not None
    assert found.p_value > 0.01
    assert abs(found.worst_z) < 4


def context_free(p: torch.Tensor, claimed: torch.Tensor, n: int, seed: int) -> Log:
    g = torch.Generator().manual_seed(seed)
    item = torch.multinomial(p, n, replacement=True, generator=g)
    return Log(
        user=torch.arange(n),
        slate=item[:, None],
        propensity=claimed[item],
        reward=torch.zeros(n),
        n_items=len(p),
        position=torch.randint(0, 2, (n,), generator=g),
    )


def test_a_context_free_logger_is_judged_by_counts() -> None:
    p = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    right = calibrate(context_free(p, p, 4000, 1))
    assert right is not None
    assert right.context_free
    assert right.p_value is not None
    assert right.p_value > 0.001
    assert right.excess == pytest.approx(0, abs=1e-9)
    assert max(abs(z) for z in right.z.values()) < 4.5
    shuffled = calibrate(context_free(p, p.flip(0), 4000, 1))
    assert shuffled is not None
    assert shuffled.p_value is not None
    assert shuffled.p_value < 1e-12
    # Counts alone cannot tell that all propensities are too large; their sum can.
    large = calibrate(context_free(p, p * 1.2, 4000, 1))
    assert large is not None
    assert large.excess == pytest.approx(0.2)
    sentences = verdict(diagnose(weighted(torch.ones(4000)), context_free(p, p * 1.2, 4000, 1))).sentences
    assert any("sum to 1.200, more than 1" in s for s in sentences)


def test_slates_are_judged_by_slot_or_not_at_all() -> None:
    log = slate_world().listed().draw(6000, seed=2)
    found = calibrate(log)
    assert found is not None
    assert {slot for slot, _ in found.z} == {0, 1}
    assert found.p_value is not None
    assert found.p_value > 0.001
    assert calibrate(replace(log, slot_propensity=None)) is None


def test_candidates_count_only_where_they_could_be_shown() -> None:
    """Half of the rows offer items 0 and 1, the others 1 and 2, each with a fair coin."""
    g = torch.Generator().manual_seed(4)
    first = torch.randint(0, 2, (4000,), generator=g)
    candidates = torch.stack([first, first + 1], 1)
    item = first + torch.randint(0, 2, (4000,), generator=g)
    log = Log(
        user=torch.arange(4000),
        slate=item[:, None],
        propensity=torch.full((4000,), 0.5),
        reward=torch.zeros(4000),
        n_items=3,
        candidates=candidates,
    )
    found = calibrate(log)
    assert found is not None
    assert max(abs(z) for z in found.z.values()) < 4
    assert found.p_value is not None
    assert found.p_value > 0.001


@pytest.mark.parametrize("shape", [0.2, 0.5, 1.0])
def test_the_tail_index_finds_the_shape(shape: float) -> None:
    x = torch.from_numpy(stats.genpareto.rvs(shape, size=40_000, random_state=5))
    assert pareto_shape(x) == pytest.approx(shape, abs=0.15)


def test_the_tail_index_says_nothing_of_ties_and_never_decides() -> None:
    assert pareto_shape(torch.tensor([1.0, 2.0, 30.0]).repeat(1000)) != pareto_shape(torch.ones(3000))  # NaN
    assert str(pareto_shape(torch.tensor([1.0, 2.0, 30.0]).repeat(1000))) == "nan"
    assert str(pareto_shape(torch.rand(20))) == "nan"
    g = torch.Generator().manual_seed(6)
    heavy = torch.rand(20_000, generator=g, dtype=torch.float64) ** -0.75
    d = diagnose(weighted(heavy / heavy.mean()))
    assert d.tail_index > 0.7
    calm = replace(d, ess=5000.0, max_weight_share=0.001, mean_weight_z=0.0)
    assert verdict(calm).level == "ok"
    cautious = verdict(replace(calm, ess=100.0))
    assert cautious.level == "caution"
    assert any("tail is heavy" in s for s in cautious.sentences)


def test_unseen_mass_bounds_the_bias() -> None:
    """The lost share times the range of the reward: what was never shown could be worth all or nothing."""
    world = bandit_world()
    every = world.listed()
    kept = every.log.rows(every.log.slate[:, 0] != 2)
    target = Softmax(world.target.log())
    with_ = rounds(kept, target)
    d = diagnose(with_, kept, target, reward_range=(-1.0, 3.0))
    assert d.unseen_mass is not None
    assert d.bias_bound == pytest.approx(4 * d.unseen_mass, rel=1e-12)
    assert diagnose(with_, kept, target).bias_bound == pytest.approx(d.unseen_mass, rel=1e-12)
    assert any("worth up to" in s for s in verdict(d).sentences)
    # What is lost of the true value is within the bound.
    lost = float((world.chance * world.target[:, 2] * world.reward[:, 2]).sum())
    share = float((world.chance * world.target[:, 2]).sum())
    assert lost <= share * 1.0


def test_a_logger_that_tries_nothing_is_refused() -> None:
    log = Log(
        user=torch.arange(500),
        slate=torch.zeros(500, 1, dtype=torch.long),
        propensity=torch.ones(500, dtype=torch.float64),
        reward=torch.rand(500, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
        n_items=3,
    )
    found = verdict(diagnose(rounds(log, torch.full((500,), 0.5, dtype=torch.float64)), log))
    assert found.level == "refused"
    assert any("all propensities are 1" in s for s in found.sentences)
    itself = verdict(diagnose(rounds(log, torch.ones(500, dtype=torch.float64)), log))
    assert itself.level == "ok"


def test_rewards_outside_their_range_are_refused() -> None:
    given = Rounds(torch.tensor([0.0, 1.0, 7.0]).double(), torch.ones(3).double())
    with pytest.raises(BadInput, match=r"column reward, row 2: 7 is outside the declared range 0 … 1"):
        diagnose(given, reward_range=(0.0, 1.0))
    with pytest.raises(BadInput, match="the lowest reward comes first"):
        diagnose(given, reward_range=(1.0, 0.0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"item": torch.tensor([0, 3])}, "row 1: item 3 is none of the target's 3 columns"),
        ({"propensity": torch.tensor([0.5, 1.5]).double()}, "row 1: propensity 1.5 is not a probability"),
        (
            {"target": torch.tensor([[0.2, 0.3, 0.5], [0.2, 0.3, 0.4]]).double()},
            "row 1: .* sum to 0.9, not 1",
        ),
    ],
)
def test_tables_that_cannot_be(change: dict[str, torch.Tensor], words: str) -> None:
    given = {
        "item": torch.tensor([0, 1]),
        "reward": torch.ones(2).double(),
        "propensity": torch.full((2,), 0.5).double(),
        "target": torch.tensor([[0.2, 0.3, 0.5], [0.2, 0.3, 0.5]]).double(),
    } | change
    with pytest.raises(BadInput, match=words):
        tabular(given["item"], given["reward"], given["propensity"], given["target"])


def test_the_stress_case_is_refused_with_its_reason() -> None:
    """Open Bandit, women, logged by Thompson sampling: 2 of 10,000 rows hold a random target."""
    data = OpenBandit("bts", "women")
    log = data.load()
    with_ = rounds(log, Random())
    found = diagnose(with_, log, Random())
    assert found.ess == pytest.approx(2.08, abs=0.005)
    said = verdict(found)
    assert said.level == "refused"
    assert said.sentences[0].startswith("ESS 2.1 of 10,000, one row holds 69 % of the weight")
    # Pareto's k alone would have let it pass.
    assert pareto_shape(with_.weight) < 0.7 or torch.tensor(found.tail_index).isnan()
