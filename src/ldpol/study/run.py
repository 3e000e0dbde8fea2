"""Make and measure every row of a study under every seed, by the protocol of the evaluation."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ldpol.archive import Archive
from ldpol.errors import UserError, meant
from ldpol.evaluation.context import draw
from ldpol.evaluation.metrics import RATIOS, action_distance, diversity
from ldpol.evaluation.retention import measure, summarise
from ldpol.hooks import Hooks
from ldpol.keys import key_for
from ldpol.measures import nearest
from ldpol.player import Player, make_player
from ldpol.precision import expand
from ldpol.reference import reevaluate, split
from ldpol.rollout import copied_to
from ldpol.study.context import OpenHooks, StudyConfig, StudyContext, as_score, describe
from ldpol.study.methods import Method, Model
from ldpol.tasks import Task
from ldpol.types import Array, Behaviour, Key, Params, PyTree, Score

CEILING = "ceiling"
"""Name of the row that is the archive itself, evaluated a second time."""
Numbers = dict[str, float | None]


class Finished(NamedTuple):
    """One row under one seed.

    Attributes:
      name: of the row.
      seed: the seed.
      numbers: what was measured, see `evaluation.retention`.
    """

    name: str
    seed: int
    numbers: Numbers

    def __str__(self) -> str:
        said = ", ".join(f"{name.partition('_')[0]} {self.numbers[name]:.3f}" for name in (*RATIOS, "mem"))
        smaller = self.numbers.get("compression_bytes")
        if smaller is not None:
            said = f"{smaller:.1f}x smaller, {said}, {self.numbers['seconds']:.0f} s to make"
        return f"{self.name}, seed {self.seed}: {said}"


def choose(rows: Mapping[str, Method], only: Sequence[str]) -> dict[str, Method]:
    """Return the rows that `only` names, in their own order; `all` names all.

    Raises:
      UserError: for an unknown row.
    """
    for name in only:
        if name not in ("all", *rows):
            raise UserError(f"only: unknown row {name!r}{meant(name, rows)} (known: {', '.join(rows)})")
    return {name: method for name, method in rows.items() if name in only or "all" in only}


def run(
    rows: Mapping[str, Method],
    archive: Archive,
    task: Task,
    config: StudyConfig,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    player: Player | None = None,
    version: str = "",
    hooks: OpenHooks = lambda name: Hooks(),
) -> Iterator[Finished]:
    """Make and measure every row under every seed, one at a time.

    Args:
      rows: by name.
      archive: as the search left it; it is re-evaluated under every seed.
      task: where its policies act.
      config: what holds for all rows.
      seeds: each decides the labels, the held-out elites and everything random of all rows.
      player: evaluates policies; None compiles one.
      version: of the code; numbers that were kept by another are measured again, while trainings stay.
      hooks: opens the hooks of a piece of work; by default nothing is kept.

    Yields:
      The row `CEILING` and then every row, seed by seed.
    """
    base = config.base
    if player is None:
        how = {"episodes": base.episodes, "rollout": base.rollout, "chunk": base.chunk}
        player = make_player(task, archive.network.apply, **how)
    for seed in seeds:
        opened = partial(_of_seed, hooks, seed)
        context = _context(archive, task, config, seed, player, opened)
        again = measure(archive.grid, context.reference, context.ceiling, context.split.kind, task.fitness_offset)
        yield Finished(CEILING, seed, again | {"seconds": 0.0})
        for name, method in rows.items():
            about = {"row": describe(method), "study": describe(config), "version": version}
            found = opened(f"row-{name}").memo("numbers", about, partial(_numbers, method, context))
            yield Finished(name, seed, {part: _or_none(value) for part, value in found.items()})


def _of_seed(hooks: OpenHooks, seed: int, name: str) -> Hooks:
    return hooks(f"seed{seed}/{name}")


def _or_none(value: Any) -> float | None:
    return None if math.isnan(float(value)) else float(value)


def _context(
    archive: Archive, task: Task, config: StudyConfig, seed: int, player: Player, hooks: OpenHooks
) -> StudyContext:
    """Evaluate the archive twice, and hold elites out."""
    key = jax.random.key(seed)
    labels, again = (
        reevaluate(archive, task, key=key_for(key, name), player=player, hooks=hooks(name))
        for name in ("reevaluate", CEILING)
    )
    parts = split(labels, fraction=config.fraction, box=config.box, seed=seed)
    return StudyContext(config, parts, task, player, as_score(again), key, hooks)


def _numbers(method: Method, context: StudyContext) -> dict[str, np.ndarray]:
    """Make one row and measure it."""
    model, archive = method.fit(context), context.archive
    score = evaluate_model(model, context)
    found = measure(archive.grid, context.reference, score, context.split.kind, context.task.fitness_offset)
    among_elites, of_model = diversities(model, context)
    found |= {
        "bytes": model.bytes,
        "compression_bytes": archive.nbytes / model.bytes,
        "compression_params": len(archive) * archive.network.size / model.size,
        "diversity": of_model / among_elites,
        "seconds": model.seconds,
    }
    return {name: np.asarray(math.nan if value is None else value, np.float64) for name, value in found.items()}


def evaluate_model(model: Model, context: StudyContext) -> Score:
    """Ask a model once for every elite's measures, and evaluate what it generates; `[N]`."""
    player, targets = context.player, context.reference.measures
    tree = jax.device_put(model.tree, copied_to(player.mesh))
    play = player.play if model.apply is None else context.play_shared(model.apply, expand(tree))

    def program(targets: PyTree, keys: Key) -> Behaviour:
        return play(draw(model.generate, tree, targets, keys, player.mesh), keys)

    progress = context.hooks("evaluation").progress
    key = key_for(context.key, "evaluate")
    return player.over(program, targets, key, title="one sample per condition", progress=progress).score


