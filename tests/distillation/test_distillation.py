"""The method from end to end on a task of one's own: no folder, no config, one trace of the player."""

import json
import runpy
from pathlib import Path

from toy import traced_once

import ldpol

EXAMPLE = Path(__file__).parents[2] / "examples" / "distil_toy.py"


def test_an_archive_of_ones_own_task_is_distilled_and_evaluated(monkeypatch):
    """The example, with a player that refuses to be traced twice for all its evaluations."""
    make = ldpol.make_player
    monkeypatch.setattr(ldpol, "make_player", lambda *arguments, **settings: traced_once(make(*arguments, **settings)))
    metrics = runpy.run_path(str(EXAMPLE))["main"]()
    json.dumps(metrics, allow_nan=False)
    assert metrics["policies"] > 50 and metrics["held_out_box"]["policies"] > 0
    assert metrics["mem"] < 0.3
    assert 0.5 < metrics["reward_ratio"] < 1.5 and metrics["mem_ceiling"] < metrics["mem"]
