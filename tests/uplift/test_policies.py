"""Assignments: by hand, over all orders of ties, in any order of rows, and what is refused."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from causal.targeting.policies import Assignment, by_score, everybody, nobody, threshold, top_share
from simlab.errors import BadInput
from simlab.seeds import Seed

Array = np.ndarray


def test_a_threshold_by_hand() -> None:
    found = threshold([0.3, 0.1, -0.2, 0.2], cost=[1.0, 1.5, 0.0, 2.0], worth=10.0)
    assert found.treated.tolist() == [1, 0, 0, 0]  # the last is worth exactly what it costs
    arms = [[1.0, 3.0], [2.0, 1.0], [-1.0, -2.0], [2.0, 3.0], [0.0, 0.0]]
    assert threshold(arms, cost=[0.0, 1.0]).chance.tolist() == [
        [0, 0, 1],
        [0, 1, 0],
        [1, 0, 0],
        [0, 0.5, 0.5],  # both bring 2 net
        [1, 0, 0],
    ]
    assert threshold([-1.0, 1.0], worth=-1.0).treated.tolist() == [1, 0]  # the outcome is a harm


def test_a_threshold_is_the_best_of_all_assignments() -> None:
    luck = np.random.default_rng(0)
    effect, cost = luck.normal(size=(5, 2)), luck.random((5, 2))
    net = np.column_stack([np.zeros(5), 2 * effect - cost])
    most = max(net[np.arange(5), list(arms)].sum() for arms in itertools.product(range(3), repeat=5))
    assert (threshold(effect, cost, 2.0).chance * net).sum() == pytest.approx(most, abs=1e-12)


def test_shares_are_the_mean_over_orders_of_ties() -> None:
    score = np.array([2.0, 1.0, 1.0, 1.0, 0.0])
    for many in range(6):
        mean, orders = np.zeros(5), list(itertools.permutations(range(5)))
        for order in orders:
            best = np.array(order)[np.argsort(-score[list(order)], kind="stable")]
            mean[best[:many]] += 1 / len(orders)
        np.testing.assert_allclose(top_share(score, many / 5).treated, mean, atol=1e-12)


def test_shares_are_filled_whatever_the_sign_and_by_weight() -> None:
    luck = np.random.default_rng(1)
    score, weight = luck.integers(0, 4, 50) - 9.0, luck.uniform(0, 2, 50)
    weight[7] = 0
    for share in (0.0, 0.1, 0.37, 1.0):
        found = by_score(score, share=share, weight=weight)
        assert weight @ found.treated / weight.sum() == pytest.approx(share, abs=1e-12)
        assert found.treated[7] == 0
    order = luck.permutation(50)
    moved = by_score(score[order], share=0.37, weight=weight[order])
    np.testing.assert_allclose(moved.treated, by_score(score, share=0.37, weight=weight).treated[order])


def test_any_score_decides_by_one_function() -> None:
    effect, chance = np.array([0.1, 0.3, 0.2]), np.array([0.9, 0.1, 0.5])
    np.testing.assert_array_equal(by_score(effect, share=1 / 3).treated, [0, 1, 0])
    np.testing.assert_array_equal(by_score(chance, share=1 / 3).treated, [1, 0, 0])
    np.testing.assert_array_equal(by_score(chance, above=0.5).treated, [1, 0, 0])
    np.testing.assert_array_equal(by_score(effect, above=0.0).treated, threshold(effect).treated)


def test_several_arms_rank_by_the_best_and_share_ties() -> None:
    found = top_share([[3.0, 1.0], [2.0, 2.0], [0.0, 1.0], [1.0, 0.0]], 0.75)
    wanted = np.array([[0, 1, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    np.testing.assert_allclose(found.chance, wanted, atol=1e-12)


def test_each_fold_has_its_share() -> None:
    score, fold = np.array([9.0, 8.0, 7.0, 6.0, 1.0, 2.0, 3.0, 4.0]), np.array([0] * 4 + [5] * 4)
    assert top_share(score, 0.25, fold=fold).treated.tolist() == [1, 0, 0, 0, 0, 0, 0, 1]
    assert top_share(score, 0.25).treated.tolist() == [1, 1, 0, 0, 0, 0, 0, 0]


def test_an_edge_lies_around_the_cut_and_moves_chances_only() -> None:
    score = np.arange(100.0)
    edge = top_share(score, 0.3).edge
    assert edge is not None
    near = np.flatnonzero(edge.per)
    assert near[0] < 70 <= near[-1]
    assert 6 <= len(near) <= 14  # ½ 100^(-1/5) .3 to each side
    np.testing.assert_array_equal(edge.shift.sum(1), 0)
    np.testing.assert_array_equal(edge.shift[:, 1], edge.per)
    np.testing.assert_array_equal(edge.used, top_share(score, 0.3).treated)
    for still in (
        top_share(score, 0.0),
        top_share(score, 1.0),
        by_score(score, above=70.0),
        threshold(score),
    ):
        assert still.edge is None


def test_chances_are_drawn() -> None:
    chance = np.tile([0.2, 0.5, 0.3], (20_000, 1))
    found = Assignment.of(chance)
    drawn = found.draw(Seed(3))
    np.testing.assert_array_equal(drawn, found.draw(Seed(3)))
    share = np.bincount(drawn, minlength=3) / 20_000
    assert (np.abs(share - chance[0]) < 4 * np.sqrt(0.25 / 20_000)).all()
    sure = Assignment.fixed([0, 2, 1], 3)
    assert sure.draw(Seed(0)).tolist() == [0, 2, 1]
    assert (sure.fractional, found.fractional) == (0, 20_000)
    assert found.share.tolist() == pytest.approx([0.2, 0.5, 0.3])
    other = Assignment.of(chance + np.array([-0.01, 0.01, 0.0]))
    assert (other.draw(Seed(3)) != drawn).mean() < 0.02  # close assignments share their luck


def test_everybody_nobody_and_some_rows() -> None:
    assert everybody(2, 3, 2).chance.tolist() == [[0, 0, 1], [0, 0, 1]]
    assert nobody(2).treated.tolist() == [0, 0]
    part = top_share(np.arange(10.0), 0.3).rows(np.array([9, 0]))
    assert part.treated.tolist() == [1, 0]
    assert part.edge is None


def test_refusals() -> None:
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: Assignment.of([0.2, 1.2]), r"chance, row 1, arm 0: -0.2 is no chance in \[0, 1\]"),
        (lambda: Assignment.of([[0.5, 0.6]]), "chance, row 0: the arms sum to 1.1, not to 1"),
        (lambda: Assignment.of([[np.nan, 1.0]]), "chance, row 0, column 0: nan is not a finite number"),
        (lambda: Assignment.fixed([0, 2]), "column arm, row 1: 2 is no arm from 0 to 1"),
        (lambda: threshold([0.1, np.inf]), "effect, row 1, column 0: inf is not a finite number"),
        (lambda: threshold([0.1], worth=np.nan), "worth is nan, not a finite number"),
        (lambda: threshold([0.1, 0.2], [1.0, -1.0]), "cost, row 1, column 0: -1 is negative"),
        (lambda: threshold([[0.1, 0.2]], [1.0, np.nan]), "cost, column 1: nan is not a finite number"),
        (lambda: threshold([0.1], -2), "cost: -2 is negative"),
        (lambda: threshold([0.1], "much"), "cost holds what is not a number"),
        (lambda: threshold(np.zeros((3, 2)), np.zeros(3)), r"cost has shape \(3,\), and one number, one for"),
        (lambda: by_score([1.0]), "by_score takes a share or a cut"),
        (lambda: by_score([1.0], share=0.5, above=1.0), "by_score takes a share or a cut"),
        (lambda: by_score([1.0], share=30), "share is 30, but a share is in"),
        (lambda: by_score([1.0, 2.0], share=0.5, weight=[1.0]), "column weight has 1 rows, but 2 are asked"),
        (lambda: by_score([1.0, 2.0], share=0.5, fold=[1]), "column fold has 1 rows, but 2 are asked for"),
        (lambda: by_score([1.0], above=np.nan), "column above, row 0: nan is not a finite number"),
    ]
    for call, words in calls:
        with pytest.raises(BadInput, match=words):
            call()
