"""A part of `make fuzz`, and what tells its outcomes apart."""

import shutil

import numpy as np
import pytest
from campaign import damages, fuzz
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


def test_the_campaigns_came_out_as_they_must():
    """What the committed results say; a campaign that failed would be committed with its failures."""
    found = storage.read_json(fuzz.ROOT / "results" / "fuzz.json")
    assert sum(count for rows in found["counts"].values() for row in rows.values() for count in row.values()) == 1000
    assert found["bad"] == []
    scenarios = storage.read_json(fuzz.ROOT / "results" / "chaos.json")["scenarios"]
    assert {name: row["bad"] for name, row in scenarios.items() if row["bad"]} == {}
