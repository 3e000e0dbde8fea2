"""Long work kept in a folder: results, checkpoints, history and curves, so that what was interrupted can go on."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2
from tensorboardX.summary import scalar

from ldpol import session, storage
from ldpol.errors import UserError
from ldpol.hooks import Hooks
from ldpol.train_loop import Log, Step, TrainState, place, run_steps
from ldpol.types import Key, PyTree

KIND = "result"
About = Callable[[Mapping[str, Any]], dict[str, Any]]
"""What a result depends on, as it is stored: from what the library says of it."""
Check = Callable[[Any, Any, Path], None]
"""`(stored, now, path)`: raises `UserError` where what depends on `stored` must not make room for that on `now`."""


def restrict(value: Any, like: Any) -> Any:
    """Return the part of a nested dict `value` whose keys `like` has too."""
    if isinstance(value, dict) and isinstance(like, dict):
        return {name: restrict(part, like[name]) for name, part in value.items() if name in like}
    return value


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """List keys of nested dicts whose values differ, as `key: old -> new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted({*old, *new})
        return [line for n in names for line in differences(old.get(n), new.get(n), f"{prefix}{n}.")]
    return [] if old == new else [f"{prefix[:-1]}: {old!r} -> {new!r}"]


def check_equal(
    stored: Any,
    now: Any,
    where: Path,
    but: tuple[str, ...] = (),
    advice: str = "use another folder, or delete that one to start again",
) -> None:
    """Refuse to go on in a folder whose content depends on something else.

    Args:
      stored: settings as JSON values, as they were kept.
      now: those asked for.
      where: the folder.
      but: beginnings of keys that may differ.
      advice: what the user can do.

    Raises:
      UserError: naming the keys that differ.
    """
    lines = [line for line in differences(stored, now) if not line.startswith(but)]
    if lines:
        shown = "; ".join(lines[:4]) + (" ..." if len(lines) > 4 else "")
        raise UserError(f"{where} was made with other settings ({shown}); {advice}")


def refuse(stored: Any, now: Any, path: Path) -> None:
    """Let nothing be replaced that depends on anything else than what is asked for."""
    check_equal(stored, now, path.parent)


def replace(stored: Any, now: Any, path: Path) -> None:
    """Let results that depend on anything else be made again."""


class Keeper:
    """Hooks that keep a piece of work in a folder of its own, show its progress and write its curves.

    `ldpol.distill(archive, task, key=key, hooks=ldpol.Keeper("runs/mine").hooks)` can be interrupted at any time: the
    same call goes on from the last checkpoint, and ends with the same generator. `reevaluate` and `evaluate` take such
    hooks too. Another archive, task, key or other settings in the same folder raise `UserError`.

    Nothing is written before there is something to keep. The folder holds files of the arrays, with checksums and what
    they depend on, and `tensorboard` with the curves.

    Attributes:
      stage: what the work is called in messages.
      folder: where it is kept.
      rows: the history: metrics as they were logged, those of earlier processes included.
      timer: seconds that the work has taken, likewise.
    """

    def __init__(
        self,
        folder: Path | str,
        stage: str = "",
        about: About = dict,
        check: Check = refuse,
        *,
        steps_per_call: int = 200,
        checkpoint_seconds: float = 20.0,
    ) -> None:
        """Keep a piece of work.

        Args:
          folder: where.
          stage: its name, for messages; by default that of the folder.
          about: what is stored as that on which a result depends; by default what the library says of it.
          check: of results that depend on something else; by default they are not replaced, but refused.
          steps_per_call: gradient steps per call of a compiled program.
          checkpoint_seconds: between two checkpoints, at least.
        """
        self.folder, self._about, self._check = Path(folder), about, check
        self.stage = stage or self.folder.name
        self._steps, self._pause = steps_per_call, checkpoint_seconds
        self.rows: list[dict[str, Any]] = []
        self.timer = session.Timer()
        self._writer: EventsWriter | None = None

    @property
    def hooks(self) -> Hooks:
        """The hooks."""
        return Hooks(fit=self.fit, memo=self.memo, log=self.log, progress=self.progress)

    def progress(self, title: str, total: int, unit: str = "policy") -> Any:
        """Show a progress bar."""
        return session.progress(f"{self.stage}: {title}", total, unit)

    def log(self, phase: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Add a row to the history, and its scalars to TensorBoard; say what is left out."""
        if "left_out" in metrics:
            session.say(f"{self.stage}: {phase} is left out: {metrics['left_out']}")
            return
        row = {"phase": phase, "step": step, "seconds": round(self.timer.seconds, 3), **metrics}
        self.rows.append(row)
        self.scalars(step, metrics, f"{phase}/")

    def scalars(self, step: int, metrics: Mapping[str, Any], prefix: str = "") -> None:
        """Write scalars of one step for TensorBoard."""
        folder = self.folder / "tensorboard"
        with storage.explained("write into", folder):
            if self._writer is None:
                folder.mkdir(parents=True, exist_ok=True)
                # Not SummaryWriter: that one writes in a thread, and a full disk would end the thread alone.
                self._writer = EventsWriter(str(folder / "events"))
            for name, value in metrics.items():
                if isinstance(value, int | float):
                    self._writer.write_event(
                        event_pb2.Event(  # type: ignore[reportAttributeAccessIssue]
                            wall_time=time.time(), step=step, summary=scalar(f"{prefix}{name}", value)
                        )
                    )
            self._writer.flush()

    def close(self) -> None:
        """Flush the scalars."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def memo(self, name: str, depends_on: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        """Compute nested dicts of arrays, or read what an earlier run left in the folder `name`."""
        path, about = self.folder / name, self._stored(depends_on)
        if storage.exists(path):
            arrays, found = storage.load(path, kind=KIND)
            seconds = found.pop("seconds")
            self._check(found, about, path)
            if found == about:
                session.say(f"{self.stage}: {name}: already done")
                self.timer.advance_to(seconds)
                return arrays
        arrays = compute()
        storage.save(path, arrays, kind=KIND, about=about | {"seconds": self.timer.seconds})
        return arrays

    def restore(self, name: str, like: PyTree, kind: str) -> PyTree:
        """Return the checkpoint `name` and take up its history; without one, return `like`, which has its structure.

        Raises:
          UserError: if it depends on something else, or is of another kind.
        """
        path, about = self.folder / name, self._stored({})
        if not storage.exists(path):
            return like

        def check(found: dict[str, Any]) -> None:
            self._check({part: value for part, value in found.items() if part != "history"}, about, path)

        state, found = storage.load_state(path, like, kind=kind, check=check)
        if len(found["history"]) > len(self.rows):
            self.rows[:] = found["history"]
            self.timer = session.Timer(found["history"][-1]["seconds"])
        return state

    def checkpoint(self, name: str, state: PyTree, kind: str) -> None:
        """Keep a state and the history until there."""
        # What a state depends on, the data it learns from depend on too, and they were kept before the first step.
        storage.save_state(self.folder / name, state, kind=kind, about=self._stored({}) | {"history": self.rows})

    def fit(self, name: str, step: Step, state: TrainState, key: Key, data: PyTree, steps: int, log: Log) -> TrainState:
        """Train from the last checkpoint of this phase, or from `state`, until step `steps`."""
        state = place(self.restore(name, state, kind=name))
        done, saved = int(state.step), self.timer.seconds
        with session.bar(f"{self.stage}: {name}", steps, done, "step") as shown:
            while done < steps:
                count = min(self._steps, steps - done)
                state, metrics = run_steps(step, state, key, data, count)
                done += count
                values = {metric: float(value) for metric, value in metrics.items()}
                log(name, done, values)
                shown.set_postfix_str(", ".join(f"{metric} {value:.4f}" for metric, value in values.items()), False)
                shown.update(count)
                if done == steps or self.timer.seconds - saved > self._pause:
                    self.checkpoint(name, state, kind=name)
                    saved = self.timer.seconds
        return state

    def _stored(self, depends_on: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is stored of `depends_on`, as it will be read."""
        return json.loads(json.dumps(self._about(depends_on)))
