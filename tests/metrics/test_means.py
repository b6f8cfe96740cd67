"""Metrics of users: their mean, difference and union."""

import numpy as np
import pytest
import torch

from simlab.errors import BadInput
from simlab.metrics.means import PerUser, join, linear, per_user
from simlab.statistics import paired_interval

VALUE = torch.tensor([0.5, 0.1, 0.9, 0.4, 0.2])
COUNTS = torch.tensor([True, False, True, True, True])


def test_skipped_users_have_no_number() -> None:
    found = per_user(VALUE, COUNTS)
    assert found.value.dtype == torch.float64
    assert found.value.isnan().tolist() == (~COUNTS).tolist()
    assert found.mean() == pytest.approx(0.5)
    assert (found.skipped, found.summary().skipped, found.summary().n) == (1, 1, 4)
    with pytest.raises(BadInput, match="all 5 are skipped"):
        per_user(VALUE, torch.zeros(5, dtype=torch.bool)).mean()
    with pytest.raises(BadInput, match="5 users have 4 groups"):
        found.summary(groups=[0, 1, 2, 3])


def test_a_difference_is_paired() -> None:
    a, b = per_user(VALUE, COUNTS), per_user(VALUE.flip(0), COUNTS.flip(0))
    both = (COUNTS & COUNTS.flip(0)).numpy()
    mine = a.minus(b).summary()
    plain = paired_interval(VALUE.double().numpy()[both], VALUE.double().flip(0).numpy()[both])
    assert (mine.mean, mine.low, mine.high, mine.n) == pytest.approx(
        (plain.mean, plain.low, plain.high, plain.n)
    )
    assert mine.skipped == 2
    with pytest.raises(BadInput, match="5 users have no difference from 4"):
        a.minus(per_user(VALUE[:4]))
    with pytest.raises(BadInput, match="the same weight"):
        a.minus(PerUser(b.value, b.counts, torch.ones(5)))


def test_batches_join() -> None:
    whole = {"x": per_user(VALUE, COUNTS), "y": PerUser(VALUE, COUNTS, VALUE)}
    parts = [
        {
            "x": per_user(VALUE[s], COUNTS[s]),
            "y": PerUser(VALUE[s], COUNTS[s], VALUE[s]),
        }
        for s in (slice(0, 2), slice(2, 5))
    ]
    found = join(parts)
    for name in "xy":
        assert found[name].summary() == whole[name].summary()
    with pytest.raises(BadInput, match="no batch"):
        join([])
    with pytest.raises(BadInput, match="the same metrics"):
        join([parts[0], {"x": parts[1]["x"]}])
    with pytest.raises(BadInput, match="some batches of y have weights"):
        join([parts[0], {"x": parts[1]["x"], "y": parts[1]["x"]}])


def test_the_delta_method_is_the_spread_over_samples() -> None:
    """exp of a mean: 400 samples of 200, the mean standard error against the spread."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        x = torch.from_numpy(rng.normal(size=200))
        value = x.mean().exp()
        found.append(linear(float(value), value * (x - x.mean())))
    assert np.mean([f.stderr for f in found]) == pytest.approx(np.std([f.mean for f in found]), rel=0.1)
    assert found[0].high - found[0].mean == pytest.approx(found[0].mean - found[0].low)
