"""The command line teaches, refuses in one sentence, and never breaks an earlier run."""

import contextlib
import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

import simlab
from envs.registry import PREFIX, ids
from simlab.errors import BadInput
from simlab.lab import cli, doctor, names, runs
from simlab.lab.listing import KINDS, about, parts
from simlab.lab.worlds import build_world
from simlab.log import Log

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "econml", "pandas", "plotly", "pyarrow", "sklearn", "stable_baselines3")
TINY = ["--items", "50", "--slots", "3", "--users", "64", "--steps", "10"]


def ran(*arguments: str, cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, env=environment, timeout=120
    )


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in cli.COMMANDS)])
def test_help_teaches_and_loads_nothing_heavy(words: list[str]) -> None:
    program = (
        "import sys; from simlab.lab.cli import main; code = main(sys.argv[1:]); "
        f"print('LOADED', [m for m in {HEAVY!r} if m in sys.modules]); sys.exit(code)"
    )
    done = ran("-c", program, *words)
    assert done.returncode == 0, done.stderr
    assert "LOADED []" in done.stdout
    assert "example" in done.stdout
    assert done.stderr == ""


def test_every_option_is_explained() -> None:
    for name in cli.COMMANDS:
        kind = cli.load(cli.COMMANDS[name].options)
        done = ran("-m", "simlab", name, "--help")
        assert done.returncode == 0
        options = [line for line in done.stdout.splitlines() if line.startswith("│ ") and "--" in line[:6]]
        positional = {f for f in kind.__dataclass_fields__ if f in ("log", "more", "kind", "data")}
        named = [f for f in kind.__dataclass_fields__ if f not in positional]
        stated = [f for f in named if f"--{f.replace('_', '-')}" in done.stdout]
        assert stated == named
        assert len(options) == len(stated)
        text = " ".join(done.stdout.replace("\n│ --", "@ --").replace("│", " ").split())
        for option in stated:  # words follow the option's name and its kind of value
            after = re.split(rf"@ --{option.replace('_', '-')}[ ,]", text)[1].split("(default")[0]
            assert len(after.split()) > 5, f"simlab {name} --{option} is not explained"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"simlab {simlab.__version__}\n"


