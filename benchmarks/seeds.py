"""Gather the evaluations of several seeds: means with 95 % intervals, as JSON and as the table of the README.

python benchmarks/seeds.py runs/demo runs/seed1 runs/seed2 --out results/demo-walker2d.json
"""

import argparse
from pathlib import Path
from typing import Any

from ldpol import storage
from ldpol.evaluation.intervals import over_seeds as interval

COLUMNS = ("reward_ratio", "coverage_ratio", "qd_ratio", "mem", "success_rate", "js_divergence")
ROWS = {
    "generated": (),
    "on trained elites": ("trained",),
    "on held-out elites": ("held_out",),
    "in the held-out box": ("held_out_box",),
    "on unseen measures": ("unseen",),
    "original, played again (ceiling)": ("ceiling",),
}
SINGLE = ("compression_bytes", "compression_params", "policies", "uniform_coverage_ratio", "mem_ceiling", "seconds")


def show(value: dict[str, float | None], form: str = ".3f") -> str:
    """Write an interval as mean ± half its width, numbers in the format `form`."""
    mean, high = value["mean"], value["high"]
    return f"{mean:{form}}" + ("" if high is None or mean is None else f" ± {high - mean:{form}}")


def gather(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return every row and column as an interval over the runs."""
    table = {}
    for title, path in ROWS.items():
        sections = [run[path[0]] if path else run for run in runs]
        table[title] = {name: interval([section[name] for section in sections]) for name in COLUMNS if all(sections)}
    single = {name: interval([run[name] for run in runs]) for name in SINGLE}
    return {"rows": table, "single": single}


def markdown(summary: dict[str, Any]) -> str:
    """Return the table for a README."""
    names = ("reward", "coverage", "QD score", "MEM", "success", "JS")
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for title, row in summary["rows"].items():
        cells = [show(value) for value in row.values()]
        lines.append(f"| {title} | " + " | ".join(cells or ["–"] * len(names)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="work directories that the evaluate stage has finished")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
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


if __name__ == "__main__":
    main()
