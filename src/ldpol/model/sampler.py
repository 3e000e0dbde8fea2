"""One sampling loop for every schedule, the integration step injected."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from ldpol.errors import UserError
from ldpol.model.condition import Condition
from ldpol.model.diffusion import STRONGEST, Denoise, Schedule
from ldpol.settings import check
from ldpol.types import Array, Key

Step = Callable[[Denoise, Schedule, Array, Array, Array, Condition, Key], Array]
"""`(denoise, schedule, x, t, t_next, condition, key) -> x at t_next`."""

Method = Literal["ddim", "heun", "ancestral"]


@dataclass(frozen=True)
class SamplerConfig:
    """How a generator samples where a call does not say otherwise.

    Attributes:
      steps: integration steps.
      method: `ddim`, `heun` or `ancestral`.
      guidance: strength of conditions; 1 is the model as trained.
      text_guidance: strength of sentences, which leave more open than measures do.
    """

    steps: int = 8
    method: Method = "ancestral"
    guidance: float = 1.0
    text_guidance: float = 2.0

    def __post_init__(self) -> None:
        """Check the settings."""
        strong = {"guidance": STRONGEST, "text_guidance": STRONGEST}
        check(self, least={"steps": 1} | {name: -most for name, most in strong.items()}, most=strong)


def _directions(denoise: Denoise, schedule: Schedule, x: Array, t: Array, condition: Condition) -> tuple[Array, Array]:
    clean = denoise(x, t, condition)
    return clean, (x - schedule.alpha(t) * clean) / schedule.sigma(t)


def ddim_step(
    denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, condition: Condition, key: Key
) -> Array:
    """Deterministic DDIM (Song et al. 2021, eq. 12 with eta 0); on the flow schedule, Euler's method.

    The probability-flow ODE is dx = alpha' x0 dt + sigma' eps dt; holding both estimates fixed over the step gives
    x_next = alpha_next x0 + sigma_next eps.
    """
    del key
    clean, noise = _directions(denoise, schedule, x, t, condition)
    return schedule.alpha(t_next) * clean + schedule.sigma(t_next) * noise


def heun_step(
    denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, condition: Condition, key: Key
) -> Array:
    """Heun's second-order step (Karras et al. 2022, algorithm 1): average the estimates at both ends.

    The last step, to t = 0, stays first-order: the noise estimate is undefined there.
    """
    del key
    clean, noise = _directions(denoise, schedule, x, t, condition)
    d_alpha, d_sigma = schedule.alpha(t_next) - schedule.alpha(t), schedule.sigma(t_next) - schedule.sigma(t)
    guess = x + d_alpha * clean + d_sigma * noise
    # At t = 0 evaluate somewhere harmless and throw the result away, so that no NaN reaches a gradient.
    safe = jnp.where(t_next > 0, t_next, t)
    clean_next, noise_next = _directions(denoise, schedule, guess, safe, condition)
    corrected = x + d_alpha * (clean + clean_next) / 2 + d_sigma * (noise + noise_next) / 2
    return jnp.where(t_next > 0, corrected, guess)


def ancestral_step(
    denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, condition: Condition, key: Key
) -> Array:
    """Draw from q(x_next | x, x0) of DDPM (Ho et al. 2020, eq. 7), which is DDIM with eta 1, at the estimated x0.

    Fresh noise in every step makes up for errors of the denoiser that a deterministic path would carry along.
    """
    clean, noise = _directions(denoise, schedule, x, t, condition)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    alpha_next, variance = schedule.alpha(t_next), schedule.sigma(t_next) ** 2
    fresh = variance * jnp.maximum(1.0 - alpha**2 * variance / (alpha_next * sigma) ** 2, 0.0)
    mean = alpha_next * clean + jnp.sqrt(jnp.maximum(variance - fresh, 0.0)) * noise
    return mean + jnp.sqrt(fresh) * jax.random.normal(key, x.shape)


STEPS: dict[str, Step] = {"ddim": ddim_step, "heun": heun_step, "ancestral": ancestral_step}


def noise_levels(schedule: Schedule, steps: int) -> Array:
    """Return the noise levels `[steps + 1]` between the steps of the sampler, from `schedule.end` to 0."""
    return jnp.linspace(schedule.end, 0.0, steps + 1)


def sample(
    key: Key,
    denoise: Denoise,
    schedule: Schedule,
    condition: Condition,
    shape: tuple[int, ...],
    *,
    steps: int,
    method: Method = "ddim",
) -> Array:
    """Draw one latent.

    Args:
      key: decides the initial noise, and what `ancestral` adds in each step.
      denoise: the (guided) denoiser.
      schedule: the noise schedule it was trained on.
      condition: what is asked for.
      shape: `(h, w, c)`.
      steps: integration steps, equally spaced in t from `schedule.end` to 0.
      method: `ddim` or `ancestral` (one evaluation a step), or `heun` (two).

    Raises:
      ValueError: for an unknown method or fewer than one step.
    """
    if method not in STEPS or steps < 1:
        raise UserError(f"sampling takes method {', '.join(STEPS)} and steps >= 1, found {method!r} and {steps}")
    times = noise_levels(schedule, steps)
    start_key, steps_key = jax.random.split(key)
    x = jax.random.normal(start_key, shape) * schedule.sigma(times[0])

    def body(x: Array, now: tuple[Array, Array, Key]) -> tuple[Array, None]:
        t, t_next, step_key = now
        return STEPS[method](denoise, schedule, x, t, t_next, condition, step_key), None

    x, _ = jax.lax.scan(body, x, (times[:-1], times[1:], jax.random.split(steps_key, steps)))
    return x
