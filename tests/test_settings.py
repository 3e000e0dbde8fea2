from pathlib import Path

import jax
import pytest

from ldpol.experiments import settings
from ldpol.experiments.archive import make
from ldpol.experiments.defaults import SEARCHES, VARIANTS
from ldpol.experiments.settings import ConfigError, as_json, build, differences, load_config, restrict
from ldpol.model import autoencoder, optimiser, training
from ldpol.model.condition import nothing
from ldpol.model.denoiser import DenoiserConfig, make_network
from ldpol.rollout import RolloutConfig
from ldpol.search.map_elites import MapElitesConfig
from ldpol.search.ppga import PPGAConfig, check
from ldpol.search.ppo_config import PPOConfig, split_environments
from ldpol.search.xnes import XNESConfig, population_size
from ldpol.tasks import SPECS

CONFIGS = Path(__file__).parents[1] / "experiments"
WALKER = str(CONFIGS / "walker2d.py")


def test_there_is_a_config_a_task():
    assert {file.stem for file in CONFIGS.glob("*.py")} == set(SPECS)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("task", SPECS)
def test_every_variant_builds(task, variant):
    config = load_config(f"{CONFIGS / task}.py:{variant}")
    assert config.task.name == task and config.is_locked
    build(RolloutConfig, config.rollout.device)
    build(MapElitesConfig, config.archive.map_elites)
    sections = config.train.autoencoder, config.train.denoiser
    for section in sections:
        optimiser.make_optimiser(build(optimiser.OptimiserConfig, section.optimiser))
    build(training.AutoencoderLoss, sections[0].loss)
    build(training.DiffusionLoss, sections[1].loss)
    architecture = build(autoencoder.AutoencoderConfig, sections[0].architecture)
    autoencoder.check_config(architecture)
    network = make_network(build(DenoiserConfig, sections[1].architecture), architecture.latent)
    measures, box = len(SPECS[task].measure_names), config.train.held_out
    assert len(box.low) == len(box.high) and len(box.low) in (0, measures)
    latent = jax.ShapeDtypeStruct(architecture.latent, "float32")
    time = jax.ShapeDtypeStruct((), "float32")
    jax.eval_shape(network.init, jax.random.key(0), latent, time, nothing(measures))
    assert settings.as_json(config)["task"]["name"] == task


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("task", SPECS)
def test_every_search_can_share_its_environments(task, variant):
    """Over the copies of the task's measures, and on a CPU over two devices; a grid stays of a size that fits."""
    config = load_config(f"{CONFIGS / task}.py:{variant}").archive
    measures = len(SPECS[task].measure_names)
    assert config.search in SEARCHES and config.cells**measures <= 10_000
    assert 0 < config.hybrid.ppga_iterations < config.iterations
    check(build(PPGAConfig, config.ppga.emitter))
    assert population_size(build(XNESConfig, config.ppga.xnes), 1 + measures) % 2 == 0
    copies = split_environments(build(PPOConfig, config.ppga.ppo), 1 + measures)
    if variant.endswith(("cpu", "smoke")):
        split_environments(copies, 2)


def test_the_variant_names_the_search():
    assert load_config(f"{WALKER}:ppga_cpu").archive.search == "ppga"
    assert load_config(f"{WALKER}:map_elites_smoke").archive.search == "map_elites"
    assert load_config(f"{WALKER}:paper").archive.search == "ppga"
    published = load_config(f"{CONFIGS / 'humanoid.py'}:ppga_paper").archive
    assert (published.ppga.xnes.sigma, published.ppga.emitter.archive_rate, published.cells) == (0.5, 0.1, 50)


def test_an_unknown_search():
    config = load_config(WALKER, ["archive.search=mapelites"])
    with pytest.raises(ConfigError, match=r"archive.search = 'mapelites' is unknown; choose one of map_elites, ppga"):
        make(config)


def test_the_default_variant_is_cpu():
    assert as_json(load_config(WALKER)) == as_json(load_config(f"{WALKER}:cpu"))


def test_missing_file():
    with pytest.raises(ConfigError, match="no config file 'nowhere.py'"):
        load_config("nowhere.py:cpu")


@pytest.mark.parametrize("variant", ["smokey", "CPU", "paperr"])
def test_unknown_variant_names_the_variants(variant):
    with pytest.raises(ConfigError, match="unknown variant.*cpu, smoke, gpu, paper"):
        load_config(f"{WALKER}:{variant}")


