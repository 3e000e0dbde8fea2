"""How a command ended, and what a scenario counts."""

from collections import Counter
from pathlib import Path
from typing import Any

WRONG = ("silent", "alien", "hangs", "left_over")
"""What must not happen: other numbers than undisturbed, an end of another kind than expected, none, files beside."""
HANG = "HANG"
"""What a command says that had to be stopped."""


def say(text: str) -> None:
    print(f"chaos: {text}", flush=True)


def outcome(said: str, right: bool) -> Counter[str]:
    """Count how a command ended: as it should, not at all, or otherwise."""
    return Counter({"hangs": int(said == HANG), "alien": int(said != HANG and not right)})


def one_line(code: int, said: str, *words: str) -> bool:
    """Whether a command was refused in one line that holds all the words."""
    lines = [line for line in said.splitlines() if line.strip()]
    return code == 2 and "Traceback" not in said and bool(lines) and all(word in lines[-1] for word in words)


def row(wrong: Counter[str], **facts: Any) -> dict[str, Any]:
    """Return what a scenario found, for the table."""
    return facts | {name: wrong[name] for name in WRONG} | {"bad": wrong.total()}


def left_over(folder: Path) -> int:
    """Count the files of locks and of writers that lie in a folder where nobody works."""
    return sum(path.name.startswith(".") for path in folder.rglob("*"))
