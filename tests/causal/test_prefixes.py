"""Beginnings of slates and pseudo-inverse weights, against lists of every slate."""

from itertools import permutations, product

import pytest
import torch
from torch import Tensor

from causal.prefixes import listed, next_item, prefix_log_probs
from causal.pseudo_inverse import gamma, general_weights, product_weights, uniform_weights
from simlab.errors import BadInput
from simlab.slates import (
    Deterministic,
    Mixture,
    OrderStatistics,
    PlackettLuce,
    Ranked,
    SlateDistribution,
    Uniform,
)
from tests.slate_worlds import (
    EXACT,
)


def distributions() -> dict[str, SlateDistribution]:
    logits = torch.tensor(
        [[0.3, -1.2, 0.0, 2.0, 0.7], [5.0, -5.0, 0.0, -torch.inf, 5.0]], dtype=torch.float64
    )
    mask = torch.tensor([[True, True, False, True, True], [True] * 5])
    one = Deterministic(torch.tensor([[4, 0, 1], [1, 2, 3]]), 5)
    tied = torch.tensor([[1.0, 2.0, 9.0, 1.0, 1.0], [0.0, 0.0, 0.0, 3.0, 3.0]], dtype=torch.float64)
    pl, uniform = PlackettLuce(logits, 3), Uniform(mask, 3)
    beta = OrderStatistics(torch.tensor([1.0, 2, 3, 1, 5]), torch.tensor([2.0, 2, 1, 1, 9]), 3, 2)
    mixed = Mixture((pl, uniform, one), (0.5, 0.3, 0.2))
    return {
        "plackett-luce": pl,
        "plackett-luce, float32": PlackettLuce(logits.float(), 3),
        "uniform": uniform,
        "deterministic": one,
        "ranked": Ranked(tied, 3, mask),
        "order statistics": beta,
        "mixture": mixed,
        "mixture of mixtures": Mixture((mixed, Mixture((one, uniform), (0.4, 0.6))), (0.7, 0.3)),
    }


@pytest.mark.parametrize("name", distributions())
def test_beginnings_are_those_of_the_listed_slates(name: str) -> None:
    d = distributions()[name]
    slates_, chance = listed(d)
    close = 1e-6 if "32" in name else 1e-9 if "order" in name else 1e-12
    for s in range(0, len(slates_), 7):
        columns = slates_[s].expand(2, -1)
        begun = prefix_log_probs(d, columns).exp()
        for k in range(3):
            same = (slates_[:, : k + 1] == slates_[s, : k + 1]).all(1)
            assert torch.allclose(begun[:, k], chance[:, same].sum(1), atol=close, rtol=0)
            before = (slates_[:, :k] == slates_[s, :k]).all(1)
            possible = chance[:, before].sum(1) > 1e-9
            table = torch.zeros(2, 5, dtype=torch.float64)
            table.index_add_(1, slates_[before, k], chance[:, before])
            wanted = table / table.sum(1, keepdim=True)
            found = next_item(d, columns[:, :k])
            assert torch.allclose(found[possible], wanted[possible], atol=max(close, 1e-12) * 1e3, rtol=0)


class Unknown(SlateDistribution):
    """A distribution that nobody has a closed form for."""

    def __init__(self, cands: int, slots: int) -> None:
        self.cands, self.slots = cands, slots

    def sample(self, generator: object) -> Tensor:
        return self.mode()

    def mode(self) -> Tensor:
        return torch.arange(self.slots).unsqueeze(0)

    def log_prob(self, columns: Tensor) -> Tensor:
        weight = {s: 1.0 + i for i, s in enumerate(permutations(range(self.cands), self.slots))}
        total = sum(weight.values())
        return torch.tensor([weight[tuple(c)] / total for c in columns.tolist()], dtype=torch.float64).log()

    def slot_marginals(self) -> Tensor:
        return torch.full((1, self.slots, self.cands), 1 / self.cands, dtype=torch.float64)


def test_an_unknown_distribution_is_listed_or_refused() -> None:
    d = Unknown(4, 2)
    begun = prefix_log_probs(d, torch.tensor([[1, 0]])).exp()[0]
    assert begun.tolist() == pytest.approx([(4 + 5 + 6) / 78, 4 / 78], abs=1e-14)
    assert next_item(d, torch.tensor([[1]]))[0].tolist() == pytest.approx([4 / 15, 0, 5 / 15, 6 / 15])
    with pytest.raises(BadInput, match="30240 slates of 5 from 10 are too many to list"):
        prefix_log_probs(Unknown(10, 5), torch.arange(5).unsqueeze(0))


@pytest.mark.parametrize(("cands", "slots"), [(5, 3), (4, 4), (6, 1), (3, 2)])
def test_pseudo_inverse_of_a_uniform_logger(cands: int, slots: int) -> None:
    generator = torch.Generator().manual_seed(cands)
    logits = torch.randn(4, cands, generator=generator, dtype=torch.float64)
    target = PlackettLuce(logits, slots).slot_marginals()
    columns = torch.stack([torch.randperm(cands, generator=generator)[:slots] for _ in range(4)])
    uniform = Uniform(torch.ones(4, cands, dtype=torch.bool), slots)
    placed = target.gather(2, columns.unsqueeze(1).expand(-1, slots, -1))
    closed = uniform_weights(placed, torch.full((4,), cands))
    assert torch.allclose(closed, general_weights(uniform, target, columns), atol=1e-9, rtol=0)


def test_pseudo_inverse_of_independent_slots() -> None:
    """Slots filled one by one from the same three items, with repeats: Σ_k w_k - K + 1."""
    law = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]], dtype=torch.float64)
    aim = torch.tensor([[0.2, 0.2, 0.6], [0.4, 0.5, 0.1]], dtype=torch.float64)
    every = torch.tensor(list(product(range(3), repeat=2)))
    chance = law[0][every[:, 0]] * law[1][every[:, 1]]
    inverse = torch.linalg.pinv(gamma(every, chance[None], 3)[0], rtol=1e-10)
    slots = torch.arange(2)
    for slate in every:
        one = torch.zeros(2, 3, dtype=torch.float64)
        one[slots, slate] = 1
        wanted = aim.flatten() @ inverse @ one.flatten()
        assert float(product_weights((aim / law)[slots, slate][None])[0]) == pytest.approx(
            float(wanted), abs=EXACT
        )


def test_too_many_slates_for_a_pseudo_inverse() -> None:
    logits = torch.zeros(1, 30, dtype=torch.float64)
    logger = PlackettLuce(logits, 3)
    with pytest.raises(BadInput, match=r"3 of 30 are 24360 slates .* and 90 cells"):
        general_weights(logger, logger.slot_marginals(), torch.tensor([[0, 1, 2]]))
