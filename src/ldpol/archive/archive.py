"""The archive of elites: its checks and its file."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ldpol import networks, storage
from ldpol.archive.grid import Tessellation, check_grid, grid_from_json
from ldpol.errors import UserError
from ldpol.networks import MLP, Network
from ldpol.tasks import Task
from ldpol.types import Array, Key, Params

KIND = "archive"
IMPORTED = "imported"
"""Name of the setting that marks an archive from elsewhere, whose policies have not been checked yet."""


@struct.dataclass
class Archive:
    """N elites with what they did when they entered.

    Attributes:
      policies: parameter pytree with a leading axis N.
      fitness: `[N]`.
      measures: `[N, M]`.
      grid: the cells they were collected in.
      task: name of the task.
      network: what the policies' parameters belong to.
      settings: what the task was made with (backend, episode length, reset noise), for checks and records.
      traits: `[N, C]` how they behave beyond their measures (`traits.columns`); None where that was not measured.
    """

    policies: Params
    fitness: Array
    measures: Array
    grid: Tessellation = struct.field(pytree_node=False)
    task: str = struct.field(pytree_node=False)
    network: Network = struct.field(pytree_node=False)
    settings: tuple[tuple[str, Any], ...] = struct.field(pytree_node=False, default=())
    traits: Array | None = None

    def __len__(self) -> int:
        return int(self.fitness.shape[0])

    @property
    def nbytes(self) -> int:
        """Bytes of the policies' parameters."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.policies))


def check(archive: Archive) -> Archive:
    """Return the archive unchanged if it is sound.

    Raises:
      UserError: if it is empty, its arrays disagree, it holds NaN or infinity, or measures lie outside the grid.
    """
    count = archive.fitness.shape[0]
    if count == 0:
        raise UserError("the archive is empty: expected at least one elite; run the archive stage for longer")
    check_policies(archive.policies, archive.network, batched=True)
    check_grid(archive.grid, archive.grid.dimensions)
    types = {str(leaf.dtype) for leaf in jax.tree.leaves((archive.policies, archive.fitness, archive.measures))}
    if types != {"float32"}:
        raise UserError(f"the archive's arrays are {', '.join(sorted(types))}, expected float32 alone; convert them")
    leading = {leaf.shape[0] for leaf in jax.tree.leaves(archive.policies)}
    if leading != {count} or archive.measures.shape != (count, archive.grid.dimensions):
        raise UserError(
            f"the archive's arrays disagree: {count} fitnesses, policies with leading axes {sorted(leading)}, measures "
            f"{archive.measures.shape} on a grid of {archive.grid.dimensions} measures; expected one row an elite"
        )
    for name, value in (("fitness", archive.fitness), ("measures", archive.measures), ("policies", archive.policies)):
        rows = np.zeros(count, bool)
        for leaf in jax.tree.leaves(value):
            rows |= ~np.isfinite(np.asarray(leaf).reshape(count, -1)).all(1)
        if rows.any():
            raise UserError(
                f"the archive holds NaN or infinite {name} in {rows.sum()} of {count} elites (first: elite "
                f"{int(rows.argmax())}); remove them before training"
            )
    low, high = np.asarray(archive.grid.low), np.asarray(archive.grid.high)
    measures = np.asarray(archive.measures)
    slack = 1e-4 * (high - low)
    outside = ((measures < low - slack) | (measures > high + slack)).any(1)
    if outside.any():
        first = int(outside.argmax())
        raise UserError(
            f"measures of {outside.sum()} elites lie outside the grid's bounds {archive.grid.low} to "
            f"{archive.grid.high} (first: elite {first} at {measures[first].tolist()}); is the archive of another "
            "task? An import can say outside='clip' (pyribs does so with its cells), 'drop' or 'widen'"
        )
    return archive


