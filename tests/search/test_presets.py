"""Presets change what they name, and leave the rest as the user has it."""

import pytest

from ldpol.search import presets
from ldpol.search.config import SearchConfig
from ldpol.settings import revise

OWN = revise(SearchConfig(), cells=7, map_elites={"line": 0.2}, ppga={"ppo": {"clip": 0.1}})


@pytest.mark.parametrize("preset", [presets.quick, presets.accelerated, presets.published])
def test_what_a_preset_does_not_name_stays(preset):
    made = preset(OWN)
    assert made.map_elites.line == 0.2 and made.ppga.ppo.clip == 0.1 and made != OWN


@pytest.mark.parametrize(
    ("task", "sigma", "rate", "least"),
    [("walker2d", 1.0, 0.5, 200.0), ("humanoid", 0.5, 0.1, 200.0), ("ant", 3.0, 0.1, -500.0)],
)
def test_the_published_search_knows_its_tasks(task, sigma, rate, least):
    made = presets.published(OWN, task)
    assert (made.search, made.cells, made.hidden) == ("ppga", 7, OWN.hidden)
    assert made.ppga.xnes.sigma == sigma
    assert (made.ppga.emitter.archive_rate, made.ppga.emitter.threshold_min) == (rate, least)
