"""Hurt saved things in many ways and see what reading them does.

    python -m campaign fuzz --out ../results/fuzz.json        (from tests/; `make fuzz`)

Every case copies something whole, damages one file of it at random and reads it. What may come of it:

  refused    one clear line that names the file
  same       what was saved: the damage hit nothing that counts
  other      something else, without a word; for a forgery, whose checksum was made right again, nothing can tell a
             number from another one: then this counts what is sound
  unsound    something that no archive, model or policy can be, without a word
  unnamed    one line that does not name the file
  alien      an error from the depth of a library
  hang       nothing within the limit

Accidents must be refused or leave everything the same. Forgeries must not be unsound, alien or hang.
"""

import argparse
import json
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from campaign import damages
from ldpol.errors import UserError

ROOT = Path(__file__).parents[2]
LIMIT = 45.0
"""Seconds a case may take."""
GOOD = {"accident": ("refused", "same"), "forgery": ("refused", "same", "other")}


class Thing(NamedTuple):
    """Something saved.

    Attributes:
      name: of the kind.
      make: writes it into a folder, at random.
      read: reads it from the folder; a pytree that holds all that matters, or an error.
      share: of the cases.
      forgeable: whether its files carry checksums that can be made right again.
    """

    name: str
    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    share: float
    forgeable: bool = True


class Hang(BaseException):
    """The limit is over."""


def alarm(*_: object) -> None:
    raise Hang


def same(one: Any, other: Any) -> bool:
    if jax.tree.structure(one) != jax.tree.structure(other):
        return False
    pairs = [map(np.asarray, pair) for pair in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)]
    return all(a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs)


def sound(value: Any) -> bool:
    """Whether all numbers are finite and of the type that things are computed in."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(value)]
    return all(leaf.dtype.kind != "f" or bool(np.isfinite(leaf).all()) for leaf in leaves)


def one_line(error: BaseException) -> bool:
    return isinstance(error, UserError | OSError) and "\n" not in str(error)


def judge(thing: Thing, folder: Path, whole: Any, limit: float = LIMIT) -> tuple[str, str]:
    """Read what was damaged; returns what came of it, and the error's text if there was one."""
    signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        found = thing.read(folder)
    except Hang:
        return "hang", ""
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        if not one_line(error):
            return "alien", text
        return ("refused" if str(folder) in str(error) else "unnamed"), text
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if same(found, whole):
        return "same", ""
    return ("other" if sound(found) else "unsound"), ""


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def run(things: tuple[Thing, ...], cases: int, seed: int, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Run the cases; returns the counts and every case that came out as none should."""
    counts: dict[str, dict[str, Counter[str]]] = {}
    bad = []
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        for thing in things:
            whole = Path(temporary) / "whole" / thing.name
            whole.mkdir(parents=True)
            thing.make(whole)
            expected = thing.read(whole)
            for case in range(round(cases * thing.share)):
                random = np.random.default_rng([seed, case])
                forge = thing.forgeable and case % 3 == 2
                kind, choices = ("forgery", damages.FORGERIES) if forge else ("accident", damages.ACCIDENTS)
                damage = choices[(case // 3 if forge else case) % len(choices)]
                folder = Path(temporary) / "hurt" / thing.name
                shutil.copytree(whole, folder)
                files = files_of(folder)
                file = files[random.integers(len(files))]
                damage(file, random)
                outcome, text = judge(thing, folder, expected)
                counts.setdefault(kind, {}).setdefault(damage.__name__, Counter())[f"{thing.name}: {outcome}"] += 1
                if outcome not in GOOD[kind]:
                    name = str(file.relative_to(folder))
                    bad.append(
                        {"thing": thing.name, "case": case, "damage": damage.__name__, "file": name}
                        | {"outcome": outcome, "error": text.replace(str(folder), "FOLDER")[:500]}
                    )
                    say(f"fuzz: {bad[-1]}")
                shutil.rmtree(folder)
            say(f"fuzz: {thing.name}: done after {time.monotonic() - begun:.0f} s")
    return {"counts": counts, "bad": bad, "seconds": round(time.monotonic() - begun, 1)}


def totals(counts: dict[str, dict[str, Counter[str]]]) -> dict[str, dict[str, dict[str, int]]]:
    """Outcomes by kind of damage and thing."""
    found: dict[str, dict[str, Counter[str]]] = {}
    for kind, rows in counts.items():
        for row in rows.values():
            for name, count in row.items():
                thing, _, outcome = name.partition(": ")
                found.setdefault(kind, {}).setdefault(thing, Counter())[outcome] += count
    return {kind: {thing: dict(row) for thing, row in rows.items()} for kind, rows in found.items()}


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign; the exit code is 1 if anything came out as it must not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file for the table")
    options = parser.parse_args(arguments)
    from campaign.things import THINGS
    from ldpol import session, storage

    found = run(THINGS, options.cases, options.seed)
    result = {"cases": options.cases, "limit": LIMIT, "totals": totals(found["counts"])} | found
    print(json.dumps(result["totals"], indent=1))
    if options.out is not None:
        storage.write_json(options.out, result | session.provenance({"cases": options.cases}, options.seed))
    return 1 if found["bad"] else 0
