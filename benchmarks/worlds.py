"""User-steps per CPU second of Feed-v0 with every effect on, beside RecSim's interest evolution.

1,000 items, slates of 10, one core, batches of 1, 1,000 and 10,000, eager and compiled. The slates are made
beforehand: the world alone is timed, from slate to next state and response. RecSim 0.2.4 runs in the same
call, from PyPI in an environment of its own (it needs TensorFlow 2.15), with 1,000 candidates and slates of
10, also on slates made beforehand, at its natural batch of 1.

    python benchmarks/worlds.py            # about three minutes, and the peer's installation once
    python benchmarks/worlds.py --quick
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.harness import Row, arguments, finish, median_seconds, peer_environment, peer_json
from envs.faces import FeedEnv, FeedVectorEnv
from envs.users.feed import Feed, FeedSpec
from simlab.seeds import Seed

ITEMS, SLOTS = 1000, 10
OFF: dict[str, dict[str, Any]] = {
    "no drift, no boredom": {"drift": 0.0, "boredom": 0.0},
    "no churn": {"churn": 0.0},
    "no popularity feedback": {"popularity_feedback": 0.0},
    "static, position bias only": {
        "drift": 0.0, "boredom": 0.0, "churn": 0.0, "popularity_feedback": 0.0, "conformity": 0.0,
    },
}  # fmt: skip

RECSIM = (
    ("numpy<2", "gym==0.26.2", "gin-config", "absl-py", "six", "tensorflow-cpu==2.15.*"),
    ("--no-deps", "recsim==0.2.4", "dopamine-rl==4.0.6"),
)
RECSIM_SCRIPT = """
import json, statistics, sys, time
import numpy as np
from recsim.environments import interest_evolution
env = interest_evolution.create_environment(
    dict(num_candidates=1000, slate_size=10, resample_documents=False, seed=0))
env.reset()
g = np.random.default_rng(0)
slates = [g.choice(1000, 10, replace=False) for _ in range(100)]
def hundred():
    for slate in slates:
        if env.step(slate)[2]:
            env.reset()
hundred()
taken = []
for _ in range(int(sys.argv[1])):
    start = time.process_time(); hundred(); taken.append(time.process_time() - start)
print(json.dumps(100 / statistics.median(taken)))
"""


def speed(step: Callable[..., Any], world: Feed, batch: int, repeat: int) -> float:
    """Return user-steps per second, with everybody active all the time."""
    seed = Seed(1)
    g = torch.Generator().manual_seed(0)
    slates = [torch.rand(batch, ITEMS, generator=g).topk(SLOTS, 1).indices.to(world.device) for _ in range(4)]
    state = world.reset(batch, seed)
    everybody, turn = state.active, 0

    def once() -> None:
        nonlocal state, turn
        state, _ = step(replace(state, active=everybody), slates[turn % 4], seed)
        turn += 1

    sync = torch.cuda.synchronize if world.device.type == "cuda" else None
    return batch / median_seconds(once, repeat, warm=10, sync=sync)


def where_time_goes(world: Feed, batch: int) -> list[tuple[str, float]]:
    """Return the share of each operator in the step's CPU time, largest first."""
    seed, g = Seed(1), torch.Generator().manual_seed(0)
    slate = torch.rand(batch, ITEMS, generator=g).topk(SLOTS, 1).indices
    state = world.reset(batch, seed)
    for _ in range(5):
        world.step(state, slate, seed)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(20):
            world.step(state, slate, seed)
    events = sorted(profile.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(e.self_cpu_time_total for e in events)
    return [(e.key, e.self_cpu_time_total / total) for e in events[:8]]


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__ or "")
    torch.set_num_threads(1)
    repeat = 50 if options.quick else 200
    world = Feed(FeedSpec(items=ITEMS, slots=SLOTS), options.device)
    unit = "user-steps/CPU s" if options.device == "cpu" else "user-steps/s"
    batches = [1, 1000, 10_000] + ([100_000, 1_000_000] if options.device != "cpu" else [])

    theirs = None
    if not options.no_peer:
        python = peer_environment("recsim", RECSIM)
        theirs = None if python is None else peer_json(python, RECSIM_SCRIPT, "5" if options.quick else "20")

    rows: list[Row] = []

    def add(name: str, value: float, **settings: Any) -> None:
        ratio = None if theirs is None else value / theirs
        peer = None if theirs is None else "recsim 0.2.4 interest evolution, batch 1"
        rows.append(Row(name, value, unit, peer, theirs, ratio, settings, options.device))

    for batch in batches:
        value = speed(world.step, world, batch, repeat * (5 if batch == 1 else 1))
        add(f"Feed-v0, eager, batch {batch:,}", value, batch=batch, mode="eager")
    if not options.quick:
        for batch in batches:
            torch.compiler.reset()
            compiled = torch.compile(world.step, dynamic=False)
            value = speed(compiled, world, batch, repeat * (5 if batch == 1 else 1))
            add(f"Feed-v0, compiled, batch {batch:,}", value, batch=batch, mode="compiled")
    for name, off in OFF.items():
        part = Feed(FeedSpec(items=ITEMS, slots=SLOTS, **off), options.device)
        value = speed(part.step, part, 10_000, repeat)
        add(f"Feed-v0, eager, batch 10,000: {name}", value, batch=10_000, off=name)

    env = FeedEnv(items=ITEMS, slots=SLOTS)
    env.reset(seed=0)
    action = env.action_space.sample()
    add("gymnasium.Env, one user", 1 / median_seconds(lambda: env.step(action), repeat * 5), face="Env")
    for tensors in (False, True):
        vector = FeedVectorEnv(10_000, tensors=tensors, device=options.device, items=ITEMS, slots=SLOTS)
        vector.reset(seed=0)
        actions: Any = vector.action_space.sample()
        actions = torch.as_tensor(actions, device=options.device) if tensors else actions
        value = 10_000 / median_seconds(partial(vector.step, actions), max(10, repeat // 5))
        kind = "torch" if tensors else "NumPy"
        add(f"VectorEnv with renewal, {kind}, batch 10,000", value, face="VectorEnv", tensors=tensors)
    finish("Feed-v0: 1,000 items, slates of 10, every effect on, one core", rows, options.json)

    if options.device == "cpu":
        print("\nWhere the time of an eager step goes (batch 10,000):")
        for name, share in where_time_goes(world, 10_000):
            print(f"  {share:6.1%}  {name}")


if __name__ == "__main__":
    main()
