"""Fitting click models: what was simulated is found again, with honest standard errors."""

import inspect
import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from envs.clicks.contract import ClickModel
from envs.clicks.position_based import PositionBased
from envs.clicks.trust_bias import TrustBias
from envs.fitting import ClickFit, estimation, fit
from envs.fitting.likelihood import Likelihood
from envs.fitting.search import search
from envs.fitting.sessions import independent, read
from envs.rollout import roll
from envs.users.feed import Feed, FeedSpec
from simlab.errors import BadInput
from simlab.log import Log
from simlab.parts import all_parts, part
from simlab.policies.random import Random
from simlab.seeds import Seed

MODELS: dict[str, Any] = all_parts("click model")


def typical(name: str, slots: int) -> ClickModel:
    """Return the model in float64."""
    model = MODELS[name].typical(slots)
    values = {f.name: getattr(model, f.name) for f in fields(model)}
    made: ClickModel = replace(model, **{k: v.double() for k, v in values.items() if isinstance(v, Tensor)})
    return made


def appeal(items: int) -> Tensor:
    """Return attractions spread wide."""
    return torch.linspace(0.05, 0.9, items, dtype=torch.float64)


def simulate(model: ClickModel, n: int, items: int, slots: int, seed: int, a: Tensor | None = None) -> Log:
    """Show random rankings of all items, the first K of them."""
    a = appeal(items) if a is None else a
    row = torch.arange(n)
    luck = Seed(seed).at(row, torch.zeros_like(row))
    slate = luck.uniform("ranking", items).argsort(1)[:, :slots]
    click = model.sample(a[slate], luck.uniform("clicks", model.draws(slots)).double()).double()
    return Log(row, slate, torch.ones(n), click.sum(1), n_items=items, click=click)


def singles(log: Log, slots: list[int]) -> Log:
    """Return some slots of the same log as rows of one item with its position."""
    which = torch.tensor(slots)
    n = len(log) * len(which)
    assert log.click is not None
    slate, click = log.slate[:, which].reshape(n, 1), log.click[:, which].reshape(n, 1)
    position = which.repeat(len(log))
    row = torch.arange(n)
    return Log(row, slate, torch.ones(n), click.sum(1), n_items=log.n_items, click=click, position=position)


def scores(found: ClickFit, model: ClickModel, a: Tensor) -> dict[str, Tensor]:
    """Return (estimate - truth) / standard error of all that was estimated off its bounds."""
    every = {
        k: ((v - getattr(model, k)) / found.errors[k])[found.errors[k] > 0]
        for k, v in found.parameters.items()
    }
    for name, value in found.items.items():
        truth = a if name == "attraction" else getattr(model, name).expand_as(a)
        every[name] = (value - truth) / found.item_errors[name]
    return {k: v.reshape(-1)[v.reshape(-1).isfinite()] for k, v in every.items()}


def test_the_position_bias_is_found_again() -> None:
    """To .005 on 60,000 sessions: under trust bias too, where examination alone is .04 off."""
    truth = 1 / torch.arange(1, 11, dtype=torch.float64)
    a = torch.linspace(0.05, 0.75, 40, dtype=torch.float64)
    plain, trusting = PositionBased.power(10, 1.0), TrustBias.power(10, 1.0, 0.8)
    error: dict[str, float] = {}
    for model, names in ((plain, ["position_based"]), (trusting, ["trust_bias", "position_based"])):
        log = simulate(model, 60_000, 40, 10, 1, a)
        for name in names:
            theta = fit(name, log).model.theta()
            error[f"{name} on {type(model).__name__}"] = float((theta - truth).abs().mean())
    # Seeds 0 to 9: at least 0.040 here, and at most 0.0046 below.
    assert error.pop("position_based on TrustBias") > 0.03
    assert max(error.values()) <= 0.005, error


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_found_again(name: str) -> None:
    """All within 4.5 standard errors, and the likelihood is above that of the truth."""
    model, slots, items = typical(name, 5), 5, 20
    log = simulate(model, 12_000, items, slots, seed=2)
    found = fit(name, log)
    assert found.converged, found.words
    a = appeal(items)
    assert log.click is not None
    truth = float(model.log_prob(a[log.slate], log.click).sum())
    assert truth <= found.log_likelihood < truth + 3 * found.estimated
    for which, z in scores(found, model, a).items():
        assert len(z) or not found.errors.get(which, torch.ones(1)).any(), which
        if len(z):
            assert float(z.abs().max()) < 4.5, which
    assert found.aic == pytest.approx(2 * found.estimated - 2 * found.log_likelihood)
    assert found.bic == pytest.approx(math.log(12_000) * found.estimated - 2 * found.log_likelihood)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_standard_errors_are_calibrated(name: str) -> None:
    """Over 30 logs, the mean of z² of each kind of value is near 1."""
    # At 4 slots the mixed decay is so weak that many a fit ends at γ = 1, where nothing is asymptotic.
    slots, items = 7 if name == "mixed_decay" else 4, 8
    model = typical(name, slots)
    a = torch.linspace(0.15, 0.85, items, dtype=torch.float64)
    squares: dict[str, list[Tensor]] = {}
    for seed in range(30):
        found = fit(name, simulate(model, 6000, items, slots, 100 + seed, a))
        assert found.converged, found.words
        for which, z in scores(found, model, a).items():
            squares.setdefault(which, []).append(z.square())
    for which, parts in squares.items():
        if len(torch.cat(parts)):
            assert 0.6 < float(torch.cat(parts).mean()) < 1.6, which


