"""An episode as one HTML page that draws itself: no library, no request; it opens offline."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

import numpy as np

MARK = '<meta name="generator" content="ldpol: an episode">'
"""Tells the page from other people's files."""


def render_animation(
    title: str,
    film: Mapping[str, Any],
    *,
    names: Sequence[str],
    low: Sequence[float],
    high: Sequence[float],
    asked: Sequence[float],
    facts: Mapping[str, str],
) -> str:
    """The page as HTML.

    Args:
      title: what is shown.
      film: what `encode_film` returned.
      names: `[M]` of the measures.
      low, high: `[M]` their bounds.
      asked: `[M]` what was asked for; NaN where free.
      facts: more to say, in rows.
    """
    data = {
        "film": film,
        "names": list(names),
        "low": list(map(float, low)),
        "high": list(map(float, high)),
        "asked": [None if np.isnan(value) else round(float(value), 4) for value in asked],
    }
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in facts.items())
    folder = resources.files("ldpol.report")
    template, body = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("animation.html", "body.js"))
    # A closing tag inside a string would end the script.
    content = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
    page = template.replace("<!-- MARK -->", MARK).replace("TITLE", escape(title)).replace("ROWS", rows)
    return page.replace("/* BODY */", body).replace('"DATA"', content)
