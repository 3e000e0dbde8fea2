"""PPGA: one iteration against its parts, restarts, the QDax loop, devices, resuming, and a task that it solves."""

import dataclasses
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from qdax.core.containers.mapelites_repertoire import MapElitesRepertoire
from qdax.core.map_elites import MAPElites
from toy import make_toy

from ldpol import storage
from ldpol.archive import Grid, from_qdax, make_grid
from ldpol.networks import MLP, fold_normaliser
from ldpol.rollout import RolloutConfig, copied_to, rollout_batch
from ldpol.search import ppo, xnes
from ldpol.search.archive_search import search_archive
from ldpol.search.config import MapElitesConfig, PPGAConfig, SearchConfig
from ldpol.search.loop import cells_of, in_turn
from ldpol.search.map_elites import make_map_elites
from ldpol.search.ppga import PPGAEmitter, make_ppga
from ldpol.search.ppo_config import PPOConfig, split_environments

SHAPE = MLP(3, 2, (4,))
GRID = Grid((6, 6), (0.0, 0.0), (1.0, 1.0))
TASK = make_toy(noise=0.1)
PPO = PPOConfig(environments=12, steps=16, epochs=2, minibatches=2, critic=(8,), learning_rate=3e-2)
XNES = xnes.XNESConfig(population=16)
CONFIG = PPGAConfig(gradient_updates=2, walk_updates=3, threshold_min=-20.0)
ROLLOUTS = RolloutConfig(lanes=16, block=10)


def make(config=CONFIG, ppo_config=PPO, xnes_config=XNES, mesh=None, task=TASK):
    return make_ppga(task, SHAPE, GRID, config, ppo_config, xnes_config, rollouts=ROLLOUTS, mesh=mesh)


def run(search, iterations, state=None, first=0, mesh=None, **options):
    state = jax.jit(search.init)(jax.random.key(0)) if state is None else state
    where = None if mesh is None else copied_to(mesh)
    step, history = jax.jit(search.step, out_shardings=where, **options), []
    if where is not None:
        state = jax.device_put(state, where)
    for iteration in range(first, iterations):
        state, metrics = step(state, jax.random.fold_in(jax.random.key(1), iteration))
        history.append({name: value.item() for name, value in metrics.items()})
    return state, history


def assert_equal(found, expected, **tolerance):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert left.dtype == right.dtype
        if jnp.issubdtype(left.dtype, jax.dtypes.prng_key):
            left, right = jax.random.key_data(left), jax.random.key_data(right)
        if tolerance:
            np.testing.assert_allclose(left, right, **tolerance)
        else:
            np.testing.assert_array_equal(left, right)


@pytest.fixture(scope="module")
def finished():
    search = make()
    return search, *run(search, 4)


@pytest.fixture(scope="module")
def emitted(finished):
    """An emitter in the middle of a search, and its next branches."""
    emitter = PPGAEmitter(TASK, SHAPE, CONFIG, PPO, XNES)
    state = finished[1]
    policies, info = jax.jit(emitter.emit)(state.repertoire, state.emitter, jax.random.key(5))
    return emitter, state.repertoire, state.emitter, policies, info


# Climbing and branching


