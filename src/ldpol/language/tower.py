"""The trained part of a text encoder: token vectors to one logit for each thing a text may claim."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldpol.types import Array


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
    window: int = 5
    layers: int = 2

    @nn.compact
    def __call__(self, embeddings: Array, mask: Array) -> Array:
        """Read one text.

        Args:
          embeddings: `[T, d]`.
          mask: `[T]` true where there is a token; with none at all the result is a learned constant.

        Raises:
          ValueError: if the shapes do not fit, or the window is even.
        """
        if embeddings.ndim != 2 or mask.shape != embeddings.shape[:1]:
            raise ValueError(
                f"TextTower takes one text: expected embeddings [T, d] and mask [T], found {embeddings.shape} and "
                f"{mask.shape}; for a batch, jax.vmap"
            )
        if self.window % 2 == 0:
            raise ValueError(f"TextTower: window = {self.window} has no middle; choose an odd number")
        there = mask.astype(bool)[:, None]
        # `where`, not a product: what is left out may be anything, NaN included.
        keep = lambda x: jnp.where(there, x, 0.0)  # noqa: E731
        x = keep(nn.Dense(self.hidden)(nn.LayerNorm()(keep(embeddings))))
        for _ in range(self.layers):
            y = keep(nn.silu(nn.LayerNorm()(x)))
            x = x + keep(nn.Dense(self.hidden)(_windows(y, self.window)))
        evidence = nn.Dense(self.width)(nn.silu(nn.LayerNorm()(x)))
        background = self.param("background", nn.initializers.constant(-3.0), (1, self.width))
        # The background is finite, so what is left out has the weight exp(-inf) = 0 and no gradient.
        return jax.nn.logsumexp(jnp.concatenate([jnp.where(there, evidence, -jnp.inf), background]), 0)


def _windows(x: Array, window: int) -> Array:
    """Put each row's neighbours beside it, zeros beyond the ends: `[T, C]` to `[T, window * C]`.

    With a matrix after it this is a convolution, whose gradient XLA computes many times faster on a CPU.
    """
    reach = window // 2
    padded = jnp.pad(x, ((reach, reach), (0, 0)))
    return jnp.concatenate([padded[i : i + x.shape[0]] for i in range(window)], -1)
