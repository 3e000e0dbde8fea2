"""Who should answer where no verified draw is near: the nearest of them, or diffusion?

    python benchmarks/gaps.py runs/demo runs/seed1 runs/seed2 --out results/gaps-walker2d.json

Targets are uniform over the whole measure space, so that many lie where no elite lives; none of them is an elite that
was held out. Both ways answer all targets, and every policy plays ten episodes. Misses are in the unit of the measures,
by how far the nearest verified draw lies from the target, in diagonals of a cell.
"""

from functools import partial
from pathlib import Path

import common
import jax
import numpy as np

import ldpol
from ldpol import session
from ldpol.evaluation.intervals import over_seeds, show
from ldpol.generator import PolicyGenerator
from ldpol.keys import key_for
from ldpol.player import make_player
from ldpol.sample import make_task
from ldpol.types import Array, Key, Params

EDGES = (0.0, 1.0, 2.0, 4.0, np.inf)
WAYS = {"nearest draw": True, "diffusion": False}


def answers(generator: PolicyGenerator, verified: bool, keys: Key, targets: Array) -> tuple[Params, Array]:
    """Draw a policy for each of B targets; also how far the nearest verified draw is, `[B]`."""
    policies, source = jax.vmap(partial(generator.sample_with_source, verified=verified))(keys, targets)
    return policies, source.distance


def measure(run: Path, count: int) -> list[dict[str, float]]:
    """Return share of the targets and mean misses, band by band."""
    generator = ldpol.load(run / "model")
    player = make_player(make_task(generator), generator.apply, episodes=10)
    places = np.random.default_rng(0).random((count, len(generator.measure_names))).astype(np.float32)
    targets, keys = generator.grid.unscaled(places), jax.random.split(key_for(jax.random.key(0), "draw"), count)
    program, missed, away = jax.jit(answers, static_argnums=1), {}, np.zeros(count)
    for way, verified in WAYS.items():
        policies, distance = program(generator, verified, keys, targets)
        away = np.asarray(distance) / np.linalg.norm(generator.grid.sides) if verified else away
        found = player(policies, key_for(jax.random.key(0), "play"), title=way, progress=session.progress)
        missed[way] = np.linalg.norm(np.asarray(found.score.measures) - targets, axis=-1)
    bands = [(away >= low) & (away < high) for low, high in zip(EDGES, EDGES[1:], strict=False)]
    return [
        {"share": float(band.mean())} | {way: float(values[band].mean()) for way, values in missed.items()}
        for band in [*bands, np.ones(count, bool)]
    ]


def main() -> None:
    """Measure every run and write the means."""
    parser = common.runs_parser(__doc__, "train")
    parser.add_argument("--targets", type=int, default=512)
    options = parser.parse_args()
    session.start_jax()
    found = [measure(run, options.targets) for run in options.runs]
    rows = [
        {name: over_seeds([band[name] for band in bands]) for name in bands[0]} for bands in zip(*found, strict=True)
    ]
    for row in rows:
        print(*(f"{name} {show(value)}" for name, value in row.items()), sep="  ")
    common.finish_runs(options, rows, found, targets=options.targets, edges=EDGES[:-1])


if __name__ == "__main__":
    main()
