"""Storage: round trips, every kind of damage, interrupted writes, and two processes at once, no code run by loading."""

import contextlib
import hashlib
import io
import json
import os
import pickle
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors

from ldpol import storage
from ldpol.storage import locks
from ldpol.storage.files import make_folder, take

TREE = {
    "weights": {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.float32(0.1) * np.ones(5, np.float32)},
    "counts": np.array([1, -2, 3], np.int32),
    "mask": np.array([True, False]),
    "half": np.array([1.5, -0.25], jnp.bfloat16),
}
ABOUT = {"task": "toy", "numbers": [1, 2.5, None], "nested": {"deep": "ünïcode"}}


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert np.asarray(left).dtype == np.asarray(right).dtype
        np.testing.assert_array_equal(np.asarray(left), np.asarray(right))


def save(path, number, kind="thing"):
    """What can be told apart: a thing whose arrays and description hold one number."""
    storage.save(path, {"a": np.full(3, number), "b": {"c": np.full((2, 2), number)}}, kind=kind, about={"n": number})


def number_of(path):
    tree, about = storage.load(path, kind="thing")
    (number,) = {about["n"], *tree["a"].tolist(), *tree["b"]["c"].ravel().tolist()}
    return number


@pytest.fixture
def written(tmp_path):
    storage.save(tmp_path / "thing", TREE, kind="thing", about=ABOUT)
    return tmp_path / "thing"


def hurt(path, place, mask):
    content = bytearray(path.read_bytes())
    content[place] ^= mask
    path.write_bytes(content)


def test_round_trip_with_dtypes_and_description(written):
    tree, about = storage.load(written, kind="thing")
    same(tree, TREE)
    assert about == ABOUT
    assert storage.exists(written)
    tree["counts"][0] = 7  # the reader's own arrays


def test_any_tool_reads_the_file(written):
    """The format is safetensors; its metadata say what is inside, with versions."""
    with safetensors.safe_open(written, framework="np") as file:
        np.testing.assert_array_equal(file.get_tensor("weights.a"), TREE["weights"]["a"])
        np.testing.assert_array_equal(file.get_tensor("half").astype(np.float32), [1.5, -0.25])
        said = json.loads(file.metadata()["ldpol"])
    assert (said["kind"], said["about"], said["versions"]["jax"]) == ("thing", ABOUT, jax.__version__)


def test_memory_order_empty_arrays_and_scalars(tmp_path):
    tree = {"t": np.arange(6).reshape(2, 3).T, "s": np.arange(10)[::3], "e": np.zeros((0, 3)), "x": jnp.float32(2)}
    storage.save(tmp_path / "thing", tree, kind="thing")
    same(storage.load(tmp_path / "thing", kind="thing")[0], tree)


def test_the_same_content_is_the_same_bytes(tmp_path):
    first = storage.pack(TREE, kind="thing", about=ABOUT)
    assert storage.pack(dict(reversed(TREE.items())), kind="thing", about=ABOUT) == first
    assert storage.nbytes(TREE, kind="thing", about=ABOUT) == len(first)
    code = "import sys, test_storage as t; sys.stdout.buffer.write(t.storage.pack(t.TREE, kind='thing', about=t.ABOUT))"
    other = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, check=True)
    assert other.stdout == first


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"a.b": np.ones(2)}, "'a.b'"),
        ({"a": np.array(["text"])}, "'a' of type <U4"),
        ({"a": np.array([object()])}, "of type object"),
    ],
)
def test_what_cannot_be_kept_is_refused(tmp_path, tree, said):
    with pytest.raises((ValueError, TypeError), match=said):
        storage.save(tmp_path / "thing", tree, kind="thing")
    assert os.listdir(tmp_path) == []


def test_save_replaces_and_leaves_nothing_beside(tmp_path):
    save(tmp_path / "deep" / "thing", 1)
    storage.save(tmp_path / "deep" / "thing", {"b": np.zeros(3)}, kind="other", about={"n": 1})
    tree, about = storage.load(tmp_path / "deep" / "thing", kind="other")
    same(tree, {"b": np.zeros(3)})
    assert about == {"n": 1}
    assert os.listdir(tmp_path / "deep") == ["thing"]


