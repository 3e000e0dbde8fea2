"""Stage `import`: bring an archive from elsewhere into a work directory, checked, as if it had been searched there."""

import dataclasses
from pathlib import Path

import jax

from ldpol import archive as archives
from ldpol import session, storage
from ldpol.archive import Archive, replay
from ldpol.errors import UserError
from ldpol.experiments import configs, stages
from ldpol.experiments.configs import Config
from ldpol.networks import MLP

IMPORTED_FROM = "imported from"
"""Setting of an archive that a config file brought along: that file. Such archives state their own networks."""


def load_archive(config: Config) -> Archive:
    """Return the archive that the config file brings along, with its `load_archive(config, task)`.

    Raises:
      UserError: if it has none.
    """
    path = config.task.source
    load = getattr(configs.load_module(path), "load_archive", None) if path else None
    if load is None:
        raise UserError(
            "to import an archive, the config file needs make_task(config) and load_archive(config, task), which "
            "returns what from_qdax, from_ribs, from_npz or from_policies makes"
        )
    return load(config, configs.task_of(config))


def run(config: Config, workdir: Path) -> None:
    """Import what the config file's `load_archive(config, task)` returns.

    Raises:
      UserError: if there is no such function, an archive is there already, the network is a custom one, or the policies
        do not do what is stored.
    """
    elites = stages.elites_of(workdir)
    if storage.exists(elites):
        raise UserError(f"{elites} holds an archive already; use another --workdir, or delete it")
    task, archive = configs.task_of(config), load_archive(config)
    archives.check_task(archive, task)
    if not isinstance(archive.network, MLP):
        raise UserError(
            f"the policies belong to {archive.network}, whose code no file of a work directory holds; distil them in "
            "Python: ldpol.distill(archive, task, key=key)"
        )
    key = stages.key_of(config, "import")
    with session.working("import: rolling out some of the policies"):
        found = replay(archive, task, key)
    session.say(f"import: {found}")
    if found.verdict == "wrong":
        raise UserError("these policies do not do what the archive says; state the right network, order and task")
    kept = archives.checked(jax.device_get(archive))
    kept = dataclasses.replace(kept, settings=(*kept.settings, (IMPORTED_FROM, config.task.source)))
    archives.save(kept, elites)
    verdict = {"elites": len(kept), **found.to_json()}
    storage.write_json(workdir / "archive" / "metrics.json", verdict | {"source": config.task.source})
    session.say(f"import: {len(kept)} elites of {kept.network} on {task.name} -> {elites}; go on with train")
