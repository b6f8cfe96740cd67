"""The Open Bandit sample: equal to its source and to what obp reads; and what bad files are told."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from simlab.datasets.contract import Dataset
from simlab.datasets.open_bandit import OpenBandit
from simlab.datasets.open_bandit_sample.build import build
from simlab.errors import BadInput
from simlab.parts import part

SHARED = Path(__file__).parents[2] / "../shared"
CSV = SHARED / "data/obd_small"
CASE = SHARED / "cases/ope/obd_random_to_bts_men.npz"
ITEMS = {"all": 80, "men": 34, "women": 46}
PARTS = [(policy, campaign) for policy in ("random", "bts") for campaign in ITEMS]
needs_csv = pytest.mark.skipif(
    not CSV.is_dir(), reason="the CSV files that the sample was made from are not here"
)


@pytest.mark.parametrize(("policy", "campaign"), PARTS)
def test_the_sample_loads(policy: str, campaign: str) -> None:
    data = OpenBandit(policy, campaign)
    log, catalog = data.load(), data.catalog()
    assert isinstance(data, Dataset)
    assert part("dataset", "open-bandit") is OpenBandit
    assert len(log) == 10_000
    assert log.n_items == catalog.n_items == ITEMS[campaign]
    assert log.policy == (policy,)
    assert log.position is not None
    assert log.features is not None
    assert log.position.bincount().nonzero().squeeze(1).tolist() == [0, 1, 2]
    assert log.user.tolist() == list(range(10_000))
    assert log.features.shape[1] == len(log.feature_names)
    assert catalog.features.shape[1] == len(catalog.feature_names)
    if policy == "random":
        assert torch.equal(log.propensity, torch.full((10_000,), 1 / ITEMS[campaign], dtype=torch.float64))


@pytest.mark.skipif(not CASE.is_file(), reason="the reference case is not here")
def test_equal_to_what_obp_reads() -> None:
    log = OpenBandit("random", "men").load()
    with np.load(CASE) as case:
        assert log.position is not None
        assert log.features is not None
        assert np.array_equal(log.slate[:, 0], case["action"])
        assert np.array_equal(log.reward, case["reward"])
        assert np.array_equal(log.propensity, case["pscore"])
        assert np.array_equal(log.position, case["position"])
        assert np.array_equal(log.features, case["context"])


@needs_csv
@pytest.mark.parametrize(("policy", "campaign"), PARTS)
def test_packaged_files_equal_the_csv(policy: str, campaign: str) -> None:
    folder = Path("simlab/datasets/open_bandit_sample") / policy / campaign
    packaged = pq.read_table(Path(__file__).parents[2] / folder / f"{campaign}.parquet").to_pandas()
    source = pd.read_csv(CSV / policy / campaign / f"{campaign}.csv", index_col=0)
    assert list(packaged.columns) == list(source.columns)
    assert (packaged.pop("timestamp") == pd.to_datetime(source.pop("timestamp"), format="ISO8601")).all()
    for name in source.columns:
        assert (packaged[name].astype(source[name].dtype) == source[name]).all(), name
    context = (Path(__file__).parents[2] / folder / "item_context.csv").read_bytes()
    assert context == (CSV / policy / campaign / "item_context.csv").read_bytes()


@needs_csv
@pytest.mark.parametrize("affinity", [False, True])
def test_csv_and_sample_give_the_same_log(affinity: bool) -> None:
    ours = OpenBandit("bts", "women", affinity=affinity).load()
    theirs = OpenBandit("bts", "women", root=CSV, affinity=affinity).load()
    assert ours.feature_names == theirs.feature_names
    assert ours.features is not None
    assert theirs.features is not None
    assert torch.equal(ours.features, theirs.features)
    for name in ("slate", "propensity", "reward", "position"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))
    raw = pd.read_csv(CSV / "bts/women/women.csv", index_col=0).sort_values("timestamp", kind="stable")
    if affinity:
        wanted = [f"user-item_affinity_{i}" for i in range(46)]
        assert list(ours.feature_names[-46:]) == wanted
        assert np.array_equal(ours.features[:, -46:], raw[wanted].to_numpy())
    dummies = pd.get_dummies(raw[[f"user_feature_{i}" for i in range(4)]], drop_first=True)
    assert list(dummies.columns) == list(ours.feature_names[: dummies.shape[1]])
    assert np.array_equal(ours.features[:, : dummies.shape[1]], dummies.to_numpy(dtype=float))


USER = "user_feature_0,user_feature_1,user_feature_2,user_feature_3"
HEADER = f"timestamp,item_id,position,click,propensity_score,{USER}"
LATE = "2019-11-24 00:00:09.5+00:00,1,3,1,0.5,b,x,y,z"
EARLY = "2019-11-24 00:00:09+00:00,0,1,0,0.5,a,x,y,z"
CONTEXT = "item_id,item_feature_0,item_feature_1,item_feature_2,item_feature_3\n1,0.5,q,r,s\n0,-0.5,p,r,s\n"


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., OpenBandit]:
    """Write a data set of two items and return its loader."""

    def write(*rows: str, header: str = HEADER, context: str = CONTEXT) -> OpenBandit:
        folder = tmp_path / "random/men"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "men.csv").write_text("\n".join([header, *rows]) + "\n", "utf-8")
        (folder / "item_context.csv").write_text(context, "utf-8")
        return OpenBandit(root=tmp_path)

    return write


def test_rows_come_in_order_of_time_and_items_in_order_of_id(small: Callable[..., OpenBandit]) -> None:
    data = small(LATE, EARLY)
    log = data.load()
    assert log.slate.tolist() == [[0], [1]]
    assert log.position is not None
    assert log.position.tolist() == [0, 2]
    assert log.reward.tolist() == [0, 1]
    assert log.feature_names == ("user_feature_0_b",)
    assert log.features is not None
    assert log.features.tolist() == [[0], [1]]
    assert data.catalog().features.tolist() == [[-0.5, 0], [0.5, 1]]
    assert data.catalog().feature_names == ("item_feature_0", "item_feature_1_q")


def test_the_packaged_form_of_other_data_loads_the_same(
    small: Callable[..., OpenBandit], tmp_path: Path
) -> None:
    wide = HEADER + ",user-item_affinity_0,user-item_affinity_1"
    data = small(LATE + ",0,2", EARLY + ",1,0", header=wide)
    build(tmp_path, tmp_path / "packed")
    for affinity in (False, True):
        ours = OpenBandit(root=tmp_path / "packed", affinity=affinity).load()
        assert ours.feature_names == OpenBandit(root=data.root, affinity=affinity).load().feature_names
        assert ours.slate.tolist() == [[0], [1]]
    assert ours.features is not None
    assert ours.features.tolist() == [[0, 1, 0], [1, 0, 2]]
    assert not list(tmp_path.rglob("*.partial"))


CELLS = [
    (",1,3,1,", ",7,3,1,", "column item_id, row 1: 7 is not one of the 2 items"),
    (",1,3,1,", ",-1,3,1,", "column item_id, row 1: -1 is not one of the 2 items"),
    (",1,3,1,", ",1.5,3,1,", "column item_id, row 1: 1.5 is not a whole number"),
    (",1,3,1,", ",one,3,1,", "column item_id, row 1: one is not a whole number"),
    (",1,3,1,", ",,3,1,", "column item_id, row 1: the value is missing"),
    (",1,3,1,", ",1,0,1,", "column position, row 1: 0 is not a position from 1 to 3"),
    (",1,3,1,", ",1,4,1,", "column position, row 1: 4 is not a position from 1 to 3"),
    (",1,3,1,", ",1,3,2,", "column click, row 1: 2 is neither 0 nor 1"),
    (",0.5,b", ",0,b", "column propensity_score, row 1: 0.0 is not a probability"),
    (",0.5,b", ",1.5,b", "column propensity_score, row 1: 1.5 is not a probability"),
    (",0.5,b", ",nan,b", "column propensity_score, row 1: the value is missing"),
    (",0.5,b", ",half,b", "column propensity_score, row 1: half is not a number"),
    (",b,x", ",,x", "column user_feature_0, row 1: the value is missing"),
    ("2019-11-24", "yesterday", "column timestamp, row 1: yesterday 00:00:09.5+00:00 is not a time"),
    (",b,x", ",b,x,x", "Expected 9 columns, got 10"),
]


@pytest.mark.parametrize(("old", "new", "sentence"), CELLS)
def test_a_wrong_cell_is_named(small: Callable[..., OpenBandit], old: str, new: str, sentence: str) -> None:
    assert old in LATE
    with pytest.raises(BadInput) as told:
        small(EARLY, LATE.replace(old, new)).load()
    assert sentence in str(told.value)
    assert "men.csv" in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("header", "context", "sentence"),
    [
        (HEADER.replace("click", "clicks"), CONTEXT, "men.csv has no column click; did you mean clicks?"),
        (HEADER, CONTEXT.replace("item_feature_2", "other"), "item_context.csv has no column item_feature_2"),
        (
            HEADER,
            CONTEXT.replace("\n1,", "\n2,"),
            "item_context.csv, column item_id, row 0: 2 breaks the count",
        ),
        (
            HEADER,
            CONTEXT.replace("\n0,", "\n1,"),
            "item_context.csv, column item_id, row 1: 1 breaks the count",
        ),
        (HEADER, CONTEXT.replace("-0.5", "inf"), "column item_feature_0, row 1: inf is not finite"),
        (HEADER, CONTEXT.splitlines()[0] + "\n", "item_context.csv has no rows"),
        (HEADER, "", "item_context.csv cannot be read as CSV: Empty CSV file"),
    ],
)
def test_a_wrong_file_is_named(
    small: Callable[..., OpenBandit], header: str, context: str, sentence: str
) -> None:
    with pytest.raises(BadInput) as told:
        small(EARLY, header=header, context=context).load()
    assert sentence in str(told.value)


def test_a_missing_part_is_named(small: Callable[..., OpenBandit], tmp_path: Path) -> None:
    for data, sentence in (
        (OpenBandit(campaign="woman"), "the sample has no campaign named woman; did you mean women?"),
        (OpenBandit(policy="randon"), "the sample has no logging policy named randon; did you mean random?"),
        (OpenBandit(root=tmp_path / "none"), "none is not a folder with the layout"),
        (OpenBandit(root=tmp_path), "has no logging policy named random"),
    ):
        with pytest.raises(BadInput) as told:
            data.load()
        assert sentence in str(told.value)
    data = small(EARLY)
    (tmp_path / "random/men/men.csv").unlink()
    with pytest.raises(BadInput, match=r"men\.csv is not there"):
        data.load()
    (tmp_path / "random/men/men.csv").mkdir()
    with pytest.raises(BadInput, match=r"men\.csv is not a file"):
        data.load()


def test_broken_bytes_are_refused(small: Callable[..., OpenBandit], tmp_path: Path) -> None:
    data = small(EARLY)
    where = tmp_path / "random/men/men.csv"
    where.write_bytes(where.read_bytes().replace(b",a,x", b",\xff,x"))
    with pytest.raises(BadInput, match=r"column user_feature_0, row 0: \\xff is not text in UTF-8"):
        data.load()
    whole = Path(__file__).parents[2] / "simlab/datasets/open_bandit_sample/random/men/men.parquet"
    (tmp_path / "random/men/men.parquet").write_bytes(whole.read_bytes()[:5000])
    with pytest.raises(BadInput, match=r"men\.parquet cannot be read as PARQUET"):
        data.load()
