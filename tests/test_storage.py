"""Storage: round trips, every kind of damage, interrupted writes, and no code run by loading."""

import json
import os
import pickle
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldpol import storage

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


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "thing"
    storage.save(path, TREE, kind="thing", about=ABOUT)
    return path


@pytest.fixture
def copy(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / "thing"))


def files_of(path):
    return sorted(file for file in path.rglob("*") if file.is_file())


def test_round_trip_with_dtypes_and_description(written):
    tree, about = storage.load(written, kind="thing")
    same(tree, TREE)
    assert about == ABOUT
    assert storage.exists(written)
    manifest = json.loads((written / storage.MANIFEST).read_text())
    assert manifest["versions"]["jax"] == jax.__version__
    listed = {written / name for name in manifest["files"]} | {written / storage.MANIFEST}
    assert listed == set(files_of(written))


def test_save_replaces_and_leaves_nothing_beside(tmp_path):
    storage.save(tmp_path / "deep" / "thing", {"a": np.ones(2)}, kind="thing")
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
    with pytest.raises(ValueError, match="does not fit these settings"):
        storage.load_state(tmp_path / "s", like, kind="state")


def test_a_flipped_bit_in_any_file_is_damage(copy):
    for file in files_of(copy):
        whole = file.read_bytes()
        for place in {0, len(whole) // 3, len(whole) // 2, len(whole) - 1} - ({-1, 0} if not whole else set()):
            hurt = bytearray(whole)
            hurt[place] ^= 1 << (place % 7)
            file.write_bytes(hurt)
            if file.name == storage.MANIFEST and place == len(whole) - 1:
                continue  # the newline after the JSON
            with pytest.raises(ValueError, match="damaged"):
                storage.load(copy, kind="thing")
        file.write_bytes(whole)
    same(storage.load(copy, kind="thing")[0], TREE)


def test_no_flipped_bit_of_the_manifest_goes_unnoticed(copy):
    """Whatever bit is hit, loading fails or gives what was saved; never something else."""
    manifest = copy / storage.MANIFEST
    whole = manifest.read_bytes()
    text = whole.decode()
    for word in ('"toy"', "2.5", '"nested"', '"thing"'):
        place = len(text[: text.index(word) + 1].encode())
        hurt = bytearray(whole)
        hurt[place] ^= 1
        manifest.write_bytes(hurt)
        with pytest.raises(ValueError, match="damaged"):
            storage.load(copy, kind="thing")
    for place in range(0, len(whole), 97):
        hurt = bytearray(whole)
        hurt[place] ^= 2
        manifest.write_bytes(hurt)
        try:
            tree, about = storage.load(copy, kind="thing")
        except ValueError:
            continue
        same(tree, TREE)
        assert about == ABOUT


def test_truncated_or_missing_files_are_damage(copy):
    for file in files_of(copy):
        whole = file.read_bytes()
        if whole:
            file.write_bytes(whole[: len(whole) // 2])
            with pytest.raises(ValueError, match="damaged"):
                storage.load(copy, kind="thing")
        file.unlink()
        if file.name == storage.MANIFEST:
            with pytest.raises(FileNotFoundError, match="unfinished or foreign folder"):
                storage.load(copy, kind="thing")
        else:
            with pytest.raises(ValueError, match="damaged: .* is missing"):
                storage.load(copy, kind="thing")
        file.write_bytes(whole)
    same(storage.load(copy, kind="thing")[0], TREE)


def test_nothing_there_and_a_foreign_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a saved thing at .*nowhere, found nothing"):
        storage.load(tmp_path / "nowhere", kind="thing")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    assert not storage.exists(tmp_path / "foreign")
    with pytest.raises(FileNotFoundError, match="unfinished or foreign folder"):
        storage.load(tmp_path / "foreign", kind="thing")
    with pytest.raises(FileNotFoundError, match="nothing is saved at"):
        storage.fingerprint(tmp_path / "foreign")


@pytest.mark.parametrize("content", ["", "[]", "3", "null", "{}", '{"format": '])
def test_a_manifest_that_is_none_of_ours(copy, content):
    (copy / storage.MANIFEST).write_text(content)
    for read in (lambda: storage.load(copy, kind="thing"), lambda: storage.fingerprint(copy)):
        with pytest.raises(ValueError, match="manifest of .* is damaged"):
            read()


def test_wrong_kind_and_unknown_format(copy, monkeypatch):
    with pytest.raises(ValueError, match="holds a thing, expected a archive"):
        storage.load(copy, kind="archive")
    monkeypatch.setattr(storage, "FORMAT", storage.FORMAT + 1)
    with pytest.raises(ValueError, match=f"has format {storage.FORMAT - 1}; .* reads format {storage.FORMAT}"):
        storage.load(copy, kind="thing")


def test_fingerprint_is_of_the_content(tmp_path):
    storage.save(tmp_path / "a", TREE, kind="thing", about=ABOUT)
    storage.save(tmp_path / "b", TREE, kind="thing", about=ABOUT)
    storage.save(tmp_path / "c", TREE | {"counts": np.array([1, -2, 4], np.int32)}, kind="thing", about=ABOUT)
    storage.save(tmp_path / "d", TREE, kind="thing", about=ABOUT | {"task": "other"})
    a, b, c, d = (storage.fingerprint(tmp_path / name) for name in "abcd")
    assert a == b
    assert len({a, c, d}) == 3


class Crash(BaseException):
    """Like the kill of a process: nothing in `storage` may catch it."""


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_crash_at_any_rename_leaves_the_old_or_the_new(tmp_path, monkeypatch, renames):
    """The replacement moves the old folder aside, then the new one into place; die before each, and after both."""
    path = tmp_path / "thing"
    storage.save(path, {"a": np.zeros(3)}, kind="thing", about={"version": "old"})
    replace, left = os.replace, [renames]

    def dying(source, target):
        if Path(source).is_dir():
            if not left[0]:
                raise Crash
            left[0] -= 1
        replace(source, target)

    def dying_rmtree(folder, ignore_errors=False, rmtree=shutil.rmtree):
        if renames == 2 and not left[0]:
            raise Crash
        rmtree(folder, ignore_errors=ignore_errors)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        patch.setattr(shutil, "rmtree", dying_rmtree)
        with pytest.raises(Crash):
            storage.save(path, {"a": np.ones(3)}, kind="thing", about={"version": "new"})
    assert storage.exists(path)
    tree, about = storage.load(path, kind="thing")
    expected = ("old", np.zeros(3)) if renames == 0 else ("new", np.ones(3))
    assert about["version"] == expected[0]
    np.testing.assert_array_equal(tree["a"], expected[1])
    storage.save(path, {"a": np.full(3, 2.0)}, kind="thing", about={"version": "newest"})
    assert storage.load(path, kind="thing")[1] == {"version": "newest"}
    assert os.listdir(tmp_path) == ["thing"]


def test_a_crash_before_the_manifest_leaves_the_old(tmp_path, monkeypatch):
    path = tmp_path / "thing"
    storage.save(path, {"a": np.zeros(3)}, kind="thing")

    def die(*arguments):
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_json", die)
        with pytest.raises(Crash):
            storage.save(path, {"a": np.ones(3)}, kind="thing")
        with pytest.raises(Crash):
            storage.save(tmp_path / "first", {"a": np.ones(3)}, kind="thing")
    assert (tmp_path / ".thing.partial").is_dir()
    np.testing.assert_array_equal(storage.load(path, kind="thing")[0]["a"], np.zeros(3))
    assert not storage.exists(tmp_path / "first")


def test_only_the_old_folder_left_and_no_whole_new_one(tmp_path, written):
    shutil.copytree(written, tmp_path / ".thing.old")
    (tmp_path / ".thing.partial").mkdir()
    same(storage.load(tmp_path / "thing", kind="thing")[0], TREE)
    assert not (tmp_path / ".thing.old").exists()


def test_a_failed_write_says_so_and_keeps_the_old(tmp_path, monkeypatch):
    path = tmp_path / "thing"
    storage.save(path, {"a": np.zeros(3)}, kind="thing")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "write_json", full)
    with pytest.raises(OSError, match="could not write .*No space left.*is the disk full"):
        storage.save(path, {"a": np.ones(3)}, kind="thing")
    np.testing.assert_array_equal(storage.load(path, kind="thing")[0]["a"], np.zeros(3))
    assert os.listdir(tmp_path) == ["thing"]


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


def test_loading_never_unpickles(copy, tmp_path):
    target = tmp_path / "executed"
    bomb = pickle.dumps(Bomb(target))
    pickle.loads(bomb).close()
    assert target.exists()  # the bomb works
    target.unlink()
    manifest = json.loads((copy / storage.MANIFEST).read_text())
    (copy / "arrays" / "extra.pkl").write_bytes(bomb)
    storage.load(copy, kind="thing")
    for name in manifest["files"]:
        whole = (copy / name).read_bytes()
        (copy / name).write_bytes(bomb)
        forged = {key: value for key, value in manifest.items() if key != "checksum"}
        forged["files"] = manifest["files"] | {name: storage.digest(copy / name)}
        storage.write_json(copy / storage.MANIFEST, forged)
        try:  # orbax may or may not need this file
            storage.load(copy, kind="thing")
        except Exception:
            assert not target.exists()
        (copy / name).write_bytes(whole)
    assert not target.exists()


def test_write_json_shows_the_old_or_the_new(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "numbers.json"
    storage.write_json(path, {"n": 1})
    assert storage.read_json(path) == {"n": 1}

    def die(*arguments):
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        with pytest.raises(Crash):
            storage.write_json(path, {"n": 2})
    assert storage.read_json(path) == {"n": 1}
    with pytest.raises(TypeError):
        storage.write_json(path, {"n": object()})
    assert storage.read_json(path) == {"n": 1}
    storage.write_json(path, {"n": 3})
    assert storage.read_json(path) == {"n": 3}
    assert os.listdir(path.parent) == ["numbers.json"]


def test_read_json_names_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"numbers.json is missing; run the stage"):
        storage.read_json(tmp_path / "numbers.json")
    (tmp_path / "numbers.json").write_text('{"n": 1')
    with pytest.raises(ValueError, match=r"numbers.json is damaged"):
        storage.read_json(tmp_path / "numbers.json")
