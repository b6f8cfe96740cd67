"""Turn the Open Bandit Dataset's CSV layout into the packaged one: the same columns and values as Parquet.

Run `python -m simlab.datasets.open_bandit_sample.build SOURCE TARGET`; it also makes the full data quicker
to load.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import yaml

from simlab.datasets.open_bandit import OpenBandit, columns
from simlab.datasets.open_bandit_sample.cells import read


def build(source: Path, target: Path) -> None:
    """Write `<policy>/<campaign>/<campaign>.parquet` and `item_context.csv` for all that is in the source.

    Where the source has `prior_bts.yaml`, it becomes `priors.json`.

    Raises:
        BadInput: for a source that cannot be read.
    """
    for path in sorted(source.glob("*/*/item_context.csv")):
        campaign, policy = path.parent.name, path.parent.parent.name
        n_items = OpenBandit(policy, campaign, source).catalog().n_items
        table = read(path.parent / f"{campaign}.csv", columns(n_items))
        folder = target / policy / campaign
        folder.mkdir(parents=True, exist_ok=True)
        # Dictionaries and zstd take the affinities, 99.9 % of them zero, down to almost nothing.
        partial = folder / f"{campaign}.parquet.partial"
        pa.parquet.write_table(
            table,
            partial,
            compression="zstd",
            compression_level=19,
            use_dictionary=[name for name in table.column_names if name != "timestamp"],
            column_encoding={"timestamp": "DELTA_BINARY_PACKED"},
            write_statistics=False,
        )
        os.replace(partial, folder / f"{campaign}.parquet")
        partial = folder / "item_context.csv.partial"
        shutil.copyfile(path, partial)
        os.replace(partial, folder / "item_context.csv")
    priors = source / "prior_bts.yaml"
    if priors.is_file():
        found = yaml.safe_load(priors.read_text("utf-8"))
        lines = ",\n".join(f' "{name}": {json.dumps(value)}' for name, value in found.items())
        partial = target / "priors.json.partial"
        partial.write_text(f"{{\n{lines}\n}}\n", "utf-8")
        os.replace(partial, target / "priors.json")


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]))
