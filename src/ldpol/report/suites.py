"""Sections of the page about what a condition can do: guidance, composition, sequences, the box that was cut out."""

from collections.abc import Mapping
from html import escape
from typing import Any

from ldpol.report.language import language, quality
from ldpol.report.page import count, percent, picture, table
from ldpol.report.suite_figures import WAYS, guidance_verdict
from ldpol.report.tables import head, number, row, signed, with_ends

CAPTIONS = {
    "guidance": "The same conditions and random numbers at every scale. 0 leaves the denoiser unconditioned (the "
    "decoder still knows the measures), 1 is the model as trained, more exaggerates the condition. Diversity: mean L2 "
    "distance between the actions of policies sampled for one condition, in the same states.",
    "sequences": "Each episode asks for several behaviours in turn. Survived: it lasted more than 80 % of its length. "
    "On target: share of all segments that were survived within one cell diagonal of what was asked for. Lines are "
    "95 % intervals over sequences.",
    "sequence_traces": "The first of the random sequences. Black: the measures asked for. Curves: running means over "
    "the episodes that last. Grey: steps after a switch that do not count. Below: the share of episodes that last.",
}
KINDS = (
    ("joint", "Joint condition", "all measures in one condition", "main"),
    ("and", "AND of single measures", "a composition that was never trained", "sub"),
)


def sections(metrics: Mapping[str, Any], images: Mapping[str, tuple[str, bytes]]) -> str:
    """HTML sections of those suites that were measured; empty where none was.

    Args:
      metrics: of the evaluation.
      images: title and PNG of each figure by name.
    """
    pictures = {name: picture(name, *image, CAPTIONS.get(name, "")) for name, image in images.items()}
    parts = (
        ("Guidance", metrics.get("guidance"), guidance, ("guidance",)),
        ("Composition and free measures", metrics.get("composition"), composition, ()),
        ("Language", metrics.get("language"), language, ()),
        ("Fitness on demand", metrics.get("quality"), quality, ()),
        ("Sequences of behaviours", metrics.get("sequencing"), sequencing, ("sequences", "sequence_traces")),
        ("The box that was cut out", metrics.get("cutout"), cutout, ()),
        ("Steadiness", metrics.get("steadiness"), steadiness, ()),
    )
    html = []
    for title, values, write, figures in parts:
        if values:
            shown = "".join(pictures.get(name, "") for name in figures)
            html.append(f"<section><h2>{title}</h2>{write(metrics)}{shown}</section>")
    return "".join(html)


def guidance(metrics: Mapping[str, Any]) -> str:
    """One row a scale, and a sentence."""
    columns = head(
        ("Target error", "MEM"), ("Reward", "% of reference"), ("Coverage", "% of reference"), ("Diversity", "L2")
    )
    rows = [
        row(
            f"Scale {one['scale']:g}",
            "the model as trained" if one["scale"] == 1 else "",
            "main" if one["scale"] == 1 else "sub",
            (number(one.get("mem")), percent(one.get("reward_ratio")), percent(one.get("coverage_ratio"))),
            (number(one.get("diversity")),),
        )
        for one in metrics["guidance"]
    ]
    return f"<p>{escape(guidance_verdict(metrics['guidance']))}.</p>{table(columns, ''.join(rows))}"


def composition(metrics: Mapping[str, Any]) -> str:
    """The joint condition against its parts, and sentences on NOT and on free measures."""
    found, free = metrics["composition"], metrics.get("free") or {}
    columns = head(
        ("Target error", "MEM"), ("Reward", "% of reference"), ("Coverage", "% of reference"), ("Success", "")
    )
    rows = []
    for kind, name, note, style in KINDS:
        values = found.get(kind) or {}
        cells = (percent(values.get(key)) for key in ("reward_ratio", "coverage_ratio", "success_rate"))
        rows.append(row(name, note, style, (number(values.get("mem")),), tuple(cells)))
    unlike = found.get("not") or {}
    text = (
        f"AND of single measures misses by {signed(found.get('mem_difference'))} more than the joint condition. "
        f"NOT moves the measure to avoid from {number(unlike.get('away_without'))} to {number(unlike.get('away'))} "
        f"away from its value ({signed(unlike.get('difference'))}), while the one asked for is missed by "
        f"{number(unlike.get('error'))} instead of {number(unlike.get('error_without'))}. "
    )
    if free:
        text += (
            f"A condition that leaves the others free misses its measure by {number(free.get('error'))}, the joint "
            f"condition by {number(free.get('joint_error'))}: {number(free.get('ratio'), 2)} times as much."
        )
    return f"{table(columns, ''.join(rows))}<p>{escape(text)}</p>"


