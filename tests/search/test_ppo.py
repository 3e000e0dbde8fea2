"""PPO as a whole: gradient steps by finite differences, updates against a simulation, early stop, and learning."""

import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import HIGH, SPEED, make_toy

from ldpol import storage
from ldpol.networks import MLP
from ldpol.rollout import rollout_batch
from ldpol.search.ppo import Batch, init, learn, policy_of, update
from ldpol.search.ppo_config import PPOConfig, split_environments

SHAPE = MLP(3, 2, (4,))
SMALL = PPOConfig(environments=4, steps=8, epochs=2, minibatches=4, critic=(5,), learning_rate=1e-2)
TASK = make_toy(episode_length=5, width=0.8, noise=0.1)
PLAIN = jnp.array([1.0, 0.0, 0.0])


def programs(config=SMALL, task=TASK):
    return jax.jit(partial(init, config, task, SHAPE)), jax.jit(partial(update, config, task, SHAPE))


def advance(step, state, updates, first=0, weights=PLAIN):
    for i in range(first, first + updates):
        state, metrics = step(weights, state, jax.random.fold_in(jax.random.key(7), i))
    return state, metrics


@pytest.fixture(scope="module")
def trained():
    """A copy that has learned a little, so that nothing about it is at its initial value."""
    start, step = programs()
    return advance(step, start(jax.random.key(0)), 5)[0]


def networks(state):
    return (state.actor, state.log_std), state.critic


def assert_same(found, expected, **tolerance):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert left.dtype == right.dtype
        if tolerance:
            np.testing.assert_allclose(left, right, **tolerance)
        else:
            np.testing.assert_array_equal(left, right)


def differ(one, other):
    return any((left != right).any() for left, right in zip(*map(jax.tree.leaves, (one, other)), strict=True))


def mlp(params, x):
    layers = params["params"]
    for i in range(len(layers)):
        x = x @ np.asarray(layers[f"Dense_{i}"]["kernel"], np.float64) + np.asarray(layers[f"Dense_{i}"]["bias"])
        x = np.tanh(x) if i + 1 < len(layers) else x
    return x


# One gradient step


def random_batch(state, size=24, seed=0):
    """Transitions whose log densities differ from those of `state`, so that some ratios are clipped."""
    rng = np.random.default_rng(seed)
    observation, action = rng.normal(size=(size, 3)), 0.5 * rng.normal(size=(size, 2))
    log_prob = log_density(networks(state), observation, action) + 0.3 * rng.normal(size=size)
    return Batch(*map(jnp.float32, (observation, action, log_prob, rng.normal(size=size), rng.normal(size=size))))


def log_density(nets, observation, action):
    (actor, log_std), _ = nets
    std = np.exp(np.asarray(log_std, np.float64))
    z = (np.asarray(action) - mlp(actor, np.asarray(observation))) / std
    return (-0.5 * z**2 - np.log(std) - 0.5 * np.log(2 * np.pi)).sum(1)


def loss_by_hand(config, nets, batch):
    """The PPO loss of a batch in NumPy, double precision."""
    (_, log_std), critic = nets
    observation, action, old, advantage, target = (np.asarray(part, np.float64) for part in batch)
    ratio = np.exp(log_density(nets, observation, action) - old)
    surrogate = np.minimum(ratio * advantage, np.clip(ratio, 1 - config.clip, 1 + config.clip) * advantage)
    error = mlp(critic, observation)[:, 0] - target
    entropy = np.sum(np.asarray(log_std, np.float64) + 0.5 * np.log(2 * np.pi * np.e))
    return -surrogate.mean() + config.value_weight * 0.5 * np.mean(error**2) - config.entropy_weight * entropy


def slopes_by_hand(config, nets, batch, step=1e-6):
    """Central differences for every parameter."""
    leaves, structure = jax.tree.flatten(nets)
    leaves = [np.array(leaf, np.float64) for leaf in leaves]
    slopes = [np.zeros_like(leaf) for leaf in leaves]
    for leaf, slope in zip(leaves, slopes, strict=True):
        for place in np.ndindex(leaf.shape):
            middle, ends = leaf[place], []
            for sign in (1.0, -1.0):
                leaf[place] = middle + sign * step
                ends.append(loss_by_hand(config, jax.tree.unflatten(structure, leaves), batch))
            leaf[place], slope[place] = middle, (ends[0] - ends[1]) / (2 * step)
    return slopes


