"""The trained part of a text encoder: token vectors to one logit for each thing a text may claim."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldpol.errors import UserError
from ldpol.types import Array

RARE = -6.0
"""Logit of a claim at first: most texts make few of the claims that could be made."""


class TextTower(nn.Module):
    """Token vectors `[T, d]` of one text to logits `[width]`, one a label.

    Static embeddings say nothing of their neighbours, so each token first looks at a window around it: "left" belongs
    to the "foot" after it, and "without" to what follows. A text may claim several things, each in a few of its words;
    so every token gives evidence for every label, and a label takes its strongest evidence (softly: a logsumexp, as in
    multiple-instance learning) together with a learned background, which is what a text of no tokens has. Tokens that
    the mask leaves out change nothing, whatever they hold, and neither does their number.

    Attributes:
      width: labels.
      hidden: channels.
      window: tokens that a token sees, odd; itself in the middle.
      layers: windows, one upon the other.
    """

    width: int
    hidden: int = 32
    window: int = 3
    layers: int = 2

    def setup(self) -> None:
        """Name the parts."""
        self.projection = nn.Dense(self.hidden, use_bias=False)
        self.norms = [nn.LayerNorm() for _ in range(self.layers + 1)]
        self.mixers = [nn.Dense(self.hidden) for _ in range(self.layers)]
        self.evidence = nn.Dense(self.width, bias_init=nn.initializers.constant(RARE))
        self.background = self.param("background", nn.initializers.constant(RARE), (1, self.width))

    def __call__(self, embeddings: Array, mask: Array) -> Array:
        """Read one text.

        Args:
          embeddings: `[T, d]`.
          mask: `[T]` true where there is a token; with none at all the result is a learned constant.

        Raises:
          ValueError: if the shapes do not fit, or the window is even.
        """
        if embeddings.ndim != 2 or mask.shape != embeddings.shape[:1]:
            raise UserError(
                f"TextTower takes one text: expected embeddings [T, d] and mask [T], found {embeddings.shape} and "
                f"{mask.shape}; for a batch, jax.vmap"
            )
        # `where`, not a product: what is left out may be anything, NaN included.
        return self.read(self.project(jnp.where(mask.astype(bool)[:, None], embeddings, 0.0)), mask)

    def project(self, embeddings: Array) -> Array:
        """Return what each token is before it looks around: `[T, d]` to `[T, hidden]`; rows do not see each other."""
        size = jnp.sqrt(jnp.mean(embeddings**2, -1, keepdims=True) + 1e-12)
        return self.projection(embeddings / size)

    def read(self, projected: Array, mask: Array) -> Array:
        """Return the logits `[width]` of one text of projected tokens `[T, hidden]`."""
        if self.window % 2 == 0:
            raise UserError(f"TextTower: window = {self.window} has no middle; choose an odd number")
        there = mask.astype(bool)[:, None]
        keep = lambda x: jnp.where(there, x, 0.0)  # noqa: E731
        x = keep(projected)
        for norm, mixer in zip(self.norms[:-1], self.mixers, strict=True):
            x = x + keep(mixer(_windows(keep(nn.silu(norm(x))), self.window)))
        evidence = self.evidence(nn.silu(self.norms[-1](x)))
        # The background is finite, so what is left out has the weight exp(-inf) = 0 and no gradient.
        return jax.nn.logsumexp(jnp.concatenate([jnp.where(there, evidence, -jnp.inf), self.background]), 0)


def _windows(x: Array, window: int) -> Array:
    """Put each row's neighbours beside it, zeros beyond the ends: `[T, C]` to `[T, window * C]`.

    With a matrix after it this is a convolution, whose gradient XLA computes many times faster on a CPU.
    """
    reach = window // 2
    padded = jnp.pad(x, ((reach, reach), (0, 0)))
    return jnp.concatenate([padded[i : i + x.shape[0]] for i in range(window)], -1)
