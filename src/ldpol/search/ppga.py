"""Proximal policy gradient arborescence as a QDax emitter: PPO finds the directions, xNES how far to go along them.

Batra, Tjanaka, Fontaine, Petrenko, Nikolaidis and Sukhatme, ICLR 2024 (arXiv 2305.13795): differentiable quality
diversity (CMA-MAEGA) whose gradients are differences of policies that PPO trained on the reward and on each measure.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh
from qdax.core.containers.mapelites_repertoire import MapElitesRepertoire
from qdax.core.emitters.emitter import Emitter

from ldpol.archive import Tessellation
from ldpol.networks import MLP, unfold_normaliser
from ldpol.rollout import RolloutConfig
from ldpol.search import ppo, xnes
from ldpol.search.config import PPGAConfig
from ldpol.search.loop import Search, cells_of, make_search
from ldpol.search.normaliser import Moments, no_moments
from ldpol.search.ppo_config import PPOConfig, split_environments
from ldpol.search.ppo_training import train
from ldpol.search.soft_archive import improvement, raise_thresholds
from ldpol.tasks import Task
from ldpol.types import Array, Key, Params, PyTree


@struct.dataclass
class PPGAState:
    """What PPGA remembers.

    Attributes:
      walker: the search policy theta, with the critic of its walk and all E environments.
      climbers: critics and environments `[1 + M, E / (1 + M)]` of the copies; what else they hold is theta's at the
        start of every iteration.
      coefficients: the xNES distribution over `[1 + M]` coefficients.
      thresholds: `[C]` of the soft archive.
      normalisers: moments `[C, O]` with which the elite of each cell was trained.
      log_std: `[C, A]` exploration noise of theta when the elite of each cell branched off.
      iteration: `[]` iterations done.
      restarts: `[]` how often theta was thrown away for an elite.
      env_steps: `[]` environment steps lived in training.
      key: of the walk and the restarts, which happen where QDax hands no key.
    """

    walker: ppo.PPOState
    climbers: ppo.PPOState
    coefficients: xnes.XNESState
    thresholds: Array
    normalisers: Moments
    log_std: Array
    iteration: Array
    restarts: Array
    env_steps: Array
    key: Key


class PPGAEmitter(Emitter):
    """A QDax emitter: `emit` climbs and branches, `state_update` learns from the branches and walks.

    Its state, a `PPGAState`, and all it returns are pytrees of arrays, so an iteration can be one jitted program. QDax
    passes repertoire and state by types wider than these, hence `Any`.
    """

    def __init__(
        self,
        task: Task,
        shape: MLP,
        config: PPGAConfig = PPGAConfig(),
        ppo_config: PPOConfig = PPOConfig(),
        xnes_config: xnes.XNESConfig = xnes.XNESConfig(),
        mesh: Mesh | None = None,
    ) -> None:
        """Check the settings and build the two training programs.

        Args:
          task: what is trained on.
          shape: architecture of the policies.
          config: settings of the iteration.
          ppo_config: of both trainings; its environments are split evenly over the 1 + M copies, and over the devices.
          xnes_config: of the search for coefficients; its population is the number of branches.
          mesh: devices that share the environments.

        Raises:
          UserError: if settings are out of range, the environments cannot be split, or as `ppo.check_trainable`.
        """
        ppo.check_trainable(task, shape)
        self._task, self._shape, self._config = task, shape, config
        self._copies, devices = 1 + task.measures, 1 if mesh is None else mesh.size
        self._xnes, self._branches = xnes_config, xnes.population_size(xnes_config, self._copies)
        # Copies normalise as theta does: with statistics of their own their parameters could not be compared.
        climb = dataclasses.replace(split_environments(ppo_config, self._copies), normalise_observations=False)
        self._walk, self._climb = ppo_config, climb
        here = partial(split_environments, copies=devices)
        self._climb_all = partial(train, task, shape, here(climb), config.gradient_updates, mesh)
        self._walk_on = partial(train, task, shape, here(ppo_config), config.walk_updates, mesh)
        self._steps_climbing = config.gradient_updates * ppo_config.environments * ppo_config.steps
        self._steps_walking = config.walk_updates * ppo_config.environments * ppo_config.steps

    @property
    def batch_size(self) -> int:
        """Branches an iteration."""
        return self._branches

    def init(
        self,
        key: Key,
        repertoire: Any,
        genotypes: Params,
        fitnesses: Array,
        descriptors: Array,
        extra_scores: dict[str, Any],
    ) -> Any:
        """Return the state around an untrained theta; elites already there count as they are, with no normaliser."""
        walk_key, climb_key, key = jax.random.split(key, 3)
        cells = repertoire.centroids.shape[0]
        walker = ppo.init(self._walk, self._task, self._shape, walk_key)
        start = partial(ppo.init, self._climb, self._task, self._shape)
        nothing = no_moments((self._task.observation_size,))
        return PPGAState(
            walker=walker,
            climbers=jax.vmap(start)(jax.random.split(climb_key, self._copies)),
            coefficients=self._no_preference(),
            thresholds=jnp.full(cells, self._config.threshold_min, jnp.float32),
            normalisers=_copy(nothing, cells),
            log_std=_copy(walker.log_std, cells),
            iteration=jnp.zeros((), jnp.int32),
            restarts=jnp.zeros((), jnp.int32),
            env_steps=jnp.zeros(()),
            key=key,
        )

    def emit(self, repertoire: Any, emitter_state: Any, key: Key) -> tuple[Params, dict[str, Any]]:
        """Train the copies and branch from theta along what they learnt.

        Returns:
          Policies that act on raw observations, leading axis B; and what `state_update` needs to know of them.
        """
        state: PPGAState = emitter_state
        climb_key, ask_key = jax.random.split(key)
        theta = state.walker
        fresh = jax.tree.map(jnp.zeros_like, theta.actor_adam)
        climbers = dataclasses.replace(
            state.climbers,
            **_copy(
                {
                    "actor": theta.actor,
                    "log_std": theta.log_std,
                    "actor_adam": fresh,
                    "observations": theta.observations,
                },
                self._copies,
            ),
        )
        climbers = self._climb_all(jnp.eye(self._copies), climbers, climb_key)
        directions = jax.tree.map(lambda trained, start: trained - start[None], climbers.actor, theta.actor)
        if self._config.unit_gradients:
            directions = jax.vmap(_to_unit_length)(directions)
        coefficients, draws = xnes.ask(self._xnes, state.coefficients, ask_key)
        policies = jax.vmap(partial(self._branch, theta, directions))(coefficients)
        return policies, {"climbers": climbers, "draws": draws}

    def _branch(self, theta: ppo.PPOState, directions: Params, coefficients: Array) -> Params:
        actor = jax.tree.map(
            lambda start, rows: start + jnp.tensordot(coefficients, rows, 1, precision="highest"),
            theta.actor,
            directions,
        )
        return ppo.policy_of(dataclasses.replace(theta, actor=actor))

    def state_update(
        self,
        emitter_state: Any,
        repertoire: Any = None,
        genotypes: Params = None,
        fitnesses: Any = None,
        descriptors: Any = None,
        extra_scores: Any = None,
    ) -> Any:
        """Rank the branches by their improvement of the soft archive; then walk, or begin again from an elite."""
        state: PPGAState = emitter_state
        theta = state.walker
        fitness = fitnesses.reshape(-1)
        cells = cells_of(repertoire, descriptors)
        gain = improvement(state.thresholds, cells, fitness)
        coefficients = xnes.tell(self._xnes, state.coefficients, extra_scores["draws"], gain)
        # A branch holds its cell if its fitness stands there. An older elite of exactly that fitness would be taken for
        # it and given theta's normaliser: no harm, for an elite is the same policy whatever normaliser is folded out.
        holds = repertoire.fitnesses[cells, 0] == fitness
        place = jnp.where(holds, cells, state.thresholds.shape[0])
        keep = lambda all_, one: all_.at[place].set(one, mode="drop")  # noqa: E731
        key, walk_key, elite_key = jax.random.split(state.key, 3)
        state = dataclasses.replace(
            state,
            climbers=extra_scores["climbers"],
            coefficients=coefficients,
            thresholds=raise_thresholds(state.thresholds, cells, fitness, self._config.archive_rate),
            normalisers=jax.tree.map(keep, state.normalisers, theta.observations),
            log_std=keep(state.log_std, theta.log_std),
            iteration=state.iteration + 1,
            env_steps=state.env_steps + self._steps_climbing,
            key=key,
        )
        stuck = ~(gain > 0).any() | xnes.converged(self._xnes, coefficients)
        restart = partial(self._restart, repertoire, state, elite_key)
        return jax.lax.cond(stuck, restart, partial(self._walk_state, state, walk_key))

    def _walk_state(self, state: PPGAState, key: Key) -> PPGAState:
        """Train theta where xNES says that progress is."""
        # The weights have changed since the last walk: its returns count as those of one, or their scale would lag.
        returns = state.walker.returns
        returns = dataclasses.replace(returns, count=jnp.minimum(returns.count, float(self._steps_walking)))
        reward = jnp.zeros(self._copies).at[0].set(1.0)
        weights = jnp.where(state.iteration <= self._config.reward_iterations, reward, state.coefficients.mean)
        walker = self._walk_on(weights, dataclasses.replace(state.walker, returns=returns), key)
        return dataclasses.replace(state, walker=walker, env_steps=state.env_steps + self._steps_walking)

    def _restart(self, repertoire: MapElitesRepertoire, state: PPGAState, key: Key) -> PPGAState:
        """Put theta where a random elite stands, and forget where progress was."""
        filled = repertoire.fitnesses[:, 0] > -jnp.inf
        cell = jax.random.categorical(key, jnp.where(filled, 0.0, -jnp.inf))
        elite, observations, log_std = jax.tree.map(
            lambda leaf: leaf[cell], (repertoire.genotypes, state.normalisers, state.log_std)
        )
        # An elite from elsewhere, or of the first iteration, has none. Statistics that began at nothing would change
        # the policy with the first rollout, and any others do as well.
        own = observations.count > 0
        observations = jax.tree.map(partial(jnp.where, own), observations, state.walker.observations)
        walker = dataclasses.replace(
            state.walker,
            actor=unfold_normaliser(elite, observations.mean, observations.std),
            observations=observations,
            log_std=log_std,
            actor_adam=jax.tree.map(jnp.zeros_like, state.walker.actor_adam),
        )
        return dataclasses.replace(
            state, walker=walker, coefficients=self._no_preference(), restarts=state.restarts + 1
        )

    def _no_preference(self) -> xnes.XNESState:
        return xnes.init(self._xnes, jnp.zeros(self._copies))


def make_ppga(
    task: Task,
    shape: MLP,
    grid: Tessellation,
    config: PPGAConfig = PPGAConfig(),
    ppo_config: PPOConfig = PPOConfig(),
    xnes_config: xnes.XNESConfig = xnes.XNESConfig(),
    *,
    rollouts: RolloutConfig = RolloutConfig(),
    mesh: Mesh | None = None,
) -> Search:
    """Build the search.

    Args:
      task: what PPO trains on and branches are scored on.
      shape: architecture of the policies.
      grid: the measure grid.
      config: settings of the iteration.
      ppo_config: settings of PPO.
      xnes_config: settings of xNES.
      rollouts: lanes and block length.
      mesh: devices that share environments and rollouts.

    Raises:
      ValueError: if settings are out of range, or branches or environments do not fit the devices.
    """
    return make_search(
        task,
        shape,
        grid,
        PPGAEmitter(task, shape, config, ppo_config, xnes_config, mesh),
        episodes=config.episodes,
        trained=lambda state: state.env_steps,
        rollouts=rollouts,
        mesh=mesh,
    )


def _to_unit_length(direction: Params) -> Params:
    """Scale a pytree to length 1; one of zeros stays."""
    length = jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(direction)))
    return jax.tree.map(lambda leaf: leaf / jnp.where(length > 0, length, 1.0), direction)


def _copy(tree: PyTree, count: int) -> PyTree:
    """Repeat every leaf along a new leading axis."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *jnp.shape(leaf))), tree)
