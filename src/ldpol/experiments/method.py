"""Which version of the code measures: what an earlier version measured is measured again."""

import ast
import hashlib
from collections.abc import Sequence
from pathlib import Path

import ldpol

BESIDE = ("experiments", "explore", "report", "sample", "search", "study")
"""Modules that no evaluation imports: they decide nothing of how a finished generator answers and is evaluated."""


def digest(source: Path = Path(ldpol.__file__).parent, beside: Sequence[str] = BESIDE) -> str:
    """Return what changes whenever the code of a package changes, but not with its comments, docstrings and layout.

    Args:
      source: the package.
      beside: modules and packages in it that do not count.
    """
    found = hashlib.sha256()
    for path in sorted(source.rglob("*.py")):
        place = path.relative_to(source).with_suffix("")
        if place.parts[0] not in beside:
            found.update(f"{place.as_posix()}\n{_without_words(path.read_text(encoding='utf-8'))}\n".encode())
    return found.hexdigest()


def _without_words(text: str) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [one for one in body if not _is_text(one)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
