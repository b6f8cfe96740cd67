"""User-steps per CPU second of every world, beside RecSim's interest evolution and RecoGym in the same run.

Slates of 10 (1 where the world shows one item), 1,000 and 100,000 items, batches of 1 … 100,000, one core.
The slates are made beforehand and the whole catalogue is offered: the world alone is timed, from slate to
next state and response. The peers come from PyPI, each in an environment of its own, and step one user at a
time: RecSim 0.2.4 (it needs TensorFlow 2.15) with 1,000 candidates and slates of 10, RecoGym 0.1.3 with 1,000
products and one recommendation. Below the table: what a step moves through memory, against the machine's copy
bandwidth, and what the state of a user weighs.

    python benchmarks/worlds.py                      # about half an hour, and the peers' installation once
    python benchmarks/worlds.py --quick
    python benchmarks/worlds.py --markdown docs/throughput.md
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import envs  # noqa: F401  (registers the ids)
from benchmarks.harness import (
    Row,
    arguments,
    finish,
    machine,
    median_seconds,
    peer_environment,
    peer_json,
    write_page,
)  # fmt: skip
from benchmarks.peers_recogym import RECOGYM, RECOGYM_SCRIPT
from envs.registry import PREFIX, ids, make_world
from envs.world import SlateWorld, State, sample_without_replacement
from simlab.errors import BadInput
from simlab.seeds import Seed

SLOTS = 10
ITEMS = (1_000, 100_000)
BATCHES = (1, 1_000, 10_000, 100_000)
MAIN = (
    "InterestEvolution-v0",
    "InterestEvolution-v1",
    "SlateTopK-BoredInf-v0",
    "SlateTopK-BoredInf-v1",
    "Feed-v0",
)
"""Worlds that are also measured compiled, and whose traffic is printed."""

WIDE = (f"{PREFIX}Promotion", f"{PREFIX}OrganicBandit")
"""Worlds in which a step takes work for each user and item, because all items sell or are looked at."""

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
PEERS = {
    "recsim 0.2.4, interest evolution": ("recsim", RECSIM, RECSIM_SCRIPT),
    "recogym 0.1.3, reco-gym-v1": ("recogym", RECOGYM, RECOGYM_SCRIPT),
}

World = SlateWorld[Any]


def variant(key: str, items: int, device: str) -> World | None:
    """Return the world with this catalogue, all of it offered, and slates of 10, where its id allows."""
    wanted: dict[str, Any] = {"items": items, "slots": SLOTS, "candidates": 0}
    if "slots" in ids()[key].ids[key] or ids()[key].Spec().slots == 1:
        del wanted["slots"]  # the slate's length is part of what the id is
    if "items" in ids()[key].ids[key]:
        del wanted["items"]
        if items != ITEMS[0]:
            return None
    try:
        return make_world(key, device, **wanted)
    except BadInput as refusal:
        print(f"{key} with {items:,} items is left out: {refusal}")
        return None


def some_slates(world: World, batch: int, count: int = 4) -> list[torch.Tensor]:
    """Return random slates without repeats."""
    g = torch.Generator().manual_seed(0)
    few = [torch.rand(batch, world.slots, generator=g) for _ in range(count)]
    return [sample_without_replacement(u, world.catalog.n_items).to(world.device) for u in few]


def stepper(world: World, batch: int, step: Callable[..., Any] | None = None) -> Callable[[], State[Any]]:
    """Return a function that takes one more step, with everybody active all the time."""
    seed, slates = Seed(1), some_slates(world, batch)
    take = world.step if step is None else step
    state = world.reset(batch, seed)
    everybody, turn = state.active, 0

    def once() -> State[Any]:
        nonlocal state, turn
        state, _ = take(replace(state, active=everybody), slates[turn % len(slates)], seed)
        turn += 1
        return state

    return once


def speed(world: World, batch: int, seconds: float, step: Callable[..., Any] | None = None) -> float:
    """Return user-steps per second: the median of as many steps as fit into some seconds, of 5 to 300."""
    sync = torch.cuda.synchronize if world.device.type == "cuda" else None
    once = stepper(world, batch, step)
    rough = median_seconds(once, 1, warm=6, sync=sync)
    return batch / median_seconds(once, min(300, max(5, int(seconds / rough))), warm=0, sync=sync)


class Traffic(TorchDispatchMode):
    """Count the bytes that operations read and write; a view moves nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.operations = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            flat = torch.utils._pytree.tree_leaves((args, kwargs, out))
            self.bytes += sum(_weight(x) for x in flat if isinstance(x, torch.Tensor))
            self.operations += 1
        return out


