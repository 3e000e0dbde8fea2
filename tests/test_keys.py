"""Keys by name: stable, apart from each other, and each used for one purpose."""

import re
from pathlib import Path

import jax
import numpy as np

from ldpol.keys import key_for

SOURCE = Path(__file__).parents[1] / "src" / "ldpol"


def test_a_name_gives_the_same_key_everywhere():
    """CRC-32 of the name, computed here bit by bit from its definition."""
    crc = 0xFFFFFFFF
    for byte in b"guidance":
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0xEDB88320 if crc & 1 else 0)
    expected = jax.random.fold_in(jax.random.key(3), crc ^ 0xFFFFFFFF)
    found = key_for(jax.random.key(3), "guidance")
    np.testing.assert_array_equal(jax.random.key_data(found), jax.random.key_data(expected))


def test_names_are_apart():
    names = {
        name
        for path in SOURCE.rglob("*.py")
        for name in re.findall(r'(?:key_for|random|choose|key_of)\([^()"]*"([^"]+)"', path.read_text())
    }
    keys = {tuple(np.asarray(jax.random.key_data(key_for(jax.random.key(0), name)))) for name in names}
    assert len(names) > 20 and len(keys) == len(names)
