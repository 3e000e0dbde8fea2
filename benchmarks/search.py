"""MAP-Elites, PPGA and the hybrid at equal wall-clock and at equal environment steps; archives are played again.

    python benchmarks/search.py --out results/search-walker2d.json

Every search of every seed runs for `--seconds`, compilation not counted, and leaves its archive at each of `--at`
seconds and `--steps` environment steps. These are played again, 10 fresh episodes a policy, after the clock has
stopped. A finished search stays in `--workdir`, so that the command goes on where it was interrupted; `--searches` and
`--seeds` choose some.

Time is shared out among physics (the steps lived, at the speed of `task.step` alone on as many lanes), learning (PPO's
gradient steps, timed alone) and the rest: acting, advantages, resets, waiting, and the archive.
"""

import json
import tempfile
import time
from argparse import Namespace
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from rollout import bare, split

from ldpol import archive as archives
from ldpol import report, session, storage
from ldpol.evaluation.intervals import over_seeds as interval
from ldpol.evaluation.intervals import show as plus_minus
from ldpol.evaluation.metrics import summarise
from ldpol.networks import MLP
from ldpol.report import canvas, figures
from ldpol.rollout import copied_to, over_chunks, policy_mesh, rollout_batch, split_over
from ldpol.search import ppo
from ldpol.search.archive_search import compile_step, make_search
from ldpol.search.config import SEARCHES, MapElitesConfig, SearchConfig
from ldpol.search.loop import SearchState
from ldpol.search.ppo_config import PPOConfig
from ldpol.tasks import Task, make_task
from ldpol.types import Array, mean_score

EPISODES, CHUNK = 10, 256
"""Per policy, where an archive is evaluated again, and policies per call."""
NUMBERS = {  # and how many digits they are shown with
    "env_steps": 0,
    "cells": 0,
    "qd_score": 0,
    "best": 0,
    "mean": 0,
    "measure_std": 4,
    "physics_share": 2,
    "learning_share": 2,
}


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--searches", nargs="+", default=list(SEARCHES), choices=list(SEARCHES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=120.0, help="of each search")
    parser.add_argument("--at", nargs="+", type=float, default=[60.0, 120.0], help="seconds")
    parser.add_argument("--steps", nargs="+", type=float, default=[20e6], help="environment steps")
    parser.add_argument("--workdir", type=Path, help="default: results/search-walker2d; with --quick, a temporary one")
    parser.add_argument("--gather", action="store_true", help="run nothing; make tables of the runs that are there")
    options = parser.parse_args()
    session.start_jax()
    if options.quick:
        options.seconds, options.at, options.steps, options.seeds = 2.0, [1.0, 2.0], [], options.seeds[:1]
    with tempfile.TemporaryDirectory() as scratch:
        if options.workdir is None:
            options.workdir = Path(scratch if options.quick else "results/search-walker2d")
        run(options)


def run(options: Namespace) -> None:
    """Run the searches that the folder does not hold yet, and make the tables."""
    rows: list[dict[str, Any]] = []
    made: dict[str, dict[str, Any]] = {}
    for seed in options.seeds:
        for search in options.searches:
            config = SearchConfig(search, map_elites=MapElitesConfig(batch=128) if options.quick else MapElitesConfig())
            path = options.workdir / f"{search}-{seed}.json"
            if not path.is_file() and options.gather:
                continue
            if not path.is_file():
                storage.write_json(
                    path, {"rows": one(config, seed, options)} | session.provenance(asdict(config), seed)
                )
            kept = storage.read_json(path)
            rows += kept.pop("rows")
            made[path.stem] = kept
    summary = summarise_rows(rows)
    show(summary)
    if options.out is not None:
        sizes = {"seconds": options.seconds, "at": options.at, "steps": options.steps, "seeds": options.seeds}
        storage.write_bytes(options.out, (json.dumps(rows, indent=1) + "\n").encode())
        storage.write_json(
            options.out.with_suffix(".about.json"),
            {
                "settings": sizes,
                "targets": [target.about() for target in targets(summary)],
                "summary": summary,
                "made_with": made,
            },
        )
        report.save(figure(rows), options.out.with_suffix(".png"))


