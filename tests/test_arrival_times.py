"""Slot marginals by integrals over ringing clocks, against sums over sets and against finer integrals."""

import pytest
import torch
from torch import Tensor

from simlab.slates import PlackettLuce, arrival_times
from simlab.slates.plackett_luce import _exact_marginals

CLOSE = 1e-12


def drawn(rows: int, cands: int, spread: float, seed: int = 0) -> Tensor:
    return spread * torch.randn(
        rows, cands, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def picked(rows: int, cands: int, many: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(cands, generator=generator)[:many] for _ in range(rows)])


@pytest.mark.parametrize(
    ("cands", "slots", "spread"),
    [(12, 4, 1.0), (12, 12, 1.0), (12, 3, 10.0), (11, 8, 4.0), (5, 3, 50.0), (12, 2, 0.01), (12, 11, 20.0)],
)
def test_against_sums_over_sets(cands: int, slots: int, spread: float) -> None:
    logits = drawn(10, cands, spread)
    truth = _exact_marginals(logits, slots)
    torch.testing.assert_close(arrival_times.table(logits, slots), truth, atol=CLOSE, rtol=0)
    columns = picked(10, cands, slots)
    wanted = truth.gather(2, columns.unsqueeze(1).expand(-1, slots, -1))
    found = arrival_times.placements(logits, columns, slots)
    torch.testing.assert_close(found, wanted, atol=CLOSE, rtol=0)
    own = arrival_times.at_slots(logits, columns)
    torch.testing.assert_close(own, wanted.diagonal(dim1=1, dim2=2), atol=CLOSE, rtol=0)


@pytest.mark.parametrize(
    ("cands", "slots", "spread"),
    [(400, 10, 1.0), (1000, 5, 0.1), (500, 10, 3.0), (300, 40, 1.0), (600, 2, 1.0), (500, 10, 8.0)],
)
def test_many_candidates_against_a_finer_rule_without_light_ones(
    cands: int, slots: int, spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half the step, and every candidate multiplied in: relative errors, down to chances of 1e-20."""
    logits = drawn(2, cands, spread)
    columns = torch.cat([picked(2, cands, slots), logits.topk(slots, dim=1).indices], 1)
    table, some = arrival_times.table(logits, slots), arrival_times.placements(logits, columns, slots)
    monkeypatch.setattr(arrival_times, "STEP", arrival_times.STEP / 2)
    monkeypatch.setattr(arrival_times, "heavies", lambda slots: 10_000)
    finer = arrival_times.placements(logits, columns, slots)
    torch.testing.assert_close(some, finer, atol=1e-290, rtol=1e-11)
    taken = table.gather(2, columns.unsqueeze(1).expand(-1, slots, -1))
    torch.testing.assert_close(taken, finer, atol=1e-290, rtol=1e-11)
    ones = torch.ones(2, slots, dtype=torch.float64)
    torch.testing.assert_close(table.sum(2), ones, atol=CLOSE, rtol=0)
    assert bool((table > 0).all())


def test_equal_candidates_share_evenly() -> None:
    table = arrival_times.table(torch.full((1, 2000), 3.0), 7)
    torch.testing.assert_close(table, torch.full_like(table, 1 / 2000), atol=1e-15, rtol=0)


def test_a_candidate_that_is_asked_for_twice() -> None:
    logits = drawn(3, 20, 1.0)
    same = torch.tensor([[4], [7], [0]]).expand(-1, 5)
    table = arrival_times.table(logits, 5)
    wanted = table.gather(2, same[:, :1].unsqueeze(1).expand(-1, 5, -1)).squeeze(2)
    torch.testing.assert_close(arrival_times.at_slots(logits, same), wanted, atol=CLOSE, rtol=0)
    mixed = torch.tensor([[4, 4, 1], [7, 2, 7], [0, 1, 2]])
    found = arrival_times.placements(logits, mixed, 5)
    torch.testing.assert_close(
        found, table.gather(2, mixed.unsqueeze(1).expand(-1, 5, -1)), atol=CLOSE, rtol=0
    )


@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_rows_and_blocks_do_not_matter(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = drawn(9, 30, spread)
    logits[2, 5:] = -torch.inf
    whole = PlackettLuce(logits, 4).slot_marginals()
    assert bool((whole[2, :, 5:] == 0).all())
    monkeypatch.setattr(arrival_times, "_CELLS", 1)
    torch.testing.assert_close(PlackettLuce(logits, 4).slot_marginals(), whole, atol=CLOSE, rtol=0)


def test_no_rows_are_no_trouble() -> None:
    none = PlackettLuce(torch.zeros(0, 20), 3)
    assert none.slot_marginals().shape == (0, 3, 20)
    assert none.marginals(torch.zeros(0, 3, dtype=torch.long)).shape == (0, 3)
    assert none.placements(torch.zeros(0, 2, dtype=torch.long)).shape == (0, 3, 2)


def test_logits_further_apart_than_doubles_reach() -> None:
    """Each next candidate is certain; between them sixteen gaps that no float64 rate could bridge."""
    logits = -1000.0 * torch.arange(17, dtype=torch.float64).unsqueeze(0)
    table = arrival_times.table(logits, 17)
    torch.testing.assert_close(table[0], torch.eye(17, dtype=torch.float64), atol=CLOSE, rtol=0)
    two = torch.cat([torch.zeros(1, 2), torch.full((1, 9), -3000.0)], 1).double()
    table = arrival_times.table(two, 4)
    torch.testing.assert_close(
        table[0, :2, :2], torch.full((2, 2), 0.5, dtype=torch.float64), atol=CLOSE, rtol=0
    )
    torch.testing.assert_close(
        table[0, 2:, 2:], torch.full((2, 9), 1 / 9, dtype=torch.float64), atol=CLOSE, rtol=0
    )
