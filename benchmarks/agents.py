"""Speed of the slate learners: roll-outs, training, and the choice of a slate, one core.

All in simlab/SlateTopK-Bored-v0: 1,000 items, slates of 10. Beside each figure stands stable-baselines3's own
PPO on `MultiDiscrete([1000] * 10)` in the same world and run, whose slots are independent (the share of its
slates with a repeat is printed), and a plain loop: the same network, distribution and update written out by
hand without any of stable-baselines3.

    python benchmarks/agents.py                  # about six minutes
    python benchmarks/agents.py --quick
    python benchmarks/agents.py --device cuda    # wall seconds, synchronised
"""

import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agents.actor_critic.ppo import SlatePPO
from agents.maths._tables import Product, Table
from agents.maths.best_slate import dinkelbach
from agents.maths.plackett_luce import draw_slates, gumbel_top_k, slot_log_probs
from agents.value.slateq import SlateQ
from benchmarks.harness import Row, arguments, finish, machine, median_seconds, write_page
from envs.registry import make_world
from envs.sb3 import WorldVecEnv, make_sb3
from simlab.context import Context
from simlab.seeds import Seed

WORLD = "simlab/SlateTopK-Bored-v0"
ITEMS, SLOTS = 1000, 10
SPEC = {"past": 0}


