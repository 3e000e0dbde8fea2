"""One self-contained HTML page about a run: figures embedded, no script, no request; it opens offline."""

import base64
import math
from collections.abc import Mapping
from html import escape
from importlib import resources
from typing import Any, TypeGuard

DASH = "–"
CAPTIONS = {
    "heat_maps": "Best fitness in each cell of the measure space. Left: the archive as the search stored it, where "
    "fitness and measures are lucky single draws. Middle: the same policies evaluated again, the reference for every "
    "ratio on this page. Right: one generated policy for each reference elite, asked for by its measures alone. "
    "One colour scale for all; empty cells are grey.",
    "target_and_achieved": "Each point is one generated policy: the measure asked for against the measure reached; on "
    "the dashed diagonal it does exactly what was asked. Last panel: the fraction of policies closer to their target "
    "than a distance, beside the original policies evaluated a second time, the best one can expect.",
    "fitness_ccdf": "How many cells hold a policy at least as fit as x. The generated archive keeps up with the "
    "original wherever its curve lies on the black one; the dashed curve is the original evaluated a second time. "
    "The vertical line is the original's median.",
    "uniform_map": "Targets drawn uniformly over the whole measure space, also where the original archive has no "
    "policy. Orange cells are behaviours that the original does not contain.",
    "search_curves": "The search that made the original archive, as it saw itself: single, lucky evaluations.",
    "training_curves": "Thin: the loss as logged; thick: its running median. Dotted lines mark where the training "
    "states were refreshed with rollouts of the decoded policies (DAgger); the loss may jump there.",
}
GLOSSARY = (
    (
        "Reference",
        "the original archive with every policy evaluated again in fresh episodes, then re-inserted in a grid.",
    ),
    ("Reward", "mean reward over all conditions, as a share of the reference."),
    ("Coverage", "number of filled grid cells, as a share of the reference."),
    ("Expected", "cells that are filled on average if each policy plays one episode, as a share of the elites'."),
    (
        "QD score",
        "sum of the best fitness over all filled cells, as a share of the reference: quality times diversity.",
    ),
    ("Target error (MEM)", "mean L2 distance from the measures asked for to the measures reached; lower is better."),
    ("Success", "share of targets reached to within one cell diagonal."),
    ("Aim", "success as a share of the elites' own, evaluated again."),
    ("Slope", "how much of a target's deviation from its neighbours is reached; less for policies that shrink."),
    ("JS divergence", "how much the distribution of the reached measures differs from the reference; lower is better."),
    (
        "Ceiling",
        "the original archive evaluated a second time: evaluation is noisy, so this is the best one can expect.",
    ),
    ("Held out", "elites, and a region of the measure space, that training never saw: the test of generalisation."),
)


