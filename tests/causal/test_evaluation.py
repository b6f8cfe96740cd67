"""From rounds to a table."""

from dataclasses import replace

import jaxtyping
import pytest
import torch

from causal.bandit.dr import DR
from causal.bandit.ips import IPS
from causal.bandit.snips import SNIPS
from causal.contract import Rounds, SignedRounds, stderr, value
from causal.diagnostics import diagnose
from causal.evaluation import estimate, evaluate, paired_difference, to_frame
from causal.intervals import interval
from simlab.errors import BadInput
from simlab.parts import all_parts
from simlab.seeds import Seed
from tests.worlds import bandit_world, take


def drawn(n: int, seed: int, target: torch.Tensor | None = None) -> Rounds:
    rounds, probability = bandit_world().rounds(target=target)
    generator = torch.Generator().manual_seed(seed)
    every = bandit_world().rounds()[1]
    assert torch.equal(every, probability)  # the target changes no row
    return take(rounds, torch.multinomial(every, n, replacement=True, generator=generator))


def test_an_estimate_is_what_its_parts_say() -> None:
    rounds = drawn(300, 1)
    found = estimate(SNIPS(), rounds, ["bca", "student-t"], 0.9, seed=Seed(5), replicates=200)
    scores = SNIPS().score(rounds)
    w = rounds.weight
    assert found.name == "SNIPS"
    assert found.n == 300
    assert found.value == value(scores)
    assert found.stderr == stderr(scores)
    assert found.interval == interval(scores, "bca", 0.9, seed=Seed(5), replicates=200)
    assert found.intervals[1].kind == "student-t"
    assert found.ess == pytest.approx(float(w.sum()) ** 2 / float((w * w).sum()))
    assert found.max_weight_share == pytest.approx(float(w.max() / w.sum()))


def test_groups_reach_the_standard_error_and_the_interval() -> None:
    once = drawn(100, 2)
    four = take(once, torch.arange(100).repeat_interleave(4))
    grouped = Rounds(four.reward, four.weight, group=torch.arange(100).repeat_interleave(4))
    a, b = estimate(IPS(), once), estimate(IPS(), grouped)
    assert b.stderr == pytest.approx(a.stderr, rel=1e-12)
    assert b.interval.width == pytest.approx(a.interval.width, rel=1e-12)
    assert b.n == 400


def test_evaluate_uses_what_the_rounds_allow() -> None:
    rounds = drawn(100, 3)
    every = {e.name for e in evaluate(rounds)}
    assert {"IPS", "SNIPS", "clipped IPS", "DM", "DR", "SNDR"} <= every
    bare = Rounds(rounds.reward, rounds.weight)
    free = {make.name for make in all_parts("estimator").values() if not make.needs}  # type: ignore[attr-defined]
    assert free > {"IPS", "SNIPS", "clipped IPS", "replay"}
    # The logger is not uniform, so replay is not for this log.
    assert {e.name for e in evaluate(bare)} == free - {"replay"}
    with pytest.raises(BadInput, match="needs a reward model"):
        evaluate(bare, [DR()])


def test_a_paired_difference_is_narrower_than_two_separate_estimates() -> None:
    world = bandit_world()
    near = 0.9 * world.target + 0.1 / 3
    a, b = IPS().score(drawn(2000, 4)), IPS().score(drawn(2000, 4, target=near))
    found = paired_difference(a, b, ["student-t", "bca"], name="target - near")
    assert found.value == pytest.approx(value(a) - value(b), rel=1e-12)
    assert found.stderr < 0.3 * (stderr(a) ** 2 + stderr(b) ** 2) ** 0.5
    truth = world.value() - world.value(near)
    assert found.interval.low < truth < found.interval.high
    assert found.intervals[1].width == pytest.approx(found.interval.width, rel=0.15)
    # A policy does not differ from itself, in any resample.
    nothing = paired_difference(a, a, "bca")
    assert nothing.value == 0
    assert nothing.interval.width < 1e-12


def test_the_frame_has_a_row_for_each_estimator() -> None:
    frame = to_frame(evaluate(drawn(200, 5), [IPS(), DR()], ["student-t", "bernstein"]))
    assert frame["estimator"].tolist() == ["IPS", "DR"]
    assert frame["interval"].tolist() == ["student-t", "student-t"]
    assert (frame["low_bernstein"] < frame["low"]).all()
    assert (frame["low"] < frame["value"]).all()
    assert frame["n"].tolist() == [200, 200]
    assert len(to_frame([])) == 0


def test_scores_of_other_rows_have_no_difference() -> None:
    a, b = drawn(60, 1), drawn(59, 2)
    with pytest.raises(BadInput, match="the first scores are of 60 rows and the second of 59"):
        paired_difference(IPS().score(a), IPS().score(b))
    with pytest.raises(BadInput, match="60 rows of scores have a group of 59"):
        paired_difference(IPS().score(a), SNIPS().score(a), group=torch.arange(59))
    with pytest.raises(BadInput, match="a difference needs scores on both sides, and the second has none"):
        paired_difference(IPS().score(a), ())


@pytest.mark.parametrize("field", ["weight", "mixture", "balance", "embedding"])
def test_weights_below_zero_are_no_weights(field: str) -> None:
    column = torch.tensor([1.0, 0.0, -0.25, 2.0], dtype=torch.float64)
    fine = Rounds(torch.ones(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64))
    with pytest.raises(
        BadInput, match=f"{field}, row 2: -0.25 is below 0, and a weight is a ratio of chances"
    ):
        replace(fine, **{field: column})
    replace(fine, **{field: torch.where(column < 0, torch.nan, column)})  # a burn-in has no weight


def test_columns_of_rounds_are_of_one_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user meets it, without the shape checks that only tests run."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    one = torch.ones(4, dtype=torch.float64)
    with pytest.raises(BadInput, match="weight has 3 rows, but reward has 4"):
        Rounds(one, one[:3])
    with pytest.raises(BadInput, match="group has 5 rows, but reward has 4"):
        Rounds(one, one, group=torch.arange(5))


def test_weights_of_either_sign_have_a_place_of_their_own() -> None:
    """A pseudo-inverse weighs some slates below zero: diagnostics look at them, and so does this type."""
    odd = torch.tensor([1.5, -0.5, 1.0], dtype=torch.float64)
    found = SignedRounds(torch.ones(3, dtype=torch.float64), odd)
    assert len(found.rows(slice(2))) == 2
    assert diagnose(found).mean_weight == pytest.approx(2 / 3)
