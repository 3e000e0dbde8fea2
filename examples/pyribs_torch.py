"""A pyribs archive of flattened torch actors (relu, tanh outside): import in the order of torch, check, distil, ask.

python examples/pyribs_torch.py

The actors are laid out as torch's `parameters()` are, by NumPy, so that torch need not be installed; where it is, one
of them is compared with `torch.nn.Sequential`.
"""

import jax
import numpy as np
from own_environment import ask, make_task, small

import ldpol
from ldpol.archive import to_torch
from ldpol.rollout import rollout_batch
from ldpol.types import mean_score


def collect(task: ldpol.Task, network: ldpol.MLP, count: int, batches: int):
    """A little search of pyribs: Gaussian mutants of elites, scored on the task."""
    from ribs.archives import GridArchive

    ranges = list(zip(task.measure_low, task.measure_high, strict=True))
    archive = GridArchive(solution_dim=network.size, dims=(12, 12), ranges=ranges, dtype=np.float32)
    score = jax.jit(lambda p, keys: mean_score(rollout_batch(task, network.apply, p, keys, episodes=2)))
    random, solutions = np.random.default_rng(0), None
    for batch in range(batches):
        noise = random.normal(size=(count, network.size)).astype(np.float32)
        solutions = noise if solutions is None else archive.sample_elites(count)["solution"] + 0.3 * noise
        policies = ldpol.archive.from_vectors(solutions, network, "torch")
        found = score(policies, jax.random.split(jax.random.key(batch), count))
        archive.add(solutions, np.asarray(found.fitness), np.asarray(found.measures))
    return archive


def same_as_torch(params, network: ldpol.MLP) -> bool | None:
    """Compare an actor with torch's own; None where torch is not installed."""
    try:
        import torch
    except ImportError:
        return None
    layers = torch.nn.Sequential(
        torch.nn.Linear(network.observation_size, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2), torch.nn.Tanh()
    )
    layers.load_state_dict({name: torch.tensor(value) for name, value in to_torch(params).items()})
    seen = np.random.default_rng(0).normal(size=(9, network.observation_size)).astype(np.float32)
    theirs = layers(torch.tensor(seen)).detach().numpy()
    return bool(np.allclose(theirs, network.apply(params, seen), atol=1e-5))


def main(steps: int = 2000, batches: int = 60) -> dict:
    task = make_task()
    network = ldpol.MLP(task.observation_size, task.action_size, (16,), activation="relu", final="tanh")
    theirs = collect(task, network, 128, batches)

    archive = ldpol.from_ribs(theirs, network, task, order="torch")
    found = ldpol.replay(archive, task, jax.random.key(1))
    print(found)
    first = jax.tree.map(lambda leaf: leaf[0], archive.policies)
    print(f"as torch acts: {same_as_torch(first, network)}")

    archive = ldpol.reevaluate(archive, task, key=jax.random.key(2), episodes=2)
    generator = ldpol.distill(archive, task, small(steps), key=jax.random.key(3))
    rows = np.random.default_rng(0).permutation(len(archive))[:50]
    error = ask(generator, task, archive.measures[rows], jax.random.key(4))
    print(f"{len(archive)} elites; policies generated for {len(rows)} of their places end {error:.2f} cells away")
    return {"elites": len(archive), "verdict": found.verdict, "error_cells": error}


if __name__ == "__main__":
    main()
