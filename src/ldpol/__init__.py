"""Quality-diversity archives to one generative model of policies, in pure JAX."""

from ldpol.archive import Archive, Grid
from ldpol.generator import PolicyGenerator, load
from ldpol.policy import Policy, PolicyShape
from ldpol.rollout import RolloutConfig, evaluate, rollout
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
    "rollout",
]