def test_state_round_trip_with_typed_keys_and_optimiser(tmp_path):
    params = {"w": jnp.arange(3.0)}
    state = (params, optax.adam(1e-3).init(params), jax.random.key(7), jax.random.split(jax.random.key(1, impl="rbg")))
    storage.save_state(tmp_path / "s", state, kind="state", about={"step": 4})
    like = jax.tree.map(
        lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else jnp.zeros_like(leaf), state
    )
    like = (*like[:2], jax.random.key(0), like[3])
    back, about = storage.load_state(tmp_path / "s", like, kind="state")
    assert about == {"step": 4}
    assert jax.tree.structure(back) == jax.tree.structure(state)
    same(back[:2], state[:2])
    for new, old in zip(back[2:], state[2:], strict=True):
        assert new.dtype == old.dtype
        np.testing.assert_array_equal(jax.random.key_data(new), jax.random.key_data(old))
    assert jax.random.bits(back[2]) == jax.random.bits(jax.random.key(7))


def test_leaves_keep_their_order_beyond_ten(tmp_path):
    state = [np.full(1, i, np.int32) for i in range(23)]
    storage.save_state(tmp_path / "s", state, kind="state")
    back, _ = storage.load_state(tmp_path / "s", [jnp.zeros(1, jnp.int32)] * 23, kind="state")
    assert [int(leaf[0]) for leaf in back] == list(range(23))


@pytest.mark.parametrize(
    "like",
    [
        [jnp.zeros(3), jnp.zeros(2, jnp.int32)],
        [jnp.zeros(2)],
        [jnp.zeros(2), jnp.zeros(2)],
        [jnp.zeros(2), jnp.zeros(2, jnp.int32), jnp.zeros(())],
    ],
    ids=["shape", "fewer", "dtype", "more"],
)
def test_state_of_other_settings(tmp_path, like):
    storage.save_state(tmp_path / "s", [jnp.ones(2), jnp.ones(2, jnp.int32)], kind="state")
    with pytest.raises(ValueError, match=r"does not fit these settings: (it holds|\[\d\] is)"):
        storage.load_state(tmp_path / "s", like, kind="state")


def test_what_a_state_says_is_checked_before_its_shapes(tmp_path):
    """The settings by name say more than the shape of an array."""

    def check(about):
        raise ValueError(f"cells: {about['cells']} -> 121")

    storage.save_state(tmp_path / "s", [jnp.ones(100)], kind="state", about={"cells": 100})
    with pytest.raises(ValueError, match="^cells: 100 -> 121"):
        storage.load_state(tmp_path / "s", [jnp.zeros(121)], kind="state", check=check)


def test_no_flipped_bit_goes_unnoticed(written):
    whole = written.read_bytes()
    for place in [*range(0, 700, 13), *range(700, len(whole), 101), len(whole) - 1]:
        hurt(written, place, 1 << place % 8)
        with pytest.raises(ValueError, match=f"{written} is (damaged|not a file of this version)"):
            storage.load(written, kind="thing")
        written.write_bytes(whole)
    same(storage.load(written, kind="thing")[0], TREE)


def test_no_missing_or_added_byte_goes_unnoticed(written):
    whole = written.read_bytes()
    for part in (*(whole[:end] for end in (0, 1, 8, 30, 60, 120, 400, len(whole) - 1)), whole + b"\0", whole[1:]):
        written.write_bytes(part)
        with pytest.raises(ValueError, match=f"{written} is (damaged|not a file of this version)"):
            storage.load(written, kind="thing")