def one(config: SearchConfig, seed: int, options: Namespace) -> list[dict[str, Any]]:
    """Run one search and play its archives again."""
    name, everywhere = config.search, copied_to(policy_mesh())
    noisy, quiet = make_task("walker2d", reset_noise=5e-3), make_task("walker2d", reset_noise=0.0)
    search, shape, grid = make_search(noisy, config, search_task=quiet, mesh=policy_mesh())
    key = jax.device_put(jax.random.key(seed), everywhere)
    state = jax.device_put(jax.jit(search.init)(key), everywhere)
    common.say(f"{name}, seed {seed}: compiling")
    begun = time.perf_counter()
    step = compile_step(search, policy_mesh()).lower(state, key).compile()
    compiling = time.perf_counter() - begun

    marks = [("seconds", value) for value in options.at] + [("steps", value) for value in options.steps]
    kept: list[tuple[dict[str, Any], archives.Archive]] = []
    spent, iteration, trained = 0.0, 0, 0.0
    while spent < options.seconds:
        begun = time.perf_counter()
        state, metrics = jax.block_until_ready(step(state, jax.random.fold_in(key, iteration)))
        spent += time.perf_counter() - begun
        iteration += 1
        now = {"seconds": spent, "steps": float(metrics["env_steps"])}
        passed = [mark for mark in marks if now[mark[0]] >= mark[1]]
        marks = [mark for mark in marks if mark not in passed]
        trained = learned_steps(name, state)
        for kind, value in passed:
            row = {"mark": f"{kind} {value:g}", "iterations": iteration, "env_steps": now["steps"], "seconds": spent}
            row |= {"evaluations": int(metrics["evaluations"]), "stored_cells": int(metrics["cells"])}
            kept.append((row, archives.from_qdax(state.repertoire, shape, noisy, cells=grid)))
            common.say(f"{name}, seed {seed}: {spent:.0f} s, {now['steps']:.3g} steps, {row['stored_cells']} cells")
    shares = time_shares(config, noisy, shape, now["steps"], trained, spent)
    play = jax.jit(partial(play_again, noisy, shape, EPISODES, policy_mesh()))
    rows = []
    for row, archive in kept:
        scores = over_chunks(play, archive.policies, jax.random.key(1000 + seed), size=CHUNK, mesh=policy_mesh())
        again = summarise(grid, mean_score(scores), noisy.fitness_offset)
        row = {"search": name, "seed": seed} | row | again
        row |= {"measure_std": float(scores.measures.std(1).mean()), "compile_seconds": compiling} | shares
        rows.append(row)
    return rows


def play_again(task: Task, shape: MLP, episodes: int, mesh: Mesh, policies: Any, keys: Array) -> Any:
    """Play fresh noisy episodes of some policies."""
    return rollout_batch(task, shape.apply, policies, keys, episodes=episodes, mesh=mesh)


def learned_steps(search: str, state: SearchState) -> float:
    """Return the environment steps that PPO has learned from so far."""
    if search == "map_elites":
        return 0.0
    return float((state.emitter[0] if search == "hybrid" else state.emitter).env_steps)