FAMILIES = ("position_based", "cascade", "dynamic_bayesian", "user_browsing", "trust_bias")


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_true_family_foretells_best(name: str) -> None:
    """On 15,000 held-out sessions, against the families that allow such clicks at all."""
    model = typical(name, 6)
    log, fresh = (simulate(model, n, 20, 6, seed) for n, seed in ((15_000, 3), (15_000, 4)))
    score: dict[str, float] = {}
    for other in FAMILIES:
        if other == "cascade" and name != "cascade":
            with pytest.raises(BadInput, match="impossible under cascade"):
                fit(other, log)
        else:
            score[other] = fit(other, log).evaluate(fresh).log_likelihood
    best = max(score.values())
    nested = {
        "cascade": ("dynamic_bayesian", "user_browsing"),
        "position_based": ("user_browsing", "trust_bias"),
    }
    assert len(score) >= 4
    # A family that holds the true one loses only by what it overfits.
    assert all(score[name] > v for k, v in score.items() if k != name and k not in nested.get(name, ()))
    assert best - score[name] < 5


def test_perplexity_is_the_hand_formula_and_of_coins_it_is_two() -> None:
    model = PositionBased.power(3, 0.0)
    coin = simulate(model, 4000, 6, 3, 5, torch.full((6,), 0.5, dtype=torch.float64))
    found = fit("position_based", coin)
    assert float((found.perplexity - 2).abs().max()) < 0.01
    log, fresh = simulate(typical("cascade", 3), 3000, 5, 3, 6), simulate(typical("cascade", 3), 500, 5, 3, 7)
    found = fit("cascade", log)
    judged = found.evaluate(fresh)
    assert fresh.click is not None
    a, click = found.attraction[fresh.slate], fresh.click
    for k in range(3):
        q = a[:, k] * (1 - a[:, :k]).prod(1)
        p = a[:, k] * (click[:, :k].sum(1) == 0)
        for chance, mine in ((q, judged.perplexity[k]), (p, judged.conditional_perplexity[k])):
            log2 = torch.where(click[:, k] > 0, chance, 1 - chance).log2()
            assert float(mine) == pytest.approx(float(2 ** -log2.mean()), rel=1e-12)
    assert judged.log_likelihood == pytest.approx(float(found.model.log_prob(a, click).sum()), rel=1e-12)
    other = fit("position_based", log).evaluate(fresh)
    assert bool((judged.conditional_perplexity[1:] < other.conditional_perplexity[1:]).all())


@pytest.mark.parametrize("name", ["position_based", "multinomial", "dynamic_bayesian", "user_browsing"])
def test_gradient_and_information_are_those_of_autograd(name: str) -> None:
    """The gradient equals finite differences, and the information is near the observed Hessian."""
    log = simulate(typical(name, 3), 40_000, 4, 3, 8, torch.tensor([0.3, 0.5, 0.6, 0.8], dtype=torch.float64))
    kind, alone = MODELS[name], independent(MODELS[name], 3)
    sessions = read(log)
    likelihood = Likelihood(kind, sessions.by_item() if alone else sessions.grouped(), kind.of_items, alone)
    x = fit(kind, log)._likelihood.x_of(fit(kind, log)._value).numpy()
    n, h = len(x), 3e-7
    hessian = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        up, down = x.copy(), x.copy()
        up[i] += h
        down[i] -= h
        (f_up, g_up), (f_down, g_down) = likelihood(up), likelihood(down)
        hessian[i] = torch.as_tensor(g_up - g_down) / (2 * h)
        middle = likelihood(x)[1][i]
        assert (f_up - f_down) / (2 * h) == pytest.approx(middle, abs=1e-2)
    found = likelihood.information(x)
    block = found.item if found.item.ndim == 2 else torch.as_tensor(found.item).diag().numpy()
    top = torch.cat([torch.as_tensor(found.shared), torch.as_tensor(found.cross)], 1)
    low = torch.cat([torch.as_tensor(found.cross).T, torch.as_tensor(block)], 1)
    mine = torch.cat([top, low])
    there = mine.diagonal() > 1
    mine, hessian = mine[there][:, there], hessian[there][:, there]
    scale = mine.diagonal().rsqrt()
    gap = scale[:, None] * (mine - hessian) * scale
    assert float(gap.abs().max()) < 0.08