def check_policies(policies: Params, network: Network, *, batched: bool = False) -> None:
    """Raise `UserError` unless parameters belong to a network; `batched` ones have a leading axis on every leaf."""

    def shapes(tree: Params, cut: int) -> dict[str, tuple[int, ...]]:
        return {
            "/".join(str(getattr(key, "key", key)) for key in path): tuple(leaf.shape[cut:])
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }

    found, expected = shapes(policies, int(batched)), shapes(network.abstract(), 0)
    if found != expected:
        wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        name = wrong[0]
        raise UserError(
            f"these are not the parameters of {network}: {name} is {found.get(name, 'missing')}, expected "
            f"{expected.get(name, 'nothing of that name')}{f' ({len(wrong)} differ)' if len(wrong) > 1 else ''}"
        )


def check_task(archive: Archive, task: Task) -> None:
    """Raise `UserError` unless the archive's policies fit the task and were collected on it."""
    network = archive.network
    if archive.task != task.name:
        raise UserError(f"this archive is of task {archive.task!r}, the task is {task.name!r}")
    if (network.observation_size, network.action_size) != (task.observation_size, task.action_size):
        raise UserError(
            f"the archive's policies map {network.observation_size} observations to {network.action_size} actions; "
            f"{task.name} has {task.observation_size} and {task.action_size}"
        )


def save(archive: Archive, path: Path) -> None:
    """Write the archive to the file `path`, atomically, without pickle."""
    arrays, about = _content(archive)
    storage.save(path, arrays, kind=KIND, about=about)


def depends_on(archive: Archive, task: Task | None, key: Key) -> dict[str, Any]:
    """Return what work on an archive depends on beside its own settings, as JSON values, for `Hooks.memo`."""
    return {
        "task": {} if task is None else dict(task.settings),
        "archive": storage.fingerprint_of(*_content(archive)),
        "key": np.asarray(jax.random.key_data(key)).tolist(),
    }


def _content(archive: Archive) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arrays and the description that an archive's file holds."""
    arrays = {"policies": archive.policies, "fitness": archive.fitness, "measures": archive.measures}
    if archive.traits is not None:
        arrays["traits"] = archive.traits
    about = {
        "grid": archive.grid.to_json(),
        "task": archive.task,
        "network": archive.network.to_json(),
        "settings": dict(archive.settings),
    }
    return arrays, about


def load(path: Path, network: Network | None = None) -> Archive:
    """Read and check an archive written by `save`.

    Args:
      path: the file.
      network: what the policies belong to, where that is a `CustomNetwork`: files hold no code, and without it the
        policies cannot act.

    Raises:
      MissingFile: if there is none.
      UserError: if it is damaged, of another kind, or unsound, or belongs to another network than the one passed.
    """
    arrays, about = storage.load(path, kind=KIND)
    try:
        grid, stated = grid_from_json(about["grid"]), about.get("network")
        said = _unstated(arrays["policies"], path) if stated is None else networks.from_json(stated)
        network = networks.with_code(said, network)
        settings = tuple(about["settings"].items())
        arrays = jax.tree.map(jnp.asarray, arrays)
        return check(Archive(**arrays, grid=grid, task=about["task"], network=network, settings=settings))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"the archive {path} lacks something or has something unknown: {error}") from error
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _unstated(policies: Params, path: Path) -> MLP:
    """Return the network of an archive from before networks were stated: tanh inside, clipped."""
    layers = policies.get("params", {}) if isinstance(policies, dict) else {}
    kernels = [layers[f"Dense_{i}"]["kernel"] for i in range(len(layers)) if f"Dense_{i}" in layers]
    if not kernels:
        raise UserError(f"the archive at {path} states no network, and its policies are not those of an MLP")
    *hidden, actions = [kernel.shape[-1] for kernel in kernels]
    return MLP(kernels[0].shape[-2], actions, tuple(hidden))


def take(archive: Archive, rows: Array | np.ndarray) -> Archive:
    """Return the archive of the elites `rows` (indices or mask)."""
    rows = np.asarray(rows)
    return jax.tree.map(lambda leaf: leaf[rows], archive)


def is_imported(archive: Archive) -> bool:
    """Tell whether an archive came from elsewhere and nobody has checked yet that its policies do what it says."""
    return IMPORTED in dict(archive.settings)


def checked(archive: Archive) -> Archive:
    """Return the archive without that mark."""
    kept = tuple((name, value) for name, value in archive.settings if name != IMPORTED)
    return archive.replace(settings=kept)  # type: ignore[attr-defined]
