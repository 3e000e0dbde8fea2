"""Random keys by name: what a key is for decides it, and nothing else."""

import zlib

import jax

from ldpol.types import Key


def key_for(key: Key, name: str) -> Key:
    """Return the key of a purpose, such as `guidance/diversity`: the name's CRC-32 folded in, the same everywhere."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
