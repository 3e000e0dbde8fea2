"""Stage `study`: many models of one archive; every row is kept, and the table shows what there is by now."""

from collections.abc import Callable, Mapping
from pathlib import Path

from ldpol import session, storage, study
from ldpol.distillation import DistillConfig
from ldpol.errors import UserError
from ldpol.evaluation.retention import markdown
from ldpol.experiments import archive as archive_stage
from ldpol.experiments import configs, method, stages
from ldpol.experiments.configs import Config
from ldpol.hooks import Hooks
from ldpol.keeping import Keeper
from ldpol.report import save
from ldpol.report.retention import draw_retention
from ldpol.study import Finished, Method, StudyConfig
from ldpol.study.context import describe

TABLE, FIGURE = "retention.json", "retention.png"
Rows = Callable[[Config, DistillConfig], Mapping[str, Method]]
"""`rows(config of the study, settings of the base)`, a function of the study's config file."""


def run(config: Config, workdir: Path, make_rows: Rows) -> None:
    """Make every row that is not there yet, seed by seed, and write the table after each.

    Raises:
      FileNotFoundError: if the run named by `config.archive` has no archive.
      UserError: if a row makes no sense, or the folder holds a study of another archive or base.
    """
    base = configs.load_config(config.base, config.overrides)
    configs.check(base)
    if not config.seeds:
        raise UserError("seeds is empty; give at least one, for instance (0,)")
    settings, held_out = configs.distill_of(base), configs.held_out_of(base.train.held_out)
    shared = StudyConfig(settings, **held_out, **config.diversity.to_dict())
    rows = study.choose(make_rows(config, settings), config.only)
    task = configs.task_of(base)
    source = Path(config.archive) if config.archive else workdir
    if not config.archive:
        archive_stage.run(base, workdir)
    archive, identity = stages.load_archive(source, task), storage.fingerprint(stages.elites_of(source))
    described = {"settings": describe(shared), "rows": {name: describe(row) for name, row in rows.items()}}
    finished: list[Finished] = []
    for one in study.run(
        rows,
        archive,
        task,
        shared,
        seeds=tuple(config.seeds),
        player=stages.player_of(base, task, archive),
        version=method.digest(beside=[name for name in method.BESIDE if name != "study"]),
        hooks=lambda name: _hooks(base, identity, workdir / name),
    ):
        finished.append(one)
        session.say(f"study: {one}")
        table = study.tabulate(rows, finished)
        about = {"study": described | {"seeds": list(config.seeds), "archive": identity}}
        about |= session.provenance(configs.as_json(base), int(config.seeds[0]))
        storage.write_json(workdir / TABLE, table | about)
        if table["rows"]:
            save(draw_retention(table["rows"], table["ceiling"]), workdir / FIGURE)
    session.say(markdown(study.tabulate(rows, finished)["rows"]))
    session.say(f"study: {workdir / TABLE}, {workdir / FIGURE}")


def _hooks(base: Config, identity: str, folder: Path) -> Hooks:
    """Return hooks that keep a piece of work in a folder of its own, for this archive and base only."""
    fixed = {"archive": identity, "config": configs.as_json(base, "task", "policy", "train")}
    fixed["config"]["episodes"] = base.eval.episodes
    return Keeper(
        folder,
        "study",
        about=lambda depends_on: {**depends_on, **fixed},
        check=lambda found, now, path: stages.check_equal({name: found[name] for name in fixed}, fixed, path),
        **configs.pace_of(base),
    ).hooks
