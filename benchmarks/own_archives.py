"""Archives from elsewhere, from import to generator: what is refused, and what a distilled archive keeps.

    python benchmarks/own_archives.py walker2d_uni --out results/own-archives.json
    python benchmarks/own_archives.py hopper_uni   --out results/own-archives.json
    python benchmarks/own_archives.py pyribs       --out results/own-archives.json
    python benchmarks/own_archives.py maze         --out results/own-archives.json

Each command adds one row, of one case and seed, to the file: QDax's own MAP-Elites on two of its tasks (relu policies
on CVT cells, one fixed reset), a pyribs archive of torch actors on walker2d, and a point maze with final positions as
measures. All policies have two hidden layers of 64.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import common
import jax
import numpy as np
from own_searches import flat_archive, make_maze, qdax_scorer, qdax_search

import ldpol
from ldpol import archive as archives
from ldpol import session, storage
from ldpol.distillation.config import AutoencoderTraining, CollectConfig, DenoiserTraining, LanguageConfig, VerifyConfig
from ldpol.model.decoder import AutoencoderConfig
from ldpol.model.denoiser import DenoiserConfig
from ldpol.rollout import evaluate
from ldpol.search.map_elites import MapElitesConfig
from ldpol.train_loop import OptimiserConfig

KEPT = ("reward_ratio", "coverage_ratio", "qd_ratio", "success_rate", "mem")
FLOORS = {"reward_ratio": 0.95, "coverage_ratio": 0.9, "compression": 30.0, "rank": 0.9}


class Case(NamedTuple):
    """What a case starts with.

    Attributes:
      archive: as it was imported.
      task: what it acts on.
      refused: what is said of the same parameters under a wrong network or order, and what that message must name.
      episodes: per policy, wherever policies are evaluated; 1 where an episode has no chance in it.
      speed: of QDax's scorer and of rollouts, on the same repertoire.
    """

    archive: ldpol.Archive
    task: ldpol.Task
    refused: tuple[str, str] | None
    episodes: int
    speed: dict[str, float] | None = None


def qdax_case(name: str, seed: int, quick: bool, cells: int) -> Case:
    """QDax's MAP-Elites; the policies are relu inside and tanh outside."""
    iterations, length = (3, 40) if quick else (40, 250)
    made = qdax_search(name, iterations=iterations, length=length, cells=cells, seed=seed)
    network = ldpol.network(made.policy, observation_size=made.env.observation_size)
    task = ldpol.task_from_qdax(made.env, reset_key=made.reset_key)
    archive = ldpol.from_qdax(made.repertoire, network, task)
    wrong = ldpol.from_qdax(made.repertoire, dataclasses.replace(network, activation="tanh", final="clip"), task)
    refused = refusal(wrong, task), "activation='relu', final='tanh'"
    scorer = qdax_scorer(name, length, seed)
    play = jax.jit(lambda policies, keys: evaluate(task, network.apply, policies, keys))
    keys = jax.random.split(jax.random.key(0), len(archive))
    seconds = common.measure(
        {"qdax": lambda: scorer(archive.policies, keys[0]), "ldpol": lambda: play(archive.policies, keys)},
        repeats=1 if quick else 3,
    )
    rates = {way: len(archive) / found.best for way, found in seconds.items()}
    return Case(archive, task, refused, 1, {**rates, "ratio": rates["ldpol"] / rates["qdax"]})


def pyribs_case(seed: int, quick: bool) -> Case:
    """A pyribs archive of relu policies, flattened as torch's parameters are."""
    length, batches = (40, 3) if quick else (250, 60)
    task = ldpol.make_task("walker2d", episode_length=length, reset_noise=0.0)
    network = ldpol.MLP(task.observation_size, task.action_size, (64, 64), "relu", "tanh")
    theirs = flat_archive(task, network, cells=32, batch=128, batches=batches, seed=seed)
    archive = ldpol.from_ribs(theirs, network, task, order="torch")
    wrong = ldpol.from_ribs(theirs, network, task, order="flax")
    return Case(archive, task, (refusal(wrong, task), "order='torch'"), 1)


def maze_case(seed: int, quick: bool) -> Case:
    """Final positions in a maze, searched by ldpol."""
    task = make_maze()
    search = ldpol.SearchConfig("map_elites", 32, 5 if quick else 300, (64, 64), map_elites=MapElitesConfig(batch=256))
    return Case(ldpol.search_archive(task, search, key=jax.random.key(seed)), task, None, 4)


CASES: dict[str, Callable[[int, bool], Case]] = {
    "walker2d_uni": lambda seed, quick: qdax_case("walker2d_uni", seed, quick, 1024),
    "hopper_uni": lambda seed, quick: qdax_case("hopper_uni", seed, quick, 1024),
    "pyribs": pyribs_case,
    "maze": maze_case,
}


