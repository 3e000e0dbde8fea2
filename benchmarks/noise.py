"""How a search should treat evaluation noise: at equal environment steps, which archive is best when played again?

Three ways: a deterministic reset while searching; the task's own reset noise, one episode; a deterministic reset, and
candidates that would enter a cell play again under the task's noise and enter with the mean.

    python benchmarks/noise.py --out results/noise-walker2d.json
"""

import common
import jax
import numpy as np

from ldpol import archive as archives
from ldpol import session
from ldpol.evaluation.metrics import summarise
from ldpol.networks import MLP
from ldpol.rollout import over_chunks, policy_mesh, rollout_batch
from ldpol.search.archive_search import compile_step, start_search
from ldpol.search.config import MapElitesConfig, SearchConfig
from ldpol.search.map_elites import make_map_elites
from ldpol.tasks import make_task
from ldpol.types import mean_score


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--steps", type=float, default=4e6, help="environment steps a search")
    parser.add_argument("--episodes", type=int, default=5, help="episodes a policy when played again")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    session.start_jax()
    if options.quick:
        options.steps, options.episodes, options.seeds = 1e5, 1, 1
    noisy, quiet = make_task("walker2d"), make_task("walker2d", reset_noise=0.0)
    shape, mesh = MLP(noisy.observation_size, noisy.action_size, (64, 64)), policy_mesh()
    grid = archives.make_grid(noisy, 50)
    ways = {
        "deterministic": (quiet, MapElitesConfig()),
        "noisy": (noisy, MapElitesConfig()),
        "verified": (quiet, MapElitesConfig(verify=256, verify_episodes=2)),
    }
    if options.quick:
        ways = {"verified": ways["verified"]}  # plays with and without noise, so that the others run too
    again = jax.jit(
        lambda policies, keys: rollout_batch(noisy, shape.apply, policies, keys, episodes=options.episodes, mesh=mesh)
    )
    rows = []
    for way, (task, config) in ways.items():
        search = make_map_elites(task, shape, grid, config, verify_task=noisy, mesh=mesh)
        step = compile_step(search, mesh)
        for seed in range(options.seeds):
            key, iteration = jax.random.key(seed), 0
            state = start_search(search, key, mesh)
            while float(state.env_steps) < options.steps:
                state, _ = step(state, jax.random.fold_in(key, iteration))
                iteration += 1
            archive = archives.from_qdax(state.repertoire, shape, noisy, cells=grid)
            scores = over_chunks(again, archive.policies, jax.random.key(100 + seed), size=256, mesh=mesh)
            score = mean_score(scores)
            row = {"way": way, "seed": seed, "env_steps": float(state.env_steps), "stored_cells": len(archive)}
            row |= summarise(grid, score, noisy.fitness_offset)
            row["measure_std"] = float(scores.measures.std(1).mean())
            row["moved"] = float(np.linalg.norm(score.measures - np.asarray(archive.measures), axis=-1).mean())
            rows.append(row)
            session.say(
                f"{way:14} seed {seed}: {row['stored_cells']} stored, played again {row['cells']:.0f} cells, "
                f"QD {row['qd_score']:.0f}, std of measures {row['measure_std']:.3f}, moved {row['moved']:.3f}"
            )
    settings = {"steps": options.steps, "episodes": options.episodes, "seeds": options.seeds}
    common.finish("noise", options.out, SearchConfig(), settings, rows)


if __name__ == "__main__":
    main()