def forged(content, change):
    """The file with another description and a checksum that is right again."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    said = json.loads(header["__metadata__"]["ldpol"])
    change(said, header)
    header["__metadata__"] = {"ldpol": json.dumps(said | {"sha256": "0" * 64}, separators=(",", ":"))}
    text = json.dumps(header, separators=(",", ":")).encode()
    made = bytearray(len(text).to_bytes(8, "little") + text + content[8 + length :])
    place = made.index(b"0" * 64)
    made[place : place + 64] = hashlib.sha256(made).hexdigest().encode()
    return made


@pytest.mark.parametrize(
    "change",
    [
        lambda said, header: said.pop("kind"),
        lambda said, header: said.pop("format"),
        lambda said, header: said.update(about=[1]),
        lambda said, header: header["counts"].update(dtype="I16"),
        lambda said, header: header["counts"].update(shape=[-3]),
        lambda said, header: header["counts"].update(data_offsets=[0, 10**12]),
        lambda said, header: header["counts"].update(data_offsets="none"),
        lambda said, header: header.update({"weights": header.pop("mask")}),
        lambda said, header: header.update({"weights": 3}),
    ],
)
def test_forged_headers_are_refused(written, change):
    content = written.read_bytes()
    written.write_bytes(forged(content, lambda said, header: None))
    same(storage.load(written, kind="thing")[0], TREE)  # the forger does it right
    written.write_bytes(forged(content, change))
    with pytest.raises(ValueError, match=f"{written} is damaged"):
        storage.load(written, kind="thing")


def test_a_missing_checksum_is_refused(written):
    written.write_bytes(written.read_bytes().replace(b"sha256", b"md5sum"))
    with pytest.raises(ValueError, match="is not a file of this version of ldpol"):
        storage.load(written, kind="thing")


def test_nesting_without_end_is_damage(written, tmp_path):
    deep = b'{"__metadata__":{"ldpol":"{\\"sha256\\":\\"' + b"[" * 200_000
    written.write_bytes(len(deep).to_bytes(8, "little") + deep)
    with pytest.raises(ValueError, match="is damaged"):
        storage.load(written, kind="thing")
    (tmp_path / "deep.json").write_bytes(b"[" * 200_000)
    with pytest.raises(ValueError, match=r"deep\.json is damaged"):
        storage.read_json(tmp_path / "deep.json")


def test_sparse_files_are_refused_without_reading_them(written, tmp_path):
    """5 TB each: reading, or even hashing them, would end the test."""
    os.truncate(written, 5 * 10**12)
    (tmp_path / "hole").touch()
    os.truncate(tmp_path / "hole", 5 * 10**12)
    for path in (written, tmp_path / "hole"):
        with pytest.raises(ValueError, match=f"{path} is (damaged|not a file)"):
            storage.load(path, kind="thing")
        with pytest.raises(ValueError, match=f"{path} is damaged"):
            storage.read_json(path)


def test_nothing_there_and_foreign_things(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a saved thing at .*nowhere, found nothing"):
        storage.load(tmp_path / "nowhere", kind="thing")
    with pytest.raises(FileNotFoundError, match="nothing is saved at"):
        storage.fingerprint(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for a writer for ever
    for path, what in ((tmp_path, "a folder"), (tmp_path / "pipe", "not an ordinary file")):
        for read in (storage.exists, storage.fingerprint, lambda path: storage.load(path, kind="thing")):
            with pytest.raises(ValueError, match=f"{path} is {what}, expected a file that ldpol wrote"):
                read(path)
    (tmp_path / "notes.txt").write_text("mine " * 100)
    with pytest.raises(ValueError, match="is not a file of this version of ldpol"):
        storage.load(tmp_path / "notes.txt", kind="thing")


def test_wrong_kind_and_unknown_format(written):
    with pytest.raises(ValueError, match="holds a saved thing, expected a archive"):
        storage.load(written, kind="archive")
    written.write_bytes(forged(written.read_bytes(), lambda said, header: said.update(format=99)))
    with pytest.raises(ValueError, match="has format 99; this ldpol reads format"):
        storage.load(written, kind="thing")


def test_fingerprint_is_of_the_content(tmp_path):
    storage.save(tmp_path / "a", TREE, kind="thing", about=ABOUT)
    storage.save(tmp_path / "b", TREE, kind="thing", about=ABOUT)
    storage.save(tmp_path / "c", TREE | {"counts": np.array([1, -2, 4], np.int32)}, kind="thing", about=ABOUT)
    storage.save(tmp_path / "d", TREE, kind="thing", about=ABOUT | {"task": "other"})
    a, b, c, d = (storage.fingerprint(tmp_path / name) for name in "abcd")
    assert a == b
    assert len({a, c, d}) == 3


class Crash(BaseException):
    """Like the kill of a process: nothing in `storage` may catch it and go on."""


@pytest.mark.parametrize("when", ["write", "fsync", "replace"])
@pytest.mark.parametrize("error", [Crash(), OSError(28, "No space left on device")])
def test_a_write_that_fails_anywhere_leaves_the_old(tmp_path, monkeypatch, when, error):
    path = tmp_path / "thing"
    save(path, 1)

    def fail(*arguments):
        raise error

    class Full(io.FileIO):
        write = fail

    with monkeypatch.context() as patch:
        if when == "write":
            patch.setattr(os, "fdopen", lambda handle, mode: Full(handle, mode))
        else:
            patch.setattr(os, when, fail)
        said = "^could not write .*thing: No space left on device; free some space" if error.args else None
        with pytest.raises(type(error), match=said):
            save(path, 2)
    assert number_of(path) == 1
    assert os.listdir(tmp_path) == ["thing"]
    save(path, 3)
    assert number_of(path) == 3


def test_a_first_write_that_fails_leaves_no_folder(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        save(tmp_path / "new" / "deep" / "thing", 1)
    assert os.listdir(tmp_path) == []


def test_what_a_killed_writer_left_is_removed_and_a_live_one_left_alone(tmp_path):
    (tmp_path / ".thing.0123abcd.partial").write_text("half")
    (tmp_path / ".other.0123abcd.partial").write_text("half")
    alive = tmp_path / ".thing.89abcdef.partial"
    with alive.open("w") as stream:
        assert take(stream.fileno())
        save(tmp_path / "thing", 1)
        assert sorted(os.listdir(tmp_path)) == [".other.0123abcd.partial", ".thing.89abcdef.partial", "thing"]
    save(tmp_path / "thing", 2)
    assert sorted(os.listdir(tmp_path)) == [".other.0123abcd.partial", "thing"]


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_writers_and_readers_of_one_path_never_mix(tmp_path):
    """Files know nothing of threads, so threads do what processes would; processes are in the campaign."""
    path, seen = tmp_path / "thing", []
    save(path, 0)
    writers = [threading.Thread(target=lambda n=n: [save(path, 100 * n + i) for i in range(15)]) for n in (1, 2, 3)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        seen.append(number_of(path))
    for writer in writers:
        writer.join()
    assert len(set(seen)) > 1
    assert number_of(path) in {114, 214, 314}
    assert os.listdir(tmp_path) == ["thing"]


def test_a_path_that_is_no_file_is_not_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    os.symlink("/dev/null", tmp_path / "null")
    for write in (lambda path: save(path, 1), storage.check_writable, lambda path: storage.write_json(path, {})):
        for name, said in (
            ("folder", "it is a folder; choose another name"),
            ("pipe", "it is not an ordinary file; choose another name"),
            ("null", "it is not an ordinary file; choose another name"),
            ("file/deep/thing", "choose another place"),
            ("x" * 300, "File name too long"),
        ):
            with pytest.raises(OSError, match=f"^could not write {tmp_path / name}: .*{said}"):
                write(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder", "null", "pipe"]
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)


def test_a_folder_that_is_not_writable(tmp_path, monkeypatch):
    """As root, everything is: then the system's answer is made up."""
    (tmp_path / "locked").mkdir(mode=0o555)
    if os.access(tmp_path / "locked", os.W_OK):

        def refuse(path, *arguments, opened=os.open):
            if "locked" in str(path):
                raise PermissionError(13, "Permission denied", str(path))
            return opened(path, *arguments)

        monkeypatch.setattr(os, "open", refuse)
    for write in (lambda path: save(path, 1), storage.check_writable):
        with pytest.raises(
            PermissionError, match="^could not write .*thing: Permission denied.*change its permissions$"
        ):
            write(tmp_path / "locked" / "thing")
    with storage.lock(tmp_path / "locked" / ".lock", "the folder"):
        pass  # nothing to keep others from
    assert os.listdir(tmp_path / "locked") == []


