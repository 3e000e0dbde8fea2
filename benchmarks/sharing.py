"""Does it cost coverage that requests share verified draws? Answers that repeat none, beside independent ones.

    python benchmarks/sharing.py runs/demo --out results/sharing-walker2d.json

The measures of every elite are asked for at once. Each request is answered by itself, as `sample` does, or in turn, by
a draw that has answered none before; and the elites themselves are evaluated again. Each way is drawn and evaluated
`--times` times, for one evaluation of one model says little about coverage.
"""

from collections.abc import Callable
from pathlib import Path

import common
import jax
import jax.numpy as jnp
import numpy as np

import ldpol
from ldpol import archive as archives
from ldpol import session
from ldpol.evaluation.intervals import over_seeds, show
from ldpol.evaluation.metrics import compare, expected_cells
from ldpol.generator import PolicyGenerator
from ldpol.keys import key_for
from ldpol.model.answering import row_content, row_logits
from ldpol.player import make_player
from ldpol.sample import make_task
from ldpol.types import Array, Behaviour, Key, Score

ELITES = "elites"


def alone(generator: PolicyGenerator, key: Key, targets: Array) -> Array:
    """Answer N requests, each by itself; rows `[N]` of the verified draws."""
    keys = jax.random.split(key, len(targets))
    return jax.vmap(lambda key, target: jax.random.categorical(key, logits_of(generator, target)))(keys, targets)


def without_repeats(generator: PolicyGenerator, key: Key, targets: Array) -> Array:
    """Answer N requests in random order, each by a draw that has answered none before."""
    order_key, draw_key = jax.random.split(key)
    order = jax.random.permutation(order_key, len(targets))

    def answer(used: Array, request: tuple[Array, Key]) -> tuple[Array, Array]:
        target, key = request
        row = jax.random.categorical(key, jnp.where(used, -jnp.inf, logits_of(generator, target)))
        return used.at[row].set(True), row

    requests = targets[order], jax.random.split(draw_key, len(targets))
    _, rows = jax.lax.scan(answer, jnp.zeros(len(generator.bank), bool), requests)  # type: ignore[arg-type]
    return jnp.zeros_like(rows).at[order].set(rows)


def logits_of(generator: PolicyGenerator, target: Array) -> Array:
    """Return how likely each verified draw answers a request, up to a constant."""
    return row_logits(generator.bank, generator.condition(target), generator.kernel, generator.grid)  # type: ignore[arg-type]


WAYS: dict[str, Callable[[PolicyGenerator, Key, Array], Array]] = {"alone": alone, "without repeats": without_repeats}


def measure(run: Path, times: int) -> dict[str, list[dict[str, float]]]:
    """Return way -> the numbers of each time."""
    generator, archive = ldpol.load(run / "model"), archives.load(run / "archive" / "elites")
    task, bank = make_task(generator), generator.bank
    if bank is None or len(bank) < len(archive):
        raise SystemExit(f"{run}: needs a model with as many verified draws as the archive has elites, {len(archive)}")
    player = make_player(task, generator.apply, episodes=10)
    with np.load(run / "eval" / "arrays.npz") as kept:
        fitness, measures = kept["reference_fitness"], kept["reference_measures"]
    reference = Score(fitness, measures, np.full(len(fitness), np.nan))  # type: ignore[arg-type]
    decode = jax.jit(jax.vmap(lambda row: generator.decode(*row_content(bank, row))))
    ways = {name: jax.jit(answer) for name, answer in WAYS.items()}

    def play(rows: Array, keys: Key) -> Behaviour:
        return player.play(decode(rows), keys)

    found: dict[str, list[dict[str, float]]] = {name: [] for name in (*WAYS, ELITES)}
    for time in range(times):
        key = jax.random.fold_in(key_for(jax.random.key(0), "sharing"), time)
        draw_key, play_key = jax.random.split(key)
        for name in found:
            how = {"title": f"{name} ({time + 1}/{times})", "progress": session.progress}
            if name == ELITES:
                rows, behaviour = np.arange(len(archive)), player(archive.policies, play_key, **how)
            else:
                rows = np.asarray(ways[name](generator, draw_key, jnp.asarray(measures)))
                behaviour = player.over(play, rows, play_key, **how)
            numbers = compare(archive.grid, reference, behaviour.score, task.fitness_offset)
            expected = expected_cells(archive.grid, behaviour.episodes.measures)
            distinct = len(np.unique(rows)) / len(rows)
            found[name].append(
                {"distinct": distinct, "expected": expected, **{kept: float(numbers[kept]) for kept in common.KEPT}}
            )
    return found


def main() -> None:
    """Measure every run and write means over times and runs."""
    parser = common.runs_parser(__doc__)
    parser.add_argument("--times", type=int, default=8)
    options = parser.parse_args()
    session.start_jax()
    found = [measure(run, options.times) for run in options.runs]
    rows = {}
    for way in (*WAYS, ELITES):
        every = [one for run in found for one in run[way]]
        rows[way] = {name: over_seeds([one[name] for one in every]) for name in every[0]}
        print(way, *(f"{name} {show(value)}" for name, value in rows[way].items()), sep="  ")
    common.finish_runs(options, rows, found, times=options.times)


if __name__ == "__main__":
    main()
