"""Stage `study`: many models of one archive; every row is kept, and the table shows what there is by now."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ldpol import session, storage, study
from ldpol.distillation import DistillConfig
from ldpol.errors import UserError
from ldpol.evaluation.metrics import RATIOS
from ldpol.evaluation.retention import markdown
from ldpol.experiments import archive as archive_stage
from ldpol.experiments import configs, stages
from ldpol.experiments.configs import Config
from ldpol.experiments.keeping import Keeper, check_equal
from ldpol.hooks import Hooks
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
    held, settings = base.train.held_out, configs.distill_of(base)
    shared = StudyConfig(
        base=settings,
        fraction=held.fraction,
        box=(tuple(held.low), tuple(held.high)),
        **config.diversity.to_dict(),
    )
    rows = chosen(make_rows(config, settings), config.only)
    task = configs.task_of(base)
    source = Path(config.archive) if config.archive else workdir
    if not config.archive:
        archive_stage.run(base, workdir)
    archive, identity = stages.load_archive(base, task, source), storage.fingerprint(stages.elites_of(source))
    described = {"settings": describe(shared), "rows": {name: describe(row) for name, row in rows.items()}}
    finished: list[Finished] = []
    for one in study.run(
        rows,
        archive,
        task,
        shared,
        seeds=tuple(config.seeds),
        player=stages.player_of(base, task, archive),
        hooks=lambda name: _hooks(base, identity, workdir / name),
    ):
        finished.append(one)
        session.say(f"study: {one.name}, seed {one.seed}: {_line(one)}")
        table = study.tabulate(rows, finished)
        about = {"study": described | {"seeds": list(config.seeds), "archive": identity}}
        about |= session.provenance(configs.as_json(base), int(config.seeds[0]))
        storage.write_json(workdir / TABLE, table | about)
        if table["rows"]:
            save(draw_retention(table["rows"], table["ceiling"]), workdir / FIGURE)
    session.say(markdown(study.tabulate(rows, finished)["rows"]))
    session.say(f"study: {workdir / TABLE}, {workdir / FIGURE}")


def chosen(rows: Mapping[str, Method], only: Sequence[str]) -> dict[str, Method]:
    """Return the rows that `only` names, in their own order; `all` names all.

    Raises:
      UserError: for an unknown row.
    """
    for name in only:
        if name not in ("all", *rows):
            close = difflib.get_close_matches(name, list(rows), n=1, cutoff=0.4)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise UserError(f"only: unknown row {name!r}{hint} (known: {', '.join(rows)})")
    return {name: method for name, method in rows.items() if name in only or "all" in only}


def _hooks(base: Config, identity: str, folder: Path) -> Hooks:
    """Return hooks that keep a piece of work in a folder of its own, for this archive and base only."""
    fixed = {"archive": identity, "config": configs.as_json(base, "task", "policy", "train")}
    fixed["config"]["episodes"] = base.eval.episodes

    def check(found: Mapping[str, Any], path: Path) -> None:
        check_equal({name: found[name] for name in fixed}, fixed, path)

    how = {name: base.train[name] for name in ("steps_per_call", "checkpoint_seconds")}
    return Keeper("study", folder, lambda depends_on: {**depends_on, **fixed}, check, **how).hooks


def _line(one: Finished) -> str:
    ratios = ", ".join(f"{name.partition('_')[0]} {one.numbers[name]:.3f}" for name in (*RATIOS, "mem"))
    smaller = one.numbers.get("compression_bytes")
    return ratios if smaller is None else f"{smaller:.1f}x smaller, {ratios}, {one.numbers['seconds']:.0f} s to make"
