"""From a task to an archive of elites: PPGA, MAP-Elites, or one after the other."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ldpol.archive import Archive, Grid, from_qdax, make_grid
from ldpol.hooks import Hooks
from ldpol.keys import key_for
from ldpol.networks import MLP
from ldpol.rollout import copied_to, policy_mesh
from ldpol.search.config import SEARCHES, MapElitesConfig, SearchConfig
from ldpol.search.loop import Search, SearchState, in_turn
from ldpol.search.map_elites import make_map_elites
from ldpol.search.ppga import make_ppga
from ldpol.tasks import Task
from ldpol.types import Array, Key


def make_search(
    task: Task, config: SearchConfig, *, search_task: Task | None = None, mesh: Mesh | None = None
) -> tuple[Search, MLP, Grid]:
    """Build the search that a config names, with the policies' architecture and the grid.

    Args:
      task: what PPO trains on, and what elites are judged by.
      config: settings.
      search_task: what MAP-Elites' offspring are first scored on, often with a deterministic reset; None: `task`.
      mesh: devices that share the work.
    """
    shape = MLP(task.observation_size, task.action_size, config.hidden)
    grid, shared = make_grid(task, config.cells), {"rollouts": config.rollout, "mesh": mesh}

    def ppga() -> Search:
        return make_ppga(task, shape, grid, config.ppga.emitter, config.ppga.ppo, config.ppga.xnes, **shared)

    def map_elites(settings: MapElitesConfig) -> Search:
        return make_map_elites(search_task or task, shape, grid, settings, verify_task=task, **shared)

    if config.search == "hybrid":
        return in_turn(ppga(), map_elites(config.after_ppga), config.hybrid.ppga_iterations), shape, grid
    return (ppga() if config.search == "ppga" else map_elites(config.map_elites)), shape, grid


def start_search(search: Search, key: Key, mesh: Mesh) -> SearchState:
    """Return the state before the first iteration, on all devices."""
    return jax.jit(search.init, out_shardings=copied_to(mesh))(key_for(key, "start"))


def compile_step(search: Search, mesh: Mesh) -> Any:
    """Return the jitted `(state, key) -> (state, metrics)`; it takes the state's buffers."""
    return jax.jit(search.step, donate_argnums=0, out_shardings=copied_to(mesh))


def row_of(metrics: dict[str, Array]) -> dict[str, Any]:
    """Return the metrics of an iteration as Python numbers."""
    values = {name: np.asarray(value).item() for name, value in metrics.items()}
    return values | {"env_steps": int(values["env_steps"])}


def search_archive(
    task: Task,
    config: SearchConfig = SearchConfig(),
    *,
    key: Key,
    search_task: Task | None = None,
    hooks: Hooks = Hooks(),
) -> Archive:
    """Search for elites; what enters the archive are the scores of single evaluations (see `reevaluate`).

    Args:
      task: what elites are judged by.
      config: settings.
      key: decides everything random.
      search_task: see `make_search`.
      hooks: its log takes the metrics of every iteration.
    """
    mesh = policy_mesh()
    search, network, grid = make_search(task, config, search_task=search_task, mesh=mesh)
    state, step = start_search(search, key, mesh), compile_step(search, mesh)
    with hooks.progress(f"{SEARCHES[config.search]} on {task.name}", config.iterations, "it") as done:
        for iteration in range(config.iterations):
            state, metrics = step(state, jax.random.fold_in(key, iteration))
            hooks.log("search", iteration + 1, row_of(metrics))
            done(1)
    return from_qdax(jax.device_get(state.repertoire), network, task, cells=grid, settings=task.settings)
