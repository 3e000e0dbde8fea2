"""Stages that are killed, started twice, starved of room or rights, or run under a clock that steps."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from campaign.races import left_over, number_of, save
from ldpol import storage

ROOT = Path(__file__).parents[2]
STAGES = ("archive", "train", "evaluate")
MADE_BY = {"archive": ("archive",), "train": ("train", "model"), "evaluate": ("eval",)}
"""What each stage leaves in a workdir."""
NOT_COMPARED = ("seconds", "suite_seconds", "commit", "versions", "machine")


def say(text: str) -> None:
    print(f"chaos: {text}", flush=True)


class Stages:
    """Runs stages of one config, and remembers how a run ends that nobody disturbs."""

    def __init__(self, module: str, config: str, folder: Path, limit: float, deadline: float) -> None:
        self.module, self.config, self.folder, self.limit, self.deadline = module, config, folder, limit, deadline
        self.reference = folder / "reference"
        self.seconds: dict[str, float] = {}
        for stage in STAGES:
            begun = time.monotonic()
            self.finish(stage, self.reference)
            self.seconds[stage] = time.monotonic() - begun
            say(f"reference: {stage} took {self.seconds[stage]:.0f} s")

    def command(self, stage: str, workdir: Path, *more: str) -> list[str]:
        line = ["-m", self.module, stage, "--config", self.config, "--workdir", str(workdir)]
        return [sys.executable, *line, *more]

    def start(self, stage: str, workdir: Path, *before: str) -> "subprocess.Popen[str]":
        return self.popen([*before, *self.command(stage, workdir)])

    def popen(self, line: list[str]) -> "subprocess.Popen[str]":
        paths = os.pathsep.join([str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])])
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(line, cwd=ROOT, env=os.environ | {"PYTHONPATH": paths}, **pipes)

    def wait(self, process: "subprocess.Popen[str]") -> tuple[int, str]:
        try:
            _, said = process.communicate(timeout=self.limit)
        except subprocess.TimeoutExpired:
            process.kill()
            return -1, "HANG"
        return process.returncode, said

    def finish(self, stage: str, workdir: Path, *before: str) -> str:
        code, said = self.wait(self.start(stage, workdir, *before))
        if code:
            raise RuntimeError(f"{stage} ended with {code}: {said[-2000:]}")
        return said

    def ready_for(self, stage: str, name: str) -> Path:
        """Return a new workdir in which everything before `stage` is done."""
        workdir = self.folder / name
        workdir.mkdir()
        for earlier in STAGES[: STAGES.index(stage)]:
            for part in MADE_BY[earlier]:
                source = self.reference / part
                (shutil.copytree if source.is_dir() else shutil.copy)(source, workdir / part)
        return workdir

    def differences(self, workdir: Path, stage: str) -> list[str]:
        """Compare what a stage left, number by number, with the reference; the names of files that differ."""
        ours, theirs = (contents(folder, MADE_BY[stage]) for folder in (workdir, self.reference))
        return [name for name in sorted({*ours, *theirs}) if not equal(ours.get(name), theirs.get(name))]


def contents(workdir: Path, parts: tuple[str, ...]) -> dict[str, Any]:
    """Everything that a stage left, by file; without times."""
    files = [path for part in parts for path in [workdir / part, *(workdir / part).rglob("*")] if path.is_file()]
    found = {}
    for path in files:
        if path.parent.name != "tensorboard":
            found[str(path.relative_to(workdir))] = untimed(read(path))
    return found


def read(path: Path) -> Any:
    if path.suffix == ".json":
        return storage.read_json(path)
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    with contextlib.suppress(ValueError):
        return storage.unpack(path.read_bytes(), str(path))
    return path.read_bytes()


def untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: untimed(part) for name, part in value.items() if name not in NOT_COMPARED}
    return [untimed(part) for part in value] if isinstance(value, list | tuple) else value


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    return one == other or (one != one and other != other)


def one_line(code: int, said: str, *words: str) -> bool:
    """Whether a command was refused in one line that holds all the words."""
    lines = [line for line in said.splitlines() if line.strip()]
    return code == 2 and "Traceback" not in said and bool(lines) and all(word in lines[-1] for word in words)


def kills(stages: Stages, count: int, random: np.random.Generator) -> dict[str, Any]:
    """Hit each stage in turn until there are `count` hits by kill -9, and two each by SIGTERM and Ctrl-C."""
    plan = [signal.SIGKILL] * count + [signal.SIGTERM, signal.SIGINT] * min(2, count)
    order = iter(random.permutation(len(plan)).tolist())
    rows: list[dict[str, Any]] = []
    left, rounds, bad = [plan[i] for i in order], 0, 0
    while left and time.monotonic() < stages.deadline:
        stage = STAGES[rounds % len(STAGES)]
        workdir = stages.ready_for(stage, f"kills{rounds}")
        rounds += 1
        for _ in range(int(random.integers(1, 4))):
            if not left:
                break
            process = stages.start(stage, workdir)
            moment = random.uniform(0.05, 1.0) * stages.seconds[stage]
            try:
                _, said = process.communicate(timeout=moment)
                say(f"kills: {stage} was over before {moment:.0f} s")
                bad += process.returncode != 0
                break
            except subprocess.TimeoutExpired:
                chosen = left.pop()
                process.send_signal(chosen)
                code, said = stages.wait(process)
            expected = 130 if chosen == signal.SIGINT else -chosen
            right = code == expected and (code != 130 or "Traceback" not in said)
            bad += not right
            last = [line for line in said.splitlines() if line.strip()][-1:]
            rows.append({"stage": stage, "second": round(moment, 1), "signal": chosen.name, "round": rounds})
            say(f"kills: {rows[-1]}, ended with {code}{'' if right else ' WRONG'} after {last}")
        stages.finish(stage, workdir)
        different = stages.differences(workdir, stage)
        rest = left_over(workdir)
        bad += bool(different) + bool(rest)
        say(f"kills: round {rounds}, {stage}: {'equal' if not different else different}, {rest} files left over")
        shutil.rmtree(workdir)
    by_signal = {name: sum(row["signal"] == name for row in rows) for name in ("SIGKILL", "SIGTERM", "SIGINT")}
    return {"planned": len(plan), "hits": by_signal, "rounds": rounds, "moments": rows, "bad": bad}


def two(stages: Stages, count: int, random: np.random.Generator) -> dict[str, Any]:
    """Start one stage twice at the same moment."""
    bad, answered = 0, []
    for number in range(count):
        stage = STAGES[number % len(STAGES)]
        workdir = stages.ready_for(stage, f"two{number}")
        both = [stages.start(stage, workdir) for _ in range(2)]
        begun = time.monotonic()
        while all(process.poll() is None for process in both) and time.monotonic() - begun < stages.limit:
            time.sleep(0.05)
        answered.append(round(time.monotonic() - begun, 1))
        (_, first), (_, second) = sorted((stages.wait(process) for process in both), key=lambda end: end[0])
        ends = sorted(process.returncode for process in both)
        right = ends == [0, 2] and one_line(2, second, "is in use by another command")
        bad += not right or bool(stages.differences(workdir, stage)) or bool(left_over(workdir))
        say(f"two: {stage}: ended with {ends}, refused after {answered[-1]} s: {second.strip().splitlines()[-1:]}")
        shutil.rmtree(workdir)
    return {"pairs": count, "refused_after_seconds": answered, "bad": bad}


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
    """Fill a disk by saving, then run stages on disks that are too small for what they write."""
    bad = saves = 0
    said = []
    with small_disk(stages.folder / "disk", 2000) as disk:
        with contextlib.suppress(OSError):
            for number in range(10**6):
                save(disk / str(number), number)
                saves += 1
        for write in (lambda: save(disk / "0", 99), lambda: storage.write_json(disk / "json", ["x" * 100_000])):
            try:
                write()
                bad += 1  # there was room after all
            except OSError as error:
                said.append(_without_folders(str(error)))
                bad += "No space left on device; free some space" not in str(error)
        bad += any(number_of(disk / str(number)) != number for number in range(saves)) or left_over(disk)
    for stage in STAGES[:2]:
        workdir = stages.ready_for(stage, f"full-{stage}")
        size = sum(path.stat().st_size for path in workdir.rglob("*") if path.is_file()) // 1000
        with small_disk(stages.folder / f"disk-{stage}", size + 60) as disk:
            shutil.copytree(workdir, disk / "run")
            code, text = stages.wait(stages.start(stage, disk / "run"))
            right = one_line(code, text, "No space left on device", str(disk)) and not left_over(disk)
            bad += not right
            said.append(_without_folders(text.strip().splitlines()[-1]))
            say(f"full: {stage} ended with {code}{'' if right else ' WRONG'}: {text.strip().splitlines()[-1]}")
    return {"saves_until_full": saves, "said": said, "bad": int(bad)}


WITHOUT_RIGHTS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
"""Root that must obey the modes of files."""


def read_only(stages: Stages, count: int, random: np.random.Generator) -> dict[str, Any]:
    """Run every stage again in a finished run that cannot be written, and the first one in an empty folder."""
    workdir = stages.folder / "read-only"
    shutil.copytree(stages.reference, workdir)
    (stages.folder / "empty").mkdir()
    places = [*workdir.rglob("*"), workdir, stages.folder / "empty"]
    bad, said = 0, []
    for place in places:
        place.chmod(0o555 if place.is_dir() else 0o444)
    try:
        for stage, where in (*((stage, workdir) for stage in STAGES), ("archive", stages.folder / "empty")):
            code, text = stages.wait(stages.start(stage, where, *WITHOUT_RIGHTS))
            done = code == 0 and "already done" in text and stage != "evaluate"
            bad += not (done or one_line(code, text, "Permission denied", str(where)))
            last = text.strip().splitlines()[-1]
            said.append(f"{stage}: {_without_folders(last)}")
            say(f"read_only: {stage} ended with {code}: {last}")
        bad += bool(left_over(workdir)) + bool(list((stages.folder / "empty").iterdir()))
    finally:
        for place in reversed(places):
            place.chmod(0o755 if place.is_dir() else 0o644)
    return {"commands": len(said), "said": said, "bad": bad}


STEPPING = """
import random, runpy, sys, time
seen, steps = time.time, random.Random(int(sys.argv[1]))
time.time = lambda: seen() + steps.uniform(-5, 5)
sys.argv = sys.argv[2:]
runpy.run_module(sys.argv[0], run_name="__main__")
"""


def clock(stages: Stages, count: int, random: np.random.Generator) -> dict[str, Any]:
    """Run stages under a clock that steps by up to five seconds, forth and back, at every look."""
    bad = 0
    for stage in STAGES[:2]:
        workdir = stages.ready_for(stage, f"clock-{stage}")
        line = stages.command(stage, workdir)
        line = [sys.executable, "-c", STEPPING, str(random.integers(1000)), *line[2:]]
        code, text = stages.wait(stages.popen(line))
        different = stages.differences(workdir, stage)
        bad += code != 0 or bool(different)
        say(f"clock: {stage} ended with {code}, {different or 'equal'}")
    return {"stages": 2, "bad": bad}
