"""The language of policies: what is read, what is built, and one sentence for every mistake."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from envs.users.feed import Feed, FeedSpec
from simlab.errors import BadInput
from simlab.lab.grammar import Call, parse
from simlab.lab.policies import Builder, known
from simlab.policy import Policy
from simlab.seeds import Seed


@pytest.fixture(scope="module")
def world() -> Feed:
    return Feed(FeedSpec(items=30, slots=3, topics=4, horizon=4))


@pytest.fixture(scope="module")
def builder(world: Feed) -> Builder:
    return Builder(world, Seed(0), train_users=40, train_steps=3, report=lambda sentence: None)


words = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True).filter(lambda w: w not in ("true", "false"))
plain = st.booleans() | st.integers(-99, 99) | st.floats(allow_nan=False, allow_infinity=False, width=32)
keys = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
paths = st.text(
    st.characters(blacklist_characters='"', blacklist_categories=("Cs", "Cc")), min_size=1
).filter(lambda t: t == t.strip() and bool(t))
saved = paths.map(lambda path: Call("saved", path=path))


def calls(inner: st.SearchStrategy[Call]) -> st.SearchStrategy[Call]:
    value = plain | inner
    named = st.dictionaries(keys, value, max_size=3).map(lambda d: tuple(d.items()))
    return st.builds(Call, words, st.lists(value, max_size=3).map(tuple), named)


@given(st.recursive(words.map(Call) | saved, calls, max_leaves=6))
def test_what_is_written_is_read_again(call: Call) -> None:
    assert parse(str(call)) == call


@given(st.text(alphabet='ab(),=:"- 1.', max_size=20))
def test_any_text_is_a_policy_or_one_sentence(text: str) -> None:
    try:
        call = parse(text)
    except BadInput:
        return
    assert parse(str(call)) == call


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "a policy is empty; write a name, such as random or greedy(mf)"),
        ("greedy(mf", 'policy greedy(mf: expected "," or ")" at character 10, but found the end'),
        ("greedy(mf))", 'policy greedy(mf)): expected the end at character 11, but found ")"'),
        ("greedy(mf,)", 'policy greedy(mf,): expected a name at character 11, but found ")"'),
        ("random popularity", 'policy random popularity: expected the end at character 8, but found "p"'),
        ("3", 'policy 3: expected a name at character 1, but found "3"'),
        ("a(b=1, b=2)", "policy a(b=1, b=2): b is given twice"),
        ("a(b=1, 2)", "policy a(b=1, 2): an argument without a name comes after one with a name"),
        ("saved:", "policy saved:: saved: needs the folder of a saved ranker or agent, saved:FOLDER"),
        ('saved:"x', 'policy saved:"x: the quote at character 7 is never closed'),
        ("__import__('os')", "policy __import__('os'): expected a name at character 1, but found \"_\""),
        ("a(" * 50, "policy a(a(a(a(a(a(a(a(a(a(a(a(a(a(a(a(a(a(a(a(…: more than 20 levels of parentheses"),
    ],
)
def test_a_mistake_of_form_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(BadInput) as wrong:
        parse(text)
    assert str(wrong.value) == sentence


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("popularty", "there is no policy named popularty; did you mean popularity?"),
        ("greedy(neuml)", "there is no ranker named neuml; did you mean neumf?"),
        ("greedy", "policy greedy needs a ranker: greedy(mf)"),
        ("greedy(mf, mf)", "policy greedy(mf, mf) has 2 arguments, but greedy takes ranker"),
        ("greedy(3)", "policy greedy(3): ranker is 3, but it is a ranker's name"),
        ("random(3)", "policy random(3) has 1 arguments, but random takes nothing"),
        ("softmax-popularity(sharpnes=2)", "has no argument sharpnes; did you mean sharpness?"),
        ("softmax-popularity(sharpness=random)", "sharpness is 'random', but it is a number"),
        ("softmax(mf, temprature=1)", "policy softmax has no argument temprature; did you mean temperature?"),
        ("greedy(mf(dims=3))", "ranker mf has no setting dims; did you mean dim?"),
        ("greedy(mf(3))", "ranker mf(3): name its settings, such as mf(SETTING=VALUE)"),
        ("epsilon(popularty, 0.1)", "there is no policy named popularty; did you mean popularity?"),
        (
            "learned(mf, debias=isp)",
            "policy learned(mf, debias=isp): there is no debias isp; did you mean ips?",
        ),
        ("learned(mf, bias=ips)", "policy learned has no argument bias; did you mean debias?"),
        ("saved", "saved needs the folder of a saved ranker or agent: saved:FOLDER"),
    ],
)
def test_a_mistake_of_meaning_is_one_sentence(builder: Builder, text: str, sentence: str) -> None:
    with pytest.raises(BadInput) as wrong:
        builder.check(parse(text))
    assert sentence in str(wrong.value)
    assert "\n" not in str(wrong.value)


def test_every_word_is_known_to_the_list() -> None:
    assert {"random", "popularity", "greedy", "softmax", "epsilon", "softmax-popularity"} <= set(known())
    assert {"oracle", "far-sighted", "learned", "saved"} <= set(known())


@pytest.mark.parametrize(
    "text",
    [
        "random",
        "popularity",
        "softmax-popularity(sharpness=2)",
        "softmax_popularity(2)",
        "greedy(popularity)",
        "epsilon(popularity, 0.1)",
        "epsilon(softmax(mf(dim=4), temperature=0.5), epsilon=0.2)",
        "oracle",
        "far-sighted",
        "learned(mf, debias=ips)",
    ],
)
def test_what_is_built_acts(world: Feed, builder: Builder, text: str) -> None:
    call = parse(text)
    builder.check(call)
    policy = builder.build(call)
    assert isinstance(policy, Policy)
    state = world.reset(5, Seed(3), first_user=1 << 20)
    privileged = getattr(policy, "privileged", False)
    context: Any = world.privileged(state) if privileged else world.observe(state)
    chosen = policy.distribution(context, 3)
    slate = chosen.sample(Seed(4).at(state.user, state.step))
    assert slate.shape == (5, 3)
    assert torch.isfinite(chosen.log_prob(slate)).all()


def test_epsilon_is_what_was_written(world: Feed, builder: Builder) -> None:
    """epsilon(popularity, 0.1) shows any one item of 30 at the top with probability 0.1 / 30 or more."""
    state = world.reset(1, Seed(3))
    chosen = builder.build(parse("epsilon(popularity, 0.1)")).distribution(world.observe(state), 3)
    top = chosen.slot_marginals()[0, 0]
    assert top.min().item() == pytest.approx(0.1 / 30, rel=1e-5)
    assert top.max().item() == pytest.approx(0.9 + 0.1 / 30, rel=1e-5)


def test_training_is_done_once_and_shared(world: Feed) -> None:
    said: list[str] = []
    builder = Builder(world, Seed(0), train_users=20, train_steps=2, report=said.append)
    one = builder.ranker(parse("mf(dim=4)"))
    builder.build(parse("softmax(mf(dim=4), temperature=0.5)"))
    assert builder.ranker(parse("mf( dim = 4 )")) is one
    assert sum(s.startswith("training learned(mf(dim=4))") for s in said) == 1


def test_a_saved_ranker_acts_as_before_and_must_fit_the_world(
    world: Feed, builder: Builder, tmp_path: Path
) -> None:
    from simlab.training.store import save_ranker

    ranker = builder.ranker(parse("mf(dim=4)"))
    save_ranker(ranker, tmp_path / "my mf")
    call = parse(f"saved:{tmp_path / 'my mf'}")
    context = world.observe(world.reset(6, Seed(5), first_user=1 << 20))
    before = builder.build(parse("greedy(mf(dim=4))")).distribution(context, 3).mode()
    assert torch.equal(builder.build(call).distribution(context, 3).mode(), before)
    assert torch.equal(builder.build(parse(f"greedy({call})")).distribution(context, 3).mode(), before)
    other = Builder(Feed(FeedSpec(items=31, slots=3, topics=4)), Seed(0), report=lambda sentence: None)
    with pytest.raises(BadInput, match="knows 30 items, but the world has 31"):
        other.check(call)
    with pytest.raises(BadInput, match="there is no file"):
        builder.check(parse(f"greedy(saved:{tmp_path / 'nothing'})"))
