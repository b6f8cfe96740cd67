"""The command line: `simlab compare | evaluate | uplift | log | list | doctor`.

Nothing heavy is imported before a command runs, so `--help` answers at once.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from simlab import __version__
from simlab.errors import BadInput, nearest


@dataclass(frozen=True)
class Command:
    """Where a command's options and its work live, and an example of it.

    Attributes:
        options: "module:class" of the frozen dataclass of its options.
        work: "module:function" that takes the options and returns an exit code.
        about: one line for `simlab --help`.
        examples: lines to type.
    """

    options: str
    work: str
    about: str
    examples: tuple[str, ...]


COMMANDS = {
    "compare": Command(
        "simlab.lab.options:CompareConfig",
        "simlab.lab.compare:run_compare",
        "Compare policies in one world over seeds, paired by common random numbers.",
        (
            "simlab compare --policies random popularity oracle --users 1000 --seeds 5",
            'simlab compare --policies random "greedy(mf)" "learned(mf, debias=ips)" --workers 2',
            "simlab compare --policies oracle far-sighted --set boredom=0.0 --out runs/no-boredom",
        ),
    ),
    "evaluate": Command(
        "simlab.lab.evaluate:EvaluateConfig",
        "simlab.lab.evaluate:run_evaluate",
        "Say from a log what another policy would have earned, and how sure that is.",
        (
            "simlab evaluate runs/log/log.parquet --policy popularity",
            "simlab evaluate logs/2026 --stream --policy column:target --workers 8 --checkpoint state",
        ),
    ),
    "uplift": Command(
        "simlab.lab.uplift:UpliftConfig",
        "simlab.lab.uplift:run_uplift",
        "Say from a trial whom a treatment moves, by several learners, and how sure that is.",
        (
            "simlab uplift trial.parquet --treatment arm --outcome visit --propensity 0.5",
            "simlab uplift hillstrom:data/hillstrom --treatment womens --outcome visit --cost 0.01",
        ),
    ),
    "log": Command(
        "simlab.lab.options:LogConfig",
        "simlab.lab.record:run_log",
        "Let a policy act in a world, and write a log with exact propensities.",
        (
            'simlab log --policy "softmax-popularity(sharpness=1)" --users 1000 --out runs/log',
            'simlab log --policy "epsilon(popularity, 0.2)" --items 100 --slots 3',
        ),
    ),
    "list": Command(
        "simlab.lab.options:ListConfig",
        "simlab.lab.listing:run_list",
        "Show the worlds, rankers, policies, estimators and data sets that are there.",
        ("simlab list", "simlab list worlds"),
    ),
    "doctor": Command(
        "simlab.lab.options:DoctorConfig",
        "simlab.lab.doctor:run_doctor",
        "Check the installation.",
        ("simlab doctor",),
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0 is success, 2 input that its owner can mend, 130 an interruption; 1 is a finding of `doctor` or a
    file system that refuses.

    Args:
        argv: the arguments; by default those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except BadInput as wrong:
        return _say(str(wrong), 2)
    except KeyboardInterrupt as stop:
        return _say(str(stop) or "stopped", 130)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone; the interpreter need not complain
        return 141
    except OSError as error:
        if error.filename is None and error.strerror is None:
            raise
        return _say(f"{error.filename or 'a file'}: {error.strerror}", 1)
    except SystemExit as done:  # the option reader has said what it had to say
        return done.code if isinstance(done.code, int) else 0


def _run(arguments: list[str]) -> int:
    if "--version" in arguments[:1]:
        print(f"simlab {__version__}")
        return 0
    from simlab.lab.names import check_names

    check_names()
    name = next((a for a in arguments if not a.startswith("-")), None)
    if name is not None and arguments[0] == name and name not in COMMANDS:
        raise BadInput(f"there is no command {name}{nearest(name, COMMANDS)}")
    if name is None or arguments[0] != name:
        return _overview(arguments)
    config = read(name, arguments[1:])
    code = load(COMMANDS[name].work)(config)
    assert isinstance(code, int)
    return code


def read(name: str, arguments: Sequence[str]) -> Any:
    """Return the options of a command from its arguments, and from the file that `--config` names.

    With `--resume FOLDER` the settings of the stopped run are the defaults.
    """
    import tyro

    from simlab.lab.runs import settings_of
    from simlab.lab.yaml_defaults import defaults

    command = COMMANDS[name]
    kind = load(command.options)
    said, rest = _taken("--config", list(arguments))
    stopped, _ = _taken("--resume", list(arguments))
    file = Path(said) if said is not None else None if stopped is None else settings_of(Path(stopped))
    about = " ".join((kind.__doc__ or command.about).split())
    default: dict[str, Any] = {} if file is None else {"default": defaults(kind, name, file)}
    if said is not None and "config" in kind.__dataclass_fields__:
        rest = [*rest, "--config", said]
    try:
        return tyro.cli(kind, prog=f"simlab {name}", description=about, args=rest, **default)
    except SystemExit as done:
        if done.code in (0, None) and any(a in ("-h", "--help") for a in rest):
            _examples(command)
        raise


def load(path: str) -> Any:
    """Import "module:name"."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def _overview(arguments: list[str]) -> int:
    """Answer `simlab`, `simlab --help` and a typo in a global option."""
    known = ("--help", "-h", "--version")
    if arguments and arguments[0] not in known:
        raise BadInput(f"there is no option {arguments[0]} before a command{nearest(arguments[0], known)}")
    import rich.box
    from rich.console import Console
    from rich.table import Table

    console = Console(file=sys.stdout if arguments else sys.stderr, highlight=False)
    console.print("usage: simlab COMMAND [OPTIONS]\n", markup=False)
    console.print("A lab for recommenders: simulated users, slate agents, off-policy evaluation, uplift.\n")
    table = Table(box=rich.box.SIMPLE, show_header=False, pad_edge=False)
    for name, command in COMMANDS.items():
        table.add_row(f"[bold]{name}[/bold]", command.about)
    console.print(table)
    console.print("simlab COMMAND --help explains every option of a command.")
    console.print("simlab --version prints the version.\n")
    console.print("example:\n  " + COMMANDS["compare"].examples[0], markup=False, soft_wrap=True)
    return 0 if arguments else 2


def _examples(command: Command) -> None:
    print("examples:" if len(command.examples) > 1 else "example:")
    for line in command.examples:
        print(f"  {line}")


def _taken(option: str, arguments: list[str]) -> tuple[str | None, list[str]]:
    """Take an option with its value out of the arguments."""
    rest: list[str] = []
    found: str | None = None
    words = iter(arguments)
    for word in words:
        if word == option:
            found = next(words, None)
            if found is None:
                raise BadInput(f"{option} needs a value: {option} PATH")
        elif word.startswith(f"{option}="):
            found = word.removeprefix(f"{option}=")
        else:
            rest.append(word)
    return found, rest


def _say(sentence: str, code: int) -> int:
    print(f"simlab: {sentence}", file=sys.stderr)
    return code
