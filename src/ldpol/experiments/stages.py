"""What the stages share: where things lie in a work directory, and the elites evaluated again."""

from pathlib import Path
from typing import Any

import jax

from ldpol import archive as archives
from ldpol import keeping, reference, storage
from ldpol.archive import Archive
from ldpol.experiments import configs
from ldpol.experiments.configs import Config
from ldpol.keeping import Keeper
from ldpol.keys import key_for
from ldpol.player import Player, make_player
from ldpol.tasks import Task
from ldpol.types import Key


def check_equal(stored: Any, now: Any, where: Path, but: tuple[str, ...] = ()) -> None:
    """Raise `UserError` if a folder was made with other settings than those asked for now."""
    advice = "use another --workdir, or delete that folder to start this stage again"
    keeping.check_equal(stored, now, where, but, advice)


def key_of(config: Config, stage: str) -> Key:
    """Return the key of a stage."""
    return key_for(jax.random.key(config.seed), stage)


def elites_of(workdir: Path) -> Path:
    """Return where the archive lies."""
    return workdir / "archive" / "elites"


def load_archive(workdir: Path, task: Task) -> Archive:
    """Read the archive of a work directory, and check that it fits the task.

    Raises:
      FileNotFoundError: if the archive stage has not finished.
      ValueError: if it is of another task.
    """
    archive = archives.load(elites_of(workdir))
    archives.check_task(archive, task)
    return archive


def player_of(config: Config, task: Task, archive: Archive) -> Player:
    """Compile the player of a config, once per process and stage."""
    how = {"episodes": config.eval.episodes, "rollout": configs.rollout_of(config), "chunk": config.rollout.chunk}
    return make_player(task, archive.network.apply, **how)


def reevaluated(config: Config, workdir: Path, archive: Archive, task: Task, player: Player | None = None) -> Archive:
    """Return the archive as training and evaluation see it: means over fresh episodes, kept in `archive/again`.

    Whoever comes first, the archive stage or one that was handed an archive, evaluates it.
    """
    about = {
        "config": configs.as_json(config, "seed", "task", "policy") | {"episodes": config.eval.episodes},
        "archive": storage.fingerprint(elites_of(workdir)),
    }
    player = player_of(config, task, archive) if player is None else player
    hooks = Keeper(workdir / "archive", "archive", lambda depends_on: about, keeping.replace).hooks
    return reference.reevaluate(archive, task, key=key_of(config, "reevaluate"), player=player, hooks=hooks)