def test_unknown_variant_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'smoke'"):
        load_config(f"{WALKER}:smokey")


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("sed", "seed"),
        ("archive.iteration", "archive.iterations"),
        ("archive.map_elite.batch", "archive.map_elites.batch"),
        ("train.denoiser.loss.bacth", "train.denoiser.loss.batch"),
        ("eval.episode", "eval.episodes"),
    ],
)
def test_unknown_key_names_the_nearest(typo, meant):
    with pytest.raises(ConfigError, match=f"unknown config key '{typo}'; did you mean {meant}?"):
        load_config(WALKER, [f"{typo}=1"])


@pytest.mark.parametrize("key", ["seed.more", "task.name.first"])
def test_a_key_below_a_value(key):
    with pytest.raises(ConfigError, match="unknown config key"):
        load_config(WALKER, [f"{key}=1"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed=one", "takes a int"),
        ("seed=1.5", "takes a int"),
        ("archive.iterations=None", "takes a int"),
        ("task.name=3", "takes a str"),
        ("policy.hidden=wide", "takes a tuple"),
        ("train.autoencoder.optimiser.rate=fast", "takes a float"),
        ("archive=3", "is a section"),
        ("seed", "has no value; write --config.seed=VALUE"),
    ],
)
def test_values_of_another_kind(override, said):
    with pytest.raises(ConfigError, match=said):
        load_config(WALKER, [override])


def test_overrides():
    config = load_config(
        f"{WALKER}:smoke",
        [
            "seed=7",
            "policy.hidden=(32,)",
            "train.denoiser.architecture.channels=[4, 8]",
            "train.autoencoder.optimiser.rate=1",
            "task.backend=positional",
        ],
    )
    assert config.seed == 7
    assert config.policy.hidden == (32,)
    assert config.train.denoiser.architecture.channels == (4, 8)
    assert config.train.autoencoder.optimiser.rate == 1.0
    assert isinstance(config.train.autoencoder.optimiser.rate, float)
    assert config.task.backend == "positional"


def test_a_number_becomes_a_tuple_of_one():
    assert load_config(WALKER, ["policy.hidden=32"]).policy.hidden == (32,)


@pytest.mark.parametrize("text", ["guidance,cutout", "guidance, cutout", "('guidance', 'cutout')"])
def test_names_become_a_tuple(text):
    assert load_config(WALKER, [f"eval.suites={text}"]).eval.suites == ("guidance", "cutout")
    assert load_config(WALKER, ["eval.suites=guidance"]).eval.suites == ("guidance",)


def test_restriction():
    known = {"a": 0, "b": {"c": 0}}
    assert restrict({"a": 1, "b": {"c": [2], "d": 3}, "e": 4}, known) == {"a": 1, "b": {"c": [2]}}
    assert restrict({"b": 5}, known) == {"b": 5} and restrict(3, known) == 3


def test_the_config_is_locked():
    config = load_config(WALKER, ["seed=3"])
    with pytest.raises(AttributeError):
        config.train.new = 1
    with pytest.raises(KeyError):
        config["news"] = 1


def test_none_may_become_anything(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "from ml_collections import ConfigDict\ndef get_config(variant):\n    return ConfigDict({'x': None})\n"
    )
    assert load_config(str(file)).x is None
    assert load_config(str(file), ["x=0.5"]).x == 0.5
    assert load_config(str(file), ["x=word"]).x == "word"


def test_build_makes_settings_hashable():
    config = load_config(f"{WALKER}:smoke")
    built = build(DenoiserConfig, config.train.denoiser.architecture)
    assert built.channels == tuple(config.train.denoiser.architecture.channels)
    hash(built)


def test_sections_as_json():
    assert set(as_json(load_config(WALKER), "seed", "task")) == {"seed", "task"}


def test_differences():
    old = {"a": 1, "b": {"c": [1, 2], "d": "x"}, "gone": 0}
    new = {"a": 1, "b": {"c": [1, 3], "d": "x"}, "new": 5}
    assert differences(old, new) == ["b.c: [1, 2] -> [1, 3]", "gone: 0 -> None", "new: None -> 5"]
    assert differences(old, old) == []
