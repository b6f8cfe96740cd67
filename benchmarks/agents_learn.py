"""What the agents learn: returns in four worlds, beside random, the rules and the oracles, with intervals.

Each run trains one agent with one seed, and its likeliest slates are then shown to new users, the same
for every agent and seed (common random numbers). A table gives the interquartile mean over seeds with its
stratified bootstrap interval (`simlab.reliability`), and for one seed the interval over users. What is done
is kept in a file and not done again. Settings are in `RUNS`, each found with a few tries on other users.

    python benchmarks/agents_learn.py --worlds interest --agents ppo slateq --seeds 1 2 3 4 5
    python benchmarks/agents_learn.py --markdown docs/agents/results.md       # writes what is kept
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agents.core.agent import Greedy, SlateAgent
from benchmarks.harness import machine, write_page
from envs.oracles import FarSighted, Index, Oracle
from envs.registry import make_world
from envs.rollout import roll
from envs.sb3 import WorldVecEnv
from envs.world import SlateWorld
from simlab.files import write_whole
from simlab.metrics.exposure import gini
from simlab.parts import part
from simlab.policies.random import Random
from simlab.policy import Policy
from simlab.reliability import interval
from simlab.seeds import Seed
from simlab.statistics import mean_interval, paired_interval

HOME = Path(__file__).resolve().parent.parent
JUDGE, FIRST_USER = Seed(2026), 10**6
"""New users, the same for all: no learner meets them."""


@dataclass(frozen=True)
class Task:
    """A world, and how long and on how many users everything is judged."""

    world: str
    users: int
    settings: dict[str, Any]


TASKS = {
    "interest": Task("simlab/InterestEvolution-v0", 1000, {}),
    "bored": Task("simlab/SlateTopK-Bored-v0", 1000, {}),
    "bored-inf": Task("simlab/SlateTopK-BoredInf-v1", 1000, {}),
    "uncertain": Task("simlab/SlateTopK-Uncertain-v1", 1000, {}),
    "feed": Task("simlab/Feed-v0", 1000, {}),
}

NOW: dict[str, Any] = {"policy_kwargs": {"spec": {"past": 0}}}
"""The features say what the state is: no history is needed."""
PPO: dict[str, Any] = {
    "num_envs": 256, "n_steps": 25, "batch_size": 800, "gamma": 0.9, "gae_lambda": 0.8, "ent_coef": 1e-3,
    "learning_rate": 3e-3, "final_learning_rate": 2e-4, **NOW,
}  # fmt: skip
GIVEN: dict[str, Any] = {"ranker": "bilinear", "spec": {"past": 0, "dim": 128, "layers": [128]}}
"""A body that takes the items as the catalogue gives them: here it says what there is to know."""
BORED: dict[str, Any] = {**PPO, "policy_kwargs": GIVEN, "ent_coef": 3e-4, "slot_coef": 5.0}
COUNTED: dict[str, Any] = {**BORED, "policy_kwargs": {**GIVEN, "groups": "main_topic"}}
"""An actor that counts the items of each topic above."""
ROLLED: dict[str, Any] = {
    "num_envs": 256, "gamma": 0.9, "ent_coef": 3e-4, "slot_coef": 5.0, "final_learning_rate": 2e-4,
    "policy_kwargs": GIVEN,
}  # fmt: skip
KEPT: dict[str, Any] = {"num_envs": 256, "gamma": 0.9, "tau": 0.02, "target_every": 1, "policy_kwargs": GIVEN}
SPACE: dict[str, Any] = {**KEPT, **NOW, "options": {"items": "features"}}
FEED: dict[str, Any] = {
    **PPO, "policy_kwargs": {"ranker": "bilinear", "spec": {"past": 20, "dim": 64, "layers": [64]}},
}  # fmt: skip
TOLD: dict[str, Any] = {
    **FEED, "gamma": 0.6, "gae_lambda": 0.9, "policy_kwargs": {**FEED["policy_kwargs"], "tally": True},
}  # fmt: skip
LONG: dict[str, Any] = {
    "num_envs": 512, "n_steps": 128, "batch_size": 8192, "gamma": 1.0, "gae_lambda": 1.0,
    "reward_scale": 0.05, "ent_coef": 1e-3, "per_slot": False,
    "learning_rate": 3e-3, "final_learning_rate": 1e-4,
    "policy_kwargs": {"ranker": "bilinear", "spec": {"past": 0, "dim": 64, "layers": [64]}, "tally": True},
}  # fmt: skip
"""The budget is hidden, and any discount hides its worth, so returns are whole (γ = λ = 1, long roll-outs). A
critic that counts knows what is left. One item at most is clicked, so slots answer together."""
SLATEQ: dict[str, Any] = {
    "num_envs": 128, "batch_size": 2048, "gamma": 0.995, "reward_scale": 0.25, "tau": 0.02, "target_every": 1,
    "explore": (1.0, 0.02, 0.2), "learning_rate": 1e-3, "final_learning_rate": 1e-4,
    "policy_kwargs": {"spec": {"past": 0, "spread": 0.01}},
}  # fmt: skip
COUNTS: dict[str, Any] = {**SLATEQ, "gamma": 1.0, "options": {"tally": True}}
NOTES: dict[str, list[str]] = {
    "interest": [
        "The time budget is hidden. A critic that counts what happened since the session began (`tally`)",
        "knows what is left of it; the policies see what they saw before. SlateQ without the null item's",
        "value stands where the published one does (174.6).",
    ],
    "feed": [
        "All learners by returns beat the fitted ranker, and the sort by true click probabilities (oracle).",
        "It is not foresight that does it: the same learner with γ = 0, to which the next click is all there",
        "is, earns as much. Exposure is as uneven as it can be: users share a market, all learners come to",
        "show few items, and popularity feeds on that.",
    ],
}
"""What to read in a table."""
RUNS: dict[tuple[str, str], tuple[int, dict[str, Any]]] = {
    ("interest", "slateq"): (700_000, SLATEQ),
    ("interest", "slateq without null"): (700_000, {**SLATEQ, "options": {"null": False}}),
    ("interest", "slateq with a tally"): (700_000, COUNTS),
    ("interest", "ppo"): (6_000_000, {**LONG, "policy_kwargs": {**LONG["policy_kwargs"], "tally": False}}),
    ("interest", "ppo with a tally"): (6_000_000, LONG),
    ("bored", "ppo"): (6_000_000, BORED),
    ("bored", "ppo with groups"): (7_000_000, COUNTED),
    ("bored", "a2c"): (1_500_000, ROLLED),
    ("bored", "reinforce"): (1_500_000, ROLLED),
    ("bored", "slateq"): (400_000, {**KEPT, "options": {"clicks": "many"}}),
    ("bored", "dqn"): (400_000, KEPT),
    ("bored", "sac_topk"): (400_000, SPACE),
    ("bored", "wolpertinger"): (400_000, SPACE),
    ("bored", "hac"): (400_000, {**KEPT, **NOW, "options": {"tries": 8, "align": 1.0, "clicks": 0.1}}),
    ("bored", "gems"): (400_000, {**KEPT, **NOW}),
    ("bored", "linucb"): (100_000, {}),
    ("bored", "learned"): (100_000, {"family": "mf"}),
    ("bored-inf", "ppo"): (4_000_000, BORED),
    ("bored-inf", "ppo with groups"): (2_000_000, COUNTED),
    ("uncertain", "ppo"): (4_000_000, BORED),
    ("uncertain", "ppo with groups"): (2_000_000, COUNTED),
    ("feed", "learned"): (120_000, {"family": "mf"}),
    ("feed", "ppo"): (3_200_000, FEED),
    ("feed", "ppo without foresight"): (3_200_000, {**FEED, "gamma": 0.0}),
    ("feed", "ppo with a tally"): (3_200_000, TOLD),
}
"""User-steps and settings of each agent in each world."""


@dataclass(frozen=True)
class Result:
    """What one run reached."""

    task: str
    agent: str
    seed: int
    mean: float
    stderr: float
    gini: float
    steps: int
    seconds: float
    curve: list[tuple[int, float, float]]
    settings: dict[str, Any]
    returns: list[float] = field(default_factory=list)
    """Of each new user, to compare runs in pairs."""


def judged(world: SlateWorld[Any], policy: Policy, users: int) -> tuple[float, float, float, list[float]]:
    """Return the mean return of new users, its standard error, the Gini of what was shown, each return."""
    seen = roll(world, policy, users, JUDGE, first_user=FIRST_USER)
    found = mean_interval(seen.reward.sum(0).double().numpy())
    shown = seen.slate[seen.active]
    counts = torch.bincount(shown[shown < world.catalog.n_items], minlength=world.catalog.n_items)
    return found.mean, found.stderr, float(gini(counts.double())), seen.reward.sum(0).tolist()


class Curve(BaseCallback):
    """Judges on a few users ten times; its own time is not the learner's."""

    def __init__(self, world: SlateWorld[Any], total: int, users: int = 200) -> None:
        super().__init__()
        self.world, self.total, self.users = world, total, users
        self.found: list[tuple[int, float, float]] = []
        self.spent, self.start = 0.0, time.process_time()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.num_timesteps * 10 >= len(self.found) * self.total:
            begin = time.process_time()
            assert isinstance(self.model, Policy)
            mean, _, _, _ = judged(self.world, Greedy(self.model), self.users)
            self.found.append((self.num_timesteps, begin - self.start - self.spent, mean))
            self.spent += time.process_time() - begin


