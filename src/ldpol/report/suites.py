"""Sections of the page about the suites beyond reconstruction: their tables, and the figures that go with them."""

from collections.abc import Mapping
from typing import Any

from ldpol.evaluation import suites
from ldpol.report.page import picture
from ldpol.report.tables import as_html

CAPTIONS = {
    "guidance": "The same conditions and random numbers at every scale. 0 leaves the denoiser unconditioned (the "
    "decoder still knows the measures), 1 is the model as trained, more exaggerates the condition. Diversity: mean L2 "
    "distance between the actions of policies sampled for one condition, in the same states.",
    "sequences": "Each episode asks for several behaviours in turn. Survived: it lasted more than 80 % of its length. "
    "On target: share of all segments that were survived within one cell diagonal of what was asked for. Lines are "
    "95 % intervals over sequences.",
    "sequence_traces": "The first of the random sequences. Black: the measures asked for. Curves: running means over "
    "the episodes that last. Grey: steps after a switch that do not count. Below: the share of episodes that last.",
    "recovery": "After each trial, the policy of those tried with the highest expectation (of random draws, highest "
    "outcome), judged by other episodes than those of the trials.",
}
FIGURES = {"guidance": ("guidance",), "sequencing": ("sequences", "sequence_traces"), "damage": ("recovery",)}


def sections(metrics: Mapping[str, Any], images: Mapping[str, tuple[str, bytes]]) -> str:
    """HTML sections of those suites that were measured; empty where none was.

    Args:
      metrics: of the evaluation.
      images: title and PNG of each figure by name.
    """
    html = []
    for suite in suites.ALL:
        tables = [] if suite.name == "reconstruction" else suite.tables(metrics)
        if tables:
            names = [name for name in FIGURES.get(suite.name, ()) if name in images]
            shown = "".join(picture(name, *images[name], CAPTIONS[name]) for name in names)
            parts = "".join(f"<h2>{table.title}</h2>{as_html(table)}" for table in tables)
            html.append(f"<section>{parts}{shown}</section>")
    return "".join(html)
