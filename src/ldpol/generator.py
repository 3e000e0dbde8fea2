"""Measures to policies: the one object a user keeps. Save, load, export."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import export as jax_export

from ldpol import storage
from ldpol.archive import Grid
from ldpol.model.autoencoder import AutoencoderConfig, Decoder
from ldpol.model.condition import Condition, ask, joint, nothing
from ldpol.model.diffusion import Denoise, Parametrisation, compose, guide, make_schedule, precondition
from ldpol.model.sampler import Method, sample
from ldpol.model.unet import DenoiserConfig, make_network
from ldpol.policy import PolicyShape
from ldpol.types import Array, Key, Params, PyTree

KIND = "generator"
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
"""What `jax.export` lowers for; it takes other names without a word and writes what no machine can run."""


@struct.dataclass
class PolicyGenerator:
    """A generative model of the policies of one archive. A frozen pytree: pass it through jit, vmap and grad.

    Attributes:
      decoder: parameters of the hypernetwork.
      denoiser: parameters of the denoising network.
      latent_mean: `[h, w, c]` mean of the latents over the whole archive.
      latent_scale: `[]` their standard deviation.
      shape: architecture of the policies.
      autoencoder: architecture of the decoder.
      network: architecture of the denoiser.
      schedule: name of the noise schedule.
      parametrisation: what the denoiser predicts.
      grid: bounds of the measures, and the archive's grid.
      measure_names: what the measures are.
      task: name of the task.
      settings: what the task was made with.
      steps, method, guidance: sampling defaults.
    """

    decoder: PyTree
    denoiser: PyTree
    latent_mean: Array
    latent_scale: Array
    shape: PolicyShape = struct.field(pytree_node=False)
    autoencoder: AutoencoderConfig = struct.field(pytree_node=False)
    network: DenoiserConfig = struct.field(pytree_node=False)
    schedule: str = struct.field(pytree_node=False)
    parametrisation: Parametrisation = struct.field(pytree_node=False)
    grid: Grid = struct.field(pytree_node=False)
    measure_names: tuple[str, ...] = struct.field(pytree_node=False)
    task: str = struct.field(pytree_node=False)
    settings: tuple[tuple[str, Any], ...] = struct.field(pytree_node=False, default=())
    steps: int = struct.field(pytree_node=False, default=5)
    method: Method = struct.field(pytree_node=False, default="ddim")
    guidance: float = struct.field(pytree_node=False, default=1.0)

    def condition(self, measures: Array | None) -> Condition:
        """Scale measures `[M]` in task units to a condition; NaN leaves one free, None all."""
        count = len(self.measure_names)
        if measures is None:
            return nothing(count)
        measures = jnp.asarray(measures, jnp.float32)
        if measures.shape != (count,):
            raise ValueError(
                f"expected {count} measures ({', '.join(self.measure_names)}), found shape {measures.shape}; "
                "for a batch, jax.vmap over keys and measures"
            )
        if not isinstance(measures, jax.core.Tracer):
            outside = [
                f"{name} = {value:g} (allowed {low:g} to {high:g})"
                for name, value, low, high in zip(
                    # NumPy's, because an element of a constant is a tracer inside of jit.
                    self.measure_names,
                    np.asarray(measures).tolist(),
                    self.grid.low,
                    self.grid.high,
                    strict=True,
                )
                if value < low or value > high
            ]
            if outside:
                raise ValueError(f"measures outside their bounds: {'; '.join(outside)}")
        low, high = jnp.asarray(self.grid.low), jnp.asarray(self.grid.high)
        return ask((measures - low) / (high - low))

    def denoise(self, x: Array, t: Array, condition: Condition) -> Array:
        """Return the trained estimate of the clean standardised latent `[h, w, c]`; a `Denoise` function.

        Args:
          x: `[h, w, c]` the noisy latent.
          t: `[]` its noise level.
          condition: what is asked for.
        """
        network = partial(make_network(self.network, self.autoencoder.latent).apply, {"params": self.denoiser})
        denoise = precondition(network, make_schedule(self.schedule), self.parametrisation)  # type: ignore[arg-type]
        return denoise(x, t, condition)

    def _draw(
        self, key: Key, denoise: Denoise, condition: Condition, steps: int | None, method: Method | None
    ) -> Array:
        latent = sample(
            key,
            denoise,
            make_schedule(self.schedule),
            condition,
            self.autoencoder.latent,
            steps=self.steps if steps is None else steps,
            method=self.method if method is None else method,
        )
        return latent * self.latent_scale + self.latent_mean

    def sample_latent(
        self,
        key: Key,
        condition: Condition,
        *,
        guidance: float | Array | None = None,
        steps: int | None = None,
        method: Method | None = None,
    ) -> Array:
        """Draw one latent `[h, w, c]` for a condition; arguments as in `sample`."""
        denoise = guide(self.denoise, self.guidance if guidance is None else guidance)
        return self._draw(key, denoise, condition, steps, method)

    def decode(self, latent: Array, condition: Condition) -> Params:
        """Turn one latent `[h, w, c]` into policy parameters."""
        return Decoder(self.shape, self.autoencoder).apply({"params": self.decoder}, latent, condition)

    def sample(
        self,
        key: Key,
        measures: Array | None = None,
        *,
        guidance: float | Array | None = None,
        steps: int | None = None,
        method: Method | None = None,
    ) -> Params:
        """Draw the parameters of one policy that behaves as asked. Pure: jit, vmap and grad it.

        Args:
          key: one key, one policy.
          measures: `[M]` in task units; NaN leaves a measure free; None asks for nothing.
          guidance: strength of the condition; 1 is the model as trained.
          steps: integration steps.
          method: `ddim` or `heun`.

        Raises:
          ValueError: if measures have the wrong shape or, outside of jit, lie outside their bounds.
        """
        condition = self.condition(measures)
        latent = self.sample_latent(key, condition, guidance=guidance, steps=steps, method=method)
        return self.decode(latent, condition)

    def sample_composed(
        self,
        key: Key,
        measures: Array,
        scales: Array,
        *,
        decoded_as: Array | None = None,
        steps: int | None = None,
        method: Method | None = None,
    ) -> Params:
        """Draw one policy for several conditions at once: AND, or NOT where the scale is negative (see `compose`).

        Args:
          key: one key, one policy.
          measures: `[K, M]` K conditions in task units; NaN leaves a measure free.
          scales: `[K]` their strengths.
          decoded_as: `[M]` what the decoder, which sees measures too, is told. None: the joint of the conditions with
            positive scales, which must not name the same measure.
          steps: integration steps.
          method: `ddim` or `heun`.

        Raises:
          ValueError: if measures have the wrong shape, there is not one scale a condition, or, outside of jit,
            measures lie outside their bounds or two conditions name the same measure and `decoded_as` is not given.
        """
        measures, scales = jnp.asarray(measures, jnp.float32), jnp.asarray(scales, jnp.float32)
        if measures.ndim != 2 or scales.shape != measures.shape[:1]:
            raise ValueError(
                f"expected conditions [K, {len(self.measure_names)}] and one scale each, found shapes "
                f"{measures.shape} and {scales.shape}; for a batch, jax.vmap over keys and conditions"
            )
        conditions = [self.condition(one) for one in measures]
        told = joint(conditions, scales) if decoded_as is None else self.condition(decoded_as)
        latent = self._draw(key, compose(self.denoise, conditions, scales), told, steps, method)
        return self.decode(latent, told)

    def apply(self, params: Params, observation: Array) -> Array:
        """Return the action `[A]` of a sampled policy at an observation `[O]`."""
        return self.shape.apply(params, observation)

    @property
    def size(self) -> int:
        """Numbers needed to generate: decoder, denoiser and statistics."""
        return sum(leaf.size for leaf in jax.tree.leaves(self))

    @property
    def nbytes(self) -> int:
        """Bytes of those numbers."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self))

    def save(self, path: Path | str) -> None:
        """Write the generator to a folder; `ldpol.load` reads it."""
        storage.save(Path(path), _arrays(self), kind=KIND, about=_settings(self))

    def export(self, path: Path | str, *, platforms: tuple[str, ...] = ("cpu", "cuda")) -> None:
        """Write a `jax.export` artifact that needs only jax to run.

        The exported function is `(keys [B, 2] uint32, measures [B, M]) -> policies`, a pytree of nested dicts with a
        leading axis B of any size; keys are raw key data (`jax.random.key_data`), NaN leaves a measure free. Read it
        with `jax.export.deserialize(bytearray(open(path, "rb").read())).call`.

        Raises:
          ValueError: if a platform is unknown to jax.
        """
        if not platforms or set(platforms) - set(PLATFORMS):
            raise ValueError(f"platforms must be some of {', '.join(PLATFORMS)}, found {platforms}")
        batch = jax_export.symbolic_shape("b")[0]
        low, high = jnp.asarray(self.grid.low), jnp.asarray(self.grid.high)

        def generate(keys: Array, measures: Array) -> Params:
            def one(key: Array, wanted: Array) -> Params:
                condition = ask((wanted - low) / (high - low))
                return self.decode(self.sample_latent(jax.random.wrap_key_data(key), condition), condition)

            return jax.vmap(one)(keys, measures)

        exported = jax_export.export(jax.jit(generate), platforms=platforms)(
            jax.ShapeDtypeStruct((batch, 2), jnp.uint32),
            jax.ShapeDtypeStruct((batch, len(self.measure_names)), jnp.float32),
        )
        storage.write_bytes(Path(path), bytes(exported.serialize()))