def learn(task: str, agent: str, seed: int) -> Result:
    """Train one agent with one seed, and judge it."""
    what = TASKS[task]
    world = make_world(what.world, **what.settings)
    steps, settings = RUNS[task, agent]
    settings = dict(settings)
    kind: Any = part("agent", agent.partition(" ")[0])
    if not issubclass(kind, SlateAgent):
        return taught(task, agent, seed, kind, world)
    envs = settings.pop("num_envs", kind.users_at_once)
    model = kind.algorithm(env=WorldVecEnv(world, envs), seed=seed, device="cpu", **settings)
    curve = Curve(world, steps)
    start = time.process_time()
    model.learn(steps, callback=curve, log_interval=None)
    seconds = time.process_time() - start - curve.spent
    mean, stderr, uneven, each = judged(world, Greedy(model), what.users)
    done = int(model.num_timesteps)
    used = RUNS[task, agent][1]
    return Result(task, agent, seed, mean, stderr, uneven, done, seconds, curve.found, used, each)


def taught(task: str, agent: str, seed: int, kind: Any, world: SlateWorld[Any]) -> Result:
    """Train an agent that is no algorithm of stable-baselines3, and judge it."""
    steps, settings = RUNS[task, agent]
    start = time.process_time()
    model = kind(**settings).learn(world, steps // world.horizon, world.horizon, Seed(seed))
    seconds = time.process_time() - start
    mean, stderr, uneven, each = judged(world, Greedy(model), TASKS[task].users)
    return Result(task, agent, seed, mean, stderr, uneven, steps, seconds, [], settings, each)


def same(kept: Result, task: str, agent: str, seed: int) -> bool:
    """Tell whether a kept result is of this run, with the settings of today."""
    steps, settings = RUNS[task, agent]
    today = json.loads(json.dumps(settings))
    there = (kept.task, kept.agent, kept.seed, json.loads(json.dumps(kept.settings)))
    return there == (task, agent, seed, today) and kept.steps >= steps


def topics(world: Any) -> Policy:
    """Return the rule of interest evolution that looks at no user: the topics of the highest mean quality."""
    rank = world.mean_quality[world.topic]
    return Index(lambda state: rank.expand(len(state.user), -1), "highest topic")


def rules(task: str, world: SlateWorld[Any]) -> list[Policy]:
    """Return what every table has beside the agents."""
    found: list[Policy] = [Random(), Oracle(world), FarSighted(world)]
    if task == "interest":
        found.insert(2, topics(world))
    return found


def page(kept: list[Result], tasks: list[str]) -> list[str]:
    """Return the tables as a page."""
    lines = ["# What the agents learn", ""]
    lines += ["Made by `python benchmarks/agents_learn.py --markdown docs/agents/results.md` on"]
    lines += [f"{machine()}, one thread. Returns of 1,000 new users, the same for all, by the likeliest"]
    lines += ["slates; the interval of an agent is that of the interquartile mean over training seeds"]
    lines += ["(95 %, stratified bootstrap), or over users where there is one seed; that of a rule is over"]
    lines += ["users. Share: of the way from random to the far-sighted oracle. Gini: of the exposure over"]
    lines += ["the catalogue. Seconds are CPU seconds of training, on a busy machine. Settings are in"]
    lines += ["`RUNS` of the script."]
    for task in tasks:
        mine = [r for r in kept if r.task == task]
        if not mine:
            continue
        what = TASKS[task]
        world = make_world(what.world, **what.settings)
        lines += ["", f"## {what.world}", "", "| policy | return | 95 % interval | share | Gini | seeds |"]
        lines[-1] += " user-steps | seconds | command |"
        lines += ["|---|---:|---|---:|---:|---:|---:|---:|---|"]
        rows: list[tuple[float, str]] = []
        ends: dict[str, float] = {}
        returns: dict[str, list[float]] = {}
        base = []
        for policy in rules(task, world):
            mean, stderr, uneven, returns[policy.name] = judged(world, policy, what.users)
            ends[policy.name] = mean
            base.append((policy.name, mean, stderr, uneven))

        def share(mean: float, ends: dict[str, float] = ends) -> str:
            return f"{(mean - ends['random']) / (ends['far-sighted'] - ends['random']):.2f}"

        for name, mean, stderr, uneven in base:
            low, high = mean - 1.96 * stderr, mean + 1.96 * stderr
            text = f"| {name} | {mean:.1f} | {low:.1f} … {high:.1f} | {share(mean)} | {uneven:.2f} | | | | |"
            rows.append((mean, text))
        for agent in sorted({r.agent for r in mine}):
            runs = [r for r in mine if r.agent == agent]
            got = interval([r.mean for r in runs])
            low, high = got.low, got.high
            if len(runs) == 1:
                low, high = (runs[0].mean + z * runs[0].stderr for z in (-1.96, 1.96))
            uneven = sum(r.gini for r in runs) / len(runs)
            seconds = sum(r.seconds for r in runs) / len(runs)
            command = f"`--worlds {task} --agents '{agent}'`"
            rows.append((
                got.mean,
                f"| **{agent}** | {got.mean:.1f} | {low:.1f} … {high:.1f} | {share(got.mean)} | {uneven:.2f} "
                f"| {len(runs)} | {runs[0].steps:,} | {seconds:,.0f} | {command} |",
            ))  # fmt: skip
        lines += [text for _, text in sorted(rows)]
        lines += ["", *NOTES[task]] if task in NOTES else []
        lines += paired([r for r in mine if r.returns], returns)
        lines += ["", "Learning curves (mean over seeds, 200 users; user-steps: return):", ""]
        for agent in sorted({r.agent for r in mine}):
            runs = [r for r in mine if r.agent == agent]
            count = min(len(r.curve) for r in runs)
            if not count:
                continue
            points = []
            for i in range(count):
                value = sum(r.curve[i][2] for r in runs) / len(runs)
                points.append(f"{runs[0].curve[i][0] / 1e6:.2f} M: {value:.0f}")
            lines.append(f"- {agent}: {', '.join(points)}")
    return lines


def paired(runs: list[Result], rules: dict[str, list[float]]) -> list[str]:
    """Return the best agent's differences to the others, of the first seeds' runs, and to rules, by user."""
    first = {r.agent: r.returns for r in sorted(runs, key=lambda r: -r.seed)}
    lines = []
    best = max(first, key=lambda agent: sum(first[agent]) / len(first[agent]))
    for other in sorted(first):
        if other != best:
            got = paired_interval(first[best], first[other])
            lines.append(f"- {best} less {other}: {got.mean:.2f} ({got.low:.2f} … {got.high:.2f})")
    for rule, theirs in rules.items():
        got = paired_interval(first[best], theirs)
        lines.append(f"- {best} less {rule}, a rule: {got.mean:.2f} ({got.low:.2f} … {got.high:.2f})")
    title = "Paired differences, the same users and luck (95 %, one seed of learning):"
    return ["", title, "", *lines] if lines else []


def main() -> None:
    """Train, judge, print; what is done is kept in a file, and not done again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worlds", nargs="+", choices=TASKS, default=list(TASKS), help="which worlds")
    parser.add_argument("--agents", nargs="*", help="which agents; all that have settings by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1], help="training seeds (default: 1)")
    kept_in = HOME / "runs" / "agents.json"
    parser.add_argument("--json", type=Path, default=kept_in, help="where results are kept")
    parser.add_argument("--again", action="store_true", help="train again what is kept already")
    parser.add_argument("--markdown", type=Path, help="write what is kept to this page, and stop")
    options = parser.parse_args()
    torch.set_num_threads(1)

    def read() -> list[Result]:
        return [Result(**r) for r in json.loads(options.json.read_text())] if options.json.is_file() else []

    if options.markdown:
        write_page(options.markdown, page(read(), options.worlds))
        return
    tell: Callable[..., None] = print
    for seed in options.seeds:
        for task, agent in RUNS:
            if task not in options.worlds or (options.agents and agent not in options.agents):
                continue
            if not options.again and any(same(r, task, agent, seed) for r in read()):
                continue
            found = learn(task, agent, seed)
            tell(f"{task}, {agent}, seed {seed}: {found.mean:.1f} ± {1.96 * found.stderr:.1f} over users,"
                 f" {found.seconds:.0f} s", flush=True)  # fmt: skip
            rest = [r for r in read() if (r.task, r.agent, r.seed) != (task, agent, seed)]
            options.json.parent.mkdir(parents=True, exist_ok=True)
            write_whole(options.json, json.dumps([asdict(r) for r in [*rest, found]], indent=1).encode())


if __name__ == "__main__":
    main()
