"""Two stages: which candidates, what a draw stands for, and propensities that are exact given them."""

import json
from dataclasses import replace
from itertools import combinations, pairwise, permutations, product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from agents.contract import Agent
from agents.learned import ClickRanker
from agents.two_stage._candidates import Candidates, _moment, _parts, pick
from agents.two_stage._narrowed import Narrowed
from agents.two_stage.retrieve_rank import RetrieveRank, collect
from envs.rollout import roll
from envs.users.feed import Feed, FeedSpec
from simlab.context import Context
from simlab.errors import BadInput
from simlab.policies.greedy import scores
from simlab.policies.random import Random
from simlab.policies.softmax import Softmax
from simlab.rankers.contract import Ranker, Sizes
from simlab.rankers.mf import MF
from simlab.rankers.two_tower import TwoTower
from simlab.retrieval import Retriever, RetrieverSettings
from simlab.seeds import Seed
from simlab.slates import Uniform
from simlab.statistics import paired_interval
from simlab.training.losses import softmax
from simlab.training.settings import FitSettings

WORLD = Feed(FeedSpec(items=60, slots=3, horizon=8))
FIT = FitSettings(epochs=4, batch_size=2048)


def agent(count: int = 10, explore: int = 5, **more: Any) -> RetrieveRank:
    first, second = ClickRanker("mf", settings=FIT), ClickRanker("neumf", settings=FIT)
    return RetrieveRank(first, second, count, explore, **more)


@pytest.fixture(scope="module")
def learned() -> RetrieveRank:
    return agent().learn(WORLD, 80, 8, Seed(1))


def seen(users: int = 6) -> Context:
    """Return what users look like after three slates."""
    state = WORLD.reset(users, Seed(9), first_user=10**6)
    for t in range(3):
        state, _ = WORLD.step(state, torch.tensor([[t, t + 20, t + 40]]).expand(users, -1), Seed(9))
    return WORLD.observe(state)


def stage(items: int) -> tuple[MF, Retriever]:
    """Return a first stage that likes each user something else."""
    ranker = MF.build(Sizes(0, items, n_features=2), {"dim": 4}, seed=Seed(3)).eval()
    return ranker, Retriever.of(ranker)  # type: ignore[return-value]


def anybody(rows: int, items: int, same: bool = False) -> Context:
    features = torch.randn(rows, 2, generator=Seed(5).torch())
    return Context.of(torch.arange(rows), items, features=features * 0 + 1 if same else features)


# Which candidates --------------------------------------------------------------------------------


def test_the_best_are_retrieved_and_the_rest_is_drawn_evenly() -> None:
    """9 items, 2 retrieved; 7 are left in parts of 2, 2 and 3: twelve draws, each as likely."""
    ranker, retriever = stage(9)
    context = anybody(24_000, 9, same=True)
    few = pick(context, retriever, ranker, 2, 3, Seed(1))
    best = sorted(scores(ranker, context.rows(slice(0, 1)))[0].topk(2).indices.tolist())
    rest = [i for i in range(9) if i not in best]
    drawn = [tuple(sorted(x)) for x in product(rest[:2], rest[2:4], rest[4:])]
    found: dict[tuple[int, ...], int] = {}
    for row in few.columns.tolist():
        assert row == sorted(row)
        rest_of = tuple(x for x in row if x not in best)
        found[rest_of] = found.get(rest_of, 0) + 1
    assert set(found) == set(drawn)
    chi = sum((n - 2000) ** 2 / 2000 for n in found.values())
    assert chi < 31.3, found  # 99.9 % of a chi square of 11 degrees of freedom
    part = torch.tensor([2.0, 2, 2, 2, 3, 3, 3])
    q = dict(zip(rest, (1 / part).tolist(), strict=True)) | dict.fromkeys(best, 1.0)
    wanted = torch.tensor([[q[i] for i in row] for row in few.columns[:50].tolist()])
    torch.testing.assert_close(few.log_q[:50].exp(), wanted)
    assert bool(few.mask.all())


