"""Archives from elsewhere: QDax repertoires, pyribs archives, npz files, sets of policies. Nothing is unpickled."""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldpol.archive.archive import IMPORTED, Archive
from ldpol.archive.assembling import Cells, Outside, assemble, check_finite, folded, tessellation
from ldpol.archive.grid import Grid, Tessellation, Voronoi, make_voronoi
from ldpol.archive.layouts import Head, Order, adopt, from_vectors
from ldpol.errors import MissingFile, UserError
from ldpol.networks import MLP, CustomNetwork, Network
from ldpol.rollout import RolloutConfig, rollout_batch
from ldpol.tasks import Task
from ldpol.types import Array, Key, Params, mean_score

CONVERTER = """import pickle, re, numpy as np
df = pickle.load(open("archive_df.pkl", "rb"))  # runs the code inside of the file
pick = lambda name: df[[c for c in df.columns if re.fullmatch(name, c)]].to_numpy(np.float32)
out = {"solution": pick(r"solution_\\d+"), "objective": pick("objective")[:, 0], "measures": pick(r"measures?_\\d+")}
def moments(meta):
    norm = meta["obs_normalizer"]
    state = norm if isinstance(norm, dict) else norm.state_dict()
    return [state[f"obs_rms.{k}"].cpu().numpy().ravel() for k in ("mean", "var")]
if "metadata" in df and "obs_normalizer" in df["metadata"].iloc[0]:
    out["obs_mean"], out["obs_var"] = np.stack([moments(m) for m in df["metadata"]]).transpose(1, 0, 2)
np.savez_compressed("archive.npz", **out)"""
"""What turns a pickled PPGA archive into an npz, in the environment that wrote it."""


def from_qdax(
    repertoire: Any,
    network: Network | None = None,
    task: Task | None = None,
    *,
    head: Head = "all",
    select: Callable[[Array], Array] | None = None,
    cells: Cells = None,
    outside: Outside = "error",
    settings: tuple[tuple[str, Any], ...] | None = None,
) -> Archive:
    """Take the elites of a QDax repertoire: MAP-Elites, PGA-ME, ME-ES, MELS, AURORA, MOME, dominated novelty.

    Args:
      repertoire: with genotypes, fitnesses and descriptors; the cells without an elite are left out.
      network: what the genotypes belong to; see `ldpol.network`.
      task: what they were collected on; gives the bounds of the measures.
      head: `mean` where the last layer holds means and deviations, of which the first half acts.
      select: for several objectives, `fitnesses [..., K] -> [...]`, which one counts; of a front its best is kept.
      cells: None takes the repertoire's centroids; a number makes a regular grid, of so many cells a measure.
      outside: what to do with measures out of bounds: `error`, `clip`, `drop` the elites, or `widen` the bounds.
      settings: what the task was made with; None asks the task, and marks the archive as to be checked.

    Raises:
      TypeError: without network and task.
      UserError: if the repertoire fits neither, or has no descriptors; the message says what to do.
    """
    if not isinstance(network, MLP | CustomNetwork) or not isinstance(task, Task):
        raise TypeError(
            "say which network these parameters belong to: from_qdax(repertoire, network, task); QDax's MLP is relu "
            "inside unless told otherwise"
        )
    if not hasattr(repertoire, "descriptors"):
        raise UserError(f"a {type(repertoire).__name__} has no descriptors; use from_policies")
    fitness, policies = np.asarray(repertoire.fitnesses), repertoire.genotypes
    measures = np.asarray(repertoire.descriptors)
    if fitness.ndim == 3 or (fitness.ndim == 2 and fitness.shape[1] > 1):
        if select is None:
            fronts = f"{fitness.shape[1]} elites of " if fitness.ndim == 3 else ""
            raise UserError(
                f"fronts of {fronts}{fitness.shape[-1]} objectives: pick one, `select=lambda f: f[..., 0]`"
                if fronts
                else f"{fitness.shape[-1]} objectives: pick one, `select=lambda f: f[..., 0]`"
            )
        fitness = np.asarray(select(jnp.asarray(fitness)))
        if fitness.ndim == 2:
            best = np.where(np.isnan(fitness), -np.inf, fitness).argmax(1)
            take = lambda leaf: np.asarray(leaf)[np.arange(len(best)), best]  # noqa: E731
            fitness, measures, policies = take(fitness), take(measures), jax.tree.map(take, policies)
    fitness = fitness.reshape(len(fitness))
    filled = fitness != -np.inf  # NaN is no empty cell: `check` shall find it
    policies = jax.tree.map(lambda leaf: np.asarray(leaf)[filled], policies)
    policies = adopt(policies, network, measures=measures.shape[-1], head=head, what="the repertoire's policies")
    centroids = getattr(repertoire, "centroids", None)
    grid = tessellation(cells, task, centroids, f"a {type(repertoire).__name__}")
    made = (*task.settings, (IMPORTED, "qdax")) if settings is None else settings
    return assemble(policies, fitness[filled], measures[filled], network, task, grid, outside, made)


