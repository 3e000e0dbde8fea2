"""What a row can be: frozen settings with `fit(context) -> Model`. Equal settings share what they make."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import jax

from ldpol.baselines import cloned, cvae, gaussian, latents, quantised, subsampled
from ldpol.baselines.cloned import ClonedConfig
from ldpol.distillation.config import DistillConfig
from ldpol.errors import UserError
from ldpol.generator import PolicyGenerator
from ldpol.hooks import Hooks
from ldpol.keys import key_for
from ldpol.model.sampler import SamplerConfig
from ldpol.precision import Precision, compress, expand, size
from ldpol.storage import nbytes
from ldpol.study.context import StudyContext, describe, digest, timed
from ldpol.train_loop import OptimiserConfig
from ldpol.types import Array, Key, Params, PyTree


@dataclass(frozen=True)
class Model:
    """A fitted row.

    Attributes:
      tree: everything needed to generate, as it is stored.
      generate: `(tree, key, measures [M]) -> policy`, pure; a function of a module, so that it is compiled once.
      bytes: of the file that holds it.
      size: its numbers.
      seconds: its training took.
      apply: `(expanded tree, policy, observation) -> action` where policies share the numbers of the tree; None: they
        are policies of the archive's network.
    """

    tree: PyTree
    generate: Callable[[PyTree, Key, Array], Params]
    bytes: int
    size: int
    seconds: float = 0.0
    apply: Callable[[PyTree, Params, Array], Array] | None = None


class Method(Protocol):
    """A way to keep an archive in few bytes; `kind` is its colour in the figure."""

    kind: ClassVar[str]

    def fit(self, context: StudyContext) -> Model:
        """Make the model."""
        ...


def as_model(tree: PyTree, generate: Callable[..., Params], seconds: float = 0.0, apply: Any = None) -> Model:
    """Return the model that a tree is, as it is stored, with its bytes and numbers counted."""
    return Model(tree, generate, nbytes(tree), size(tree), seconds, apply)


@dataclass(frozen=True)
class LatentDiffusion:
    """Our model.

    Attributes:
      config: of its training.
      precision: of its file.
      sampler: other settings than it was trained for, then of diffusion alone, for verified draws take none; None:
        those.
    """

    kind: ClassVar[str] = "ours"
    config: DistillConfig
    precision: Precision = "float32"
    sampler: SamplerConfig | None = None

    def fit(self, context: StudyContext) -> Model:
        """Distil the archive."""
        made = context.trained(self.config)
        sampler = {} if self.sampler is None else dataclasses.asdict(self.sampler) | {"bank": None}
        generator = dataclasses.replace(made.generator, precision=self.precision, **sampler)
        stored = compress(generator, self.precision)
        return Model(stored, _sample, generator.nbytes, size(stored), made.seconds)


@dataclass(frozen=True)
class Published(LatentDiffusion):
    """The published method, or near it."""

    kind: ClassVar[str] = "paper"


def _sample(stored: PolicyGenerator, key: Key, measures: Array) -> Params:
    return expand(stored).sample(key, measures)


@dataclass(frozen=True)
class Quantised:
    """The whole archive in fewer bits, asked for the nearest elite."""

    kind: ClassVar[str] = "quantised"
    precision: Precision

    def fit(self, context: StudyContext) -> Model:
        """Store all trained elites."""
        trained = context.split.trained
        return as_model(quantised.fit(trained.policies, trained.measures, self.precision), quantised.generate)


@dataclass(frozen=True)
class Subsampled:
    """As many well-chosen elites as fit into the bytes of another model."""

    kind: ClassVar[str] = "subsampled"
    like: Method
    precision: Precision = "float32"

    def fit(self, context: StudyContext) -> Model:
        """Choose and store them."""
        trained, budget = context.split.trained, self.like.fit(context).bytes

        def weigh(count: int) -> int:
            policies = jax.tree.map(lambda leaf: leaf[:count], trained.policies)
            return nbytes(quantised.fit(policies, trained.measures[:count], self.precision))

        count = largest(weigh, _most(context, len(trained), budget), budget)
        elites = (trained.grid, trained.policies, *self.labels(context))
        return as_model(subsampled.fit(*elites, count=count, precision=self.precision), subsampled.generate)

    def labels(self, context: StudyContext) -> tuple[Array, Array]:
        """Return fitness `[N]` and measures `[N, M]` of the trained elites, by which they are chosen and looked up."""
        return context.split.trained.fitness, context.split.trained.measures


@dataclass(frozen=True)
class Regression:
    """Of latents or coefficients on the measures, see `baselines.conditional.fit`."""

    octaves: int = 4
    directions: int = 128
    ridge: float = 1e-3


@dataclass(frozen=True)
class PrincipalGaussian:
    """As many principal components as fit into the bytes of another model, with a Gaussian of their coefficients."""

    kind: ClassVar[str] = "gaussian"
    like: Method
    precision: Precision = "float32"
    temperature: float = 1.0
    regression: Regression = Regression()

    def fit(self, context: StudyContext) -> Model:
        """Fit with all components, then leave out what does not fit."""
        trained, budget = context.split.trained, self.like.fit(context).bytes
        most = _most(context, min(len(trained) - 1, trained.network.size), budget)
        whole = gaussian.fit(
            trained.grid,
            trained.network,
            trained.policies,
            trained.measures,
            context.dataset().weights,
            components=most,
            temperature=self.temperature,
            **dataclasses.asdict(self.regression),
        )

        def stored(count: int) -> PyTree:
            return compress(gaussian.truncate(whole, count), self.precision)

        count = largest(lambda count: nbytes(stored(count)), most, budget)
        return as_model(stored(count), gaussian.generate)


@dataclass(frozen=True)
class LatentTable:
    """The decoder of a training with one stored latent per elite."""

    kind: ClassVar[str] = "latents"
    config: DistillConfig
    precision: Precision = "float32"

    def fit(self, context: StudyContext) -> Model:
        """Distil the archive, and keep decoder and latents."""
        made = context.trained(self.config)
        table = latents.fit(made.generator, made.posterior.mean, context.split.trained.measures)
        return as_model(compress(table, self.precision), latents.generate, made.seconds)


@dataclass(frozen=True)
class ConditionalVAE:
    """The decoder of a training, its latent drawn from a prior instead of by diffusion."""

    kind: ClassVar[str] = "cvae"
    config: DistillConfig
    precision: Precision = "float32"
    prior: Literal["normal", "fitted"] = "normal"
    regression: Regression = Regression()

    def fit(self, context: StudyContext) -> Model:
        """Distil the archive, and fit the prior if asked to."""
        made = context.trained(self.config)
        model = cvae.fit(
            made.generator,
            made.posterior.mean,
            made.posterior.deviation,
            context.split.trained.measures,
            context.dataset().weights,
            prior=self.prior,
            **dataclasses.asdict(self.regression),
        )
        return as_model(compress(model, self.precision), cvae.generate, made.seconds)


@dataclass(frozen=True)
class Cloned:
    """One policy that takes the measures as inputs, cloned with as many rounds of DAgger as the base has."""

    kind: ClassVar[str] = "cloned"
    config: ClonedConfig
    optimiser: OptimiserConfig
    precision: Precision = "float32"

    def fit(self, context: StudyContext) -> Model:
        """Clone the trained elites, once for all rows with these settings."""
        name = f"clone-{digest(self.config, self.optimiser)}"
        model, seconds = context.once(name, lambda: self._train(context, context.hooks(name)))
        return as_model(compress(model, self.precision), cloned.generate, seconds, cloned.apply)

    def _train(self, context: StudyContext, hooks: Hooks) -> tuple[cloned.Cloned, float]:
        base, about = context.config.base, {"settings": describe((self.config, self.optimiser))}
        train = lambda: cloned.fit(  # noqa: E731
            context.split.trained,
            context.dataset(),
            self.config,
            self.optimiser,
            visit=context.visit(cloned.apply),
            rounds=base.autoencoder.dagger_rounds,
            depends_on=about,
            hooks=hooks,
            key=key_for(context.key, "clone"),
        )
        return timed(hooks, about, train)


def largest(weigh: Callable[[int], int], most: int, budget: int) -> int:
    """Return the largest number from 1 to `most` whose model weighs no more than the budget; weights increase.

    Raises:
      UserError: if even the smallest model is too large.
    """
    if weigh(1) > budget:
        raise UserError(f"the smallest such model weighs {weigh(1)} bytes, over the {budget} that it may have")
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if weigh(middle) <= budget else (low, middle - 1)
    return low


def _most(context: StudyContext, count: int, budget: int) -> int:
    """Return how many vectors of parameters a budget could hold at a byte per number, from 1 to `count`."""
    return max(1, min(count, budget // context.archive.network.size))
