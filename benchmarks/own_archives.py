"""Archives from elsewhere, from import to generator: what is refused, and what a distilled archive keeps.

    python benchmarks/own_archives.py walker2d_uni --out results/own-archives.json
    python benchmarks/own_archives.py hopper_uni   --out results/own-archives.json
    python benchmarks/own_archives.py pyribs       --out results/own-archives.json
    python benchmarks/own_archives.py maze         --out results/own-archives.json
    python benchmarks/own_archives.py ant          --out results/own-archives.json

With `--keep FOLDER` the archive and the generator are written there, and a run that is begun again goes on from them;
`--until archive` or `generator` ends it early.

Each command adds one row, of one case and seed, to the file: QDax's own MAP-Elites on two of its tasks (relu policies
on CVT cells, one fixed reset), a pyribs archive of torch actors on walker2d, a point maze with final positions as
measures, and ldpol's ant with four measures on wide cells, of which training does not see a tenth of the elites. All
policies have two hidden layers of 64.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import common
import jax
import numpy as np
from own_searches import flat_archive, make_maze, qdax_scorer, qdax_search, qdax_task

import ldpol
from ldpol import archive as archives
from ldpol import session, storage
from ldpol.distillation.config import AutoencoderTraining, CollectConfig, DenoiserTraining, LanguageConfig, VerifyConfig
from ldpol.model.decoder import AutoencoderConfig
from ldpol.model.denoiser import DenoiserConfig
from ldpol.rollout import rollout_batch
from ldpol.search.config import MapElitesConfig
from ldpol.train_loop import OptimiserConfig

FLOORS = {"reward_ratio": 0.95, "coverage_ratio": 0.9, "compression": 30.0, "rank": 0.9}


class Case(NamedTuple):
    """What a case starts with.

    Attributes:
      archive: as it was imported.
      task: what it acts on.
      refused: what is said of the same parameters under a wrong network or order, and what that message must name.
    """

    archive: ldpol.Archive
    task: ldpol.Task
    refused: tuple[str, str] | None


def qdax_case(name: str, seed: int, quick: bool, cells: int) -> Case:
    """QDax's MAP-Elites; the policies are relu inside and tanh outside."""
    iterations, length = (3, 40) if quick else (40, 250)
    made = qdax_search(name, iterations=iterations, length=length, cells=cells, seed=seed)
    network = ldpol.network(made.policy, observation_size=made.env.observation_size)
    task = qdax_task(name, seed, length)
    archive = ldpol.from_qdax(made.repertoire, network, task)
    wrong = ldpol.from_qdax(made.repertoire, dataclasses.replace(network, activation="tanh", final="clip"), task)
    return Case(archive, task, (refusal(wrong, task), "activation='relu', final='tanh'"))


def policies_per_second(
    name: str, archive: ldpol.Archive, task: ldpol.Task, seed: int, quick: bool
) -> dict[str, float]:
    """Return how fast QDax's own scorer of its task is, and rollouts, on the same repertoire."""
    scorer, apply = qdax_scorer(name, task.episode_length, seed), archive.network.apply
    play = jax.jit(lambda policies, keys: rollout_batch(task, apply, policies, keys))
    keys = jax.random.split(jax.random.key(0), len(archive))
    seconds = common.measure(
        {"qdax": lambda: scorer(archive.policies, keys[0]), "ldpol": lambda: play(archive.policies, keys)},
        repeats=1 if quick else 3,
    )
    rates = {way: len(archive) / found.best for way, found in seconds.items()}
    return {**rates, "ratio": rates["ldpol"] / rates["qdax"]}


def pyribs_case(seed: int, quick: bool) -> Case:
    """A pyribs archive of relu policies, flattened as torch's parameters are."""
    task, batches = steady_walker(quick), 3 if quick else 60
    network = ldpol.MLP(task.observation_size, task.action_size, (64, 64), "relu", "tanh")
    theirs = flat_archive(task, network, cells=32, batch=128, batches=batches, seed=seed)
    archive = ldpol.from_ribs(theirs, network, task, order="torch")
    wrong = ldpol.from_ribs(theirs, network, task, order="flax")
    return Case(archive, task, (refusal(wrong, task), "order='torch'"))