def from_ribs(
    source: Any,
    network: Network | None = None,
    task: Task | None = None,
    *,
    order: Order | None = None,
    skip: int = 0,
    obs_mean: Any = None,
    obs_var: Any = None,
    cells: Cells = None,
    outside: Outside = "error",
    settings: tuple[tuple[str, Any], ...] | None = None,
) -> Archive:
    """Take the elites of a pyribs archive whose solutions are flat policies.

    Args:
      source: the archive (of CMA-MAE the scheduler's `result_archive`), what `archive.data()` returns, or a data frame
        of any version; its columns are `solution_*`, `objective` and `measures_*` (before 0.5 `behavior_*`).
      network: what the solutions belong to.
      task: what they were collected on.
      order: how a solution is laid out: `torch` (weights [out, in], then bias), `flax` (bias, then kernel [in, out]),
        or `kernel_bias`.
      skip: numbers in front of each solution to leave out, such as PPGA's log-std.
      obs_mean, obs_var: normaliser `[O]` or `[N, O]` that the policies' observations went through; it is folded in.
      cells: None takes the archive's cells; a number makes a regular grid.
      outside: as in `from_qdax`; pyribs keeps measures out of bounds in the border cells.
      settings: as in `from_qdax`.

    Raises:
      TypeError: without network, task or order.
      UserError: if parts are missing or do not fit.
    """
    if not isinstance(network, MLP | CustomNetwork) or not isinstance(task, Task):
        raise TypeError(
            "say which network these solutions belong to: from_ribs(archive, network, task, order='torch' or 'flax')"
        )
    data = _columns(source)
    if not len(data["solution"]):
        raise UserError("the archive is empty: expected at least one elite")
    policies = from_vectors(data["solution"], network, order, skip=skip)
    if (obs_mean is None) != (obs_var is None):
        raise UserError("pass both obs_mean and obs_var, or neither")
    if obs_mean is not None:
        policies = folded(policies, network, obs_mean, obs_var)
    grid = _ribs_cells(cells, task, source)
    made = (*task.settings, (IMPORTED, "flat"), ("order", order)) if settings is None else settings
    return assemble(policies, data["objective"], data["measures"], network, task, grid, outside, made)


