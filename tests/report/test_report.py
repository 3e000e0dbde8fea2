"""The report: arithmetic of the figures by hand, the page against the metrics, and clear errors."""

import base64
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from ldpol import archive, storage
from ldpol.report import figures, figures_of, load_run, save, suite_figures, write_page

FIGURES = {
    *("heat_maps", "target_and_achieved", "fitness_ccdf"),
    *("uniform_map", "search_curves", "training_curves"),
}
PNG = b"\x89PNG\r\n\x1a\n"


def make_run(folder: Path, measures: int = 2, policies: int = 60) -> dict[str, Any]:
    """Write what the three stages leave in a work directory; returns the metrics of the evaluation."""
    random = np.random.default_rng(0)
    for stage in ("archive", "train", "eval"):
        (folder / stage).mkdir(parents=True)
    reference = random.random((policies, measures)).astype(np.float32)
    arrays = {
        "grid_shape": np.full(measures, 8),
        "low": np.zeros(measures),
        "high": np.ones(measures),
        "measure_names": np.array(["left_foot", "right_foot", "third", "fourth"][:measures]),
        "held_out": random.random(policies) < 0.2,
        "uniform_targets": random.random((30, measures)),
        "uniform_fitness": random.normal(size=30),
        "uniform_measures": random.random((30, measures)),
    }
    for name in ("stored", "reference", "ceiling", "generated"):
        arrays[f"{name}_fitness"] = random.normal(500, 100, policies)
        arrays[f"{name}_measures"] = np.clip(reference + random.normal(0, 0.01, reference.shape), 0, 1)
    np.savez(folder / "eval/arrays.npz", **arrays)  # type: ignore[arg-type]

    summary = {"cells": 50, "coverage": 0.4, "qd_score": 31234.5, "best": 812.0, "mean": 411.0}
    search = [{**summary, "iteration": k, "evaluations": 64 * k, "env_steps": 9 * k, "seconds": k} for k in range(1, 9)]
    losses = [{"phase": "autoencoder", "step": k, "loss": 1 / k, "dagger_round": k // 30} for k in range(1, 61)]
    losses += [{"phase": "diffusion", "step": k, "loss": 2 / k, "seconds": 0.1 * k} for k in range(1, 5)]
    metrics = {
        "reward_ratio": 0.9534,
        "coverage_ratio": 0.9421,
        "qd_ratio": 0.9257,
        "compression_params": 51.3,
        "compression_bytes": 47.2,
        "mem": 0.02613,
        "mem_ceiling": 0.0151,
        "js_divergence": 0.0412,
        "success_rate": 0.7123,
        "aim": 0.8177,
        "expected_coverage": 0.9634,
        "slope": 0.934,
        "uniform_coverage_ratio": 0.8217,
        "held_out_mem": 0.0384,
        "policies": policies,
        "policy_params": 1830,
        "generator_params": 62000,
        "seconds": 81.2,
        "best_reward": float("nan"),
        "ceiling": {"reward_ratio": 0.9917, "coverage_ratio": 0.9832, "qd_ratio": 0.9781, "success_rate": 0.8711},
        "held_out": {"reward_ratio": 0.9302, "success_rate": 0.5513, "policies": 12},
        "reference": summary,
        "generated": {**summary, "cells": 47},
        "episodes": 10,
        "config": {"task": {"name": "walker<2>d"}, "train": {"note": "<script>alert('x')</script>", "steps": 3000}},
        "versions": {"jax": "0.10.2"},
        "machine": {"cpu": "a & b", "cores": 2},
        "commit": "0c1f2ab",
        "seed": 0,
    }
    for path, value in {
        "archive/history.json": search,
        "archive/metrics.json": {**summary, "seconds": 400.0},
        "train/history.json": losses,
        "train/metrics.json": {"seconds": 205.0},
        "eval/metrics.json": metrics,
    }.items():
        storage.write_json(folder / path, value)
    return metrics


def add_suites(folder: Path, metrics: dict[str, Any]) -> dict[str, Any]:
    """Add what the further suites of the evaluation leave."""
    ends = {"value": 0.1, "low": 0.05, "high": 0.15, "count": 9.0}
    ratios = {"mem": 0.06, "reward_ratio": 0.97, "coverage_ratio": 0.93, "success_rate": 0.3}
    region = ratios | {"cells": 7, "mem_by_distance": [0.05, 0.08, None]}
    way = {"survival": 0.75, "mem": 0.081, "fitness": 612.0, "hits": 0.31, "look_ahead": 0.0}
    way |= {"intervals": {name: [0.9 * way[name], 1.1 * way[name]] for name in way}}
    split = {"value": 0.62, "low": 0.58, "high": 0.66, "whole": 0.33, "of_ceiling": 0.81}
    split |= {"chance": {"value": 0.4}, "ceiling": {"value": 0.9}, "understood": {"recall": 0.97}}
    more = {
        "guidance": [
            {"scale": 0.0, **ratios, "mem": 0.09, "diversity": 0.5, "mem_difference": ends},
            {"scale": 1.0, **ratios, "diversity": 0.4},
            {"scale": 2.0, **ratios, "mem": 0.055, "diversity": 0.39, "mem_difference": {"high": -0.001}},
        ],
        "composition": {
            **{way: ratios for way in ("joint", "and")},
            "mem_difference": ends,
            "not": {"away": 0.4, "away_without": 0.2, "difference": ends, "error": 0.05, "error_without": 0.04},
        },
        "free": {"error": 0.052, "joint_error": 0.04, "ratio": 1.3},
        "language": {
            "captions": 12,
            "train": split,
            "held_out": split | {"value": 0.41},
            "examples": [
                {
                    "text": "walk <slowly>",
                    "understood": "forward speed < 0.5 m/s",
                    "claims": [
                        {"trait": "forward speed", "low": None, "high": 0.5, "reached": 0.31, "holds": True},
                        {"trait": "pitch", "low": 0.1, "high": None, "reached": 0.04, "holds": False},
                    ],
                }
            ],
        },
        "quality": [{"asked": 0.75, "reached": 0.71, "fitness": 840.0, "elites": 866.0}],
        "sequencing": {
            **{"sequences": 7, "segments": 2, "steps": 20, "settle": 4},
            **{"generated": way, "nearest_elite": way, "lookahead": way | {"candidates": 8, "mem": None}},
            "lookahead_by_candidates": [way | {"candidates": 3, "survival": 0.625}, way | {"candidates": 8}],
            "language": {
                **{name: {"survival": ends} for name in ("generated", "elite", "generated_less_elite")},
            },
            **{name: {"survival": ends, "hits": ends} for name in ("generated_less_nearest_elite",)},
        },
        "held_out_region": {
            **{"elites": 11, "cells": 9, "draws": 4, "distance": 0.05, "edges": [0.03, 0.07]},
            "elites_by_distance": [6, 5, 0],
            "rows": {way: region for way in ("generated", "nearest", "ceiling")},
            "mem_less_nearest": {"generated": ends},
        },
        "steadiness": {
            **{"plays": 2, "repeat_elites": 0.03, "repeat_generated": 0.026},
            "rows": [ratios | {"episodes": 10, "qd_ratio": 0.9, "cells_elites": 932.5, "cells_generated": 885.0}],
        },
        "damage": {
            **{
                "trials": 4,
                "repeats": 3,
                "episodes": 8,
                "healthy": 812.0,
                "champion": 459.0,
                "champion_of_archive": 0.62,
            },
            "ways": {
                name: {"curve": [500.0, 600.0, 650.0, 728.0], "policies": 60, "bytes": 9000}
                | {"of_champion": ends | {"value": 1.59}, "of_archive": ends | {"value": 0.98}}
                for name in ("bank", "archive", "same_bytes", "random")
            },
            "damages": [
                {"name": "actuator 1 <dead>", "champion": 459.0}
                | dict.fromkeys(("bank", "archive", "same_bytes", "random"), 728.0)
            ],
        },
    }
    random = np.random.default_rng(1)
    traces = {"targets": np.array([[0.2, np.nan], [0.7, 0.4]])}
    for name in ("generated", "lookahead", "nearest_elite"):
        traces[f"{name}_measures"] = random.random((40, 2))
        traces[f"{name}_alive"] = np.r_[np.ones(30), np.zeros(10)]
    np.savez(folder / "eval/sequencing.npz", **traces)  # type: ignore[arg-type]
    storage.write_json(folder / "eval/metrics.json", metrics | more)
    return more


def rows_of(page: str) -> dict[str, list[str]]:
    """Cells of each row of the result table, by the row's name."""
    body = page.split("<tbody>")[1].split("</tbody>")[0]
    rows = re.findall(r"<th scope=row>(.*?)<small>.*?</th>(.*?)</tr>", body)
    return {name: re.findall(r"<td>(.*?)</td>", cells) for name, cells in rows}


def test_page_is_self_contained_and_embeds_every_figure(tmp_path: Path) -> None:
    run = tmp_path / "runs/demo"
    make_run(run)
    path = write_page(run)
    assert path == run / "report.html"
    page = path.read_text()
    assert "http" not in page and "<script" not in page and "<link" not in page and "@import" not in page
    assert all(link.startswith("data:image/png;base64,") for link in re.findall(r"(?:src|href)=\"(.*?)\"", page))
    embedded = dict(re.findall(r'<figure id="(\w+)">.*?base64,([^"]+)"', page))
    assert set(embedded) == FIGURES
    for name, data in embedded.items():
        png = base64.b64decode(data)
        assert png.startswith(PNG)
        assert png == (run / "eval/figures" / f"{name}.png").read_bytes()
    assert path.stat().st_size < 3e6
    assert not [file for file in run.rglob("*") if file.name.endswith(".tmp")]
    assert write_page(run).read_text() == page  # the same data give the same page


def pc(*values: str) -> list[str]:
    """Cells in per cent."""
    return [f"{value}\u00a0%" for value in values]


def test_numbers_are_those_of_the_metrics(tmp_path: Path) -> None:
    metrics = make_run(tmp_path / "run")
    page = write_page(tmp_path / "run").read_text()
    rows = rows_of(page)
    assert rows["Generated"] == [
        *pc("95.3", "94.2", "96.3", "92.6"),
        "0.0261",
        *pc("71.2", "81.8"),
        "0.93",
        "0.0412",
        "60",
    ]
    assert rows["Ceiling"] == [*pc("99.2", "98.3"), "–", *pc("97.8"), "0.0151", *pc("87.1"), *"–––", "60"]
    assert rows["on held-out elites"] == [*pc("93.0"), *"–––", "0.0384", *pc("55.1"), *"–––", "12"]
    assert rows["on uniform targets"][1:2] == pc("82.2")
    assert "on trained elites" not in rows  # nothing was measured
    text = unescape(re.sub(r"<[^>]*>", "", page)).replace("\u00a0", " ")
    archive_bytes = 4 * metrics["policies"] * metrics["policy_params"]
    assert f"One model of {archive_bytes / 47.2 / 1e3:.3g} kB replaces an archive of 60 policies (439 kB" in text
    assert "47.2 times as large) and keeps 95.3 % of its reward, 94.2 % of its coverage and 92.6 %" in text
    assert "re-evaluated a second time, itself reaches 99.2 %, 98.3 % and 97.8 %" in text
    for words in ("6 min 40 s", "3 min 25 s", "11 min 26 s", "0c1f2ab", "0.10.2", "109,800"):
        assert words in text


def test_values_are_escaped(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    page = write_page(tmp_path / "run").read_text()
    assert "<script" not in page and "<2>" not in page
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;" in page
    assert "walker&lt;2&gt;d" in page and "a &amp; b" in page


@pytest.mark.parametrize(
    ("file", "stage"),
    [("archive/history.json", "archive"), ("train/metrics.json", "train"), ("eval/arrays.npz", "evaluate")],
)
def test_a_missing_stage_is_named(tmp_path: Path, file: str, stage: str) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "run" / file).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{file}.*ldpol\.experiments {stage} --config"):
        write_page(tmp_path / "run")
    assert not (tmp_path / "run/report.html").exists()


def test_damaged_files_are_named(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run)
    arrays = (run / "eval/arrays.npz").read_bytes()
    (run / "eval/arrays.npz").write_bytes(arrays[: len(arrays) // 2])
    with pytest.raises(ValueError, match=r"arrays\.npz cannot be read"):
        load_run(run)
    np.savez(run / "eval/arrays.npz", low=np.zeros(2))
    with pytest.raises(ValueError, match=r"lacks .*generated_fitness.* holds low"):
        load_run(run)
    (run / "train/history.json").write_text('[{"step": 1')
    with pytest.raises(ValueError, match=r"train/history\.json is damaged"):
        load_run(run)
    storage.write_json(run / "train/history.json", {})
    with pytest.raises(ValueError, match=r"holds a dict, expected a list"):
        load_run(run)


def test_suites_have_their_sections(tmp_path: Path) -> None:
    run = tmp_path / "run"
    add_suites(run, make_run(run))
    page = write_page(run).read_text()
    assert set(re.findall(r'<figure id="(\w+)">', page)) == FIGURES | {
        "guidance",
        "sequences",
        "sequence_traces",
        "recovery",
    }
    assert rows_of(page)["Generated"][:1] == pc("95.3")  # the first table is still that of the reconstruction
    text = unescape(re.sub(r"<[^>]*>", " ", page)).replace("\u00a0", " ")
    for words in (
        "Guidance 2 lowers the target error from 0.060 to 0.055",
        "AND of single measures has an error larger by +0.100 (+0.050 to +0.150)",
        "1.30 times as much",
        "7 random sequences of 2 behaviours, 20 steps each",
        "One sample less nearest elite: survival +0.100 (+0.050 to +0.150)",
        "75.0 % 67.5 % to 82.5 %",
        "best of 3 62.5 %",
        "62.0 % 58.0 % to 66.0 % 81.0 %",
        "walk <slowly> 1 of 2 claims hold forward speed < 0.5 m/s ✓ forward speed 0.31 ✗ pitch 0.04",
        "Rank 0.75 asked for, and nothing else 0.71 840 866",
        "asked for in sentences: 10.0 % survived; of elites that the sentences are true of, 10.0 %",
        "Verified draws Bayesian optimisation over the draws in the generator's file 500 600 728 1.59",
        "actuator 1 <dead> 459 728 728 728 728",
        "Means over 1 damages, 3 searches each",
        "of their 9",
        "Beyond 0.070",
        "Hidden elites",
    ):
        assert words in re.sub(r"\s+", " ", text), words
    (run / "eval/sequencing.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"sequencing\.npz.*ldpol\.experiments evaluate"):
        write_page(run)


def test_the_verdict_on_guidance_needs_an_interval_and_diversity() -> None:
    plain = {"scale": 1.0, "mem": 0.06, "reward_ratio": 0.9, "diversity": 1.0}
    clear, unclear = {"value": -0.01, "low": -0.02, "high": -0.001}, {"value": -0.01, "low": -0.02, "high": 0.001}
    nearer = plain | {"scale": 2.0, "mem": 0.05, "mem_difference": clear}
    richer = plain | {"scale": 3.0, "reward_ratio": 0.95, "reward_ratio_difference": {"low": 0.01}}
    verdict = suite_figures.guidance_verdict
    assert "Guidance 2 lowers the target error from 0.060 to 0.050" in verdict([plain, nearer, richer])
    assert "Guidance 3 raises the reward from 90.0 to 95.0 %" in verdict([richer, plain])
    for row in (nearer | {"diversity": 0.94}, nearer | {"mem_difference": unclear}):
        assert "No guidance scale clearly beats 1" in verdict([plain, row])
    assert "was not measured" in verdict([nearer])


def test_running_means_weigh_episodes() -> None:
    """Steps with weights 2, 2, 1, 0, 0, over two steps each."""
    found = suite_figures.smoothed(np.array([1.0, 0.0, 4.0, 9.0, 9.0]), np.array([2.0, 2.0, 1.0, 0.0, 0.0]), 2)
    np.testing.assert_allclose(found, [1.0, 0.5, 4.0 / 3.0, 4.0, np.nan])


@pytest.mark.parametrize("measures", [1, 3, 4])
def test_any_number_of_measures(tmp_path: Path, measures: int) -> None:
    make_run(tmp_path / "run", measures)
    made = figures_of(load_run(tmp_path / "run"))
    assert set(made) == FIGURES
    for name, figure in made.items():
        assert save(figure, tmp_path / f"{name}.png", dpi=40).read_bytes().startswith(PNG)


def test_measure_pairs_show_every_measure() -> None:
    assert [figures.measure_pairs(count) for count in (1, 2, 3)] == [[(0,)], [(0, 1)], [(0, 1), (1, 2)]]
    assert figures.measure_pairs(4) == [(0, 1), (2, 3)]


def test_best_per_cell_by_hand() -> None:
    grid = figures.Grid((2, 3), np.zeros(2), np.array([1.0, 3.0]), ("a", "b"))
    measures = np.array([[0.1, 0.5], [0.4, 0.9], [1.0, 2.5]])  # two in cell (0, 0), one on the border: (1, 2)
    best = figures.best_per_cell([5.0, 7.0, -1.0], measures, grid)
    np.testing.assert_array_equal(best, [[7, np.nan, np.nan], [np.nan, np.nan, -1]])
    np.testing.assert_array_equal(grid.occupied(measures), [0, 5])
    assert grid.diagonal == pytest.approx(np.hypot(0.5, 1.0))
    shown = figures.heat_maps(grid, [figures.Elites("x", np.array([5.0, 7.0, -1.0]), measures)] * 3)
    image = np.ma.filled(shown.axes[0].images[0].get_array().astype(float), np.nan)  # type: ignore[union-attr]
    np.testing.assert_array_equal(image, best.T)  # the first measure to the right, the second upwards
    assert shown.axes[0].images[0].origin == "lower"


@pytest.mark.parametrize("boxes", [1, 2])
def test_every_box_of_a_region_is_outlined_and_named_once(boxes: int) -> None:
    grid = figures.Grid((4, 4), np.zeros(2), np.ones(2), ("a", "b"))
    elites = figures.Elites("x", np.array([5.0, 7.0]), np.array([[0.1, 0.5], [0.4, 0.9]]))
    low, high = np.array([[0.1, 0.2], [0.5, 0.5]])[:boxes], np.array([[0.3, 0.6], [0.9, 0.7]])[:boxes]
    box = (low, high) if boxes > 1 else (low[0], high[0])  # runs of earlier versions hold the corners of one
    figure = figures.heat_maps(grid, [elites] * 3, box=box)
    drawn = [patch.get_bbox().extents for patch in figure.axes[2].patches]  # type: ignore[attr-defined]
    np.testing.assert_allclose(drawn, np.concatenate([low, high], 1))
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["held-out region"]


def test_an_archive_from_elsewhere_has_no_search_to_show(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    for file in ("archive/history.json", "archive/metrics.json"):
        (tmp_path / "run" / file).unlink()
    page = write_page(tmp_path / "run").read_text()
    assert "uniform_map" in page and "search_curves" not in page
    assert rows_of(page)["Generated"][:1] == pc("95.3")


@pytest.mark.parametrize("rounding", [0.0, -1e-7, 1e-7, -1e-6, -1e-5])
def test_cells_are_those_of_the_archive_on_cell_borders(rounding: float) -> None:
    # Fractions of an episode of 500 steps, and what rounding makes of them.
    steps = np.clip(np.arange(501, dtype=np.float32) / np.float32(500) + np.float32(rounding), 0, 1)
    measures = np.stack([steps, steps[::-1]], axis=1)
    grid = figures.Grid((50, 50), np.zeros(2), np.ones(2), ("a", "b"))
    flat = np.ravel_multi_index(tuple(grid.cells(measures).T), grid.shape)
    np.testing.assert_array_equal(flat, archive.Grid((50, 50), (0.0, 0.0), (1.0, 1.0)).index(measures))  # type: ignore[arg-type]


def test_ccdf_by_hand() -> None:
    level, count = figures.ccdf([3.0, 1.0, 2.0, 2.0])
    np.testing.assert_array_equal(level, [1, 2, 2, 3])
    np.testing.assert_array_equal(count, [4, 3, 3, 1])


def test_ccdf_counts_cells_not_policies() -> None:
    grid = figures.Grid((4,), np.zeros(1), np.ones(1), ("a",))
    measures = np.array([[0.1], [0.1], [0.6], [0.9]])
    elites = figures.Elites("x", np.array([1.0, 5.0, 3.0, np.nan]), measures)
    figure = figures.fitness_ccdf(grid, {"reference": elites, "ceiling": elites, "generated": elites})
    x, y = (np.asarray(values) for values in figure.axes[0].lines[0].get_data())
    np.testing.assert_array_equal(np.stack([x, y], axis=1), [[3, 2], [5, 1], [5, 0]])


def test_figures_survive_poor_data(tmp_path: Path) -> None:
    grid = figures.Grid((4, 4), np.zeros(2), np.ones(2), ("a", "b"))
    none = figures.Elites("none", np.full(2, np.nan), np.full((2, 2), np.nan))
    made: list[Figure] = [
        figures.heat_maps(grid, [none] * 3),
        figures.target_and_achieved(grid, none.measures, none.measures, none.measures),
        figures.fitness_ccdf(grid, {"reference": none, "ceiling": none, "generated": none}),
        figures.uniform_map(grid, none.measures, none.measures),
        figures.search_curves([{"iteration": 1, "cells": 3}]),
        figures.training_curves([{"phase": "diffusion", "step": 1, "loss": float("nan")}]),
    ]
    for figure in made:
        save(figure, tmp_path / "figure.png", dpi=40)
    with pytest.raises(ValueError, match="no row of phase"):
        figures.training_curves([{"step": 1, "loss": 1.0}])


def test_saving_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "figure.png"
    target.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        save(Figure(), target)
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]
