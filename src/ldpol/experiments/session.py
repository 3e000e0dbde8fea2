"""What every stage needs around the library: devices, compilation cache, progress, logs, provenance."""

import contextlib
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from tensorboardX import SummaryWriter
from tqdm import tqdm

from ldpol import storage
from ldpol.archive import Grid, make_grid
from ldpol.experiments import settings
from ldpol.experiments.settings import Config
from ldpol.policy import PolicyShape
from ldpol.rollout import policy_mesh
from ldpol.tasks import Task, make_task


def start_jax() -> None:
    """Give a CPU machine one device a core and switch the compilation cache on; call before any computation."""
    with contextlib.suppress(RuntimeError):  # the caller's process already runs JAX: leave its devices alone
        jax.config.update("jax_num_cpu_devices", _cores())
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(Path(".jax_cache").absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def training_mesh() -> Mesh:
    """Return the devices that share a training batch: all accelerators, but one CPU device.

    On a CPU one device with XLA's own threads is faster than several in lockstep (`benchmarks/training.py`).
    """
    devices = jax.local_devices()
    return policy_mesh(devices[:1] if devices[0].platform == "cpu" else devices)


def make_setting(config: Config, reset_noise: float | None = None) -> tuple[Task, PolicyShape, Grid]:
    """Build task, policy shape and grid of a config; `reset_noise` replaces the config's."""
    noise = config.task.reset_noise if reset_noise is None else reset_noise
    task = make_task(
        config.task.name,
        backend=config.task.backend,
        episode_length=config.task.episode_length,
        reset_noise=noise,
    )
    shape = PolicyShape(task.observation_size, task.action_size, tuple(config.policy.hidden))
    return task, shape, make_grid(task, config.archive.cells)


@contextlib.contextmanager
def working(what: str, every: float = 5.0) -> Iterator[None]:
    """Say that something long without a progress bar (a compilation) is under way, and how long it takes."""
    begun, over = time.monotonic(), threading.Event()
    say(f"{what} ...")

    def beat() -> None:
        while not over.wait(every):
            say(f"{what} ... {time.monotonic() - begun:.0f} s")

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def say(text: str) -> None:
    """Print one line at once, clear of progress bars."""
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()


@contextlib.contextmanager
def progress(title: str, total: int, done: int = 0, unit: str = "it", every: float = 5.0) -> "Iterator[tqdm[Any]]":
    """Give a progress bar that never falls silent: off a terminal it prints a line now and then instead."""
    quiet = not sys.stderr.isatty()
    bar = tqdm(
        total=total,
        initial=done,
        desc=title,
        unit=unit,
        file=sys.stderr,
        mininterval=every if quiet else 0.2,
        dynamic_ncols=not quiet,
        bar_format="{desc}: {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}]{postfix}\n" if quiet else None,
    )
    over = threading.Event()

    def beat() -> None:
        while not over.wait(every):
            if time.time() - bar.last_print_t > every:  # nothing new: a compilation, or one long step
                bar.refresh()
                bar.last_print_t = time.time()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        with bar:
            yield bar
    finally:
        over.set()
        thread.join()


class Timer:
    """Seconds since a start that may lie in an earlier, interrupted process."""

    def __init__(self, before: float = 0.0) -> None:
        self._origin = time.monotonic() - before

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self._origin

    def advance_to(self, seconds: float) -> None:
        """Count time an earlier process spent, if it spent more than has passed here."""
        self._origin = min(self._origin, time.monotonic() - seconds)


class Scalars:
    """TensorBoard scalars of one stage."""

    def __init__(self, folder: Path) -> None:
        self._writer = SummaryWriter(str(folder))

    def write(self, step: int, values: Mapping[str, Any], prefix: str = "") -> None:
        """Write scalars of one step."""
        for name, value in values.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(f"{prefix}{name}", value, step)

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


def provenance(config: Config) -> dict[str, Any]:
    """Return what a result file needs so that it can be made again: config, seed, commit, versions, machine."""
    device = jax.local_devices()[0]
    return {
        "config": settings.as_json(config),
        "seed": config.seed,
        "commit": _commit(),
        "versions": storage.versions() | {"python": platform.python_version()},
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "device": device.device_kind,
            "devices": jax.local_device_count(),
            "cores": _cores(),
        },
    }


def _cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        changed = bool(git("status", "--porcelain", "--untracked-files=no"))
        return git("rev-parse", "HEAD") + (" (with uncommitted changes)" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def check_same(stored: Any, config: Config, sections: tuple[str, ...], where: Path, but: tuple[str, ...] = ()) -> None:
    """Raise `ConfigError` if a stage's files were made with other settings than the ones asked for now."""
    check_equal(stored, settings.as_json(config, *sections), where, but)


def check_equal(stored: Any, now: Any, where: Path, but: tuple[str, ...] = ()) -> None:
    """Raise `ConfigError` if the settings `stored`, as JSON values, differ from those asked for `now`."""
    lines = settings.differences(stored, now)
    lines = [line for line in lines if not line.startswith(but)]
    if lines:
        raise settings.ConfigError(
            f"{where} was made with other settings ({'; '.join(lines[:4])}{' ...' if len(lines) > 4 else ''}); "
            "use another --workdir, or delete that folder to start this stage again"
        )