@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_what_may_not_be_read(tmp_path, monkeypatch, folder):
    """As root, everything may be: so the system's answer is made up, to opening or already to looking."""
    path = tmp_path / "thing"
    storage.write_json(path, {"n": 1})

    def refuse(self, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "exists" if folder else "open", refuse)
    reads = [lambda path: storage.load(path, kind="thing"), storage.fingerprint, storage.read_json]
    for read in reads if folder else [*reads, storage.digest]:
        with pytest.raises(PermissionError, match=f"^could not read {path}: Permission denied; choose another place"):
            read(path)


def test_a_save_that_fails_lets_its_process_end(tmp_path):
    """No thread is left that waits for something."""
    (tmp_path / "file").write_text("mine")
    code = "import sys, numpy, ldpol.storage as s; s.save(sys.argv[1], {'a': numpy.ones(3)}, kind='thing')"
    line = [sys.executable, "-c", code, str(tmp_path / "file" / "thing")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    said = f"NotADirectoryError: could not write {tmp_path / 'file' / 'thing'}: it is a file, expected a folder"
    assert done.stderr.splitlines()[-1].startswith(said)


def test_a_check_leaves_nothing_and_changes_nothing(tmp_path):
    storage.check_writable(tmp_path / "a" / "b" / "thing")
    assert os.listdir(tmp_path) == []
    save(tmp_path / "thing", 1)
    storage.check_writable(tmp_path / "thing")
    assert number_of(tmp_path / "thing") == 1 and os.listdir(tmp_path) == ["thing"]


def test_modes_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        save(tmp_path / "thing", 1)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "thing").stat().st_mode) == 0o640


