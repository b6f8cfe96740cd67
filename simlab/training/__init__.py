"""Training: fit any ranker to a log, judge it on what was held out, and keep it on disk.

A table of who clicked what becomes a log, a split marks its rounds, and a family's own recipe trains it:

>>> import pandas as pd
>>> from simlab.datasets.frame import Frame
>>> from simlab.rankers.contract import Sizes
>>> from simlab.rankers.sasrec import SASRec
>>> from simlab.seeds import Seed
>>> from simlab.splits import leave_one_out
>>> from simlab.training.fit import FitSettings, fit
>>> from simlab.training.judge import held_out
>>> days = pd.DataFrame({"user": [u for u in range(60) for _ in range(9)],
...                      "item": [(u + t) % 12 for u in range(60) for t in range(9)],
...                      "time": [t for _ in range(60) for t in range(9)]})
>>> log = Frame(days).load()
>>> split = leave_one_out(log)
>>> ranker = SASRec.build(Sizes.of(log), {"past": 8, "dim": 16}, seed=Seed(1))
>>> seen = log.rows(~split.test)
>>> how = FitSettings.of(ranker, epochs=60, patience=60, learning_rate=0.01, min_steps=8)
>>> done = fit(ranker, seen, seed=Seed(1), settings=how, held=split.valid[~split.test])
>>> held_out(ranker, log, split.test).summary("hit", k=1).mean > 0.9  # the next item is the next number
True
"""
