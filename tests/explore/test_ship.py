"""A finished run becomes a model of the package, and its page can be made anew."""

import json

import numpy as np
import pytest
from explored import ELITES, drawn, make_run

from ldpol import sample, storage
from ldpol.explore.ship import main, renew_page, ship
from ldpol.explore.source import read_page


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample, "make_task", lambda known: drawn(known.grid.dimensions))
        folder = tmp_path_factory.mktemp("shipping")
        run = make_run(folder / "run")
        about = {"config": {}, "seed": 3, "commit": "abc", "versions": {}, "machine": {}, "trained": {"mem": 0.1}}
        storage.write_json(run / "eval" / "metrics.json", about | {"mem": 0.2, "other": [1]})
        ship(run, folder / "toyland")
        yield folder / "toyland"


def test_what_is_shipped(shipped):
    about, page = json.loads((shipped / "about.json").read_text()), read_page(shipped / "page.json")
    assert about["bytes"] == {
        name: (shipped / name).stat().st_size for name in ("arrays.npz", "elites", "model", "page.json")
    }
    assert about["metrics"] == {"seed": 3, "trained": {"mem": 0.1}, "mem": 0.2} and about["commit"] == "abc"
    roles = [[one["role"] for one in answer["films"]] for answer in page["films"]]
    assert roles[0] == ["generated"] * 4 + ["elite"] and roles[1:] == [["generated", "elite"]] * (len(roles) - 1)
    assert len(roles) == ELITES // 2 and "map" not in page["facts"]


def test_the_page_is_made_anew(shipped):
    before = (shipped / "page.json").read_bytes()
    storage.write_bytes(shipped / "page.json", b"{}")
    renew_page(shipped)
    assert (shipped / "page.json").read_bytes() == before
    assert json.loads((shipped / "about.json").read_text())["bytes"]["page.json"] == len(before)


def test_what_cannot_be_shipped(shipped, tmp_path, capsys):
    assert main(["nobody"]) == 2 and "about.json" in capsys.readouterr().err
    run = make_run(tmp_path / "run")
    storage.write_json(run / "eval" / "metrics.json", {})
    arrays = dict(np.load(run / "eval" / "arrays.npz"))
    np.savez(run / "eval" / "arrays.npz", **arrays | {"reference_fitness": arrays["reference_fitness"][1:]})
    with pytest.raises(ValueError, match="is of another archive; run the evaluate stage again"):
        ship(run, tmp_path / "toyland")
