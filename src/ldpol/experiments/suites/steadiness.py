"""Suite `steadiness`: how much of the coverage, on both sides, is noise that more episodes average out?"""

from typing import Any

import jax
import numpy as np

from ldpol.evaluation.steadiness import steadiness_metrics
from ldpol.experiments import session
from ldpol.experiments.settings import Config
from ldpol.experiments.suites.context import Context, at_least, drawing, plainly, renumber
from ldpol.tasks import Task
from ldpol.types import Behaviour, Key, PyTree, Score

NEEDS = ("episodes", "steadiness")


def check(config: Config, task: Task) -> None:
    """Raise `ConfigError` if nothing is played twice."""
    at_least(config.eval.steadiness, "eval.steadiness", plays=2)


def run(context: Context) -> dict[str, Any]:
    """Play the elites, and one policy generated for each, several times; the reference is the elites' first play."""
    plays, wanted = context.config.eval.steadiness.plays, np.asarray(context.reference.measures)
    requests = {"measures": wanted, "number": np.arange(len(wanted), dtype=np.int32)}
    draw, key, draw_key = drawing(plainly), context.key(30), context.key(31)

    def generate(requests: PyTree, keys: Key) -> Behaviour:
        # The keys of a play are those of its episodes: every play is of the same policies.
        policies = draw(context.generator, requests["measures"], renumber(draw_key, requests["number"]))
        return context.play(policies, keys)

    elites, generated = [context.reference], []
    for number in range(plays):
        own, title = jax.random.fold_in(key, number), f"steadiness ({number + 1}/{plays})"
        if number:
            elites.append(
                context.keep(
                    f"steadiness_elites_{number + 1}",
                    f"{title}, elites",
                    context.play,
                    context.archive.policies,
                    jax.random.fold_in(own, 0),
                    NEEDS,
                ).score
            )
        generated.append(
            context.keep(
                f"steadiness_generated_{number + 1}",
                f"{title}, generated",
                generate,
                requests,
                jax.random.fold_in(own, 1),
                NEEDS,
            ).score
        )
    found = steadiness_metrics(
        context.archive.grid,
        wanted,
        _stack(elites),
        _stack(generated),
        context.config.eval.episodes,
        context.task.fitness_offset,
    )
    columns = ("reward_ratio", "coverage_ratio", "qd_ratio", "mem", "cells_elites", "cells_generated")
    lines = ["episodes          " + "".join(f"{name:>17}" for name in columns)]
    lines += [f"{row['episodes']:<18}" + "".join(f"{row[name]:17.3f}" for name in columns) for row in found["rows"]]
    lines.append(
        f"between two plays, elites move by {found['repeat_elites']:.4f}, generated policies by "
        f"{found['repeat_generated']:.4f}"
    )
    session.say("\n".join(lines))
    return {"steadiness": found}


def _stack(scores: list[Score]) -> Score:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *scores)