def test_the_last_of_many_items_may_be_drawn() -> None:
    """One part of 2^30 items: draws of 23 bits would all be multiples of 128."""
    left = torch.full((4000, 1), 1 << 30)
    rank, size = _parts(left, 1, Seed(1), anybody(4000, 1))
    assert torch.equal(size, left)
    for digits in (rank % 8, rank >> 27):  # the last and the first three bits
        count = torch.bincount(digits.flatten(), minlength=8)
        assert float(((count - 500.0) ** 2 / 500).sum()) < 24.3  # 99.9 %, 7 degrees of freedom


def test_given_lists_are_scored() -> None:
    """Candidates from elsewhere, some not allowed: the same by a loop over rows."""
    ranker, retriever = stage(40)
    g = Seed(7).torch()
    lists = torch.stack([torch.randperm(40, generator=g)[:12] for _ in range(60)])
    context = replace(anybody(60, 40), candidates=lists, mask=torch.rand(60, 12, generator=g) < 0.6)
    few = pick(context, retriever, ranker, 3, 4, Seed(1))
    logits = scores(ranker, context)
    short = 0
    for row in range(60):
        allowed = [c for c in range(12) if context.mask[row, c]]
        best = sorted(allowed, key=lambda c: -float(logits[row, c]))[:3]
        mine = few.columns[row][few.mask[row]].tolist()
        assert mine == sorted(set(mine))
        assert set(best) <= set(mine) <= set(allowed)
        left = len(allowed) - len(best)
        assert len(mine) == len(best) + min(4, left)
        short += left < 4
        for c, log_q in zip(mine, few.log_q[row][few.mask[row]].tolist(), strict=True):
            place = [c for c in allowed if c not in best].index(c) if c not in best else -1
            part = next(j for j in range(4) if place < (j + 1) * left // 4) if place >= 0 else 0
            size = (part + 1) * left // 4 - part * left // 4 if place >= 0 else 1
            assert log_q == pytest.approx(-float(torch.tensor(float(size)).log()))
    assert short > 3
    narrow = few.narrow(context)
    assert torch.equal(narrow.candidates, lists.gather(1, few.columns))


def test_a_few_items_are_all_looked_at() -> None:
    ranker, retriever = stage(9)
    few = pick(anybody(4, 9), retriever, ranker, 9, 3, Seed(1))
    assert torch.equal(few.columns, torch.arange(9).expand(4, 9))
    assert not bool(few.log_q.any())


def test_the_draw_hangs_on_what_is_seen() -> None:
    base = seen(1)
    wide = replace(
        base,
        history=torch.nn.functional.pad(base.history, (4, 0), value=-1),
        feedback=torch.nn.functional.pad(base.feedback, (4, 0)),
    )
    assert torch.equal(_moment(wide), _moment(base))
    others = [
        replace(base, history=base.history.roll(1, 1)),
        replace(base, feedback=base.feedback + 1),
        replace(base, features=base.features.roll(1, 1)),
    ]
    assert len({int(_moment(c)) for c in (base, *others)}) == 4
    draws = [pick(c, None, None, 0, 5, Seed(1)).columns.tolist() for c in (base, base, wide, *others)]
    assert draws[0] == draws[1] == draws[2]
    assert all(d != draws[0] for d in draws[3:])
    assert pick(replace(base, user=base.user + 1), None, None, 0, 5, Seed(1)).columns.tolist() != draws[0]
    assert pick(base, None, None, 0, 5, Seed(2)).columns.tolist() != draws[0]


# What a draw stands for --------------------------------------------------------------------------


def draws(left: int, drawn: int) -> list[tuple[int, ...]]:
    """Return all equally likely draws of one of each part."""
    edge = [j * left // drawn for j in range(drawn + 1)]
    return list(product(*(range(a, b) for a, b in pairwise(edge))))


def softmaxes(logits: Tensor, retrieved: int, drawn: int, correct: bool) -> tuple[Tensor, Tensor]:
    """Return the mean softmax over the candidates, and the mean Σ exp, over all draws of the rest."""
    left = len(logits) - retrieved
    edge = [j * left // drawn for j in range(drawn + 1)]
    chance, total = torch.zeros_like(logits), torch.zeros((), dtype=logits.dtype)
    every = draws(left, drawn)
    for draw in every:
        at = torch.tensor([*range(retrieved), *(retrieved + i for i in draw)])
        size = torch.tensor([1.0] * retrieved + [edge[j + 1] - edge[j] for j in range(drawn)]).double()
        raised = logits[at] + (size.log() if correct else 0)
        chance[at] += raised.softmax(0) / len(every)
        total += raised.exp().sum() / len(every)
    return chance, total


def test_the_correction_counts_the_whole_catalogue() -> None:
    """Enumerated: Σ exp(ℓ - log q) is unbiased, and the mean policy comes to the whole softmax."""
    logits = torch.randn(10, generator=Seed(2).torch(), dtype=torch.float64).sort(descending=True).values
    truth = logits.softmax(0)
    off: dict[bool, list[float]] = {True: [], False: []}
    for drawn in (1, 2, 4, 8):
        for correct in (True, False):
            chance, total = softmaxes(logits, 2, drawn, correct)
            torch.testing.assert_close(chance.sum(), torch.ones((), dtype=torch.float64))
            off[correct].append(float((chance - truth).abs().sum() / 2))
            whole = torch.allclose(total, logits.exp().sum(), rtol=1e-12)
            assert whole == (correct or drawn == 8)
    corrected, plain = off[True], off[False]
    assert corrected[-1] < 1e-12
    assert corrected == sorted(corrected, reverse=True)
    assert all(c < 0.5 * p for c, p in zip(corrected[:-1], plain[:-1], strict=True)), off


def test_the_agent_acts_by_these_numbers() -> None:
    """Its log-probabilities of one slot are the enumeration's softmax, corrected and not."""
    for correct in (True, False):
        it = agent(count=4, explore=3, correct=correct).learn(WORLD, 40, 4, Seed(1))
        context = seen(3)
        few = it.candidates(context)
        logits = scores(it.second._ready(), context).double().gather(1, few.columns) / it.second.temperature
        size = torch.where(few.log_q < 0, (-few.log_q).double().exp().round(), 1.0)
        assert size.max() > 15  # 56 items in 3 parts
        weight = logits.exp() * (size if correct else 1)
        chosen = it.distribution(context, 1)
        wanted = torch.zeros(3, 60, dtype=torch.float64).scatter(1, few.columns, weight / weight.sum(1, True))
        torch.testing.assert_close(chosen.slot_marginals()[:, 0].double(), wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("correct", [True, False])
def test_log_q_makes_the_sampled_softmax_consistent(correct: bool) -> None:
    """A click from p and two negatives from q, all draws listed: at scores log p the mean gradient is zero.

    So it is for any number of negatives (Ma and Collins 2018, "Noise contrastive estimation and negative
    sampling for conditional models", EMNLP, section 4); without -log q it is zero at log p / q instead.
    """
    g = Seed(4).torch()
    p, q = (torch.rand(2, 5, generator=g, dtype=torch.float64) + 0.1).unbind(0)
    p, q = p / p.sum(), q / q.sum()
    for base, zero in ((p, correct), (p / q, not correct)):
        logits = base.log().requires_grad_()
        loss = torch.zeros((), dtype=torch.float64)
        for click, *others in product(range(5), repeat=3):
            at = torch.tensor([click, *others])
            z = (logits[at] - q.log()[at] if correct else logits[at]).unsqueeze(0)
            one = torch.tensor([[1.0, 0, 0]], dtype=torch.float64)
            above, below = softmax(z, one, torch.ones_like(one))
            loss = loss + p[click] * q[others[0]] * q[others[1]] * above / below
        (slope,) = torch.autograd.grad(loss, logits)
        assert (float(slope.abs().max()) < 1e-12) == zero
        assert zero or float(slope.abs().max()) > 1e-2


# How it acts -------------------------------------------------------------------------------------


def test_propensities_given_the_candidates_are_exact() -> None:
    """All ordered slates of 60 items: only those of the candidates are likely, and they sum to one."""
    it = agent(count=3, explore=2).learn(WORLD, 40, 4, Seed(1))
    context = seen(4)
    chosen, few = it.distribution(context, 2), it.candidates(context)
    every = torch.tensor(list(permutations(range(60), 2)))
    chance = torch.stack([chosen.log_prob(s.expand(4, 2)) for s in every]).double().exp()  # [slate user]
    torch.testing.assert_close(chance.sum(0), torch.ones(4, dtype=torch.float64), atol=1e-5, rtol=0)
    table = torch.zeros(4, 2, 60, dtype=torch.float64)
    for slot in range(2):
        table[:, slot].index_add_(1, every[:, slot], chance.T)
    torch.testing.assert_close(chosen.slot_marginals().double(), table, atol=1e-5, rtol=0)
    for row in range(4):
        mine = set(few.columns[row].tolist())
        assert len(mine) == 5
        for slate, likely in zip(every.tolist(), chance[:, row].tolist(), strict=True):
            assert (likely > 0) == (set(slate) <= mine)
    torch.testing.assert_close(chosen.log_prob(chosen.mode()).double().exp(), chance.max(0).values)
    picked = chosen.sample(Seed(1).torch())
    by_table = chosen.slot_marginals().gather(2, picked.unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(chosen.marginals(picked), by_table)


def test_with_all_candidates_it_is_the_second_stage(learned: RetrieveRank) -> None:
    first, second = learned.first, learned.second
    for correct in (True, False):
        whole = RetrieveRank(first, second, 60, 7, correct)
        whole._retriever = Retriever.of(first._ready())
        one = whole.distribution(seen(), 3)
        other = Softmax(second._ready(), second.temperature).distribution(seen(), 3)
        slates = other.sample(Seed(1).torch())
        assert torch.equal(one.log_prob(slates), other.log_prob(slates))
        assert torch.equal(one.mode(), other.mode())


def test_its_log_says_what_was_offered(learned: RetrieveRank) -> None:
    """The candidates, and the propensity given them; both are found again from the log's context."""
    log = collect(WORLD, learned, 30, Seed(3), first_user=10**6)
    assert log.candidates is not None
    assert log.candidates.shape[1] == 15
    narrow = log.context(WORLD.remember * WORLD.slots)
    assert torch.equal(narrow.candidates, log.candidates)
    again = learned.distribution(narrow, 3).log_prob(narrow.columns(log.slate)).double().exp()
    torch.testing.assert_close(again, log.propensity, rtol=1e-3, atol=0)
    everything = Context.of(log.user, 60).candidates
    mask = torch.ones(1, 1, dtype=torch.bool).expand(len(log), 60)
    wide = replace(narrow, candidates=everything, mask=mask)
    assert torch.equal(learned.candidates(wide).columns, log.candidates)
    # The same policy, rolled without the record.
    plain = roll(WORLD, learned, 30, Seed(3), first_user=10**6, propensities=True).log(WORLD)
    assert plain.candidates is None
    assert torch.equal(plain.slate, log.slate)
    assert torch.equal(plain.propensity, log.propensity)


def test_fewer_than_offered_are_padded() -> None:
    """Items that are gone are no candidates of the log."""
    lists = torch.tensor([[3, 5, 7, 9]])
    mask = torch.tensor([[True, False, True, False]])
    few = Candidates(torch.arange(4).expand(1, 4), mask, torch.zeros(1, 4))
    context = replace(Context.of(torch.zeros(1, dtype=torch.long), 10), candidates=lists, mask=mask)
    chosen = Narrowed(Uniform(mask, 1), few, few.narrow(context), 4)
    assert chosen.offered.tolist() == [[3, 7, -1, -1]]
    chance = [float(chosen.log_prob(torch.tensor([[c]])).exp()) for c in range(4)]
    assert chance == pytest.approx([0.5, 0, 0.5, 0])


def test_no_step_looks_at_all_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second stage is asked about count + explore items, also while it learns."""
    widths: set[int] = set()

    def spied(ranker: Ranker, context: Context) -> Tensor:
        widths.add(context.candidates.shape[1])
        return scores(ranker, context)

    monkeypatch.setattr("agents.two_stage.retrieve_rank.scores", spied)
    monkeypatch.setattr("agents.two_stage._candidates.scores", lambda *_: pytest.fail("the whole catalogue"))
    agent().learn(WORLD, 20, 3, Seed(1)).distribution(seen(), 3)
    assert widths == {15}


@pytest.mark.parametrize("first", ["mf", "two_tower"])
def test_it_beats_chance(first: str) -> None:
    how = FIT if first == "mf" else FitSettings.of(TwoTower, epochs=4)
    second = ClickRanker("neumf", settings=FIT, debias="ips")
    it = RetrieveRank(ClickRanker(first, settings=how), second, 15, 5).learn(WORLD, 120, 8, Seed(1))
    assert isinstance(it, Agent)
    assert it.name == f"retrieve_rank({first}, neumf)"
    ours, theirs = (roll(WORLD, p, 300, Seed(50), first_user=10**6).reward.sum(0) for p in (it, Random()))
    gain = paired_interval(ours, theirs, level=0.99)
    assert gain.low > 0, gain


def test_faiss_finds_the_candidates(tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="faiss is not installed: pip install faiss-cpu")
    world = Feed(FeedSpec(items=1500, slots=3, horizon=4))
    how = RetrieverSettings("ivf", lists=8, probes=8)  # all lists: exact
    ivf = agent(search=how).learn(world, 30, 4, Seed(1))
    exact = agent().learn(world, 30, 4, Seed(1))
    state = world.reset(20, Seed(2))
    context = world.observe(state)
    assert torch.equal(ivf.candidates(context).columns, exact.candidates(context).columns)
    ivf.save(tmp_path)
    again = RetrieveRank.load(tmp_path)
    assert again.search == how
    assert torch.equal(again.candidates(context).columns, ivf.candidates(context).columns)


def test_refusals(learned: RetrieveRank, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="count is at least 1, not 0"):
        agent(count=0)
    with pytest.raises(BadInput, match="explore is at least 0, not -1"):
        agent(explore=-1)
    with pytest.raises(BadInput, match="the score of neumf is not an inner product"):
        RetrieveRank(ClickRanker("neumf"))
    with pytest.raises(BadInput, match=r"1 \+ 1 candidates are too few for 3 slots"):
        agent(count=1, explore=1).learn(WORLD, 10, 2, Seed(1))
    with pytest.raises(BadInput, match="too few for 2 collections"):
        agent().learn(WORLD, 1, 2, Seed(1))
    with pytest.raises(BadInput, match=r"retrieve_rank\(mf, neumf\) has not learned yet"):
        agent().save(tmp_path)
    learned.save(tmp_path)
    where = tmp_path / "agent.json"
    kept = json.loads(where.read_text())
    for change, words in (
        ({"agent": "learned"}, "is not of an agent named retrieve_rank"),
        ({"count": "many"}, "does not describe an agent"),
        ({"search": {"kind": "tree"}}, "no retriever of kind tree"),
    ):
        where.write_text(json.dumps(kept | change))
        with pytest.raises(BadInput, match=words):
            RetrieveRank.load(tmp_path)


def test_there_are_as_many_draws_as_the_parts_allow() -> None:
    """The helper above, by hand."""
    assert draws(4, 2) == [(0, 2), (0, 3), (1, 2), (1, 3)]
    assert len(draws(6, 6)) == 1
    assert all(len(set(d)) == 3 for d in draws(7, 3))
    assert set(draws(3, 1)) == set(combinations(range(3), 1))
