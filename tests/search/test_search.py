"""The search: variation against its closed form, invariants of a run, verification by hand, and resuming."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import make_toy

from ldpol import storage
from ldpol.archive import Grid, best_per_cell, from_qdax
from ldpol.networks import MLP
from ldpol.rollout import RolloutConfig, rollout_batch
from ldpol.search.config import MapElitesConfig
from ldpol.search.map_elites import iso_line, make_map_elites

SHAPE = MLP(3, 2, (4,))
GRID = Grid((6, 6), (0.0, 0.0), (1.0, 1.0))
ROLLOUTS = RolloutConfig(lanes=16, block=10)


def make(task=None, mesh=None, verify_task=None, **settings):
    config = MapElitesConfig(**({"batch": 32, "iso_low": 0.05, "iso_high": 0.5, "line": 0.2} | settings))
    task = task or make_toy()
    return make_map_elites(task, SHAPE, GRID, config, verify_task=verify_task, rollouts=ROLLOUTS, mesh=mesh)


def keys_for(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


# Variation

ONE = {"a": jnp.array([1.0, -2.0, 0.5]), "b": jnp.array([[0.0, 3.0]])}
OTHER = {"a": jnp.array([4.0, -2.0, 0.5]), "b": jnp.array([[4.0, 3.0]])}  # the difference is (3, 0, 0, 4, 0): length 5


def children(config, one=ONE, other=OTHER, count=20_000):
    """Steps from `one` to its children `[count, 5]`."""
    made = jax.jit(jax.vmap(lambda key: iso_line(config, one, other, key)))(keys_for(count))
    step = jax.tree.map(lambda child, parent: child - parent[None], made, one)
    return np.concatenate([np.asarray(step["a"]), np.asarray(step["b"])[:, 0]], axis=1)


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.1), (0.05, 1.0)])
def test_iso_line_variance_in_closed_form(low, high):
    """Off the line E[sigma^2], sigma log-uniform; along it line^2 * distance^2 more; no mean, no correlation."""
    iso = low**2 if low == high else (high**2 - low**2) / (2 * np.log(high / low))
    steps = children(MapElitesConfig(iso_low=low, iso_high=high, line=0.3))
    direction = np.array([3.0, 0.0, 0.0, 4.0, 0.0]) / 5.0
    across = np.array([4.0, 0.0, 0.0, -3.0, 0.0]) / 5.0
    along = steps @ direction
    assert np.var(along) == pytest.approx(iso + (0.3 * 5.0) ** 2, rel=0.05)
    aside = np.stack([steps @ across, steps[:, 1], steps[:, 2], steps[:, 4]])
    np.testing.assert_allclose(aside.var(axis=1), iso, rtol=0.1)
    np.testing.assert_allclose(steps.mean(0), 0.0, atol=6 * np.sqrt(iso + 2.25) / np.sqrt(len(steps)))
    np.testing.assert_allclose(np.corrcoef(np.vstack([aside, along])), np.eye(5), atol=0.05)
    # The kurtosis 3 E[sigma^4] / E[sigma^2]^2 tells a log-uniform scale from a fixed one.
    fourth = low**4 if low == high else (high**4 - low**4) / (4 * np.log(high / low))
    assert np.mean(aside**4) / np.mean(aside**2) ** 2 == pytest.approx(3 * fourth / iso**2, rel=0.1)


def test_iso_line_without_one_of_its_parts():
    only_line = children(MapElitesConfig(iso_low=1e-12, iso_high=1e-12, line=0.3), count=200)
    np.testing.assert_allclose(only_line[:, [1, 2, 4]], 0.0, atol=1e-6)
    np.testing.assert_allclose(only_line[:, 3] * 3, only_line[:, 0] * 4, atol=1e-5)  # on the line
    assert only_line[:, 0].min() < 0 < only_line[:, 0].max()  # away from the other parent as well
    only_iso = children(MapElitesConfig(iso_low=0.1, iso_high=0.1, line=0.0), count=4000)
    np.testing.assert_allclose(only_iso.std(0), 0.1, rtol=0.1)
    twins = children(MapElitesConfig(iso_low=0.1, iso_high=0.1, line=9.0), other=ONE, count=4000)
    np.testing.assert_allclose(twins.std(0), 0.1, rtol=0.1)


# Runs


def run(search, iterations, state=None, first=0, seed=0):
    step = jax.jit(search.step)
    state, history = search.init(jax.random.key(0)) if state is None else state, []
    for iteration in range(first, iterations):
        state, metrics = step(state, jax.random.fold_in(jax.random.key(seed), iteration))
        history.append({name: float(value) for name, value in metrics.items()})
    return state, history


@pytest.fixture(scope="module")
def finished():
    search = make()
    return search, *run(search, 12)


def test_quality_and_coverage_never_fall(finished):
    _, _, history = finished
    for name in ("qd_score", "coverage", "cells", "best"):
        values = np.array([row[name] for row in history])
        assert (np.diff(values) >= -1e-3).all(), name
        assert values[-1] > values[0], name
    assert [row["iteration"] for row in history] == list(range(1, 13))
    assert [row["evaluations"] for row in history] == [32 * i for i in range(1, 13)]
    steps = np.diff([0, *(row["env_steps"] for row in history)])
    assert (steps > 32).all()
    assert (steps <= 32 * 20).all()


def test_elites_score_again_what_they_entered_with(finished):
    """A task without noise: playing the elites anew gives their stored scores, in the cells they hold."""
    search, state, history = finished
    elites = from_qdax(state.repertoire, SHAPE, make_toy(), cells=GRID)
    assert len(elites) == history[-1]["cells"] > 5
    scores = jax.jit(partial(rollout_batch, make_toy(), SHAPE.apply))(elites.policies, keys_for(len(elites)))
    np.testing.assert_allclose(scores.fitness[:, 0], elites.fitness, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scores.measures[:, 0], elites.measures, atol=1e-6)
    best = np.asarray(best_per_cell(GRID, elites.fitness, elites.measures))
    total = best[np.isfinite(best)].sum() + 20.0 * len(elites)  # the toy's offset is one a step
    assert history[-1]["qd_score"] == pytest.approx(total, rel=1e-4)
    assert history[-1]["best"] == pytest.approx(best.max(), rel=1e-4)
    assert history[-1]["coverage"] == pytest.approx(len(elites) / 36)


def test_two_devices_find_the_same(finished, mesh):
    _, state, history = finished
    other, other_history = run(make(mesh=mesh), 3)
    for mine, theirs in zip(history[:3], other_history, strict=True):
        assert mine == {name: pytest.approx(value, rel=1e-4) for name, value in theirs.items()}


def test_resuming_is_bit_exact(finished, tmp_path):
    search, expected, history = finished
    half, _ = run(search, 5)
    storage.save_state(tmp_path / "checkpoint", half, kind="search", about={"iteration": 5})
    state, about = storage.load_state(tmp_path / "checkpoint", search.init(jax.random.key(0)), kind="search")
    resumed, rest = run(make(), 12, state, about["iteration"])
    assert rest == history[5:]
    assert jax.tree.structure(resumed) == jax.tree.structure(expected)
    for left, right in zip(jax.tree.leaves(resumed), jax.tree.leaves(expected), strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


# Verification


def test_verified_elites_enter_with_the_mean_over_all_episodes():
    """First 2 episodes without a bonus, then 3 with a bonus of 10 a step: all else equal, 3 / 5 of it enters.

    With all cells empty a candidate gains its fitness, so that the best 8 of the batch are the candidates.
    """
    task, verify_task = make_toy(), make_toy(bonus=10.0)
    search = make(task, verify_task=verify_task, episodes=2, verify=8, verify_episodes=3)
    state, metrics = jax.jit(search.step)(search.init(jax.random.key(0)), jax.random.key(0))
    elites = from_qdax(state.repertoire, SHAPE, make_toy(), cells=GRID)
    plain = jax.jit(partial(rollout_batch, task, SHAPE.apply))(elites.policies, keys_for(len(elites)))
    expected = plain.fitness[:, 0] + 3 / 5 * 10.0 * plain.length[:, 0]
    np.testing.assert_allclose(elites.fitness, expected, rtol=1e-4)
    np.testing.assert_allclose(elites.measures, plain.measures[:, 0], atol=1e-6)
    assert int(metrics["evaluations"]) == 32 * 2 + 8 * 3

    unverified, _ = jax.jit(make().step)(make().init(jax.random.key(0)), jax.random.key(0))
    everyone = from_qdax(unverified.repertoire, SHAPE, make_toy(), cells=GRID)
    assert 1 <= len(elites) <= 8 < len(everyone)
    found, best = (np.sort(np.asarray(x))[::-1].round(3) for x in (plain.fitness[:, 0], everyone.fitness))
    assert found[0] == best[0]
    assert found.min() >= best[7]  # at least as good as the eighth elite: nothing better was passed over


def test_verified_elites_keep_what_they_promise():
    """A promise of one episode misses by an episode's spread, one of ten by a third of it, 1 / sqrt(10)."""
    task = make_toy(noise=0.5)

    def missed(**settings):
        state, _ = run(make(task, **settings), 15)
        elites = from_qdax(state.repertoire, SHAPE, make_toy(), cells=GRID)
        play = jax.jit(partial(rollout_batch, task, SHAPE.apply, episodes=50))
        again = play(elites.policies, keys_for(len(elites), 9)).fitness
        return float((((elites.fitness - again.mean(1)) / again.std(1)) ** 2).mean() ** 0.5)

    unverified, verified = missed(), missed(verify=16, verify_episodes=9)
    assert unverified > 0.7
    assert 0.2 < verified < 0.55


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 0}, "batch must be at least 1, found 0"),
        ({"episodes": 0}, "episodes must be at least 1, found 0"),
        ({"iso_low": 0.0}, "iso_low must be greater than 0, found 0"),
        ({"iso_low": 2.0}, "iso_low must be at most iso_high = .*, found 2"),
        ({"line": -0.1}, "line must be at least 0, found -0.1"),
        ({"verify": 64, "verify_episodes": 1}, "verify must be at most batch = .*, found 64"),
        ({"verify": 8}, "verify_episodes must be positive exactly where verify is, found 0 and 8"),
        ({"verify_episodes": 2}, "verify_episodes must be positive exactly where verify is, found 2 and 0"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


@pytest.mark.parametrize("settings", [{"batch": 33}, {"verify": 7, "verify_episodes": 1}])
def test_batches_that_do_not_fit_the_devices(settings, mesh):
    with pytest.raises(ValueError, match=r"map_elites\.(batch|verify) = (33|7) must be a multiple of the 2 devices"):
        make(mesh=mesh, **settings)