def _weight(x: torch.Tensor) -> int:
    """Return the bytes of a tensor; what is broadcast counts once."""
    return x.element_size() * int(
        torch.tensor([n for n, s in zip(x.shape, x.stride(), strict=True) if s] or [1]).prod()
    )


def traffic(world: World, batch: int) -> Traffic:
    """Return what one step moves."""
    once = stepper(world, batch)
    for _ in range(6):
        once()
    with Traffic() as counted:
        once()
    return counted


def state_bytes(world: World, batch: int = 100) -> float:
    """Return the bytes of state per user once the history is full; the market is not a user's."""
    once = stepper(world, batch)
    for _ in range(world.remember + 1):
        state = once()
    own = [state.user, state.step, state.active, state.candidates, *vars(state.users).values()]
    own += [x for pair in state.recent for x in pair]
    return sum(x.element_size() * x.numel() for x in own if x is not None) / batch


def copy_bandwidth(device: str) -> float:
    """Return bytes read and written per second by a large copy."""
    source = torch.zeros(1 << 26, device=device)
    target = torch.empty_like(source)
    sync = torch.cuda.synchronize if device != "cpu" else None
    return 2 * 4 * source.numel() / median_seconds(lambda: target.copy_(source), 9, sync=sync)


def peers(quick: bool) -> dict[str, float]:
    """Return user-steps per CPU second of each peer that runs here."""
    found = {}
    for name, (folder, steps, script) in PEERS.items():
        python = peer_environment(folder, steps)
        value = None if python is None else peer_json(python, script, "5" if quick else "20")
        if value is not None:
            found[name] = value
            print(f"{name}: {value:,.0f} user-steps per CPU second", flush=True)
    return found


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__ or "")
    torch.set_num_threads(1)
    device, quick = options.device, options.quick
    unit = "user-steps/CPU s" if device == "cpu" else "user-steps/s"
    theirs = {} if options.no_peer else peers(quick)
    rows: list[Row] = []

    def add(key: str, name: str, value: float, **settings: Any) -> None:
        short = key.removeprefix(PREFIX)
        word = {"OrganicBandit": "recogym", "InterestEvolution": "recsim"}.get(
            short.rpartition("-")[0], "none"
        )
        like = [n for n in theirs if n.startswith(word)]
        peer = like[0] if like else None
        base = theirs.get(peer) if peer else None
        ratio = None if base is None else value / base
        rows.append(Row(f"{short}, {name}", value, unit, peer, base, ratio, {"id": key, **settings}, device))
        print(f"{rows[-1].name:60s} {value:14,.0f}", flush=True)

    chosen = [PREFIX + name for name in MAIN if PREFIX + name in ids()] if quick else list(ids())
    batches = [10_000] if quick else list(BATCHES)
    seconds = 0.3 if quick else 2.0
    if device != "cpu":
        batches += [1_000_000]
    for key in chosen:
        for items in ITEMS[:1] if quick else ITEMS:
            world = variant(key, items, device)
            for batch in batches if world is not None else []:
                assert world is not None
                name = f"{world.catalog.n_items:,} items, slate {world.slots}, batch {batch:,}"
                if key.startswith(WIDE) and batch * items > 1e8:
                    print(f"{key.removeprefix(PREFIX)}, {name} is left out: a step takes [user item] work")
                    continue
                what = {"items": world.catalog.n_items, "slots": world.slots, "batch": batch}
                add(key, name, speed(world, batch, seconds), mode="eager", **what)
                fused = not quick and key.removeprefix(PREFIX) in MAIN and items == ITEMS[0]
                if fused and batch == 10_000:
                    torch.compiler.reset()
                    value = speed(world, batch, seconds, torch.compile(world.step, dynamic=False))
                    add(key, f"{name}, compiled", value, mode="compiled", **what)

    for name in ("Feed-v0", "InterestEvolution-v0"):
        faces(add, PREFIX + name, device, repeat=8 if quick else 40)
    notes = boundaries(device, chosen, {r.name: r.value for r in rows})
    title = "Worlds: slates made beforehand, every effect of the id on"
    finish(title, rows, options.json)
    print("\n" + "\n".join(notes))
    if options.markdown:
        write_page(options.markdown, page(title, unit, rows, theirs, notes))


