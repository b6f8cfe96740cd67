"""Evaluate logs that do not fit in memory: Parquet in, sums of scores out.

`stream` reads files in record batches, one `Weigh` turns each batch into rounds or slates, the estimators'
scores are added up, and the rows are gone. Start with `weigh.py` to see what can be read, then `run.py`.

>>> import tempfile, pyarrow as pa, pyarrow.parquet as pq
>>> from causal.bandit.ips import IPS
>>> rows = {"user": [0, 1, 1], "propensity": [0.5, 0.5, 0.25], "reward": [1.0, 0.0, 1.0], "pi": [0.5] * 3}
>>> with tempfile.TemporaryDirectory() as folder:
...     pq.write_table(pa.table(rows), f"{folder}/day-1.parquet")
...     found = stream(folder, ColumnTarget("pi"), [IPS()])
>>> found.to_frame("cluster")[["estimator", "value", "n"]]
  estimator  value  n
0       IPS    1.0  3
"""

from causal.stream.folds import UserFolds, fit_folds
from causal.stream.logged import Logged, PolicyRounds, PolicySlates
from causal.stream.run import Progress, stream
from causal.stream.slates import SlateColumns, SlateMatrix
from causal.stream.streamed import Streamed
from causal.stream.weigh import Columns, ColumnTarget, Weigh

__all__ = [
    "ColumnTarget",
    "Columns",
    "Logged",
    "PolicyRounds",
    "PolicySlates",
    "Progress",
    "SlateColumns",
    "SlateMatrix",
    "Streamed",
    "UserFolds",
    "Weigh",
    "fit_folds",
    "stream",
]