def test_directions_are_what_ppo_reaches_on_the_reward_and_on_each_measure(emitted):
    """Each copy is a plain PPO run from theta under one row of the identity, normalised as theta is."""
    _, _, before, _, info = emitted
    climb_key, _ = jax.random.split(jax.random.key(5))
    config = replace(split_environments(PPO, 3), normalise_observations=False)
    step = jax.jit(partial(ppo.update, config, TASK, SHAPE))
    theta = before.walker
    for copy in range(3):
        state = jax.tree.map(lambda leaf: leaf[copy], before.climbers)  # noqa: B023
        state = state.replace(
            actor=theta.actor,
            log_std=theta.log_std,
            observations=theta.observations,
            actor_adam=jax.tree.map(jnp.zeros_like, theta.actor_adam),
        )
        for key in jax.random.split(climb_key, CONFIG.gradient_updates):
            state, _ = step(jnp.eye(3)[copy], state, jax.random.split(key, 3)[copy])
        found = jax.tree.map(lambda leaf: leaf[copy], info["climbers"])  # noqa: B023
        assert_equal(found.actor, state.actor, rtol=1e-3, atol=1e-4)
        assert_equal(found.critic, state.critic, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("unit", [True, False])
def test_branches_are_theta_plus_directions_times_coefficients(finished, unit):
    config = replace(CONFIG, unit_gradients=unit)
    emitter, state = PPGAEmitter(TASK, SHAPE, config, PPO, XNES), finished[1]
    policies, info = jax.jit(emitter.emit)(state.repertoire, state.emitter, jax.random.key(5))
    theta, distribution = state.emitter.walker, state.emitter.coefficients
    vector = lambda actor: np.asarray(SHAPE.flatten(actor), np.float64)  # noqa: E731
    start = vector(theta.actor)
    trained = [vector(jax.tree.map(lambda leaf: leaf[i], info["climbers"].actor)) for i in range(3)]  # noqa: B023
    rows = np.stack([end - start for end in trained])
    if unit:
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    coefficients = np.asarray(distribution.mean) + np.asarray(info["draws"]) @ np.asarray(distribution.scale).T
    for i in range(16):
        normalised = SHAPE.unflatten(jnp.asarray(start + coefficients[i] @ rows, jnp.float32))
        expected = fold_normaliser(normalised, theta.observations.mean, theta.observations.std)
        assert_equal(jax.tree.map(lambda leaf: leaf[i], policies), expected, rtol=2e-3, atol=2e-4)  # noqa: B023


# What the emitter learns from its branches


def tell(emitted, fitness, measures):
    """Insert hand-made scores and update the emitter as the loop does."""
    emitter, repertoire, state, policies, info = emitted
    fitness, measures = jnp.asarray(fitness, jnp.float32), jnp.asarray(measures, jnp.float32)
    with jax.numpy_rank_promotion("allow"):  # QDax does
        repertoire = repertoire.add(policies, measures, fitness[:, None])
    return repertoire, jax.jit(emitter.state_update)(state, repertoire, policies, fitness, measures, info)


def in_one_cell(count=16):
    return np.full((count, 2), 0.05)


def test_the_walk_is_ppo_on_the_mean_coefficients(emitted):
    emitter, _, before, _, info = emitted
    fitness = np.linspace(1000.0, 1015.0, 16)
    _, after = tell(emitted, fitness, in_one_cell())
    # Ranks alone matter: the gains rise with the fitness.
    expected = xnes.tell(XNES, before.coefficients, info["draws"], jnp.arange(16.0))
    assert_equal(after.coefficients, expected, rtol=1e-4, atol=1e-5)
    _, walk_key, _ = jax.random.split(before.key, 3)
    theta = before.walker
    lived = float(CONFIG.walk_updates * PPO.environments * PPO.steps)
    assert float(theta.returns.count) > lived  # of four walks: it is cut down to one
    theta = theta.replace(returns=theta.returns.replace(count=jnp.asarray(lived)))
    step = jax.jit(partial(ppo.update, PPO, TASK, SHAPE))
    for key in jax.random.split(walk_key, CONFIG.walk_updates):
        theta, _ = step(expected.mean, theta, key)
    assert_equal(after.walker, theta, rtol=1e-3, atol=1e-3)
    assert after.restarts == before.restarts
    assert after.env_steps - before.env_steps == (CONFIG.gradient_updates + CONFIG.walk_updates) * 12 * 16


def test_thresholds_rise_only_where_branches_landed(emitted):
    _, repertoire, before, _, _ = emitted
    cell = int(cells_of(repertoire, jnp.asarray(in_one_cell(1)))[0])
    _, after = tell(emitted, np.full(16, 1000.0), in_one_cell())
    old, new = np.asarray(before.thresholds), np.asarray(after.thresholds)
    assert new[cell] == pytest.approx(old[cell] + (1 - 0.5**16) * (1000.0 - old[cell]), rel=1e-4)
    np.testing.assert_array_equal(np.delete(new, cell), np.delete(old, cell))


def test_a_cell_remembers_the_normaliser_of_its_elite(emitted):
    _, repertoire, before, _, _ = emitted
    measures, fitness = in_one_cell(), np.full(16, -1000.0)
    measures[3], fitness[3] = 0.95, 1000.0  # the only one that enters
    cell = int(cells_of(repertoire, jnp.asarray(measures[3:4]))[0])
    _, after = tell(emitted, fitness, measures)
    theta = before.walker
    assert_equal(jax.tree.map(lambda leaf: leaf[cell], after.normalisers), theta.observations)
    np.testing.assert_array_equal(after.log_std[cell], theta.log_std)
    rest = lambda tree: jax.tree.map(lambda leaf: np.delete(np.asarray(leaf), cell, 0), tree)  # noqa: E731
    assert_equal(rest(after.normalisers), rest(before.normalisers))


def check_restart(repertoire, before, after):
    """Theta is an elite, the search for coefficients begins again, critics and environments stay."""
    filled = np.flatnonzero(np.asarray(repertoire.fitnesses[:, 0]) > -np.inf)
    policy = np.asarray(SHAPE.flatten(ppo.policy_of(after.walker)))
    elites = np.asarray(jax.vmap(SHAPE.flatten)(repertoire.genotypes))
    apart = np.abs(elites[filled] - policy).max(1)
    assert apart.min() < 1e-4 * max(1.0, np.abs(policy).max())
    cell = filled[apart.argmin()]
    normaliser = jax.tree.map(lambda leaf: leaf[cell], after.normalisers)
    assert_equal(after.walker.observations, normaliser if normaliser.count > 0 else before.walker.observations)
    np.testing.assert_array_equal(after.walker.log_std, after.log_std[cell])
    assert_equal(after.coefficients, xnes.init(XNES, jnp.zeros(3)))
    assert_equal(after.walker.critic, before.walker.critic)
    assert_equal(after.walker.environments, before.walker.environments)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(after.walker.actor_adam))
    assert after.restarts == before.restarts + 1
    return cell