def page(title: str, unit: str, rows: list[Row], theirs: dict[str, float], notes: list[str]) -> list[str]:
    """Return the table as a page: a row for each world and catalogue, a column for each batch."""
    batches = sorted({r.settings["batch"] for r in rows if "batch" in r.settings})
    lines = [f"# {title}", "", "Made by `python benchmarks/worlds.py --markdown docs/throughput.md` on"]
    lines += [
        f"{machine()}; device {rows[0].device}, one thread. {unit}, medians.",
        "",
        "| peer | " + unit + " |",
    ]
    lines += [
        "|---|---:|",
        *(f"| {name}, one user at a time | {value:,.0f} |" for name, value in theirs.items()),
    ]
    lines += [
        "",
        "RecSim is the peer of InterestEvolution, RecoGym of OrganicBandit. Neither can step a batch, and",
    ]
    lines += ["both build their observations within a step; ours are built by the faces, in the last table."]
    heads = [f"batch {batch:,}" for batch in batches]
    lines += ["", f"| world | items × slots | {' | '.join(heads)} | batch 10,000 : peer |"]
    lines += ["|---|---|" + "---:|" * (len(batches) + 1)]
    table: dict[tuple[str, str], dict[int, Row]] = {}
    for row in rows:
        if "batch" in row.settings:
            short = row.settings["id"].removeprefix(PREFIX)
            short += ", compiled" if row.settings["mode"] == "compiled" else ""
            size = f"{row.settings['items']:,} × {row.settings['slots']}"
            table.setdefault((short, size), {})[row.settings["batch"]] = row
    for (name, size), found in table.items():
        cells = [f"{found[b].value:,.0f}" if b in found else "" for b in batches]
        ratio = found[10_000].ratio if 10_000 in found else None
        lines.append(
            f"| {name} | {size} | {' | '.join(cells)} | {'' if ratio is None else f'{ratio:,.0f}'} |"
        )
    lines += ["", "| face | " + unit + " |", "|---|---:|"]
    lines += [f"| {r.name} | {r.value:,.0f} |" for r in rows if "face" in r.settings]
    return [*lines, "", *notes]


def faces(add: Callable[..., None], key: str, device: str, repeat: int) -> None:
    """Measure the faces of a world, which also build the observation and bring new users."""
    size = {"items": ITEMS[0], "slots": SLOTS, "candidates": 0}
    env = gym.make(key, **size).unwrapped
    env.reset(seed=0)
    action = env.action_space.sample()

    def one() -> None:
        if any(env.step(action)[2:4]):
            env.reset()

    add(key, "gymnasium.Env, one user", 1 / median_seconds(one, repeat * 10), face="Env")
    for tensors in (False, True):
        vector: Any = gym.make_vec(key, num_envs=10_000, tensors=tensors, device=device, **size)
        vector.reset(seed=0)
        actions: Any = vector.action_space.sample()
        actions = torch.as_tensor(actions, device=device) if tensors else actions
        value = 10_000 / median_seconds(partial(vector.unwrapped.step, actions), max(6, repeat // 4))
        kind = "torch" if tensors else "NumPy"
        add(key, f"VectorEnv with renewal, {kind}, batch 10,000", value, face="VectorEnv", tensors=tensors)


def boundaries(device: str, chosen: list[str], speeds: dict[str, float]) -> list[str]:
    """Say in words what bounds a step: bytes moved against the copy bandwidth, and the weight of a user."""
    bandwidth = copy_bandwidth(device)
    said = [f"Copy bandwidth of one thread, read and written: {bandwidth / 1e9:.1f} GB/s ({machine()})."]
    said.append(
        "Traffic of one eager step at batch 10,000 and 1,000 items, every operation's inputs and outputs. "
        "More than 100 % of the copy bandwidth means that the step lives in the caches: it is bounded not by "
        "memory but by the number of passes over them. State is at the id's own settings."
    )
    said.append("")
    heaviest = (0.0, "")
    for key in chosen:
        short = key.removeprefix(PREFIX)
        world = variant(key, ITEMS[0], device)
        if world is None:
            continue
        weight = state_bytes(make_world(key, device))
        heaviest = max(heaviest, (weight, short))
        if short in MAIN:
            moved = traffic(world, 10_000)
            rate = speeds[f"{short}, {world.catalog.n_items:,} items, slate {world.slots}, batch 10,000"]
            each = moved.bytes / 10_000
            said.append(
                f"- {short}: {each:,.0f} bytes a user-step in {moved.operations} operations, "
                f"{each * rate / 1e9:.1f} GB/s, {each * rate / bandwidth:.0%} of the copy bandwidth; "
                f"state {weight:,.0f} bytes a user"
            )
    said.append(f"\nThe heaviest state is that of {heaviest[1]}: {heaviest[0]:,.0f} bytes a user.")
    return said


if __name__ == "__main__":
    main()
