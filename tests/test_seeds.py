"""Keyed luck: same key same bits, uniform, and independent over every part of the key."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest
from torch import Tensor

from simlab.seeds import Luck, Seed, uniforms

INT64 = st.integers(-(2**63), 2**63 - 1)
CPU = torch.device("cpu")


def luck(users: int, step: int = 0, seed: int = 1) -> Luck:
    return Seed(seed).at(torch.arange(users), torch.full((users,), step))


@given(seed=st.integers(0, 2**64), user=INT64, step=INT64, columns=st.integers(1, 9))
def test_the_same_key_gives_the_same_bits_inside_the_open_interval(
    seed: int, user: int, step: int, columns: int
) -> None:
    here = Seed(seed).at(torch.tensor([user]), torch.tensor([step]))
    draw = here.uniform("test", columns)
    assert draw.shape == (1, columns)
    assert draw.dtype == torch.float32
    assert torch.equal(draw, here.uniform("test", columns))
    assert bool(((draw > 0) & (draw < 1)).all())
    # A wider draw begins with the narrower one, so a longer slate meets the same luck. (A draw of one
    # column takes a shorter way to its bits and is a draw of its own.)
    if columns > 1:
        assert torch.equal(here.uniform("test", columns + 3)[:, :columns], draw)


def test_known_bits() -> None:
    """The numbers themselves are part of the contract: another version or machine must give the same."""
    draw = (luck(2, step=3, seed=42).uniform("known", 3).double() * 2**23 - 0.5).long()
    assert draw.tolist() == reference(42, "known", users=[0, 1], step=3, columns=3)


def reference(seed: int, purpose: str, users: list[int], step: int, columns: int) -> list[list[int]]:
    """SplitMix64 in plain Python integers: the 23 bits behind each uniform."""
    import hashlib

    word = 2**64 - 1
    golden, mix_1, mix_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB

    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * mix_1) & word
        x = ((x ^ (x >> 27)) * mix_2) & word
        return x ^ (x >> 31)

    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    root = int.from_bytes(digest, "little")
    out = []
    for user in users:
        row = mix((mix((user * golden + root) & word) + step * mix_1) & word)
        words = [mix((row + (i + 1) * golden) & word) for i in range((columns + 1) // 2)]
        halves = [h & 0x7FFFFF for w in words for h in (w & 0xFFFFFFFF, w >> 32)]
        out.append(halves[:columns])
    return out


def test_rows_do_not_depend_on_their_batch() -> None:
    user, step = torch.randperm(1000, generator=Seed(5).torch()), torch.arange(1000) % 7
    whole = Seed(2).at(user, step).uniform("slots", 10)
    for size in (1, 3, 999):
        parts = [
            Seed(2).at(user[i : i + size], step[i : i + size]).uniform("slots", 10)
            for i in range(0, 1000, size)
        ]
        assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("columns", [1, 2, 7])
def test_uniform_by_kolmogorov_smirnov(columns: int) -> None:
    draw = luck(60_000 // columns).uniform("ks", columns).double().reshape(-1).numpy()
    assert kstest(draw, "uniform").pvalue > 1e-4  # one fixed seed: a right generator fails 1 in 10,000
    for power in (1, 2, 3):
        mean, n = float((draw**power).mean()), len(draw)
        sd = float(np.sqrt(1 / (2 * power + 1) - 1 / (power + 1) ** 2))
        assert abs(mean - 1 / (power + 1)) < 4.5 * sd / n**0.5


def test_every_bit_is_fair() -> None:
    bits = (luck(50_000).uniform("bits", 2).double() * 2**23 - 0.5).long()
    for k in range(23):
        share = float(((bits >> k) & 1).double().mean())
        assert abs(share - 0.5) < 4.5 * 0.5 / 100_000**0.5, k


def pairs() -> dict[str, tuple[Tensor, Tensor]]:
    n = 50_000
    draw = luck(n + 1).uniform("a", 4)
    base = draw[:n, 0]
    return {
        "purposes": (base, luck(n).uniform("b", 4)[:, 0]),
        "steps": (base, luck(n, step=1).uniform("a", 4)[:, 0]),
        "far steps": (base, luck(n, step=2**40).uniform("a", 4)[:, 0]),
        "slots in one word": (draw[:n, 0], draw[:n, 1]),
        "slots in two words": (draw[:n, 1], draw[:n, 2]),
        "neighbours": (draw[:n, 0], draw[1:, 0]),
        "seeds": (base, luck(n, seed=2).uniform("a", 4)[:, 0]),
        "child seeds": (
            Seed(1).split("x").at(torch.arange(n), torch.zeros(n).long()).uniform("a", 1)[:, 0],
            Seed(1).split("y").at(torch.arange(n), torch.zeros(n).long()).uniform("a", 1)[:, 0],
        ),
        "user against step": (
            Seed(1).at(torch.arange(n), torch.zeros(n).long()).uniform("a", 1)[:, 0],
            Seed(1).at(torch.zeros(n).long(), torch.arange(n)).uniform("a", 1)[:, 0],
        ),
        "one user's steps": tuple(  # type: ignore[dict-item]
            Seed(1).at(torch.full((n,), 9), torch.arange(n) + shift).uniform("a", 1)[:, 0] for shift in (0, 1)
        ),
    }


@pytest.mark.parametrize("name", pairs())
def test_no_correlation_between(name: str) -> None:
    x, y = (v.double().numpy() for v in pairs()[name])
    bound = 4.5 / len(x) ** 0.5
    differ = x != y  # user 0 at step 0 is in both of "user against step"
    assert differ.mean() > 0.999
    assert abs(np.corrcoef(x, y)[0, 1]) < bound + (1 - differ.mean())
    assert abs(np.corrcoef((x - 0.5) ** 2, (y - 0.5) ** 2)[0, 1]) < bound + (1 - differ.mean())
    # Dependence that no correlation shows: an 8 × 8 table of the pair.
    table, _, _ = np.histogram2d(x, y, bins=8, range=[[0, 1], [0, 1]])
    expected = len(x) / 64
    statistic = float(((table - expected) ** 2 / expected).sum())
    assert statistic < 63 + 4.5 * (2 * 63) ** 0.5


def test_both_kinds_of_generator() -> None:
    keyed = uniforms(luck(4), "p", 4, 3, CPU)
    assert torch.equal(keyed, luck(4).uniform("p", 3))
    sequential = Seed(1).torch()
    first, second = (uniforms(sequential, "p", 4, 3, CPU) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(uniforms(Seed(1).torch(), "another purpose", 4, 3, CPU), first)
    draw = uniforms(Seed(3).torch(), "p", 20_000, 2, CPU)
    assert bool(((draw > 0) & (draw < 1)).all())
    assert kstest(draw.double().reshape(-1).numpy(), "uniform").pvalue > 1e-4
    with pytest.raises(ValueError, match="the luck is for 4 users, but 5 rows draw from it"):
        uniforms(luck(4), "p", 5, 1, CPU)


def test_seeds_split_by_name() -> None:
    assert Seed(1).split("a") == Seed(1).split("a")
    children = {Seed(s).split(name).value for s in range(50) for name in ("a", "b", 0, 1)}
    assert len(children) == 200
    assert all(0 <= c < 2**63 for c in children)
    assert Seed(1).split(3) == Seed(1).split("3")
    assert float(Seed(1).numpy().random()) == float(Seed(1).numpy().random())
    assert float(Seed(1).numpy().random()) != float(Seed(2).numpy().random())
