"""What all rows of a study stand on: one archive, played again for every seed, and the same way to play and count."""

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ldpol import archive as archives
from ldpol import session, storage
from ldpol.archive import Archive
from ldpol.distillation.dataset import Dataset, elite_weights, make_dataset
from ldpol.errors import UserError
from ldpol.evaluation.metrics import action_distance
from ldpol.experiments import archive as archive_stage
from ldpol.experiments import configs, stages
from ldpol.experiments.configs import Config
from ldpol.experiments.keeping import KIND, Keeper
from ldpol.experiments.train import hold_out
from ldpol.keys import key_for
from ldpol.measures import nearest
from ldpol.player import Player, make_player, sample_policies
from ldpol.precision import expand
from ldpol.reference import BLANK
from ldpol.rollout import copied_to, policy_mesh, split_over
from ldpol.tasks import Task
from ldpol.types import Array, Behaviour, Key, Params, PyTree, Score


@dataclasses.dataclass(frozen=True)
class Model:
    """A fitted row.

    Attributes:
      tree: everything needed to generate, as it is stored.
      sample: `(tree, key, measures [M]) -> policy`, a pure function.
      bytes: of the file that holds it.
      size: its numbers.
      seconds: it took to make, its training included.
      apply: `(expanded tree, policy, observation) -> action` where policies are not plain ones; None: they are.
    """

    tree: PyTree
    sample: Callable[[PyTree, Key, Array], Params]
    bytes: int
    size: int
    seconds: float
    apply: Callable[[PyTree, Params, Array], Array] | None = None


@dataclasses.dataclass(frozen=True)
class Ground:
    """One seed's ground.

    Attributes:
      config: of the base, with this seed.
      folder: of this seed.
      task: the task.
      archive: N elites.
      identity: fingerprint of the archive.
      kind: `[N]` which elites training sees, see `held_out`.
      reference, ceiling: `[N]` mean scores of the elites played again, and again.
      player: evaluates plain policies, compiled once for the whole study.
    """

    config: Config
    folder: Path
    task: Task
    archive: Archive
    identity: str
    kind: np.ndarray
    reference: Score
    ceiling: Score
    player: Player

    @property
    def trained(self) -> Archive:
        """The elites that models may learn from, with what they do when played again, not what the search stored."""
        found = self.reference
        whole = dataclasses.replace(
            self.archive, fitness=jnp.asarray(found.fitness), measures=jnp.asarray(found.measures)
        )
        return archives.take(whole, self.kind == 0)

    @property
    def weights(self) -> Array:
        """`[n]` how often training draws each trained elite."""
        trained = self.trained
        measures = trained.grid.scaled(np.asarray(trained.measures)).astype(np.float32)
        weights = elite_weights(np.asarray(trained.fitness), measures, **self.config.train.weights)
        return jnp.asarray(weights)

    def key(self, name: str) -> Key:
        """Return the key of a purpose; the evaluation's is that of the evaluate stage."""
        return key_for(stages.key_of(self.config, "evaluate"), name)

    def score(self, name: str, model: Model) -> tuple[Score, float]:
        """Ask a model for every elite's measures once and play what it gives; scores and seconds."""
        about = {"archive": self.identity, "model": hashlib.sha256(storage.pack(model.tree, kind="model")).hexdigest()}
        about |= {"seed": self.config.seed, "episodes": self.config.eval.episodes, "row": name}
        timer, tree = session.Timer(), jax.device_put(model.tree, copied_to(policy_mesh()))
        draw = jax.jit(
            lambda tree, wanted, keys: sample_policies(partial(model.sample, tree), wanted, keys),
            out_shardings=split_over(policy_mesh()),
        )
        player = self.player
        if model.apply is not None:
            apply = partial(model.apply, expand(tree))
            how = {"episodes": player.episodes, "rollout": configs.rollout_of(self.config), "chunk": player.chunk}
            player = make_player(self.task, apply, **how)
        hooks = Keeper("study", self.folder / "passes", lambda depends_on: about).hooks

        def program(wanted: PyTree, keys: Key) -> Behaviour:
            return player.play(draw(tree, wanted, keys), keys)

        key = jax.random.split(self.key("reconstruction"), 5)[1]
        title, rows = f"rollouts of {name}", self.reference.measures
        found = hooks.remember(
            name, {}, lambda: player.over(program, rows, key, title=title, progress=hooks.progress), BLANK
        )
        return found.score, timer.seconds


