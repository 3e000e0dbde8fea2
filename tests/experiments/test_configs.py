"""Configs: files, variants, overrides, and what is refused before anything runs."""

from pathlib import Path

import jax
import pytest

from ldpol.distillation import DistillConfig, published
from ldpol.errors import UserError
from ldpol.experiments import configs
from ldpol.experiments.configs import as_json, load_config
from ldpol.experiments.variants import VARIANTS
from ldpol.model.condition import null_condition
from ldpol.model.denoiser import DenoiserConfig, make_network
from ldpol.model.image import image_shape
from ldpol.search.config import SEARCHES, SearchConfig
from ldpol.search.ppo_config import split_environments
from ldpol.search.xnes import population_size
from ldpol.tasks import SPECS

CONFIGS = Path(__file__).parents[2] / "experiments"
WALKER = str(CONFIGS / "walker2d.py")


def test_there_is_a_config_a_task():
    assert {file.stem for file in CONFIGS.glob("*.py")} == set(SPECS)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("task", SPECS)
def test_every_variant_builds(task, variant):
    config = load_config(f"{CONFIGS / task}.py:{variant}")
    assert config.task.name == task and config.is_locked
    settings = configs.distill_of(config)
    configs.search_of(config)
    assert len(configs.all_suites(config)) == len(configs.SUITES) == 8
    image = image_shape(settings.autoencoder.architecture)
    network = make_network(settings.denoiser.architecture, image)
    measures, box = len(SPECS[task].measure_names), config.train.held_out
    assert len(box.low) == len(box.high) and len(box.low) in (0, measures)
    latent, time = jax.ShapeDtypeStruct(image, "float32"), jax.ShapeDtypeStruct((), "float32")
    jax.eval_shape(network.init, jax.random.key(0), latent, time, null_condition(measures))
    assert as_json(config)["task"]["name"] == task


def test_defaults_live_in_the_library():
    """The cpu variant of walker2d is what the library does where nothing is said, and `paper` what it calls so."""
    config = load_config(WALKER)
    assert configs.distill_of(config) == DistillConfig() and configs.search_of(config) == SearchConfig()
    assert configs.all_suites(config) == [suite() for suite in configs.SUITES.values()]
    paper = load_config(f"{WALKER}:paper")
    assert configs.distill_of(paper) == published(configs.distill_of(load_config(f"{WALKER}:gpu")))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("task", SPECS)
def test_every_search_can_share_its_environments(task, variant):
    """Over the copies of the task's measures, and on a CPU over two devices; a grid stays of a size that fits."""
    config = configs.search_of(load_config(f"{CONFIGS / task}.py:{variant}"))
    measures = len(SPECS[task].measure_names)
    assert config.search in SEARCHES and config.cells**measures <= 10_000
    assert 0 < config.hybrid.ppga_iterations < config.iterations
    assert population_size(config.ppga.xnes, 1 + measures) % 2 == 0
    copies = split_environments(config.ppga.ppo, 1 + measures)
    if variant.endswith(("cpu", "smoke")):
        split_environments(copies, 2)


def test_the_variant_names_the_search():
    assert load_config(f"{WALKER}:ppga_cpu").archive.search == "ppga"
    assert load_config(f"{WALKER}:map_elites_smoke").archive.search == "map_elites"
    assert load_config(f"{WALKER}:paper").archive.search == "ppga"
    published = load_config(f"{CONFIGS / 'humanoid.py'}:ppga_paper").archive
    assert (published.ppga.xnes.sigma, published.ppga.emitter.archive_rate, published.cells) == (0.5, 0.1, 50)


def test_every_hole_is_a_region_of_its_task():
    """A square, an L, a half and a checkerboard; the rest of the config is walker2d's."""
    holes, boxes = str(CONFIGS / "studies" / "holes.py"), {}
    for shape in ("square_3", "corner_5", "l", "half", "checkerboard"):
        config = load_config(f"{holes}:{shape}")
        configs.check(config)
        boxes[shape] = len(config.train.held_out.low)
        with config.unlocked():
            config.train.held_out = load_config(WALKER).train.held_out
        assert as_json(config, "task", "train", "archive") == as_json(load_config(WALKER), "task", "train", "archive")
    assert boxes == {"square_3": 1, "corner_5": 1, "l": 2, "half": 1, "checkerboard": 50}
    assert load_config(f"{holes}:l_smoke").task.episode_length == load_config(f"{WALKER}:smoke").task.episode_length
    with pytest.raises(UserError, match="unknown variant 'cpu'; the variants are square_1"):
        load_config(holes)


def test_the_default_variant_is_cpu():
    assert as_json(load_config(WALKER)) == as_json(load_config(f"{WALKER}:cpu"))


def test_missing_file():
    with pytest.raises(UserError, match="no config file 'nowhere.py'"):
        load_config("nowhere.py:cpu")


@pytest.mark.parametrize("variant", ["smokey", "CPU", "paperr"])
def test_unknown_variant_names_the_variants(variant):
    with pytest.raises(UserError, match="unknown variant.*cpu, smoke, large, gpu, paper"):
        load_config(f"{WALKER}:{variant}")


def test_unknown_variant_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'smoke'"):
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
    with pytest.raises(UserError, match=f"unknown config key '{typo}'; did you mean '{meant}'"):
        load_config(WALKER, [f"{typo}=1"])


