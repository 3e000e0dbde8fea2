import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from ldpol.distillation.targets import CaptionDataset, LatentDataset, Spread, posterior_mean
from ldpol.model.condition import Condition, make_condition, null_condition
from ldpol.model.diffusion import (
    add_noise,
    compose,
    diffusion_loss,
    guide,
    loss_weight,
    make_schedule,
    precondition,
)
from ldpol.model.sampler import ancestral_step, sample

SCHEDULES = ("linear", "cosine", "flow")
PARAMETRISATIONS = ("eps", "v", "flow")
MEAN, STD = 2.0, 0.5


def gaussian_denoiser(schedule):
    """E[x0 | x_t] where x0 ~ N(MEAN, STD^2) elementwise: the posterior mean of two Gaussians."""

    def denoise(x, t, condition):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
        return MEAN + gain * (x - alpha * MEAN)

    return denoise


def exact_flow(schedule, key, shape):
    """Where the probability-flow ODE of that Gaussian ends: it keeps each point's standardised place."""
    end = jnp.asarray(schedule.end)
    alpha, sigma = schedule.alpha(end), schedule.sigma(end)
    start = jax.random.normal(jax.random.split(key)[0], shape) * sigma
    return MEAN + STD * (start - alpha * MEAN) / jnp.sqrt(alpha**2 * STD**2 + sigma**2)


def draw(schedule, key, shape, steps, method):
    return sample(key, gaussian_denoiser(schedule), schedule, null_condition(1), shape, steps=steps, method=method)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_lead_from_data_to_noise(name):
    schedule = make_schedule(name)
    assert schedule.alpha(jnp.zeros(())) == 1.0 and schedule.sigma(jnp.zeros(())) == 0.0
    times = jnp.linspace(0, schedule.end, 101)
    assert (np.diff(jax.vmap(schedule.alpha)(times)) < 0).all()
    assert (np.diff(jax.vmap(schedule.sigma)(times)) >= 0).all()
    assert schedule.alpha(times[-1]) < 0.01 and schedule.sigma(times[-1]) > 0.99


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_variance_preserving(name):
    schedule = make_schedule(name)
    times = jnp.linspace(0, 1, 51)
    np.testing.assert_allclose(schedule.alpha(times) ** 2 + schedule.sigma(times) ** 2, 1.0, atol=1e-6)


def test_linear_schedule_is_ddpm_of_a_thousand_steps():
    betas = np.linspace(1e-4, 0.02, 1000)
    discrete = np.sqrt(np.cumprod(1 - betas))
    continuous = make_schedule("linear").alpha(jnp.arange(1, 1001) / 1000)
    np.testing.assert_allclose(continuous, discrete, atol=4e-3)


def test_unknown_schedule():
    with pytest.raises(ValueError, match="linear, cosine or flow"):
        make_schedule("sigmoid")


def target_of(parametrisation, alpha, sigma, clean, noise):
    return {"eps": noise, "v": alpha * noise - sigma * clean, "flow": noise - clean}[parametrisation]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
@pytest.mark.parametrize("t", [0.03, 0.5, 0.9])
def test_true_target_gives_the_clean_latent(name, parametrisation, t):
    schedule, t = make_schedule(name), jnp.asarray(t)
    if parametrisation == "eps" and name == "flow":
        schedule = schedule._replace(end=0.99)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    clean, noise = jax.random.normal(jax.random.key(0), (2, 4, 4, 1))
    network = lambda x, t, c: target_of(parametrisation, alpha, sigma, clean, noise)  # noqa: E731
    found = precondition(network, schedule, parametrisation)(alpha * clean + sigma * noise, t, null_condition(2))
    np.testing.assert_allclose(found, clean, atol=2e-5 / float(alpha))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