@pytest.mark.parametrize("largest", [1e3, 1e-5])
def test_a_gradient_step_against_finite_differences(trained, largest):
    """The first step of Adam moves a parameter of slope g by rate * g / (|g| + 1e-5); a tiny norm makes 1e-5 matter."""
    config = replace(SMALL, max_gradient_norm=largest, value_weight=0.7, entropy_weight=0.3, clip=0.25)
    state = jax.jit(partial(init, config, TASK, SHAPE))(jax.random.key(3))
    state = state.replace(actor=trained.actor, log_std=trained.log_std, critic=trained.critic)
    batch = random_batch(state)
    found, metrics = jax.jit(partial(learn, config, SHAPE))(state, batch, jnp.arange(24)[None])
    slopes = slopes_by_hand(config, networks(state), batch)
    norm = np.sqrt(sum(np.sum(slope**2) for slope in slopes))
    assert float(metrics["gradient_norm"]) == pytest.approx(norm, rel=1e-3)
    ratio = np.exp(log_density(networks(state), *map(np.float64, batch[:2])) - np.float64(batch.log_prob))
    clipped = np.mean(np.abs(ratio - 1) > 0.25)
    assert 0 < clipped < 1
    assert float(metrics["clip_fraction"]) == pytest.approx(clipped)
    before, after = jax.tree.leaves(networks(state)), jax.tree.leaves(networks(found))
    for old, new, slope in zip(before, after, slopes, strict=True):
        slope = slope * min(1.0, largest / norm)
        np.testing.assert_allclose(new - old, -1e-2 * slope / (np.abs(slope) + 1e-5), rtol=1e-2, atol=1e-4)


def test_learning_rate_falls_to_zero(trained):
    config = replace(SMALL, decay_updates=10)
    fresh = jax.jit(partial(init, config, TASK, SHAPE))(jax.random.key(3))
    rows = jnp.arange(24)[None]
    batch = random_batch(fresh)

    def moved(config, step):
        state = fresh.replace(step=jnp.asarray(step))
        after, _ = jax.jit(partial(learn, config, SHAPE))(state, batch, rows)
        return np.asarray(after.critic["params"]["Dense_1"]["kernel"] - state.critic["params"]["Dense_1"]["kernel"])

    whole = moved(config, 0)
    np.testing.assert_allclose(np.abs(whole), 1e-2, rtol=0.05)
    for step, share in ((5, 0.5), (9, 0.1), (10, 0.0), (12, 0.0)):
        np.testing.assert_allclose(moved(config, step), share * whole, atol=1e-5)
    np.testing.assert_array_equal(moved(SMALL, 12), whole)  # constant by default


# Early stop


def test_nothing_changes_after_the_divergence_was_too_large(trained):
    """The second minibatch diverges, so the third is not used, although it does not and would change something."""
    calm = random_batch(trained, 8)
    calm = calm._replace(log_prob=jnp.float32(log_density(networks(trained), calm.observation, calm.action)))
    wild = random_batch(trained, 8, seed=1)
    wild = wild._replace(log_prob=calm.log_prob + 5.0)
    batch = Batch(*(jnp.concatenate(parts) for parts in zip(calm, wild, strict=True)))
    calm_rows, wild_rows = jnp.arange(8), jnp.arange(8, 16)

    def run(target, *rows):
        config = replace(SMALL, target_kl=target, learning_rate=1e-3)
        return jax.jit(partial(learn, config, SHAPE))(trained, batch, jnp.stack(rows))

    stopped, metrics = run(0.5, calm_rows, wild_rows, calm_rows, calm_rows)
    alone, alone_metrics = run(0.5, calm_rows)
    assert_same(stopped, alone, rtol=1e-6)
    assert float(metrics["skipped"]) == 0.75
    for name in ("policy_loss", "value_loss", "kl", "clip_fraction", "gradient_norm"):
        assert float(metrics[name]) == pytest.approx(float(alone_metrics[name]), rel=1e-4, abs=1e-6), name
    calm_only, metrics = run(0.5, calm_rows, calm_rows, calm_rows)
    assert float(metrics["skipped"]) == 0.0
    assert float(metrics["kl"]) < 0.5
    assert differ(networks(calm_only), networks(alone))
    never, metrics = run(None, calm_rows, wild_rows, calm_rows, calm_rows)
    assert float(metrics["skipped"]) == 0.0
    assert differ(networks(never), networks(stopped))