def test_it_begins_again_from_an_elite_when_no_branch_is_progress(emitted):
    repertoire, after = tell(emitted, np.full(16, -1000.0), in_one_cell())
    check_restart(repertoire, emitted[2], after)
    assert after.env_steps - emitted[2].env_steps == CONFIG.gradient_updates * 12 * 16  # no walk


def test_every_elite_can_be_the_next_start(emitted):
    emitter, repertoire, before, policies, info = emitted
    update = jax.jit(emitter.state_update)
    fitness, measures = jnp.full(16, -1000.0), jnp.asarray(in_one_cell(), jnp.float32)
    filled = int((repertoire.fitnesses > -jnp.inf).sum())
    cells = set()
    for seed in range(20 * filled):
        state = before.replace(key=jax.random.key(seed))
        after = update(state, repertoire, policies, fitness, measures, info)
        cells.add(int(check_restart(repertoire, state, after)))
        if len(cells) == filled:
            break
    assert len(cells) == filled > 1


def test_an_elite_from_elsewhere_takes_the_statistics_of_theta(emitted):
    """It acts as before, and the next rollout hardly changes how it sees."""
    emitter, repertoire, before, policies, info = emitted
    foreign = before.replace(normalisers=jax.tree.map(jnp.zeros_like, before.normalisers))
    losing = np.full(16, -1000.0)
    repertoire, after = tell((emitter, repertoire, foreign, policies, info), losing, in_one_cell())
    check_restart(repertoire, before, after)
    assert after.walker.observations.count > 0


def test_it_begins_again_when_the_search_has_converged(emitted):
    emitter, repertoire, before, policies, info = emitted
    point = before.coefficients.replace(scale=1e-7 * jnp.eye(3))
    repertoire, after = tell((emitter, repertoire, before.replace(coefficients=point), policies, info), *progress())
    check_restart(repertoire, before, after)


def progress():
    return np.linspace(1000.0, 1015.0, 16), in_one_cell()


# The loop


