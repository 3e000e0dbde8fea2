"""Quality-diversity archives to one generative model of policies, in pure JAX."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldpol import archive, distillation, errors, evaluation, hooks, player, reference, regions, search, tasks
    from ldpol.archive import (
        Archive,
        Grid,
        Replay,
        Voronoi,
        from_npz,
        from_policies,
        from_qdax,
        from_ribs,
        replay,
        to_qdax,
        to_ribs,
    )
    from ldpol.distillation import DistillConfig, Distilled, distill
    from ldpol.errors import UserError
    from ldpol.evaluation.protocol import evaluate
    from ldpol.generator import PolicyGenerator
    from ldpol.generator_file import load
    from ldpol.hooks import Hooks
    from ldpol.keeping import Keeper
    from ldpol.models import list_models
    from ldpol.network_reader import network
    from ldpol.networks import MLP, CustomNetwork
    from ldpol.planning.adaptation import Adaptation, AdaptConfig, adapt
    from ldpol.player import Player, make_player
    from ldpol.reference import Split, reevaluate, split
    from ldpol.rollout import RolloutConfig
    from ldpol.search.archive_search import SearchConfig, search_archive
    from ldpol.tasks import Reduction, Task, make_task, task_elsewhere, task_from_env, task_from_qdax
    from ldpol.types import Behaviour, Score

__all__ = [
    "MLP",
    "AdaptConfig",
    "Adaptation",
    "Archive",
    "Behaviour",
    "CustomNetwork",
    "DistillConfig",
    "Distilled",
    "Grid",
    "Hooks",
    "Keeper",
    "Player",
    "PolicyGenerator",
    "Reduction",
    "Replay",
    "RolloutConfig",
    "Score",
    "SearchConfig",
    "Split",
    "Task",
    "UserError",
    "Voronoi",
    "adapt",
    "archive",
    "distill",
    "distillation",
    "errors",
    "evaluate",
    "evaluation",
    "from_npz",
    "from_policies",
    "from_qdax",
    "from_ribs",
    "hooks",
    "list_models",
    "load",
    "make_player",
    "make_task",
    "network",
    "player",
    "reevaluate",
    "reference",
    "regions",
    "replay",
    "search",
    "search_archive",
    "split",
    "task_elsewhere",
    "task_from_env",
    "task_from_qdax",
    "tasks",
    "to_qdax",
    "to_ribs",
]

_HOMES = {
    "archive": (
        "Archive",
        "Grid",
        "Replay",
        "Voronoi",
        "from_npz",
        "from_policies",
        "from_qdax",
        "from_ribs",
        "replay",
        "to_qdax",
        "to_ribs",
    ),
    "distillation": ("DistillConfig", "Distilled", "distill"),
    "errors": ("UserError",),
    "evaluation.protocol": ("evaluate",),
    "generator": ("PolicyGenerator",),
    "generator_file": ("load",),
    "hooks": ("Hooks",),
    "keeping": ("Keeper",),
    "models": ("list_models",),
    "planning.adaptation": ("AdaptConfig", "Adaptation", "adapt"),
    "player": ("Player", "make_player"),
    "network_reader": ("network",),
    "networks": ("MLP", "CustomNetwork"),
    "reference": ("Split", "reevaluate", "split"),
    "rollout": ("RolloutConfig",),
    "search.archive_search": ("SearchConfig", "search_archive"),
    "tasks": (
        "Reduction",
        "Task",
        "make_task",
        "task_elsewhere",
        "task_from_env",
        "task_from_qdax",
    ),
    "types": ("Behaviour", "Score"),
}
_ROOMS = (
    "archive",
    "distillation",
    "errors",
    "evaluation",
    "hooks",
    "player",
    "reference",
    "regions",
    "search",
    "tasks",
)


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for (PEP 562): the explorer's page is there before JAX is."""
    if name in _ROOMS:
        return importlib.import_module(f"ldpol.{name}")
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"ldpol.{module}"), name)
    raise AttributeError(f"module 'ldpol' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
