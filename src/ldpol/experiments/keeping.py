"""What a stage keeps in its folder: results, checkpoints, its history; so that an interrupted one can go on."""

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
from ldpol.experiments import configs
from ldpol.hooks import Hooks
from ldpol.train_loop import Log, Step, TrainState, place, run_steps
from ldpol.types import Key, PyTree

KIND = "result"
About = Callable[[Mapping[str, Any]], dict[str, Any]]
"""What a result depends on, as it is stored: from what the library says of it."""


def check_equal(stored: Any, now: Any, where: Path, but: tuple[str, ...] = ()) -> None:
    """Raise `UserError` if the settings `stored`, as JSON values, differ from those asked for `now`."""
    lines = [line for line in configs.differences(stored, now) if not line.startswith(but)]
    if lines:
        raise UserError(
            f"{where} was made with other settings ({'; '.join(lines[:4])}{' ...' if len(lines) > 4 else ''}); "
            "use another --workdir, or delete that folder to start this stage again"
        )


class Keeper:
    """Hooks that write into one folder; nothing is written before there is something to keep."""

    def __init__(
        self,
        stage: str,
        folder: Path,
        about: About,
        check: Callable[[Any, Path], None] = lambda stored, path: None,
        *,
        steps_per_call: int = 200,
        checkpoint_seconds: float = 20.0,
    ) -> None:
        """Keep things of a stage.

        Args:
          stage: its name, for messages.
          folder: where.
          about: what results depend on; results of anything else are made again.
          check: raises `UserError` for a stored `about` that must not be replaced.
          steps_per_call: gradient steps per call of a compiled program.
          checkpoint_seconds: between two checkpoints, at least.
        """
        self.stage, self.folder, self._about, self._check = stage, folder, about, check
        self._steps, self._pause = steps_per_call, checkpoint_seconds
        self.rows: list[dict[str, Any]] = []
        self.timer = session.Timer()
        self._writer: EventsWriter | None = None

    @property
    def hooks(self) -> Hooks:
        """The hooks."""
        return Hooks(fit=self.fit, memo=self.memo, log=self.log, progress=self.progress)

    def progress(self, title: str, total: int, unit: str = "policy") -> Any:
        """Show a progress bar of the stage."""
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
        path, about = self.folder / name, json.loads(json.dumps(self._about(depends_on)))
        if storage.exists(path):
            arrays, found = storage.load(path, kind=KIND)
            seconds = found.pop("seconds")
            self._check(found, path)
            if found == about:
                session.say(f"{self.stage}: {name}: already done")
                self.timer.advance_to(seconds)
                return arrays
        arrays = compute()
        storage.save(path, arrays, kind=KIND, about=about | {"seconds": self.timer.seconds})
        return arrays

    def fit(self, name: str, step: Step, state: TrainState, key: Key, data: PyTree, steps: int, log: Log) -> TrainState:
        """Train from the last checkpoint of this phase, or from `state`, until step `steps`."""
        path, about = self.folder / name, self._about({})
        if storage.exists(path):

            def check(found: dict[str, Any]) -> None:
                self._check({part: value for part, value in found.items() if part != "history"}, path)

            state, found = storage.load_state(path, state, kind=name, check=check)
            if len(found["history"]) > len(self.rows):
                self.rows[:] = found["history"]
                self.timer = session.Timer(found["history"][-1]["seconds"])
        state, done, saved = place(state), int(state.step), self.timer.seconds
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
                    storage.save_state(path, state, kind=name, about=about | {"history": self.rows})
                    saved = self.timer.seconds
        return state