def render_page(
    metrics: Mapping[str, Any],
    archive: Mapping[str, Any],
    train: Mapping[str, Any],
    images: Mapping[str, tuple[str, bytes]],
    suites: str = "",
    results: str = "",
) -> str:
    """The page as HTML.

    Args:
      metrics: what the evaluation measured, with its config, versions, machine, commit and seed.
      archive: summary of the archive search: cells, qd_score, best, mean, seconds.
      train: summary of the training: seconds.
      images: title and PNG of each figure by name, in reading order.
      suites: HTML sections of further suites.
      results: HTML table of the main results.
    """
    config = metrics.get("config") or {}
    task = _get(config, "task", "name") or _get(config, "task")
    title = f"{task if isinstance(task, str) else 'Policies'}: an archive in one model"
    pictures = "".join(picture(name, *image, CAPTIONS.get(name, "")) for name, image in images.items())
    glossary = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in GLOSSARY)
    stages = {"archive search": archive, "training": train, "evaluation": metrics}
    seconds = {name: values.get("seconds") for name, values in stages.items()}
    seconds["together"] = sum(value for value in seconds.values() if is_number(value))
    clock = {name: duration(value) for name, value in seconds.items()}
    provenance = {
        "commit": metrics.get("commit"),
        "seed": metrics.get("seed"),
        "episodes per policy": metrics.get("episodes"),
        **_flat(metrics.get("machine") or {}, "machine"),
    }
    about = ("config", "versions", "machine")
    numbers = _flat({key: value for key, value in metrics.items() if key not in about})
    body = f"""<header><p class="eyebrow">{escape(title)}</p><h1>{headline(metrics)}</h1>
<p class="lede">{ceiling_sentence(metrics)}</p></header>
<section class="tiles">{_tiles(metrics)}</section>
<section><h2>Results</h2>{results}<dl>{glossary}</dl></section>
<section><h2>Archives and sizes</h2><div class="pair">{_archive_table(metrics, archive)}{_size_table(metrics)}</div>
</section><section><h2>Figures</h2>{pictures}</section>{suites}
<section><h2>How it was made</h2><div class="pair">{_pairs("Wall-clock", clock)}{_pairs("Provenance", provenance)}</div>
<details><summary>Configuration</summary>{_pairs("", _flat(config))}</details>
<details><summary>Package versions</summary>{_pairs("", _flat(metrics.get("versions") or {}))}</details>
<details><summary>Every number of the evaluation</summary>{_pairs("", numbers)}</details></section>"""
    style = resources.files("ldpol.report").joinpath("page.css").read_text(encoding="utf-8")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        f'content="light dark">\n<style>\n{style}</style></head>\n<body><main>{body}</main></body></html>\n'
    )


def headline(metrics: Mapping[str, Any]) -> str:
    """The result in one sentence for a newcomer, as HTML."""
    archive_bytes, model_bytes = sizes(metrics)
    reward, coverage, qd = (percent(metrics.get(key)) for key in ("reward_ratio", "coverage_ratio", "qd_ratio"))
    return (
        f"One model of <b>{size(model_bytes)}</b> replaces an archive of "
        f"<b>{count(metrics.get('policies'))} policies</b> ({size(archive_bytes)}, "
        f"{times(metrics.get('compression_bytes'))} as large) and keeps <b>{reward}</b> of its reward, "
        f"<b>{coverage}</b> of its coverage and <b>{qd}</b> of its QD score."
    )


def ceiling_sentence(metrics: Mapping[str, Any]) -> str:
    """What the original archive reaches against itself, in one sentence, as HTML."""
    ceiling = metrics.get("ceiling")
    reward, coverage, qd = (percent(_get(ceiling, key)) for key in ("reward_ratio", "coverage_ratio", "qd_ratio"))
    return (
        "Evaluation is noisy: the original archive, re-evaluated a second time, itself reaches "
        f"{reward}, {coverage} and {qd}. That is the ceiling."
    )


