"""Kill, race and starve the stages and the writers underneath, and see that nothing is lost, mixed or late.

  python -m campaign chaos --toy --out ../results/chaos.json       (from tests/; `make chaos`)

pairs      two processes save one path at the same moment: what lies there afterwards is one of the two, whole
locks      two processes take one lock at the same moment: one gets it
loads      a process reads while another one writes: never a mixture
writers    kill -9 inside of saving: what lies there is whole, and not older than the last save that was over
kills      kill -9 (or a gentler signal) at random moments of the stages, evaluate with all suites; then the same
           command runs to its end: every file is equal, number by number, to that of a run that nobody disturbed
two        one stage twice on one workdir: one is refused at once, and says why
full       a small disk that gets full: one line, nothing lost, nothing left behind (root only)
read_only  a finished run that cannot be written: finished stages say so, others refuse in one line (root only)
clock      a clock that steps by seconds in both directions at every look: the same files

Commands share one compilation cache, JAX_COMPILATION_CACHE_DIR if that is set; only the first run has to fill it.
"""

import argparse
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from campaign.disturbed import clock, full, read_only, two
from campaign.kills import kills
from campaign.outcomes import WRONG, say
from campaign.races import loads, locks, pairs, writers
from campaign.stages import Stages
from ldpol import session, storage

QUICK = {"pairs": (pairs, 40), "locks": (locks, 40), "loads": (loads, 400), "writers": (writers, 150)}
SLOW = {"two": (two, 3), "full": (full, 1), "read_only": (read_only, 1), "clock": (clock, 1), "kills": (kills, 20)}


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign; the exit code is 1 if anything came out as it must not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="experiments/walker2d.py:smoke")
    parser.add_argument("--toy", action="store_true", help="the stages run the tests' toy task instead of physics")
    parser.add_argument("--only", default=",".join([*QUICK, *SLOW]), help="scenarios, separated by commas")
    parser.add_argument("--kills", type=int, default=SLOW["kills"][1], help="kill -9 in all (default: 20)")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds that one command may take")
    parser.add_argument("--minutes", type=float, default=600.0, help="after which no kill begins (default: 600)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work, kept afterwards (default: a temporary folder)")
    parser.add_argument("--out", type=Path, help="JSON file for the table")
    options = parser.parse_args(arguments)
    chosen = options.only.split(",")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it may be ignored, by all commands
    module = "campaign.toy_stage" if options.toy else "ldpol.experiments"
    # Before anything is written: the file of the table is itself under version control.
    made_by = session.provenance({"config": options.config}, options.seed)
    rows: dict[str, Any] = {}
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        stages = None
        for number, (name, (scenario, count)) in enumerate((QUICK | SLOW).items()):
            if name not in chosen:
                continue
            random = np.random.default_rng([options.seed, number])
            if name in SLOW and stages is None:
                stages = Stages(module, options.config, folder / "stages", options.limit, begun + 60 * options.minutes)
            if name in ("full", "read_only") and (os.geteuid() != 0 or shutil.which("setpriv") is None):
                rows[name] = {"skipped": "needs root", "bad": 0}
                continue
            own = folder / name
            if name in QUICK:
                own.mkdir(parents=True)
            try:
                count = options.kills if name == "kills" else count
                rows[name] = scenario(own if name in QUICK else stages, count, random)  # type: ignore[arg-type]
            except (OSError, RuntimeError) as error:
                rows[name] = {"error": str(error)[-1000:], "bad": 1}
            say(f"{name}: { ({key: value for key, value in rows[name].items() if key != 'moments'}) }")
            if options.out is not None:
                table = describe(rows, stages, "toy" if options.toy else "physics", time.monotonic() - begun)
                storage.write_json(options.out, table | made_by)
    return 1 if any(row["bad"] for row in rows.values()) else 0


def describe(rows: dict[str, Any], stages: Stages | None, task: str, seconds: float) -> dict[str, Any]:
    """Return what has been found so far, with the sums over all scenarios."""
    totals = {name: sum(found.get(name, 0) for found in rows.values()) for name in (*WRONG, "bad")}
    found: dict[str, Any] = {"task": task, "seconds": round(seconds), "totals": totals, "scenarios": rows}
    if stages is not None:
        found["reference_seconds"] = {stage: round(value, 1) for stage, value in stages.seconds.items()}
    return found
