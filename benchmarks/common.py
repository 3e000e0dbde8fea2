"""What every benchmark needs: devices, cold compilation, interleaved timing, memory, a table, a result file."""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.stages import Compiled

from ldpol import session, storage

_BEGUN = time.monotonic()
KEPT = ("reward_ratio", "coverage_ratio", "qd_ratio", "success_rate", "mem")
"""What is kept of an archive, by the names of `ldpol.evaluate`."""


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options all benchmarks share."""
    parsed = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parsed.add_argument("--out", type=Path, help="JSON file to write (default: print only)")
    parsed.add_argument("--quick", action="store_true", help="tiny sizes; the numbers mean nothing")
    return parsed


def runs_parser(description: str | None, stage: str = "evaluate") -> argparse.ArgumentParser:
    """Return a parser with the options of all benchmarks of finished runs: which, and the file to write."""
    parsed = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parsed.add_argument("runs", nargs="+", type=Path, help=f"work directories that the {stage} stage has finished")
    parsed.add_argument("--out", type=Path, required=True)
    return parsed


def finish_runs(options: argparse.Namespace, rows: Any, found: Sequence[Any], **settings: Any) -> None:
    """Write means over runs, what each run had, and the settings, of a benchmark with the options of `runs_parser`."""
    settings["runs"] = [run.name for run in options.runs]
    storage.write_json(options.out, {"rows": rows, "seeds": found} | session.provenance(settings, 0))


def start() -> None:
    """Give JAX the devices the entry points give it, without a persistent cache: every compilation is a cold one."""
    session.start_jax()
    jax.config.update("jax_enable_compilation_cache", False)


class Program(NamedTuple):
    """A compiled program and what it took to compile it.

    Attributes:
      run: call it with arrays sharded as the ones it was compiled for.
      lower_seconds: tracing and lowering to StableHLO.
      compile_seconds: XLA.
      memory: bytes on all devices together: `arguments`, `temporaries`, `outputs`.
    """

    run: Compiled
    lower_seconds: float
    compile_seconds: float
    memory: dict[str, int]

    def about(self) -> dict[str, Any]:
        """Return the costs of compilation and the memory, for a result file."""
        seconds = {"lower_seconds": round(self.lower_seconds, 3), "compile_seconds": round(self.compile_seconds, 3)}
        return seconds | {"bytes": self.memory}


def build(function: Any, *arguments: Any, devices: int = 1, optimise: bool = True) -> Program:
    """Compile a function for its arguments.

    Args:
      function: jitted, or it is jitted as it is.
      *arguments: arrays on their devices, or their shapes.
      devices: how many it runs on; XLA counts the memory of one.
      optimise: False skips LLVM's optimisations, for a program of which only the memory is asked.
    """
    function = function if hasattr(function, "lower") else jax.jit(function)
    begun = time.perf_counter()
    lowered = function.lower(*arguments)
    middle = time.perf_counter()
    compiled = lowered.compile(None if optimise else {"xla_backend_optimization_level": 0})
    end = time.perf_counter()
    stats = compiled.memory_analysis()
    memory = {
        "arguments": devices * stats.argument_size_in_bytes,
        "temporaries": devices * stats.temp_size_in_bytes,
        "outputs": devices * stats.output_size_in_bytes,
    }
    return Program(compiled, middle - begun, end - middle, memory)


class Seconds(NamedTuple):
    """How long a run took: the best and the median of its repeats."""

    best: float
    median: float


def measure(runs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, Seconds]:
    """Time several runs against each other: one warm-up each, then they take turns.

    What else the machine does then meets all of them alike. Rates use the best repeat, the least disturbed one.

    Args:
      runs: what to time; each returns arrays, which are waited for.
      repeats: turns.
    """
    for run in runs.values():
        jax.block_until_ready(run())
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            begun = time.perf_counter()
            jax.block_until_ready(run())
            seconds[name].append(time.perf_counter() - begun)
    return {name: Seconds(min(values), statistics.median(values)) for name, values in seconds.items()}


def put_row(out: Path, benchmark: str, row: dict[str, Any], mark: Callable[[dict[str, Any]], Any]) -> list[Any]:
    """Put a row into a result file, in place of one with the same mark, and return all, in the order of their marks."""
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"] if out.is_file() else []
    rows = sorted([*(one for one in rows if mark(one) != mark(row)), row], key=mark)
    storage.write_json(out, {"benchmark": benchmark, "rows": rows})
    return rows


class Target(NamedTuple):
    """A claim and what was found."""

    claim: str
    value: float
    floor: float

    def about(self) -> dict[str, Any]:
        """Return it for a result file."""
        return {"claim": self.claim, "value": self.value, "floor": self.floor, "reached": self.value >= self.floor}


def say(text: str) -> None:
    """Print one line with the seconds since the start."""
    session.say(f"[{time.monotonic() - _BEGUN:5.0f} s] {text}")


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; the first column to the left, numbers to the right."""
    cells = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    print(f"\n{title}")
    for number, row in enumerate(cells):
        first, *others = zip(row, widths, strict=True)
        print("  ".join(["", first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)]), flush=True)
        if number == 0:
            print("  " + "  ".join("-" * width for width in widths), flush=True)


def _cell(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 100 else f"{value:.3g}"


def finish(
    name: str,
    out: Path | None,
    config: Any,
    settings: Mapping[str, Any],
    results: Any,
    targets: Sequence[Target] = (),
) -> None:
    """Print the targets and write the result file.

    Args:
      name: of the benchmark.
      out: the file, or None.
      config: the defaults the numbers are of, settings or JSON values.
      settings: the benchmark's own sizes.
      results: JSON-able.
      targets: what was claimed.
    """
    if targets:
        rows = [(t.claim, t.value, t.floor, "yes" if t.value >= t.floor else "NO") for t in targets]
        table("Targets", ("claim", "found", "at least", "reached"), rows)
    if out is not None:
        plain = dataclasses.asdict(config) if dataclasses.is_dataclass(config) else config  # type: ignore[arg-type]
        content = {
            "benchmark": name,
            "seconds": round(time.monotonic() - _BEGUN, 1),
            "settings": dict(settings),
            "targets": [target.about() for target in targets],
            "results": results,
        }
        storage.write_json(out, content | session.provenance(plain, 0))
    say(f"{name}: done" + (f" -> {out}" if out else ""))
