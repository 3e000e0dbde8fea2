"""An episode as one HTML page that draws itself: no library, no request; it opens offline."""

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

RATE = 50.0
"""Pictures a second, about."""
MARK = '<meta name="generator" content="ldpol: an episode">'
"""Tells the page from other people's files."""
MILLIMETRES = 1000.0
FARTHEST = 32767


def render_animation(
    title: str,
    ends: NDArray[np.floating[Any]],
    radii: Sequence[float],
    measures: NDArray[np.floating[Any]],
    rewards: NDArray[np.floating[Any]],
    *,
    dt: float,
    names: Sequence[str],
    low: Sequence[float],
    high: Sequence[float],
    asked: Sequence[float],
    facts: Mapping[str, str],
) -> str:
    """The page as HTML.

    Args:
      title: what is shown.
      ends: `[T, G, 2, 3]` ends of the capsules after each step, metres; T at least 1.
      radii: `[G]` metres.
      measures: `[T, M]` after each step.
      rewards: `[T]`.
      dt: seconds a step.
      names: `[M]` of the measures.
      low, high: `[M]` their bounds.
      asked: `[M]` what was asked for; NaN where free.
      facts: more to say, in rows.
    """
    steps = np.arange(1, len(ends) + 1)
    stride = max(1, round(1.0 / (RATE * dt)))
    shown = np.unique(np.r_[np.arange(0, len(ends), stride), len(ends) - 1])
    # 16 bits of millimetres, counted from the first torso: 32 m from there all walkers are out of sight.
    origin = ends[0].reshape(-1, 3).mean(0) * [1.0, 1.0, 0.0]
    places = np.clip(np.round((ends[shown] - origin) * MILLIMETRES), -FARTHEST, FARTHEST).astype("<i2")
    average = (np.cumsum(measures, 0) / steps[:, None])[shown]
    data = {
        "capsules": len(radii),
        "radii": [round(float(radius), 4) for radius in radii],
        "places": base64.b64encode(places.tobytes()).decode(),
        "seconds": [round(float(step * dt), 3) for step in steps[shown]],
        "now": measures[shown].astype(int).tolist(),
        "average": np.round(average, 3).tolist(),
        "reward": np.round(np.cumsum(rewards)[shown], 1).tolist(),
        "names": list(names),
        "low": list(map(float, low)),
        "high": list(map(float, high)),
        "asked": [None if np.isnan(value) else round(float(value), 4) for value in asked],
    }
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in facts.items())
    template = resources.files("ldpol.report").joinpath("animation.html").read_text(encoding="utf-8")
    # A closing tag inside a string would end the script.
    content = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
    page = template.replace("<!-- MARK -->", MARK).replace("TITLE", escape(title))
    return page.replace("ROWS", rows).replace('"DATA"', content)