def diversities(model: Model, context: StudyContext) -> tuple[float, float]:
    """Return how differently policies for one condition act: elites nearest to it, and policies of the model.

    Both act in states of the elite whose measures are asked for.
    """
    config, trained, data = context.config, context.split.trained, context.dataset()
    order = jax.random.permutation(key_for(context.key, "diversity/conditions"), len(trained))
    rows = jnp.sort(order[: config.conditions])
    targets, seen = trained.measures[rows], jnp.asarray(data.states)[rows, : min(config.states, int(data.filled))]
    keys = jax.random.split(key_for(context.key, "diversity/samples"), (len(rows), config.samples))
    plain = context.archive.network.apply

    @jax.jit
    def among_elites(policies: Params, measures: Array) -> Array:
        def one(part: tuple[Array, Array]) -> Array:
            near = nearest(part[0], measures, config.samples)
            return action_distance(plain, jax.tree.map(lambda leaf: leaf[near], policies), part[1])

        return jax.lax.map(one, (targets, seen)).mean()

    @jax.jit
    def of_model(tree: PyTree) -> Array:
        apply = plain if model.apply is None else partial(model.apply, expand(tree))
        return diversity(apply, partial(model.generate, tree), targets, keys, seen)

    elites = context.once("diversity", lambda: float(among_elites(trained.policies, trained.measures)))
    return elites, float(of_model(model.tree))


def tabulate(rows: Mapping[str, Method], finished: Sequence[Finished]) -> dict[str, Any]:
    """Return means and intervals over the seeds that are finished.

    Returns:
      `rows`, one dict per row with its `method` and `variant`, and the `ceiling`.
    """

    def over(name: str) -> list[Numbers]:
        return [one.numbers for one in finished if one.name == name]

    table = [
        {"method": method.kind, "variant": name, **summarise(over(name))} for name, method in rows.items() if over(name)
    ]
    ceiling = summarise(over(CEILING))
    return {"rows": table, "ceiling": {name: value for name, value in ceiling.items() if isinstance(value, dict)}}
