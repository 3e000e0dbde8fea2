"""Quality-diversity archives to one generative model of policies, in pure JAX."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldpol.archive import Archive, Grid
    from ldpol.generator import PolicyGenerator, load
    from ldpol.policy import Policy, PolicyShape
    from ldpol.rollout import RolloutConfig, evaluate
    from ldpol.tasks import Task, make_task
    from ldpol.types import Score

__all__ = [
    "Archive",
    "Grid",
    "Policy",
    "PolicyGenerator",
    "PolicyShape",
    "RolloutConfig",
    "Score",
    "Task",
    "evaluate",
    "load",
    "make_task",
]

_HOMES = {
    "archive": ("Archive", "Grid"),
    "generator": ("PolicyGenerator", "load"),
    "policy": ("Policy", "PolicyShape"),
    "rollout": ("RolloutConfig", "evaluate"),
    "tasks": ("Task", "make_task"),
    "types": ("Score",),
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for (PEP 562): `import ldpol` and `--help` need no JAX."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"ldpol.{module}"), name)
    raise AttributeError(f"module 'ldpol' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
