"""Many models of one archive in one table: rows are values, `run` makes and measures them, `tabulate` sums up."""

from ldpol.study.context import StudyConfig, StudyContext
from ldpol.study.methods import Method, Model
from ldpol.study.run import Finished, choose, run, tabulate

__all__ = ["Finished", "Method", "Model", "StudyConfig", "StudyContext", "choose", "run", "tabulate"]