def test_loss_weight_turns_the_error_of_x0_into_that_of_the_target(name, parametrisation):
    schedule, t = make_schedule(name)._replace(end=0.99), jnp.asarray(0.4)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    clean, noise, output = jax.random.normal(jax.random.key(0), (3, 4, 4, 1))
    denoise = precondition(lambda x, t, c: output, schedule, parametrisation)
    of_clean = (denoise(alpha * clean + sigma * noise, t, null_condition(2)) - clean) ** 2
    of_target = (output - target_of(parametrisation, alpha, sigma, clean, noise)) ** 2
    np.testing.assert_allclose(loss_weight(schedule, parametrisation, t) * of_clean, of_target, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("name", SCHEDULES)
def test_loss_of_the_perfect_denoiser_is_zero(name):
    clean = jax.random.normal(jax.random.key(0), (4, 4, 1))
    noisy, t = jax.random.normal(jax.random.key(1), (4, 4, 1)), jnp.asarray(0.3)
    loss = diffusion_loss(lambda x, t, c: clean, make_schedule(name), "v", noisy, t, null_condition(2), clean)
    assert loss == 0.0


def by_quadrature(schedule, bank, spread, x, t, wanted, likelihood=None):
    """E[x_0 | x_t, wanted] by Bayes' rule on a grid of x_0, for latents of one number; `likelihood` of other wishes."""
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    grid = np.linspace(-6, 6, 24001)
    prior = np.zeros_like(grid)
    weights = np.asarray(bank.weights) * (1.0 if likelihood is None else likelihood)
    for mean, measures, weight in zip(*map(np.asarray, (bank.mean, bank.measures, weights)), strict=True):
        asked = [norm.pdf(w, m, spread) for w, m in zip(wanted, measures, strict=True) if not np.isnan(w)]
        prior += weight * np.prod(asked) * norm.pdf(grid, mean.item(), bank.deviation.item())
    posterior = prior * norm.pdf(x, alpha * grid, sigma)
    return (posterior * grid).sum() / posterior.sum()


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("wanted", [(0.5, 0.4), (0.55, np.nan), (np.nan, np.nan)])
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_posterior_mean_is_that_of_bayes_rule(name, wanted, t):
    rng = np.random.default_rng(0)
    bank = LatentDataset(
        mean=jnp.asarray(rng.normal(size=(5, 1, 1, 1)), jnp.float32),
        deviation=jnp.full((1, 1, 1), 0.15),
        measures=jnp.asarray(0.5 + 0.1 * rng.normal(size=(5, 2)), jnp.float32),
        weights=jnp.asarray([1.0, 0.5, 2.0, 1.0, 3.0]),
        quality=jnp.linspace(0.1, 0.9, 5),
    )
    schedule, level, x = make_schedule(name), jnp.asarray(t), jnp.full((1, 1, 1), 0.3)
    found = posterior_mean(schedule, bank, Spread(0.1, 0.05), x, level, make_condition(jnp.asarray(wanted)))
    np.testing.assert_allclose(found.item(), by_quadrature(schedule, bank, 0.1, 0.3, level, wanted), atol=2e-3)


def test_posterior_mean_weighs_ranks_and_captions():
    """A rank counts like a measure; a caption by the chance that all claims it makes hold."""
    rng = np.random.default_rng(2)
    truth = np.log(rng.random((5, 4)))
    captions = CaptionDataset(jnp.zeros((5, 1, 4)), jnp.zeros((5, 1, 4)), jnp.asarray(truth, jnp.float32))
    bank = LatentDataset(
        mean=jnp.asarray(rng.normal(size=(5, 1, 1, 1)), jnp.float32),
        deviation=jnp.full((1, 1, 1), 0.15),
        measures=jnp.zeros((5, 1)),
        weights=jnp.asarray([1.0, 0.5, 2.0, 1.0, 3.0]),
        quality=jnp.linspace(0.1, 0.9, 5),
        captions=captions,
    )
    claims, said = jnp.array([1.0, 0.0, 1.0, 0.0]), np.exp(truth[:, 0]) * np.exp(truth[:, 2])
    ranked = norm.pdf(0.6, np.linspace(0.1, 0.9, 5), 0.2)
    schedule, level, x = make_schedule("flow"), jnp.asarray(0.4), jnp.full((1, 1, 1), 0.3)
    free = jnp.full(1, jnp.nan)
    for condition, likelihood in (
        (make_condition(free, 0.6, jnp.zeros(4)), said * ranked),
        (make_condition(free, None, jnp.zeros(4)), said),
        (make_condition(free, 0.6, words=4), ranked),
        (null_condition(1, words=4), np.ones(5)),
    ):
        found = posterior_mean(schedule, bank, Spread(0.1, 0.2), x, level, condition, claims)
        expected = by_quadrature(schedule, bank, 0.1, 0.3, level, [np.nan], likelihood)
        np.testing.assert_allclose(found.item(), expected, atol=2e-3)


def test_posterior_mean_is_the_average_of_the_samples_it_stands_for():
    """Among draws that look alike, the average clean latent is the target: checked by sorting many draws into bins."""
    schedule, level, spread = make_schedule("flow"), jnp.asarray(0.5), 0.05
    mean = jnp.asarray([-1.0, 0.2, 1.1]).reshape(3, 1, 1, 1)
    bank = LatentDataset(mean, jnp.full((1, 1, 1), 0.1), jnp.full((3, 1), 0.5), jnp.ones(3), jnp.zeros(3))
    rng = np.random.default_rng(1)
    clean = np.asarray(mean).ravel()[rng.integers(3, size=400_000)] + 0.1 * rng.normal(size=400_000)
    noisy = np.asarray(add_noise(schedule, clean, level, rng.normal(size=clean.shape)))
    for x in (-0.8, 0.0, 0.7):
        near = np.abs(noisy - x) < 0.02
        target = posterior_mean(
            schedule, bank, Spread(spread, 0.1), jnp.full((1, 1, 1), x), level, make_condition(jnp.full(1, 0.5))
        )
        np.testing.assert_allclose(target.item(), clean[near].mean(), atol=0.03)


def test_preconditioning_errors():
    with pytest.raises(ValueError, match="eps, v or flow"):
        precondition(lambda x, t, c: x, make_schedule("flow"), "x0")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pure noise"):
        precondition(lambda x, t, c: x, make_schedule("flow"), "eps")


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_preconditioning_inside_jit(name):
    def run(x):
        return precondition(lambda x, t, c: x, make_schedule(name), "eps")(x, jnp.asarray(0.5), null_condition(2))

    np.testing.assert_allclose(jax.jit(run)(jnp.ones((2, 2, 1))), run(jnp.ones((2, 2, 1))), rtol=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("method", ["ddim", "heun"])
def test_samples_have_the_mean_and_spread_of_the_data(name, method):
    samples = draw(make_schedule(name), jax.random.key(0), (20_000,), 64, method)
    np.testing.assert_allclose(samples.mean(), MEAN, atol=0.03)
    np.testing.assert_allclose(samples.std(), STD, rtol=0.04)


@pytest.mark.parametrize("name", SCHEDULES)
def test_ancestral_samples_spread_less_in_few_steps(name):
    """A step takes x0 for known, so it adds too little noise by an amount that falls with the number of steps."""
    found = [draw(make_schedule(name), jax.random.key(0), (20_000,), steps, "ancestral") for steps in (4, 32, 256)]
    spread = [float(samples.std()) for samples in found]
    assert spread[0] < spread[1] < spread[2]
    np.testing.assert_allclose(spread[2], STD, rtol=0.04)
    np.testing.assert_allclose([samples.mean() for samples in found], MEAN, atol=0.03)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("method", ["ddim", "heun"])
def test_error_falls_with_the_number_of_steps(name, method):
    schedule, key = make_schedule(name), jax.random.key(1)
    exact = exact_flow(schedule, key, (256,))
    errors = [float(jnp.abs(draw(schedule, key, (256,), steps, method) - exact).max()) for steps in (4, 16, 64)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.1


def test_order_of_convergence():
    """On the flow schedule DDIM is Euler's method, of order 1; Heun's is of order 2."""
    schedule, key = make_schedule("flow"), jax.random.key(2)
    exact = exact_flow(schedule, key, (64,))

    def order(method):
        steps = np.array([16, 32, 64])
        errors = [float(jnp.abs(draw(schedule, key, (64,), int(n), method) - exact).mean()) for n in steps]
        return -np.polyfit(np.log(steps), np.log(errors), 1)[0]

    euler, heun = order("ddim"), order("heun")
    assert 0.8 < euler < 1.2
    assert 1.7 < heun < 2.4


def test_one_ddim_step_from_pure_noise_is_the_denoised_noise():
    schedule, key = make_schedule("flow"), jax.random.key(3)
    noise = jax.random.normal(jax.random.split(key)[0], (5,))
    expected = gaussian_denoiser(schedule)(noise, jnp.ones(()), null_condition(1))
    np.testing.assert_allclose(draw(schedule, key, (5,), 1, "ddim"), expected, rtol=1e-6)


@pytest.mark.parametrize("method", ["ddim", "heun", "ancestral"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_gradient_through_the_sampler(name, method):
    """Scaling the data scales the exact sample: d sample / d (wanted mean) is 1 for every schedule."""
    schedule = make_schedule(name)

    def mean_of(wanted):
        denoise = lambda x, t, c: gaussian_denoiser(schedule)(x, t, c) + c.measures[0]  # noqa: E731
        return sample(jax.random.key(0), denoise, schedule, make_condition(wanted), (8,), steps=3, method=method).mean()

    wanted = jnp.array([0.3])
    slope = jax.grad(mean_of)(wanted)[0]
    difference = (mean_of(wanted + 0.05) - mean_of(wanted - 0.05)) / 0.1
    assert np.isfinite(slope) and slope != 0.0
    np.testing.assert_allclose(slope, difference, rtol=1e-2)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("t", "t_next"), [(0.9, 0.6), (0.5, 0.1), (0.3, 0.0)])
def test_an_ancestral_step_by_bayes(name, t, t_next):
    """Noise goes from x_next to x in one Gaussian step; with x_next's own density given x0, Bayes says what it was."""
    schedule, x0, x = make_schedule(name), 0.7, 0.4
    (a, s), (b, r) = ((float(schedule.alpha(u)), float(schedule.sigma(u))) for u in map(jnp.asarray, (t, t_next)))
    step, noise = a / b, s**2 - (a / b * r) ** 2  # x = step * x_next + noise
    variance = r**2 * noise / (r**2 * step**2 + noise)
    mean = (b * x0 * noise + step * x * r**2) / (r**2 * step**2 + noise)
    one = (lambda x, t, c: jnp.full_like(x, x0), schedule, jnp.asarray(x), jnp.asarray(t), jnp.asarray(t_next))
    keys = jax.random.split(jax.random.key(0), 40_000)
    found = jax.vmap(lambda key: ancestral_step(*one, null_condition(1), key))(keys)
    np.testing.assert_allclose(found.mean(), mean, atol=0.01)
    np.testing.assert_allclose(found.std(), np.sqrt(variance), rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("change", [{"steps": 0}, {"method": "rk4"}])
def test_sampler_errors(change):
    arguments = {"steps": 2, "method": "ddim"} | change
    with pytest.raises(ValueError, match="ddim, heun, ancestral"):
        draw(make_schedule("flow"), jax.random.key(0), (3,), **arguments)


def conditional(x, t, condition: Condition):
    return x * t + 3.0 * condition.measures.sum() + 5.0 * condition.mask.sum()


@pytest.mark.parametrize("scale", [0, 1, 0.0, 1.0, 2.5, -1.0])
def test_guidance_is_linear_between_free_and_conditional(scale):
    x, t, wanted = jnp.arange(3.0), jnp.asarray(0.5), make_condition(jnp.array([0.2, 0.4]))
    free, asked = conditional(x, t, null_condition(2)), conditional(x, t, wanted)
    for given in (scale, jnp.asarray(scale, jnp.float32)):
        np.testing.assert_allclose(
            guide(conditional, given)(x, t, wanted), (1 - scale) * free + scale * asked, rtol=1e-5
        )


def test_guidance_of_one_does_not_evaluate_twice():
    assert guide(conditional, 1.0) is conditional


def test_composition_by_hand():
    """Three terms around the free branch, the last of them negated; the condition it is called with does not matter."""
    x, t = jnp.arange(3.0), jnp.asarray(0.5)
    asked = [make_condition(jnp.array(measures)) for measures in ([0.2, 0.4], [jnp.nan, 0.1], [0.9, jnp.nan])]
    free = x * 0.5
    shifts = [3.0 * 0.6 + 10.0, 3.0 * 0.1 + 5.0, 3.0 * 0.9 + 5.0]
    expected = free + 1.5 * shifts[0] + 0.5 * shifts[1] - 2.0 * shifts[2]
    for scales in ((1.5, 0.5, -2.0), jnp.array([1.5, 0.5, -2.0])):
        composed = compose(conditional, asked, scales)
        for called_with in (null_condition(2), asked[0]):
            np.testing.assert_allclose(composed(x, t, called_with), expected, rtol=1e-5)
        np.testing.assert_allclose(jax.jit(composed)(x, t, null_condition(2)), expected, rtol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1, 2.5, -1.0])
def test_composition_of_one_condition_is_guidance(scale):
    x, t, wanted = jnp.arange(3.0), jnp.asarray(0.5), make_condition(jnp.array([0.2, 0.4]))
    for scales in ([scale], jnp.array([scale])):
        found = compose(conditional, [wanted], scales)(x, t, null_condition(2))
        np.testing.assert_array_equal(found, guide(conditional, scales[0])(x, t, wanted))


def test_composition_of_nothing_or_without_scale():
    for asked, scales in (([], []), ([null_condition(2)], [1.0, 2.0]), ([null_condition(2)] * 2, jnp.ones(3))):
        with pytest.raises(ValueError, match="one scale per condition"):
            compose(conditional, asked, scales)


def gaussians(schedule, free, given):
    """A denoiser of N(mean, std^2): `free` without condition, else `given[i]` where measure i is asked for."""

    def of(mean, std, x, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x - alpha * mean)

    def denoise(x, t, condition):
        found = of(*free, x, t)
        for i, (mean, std) in enumerate(given):
            found = jnp.where(condition.mask[i] > 0, of(mean, std, x, t), found)
        return found

    return denoise


def only(i):
    return make_condition(jnp.full(2, jnp.nan).at[i].set(0.0))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("scales", [(1.0, 1.0), (2.0, 0.5), (1.0, -0.5)], ids=["and", "weighted", "not"])
def test_composition_has_the_score_of_the_product_of_gaussians(name, scales):
    """Noised Gaussians multiply to a Gaussian: precisions add, and so do precisions times means."""
    schedule, t = make_schedule(name), jnp.asarray(0.4)
    free, given = (0.5, 2.0), ((1.5, 0.4), (-0.5, 0.8))
    x = jnp.linspace(-2.0, 2.0, 9)
    found = compose(gaussians(schedule, free, given), [only(0), only(1)], scales)(x, t, null_condition(2))
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    powers = (1.0 - sum(scales), *scales)
    precisions = [p / (alpha**2 * std**2 + sigma**2) for p, (_, std) in zip(powers, (free, *given), strict=True)]
    precision = sum(precisions)
    mean = sum(p * alpha * mean for p, (mean, _) in zip(precisions, (free, *given), strict=True)) / precision
    score = -precision * (np.asarray(x) - mean)
    np.testing.assert_allclose((alpha * found - x) / sigma**2, score, rtol=2e-4, atol=2e-4)


def test_samples_of_a_composition():
    """Gaussians of one width: the product keeps it, and its mean is the free one plus the scaled shifts, at every t."""
    schedule = make_schedule("flow")
    denoise = gaussians(schedule, (0.5, STD), ((1.5, STD), (0.0, STD)))
    composed = compose(denoise, [only(0), only(1)], (1.0, -2.0))
    samples = sample(jax.random.key(0), composed, schedule, null_condition(2), (20_000,), steps=64)
    np.testing.assert_allclose(samples.mean(), 0.5 + 1.0 * 1.0 - 2.0 * -0.5, atol=0.03)
    np.testing.assert_allclose(samples.std(), STD, rtol=0.04)
