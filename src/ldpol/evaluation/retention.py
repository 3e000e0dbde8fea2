"""What a compressed archive still holds: the numbers of one row of a study, and their means over seeds."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ldpol.archive import Tessellation
from ldpol.evaluation.context import rows_of
from ldpol.evaluation.intervals import over_seeds, show
from ldpol.evaluation.metrics import RATIOS, compare, occupied
from ldpol.types import Score

NUMBERS = (
    *("compression_bytes", "compression_params", "bytes", *RATIOS, "mem", "success_rate", "trained_mem"),
    *("held_out_mem", "held_out_reward_ratio", "box_mem", "box_reward_ratio", "box_cells", "diversity"),
)
"""What a row has an interval of. `box_cells` counts cells of the held-out box that policies asked for it reach."""


def measure(grid: Tessellation, reference: Score, generated: Score, kind: np.ndarray, offset: float) -> dict[str, Any]:
    """Compare a generated archive with the one it stands for, row by row.

    Args:
      grid: of the archive.
      reference: `[N]` mean scores of the elites played again.
      generated: `[N]` mean scores of what was asked for in their place.
      kind: `[N]` 0 for trained elites, 1 for held-out ones, 2 for those in the held-out box.
      offset: fitness offset of the QD score.

    Returns:
      Ratios, `mem` and `success_rate` over all elites, `mem` of the trained ones, `mem` and `reward_ratio` of the
      held-out ones and of those in the box, and the box's cells that were reached; None where there are no such elites.
    """
    found: dict[str, Any] = {}
    whole = compare(grid, reference, generated, offset)
    found |= {name: whole[name] for name in (*RATIOS, "mem", "success_rate")}
    for name, number in (("trained", 0), ("held_out", 1), ("box", 2)):
        rows = kind == number
        part: dict[str, Any] = {}
        if rows.any():
            part = compare(grid, rows_of(reference, rows), rows_of(generated, rows), offset)
        found |= {f"{name}_mem": part.get("mem"), f"{name}_reward_ratio": part.get("reward_ratio")}
    inside, found["box_cells"] = kind == 2, None
    if inside.any():
        present, reached = (occupied(grid, rows_of(score, inside).measures) for score in (reference, generated))
        found["box_cells"] = len(present & reached)
    return found


def summarise(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return every number of a row as `{mean, low, high}` over seeds; None where no seed has it.

    Args:
      seeds: the row's numbers, one dict a seed, each with `NUMBERS` and `seconds`.
    """
    row: dict[str, Any] = {}
    for name in NUMBERS:
        values = [seed[name] for seed in seeds if seed.get(name) is not None]
        row[name] = over_seeds(values) if values else None
    return row | {"seeds": len(seeds), "seconds": float(np.mean([seed["seconds"] for seed in seeds]))}


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table."""
    columns = {
        "x smaller": ("compression_bytes", ".1f"),
        "reward": ("reward_ratio", ".3f"),
        "coverage": ("coverage_ratio", ".3f"),
        "QD score": ("qd_ratio", ".3f"),
        "MEM": ("mem", ".3f"),
        "held-out MEM": ("held_out_mem", ".3f"),
        "held-out reward": ("held_out_reward_ratio", ".3f"),
        "box cells": ("box_cells", ".1f"),
        "diversity": ("diversity", ".2f"),
    }
    lines = [f"| variant | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        cells = [show(row[name], form) for name, form in columns.values()]
        lines.append(f"| {row['variant']} | {' | '.join(cells)} |")
    return "\n".join(lines)
