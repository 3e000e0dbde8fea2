"""What stages keep: nothing before there is something, and one line where it cannot be written."""

import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from ldpol.errors import UserError
from ldpol.experiments.keeping import Keeper


@pytest.fixture
def keeper(tmp_path):
    return Keeper("train", tmp_path / "train", lambda depends_on: {"config": dict(depends_on)})


def test_nothing_is_written_before_there_is_something_to_keep(keeper, tmp_path):
    """A finished run may be read-only."""
    assert keeper.hooks.memo is not None
    keeper.log("decoder", 0, {"left_out": "there is nothing to learn"})
    keeper.close()
    assert os.listdir(tmp_path) == []


def test_curves_that_cannot_be_written(keeper, tmp_path, monkeypatch):
    (tmp_path / "train").write_text("mine")
    with pytest.raises(OSError, match=f"^could not write into {tmp_path}/train/tensorboard: "):
        keeper.scalars(1, {"loss": 1.0})
    (tmp_path / "train").unlink()
    keeper.scalars(1, {"loss": 1.0})

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="could not write into .*: No space left .*free"):
        assert keeper._writer is not None
        patch.setattr(keeper._writer, "flush", full)
        keeper.log("decoder", 2, {"loss": 0.5})
    keeper.close()


def test_a_result_is_computed_once_for_what_it_depends_on(keeper, tmp_path):
    computed = []

    def compute():
        computed.append(1)
        return {"x": jnp.arange(3.0)}

    for depends_on in ({"a": 1}, {"a": 1}, {"a": 2}, {"a": 2}):
        np.testing.assert_array_equal(keeper.memo("numbers", depends_on, compute)["x"], [0.0, 1.0, 2.0])
    assert len(computed) == 2 and os.listdir(tmp_path / "train") == ["numbers"]


def test_a_result_that_must_not_be_replaced(keeper, tmp_path):
    def check(stored, path: Path):
        raise UserError(f"{path} is of {stored['config']}")

    keeper.memo("numbers", {"a": 1}, lambda: {"x": jnp.ones(2)})
    other = Keeper("train", tmp_path / "train", lambda depends_on: {"config": dict(depends_on)}, check)
    with pytest.raises(UserError, match=r"numbers is of \{'a': 1\}"):
        other.memo("numbers", {"a": 2}, lambda: pytest.fail("computed before the check"))
