"""Suite `cutout`: ask for the box of the measure space that training never saw, against the elites around it."""

from typing import Any

import jax
import numpy as np

from ldpol.evaluation.cutout import box_targets, cutout_metrics, nearest
from ldpol.experiments import session
from ldpol.experiments.settings import Config
from ldpol.experiments.suites.context import Context, at_least, plainly
from ldpol.tasks import Task

NEEDS = ("episodes", "cutout")


def check(config: Config, task: Task) -> None:
    """Raise `ConfigError` if there is nothing to ask for."""
    at_least(config.eval.cutout, "eval.cutout", draws=1)


def run(context: Context) -> dict[str, Any]:
    """Ask for the centre of every cell of the box several times, and play the nearest trained elite as often."""
    grid, (low, high) = context.archive.grid, context.box
    targets = box_targets(grid, low, high) if low else np.zeros((0, context.task.measures))
    originals = context.rows(context.reference, context.kind == 2)
    if not len(targets) or not len(originals.fitness):
        session.say("cutout: left out, training held no box with elites out (train.held_out.low and high)")
        return {"cutout": {}}
    draws = context.config.eval.cutout.draws
    generate = context.asking(plainly)
    asked = np.repeat(targets, draws, 0)
    generated = context.keep("cutout", "the box that was cut out", generate, asked, context.key(7), NEEDS).score
    # Neighbours among what training saw; the random held-out elites are no more known to the generator than the box.
    rows = np.flatnonzero(context.kind == 0)
    chosen = rows[nearest(targets, np.asarray(context.reference.measures)[rows])]
    policies = jax.tree.map(lambda leaf: np.asarray(leaf)[np.repeat(chosen, draws)], context.archive.policies)
    title = "nearest elites outside the box"
    neighbours = context.keep("cutout_nearest", title, context.play, policies, context.key(8), NEEDS).score
    found = cutout_metrics(grid, targets, originals, generated, neighbours, draws)
    session.say(
        f"cutout: of {found['cells']} cells the generator reaches {found['reached']}, the nearest trained elites "
        f"{found['reached_by_nearest']}, in {draws} tries each; MEM {found['mem']:.3f} and {found['mem_nearest']:.3f}"
    )
    return {"cutout": found}
