"""Worlds: batched simulators of users, in which the truth is known.

Importing this package registers every world with Gymnasium: `gymnasium.make("simlab/Feed-v0", items=100)`
and `gymnasium.make_vec("simlab/Feed-v0", num_envs=64)`. Gymnasium also does the import itself:
`gymnasium.make("envs:simlab/Feed-v0")`.
"""

from gymnasium.envs.registration import register as _register
from gymnasium.envs.registration import registry as _known

from envs.registry import ids as _ids

for _key in _ids():
    if _key not in _known:
        _register(
            _key,
            entry_point="envs.faces:make_env",
            vector_entry_point="envs.faces:make_vector",
            kwargs={"world_id": _key},
        )
