"""The work of a comparison, cut into jobs: one policy, one seed, one shard of users who share a market.

A shard always has the same shape and its own keyed luck, so a job gives the same bits in any process, and the
jobs of one seed and shard meet the same users whatever the policy: they are paired.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simlab.errors import BadInput
from simlab.files import whole

if TYPE_CHECKING:
    import pyarrow as pa

    from simlab.policy import Policy

FIRST_USER = 1 << 20
"""Id of the first evaluation user. Training users count from 0, so the two never meet."""


@dataclass(frozen=True, order=True)
class Job:
    """One piece of work, and its place in the order in which results are merged.

    Attributes:
        policy: place of the policy in the comparison.
        seed: the evaluation seed.
        shard: place of the shard within the seed.
    """

    policy: int
    seed: int
    shard: int

    @property
    def file(self) -> str:
        """The name of the file in which the finished job is kept."""
        return f"policy{self.policy:03d}-seed{self.seed}-shard{self.shard:05d}.parquet"


@dataclass(frozen=True)
class Plan:
    """What every job needs to know.

    Attributes:
        world: where the policies act.
        users: users of each shard.
        steps: slates shown to each user.
        root: the root seed.
        parts: where finished jobs are kept, or None to keep them in memory only.
    """

    world: Any
    users: int
    steps: int
    root: int
    parts: Path | None = None


def shards(users: int, shard: int) -> tuple[int, int]:
    """Return (number of shards, users in each).

    >>> shards(1000, 250), shards(64, 250)
    ((4, 250), (1, 64))

    Raises:
        BadInput: if the users do not fill shards of one size; markets of two sizes are two experiments.
    """
    if users < 1:
        raise BadInput(f"users is {users}, but a comparison needs at least one")
    if shard < 1:
        raise BadInput(f"shard is {shard}, but a market has at least one user")
    size = min(users, shard)
    if users % size:
        low = users // size * size
        raise BadInput(f"{users} users do not fill shards of {size}; use {low} or {low + size} users")
    return users // size, size


def work(plan: Plan, job: Job, name: str, policy: "Policy") -> "pa.Table":
    """Do one job, and keep it as a file if the plan says where.

    Returns:
        One row: lists by user, by step and by item.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from torch.nn.functional import pad

    from envs.rollout import roll
    from simlab.seeds import Seed

    world = plan.world
    seed = Seed(plan.root).split("evaluate").split(job.seed)
    with one_thread():
        seen = roll(
            world, policy, plan.users, seed, first_user=FIRST_USER + job.shard * plan.users, steps=plan.steps
        )
    there = seen.active
    exposed = seen.slate[there].reshape(-1)
    n_items = world.catalog.n_items
    exposed = exposed[exposed < n_items]  # an empty slot shows nothing
    shown = (seen.slate < n_items).sum(2) * there
    columns: dict[str, Any] = {
        "policy": name,
        "seed": job.seed,
        "shard": job.shard,
        "user": seen.user,
        "return": seen.reward.double().sum(0),
        "clicks": seen.click.double().sum((0, 2)),
        "shown": shown.sum(0),
        "steps": there.sum(0),
        "stayed": ~seen.terminated.any(0),
        "step_reward": pad(seen.reward.double().sum(1), (0, plan.steps - len(there))),
        "step_active": pad(there.sum(1), (0, plan.steps - len(there))),
        "exposure": torch.bincount(exposed, minlength=n_items),
        "popularity_first": seen.popularity_first.double(),
        "popularity_last": seen.popularity_last.double(),
    }
    table = pa.table(
        {k: [v.tolist() if isinstance(v, torch.Tensor) else v] for k, v in columns.items()}, schema=schema()
    )
    if plan.parts is not None:
        with whole(plan.parts / job.file) as hidden:
            pq.write_table(table, hidden)
    return table


def schema() -> "pa.Schema":
    """Return the columns of a finished job."""
    import pyarrow as pa

    whole, real = pa.list_(pa.int64()), pa.list_(pa.float64())
    return pa.schema(
        {
            "policy": pa.string(),
            "seed": pa.int64(),
            "shard": pa.int64(),
            "user": whole,
            "return": real,
            "clicks": real,
            "shown": whole,
            "steps": whole,
            "stayed": pa.list_(pa.bool_()),
            "step_reward": real,
            "step_active": whole,
            "exposure": whole,
            "popularity_first": real,
            "popularity_last": real,
        }
    )


def do_all(
    plan: Plan,
    jobs: Sequence[Job],
    policies: Mapping[str, "Policy"],
    *,
    workers: int = 1,
    done: Callable[[], None] = lambda: None,
) -> "dict[Job, pa.Table]":
    """Do the jobs, in this process or in several.

    Args:
        plan: what every job needs.
        jobs: what to do.
        policies: by name, in the order that `Job.policy` counts.
        workers: how many processes.
        done: called after each job.
    """
    names = list(policies)
    if workers == 1:
        results = {}
        for job in jobs:
            name = names[job.policy]
            results[job] = work(plan, job, name, policies[name])
            done()
        return results
    from joblib import Parallel, delayed

    def calls() -> Iterator[Any]:
        for job in jobs:
            name = names[job.policy]
            yield delayed(_labelled)(plan, job, name, policies[name])

    results = {}
    for job, table in Parallel(n_jobs=workers, return_as="generator_unordered")(calls()):
        results[job] = table
        done()
    return results


def _labelled(plan: Plan, job: Job, name: str, policy: "Policy") -> "tuple[Job, pa.Table]":
    return job, work(plan, job, name, policy)


def read_part(file: Path) -> "pa.Table":
    """Read a finished job.

    Raises:
        BadInput: if the file is not one.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise BadInput(f"{file} is not a finished job: {error}") from None
    if table.schema.remove_metadata() != schema() or len(table) != 1:
        raise BadInput(f"{file} is not a finished job: it has other columns")
    return table


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: sums are then in one order, and workers do not fight over cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
