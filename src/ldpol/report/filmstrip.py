"""A film in few bytes: what `body.js` draws, as JSON."""

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

RATE = 60.0
"""Pictures a second, about."""
FINEST = {"place": 0.001, "reward": 0.1, "measure": 0.01}
"""What one level is worth where the numbers are small enough: millimetres, tenths of a reward, hundredths of a step."""
FARTHEST = 32767


def encode_film(
    ends: ArrayLike,
    measures: ArrayLike,
    rewards: ArrayLike,
    *,
    radii: Sequence[float],
    sides: Sequence[int] = (),
    dt: float,
) -> dict[str, Any]:
    """Encode an episode.

    Every picture holds places, and the sums up to it of reward and measures. Of these numbers the differences from one
    picture to the next are kept, in 16 bits, deflated: about 4 kB for four seconds of a walker.

    Args:
      ends: `[T, G, 2, 3]` ends of the capsules after each step, metres; T at least 1.
      measures: `[T, M]` after each step.
      rewards: `[T]`.
      radii: `[G]` metres.
      sides: `[G]` of `Skeleton.sides`; empty for none.
      dt: seconds a step.

    Returns:
      JSON-able: `steps` T, `stride` steps a picture (the last may come sooner), `dt`, `radii`, `sides`, `measures` M,
      `units` of place, reward and measure, and `data`: base64 of deflated little-endian int16 differences, a row each
      for the `6 G` coordinates, the reward and the M measures.
    """
    ends, measures, rewards = (np.asarray(part, np.float64) for part in (ends, measures, rewards))
    stride = max(1, round(1.0 / (RATE * dt)))
    shown = np.unique(np.r_[np.arange(0, len(ends), stride), len(ends) - 1])
    # Counted from where the body was first, so that the first picture fits into 16 bits wherever the episode began.
    origin = ends[0].reshape(-1, 3).mean(0) * [1.0, 1.0, 0.0]
    rows = {
        "place": (ends - origin).reshape(len(ends), -1)[shown].T,
        "reward": np.cumsum(rewards)[shown][None],
        "measure": np.cumsum(measures, 0)[shown].T,
    }
    units = {name: _unit(values, FINEST[name]) for name, values in rows.items()}
    levels = [np.round(values / units[name]) for name, values in rows.items()]
    changes = np.diff(np.concatenate(levels), axis=1, prepend=0.0).astype("<i2")
    return {
        "steps": len(ends),
        "stride": stride,
        "dt": round(float(dt), 6),
        "radii": [round(float(radius), 4) for radius in radii],
        "sides": list(sides) or [-1] * len(radii),
        "measures": measures.shape[1],
        "units": units,
        "data": base64.b64encode(zlib.compress(changes.tobytes(), 9)).decode(),
    }


def _unit(values: NDArray[np.float64], finest: float) -> float:
    """Return what a level is worth, so that all changes along the second axis fit into 16 bits."""
    largest = np.abs(np.diff(values, axis=1, prepend=0.0)).max(initial=0.0)
    # One level of room, because both ends of a change are rounded.
    return max(finest, float(largest) / (FARTHEST - 1))
