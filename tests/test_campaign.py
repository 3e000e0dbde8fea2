"""A part of `make fuzz`, and what tells its outcomes apart."""

import shutil
import signal
from collections import Counter

import numpy as np
import pytest
from campaign import comparing, damages, fuzz, outcomes
from campaign.kills import Hit, plan
from campaign.things import THINGS

from ldpol import storage
from ldpol.errors import UserError


def test_a_part_of_the_fuzz_campaign():
    """Seed 1: not the cases that the campaign itself runs."""
    found = fuzz.run(THINGS, 120, seed=1, say=lambda text: None)
    assert found["bad"] == []
    totals = fuzz.totals(found["counts"])
    assert sum(sum(row.values()) for rows in totals.values() for row in rows.values()) == 120
    assert all(row["refused"] >= 0.5 * sum(row.values()) for row in totals["accident"].values())


def reads(value):
    """A thing whose reading gives a value, or raises it."""

    def read(folder):
        if isinstance(value, BaseException):
            raise value
        return value() if callable(value) else value

    return fuzz.Thing("thing", lambda folder: None, read, 1.0)


def for_ever():
    while True:
        pass


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        ({"a": np.ones(2)}, "same"),
        ({"a": np.array([1.0, 2.0])}, "other"),
        ({"a": np.ones(2, np.float32)}, "other"),
        ({"a": np.array([1.0, np.nan])}, "unsound"),
        ({"b": np.ones(2)}, "other"),
        (UserError("FOLDER/file is damaged"), "refused"),
        (OSError("could not read FOLDER/file"), "refused"),
        (UserError("it is damaged"), "unnamed"),
        (ValueError("FOLDER/file: axis 1 is out of bounds"), "alien"),
        (UserError("FOLDER/file:\nmany lines"), "alien"),
        (KeyError("x"), "alien"),
        (for_ever, "hang"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_outcomes(tmp_path, value, outcome):
    if isinstance(value, Exception):
        value = type(value)(str(value.args[0]).replace("FOLDER", str(tmp_path)))
    assert fuzz.judge(reads(value), tmp_path, {"a": np.ones(2)}, limit=0.2)[0] == outcome


@pytest.mark.parametrize("damage", damages.ACCIDENTS + damages.FORGERIES, ids=lambda damage: damage.__name__)
def test_every_damage_changes_something(tmp_path, damage):
    """In one of ten tries: a random bit may hit the byte it was, a swap the same block."""
    storage.save(tmp_path / "whole" / "thing", {"a": np.arange(300.0), "b": np.ones((2, 3), np.float32)}, kind="thing")
    storage.write_json(tmp_path / "whole" / "other.json", {"n": 1})
    before = seen(tmp_path / "whole")
    for seed in range(10):
        copy = shutil.copytree(tmp_path / "whole", tmp_path / "copy")
        damage(copy / "thing", np.random.default_rng(seed))
        after = seen(copy)
        shutil.rmtree(copy)
        if after != before:
            return
    raise AssertionError(f"{damage.__name__} does nothing")


def seen(folder):
    """What lies in a folder; of each file the beginning."""
    found = {}
    for path in folder.iterdir():
        found[path.name] = path.is_symlink(), path.is_dir()
        if path.is_file():
            with path.open("rb") as stream:
                found[path.name] = path.stat().st_size, stream.read(10_000)
    return found


def test_hits_are_spread_by_the_time_that_stages_take():
    """Equal shares of 100 s: by hand, 1, 7 and 12 of the 20 hits; two signals need a command that has started."""
    seconds = {"archive": 5.0, "train": 35.0, "evaluate": 60.0}
    rounds = plan(seconds, 16, 2, 4.0, np.random.default_rng(0))
    hits = [hit for own in rounds for hit in own]
    assert Counter(hit.stage for hit in hits) == {"archive": 1, "train": 7, "evaluate": 12}
    assert Counter(hit.signal for hit in hits) == {signal.SIGKILL: 16, signal.SIGTERM: 2, signal.SIGINT: 2}
    assert all(1 <= len(own) <= 4 and len({hit.stage for hit in own}) == 1 for own in rounds)
    assert all(own == sorted(own, key=lambda hit: hit.second) for own in rounds)
    assert all(0 <= hit.second < seconds[hit.stage] for hit in hits)
    assert all(hit.second >= 4.0 for hit in hits if hit.signal != signal.SIGKILL)
    starts, places = {"archive": 0.0, "train": 5.0, "evaluate": 40.0}, []
    for hit in plan(seconds, 20, 0, 4.0, np.random.default_rng(1)):
        places += [starts[one.stage] + one.second for one in hit]
    assert [int(place // 5) for place in sorted(places)] == list(range(20))


def test_a_hit_that_comes_too_late_comes_earlier():
    assert Hit("train", 30.0, signal.SIGKILL).earlier(0.1, 4.0) == Hit("train", 3.0, signal.SIGKILL)
    assert Hit("train", 30.0, signal.SIGINT).earlier(0.1, 4.0) == Hit("train", 4.0, signal.SIGINT)


def test_how_a_command_ended():
    assert outcomes.one_line(2, "\ntrain: runs/x is in use\n", "in use")
    assert not outcomes.one_line(0, "\ntrain: runs/x is in use\n", "in use")
    assert not outcomes.one_line(2, "Traceback (most recent call last):\nValueError: in use", "in use")
    assert not outcomes.one_line(2, "train: no such file", "in use")
    assert not outcomes.one_line(2, "", "in use")
    wrong = outcomes.outcome("", right=True) + outcomes.outcome("x", right=False)
    wrong += outcomes.outcome(outcomes.HANG, right=False)
    assert outcomes.row(wrong, kills=3) == {"kills": 3, "silent": 0, "alien": 1, "hangs": 1, "left_over": 0, "bad": 2}


def test_what_a_stage_left_is_compared_to_the_bit(tmp_path):
    def make(folder, number=1.0, seconds=1.0, name="numbers"):
        storage.save(folder / "train" / name, {"x": np.array([0.5, number])}, kind="result", about={"seconds": seconds})
        storage.write_json(folder / "train" / "metrics.json", {"loss": float("nan"), "seconds": seconds})
        np.savez(folder / "train" / "arrays.npz", x=np.array([number]))
        (folder / "train" / "tensorboard").mkdir()
        (folder / "train" / "tensorboard" / "events").write_text(str(seconds))
        return comparing.contents(folder, ("train",))

    one = make(tmp_path / "one")
    assert set(one) == {"train/numbers", "train/metrics.json", "train/arrays.npz"}
    assert comparing.equal(one, make(tmp_path / "later", seconds=2.0))
    other = make(tmp_path / "other", number=np.nextafter(1.0, 2.0))
    assert [name for name in sorted(one) if not comparing.equal(one[name], other[name])] == [
        "train/arrays.npz",
        "train/numbers",
    ]
    assert not comparing.equal(one, make(tmp_path / "more", name="others"))


EVERY = ("pairs", "locks", "loads", "writers", "two", "full", "read_only", "clock", "kills")


def test_the_campaigns_came_out_as_they_must():
    """What the committed results say; a campaign that failed would be committed with its failures."""
    found = storage.read_json(fuzz.ROOT / "results" / "fuzz.json")
    assert sum(count for rows in found["counts"].values() for row in rows.values() for count in row.values()) == 1000
    assert found["bad"] == []
    scenarios = storage.read_json(fuzz.ROOT / "results" / "chaos.json")["scenarios"]
    assert {name: row["bad"] for name, row in scenarios.items()} == dict.fromkeys(EVERY, 0)
    assert scenarios["kills"]["hits"]["SIGKILL"] == 20 and scenarios["pairs"]["pairs"] == 40
