"""Stage `archive`: search for elites and write `archive/`."""

from pathlib import Path

import jax

from ldpol import archive as archives
from ldpol import session, storage
from ldpol.evaluation.metrics import summarise
from ldpol.experiments import configs, stages
from ldpol.experiments.configs import Config
from ldpol.keeping import Keeper
from ldpol.rollout import copied_to, policy_mesh
from ldpol.search.archive_search import compile_step, make_search, row_of, start_search
from ldpol.search.config import SEARCHES
from ldpol.types import Score

SECTIONS = ("seed", "task", "policy", "archive")
GROWS = ("archive.iterations", "archive.checkpoint_every")
"""May change between a run and its continuation."""


def run(config: Config, workdir: Path) -> None:
    """Search until `config.archive.iterations`, from the last checkpoint if there is one.

    Raises:
      UserError: if the folder holds a search with other settings.
    """
    folder, elites, mesh = workdir / "archive", stages.elites_of(workdir), policy_mesh()
    total, settings, about = config.archive.iterations, configs.search_of(config), configs.as_json(config, *SECTIONS)
    task, quiet = configs.task_of(config), configs.task_of(config, reset_noise=config.archive.search_noise)
    search, network, grid = make_search(task, settings, search_task=quiet, mesh=mesh)
    key = stages.key_of(config, "archive")
    state = start_search(search, key, mesh)
    keeper = Keeper(
        folder,
        "archive",
        about=lambda depends_on: {"config": about},
        check=lambda found, now, path: stages.check_equal(found["config"], about, folder, GROWS),
    )
    state, history = keeper.restore("checkpoint", state, kind="search"), keeper.rows
    first = len(history)
    if first >= total and storage.exists(elites) and (folder / "metrics.json").is_file():
        session.say(f"archive: already done ({history[-1]['cells']} elites in {elites})")
        stages.reevaluated(config, workdir, archives.load(elites), task)
        return
    if first:
        session.say(f"archive: resuming after iteration {first}")
    if first < total:
        with session.working("archive: compiling the search"):
            state, key = jax.device_put((state, key), copied_to(mesh))
            step = compile_step(search, mesh).lower(state, key).compile()
        with session.bar(f"archive: {SEARCHES[settings.search]} on {task.name}", total, first) as shown:
            for iteration in range(first, total):
                state, metrics = step(state, jax.random.fold_in(key, iteration))
                row = row_of(metrics) | {"seconds": round(keeper.timer.seconds, 3)}
                history.append(row)
                keeper.scalars(iteration + 1, row)
                shown.set_postfix_str(f"{row['cells']} elites, QD {row['qd_score']:.3g}, best {row['best']:.0f}", False)
                shown.update()
                if row["iteration"] % config.archive.checkpoint_every == 0 or row["iteration"] == total:
                    keeper.checkpoint("checkpoint", state, kind="search")
    keeper.close()
    made_with = tuple(sorted(configs.as_json(config)["task"].items()))
    archive = archives.from_qdax(state.repertoire, network, task, cells=grid, settings=made_with)
    archives.save(archive, elites)
    last = history[-1]
    storage.write_json(folder / "history.json", history)
    storage.write_json(folder / "metrics.json", last | session.provenance(configs.as_json(config), config.seed))
    session.say(
        f"archive: {len(archive)} elites of {grid.cells} cells, QD score {last['qd_score']:.4g}, "
        f"best {last['best']:.0f}, {last['env_steps'] / 1e6:.1f} M steps in {last['seconds']:.0f} s -> {elites}"
    )
    again = stages.reevaluated(config, workdir, jax.device_get(archive), task)
    found = summarise(grid, Score(again.fitness, again.measures, again.fitness), task.fitness_offset)
    session.say(
        f"archive: evaluated again, {config.eval.episodes} episodes each: {found['cells']:.0f} cells, "
        f"QD score {found['qd_score']:.4g}, best {found['best']:.0f}"
    )
