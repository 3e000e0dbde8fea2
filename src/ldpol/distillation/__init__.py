"""What training needs: from an archive to one generative model of its policies. `distill.py` shows the whole method."""

from ldpol.distillation.config import DistillConfig
from ldpol.distillation.distill import Distilled, distill, train
from ldpol.distillation.presets import accelerated, published, quick

__all__ = ["DistillConfig", "Distilled", "accelerated", "distill", "published", "quick", "train"]
