"""The options of each command, as frozen data. Light: reading `--help` loads none of what a command needs.

Groups that commands share are bases; a dataclass shows the fields of its last base first.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class WorldOptions:
    """Which world and users, and how learned policies are trained."""

    world: str = "feed"
    """A world's name, such as feed (its newest version), or an id, such as Feed-v0; `simlab list worlds`
    shows them with their settings."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A setting of the world as FIELD=VALUE, such as boredom=0.0; may be repeated."""
    items: int | None = None
    """Number of items in the catalogue; short for --set items=N."""
    slots: int | None = None
    """Number of items in a slate; short for --set slots=K."""
    steps: int | None = None
    """Slates shown to each user; by default the world's time limit."""
    shard: int = 250
    """Users who share one market (its popularity), computed together. Part of the experiment: another shard
    size is another market. Fewer users than this share one market."""
    train_users: int = 2000
    """Users whom an agent meets in training, unless it says users=N; none of them is in the results."""
    train_steps: int | None = None
    """Slates shown to each training user; by default the world's time limit. An agent's own steps=N counts
    the slates of all its users."""
    device: str = "cpu"
    """Where users, policies and rankers are computed: cpu, or cuda where there is a GPU. Luck is the same on
    both; sums are rounded in another order."""
    seed: int = 0
    """Root of all randomness: the same seed gives the same results, bit for bit."""


@dataclass(frozen=True)
class _Folder:
    out: Path | None = None
    """Folder to write; by default runs/<command>-<time>-<hash>."""
    overwrite: bool = False
    """Replace an earlier run in --out, once this run has succeeded."""
    config: Path | None = None
    """YAML file with options of this command; what the command line says wins."""


@dataclass(frozen=True)
class _Compare:
    policies: tuple[str, ...] = ("random", "popularity", "oracle")
    """Policies, such as random, popularity, "softmax-popularity(sharpness=2)", "greedy(mf)",
    "softmax(neumf, temperature=0.5)", "epsilon(popularity, 0.1)", oracle, far-sighted,
    "learned(mf, debias=ips)", any agent, such as linucb, "ppo(gamma=0.9, steps=500000)" or
    "greedy(slateq(n_step=3))", or saved:FOLDER."""
    baseline: str | None = None
    """The policy that the others are compared with; by default the first."""
    users: int = 1000
    """Users met with each seed; a multiple of --shard, or fewer."""
    seeds: int = 5
    """Number of evaluation seeds; each brings new users and new markets."""
    confidence: float = 0.95
    """Level of the intervals, between 0 and 1."""
    workers: int = 1
    """Processes that share the work. The results do not depend on it."""
    resume: Path | None = None
    """Folder of a stopped comparison to go on with, with the options that it was started with."""


@dataclass(frozen=True)
class CompareConfig(_Folder, WorldOptions, _Compare):
    """Compare policies in one world over seeds, paired by common random numbers.

    Every policy meets the same users with the same luck, so the paired difference to a baseline needs far
    fewer users than two separate means. Writes a folder with results.parquet and report.html.
    """


@dataclass(frozen=True)
class _Log:
    policy: str = "softmax-popularity(sharpness=1)"
    """The policy that acts. One that never varies makes a log that tells nothing about other policies."""
    users: int = 1000
    """Users met; a multiple of --shard, or fewer."""
    slot_propensity: bool = True
    """Write the probability of each item at its slot too. For a softmax policy over many items that takes far
    longer than the users do."""


@dataclass(frozen=True)
class LogConfig(_Folder, WorldOptions, _Log):
    """Let a policy act in a world, and write what happened as a log with exact propensities.

    The log is log.parquet in the run's folder: one row per slate shown, for `simlab evaluate`.
    """


@dataclass(frozen=True)
class ListConfig:
    """Show the parts that are there, each with the first sentence of its description."""

    kind: tyro.conf.Positional[str] = "all"
    """worlds, click-models, rankers, policies, agents, estimators, datasets or all; or the name of a world,
    for its page and settings."""


@dataclass(frozen=True)
class DoctorConfig:
    """Check the installation: versions, device, threads, name clashes and a short self-test.

    Exit code 1 if something is wrong.
    """
