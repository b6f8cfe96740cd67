"""Every notebook runs from top to bottom, and shows what its text says."""

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def run(path: Path) -> dict[str, Any]:
    """Run the code cells one after the other, as a kernel would, and return what they leave."""
    names: dict[str, Any] = {}
    for number, cell in enumerate(json.loads(path.read_text("utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), names)
    return names


def test_there_is_one() -> None:
    assert [path.name for path in NOTEBOOKS] == ["debiasing.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_no_output_is_kept(path: Path) -> None:
    """Outputs would be megabytes of somebody's run."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    assert all(not c["outputs"] and c["execution_count"] is None for c in cells if c["cell_type"] == "code")


def test_debiasing_says_what_happens() -> None:
    left = run(FOLDER / "debiasing.ipynb")
    ctr = left["ctr"]
    assert ctr.loc["clicks / impression", 0.0] == ctr.loc["clicks / examination", 0.0] > 0.8
    lost = ctr.loc["clicks / examination"] - ctr.loc["clicks / impression"]
    assert lost[0.0] < lost[0.5] < lost[1.0] < lost[1.5]
    assert left["gains"].loc["quality", "low"].min() > 0.02
    assert left["gains"].loc["taste", "gain"].max() < 0.05
    late = (
        left["inequality"].query("step == 45").pivot(index="policy", columns="feedback")["Gini of exposure"]
    )
    assert late.loc["popularity", "on"] > 0.9
    assert late["off"].max() < 0.2
    assert late.loc["softmax_popularity", "on"] > late.loc["softmax_popularity", "off"] + 0.05
