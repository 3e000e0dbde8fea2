"""What can happen to a file, on purpose or not: each of these changes one file, or what lies beside it."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

Random = np.random.Generator
Damage = Callable[[Path, Random], None]
HUGE = 5 * 10**9


def rewrite(file: Path, change: Callable[[bytearray], bytes | bytearray]) -> None:
    file.write_bytes(change(bytearray(file.read_bytes())))


def flip_bit(file: Path, random: Random) -> None:
    def change(content: bytearray) -> bytearray:
        content[random.integers(len(content))] ^= 1 << random.integers(8)
        return content

    rewrite(file, change)


def flip_bit_of_header(file: Path, random: Random) -> None:
    def change(content: bytearray) -> bytearray:
        content[random.integers(min(len(content), 2000))] ^= 1 << random.integers(8)
        return content

    rewrite(file, change)


def noise(file: Path, random: Random) -> None:
    """A block of random bytes somewhere."""

    def change(content: bytearray) -> bytearray:
        start = random.integers(len(content))
        size = min(len(content) - start, int(random.integers(1, 5000)))
        content[start : start + size] = random.bytes(size)
        return content

    rewrite(file, change)


def zeros(file: Path, random: Random) -> None:
    """A block that the disk never wrote."""

    def change(content: bytearray) -> bytearray:
        start = random.integers(len(content)) // 512 * 512
        size = min(len(content) - start, 512 * int(random.integers(1, 9)))
        content[start : start + size] = bytes(size)
        return content

    rewrite(file, change)


def cut(file: Path, random: Random) -> None:
    os.truncate(file, int(random.integers(file.stat().st_size)))


def empty(file: Path, random: Random) -> None:
    os.truncate(file, 0)


def appended(file: Path, random: Random) -> None:
    rewrite(file, lambda content: content + random.bytes(int(random.integers(1, 2000))))


def sparse(file: Path, random: Random) -> None:
    """Five gigabytes, hardly any of which are on the disk; from the end on, or all of them."""
    os.truncate(file, file.stat().st_size if random.integers(2) else 0)
    os.truncate(file, HUGE)


def shifted(file: Path, random: Random) -> None:
    """A few bytes lost in the middle."""

    def change(content: bytearray) -> bytearray:
        start = int(random.integers(len(content)))
        del content[start : start + int(random.integers(1, 9))]
        return content

    rewrite(file, change)


def doubled(file: Path, random: Random) -> None:
    rewrite(file, lambda content: content + content)


def swapped_blocks(file: Path, random: Random) -> None:
    def change(content: bytearray) -> bytearray:
        size = max(len(content) // 8, 1)
        one, two = sorted(int(random.integers(8)) * size for _ in range(2))
        content[one : one + size], content[two : two + size] = content[two : two + size], content[one : one + size]
        return content

    rewrite(file, change)


def as_text(file: Path, random: Random) -> None:
    """Copied as text."""
    text = file.read_bytes().decode("ascii", errors="replace").replace("\n", "\r\n")
    file.write_bytes(text.encode("ascii", errors="replace"))


def other_content(file: Path, random: Random) -> None:
    file.write_bytes(random.bytes(int(random.integers(1, 3000))))


def nested(file: Path, random: Random) -> None:
    """Brackets without end, where a reader of JSON runs into them."""
    deep = b"[" * 200_000
    start = b'{"__metadata__":{"ldpol":"{\\"sha256\\":\\"' if random.integers(2) else b""
    file.write_bytes((len(start + deep).to_bytes(8, "little") if start else b"") + start + deep)


def missing(file: Path, random: Random) -> None:
    file.unlink()


def a_folder(file: Path, random: Random) -> None:
    file.unlink()
    file.mkdir()


def a_pipe(file: Path, random: Random) -> None:
    """Whoever opens it waits."""
    file.unlink()
    os.mkfifo(file)


def a_link_to_nowhere(file: Path, random: Random) -> None:
    file.unlink()
    file.symlink_to(file.with_name("nowhere"))


def a_link_to_itself(file: Path, random: Random) -> None:
    file.unlink()
    file.symlink_to(file)


def a_neighbour(file: Path, random: Random) -> None:
    """Another file of the same run in its place."""
    others = sorted(other for other in file.parent.rglob("*") if other.is_file() and other != file)
    if others:
        shutil.copy(others[random.integers(len(others))], file)


def left_beside(file: Path, random: Random) -> None:
    """What a killed writer leaves, and files that nobody listed."""
    for name in (f".{file.name}.0123abcd.partial", f".{file.name}.lock", "checkpoint", f"{file.name}.bak"):
        file.with_name(name).write_bytes(random.bytes(100))


def no_checksum(file: Path, random: Random) -> None:
    rewrite(file, lambda content: content.replace(b"sha256", b"sha257"))


ACCIDENTS: tuple[Damage, ...] = (
    *(flip_bit, flip_bit_of_header, noise, zeros, cut, empty, appended, sparse, shifted, doubled, swapped_blocks),
    *(as_text, other_content, nested, missing, a_folder, a_pipe, a_link_to_nowhere, a_link_to_itself, a_neighbour),
    *(left_beside, no_checksum),
)


def forged(file: Path, change: Callable[[dict, dict, bytearray], None]) -> None:
    """Change description, tensors' headers or numbers of a file, and make its checksum right again."""
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header, numbers = json.loads(content[8:start]), bytearray(content[start:])
    said = json.loads(header.pop("__metadata__")["ldpol"])
    change(said, header, numbers)
    said = {"sha256": "0" * 64} | {name: value for name, value in said.items() if name != "sha256"}
    whole = {"__metadata__": {"ldpol": json.dumps(said, separators=(",", ":"))}} | header
    text = json.dumps(whole, separators=(",", ":")).encode()
    made = bytearray(len(text).to_bytes(8, "little") + text + numbers)
    place = made.index(b"0" * 64)
    made[place : place + 64] = hashlib.sha256(made).hexdigest().encode()
    file.write_bytes(made)


