"""Settings of every test: one thread, no luck, no windows."""

import os

# Before torch and numpy are imported: their thread pools are sized once.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ["MPLBACKEND"] = "Agg"
os.environ["COLUMNS"] = "120"  # help texts and tables wrap the same everywhere
for name in ("FORCE_COLOR", "CLICOLOR_FORCE"):
    os.environ.pop(name, None)
os.environ["NO_COLOR"] = "1"

import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

torch.set_num_threads(1)
settings.register_profile("simlab", derandomize=True, deadline=None)
settings.load_profile("simlab")
