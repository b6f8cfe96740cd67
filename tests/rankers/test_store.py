"""Rankers on disk: replaced whole, and refused in one sentence when something is wrong."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from simlab.errors import BadInput
from simlab.rankers.mf import MF
from simlab.rankers.neumf import NeuMF
from simlab.training.store import load_ranker, read_tensors, save_ranker, write_tensors
from tests.contracts.rankers import SIZES, context, make


def test_a_tuple_in_the_settings_stays_one(tmp_path: Path) -> None:
    ranker = NeuMF.build(SIZES, {"layers": (8, 4), "dim": 3})
    save_ranker(ranker, tmp_path)
    assert load_ranker(tmp_path).spec == ranker.spec


def test_a_second_save_replaces_the_first_and_leaves_nothing(tmp_path: Path) -> None:
    save_ranker(make(MF, 1), tmp_path)
    save_ranker(make(MF, 2), tmp_path)
    assert torch.equal(load_ranker(tmp_path)(context()), make(MF, 2)(context()))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("step", [1, 2])
def test_a_save_that_is_cut_off_leaves_the_old_ranker(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_ranker(make(MF, 1), tmp_path)
    real, calls = os.replace, [0]

    def dies(a: Path, b: Path) -> None:
        calls[0] += 1
        if calls[0] == step:
            raise OSError("disk full")
        real(a, b)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dies)
        with pytest.raises(OSError, match="disk full"):
            save_ranker(make(MF, 2), tmp_path)
    assert torch.equal(load_ranker(tmp_path)(context()), make(MF, 1)(context()))
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def _settings(folder: Path, **changes: object) -> None:
    path = folder / "ranker.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _weights(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def _change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(_weights(folder))
    change(tensors)
    save_file(tensors, _weights(folder))


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda f: (f / "ranker.json").unlink(), "there is no file .*ranker.json"),
        (lambda f: (f / "ranker.json").write_text("{"), "ranker.json is damaged or not JSON"),
        (lambda f: (f / "ranker.json").write_bytes(b"\xff\xfe{"), "ranker.json is damaged or not JSON"),
        (lambda f: (f / "ranker.json").write_text("[]"), "holds a JSON list, not an object"),
        (lambda f: _settings(f, version=9), "has version 9, but this simlab reads version 1"),
        (lambda f: _settings(f, ranker="mff"), "there is no ranker named mff; did you mean mf?"),
        (lambda f: _settings(f, spec={"dims": 3}), "no setting dims; did you mean dim?"),
        (lambda f: _settings(f, spec=3), "does not describe a ranker"),
        (lambda f: _settings(f, sizes={"n_users": 20, "n_items": "many"}), "does not describe a ranker"),
        (lambda f: _settings(f, sizes={"users": 20}), "does not describe a ranker"),
        (lambda f: _settings(f, weights="../x.safetensors"), "is outside the folder"),
        (lambda f: _settings(f, spec={"dim": 5}), r"weight items.fields.0.weight is \[4, 33\], not \[4, 6\]"),
        (lambda f: _weights(f).unlink(), "there is no file .*weights-.*, which .* names"),
        (lambda f: _weights(f).write_bytes(b"no"), "damaged or not a safetensors file"),
        (lambda f: _weights(f).write_bytes(_weights(f).read_bytes()[:-8]), "damaged or not a safetensors"),
        (lambda f: _change_weights(f, lambda t: t.pop("bias")), "lacks weight bias of ranker mf"),
        (
            lambda f: _change_weights(f, lambda t: t.update(more=torch.zeros(1))),
            "has an unknown weight more of ranker mf",
        ),
    ],
)
def test_refusals(harm: Callable[[Path], object], sentence: str, tmp_path: Path) -> None:
    save_ranker(make(MF), tmp_path)
    harm(tmp_path)
    with pytest.raises(BadInput, match=sentence) as caught:
        load_ranker(tmp_path)
    assert "\n" not in str(caught.value)


def test_tensors_with_facts(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.arange(3)}, {"best": 2})
    tensors, facts = read_tensors(path)
    assert tensors["a"].tolist() == [0, 1, 2]
    assert facts["best"] == 2
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(BadInput, match="was not written by simlab"):
        read_tensors(path)
    with pytest.raises(BadInput, match="there is no file"):
        read_tensors(tmp_path / "y.safetensors")