def test_no_link_is_followed(tmp_path, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda count: next(names))
    names = iter(["aaaa", "bbbb"])
    (tmp_path / "mine").write_text("mine")
    os.symlink(tmp_path / "mine", tmp_path / ".thing.aaaa.partial")
    monkeypatch.setattr("ldpol.storage.files._sweep", lambda path: None)
    with pytest.raises(FileExistsError, match="could not write"):
        save(tmp_path / "thing", 1)
    assert (tmp_path / "mine").read_text() == "mine"


def test_one_lock_one_holder(tmp_path):
    file = tmp_path / "deep" / "run" / ".lock"
    with storage.lock(file, "the run"):
        with pytest.raises(OSError, match=rf"^the run is in use by another command \(process {os.getpid()}\); wait"):
            with storage.lock(file, "the run"):
                raise AssertionError
        assert file.exists()
    assert os.listdir(tmp_path) == []  # nothing was written
    with storage.lock(file, "the run"):
        (file.parent / "result").write_text("mine")
    assert os.listdir(file.parent) == ["result"]


def test_a_lock_in_what_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "deep"):
        with pytest.raises(NotADirectoryError, match=f"could not work in {place}: it is a file, expected a folder"):
            with storage.lock(place / ".lock", "the run"):
                raise AssertionError


