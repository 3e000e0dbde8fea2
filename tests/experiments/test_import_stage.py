"""Stage `import` and tasks of config files: an own task by `make_task`, an archive by `load_archive`, checked."""

import textwrap

import pytest

from ldpol import archive as archives
from ldpol.errors import UserError
from ldpol.experiments import configs, importing
from ldpol.experiments.__main__ import main
from ldpol.networks import MLP

CONFIG = """
    import sys
    sys.path.insert(0, {tests!r})
    from archive.test_replay import GRID, RELU, TASK, make_elites

    from ldpol.archive import from_ribs
    from ldpol.archive.layouts import to_vectors
    from ldpol.experiments import configs
    from ldpol.networks import MLP

    def get_config(variant):
        return configs.base("toy")

    def make_task(config):
        return TASK

    def load_archive(config, task):
        elites = make_elites()
        data = {{"solution": to_vectors(elites.policies, RELU, "torch"), "objective": elites.fitness}}
        network = {network}
        return from_ribs(data | {{"measures": elites.measures}}, network, task, order="torch", cells=GRID)
"""


def write(folder, network="RELU", cut=None):
    text = textwrap.dedent(CONFIG).format(tests=str(__import__("pathlib").Path(__file__).parents[1]), network=network)
    file = folder / "mine.py"
    file.write_text(text.partition(cut)[0] if cut else text)
    return str(file)


def test_an_archive_is_brought_into_a_work_directory(tmp_path, capsys):
    arguments = ["import", "--config", write(tmp_path), "--workdir", str(tmp_path / "run")]
    assert main(arguments) == 0
    assert "import: same: replayed fitness ranks" in capsys.readouterr().err
    elites = archives.load(tmp_path / "run" / "archive" / "elites")
    assert elites.network == MLP(3, 2, (8,), "relu", "tanh") and elites.task == "toy"
    assert not archives.is_imported(elites) and dict(elites.settings)["imported from"] == str(tmp_path / "mine.py")
    assert main(arguments) == 2
    assert "holds an archive already" in capsys.readouterr().err


def test_a_wrong_network_is_refused(tmp_path, capsys):
    arguments = ["import", "--config", write(tmp_path, "MLP(3, 2, (8,))"), "--workdir", str(tmp_path / "run")]
    assert main(arguments) == 2
    assert "with activation='relu', final='tanh' it is" in capsys.readouterr().err
    assert not (tmp_path / "run" / "archive" / "elites").exists()


def test_a_custom_network_is_refused(tmp_path, capsys):
    """The stages after it read files alone."""
    config = write(tmp_path, "__import__('ldpol').network(RELU.apply, observation_size=3, params=RELU.abstract())")
    (tmp_path / "mine.py").write_text((tmp_path / "mine.py").read_text().replace('order="torch"', 'order="flax"'))
    assert main(["import", "--config", config, "--workdir", str(tmp_path / "run")]) == 2
    assert "whose code no file of a work directory holds; distil them in Python" in capsys.readouterr().err


def test_config_files_without_their_functions(tmp_path):
    config = configs.load_config(write(tmp_path, cut="    def load"[4:]))
    assert configs.task_of(config).name == "toy"
    with pytest.raises(UserError, match=r"the config file needs make_task\(config\) and load_archive\(config, task\)"):
        importing.load_archive(config)
    wrong = tmp_path / "wrong.py"
    wrong.write_text((tmp_path / "mine.py").read_text().replace("return TASK", "return 3"))
    with pytest.raises(UserError, match=r"make_task\(config\) must return a Task, found a int"):
        configs.task_of(configs.load_config(str(wrong)))
