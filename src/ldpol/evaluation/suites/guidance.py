"""Suite `guidance`: how strongly to insist on a condition, against accuracy, reward, coverage and diversity."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ldpol.evaluation.context import Context, Result, rows_of
from ldpol.evaluation.intervals import paired
from ldpol.evaluation.metrics import compare, diversity
from ldpol.evaluation.tables import Column, Row, Table, numbers
from ldpol.generator import PolicyGenerator
from ldpol.settings import check, fail
from ldpol.tasks import Task
from ldpol.types import Array, Key, Params

SHOWN = ("mem", "reward_ratio", "coverage_ratio", "qd_ratio", "success_rate", "policies")
LOSS = 0.05
"""Part of the diversity that a guidance scale may cost and still count as an improvement."""


@dataclass(frozen=True)
class Guidance:
    """Ask for the same elites' measures at every scale, with the same random numbers.

    Attributes:
      scales: of guidance.
      conditions: elites whose measures are asked for.
      diverse: conditions for which several policies are compared.
      samples: policies of each.
      observations: states in which they are compared.
    """

    name: ClassVar[str] = "guidance"
    scales: tuple[float, ...] = (0.0, 1.0, 2.0, 3.0, 4.0)
    conditions: int = 153
    diverse: int = 64
    samples: int = 8
    observations: int = 256

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self, least={"conditions": 1, "diverse": 1, "samples": 2, "observations": 1})
        if not self.scales:
            fail(self, "scales", "is empty; give at least one scale, for instance (1.0,)")

    def check_task(self, task: Task) -> None:
        """Every task will do."""

    def run(self, context: Context) -> Result:
        """Measure; differences are to scale 1, paired, with their intervals."""
        grid, scales = context.archive.grid, np.asarray(self.scales, np.float32)
        rows = context.choose(self.conditions, "guidance/conditions")
        reference = rows_of(context.reference, rows)
        requests = {
            "measures": np.tile(reference.measures, (len(scales), 1)),
            "scale": np.repeat(scales, len(rows)),
        }
        pair = np.tile(np.arange(len(rows), dtype=np.int32), len(scales))
        title = f"guidance {', '.join(f'{scale:g}' for scale in scales)}"
        score = context.sample(self, "guidance", title, _guided, requests, context.key_for("guidance"), pair).score
        spread = self.diversity(context)
        parts = [rows_of(score, np.arange(len(rows)) + i * len(rows)) for i in range(len(scales))]
        errors = [np.linalg.norm(part.measures - reference.measures, axis=-1) for part in parts]
        worth = [np.asarray(part.fitness) / np.mean(reference.fitness) for part in parts]
        plain = self.scales.index(1.0) if 1.0 in self.scales else None
        result = []
        for i, scale in enumerate(self.scales):
            found = compare(grid, reference, parts[i], context.task.fitness_offset)
            row: dict[str, Any] = {"scale": scale, **{name: found[name] for name in SHOWN}}
            if plain is not None and plain != i:
                row["mem_difference"] = paired(errors[i], errors[plain])
                row["reward_ratio_difference"] = paired(worth[i], worth[plain])
            result.append(row | {"diversity": float(spread[i])})
        return Result({"guidance": result})

    def diversity(self, context: Context) -> np.ndarray:
        """Return how differently several samples of one condition act `[scales]`, averaged over conditions.

        They act in states of all elites alike, so that the scales differ in their policies only.
        """
        targets = np.asarray(context.reference.measures)[context.choose(self.diverse, "guidance/diverse")]
        seen = context.observations()
        seen = jnp.asarray(seen[context.random("guidance/observations").integers(0, len(seen), self.observations)])
        keys = jax.vmap(partial(jax.random.fold_in, context.key_for("guidance/diversity")))(jnp.arange(len(targets)))
        keys = jax.vmap(lambda key: jax.random.split(key, self.samples))(keys)
        targets = jnp.asarray(targets)
        found = []
        with context.hooks.progress("diversity of the policies of one condition", len(self.scales), "scale") as done:
            for scale in np.asarray(self.scales, np.float32):
                found.append(_diversity(context.generator, jnp.asarray(scale), targets, keys, seen))
                done(1)
        return np.asarray(found)

    @staticmethod
    def tables(metrics: Mapping[str, Any]) -> list[Table]:
        """Return one row per scale, and a sentence."""
        found = metrics.get("guidance") or []
        if not found:
            return []
        columns = (
            Column("Target error", "MEM"),
            Column("Reward", "of reference", "percent"),
            Column("Coverage", "of reference", "percent"),
            Column("Diversity", "L2"),
        )
        names = ("mem", "reward_ratio", "coverage_ratio", "diversity")
        rows = tuple(
            Row(
                f"Scale {one['scale']:g}",
                numbers(one, names),
                "the model as trained" if one["scale"] == 1 else "",
                one["scale"] == 1,
            )
            for one in found
        )
        return [Table("Guidance", columns, rows, f"{guidance_verdict(found)}.")]


def _guided(model: PolicyGenerator, key: Key, request: dict[str, Array]) -> Params:
    return model.sample(key, request["measures"], guidance=request["scale"], verified=False)


@jax.jit
def _diversity(model: PolicyGenerator, scale: Array, targets: Array, keys: Key, seen: Array) -> Array:
    sample = partial(model.sample, guidance=scale, verified=False)
    return diversity(model.apply, sample, targets, keys, jnp.broadcast_to(seen, (len(targets), *seen.shape)))


def guidance_verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say whether a scale other than 1 improves accuracy or reward at little loss of diversity, in one sentence.

    Only an improvement whose paired interval excludes zero counts.
    """
    plain = next((row for row in rows if row["scale"] == 1), None)
    if plain is None:
        return "Guidance: the plain model, scale 1, was not measured"
    rest = [row for row in rows if row is not plain and row["diversity"] >= (1 - LOSS) * plain["diversity"]]
    nearer = [row for row in rest if (_end(row, "mem_difference", "high") or 0.0) < 0]
    better = [row for row in rest if (_end(row, "reward_ratio_difference", "low") or 0.0) > 0]
    if nearer:
        best = min(nearer, key=lambda row: row["mem"])
        return f"Guidance {best['scale']:g} lowers the target error from {plain['mem']:.3f} to {best['mem']:.3f}"
    if better:
        best = max(better, key=lambda row: row["reward_ratio"])
        was, now = (100 * row["reward_ratio"] for row in (plain, best))
        return f"Guidance {best['scale']:g} raises the reward from {was:.1f} to {now:.1f} % of the reference"
    return f"No guidance scale clearly beats 1 at less than {100 * LOSS:.0f} % loss of diversity"


def _end(row: Mapping[str, Any], name: str, end: str) -> float | None:
    return (row.get(name) or {}).get(end)