def prepare_archive(config: Config, base: Config, workdir: Path) -> tuple[Archive, str]:
    """Bring the study's one archive into its folder: a finished run's, or a new one; and its fingerprint.

    Raises:
      FileNotFoundError: if the run has none.
      UserError: if the folder already holds another archive than that run's.
    """
    place = workdir / "archive" / "elites"
    if not config.archive:
        archive_stage.run(base, workdir)
    else:
        source = Path(config.archive) / "archive" / "elites"
        wanted = storage.fingerprint(source)
        if not storage.exists(place):
            partial_copy = place.with_name(".elites.copy")
            shutil.rmtree(partial_copy, ignore_errors=True)
            shutil.copytree(source, partial_copy)
            os.replace(partial_copy, place)
        if storage.fingerprint(place) != wanted:
            raise UserError(f"{workdir} holds a study of another archive than {source}; use another --workdir")
    archive = archives.load(place)
    archives.check_task(archive, configs.task_of(base))
    return archive, storage.fingerprint(place)


def prepare(config: Config, workdir: Path, archive: Archive, identity: str, player: Player) -> Ground:
    """Play the archive again, twice, for one seed, and say which elites are held out.

    Args:
      config: of the base, with the seed.
      workdir: of the study.
      archive: the archive.
      identity: its fingerprint.
      player: evaluates plain policies.
    """
    folder = workdir / f"seed{config.seed}"
    (folder / "archive").mkdir(parents=True, exist_ok=True)
    link(folder / "archive" / "elites", Path("..") / ".." / "archive" / "elites")
    task = configs.task_of(config)
    found = stages.reevaluated(config, folder, archive, task, player)
    about = {"archive": identity, "seed": config.seed, "episodes": config.eval.episodes}
    hooks = Keeper("study", folder / "passes", lambda depends_on: about).hooks
    key = jax.random.split(key_for(stages.key_of(config, "evaluate"), "reconstruction"), 5)[0]
    title = f"seed {config.seed}, the archive a second time"
    ceiling = hooks.remember(
        "ceiling", {}, lambda: player(archive.policies, key, title=title, progress=hooks.progress), BLANK
    )
    kind = hold_out(found, config.seed, config.train.held_out).kind
    reference = Score(np.asarray(found.fitness), np.asarray(found.measures), np.asarray(found.fitness))  # type: ignore[arg-type]
    return Ground(config, folder, task, archive, identity, kind, reference, ceiling.score, player)


def link(place: Path, target: Path) -> None:
    """Make `place` a relative link to `target`, unless it is there."""
    if not place.is_symlink():
        place.symlink_to(target, target_is_directory=True)


def collected(ground: Ground, training: str) -> Dataset:
    """Return what a training collected from the elites themselves, before its decoded policies played.

    Room for the rounds of DAgger is left as it was.
    """
    arrays, _ = storage.load(ground.folder / training / "train" / "data", kind=KIND)
    collect, rounds = ground.config.train.collect, ground.config.train.autoencoder.dagger_rounds
    weights = configs.distill_of(ground.config).weights
    return make_dataset(ground.trained, weights, arrays, rounds * collect.episodes * collect.states)


def diversity(ground: Ground, section: Config, data: Dataset, model: Model | None) -> float:
    """Return how differently several policies of one condition act, averaged over conditions.

    They act in states of the elite whose measures are asked for. Without a model: the elites nearest to those measures.
    """
    trained = ground.trained
    rows = np.sort(np.random.default_rng([ground.config.seed, 7]).permutation(len(trained))[: section.conditions])
    states = jnp.asarray(np.asarray(data.states)[rows, : min(section.states, int(data.filled))])
    measures = trained.measures[rows]
    keys = jax.random.split(ground.key("diversity"), (len(rows), section.samples))

    def elites(policies: Params, places: Array, keys: Key, wanted: Array, seen: Array) -> Array:
        near = nearest(wanted, places, keys.shape[0])
        return action_distance(ground.archive.shape.apply, jax.tree.map(lambda leaf: leaf[near], policies), seen)

    def drawn(model: Model, tree: PyTree, keys: Key, wanted: Array, seen: Array) -> Array:
        policies = jax.vmap(model.sample, (None, 0, None))(tree, keys, wanted)
        apply = ground.archive.shape.apply if model.apply is None else partial(model.apply, expand(tree))
        return action_distance(apply, policies, seen)

    if model is None:
        one, shared = elites, (trained.policies, trained.measures)
    else:
        one, shared = partial(drawn, model), (model.tree,)
    measure = jax.jit(lambda shared, keys, wanted, seen: jax.lax.map(lambda a: one(*shared, *a), (keys, wanted, seen)))
    return float(measure(shared, keys, measures, states).mean())
