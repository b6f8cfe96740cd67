"""`simlab uplift`: whom a treatment moves, by several learners, and how sure that is.

Importing this file is light: `--help` reads the options from it. The work is in `uplift_work.py`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class UpliftConfig:
    """Learn whom a treatment moves, and judge each learner on rows that it has not seen.

    Writes a folder with a row for each learner in results.parquet, the effects of each row in
    effects.parquet, metrics.json and report.html. Features that know the outcome or the arm, and arms
    that some rows could hardly get, are refused (exit code 2), and an earlier run's folder is then left as it
    was.
    """

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    """A Parquet or CSV file with a row for each customer, or a data set of simlab list trials with its file
    or folder, such as hillstrom:data/hillstrom or "ihdp(replication=3):data/ihdp"."""
    treatment: str | None = None
    """The column of arms: any few labels. Of a data set, which arms, if it has a choice: womens."""
    outcome: str | None = None
    """The column of outcomes: numbers, or true and false. Of a data set, which outcome, if it has a
    choice."""
    control: str | None = None
    """The label of the arm that the others are compared with; by default the smallest number: 0, false.
    Arms that are words need it."""
    features: tuple[str, ...] = ()
    """Columns that were known before the treatment, by name or pattern: --features age "x_*". By default all
    that have no other part."""
    drop: tuple[str, ...] = ()
    """Columns that are no features, by name or pattern; what was written after the treatment belongs here."""
    categories: tuple[str, ...] = ()
    """Features that are categories though they are numbers, by name or pattern; text always is one."""
    missing: Literal["refuse", "impute"] = "refuse"
    """What a missing feature is: refuse names the first row; impute puts the median, or a level of its own,
    and adds a column that says so."""
    user: str | None = None
    """The column that says whose row it is: folds keep users whole, and standard errors cluster by them."""
    weight: str | None = None
    """The column that says how much each row counts."""
    propensity: tuple[str, ...] = ()
    """The known chance of treatment: a number, or a column; with several arms one for each, control first.
    Without it chances are estimated, out of fold."""
    learners: tuple[str, ...] = ("quick",)
    """Learners, such as t-learner causal-forest; quick is a few that take seconds, and all is every one there
    is. simlab list uplift-learners shows them."""
    folds: int = 3
    """Folds of cross-fitting: every row is scored by a learner that has seen neither it nor its user."""
    test_share: float | None = None
    """Learn once and judge on this share of the rows (whole users), such as 0.3, in place of folds."""
    trim: float = 0.0
    """Leave out rows whose chance of some arm is below this, such as 0.05; the effects are then of the others
    alone."""
    cost: float = 0.0
    """What treating one row costs, in the unit of --value times outcome."""
    value: float = 1.0
    """What one unit of the outcome is worth, above 0."""
    budget: float | None = None
    """With --cost, what treating the judged rows may cost in all: says whom each learner would treat for it,
    what that gains, and what one more unit would return."""
    groups: int = 10
    """Groups of rows by predicted effect, of equal size, whose effects are drawn with intervals."""
    level: float = 0.95
    """Level of the intervals, between 0 and 1."""
    force: bool = False
    """Go on though a feature knows the outcome or the arm, an arm is tiny, or overlap is missing."""
    seed: int = 0
    """Root of all randomness: the same seed gives the same results, bit for bit."""
    out: Path | None = None
    """Folder to write; by default runs/uplift-<time>-<hash>."""
    overwrite: bool = False
    """Replace an earlier run in --out, once this run has succeeded."""
    resume: Path | None = None
    """Folder of a run that was stopped: go on with it; what was learned is kept."""
    config: Path | None = None
    """YAML file with options of this command; what the command line says wins."""


def run_uplift(config: UpliftConfig) -> int:
    """Learn and judge from the command line, and write the run's folder."""
    from simlab.lab.runs import open_run
    from simlab.lab.uplift_data import check
    from simlab.lab.uplift_report import print_result, write
    from simlab.lab.uplift_work import stopped, uplift

    check(config)
    with open_run("uplift", config, out=config.out, overwrite=config.overwrite, resume=config.resume) as run:
        try:
            result = uplift(config, run.parts)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(stopped(run)) from None
        write(run, result, config)
    print_result(result, run.target, config)
    return 0