def test_elites_are_plain_policies_that_score_what_they_entered_with():
    """On a task without noise, played by the stored parameters alone on raw observations."""
    quiet = make_toy()
    state, history = run(make(task=quiet), 5)
    assert isinstance(state.repertoire, MapElitesRepertoire)
    elites = from_qdax(state.repertoire, SHAPE, TASK, cells=GRID)
    assert len(elites) == history[-1]["cells"] > 3
    keys = jax.random.split(jax.random.key(3), len(elites))
    scores = jax.jit(partial(rollout_batch, quiet, SHAPE.apply))(elites.policies, keys)
    np.testing.assert_allclose(scores.fitness[:, 0], elites.fitness, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(scores.measures[:, 0], elites.measures, atol=1e-6)


def test_counts_and_metrics(finished):
    _, state, history = finished
    assert [row["iteration"] for row in history] == [1, 2, 3, 4]
    assert [row["evaluations"] for row in history] == [16, 32, 48, 64]
    for name in ("qd_score", "coverage", "best"):
        assert (np.diff([row[name] for row in history]) >= -1e-3).all()
    climbed, walked = 2 * 12 * 16, 3 * 12 * 16
    trained = np.diff([0, *(row["env_steps"] for row in history)])
    assert ((trained >= climbed + 16) & (trained <= climbed + walked + 16 * 20)).all()
    assert float(state.emitter.env_steps) <= 4 * (climbed + walked)


def test_devices_share_the_environments(mesh):
    """Two devices play other episodes than one, but as many, keep one theta, and learn as well."""
    state, history = run(make(mesh=mesh), 3, mesh=mesh)
    assert state.emitter.walker.environments.age.shape == (12,)
    assert state.emitter.climbers.environments.age.shape == (3, 4)
    for leaf in jax.tree.leaves(state.emitter.walker.actor):
        one, other = (np.asarray(shard.data) for shard in leaf.addressable_shards)
        np.testing.assert_array_equal(one, other)
    assert (np.diff([row["qd_score"] for row in history]) >= 0).all()
    assert float(state.env_steps) == history[-1]["env_steps"] > 3 * (2 + 3) * 12 * 16


def test_resuming_is_bit_exact(finished, tmp_path):
    search, expected, history = finished
    half, _ = run(search, 2)
    storage.save_state(tmp_path / "checkpoint", half, kind="search", about={})
    state, _ = storage.load_state(tmp_path / "checkpoint", jax.jit(search.init)(jax.random.key(9)), kind="search")
    resumed, rest = run(make(), 4, state, 2)
    assert rest == history[2:]
    assert_equal(resumed, expected)


def test_an_iteration_is_traced_once_and_never_leaves_the_device():
    search, traces = make(), []

    @jax.jit
    def step(state, key):
        traces.append(1)
        return search.step(state, key)

    state, keys = jax.jit(search.init)(jax.random.key(0)), list(jax.random.split(jax.random.key(1), 3))
    with jax.transfer_guard("disallow"):
        for key in keys:
            state, _ = step(state, key)
    assert len(traces) == 1
    program = str(jax.make_jaxpr(search.step)(state, keys[0]))
    assert "callback" not in program


def test_it_plugs_into_the_loop_of_qdax():
    """QDax's own MAPElites, with a scoring function like any other."""
    quiet = make_toy()

    def score(policies, key):
        keys = jax.random.split(key, jax.tree.leaves(policies)[0].shape[0])
        scores = rollout_batch(quiet, SHAPE.apply, policies, keys, config=ROLLOUTS)
        return scores.fitness, scores.measures[:, 0], {}

    emitter = PPGAEmitter(quiet, SHAPE, CONFIG, PPO, XNES)
    algorithm = MAPElites(score, emitter, lambda repertoire: {"best": repertoire.fitnesses.max()})
    first = jax.vmap(SHAPE.init)(jax.random.split(jax.random.key(0), 8))
    update, best = jax.jit(algorithm.update), []
    with jax.numpy_rank_promotion("allow"):  # QDax does
        repertoire, state, _ = jax.jit(algorithm.init)(first, GRID.centroids(), jax.random.key(1))
        entered = int((repertoire.fitnesses > -jnp.inf).sum())
        for seed in range(3):
            repertoire, state, metrics = update(repertoire, state, jax.random.key(seed))
            best.append(float(metrics["best"]))
    assert best == sorted(best)
    assert int((repertoire.fitnesses > -jnp.inf).sum()) > entered
    assert int(state.iteration) == 3


def test_it_finds_better_policies_than_random_ones_and_reaches_high_measures():
    """The best toy policy climbs in y, which is both its reward and its second measure."""
    state, history = run(make(task=make_toy()), 15)
    assert history[-1]["best"] > history[0]["best"] + 2.0
    elites = from_qdax(state.repertoire, SHAPE, TASK, cells=GRID)
    assert elites.measures.max(0).min() > 0.6  # both feet


# In turn


def test_one_search_after_the_other():
    """The first two iterations are those of the first search, the third is one of the second from where it stands."""
    quiet, start = make_toy(), MapElitesConfig(batch=32, iso_low=0.05, iso_high=0.5)
    first, second = make(task=quiet), make_map_elites(quiet, SHAPE, GRID, start, rollouts=ROLLOUTS)
    emitted = {"compiler_options": {"xla_cpu_use_fusion_emitters": True}}  # as for users; else programs round apart
    alone, expected = run(first, 2, **emitted)
    state, history = run(in_turn(first, second, 2), 3, **emitted)
    assert history[:2] == expected
    assert [row["evaluations"] for row in history] == [16, 32, 64]
    assert_equal(state.emitter[0], alone.emitter)  # what the first remembers stays as it was
    third, metrics = jax.jit(second.step, **emitted)(
        dataclasses.replace(alone, emitter=None), jax.random.fold_in(jax.random.key(1), 2)
    )
    assert_equal(state.repertoire, third.repertoire)
    assert history[2] == {name: value.item() for name, value in metrics.items()}


# Settings


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (CONFIG, {"archive_rate": 1.5}),
        (CONFIG, {"archive_rate": -0.1}),
        (CONFIG, {"gradient_updates": 0}),
        (CONFIG, {"walk_updates": -1}),
        (CONFIG, {"episodes": 0}),
        (CONFIG, {"threshold_min": -np.inf}),
        (XNES, {"sigma": 0.0}),
        (XNES, {"sigma": -1.0}),
    ],
)
def test_settings_out_of_range(config, settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"{type(config).__name__}.{name} must"):
        replace(config, **settings)


