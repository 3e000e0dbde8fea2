"""Quality-diversity archives to one generative model of policies, in pure JAX."""

from ldpol import archive, distillation, errors, evaluation, hooks, player, reference, search, tasks
from ldpol.archive import Archive, Grid
from ldpol.distillation import DistillConfig, Distilled, distill
from ldpol.errors import UserError
from ldpol.evaluation.protocol import evaluate
from ldpol.generator import PolicyGenerator
from ldpol.generator_file import load
from ldpol.hooks import Hooks
from ldpol.player import Player, make_player
from ldpol.policy import Policy, PolicyShape
from ldpol.reference import Split, reevaluate, split
from ldpol.rollout import RolloutConfig
from ldpol.search.archive_search import SearchConfig, search_archive
from ldpol.tasks import Task, make_task
from ldpol.types import Behaviour, Score

__all__ = [
    "Archive",
    "Behaviour",
    "DistillConfig",
    "Distilled",
    "Grid",
    "Hooks",
    "Player",
    "Policy",
    "PolicyGenerator",
    "PolicyShape",
    "RolloutConfig",
    "Score",
    "SearchConfig",
    "Split",
    "Task",
    "UserError",
    "archive",
    "distill",
    "distillation",
    "errors",
    "evaluate",
    "evaluation",
    "hooks",
    "load",
    "make_player",
    "make_task",
    "player",
    "reevaluate",
    "reference",
    "search",
    "search_archive",
    "split",
    "tasks",
]
