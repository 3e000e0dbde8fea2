"""Gather the evaluations of several seeds: means with 95 % intervals, as JSON and as the tables of the README.

python benchmarks/seeds.py runs/demo runs/seed1 runs/seed2 --out results/demo-walker2d.json
"""

from typing import Any

import common

from ldpol import storage
from ldpol.evaluation.intervals import over_seeds as interval
from ldpol.evaluation.intervals import show

COLUMNS = (
    *("reward_ratio", "coverage_ratio", "expected_coverage", "qd_ratio"),
    *("mem", "success_rate", "aim", "slope", "js_divergence"),
)
ROWS = {
    "generated": (),
    "by diffusion alone": ("blind",),
    "on trained elites": ("trained",),
    "on held-out elites": ("held_out",),
    "in the held-out region": ("held_out_box",),
    "on unseen measures": ("unseen",),
    "on uniform targets": ("uniform",),
    "original, played again (ceiling)": ("ceiling",),
    "noise alone": ("noise_alone",),
}
SINGLE = (
    *("compression_bytes", "compression_without_denoiser", "compression_params", "policies", "uniform_coverage_ratio"),
    *("mem_ceiling", "seconds"),
)


SUITES = (
    *("guidance", "composition", "free", "language", "quality", "sequencing", "held_out_region", "steadiness"),
    "damage",
    "suite_seconds",
)
WAYS = ("generated", "nearest_elite", "lookahead")


def across(found: list[Any]) -> Any:
    """Turn every number that all runs have at the same place into an interval; what is not a number is left out."""
    if all(isinstance(one, dict) for one in found):
        shared = [name for name in found[0] if all(name in one for one in found)]
        merged = {name: across([one[name] for one in found]) for name in shared}
        return {name: value for name, value in merged.items() if value not in (None, {}, [])}
    if all(isinstance(one, list) for one in found):
        return [across(list(row)) for row in zip(*found, strict=True)] if len({len(one) for one in found}) == 1 else []
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in found)
    return interval(found) if numbers else None


def gather(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return every row and column as an interval over the runs."""
    table = {}
    for title, path in ROWS.items():
        sections = [run[path[0]] if path else run for run in runs]
        known = [name for name in COLUMNS if all(name in section for section in sections)]
        table[title] = {name: interval([section[name] for section in sections]) for name in known}
    single = {name: interval([run[name] for run in runs]) for name in SINGLE if all(name in run for run in runs)}
    return {
        "rows": table,
        "single": single,
        "suites": across([{name: run[name] for name in SUITES if name in run} for run in runs]),
    }


def markdown(summary: dict[str, Any]) -> str:
    """Return the table for a README."""
    names = ("reward", "coverage", "expected", "QD score", "MEM", "success", "aim", "slope", "JS")
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for title, row in summary["rows"].items():
        cells = [show(row[name]) if name in row else "–" for name in COLUMNS]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def suites_markdown(suites: dict[str, Any]) -> str:
    """Return the tables of the other suites, as far as all runs have them."""

    def table(names: tuple[str, ...], rows: list[tuple[str, list[dict[str, Any]]]]) -> list[str]:
        lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
        for title, row in rows:
            cells = [title, *(show(value) for value in row)]
            lines.append("| " + " | ".join(cells + ["–"] * (len(names) - len(cells))) + " |")
        return [*lines, ""]

    lines = []
    if guidance := suites.get("guidance"):
        names = ("mem", "reward_ratio", "coverage_ratio", "diversity")
        rows = [(f"{row['scale']['mean']:g}", [row[name] for name in names]) for row in guidance]
        lines += table(("guidance", "MEM", "reward", "coverage", "diversity"), rows)
    if language := suites.get("language"):
        rows = [
            (split, [language[split]["value"], language[split]["of_ceiling"], language[split]["understood"]["recall"]])
            for split in ("train", "held_out")
        ]
        rows += [(name, [language[name]]) for name in ("ceiling", "chance")]
        lines += table(("captions", "satisfied", "of the ceiling", "claims understood"), rows)
    if quality := suites.get("quality"):
        rows = [(f"{row['asked']['mean']:.1f}", [row["reached"]]) for row in quality]
        lines += table(("rank asked for", "reached"), rows)
    if sequencing := suites.get("sequencing"):
        names = ("survival", "mem", "fitness")
        rows = [(way, [sequencing[way][name] for name in names]) for way in WAYS]
        rows += [
            (f"best of {row['candidates']['mean']:g}", [row[name] for name in names])
            for row in sequencing["lookahead_by_candidates"]
        ]
        for way in ("generated", "lookahead"):
            less = sequencing[f"{way}_less_nearest_elite"]
            rows.append((f"{way} less nearest elite", [less[name]["value"] for name in names]))
        lines += table(("sequences", "survival", "MEM", "fitness"), rows)
        spoken = sequencing.get("language", {})
        lines += [f"from sentences, {way}: survival {show(one['survival']['value'])}" for way, one in spoken.items()]
    if steadiness := suites.get("steadiness"):
        names = ("reward_ratio", "coverage_ratio", "qd_ratio", "mem")
        rows = [(f"{row['episodes']['mean']:g}", [row[name] for name in names]) for row in steadiness["rows"]]
        lines += table(("episodes", "reward", "coverage", "QD score", "MEM"), rows)
    for name in ("composition", "free", "held_out_region", "steadiness", "suite_seconds"):
        flat = {key: value for key, value in suites.get(name, {}).items() if "mean" in value}
        lines += [f"{name}, {key}: {show(value)}" for key, value in flat.items()]
    for name, part in suites.get("composition", {}).items():
        if "mem" in part:
            lines.append(f"composition, {name}: MEM {show(part['mem'])}")
    return "\n".join(lines)


def main() -> None:
    options = common.runs_parser(__doc__).parse_args()
    runs = [storage.read_json(run / "eval" / "metrics.json") for run in options.runs]
    stages = [
        {stage: storage.read_json(run / stage / "metrics.json")["seconds"] for stage in ("archive", "train", "eval")}
        for run in options.runs
    ]
    summary = gather(runs)
    rows = [
        {name: value for name, value in run.items() if name not in ("config", "versions", "machine", "commit")}
        for run in runs
    ]
    about = {name: runs[0][name] for name in ("config", "versions", "machine", "commit")}
    storage.write_json(options.out, summary | {"runs": rows, "stage_seconds": stages} | about)
    print(markdown(summary))
    for name, value in summary["single"].items():
        print(f"{name}: {show(value)}")
    print(suites_markdown(summary["suites"]))


if __name__ == "__main__":
    main()
