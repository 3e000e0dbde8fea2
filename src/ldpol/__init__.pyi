"""What `ldpol` exports, for type checkers, and for `__init__.py` to import when it is asked for."""

from . import archive, distillation, errors, evaluation, hooks, player, reference, regions, search, tasks
from .archive import (
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
from .distillation import DistillConfig, Distilled, distill
from .errors import UserError
from .evaluation.protocol import evaluate
from .generator import PolicyGenerator
from .generator_file import load
from .hooks import Hooks
from .keeping import Keeper
from .models import list_models
from .network_reader import network
from .networks import MLP, CustomNetwork
from .planning.adaptation import Adaptation, AdaptConfig, adapt
from .player import Player, make_player
from .reference import Split, reevaluate, split
from .rollout import RolloutConfig
from .search.archive_search import search_archive
from .search.config import SearchConfig
from .tasks import Reduction, Task, make_task, task_elsewhere, task_from_env, task_from_qdax
from .types import Behaviour, Score

__all__ = [
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
    "MLP",
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
