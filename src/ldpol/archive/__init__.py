"""Archives of elites: cells, checks, files, exchange with QDax, pyribs and others, and the check of an import."""

from ldpol.archive.archive import (
    KIND,
    Archive,
    check,
    check_policies,
    check_task,
    checked,
    is_imported,
    load,
    save,
    take,
)
from ldpol.archive.exporting import to_qdax, to_ribs
from ldpol.archive.grid import (
    NUDGE,
    Grid,
    Tessellation,
    Voronoi,
    best_per_cell,
    cell_coordinates,
    check_grid,
    grid_from_json,
    grid_metrics,
    make_grid,
    make_voronoi,
)
from ldpol.archive.importing import from_npz, from_policies, from_qdax, from_ribs
from ldpol.archive.layouts import from_torch, from_vectors, to_torch, to_vectors
from ldpol.archive.replay import Replay, check_import, replay

__all__ = [
    "KIND",
    "NUDGE",
    "Archive",
    "Grid",
    "Replay",
    "Tessellation",
    "Voronoi",
    "best_per_cell",
    "cell_coordinates",
    "check",
    "check_grid",
    "check_import",
    "check_policies",
    "check_task",
    "checked",
    "from_npz",
    "from_policies",
    "from_qdax",
    "from_ribs",
    "from_torch",
    "from_vectors",
    "grid_from_json",
    "grid_metrics",
    "is_imported",
    "load",
    "make_grid",
    "make_voronoi",
    "replay",
    "save",
    "take",
    "to_qdax",
    "to_ribs",
    "to_torch",
    "to_vectors",
]
