"""Noise schedules and the denoiser boundary: losses and samplers see only `denoise(x, t, condition) -> x0`."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.core
import jax.numpy as jnp

from ldpol.errors import UserError
from ldpol.model.condition import Condition, unconditional
from ldpol.types import Array

Denoise = Callable[[Array, Array, Condition], Array]
"""`(x_t [h, w, c], t [], condition) -> estimate of x_0 [h, w, c]`."""

Parametrisation = Literal["eps", "v", "flow"]
ScheduleName = Literal["linear", "cosine", "flow"]
STRONGEST = 1000.0
"""Guidance beyond this overflows sooner or later, and makes policies of NaN."""


class Schedule(NamedTuple):
    """A noise schedule as a value: x_t = alpha(t) x_0 + sigma(t) noise, t from 0 (data) to `end` (noise).

    Attributes:
      alpha: `t [] -> []`, 1 at t = 0.
      sigma: `t [] -> []`, 0 at t = 0.
      end: largest t; below 1 where alpha(1) = 0 would make eps-prediction singular.
    """

    alpha: Callable[[Array], Array]
    sigma: Callable[[Array], Array]
    end: float


def make_schedule(name: str) -> Schedule:
    """Return `linear` (DDPM), `cosine` (Nichol and Dhariwal) or `flow` (rectified flow, Liu et al.).

    Raises:
      ValueError: for another name.
    """
    if name == "flow":
        return Schedule(lambda t: 1.0 - t, lambda t: t, 1.0)
    if name == "cosine":
        return Schedule(lambda t: jnp.cos(jnp.pi / 2 * t), lambda t: jnp.sin(jnp.pi / 2 * t), 0.995)
    if name == "linear":
        # Continuous limit of beta = 1e-4 ... 0.02 over 1000 steps: alpha^2 = exp(-(0.1 t + 9.95 t^2)).
        def log_alpha(t: Array) -> Array:
            return -0.5 * (0.1 * t + 9.95 * t**2)

        return Schedule(lambda t: jnp.exp(log_alpha(t)), lambda t: jnp.sqrt(-jnp.expm1(2 * log_alpha(t))), 1.0)
    raise UserError(f"unknown noise schedule {name!r}; choose linear, cosine or flow")


def precondition(network: Callable[..., Array], schedule: Schedule, parametrisation: Parametrisation) -> Denoise:
    """Wrap a network that predicts noise, v or velocity into a denoiser.

    The three targets are eps = noise, v = alpha eps - sigma x0 and u = eps - x0; each is solved with
    x = alpha x0 + sigma eps for x0.

    Args:
      network: `(x, t, condition) -> [h, w, c]`.
      schedule: the noise schedule.
      parametrisation: what the network predicts.

    Raises:
      ValueError: for an unknown parametrisation, or eps on a schedule that ends at alpha = 0.
    """
    if parametrisation not in ("eps", "v", "flow"):
        raise UserError(f"unknown parametrisation {parametrisation!r}; choose eps, v or flow")
    with jax.ensure_compile_time_eval():  # a number even while a caller's jit is tracing
        last_alpha = float(schedule.alpha(jnp.asarray(schedule.end)))
    if parametrisation == "eps" and last_alpha < 1e-6:
        raise UserError("eps-prediction cannot start from pure noise (alpha = 0); use v or flow with this schedule")

    def denoise(x: Array, t: Array, condition: Condition) -> Array:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        out = network(x, t, condition)
        if parametrisation == "eps":
            return (x - sigma * out) / alpha
        if parametrisation == "v":
            return (alpha * x - sigma * out) / (alpha**2 + sigma**2)
        return (x - sigma * out) / (alpha + sigma)

    return denoise


def loss_weight(schedule: Schedule, parametrisation: Parametrisation, t: Array) -> Array:
    """Return the weight that turns the squared error of x0 into that of the network's own target."""
    alpha, sigma = schedule.alpha(t), jnp.maximum(schedule.sigma(t), 1e-4)
    gain = {"eps": alpha, "v": alpha**2 + sigma**2, "flow": alpha + sigma}[parametrisation] / sigma
    return gain**2


def add_noise(schedule: Schedule, latent: Array, t: Array, noise: Array) -> Array:
    """Return the noisy latent x_t = alpha(t) x_0 + sigma(t) noise."""
    return schedule.alpha(t) * latent + schedule.sigma(t) * noise


def diffusion_loss(
    denoise: Denoise,
    schedule: Schedule,
    parametrisation: Parametrisation | None,
    noisy: Array,
    t: Array,
    condition: Condition,
    target: Array,
) -> Array:
    """Return the denoising loss of one latent.

    Args:
      denoise: the denoiser in training.
      schedule: the noise schedule.
      parametrisation: whose target's squared error is meant; None: that of the clean latent itself.
      noisy: `[h, w, c]` the latent with noise.
      t: `[]` its noise level.
      condition: what it should be generated for.
      target: `[h, w, c]` the clean latent, or what it is on average.
    """
    error = denoise(noisy, t, condition) - target
    weight = 1.0 if parametrisation is None else loss_weight(schedule, parametrisation, t)
    return weight * jnp.mean(error**2)


def guide(denoise: Denoise, scale: float | Array) -> Denoise:
    """Strengthen a condition by classifier-free guidance (Ho and Salimans 2022).

    Args:
      denoise: a denoiser trained with and without condition.
      scale: 0 ignores the condition, 1 is the conditional model as trained, more exaggerates it.

    Raises:
      ValueError: outside of jit, if it is not finite or so strong that the estimates would overflow.
    """
    if not isinstance(scale, jax.core.Tracer) and not abs(scale) <= STRONGEST:
        raise UserError(f"guidance must be a number of at most {STRONGEST:g}, found {scale}")
    if isinstance(scale, int | float) and scale == 1:
        return denoise

    def guided(x: Array, t: Array, condition: Condition) -> Array:
        base = denoise(x, t, unconditional(condition))
        return base + scale * (denoise(x, t, condition) - base)

    return guided


def compose(denoise: Denoise, conditions: Sequence[Condition], scales: Sequence[float] | Array) -> Denoise:
    """Ask for several conditions at once (composable diffusion, Liu et al. 2022): guided differences, summed.

    The estimate is D(free) + sum_k scale_k (D(condition_k) - D(free)). The score is linear in it, so this follows, at
    each noise level, the score of p(x) prod_k (p(x | condition_k) / p(x))^scale_k: the conjunction AND of conditions
    that are independent given x, and NOT a condition where its scale is negative. p are densities of noisy latents, and
    noising a product is not the product of the noised: samples follow the conjunction only approximately.

    Args:
      denoise: a denoiser trained with and without condition; it is evaluated K + 1 times.
      conditions: K of them.
      scales: K strengths; with one condition this is `guide`.

    Returns:
      A denoiser that asks for `conditions`, whatever condition it is called with.

    Raises:
      ValueError: if there is no condition, or the numbers of conditions and scales differ.
    """
    count = len(scales) if isinstance(scales, Sequence) else scales.shape[0]
    if not conditions or len(conditions) != count:
        raise UserError(f"compose needs one scale per condition and at least one, found {len(conditions)} and {count}")
    if count == 1:
        alone = guide(denoise, scales[0])
        return lambda x, t, condition: alone(x, t, conditions[0])

    def composed(x: Array, t: Array, condition: Condition) -> Array:
        base = denoise(x, t, unconditional(conditions[0]))
        return base + sum(scales[k] * (denoise(x, t, one) - base) for k, one in enumerate(conditions))

    return composed