def from_npz(
    path: Path | str,
    network: Network | None = None,
    task: Task | None = None,
    *,
    order: Order | None = None,
    **how: Any,
) -> Archive:
    """Read an archive of plain arrays: an npz, or the four files of a repertoire that QDax <= 0.4.1 saved.

    Args:
      path: an npz with `solution [N, P]`, `objective [N]`, `measures [N, M]`, optionally `centroids [C, M]`, `obs_mean`
        and `obs_var`; or the prefix of `genotypes.npy`, `fitnesses.npy`, `descriptors.npy` and `centroids.npy`.
      network, task, order: as in `from_ribs`; QDax's own files are in the order `flax`.
      how: further arguments of `from_ribs`; without `cells` the file needs centroids.

    Raises:
      MissingFile: if there is none.
      UserError: if it is a pickle, or as `from_ribs`.
    """
    prefix = str(path)
    if Path(f"{prefix}genotypes.npy").is_file():
        names = ("genotypes", "fitnesses", "descriptors", "centroids")
        solution, objective, measures, centroids = (_read(Path(f"{prefix}{name}.npy")) for name in names)
        filled = objective.reshape(len(objective)) > -np.inf
        data = {
            "solution": solution[filled],
            "objective": objective.reshape(len(objective))[filled],
            "measures": measures[filled],
            "centroids": centroids,
        }
        order = order or "flax"
    else:
        file = Path(path)
        if not file.is_file():
            raise MissingFile(f"there is no {file}, nor {prefix}genotypes.npy")
        data = _read(file)
        if not isinstance(data, dict):
            raise UserError(f"{file} holds one array, expected an npz with solution, objective and measures")
    for name in ("obs_mean", "obs_var"):
        if name in data:
            how = {name: data[name]} | how
    if "cells" not in how and "centroids" in data and task is not None:
        how["cells"] = tessellation(None, task, data["centroids"], "the file")
    return from_ribs(data, network, task, order=order, **how)


def from_policies(
    policies: Params | Sequence[Params],
    network: Network,
    task: Task,
    key: Key,
    *,
    head: Head = "all",
    episodes: int = 10,
    cells: int | tuple[int, ...] | Grid | Voronoi = 50,
    outside: Outside = "error",
    rollouts: RolloutConfig = RolloutConfig(),
) -> Archive:
    """Make an archive of policies without scores, such as RL checkpoints: they are rolled out to get them.

    Args:
      policies: N policies with a leading axis on every leaf, or a sequence of single ones; Brax's `(statistics, policy,
        value)` have their normaliser folded in.
      network: what they belong to.
      task: what to roll them out on.
      key: decides the episodes.
      head: as in `from_qdax`; `mean` for Brax's PPO and SAC.
      episodes: episodes a policy; fitness and measures are means over them.
      cells: of the archive's grid.
      outside: as in `from_qdax`.
      rollouts: how rollouts use a device.

    Raises:
      UserError: if parameters do not fit the network, or a policy's measures are not finite.
    """
    if isinstance(policies, Sequence) and not _is_brax(policies):
        if not policies:
            raise UserError("there are no policies")
        adopted = [_adopted(one, network, task, head, batched=False) for one in policies]
        stacked = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *adopted)
    else:
        batched = _is_batched(policies[1] if _is_brax(policies) else policies, network)
        stacked = _adopted(policies, network, task, head, batched=batched)
    count = jax.tree.leaves(stacked)[0].shape[0]
    play = jax.jit(
        lambda policies, keys: rollout_batch(task, network.apply, policies, keys, episodes=episodes, config=rollouts)
    )
    score = mean_score(play(stacked, jax.random.split(key, count)))
    check_finite(score.measures, task)
    grid = tessellation(cells, task, None, "a set of policies")
    return assemble(stacked, score.fitness, score.measures, network, task, grid, outside, task.settings)


def _adopted(policy: Any, network: Network, task: Task, head: Head, *, batched: bool) -> Params:
    statistics = None
    if _is_brax(policy):
        statistics, policy = policy[0], policy[1]
    if not batched:
        policy = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], policy)
    policy = adopt(policy, network, measures=task.measures, head=head)
    if statistics is None or not hasattr(statistics, "mean"):
        return policy
    mean, std = (jnp.asarray(value) for value in (statistics.mean, statistics.std))
    return folded(policy, network, mean, std**2, epsilon=0.0)


