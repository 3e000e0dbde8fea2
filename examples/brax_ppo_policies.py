"""A set of PPO policies of Brax, without scores: rolled out for their labels, distilled, asked. Two minutes.

python examples/brax_ppo_policies.py

The policies are Brax's own networks with its normaliser, at random instead of trained: take the `params` that
`brax.training.agents.ppo.train` returns, one per run.
"""

import jax
import jax.numpy as jnp
import numpy as np
from brax.training.acme import running_statistics, specs
from brax.training.agents.ppo.networks import make_ppo_networks
from own_environment import ask, make_task, small

import ldpol


def train(task: ldpol.Task, runs: int):
    """Stands for so many runs of PPO: `(statistics, policy, value)` each."""
    sizes = task.observation_size, task.action_size
    made = make_ppo_networks(*sizes, running_statistics.normalize, policy_hidden_layer_sizes=(16, 16))
    statistics = running_statistics.init_state(specs.Array(sizes[:1], jnp.float32))
    seen = jax.random.normal(jax.random.key(0), (1000, sizes[0])) * jnp.array([[0.5, 0.5, 0.3]]) + 0.1
    statistics = running_statistics.update(statistics, seen)
    policies = [made.policy_network.init(key) for key in jax.random.split(jax.random.key(1), runs)]
    return [(statistics, jax.tree.map(lambda leaf: 2.0 * leaf, policy), None) for policy in policies]


def main(steps: int = 2000, runs: int = 300) -> dict:
    task = make_task()
    network = ldpol.MLP(task.observation_size, task.action_size, (16, 16), activation="swish", final="tanh")
    archive = ldpol.from_policies(
        train(task, runs), network, task, jax.random.key(2), head="mean", episodes=2, cells=12, outside="clip"
    )
    generator = ldpol.distill(archive, task, small(steps), key=jax.random.key(3))
    rows = np.random.default_rng(0).permutation(len(archive))[:50]
    error = ask(generator, task, archive.measures[rows], jax.random.key(4))
    print(f"{len(archive)} policies; those generated for {len(rows)} of their places end {error:.2f} cells away")
    return {"policies": len(archive), "error_cells": error}


if __name__ == "__main__":
    main()