def test_an_update_stops_where_fewer_epochs_would_have_ended(trained):
    """With one minibatch an epoch, stopping early after n of 12 steps is the same as asking for n epochs."""
    config = replace(SMALL, minibatches=1, epochs=12, target_kl=0.02)

    def run(config):
        return programs(config)[1](PLAIN, trained, jax.random.key(5))

    stopped, metrics = run(config)
    steps = round(12 * (1.0 - float(metrics["skipped"])))
    assert 2 <= steps <= 10
    assert_same(stopped, run(replace(config, epochs=steps, target_kl=None))[0], rtol=1e-4, atol=1e-6)
    further, metrics = run(replace(config, epochs=steps + 1, target_kl=None))
    assert differ(networks(further), networks(stopped))
    assert int(stopped.actor_adam.count - trained.actor_adam.count) == steps
    assert int(stopped.critic_adam.count - trained.critic_adam.count) == steps


# Whole updates


def simulate(state, weights, standings, *, steps, width, length, gamma, gae_lambda):
    """Play a policy without noise in Python from `(x, y, age)` in each environment.

    Returns:
      Observations `[E * T, O]`, returns `[E * T]`, the standings afterwards, and counts of falls and time-outs.
    """
    seen = state.observations
    mean, std = np.asarray(seen.mean, np.float64), np.sqrt(np.maximum(np.asarray(seen.variance, np.float64), 1e-4))
    scale = np.sqrt(max(float(state.returns.variance), 1e-4))

    def value(observation):
        return float(state.returns.mean) + scale * mlp(state.critic, (observation - mean) / std)[0]

    observations, returns, after, falls, cuts = [], [], [], 0, 0
    for x, y, age in standings:
        rows = []
        for _ in range(steps):
            observation = np.array([x, y, age], np.float64)
            action = np.clip(mlp(state.actor, (observation - mean) / std), -1, 1)
            x, y, age = max(x + SPEED * action[0], -1.0), np.clip(y + SPEED * action[1], -1.0, 1.0), age + 1
            fell, over = x >= width, x >= width or age == length
            falls, cuts = falls + fell, cuts + (over and not fell)
            following = 0.0 if fell else value(np.array([x, y, age]))
            delta = weights @ [y, x > HIGH, y > HIGH] + gamma * following - value(observation)
            rows.append((observation, delta, over))
            if over:
                x, y, age = 0.0, 0.0, 0
        after.append((x, y, age))
        for t, (observation, _, _) in enumerate(rows):
            advantage = 0.0
            for later, (_, delta, over) in enumerate(rows[t:]):
                advantage += (gamma * gae_lambda) ** later * delta
                if over:
                    break
            observations.append(observation)
            returns.append(advantage + value(observation))
    return np.array(observations), np.array(returns), after, falls, cuts


