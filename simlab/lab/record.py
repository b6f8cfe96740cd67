"""`simlab log`: let a policy act in a world, and write what happened."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from simlab.lab.grammar import parse
from simlab.lab.jobs import FIRST_USER, one_thread, shards
from simlab.lab.runs import Run, open_run, resolved, versions
from simlab.log import Log, joined
from simlab.policy import Policy
from simlab.seeds import Seed

if TYPE_CHECKING:
    import pandas as pd

    from simlab.lab.options import LogConfig


def run_log(config: "LogConfig") -> int:
    """Write a log from the command line, in a run's folder."""
    from rich.console import Console

    from simlab.lab.compare import progress_bar, steps_of
    from simlab.lab.policies import Builder
    from simlab.lab.worlds import world_of
    from simlab.tables import write_log

    console, notes = Console(highlight=False), Console(stderr=True, highlight=False)
    call = parse(config.policy)
    world = world_of(config)
    count, size = shards(config.users, config.shard)
    steps = steps_of(world, config.steps)
    builder = Builder.of(config, world, lambda sentence: notes.print(sentence, markup=False))
    builder.check(call)
    began = perf_counter()
    with open_run("log", config, out=config.out, overwrite=config.overwrite) as run:
        policy = builder.build(call)
        with ExitStack() as stack:
            tick = progress_bar(stack, "steps", count * steps) if notes.is_terminal else (lambda: None)
            log = record(
                world,
                policy,
                str(call),
                shards=(count, size),
                steps=steps,
                seed=Seed(config.seed),
                slot_propensities=config.slot_propensity,
                tick=tick,
            )
        builder.save(run.folder / "rankers")
        write_log(log, run.folder / "log.parquet")
        found = summary(log, str(call))
        _leave(run, found, log, config, world, perf_counter() - began)
    for row in _facts(found).itertuples():
        console.print(f"{row.fact:>18}  {row.value}", markup=False)
    console.print(f"log: {run.target / 'log.parquet'}", markup=False, soft_wrap=True)
    return 0


def record(
    world: Any,
    policy: Policy,
    name: str,
    *,
    shards: tuple[int, int],
    steps: int,
    seed: Seed,
    slot_propensities: bool = True,
    tick: Callable[[], None] = lambda: None,
) -> Log:
    """Return the log of a policy that acts in a world.

    The luck is that of evaluation seed 0 of a comparison with the same root seed.

    Args:
        world: where.
        policy: who acts.
        name: what the log calls it.
        shards: how many markets there are, and of how many users.
        steps: slates shown to each user.
        seed: the root of all luck.
        slot_propensities: keep the probability of each item at its slot too.
        tick: called after each step of each shard.
    """
    count, size = shards
    from envs.rollout import roll

    logs = []
    with one_thread():
        for shard in range(count):
            seen = roll(
                world,
                policy,
                size,
                seed.split("evaluate").split(0),
                first_user=FIRST_USER + shard * size,
                steps=steps,
                propensities=True,
                slot_propensities=slot_propensities,
                tick=tick,
            )
            logs.append(seen.log(world))
    log = joined(logs)
    return replace(log, user=log.user - FIRST_USER, policy=(name,))


def summary(log: Log, policy: str) -> "pd.DataFrame":
    """Return one row that says what is in a log."""
    import pandas as pd
    import torch

    assert log.click is not None
    return pd.DataFrame(
        {
            "policy": [policy],
            "rounds": [len(log)],
            "users": [int(torch.unique(log.user).numel())],
            "items": [log.n_items],
            "items shown": [int(torch.unique(log.slate).numel())],
            "slots": [log.slots],
            "mean reward": [float(log.reward.mean())],
            "CTR": [float(log.click.mean())],
            "least propensity": [float(log.propensity.min())],
            "certain slates": [float((log.propensity == 1).double().mean())],
        }
    )


def _leave(
    run: Run, found: "pd.DataFrame", log: Log, config: "LogConfig", world: Any, seconds: float
) -> None:
    """Write results, metrics and the page."""
    import numpy as np
    import plotly.graph_objects as go

    from simlab.lab.figures import COLOURS
    from simlab.lab.report import Section, write_report

    run.table("results.parquet", found)
    run.json("metrics.json", {**found.iloc[0].to_dict(), "seconds": round(seconds, 3)})
    figures = []
    for title, values in (("whole slate", log.propensity), ("item at its slot", log.slot_propensity)):
        if values is None:
            continue
        count, edge = np.histogram(values.log10().numpy(), bins=40)
        bars = go.Bar(
            x=((edge[1:] + edge[:-1]) / 2).tolist(),
            y=count.tolist(),
            width=np.diff(edge).tolist(),
            marker={"color": COLOURS[0]},
        )
        figures.append(go.Figure(bars))
        figures[-1].update_layout(
            title={"text": f"Propensity of the {title}"},
            xaxis={"title": {"text": "log10 of the probability"}},
            yaxis={"title": {"text": "rounds" if title == "whole slate" else "items shown"}},
            meta={"alt": f"How likely what was logged was: the {title}."},
        )
    made = versions()
    write_report(
        run.folder / "report.html",
        f"Log of {config.policy} in {world.name}",
        [
            Section("What is in the log", _advice(found), table=_facts(found)),
            Section(
                "Propensities",
                "A policy can be evaluated from this log where it shows what the log has shown with some "
                "probability; the smaller the probabilities, the more rounds that takes.",
                figures=figures,
            ),
        ],
        {
            "summary": f"{len(log)} rounds, seed {config.seed}, simlab {made['simlab']}",
            **{k: str(v) for k, v in resolved("log", config).items()},
            "world settings": str(world.spec),
            **made,
        },
    )


def _facts(found: "pd.DataFrame") -> "pd.DataFrame":
    """Return the summary's one row as two columns of text."""
    import pandas as pd

    row = found.to_dict("records")[0]
    values = [
        f"{v:.6g}" if isinstance(v, float) else f"{v:,}" if isinstance(v, int) else v for v in row.values()
    ]
    return pd.DataFrame({"fact": list(row), "value": values})


def _advice(found: "pd.DataFrame") -> str:
    if float(found["certain slates"].iloc[0]) == 1:
        return (
            "The policy never varied: every slate was certain. Such a log says nothing about other policies; "
            "mix in chance, as in epsilon(POLICY, 0.1)."
        )
    return "Each row is one slate shown to one user, with the exact probability that it was shown."
