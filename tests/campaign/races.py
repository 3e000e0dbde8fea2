"""Processes that write, read and lock the same path at the same time, and are killed meanwhile."""

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from campaign.outcomes import left_over, row, say
from ldpol import storage

KIND = "chaos"
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["campaign.races"])


def save(path: Path, number: int) -> None:
    """Save what can be told apart: everything in it is one number."""
    tree = {"a": np.full(2000, number), "b": {"c": np.full((30, 40), number)}}
    storage.save(path, tree, kind=KIND, about={"n": number})


def number_of(path: Path) -> int:
    """Read it; an error unless everything is one number."""
    tree, about = storage.load(path, kind=KIND)
    (number,) = {about["n"], *tree["a"].tolist(), *tree["b"]["c"].ravel().tolist()}
    return number


def save_at(barrier: Any, path: Path, number: int, results: Any) -> None:
    barrier.wait()
    try:
        save(path, number)
        results.put("saved")
    except OSError as error:
        results.put(str(error))


def lock_at(barrier: Any, path: Path, results: Any) -> None:
    barrier.wait()
    try:
        with storage.lock(path, "the run"):
            results.put("got it")
            barrier.wait()  # hold it until the other one has tried
    except OSError as error:
        results.put(str(error))
        barrier.wait()


def save_for_ever(path: Path, first: int, over: Any) -> None:
    for number in range(first, 10**9):
        save(path, number)
        over.value = number


def in_pair(target: Callable[..., None], *arguments: tuple) -> list[str]:
    """Run a function in two processes that start at the same moment; returns what they say."""
    barrier, results = FORKS.Barrier(2), FORKS.SimpleQueue()
    pair = [FORKS.Process(target=target, args=(barrier, *own, results)) for own in arguments]
    for process in pair:
        process.start()
    for process in pair:
        process.join(60)
    if any(process.exitcode != 0 for process in pair):
        raise RuntimeError(f"a process of the pair ended with {[process.exitcode for process in pair]}")
    return [results.get() for _ in pair]


def pairs(folder: Path, count: int, random: np.random.Generator) -> dict[str, Any]:
    refused, wrong = 0, Counter[str]()
    for pair in range(count):
        said = in_pair(save_at, (folder / "pair", 2 * pair), (folder / "pair", 2 * pair + 1))
        refused += sum(text != "saved" for text in said)
        wrong["silent"] += number_of(folder / "pair") // 2 != pair
    wrong["left_over"] += left_over(folder)
    return row(wrong, pairs=count, refused=refused)


def locks(folder: Path, count: int, random: np.random.Generator) -> dict[str, Any]:
    wrong = Counter[str]()
    for _ in range(count):
        said = sorted(in_pair(lock_at, (folder / "run" / ".lock",), (folder / "run" / ".lock",)))
        wrong["alien"] += not (said[0] == "got it" and said[1].startswith("the run is in use by another command"))
        wrong["left_over"] += (folder / "run").exists()
    return row(wrong, pairs=count)


def loads(folder: Path, count: int, random: np.random.Generator) -> dict[str, Any]:
    path, over = folder / "thing", FORKS.Value("q", 0)
    save(path, 0)
    writer = FORKS.Process(target=save_for_ever, args=(path, 1, over))
    writer.start()
    wrong, seen = Counter[str](), set()
    try:
        while not over.value:
            time.sleep(0.01)
        for _ in range(count):
            time.sleep(random.uniform(0, 0.03))  # or all loads would be over after a few saves
            before = over.value
            try:
                number = number_of(path)
                seen.add(number)
                wrong["silent"] += number < before
            except (ValueError, OSError) as error:
                say(f"loads: {error}")
                wrong["alien"] += 1
    finally:
        writer.kill()
        writer.join()
    return row(wrong, loads=count, saves_meanwhile=over.value, different=len(seen))


def writers(folder: Path, count: int, random: np.random.Generator) -> dict[str, Any]:
    path, wrong, first = folder / "thing", Counter[str](), 1
    for _ in range(count):
        over = FORKS.Value("q", first - 1)
        writer = FORKS.Process(target=save_for_ever, args=(path, first, over))
        writer.start()
        while over.value < first:  # the process has started
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.05))
        writer.kill()
        writer.join()
        wrong["silent"] += number_of(path) < over.value
        first = number_of(path) + 2
    save(path, first)  # sweeps what the last one left
    wrong["left_over"] += left_over(folder)
    return row(wrong, kills=count, saves=first)
