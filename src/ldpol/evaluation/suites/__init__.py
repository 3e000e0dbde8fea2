"""The suites of measurements, one file each: settings, requests, metrics, tables."""

from ldpol.evaluation.suites.composition import Composition
from ldpol.evaluation.suites.damage import Damages
from ldpol.evaluation.suites.guidance import Guidance
from ldpol.evaluation.suites.held_out_region import HeldOutRegion
from ldpol.evaluation.suites.language import Sentences
from ldpol.evaluation.suites.reconstruction import Reconstruction
from ldpol.evaluation.suites.sequencing import Sequencing
from ldpol.evaluation.suites.steadiness import Steadiness

ALL = (Reconstruction, Guidance, Composition, Sentences, Sequencing, HeldOutRegion, Steadiness, Damages)
"""In reading order."""

__all__ = [
    "ALL",
    "Composition",
    "Damages",
    "Guidance",
    "HeldOutRegion",
    "Reconstruction",
    "Sentences",
    "Sequencing",
    "Steadiness",
]