def test_a_folder_that_cannot_be_made_leaves_none_of_those_above(tmp_path, monkeypatch):
    def refuse(path, *arguments, made=Path.mkdir, **options):
        if path.name == "run":
            raise PermissionError(13, "Permission denied", str(path))
        made(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    place = tmp_path / "new" / "deep" / "run"
    with pytest.raises(PermissionError, match=f"^could not work in {place}: Permission denied; choose another place"):
        with storage.lock(place / ".lock", "the run"):
            raise AssertionError
    with pytest.raises(PermissionError, match=f"^could not write {place}/thing: Permission denied"):
        storage.check_writable(place / "thing")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
def test_a_folder_that_nobody_can_make():
    """In /proc the system says "no such file" of what is to be made, for ever."""
    with pytest.raises(FileNotFoundError, match="^could not work in /proc/ldpol/run: No such file or directory"):
        with storage.lock(Path("/proc/ldpol/run/.lock"), "the run"):
            raise AssertionError


def test_no_room_for_a_lock(tmp_path, monkeypatch):
    def full(path, *arguments, opened=os.open):
        if str(path).endswith(".lock"):
            raise OSError(28, "No space left on device", str(path))
        return opened(path, *arguments)

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OSError, match=f"^could not work in {tmp_path}/new/run: No space left on device.*free some"):
        with storage.lock(tmp_path / "new" / "run" / ".lock", "the run"):
            raise AssertionError
    assert os.listdir(tmp_path) == []


def test_a_lock_follows_no_link(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match=f"^could not work in {tmp_path}: "):
        with storage.lock(tmp_path / ".lock", "the run"):
            raise AssertionError
    assert (tmp_path / "mine").read_text() == "mine"


def test_no_lock_on_a_file_system_that_knows_none(tmp_path, monkeypatch):
    def unknown(handle):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("ldpol.storage.locks.take", unknown)
    with storage.lock(tmp_path / "run" / ".lock", "the run"):
        with storage.lock(tmp_path / "run" / ".lock", "the run"):
            pass
    assert os.listdir(tmp_path) == []


def held(file):
    """A lock that somebody else holds; closing the stack is the end of that command."""
    stack = contextlib.ExitStack()
    stack.enter_context(storage.lock(file, "theirs"))
    return stack


def once(monkeypatch, name, first):
    """Let a function of the locks do something else when it is called for the first time."""
    real, calls = getattr(locks, name), iter([first])
    monkeypatch.setattr(locks, name, lambda *arguments: next(calls, real)(*arguments))


def refused(file):
    with pytest.raises(BlockingIOError, match="the run is in use by another command"):
        with storage.lock(file, "the run"):
            raise AssertionError


def test_a_lock_file_that_is_removed_between_opening_and_locking(tmp_path, monkeypatch):
    """Its holder ends just then: a lock on what has no name any more would keep nobody out."""
    file = tmp_path / "run" / ".lock"
    holder = held(file)

    def end_first(handle):
        holder.close()
        return take(handle)

    once(monkeypatch, "take", end_first)
    with storage.lock(file, "the run"):
        assert file.exists()
        refused(file)
    assert os.listdir(tmp_path) == []


def test_a_lock_file_that_another_one_replaces_between_opening_and_locking(tmp_path, monkeypatch):
    """Its holder ends, and the next command makes a new file and locks that."""
    file = tmp_path / "run" / ".lock"
    stack = held(file)

    def change_holders(handle):
        stack.close()
        stack.enter_context(storage.lock(file, "theirs"))
        return take(handle)

    once(monkeypatch, "take", change_holders)
    refused(file)
    assert file.exists()
    stack.close()
    assert os.listdir(tmp_path) == []


def test_a_holder_that_ends_while_another_command_is_being_refused(tmp_path, monkeypatch):
    holder = held(tmp_path / ".lock")

    def end_after(handle):
        assert not take(handle)
        holder.close()
        return False

    once(monkeypatch, "take", end_after)
    with storage.lock(tmp_path / ".lock", "the run"):
        refused(tmp_path / ".lock")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_removed_before_the_lock_file_is_made(tmp_path, monkeypatch):
    """The command that made it ends just then, and wrote nothing."""
    file = tmp_path / "deep" / "run" / ".lock"
    holder = held(file)

    def vanishing(folder):
        made = make_folder(folder)
        holder.close()
        return made

    once(monkeypatch, "make_folder", vanishing)
    with storage.lock(file, "the run"):
        refused(file)
    assert os.listdir(tmp_path) == []


def test_a_lock_file_that_the_user_removed(tmp_path):
    """The command that held it does not take away that of the next one."""
    first = held(tmp_path / ".lock")
    (tmp_path / ".lock").unlink()
    second = held(tmp_path / ".lock")
    first.close()
    refused(tmp_path / ".lock")
    second.close()
    assert os.listdir(tmp_path) == []