@pytest.mark.parametrize("key", ["seed.more", "task.name.first"])
def test_a_key_below_a_value(key):
    with pytest.raises(UserError, match="unknown config key"):
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
    with pytest.raises(UserError, match=said):
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


@pytest.mark.parametrize(
    "text", ["guidance,held_out_region", "guidance, held_out_region", "('guidance', 'held_out_region')"]
)
def test_names_become_a_tuple(text):
    assert load_config(WALKER, [f"eval.suites={text}"]).eval.suites == ("guidance", "held_out_region")
    assert load_config(WALKER, ["eval.suites=guidance"]).eval.suites == ("guidance",)


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
    built = configs.build(DenoiserConfig, config.train.denoiser.architecture, "train.denoiser.architecture")
    assert built.channels == tuple(config.train.denoiser.architecture.channels)
    hash(built)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed=-1", "seed must be from 0 to 4294967295, found -1"),
        ("seed=99999999999999999999", "seed must be from 0 to"),
        ("task.name=walker", "unknown task 'walker'"),
        ("task.episode_length=0", "episode_length must be at least 1"),
        ("task.reset_noise=1e999", "reset_noise must be"),
        ("policy.hidden=0", "policy.hidden must be at least 1, found (0,)"),
        ("policy.hidden=-3", "policy.hidden must be at least 1"),
        ("policy.hidden=('a',)", "policy.hidden must be a tuple, each part a whole number"),
        ("rollout.chunk=0", "rollout.chunk must be at least 1, found 0"),
        ("rollout.device.lanes=0", "rollout.device.lanes must be at least 1, found 0"),
        ("rollout.device.block=0", "rollout.device.block must be at least 1, found 0"),
        ("archive.search=mapelites", "archive.search must be one of hybrid, map_elites, ppga, found 'mapelites'"),
        ("archive.cells=0", "archive.cells must be at least 1"),
        ("archive.iterations=0", "archive.iterations must be at least 1"),
        ("archive.checkpoint_every=0", "archive.checkpoint_every must be at least 1, found 0"),
        ("archive.map_elites.iso_low=1.0", "archive.map_elites.iso_low must be at most iso_high"),
        ("archive.ppga.ppo.gamma=0.0", "archive.ppga.ppo.gamma must be greater than 0"),
        ("train.steps_per_call=0", "train.steps_per_call must be at least 1, found 0"),
        ("train.checkpoint_seconds=-1.0", "train.checkpoint_seconds must be at least 0"),
        ("train.collect.states=0", "train.collect.states must be at least 1, found 0"),
        ("train.collect.noise=1e999", "train.collect.noise must be a finite number"),
        ("train.autoencoder.optimiser.steps=0", "train.autoencoder.optimiser.steps must be at least 1, found 0"),
        ("train.autoencoder.optimiser.steps=-1", "train.autoencoder.optimiser.steps must be at least 1, found -1"),
        ("train.autoencoder.loss.kind=parameters", "train.autoencoder.loss.kind parameters needs architecture.head"),
        ("train.denoiser.loss.schedule=foo", "train.denoiser.loss.schedule must be one of linear, cosine, flow"),
        ("train.denoiser.optimiser.rate=0.0", "train.denoiser.optimiser.rate must be greater than 0"),
        ("train.verify.tolerance=0.0", "train.verify.tolerance must be greater than 0"),
        ("train.precision=int4", "train.precision must be one of float32"),
        ("train.sampler.steps=0", "train.sampler.steps must be at least 1"),
        ("train.held_out.low=(0.5,)", "the held-out box needs 2 bounds"),
        ("train.held_out.low=((0.1, 0.1), (0.2, 0.2))", "several boxes as many low corners as high ones"),
        ("train.held_out.fraction=1.5", "held-out fraction must be in"),
        ("eval.suites=guidence", "unknown suite 'guidence'; the suites are reconstruction, guidance, composition"),
        ("eval.suites=[]", "no suite is named"),
        ("eval.episodes=0", "eval.episodes must be at least 1, found 0"),
        ("eval.unseen=0", "eval.unseen must be at least 1, found 0"),
        ("eval.guidance.samples=1", "eval.guidance.samples must be at least 2"),
        ("eval.guidance.scales=()", "eval.guidance.scales is empty"),
        ("eval.composition.conditions=0", "eval.composition.conditions must be at least 1"),
        ("eval.held_out_region.draws=0", "eval.held_out_region.draws must be at least 1"),
        ("eval.held_out_region.edges=(2.0, 1.0)", "eval.held_out_region.edges must increase"),
        ("eval.steadiness.plays=1", "eval.steadiness.plays must be at least 2"),
        ("eval.damage.trials=0", "eval.damage.trials must be at least 1"),
        ("eval.damage.adapt.noise=0.0", "eval.damage.adapt.noise must be greater than 0"),
        ("eval.sequencing.look_ahead_episodes=3", "must be at most episodes = 2"),
        ("eval.sequencing.segments=7", "does not split into 7 equal segments"),
        ("eval.sequencing.settle=25", "settle must be at least 0 and less than the 25 steps"),
        ("eval.sequencing.horizon=5", "measures nothing"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_anything_runs(override, said):
    config = load_config(f"{WALKER}:smoke", [override])
    with pytest.raises(UserError) as error:
        configs.check(config)
    assert said in str(error.value)


def test_sections_as_json():
    assert set(as_json(load_config(WALKER), "seed", "task")) == {"seed", "task"}