def test_what_the_log_does_not_tell_is_nan_and_said() -> None:
    """An item that was never shown, one that was never clicked, and a position without a row."""
    log = simulate(
        PositionBased.power(4, 1.0), 4000, 8, 4, 9, appeal(8).index_fill(0, torch.tensor([2]), 0.0)
    )
    keep = (log.slate != 5).all(1)
    log = log.rows(keep)
    found = fit("position_based", singles(log, [0, 1, 3]))
    assert found.converged
    assert found.attraction.isnan().tolist() == [i == 5 for i in range(8)]
    assert 0 <= float(found.attraction[2]) < 1e-6
    assert found.item_errors["attraction"].isnan().tolist() == [i in (2, 5) for i in range(8)]
    assert found.parameters["examination"].isnan().tolist() == [False, False, True, False]
    assert found.perplexity.isnan().tolist() == [False, False, True, False]
    said = " ".join(found.notes)
    assert "slot 2 was never shown" in said
    assert "attraction of 1 of 8 items makes no difference to the log: nan" in said
    assert "attraction of 1 of 8 items lies on its bound" in said
    assert found.frame()["estimate"].isna().tolist() == [False, False, True, False]
    assert found.item_frame()["attraction"].isna().sum() == 1
    # The same as from whole slates without that column.
    there = torch.tensor([0, 1, 3])
    bare = fit("position_based", replace(log, slate=log.slate[:, there], click=log.click[:, there]))  # type: ignore[index]
    torch.testing.assert_close(
        bare.parameters["examination"], found.parameters["examination"][there], atol=1e-5, rtol=0
    )
    # A session with the item of which nothing is known is left out; a new slot is refused.
    fresh = simulate(PositionBased.power(3, 1.0), 500, 8, 3, 10)
    assert bare.evaluate(fresh).left_out == int((fresh.slate == 5).any(1).sum()) > 0
    with pytest.raises(BadInput, match="slot 2 was never shown"):
        found.evaluate(simulate(PositionBased.power(4, 1.0), 500, 8, 4, 10))


def test_too_few_clicks_an_item_are_said() -> None:
    """With 1 click an item the parameters are biased, and the notes say so."""
    model, items = typical("position_based", 5), 3000
    few = Seed(19).at(torch.arange(3000), torch.zeros(3000, dtype=torch.long))
    slate = (few.uniform("first", 1) * 600).long() + 600 * few.uniform("order", 5).argsort(1)
    click = model.sample(appeal(items)[slate], few.uniform("clicks", 5).double()).double()
    found = fit(
        "position_based", Log(few.user, slate, torch.ones(3000), click.sum(1), n_items=items, click=click)
    )
    assert any("clicks on average" in note for note in found.notes)
    plenty = simulate(model, 3000, 20, 5, 19)
    assert fit("position_based", plenty).notes == ()


def test_a_prior_makes_surprising_clicks_possible() -> None:
    model, a = PositionBased.power(3, 1.0), torch.tensor([0.5, 0.4, 0.0, 0.7], dtype=torch.float64)
    log = simulate(model, 2000, 4, 3, 12, a)
    fresh = simulate(model, 2000, 4, 3, 13, a + 0.01)
    pure, smoothed = fit("position_based", log), fit("position_based", log, prior=0.1)
    assert float(smoothed.attraction[2]) > 1e-6
    torch.testing.assert_close(pure.attraction, smoothed.attraction, atol=2e-3, rtol=0)
    assert smoothed.evaluate(fresh).log_likelihood > pure.evaluate(fresh).log_likelihood


