"""What a study consists of: rows as data, read from its config and checked before anything runs."""

import dataclasses
import difflib
from typing import Any

from ml_collections import ConfigDict

from ldpol.errors import UserError
from ldpol.experiments import configs
from ldpol.experiments.configs import Config
from ldpol.precision import PRECISIONS, Precision

_REGRESSION = {"octaves": 4, "directions": 128, "ridge": 1e-3}
METHODS: dict[str, dict[str, Any]] = {
    "ours": {"steps": 0, "sampler": "", "guidance": 1.0},
    "paper": {"steps": 0, "sampler": "", "guidance": 1.0},
    "quantised": {},
    "subsampled": {"match": ""},
    "gaussian": {"match": "", "temperature": 1.0, **_REGRESSION},
    "cloned": {"hidden": (192, 192), "embedding": 64, "octaves": 5, "joint": 32, "steps": 36000, "rate": 3e-3},
    "cvae": {"prior": "normal", **_REGRESSION},
    "latents": {},
}
"""The methods and their own settings.

`steps = 0` and no `sampler` sample as the config of the training says; `match` names the row whose bytes are matched.
"""
TRAINED = ("ours", "paper", "cvae", "latents", "cloned")
"""Methods that start from a training, their own or their parent's; that of a clone is not the train stage's."""


def row(method: str, *, parent: str = "", precision: str = "float32", train: str = "", **more: Any) -> Config:
    """Describe one row of a study; for its config file.

    Args:
      method: one of `METHODS`.
      parent: the row whose training it shares; without one, a trained method trains for itself.
      precision: in which the model is stored.
      train: a config, `FILE:VARIANT`, whose training settings replace those of the base.
      **more: `overrides`, a tuple of `train.key=value`, and the method's own settings.
    """
    overrides = tuple(more.pop("overrides", ()))
    own = METHODS.get(method, {}) | more
    return ConfigDict(
        {
            "method": method,
            "parent": parent,
            "precision": precision,
            "train": train,
            "overrides": overrides,
            "settings": own,
        }
    )


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a study.

    Attributes:
      name: of the variant.
      method: one of `METHODS`.
      training: the row whose training it starts from, itself perhaps; empty without a training.
      precision: in which the model is stored.
      train: a config whose training settings replace those of the base; empty for none.
      overrides: of the training settings; both are the parent's where the training is.
      settings: of the method.
    """

    name: str
    method: str
    training: str
    precision: Precision
    train: str
    overrides: tuple[str, ...]
    settings: dict[str, Any]

    def about(self) -> dict[str, Any]:
        """Return what the row's results depend on, as JSON values."""
        about = dataclasses.asdict(self)
        return about | {
            "overrides": list(self.overrides),
            "settings": {name: list(v) if isinstance(v, tuple) else v for name, v in self.settings.items()},
        }


def read_rows(config: Config) -> list[Row]:
    """Read the rows that `config.only` names and those they depend on, in an order in which they can be made.

    Raises:
      UserError: for an unknown row, method, precision or setting, or rows that wait for each other.
    """
    known = {name: _read(name, part, config) for name, part in config.rows.items()}
    _one_of(config.collected, known, "collected")
    if known[config.collected].training != config.collected or known[config.collected].method == "cloned":
        raise UserError(f"collected = {config.collected!r} names a row without a training of its own")
    for name in config.only:
        _one_of(name, ("all", *known), "only")
    methods = list(METHODS)
    order = sorted(known.values(), key=lambda row: (methods.index(row.method), row.name))
    ready: list[Row] = []

    def add(row: Row, waiting: tuple[str, ...]) -> None:
        if row.name in waiting:
            raise UserError(f"rows wait for each other: {' -> '.join((*waiting, row.name))}")
        parent = row.training if row.training != row.name else ""
        for other in filter(None, (parent, row.settings.get("match", ""))):
            add(known[other], (*waiting, row.name))
        if row not in ready:
            ready.append(row)

    add(known[config.collected], ())
    for row in order:
        if row.name in config.only or "all" in config.only:
            add(row, ())
    return ready


def _read(name: str, part: Config, config: Config) -> Row:
    where = f"rows.{name}"
    _one_of(part.method, METHODS, f"{where}.method")
    _one_of(part.precision, PRECISIONS, f"{where}.precision")
    own = dict(part.settings)
    for setting in own:
        _one_of(setting, METHODS[part.method], f"{where}.settings")
    trained = part.method in TRAINED
    if part.parent:
        parent = _one_of(part.parent, config.rows, f"{where}.parent")
        other = config.rows[parent].method
        shared = trained and other in TRAINED and (other == "cloned") == (part.method == "cloned")
        if not shared or config.rows[parent].parent:
            raise UserError(f"{where}: {part.method} cannot share the training of {parent!r}, which has none itself")
        if part.overrides or part.train:
            raise UserError(f"{where} shares the training of {parent!r} and cannot change its settings")
    if own.get("match"):
        _one_of(own["match"], config.rows, f"{where}.settings.match")
    foreign = [text for text in part.overrides if not text.startswith("train.") or text.startswith("train.held_out")]
    if foreign:
        raise UserError(
            f"{where}: {foreign[0]!r} is not for one row alone; rows of a study share archive, held-out elites and "
            "evaluation (give it to all of them with `overrides` of the study), only other keys of `train.` may differ"
        )
    training = (part.parent or name) if trained else ""
    maker = config.rows[part.parent] if part.parent else part
    return Row(name, part.method, training, part.precision, maker.train, tuple(maker.overrides), own)


def _one_of(name: str, known: Any, where: str) -> str:
    if name not in known:
        close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UserError(f"{where}: unknown {name!r}{hint} (known: {', '.join(known)})")
    return name


def run_config(config: Config, row: Row, seed: int) -> Config:
    """Return the config of a row's training and evaluation.

    Raises:
      UserError: for a config or a key that does not exist.
    """
    base = configs.load_config(config.base, [*config.overrides, f"seed={seed}"])
    if row.train:
        other = configs.load_config(row.train)
        with base.unlocked():
            held_out = base.train.held_out
            base.train = other.train
            base.train.held_out = held_out
        base.lock()
    for override in row.overrides:
        configs.override(base, override)
    return base
