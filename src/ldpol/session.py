"""What every program around the library needs: devices, compilation cache, progress, provenance."""

import contextlib
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from ldpol import storage


def start_jax() -> None:
    """Give a CPU machine one device a core and switch the compilation cache on; call before any computation."""
    with contextlib.suppress(RuntimeError):  # the caller's process already runs JAX: leave its devices alone
        jax.config.update("jax_num_cpu_devices", _cores())
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(Path(".jax_cache").absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


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
def bar(title: str, total: int, done: int = 0, unit: str = "it", every: float = 5.0) -> "Iterator[tqdm[Any]]":
    """Give a progress bar that never falls silent: off a terminal it prints a line now and then instead."""
    quiet = not sys.stderr.isatty()
    shown = tqdm(
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
            if time.time() - shown.last_print_t > every:  # nothing new: a compilation, or one long step
                shown.refresh()
                shown.last_print_t = time.time()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        with shown:
            yield shown
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def progress(title: str, total: int, unit: str = "policy") -> Iterator[Callable[[int], Any]]:
    """Show how far some work is, for `Hooks.progress`."""
    with bar(title, total, unit=unit) as shown:
        yield shown.update


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


def provenance(config: Any, seed: int) -> dict[str, Any]:
    """Return what a result file needs so that it can be made again: config (JSON), seed, commit, versions, machine."""
    device = jax.local_devices()[0]
    return {
        "config": config,
        "seed": seed,
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