def test_a_log_of_single_items_with_their_position_is_enough_for_independent_slots() -> None:
    log = simulate(PositionBased.power(3, 1.0), 3000, 5, 3, 14)
    single = singles(log, [0, 1, 2])
    whole, pieces = fit("position_based", log), fit("position_based", single)
    torch.testing.assert_close(whole.parameters, pieces.parameters, atol=1e-6, rtol=0)
    with pytest.raises(BadInput, match="cascade needs whole slates"):
        fit("cascade", single)
    with pytest.raises(BadInput, match="Cascade needs whole slates"):
        fit("cascade", simulate(typical("cascade", 3), 3000, 5, 3, 14)).evaluate(single)
    # Other rows need not reach down as far; those that reach further are refused.
    some, known = singles(log, [0, 1]), appeal(5)
    judged = pieces.evaluate(some)
    assert judged.sessions == 6000
    assert judged.perplexity.isnan().tolist() == [False, False, True]
    torch.testing.assert_close(judged.perplexity[:2], pieces.perplexity[:2])
    given = fit("position_based", single, attraction=known[single.slate])
    torch.testing.assert_close(given.evaluate(some, known[some.slate]).perplexity[:2], given.perplexity[:2])
    with pytest.raises(BadInput, match="the log has 3 slots and 5 items, the fit 2 slots"):
        fit("position_based", some).evaluate(single)


