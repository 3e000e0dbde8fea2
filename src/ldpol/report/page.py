"""One self-contained HTML page about a run: figures embedded, no script, no request; it opens offline."""

import base64
import math
from collections.abc import Mapping
from html import escape
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
    (
        "QD score",
        "sum of the best fitness over all filled cells, as a share of the reference: quality times diversity.",
    ),
    ("Target error (MEM)", "mean L2 distance from the measures asked for to the measures reached; lower is better."),
    ("Success", "share of targets reached to within one cell diagonal."),
    ("JS divergence", "how much the distribution of the reached measures differs from the reference; lower is better."),
    (
        "Ceiling",
        "the original archive evaluated a second time: evaluation is noisy, so this is the best one can expect.",
    ),
    ("Held out", "elites, and a box of the measure space, that training never saw: the test of generalisation."),
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
        "episodes a policy": metrics.get("episodes"),
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
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        f'content="light dark">\n<style>{STYLE}</style></head>\n<body><main>{body}</main></body></html>\n'
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


STYLE = """
:root { --paper: #fbfbf9; --card: #fff; --ink: #1d2129; --soft: #5b6472; --line: #e3e5e8; --mark: #b84a00;
  --tint: #fdf3ec }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15171b; --card: #1d2026; --ink: #e7e9ec; --soft: #9aa3b0; --line: #32373f; --mark: #ff9a57;
    --tint: #2a221d }
  figure .scroll { filter: brightness(.92) }
}
* { box-sizing: border-box }
html { -webkit-text-size-adjust: 100% }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
main { max-width: 72rem; margin: 0 auto; padding: clamp(1.2rem, 4vw, 3.5rem) clamp(1rem, 4vw, 2.5rem) 4rem }
h1 { font-size: clamp(1.4rem, 3.2vw, 2.1rem); line-height: 1.3; font-weight: 400; letter-spacing: -.012em;
  margin: .3rem 0 1rem; max-width: 30em; text-wrap: pretty }
h1 b { font-weight: 650 }
h2 { font-size: 1.3rem; letter-spacing: -.01em; margin: 3rem 0 1rem }
small { color: var(--soft); font-size: .78rem; font-weight: 400; line-height: 1.35; display: block }
.eyebrow { color: var(--mark); font-weight: 600; font-size: .9rem; margin: 0 }
.lede { color: var(--soft); margin: 0; max-width: 44em }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .8rem; margin-top: 2rem }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .9rem 1.1rem }
.tiles p { margin: 0; color: var(--soft); font-size: .88rem }
.tiles strong { display: block; font-size: 1.7rem; line-height: 1.3; font-weight: 600; white-space: nowrap }
.scroll { overflow-x: auto; max-width: 100% }
table { border-collapse: collapse; width: 100%; font-size: .93rem; font-variant-numeric: tabular-nums }
caption { text-align: left; font-weight: 600; padding: .3rem .2rem }
th, td { padding: .5rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top;
  white-space: nowrap }
th { font-weight: 600 }
th:first-child, td:first-child { text-align: left }
.texts th, .texts td { text-align: left; white-space: normal; width: 30% }
.texts th:first-child { width: 40%; font-weight: 400 }
.texts th small { margin-left: 0; max-width: none }
thead th { vertical-align: bottom }
thead > tr > *, .ceiling > * { border-bottom: 2px solid var(--line) }
.ceiling > * { border-top: 2px solid var(--line) }
.main { background: var(--tint) }
.main th { color: var(--mark) }
th:first-child { white-space: normal }
th small { white-space: normal; max-width: 9em; margin-left: auto }
th:first-child small { max-width: 15em; margin-left: 0 }
.sub th { font-weight: 400; padding-left: 1.8rem }
.pairs th { font-weight: 400; color: var(--soft) }
.pairs td { white-space: pre-wrap; overflow-wrap: anywhere }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1.2rem 2.5rem;
  align-items: start }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .35rem 1.4rem; font-size: .93rem; margin: 1.6rem 0 0 }
dt { font-weight: 600 }
dd { margin: 0; color: var(--soft) }
figure { margin: 0 0 2.2rem; border: 1px solid var(--line); border-radius: 10px; overflow: hidden }
figure .scroll { padding: 1rem; background: #fff }
img { display: block; width: 100%; height: auto; margin: auto }
#uniform_map img, #fitness_ccdf img { max-width: 46rem }
figcaption { background: var(--card); border-top: 1px solid var(--line); color: var(--soft); padding: .8rem 1.1rem;
  font-size: .9rem }
details { border-top: 1px solid var(--line); padding: .7rem 0 }
summary { cursor: pointer; font-weight: 600 }
.pair + details { margin-top: 1.5rem }
@media (max-width: 40rem) {
  dl { grid-template-columns: 1fr; gap: 0 }
  dd { margin-bottom: .6rem }
  img { min-width: 42rem }
  #uniform_map img, #fitness_ccdf img { min-width: 32rem }
  .tiles { grid-template-columns: 1fr 1fr }
  .tiles strong { font-size: 1.45rem }
  th:first-child, td:first-child { position: sticky; left: 0; background: var(--paper); min-width: 7.6rem;
    max-width: 9.5rem }
  .main th:first-child { background: var(--tint) }
  .sub th:first-child { padding-left: 1.1rem }
}
@media print { figure { break-inside: avoid } details { display: none } }
"""
