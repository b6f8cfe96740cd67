"""Returns of four yardsticks in every world, and the normalised score between the first and the last.

Random, the popularity rule, the myopic and the far-sighted oracle meet the same users under the same luck. A
score of 0 is random, 1 the far-sighted oracle (`envs.scores`); ± is a standard error.

    python benchmarks/returns.py --markdown docs/worlds.md      # some minutes
    python benchmarks/returns.py --quick
"""

import sys
from pathlib import Path

import torch
from rich.progress import track

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.harness import arguments, machine, write_page
from envs.oracles import FarSighted, Oracle
from envs.registry import PREFIX, ids, make_world
from envs.scores import normalised_scores
from simlab.policies.popularity import Popularity
from simlab.policies.random import Random
from simlab.policy import Policy
from simlab.seeds import Seed


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__ or "")
    torch.set_num_threads(1)
    users, shard = (100, 50) if options.quick else (1000, 250)
    lines = [
        "# Worlds",
        "",
        "`simlab list WORLD` shows a world's page: equations, observation, reward, versions and settings.",
        "",
        f"Made by `python benchmarks/returns.py --markdown docs/worlds.md`: {users:,} users in markets of "
        f"{shard}, seed 0, default settings ({machine()}). Returns are means per user and episode, in the "
        "world's unit; the score is 0 for random and 1 for the far-sighted oracle, ± one standard error.",
        "",
        "| id | unit | items × slots | random | popularity | myopic oracle | far-sighted | "
        "score of popularity | score of myopic |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for key in track(list(ids()), description="worlds"):
        world = make_world(key, options.device)
        policies: list[Policy] = [Random(), Popularity(), Oracle(world), FarSighted(world)]
        scores = normalised_scores(world, policies, Seed(0), users=users, shard=shard)
        means = " | ".join(f"{s.mean:.2f}" for s in scores)
        ends = " | ".join(f"{s.value:.3f} ± {s.stderr:.3f}" for s in scores[1:3])
        size = f"{world.catalog.n_items:,} × {world.slots}"
        if world.spec.candidates:
            size += f", {world.spec.candidates} candidates"
        lines.append(f"| {key.removeprefix(PREFIX)} | {world.unit} | {size} | {means} | {ends} |")
        print(lines[-1], flush=True)
    if options.markdown:
        write_page(options.markdown, lines)


if __name__ == "__main__":
    main()
