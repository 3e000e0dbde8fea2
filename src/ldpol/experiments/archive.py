"""Stage `archive`: search for elites and write `archive/`."""

from pathlib import Path

import jax
import numpy as np

from ldpol import archive as archives
from ldpol import storage
from ldpol.evaluation.metrics import summarise
from ldpol.experiments import passes, session, settings
from ldpol.experiments.defaults import SEARCHES
from ldpol.experiments.settings import Config
from ldpol.rollout import RolloutConfig, copied_to, policy_mesh
from ldpol.search.loop import Search, in_turn
from ldpol.search.map_elites import MapElitesConfig, make_map_elites
from ldpol.search.ppga import PPGAConfig, make_ppga
from ldpol.search.ppo_config import PPOConfig
from ldpol.search.xnes import XNESConfig

SECTIONS = ("seed", "task", "policy", "archive")
GROWS = ("archive.iterations", "archive.checkpoint_every")
"""May change between a run and its continuation."""
START = 2**32 - 1
"""Folded into the key for the state that a search starts from; the other numbers are its iterations."""


def make(config: Config) -> Search:
    """Build the search that `config.archive.search` names.

    Raises:
      ConfigError: if there is none of that name.
      ValueError: if its settings make no sense.
    """
    chosen = config.archive.search
    if chosen not in SEARCHES:
        raise settings.ConfigError(f"archive.search = {chosen!r} is unknown; choose one of {', '.join(SEARCHES)}")
    noisy, shape, grid = session.make_setting(config)
    task, _, _ = session.make_setting(config, reset_noise=config.archive.search_noise)
    shared = {"rollouts": settings.build(RolloutConfig, config.rollout.device), "mesh": policy_mesh()}

    def ppga() -> Search:
        section = config.archive.ppga
        return make_ppga(
            noisy,
            shape,
            grid,
            settings.build(PPGAConfig, section.emitter),
            settings.build(PPOConfig, section.ppo),
            settings.build(XNESConfig, section.xnes),
            **shared,
        )

    def map_elites(**changes: int) -> Search:
        built = settings.build(MapElitesConfig, config.archive.map_elites)._replace(**changes)
        return make_map_elites(task, shape, grid, built, verify_task=noisy, **shared)

    if chosen == "hybrid":
        section = config.archive.hybrid
        second = map_elites(verify=section.verify, verify_episodes=section.verify_episodes)
        return in_turn(ppga(), second, section.ppga_iterations)
    return ppga() if chosen == "ppga" else map_elites()


def run(config: Config, workdir: Path) -> None:
    """Search until `config.archive.iterations`, from the last checkpoint if there is one.

    Raises:
      ConfigError: if the folder holds a search with other settings.
    """
    folder = workdir / "archive"
    elites, checkpoint = folder / "elites", folder / "checkpoint"
    task, _, grid = session.make_setting(config)
    search, everywhere = make(config), copied_to(policy_mesh())
    total = config.archive.iterations
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    start = jax.jit(search.init, out_shardings=everywhere)
    step = jax.jit(search.step, donate_argnums=0, out_shardings=everywhere)
    state, history = start(jax.random.fold_in(key, START)), []

    if storage.exists(checkpoint):
        state, about = storage.load_state(checkpoint, state, kind="search")
        session.check_same(about["config"], config, SECTIONS, folder, GROWS)
        history = about["history"]
        if history[-1]["iteration"] >= total and storage.exists(elites) and (folder / "metrics.json").is_file():
            session.say(f"archive: already done ({history[-1]['cells']} elites in {elites})")
            passes.reference(config, workdir, archives.load(elites))
            return
        session.say(f"archive: resuming after iteration {history[-1]['iteration']}")
    first = len(history)
    timer = session.Timer(history[-1]["seconds"] if history else 0.0)

    def save() -> None:
        about = {"config": settings.as_json(config, *SECTIONS), "history": history}
        storage.save_state(checkpoint, state, kind="search", about=about)

    scalars = session.Scalars(folder / "tensorboard")
    if first < total:
        with session.working("archive: compiling the search"):
            state, key = jax.device_put((state, key), everywhere)
            compiled = step.lower(state, key).compile()
        with session.progress(f"archive: {SEARCHES[config.archive.search]} on {task.name}", total, first) as bar:
            for iteration in range(first, total):
                state, metrics = compiled(state, jax.random.fold_in(key, iteration))
                history.append(_row(metrics, timer.seconds))
                row = history[-1]
                scalars.write(row["iteration"], row)
                bar.set_postfix_str(f"{row['cells']} elites, QD {row['qd_score']:.3g}, best {row['best']:.0f}", False)
                bar.update()
                if row["iteration"] % config.archive.checkpoint_every == 0 or row["iteration"] == total:
                    save()
    scalars.close()
    archive = archives.from_qdax(
        state.repertoire, grid, task.name, settings=tuple(sorted(settings.as_json(config)["task"].items()))
    )
    archives.save(archive, elites)
    storage.write_json(folder / "history.json", history)
    storage.write_json(folder / "metrics.json", history[-1] | session.provenance(config))
    last = history[-1]
    session.say(
        f"archive: {len(archive)} elites of {grid.cells} cells, QD score {last['qd_score']:.4g}, "
        f"best {last['best']:.0f}, {last['env_steps'] / 1e6:.1f} M steps in {last['seconds']:.0f} s -> {elites}"
    )
    again = summarise(grid, passes.reference(config, workdir, archive).score, task.fitness_offset)
    session.say(
        f"archive: played again, {config.eval.episodes} episodes each: {again['cells']:.0f} cells, "
        f"QD score {again['qd_score']:.4g}, best {again['best']:.0f}"
    )


def _row(metrics: dict[str, jax.Array], seconds: float) -> dict[str, float | int]:
    values = {name: np.asarray(value).item() for name, value in metrics.items()}
    return values | {"env_steps": int(values["env_steps"]), "seconds": round(seconds, 3)}
