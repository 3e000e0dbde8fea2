"""Stages that are hit by a signal at random moments, and go on until they end as if nobody had hit them."""

import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from campaign.outcomes import outcome, row, say
from campaign.stages import Stages

PER_WORKDIR = 4
"""Hits in a row before a stage may run to its end."""


class Hit(NamedTuple):
    """When a stage is hit: seconds after the beginning of an undisturbed run."""

    stage: str
    second: float
    signal: signal.Signals

    def earlier(self, part: float, starting: float) -> "Hit":
        """Return the same hit in a part of its time; Ctrl-C and SIGTERM only once a command has started."""
        second = self.second * part
        return self._replace(second=second if self.signal == signal.SIGKILL else max(second, starting))


def plan(
    seconds: Mapping[str, float], kills: int, others: int, starting: float, random: np.random.Generator
) -> list[list[Hit]]:
    """Spread hits over the stages, by the time that these take; returns the hits of one workdir each, in order.

    Args:
      seconds: of the stages, undisturbed.
      kills: hits by SIGKILL.
      others: hits by SIGTERM, and as many by SIGINT, which need a command that is past its `starting` seconds.
      random: where in its equal share of the time each hit is, and which signal.
    """
    signals = [signal.SIGKILL] * kills + [signal.SIGTERM, signal.SIGINT] * others
    chosen = [signals[place] for place in random.permutation(len(signals))]
    ends = dict(zip(seconds, np.cumsum(list(seconds.values())).tolist(), strict=True))
    hits: dict[str, list[Hit]] = {stage: [] for stage in seconds}
    for number, one in enumerate(chosen):
        moment = (number + random.random()) / len(chosen) * sum(seconds.values())
        stage = next(stage for stage, end in ends.items() if moment < end)
        second = moment - ends[stage] + seconds[stage]
        hits[stage].append(Hit(stage, second, one).earlier(1.0, starting))
    rounds = []
    for own in hits.values():
        workdirs = -(-len(own) // PER_WORKDIR)
        rounds += [sorted(own[first::workdirs], key=lambda hit: hit.second) for first in range(workdirs)]
    return rounds


AT_ONCE = 5.0
"""Seconds within which a command that was over ends."""


def kills(stages: Stages, count: int, random: np.random.Generator) -> dict[str, Any]:
    """Hit the stages by `count` kill -9, and two each by SIGTERM and Ctrl-C."""
    rounds = plan(stages.seconds, count, min(2, count), stages.start_seconds, random)
    wrong: Counter[str] = Counter()
    done: list[dict[str, Any]] = []
    ends = 0
    while rounds and time.monotonic() < stages.deadline:
        hits = rounds.pop(0)
        stage, before = hits[0].stage, 0.0
        workdir = stages.ready_for(stage, f"kills{ends}")
        for number, hit in enumerate(hits):
            process = stages.start(stage, workdir)
            # A run that goes on begins near the moment of the last hit, once it has started.
            pause = hit.second - before + (stages.start_seconds if before else 0.0)
            try:
                _, said = process.communicate(timeout=pause)
                wrong += outcome(said, process.returncode == 0)
                say(f"kills: {stage} was over before second {hit.second:.0f}")
                # Quicker than foreseen: these hits come in a new run, each somewhere in what this one has passed.
                rounds.append([late.earlier(random.random(), stages.start_seconds) for late in hits[number:]])
                break
            except subprocess.TimeoutExpired:
                process.send_signal(hit.signal)
                sent = time.monotonic()
                code, said = stages.wait(process)
            # A command that is over but for Python's own end takes no notice of Ctrl-C any more.
            over = code == 0 and hit.signal == signal.SIGINT and time.monotonic() - sent < AT_ONCE
            expected = 130 if hit.signal == signal.SIGINT else -hit.signal
            ended = outcome(said, over or code == expected and (code != 130 or "Traceback" not in said))
            wrong += ended
            before = max(before, hit.second)
            last = [line for line in said.splitlines() if line.strip()][-1:]
            done.append({"stage": stage, "second": round(hit.second, 1), "signal": hit.signal.name, "workdir": ends})
            say(f"kills: {done[-1]}, ended with {code}{' WRONG' if ended.total() else ''} after {last}")
        code, said = stages.wait(stages.start(stage, workdir))
        ends += 1
        wrong += outcome(said, code == 0)
        if code == 0:
            stages.check_end(workdir, stage, wrong, "kills")
        else:
            say(f"kills: {stage} WRONG: ended with {code}: {said[-2000:]}")
        shutil.rmtree(workdir)
    names = ("SIGKILL", "SIGTERM", "SIGINT")
    by_signal = {name: sum(one["signal"] == name for one in done) for name in names}
    by_stage = dict(Counter(one["stage"] for one in done))
    planned = count + 2 * min(2, count)
    return row(wrong, planned=planned, hits=by_signal, stages=by_stage, rounds=ends, moments=done)
