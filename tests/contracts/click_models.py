"""What every click model is held to: a probability of every click vector, and samples that follow it.

A click model here is one for `SLOTS` slots.
"""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from envs.clicks.contract import ClickModel
from simlab.errors import BadInput

SLOTS = 5
ATTRACTION = torch.tensor([[0.9, 0.3, 0.6, 0.2, 0.5], [0.2, 0.7, 0.05, 0.4, 0.8]], dtype=torch.float64)
VECTORS = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * SLOTS)
"""All click vectors."""


def joint(model: ClickModel, attraction: Tensor = ATTRACTION) -> Tensor:
    """Return the probability of each click vector for each row, [vector user]."""
    return torch.stack([model.log_prob(attraction, c.expand(len(attraction), -1)) for c in VECTORS]).exp()


def luck(rows: int, model: ClickModel, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(rows, model.draws(SLOTS), generator=g, dtype=torch.float64)


def tensors(model: ClickModel) -> dict[str, Tensor]:
    return {f.name: getattr(model, f.name) for f in fields(model)}  # type: ignore[arg-type]


def with_values(model: ClickModel, **values: Tensor) -> ClickModel:
    changed: Any = replace(model, **values)  # type: ignore[type-var]
    return changed  # type: ignore[no-any-return]


def items_compete(model: ClickModel) -> bool:
    """Tell models of choice, which draw once for the whole slate."""
    return model.draws(SLOTS) == 1


def check_probabilities_sum_to_one(model: ClickModel) -> None:
    """Over all click vectors."""
    torch.testing.assert_close(joint(model).sum(0), torch.ones(2, dtype=torch.float64))


def check_marginals_are_those_of_the_joint(model: ClickModel) -> None:
    """`probs` is the sum of the joint over the vectors with a click at the slot."""
    torch.testing.assert_close(model.probs(ATTRACTION), torch.einsum("vu,vk->uk", joint(model), VECTORS))


def check_reward_is_that_of_the_joint(model: ClickModel) -> None:
    """`expected_reward` is the mean over all click vectors of what they are worth."""
    value = torch.tensor([[1.0, -2.0, 0.5, 3.0, 7.0], [0.0, 1.0, 4.0, 9.0, -3.0]], dtype=torch.float64)
    worth = torch.einsum("vu,vk,uk->u", joint(model), VECTORS, value)
    torch.testing.assert_close(model.expected_reward(ATTRACTION, value), worth)
    count = torch.einsum("vu,vk->u", joint(model), VECTORS)
    torch.testing.assert_close(model.expected_reward(ATTRACTION), count)


def check_samples_follow_the_joint(model: ClickModel) -> None:
    """A χ² test over the click vectors; those that cannot be are never drawn."""
    n = 20_000
    rows = ATTRACTION.repeat_interleave(n, 0)
    code = (model.sample(rows, luck(2 * n, model)) @ 2.0 ** torch.arange(SLOTS - 1, -1, -1).double()).long()
    for user in (0, 1):
        expected = n * joint(model)[:, user]
        count = torch.bincount(code[user * n : (user + 1) * n], minlength=len(VECTORS)).double()
        assert float(count[expected < 1e-9].sum()) == 0
        often = expected >= 10
        seen = torch.cat([count[often], count[~often].sum().view(1)])
        awaited = torch.cat([expected[often], expected[~often].sum().view(1)])
        if awaited[-1] < 1:  # too few to be a cell of its own
            seen, awaited = seen[:-1], awaited[:-1] * (seen[:-1].sum() / awaited[:-1].sum())
        assert len(seen) >= 4
        assert stats.chisquare(seen.numpy(), awaited.numpy()).pvalue > 1e-4


def check_the_fast_sample_is_the_plain_one(model: ClickModel) -> None:
    """The same clicks from the same uniforms: slot by slot, or for a choice by its cumulative chance."""
    n = 2000
    attraction = torch.rand(n, SLOTS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    attraction[:50, 1], attraction[50:100, 2] = 0.0, 1.0
    uniform = luck(n, model, 2)
    if items_compete(model):
        reached = model.probs(attraction).cumsum(1) > uniform
        plain = (reached & (reached.cumsum(1) == 1)).double()
    else:
        plain = ClickModel.sample(model, attraction, uniform)
    fast = model.sample(attraction, uniform)
    assert fast.dtype == attraction.dtype
    assert torch.equal(fast, plain)
    assert 0 < float(fast.mean()) < 1


def check_nothing_attractive_is_never_clicked(model: ClickModel) -> None:
    """An attraction of zero means no click, whatever the luck; unless trust alone makes clicks."""
    none = torch.zeros(4, SLOTS, dtype=torch.float64)
    lucky = torch.full((4, model.draws(SLOTS)), 1e-7, dtype=torch.float64)
    if model.speaks_unasked:
        assert float(model.sample(none, lucky).max()) == 1
        return
    assert float(model.probs(none).max()) == 0
    assert float(model.sample(none, lucky).max()) == 0
    some = ATTRACTION.clone()
    some[:, 2] = 0
    assert float(model.sample(some.repeat(500, 1), luck(1000, model))[:, 2].max()) == 0


def check_no_click_without_examination(model: ClickModel) -> None:
    """P(click) is at most P(examined), and both are probabilities."""
    examined = model.examined(ATTRACTION)
    assert float(examined.max()) <= 1
    assert float(model.probs(ATTRACTION).min()) >= 0
    assert bool((model.probs(ATTRACTION) <= examined + 1e-12).all())


def check_position_bias_is_examination(model: ClickModel) -> None:
    """Where there is a θ, it is P(examined) whatever is shown; where there is none, the model says so."""
    one, other = model.examined(ATTRACTION), model.examined(ATTRACTION.flip(0, 1))
    try:
        theta = model.theta()
    except BadInput:
        return
    assert torch.equal(one, other)
    assert torch.equal(one, theta.double().expand(2, SLOTS))


def check_only_what_is_above_counts(model: ClickModel) -> None:
    """P(click at k | above) does not know later clicks, nor later items unless items compete."""
    g = torch.Generator().manual_seed(0)
    click = (torch.rand(2, SLOTS, generator=g) < 0.4).double()
    other = torch.rand(2, SLOTS, generator=g, dtype=torch.float64)
    chance = model.conditional(ATTRACTION, click)
    for k in range(1, SLOTS + 1):
        later = torch.cat([click[:, : k - 1], 1 - click[:, k - 1 :]], 1)
        assert torch.equal(model.conditional(ATTRACTION, later)[:, :k], chance[:, :k])
        if not items_compete(model):
            mixed = torch.cat([ATTRACTION[:, :k], other[:, k:]], 1)
            torch.testing.assert_close(model.conditional(mixed, later)[:, :k], chance[:, :k])
            torch.testing.assert_close(model.probs(mixed)[:, :k], model.probs(ATTRACTION[:, :k]))
            torch.testing.assert_close(model.examined(mixed)[:, :k], model.examined(ATTRACTION[:, :k]))


def check_gradients_are_those_of_differences(model: ClickModel) -> None:
    """In attractions and in parameters, of every click vector that can be, of marginals and examination."""
    possible = (joint(model) > 0).all(1)
    click = VECTORS[possible].repeat_interleave(2, 0)
    # Away from 0 and 1, so that a step of differences stays in bounds.
    inside = {name: x.detach().double().clamp(0.05, 0.95) for name, x in tensors(model).items()}

    def answers(attraction: Tensor, *values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        one = with_values(model, **dict(zip(inside, values, strict=True)))
        joint = one.log_prob(attraction.repeat(len(click) // 2, 1), click)
        return joint, one.probs(attraction), one.examined(attraction) + 0 * attraction

    inputs = [x.clone().requires_grad_() for x in (ATTRACTION, *inside.values())]
    assert torch.autograd.gradcheck(answers, inputs)


def check_gradients_are_finite_at_the_ends(model: ClickModel) -> None:
    """Attractions of 0 and 1, and chances of 0 after a last click, do not make them NaN."""
    attraction = ATTRACTION.clone()
    attraction[0, 1], attraction[0, 3], attraction[1, 2] = 0.0, 1.0, 1.0
    attraction = attraction.repeat(100, 1).requires_grad_()
    values = {name: x.clone().requires_grad_() for name, x in tensors(model).items()}
    one = with_values(model, **values)
    likely = one.log_prob(attraction, one.sample(attraction, luck(200, model)))
    assert bool(likely.isfinite().all())
    gradients = torch.autograd.grad(likely.sum(), [attraction, *values.values()])
    assert all(bool(g.isfinite().all()) for g in gradients)


def check_rows_are_independent(model: ClickModel) -> None:
    """A row's answer does not depend on the batch."""
    uniform, click = luck(2, model), VECTORS[[9, 20]]
    for answer in (
        model.probs,
        model.examined,
        lambda a: model.conditional(a, click[2 - len(a) :]),
        lambda a: model.sample(a, uniform[2 - len(a) :]),
    ):
        torch.testing.assert_close(answer(ATTRACTION)[1:], answer(ATTRACTION[1:]), rtol=0, atol=0)


def check_answers_have_the_type_of_the_attraction(model: ClickModel) -> None:
    """Parameters may be float32 or float64; answers are what the attraction is."""
    for mine, theirs in ((torch.float32, torch.float64), (torch.float64, torch.float32)):
        one = with_values(model, **{name: x.to(theirs) for name, x in tensors(model).items()})
        attraction, click = ATTRACTION.to(mine), VECTORS[[0, 4]].to(mine)
        answers = (
            one.probs(attraction),
            one.examined(attraction),
            one.conditional(attraction, click),
            one.log_prob(attraction, click),
            one.sample(attraction, luck(2, model).to(mine)),
        )
        assert {x.dtype for x in answers} == {mine}
        torch.testing.assert_close(answers[0].double(), model.probs(ATTRACTION), rtol=1e-5, atol=1e-6)


def check_inputs_are_left_alone(model: ClickModel) -> None:
    """Nothing is written into attractions, clicks or uniforms."""
    given = ATTRACTION.clone(), VECTORS[[3, 24]].clone(), luck(2, model)
    kept = [x.clone() for x in given]
    model.log_prob(given[0], given[1])
    model.sample(given[0], given[2])
    model.probs(given[0])
    model.examined(given[0])
    assert all(torch.equal(a, b) for a, b in zip(given, kept, strict=True))


def check_a_copy_is_the_model(model: ClickModel) -> None:
    """`to` keeps kind and values."""
    copy = model.to("cpu")
    assert type(copy) is type(model)
    assert all(torch.equal(x, tensors(copy)[name]) for name, x in tensors(model).items())


def check_a_bad_parameter_is_named(model: ClickModel) -> None:
    """With its slot and value, in one sentence."""
    for name, x in tensors(model).items():
        for value in (-0.5, float("nan")):
            bad = x.clone()
            bad.view(-1)[-1] = value
            with pytest.raises(BadInput, match=f"{name}.*{value}") as caught:
                with_values(model, **{name: bad})
            assert x.ndim == 0 or f"slot {SLOTS - 1}" in str(caught.value)


CHECKS = tuple(v for k, v in list(globals().items()) if k.startswith("check_"))
