"""Run a study: every row for every seed, each kept as a file of its own, and the table of what there is by now."""

from pathlib import Path
from typing import Any

from ldpol import session, storage
from ldpol.errors import UserError
from ldpol.evaluation.retention import NUMBERS, RATIOS, markdown, measure, summarise
from ldpol.experiments import configs, stages
from ldpol.experiments.configs import Config
from ldpol.experiments.keeping import check_equal
from ldpol.experiments.study import methods
from ldpol.experiments.study.ground import Ground, collected, diversity, prepare, prepare_archive
from ldpol.experiments.study.plan import Row, read_rows, run_config
from ldpol.report import save
from ldpol.report.retention import draw_retention

TABLE = "retention.json"
FIGURE = "retention.png"


def run(config: Config, workdir: Path) -> None:
    """Make every row that is not there yet, seed by seed, and write the table after each.

    Raises:
      FileNotFoundError: if the run named by `config.archive` has no archive.
      UserError: if a row makes no sense, or the folder holds rows made with other settings.
    """
    rows = read_rows(config)
    if not config.seeds:
        raise UserError("seeds is empty; give at least one, for instance (0,)")
    for name, least in (("conditions", 1), ("samples", 2), ("states", 1)):
        if config.diversity[name] < least:
            raise UserError(f"diversity.{name} must be at least {least}, found {config.diversity[name]}")
    base = configs.load_config(config.base, config.overrides)
    for row in rows:
        run_config(config, row, config.seeds[0])  # a typo is found now, not after hours
    archive, identity = prepare_archive(config, base, workdir)
    task = configs.task_of(base)
    player, total = stages.player_of(base, task, archive), len(config.seeds) * len(rows)
    done = 0
    for seed in config.seeds:
        own = configs.load_config(config.base, [*config.overrides, f"seed={seed}"])
        ground = prepare(own, workdir, archive, identity, player)
        again = measure(archive.grid, ground.reference, ground.ceiling, ground.kind, task.fitness_offset)
        storage.write_json(ground.folder / "ceiling.json", again | {"seconds": 0.0})
        for row in rows:
            done += 1
            path = _path(workdir, row.name, seed)
            about = _about(config, row, ground)
            if path.is_file():
                check_equal(storage.read_json(path)["about"], about, path)
                session.say(f"study: {done}/{total}, {row.name}, seed {seed}: already done")
                continue
            session.say(f"study: {done}/{total}, {row.name}, seed {seed} ...")
            found = _make(config, row, ground, workdir)
            storage.write_json(path, {"about": about, "numbers": found})
            session.say(f"study: {done}/{total}, {row.name}, seed {seed}: {_line(found)}")
            write_table(config, rows, workdir, base)
    session.say(markdown(write_table(config, rows, workdir, base)["rows"]))
    session.say(f"study: {workdir / TABLE}, {workdir / FIGURE}")


def _path(workdir: Path, name: str, seed: int) -> Path:
    return workdir / "rows" / f"{name}-seed{seed}.json"


def _about(config: Config, row: Row, ground: Ground) -> dict[str, Any]:
    return {
        "row": row.about(),
        "config": configs.as_json(run_config(config, row, ground.config.seed), "seed", "task", "policy", "train"),
        "episodes": ground.config.eval.episodes,
        "diversity": configs.as_json(config, "diversity")["diversity"],
        "archive": ground.identity,
    }


def _make(config: Config, row: Row, ground: Ground, workdir: Path) -> dict[str, Any]:
    """Fit one row, play it, and return its numbers."""
    match = row.settings.get("match", "")
    seed = ground.config.seed
    budget = int(storage.read_json(_path(workdir, match, seed))["numbers"]["bytes"]) if match else 0
    model = methods.fit(ground, row, run_config(config, row, seed), budget, config.collected)
    score, seconds = ground.score(row.name, model)
    grid, offset = ground.archive.grid, ground.task.fitness_offset
    found = measure(grid, ground.reference, score, ground.kind, offset)
    data = collected(ground, config.collected)
    elites = diversity(ground, config.diversity, data, None)
    shape = ground.archive.shape
    return {
        "bytes": model.bytes,
        "compression_bytes": ground.archive.nbytes / model.bytes,
        "compression_params": len(ground.archive) * shape.size / model.size,
        **found,
        "diversity": diversity(ground, config.diversity, data, model) / elites,
        "seconds": round(model.seconds, 3),
        "evaluation_seconds": round(seconds, 3),
    }


def write_table(config: Config, rows: list[Row], workdir: Path, base: Config) -> dict[str, Any]:
    """Write the table and the figure of all rows that some seed has finished, and return the table."""
    lines = []
    for row in rows:
        paths = [_path(workdir, row.name, seed) for seed in config.seeds]
        numbers = [storage.read_json(path)["numbers"] for path in paths if path.is_file()]
        if numbers:
            lines.append({"method": row.method, "variant": row.name, **summarise(numbers)})
    table = {"rows": lines, "ceiling": _ceiling(config, workdir), "study": configs.as_json(config)}
    storage.write_json(workdir / TABLE, table | session.provenance(configs.as_json(base), base.seed))
    save(draw_retention(lines, table["ceiling"]), workdir / FIGURE)
    return table


def _ceiling(config: Config, workdir: Path) -> dict[str, Any]:
    """Return what the archive played a second time scores, over the seeds that have played it."""
    paths = [workdir / f"seed{seed}" / "ceiling.json" for seed in config.seeds]
    found = summarise([storage.read_json(path) for path in paths if path.is_file()])
    return {name: found[name] for name in NUMBERS if found[name]}


def _line(found: dict[str, Any]) -> str:
    ratios = ", ".join(f"{name.partition('_')[0]} {found[name]:.3f}" for name in RATIOS)
    return f"{found['compression_bytes']:.1f}x, {ratios}, MEM {found['mem']:.3f}, {found['seconds']:.0f} s to make"