def test_repeated_sessions_count_each_time() -> None:
    model = typical("dynamic_bayesian", 3)
    log = simulate(model, 2000, 4, 3, 15)
    tenfold = log.rows(torch.arange(2000).repeat(10))
    once, often = fit("dynamic_bayesian", log), fit("dynamic_bayesian", tenfold)
    assert often.log_likelihood == pytest.approx(10 * once.log_likelihood)
    assert often.sessions == 20_000
    for name, error in once.item_errors.items():
        torch.testing.assert_close(often.item_errors[name] * math.sqrt(10), error, rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", MODELS)
def test_with_known_relevance_only_the_model_is_estimated(name: str) -> None:
    model = typical(name, 4)
    log = simulate(model, 8000, 30, 4, 16)
    found = fit(name, log, attraction=appeal(30)[log.slate])
    assert found.converged, found.words
    assert found.items == {}
    for which, z in scores(found, model, appeal(30)).items():
        assert not len(z) or float(z.abs().max()) < 4.5, which
    assert found.evaluate(log, appeal(30)[log.slate]).log_likelihood == pytest.approx(found.log_likelihood)
    with pytest.raises(BadInput, match="if and only if"):
        found.evaluate(log)
    with pytest.raises(BadInput, match="not estimated"):
        _ = found.attraction


def test_a_world_tells_its_examination() -> None:
    """Attractions differ between users, but random rankings make the slots comparable all the same."""
    world = Feed(FeedSpec(items=40, slots=6, horizon=20, base=-2.0, click_model="position_based"))
    log = roll(world, Random(), 3000, Seed(17), propensities=True).log(world)
    found = fit("position_based", log)
    truth = world.examination().double()
    error = found.errors["examination"]
    z = ((found.parameters["examination"] - truth) / error)[1:]
    assert float((found.parameters["examination"] - truth).abs().mean()) < 0.008
    assert float(z.abs().max()) < 4.5


def bad(change: str) -> tuple[str, Log]:
    log = simulate(PositionBased.power(3, 1.0), 300, 6, 3, 18)
    assert log.click is not None
    none = torch.zeros_like(log.click)
    fixed = torch.tensor([0, 1, 2]).expand(300, 3).clone()
    model = {"unknown": "position_bsed", "impossible": "cascade"}.get(change, "position_based")
    changed: dict[str, dict[str, Any]] = {
        "no column": {"click": None},
        "no clicks": {"click": none},
        "dwell": {"click": log.click.index_fill(0, torch.tensor([7]), 2.5)},
        "one slot": {"slate": log.slate[:, :1], "click": log.click[:, :1]},
        "fixed ranking": {"slate": fixed},
        "impossible": {"click": none.index_fill(0, torch.tensor([4]), 1.0)},
    }
    return model, replace(log, **changed.get(change, {}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("unknown", "no click model named position_bsed; did you mean position_based"),
        ("no column", "no column click"),
        ("no clicks", "no session of the log has a click"),
        ("dwell", r"column click, row 7, slot 0: 2\.5 is not 0 or 1"),
        ("one slot", "the log has one slot"),
        ("fixed ranking", "slots 1, 2 share no clicked item with slot 0"),
        (
            "impossible",
            "column click, row 4, slot 1: a click after those above it is impossible under cascade",
        ),
    ],
)
def test_logs_that_cannot_be_fitted_are_refused(change: str, words: str) -> None:
    model, log = bad(change)
    with pytest.raises(BadInput, match=words):
        fit(model, log)


def test_attractions_that_cannot_be_are_refused() -> None:
    _, log = bad("")
    for attraction, words in (
        (torch.full((300, 2), 0.5), r"attraction has the shape \(300, 2\)"),
        (torch.full((300, 3), 1.5), r"column attraction, row 0, slot 0: 1\.5 is not a probability"),
    ):
        with pytest.raises(BadInput, match=words):
            fit("position_based", log, attraction=attraction)


def test_a_fixed_ranking_is_enough_where_relevance_is_known() -> None:
    _, log = bad("fixed ranking")
    found = fit("position_based", log, attraction=appeal(6)[log.slate] + 0.1)
    assert found.converged
    assert part("click model", "position_based") is type(found.model)


def raw(function: Any) -> Any:
    """Return what users call: without the tests' own check of annotations."""
    return inspect.unwrap(function)


def test_clicks_and_misses_without_a_chance_are_refused_in_independent_slots_too() -> None:
    _, log = bad("")
    assert log.click is not None
    at, sure = int(log.click[:, 0].nonzero()[0]), int((log.click[:, 0] == 0).nonzero()[0])
    half = torch.full((300, 3), 0.5, dtype=torch.float64)
    for row, value, words in ((at, 0.0, "a click at attraction 0"), (sure, 1.0, "no click at attraction 1")):
        known = half.clone()
        known[row, 0] = value
        with pytest.raises(BadInput, match=f"row {row}, slot 0: {words} is impossible under position_based"):
            fit("position_based", log, attraction=known)
    # Where a lower examination explains the miss, it is possible.
    known = half.clone()
    known[(log.click[:, 1] == 0).nonzero()[0], 1] = 1.0
    assert fit("position_based", log, attraction=known).converged


def test_no_search_converges_where_the_likelihood_is_not_finite() -> None:
    _, log = bad("")
    likelihood = Likelihood(MODELS["position_based"], read(log, torch.zeros(300, 3)), (), True)
    _, _, converged, words = search(likelihood, 50)
    assert not converged
    assert words == "not converged: the log-likelihood is not finite"


def test_a_value_that_makes_no_difference_is_not_said_to_be_absent() -> None:
    """Slot 2 was shown, but never with an item that anybody would click."""
    _, log = bad("")
    assert log.click is not None
    known = torch.tensor([0.5, 0.5, 0.0]).expand(300, 3)
    found = fit("position_based", replace(log, click=log.click * (known > 0)), attraction=known)
    assert found.notes == ("examination at (2) makes no difference to the log: nan",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": 3}, "model is of the type int, but it is a class of click models or its name"),
        ({"model": PositionBased.power(3, 1.0)}, "model is of the type PositionBased, but it is a class"),
        ({"model": ClickModel}, "model is ClickModel, but it is a class of click models or"),
        ({"model": Log}, "model is Log, but it is a class of click models or"),
        ({"log": 3}, "log is of the type int, but it is a simlab.log.Log"),
        ({"attraction": [0.5]}, r"attraction is of the type list, but it is a tensor \[round slot\]"),
        ({"prior": math.inf}, "prior is inf, but it is a finite number from 0"),
        ({"prior": math.nan}, "prior is nan, but it is a finite number from 0"),
        ({"prior": -0.5}, "prior is -0.5, but it is a finite number from 0"),
        ({"prior": "1"}, "prior is '1', but it is a finite number from 0"),
        ({"iterations": 0}, "iterations is 0, but it is a whole number from 1"),
        ({"iterations": 2.5}, "iterations is 2.5, but it is a whole number from 1"),
        ({"iterations": True}, "iterations is True, but it is a whole number from 1"),
        (
            {"prior": 0.5, "attraction": torch.full((300, 3), 0.5)},
            "prior is 0.5, but with `attraction` given",
        ),
    ],
)
def test_arguments_that_cannot_be_are_refused(
    change: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_find", "read"):
        monkeypatch.setattr(estimation, name, raw(getattr(estimation, name)))
    _, log = bad("")
    with pytest.raises(BadInput, match=words):
        raw(fit)(**({"model": "position_based", "log": log} | change))


def test_the_weight_of_a_slot_may_be_large() -> None:
    """Far above 10, where a narrow bound would hold it, and far below 1."""
    model = MODELS["multinomial"](torch.tensor([1.0, 60.0, 0.02], dtype=torch.float64))
    a = torch.linspace(0.02, 0.4, 6, dtype=torch.float64)
    found = fit("multinomial", simulate(model, 20_000, 6, 3, 20, a))
    assert found.converged, found.words
    for which, z in scores(found, model, a).items():
        assert len(z) == len(found.items.get(which, z[:2]))
        assert float(z.abs().max()) < 4.5, which
