"""Comparisons are paired, repeat bit for bit, resume, and agree with a slow twin."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from envs.oracles import FarSighted, Oracle
from envs.rollout import roll
from envs.users.feed import Feed, FeedSpec
from simlab.errors import BadInput
from simlab.lab import cli, compare, jobs, runs
from simlab.lab.comparison import Comparison
from simlab.policy import Policy
from simlab.seeds import Seed

TINY = ["--items", "50", "--slots", "3", "--users", "64", "--shard", "32", "--steps", "10", "--seeds", "2"]
FILES = {
    "config.yaml",
    "versions.json",
    "seed.json",
    "metrics.json",
    "results.parquet",
    "users.parquet",
    "markets.parquet",
    "curves.parquet",
    "lorenz.parquet",
    "report.html",
}


@pytest.fixture(scope="module")
def world() -> Feed:
    return Feed(FeedSpec(items=50, slots=3, topics=4, horizon=10))


@pytest.fixture(scope="module")
def found(world: Feed) -> Comparison:
    policies: dict[str, Policy] = {"myopic": Oracle(world), "far": FarSighted(world)}
    return compare.compare(world, policies, users=64, shard=32, seeds=3)


def test_the_table_is_what_a_slow_twin_finds(world: Feed, found: Comparison) -> None:
    """Every number of a row, from the trajectories themselves."""
    seen = [
        roll(
            world,
            FarSighted(world),
            32,
            Seed(0).split("evaluate").split(s),
            first_user=jobs.FIRST_USER + 32 * shard,
        )
        for s in range(3)
        for shard in range(2)
    ]
    row = found.frame.set_index("policy").loc["far"]
    total = torch.cat([x.reward.sum(0) for x in seen]).double()
    assert row["return"] == pytest.approx(float(total.mean()), abs=1e-12)
    clicks = sum(float(x.click.sum()) for x in seen)
    there = sum(int(x.active.sum()) for x in seen)
    assert row["ctr"] == pytest.approx(clicks / (3 * there), abs=1e-12)
    assert row["reward_per_step"] == pytest.approx(clicks / there, abs=1e-12)
    gone = sum(int(x.terminated.any(0).sum()) for x in seen)
    assert row["active_end"] == pytest.approx(1 - gone / 192, abs=1e-12)
    shown = [torch.unique(x.slate[x.active]).numel() / 50 for x in seen]
    assert row["coverage"] == pytest.approx(np.mean(shown), abs=1e-12)
    assert (row["users"], row["markets"]) == (192, 6)
    curve = found.curves[found.curves["policy"] == "far"]
    assert curve["reward"].sum() == pytest.approx(row["return"], abs=1e-9)


def test_differences_are_paired_and_clustered_by_market(found: Comparison) -> None:
    """A Student-t interval over the six markets' mean differences, by hand."""
    from scipy.stats import t

    wide = found.users.pivot(index=["seed", "shard", "user"], columns="policy", values="return")
    market = (wide["far"] - wide["myopic"]).groupby(["seed", "shard"]).mean()
    row = found.frame.set_index("policy").loc["far"]
    assert found.clustered
    assert row["difference"] == pytest.approx(market.mean(), abs=1e-12)
    half = t.ppf(0.975, 5) * market.std(ddof=1) / np.sqrt(6)
    assert row["difference_upper"] - row["difference"] == pytest.approx(half, rel=1e-6)
    base = found.frame.set_index("policy").loc["myopic"]
    assert (base["difference"], base["difference_lower"], base["difference_upper"]) == (0, 0, 0)


def test_users_are_the_observations_where_nobody_moves_the_market(world: Feed) -> None:
    from dataclasses import replace

    calm = Feed(replace(world.spec, popularity_feedback=0.0))
    policies: dict[str, Policy] = {"myopic": Oracle(calm), "far": FarSighted(calm)}
    two = compare.compare(calm, policies, users=64, shard=32, seeds=1)
    one = compare.compare(calm, policies, users=64, shard=64, seeds=1)
    assert not two.clustered
    # The cut into shards changes nothing but what is said of markets.
    same = ["return", "return_lower", "difference", "difference_lower", "difference_upper", "ctr"]
    pd.testing.assert_frame_equal(two.frame[same], one.frame[same], check_exact=True)


