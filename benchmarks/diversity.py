"""How different are the policies that one request gets? `sample_set`, independent draws, and neighbouring elites.

    python benchmarks/diversity.py runs/demo runs/seed1 runs/seed2 --out results/diversity-walker2d.json

For each of many trained elites, n policies are asked for with its measures. All play twice. The distance between two
policies is that of their traits, each scaled by its deviation over the archive; the distance between two plays of one
policy is the noise in it, and is taken off in squares. The n elites nearest to the request are the measure of both.
"""

from functools import partial
from pathlib import Path
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np

import ldpol
from ldpol import archive as archives
from ldpol import session
from ldpol.evaluation.intervals import over_seeds, show
from ldpol.generator import PolicyGenerator
from ldpol.hooks import Hooks
from ldpol.keys import key_for
from ldpol.measures import nearest
from ldpol.player import Player, make_player
from ldpol.sample import make_task
from ldpol.types import Array, Key, Params

WAYS = ("sample_set", "independent draws", "by diffusion alone", "nearest elites")
NUMBERS = ("distance", "noise_removed", "mem")


def sets(generator: PolicyGenerator, count: int, way: str, keys: Key, targets: Array) -> Params:
    """Draw n policies for each of B requests, leading axes `[B, n]`."""
    if way == "sample_set":
        return jax.vmap(lambda key, target: generator.sample_set(key, count, target)[0])(keys, targets)
    one = partial(generator.sample, verified=way == "independent draws")
    return jax.vmap(lambda key, target: jax.vmap(one, (0, None))(jax.random.split(key, count), target))(keys, targets)


def play(player: Player, policies: Params, key: Key, title: str) -> tuple[np.ndarray, np.ndarray]:
    """Return traits `[B, n, K]` and measures `[B, n, M]` of `[B, n]` policies."""
    shape = jax.tree.leaves(policies)[0].shape[:2]
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), policies)
    found = player(flat, key, title=title, progress=session.progress)
    return tuple(np.asarray(leaf).reshape(*shape, -1) for leaf in (found.traits, found.score.measures))  # type: ignore[return-value]


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """Return the root mean square of the distance between rows, over sets and pairs."""
    return float(np.sqrt(((one - other) ** 2).sum(-1).mean()))


def measure(run: Path, requests: int, count: int, plays: int) -> dict[str, dict[str, float]]:
    """Return distance between policies, the same with noise removed, and MEM, by way of asking."""
    generator, stored = ldpol.load(run / "model"), archives.load(run / "archive" / "elites")
    task = make_task(generator)
    player = make_player(task, generator.apply, episodes=10)
    key = key_for(jax.random.key(0), "labels")
    archive = ldpol.reevaluate(stored, task, key=key, player=player, hooks=Hooks(progress=session.progress))
    spread = np.asarray(archive.traits).std(0) + 1e-6
    chosen = np.random.default_rng(0).choice(len(archive), requests, replace=False)
    targets = np.asarray(archive.measures)[chosen]
    near = jax.vmap(lambda target: nearest(target, archive.measures, count))(jnp.asarray(targets))
    program, found = jax.jit(sets, static_argnums=(1, 2)), {}
    for way in WAYS:
        keys = jax.random.split(key_for(jax.random.key(0), way), requests)
        policies = (
            jax.tree.map(lambda leaf: jnp.asarray(leaf)[near], archive.policies)
            if way == "nearest elites"
            else program(generator, count, way, keys, jnp.asarray(targets))
        )
        again = [play(player, policies, key_for(jax.random.key(i), way), f"{way} ({i + 1})") for i in range(plays)]
        traits, measures = ([part[i] for part in again] for i in (0, 1))
        one, other = (part / spread for part in traits[:2])
        left, right = np.triu_indices(count, 1)
        whole, noise = apart(one[:, left], one[:, right]), apart(one, other)
        found[way] = {
            "distance": whole,
            "noise_removed": float(np.sqrt(max(whole**2 - noise**2, 0.0))),
            "mem": float(np.linalg.norm(measures[0] - targets[:, None], axis=-1).mean()),
        }
    return found


def main() -> None:
    """Measure every run and write the means."""
    parser = common.runs_parser(__doc__)
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--count", type=int, default=4, help="policies per request")
    options = parser.parse_args()
    session.start_jax()
    found = [measure(run, options.requests, options.count, 2) for run in options.runs]
    rows: dict[str, Any] = {
        way: {name: over_seeds([run[way][name] for run in found]) for name in NUMBERS} for way in WAYS
    }
    for way, row in rows.items():
        print(way, *(f"{name} {show(value)}" for name, value in row.items()), sep="  ")
    common.finish_runs(options, rows, found, requests=options.requests, count=options.count)


if __name__ == "__main__":
    main()
