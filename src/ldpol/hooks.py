"""What long work does beside computing: results kept, progress shown. All optional, handed in by the caller."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from flax import serialization

from ldpol import train_loop
from ldpol.errors import UserError
from ldpol.train_loop import Log, Step, TrainState
from ldpol.types import Key, PyTree

T = TypeVar("T")
Progress = Callable[..., "contextlib.AbstractContextManager[Callable[[int], Any]]"]
"""`progress(title, total, unit="policy")`: a context that gives a function to call with what was done since."""
Memo = Callable[[str, Mapping[str, Any], Callable[[], Any]], Any]
"""`memo(name, depends_on, compute)`: nested dicts of arrays, computed or read from where they were kept."""


class Fit(Protocol):
    """Trains until `state.step` is `steps`; see `train_loop.fit`."""

    def __call__(
        self, name: str, step: Step, state: TrainState, key: Key, data: PyTree, steps: int, log: Log
    ) -> TrainState:
        """Return the trained state."""
        ...


@contextlib.contextmanager
def silent(title: str, total: int, unit: str = "policy") -> Iterator[Callable[[int], Any]]:
    """Show no progress."""
    yield lambda count: None


@dataclass(frozen=True)
class Hooks:
    """What the caller of long work may replace.

    Attributes:
      fit: the gradient loop; a `Keeper`'s writes checkpoints.
      memo: keeps results; by default nothing is kept.
      log: takes metrics as they come.
      progress: shows how far the work is.
    """

    fit: Fit = train_loop.fit
    memo: Memo = lambda name, depends_on, compute: compute()
    log: Log = lambda phase, step, metrics: None
    progress: Progress = silent

    def remember(self, name: str, depends_on: Mapping[str, Any], compute: Callable[[], T], blank: T) -> T:
        """Return what `compute` makes, through `memo`.

        Args:
          name: of the result, unique in its work.
          depends_on: JSON-able; a result that was kept counts only if it depended on the same.
          compute: makes the result, a pytree of arrays.
          blank: a result of the same structure, whatever its leaves.

        Raises:
          UserError: if what was kept has another structure.
        """
        kept = self.memo(name, depends_on, lambda: serialization.to_state_dict(compute()))
        try:
            restored: Any = serialization.from_state_dict(blank, kept)
        except (KeyError, ValueError) as error:
            raise UserError(
                f"the result {name!r} that was kept is of another version of ldpol ({error}); delete it, and it is "
                "made again"
            ) from error
        return restored