def test_a_split_of_the_batch_gives_the_same_bits(world: Feed, found: Comparison) -> None:
    """Shards of 32: one alone, or seeds one at a time, are the rows of the whole."""
    policies: dict[str, Policy] = {"myopic": Oracle(world), "far": FarSighted(world)}
    parts = [compare.compare(world, policies, users=64, shard=32, seeds=[s]).users for s in (2, 0, 1)]
    parts = [compare.compare(world, policies, users=32, shard=32, seeds=3).users, *parts]
    key = ["policy", "seed", "user"]
    whole = found.users.set_index(key).sort_index()
    for part in parts:
        rows = part.set_index(key).sort_index()
        assert len(rows) in (3 * 2 * 32, 2 * 64)
        pd.testing.assert_frame_equal(rows, whole.loc[rows.index], check_exact=True)


def test_a_policy_against_itself_differs_by_nothing(world: Feed) -> None:
    twins = compare.compare(world, {"a": Oracle(world), "b": Oracle(world)}, users=32, shard=32, seeds=2)
    row = twins.frame.set_index("policy").loc["b"]
    assert (row["difference"], row["difference_lower"], row["difference_upper"]) == (0, 0, 0)


def test_the_lorenz_curve_has_the_area_of_the_gini_index(found: Comparison) -> None:
    for name, rows in found.lorenz.groupby("policy"):
        area = np.trapezoid(rows["exposure"], rows["items"])
        gini = found.frame.set_index("policy").loc[name, "gini"]
        assert 1 - 2 * area == pytest.approx(gini, abs=0.01)
        assert (rows["exposure"].iloc[0], rows["exposure"].iloc[-1]) == (0, 1)


