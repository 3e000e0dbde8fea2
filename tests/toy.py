"""A task whose every episode can be worked out by hand, so that most tests need no physics engine."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ldpol.tasks import Task, TaskState, Torso

HIGH, SPEED = 0.5, 0.25


def make_toy(
    *, episode_length: int = 20, noise: float = 0.0, bonus: float = 0.0, width: float = 1.0, name: str = "toy"
) -> Task:
    """A point that moves by `SPEED * action` a step and dies when it gets past x = `width`.

    Observation `[x, y, step]`; reward `y + bonus` after the step; measures: x above `HIGH`, y above `HIGH`; its torso
    is at (x, 0, y), pitched by x + y. It starts at the origin plus uniform noise. Once it is dead its physics
    overflows: the second step after gives NaN.
    """

    def observe(physics):
        return jnp.array([physics["x"], physics["y"], physics["step"]])

    def reset(key):
        start = noise * jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
        physics = {"x": start[0], "y": start[1], "step": jnp.zeros(()), "heat": jnp.ones(())}
        return TaskState(physics, observe(physics), jnp.zeros(()), jnp.zeros(()))

    def step(state, action):
        old = state.physics
        move = SPEED * jnp.clip(action, -1.0, 1.0)
        heat = jnp.where(old["x"] >= width, old["heat"] * 1e30, old["heat"])
        nan_once_dead = heat - heat  # inf - inf
        physics = {
            "x": jnp.maximum(old["x"] + move[0], -1.0) + nan_once_dead,
            "y": jnp.clip(old["y"] + move[1], -1.0, 1.0) + nan_once_dead,
            "step": old["step"] + 1.0,
            "heat": heat,
        }
        done = jnp.where(physics["x"] >= width, 1.0, 0.0)
        return TaskState(physics, observe(physics), physics["y"] + bonus, done)

    def measure(state):
        return jnp.array([state.physics["x"] > HIGH, state.physics["y"] > HIGH], jnp.float32)

    def torso(state):
        x, y = state.physics["x"], state.physics["y"]
        return Torso(jnp.stack([x, jnp.zeros_like(x), y]), x + y)

    return Task(
        name=name,
        reset=reset,
        step=step,
        measure=measure,
        observation_size=3,
        action_size=2,
        measure_names=("right", "up"),
        measure_low=(0.0, 0.0),
        measure_high=(1.0, 1.0),
        episode_length=episode_length,
        fitness_offset=(1.0 - bonus) * episode_length,
        dt=1.0,
        backend="none",
        reset_noise=noise,
        torso=torso,
        sides=(("right", (0,)), ("up", (1,))),
    )


def push(params, observation):
    """The policy of most tests: its parameters `[2]` are its action."""
    return params


def traced_once(player):
    """Return a player that refuses to be traced twice, whatever it evaluates."""
    chex.clear_trace_counter()
    return dataclasses.replace(player, play=jax.jit(chex.assert_max_traces(player.play.__wrapped__, n=1)))


def play_by_hand(action, start=(0.0, 0.0), episode_length=20, bonus=0.0):
    """Fitness, measures and length of one episode, in plain Python floats."""
    x, y = start
    fitness, right, up, length = 0.0, 0, 0, 0
    for _ in range(episode_length):
        length += 1
        x = max(x + SPEED * min(max(action[0], -1.0), 1.0), -1.0)
        y = min(max(y + SPEED * min(max(action[1], -1.0), 1.0), -1.0), 1.0)
        fitness += y + bonus
        right, up = right + (x > HIGH), up + (y > HIGH)
        if x >= 1.0:
            break
    return fitness, np.array([right / length, up / length]), length
