"""Sections of the page about what a condition can do: guidance, composition, sequences, the box that was cut out."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ldpol.report.page import DASH, count, is_number, percent, picture, table
from ldpol.report.suite_figures import WAYS, guidance_verdict

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
    ("joint_untold", "Joint, decoder told nothing", "the latent alone decides", "sub"),
    ("and_untold", "AND, decoder told nothing", "the latent alone decides", "sub"),
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
        ("Sequences of behaviours", metrics.get("sequencing"), sequencing, ("sequences", "sequence_traces")),
        ("The box that was cut out", metrics.get("cutout"), cutout, ()),
    )
    html = []
    for title, values, write, figures in parts:
        if values:
            shown = "".join(pictures.get(name, "") for name in figures)
            html.append(f"<section><h2>{title}</h2>{write(metrics)}{shown}</section>")
    return "".join(html)


def guidance(metrics: Mapping[str, Any]) -> str:
    """One row a scale, and a sentence."""
    head = _head(
        ("Target error", "MEM"), ("Reward", "% of reference"), ("Coverage", "% of reference"), ("Diversity", "L2")
    )
    rows = [
        _row(
            f"Scale {row['scale']:g}",
            "the model as trained" if row["scale"] == 1 else "",
            "main" if row["scale"] == 1 else "sub",
            (_number(row.get("mem")), percent(row.get("reward_ratio")), percent(row.get("coverage_ratio"))),
            (_number(row.get("diversity")),),
        )
        for row in metrics["guidance"]
    ]
    return f"<p>{escape(guidance_verdict(metrics['guidance']))}.</p>{table(head, ''.join(rows))}"


def composition(metrics: Mapping[str, Any]) -> str:
    """The joint condition against its parts, and sentences on NOT and on free measures."""
    found, free = metrics["composition"], metrics.get("free") or {}
    head = _head(("Target error", "MEM"), ("Reward", "% of reference"), ("Coverage", "% of reference"), ("Success", ""))
    rows = []
    for kind, name, note, style in KINDS:
        row = found.get(kind) or {}
        cells = (percent(row.get(key)) for key in ("reward_ratio", "coverage_ratio", "success_rate"))
        rows.append(_row(name, note, style, (_number(row.get("mem")),), tuple(cells)))
    unlike = found.get("not") or {}
    text = (
        f"AND of single measures misses by {_signed(found.get('mem_difference'))} more than the joint condition; "
        f"with a decoder that is told nothing, by {_signed(found.get('mem_difference_untold'))}. "
        f"NOT moves the measure to avoid from {_number(unlike.get('away_without'))} to {_number(unlike.get('away'))} "
        f"away from its value ({_signed(unlike.get('difference'))}), while the one asked for is missed by "
        f"{_number(unlike.get('error'))} instead of {_number(unlike.get('error_without'))}. "
    )
    if free:
        text += (
            f"A condition that leaves the others free misses its measure by {_number(free.get('error'))}, the joint "
            f"condition by {_number(free.get('joint_error'))}: {_number(free.get('ratio'), 2)} times as much."
        )
    return f"{table(head, ''.join(rows))}<p>{escape(text)}</p>"


def sequencing(metrics: Mapping[str, Any]) -> str:
    """One row a way of choosing policies, with intervals, and what their differences are."""
    found = metrics["sequencing"]
    head = _head(
        ("Survived", "% of episodes"),
        ("On target", "% of segments"),
        ("Target error", "MEM"),
        ("Reward", "per episode"),
        ("Looked ahead", "steps an episode"),
    )
    rows = []
    for way, (name, _) in WAYS.items():
        row = found.get(way) or {}
        ends = row.get("intervals") or {}
        rows.append(
            _row(
                name.capitalize(),
                f"best of {row['candidates']}" if "candidates" in row else "",
                "main" if way == "generated" else "sub",
                (
                    _with_ends(percent, row.get("survival"), ends.get("survival")),
                    _with_ends(percent, row.get("hits"), ends.get("hits")),
                    _with_ends(_number, row.get("mem"), ends.get("mem")),
                    _with_ends(count, row.get("fitness"), ends.get("fitness")),
                    count(row.get("look_ahead")),
                ),
            )
        )
    lines = [
        f"{found.get('sequences')} random sequences of {found.get('segments')} behaviours, {found.get('steps')} steps "
        "each; all ways play the same sequences with the same keys."
    ]
    for key, text in (
        ("generated_less_nearest_elite", "One sample less nearest elite"),
        ("lookahead_less_generated", "Looking ahead less one sample"),
    ):
        if key in found:
            survival, hits = (_signed(found[key].get(name)) for name in ("survival", "hits"))
            lines.append(f"{text}: survival {survival}, on target {hits}.")
    return f"<p>{escape(' '.join(lines))}</p>{table(head, ''.join(rows))}"


def cutout(metrics: Mapping[str, Any]) -> str:
    """The generator against the nearest trained elites, inside the box."""
    found = metrics["cutout"]
    head = _head(("Cells reached", f"of {found.get('cells')}"), ("Target error", "MEM"), ("Reward", "% of originals"))
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
        _row(name, note, style, (count(found.get(a)), _number(found.get(b)), percent(found.get(c))))
        for name, note, style, a, b, c in rows
    )
    return table(head, body)


def _head(*columns: tuple[str, str]) -> str:
    return "".join(f"<th scope=col>{escape(name)}<small>{escape(unit)}</small></th>" for name, unit in columns)


def _row(name: str, note: str, style: str, *cells: Sequence[str]) -> str:
    data = "".join(f"<td>{cell}</td>" for part in cells for cell in part)
    return f"<tr class={style}><th scope=row>{escape(name)}<small>{escape(note)}</small></th>{data}</tr>"


def _number(value: Any, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if is_number(value) else DASH


def _with_ends(write: Any, value: Any, ends: Any) -> str:
    """A value with its interval in small print."""
    known = isinstance(ends, Sequence) and len(ends) == 2 and all(map(is_number, ends))
    return write(value) + (f"<small>{write(ends[0])} to {write(ends[1])}</small>" if known else "")


def _signed(estimate: Any) -> str:
    """A difference with its interval."""
    values = [(estimate or {}).get(name) for name in ("value", "low", "high")]
    if not is_number(values[0]):
        return DASH
    ends = f" ({values[1]:+.3f} to {values[2]:+.3f})" if is_number(values[1]) and is_number(values[2]) else ""
    return f"{values[0]:+.3f}{ends}"
