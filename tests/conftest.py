"""Two CPU devices for every test, a compilation cache, and what is slow to compile shared by the session."""

import gc
import os
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # a machine with a GPU runs the same tests
# In the environment, so that the commands which tests run share the cache with both workers. Small programs too: a
# training compiles hundreds of them, and together they take as long as the large ones.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# Tests play few steps and compile many programs: a quarter of the time is saved where LLVM optimises less.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Half of what XLA takes then goes into MLIR that emits fusions one by one; without it loops run a tenth slower.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

import jax  # noqa: E402

gc.set_threshold(100_000, 50, 50)  # traces are millions of objects, and looking through them takes a sixth of the time
jax.config.update("jax_num_cpu_devices", 2)
# Shapes that only fit by promotion hide mistakes. A command that a test starts inherits nothing of this.
jax.config.update("jax_numpy_rank_promotion", "raise")

import jax.numpy as jnp  # noqa: E402
import pytest  # noqa: E402

from ldpol.networks import MLP  # noqa: E402
from ldpol.rollout import policy_mesh  # noqa: E402
from ldpol.tasks import Task, make_task  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def devices():
    found = jax.local_devices()
    assert len(found) == 2, f"expected 2 CPU devices, found {found}: something started JAX before conftest.py"
    return found


@pytest.fixture(scope="session")
def mesh(devices):
    return policy_mesh(devices)


@pytest.fixture(scope="module")
def toy():
    """For the explorer: its toy in place of the task that a file names."""
    from explored import drawn

    from ldpol import sample

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample, "make_task", lambda known: drawn(known.grid.dimensions))
        yield


class Walker(NamedTuple):
    """A short walker2d task with deterministic starts, small random policies, and what they did for 120 steps."""

    task: Task
    shape: MLP
    policies: dict
    starts: dict
    """Reset twice with different keys: `[2, N, ...]`."""
    states: dict
    """The state after every step of an endless episode `[N, T, ...]`."""
    touches: jax.Array
    """`[N, T, M]`."""


@pytest.fixture(scope="session")
def walker() -> Walker:
    length, count = 120, 4
    task = make_task("walker2d", episode_length=length, reset_noise=0.0)
    endless = make_task("walker2d", episode_length=length, reset_noise=0.0, terminate=False)
    shape = MLP(task.observation_size, task.action_size, (8,))
    policies = jax.jit(jax.vmap(shape.init))(jax.random.split(jax.random.key(1), count))
    policies = jax.tree.map(lambda leaf: 2.0 * leaf, policies)

    def play(policies, keys):
        starts = jax.vmap(jax.vmap(endless.reset))(keys)

        def step(state, _):
            state = jax.vmap(endless.step)(state, jax.vmap(shape.apply)(policies, state.observation))
            return state, (state, jax.vmap(endless.measure)(state))

        _, seen = jax.lax.scan(step, jax.tree.map(lambda leaf: leaf[0], starts), None, length=length)
        states, touches = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), seen)
        return starts, states, touches

    starts, states, touches = jax.jit(play)(policies, jax.random.split(jax.random.key(2), (2, count)))
    return Walker(task, shape, policies, starts, states, touches)