def clock(device: str) -> float:
    """Return CPU seconds; on a device wall seconds, when it has finished."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def rate(learner: Any, steps: int, device: str) -> float:
    """Return user-steps per second of `learn`, after a first roll-out to warm up."""
    learner.learn(learner.n_envs * getattr(learner, "n_steps", 8), log_interval=None)
    first, start = learner.num_timesteps, clock(device)
    learner.learn(steps, log_interval=None, reset_num_timesteps=False)
    return float((learner.num_timesteps - first) / (clock(device) - start))


def only_rolls(learner: Any) -> Any:
    """Return the learner, whose training does nothing: what is left is the roll-out."""
    learner.train = lambda *args, **kwargs: None
    return learner


def ppo(envs: int, device: str, **settings: Any) -> SlatePPO:
    """Return our PPO with the settings of the learning page."""
    usual: dict[str, Any] = {"policy_kwargs": {"spec": SPEC}, "batch_size": 3200}
    usual |= {"n_steps": min(max(2, 25600 // envs), 100), **settings}
    return SlatePPO(env=WorldVecEnv(make_world(WORLD, device), envs), gamma=0.9, device=device, **usual)


def stock(envs: int) -> Any:
    """Return stable-baselines3's own PPO, one categorical for each slot."""
    from stable_baselines3 import PPO

    env = make_sb3(WORLD, envs)
    n_steps = max(2, 2048 // envs)
    return PPO(
        "MultiInputPolicy",
        env,
        n_steps=n_steps,
        batch_size=min(512, n_steps * envs),
        n_epochs=4,
        device="cpu",
    )


def repeats(model: Any) -> float:
    """Return the share of a stock policy's slates in which an item stands twice."""
    env = make_sb3(WORLD, 256)
    columns, _ = model.predict(env.reset())
    ordered = torch.from_numpy(columns).sort(1).values
    return float((ordered[:, 1:] == ordered[:, :-1]).any(1).float().mean())


def by_hand(steps: int, device: str, envs: int = 1024, horizon: int = 25) -> float:
    """Return user-steps per second of a plain loop: roll out, four epochs of PPO, no library around it."""
    world, seed = make_world(WORLD, device), Seed(0)
    network = ppo(envs, device).network
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    state, luck = world.reset(envs, seed), torch.Generator(device).manual_seed(0)
    done_steps, start = -envs * horizon, clock(device)
    while done_steps < steps:
        if done_steps == 0:  # the first roll-out and its passes were to warm up
            start = clock(device)
        seen: list[Context] = []
        kept: list[tuple[torch.Tensor, ...]] = []
        for _ in range(horizon):
            context = world.observe(state)
            with torch.no_grad():
                choice, future, slot = network(context)
                logits = choice.logits
                columns = gumbel_top_k(logits, SLOTS, luck)
                chance = slot_log_probs(logits, columns, entropy=None)[0]
            state, response = world.step(state, columns, seed)
            reward, done = response.reward / SLOTS, response.terminated | response.truncated
            if bool(done.any()):  # a time limit is no end: what would have followed counts
                with torch.no_grad():
                    reward = reward + 0.9 * network.values(world.observe(state)) * response.truncated
                state = world.renew(state, done, envs, seed)
            seen.append(context)
            kept.append((columns, chance, future + slot.sum(1), reward, response.click / SLOTS, done))
        columns, chance, value, reward, earned, done = (torch.stack(x) for x in zip(*kept, strict=True))
        gain, after = torch.empty_like(value), torch.zeros_like(value[0])
        follow = network.values(world.observe(state)).detach()
        for t in range(horizon - 1, -1, -1):
            delta = reward[t] + 0.9 * follow * ~done[t] - value[t]
            gain[t] = after = delta + 0.9 * 0.95 * after * ~done[t]
            follow = value[t]
        flat = [x.reshape(-1, *x.shape[2:]) for x in (columns, chance, earned, gain, gain + value)]
        features = torch.cat([c.features for c in seen])
        for _ in range(4):
            for batch in torch.randperm(len(features), device=device).split(3200):
                users = torch.zeros_like(batch)
                context = Context.of(users, ITEMS, features=features[batch])
                shown, old, own, gained, goal = (x[batch] for x in flat)
                choice, future, slot = network(context)
                now, entropy = slot_log_probs(choice.logits, shown)
                share = (own - slot.detach()) + (gained - (own - slot.detach()).sum(1)).unsqueeze(1)
                share = (share - share.mean()) / (share.std() + 1e-8)
                ratio = (now - old).exp()
                loss = (
                    -torch.min(share * ratio, share * ratio.clamp(0.8, 1.2)).mean() - 0.001 * entropy.mean()
                )
                loss = (
                    loss
                    + 0.5 * (future - goal + own.sum(1)).square().mean()
                    + 0.5 * (slot - own).square().mean()
                )
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
                optimizer.step()
        done_steps += envs * horizon
    return done_steps / (clock(device) - start)


def pieces(users: int = 4096) -> list[tuple[str, float]]:
    """Return what one user-step of PL-PPO is made of, in µs: names and CPU time, alone and warm."""
    luck, dim = torch.Generator().manual_seed(0), 32
    state = 0.2 * torch.randn(users, dim, generator=luck)
    product = Product(state, torch.randn(ITEMS, dim, generator=luck))
    table = Table.of(product)
    space = table.space(1)[0]

    def make() -> None:
        for part in table.parts():
            table.tile(part, space)

    columns = gumbel_top_k(product, SLOTS, luck)
    leaf = Product(state.clone().requires_grad_(), product.vectors.clone().requires_grad_())

    def learn() -> None:
        log_prob, entropy = slot_log_probs(leaf, columns)
        torch.autograd.backward(log_prob.sum() + entropy.sum())

    world, seed = make_world(WORLD), Seed(0)
    at = world.reset(users, seed)
    network = ppo(64, "cpu").network
    seen = world.observe(at, 0)
    with torch.no_grad():
        found = [
            ("scores alone: a matrix product in the cache", median_seconds(make, 9)),
            (
                "scores, slates drawn, log-probabilities",
                median_seconds(lambda: draw_slates(product, SLOTS, luck), 9),
            ),
            ("the actor's state", median_seconds(lambda: network.ranker.encode(seen), 9)),
            ("the critics' values", median_seconds(lambda: network.values(seen), 9)),
            ("the world's step", median_seconds(lambda: world.step(at, columns, seed), 9)),
            ("what the world shows of its users", median_seconds(lambda: world.observe(at, 0), 9)),
        ]
    name = "learning from one slate: log-probabilities, entropy, gradient"
    return [(n, 1e6 * s / users) for n, s in [*found, (name, median_seconds(learn, 9))]]


def main() -> None:
    """Measure, print, write."""
    options = arguments(__doc__ or "")
    torch.set_num_threads(1)
    device, quick = options.device, options.quick
    found: list[Row] = []

    def add(
        name: str,
        value: float,
        unit: str,
        peer: str | None = None,
        theirs: float | None = None,
        **settings: Any,
    ) -> None:
        ratio = None if not theirs else (theirs / value if unit.startswith("µs") else value / theirs)
        settings = {"world": WORLD, "items": ITEMS, "slots": SLOTS, **settings}
        found.append(Row(name, value, unit, peer if theirs else None, theirs, ratio, settings, device))
        print(f"{name}: {value:,.4g} {unit}" + (f"; {peer} {theirs:,.4g}" if theirs else ""), flush=True)

    sizes = (64, 4096) if quick else (1, 64, 1024, 4096)
    base: dict[str, dict[int, float]] = {"rolls": {}, "trains": {}}
    if not options.no_peer:
        for envs in (64,) if quick else (1, 64, 1024):
            model = stock(envs)
            base["trains"][envs] = rate(model, 2048 if quick else 4096, "cpu")
            base["rolls"][envs] = rate(only_rolls(stock(envs)), 2048 if quick else 4096, "cpu")
        print(f"slates of stock PPO with a repeat: {100 * repeats(model):.0f} %", flush=True)
    peer = "SB3 PPO, MultiDiscrete, same run"
    best = {k: max(v.values(), default=0.0) for k, v in base.items()}
    for envs in sizes:
        steps = min(max(2000, 60 * envs), 400_000) // (4 if quick else 1)
        ours = rate(only_rolls(ppo(envs, device)), steps, device)
        theirs = base["rolls"].get(envs, best["rolls"])
        add(f"PL-PPO, roll-out, {envs} users", ours, "user-steps / s", peer, theirs, users=envs)
    for envs in sizes:
        steps = min(max(1500, 30 * envs), 100_000) // (4 if quick else 1)
        add(f"PL-PPO, training, {envs} users", rate(ppo(envs, device), steps, device), "user-steps / s",
            peer, base["trains"].get(envs, best["trains"]), users=envs, epochs=4)  # fmt: skip
    envs = 1024
    fast = rate(ppo(envs, device), 26_000 if quick else 80_000, device)
    add("PL-PPO, training, 1024 users, beside a plain loop", fast, "user-steps / s",
        "the same by hand", by_hand(26_000 if quick else 80_000, device))  # fmt: skip
    slow = rate(only_rolls(ppo(envs, device, tensors=False)), 26_000, device)
    add("PL-PPO, roll-out on tensors, 1024 users", rate(only_rolls(ppo(envs, device)), 80_000, device),
        "user-steps / s", "the same through SB3's arrays", slow)  # fmt: skip
    for envs, batch in (
        ((64, 256), (4096, 256)) if quick else ((64, 256), (1024, 256), (4096, 256), (128, 2048))
    ):
        env = WorldVecEnv(make_world(WORLD, device), envs)
        how: dict[str, Any] = {"learning_starts": 0, "batch_size": batch, "explore": (0.1, 0.1, 0.5)}
        learner = SlateQ(env=env, device=device, policy_kwargs={"spec": SPEC}, **how)
        steps = min(60 * envs, 200_000) // (4 if quick else 1)
        replay = f"{batch / envs:.2g} times replayed"
        add(f"SlateQ, training, {envs} users, each user-step {replay}", rate(learner, steps, device),
            "user-steps / s", users=envs, **how)  # fmt: skip
    generator = torch.Generator(device).manual_seed(0)
    odds = torch.randn(1024, ITEMS, generator=generator, device=device).exp()
    value = torch.rand(1024, ITEMS, generator=generator, device=device) * 10
    one, none = torch.ones(1024, device=device), torch.zeros(1024, device=device)
    sync: Callable[[], Any] | None = None if device == "cpu" else torch.cuda.synchronize
    seconds = median_seconds(lambda: dinkelbach(odds, value, one, none, SLOTS), 9, sync=sync)
    add("best slate of 10 of 1,000, exact", 1e6 * seconds / 1024, "µs / user")
    for name, micros in pieces() if device == "cpu" else []:
        add(f"part: {name}", micros, "µs / user-step")
    clocks = "CPU seconds, one core" if device == "cpu" else "wall seconds"
    finish(f"Slate learners, {clocks}", found, options.json)
    if options.markdown:
        write_page(options.markdown, page(found, device))


def page(found: list[Row], device: str) -> list[str]:
    """Return the table as a page."""
    clocks = "CPU seconds on one core" if device == "cpu" else "wall seconds"
    lines = [
        "# Speed of the slate learners",
        "",
        "Made by `python benchmarks/agents.py --markdown docs/agents/speed.md` on",
        f"{machine()}; device {device}; {clocks}, peers in the same run. Where a peer was not",
        "measured at a number of users, its best other figure stands beside ours. On the results page SlateQ",
        "learns with sixteen replays of each user-step; with fewer it is faster and learns less from a step.",
        "",
        "| what | value | unit | beside | its value | ratio |",
        "|---|---:|---|---|---:|---:|",
    ]
    for r in found:
        peer = "" if r.peer_value is None else f"{r.peer_value:,.4g}"
        ratio = "" if r.ratio is None else f"{r.ratio:,.1f}"
        lines.append(f"| {r.name} | {r.value:,.4g} | {r.unit} | {r.peer or ''} | {peer} | {ratio} |")
    parts = {r.name.removeprefix("part: "): r.value for r in found if r.name.startswith("part: ")}
    return lines + (limits(parts) if parts else [])


def limits(parts: dict[str, float]) -> list[str]:
    """Return what bounds a user-step, as lines of the page."""
    alone = parts["scores alone: a matrix product in the cache"]
    drawn = parts["scores, slates drawn, log-probabilities"]
    rest = [parts[k] for k in ("the actor's state", "the critics' values", "the world's step")]
    whole = drawn + sum(rest) + parts["what the world shows of its users"]
    flops = 2 * 32 * ITEMS
    # 30 features → 32 → 128 → 32 of the actor and again of the critics, whose heads are 32 → 64 → 1 and 10.
    nets = 2 * (2 * (30 * 32 + 2 * 32 * 128) + 2 * 32 * 64 + 64 * 11)
    speed = flops / alone / 1000
    paragraphs = [
        f"A user-step of PL-PPO scores {ITEMS:,} items: {flops / 1000:,.0f} kFLOP in a product of width 32, "
        f"at {speed:,.0f} GFLOP/s {alone:.2f} µs. While a row of 4 kB is in the first-level cache, a "
        "compiled loop takes its exponentials, their sums by 8, by 64 and in all, and draws: a point of the "
        "mass is found by these sums without a branch, and what is drawn already is passed over. So a draw "
        "costs tens of reads, not a thousand. "
        f"Scores, slates and log-probabilities are {drawn:.2f} µs.",
        f"The parts of a roll-out's user-step are {whole:.2f} µs where nothing else disturbs the caches, so "
        f"{1e3 / whole:,.0f},000 user-steps / s are the most; 550,000 would be 1.82 µs. The products of "
        f"scores, actor and critics alone are {(flops + nets) / 1000:,.0f} kFLOP, "
        f"{(flops + nets) / speed / 1000:.2f} µs at the speed of the scores. What would have to shrink are "
        "the exponentials and draws, and the small operations of the world and the networks.",
        "Learning makes the scores again for the gradient (three more products) rather than keep them; with "
        "four passes over a roll-out it does so four times for each user-step.",
        "SlateQ's best slates are found row by row too: four looks at all v (q - λ) guess λ and the least of "
        "the slate; then Newton's steps look at the few values above that. What else a user-step costs are "
        "two products (values and odds), exponentials, and its share of a gradient step, whose hundreds of "
        "small operations are shared by the users of a step.",
        "Loops are compiled at first use, which takes some ten seconds in all, and kept in `__pycache__`.",
    ]
    lines = ["", "## What limits it"]
    for paragraph in paragraphs:
        lines += ["", *textwrap.wrap(paragraph, 110, break_long_words=False, break_on_hyphens=False)]
    return lines


if __name__ == "__main__":
    main()
