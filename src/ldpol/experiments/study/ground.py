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
from ldpol import storage
from ldpol.archive import Archive
from ldpol.evaluation.metrics import action_distance
from ldpol.evaluation.reconstruction import sample_policies, score_policies
from ldpol.experiments import archive as archive_stage
from ldpol.experiments import passes, session
from ldpol.experiments.settings import Config, ConfigError
from ldpol.experiments.train import held_out
from ldpol.model.dataset import Dataset, elite_weights
from ldpol.precision import expand, pack
from ldpol.rollout import Apply, copied_to, policy_mesh, split_over
from ldpol.tasks import Task
from ldpol.types import Array, Behaviour, Key, Params, PyTree, Score

Play = Callable[[PyTree, Key], Behaviour]


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
      play: `(policies, keys) -> Behaviour` of plain policies, compiled once for the whole study.
    """

    config: Config
    folder: Path
    task: Task
    archive: Archive
    identity: str
    kind: np.ndarray
    reference: Score
    ceiling: Score
    play: Play

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

    def key(self, number: int) -> Key:
        """Return the key of a purpose: 2 is the evaluation's, as in the evaluate stage."""
        return jax.random.fold_in(jax.random.key(self.config.seed), number)

    def score(self, name: str, model: Model) -> tuple[Score, float]:
        """Ask a model for every elite's measures once and play what it gives; scores and seconds."""
        about = {"archive": self.identity, "model": hashlib.sha256(pack(model.tree)).hexdigest()}
        about |= {"seed": self.config.seed, "episodes": self.config.eval.episodes, "row": name}
        timer, tree = session.Timer(), jax.device_put(model.tree, copied_to(policy_mesh()))
        draw = jax.jit(
            lambda tree, wanted, keys: sample_policies(partial(model.sample, tree), wanted, keys),
            out_shardings=split_over(policy_mesh()),
        )
        play = self.play if model.apply is None else partial(_own_player(self, model), expand(tree))
        played = passes.run(
            self.config,
            self.folder / "passes" / name,
            f"study: playing {name}",
            lambda wanted, keys: play(draw(tree, wanted, keys), keys),
            self.reference.measures,
            jax.random.split(self.key(2), 5)[1],
            about,
            timer,
        )
        return played.score, timer.seconds


def _own_player(ground: Ground, model: Model) -> Callable[[PyTree, PyTree, Key], Behaviour]:
    """Return the compiled scorer of policies that share the numbers of the model."""
    own = model.apply
    assert own is not None

    def program(tree: PyTree, policies: PyTree, keys: Key) -> Behaviour:
        apply: Apply = partial(own, tree)
        return score_policies(ground.task, apply, policies, keys, **passes.common(ground.config))

    return jax.jit(program)


def prepare_archive(config: Config, base: Config, workdir: Path) -> tuple[Archive, str]:
    """Bring the study's one archive into its folder: a finished run's, or a new one; and its fingerprint.

    Raises:
      FileNotFoundError: if the run has none.
      ConfigError: if the folder already holds another archive than that run's.
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
            raise ConfigError(f"{workdir} holds a study of another archive than {source}; use another --workdir")
    archive = archives.load(place)
    task, _, _ = session.make_setting(base)
    archives.check_task(archive, task)
    return archive, storage.fingerprint(place)


def prepare(config: Config, workdir: Path, archive: Archive, identity: str, play: Play) -> Ground:
    """Play the archive again, twice, for one seed, and say which elites are held out.

    Args:
      config: of the base, with the seed.
      workdir: of the study.
      archive: the archive.
      identity: its fingerprint.
      play: the compiled scorer of plain policies.
    """
    folder = workdir / f"seed{config.seed}"
    (folder / "archive").mkdir(parents=True, exist_ok=True)
    link(folder / "archive" / "elites", Path("..") / ".." / "archive" / "elites")
    held = config.train.held_out
    reference = passes.reference(config, folder, archive)
    task, _, _ = session.make_setting(config)
    about = {"archive": identity, "seed": config.seed, "episodes": config.eval.episodes}
    ceiling = passes.run(
        config,
        folder / "passes" / "ceiling",
        f"study: seed {config.seed}, the archive a second time",
        play,
        archive.policies,
        jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 2), 5)[0],
        about,
        session.Timer(),
    )
    kind = held_out(archive, config.seed, held.fraction, tuple(held.low), tuple(held.high))
    return Ground(config, folder, task, archive, identity, kind, reference.score, ceiling.score, play)


def link(place: Path, target: Path) -> None:
    """Make `place` a relative link to `target`, unless it is there."""
    if not place.is_symlink():
        place.symlink_to(target, target_is_directory=True)


def collected(ground: Ground, training: str) -> Dataset:
    """Return what a training collected from the elites themselves, before its decoded policies played.

    Room for the rounds of DAgger is left as it was.
    """
    arrays, about = storage.load(ground.folder / training / "train" / "data", kind="dataset")
    collect = about["config"]["train"]["collect"]
    first = collect["episodes"] * collect["states"] * collect["repeats"]
    for name in ("states", "actions"):
        arrays[name] = np.array(arrays[name])
        arrays[name][:, first:] = 0.0
    return Dataset(policies=ground.trained.policies, **arrays | {"filled": np.asarray(first, np.int32)})


def diversity(ground: Ground, section: Config, data: Dataset, model: Model | None) -> float:
    """Return how differently several policies of one condition act, averaged over conditions.

    They act in states of the elite whose measures are asked for. Without a model: the elites nearest to those measures.
    """
    trained = ground.trained
    rows = np.sort(np.random.default_rng([ground.config.seed, 7]).permutation(len(trained))[: section.conditions])
    states = jnp.asarray(np.asarray(data.states)[rows, : min(section.states, int(data.filled))])
    measures = trained.measures[rows]
    keys = jax.random.split(ground.key(6), (len(rows), section.samples))

    def elites(policies: Params, places: Array, keys: Key, wanted: Array, seen: Array) -> Array:
        near = jax.lax.top_k(-jnp.linalg.norm(places - wanted, axis=-1), keys.shape[0])[1]
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