def time_shares(
    config: SearchConfig, task: Task, shape: MLP, steps: float, trained: float, seconds: float
) -> dict[str, float]:
    """Return the shares of a search's time that physics and learning take, each timed alone on all devices."""
    mesh = policy_mesh()
    how = config.rollout.on(jax.devices()[0].platform)
    lanes = jax.device_put(jax.random.split(jax.random.key(0), how.lanes * mesh.size), split_over(mesh))
    physics = jax.jit(split(mesh, partial(bare, task, how.layout == "last")))
    ppo_config = config.ppga.ppo
    local = replace(ppo_config, environments=ppo_config.environments // mesh.size)
    state = ppo.init(local, task, shape, jax.random.key(0))
    learn = jax.jit(partial(learn_alone, local, shape, mesh, task))
    timed = common.measure({"physics": lambda: physics(lanes), "learning": lambda: learn(state)}, 3)
    per_step = timed["physics"].median / (lanes.size * task.episode_length)
    per_learned = timed["learning"].median / (ppo_config.steps * ppo_config.environments)
    physics_share, learning_share = per_step * steps / seconds, per_learned * trained / seconds
    return {
        "physics_share": physics_share,
        "learning_share": learning_share,
        "rest_share": 1.0 - physics_share - learning_share,
    }


def learn_alone(config: PPOConfig, shape: MLP, mesh: Mesh, task: Task, state: ppo.PPOState) -> ppo.PPOState:
    """Take the gradient steps of one update, on transitions that mean nothing."""
    size = config.steps * config.environments
    some = lambda *rest: jnp.ones((size, *rest))  # noqa: E731
    batch = ppo.Batch(some(task.observation_size), some(task.action_size), some(), some(), some())
    rows = jnp.tile(jnp.arange(size), config.epochs).reshape(config.epochs * config.minibatches, -1)
    learn = lambda state: ppo.learn(config, shape, state, batch, rows, axis="policies")[0]  # noqa: E731
    one = PartitionSpec()
    return jax.shard_map(learn, mesh=mesh, in_specs=one, out_specs=one, check_vma=False)(state)


def figure(rows: list[dict[str, Any]]) -> Figure:
    """Draw what the archives were worth when played again, over time: every seed, and their mean."""
    panels = (("qd_score", "QD score"), ("cells", "cells"), ("best", "best fitness"), ("mean", "mean fitness"))
    drawn = Figure(figsize=(canvas.WIDTH, 3.2), dpi=canvas.DPI, layout="constrained", facecolor="white")
    axes = drawn.subplots(1, len(panels))
    for axis, (name, title) in zip(axes, panels, strict=True):
        for search, colour in zip(SEARCHES, (figures.STORED, figures.CEILING, figures.GENERATED), strict=True):
            some = [row for row in rows if row["search"] == search and row["mark"].startswith("seconds")]
            marks = sorted({float(row["mark"].split()[1]) for row in some})
            values = [[row[name] for row in some if float(row["mark"].split()[1]) == mark] for mark in marks]
            for mark, each in zip(marks, values, strict=True):
                axis.plot([mark] * len(each), each, ".", color=colour, ms=4, alpha=0.5)
            axis.plot(marks, [float(np.mean(each)) for each in values], color=colour, label=SEARCHES[search], lw=1.9)
        axis.set_title(title, fontsize=11, color=figures.INK, loc="left")
        axis.set_xlabel("seconds", color=figures.INK)
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=figures.MUTED, labelsize=9)
        axis.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes[0].legend(frameon=False, fontsize=9, labelcolor=figures.INK)
    return drawn


def summarise_rows(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return mark -> search -> number -> mean and 95 % interval over the seeds."""
    marks = sorted({row["mark"] for row in rows}, key=lambda mark: (mark.split()[0], float(mark.split()[1])))
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for mark in marks:
        summary[mark] = {}
        for search in SEARCHES:
            some = [row for row in rows if (row["mark"], row["search"]) == (mark, search)]
            if some:
                summary[mark][search] = {name: interval([row[name] for row in some]) for name in NUMBERS}
    return summary


def targets(summary: dict[str, dict[str, dict[str, Any]]]) -> list[common.Target]:
    """Return what was claimed of the last archives at equal wall-clock, as ratios of means over the seeds."""
    last = summary[[mark for mark in summary if mark.startswith("seconds")][-1]]
    mean = lambda search, name: last[search][name]["mean"]  # noqa: E731
    over = lambda search, name: mean(search, name) / mean("map_elites", name)  # noqa: E731
    found: list[common.Target] = []
    if {"map_elites", "ppga"} <= set(last):
        found += [
            common.Target("best fitness of PPGA over MAP-Elites", over("ppga", "best"), 1.3),
            common.Target("share of time that is not physics, PPGA", 1 - mean("ppga", "physics_share"), 0.5),
        ]
    if {"map_elites", "hybrid"} <= set(last):
        found += [
            common.Target("best fitness of the hybrid over MAP-Elites", over("hybrid", "best"), 1.3),
            common.Target("QD score of the hybrid over MAP-Elites", over("hybrid", "qd_score"), 1.15),
            common.Target("std of measures, MAP-Elites over the hybrid", 1 / over("hybrid", "measure_std"), 1.0),
        ]
    return found


def show(summary: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Print means and intervals as the tables of a README, and what was claimed."""
    for mark, searches in summary.items():
        print(f"\n| {mark} | " + " | ".join(NUMBERS) + " |\n|---" + "|---:" * len(NUMBERS) + "|")
        for search, numbers in searches.items():
            cells = [plus_minus(numbers[name], f",.{digits}f") for name, digits in NUMBERS.items()]
            print(f"| {SEARCHES[search]} | " + " | ".join(cells) + " |")
    rows = [(t.claim, t.value, t.floor, "yes" if t.value >= t.floor else "NO") for t in targets(summary)]
    common.table("Targets", ("claim", "found", "at least", "reached"), rows)


if __name__ == "__main__":
    main()
