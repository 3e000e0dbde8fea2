"""Stages that are started twice, starved of room or rights, or run under a clock that steps."""

import contextlib
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from campaign.outcomes import left_over, one_line, outcome, row, say
from campaign.races import number_of, save
from campaign.stages import STAGES, Stages
from ldpol import storage


def two(stages: Stages, count: int, random: np.random.Generator) -> dict[str, Any]:
    """Start one stage twice at the same moment."""
    wrong: Counter[str] = Counter()
    answered = []
    for number in range(count):
        stage = STAGES[number % len(STAGES)]
        workdir = stages.ready_for(stage, f"two{number}")
        both = [stages.start(stage, workdir) for _ in range(2)]
        begun = time.monotonic()
        while all(process.poll() is None for process in both) and time.monotonic() - begun < stages.limit:
            time.sleep(0.05)
        answered.append(round(time.monotonic() - begun, 1))
        ends = sorted((stages.wait(process) for process in both), key=lambda end: end[0])
        (code, said), (_, refusal) = ends
        wrong += outcome(said, code == 0) + outcome(refusal, one_line(*ends[1], "is in use by another command"))
        stages.check_end(workdir, stage, wrong, "two")
        say(f"two: {stage}: refused after {answered[-1]} s: {refusal.strip().splitlines()[-1:]}")
        shutil.rmtree(workdir)
    return row(wrong, pairs=count, refused_after_seconds=answered)


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mount a disk of `size` kilobytes; `OSError` where that is not allowed."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        raise OSError(f"no small disk: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _without_folders(line: str) -> str:
    """Shorten paths of this machine to their last names."""
    return re.sub(r"/\S*/", "", line)


def full(stages: Stages, count: int, random: np.random.Generator) -> dict[str, Any]:
    """Fill a disk by saving, then run every stage on a disk that is too small for what it writes."""
    wrong: Counter[str] = Counter()
    saves, said = 0, []
    with small_disk(stages.folder / "disk", 2000) as disk:
        with contextlib.suppress(OSError):
            for number in range(10**6):
                save(disk / str(number), number)
                saves += 1
        for write in (lambda: save(disk / "0", 99), lambda: storage.write_json(disk / "json", ["x" * 100_000])):
            try:
                write()
                wrong["alien"] += 1  # there was room after all
            except OSError as error:
                said.append(_without_folders(str(error)))
                wrong["alien"] += "No space left on device; free some space" not in str(error)
        wrong["silent"] += any(number_of(disk / str(number)) != number for number in range(saves))
        wrong["left_over"] += left_over(disk)
    for stage in STAGES:
        workdir = stages.ready_for(stage, f"full-{stage}")
        blocks = sum(-(-path.stat().st_size // 4096) for path in workdir.rglob("*") if path.is_file())
        with small_disk(stages.folder / f"disk-{stage}", 4 * blocks + 60) as disk:
            shutil.copytree(workdir, disk / "run")
            code, text = stages.wait(stages.start(stage, disk / "run"))
            wrong += outcome(text, one_line(code, text, "No space left on device", str(disk)))
            wrong["left_over"] += left_over(disk)
            said.append(_without_folders(text.strip().splitlines()[-1]))
            say(f"full: {stage} ended with {code}: {text.strip().splitlines()[-1]}")
    return row(wrong, saves_until_full=saves, stages=len(STAGES), said=said)


WITHOUT_RIGHTS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
"""Root that must obey the modes of files."""


def read_only(stages: Stages, count: int, random: np.random.Generator) -> dict[str, Any]:
    """Run every stage again in a finished run that cannot be written, and the first one in an empty folder."""
    workdir, nothing = stages.folder / "read-only", stages.folder / "empty"
    shutil.copytree(stages.reference, workdir)
    nothing.mkdir()
    places = [*workdir.rglob("*"), workdir, nothing]
    wrong: Counter[str] = Counter()
    said = []
    for place in places:
        place.chmod(0o555 if place.is_dir() else 0o444)
    try:
        for stage, where in (*((stage, workdir) for stage in STAGES), ("archive", nothing), ("train", nothing / "x")):
            code, text = stages.wait(stages.start(stage, where, *WITHOUT_RIGHTS))
            done = code == 0 and "already done" in text and stage != "evaluate"
            wrong += outcome(text, done or one_line(code, text, "Permission denied", str(where)))
            last = text.strip().splitlines()[-1]
            said.append(f"{stage}: {_without_folders(last)}")
            say(f"read_only: {stage} ended with {code}: {last}")
        wrong["left_over"] += left_over(workdir) + len(list(nothing.iterdir()))
        for stage in STAGES:
            wrong["silent"] += bool(stages.differences(workdir, stage))
    finally:
        for place in reversed(places):
            place.chmod(0o755 if place.is_dir() else 0o644)
    return row(wrong, commands=len(said), said=said)


STEPPING = """
import random, runpy, sys, time
seen, steps = time.time, random.Random(int(sys.argv[1]))
time.time = lambda: seen() + steps.uniform(-5, 5)
sys.argv = sys.argv[2:]
runpy.run_module(sys.argv[0], run_name="__main__")
"""


def clock(stages: Stages, count: int, random: np.random.Generator) -> dict[str, Any]:
    """Run every stage under a clock that steps by up to five seconds, forth and back, at every look."""
    wrong: Counter[str] = Counter()
    for stage in STAGES:
        workdir = stages.ready_for(stage, f"clock-{stage}")
        line = stages.command(stage, workdir)
        line = [sys.executable, "-c", STEPPING, str(random.integers(1000)), *line[2:]]
        code, text = stages.wait(stages.popen(line))
        wrong += outcome(text, code == 0)
        if code == 0:
            stages.check_end(workdir, stage, wrong, "clock")
        else:
            say(f"clock: {stage} WRONG: ended with {code}: {text[-2000:]}")
    return row(wrong, stages=len(STAGES))
