"""Stages as commands of their own, and whether they end as they do when nobody disturbs them."""

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from campaign.comparing import contents, equal
from campaign.outcomes import HANG, left_over, say

ROOT = Path(__file__).parents[2]
STAGES = ("archive", "train", "evaluate")
MADE_BY = {"archive": ("archive",), "train": ("train", "model"), "evaluate": ("eval",)}
"""What each stage leaves in a workdir."""
PATHS = [str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
WITH_TESTS = os.environ | {"PYTHONPATH": os.pathsep.join(PATHS)}
"""The environment of a command that imports from tests/, as `campaign.toy_stage` does."""


class Stages:
    """Runs stages of one config, and remembers how a run ends that nobody disturbs.

    All commands share one compilation cache: the first run fills it, the second one tells how long the stages take
    with it, and that they end equally.
    """

    def __init__(self, module: str, config: str, folder: Path, limit: float, deadline: float) -> None:
        self.module, self.config, self.folder, self.limit, self.deadline = module, config, folder, limit, deadline
        cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        self.environment = cache | WITH_TESTS
        self.reference = folder / "first"
        self.undisturbed()
        self.reference = folder / "reference"
        self.seconds = self.undisturbed()
        different = [name for stage in STAGES for name in self.differences(folder / "first", stage)]
        if different:
            raise RuntimeError(f"two runs that nobody disturbed differ in {different}")
        begun = time.monotonic()
        self.finish("train", self.reference)
        self.start_seconds = time.monotonic() - begun
        """Of a command that has nothing to do."""

    def undisturbed(self) -> dict[str, float]:
        seconds = {}
        for stage in STAGES:
            begun = time.monotonic()
            self.finish(stage, self.reference)
            seconds[stage] = time.monotonic() - begun
            say(f"{self.reference.name}: {stage} took {seconds[stage]:.0f} s")
        return seconds

    def command(self, stage: str, workdir: Path) -> list[str]:
        return [sys.executable, "-m", self.module, stage, "--config", self.config, "--workdir", str(workdir)]

    def start(self, stage: str, workdir: Path, *before: str) -> subprocess.Popen[str]:
        return self.popen([*before, *self.command(stage, workdir)])

    def popen(self, line: list[str]) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(line, cwd=ROOT, env=self.environment, **pipes)

    def wait(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        try:
            _, said = process.communicate(timeout=self.limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return -1, HANG
        return process.returncode, said

    def finish(self, stage: str, workdir: Path) -> None:
        code, said = self.wait(self.start(stage, workdir))
        if code:
            raise RuntimeError(f"{stage} ended with {code}: {said[-2000:]}")

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

    def check_end(self, workdir: Path, stage: str, wrong: Counter[str], who: str) -> None:
        """Count what is wrong with a workdir in which `stage` is over."""
        different, rest = self.differences(workdir, stage), left_over(workdir)
        wrong["silent"] += bool(different)
        wrong["left_over"] += rest
        say(f"{who}: {stage}: {different or 'equal'}, {rest} files left over")