@pytest.mark.parametrize("normalise", [True, False])
def test_normalisers_follow_a_simulation(normalise):
    """Three updates of a policy with next to no noise and no learning rate, played again in Python."""
    task = make_toy(episode_length=5, width=0.7)
    config = replace(
        SMALL, environments=2, steps=12, initial_log_std=-12.0, learning_rate=1e-30, gamma=0.9, gae_lambda=0.8
    )
    config = replace(config, normalise_observations=normalise, normalise_returns=normalise)
    weights = np.array([1.0, -2.0, 3.0])
    start, step = programs(config, task)
    state = start(jax.random.key(0))
    layers = state.actor["params"]
    layers = layers | {"Dense_1": layers["Dense_1"] | {"bias": jnp.array([0.5, 0.7])}}
    environments = state.environments
    physics = environments.state.physics | {"x": jnp.array([0.0, 0.3])}
    there = environments.state.replace(physics=physics, observation=environments.state.observation.at[1, 0].set(0.3))
    state = state.replace(actor={"params": layers}, environments=environments.replace(state=there))
    standings, observations, returns, falls, cuts = [(0.0, 0.0, 0), (0.3, 0.0, 0)], [], [], 0, 0
    for i in range(3):
        seen, targets, standings, *ends = simulate(
            state, weights, standings, steps=12, width=0.7, length=5, gamma=0.9, gae_lambda=0.8
        )
        observations, returns = [*observations, *seen], [*returns, *targets]
        falls, cuts = falls + ends[0], cuts + ends[1]
        state, metrics = step(jnp.asarray(weights), state, jax.random.key(i))
        assert int(metrics["episodes"]) == sum(ends)
        assert abs(float(metrics["policy_loss"])) < 0.05  # minus the mean advantage, as all ratios are 1
        if not normalise:
            assert float(state.observations.count) == float(state.returns.count) == 0.0
            np.testing.assert_array_equal(state.observations.variance, 1.0)
            continue
        np.testing.assert_allclose(state.observations.mean, np.mean(observations, 0), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(state.observations.variance, np.var(observations, 0), rtol=1e-3, atol=1e-4)
        assert float(state.returns.mean) == pytest.approx(np.mean(returns), rel=1e-3)
        assert float(state.returns.variance) == pytest.approx(np.var(returns), rel=1e-3)
        assert float(state.observations.count) == float(state.returns.count) == len(returns) == 24 * (i + 1)
    assert falls >= 1
    assert cuts >= 3


@pytest.mark.parametrize("normalise", [True, False])
def test_the_scale_of_rewards_does_not_matter_when_returns_are_normalised(normalise):
    """From a critic that says 0; without normalising, its loss grows with the square of the rewards."""
    config = replace(SMALL, normalise_returns=normalise, max_gradient_norm=1e9, entropy_weight=3.0)
    start, step = programs(config)
    state = start(jax.random.key(0))
    state = state.replace(critic=jax.tree.map(jnp.zeros_like, state.critic))
    weights = jnp.array([1.0, 0.5, 0.5])
    small, small_metrics = step(10.0 * weights, state, jax.random.key(1))
    large, large_metrics = step(1e4 * weights, state, jax.random.key(1))
    assert_same((large.actor, large.log_std), (small.actor, small.log_std), rtol=1e-2, atol=1e-4)
    growth = float(large_metrics["value_loss"] / small_metrics["value_loss"])
    assert growth == pytest.approx(1.0 if normalise else 1e6, rel=0.02)
    if normalise:
        assert_same(large.critic, small.critic, rtol=1e-2, atol=1e-4)


def test_metrics_by_hand():
    """Episodes of 5 steps, nobody falls, 100 a step: two rollouts of 7 steps end one and two episodes each."""
    start, step = programs(replace(SMALL, steps=7), make_toy(episode_length=5, width=9.0, bonus=100.0))
    state, metrics = advance(step, start(jax.random.key(0)), 1)
    assert int(metrics["episodes"]) == 4
    assert float(metrics["episode_length"]) == 5.0
    assert float(metrics["episode_return"]) == pytest.approx(500.0, abs=5.0)
    assert float(metrics["reward"]) == pytest.approx(100.0, abs=1.0)
    assert float(metrics["entropy"]) == pytest.approx(float(state.log_std.sum()) + np.log(2 * np.pi * np.e))
    _, metrics = advance(step, state, 1, weights=jnp.array([-1.0, 0.0, 0.0]))
    assert int(metrics["episodes"]) == 4  # steps 8 to 14 hold the tenth
    assert float(metrics["episode_return"]) == pytest.approx(500.0, abs=5.0)  # the task's own
    assert float(metrics["reward"]) == pytest.approx(-100.0, abs=1.0)
    _, metrics = step(PLAIN, start(jax.random.key(0)).replace(environments=state.environments), jax.random.key(0))
    assert int(metrics["episodes"]) == 4
    start, step = programs(replace(SMALL, steps=4), make_toy(episode_length=5, width=9.0))
    _, metrics = advance(step, start(jax.random.key(0)), 1)
    assert int(metrics["episodes"]) == 0
    assert np.isnan(float(metrics["episode_return"]))


def test_copies_side_by_side_equal_one_after_another():
    start, step = programs(replace(SMALL, target_kl=0.01))  # copies stop at different steps
    keys = jax.random.split(jax.random.key(0), 3)
    states = jax.jit(jax.vmap(start))(keys)
    many = jax.jit(jax.vmap(step))
    alone = [start(key) for key in keys]
    skipped = []
    for i in range(3):
        next_keys = jax.random.split(jax.random.key(i), 3)
        states, metrics = many(jnp.eye(3), states, next_keys)
        for k in range(3):
            alone[k], expected = step(jnp.eye(3)[k], alone[k], next_keys[k])
            pick = lambda leaf: leaf[k]  # noqa: B023, E731
            assert_same(jax.tree.map(pick, states), alone[k], rtol=2e-3, atol=2e-5)
            assert_same(jax.tree.map(pick, metrics), expected, rtol=2e-2, atol=2e-4)
            skipped.append(float(expected["skipped"]))
    assert len(set(skipped)) > 1
    assert all(differ(networks(alone[0]), networks(other)) for other in alone[1:])


def test_two_devices_learn_as_one(trained, mesh):
    """Each brings half of every minibatch: the gradient steps are those of the whole."""
    one, other = random_batch(trained, seed=1), random_batch(trained, seed=2)
    rows = jnp.arange(24).reshape(3, 8)
    whole = jax.tree.map(lambda *parts: jnp.concatenate(parts), one, other)
    expected, metrics = learn(SMALL, SHAPE, trained, whole, jnp.concatenate([rows, rows + 24], 1))
    both = partial(learn, SMALL, SHAPE, axis="policies")
    here, split = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("policies")
    both = jax.shard_map(both, mesh=mesh, in_specs=(here, split, here), out_specs=here, check_vma=False)
    found, shared_metrics = jax.jit(both)(trained, whole, rows)
    assert_same(found, expected, rtol=1e-3, atol=1e-5)
    assert_same(shared_metrics, metrics, rtol=1e-3, atol=1e-5)
    assert differ(networks(found), networks(trained))


def test_the_noise_stays_below_its_limit(trained):
    """An entropy bonus widens the noise with every step, until the limit; nothing else changes."""
    bonus = replace(SMALL, entropy_weight=10.0, learning_rate=0.1, max_gradient_norm=1e3)
    rows = jnp.tile(jnp.arange(24), (20, 1))
    free, _ = learn(bonus, SHAPE, trained, random_batch(trained), rows)
    limited, _ = learn(replace(bonus, max_log_std=0.5), SHAPE, trained, random_batch(trained), rows)
    assert (np.asarray(free.log_std) > 0.5).all()
    np.testing.assert_allclose(limited.log_std, 0.5)


def test_jit_equals_eager(trained):
    config = replace(SMALL, epochs=1)
    found = jax.jit(partial(update, config, TASK, SHAPE))(PLAIN, trained, jax.random.key(1))
    expected = update(config, TASK, SHAPE, PLAIN, trained, jax.random.key(1))
    assert_same(found, expected, rtol=2e-3, atol=2e-5)


def test_resuming_is_bit_exact_and_traces_once(tmp_path):
    start, _ = programs()
    traces = []

    @jax.jit
    def step(weights, state, key):
        traces.append(1)
        return update(SMALL, TASK, SHAPE, weights, state, key)

    expected, _ = advance(step, start(jax.random.key(0)), 4)
    half, _ = advance(step, start(jax.random.key(0)), 2)
    storage.save_state(tmp_path / "checkpoint", half, kind="ppo", about={"updates": 2})
    state, about = storage.load_state(tmp_path / "checkpoint", start(jax.random.key(9)), kind="ppo")
    resumed, _ = advance(step, state, 2, first=about["updates"])
    assert_same(resumed, expected)
    assert int(resumed.step) == 4
    assert len(traces) == 1


def test_the_folded_policy_acts_as_the_normalised_one(trained):
    seen = trained.observations
    assert float(jnp.abs(seen.mean).max()) > 0.1
    raw = np.asarray(3.0 * jax.random.normal(jax.random.key(0), (50, 3)), np.float64)
    expected = mlp(trained.actor, (raw - np.asarray(seen.mean)) / np.asarray(seen.std))
    found = jax.vmap(partial(SHAPE.apply, policy_of(trained)))(jnp.float32(raw))
    assert np.abs(expected - mlp(trained.actor, raw)).max() > 0.1
    np.testing.assert_allclose(found, np.clip(expected, -1, 1), atol=1e-5)


def test_it_learns_the_reward_and_each_measure():
    """From one start, 20 steps: up is worth 0.25 + 0.5 + 0.75 + 17; a measure can hold from the third step.

    Going right is a task with a cliff: x must get above 0.5 and stay below 1, where the episode ends.
    """
    task, shape = make_toy(noise=0.05), MLP(3, 2, (16,))
    config = PPOConfig(environments=16, steps=40, minibatches=4, critic=(16,), learning_rate=5e-3, gamma=0.95)
    start = jax.jit(jax.vmap(partial(init, config, task, shape)))
    step = jax.jit(jax.vmap(partial(update, config, task, shape)))
    play = jax.jit(partial(rollout_batch, task, shape.apply, episodes=20))
    state = start(jax.random.split(jax.random.key(0), 3))

    def scores(state):
        policies = jax.vmap(policy_of)(state)
        keys = jax.random.split(jax.random.key(1), 3)
        score = play(policies, keys)
        held = np.asarray(score.measures * score.length[..., None]).mean(1)  # steps right, steps up
        return float(score.fitness[0].mean()), held[1, 0], held[2, 1]

    before = scores(state)
    for i in range(60):
        state, metrics = step(jnp.eye(3), state, jax.random.split(jax.random.key(i), 3))
    reward, right, up = scores(state)
    assert max(before[0] / 18.5, before[1] / 18, before[2] / 18) < 0.5
    assert reward > 0.95 * 18.5
    assert right > 0.9 * 18
    assert up > 0.95 * 18
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert float(metrics["value_loss"].max()) < 0.5  # of a normalised return: the critic explains most of it


# Settings


@pytest.mark.parametrize(
    "settings",
    [
        *({name: 0} for name in ("environments", "steps", "epochs", "minibatches")),
        {"minibatches": 5},
        *({"gamma": value} for value in (0.0, 1.01)),
        *({"gae_lambda": value} for value in (-0.1, 1.1)),
        *({name: 0.0} for name in ("clip", "max_gradient_norm", "target_kl")),
        {"target_kl": math.nan},
        *({name: -1.0} for name in ("learning_rate", "value_weight", "entropy_weight")),
        {"decay_updates": -1},
        *({"max_log_std": value} for value in (-3.0, math.nan)),
        {"initial_log_std": -math.inf},
        {"critic": (8, 0)},
        {"critic": ("a",)},
    ],
    ids=str,
)
def test_settings_out_of_range(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=rf"PPOConfig\.{name} must"):
        replace(SMALL, **settings)


def test_copies_share_the_environments():
    assert split_environments(SMALL, 2) == replace(SMALL, environments=2)
    for copies in (0, 3, 8):
        with pytest.raises(ValueError, match=f"4 do not split evenly over {copies} copies"):
            split_environments(SMALL, copies)
    with pytest.raises(ValueError, match="minibatches"):
        split_environments(replace(SMALL, steps=1), 4)


def test_what_does_not_fit_the_task(trained):
    with pytest.raises(ValueError, match="a policy of 4 observations and 2 actions does not fit task 'toy' of 3 and 2"):
        init(SMALL, TASK, MLP(4, 2, (4,)), jax.random.key(0))
    for changes in ({"final": "tanh"}, {"final": "identity"}, {"high": 2.0}):
        with pytest.raises(ValueError, match=r"actions are clipped to \[-1, 1\], found MLP.*search='map_elites'"):
            init(SMALL, TASK, replace(SHAPE, **changes), jax.random.key(0))
    with pytest.raises(ValueError, match=r"expected 1 \+ 2 reward weights, found shape \(2,\)"):
        update(SMALL, TASK, SHAPE, jnp.ones(2), trained, jax.random.key(0))
    with pytest.raises(ValueError, match=r"ppo\.environments = 8, but the state has"):
        update(replace(SMALL, environments=8), TASK, SHAPE, PLAIN, trained, jax.random.key(0))


def test_first_actions_hardly_depend_on_the_state():
    state = jax.jit(partial(init, SMALL, TASK, MLP(3, 2, (16, 16))))(jax.random.key(0))
    for network, last, width in ((state.actor, 0.01, 2), (state.critic, 1.0, 1)):
        *hidden, kernel = (np.asarray(layer["kernel"]) for _, layer in sorted(network["params"].items()))
        np.testing.assert_allclose(kernel.T @ kernel, last**2 * np.eye(width), atol=1e-6)
        for kernel in hidden:
            product = kernel @ kernel.T if kernel.shape[0] <= kernel.shape[1] else kernel.T @ kernel
            np.testing.assert_allclose(product, 2.0 * np.eye(min(kernel.shape)), atol=1e-5)
    np.testing.assert_allclose(np.exp(state.log_std), 0.5)
