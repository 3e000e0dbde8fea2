"""What is kept on disk: pytrees of arrays, JSON, and the lock of a folder that is being written.

Every file appears whole or not at all, carries a checksum of all of its content, and is refused with one line that
names it where it is damaged, foreign or of another kind. Reading never executes anything.
"""

from ldpol.storage.arrays import (
    exists,
    fingerprint,
    fingerprint_of,
    load,
    load_state,
    nbytes,
    pack,
    save,
    save_state,
    unpack,
    versions,
    write_npz,
)
from ldpol.storage.files import check_writable, digest, explained, write_bytes
from ldpol.storage.locks import lock
from ldpol.storage.records import read_json, write_json

__all__ = [
    "check_writable",
    "digest",
    "exists",
    "explained",
    "fingerprint",
    "fingerprint_of",
    "load",
    "load_state",
    "lock",
    "nbytes",
    "pack",
    "read_json",
    "save",
    "save_state",
    "unpack",
    "versions",
    "write_bytes",
    "write_json",
    "write_npz",
]
