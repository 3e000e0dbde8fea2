"""JSON files with a checksum of their content."""

import hashlib
import json
from pathlib import Path
from typing import Any

from ldpol.errors import MissingFile, UserError
from ldpol.storage.files import explained, write_bytes

LARGEST = 2**28
"""Bytes of the largest JSON file that is read."""


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file with a checksum, so that a reader sees the old file or the new one, never half of it.

    Args:
      path: the file.
      value: a dict, which gets one more key, `sha256`; a list becomes the only other value of such a dict, `list`.

    Raises:
      OSError: if it cannot be written.
    """
    content = value if isinstance(value, dict) else {"list": value}
    text = json.dumps(content | {"sha256": _checksum(content)}, indent=1)
    write_bytes(path, (text + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file that `write_json` wrote.

    Raises:
      FileNotFoundError: if it is missing.
      ValueError: if it is damaged, has no checksum, or is no such file.
      OSError: if it cannot be read.
    """
    damaged = f"{path} is damaged or was changed; delete it and run its stage again"
    with explained("read", path):
        if not path.exists():
            raise MissingFile(f"{path} is missing; run the stage that writes it")
        if not path.is_file() or path.stat().st_size > LARGEST:
            raise UserError(damaged)
        text = path.read_bytes()
    content = parse(text, damaged)
    if not isinstance(content, dict) or content.pop("sha256", None) != _checksum(content):
        raise UserError(damaged)
    return content["list"] if set(content) == {"list"} else content


def parse(text: str | bytes, damaged: str) -> Any:
    """Return what JSON of unknown origin says; `ValueError(damaged)` if it is none, or nested too deep to be ours."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(damaged) from error


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
