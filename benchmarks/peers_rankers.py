"""Peers of the rankers: how each is installed, and the script that measures it.

Each script takes the path of a NumPy file with the data of the run (arrays, no pickle), and prints its figure
as JSON. What the figure is stands below each.
"""

RECTOOLS = (("torch==2.13.0",), ("rectools[torch]==0.19.0",))
RECHUB = (("torch==2.13.0",), ("torch-rechub==0.9.0",))
CORNAC = (("cornac==3.0.1",),)

RECTOOLS_SCRIPT = """
import json, logging, sys, time, warnings
warnings.filterwarnings("ignore"); logging.disable(logging.CRITICAL)
import numpy as np, pandas as pd, torch
torch.set_num_threads(1)
from pytorch_lightning import Trainer
from rectools.dataset import Dataset
from rectools.models import SASRecModel
z = np.load(sys.argv[1]); epochs = int(sys.argv[2])
frame = pd.DataFrame({"user_id": z["user"], "item_id": z["item"], "weight": 1.0,
                      "datetime": pd.Timestamp("2020-01-01") + pd.to_timedelta(z["step"], unit="min")})
data = Dataset.construct(frame)
def trainer(n):
    return lambda: Trainer(max_epochs=n, accelerator="cpu", logger=False, enable_checkpointing=False,
                           enable_progress_bar=False, enable_model_summary=False, devices=1)
def run(n):
    model = SASRecModel(n_factors=64, n_blocks=2, n_heads=2, session_max_len=200, loss="softmax",
                        dropout_rate=0.2, batch_size=128, dataloader_num_workers=0,
                        get_trainer_func=trainer(n))
    start = time.process_time(); model.fit(data); return time.process_time() - start
run(1)
print(json.dumps((run(1 + epochs) - run(1)) / epochs))
"""
"""CPU seconds of an epoch: SASRec, L 200, d 64, two blocks of two heads, full softmax, without set-up."""

DEEPFM_SCRIPT = """
import json, statistics, sys, time, warnings
warnings.filterwarnings("ignore")
import numpy as np, torch
torch.set_num_threads(1)
from torch_rechub.basic.features import SparseFeature
from torch_rechub.models.ranking import DeepFM
from torch_rechub.trainers import CTRTrainer
from torch_rechub.utils.data import DataGenerator
z = np.load(sys.argv[1]); repeat = int(sys.argv[2])
names = [str(n) for n in z["names"]]
x = {n: z["columns"][:, i] for i, n in enumerate(names)}
features = [SparseFeature(n, vocab_size=int(v), embed_dim=10) for n, v in zip(names, z["sizes"])]
model = DeepFM(features, features, mlp_params={"dims": [128, 128, 128], "dropout": 0.0, "activation": "relu"})
generator = DataGenerator(x, z["label"])
loader, _, _ = generator.generate_dataloader(split_ratio=[0.98, 0.01], batch_size=int(sys.argv[3]))
trainer = CTRTrainer(model, n_epoch=1, device="cpu")
import io, contextlib
def epoch():
    with contextlib.redirect_stderr(io.StringIO()):
        start = time.process_time(); trainer.train_one_epoch(loader); return time.process_time() - start
epoch()
rows = len(loader.dataset)
print(json.dumps(rows / statistics.median(epoch() for _ in range(repeat))))
"""
"""Rows per CPU second: DeepFM with vectors of 10 and an MLP of 128, 128, 128."""

DIN_SCRIPT = """
import json, statistics, sys, time, warnings
warnings.filterwarnings("ignore")
import torch
torch.set_num_threads(1)
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.models.ranking import DIN
repeat, dim, past = (int(a) for a in sys.argv[1:4])
user = [SparseFeature("user", vocab_size=943, embed_dim=dim)]
target = [SparseFeature("item", vocab_size=1683, embed_dim=dim)]
history = [SequenceFeature("history", vocab_size=1683, embed_dim=dim, pooling="concat", shared_with="item")]
model = DIN(user, history, target, mlp_params={"dims": [64, 32]}, attention_mlp_params={"dims": [80, 40]})
model.eval()
x = {"user": torch.zeros(1000, dtype=torch.long), "item": torch.arange(1, 1001),
     "history": torch.randint(1, 1683, (1, past)).repeat(1000, 1)}
def ask():
    with torch.no_grad():
        start = time.process_time(); model(x); return time.process_time() - start
for _ in range(3): ask()
print(json.dumps(statistics.median(ask() for _ in range(repeat))))
"""
"""CPU seconds of one user with 1,000 candidates."""

BPR_SCRIPT = """
import json, statistics, sys, time
import numpy as np
import cornac
from cornac.data import Dataset
z = np.load(sys.argv[1]); repeat = int(sys.argv[2])
data = Dataset.from_uir(list(zip(z["user"].tolist(), z["item"].tolist(), [1.0] * len(z["user"]))))
def run(n):
    model = cornac.models.BPR(k=64, max_iter=n, num_threads=1, seed=0, verbose=False)
    start = time.process_time(); model.fit(data); return time.process_time() - start
run(1)
print(json.dumps(len(z["user"]) * 20 / (statistics.median(run(21) for _ in range(repeat)) - run(1))))
"""
"""Pairs per CPU second: BPR, 64 factors, plain SGD in Cython, one thread."""
