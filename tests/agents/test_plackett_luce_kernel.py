"""The fused Plackett–Luce kernel against enumeration, autograd and the slate distribution of the lab."""

import itertools
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from agents.maths import _kernels, _tables, plackett_luce
from agents.maths._tables import Product
from agents.maths.plackett_luce import (
    draw_slates,
    entropy_surrogate,
    gumbel_top_k,
    slate_entropy_surrogate,
    slot_entropies,
    slot_log_probs,
)
from simlab.errors import BadInput
from simlab.slates import PlackettLuce

ITEMS, SLOTS = 6, 3
SLATES = torch.tensor(list(itertools.permutations(range(ITEMS), SLOTS)))


def _logits(rows: int, cands: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return torch.randn(rows, cands, generator=torch.Generator().manual_seed(seed)).double() * scale


def _slow(logits: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Slot by slot, by the definition."""
    left, log_prob, entropy = logits, [], []
    for k in range(columns.shape[1]):
        q = left.log_softmax(1)
        log_prob.append(q.gather(1, columns[:, k : k + 1]))
        entropy.append(-(q.exp() * q.masked_fill(left.isneginf(), 0.0)).sum(1, keepdim=True))
        left = left.scatter(1, columns[:, k : k + 1], -torch.inf)
    return torch.cat(log_prob, 1), torch.cat(entropy, 1)


def _everything() -> tuple[Tensor, Tensor]:
    """One row of logits as a leaf, and a copy of it for every slate."""
    row = (_logits(1, ITEMS, seed=3, scale=1.2)).requires_grad_()
    return row, row.expand(len(SLATES), ITEMS)


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def test_slate_probabilities_sum_to_one_and_equal_the_definition() -> None:
    _, logits = _everything()
    log_prob, entropy = slot_entropies(logits, SLATES)
    want, want_entropy = _slow(logits, SLATES)
    torch.testing.assert_close(log_prob.sum(1).exp().sum(), torch.tensor(1.0).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(log_prob, want, rtol=0, atol=1e-12)
    torch.testing.assert_close(entropy, want_entropy, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cache", [1, 40, 1 << 20])
def test_values_and_gradients_equal_autograd(cache: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tables, "CACHE", cache)
    base = _logits(7, 12)
    base[0, 3] = base[1, 2:5] = -torch.inf
    columns = gumbel_top_k(base, 4, torch.Generator().manual_seed(1))
    up, up_entropy = _logits(7, 4, seed=5), _logits(7, 4, seed=6)
    grads = []
    for function in (_slow, slot_entropies):
        logits = base.clone().requires_grad_()
        log_prob, entropy = function(logits, columns)
        ((log_prob * up).sum() + (entropy * up_entropy).sum()).backward()  # type: ignore[no-untyped-call]
        assert logits.grad is not None
        grads.append(logits.grad)
    assert grads[1][0, 3] == 0
    assert (grads[1][1, 2:5] == 0).all()
    torch.testing.assert_close(grads[1], grads[0].nan_to_num(0.0), rtol=0, atol=1e-12)


def test_equals_the_slate_distribution() -> None:
    logits = _logits(50, 40)
    columns = gumbel_top_k(logits, 10, torch.Generator().manual_seed(2))
    ours, _ = slot_log_probs(logits, columns, None)
    torch.testing.assert_close(ours, PlackettLuce(logits, 10).slot_log_probs(columns), rtol=0, atol=1e-12)


@pytest.mark.parametrize("entropy", ["slots", "first", None])
def test_gradcheck(entropy: plackett_luce.Entropy | None) -> None:
    logits = _logits(4, 9, seed=8).requires_grad_()
    columns = gumbel_top_k(logits, 4, torch.Generator().manual_seed(3))

    def function(x: Tensor) -> tuple[Tensor, ...]:
        out = slot_log_probs(x, columns, entropy)
        return out if entropy is not None else out[:1]

    assert torch.autograd.gradcheck(function, (logits,))


def test_entropies() -> None:
    row, logits = _everything()
    log_prob, entropies = slot_entropies(logits, SLATES)
    chance = log_prob.sum(1).exp()
    truth = -(chance * chance.log()).sum()
    torch.testing.assert_close((chance * entropies.sum(1)).sum(), truth, rtol=0, atol=1e-12)
    (want,) = torch.autograd.grad(truth, row)

    fixed = chance.detach()
    (slots,) = torch.autograd.grad((fixed * slot_log_probs(logits, SLATES, "slots")[1]).sum(), row)
    (first,) = torch.autograd.grad((fixed * slot_log_probs(logits, SLATES, "first")[1]).sum(), row)
    (slate,) = torch.autograd.grad((fixed * slate_entropy_surrogate(logits, SLATES)).sum(), row)
    torch.testing.assert_close(slate, want, rtol=0, atol=1e-12)
    # The pathwise gradient is not the gradient of the slate's entropy, but it points almost the same way.
    assert _cosine(slots, want) == pytest.approx(COSINE_SLOTS, abs=5e-4)
    assert _cosine(first, want) == pytest.approx(COSINE_FIRST, abs=5e-4)


COSINE_SLOTS, COSINE_FIRST = 0.9936, 0.9178


def test_surrogate_has_the_value_of_the_entropies() -> None:
    log_prob, entropies = slot_entropies(_logits(5, 8), gumbel_top_k(_logits(5, 8), 3))
    torch.testing.assert_close(entropy_surrogate(log_prob, entropies), entropies.sum(1), rtol=0, atol=0)


def test_exactly_as_many_candidates_as_slots() -> None:
    logits = _logits(3, 5)
    logits[0, 4] = -torch.inf
    logits.requires_grad_()
    columns = torch.tensor([[0, 1, 2, 3], [4, 3, 2, 1], [1, 0, 2, 4]])
    log_prob, entropy = slot_log_probs(logits, columns, "slots")
    (log_prob.sum() + entropy.sum()).backward()  # type: ignore[no-untyped-call]
    assert log_prob[0, 3] == 0  # nothing else was left
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[0, 4] == 0


def test_a_masked_choice_is_impossible_and_passes_nothing_on() -> None:
    logits = _logits(1, 5)
    logits[0, 2] = -torch.inf
    logits.requires_grad_()
    log_prob, entropy = slot_log_probs(logits, torch.tensor([[0, 2, 1]]), "slots")
    assert log_prob[0].isneginf().tolist() == [False, True, False]
    (log_prob.nan_to_num(neginf=0.0).sum() + entropy.sum()).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[0, 2] == 0


def test_huge_gaps_do_not_underflow() -> None:
    logits = torch.tensor([[500.0, 100.0, -300.0, -300.0, -900.0]], requires_grad=True)
    log_prob, entropy = slot_entropies(logits, torch.tensor([[0, 1, 2]]))
    torch.testing.assert_close(log_prob, torch.tensor([[0.0, 0.0, -0.6931472]]))
    torch.testing.assert_close(entropy, torch.tensor([[0.0, 0.0, 0.6931472]]))
    log_prob.sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[0.0, 0.0, 0.5, -0.5, 0.0]]))
    columns = gumbel_top_k(logits.repeat(20, 20) - torch.arange(100.0) * 1000, 4)
    assert (columns[:, :2] == torch.tensor([0, 1])).all()


def test_half_precision_logits_are_worked_off_in_single() -> None:
    logits = _logits(4, 30).bfloat16()
    columns = gumbel_top_k(logits.float(), 3)
    torch.testing.assert_close(slot_log_probs(logits, columns)[0], _slow(logits.float(), columns)[0])
    product = _factors(4, 30)
    half = Product(product.state.bfloat16(), product.vectors.bfloat16())
    single = Product(half.state.float(), half.vectors.float())
    for one, other in ((logits, logits.float()), (half, single)):
        found, want = (draw_slates(x, 3, torch.Generator().manual_seed(1)) for x in (one, other))
        assert torch.equal(found[0], want[0])
        assert torch.equal(found[1], want[1])
        assert torch.equal(gumbel_top_k(one, 3, torch.Generator().manual_seed(1)), want[0])


def _key(columns: Tensor) -> Tensor:
    return (columns * (ITEMS ** torch.arange(SLOTS - 1, -1, -1))).sum(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["compiled", "race"])
@pytest.mark.parametrize("peak", [1.0, 2.5])
def test_samples_have_the_law_of_plackett_luce(dtype: torch.dtype, peak: float) -> None:
    """Chi-square over all 120 slates of logits so peaked that the rest is weighed anew in most rows."""
    from scipy.stats import chi2

    row = peak * torch.tensor([3.0, 1.0, 0.5, 0.0, -0.5, -1.0], dtype=dtype)
    rows = 60_000
    columns = gumbel_top_k(row.repeat(rows, 1), SLOTS, torch.Generator().manual_seed(4))
    assert not PlackettLuce(row.repeat(rows, 1), SLOTS).log_prob(columns).isneginf().any()
    count = torch.bincount(_key(columns), minlength=ITEMS**SLOTS)[_key(SLATES)].double()
    want = rows * slot_log_probs(row.double().expand(len(SLATES), -1), SLATES, None)[0].sum(1).exp()
    assert count.sum() == rows
    often = want > 5
    count, want = (torch.cat([x[often], x[~often].sum().view(1)]) for x in (count, want))
    assert chi2.sf(float(((count - want) ** 2 / want.clamp(min=1e-9)).sum()), int(often.sum())) > 1e-3


@pytest.mark.parametrize("cands", [8, 300])
def test_masked_candidates_are_never_drawn(cands: int) -> None:
    generator = torch.Generator().manual_seed(5)
    mask = torch.rand(500, cands, generator=generator) < 0.6
    mask[:, :3] = True
    logits = _logits(500, cands, scale=4.0).float().masked_fill(~mask, -torch.inf)
    logits[:10, 3:] = -torch.inf  # exactly as many as slots
    columns = gumbel_top_k(logits, 3, generator)
    assert not logits.gather(1, columns).isneginf().any()
    assert (columns.sort(1).values.diff(dim=1) > 0).all()


@pytest.mark.parametrize("cands", [8, 300])
def test_samples_repeat_by_seed_and_need_enough_candidates(cands: int) -> None:
    logits = _logits(6, cands).float()
    one, two, other = (gumbel_top_k(logits, 3, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    logits[4, 2:] = -torch.inf
    with pytest.raises(BadInput, match="row 4 has 2 candidates, but the slate has 3 slots"):
        gumbel_top_k(logits, 3)


def test_diverged_logits_are_refused() -> None:
    logits = _logits(6, 300).float()
    logits[2, 7] = torch.nan
    with pytest.raises(BadInput, match="row 2 has the logit nan at column 7; it must be finite or -inf"):
        gumbel_top_k(logits, 3)


def test_other_rows_and_masked_tails_do_not_change_a_row() -> None:
    """Half the candidates masked, one row all alike: single precision against the definition in double."""
    logits = _logits(5, 1000, seed=9).float()
    logits[:, ::2] = -torch.inf
    logits[3, 1::2] = 4.0
    columns = gumbel_top_k(logits, 10, torch.Generator().manual_seed(6))
    log_prob, entropy = slot_entropies(logits, columns)
    want, want_entropy = _slow(logits.double(), columns)
    torch.testing.assert_close(log_prob.double(), want, rtol=0, atol=1e-5)
    torch.testing.assert_close(entropy.double(), want_entropy, rtol=0, atol=1e-5)
    alone, _ = slot_log_probs(logits[3:4], columns[3:4], None)
    assert torch.equal(alone[0], log_prob[3])
    assert float(entropy[3, 0]) == pytest.approx(6.2146081, abs=1e-5)  # log 500


def _factors(rows: int, cands: int, scale: float = 1.0) -> Product:
    generator = torch.Generator().manual_seed(11)
    state = torch.randn(rows, 6, generator=generator).double() * scale
    return Product(state, torch.randn(cands, 6, generator=generator).double())


@pytest.mark.parametrize("cache", [1, 40, 1 << 20])
def test_a_product_is_the_table_of_its_logits(cache: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tables, "CACHE", cache)
    product = _factors(7, 12)
    columns = gumbel_top_k(product, 4, torch.Generator().manual_seed(1))
    up, up_entropy = _logits(7, 4, seed=5), _logits(7, 4, seed=6)
    found = []
    for whole in (True, False):
        leaf = Product(product.state.clone().requires_grad_(), product.vectors.clone().requires_grad_())
        log_prob, entropy = slot_entropies(leaf.whole() if whole else leaf, columns)
        ((log_prob * up).sum() + (entropy * up_entropy).sum()).backward()  # type: ignore[no-untyped-call]
        found.append((log_prob.detach(), entropy.detach(), leaf.state.grad, leaf.vectors.grad))
    for one, other in zip(*found, strict=True):
        assert one is not None
        torch.testing.assert_close(other, one, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [0.3, 1.0, 6.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_come_with_their_log_probabilities(scale: float, dtype: torch.dtype) -> None:
    """The most peaked slates take nearly all of the mass: there differences of sums would not do."""
    product = _factors(400, 243, scale)
    product = Product(product.state.to(dtype), product.vectors.to(dtype))
    logits = product.whole()
    logits[:100, ::2] = -torch.inf
    for given, whole in ((product, product.whole()), (logits, logits)):
        columns, log_prob = draw_slates(given, 10, torch.Generator().manual_seed(3))
        assert (columns.sort(1).values.diff(dim=1) > 0).all()
        want = _slow(whole.double(), columns)[0]
        close = {torch.float32: 2e-5, torch.float64: 1e-6}[dtype]  # e^-80 counts as nothing
        torch.testing.assert_close(log_prob.double(), want, rtol=1e-6, atol=close)
    assert torch.equal(columns, gumbel_top_k(logits, 10, torch.Generator().manual_seed(3)))


@pytest.mark.parametrize("peak", [0.5, 4.0, 9.0])
@pytest.mark.parametrize("cands", [19, 83])
def test_draws_by_groups_have_the_law_of_plackett_luce(cands: int, peak: float) -> None:
    """Chi-square over all slates: one and two columns of 64, most groups not full, four masked."""
    from scipy.stats import chi2

    rows = 200_000
    row = torch.linspace(-1.0, 1.0, cands)[torch.randperm(cands, generator=torch.Generator().manual_seed(7))]
    row[[2, 9, 16]] += peak
    row[[0, 8, 13, 18]] = -torch.inf
    columns, log_prob = draw_slates(row.repeat(rows, 1), 2, torch.Generator().manual_seed(4))
    allowed = row.isfinite().nonzero().squeeze(1).tolist()
    slates = torch.tensor(list(itertools.permutations(allowed, 2)))
    want = rows * slot_log_probs(row.double().expand(len(slates), -1), slates, None)[0].sum(1).exp()
    count = torch.bincount(columns @ torch.tensor([cands, 1]), minlength=cands**2)
    count = count[slates @ torch.tensor([cands, 1])].double()
    assert count.sum() == rows
    often = want > 5
    count, want = (torch.cat([x[often], x[~often].sum().view(1)]) for x in (count, want))
    assert chi2.sf(float(((count - want) ** 2 / want.clamp(min=1e-9)).sum()), int(often.sum())) > 1e-3
    torch.testing.assert_close(log_prob, slot_log_probs(row.repeat(rows, 1), columns, None)[0])


def test_rare_items_are_drawn_as_often_as_they_should() -> None:
    """One candidate takes all but 3e-5; sums in single precision would never find the others."""
    rows, cands = 1_000_000, 1000
    weight = torch.full((cands,), 3e-8)
    weight[417] = 1.0
    weight[5::10] = 0.0
    product = Product(torch.ones(rows, 1), weight.log().unsqueeze(1))
    columns = gumbel_top_k(product, 1, torch.Generator().manual_seed(8)).squeeze(1)
    rare = columns[columns != 417]
    want = rows * 899 * 3e-8
    assert abs(len(rare) - want) < 4 * want**0.5
    assert (weight[rare] > 0).all()
    assert len(set(rare.tolist())) > 0.8 * want  # not a few of them again and again


@pytest.mark.parametrize("cands", [5, 64, 300])
def test_every_candidate_has_its_share_of_the_points(cands: int) -> None:
    """The points that find a candidate measure its weight, also beside one 10^8 times as heavy."""
    wide = (cands + 63) // 64
    weight = torch.zeros(64 * wide)
    luck = torch.Generator().manual_seed(1)
    weight[:cands] = torch.rand(cands, generator=luck) * 1e-7 * (torch.rand(cands, generator=luck) < 0.7)
    weight[2], weight[1] = 10.0, 1e-7
    sums, upto, total = torch.empty(8 * wide), torch.empty(9 * wide).double(), torch.empty(wide + 1).double()
    array = [x.numpy() for x in (weight, sums, upto, total)]
    _kernels.by_eight(array[0], 8 * wide, array[1])
    mass = _kernels.by_sixty_four(array[1], wide, *array[2:])
    assert mass == pytest.approx(float(weight.double().sum()), rel=1e-6)
    # In the order of the points: by column of 64, group of 8 in it, and place in the group.
    points = torch.arange(64 * wide).view(8, 8, wide).permute(2, 1, 0).flatten()
    order = points[weight[points] > 0].tolist()
    place = {item: i for i, item in enumerate(order)}

    def reached(point: float) -> int:
        return place[int(_kernels.found(point, *array))]  # a candidate without weight is in no place

    ends = [0.0]
    for i in range(len(order) - 1):
        low, high = ends[-1], mass
        while high - low > 1e-15 * mass:
            middle = (low + high) / 2
            low, high = (middle, high) if reached(middle) <= i else (low, middle)
        ends.append((low + high) / 2)
    ends.append(mass)
    found = torch.tensor(ends, dtype=torch.float64).diff()
    torch.testing.assert_close(found, weight[order].double(), rtol=2e-6, atol=1e-13)
    assert reached(mass * (1 - 2**-53)) == len(order) - 1


@pytest.mark.parametrize("cache", [1, 700, 1 << 18])
@pytest.mark.parametrize("threads", [1, 3])
def test_slates_do_not_hang_from_parts_and_threads(
    cache: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = 2 * _logits(150, 70).float()
    want = draw_slates(logits, 5, torch.Generator().manual_seed(2))
    before = torch.get_num_threads()
    monkeypatch.setattr(_tables, "CACHE", cache)
    torch.set_num_threads(threads)
    try:
        found = draw_slates(logits, 5, torch.Generator().manual_seed(2))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], want[0])
    torch.testing.assert_close(found[1], want[1])


@pytest.mark.parametrize("scale", [1.0, 8.0, 40.0])
@pytest.mark.parametrize("whole", [True, False])
def test_compiled_loops_learn_as_double_precision_does(scale: float, whole: bool) -> None:
    """Values and gradients, masked candidates among them, from flat logits to ones where a slate is sure."""
    product = _factors(60, 150, scale**0.5)
    single = Product(product.state.float() * scale**0.5, product.vectors.float())
    double = Product(single.state.double(), single.vectors.double())
    columns = gumbel_top_k(single, 6, torch.Generator().manual_seed(1))
    up, up_entropy = _logits(60, 6, seed=5), _logits(60, 6, seed=6)
    mask = torch.rand(60, 150, generator=torch.Generator().manual_seed(3)) < 0.2
    mask.scatter_(1, columns, False)
    found: list[list[Tensor]] = []
    for given in (double, single):
        leaf = Product(given.state.clone().requires_grad_(), given.vectors.clone().requires_grad_())
        table = leaf.whole().masked_fill(mask, -torch.inf) if whole else leaf
        log_prob, entropy = slot_entropies(table, columns)
        assert plackett_luce._compiled(table) == (given is single)
        loss = (log_prob * up.to(log_prob)).sum() + (entropy * up_entropy.to(entropy)).sum()
        grads = torch.autograd.grad(loss, [leaf.state, leaf.vectors])
        found.append([x.double() for x in (log_prob, entropy, *grads)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4 * float(one.detach().abs().max()))


def test_the_exponential_is_right_to_three_units() -> None:
    x = torch.linspace(-79.9, 80.0, 200_001)
    out = torch.empty_like(x)
    _kernels.weigh(x.numpy(), 0.0 * x.numpy()[0], out.numpy())
    assert float((out / x.double().exp() - 1).abs().max()) < 3 * 2**-23
    _kernels.weigh((x - 160.0).numpy(), x.numpy()[0] * 0.0, out.numpy())
    assert (out[x < 79] == 0).all()


def test_loops_work_where_compiled_code_cannot_be_kept() -> None:
    program = """
import torch
from numba.core import caching
for kind in (caching.CompileResultCacheImpl, caching.CodeLibraryCacheImpl):
    kind._locator_classes = []
from agents.maths._kernels import draw
from agents.maths.plackett_luce import draw_slates
assert type(draw._cache).__name__ == "NullCache", type(draw._cache)
columns, log_prob = draw_slates(torch.zeros(2, 3), 2)
assert abs(float(log_prob.sum()) - 2 * float(-torch.tensor(6.0).log())) < 1e-5
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
