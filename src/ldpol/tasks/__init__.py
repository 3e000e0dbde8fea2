"""Control tasks: the five Brax robots, and adapters for everybody's own environments."""

from ldpol.tasks.adapters import ELSEWHERE, task_elsewhere, task_from_env, task_from_qdax
from ldpol.tasks.damage import Damage, damaged, weaken
from ldpol.tasks.locomotion import BACKENDS, SPECS, TaskSpec, make_task
from ldpol.tasks.task import Reduction, Skeleton, Task, TaskState, Torso, reduction

__all__ = [
    "BACKENDS",
    "ELSEWHERE",
    "SPECS",
    "Damage",
    "Reduction",
    "Skeleton",
    "Task",
    "TaskSpec",
    "TaskState",
    "Torso",
    "damaged",
    "make_task",
    "reduction",
    "task_elsewhere",
    "task_from_env",
    "task_from_qdax",
    "weaken",
]