def test_environments_that_copies_cannot_share():
    with pytest.raises(ValueError, match="environments = 10 do not split evenly over 3 copies"):
        make(ppo_config=replace(PPO, environments=10))


def test_policies_and_measures_that_ppo_cannot_train():
    """Refused when the search is built, before any work, alone and before MAP-Elites."""
    for network in (MLP(3, 2, (4,), "relu", "tanh"), MLP(3, 2, (4,), final="identity")):
        with pytest.raises(ValueError, match=r"policies whose actions are clipped to \[-1, 1\], found MLP.*map_elites"):
            make_ppga(TASK, network, GRID, CONFIG, PPO, XNES)
    final = replace(TASK, reduce="last")
    with pytest.raises(ValueError, match="those of toy are not means over steps; search with search='map_elites'"):
        make(task=final)
    for search in ("ppga", "hybrid"):
        with pytest.raises(ValueError, match="those of toy are not means over steps"):
            search_archive(final, SearchConfig(search=search), key=jax.random.key(0))


def test_a_grid_without_cells():
    with pytest.raises(ValueError, match="positive numbers of cells"):
        make_grid(TASK, 0)


def test_what_does_not_fit_the_devices(mesh):
    with pytest.raises(ValueError, match="do not split evenly over 2"):
        make(ppo_config=replace(PPO, environments=9), mesh=mesh)
    with pytest.raises(ValueError, match="15 policies an iteration must be a positive multiple of the 2 devices"):
        make(xnes_config=replace(XNES, population=15), mesh=mesh)


def test_no_first_search():
    with pytest.raises(ValueError, match="at least 1 iteration"):
        in_turn(make(), make(), 0)
