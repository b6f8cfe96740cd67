"""RecoGym as a peer: how it is installed, and the script that measures it.

RecoGym 0.1.3.0 imports TensorFlow, PyTorch and Matplotlib for its agents. Only its environment is
measured, so the script makes the package without running its `__init__`, and a stand-in for the base
class of its agents.
"""

RECOGYM = (
    ("numpy<2", "gym==0.26.2", "numba", "scipy", "pandas", "tqdm"),
    ("--no-deps", "recogym==0.1.3.0"),
)
"""Arguments of successive `pip install` calls, for `benchmarks.harness.peer_environment`."""

RECOGYM_SCRIPT = """
import importlib.util, json, statistics, sys, time, types
package, agents = types.ModuleType("recogym"), types.ModuleType("recogym.agents")
package.__path__ = list(importlib.util.find_spec("recogym").submodule_search_locations)
agents.Agent = object
sys.modules["recogym"], sys.modules["recogym.agents"] = package, agents
from recogym.envs.reco_env_v1 import RecoEnv1, env_1_args
import numpy as np
env = RecoEnv1()
env.init_gym({**env_1_args, "num_products": 1000, "random_seed": 0})
actions = np.random.default_rng(0).integers(1000, size=500).tolist()
user, done = 0, True
def many():
    global user, done
    for action in actions:
        while done:  # a new user; some leave before they are shown anything
            env.reset(user)
            user, done = user + 1, env.step(None)[2]
        done = env.step(action)[2]
many()
taken = []
for _ in range(int(sys.argv[1])):
    start = time.process_time(); many(); taken.append(time.process_time() - start)
print(json.dumps(len(actions) / statistics.median(taken)))
"""
"""Prints user-steps per CPU second as JSON: events with an action, of a random agent, among 1,000 products.

Its argument is how many times 500 events are timed; the median counts. The organic views between events
and the first session of each new user are part of the time, as they are of ours.
"""
