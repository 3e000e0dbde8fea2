"""Config files as modules: what they define beside a config."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from ldpol.errors import UserError
from ldpol.tasks import Task


def load_module(path: str) -> ModuleType:
    """Run a config file and return it as a module; `UserError` if there is no such Python file."""
    found = importlib.util.spec_from_file_location("ldpol_config", path) if Path(path).is_file() else None
    if found is None or found.loader is None:
        raise UserError(f"no config file {path!r}; give one such as experiments/walker2d.py:cpu")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def own_task(config: Any, reset_noise: float) -> Task:
    """Return the task that a config file defines by `make_task(config)`; `reset_noise` replaces the config's.

    Raises:
      UserError: if that is no task.
    """
    own: Any = ConfigDict(config.to_dict())
    own.task.reset_noise = reset_noise
    task = load_module(config.task.source).make_task(own)
    if not isinstance(task, Task):
        raise UserError(f"{config.task.source}: make_task(config) must return a Task, found a {type(task).__name__}")
    return task