def same(a: Path, b: Path) -> None:
    for name in sorted(f for f in FILES if f.endswith(".parquet")):
        left, right = pd.read_parquet(a / name), pd.read_parquet(b / name)
        pd.testing.assert_frame_equal(left, right, check_exact=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "one"
    policies = ["--policies", "random", "oracle", "epsilon(popularity, 0.1)"]
    assert cli.main(["compare", *policies, *TINY, "--out", str(out)]) == 0
    return out


def test_two_workers_give_the_same_bits(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "two"
    policies = ["--policies", "random", "oracle", "epsilon(popularity, 0.1)"]
    assert cli.main(["compare", *policies, *TINY, "--workers", "2", "--out", str(out)]) == 0
    same(run, out)


def test_a_run_leaves_everything_that_it_should(run: Path) -> None:
    assert {p.name for p in run.iterdir()} == FILES
    frame = pd.read_parquet(run / "results.parquet")
    assert list(frame["policy"]) == ["random", "oracle", "epsilon(popularity, 0.1)"]
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["policies"]["oracle"]["return"] == frame.set_index("policy").loc["oracle", "return"]
    page = (run / "report.html").read_text("utf-8")
    for words in (
        "epsilon(popularity, 0.1)",
        "Lorenz curve of exposure",
        "Difference to random",
        "Reward of each",
    ):
        assert words in page


def test_the_config_of_a_run_repeats_it(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    assert cli.main(["compare", "--config", str(run / "config.yaml"), "--out", str(out)]) == 0
    same(run, out)


def test_a_stopped_run_keeps_what_is_done_and_resumes(
    run: Path, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "stopped"
    policies = ["--policies", "random", "oracle", "epsilon(popularity, 0.1)"]
    real = jobs.work
    done: list[Any] = []

    def tired(*arguments: Any) -> Any:
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(arguments[1])
        return real(*arguments)

    monkeypatch.setattr(jobs, "work", tired)
    assert cli.main(["compare", *policies, *TINY, "--out", str(out)]) == 130
    said = capsys.readouterr().err
    assert f"stopped with 5 jobs finished; go on with: simlab compare --resume {out}.partial" in said
    assert not out.exists()
    partial = runs.unfinished(out)
    assert len(list((partial / "parts").iterdir())) == 5

    again: list[Any] = []

    def counted(*arguments: Any) -> Any:
        again.append(arguments[1])
        return real(*arguments)

    monkeypatch.setattr(jobs, "work", counted)
    assert cli.main(["compare", "--resume", str(partial)]) == 0
    assert len(again) == 12 - 5
    assert not set(again) & set(done)
    same(run, out)
    assert {p.name for p in out.iterdir()} == FILES
    assert not partial.exists()
    assert cli.main(["compare", "--resume", str(out)]) == 2
    assert "is complete, so there is nothing to resume" in capsys.readouterr().err


def test_an_interruption_from_the_keyboard_keeps_what_workers_have_done(tmp_path: Path) -> None:
    """As a terminal does it: the whole group of processes is interrupted at once."""
    words = ["--policies", "random", "oracle", "--users", "2000", "--shard", "20", "--workers", "2"]
    program = [sys.executable, "-m", "simlab", "compare", *words, "--out", str(tmp_path / "run")]
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        program,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        parts = tmp_path / "run.partial" / "parts"
        until = time.monotonic() + 120
        while not list(parts.glob("*.parquet")) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "jobs finished; go on with: simlab compare --resume" in said
    assert 1 <= len(list(parts.glob("*.parquet"))) < 1000
    assert not (tmp_path / "run").exists()


def test_a_run_resumes_with_its_own_settings_only(
    tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    real = jobs.work
    done: list[Any] = []

    def tired(*arguments: Any) -> Any:
        if done:
            raise KeyboardInterrupt
        done.append(real(*arguments))
        return done[0]

    monkeypatch.setattr(jobs, "work", tired)
    words = ["compare", "--policies", "oracle", "far-sighted", *TINY]
    assert cli.main([*words, "--out", str(out)]) == 130
    monkeypatch.setattr(jobs, "work", real)
    assert cli.main(["compare", "--resume", str(out), "--seed", "7"]) == 2
    assert "was started with seed 0, not 7" in capsys.readouterr().err
    assert cli.main([*words, "--out", str(out)]) == 2
    assert "holds an unfinished run" in capsys.readouterr().err
    stamp = runs.unfinished(out) / "versions.json"
    versions = stamp.read_text()
    stamp.write_text(json.dumps(json.loads(versions) | {"torch": "0.1"}))
    assert cli.main(["compare", "--resume", str(out)]) == 2
    assert "was started with torch 0.1" in capsys.readouterr().err
    stamp.write_text(versions)
    part = next((runs.unfinished(out) / "parts").iterdir())
    whole = part.read_bytes()
    part.write_bytes(whole[:-40])
    assert cli.main(["compare", "--resume", str(out)]) == 2
    assert "is not a finished job" in capsys.readouterr().err
    part.write_bytes(whole)
    assert cli.main(["compare", "--resume", str(out)]) == 0


def test_one_market_has_no_interval(world: Feed) -> None:
    """One user in one market is one observation: no interval is made up."""
    one = compare.compare(world, {"a": Oracle(world), "b": FarSighted(world)}, users=1, shard=1, seeds=1)
    assert one.frame[["return_lower", "return_upper"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"baseline": "c"}, "the baseline c is not one of the policies"),
        ({"seeds": [1, 1]}, "each once"),
        ({"seeds": 0}, "at least one seed"),
        ({"steps": 11}, "the world's time limit is 10"),
        ({"users": 33, "shard": 32}, "do not fill shards of 32; use 32 or 64 users"),
        ({"workers": 0}, "at least one process"),
        ({"confidence": 1.0}, "between 0 and 1"),
    ],
)
def test_what_is_no_comparison_is_refused(world: Feed, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        compare.compare(world, {"a": Oracle(world)}, **settings)
