"""Archives for elsewhere: a QDax repertoire, a pyribs data frame."""

from typing import TYPE_CHECKING

import jax
import numpy as np

from ldpol.archive.archive import Archive
from ldpol.archive.layouts import Order, to_vectors

if TYPE_CHECKING:
    import pandas
    from qdax.core.containers.mapelites_repertoire import MapElitesRepertoire


def to_qdax(archive: Archive) -> "MapElitesRepertoire":
    """Return the elites as a QDax repertoire on the archive's cells; a cell keeps its best."""
    from qdax.core.containers.mapelites_repertoire import MapElitesRepertoire

    centroids = archive.grid.centroids()
    with jax.numpy_rank_promotion("allow"):  # QDax does
        return MapElitesRepertoire.init(archive.policies, archive.fitness[:, None], archive.measures, centroids)


def to_ribs(archive: Archive, order: Order = "flax") -> "pandas.DataFrame":
    """Return a pyribs-style data frame: columns `solution_*`, `objective`, `measures_*`, `index`.

    Args:
      archive: the archive.
      order: how a solution lays the policy out, see `from_ribs`; `torch` for `torch.nn.Linear` layers.
    """
    import pandas as pd

    vectors = np.asarray(to_vectors(archive.policies, archive.network, order))
    parts = {
        **{f"solution_{i}": vectors[:, i] for i in range(vectors.shape[1])},
        "objective": np.asarray(archive.fitness),
        **{f"measures_{i}": np.asarray(archive.measures[:, i]) for i in range(archive.measures.shape[1])},
        "index": np.asarray(archive.grid.index(archive.measures)),
    }
    return pd.DataFrame(parts)
