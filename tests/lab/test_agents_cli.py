"""Agents on the command line: their words, their training in a comparison, and logs that they leave."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from agents.actor_critic.ppo import PPOAgent
from agents.bandits.linucb import LinUcb
from agents.learned import ClickRanker
from envs.registry import make_world
from envs.rollout import roll
from envs.users.feed import Feed, FeedSpec
from simlab.errors import BadInput
from simlab.lab import agents, cli, jobs, listing, runs
from simlab.lab.agents import Budget
from simlab.lab.grammar import Call, parse
from simlab.lab.policies import Builder
from simlab.seeds import Seed
from simlab.tables import read_log

PPO = "ppo(gamma=0.9, users=32, steps=320, n_steps=5, batch_size=80, hidden=[8], ranker=mf(dim=4))"
TINY = ["--items", "20", "--slots", "2", "--users", "32", "--shard", "16", "--steps", "6", "--seeds", "2"]
TINY += ["--train-users", "32", "--train-steps", "6"]
POLICIES = [
    "--policies",
    "random",
    PPO,
    "linucb(alpha=0.2)",
    f"greedy({PPO})",
    "epsilon(linucb(alpha=0.2), 0.5)",
]


@pytest.fixture(scope="module")
def world() -> Feed:
    return Feed(FeedSpec(items=20, slots=2, topics=4, horizon=6))


@pytest.fixture(scope="module")
def builder(world: Feed) -> Builder:
    return Builder(world, Seed(0), train_users=16, train_steps=3, report=lambda sentence: None)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("dqn( explore = [1,.1 , 0.5] )", "dqn(explore=[1, 0.1, 0.5])"),
        ("ppo(hidden=[])", "ppo(hidden=[])"),
        ("hac(a=[one_word, TRUE, -2])", "hac(a=[one-word, true, -2])"),
    ],
)
def test_lists_are_read_and_written(text: str, written: str) -> None:
    assert str(parse(text)) == written
    assert parse(written) == parse(text)


def test_the_items_of_a_list_are_values() -> None:
    call = parse("dqn(explore=[1, 0.5, true, none])")
    assert call.named == (("explore", (1, 0.5, True, Call("none"))),)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("dqn(explore=[1, 2", 'dqn(explore=[1, 2: expected "," or "]" at character 18, but found the end'),
        ("dqn(explore=[1,,2])", 'expected a number or a word at character 16, but found ","'),
        ("dqn(explore=[[1]])", 'expected a number or a word at character 14, but found "["'),
        ("dqn(explore=[mf(dim=3)])", 'expected "," or "]" at character 16, but found "("'),
    ],
)
def test_a_list_that_is_none_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(BadInput) as wrong:
        parse(text)
    assert sentence in str(wrong.value)


@pytest.mark.parametrize("word", agents.words())
def test_every_agent_can_be_made_from_its_word(world: Feed, builder: Builder, word: str) -> None:
    text = "learned(mf)" if word == "learned" else f"{word}(users=8, steps=16)"
    builder.check(parse(text))
    assert agents.make(parse(text)).name.partition("(")[0].replace("_", "-") == word


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("pppo", "there is no policy named pppo; did you mean ppo?"),
        ("ppo(gama=0.9)", "policy ppo has no argument gama; did you mean gamma?"),
        ("slateq(gama=0.9)", "policy slateq has no argument gama; did you mean gamma?"),
        (
            "slateq(clickz=many)",
            "policy slateq(clickz=many): SlateQPolicy has no option clickz; did you mean clicks?",
        ),
        ("linucb(alpa=1)", "policy linucb has no argument alpa; did you mean alpha?"),
        ("ppo(0.9)", "policy ppo(0.9): name its settings, such as ppo(SETTING=VALUE)"),
        ("ppo(mf, mf)", "policy ppo(mf, mf): name its settings, such as ppo(SETTING=VALUE)"),
        ("ppo(gamma=high)", "policy ppo(gamma=high): gamma is 'high', but it is a number"),
        ("ppo(ranker=two-towr)", "there is no ranker named two-towr; did you mean two-tower?"),
        ("ppo(ranker=two-tower(dims=3))", "ranker two-tower has no setting dims; did you mean dim?"),
        ("ppo(body=shard)", "not shard; did you mean shared?"),
        ("ppo(groups=colour)", "a categorical field of the catalogue, and colour is none of them"),
        ("ppo(tally=maybe)", "tally is 'maybe', but it is true or false"),
        ("ppo(policy_kwargs=3)", "policy ppo has no argument policy_kwargs"),
        ("ppo(learning_rate=-1)", "policy ppo(learning_rate=-1) cannot be built (ValueError"),
        ("linucb(alpha=-1)", "policy linucb(alpha=-1): alpha is at least 0, not -1.0"),
        ("ppo(steps=0)", "policy ppo(steps=0): steps is 0, but an agent learns from at least one"),
        (
            "linucb(steps=100, users=2)",
            "100 steps of 2 users are 50 of each, but the world's time limit is 6",
        ),
        ("greedy(ppo(gama=1))", "policy ppo has no argument gama; did you mean gamma?"),
        ("epsilon(linucb(alpa=1), 0.1)", "policy linucb has no argument alpa; did you mean alpha?"),
    ],
)
def test_a_wrong_agent_is_one_sentence(builder: Builder, text: str, sentence: str) -> None:
    with pytest.raises(BadInput) as wrong:
        builder.check(parse(text))
    assert sentence in str(wrong.value)
    assert "\n" not in str(wrong.value)


def test_settings_arrive_in_their_place() -> None:
    ppo = agents.make(parse(PPO))
    assert isinstance(ppo, PPOAgent)
    networks = {"ranker": "mf", "spec": {"dim": 4}, "hidden": (8,)}
    assert ppo.settings == {"gamma": 0.9, "n_steps": 5, "batch_size": 80, "policy_kwargs": networks}
    slateq = agents.make(parse("slateq(n_step=3, clicks=many, optimiser=top_k, null=false)"))
    assert slateq.settings == {
        "n_step": 3,
        "options": {"clicks": "many", "optimiser": "top_k", "null": False},
    }
    learned = agents.make(parse("learned(mf(dim=3), debias=ips, epochs=2)"))
    assert isinstance(learned, ClickRanker)
    assert (learned.family, learned.spec, learned.debias, learned.settings.epochs) == (
        "mf",
        {"dim": 3},
        "ips",
        2,
    )
    two = agents.make(parse("retrieve-rank(mf(dim=3), gru4rec, count=7, rounds=2, epochs=4, kind=ivf)"))
    assert (two.first.family, two.first.spec, two.second.family) == ("mf", {"dim": 3}, "gru4rec")
    assert (two.count, two.second.rounds, two.second.settings.epochs, two.search.kind) == (7, 2, 4, "ivf")
    neural = agents.make(parse("neural-ts(mf(dim=5), rounds=1, epochs=3)"))
    assert (neural.family, neural.spec, neural.training.epochs) == ("mf", {"dim": 5}, 3)
    assert agents.make(parse("bernoulli-ts(alpha=[1, 2])")).alpha == (1.0, 2.0)
    assert agents.make(parse("ppo(target_kl=none)")).settings == {"target_kl": None}


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("ppo", Budget(100, 5)),
        ("ppo(users=7)", Budget(7, 5)),
        ("ppo(steps=500)", Budget(100, 5)),
        ("ppo(steps=501)", Budget(101, 5)),
        ("ppo(steps=3)", Budget(1, 3)),
        ("ppo(users=10, steps=1000)", Budget(10, 100)),
        ("linucb(users=10, steps=60)", Budget(10, 6)),
    ],
)
def test_the_budget_is_users_and_steps_in_all(text: str, budget: Budget) -> None:
    assert agents.budget_of(parse(text), 100, 5, 6) == budget


def test_an_agent_learns_as_in_python(world: Feed, builder: Builder) -> None:
    """The word is the agent of the same settings, seed, users and steps, after coming from disk."""
    state = world.reset(5, Seed(3), first_user=1 << 20)
    context = world.observe(state)
    for text, agent in (
        ("linucb(alpha=0.2)", LinUcb(alpha=0.2)),
        (
            "ppo(n_steps=3, hidden=[8], batch_size=24)",
            PPOAgent(n_steps=3, batch_size=24, policy_kwargs={"hidden": (8,)}),
        ),
        ("ppo(tally=true, n_steps=3)", PPOAgent(n_steps=3, policy_kwargs={"tally": True})),
    ):
        made: Any = agent.learn(world, 16, 3, Seed(0).split("learn"))
        mine = builder.build(parse(text)).distribution(context, 2)
        slate = mine.sample(Seed(4).at(state.user, state.step))
        assert torch.equal(mine.log_prob(slate), made.distribution(context, 2).log_prob(slate))


def test_training_is_shared_by_what_nests_it(world: Feed) -> None:
    said: list[str] = []
    builder = Builder(world, Seed(0), train_users=8, train_steps=3, report=said.append)
    for text in (
        "linucb(alpha=0.2, ridge=2)",
        "greedy(linucb(ridge=2, alpha=0.2))",
        "epsilon(linucb(alpha=.2, ridge=2))",
    ):
        builder.build(parse(text))
    assert [s for s in said if s.startswith("training")] == [
        "training linucb(alpha=0.2, ridge=2.0) on 8 users for 3 steps"
    ]
    context = world.observe(world.reset(5, Seed(3), first_user=1 << 20))
    ppo = builder.build(parse(PPO)).distribution(context, 2)
    likeliest = builder.build(parse(f"greedy({PPO})")).distribution(context, 2)
    assert torch.equal(likeliest.mode(), ppo.mode())
    assert torch.equal(likeliest.log_prob(ppo.mode()), torch.zeros_like(ppo.log_prob(ppo.mode())))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "one"
    assert cli.main(["compare", *POLICIES, *TINY, "--out", str(out)]) == 0
    return out


def same(a: Path, b: Path) -> None:
    for name in ("results", "users", "curves"):
        left, right = pd.read_parquet(a / f"{name}.parquet"), pd.read_parquet(b / f"{name}.parquet")
        pd.testing.assert_frame_equal(left, right, check_exact=True)


def test_a_comparison_has_a_row_for_each_agent_and_keeps_it(run: Path) -> None:
    rows = json.loads((run / "metrics.json").read_text())["policies"]
    assert list(rows) == [str(parse(text)) for text in POLICIES[1:]]
    assert all(row["users"] == 64 for row in rows.values())
    kept = sorted((run / "agents").iterdir())
    assert [json.loads((p / "agent.json").read_text())["agent"] for p in kept] == ["linucb", "ppo"]
    assert all(len(list(p.glob("*.safetensors"))) == 1 for p in kept)
    assert not (run / "parts").exists()


def test_training_users_are_none_of_those_of_the_results(run: Path) -> None:
    assert pd.read_parquet(run / "users.parquet")["user"].min() >= jobs.FIRST_USER


def test_two_workers_give_the_same_bits(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "two"
    assert cli.main(["compare", *POLICIES, *TINY, "--workers", "2", "--out", str(out)]) == 0
    same(run, out)


def test_a_stopped_comparison_does_not_train_again(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "stopped"
    real = jobs.work
    done: list[Any] = []

    def tired(*arguments: Any) -> Any:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(arguments[1])
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(jobs, "work", tired)
        assert cli.main(["compare", *POLICIES, *TINY, "--out", str(out)]) == 130
    partial = runs.unfinished(out)
    assert len(list((partial / "parts" / "agents").iterdir())) == 2

    def never(*arguments: Any) -> Any:
        raise AssertionError("it was trained already")

    capsys.readouterr()
    with monkeypatch.context() as patched:
        patched.setattr(PPOAgent, "learn", never)
        patched.setattr(LinUcb, "learn", never)
        assert cli.main(["compare", "--resume", str(partial)]) == 0
    assert "was trained before the stop" in " ".join(capsys.readouterr().err.split())
    same(run, out)
    assert sorted(p.name for p in (out / "agents").iterdir()) == sorted(
        p.name for p in (run / "agents").iterdir()
    )


def test_a_saved_agent_acts_as_it_did(run: Path, tmp_path: Path) -> None:
    ppo, linucb = (next((run / "agents").glob(f"{name}*")) for name in ("ppo", "linucb"))
    words = [f"saved:{ppo}", f"greedy(saved:{ppo})", f"saved:{linucb}", f"epsilon(saved:{linucb}, 0.5)"]
    assert cli.main(["compare", "--policies", *words, *TINY, "--out", str(tmp_path / "saved")]) == 0
    again = pd.read_parquet(tmp_path / "saved" / "results.parquet").set_index("policy")["return"]
    before = pd.read_parquet(run / "results.parquet").set_index("policy")["return"]
    assert list(again) == [before[str(parse(text))] for text in (PPO, POLICIES[4], *POLICIES[3:6:2])]


def test_a_saved_agent_must_fit_and_is_no_ranker(run: Path, tmp_path: Path, builder: Builder) -> None:
    ppo = next((run / "agents").glob("ppo*"))
    other = Builder(Feed(FeedSpec(items=21, slots=2, topics=4)), Seed(0), report=lambda sentence: None)
    with pytest.raises(BadInput, match="knows 20 items, but the world has 21"):
        other.check(parse(f"saved:{ppo}"))
    with pytest.raises(BadInput, match="holds an agent, but a ranker is wanted here"):
        builder.check(parse(f"softmax(saved:{ppo})"))
    (tmp_path / "agent.json").write_text('{"agent": "pppo"}')
    with pytest.raises(BadInput, match="names no agent; did you mean ppo"):
        builder.check(parse(f"saved:{tmp_path}"))


def test_the_log_of_an_agent_evaluates_it_and_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On its own log every weight is 1; of its likeliest slates the log says what they really earn."""
    out, found = tmp_path / "log", tmp_path / "found"
    setting = ["--items", "8", "--slots", "1", "--steps", "6", "--seed", "3"]
    words = ["--policy", PPO, "--users", "1000", "--shard", "1000", "--train-users", "32"]
    assert cli.main(["log", *words, *setting, "--out", str(out)]) == 0
    log = read_log(out / "log.parquet")
    assert 0 < float(log.propensity.min()) < float(log.propensity.max()) < 1
    ppo = next((out / "agents").iterdir())
    assert (
        cli.main(["evaluate", str(out / "log.parquet"), "--policy", f"saved:{ppo}", "--out", str(found)]) == 0
    )
    row = pd.read_parquet(found / "results.parquet").set_index("estimator").loc["IPS"]
    assert row["value"] == pytest.approx(float(log.reward.mean()), rel=1e-5)
    assert row["ess"] == pytest.approx(len(log), rel=1e-4)

    mixed = f"epsilon(saved:{ppo}, 0.5)"
    assert (
        cli.main(["evaluate", str(out / "log.parquet"), "--policy", mixed, "--out", str(tmp_path / "mix")])
        == 0
    )
    row = pd.read_parquet(tmp_path / "mix" / "results.parquet").set_index("estimator").loc["DR"]
    acting = make_world("Feed-v0", items=8, slots=1)
    policy = Builder(acting, Seed(0), report=lambda sentence: None).build(parse(mixed))
    seen = roll(acting, policy, 1000, Seed(99), first_user=1 << 21, steps=6)
    truth = float(seen.reward[seen.active].mean())
    assert row["low"] < truth < row["high"]
    assert truth != pytest.approx(float(log.reward.mean()), rel=1e-3)

    capsys.readouterr()
    assert (
        cli.main(["evaluate", str(out / "log.parquet"), "--policy", "ppo", "--out", str(tmp_path / "no")])
        == 2
    )
    assert "ppo learns in a simulated world" in capsys.readouterr().err


def test_the_list_says_what_an_agent_does(capsys: pytest.CaptureFixture[str]) -> None:
    said = listing.parts("agent")
    assert set(said) == set(agents.words())
    assert said["ppo"] == "Proximal policy optimisation over slates, a class of stable-baselines3's PPO"
    assert not [name for name, words in said.items() if "as an agent of the lab" in words or not words]
    assert cli.main(["list", "agents"]) == 0
    assert "Proximal policy optimisation" in capsys.readouterr().out
