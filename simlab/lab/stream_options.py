"""Which options of `simlab evaluate` go with `--stream`; the others are refused, a sentence each."""

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from causal.stream.streamed import KINDS
from simlab.errors import BadInput
from simlab.lab.evaluation_units import COLUMN, check_unit
from simlab.lab.log_source import named

if TYPE_CHECKING:
    from simlab.lab.evaluate import EvaluateConfig

NO_MODEL = ("auto", "none")
"""Words of `--reward-model` for which a stream fits none: to fit one reads the log once more."""


def check_stream(config: "EvaluateConfig") -> None:
    """Refuse options that do not go together, before anything is read.

    Raises:
        BadInput: naming the option.
    """
    if not config.stream:
        _in_memory(config)
        return
    if named(config.log) is not None:
        raise BadInput(f"{config.log} is a data set, and --stream reads Parquet files")
    words = [w for w in (config.policy, config.versus) if w is not None]
    modelled = config.reward_model not in NO_MODEL
    for given, why in (
        (config.unit == "trajectory", "--unit trajectory: a session's rounds may lie in several batches"),
        (config.tune != "none", f"--tune {config.tune}: to choose on the log needs all its rows at once"),
        (config.recode, "--recode: to number the ids needs all of them at once"),
        (
            config.layout not in ("auto", "wide"),
            f"--layout {config.layout}: a stream reads a row for each round or slate, and tells the files of "
            "Open Bandit by their columns",
        ),
        (
            config.interval not in KINDS,
            f"--interval {config.interval}: it needs all rows, and sums give {', '.join(KINDS)}",
        ),
        (
            not modelled and config.folds != 3,
            "--folds without --reward-model: a stream fits only the reward model that is named",
        ),
        (
            modelled and config.unit == "slate",
            f"--reward-model {config.reward_model} with --unit slate: a stream models rounds alone",
        ),
    ):
        if given:
            raise BadInput(f"--stream does not go with {why}")
    for word in words:
        if not word.startswith(COLUMN):
            continue
        if not word.removeprefix(COLUMN).strip():
            raise BadInput("column: needs the name of a column, column:NAME")
        if modelled:
            raise BadInput(
                "a reward model needs to know all that the policy does, and a column does not say it: leave "
                f"--reward-model {config.reward_model} out"
            )
        if config.logger is not None:
            raise BadInput(
                f"--logger is for a policy, and {word} says itself how likely each slot is: leave it out"
            )
    if config.workers < 1 and config.workers != -1:
        raise BadInput(f"workers is {config.workers}, but it takes at least 1 (-1 is one for each core)")
    if config.checkpoint is not None and config.checkpoint.is_dir():
        raise BadInput(f"--checkpoint {config.checkpoint} is a folder, and it takes a file")
    if config.reward_range is not None and not config.reward_range[0] <= config.reward_range[1]:
        low, high = config.reward_range
        raise BadInput(f"reward range is {low:g} … {high:g}, but the lowest reward comes first")
    if config.unit != "auto":
        check_unit(config, config.unit)


def command_of(config: "EvaluateConfig") -> str:
    """Return the command line that says these options, for a sentence that asks to type it again."""
    words = ["simlab", "evaluate", config.log, *config.more]
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if f.name in ("log", "more", "config") or value == f.default:
            continue
        option = f"--{f.name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(option)
        elif f.name == "columns":  # said once for each
            words += [word for each in value for word in (option, str(each))]
        else:
            words += [option, *map(str, value if isinstance(value, tuple) else (value,))]
    return shlex.join(words)


def _in_memory(config: "EvaluateConfig") -> None:
    """Refuse what only a stream can do, and say how to have one."""
    if Path(config.log).is_dir():
        raise BadInput(f"{config.log} is a folder, and a folder of Parquet files is read with --stream")
    if config.more:
        raise BadInput(f"{config.more[0]} is a second file, and several are read with --stream")
    for name, given in (("--workers", config.workers != 1), ("--checkpoint", config.checkpoint is not None)):
        if given:
            raise BadInput(f"{name} is for --stream, and this evaluation reads the log whole")