def sizes(metrics: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Bytes of the archive's policies and of the generator; as float32 parameters where no bytes are given."""
    archive, model = metrics.get("archive_bytes"), metrics.get("generator_bytes")
    policies, each, ratio = (metrics.get(key) for key in ("policies", "policy_params", "compression_bytes"))
    if not is_number(archive) and is_number(policies) and is_number(each):
        archive = 4 * policies * each
    if not is_number(model) and is_number(archive) and is_number(ratio) and ratio > 0:
        model = archive / ratio
    return archive, model


def percent(value: Any) -> str:
    """A ratio as a percentage with one decimal."""
    return f"{100 * value:.1f}\u00a0%" if is_number(value) else DASH


def count(value: Any) -> str:
    """A whole number with thousands separated."""
    return f"{value:,.0f}" if is_number(value) else DASH


def times(value: Any) -> str:
    """A compression factor, as in `47 times`."""
    return f"{value:.3g}\u00a0times" if is_number(value) else DASH


def size(value: Any) -> str:
    """Bytes in kB or MB (powers of ten)."""
    if not is_number(value):
        return DASH
    power = min(int(math.log10(max(value, 1)) // 3), 3)
    return f"{value / 1000**power:.3g}\u00a0{('B', 'kB', 'MB', 'GB')[power]}"


def duration(value: Any) -> str:
    """Seconds as hours, minutes and seconds."""
    if not is_number(value):
        return DASH
    if value < 10:
        return f"{value:.1f}\u00a0s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}\u00a0h {minutes:02d}\u00a0min"
    return f"{minutes}\u00a0min {seconds:02d}\u00a0s" if minutes else f"{seconds}\u00a0s"


def _tiles(metrics: Mapping[str, Any]) -> str:
    ceiling = metrics.get("ceiling")
    factor = metrics.get("compression_bytes")
    tiles = [("compression", f"{factor:.3g}×" if is_number(factor) else DASH, "archive bytes over model bytes")]
    for name, key in (("reward", "reward_ratio"), ("coverage", "coverage_ratio"), ("QD score", "qd_ratio")):
        tiles.append((f"{name} kept", percent(metrics.get(key)), f"ceiling {percent(_get(ceiling, key))}"))
    return "".join(
        f"<div><p>{name}</p><strong>{value}</strong><small>{note}</small></div>" for name, value, note in tiles
    )


def _archive_table(metrics: Mapping[str, Any], archive: Mapping[str, Any]) -> str:
    columns = (("Cells", "cells"), ("QD score", "qd_score"), ("Best reward", "best"), ("Mean reward", "mean"))
    rows = (
        ("Stored", archive),
        ("Reference", metrics.get("reference")),
        ("Generated", metrics.get("generated")),
    )
    lines = (
        f"<tr><th scope=row>{name}</th>{''.join(f'<td>{count(_get(values, key))}</td>' for _, key in columns)}</tr>"
        for name, values in rows
    )
    return table("".join(f"<th scope=col>{name}</th>" for name, _ in columns), "".join(lines))


def _size_table(metrics: Mapping[str, Any]) -> str:
    policies, each = metrics.get("policies"), metrics.get("policy_params")
    archive_bytes, model_bytes = sizes(metrics)
    rows = {
        "parameters of one policy": count(each),
        "parameters of the archive": count(policies * each if is_number(policies) and is_number(each) else None),
        "parameters of the generator": count(metrics.get("generator_params")),
        "fewer parameters": times(metrics.get("compression_params")),
        "archive": size(archive_bytes),
        "generator": size(model_bytes),
        "fewer bytes": times(metrics.get("compression_bytes")),
    }
    if is_number(lean := metrics.get("bytes_without_denoiser")):
        rows["generator without its denoiser"] = size(lean)
        rows["fewer bytes than the archive"] = times(metrics.get("compression_without_denoiser"))
    return _pairs("", rows)


def table(head: str, body: str, style: str = "numbers") -> str:
    """An HTML table of the cells of its head, beside an empty corner, and the rows of its body.

    Args:
      head: cells.
      body: rows.
      style: `numbers`, to the right on one line each, or `texts`, to the left on as many lines as they need.
    """
    rows = f"<thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody>"
    return f"<div class=scroll><table class={style}>{rows}</table></div>"


def picture(name: str, title: str, png: bytes, caption: str) -> str:
    """A PNG with its caption as an HTML figure; the title is what a screen reader says."""
    data = base64.b64encode(png).decode()
    return (
        f'<figure id="{escape(name)}"><div class=scroll><img alt="{escape(title)}" src="data:image/png;base64,{data}">'
        f"</div><figcaption>{escape(caption)}</figcaption></figure>\n"
    )


def _pairs(title: str, values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th scope=row>{escape(str(k))}</th><td>{escape(_plain(v))}</td></tr>" for k, v in values.items()
    )
    heading = f"<caption>{escape(title)}</caption>" if title else ""
    return f"<div class=scroll><table class=pairs>{heading}<tbody>{rows}</tbody></table></div>"


def _plain(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return DASH
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix or "value": value}
    pairs = (_flat(value[key], f"{prefix}.{key}" if prefix else str(key)) for key in value)
    return {name: leaf for part in pairs for name, leaf in part.items()}


def _get(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def is_number(value: Any) -> TypeGuard[float]:
    """Tell whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