def test_folders_of_a_refused_command_are_removed_by_the_one_that_was_faster(tmp_path, monkeypatch):
    """One makes the folders, another one locks first: neither would remove what is not its own."""
    file, stack = tmp_path / "deep" / "run" / ".lock", contextlib.ExitStack()

    def too_late(folder):
        made = make_folder(folder)
        stack.enter_context(storage.lock(file, "theirs"))
        return made

    once(monkeypatch, "make_folder", too_late)
    refused(file)
    assert os.listdir(file.parent) == [".lock"]
    stack.close()
    assert os.listdir(tmp_path) == []


def test_a_lock_ends_with_its_process(tmp_path):
    code = "import sys, time; from pathlib import Path; from ldpol import storage\n"
    code += "with storage.lock(Path(sys.argv[1]), 'x'):\n  print('held', flush=True)\n  time.sleep(300)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / ".lock")], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"held\n"
            with pytest.raises(OSError, match=rf"in use by another command \(process {process.pid}\)"):
                with storage.lock(tmp_path / ".lock", "the run"):
                    raise AssertionError
        finally:
            process.send_signal(signal.SIGKILL)
    with storage.lock(tmp_path / ".lock", "the run"):
        pass


def test_many_takers_of_one_lock(tmp_path):
    """Never two at once, although each holder removes the file that the next one opens."""
    inside, most, refused = [0], [0], [0]

    def take_often():
        for _ in range(200):
            try:
                with storage.lock(tmp_path / ".lock", "the run"):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    time.sleep(0)
                    inside[0] -= 1
            except BlockingIOError:
                refused[0] += 1

    takers = [threading.Thread(target=take_often) for _ in range(4)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    assert most == [1] and refused[0] < 800
    assert os.listdir(tmp_path) == []


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


def test_loading_never_unpickles(written, tmp_path):
    target = tmp_path / "executed"
    bomb = pickle.dumps(Bomb(target))
    pickle.loads(bomb).close()
    assert target.exists()  # the bomb works
    target.unlink()
    written.write_bytes(bomb)
    with pytest.raises(ValueError, match="is not a file of this version"):
        storage.load(written, kind="thing")
    with pytest.raises(ValueError, match="is damaged"):
        storage.read_json(written)
    assert not target.exists()


@pytest.mark.parametrize("value", [{"n": 1}, {"rows": [1]}, [1, {"a": None}], [], {}, {"x": float("inf"), "ü": "💥"}])
def test_json_comes_back(tmp_path, value):
    storage.write_json(tmp_path / "deep" / "numbers.json", value)
    assert storage.read_json(tmp_path / "deep" / "numbers.json") == value
    with pytest.raises(TypeError):
        storage.write_json(tmp_path / "deep" / "numbers.json", {"n": object()})
    assert storage.read_json(tmp_path / "deep" / "numbers.json") == value
    assert os.listdir(tmp_path / "deep") == ["numbers.json"]


def test_no_change_of_json_goes_unnoticed(tmp_path):
    path = tmp_path / "numbers.json"
    with pytest.raises(FileNotFoundError, match=r"numbers.json is missing; run the stage"):
        storage.read_json(path)
    storage.write_json(path, {"n": 1, "text": "hop"})
    whole = path.read_bytes()
    for place in range(len(whole)):
        hurt(path, place, 1)
        try:
            assert storage.read_json(path) == {"n": 1, "text": "hop"}  # the newline became a tab
        except ValueError as error:
            assert str(error).startswith(f"{path} is damaged or was changed; delete it")
        path.write_bytes(whole)
    for other in (b"[1]", b"{}", b'{"n": 1, "text": "hop"}', whole[:-9], b"", b"\xff\xfe", b"3"):
        path.write_bytes(other)
        with pytest.raises(ValueError, match=r"numbers.json is damaged or was changed"):
            storage.read_json(path)