def test_without_a_command_the_overview_comes_as_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert all(name in said.err for name in cli.COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["compar"], "did you mean compare?"),
        (["--hlep"], "did you mean --help?"),
        (["compare", "--usrs", "3"], "--users"),
        (["compare", "--world", "fed"], "did you mean feed?"),
        (["compare", "--set", "boredm=0.0"], "did you mean boredom?"),
        (["compare", "--policies", "randm"], "did you mean random?"),
        (["compare", "--policies", "random", "oracle", "--baseline", "oracel"], "did you mean oracle?"),
        (["compare", "--policies", "greedy(mff)"], "did you mean mf?"),
        (["log", "--policy", "popularty"], "did you mean popularity?"),
        (["list", "wrlds"], "did you mean worlds?"),
    ],
)
def test_a_typo_is_answered_with_the_nearest(
    arguments: list[str], nearest: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert nearest in said.err
    assert "Traceback" not in said.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["compare", "--users", "0"], "users is 0, but a comparison needs at least one"),
        (["compare", "--users", "1001"], "1001 users do not fill shards of 250; use 1000 or 1250 users"),
        (["compare", "--shard", "0"], "shard is 0, but a market has at least one user"),
        (["compare", "--seeds", "0"], "seeds is 0, but a comparison needs at least one"),
        (["compare", "--workers", "0"], "workers is 0, but at least one process has to work"),
        (["compare", "--confidence", "95"], "confidence is 95.0, but it lies between 0 and 1, such as 0.95"),
        (["compare", "--steps", "99"], "steps is 99, but the world's time limit is 50"),
        (["compare", "--policies"], "a comparison needs at least one policy"),
        (["compare", "--policies", "random", "random"], "policy random is given twice"),
        (["compare", "--set", "boredom"], "--set boredom is not FIELD=VALUE, such as boredom=0.0"),
        (["compare", "--set", "boredom=high"], "--set boredom is 'high', but it is a number"),
        (["compare", "--set", "slots=2", "--slots", "3"], "slots is given twice: by --slots and by --set"),
        (["compare", "--set", "boredom=2"], "boredom is 2.0, but it is at least 0 and at most 1"),
        (["compare", "--items", "3", "--slots", "9"], "slots is 9, but there are only 3 items"),
        (["compare", "--config", "none.yaml"], "there is no file none.yaml"),
        (["compare", "--config"], "--config needs a value"),
        (["compare", "--resume", "nowhere"], "nowhere is not the folder of a stopped run"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert said.err.startswith("simlab: ")
    assert said.err.count("\n") == 1
    assert sentence in said.err
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_is_130(monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(path: str) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "load", stop)
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == "simlab: stopped\n"


def written(folder: Path, text: str) -> Path:
    file = folder / "settings.yaml"
    file.write_text(text, "utf-8")
    return file


def test_a_file_gives_defaults_and_the_command_line_wins(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "command: compare\nusers: 500\nseeds: 2\nset: {boredom: 0.0}\npolicies: [random, oracle]\n"
        "train-users: 7\nout: here\nconfidence: 0.9\nbaseline: null\n",
    )
    config = cli.read("compare", ["--config", str(file), "--seeds", "9", "--set", "slots=2"])
    assert (config.users, config.seeds, config.train_users) == (500, 9, 7)
    assert config.policies == ("random", "oracle")
    assert config.set == ("boredom=0.0", "slots=2")
    assert (config.out, config.confidence, config.baseline) == (Path("here"), 0.9, None)
    assert config.config == file


def test_an_option_without_a_default_may_come_from_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, "policy: popularity\n")
    config = cli.read("evaluate", ["log.parquet", "--config", str(file)])
    assert (config.log, config.policy) == ("log.parquet", "popularity")
    config = cli.read("evaluate", ["log.parquet", f"--config={file}", "--policy", "uniform"])
    assert config.policy == "uniform"
    with pytest.raises(SystemExit) as missing:
        cli.read("evaluate", ["--config", str(file)])
    assert missing.value.code == 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("usres: 3", "simlab compare has no option usres; did you mean users?"),
        ("users: many", "users is 'many', but it is a whole number"),
        ("users: true", "users is True, but it is a whole number"),
        ("confidence: [1]", "confidence is [1], but it is a number"),
        ("overwrite: 1", "overwrite is 1, but it is true or false"),
        ("command: log", "is for simlab log, not simlab compare"),
        ("config: other.yaml", "simlab compare has no option config"),
        ("- a\n- b", "holds list, not option: value lines"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_file_is_refused_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(BadInput) as wrong:
        cli.read("compare", ["--config", str(file)])
    assert sentence in str(wrong.value)
    assert str(file) in str(wrong.value)
    assert "\n" not in str(wrong.value)


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes("world: fé\n".encode("utf-16"))
    with pytest.raises(BadInput, match="cannot read"):
        cli.read("compare", ["--config", str(tmp_path / "x.yaml")])


@pytest.mark.parametrize("device", ["cuda:99", "cud", "tpu"])
def test_a_device_that_is_not_here_is_refused(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", "--device", device]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"device {device}" in said


def test_world_settings_are_read_as_their_fields_want() -> None:
    world = build_world(
        "feed", ["examination=1,0.5", "profile-noise=none", "boredom=0", "churn=1e-2"], slots=2
    )
    assert world.spec.examination == (1.0, 0.5)
    assert world.spec.profile_noise is None
    assert (world.spec.boredom, world.spec.churn, world.slots) == (0.0, 0.01, 2)


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    target = tmp_path / "run"
    broken = RuntimeError("broken")
    with contextlib.suppress(RuntimeError), runs.open_run("x", {"seed": 3}, out=target) as run:
        run.json("metrics.json", {})
        raise broken
    assert list(tmp_path.iterdir()) == []
    with runs.open_run("x", {"seed": 3, "where": Path("a")}, out=target) as run:
        assert not target.exists()
        run.json("metrics.json", {"a": 1})
    assert yaml.safe_load((target / "config.yaml").read_text()) == {"command": "x", "seed": 3, "where": "a"}
    assert json.loads((target / "seed.json").read_text()) == 3
    assert json.loads((target / "versions.json").read_text())["simlab"] == simlab.__version__
    assert json.loads((target / "metrics.json").read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [target]


def test_an_earlier_run_stays_until_the_new_one_has_succeeded(tmp_path: Path) -> None:
    target = tmp_path / "run"
    with runs.open_run("x", {"seed": 1}, out=target) as run:
        run.json("metrics.json", "first")
    with pytest.raises(BadInput, match="is not empty"), runs.open_run("x", {"seed": 2}, out=target):
        pass
    broken = RuntimeError("broken")
    with (
        contextlib.suppress(RuntimeError),
        runs.open_run("x", {"seed": 2}, out=target, overwrite=True) as run,
    ):
        run.json("metrics.json", "second")
        assert json.loads((target / "metrics.json").read_text()) == "first"
        raise broken
    assert json.loads((target / "metrics.json").read_text()) == "first"
    with runs.open_run("x", {"seed": 2}, out=target, overwrite=True) as run:
        run.json("other.json", "second")
    assert json.loads((target / "other.json").read_text()) == "second"
    assert not (target / "metrics.json").exists()
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_of_somebody_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with (
        pytest.raises(BadInput, match="was not written by simlab"),
        runs.open_run("x", {"seed": 1}, out=tmp_path, overwrite=True),
    ):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    with pytest.raises(BadInput, match="is a file"), runs.open_run("x", {}, out=tmp_path / "thesis.txt"):
        pass


def test_two_runs_of_one_name_do_not_mix(tmp_path: Path) -> None:
    with (
        runs.open_run("x", {"seed": 1}, out=tmp_path / "run"),
        pytest.raises(BadInput, match="holds an unfinished run"),
        runs.open_run("x", {"seed": 1}, out=tmp_path / "run"),
    ):
        pass
    assert runs.is_run(tmp_path / "run")


def test_default_folders_differ(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        with runs.open_run("compare", {"seed": 1}):
            pass
    made = sorted(p.name for p in (tmp_path / "runs").iterdir())
    assert len(made) == 2
    assert all(name.startswith("compare-") for name in made)


def test_log_writes_a_valid_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from simlab.tables import read_log

    out = tmp_path / "run"
    policy = "softmax-popularity(sharpness=1)"
    assert cli.main(["log", "--policy", policy, *TINY, "--shard", "32", "--out", str(out)]) == 0
    log = read_log(out / "log.parquet")
    assert (log.n_items, log.slots, int(log.user.max()) < 64, log.policy[0]) == (50, 3, True, policy)
    assert log.slot_propensity is not None
    # The top slot of a Plackett-Luce slate is one choice; the whole slate is that choice and two more.
    assert bool((log.propensity <= log.slot_propensity[:, 0] * (1 + 1e-9)).all())
    assert json.loads((out / "metrics.json").read_text())["rounds"] == len(log)
    assert {p.name for p in out.iterdir()} == {
        "config.yaml",
        "versions.json",
        "seed.json",
        "log.parquet",
        "metrics.json",
        "results.parquet",
        "report.html",
    }
    assert "log.parquet" in capsys.readouterr().out


def test_slot_propensities_may_be_left_out(tmp_path: Path) -> None:
    from simlab.tables import read_log

    assert cli.main(["log", *TINY, "--no-slot-propensity", "--out", str(tmp_path / "run")]) == 0
    assert read_log(tmp_path / "run" / "log.parquet").slot_propensity is None


def test_a_log_does_not_depend_on_where_it_is_cut(tmp_path: Path) -> None:
    """Where popularity is fixed, two shards of 32 are the same users as one of 64."""
    from simlab.tables import read_log

    logs: list[Log] = []
    for shard in ("32", "64"):
        out = tmp_path / shard
        calm = ["--set", "popularity_feedback=0", "--shard", shard, "--out", str(out)]
        assert cli.main(["log", *TINY, *calm]) == 0
        logs.append(read_log(out / "log.parquet"))
    assert bool((logs[0].slate == logs[1].slate).all())
    assert bool((logs[0].reward == logs[1].reward).all())


def test_list_names_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    said = capsys.readouterr().out
    for kind in KINDS.values():
        for name, words in parts(kind).items():
            assert name in said
            assert words, f"{kind} {name} says nothing of itself"
    assert cli.main(["list", "worlds"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for key in ids():
        assert key.removeprefix(PREFIX) in said


def test_list_shows_the_page_and_the_settings_of_a_world(capsys: pytest.CaptureFixture[str]) -> None:
    """The settings are those of the id, not the defaults of its class; the base's settings have words too."""
    assert cli.main(["list", "Boredom-v0"]) == 0
    said = capsys.readouterr().out
    assert "Episode end" in said
    rows = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line.strip()}
    assert rows["boredom"][0] == "1.0"
    assert rows["drift"][0] == "0.0"
    assert rows["slots"][:2] == ["10", "K,"]


def test_list_answers_any_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "trust-bias"]) == 0
    assert "trust-bias" in capsys.readouterr().out
    assert cli.main(["list", "fede"]) == 2
    assert capsys.readouterr().err == "simlab: there is nothing named fede; did you mean feed?\n"
    assert cli.main(["list", "zzzz"]) == 2
    assert capsys.readouterr().err == "simlab: there is nothing named zzzz; simlab list shows what there is\n"


def test_list_reads_files_without_running_them(tmp_path: Path) -> None:
    file = tmp_path / "part.py"
    file.write_text('"""A file."""\nraise SystemExit\n\nclass Mine:\n    """Does it well. And more."""\n')
    assert about(file) == "Does it well"


def test_doctor_finds_nothing_wrong_with_the_lab_itself() -> None:
    found = {f.check: f for f in doctor.examine()}
    for check in ("names", "world", "estimator", "device", "threads", "torch"):
        assert found[check].well, found[check].words


def test_doctor_says_what_is_wrong(monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> tuple[bool, str]:
        raise ImportError("no such library")

    monkeypatch.setattr(doctor, "CHECKS", {"device": broken})
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "WRONG" in said
    assert "ImportError: no such library" in said


def test_a_stranger_with_our_name_is_named(monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def two_owners() -> dict[str, list[str]]:
        return {"agents": ["simlab", "agents"], "simlab": ["simlab"]}

    monkeypatch.setattr(metadata, "packages_distributions", two_owners)
    assert names.owners() == {"agents": ["agents"]}
    well, words = doctor.CHECKS["names"]()
    assert not well
    assert "the package agents belongs to the installed agents" in words
    monkeypatch.setattr(names, "location", lambda name: Path("/elsewhere"))
    assert cli.main(["list"]) == 2
    assert "the package envs is found in /elsewhere" in capsys.readouterr().err
