"""Measures to policies: the one object a user keeps. Save, load, export."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ldpol import generator_requests as requests
from ldpol import storage
from ldpol.archive import Tessellation
from ldpol.errors import UserError
from ldpol.generator_export import serialise
from ldpol.generator_settings import arrays_of, settings_of
from ldpol.language.reader import Language, read
from ldpol.language.text import TextEncoder
from ldpol.model.answering import Kernel, Source, answer_set, answer_verified
from ldpol.model.condition import Condition, make_condition, merge_conditions
from ldpol.model.decoder import AutoencoderConfig, Decoder
from ldpol.model.denoiser import DenoiserConfig, make_network
from ldpol.model.diffusion import Denoise, Parametrisation, compose, guide, make_schedule, precondition
from ldpol.model.image import Scaling, image_shape, split_image
from ldpol.model.sampler import Method, SamplerConfig, sample
from ldpol.model.verified import VerifiedBank
from ldpol.networks import Network
from ldpol.precision import Precision, compress
from ldpol.types import Array, Key, Params, PyTree

KIND = "generator"


@struct.dataclass
class PolicyGenerator:
    """A generative model of the policies of one archive. A frozen pytree: pass it through jit, vmap and grad.

    Attributes:
      decoder: parameters of the hypernetwork.
      denoiser: parameters of the denoising network; empty for a model that answers from verified draws alone.
      scaling: from what the denoiser sees to latents and measures.
      reader: parameters of the tower that reads text; empty for a model without language.
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
      text_guidance: default guidance of sentences, which leave more open than measures do.
      language: what the reader was trained on; None for a model without language.
      precision: in which its file keeps the numbers; in memory they are float32.
      bank: verified draws, or None.
      kernel: which of them answer a request.
    """

    decoder: PyTree
    denoiser: PyTree
    scaling: Scaling
    reader: PyTree
    shape: Network = struct.field(pytree_node=False)
    autoencoder: AutoencoderConfig = struct.field(pytree_node=False)
    network: DenoiserConfig = struct.field(pytree_node=False)
    schedule: str = struct.field(pytree_node=False)
    parametrisation: Parametrisation = struct.field(pytree_node=False)
    grid: Tessellation = struct.field(pytree_node=False)
    measure_names: tuple[str, ...] = struct.field(pytree_node=False)
    task: str = struct.field(pytree_node=False)
    settings: tuple[tuple[str, Any], ...] = struct.field(pytree_node=False, default=())
    steps: int = struct.field(pytree_node=False, default=SamplerConfig.steps)
    method: Method = struct.field(pytree_node=False, default=SamplerConfig.method)
    guidance: float = struct.field(pytree_node=False, default=SamplerConfig.guidance)
    text_guidance: float = struct.field(pytree_node=False, default=SamplerConfig.text_guidance)
    language: Language | None = struct.field(pytree_node=False, default=None)
    precision: Precision = struct.field(pytree_node=False, default="float32")
    bank: VerifiedBank | None = None
    kernel: Kernel = struct.field(pytree_node=False, default=Kernel())

    @property
    def words(self) -> int:
        """Size L of the text token, 0 for a model without language."""
        return len(self._claims)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape `(h, w, C)` of what the denoiser makes."""
        return image_shape(self.autoencoder)

    def condition(
        self, measures: Array | None = None, *, quality: float | Array | None = None, text: Array | None = None
    ) -> Condition:
        """Put wishes together, all of them optional.

        Args:
          measures: `[M]` in task units; NaN leaves one free, None all.
          quality: `[]` which quantile of the archive's fitness, in [0, 1]; NaN or None leaves it free.
          text: `[L]` what `read` made of a sentence; NaN or None for no sentence.

        Raises:
          UserError: for the wrong shapes, text without language or, outside of jit, values outside their bounds.
        """
        if text is not None:
            requests.check_text(text, self.words, self.task)
        requests.check_quality(quality)
        measures = jnp.full(len(self.measure_names), jnp.nan) if measures is None else measures
        scaled = requests.scale_measures(measures, self.measure_names, self.grid)
        return make_condition(scaled, quality, text, words=self.words)

    def denoise(self, x: Array, t: Array, condition: Condition) -> Array:
        """Return the trained estimate of the clean standardised image `[h, w, C]`, a `Denoise`; needs the denoiser."""
        requests.check_denoiser(self.denoiser, self.task)
        network = partial(make_network(self.network, self.image_shape).apply, {"params": self.denoiser})
        denoise = precondition(network, make_schedule(self.schedule), self.parametrisation)  # type: ignore[arg-type]
        return denoise(x, t, condition)

    def _draw(
        self,
        key: Key,
        condition: Condition,
        decoder_condition: Condition,
        denoise: Denoise,
        steps: int | None,
        method: Method | None,
    ) -> tuple[Array, Array]:
        """Draw an image for one condition and split it for another, the decoder's."""
        drawn = sample(
            key,
            denoise,
            make_schedule(self.schedule),
            condition,
            self.image_shape,
            steps=self.steps if steps is None else steps,
            method=self.method if method is None else method,
        )
        return split_image(self.autoencoder, self.scaling.apply(drawn), decoder_condition)

    def sample_latent(
        self,
        key: Key,
        condition: Condition,
        *,
        guidance: float | Array | None = None,
        steps: int | None = None,
        method: Method | None = None,
        impute: bool = True,
        verified: bool | None = None,
    ) -> tuple[Array, Array, Source]:
        """Draw one latent `[h, w, c]` for a condition, all measures `[M]` in [0, 1] to decode it with, and its source.

        A latent that diffusion draws is decoded with the measures that were asked for; arguments as in `sample`.
        """
        bank = self._bank(verified)
        free_key, draw_key, bank_key = jax.random.split(key, 3)
        if bank is not None:
            return answer_verified(bank_key, bank, condition, self.kernel, self.grid, claims=self._claims)
        full = condition
        if impute and self.autoencoder.octaves:
            # p(latent, free | target) = p(free | target) p(latent | free, target). The denoiser answers complete
            # requests best, and where several modes answer an incomplete one, this settles on one of them.
            # Not under a cond where something is free: vmapped, that would copy the weights for every item.
            _, measures, _ = self.sample_latent(
                free_key, condition, guidance=guidance, steps=steps, method=method, impute=False, verified=False
            )
            full = dataclasses.replace(condition, measures=measures, mask=jnp.ones_like(measures))
        denoise = guide(self.denoise, self.guidance if guidance is None else guidance)
        source = Source(jnp.zeros((), bool), jnp.full((), jnp.inf))
        return *self._draw(draw_key, full, condition, denoise, steps, method), source

    @property
    def _claims(self) -> tuple[tuple[str, float, float], ...]:
        return self.language.claims if self.language else ()

    def _bank(self, verified: bool | None) -> VerifiedBank | None:
        if verified and self.bank is None:
            raise UserError("this model has no verified draws; use verified=False, or distil with verify.rows > 0")
        return None if verified is False else self.bank

    def decode(self, latent: Array, measures: Array) -> Params:
        """Turn one latent `[h, w, c]` and all its measures `[M]` in [0, 1] into policy parameters."""
        return Decoder(self.shape, self.autoencoder).apply({"params": self.decoder}, latent, make_condition(measures))

    def sample(
        self,
        key: Key,
        measures: Array | None = None,
        *,
        quality: float | Array | None = None,
        text: Array | None = None,
        guidance: float | Array | None = None,
        steps: int | None = None,
        method: Method | None = None,
        impute: bool = True,
        verified: bool | None = None,
    ) -> Params:
        """Draw the parameters of one policy that behaves as asked. Pure: jit, vmap and grad it.

        Args:
          key: one key per policy.
          measures: `[M]` in task units; NaN leaves a measure free; None all of them.
          quality: `[]` which quantile of the archive's fitness; NaN or None leaves it free.
          text: `[L]` what `read` made of a sentence; NaN or None for no sentence.
          guidance: of diffusion, as the next three are: strength of the condition; 1 is the model as trained.
          steps: integration steps.
          method: `ddim`, `heun` or `ancestral`.
          impute: draw measures that are left free first, then a policy for all of them, which hits what was asked
            for more often. That draw is paid for even where nothing is free; False saves it.
          verified: answer from the verified draws, by one that did what is asked for or else by the nearest; False
            draws anew by diffusion; None is True for a model that has such draws.

        Raises:
          UserError: if measures or text have the wrong shape or, outside of jit, values lie outside their bounds.
        """
        how = {"guidance": guidance, "steps": steps, "method": method, "impute": impute, "verified": verified}
        return self.sample_with_source(key, measures, quality=quality, text=text, **how)[0]

    def sample_with_source(
        self,
        key: Key,
        measures: Array | None = None,
        *,
        quality: float | Array | None = None,
        text: Array | None = None,
        **how: Any,
    ) -> tuple[Params, Source]:
        """Draw one policy as `sample` does, same arguments, and say where it comes from."""
        condition = self.condition(measures, quality=quality, text=text)
        latent, given, source = self.sample_latent(key, condition, **how)
        return self.decode(latent, given), source

    def sample_set(
        self,
        key: Key,
        count: int,
        measures: Array | None = None,
        *,
        quality: float | Array | None = None,
        text: Array | None = None,
        verified: bool | None = None,
        **how: Any,
    ) -> tuple[Params, Source]:
        """Draw n policies for one request that do it in different ways. Pure: jit (`count` static) and vmap it.

        Verified draws that answer the request are chosen to differ in their traits; where there are fewer than n, the
        next likeliest make up the number.

        Args:
          key: one key, one set.
          count: n.
          measures, quality, text: as in `sample`.
          verified: False is diffusion alone: n independent draws.
          how: guidance, steps, method and impute.

        Returns:
          n policies, leading axis on every leaf, and `[n]` where each comes from.

        Raises:
          UserError: as `sample`, and if `count` is less than 1 or more than there are verified draws.
        """
        condition, bank = self.condition(measures, quality=quality, text=text), self._bank(verified)
        requests.check_count(count, None if bank is None else len(bank))
        if bank is None:
            draw = partial(self.sample_latent, condition=condition, verified=False, **how)
            found = jax.vmap(draw)(jax.random.split(key, count))
        else:
            found = answer_set(key, count, bank, condition, self.kernel, self.grid, claims=self._claims)
        return jax.vmap(self.decode)(*found[:2]), found[2]

    def read(self, texts: Sequence[str], encoder: TextEncoder | None = None) -> Array:
        """Read sentences, on the host: what `sample` takes as `text`, one row per sentence.

        Args:
          texts: n sentences.
          encoder: None loads the one the model was trained with.

        Returns:
          `[n, L]` how sure the model is of each of its claims; `language.understanding.describe_understanding` puts it
          into words.

        Raises:
          ValueError: if the model has no language, or a text is empty, too long or of unknown words only; where only
            some are unknown there is a warning.
        """
        if self.language is None:
            raise UserError(f"this model of {self.task} was trained without language; ask for measures")
        return read(self.language, self.reader, texts, encoder)

    def from_text(
        self, key: Key, text: str, measures: Array | None = None, *, encoder: TextEncoder | None = None, **how: Any
    ) -> Params:
        """Draw the parameters of one policy that behaves as a sentence says; not to be jitted, see `read`.

        Args:
          key: one key per policy.
          text: such as "hop on the left leg, fast".
          measures: `[M]` in task units to ask for beside it.
          encoder: as in `read`.
          how: further arguments of `sample`; guidance is `text_guidance` unless it says otherwise.

        Raises:
          ValueError: as `read` and `sample`.
        """
        how = {"guidance": self.text_guidance} | how
        return self.sample(key, measures, text=self.read([text], encoder)[0], **how)

    def sample_composed(
        self,
        key: Key,
        measures: Array,
        scales: Array,
        *,
        steps: int | None = None,
        method: Method | None = None,
    ) -> Params:
        """Draw one policy for several conditions at once: AND, or NOT where the scale is negative (see `compose`).

        The decoder, which sees measures too, gets those that exactly one condition with a positive scale asks for;
        the others the denoiser makes up beside the latent, also where two conditions pull one measure both ways.

        Args:
          key: one key per policy.
          measures: `[K, M]` K conditions in task units; NaN leaves a measure free.
          scales: `[K]` their strengths.
          steps, method: as in `sample`.

        Raises:
          ValueError: if measures have the wrong shape, there is not one scale per condition, or, outside of jit,
            measures lie outside their bounds.
        """
        measures, scales = jnp.asarray(measures, jnp.float32), jnp.asarray(scales, jnp.float32)
        requests.check_composition(measures, scales, len(self.measure_names))
        conditions = [self.condition(one) for one in measures]
        decoder_condition, denoise = merge_conditions(conditions, scales), compose(self.denoise, conditions, scales)
        _, draw_key = jax.random.split(key)  # that of `sample`, so that one condition alone is answered as there
        return self.decode(*self._draw(draw_key, decoder_condition, decoder_condition, denoise, steps, method))

    def without_denoiser(self) -> "PolicyGenerator":
        """Return the model without what verified draws do not need: the same answers from half a file.

        It cannot draw anew (`verified=False`) nor compose conditions.

        Raises:
          UserError: for a model without verified draws.
        """
        if self.bank is None:
            raise UserError("this model has no verified draws and needs its denoiser; distil with verify.rows > 0")
        return dataclasses.replace(self, denoiser={})

    def apply(self, params: Params, observation: Array) -> Array:
        """Return the action `[A]` of a policy at an observation `[O]`."""
        return self.shape.apply(params, observation)

    @property
    def size(self) -> int:
        """Numbers needed to generate: decoder, denoiser and statistics."""
        return sum(leaf.size for leaf in jax.tree.leaves(self))

    @property
    def nbytes(self) -> int:
        """Bytes of the file that `save` writes: those numbers in `precision`, and all settings."""
        return len(self._packed())

    def _packed(self) -> bytearray:
        about = {**settings_of(self), "columns": [] if self.bank is None else list(self.bank.columns)}
        stored = jax.jit(compress, static_argnums=1)(arrays_of(self), self.precision)
        return storage.pack(stored, kind=KIND, about=about)

    def save(self, path: Path | str, precision: Precision | None = None) -> int:
        """Write the generator to one file; `ldpol.load` reads it.

        Args:
          path: the file; what was there is replaced.
          precision: of the numbers in the file; None: the generator's own.

        Returns:
          The bytes of the file.

        Raises:
          ValueError: for an unknown precision.
        """
        storage.write_bytes(path, content := dataclasses.replace(self, precision=precision or self.precision)._packed())
        return len(content)

    def export(self, path: Path | str, *, platforms: tuple[str, ...] = ("cpu", "cuda")) -> None:
        """Write a `jax.export` artifact that needs only jax to run.

        It is `(keys [B, 2] uint32, measures [B, M]) -> policies`, a pytree of nested dicts with a
        leading axis B of any size; keys are raw key data (`jax.random.key_data`), NaN leaves a measure free. Read it
        with `jax.export.deserialize(bytearray(open(path, "rb").read())).call`.

        Raises:
          ValueError: if a platform is unknown to jax.
        """
        storage.write_bytes(Path(path), serialise(self.sample, len(self.measure_names), platforms))
