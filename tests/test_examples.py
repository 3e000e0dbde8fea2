"""The examples run, in small, and end with policies that do roughly what was asked."""

import importlib
import sys
from pathlib import Path

import jax
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module


@pytest.mark.slow
def test_own_environment(example):
    found = example("own_environment").main(steps=600, iterations=30)
    assert found["elites"] > 50 and found["error_cells"] < 3


@pytest.mark.slow
def test_pyribs_torch(example):
    pytest.importorskip("ribs")
    found = example("pyribs_torch").main(steps=600, batches=30)
    assert found["verdict"] == "same" and found["error_cells"] < 3


@pytest.mark.slow
def test_brax_ppo_policies(example):
    with jax.numpy_rank_promotion("allow"):  # Brax does
        assert example("brax_ppo_policies").main(steps=600, runs=100)["error_cells"] < 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Brax System, piplines")
def test_qdax_repertoire(example):
    with jax.numpy_rank_promotion("allow"):  # QDax does
        found = example("qdax_repertoire").main("hopper_uni", iterations=4, length=60, steps=400, cells=32)
    assert found["elites"] > 3 and found["error_cells"] < 10


def test_playground_walker_says_what_is_missing(example, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mujoco_playground", None)
    assert example("playground_walker").main() is None
    assert capsys.readouterr().err == "MuJoCo Playground is not installed; pip install playground\n"