def places_of(value: object, path: tuple = ()) -> list[tuple]:
    """The path of every value inside nested dicts and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, part in items for place in [(*path, key), *places_of(part, (*path, key))]]


STRANGE = (None, True, -1, 0, 1e308, 10**30, "", "x", "../../etc", [], {}, [1], {"a": 1}, float("nan"))


def other_value(file: Path, random: Random) -> None:
    """Any value of the description becomes another one, often of another type."""

    def change(said: dict, header: dict, numbers: bytearray) -> None:
        *parents, last = (places := places_of(said))[random.integers(len(places))]
        node = said
        for step in parents:
            node = node[step]
        node[last] = STRANGE[random.integers(len(STRANGE))]

    forged(file, change)


def lost_value(file: Path, random: Random) -> None:
    def change(said: dict, header: dict, numbers: bytearray) -> None:
        *parents, last = (places := places_of(said))[random.integers(len(places))]
        node = said
        for step in parents:
            node = node[step]
        del node[last]

    forged(file, change)


def other_numbers(file: Path, random: Random) -> None:
    """Random bits among the numbers; NaN and huge values come up by themselves."""

    def change(said: dict, header: dict, numbers: bytearray) -> None:
        for _ in range(int(random.integers(1, 9))):
            numbers[random.integers(len(numbers))] ^= 1 << random.integers(8)

    forged(file, change)


def nans(file: Path, random: Random) -> None:
    """All bits set, which is NaN in every floating-point type."""

    def change(said: dict, header: dict, numbers: bytearray) -> None:
        names = sorted(header)
        start, end = header[names[random.integers(len(names))]]["data_offsets"]
        numbers[start:end] = b"\xff" * (end - start)

    forged(file, change)


def other_shape(file: Path, random: Random) -> None:
    def change(said: dict, header: dict, numbers: bytearray) -> None:
        names = sorted(header)
        tensor = header[names[random.integers(len(names))]]
        tensor["shape"] = [tensor["shape"][::-1], [*tensor["shape"], 1], [-1], [10**12]][random.integers(4)]

    forged(file, change)


def other_dtype(file: Path, random: Random) -> None:
    def change(said: dict, header: dict, numbers: bytearray) -> None:
        names = sorted(header)
        header[names[random.integers(len(names))]]["dtype"] = ("I32", "U32", "I8", "BF16", "F64", "Q7")[
            random.integers(6)
        ]

    forged(file, change)


def renamed(file: Path, random: Random) -> None:
    def change(said: dict, header: dict, numbers: bytearray) -> None:
        names = sorted(header)
        name = names[random.integers(len(names))]
        header[(name + ".x", "x", name.rsplit(".", 1)[0], "")[random.integers(4)]] = header.pop(name)

    forged(file, change)


def other_offsets(file: Path, random: Random) -> None:
    def change(said: dict, header: dict, numbers: bytearray) -> None:
        names = sorted(header)
        strange = [[0, 10**12], [5, 1], [0, 0], [-8, 8], "x", [0]]
        header[names[random.integers(len(names))]]["data_offsets"] = strange[random.integers(len(strange))]

    forged(file, change)


FORGERIES: tuple[Damage, ...] = (
    *(other_value, lost_value, other_numbers, nans, other_shape, other_dtype, renamed, other_offsets),
)
