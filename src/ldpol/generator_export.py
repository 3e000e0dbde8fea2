"""A sampler as an artifact that needs only jax to run."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import export

from ldpol.errors import UserError
from ldpol.types import Array, Key, Params

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
"""What `jax.export` lowers for; it takes other names without a word and writes what no machine can run."""


def serialise(sample: Callable[[Key, Array], Params], measures: int, platforms: tuple[str, ...]) -> bytes:
    """Return the bytes of a `jax.export` artifact of a sampler, for any number B of requests.

    Args:
      sample: `(key, measures [M]) -> policy`.
      measures: M.
      platforms: that it is to run on.

    Raises:
      UserError: if a platform is unknown to jax.
    """
    if not platforms or set(platforms) - set(PLATFORMS):
        raise UserError(f"platforms must be some of {', '.join(PLATFORMS)}, found {platforms}")

    def generate(keys: Array, measures: Array) -> Params:
        return jax.vmap(sample)(jax.random.wrap_key_data(keys), measures)

    batch = export.symbolic_shape("b")[0]
    keys, targets = jax.ShapeDtypeStruct((batch, 2), jnp.uint32), jax.ShapeDtypeStruct((batch, measures), jnp.float32)
    return bytes(export.export(jax.jit(generate), platforms=platforms)(keys, targets).serialize())