def maze_case(seed: int, quick: bool) -> Case:
    """Final positions in a maze, searched by ldpol."""
    task = make_maze()
    search = ldpol.SearchConfig("map_elites", 32, 5 if quick else 300, (64, 64), map_elites=MapElitesConfig(batch=256))
    return Case(ldpol.search_archive(task, search, key=jax.random.key(seed)), task, None)


def ant_case(seed: int, quick: bool) -> Case:
    """Four measures on seven cells each, searched by ldpol."""
    task = make_ant(quick)
    search = ldpol.SearchConfig("map_elites", 7, 3 if quick else 60, (64, 64), map_elites=MapElitesConfig(batch=128))
    return Case(ldpol.search_archive(task, search, key=jax.random.key(seed)), task, None)


CASES: dict[str, Callable[[int, bool], Case]] = {
    "walker2d_uni": lambda seed, quick: qdax_case("walker2d_uni", seed, quick, 1024),
    "hopper_uni": lambda seed, quick: qdax_case("hopper_uni", seed, quick, 1024),
    "pyribs": pyribs_case,
    "maze": maze_case,
    "ant": ant_case,
}
QDAX = ("walker2d_uni", "hopper_uni")
"""Cases whose task QDax has a scorer for."""
HELD_OUT = {"ant": 0.1}
"""Part of the elites that training does not see."""
LEAST_OF_HELD_OUT = 1 / 1.3
"""What trained elites are missed by, of what held-out ones are."""

TASKS: dict[str, Callable[[int, bool], tuple[ldpol.Task, int]]] = {
    "walker2d_uni": lambda seed, quick: (qdax_task("walker2d_uni", seed, 40 if quick else 250), 1),
    "hopper_uni": lambda seed, quick: (qdax_task("hopper_uni", seed, 40 if quick else 250), 1),
    "pyribs": lambda seed, quick: (steady_walker(quick), 1),
    "maze": lambda seed, quick: (make_maze(), 4),
    "ant": lambda seed, quick: (make_ant(quick), 2),
}
"""Task and episodes a policy of each case; 1 where an episode has no chance in it."""


def steady_walker(quick: bool) -> ldpol.Task:
    """Return ldpol's own walker2d, from one fixed start as QDax's."""
    return ldpol.make_task("walker2d", episode_length=40 if quick else 250, reset_noise=0.0)


def make_ant(quick: bool) -> ldpol.Task:
    """Return ldpol's own ant, with the environment's noise at the start."""
    return ldpol.make_task("ant", episode_length=40 if quick else 250)