def settings(case: str, episodes: int, quick: bool) -> ldpol.DistillConfig:
    """A generator small enough to be 30 times smaller than some hundreds of policies, and short trainings."""
    # A hopper's contact is one number of 250 steps: some 240 elites in all, so that the model has to be smaller.
    small = case == "hopper_uni"
    width = 64 if small else 96
    autoencoder, denoiser = (60, 60) if quick else (12000, 6000)
    default = ldpol.DistillConfig()
    return dataclasses.replace(
        default,
        collect=CollectConfig(repeats=1, episodes=1, states=64),
        autoencoder=AutoencoderTraining(
            architecture=AutoencoderConfig(rank=6 if small else 12, context=64),
            optimiser=OptimiserConfig(steps=autoencoder),
        ),
        verify=VerifyConfig(rounds=4, rows=512 if small else 1536),
        denoiser=DenoiserTraining(
            architecture=DenoiserConfig(hidden=width, embedding=width, joint=width, layers=2 if small else 3),
            optimiser=dataclasses.replace(default.denoiser.optimiser, steps=denoiser),
        ),
        language=LanguageConfig(captions=0),
        episodes=episodes,
    )


def refusal(archive: ldpol.Archive, task: ldpol.Task) -> str:
    """Return what is said when an archive is refused; empty if it is not."""
    try:
        archives.check_import(archive, task, jax.random.key(1))
    except ldpol.UserError as error:
        return str(error)
    return ""


def measure(case: str, made: Case, config: ldpol.DistillConfig, seed: int) -> dict[str, Any]:
    """Check the import, evaluate again, distil, evaluate."""
    archive, task = made.archive, made.task
    found = ldpol.replay(archive, task, jax.random.key(2))
    common.say(str(found))
    row: dict[str, Any] = {
        "elites": len(archive),
        "network": str(archive.network),
        "replay": {"verdict": found.verdict, "miss_cells": found.cells, **dataclasses.asdict(found.agreement)},
    }
    if made.refused is not None:
        message, named = made.refused
        row["wrong"] = {"message": message, "names_the_right_one": f"with {named} it is" in message}
        common.say(message)
    if made.speed is not None:
        row["policies_per_second"] = made.speed
        common.say(f"policies scored per second: {made.speed}")
    player = ldpol.make_player(task, archive.network.apply, episodes=made.episodes)
    keys = jax.random.split(jax.random.key(seed), 3)
    archive = ldpol.reevaluate(archive, task, key=keys[0], player=player)
    begun = time.monotonic()
    hooks = ldpol.Hooks(progress=session.progress)
    generator = ldpol.distill(archive, task, config, key=keys[1], player=player, hooks=hooks)
    row["training_seconds"] = round(time.monotonic() - begun)
    found = ldpol.evaluate(generator, archive, task, key=keys[2], player=player, hooks=hooks)
    side = float(np.mean(np.subtract(archive.grid.high, archive.grid.low) * archive.grid.sides))
    for name, part in (("generated", found), ("diffusion alone", found["blind"]), ("ceiling", found["ceiling"])):
        row[name] = {kind: part[kind] for kind in KEPT} | {"mem_cells": part["mem"] / side}
    return row | {"compression": found["compression_bytes"], "generator_bytes": found["generator_bytes"]}


def targets(row: dict[str, Any]) -> list[common.Target]:
    """Return what was asked for, and what was found."""
    values = {
        "rank": row["replay"]["rank"],
        "compression": row["compression"],
        **{name: row["generated"][name] for name in ("reward_ratio", "coverage_ratio")},
    }
    claimed = [common.Target(f"{row['case']}: {name}", values[name], floor) for name, floor in FLOORS.items()]
    if "wrong" in row:
        names = float(row["wrong"]["names_the_right_one"])
        claimed.append(common.Target(f"{row['case']}: the wrong one is refused, the right one named", names, 1.0))
    return claimed


def add(out: Path, row: dict[str, Any]) -> None:
    """Put a row into a result file, in place of one of the same case and seed."""
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"] if out.is_file() else []
    mark = lambda one: (list(CASES).index(one["case"]), one["seed"])  # noqa: E731
    rows = sorted([*(one for one in rows if mark(one) != mark(row)), row], key=mark)
    storage.write_json(out, {"benchmark": "own_archives", "rows": rows})


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("case", choices=list(CASES))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    session.start_jax()
    begun = time.monotonic()
    made = CASES[options.case](options.seed, options.quick)
    searched = round(time.monotonic() - begun)
    common.say(f"{options.case}: {len(made.archive)} elites")
    config = settings(options.case, made.episodes, options.quick)
    row = {"case": options.case, "search_seconds": searched}
    row |= measure(options.case, made, config, options.seed)
    claimed = targets(row)
    common.table("Targets", ("claim", "found", "at least"), [(t.claim, t.value, t.floor) for t in claimed])
    row |= {"targets": [target.about() for target in claimed]}
    row |= session.provenance(dataclasses.asdict(config), options.seed)
    print(json.dumps({k: row[k] for k in row if k not in ("config", "targets")}, indent=1), file=sys.stderr)
    if options.out is not None:
        add(options.out, row)


if __name__ == "__main__":
    main()
