"""Suite `guidance`: how strongly to insist on a condition, against accuracy, reward, coverage and diversity."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldpol import storage
from ldpol.evaluation.intervals import paired
from ldpol.evaluation.metrics import action_distance, compare
from ldpol.experiments import session
from ldpol.experiments.settings import Config, ConfigError
from ldpol.experiments.suites.context import Context, at_least
from ldpol.generator import PolicyGenerator
from ldpol.tasks import Task
from ldpol.types import Array, Key, Params

NEEDS = ("episodes", "guidance")
SHOWN = ("mem", "reward_ratio", "coverage_ratio", "qd_ratio", "success_rate", "policies")


def check(config: Config, task: Task) -> None:
    """Raise `ConfigError` if there is nothing to sample, to compare or to ask for."""
    section = config.eval.guidance
    at_least(section, "eval.guidance", conditions=1, diverse=1, samples=2, observations=1)
    if not section.scales:
        raise ConfigError("eval.guidance.scales is empty; give at least one scale, for instance (1.0,)")


def _guided(model: PolicyGenerator, key: Key, request: dict[str, Array]) -> Params:
    return model.sample(key, request["measures"], guidance=request["scale"])


def run(context: Context) -> dict[str, Any]:
    """Ask for the same elites' measures at every scale, with the same random numbers.

    Differences are to scale 1, paired, with their intervals.
    """
    section, grid = context.config.eval.guidance, context.archive.grid
    scales = np.asarray(section.scales, np.float32)
    rows = context.choose(section.conditions, 4)
    reference = context.rows(context.reference, rows)
    requests = {
        "measures": np.tile(reference.measures, (len(scales), 1)),
        "scale": np.repeat(scales, len(rows)),
        "pair": np.tile(np.arange(len(rows), dtype=np.int32), len(scales)),
    }
    program = context.asking(_guided, pairs=True)
    title = f"guidance {', '.join(f'{scale:g}' for scale in scales)}"
    score = context.keep("guidance", title, program, requests, context.key(4), NEEDS).score
    diversity = _diversity(context, scales)
    parts = [context.rows(score, np.arange(len(rows)) + i * len(rows)) for i in range(len(scales))]
    miss = [np.linalg.norm(part.measures - reference.measures, axis=-1) for part in parts]
    worth = [np.asarray(part.fitness) / np.mean(reference.fitness) for part in parts]
    plain = section.scales.index(1.0) if 1.0 in section.scales else None
    result = []
    for i, scale in enumerate(section.scales):
        found = compare(grid, reference, parts[i], context.task.fitness_offset)
        row: dict[str, Any] = {"scale": scale, **{name: found[name] for name in SHOWN}}
        if plain is not None and plain != i:
            row["mem_difference"] = paired(miss[i], miss[plain])
            row["reward_ratio_difference"] = paired(worth[i], worth[plain])
        result.append(row | {"diversity": float(diversity[i])})
    columns = ("mem", "reward_ratio", "coverage_ratio", "diversity")
    lines = ["guidance scale    " + "".join(f"{name:>16}" for name in columns)]
    lines += [f"{row['scale']:<18g}" + "".join(f"{row[name]:16.3f}" for name in columns) for row in result]
    session.say("\n".join(lines))
    return {"guidance": result}


def _diversity(context: Context, scales: np.ndarray) -> np.ndarray:
    """Return how differently several samples of one condition act `[scales]`, averaged over conditions.

    They act in states that training recorded, of all elites alike, so that the scales differ in their policies only.
    """
    section = context.config.eval.guidance
    wanted = np.asarray(context.reference.measures)[context.choose(section.diverse, 5)]
    data, _ = storage.load(context.workdir / "train" / "data", kind="dataset")
    seen = data["states"][:, : int(data["filled"])].reshape(-1, context.task.observation_size)
    seen = jnp.asarray(
        seen[np.random.default_rng([context.config.seed, 6]).integers(0, len(seen), section.observations)]
    )
    key = context.key(5)
    model = context.generator

    @jax.jit
    def measure(model: Any, scale: Array, wanted: Array, seen: Array) -> Array:
        def one(number: Array, measures: Array) -> Array:
            keys = jax.random.split(jax.random.fold_in(key, number), section.samples)
            policies = jax.vmap(partial(model.sample, guidance=scale), (0, None))(keys, measures)
            return action_distance(model.apply, policies, seen)

        return jax.lax.map(lambda pair: one(*pair), (jnp.arange(wanted.shape[0]), wanted)).mean()

    with session.working("evaluate: diversity of the policies of one condition"):
        return np.asarray([measure(model, jnp.asarray(scale), jnp.asarray(wanted), seen) for scale in scales])