def settings(episodes: int, quick: bool) -> ldpol.DistillConfig:
    """A generator small enough to be 30 times smaller than some hundreds of policies, and short trainings."""
    autoencoder, denoiser = (60, 60) if quick else (20000, 6000)
    default = ldpol.DistillConfig()
    return dataclasses.replace(
        default,
        collect=CollectConfig(repeats=1, episodes=1, states=64),
        autoencoder=AutoencoderTraining(
            architecture=AutoencoderConfig(rank=12, context=64),
            optimiser=OptimiserConfig(steps=autoencoder),
        ),
        # An episode takes little time here, so that many rounds may look for draws that fill the cells still missed.
        verify=VerifyConfig(rounds=6, further=16, rows=2560),
        denoiser=DenoiserTraining(
            architecture=DenoiserConfig(hidden=96, embedding=96, joint=96, layers=3),
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


def imported(made: Case) -> dict[str, Any]:
    """Check an import, and say what becomes of a wrong one."""
    archive = made.archive
    found = ldpol.replay(archive, made.task, jax.random.key(2))
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
    return row


def kept(generator: ldpol.PolicyGenerator, archive: ldpol.Archive, task: ldpol.Task, how: dict[str, Any]) -> Any:
    """Evaluate a generator; errors also in cells of the archive."""
    found = ldpol.evaluate(generator, archive, task, **how)
    side = float(np.mean(np.subtract(archive.grid.high, archive.grid.low) * archive.grid.sides))
    row: dict[str, Any] = {}
    for name, part in (("generated", found), ("diffusion alone", found["blind"]), ("ceiling", found["ceiling"])):
        row[name] = {kind: part[kind] for kind in common.KEPT} | {"mem_cells": part["mem"] / side}
    if found["held_out"]:
        row["trained_over_held_out"] = found["trained"]["mem"] / found["held_out"]["mem"]
        row["held out"] = {kind: found["held_out"][kind] for kind in common.KEPT}
    return row | {"compression": found["compression_bytes"], "generator_bytes": found["generator_bytes"]}


def targets(row: dict[str, Any]) -> list[common.Target]:
    """Return what was asked for, and what was found."""
    values = {
        "rank": row["replay"]["rank"],
        "compression": row["compression"],
        **{name: row["generated"][name] for name in ("reward_ratio", "coverage_ratio")},
    }
    claimed = [common.Target(f"{row['case']}: {name}", values[name], floor) for name, floor in FLOORS.items()]
    if "trained_over_held_out" in row:
        value = row["trained_over_held_out"]
        claimed.append(common.Target(f"{row['case']}: error of trained over held-out elites", value, LEAST_OF_HELD_OUT))
    if "wrong" in row:
        names = float(row["wrong"]["names_the_right_one"])
        claimed.append(common.Target(f"{row['case']}: the wrong one is refused, the right one named", names, 1.0))
    return claimed


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("case", choices=list(CASES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--until", choices=("archive", "generator"))
    options = parser.parse_args()
    session.start_jax()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        run(options, folder)


def run(options: argparse.Namespace, folder: Path) -> None:
    """Go through what the folder does not hold yet."""
    case, seed, begun = options.case, options.seed, time.monotonic()
    if not (folder / "import.json").is_file():
        made = CASES[case](seed, options.quick)
        row = {"case": case, "search_seconds": round(time.monotonic() - begun)} | imported(made)
        archives.save(made.archive, folder / "archive")
        storage.write_json(folder / "import.json", row)
    if options.until == "archive":
        return
    row, archive = storage.read_json(folder / "import.json"), archives.load(folder / "archive")
    task, episodes = TASKS[case](seed, options.quick)
    config = settings(episodes, options.quick)
    player = ldpol.make_player(task, archive.network.apply, episodes=episodes)
    keys, hooks = jax.random.split(jax.random.key(seed), 3), ldpol.Hooks(progress=session.progress)
    archive, begun = ldpol.reevaluate(archive, task, key=keys[0], player=player), time.monotonic()
    split = ldpol.split(archive, fraction=HELD_OUT.get(case, 0.0), seed=seed)
    if not (folder / "generator").is_file():
        generator = ldpol.distill(split.trained, task, config, key=keys[1], player=player, hooks=hooks)
        generator.save(folder / "generator")
        storage.write_json(folder / "training.json", {"training_seconds": round(time.monotonic() - begun)})
    if options.until == "generator":
        return
    row |= storage.read_json(folder / "training.json")
    if case in QDAX:
        row["policies_per_second"] = policies_per_second(case, archive, task, seed, options.quick)
        common.say(f"policies scored per second: {row['policies_per_second']}")
    how = {"key": keys[2], "player": player, "hooks": hooks, "split": split}
    row |= kept(ldpol.load(folder / "generator"), archive, task, how)
    claimed = targets(row)
    common.table("Targets", ("claim", "found", "at least"), [(t.claim, t.value, t.floor) for t in claimed])
    row |= {"targets": [target.about() for target in claimed]}
    row |= session.provenance(dataclasses.asdict(config), seed)
    print(json.dumps({k: row[k] for k in row if k not in ("config", "targets")}, indent=1), file=sys.stderr)
    if options.out is not None:
        common.put_row(options.out, "own_archives", row, lambda one: (list(CASES).index(one["case"]), one["seed"]))


if __name__ == "__main__":
    main()
