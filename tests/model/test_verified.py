"""Verified draws: rounding, the choice of rows and the kernel by hand, and what a generator answers with them."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_generator import generator  # noqa: F401

import ldpol
from ldpol import storage
from ldpol.archive import Grid
from ldpol.baselines.verified import nearest_row
from ldpol.distillation.bank import choose_rows
from ldpol.errors import UserError
from ldpol.model.answering import Kernel, answer_set, answer_verified, row_logits
from ldpol.model.condition import make_condition
from ldpol.model.verified import FINE, RoundedDraws, in_levels, latent_step, make_bank, of_levels, round_draws

ACHIEVED = np.array([[0.1, 0.2], [0.12, 0.2], [0.8, 0.9], [0.5, 0.5]], np.float32)
TRAITS = np.array([[1.0], [2.0], [3.0], [4.0]], np.float32)
QUALITY = np.array([0.1, 0.9, 0.5, 0.3], np.float32)
KERNEL = Kernel(0.02, 0.12)
GRID = Grid((10, 10), (0.0, 0.0), (1.0, 1.0))


def make(shape=(4, 4, 1), achieved=ACHIEVED, log_weight=None):
    rows = len(achieved)
    latents = jax.random.normal(jax.random.key(0), (rows, *shape))
    draws = round_draws(latents, jnp.asarray(achieved), latent_step(latents, 0.0 * latents))
    traits, quality = TRAITS[np.arange(rows) % 4], QUALITY[np.arange(rows) % 4]
    log_weight = np.zeros(rows, np.float32) if log_weight is None else log_weight
    return draws, make_bank(draws, achieved, traits, quality=quality, log_weight=log_weight, trait_names=["speed"])


def answer(bank, condition, count=200, **how):
    keys = jax.random.split(jax.random.key(1), count)
    return jax.jit(jax.vmap(lambda key: answer_verified(key, bank, condition, KERNEL, GRID, **how)))(keys)


def test_rounding_is_by_at_most_half_a_level_and_stable():
    latents = jax.random.normal(jax.random.key(2), (50, 4, 4, 2)) * jnp.array([[[[1.0, 0.01]]]])
    step = latent_step(latents, 0.0 * latents)
    np.testing.assert_array_equal(step, step.astype(jnp.float16).astype(jnp.float32))
    draws = round_draws(latents, jnp.full((50, 2), 0.3), step)
    assert (jnp.abs(draws.latents - latents) <= 0.5001 * step[None, None, None] + 0.004 * jnp.abs(latents)).all()
    again = round_draws(draws.latents, draws.measures, step)
    np.testing.assert_array_equal(again.levels, draws.levels)
    np.testing.assert_array_equal(again.measures, draws.measures)


def test_the_table_keeps_what_was_achieved():
    _, bank = make()
    np.testing.assert_allclose(bank.measures, ACHIEVED, atol=0.51 / 60000)
    np.testing.assert_allclose(bank.values[:, :1], TRAITS, atol=3 / 510)
    assert bank.columns == ("speed", "quality", "log weight")


def test_features_are_traits_alone():
    """Scaled to [0, 1]; neither what fitness is worth nor how often a row is drawn says how a policy moves."""
    draws, bank = make()
    np.testing.assert_allclose(bank.features, (TRAITS - 1.0) / 3.0, atol=0.51 / 255)
    assert bank.fitness is None
    how = {"quality": QUALITY, "log_weight": 0.0 * QUALITY, "fitness": 100.0 * QUALITY}
    known = make_bank(draws, ACHIEVED, TRAITS, trait_names=["speed"], **how)
    np.testing.assert_array_equal(known.features, bank.features)
    np.testing.assert_allclose(known.fitness, 100.0 * QUALITY, atol=80 / 510)
    bare = make_bank(draws, ACHIEVED, TRAITS[:, :0], trait_names=[], **how)
    np.testing.assert_allclose(bare.features, ACHIEVED, atol=0.51 / 60000)


def test_the_likeliest_rows_are_kept_first():
    targets = np.array([[0.1, 0.2], [0.8, 0.9]])
    choose = partial(choose_rows, ACHIEVED, targets, kernel=KERNEL, grid=GRID)
    np.testing.assert_array_equal(choose(2), [0, 2])
    np.testing.assert_array_equal(choose(3), [0, 1, 2])  # .02 from a target; row 3 is .5 away
    np.testing.assert_array_equal(choose(9), [0, 1, 2, 3])
    # Row 1 is one width from the first target: it answers first if it is drawn more than exp(1/2) as often there.
    np.testing.assert_array_equal(choose(2, log_weight=np.array([0.0, 0.49, 0.0, 0.0])), [0, 2])
    np.testing.assert_array_equal(choose(2, log_weight=np.array([0.0, 0.51, 0.0, 0.0])), [1, 2])


def test_rows_are_chosen_as_by_a_plain_loop():
    """Against sorting all pairs rank by rank, over more targets than one part holds."""
    rng = np.random.default_rng(3)
    achieved, targets, weight = rng.random((900, 2)), rng.random((300, 2)), rng.normal(size=900)
    cost = np.linalg.norm(targets[:, None] - achieved, axis=-1) ** 2 / (2 * 0.1**2) - weight
    expected: list[int] = []
    for rank in range(64):
        order = [(np.sort(row)[rank], np.argsort(row)[rank]) for row in cost]
        expected += [row for _, row in sorted(order) if row not in expected]
    expected = list(dict.fromkeys(expected))[:500]
    found = choose_rows(achieved, targets, 500, Kernel(0.1, 1.0), GRID, log_weight=weight)
    np.testing.assert_array_equal(found, sorted(expected))


def test_rows_answer_as_often_as_the_kernel_says():
    """Two rows at distances 0 and one kernel width: exp(-1/2) : 1."""
    achieved = np.array([[0.2, 0.2], [0.22, 0.2], [1.0, 1.0]], np.float32)
    _, bank = make(achieved=achieved)
    kernel = Kernel(0.02, 1.0)
    logits = row_logits(bank, make_condition(jnp.array([0.2, jnp.nan])), kernel, GRID)
    np.testing.assert_allclose(logits[1] - logits[0], -0.5, atol=1e-4)
    ranked = row_logits(bank, make_condition(jnp.full(2, jnp.nan), 0.1), kernel, GRID)
    np.testing.assert_allclose(ranked - ranked[0], [0.0, -0.5 * 64, -0.5 * 16], rtol=0.05)


def test_rows_are_weighed_as_training_weighs_elites():
    _, bank = make(achieved=np.tile(ACHIEVED[:1], (2, 1)), log_weight=np.log(np.array([1.0, 3.0], np.float32)))
    logits = row_logits(bank, make_condition(jnp.full(2, jnp.nan)), KERNEL, GRID)
    np.testing.assert_allclose(logits[1] - logits[0], np.log(3.0), rtol=1e-4)


def test_a_claim_keeps_rows_of_which_it_is_true():
    _, bank = make()
    claims = (("speed", 2.5, np.inf), ("height", 0.0, 1.0))  # no column for the second
    condition = make_condition(jnp.full(2, jnp.nan), text=jnp.array([1.0, 1.0]), words=2)
    _, given, source = answer(bank, condition, claims=claims)
    found = {tuple(row) for row in np.round(100 * np.asarray(given)).astype(int).tolist()}
    assert found == {(80, 90), (50, 50)}
    assert source.verified.all() and (source.distance == 0).all()
    # Row 1 misses this by a hundredth of the span, which is a miss.
    _, given, _ = answer(bank, make_condition(jnp.full(2, jnp.nan), text=jnp.ones(1), words=1), claims=(("speed", 2.03, np.inf),))  # fmt: skip  # noqa: E501
    assert {tuple(row) for row in np.round(100 * np.asarray(given)).astype(int).tolist()} == {(80, 90), (50, 50)}
    # No row is that fast: the fastest answers.
    _, given, _ = answer(bank, make_condition(jnp.full(2, jnp.nan), text=jnp.ones(1), words=1), claims=(("speed", 4.03, np.inf),))  # fmt: skip  # noqa: E501
    np.testing.assert_allclose(given, 0.5, atol=0.01)


def test_the_nearest_row_answers_however_far_it_is():
    draws, bank = make()
    for wanted, row, away in (([0.8, 0.9], 2, 0.0), ([0.8, 0.2], 3, np.hypot(0.3, 0.3)), ([0.0, 1.0], 3, np.hypot(0.5, 0.5))):  # fmt: skip  # noqa: E501
        latent, given, source = answer(bank, make_condition(jnp.array(wanted)))
        assert source.verified.all()
        np.testing.assert_allclose(source.distance, away, atol=0.003)
        np.testing.assert_array_equal(latent, jnp.broadcast_to(draws.latents[row], latent.shape))
        np.testing.assert_array_equal(given, jnp.broadcast_to(draws.measures[row], given.shape))


def test_a_set_holds_rows_that_differ_and_the_next_likeliest_fill_it_up():
    """Five rows at one place, with speeds 0, 1, 2, 9, 10: of two, ends; of more than there are, each row once."""
    speed, place = np.array([0.0, 1.0, 2.0, 9.0, 10.0, 5.0], np.float32), np.array([[0.2, 0.2]] * 5 + [[0.9, 0.9]])
    latents = jax.random.normal(jax.random.key(0), (6, 4, 4, 1))
    draws = round_draws(latents, jnp.asarray(place), latent_step(latents, 0.0 * latents))
    zero = np.zeros(6, np.float32)
    bank = make_bank(draws, place.astype(np.float32), speed[:, None], quality=zero, log_weight=zero, trait_names=["speed"])  # fmt: skip  # noqa: E501
    condition = make_condition(jnp.array([0.2, 0.2]))

    def speeds(count, seeds, condition=condition, **how):
        """The speeds of `count` answers for each of many keys."""
        make = jax.vmap(lambda seed: answer_set(jax.random.key(seed), count, bank, condition, KERNEL, GRID, **how))
        latents, _, source = jax.jit(make)(jnp.arange(seeds))
        assert source.verified.all() and source.verified.shape == (seeds, count)
        same = (jnp.abs(latents[:, :, None] - draws.latents[None, None]) < 1e-6).all((3, 4, 5))
        assert (same.sum(2) == 1).all()
        return [[float(speed[row.argmax()]) for row in rows] for rows in np.asarray(same)]

    pairs = speeds(2, 60)
    assert all(other == (10.0 if one < 5 else 0.0) for one, other in pairs)
    assert {one for one, _ in pairs} == {0.0, 1.0, 2.0, 9.0, 10.0}  # any row may come first
    assert all(sorted(five) == [0.0, 1.0, 2.0, 9.0, 10.0] for five in speeds(5, 20))
    assert all(sorted(six) == [0.0, 1.0, 2.0, 5.0, 9.0, 10.0] for six in speeds(6, 20))
    # None is within .12 of this: the sixth row is .40 away, the others .81.
    assert all(one == [5.0] for one in speeds(1, 20, make_condition(jnp.array([0.5, 0.95]))))
    fast = make_condition(jnp.array([0.2, 0.2]), text=jnp.array([1.0]), words=1)
    claims = (("speed", 8.0, np.inf),)
    assert all(sorted(two) == [9.0, 10.0] for two in speeds(2, 20, fast, claims=claims))
    assert all({9.0, 10.0} < set(three) for three in speeds(3, 20, fast, claims=claims))


def test_values_that_are_not_finite_are_refused():
    draws = RoundedDraws(jnp.zeros((1, 2, 2, 1), jnp.int8), jnp.ones(1), jnp.zeros((1, 2)))
    with pytest.raises(UserError, match="1 of 1 verified draws hold NaN"):
        make_bank(draws, np.array([[0.1, np.nan]]), np.zeros((1, 0)), quality=QUALITY[:1], log_weight=QUALITY[:1], trait_names=())  # fmt: skip  # noqa: E501


@pytest.fixture(scope="module")
def verified(generator):  # noqa: F811
    _, bank = make(generator.autoencoder.latent)
    return dataclasses.replace(generator, bank=bank, kernel=Kernel(0.05, 0.3))


def target(model, place):
    return model.grid.unscaled(jnp.asarray(place)).astype(jnp.float32)


def test_a_generator_answers_from_its_bank(verified, generator):  # noqa: F811
    key, wanted = jax.random.key(3), target(verified, [0.8, 0.9])
    policy, source = jax.jit(lambda key: verified.sample_with_source(key, wanted))(key)
    assert source.verified
    by_hand = verified.decode(verified.bank.levels[2] * verified.bank.step[None, None], verified.bank.given[2] / 255)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), policy, by_hand)
    blind = verified.sample(key, wanted, verified=False)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), blind, generator.sample(key, wanted))
    drawn, source = generator.sample_with_source(key, wanted)
    assert not source.verified and jnp.isinf(source.distance)
    jax.tree.map(np.testing.assert_array_equal, drawn, blind)
    with pytest.raises(UserError, match="no verified draws"):
        generator.sample(key, wanted, verified=True)


def test_a_stored_bank_answers_the_same(verified, tmp_path):
    stored = dataclasses.replace(verified, precision="int8")
    bytes_ = stored.save(tmp_path / "model") - dataclasses.replace(stored, bank=None).save(tmp_path / "without")
    assert bytes_ < 2000
    loaded = ldpol.load(tmp_path / "model")
    for name in ("levels", "given", "achieved", "table", "step"):
        np.testing.assert_array_equal(getattr(loaded.bank, name), getattr(verified.bank, name))
    assert loaded.bank.columns == verified.bank.columns
    assert loaded.kernel == verified.kernel
    assert ldpol.load(tmp_path / "without").bank is None


def test_a_model_without_its_denoiser_answers_the_same(verified, generator, tmp_path):  # noqa: F811
    lean = dataclasses.replace(verified, precision="int8").without_denoiser()
    assert lean.save(tmp_path / "lean") < dataclasses.replace(verified, precision="int8").nbytes
    loaded, whole = ldpol.load(tmp_path / "lean"), ldpol.load(_saved(verified, tmp_path / "whole"))
    key, wanted = jax.random.key(5), target(verified, [0.5, 0.4])
    for draw in (lambda model: model.sample(key, wanted), lambda model: model.sample_set(key, 3, wanted)[0]):
        jax.tree.map(np.testing.assert_array_equal, draw(loaded), draw(whole))
    with pytest.raises(UserError, match="without its denoiser: it answers single requests"):
        loaded.sample(key, wanted, verified=False)
    with pytest.raises(UserError, match="without its denoiser"):
        loaded.sample_composed(key, wanted[None], jnp.ones(1))
    with pytest.raises(UserError, match="no verified draws and needs its denoiser"):
        generator.without_denoiser()


def _saved(model, path):
    model.save(path, precision="int8")
    return path


def test_a_denoiser_that_fits_no_model_is_refused_beside_a_bank(verified, tmp_path):
    """Answers from verified draws would not meet it."""
    path = tmp_path / "model"
    verified.save(path)
    arrays, about = storage.load(path, kind="generator")
    arrays["denoiser"] = jax.tree.map(lambda leaf: np.asarray(leaf)[..., :1], arrays["denoiser"])
    storage.save(path, arrays, kind="generator", about=about)
    with pytest.raises(UserError, match="is not sound"):
        ldpol.load(path)
    del arrays["denoiser"], arrays["bank"]
    storage.save(path, arrays, kind="generator", about=about | {"columns": []})
    with pytest.raises(UserError, match="without its denoiser"):
        ldpol.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"given": lambda given: given[:, :1]},
        {"achieved": lambda achieved: achieved[:, :1]},
        {"achieved": lambda achieved: achieved[:-1]},
        {"levels": lambda levels: levels[..., :1, :]},
        {"table": lambda table: table.astype(np.uint16)},
        {"high": lambda high: high[:1]},
    ],
)
def test_a_bank_that_fits_no_model_is_refused(verified, tmp_path, change):
    """Each of these would otherwise answer, for arrays of one column or row fit any other."""
    path = tmp_path / "model"
    verified.save(path)
    arrays, about = storage.load(path, kind="generator")
    changed = {name: how(np.asarray(arrays["bank"][name])) for name, how in change.items()}
    storage.save(path, arrays | {"bank": arrays["bank"] | changed}, kind="generator", about=about)
    with pytest.raises(UserError, match=f"its verified draws have {next(iter(change))} .* expected"):
        ldpol.load(path)


def test_a_generator_draws_a_set(verified, generator):  # noqa: F811
    """Rows near the target, then the next nearest; without rows, a set is independent draws."""
    wanted = target(verified, [0.11, 0.2])
    policies, source = jax.jit(lambda key: verified.sample_set(key, 3, wanted))(jax.random.key(4))
    assert source.verified.all()
    latents = verified.bank.levels * verified.bank.step[None, None, None]
    rows = [verified.decode(latents[i], verified.bank.given[i] / 255) for i in (0, 1, 3)]
    found = jax.tree.leaves(policies)[0]
    for one in (jax.tree.leaves(row)[0] for row in rows):
        assert np.isclose(found, one, rtol=1e-4, atol=1e-6).reshape(3, -1).all(1).any()
    with pytest.raises(UserError, match="a set of 5 policies was asked for, but this model has 4 verified draws"):
        verified.sample_set(jax.random.key(4), 5, wanted)
    blind, source = generator.sample_set(jax.random.key(4), 3, wanted)
    assert not source.verified.any()
    assert len(np.unique(np.asarray(jax.tree.leaves(blind)[0]).reshape(3, -1), axis=0)) == 3
    with pytest.raises(UserError, match="at least 1 policy, found count = 0"):
        generator.sample_set(jax.random.key(0), 0)


def test_rows_a_fine_cell_apart_are_told_apart():
    """Ten rows in ten neighbouring cells of a grid of 1,024: a request for each is answered by its own."""
    cells = (np.arange(500, 510, dtype=np.float32)[:, None] + 0.5) / 1024
    fine, (_, bank) = Grid((1024,), (0.0,), (1.0,)), make(achieved=cells)
    ask = lambda place: row_logits(bank, make_condition(place), Kernel(0.05 / 1024, 1.0), fine).argmax()  # noqa: E731
    np.testing.assert_array_equal(jax.vmap(ask)(jnp.asarray(cells)), np.arange(10))


def test_rows_of_the_cell_that_is_asked_for_come_first():
    """On a grid of ten by ten: .095 is nearer to .1 than .12 is, but in the cell below."""
    achieved = np.array([[0.095, 0.15], [0.12, 0.15]], np.float32)
    _, bank = make(achieved=achieved)
    kernel, wanted = Kernel(0.02, 0.12, cell=5.0), jnp.array([0.102, 0.15])
    plain, own = (row_logits(bank, make_condition(wanted), one, GRID) for one in (kernel._replace(cell=0.0), kernel))
    assert plain.argmax() == 0 and own.argmax() == 1
    np.testing.assert_allclose(own - plain, [0.0, 5.0], atol=1e-5)
    free = make_condition(jnp.array([0.102, jnp.nan]))  # no cell is asked for
    np.testing.assert_array_equal(row_logits(bank, free, kernel, GRID).argmax(), 0)
    choose = partial(choose_rows, achieved, np.asarray(wanted)[None], 1, grid=GRID)
    np.testing.assert_array_equal(choose(kernel=kernel._replace(cell=0.0)), [0])
    np.testing.assert_array_equal(choose(kernel=kernel), [1])
    assert nearest_row(GRID, wanted, bank.measures) == 1
    assert nearest_row(GRID, jnp.array([0.25, 0.15]), bank.measures) == 1  # none of its cell: the nearest


@pytest.mark.parametrize("cells", [10, 50, 100, 1000])
def test_rounding_moves_no_measure_across_a_border(cells):
    """Means of shares of 500 steps over ten episodes, a hundredth of which lie on borders of the grid."""
    measures = np.arange(5001, dtype=np.float32)[:, None] / 5000
    grid = Grid((cells,), (0.0,), (1.0,))
    kept = of_levels(in_levels(jnp.asarray(measures), FINE))
    np.testing.assert_array_equal(grid.index(kept), grid.index(jnp.asarray(measures)))
