"""Suite `composition`: conditions that leave a measure free, their AND against the joint condition, and NOT."""

from typing import Any

import numpy as np

from ldpol.evaluation.composition import ASKED, COMPOSED, build_requests, by_way, composition_metrics, free_metrics
from ldpol.experiments import session
from ldpol.experiments.settings import Config
from ldpol.experiments.suites.context import Context, at_least
from ldpol.generator import PolicyGenerator
from ldpol.tasks import Task
from ldpol.types import Array, Key, Params

NEEDS = ("episodes", "composition")


def check(config: Config, task: Task) -> None:
    """Raise `ConfigError` if there is nothing to ask for."""
    at_least(config.eval.composition, "eval.composition", conditions=1)


def _asked(model: PolicyGenerator, key: Key, request: dict[str, Array]) -> Params:
    return model.sample(key, request["measures"])


def _composed(model: PolicyGenerator, key: Key, request: dict[str, Array]) -> Params:
    return model.sample_composed(key, request["measures"], request["scales"])


def run(context: Context) -> dict[str, Any]:
    """Ask for the same elites' measures in all ways, with the same random numbers."""
    if context.task.measures < 2:
        session.say(f"composition: left out, {context.task.name} has one measure only and nothing to compose")
        return {"composition": {}, "free": {}}
    reference = context.rows(context.reference, context.choose(context.config.eval.composition.conditions, 7))
    requests = build_requests(np.asarray(reference.measures))
    scores = {}
    for name, ways, ask, rows in (
        ("composition_asked", ASKED, _asked, requests.asked),
        ("composition", COMPOSED, _composed, requests.composed),
    ):
        program = context.asking(ask, pairs=True)
        played = context.keep(name, f"compositions ({', '.join(ways)})", program, rows, context.key(6), NEEDS)
        scores |= by_way(ways, played.score)
    composed = composition_metrics(context.archive.grid, reference, scores, context.task.fitness_offset)
    free = free_metrics(reference, scores)
    session.say(
        f"composition: MEM {composed['and']['mem']:.3f} for AND of single measures, {composed['joint']['mem']:.3f} for "
        f"the joint condition\nfree measures: the given one is missed by {free['error']:.3f}, in joint conditions by "
        f"{free['joint_error']:.3f}"
    )
    return {"composition": composed, "free": free}