def _is_brax(policies: Any) -> bool:
    """Tell Brax's `(statistics, policy, value)` from a sequence of policies."""
    return isinstance(policies, tuple) and len(policies) in (2, 3) and hasattr(policies[0], "std")


def _is_batched(policy: Any, network: Network) -> bool:
    """Tell N policies with a leading axis from one: a bias of one policy has one axis."""
    leaves = jax.tree.leaves(policy)
    if isinstance(network, CustomNetwork):
        return leaves[0].ndim > len(network.tensors[0])
    return min(leaf.ndim for leaf in leaves) > 1


def _columns(source: Any) -> dict[str, np.ndarray]:
    """Return solution, objective and measures of a pyribs archive, of its data, or of a data frame."""
    if hasattr(source, "result_archive"):
        source = source.result_archive
    if hasattr(source, "data") and callable(source.data):
        source = source.data()
    elif hasattr(source, "as_pandas"):  # before 0.7
        source = source.as_pandas()
    if isinstance(source, Mapping):
        missing = [name for name in ("solution", "objective", "measures") if name not in source]
        if missing:
            raise UserError(f"the data has no {missing[0]}; it has {', '.join(map(str, source)) or 'nothing'}")
        return {name: np.asarray(source[name]) for name in ("solution", "objective", "measures")}
    if not hasattr(source, "columns"):
        raise UserError(f"expected a pyribs archive, its data or a data frame, found a {type(source).__name__}")
    found = {"solution": ("solution_",), "measures": ("measures_", "measure_", "behavior_")}
    columns = {}
    for name, prefixes in found.items():
        for prefix in prefixes:
            numbered = [f"{prefix}{i}" for i in range(sum(str(c).startswith(prefix) for c in source.columns))]
            if numbered and set(numbered) <= set(source.columns):
                columns[name] = source[numbered].to_numpy()
                break
    if "objective" in source.columns:
        columns["objective"] = source["objective"].to_numpy()
    missing = [name for name in ("solution", "objective", "measures") if name not in columns]
    if missing:
        raise UserError(
            f"the data frame has no columns for the {missing[0]}; expected solution_0, ..., objective, measures_0, "
            f"..., found {', '.join(map(str, list(source.columns)[:6]))} ..."
        )
    return columns


def _ribs_cells(cells: Cells, task: Task, source: Any) -> Tessellation:
    if hasattr(source, "result_archive"):
        source = source.result_archive
    if cells is not None or not hasattr(source, "lower_bounds"):
        return tessellation(cells, task, None, "the data")
    low, high = ([float(bound) for bound in bounds] for bounds in (source.lower_bounds, source.upper_bounds))
    if hasattr(source, "dims") and type(source).__name__ == "GridArchive":
        return Grid(tuple(int(side) for side in source.dims), tuple(low), tuple(high))
    if hasattr(source, "centroids"):
        return make_voronoi(source.centroids, low, high)
    return tessellation(None, task, None, f"a {type(source).__name__}")


def _read(file: Path) -> Any:
    """Read arrays, never code."""
    with file.open("rb") as stream:
        start = stream.read(6)
    if start[:1] == b"\x80" or file.suffix in (".pkl", ".pickle", ".joblib"):
        raise UserError(_pickled(file))
    if start[:2] != b"PK" and start != b"\x93NUMPY":
        raise UserError(f"{file} is no npz or npy file; expected arrays that numpy.savez or numpy.save wrote")
    try:
        content = np.load(file, allow_pickle=False)
        return content if isinstance(content, np.ndarray) else {name: content[name] for name in content.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        if "pickle" in str(error):
            raise UserError(_pickled(file)) from error
        raise UserError(f"{file} is damaged: {error}") from error


def _pickled(file: Path) -> str:
    return (
        f"{file} is a pickle, which can run code when it is read; in the environment that wrote it run:\n{CONVERTER}\n"
        "and pass archive.npz"
    )
