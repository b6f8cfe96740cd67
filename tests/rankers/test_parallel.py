"""Two processes under torchrun give the loss curve of one process with twice the batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from simlab.parts import part
from simlab.rankers.contract import Sizes
from simlab.seeds import Seed
from simlab.training import parallel
from simlab.training.fit import FitSettings, fit
from tests.rankers.worlds import planted

torch.set_num_threads(1)
family, settings, folder = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
log = planted(users=60, items=30, rounds=15).log
ranker = part("ranker", family).build(Sizes.of(log), {}, None, Seed(1))
watch = folder / "watch"
if settings.pop("broken", False) and int(__import__("os").environ.get("RANK", "0")) == 1:
    score = ranker.score
    ranker.score = lambda *args: score(*args) * torch.nan
try:
    how = FitSettings(**settings)
    done = fit(ranker, log, seed=Seed(0), settings=how, checkpoint=folder / "fit.ckpt", watch=watch)
except Exception as error:
    rank, size = parallel.world()
    (folder / f"said-{rank}-of-{size}.json").write_text(json.dumps({"error": str(error)}))
    import os; os._exit(0)  # a traceback keeps the graph, which blocks the end of the process group
weights = [float(v.double().sum()) for v in ranker.state_dict().values()]
said = {"train": done.train, "validation": done.validation, "weights": weights}
rank, size = parallel.world()
(folder / f"said-{rank}-of-{size}.json").write_text(json.dumps(said))
if size > 1:
    torch.distributed.destroy_process_group()
"""

ROOT = Path(__file__).parents[2]
ENV = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}


def launch(
    folder: Path, processes: int, family: str, settings: dict[str, object]
) -> list[dict[str, list[float]]]:
    """Run the script in as many processes, and return what each says."""
    folder.mkdir()
    script = folder / "script.py"
    script.write_text(SCRIPT)
    # A rendezvous of its own, so that runs side by side do not meet.
    run = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(run if processes > 1 else []), str(script), family, json.dumps(settings)]
    got = subprocess.run(
        [*command, str(folder)], cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=300
    )
    assert got.returncode == 0, got.stderr[-3000:]
    return [json.loads(p.read_text()) for p in sorted(folder.glob("said-*.json"))]


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("mf", {"loss": "bce", "negatives": 2}),
        ("neumf", {"loss": "bpr"}),
    ],
)
def test_two_processes_are_one_with_twice_the_batch(
    tmp_path: Path, family: str, settings: dict[str, object]
) -> None:
    common = {"epochs": 3, "min_steps": 1, "learning_rate": 0.002, "split": "round", **settings}
    two = launch(tmp_path / "two", 2, family, {**common, "batch_size": 500})
    one = launch(tmp_path / "one", 1, family, {**common, "batch_size": 1000})
    assert len(two) == 2
    assert two[0] == two[1]
    for key in ("train", "validation"):
        assert two[0][key] == pytest.approx(one[0][key], rel=2e-4, abs=2e-4), key
    half = launch(tmp_path / "half", 1, family, {**common, "batch_size": 500})
    assert half[0]["train"] != pytest.approx(one[0]["train"], rel=2e-4)
    assert (tmp_path / "two" / "watch" / "progress.csv").read_text().count("\n") == 4


def test_a_loss_that_breaks_in_one_process_stops_all(tmp_path: Path) -> None:
    settings: dict[str, object] = {"epochs": 2, "min_steps": 1, "split": "round", "broken": True}
    said = launch(tmp_path / "two", 2, "mf", {**settings, "batch_size": 10**6})
    assert len(said) == 2
    for each in said:
        assert "the loss of epoch 1 is not a number from step 1 of 1" in str(each["error"])
