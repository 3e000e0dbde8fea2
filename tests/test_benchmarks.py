"""The benchmarks run, at tiny sizes, and write what they found."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from campaign.stages import WITH_TESTS

ROOT = Path(__file__).parents[1]
QUICK = {
    "generation": (),
    "noise": (),
    "rollout": ("--tasks", "ant"),
    "search": ("--searches", "hybrid"),  # PPGA and MAP-Elites are its parts
    "training": (),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_benchmark_runs(name, tmp_path):
    line = [sys.executable, f"benchmarks/{name}.py", "--quick", *QUICK[name], "--out", str(tmp_path / "found.json")]
    done = subprocess.run(line, cwd=ROOT, env=WITH_TESTS, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found if isinstance(found, list) else found["results"]
