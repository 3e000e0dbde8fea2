"""Stage `train`: from `archive/` to the generator in `model`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldpol import distillation, session, storage
from ldpol.errors import UserError
from ldpol.experiments import configs, stages
from ldpol.experiments.configs import Config
from ldpol.experiments.importing import IMPORTED_FROM
from ldpol.keeping import KIND, Keeper
from ldpol.networks import MLP
from ldpol.reference import split

SECTIONS = ("seed", "task", "policy", "train")


def run(config: Config, workdir: Path) -> None:
    """Distil the archive, from the last checkpoint if there is one.

    Raises:
      FileNotFoundError: if the archive stage has not finished.
      UserError: if the folder holds a training with other settings or of another archive.
    """
    folder, task = workdir / "train", configs.task_of(config)
    stored = stages.load_archive(workdir, task)
    expected = MLP(task.observation_size, task.action_size, tuple(config.policy.hidden))
    if IMPORTED_FROM not in dict(stored.settings) and stored.network != expected:
        raise UserError(f"the archive's policies are {stored.network}, the config asks for {expected}")
    about = {
        "config": configs.as_json(config, *SECTIONS),
        "archive": storage.fingerprint(stages.elites_of(workdir)),
    }

    def check(found: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
        stages.check_equal(found["config"], now["config"], folder)
        if found["archive"] != now["archive"]:
            raise UserError(
                f"{folder} was trained on another archive than {workdir / 'archive'} holds now; "
                f"delete {folder} to train again"
            )

    if (folder / "metrics.json").is_file() and (workdir / "model").is_file():
        check(storage.load(folder / "data", kind=KIND)[1], about, folder)
        session.say(f"train: already done (generator in {workdir / 'model'})")
        return
    keeper = Keeper(folder, "train", lambda depends_on: about, check, **configs.pace_of(config))
    settings, player = configs.distill_of(config), stages.player_of(config, task, stored)
    archive = stages.reevaluated(config, workdir, stored, task, player)
    parts = split(archive, **configs.held_out_of(config.train.held_out), seed=config.seed)
    key = stages.key_of(config, "train")
    made = distillation.train(parts.trained, task, settings, key=key, player=player, hooks=keeper.hooks)
    keeper.close()
    size = made.generator.save(workdir / "model")
    storage.write_json(folder / "history.json", keeper.rows)
    metrics = {
        "seconds": round(keeper.timer.seconds, 3),
        "policies": int((parts.kind == 0).sum()),
        "held_out": int((parts.kind > 0).sum()),
        "generator_params": made.generator.size,
        "generator_bytes": size,
        "compression_bytes": stored.nbytes / size,
        "archive": about["archive"],
    }
    storage.write_json(folder / "metrics.json", metrics | session.provenance(configs.as_json(config), config.seed))
    session.say(
        f"train: generator of {size / 1e3:.0f} kB for an archive of {stored.nbytes / 1e6:.1f} MB "
        f"({metrics['compression_bytes']:.1f}x) in {metrics['seconds']:.0f} s -> {workdir / 'model'}"
    )
