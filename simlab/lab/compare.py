"""`simlab compare`: policies × one world × seeds, paired by common random numbers."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from simlab.errors import BadInput, nearest
from simlab.lab.comparison import Comparison, merge
from simlab.lab.grammar import parse
from simlab.lab.jobs import Job, Plan, do_all, read_part, shards
from simlab.lab.runs import Run, open_run
from simlab.policy import Policy

if TYPE_CHECKING:
    from simlab.lab.options import CompareConfig


def compare(
    world: Any,
    policies: Mapping[str, Policy],
    *,
    users: int = 1000,
    seeds: int | Sequence[int] = 5,
    shard: int = 250,
    steps: int | None = None,
    baseline: str | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    workers: int = 1,
    parts: Path | None = None,
    progress: bool = False,
) -> Comparison:
    """Compare policies in a world. Every policy meets the same users with the same luck.

    Args:
        world: where they act.
        policies: by the name that tables show.
        users: users met with each seed: a multiple of `shard`, or fewer.
        seeds: how many evaluation seeds, or which.
        shard: users who share a market.
        steps: slates shown to each user; the world's horizon by default.
        baseline: the policy that the others are compared with; the first by default.
        confidence: level of the intervals.
        seed: root of all randomness.
        workers: processes; the results do not depend on it.
        parts: a folder that keeps finished jobs; those that it holds already are not done again.
        progress: show a bar on standard error.

    Raises:
        BadInput: for settings that make no comparison.
    """
    names = list(policies)
    chosen = _check(names, baseline, confidence, workers)
    which = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not which or len(set(which)) != len(which):
        raise BadInput(f"seeds is {seeds}, but a comparison needs at least one seed, each once")
    count, size = shards(users, shard)
    plan = Plan(world, size, steps_of(world, steps), seed, parts)
    jobs = [Job(p, s, h) for p in range(len(names)) for s in which for h in range(count)]
    kept = {}
    if parts is not None:
        parts.mkdir(parents=True, exist_ok=True)
        kept = {job: read_part(parts / job.file) for job in jobs if (parts / job.file).is_file()}
    open_jobs = [job for job in jobs if job not in kept]
    with ExitStack() as stack:
        step = progress_bar(stack, "jobs", len(jobs), len(kept)) if progress else (lambda: None)
        made = do_all(plan, open_jobs, policies, workers=workers, done=step)
    tables = [kept[job] if job in kept else made[job] for job in sorted(jobs)]
    return merge(
        tables, names, chosen, confidence, shared=shares_market(world), unit=getattr(world, "unit", "clicks")
    )


def steps_of(world: Any, steps: int | None) -> int:
    """Return how many slates each user sees.

    Raises:
        BadInput: if that is more than the world's time limit: nobody would be there to see them.
    """
    if steps is None:
        return int(world.horizon)
    if not 1 <= steps <= world.horizon:
        raise BadInput(
            f"steps is {steps}, but the world's time limit is {world.horizon}; change it with --set horizon=N"
        )
    return steps


def shares_market(world: Any) -> bool:
    """Tell whether users of one shard move each other: clicks move the popularity that all of them see."""
    market = getattr(world, "market", None)
    return True if market is None else bool(market.shared)


def run_compare(config: "CompareConfig") -> int:
    """Make a comparison from the command line, and write its folder."""
    from rich.console import Console

    from simlab.lab.compare_report import print_table, write
    from simlab.lab.policies import Builder
    from simlab.lab.worlds import world_of

    console, notes = Console(highlight=False), Console(stderr=True, highlight=False)
    calls = [parse(text) for text in config.policies]
    names = [str(call) for call in calls]
    baseline = None if config.baseline is None else str(parse(config.baseline))
    _check(names, baseline, config.confidence, config.workers)
    if config.seeds < 1:
        raise BadInput(f"seeds is {config.seeds}, but a comparison needs at least one")
    shards(config.users, config.shard)
    world = world_of(config)
    steps_of(world, config.steps)
    builder = Builder.of(config, world, lambda sentence: notes.print(sentence, markup=False))
    for call in calls:
        builder.check(call)
    began = perf_counter()
    with open_run("compare", config, out=config.out, overwrite=config.overwrite, resume=config.resume) as run:
        builder.keep = run.parts / "agents"
        try:
            result = compare(
                world,
                {name: builder.build(call) for name, call in zip(names, calls, strict=True)},
                users=config.users,
                seeds=config.seeds,
                shard=config.shard,
                steps=config.steps,
                baseline=baseline,
                confidence=config.confidence,
                seed=config.seed,
                workers=config.workers,
                parts=run.parts,
                progress=notes.is_terminal,
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_stopped(run)) from None
        builder.save(run.folder / "rankers")
        write(run, result, config, world, seconds=perf_counter() - began)
    print_table(console, result)
    console.print(f"report: {run.target / 'report.html'}", markup=False, soft_wrap=True)
    return 0


def _stopped(run: Run) -> str:
    """Say what a stopped run has kept."""
    done = len(list(run.parts.glob("*.parquet"))) if run.parts.is_dir() else 0
    if not done:
        return "stopped before any job was finished"
    return f"stopped with {done} jobs finished; go on with: simlab compare --resume {run.folder}"


def _check(names: list[str], baseline: str | None, confidence: float, workers: int) -> str:
    """Refuse what makes no comparison, and return the baseline."""
    if not names:
        raise BadInput("a comparison needs at least one policy")
    for i, name in enumerate(names):
        if name in names[:i]:
            raise BadInput(f"policy {name} is given twice")
    if baseline is not None and baseline not in names:
        raise BadInput(f"the baseline {baseline} is not one of the policies{nearest(baseline, names)}")
    if not 0 < confidence < 1:
        raise BadInput(f"confidence is {confidence}, but it lies between 0 and 1, such as 0.95")
    if workers < 1:
        raise BadInput(f"workers is {workers}, but at least one process has to work")
    return names[0] if baseline is None else baseline


def progress_bar(stack: ExitStack, unit: str, total: int, done: int = 0) -> Callable[[], None]:
    """Show a progress bar until the stack closes, and return what moves it by one."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = stack.enter_context(
        Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
    )
    task = bar.add_task(unit, total=total, completed=done)
    return lambda: bar.advance(task)