def load(path: Path | str) -> PolicyGenerator:
    """Read a generator written by `PolicyGenerator.save`; never executes anything from the file.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it is damaged or of another kind.
    """
    arrays, about = storage.load(Path(path), kind=KIND)
    try:
        static = {name: parse(about[name]) for name, parse in _PARSERS.items()}
        return PolicyGenerator(**jax.tree.map(jnp.asarray, arrays), **static)
    except (KeyError, TypeError) as error:
        raise ValueError(f"the generator at {path} lacks or has unknown settings: {error}") from error


def _deep_tuple(value: Any) -> Any:
    return tuple(_deep_tuple(v) for v in value) if isinstance(value, list) else value


def _named(cls: type) -> Callable[[Mapping[str, Any]], Any]:
    return lambda fields: cls(**{name: _deep_tuple(value) for name, value in fields.items()})


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "shape": _named(PolicyShape),
    "autoencoder": _named(AutoencoderConfig),
    "network": _named(DenoiserConfig),
    "grid": _named(Grid),
    "schedule": str,
    "parametrisation": str,
    "measure_names": tuple,
    "task": str,
    "settings": lambda value: tuple(value.items()),
    "steps": int,
    "method": str,
    "guidance": float,
}


def _arrays(generator: PolicyGenerator) -> dict[str, PyTree]:
    names = [field.name for field in dataclasses.fields(generator) if field.metadata.get("pytree_node", True)]
    return {name: getattr(generator, name) for name in names}


def _settings(generator: PolicyGenerator) -> dict[str, Any]:
    settings = {}
    for name in _PARSERS:
        value = getattr(generator, name)
        settings[name] = value._asdict() if hasattr(value, "_asdict") else dict(value) if name == "settings" else value
    return settings