def sequencing(metrics: Mapping[str, Any]) -> str:
    """One row a way of choosing policies, with intervals, and what their differences are."""
    found = metrics["sequencing"]
    columns = head(
        ("Survived", "% of episodes"),
        ("On target", "% of segments"),
        ("Target error", "MEM"),
        ("Reward", "per episode"),
        ("Looked ahead", "steps an episode"),
    )
    rows = []
    for way, (name, _) in WAYS.items():
        rows.append(_way(name, "main" if way == "generated" else "sub", found.get(way) or {}))
        for less in found.get("lookahead_by_candidates", [])[:-1] if way == "lookahead" else []:
            rows.append(_way(name, "sub", less))
    lines = [
        f"{found.get('sequences')} random sequences of {found.get('segments')} behaviours, {found.get('steps')} steps "
        "each; all ways play the same sequences with the same keys."
    ]
    for key, text in (
        ("generated_less_nearest_elite", "One sample less nearest elite"),
        ("lookahead_less_generated", "Looking ahead less one sample"),
        ("lookahead_less_nearest_elite", "Looking ahead less nearest elite"),
    ):
        if key in found:
            survival, hits = (signed(found[key].get(name)) for name in ("survival", "hits"))
            lines.append(f"{text}: survival {survival}, on target {hits}.")
    if "language" in found:
        made, elite = (percent(found["language"][name]["survival"]["value"]) for name in ("generated", "elite"))
        less = signed(found["language"]["generated_less_elite"]["survival"])
        lines.append(
            f"The same elites asked for in sentences: {made} survived; of elites that the sentences are true of, "
            f"{elite} (difference {less})."
        )
    return f"<p>{escape(' '.join(lines))}</p>{table(columns, ''.join(rows))}"


def _way(name: str, style: str, values: Mapping[str, Any]) -> str:
    """The row of one way of choosing policies."""
    ends = values.get("intervals") or {}
    shown = (("survival", percent), ("hits", percent), ("mem", number), ("fitness", count))
    return row(
        name.capitalize(),
        f"best of {values['candidates']}" if "candidates" in values else "",
        style,
        [with_ends(write, values.get(key), ends.get(key)) for key, write in shown],
        (count(values.get("look_ahead")),),
    )


def cutout(metrics: Mapping[str, Any]) -> str:
    """The generator against the nearest trained elites, inside the box."""
    found = metrics["cutout"]
    columns = head(("Cells reached", f"of {found.get('cells')}"), ("Target error", "MEM"), ("Reward", "% of originals"))
    tries = f"{found.get('draws')} tries a cell"
    rows = (
        ("Generated", tries, "main", "reached", "mem", "reward_ratio"),
        (
            "Nearest trained elites",
            f"outside the box, {tries}",
            "sub",
            "reached_by_nearest",
            "mem_nearest",
            "reward_ratio_nearest",
        ),
        ("Originals", f"{found.get('originals')} elites, held out", "sub", "reached_by_originals", "", ""),
    )
    body = "".join(
        row(name, note, style, (count(found.get(a)), number(found.get(b)), percent(found.get(c))))
        for name, note, style, a, b, c in rows
    )
    return table(columns, body)


def steadiness(metrics: Mapping[str, Any]) -> str:
    """One row for every number of episodes that are averaged, and a sentence."""
    found = metrics["steadiness"]
    columns = head(
        ("Reward", "% of the elites"),
        ("Coverage", "% of the elites"),
        ("QD score", "% of the elites"),
        ("Target error", "MEM"),
    )
    body = "".join(
        row(
            f"{one['episodes']} episodes",
            f"cells: elites {count(one.get('cells_elites'))}, generated {count(one.get('cells_generated'))}",
            "sub" if i else "main",
            [percent(one.get(name)) for name in ("reward_ratio", "coverage_ratio", "qd_ratio")],
            (number(one.get("mem")),),
        )
        for i, one in enumerate(found["rows"])
    )
    said = (
        f"Played twice, elites move by {number(found.get('repeat_elites'))} in measures and generated policies by "
        f"{number(found.get('repeat_generated'))}. Noise scatters equal behaviours over several cells, so the noisier "
        "fill more of them until enough episodes are averaged."
    )
    return f"<p>{said}</p>{table(columns, body)}"
