"""Render the tables of README.md and docs/*.md from results/*.json, between markers that name them.

    python docs/render.py            # rewrite the pages
    python docs/render.py --check    # say which pages differ, and fail if one does

A page says `<!-- table: NAME -->`, then holds the table, then says `<!-- end -->`. Nothing here needs JAX.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROOT = Path(__file__).parents[1]
MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
# Two-sided 95 % quantile of Student's t by the number of seeds.
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}


def read(name: str) -> Any:
    """Read `results/NAME.json`."""
    return json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))


def show(value: dict[str, Any] | float | None, form: str = ".3f") -> str:
    """Write a number, or the mean over seeds and half of its 95 % interval if there are several."""
    if not isinstance(value, dict):
        return "" if value is None else f"{value:{form}}"
    half = "" if value.get("high") is None else f" ± {value['high'] - value['mean']:{form}}"
    return f"{value['mean']:{form}}{half}"


def over_seeds(values: Sequence[float]) -> dict[str, float | None]:
    """Return the mean and its 95 % interval by Student's t."""
    if len(values) == 1:
        return {"mean": values[0], "high": None}
    return {"mean": mean(values), "high": mean(values) + STUDENT[len(values)] * stdev(values) / len(values) ** 0.5}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a Markdown table; short rows end in empty cells."""
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    lines += [f"| {' | '.join([*row, *[''] * (len(head) - len(row))])} |" for row in rows]
    return "\n".join(lines) + "\n"


# The demo: results/demo-walker2d.json


def summary() -> str:
    return _reconstruction(
        {
            "generated, all elites": "generated",
            "generated, elites held out of training": "on held-out elites",
            "the archive itself, evaluated again (ceiling)": "original, played again (ceiling)",
        },
        {"reward": "reward_ratio", "coverage": "coverage_ratio", "QD score": "qd_ratio"}
        | {"MEM": "mem", "success rate": "success_rate"},
    )


def reconstruction() -> str:
    return _reconstruction(
        {
            "generated, all elites": "generated",
            "generated, elites seen in training": "on trained elites",
            "generated, elites held out (a random tenth)": "on held-out elites",
            "generated, measures never trained on": "on unseen measures",
            "the archive itself, evaluated again (ceiling)": "original, played again (ceiling)",
        },
        {"reward": "reward_ratio", "coverage": "coverage_ratio", "QD score": "qd_ratio"}
        | {"MEM": "mem", "success rate": "success_rate", "JS divergence": "js_divergence"},
    )


def _reconstruction(rows: dict[str, str], columns: dict[str, str]) -> str:
    found = read("demo-walker2d")["rows"]
    cells = ([title, *(show(found[name][column]) for column in columns.values())] for title, name in rows.items())
    return table(("", *columns), cells)


def guidance() -> str:
    notes = {0.0: "0 (unconditional)", 1.0: "1 (as trained)"}
    columns = {"MEM": "mem", "reward": "reward_ratio", "coverage": "coverage_ratio", "diversity": "diversity"}
    rows = []
    for row in read("demo-walker2d")["suites"]["guidance"]:
        scale = row["scale"]["mean"]
        rows.append((notes.get(scale, f"{scale:g}"), *(show(row[name]) for name in columns.values())))
    return table(("guidance", *columns), rows)


def conditions() -> str:
    suites = read("demo-walker2d")["suites"]
    composition, free = suites["composition"], suites["free"]
    rows = (
        ("both measures at once", "both measures (MEM)", show(composition["joint"]["mem"])),
        ("both, as the AND of two single measures", "both measures (MEM)", show(composition["and"]["mem"])),
        ("both measures at once", "one measure", show(free["joint_error"])),
        ("one measure, the other left free", "that measure", show(free["error"])),
    )
    return table(("request", "error in", "mean error"), rows)


def sentences() -> str:
    found = read("demo-walker2d")["suites"]["language"]
    titles = {"train": "in phrasings of the training captions", "held_out": "in words and frames kept for tests"}
    rows = [
        (title, *(show(value) for value in (part["value"], part["of_ceiling"], part["understood"]["recall"])))
        for part, title in ((found[split], title) for split, title in titles.items())
    ]
    rows += [
        ("the described elite, evaluated again", show(found["ceiling"])),
        ("a random elite", show(found["chance"])),
    ]
    return table(("sentences", "claims satisfied", "relative to the elites", "claims understood"), rows)


def ranks() -> str:
    rows = read("demo-walker2d")["suites"]["quality"]
    return table(
        ("requested rank of fitness", *(f"{row['asked']['mean']:.1f}" for row in rows)),
        [("achieved rank", *(show(row["reached"], ".2f") for row in rows))],
    )


def sequences() -> str:
    found = read("demo-walker2d")["suites"]["sequencing"]
    spoken = found["language"]
    row = lambda title, part: (title, show(part["survival"]), show(part["fitness"], ".0f"))  # noqa: E731
    rows = [row("one generated policy each", found["generated"]), row("the nearest elite each", found["nearest_elite"])]
    for part in found["lookahead_by_candidates"]:
        rows.append(row(f"best of {part['candidates']['mean']:.0f} generated, by look-ahead", part))
    rows += [
        ("one generated policy for a sentence each", show(spoken["generated"]["survival"]["value"])),
        ("an elite of which the sentence is true", show(spoken["elite"]["survival"]["value"])),
    ]
    return table(("four behaviours in one episode", "survival", "fitness"), rows)


# Studies: results/retention-*.json and results/ablations-walker2d.json

MODEL = {
    "ours": "latent diffusion, float32",
    "ours_int8": "latent diffusion, int8",
    "ddim_4": "sampled in 4 steps of DDIM, float32",
    "guidance_half": "guidance 0.5, float32",
    "all_levels": "denoiser trained at all noise levels, float32 †",
    "raw_observations": "observations not normalised, float32 †",
    "unverified": "no verification of elites, float32 †",
    "rank_12_small_int8": "**smaller: rank 12, int8**",
    "rank_6_small_int8": "smaller: rank 6, int8 †",
    "rank_6_tiny_int8": "smallest: rank 6, tiny denoiser, int8",
    "paper": "published method, four minutes of training",
    "paper_epochs": "published method, its own number of epochs",
}
BASELINES = {
    "latents_int8": "our decoder, table of latents, int8",
    "cloned_384_fine_int8": "one cloned policy that sees the measures, int8",
    "cvae_fitted": "conditional VAE with a fitted prior, float32",
    "gaussian_like_ours_int8": "PCA and a conditional Gaussian, int8",
    "subsampled_like_ours_int8": "best-spread elites, int8",
    "archive_int8": "the whole archive, int8",
}
ABLATIONS = {
    "ours": "latent diffusion",
    "no_dagger": "no DAgger: only states that elites visit",
    "weak_kl": "KL weight 1e-6, as published, instead of 5e-3",
    "latent_4": "4 numbers per latent instead of 16",
    "eps": "cosine schedule predicting noise, instead of flow predicting v",
    "matrix_head": "the published decoder head instead of learned bases",
    "parameter_loss": "the same, trained on parameters instead of actions",
    "paper": "published method, 1,200 and 2,000 steps",
    "paper_epochs": "published method, its own number of epochs",
}
STUDY = {
    "smaller by": ("compression_bytes", ".0f"),
    "reward": ("reward_ratio", ".3f"),
    "coverage": ("coverage_ratio", ".3f"),
    "QD score": ("qd_ratio", ".3f"),
    "MEM": ("mem", ".3f"),
    "MEM, held out": ("held_out_mem", ".3f"),
    "diversity": ("diversity", ".2f"),
}


def _study(name: str, titles: dict[str, str], columns: Sequence[str] = tuple(STUDY)) -> str:
    found = read(name)
    rows = {row["variant"]: row for row in found["rows"]} | {"ceiling": found["ceiling"]}
    most = max(row["seeds"] for row in found["rows"])
    cells = []
    for variant, title in (titles | {"ceiling": "the archive, evaluated again (ceiling)"}).items():
        row = rows[variant]
        seeds = row.get("seeds", most)
        note = "" if seeds == most else f" ({seeds} seed{'s' if seeds > 1 else ''})"
        cells.append(
            (title + note, *(_cell(row.get(name), form) for name, form in (STUDY[column] for column in columns)))
        )
    return table(("", *columns), cells)


def _cell(value: dict[str, Any] | None, form: str) -> str:
    """Write a cell of a study; what all seeds have in common, such as a size, has no interval."""
    if value and value["high"] is not None and f"{value['high'] - value['mean']:{form}}" in ("0", "0.00"):
        return show(value["mean"], form)
    return show(value, form)


def sizes() -> str:
    return _study("retention-walker2d", MODEL | BASELINES)


def ablations() -> str:
    return _study("ablations-walker2d", ABLATIONS, tuple(STUDY)[1:])


def humanoid() -> str:
    return _study("retention-humanoid", _without_cvae())


def ant() -> str:
    return _study("retention-ant", _without_cvae())


def _without_cvae() -> dict[str, str]:
    return {"ours_int8": MODEL["ours_int8"]} | {k: v for k, v in BASELINES.items() if k != "cvae_fitted"}


# Searches

SEARCHES = {"map_elites": "MAP-Elites", "ppga": "PPGA", "hybrid": "hybrid"}


def searches() -> str:
    rows = [row for row in read("search-walker2d") if row["mark"] == "seconds 480"]
    columns = {
        "cells": ("cells", ",.0f"),
        "QD score": ("qd_score", ",.0f"),
        "best fitness": ("best", ",.0f"),
        "mean fitness": ("mean", ",.0f"),
        "std of measures": ("measure_std", ".3f"),
    }
    return table(("", *columns), _by_seed(rows, "search", SEARCHES, columns))


def long_search() -> str:
    rows = sorted(read("search-long-walker2d"), key=lambda row: row["env_steps"])
    head = ("PPGA after", "steps", "cells", "QD score", "best fitness", "mean fitness")
    cells = (
        (f"{row['seconds'] / 60:.0f} minutes", f"{row['env_steps'] / 1e6:.0f} million")
        + tuple(f"{row[name]:,.0f}" for name in ("cells", "qd_score", "best", "mean"))
        for row in rows
    )
    return table(head, cells)


def noise() -> str:
    titles = {
        "deterministic": "reset without noise",
        "noisy": "reset with noise",
        "verified": "with noise, candidates evaluated again before they enter",
    }
    columns = {
        "stored cells": ("stored_cells", ",.0f"),
        "cells when re-evaluated": ("cells", ",.0f"),
        "QD score": ("qd_score", ",.0f"),
        "mean fitness": ("mean", ",.0f"),
        "std of measures": ("measure_std", ".3f"),
    }
    return table(("search", *columns), _by_seed(read("noise-walker2d")["results"], "way", titles, columns))


def _by_seed(
    rows: Sequence[dict[str, Any]], field: str, titles: dict[str, str], columns: dict[str, tuple[str, str]]
) -> Iterable[tuple[str, ...]]:
    for value, title in titles.items():
        of_one = [row for row in rows if row[field] == value]
        yield (title, *(show(over_seeds([row[name] for row in of_one]), form) for name, form in columns.values()))


# Speed


SCORERS = {
    "ldpol": "`ldpol`",
    "ldpol, vmap": "the same, lanes first",
    "qdax, sharded": "scorer that stores transitions, as QDax's, split over the cores",
    "qdax": "the same in one program with XLA's threads, as QDax runs it",
    "physics": "bare physics, no policies",
    "lanes last": "bare physics, no policies, lanes last",
    **{f"vmap, {lanes} lanes": f"bare physics, no policies, plain `vmap` of {lanes}" for lanes in (64, 128)},
}


def _rollouts() -> dict[str, Any]:
    """Return the measurements by task; of one task alone they are not nested."""
    found = read("bench_rollout")["results"]
    return {"walker2d": found} if "steps_per_second" in found else found


def rollouts() -> str:
    rows = []
    for task, found in _rollouts().items():
        rates = found["steps_per_second"]
        for name in sorted(rates, key=list(SCORERS).index):
            numbers = (show(rates[name].get(kind), ",.0f") for kind in ("full", "useful"))
            rows.append((task if name == "ldpol" else "", SCORERS[name], *numbers))
    return table(("task", "steps per second", "episodes of full length", "until the fall"), rows)


def rollout_memory() -> str:
    memory, lengths = _rollouts()["walker2d"]["memory"], ("250", "1000")
    rows = []
    for name, sizes in memory.items():
        used = [sum(sizes[length][part] for part in ("temporaries", "outputs")) / 1e6 for length in lengths]
        title = {"qdax": "scorer that stores transitions"}.get(name, f"`{name}`")
        rows.append((title, *(f"{one:.1f} MB" for one in used)))
    return table(("memory for 256 policies", *(f"{int(length):,} steps" for length in lengths)), rows)


def sampling() -> str:
    runs = [run for run in read("bench_generation")["results"]["walker2d"]["runs"] if run["method"] == "ddim"]
    rows = [(f"{run['batch']:,}", f"{run['steps']}", f"{run['policies_per_second']:,.0f}") for run in runs]
    return table(("batch", "steps of DDIM", "policies per second"), rows)


def training() -> str:
    found = read("bench_training")["results"]["steps_per_second"]
    rows = [
        ("autoencoder, 96 policies x 16 states", f"{found['autoencoder, 1 device']:.0f}"),
        ("denoiser (MLP), 256 latents", f"{found['denoiser mlp, 1 device']:.0f}"),
        ("denoiser (UNet), 256 latents", f"{found['denoiser unet, 1 device']:.0f}"),
    ]
    return table(("training", "gradient steps per second"), rows)


def denoisers() -> str:
    rows = sorted(read("denoisers-walker2d")["results"], key=lambda row: -row["rms"])
    cells = ((r["network"], f"{r['parameters']:,}", f"{r['rms']:.3f}", f"{r['step_ms']:.1f} ms") for r in rows)
    return table(("denoiser", "parameters", "distance to the perfect denoiser", "training step"), cells)


# Archives from elsewhere: results/own-archives.json

OWN = {
    "walker2d_uni": "QDax's MAP-Elites, walker2d_uni",
    "hopper_uni": "QDax's MAP-Elites, hopper_uni",
    "pyribs": "pyribs, torch's order, walker2d",
    "maze": "final positions in a maze",
    "ant": "ant, four measures, a tenth held out",
}


def own_archives() -> str:
    """A row for each case: the check of the import, then what the generator keeps, and by diffusion alone."""
    head = ("archive", "elites", "replay", "rank", "smaller by", "reward", "coverage", "error in cells")
    rows = []
    for found in read("own-archives")["rows"]:
        replayed, seed = found["replay"], f" (seed {found['seed']})" if found["seed"] else ""
        row = [OWN[found["case"]] + seed, f"{found['elites']:,}", replayed["verdict"], show(replayed["rank"])]
        row.append(show(found["compression"], ".0f"))
        for name, form in (("reward_ratio", ".3f"), ("coverage_ratio", ".3f"), ("mem_cells", ".2f")):
            row.append(f"{show(found['generated'][name], form)} ({show(found['diffusion alone'][name], form)})")
        rows.append(row)
    return table(head, rows)


# Reliability: results/fuzz.json and results/chaos.json

OUTCOMES = {
    **{"refused": "refused", "same": "same", "other": "other", "unnamed": "no file named", "unsound": "unsound"},
    **{"alien": "error of a library", "hang": "hang"},
}
SCENARIOS = {
    "pairs": ("two processes save one path at the same moment", "{pairs} pairs"),
    "locks": ("two processes take one lock at the same moment", "{pairs} pairs"),
    "loads": ("one process reads while another one writes", "{loads} loads, {saves_meanwhile} saves meanwhile"),
    "writers": ("`kill -9` inside of saving", "{kills} kills"),
    "two": ("a stage twice on one work directory", "{pairs} pairs"),
    "full": ("a disk that gets full", "{saves_until_full} saves, {stages} stages"),
    "read_only": ("a finished run that cannot be written", "{commands} commands"),
    "clock": ("a clock that steps by up to five seconds, forth and back", "{stages} stages"),
    "kills": (
        "signals at random moments of archive, train and evaluate with all suites",
        "{hits[SIGKILL]} `kill -9`, {hits[SIGTERM]} SIGTERM, {hits[SIGINT]} Ctrl-C of {planned} planned; {rounds} ends",
    ),
}


def fuzz() -> str:
    found = read("fuzz")
    rows = []
    for kind, things in found["totals"].items():
        whole = {name: sum(row.get(name, 0) for row in things.values()) for name in OUTCOMES}
        for thing, row in (things | {"all": whole}).items():
            counts = [row.get(name, 0) for name in OUTCOMES]
            rows.append([kind, thing, *map(str, [sum(counts), *counts])])
    return table(["damage", "of", "cases", *OUTCOMES.values()], rows) + _where(found)


def chaos() -> str:
    found = read("chaos")
    rows = []
    for name, (what, count) in SCENARIOS.items():
        row = found["scenarios"].get(name)
        if row is None or "skipped" in row or "error" in row:
            rows.append([what, "not run" if row is None else row.get("skipped", "did not end"), ""])
        else:
            rows.append([what, count.format(**row), str(row["bad"])])
    return table(["what", "how often", "wrong"], rows) + _where(found)


def _where(found: dict[str, Any]) -> str:
    machine = found["machine"]
    task = f"Stages of the {found['task']} task. " if "task" in found else ""
    where = f"{machine['cores']} cores, {machine['processor']}"
    return f"\n{task}Commit {found['commit'][:7]}, seed {found['seed']}, {where}.\n"


TABLES: dict[str, Callable[[], str]] = {
    make.__name__.replace("_", "-"): make
    for make in (
        *(summary, reconstruction, guidance, conditions, sentences, ranks, sequences),
        *(sizes, ablations, humanoid, ant, searches, long_search, noise),
        *(rollouts, rollout_memory, sampling, training, denoisers),
        *(own_archives, fuzz, chaos),
    )
}


def pages() -> list[Path]:
    """Return every page that may hold tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def render(text: str) -> str:
    """Return a page with its tables made anew.

    Raises:
      ValueError: if it names a table that does not exist, or a marker has no end.
    """

    def fill(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        if name not in TABLES:
            raise ValueError(f"no table is called {name!r}; there are {', '.join(TABLES)}")
        return f"{begin}\n{TABLES[name]()}\n{end}"

    if len(MARKED.findall(text)) != text.count("<!-- table:") or text.count("<!-- end -->") != text.count(
        "<!-- table:"
    ):
        raise ValueError("a table's marker has no end: expected <!-- table: NAME -->, the table, <!-- end -->")
    return MARKED.sub(fill, text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Render all pages, or check them; returns an exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page differs")
    options = parser.parse_args(arguments)
    differing = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        rendered = render(text)
        if rendered != text:
            differing.append(page.relative_to(ROOT).as_posix())
            if not options.check:
                page.write_text(rendered, encoding="utf-8")
    if options.check and differing:
        print(f"out of date: {', '.join(differing)}; run: python docs/render.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
