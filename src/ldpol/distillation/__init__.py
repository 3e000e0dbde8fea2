"""What training needs: from an archive to one generative model of its policies. `distill.py` shows the whole method."""

from ldpol.distillation.config import DistillConfig, published
from ldpol.distillation.distill import Distilled, distill, train

__all__ = ["DistillConfig", "Distilled", "distill", "published", "train"]
