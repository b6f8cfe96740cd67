"""Worlds: batched simulators of users, in which the truth is known.

Importing this package registers the worlds with Gymnasium: `gymnasium.make("simlab/Feed-v0", items=100)`
and `gymnasium.make_vec("simlab/Feed-v0", num_envs=64)`. Gymnasium also does the import itself:
`gymnasium.make("envs:simlab/Feed-v0")`.
"""

from gymnasium.envs.registration import register, registry

if "simlab/Feed-v0" not in registry:
    register(
        "simlab/Feed-v0", entry_point="envs.faces:FeedEnv", vector_entry_point="envs.faces:FeedVectorEnv"
    )
