"""What the server holds: the source, the thread that answers, and how far it has come in starting up."""

import contextlib
import os
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldpol.errors import UserError
from ldpol.explore import elsewhere
from ldpol.explore.requests import Limits, Request, WishList
from ldpol.explore.source import Source, map_of
from ldpol.explore.worker import Worker

if TYPE_CHECKING:
    from ldpol.explore.stage import Stage

KEPT = 64
"""Answers that are remembered."""
PARTS = ("films", "numbers", "sequences")


class NotReady(Exception):
    """What is asked for is still being compiled."""


class Explorer:
    """Answers requests of pages: `facts` at once, the rest when JAX, in a thread of its own, has started."""

    def __init__(self, source: Source, make_stage: "Callable[..., Stage] | None" = None) -> None:
        """Start the thread.

        Args:
          source: what is explored.
          make_stage: `(source, say) -> Stage`, called in that thread; None: `Stage` itself.
        """
        self.source = source
        self.ready: dict[str, bool] = dict.fromkeys(PARTS, False)
        self.trouble: str | None = None
        self.doing = "starting JAX"
        self.limits: Limits | None = None
        self._begun = time.monotonic()
        self._stage: Any = None
        self._facts = early_facts(source)
        self._answers: OrderedDict[Any, Any] = OrderedDict()
        self._make_stage = make_stage
        self._over = threading.Event()
        self._compiler = threading.Thread(target=self._warm_the_rest, name="compiler", daemon=True)
        self._worker = Worker(self._start)

    def close(self) -> None:
        """Stop the threads, once what they are compiling is done: Python cannot end under them."""
        self._over.set()
        self._worker.close()
        if self._compiler.ident is not None:
            self._compiler.join()

    def facts(self) -> dict[str, Any]:
        """Return what the page must know; at first only what the files say without JAX."""
        return self._facts

    def status(self) -> dict[str, Any]:
        """Return how far starting up has come."""
        seconds = round(time.monotonic() - self._begun, 1)
        return {"ready": dict(self.ready), "doing": self.doing, "trouble": self.trouble, "seconds": seconds}

    def _start(self) -> None:
        try:
            if self._make_stage is None:
                start_jax()
                from ldpol.explore.stage import Stage

                self._make_stage = Stage
            from ldpol.explore import answers

            self._stage = stage = self._make_stage(self.source, self._say)
            self.limits = stage.limits
            self._say("compiling")
            stage.warm("films")
            self._facts = self._facts | answers.facts(stage) | {"examples": answers.examples(stage)}
            self.ready["films"] = True
        except Exception as error:  # shown on the page, and the server goes on to show what it can
            self._stop(error)
            return
        # The rest compiles beside the first answers: nobody waits for what nobody asked for.
        self._compiler.start()

    def _warm_the_rest(self) -> None:
        try:
            for part in PARTS[1:]:
                if self._over.is_set():
                    return
                self._say(f"compiling {part}")
                self._stage.warm(part)
                self.ready[part] = True
            self._say("")
        except Exception as error:
            self._stop(error)

    def _stop(self, error: Exception) -> None:
        if isinstance(error, UserError | OSError):
            self.trouble = str(error)
        else:
            self.trouble = f"{type(error).__name__}: {error}"
            traceback.print_exc()

    def _say(self, what: str) -> None:
        self.doing = what

    def draw(self, client: str, request: Request) -> "Future[Any]":
        """Queue films of a request."""
        return self._submit("films", client, lambda stage, answers: self._drawn(stage, answers, request)[0])

    def numbers(self, client: str, request: Request, which: int) -> "Future[Any]":
        """Queue the ten episodes of one of a request's policies."""

        def job(stage: Any, answers: Any) -> Any:
            make = lambda: answers.numbers(stage, *self._drawn(stage, answers, request), which)  # noqa: E731
            return self._remembered(("numbers", request, which), make)

        return self._submit("numbers", client, job)

    def policy(self, client: str, request: Request, which: int) -> "Future[Any]":
        """Queue one of a request's policies as a file."""
        return self._submit(
            "films",
            client,
            lambda stage, answers: answers.policy_file(stage, *self._drawn(stage, answers, request), which),
        )

    def page(self, client: str, request: Request, which: int) -> "Future[Any]":
        """Queue one of a request's films as a page of its own."""
        return self._submit(
            "films",
            client,
            lambda stage, answers: answers.film_page(stage, self._drawn(stage, answers, request)[0], which),
        )

    def sequence(self, client: str, wanted: WishList) -> "Future[Any]":
        """Queue a sequence."""
        return self._submit(
            "sequences",
            client,
            lambda stage, answers: self._remembered(wanted, lambda: answers.sequence(stage, wanted)),
        )

    def _submit(self, part: str, client: str, job: Callable[[Any, Any], Any]) -> "Future[Any]":
        if not self.ready[part]:
            raise NotReady(f"{part} are not ready yet: {self.trouble or self.doing}")

        def work() -> Any:
            from ldpol.explore import answers

            return job(self._stage, answers)

        return self._worker.submit(client, work)

    def _drawn(self, stage: Any, answers: Any, request: Request) -> Any:
        return self._remembered(("draw", request), lambda: answers.draw(stage, request))

    def _remembered(self, name: Any, make: Callable[[], Any]) -> Any:
        """Return what was answered before, or make it; called by the worker alone."""
        if name not in self._answers:
            self._answers[name] = make()
        self._answers.move_to_end(name)
        while len(self._answers) > KEPT:
            self._answers.popitem(last=False)
        return self._answers[name]


def start_jax() -> None:
    """Import JAX and keep what it compiles in the user's cache folder, so that the second start is quick."""
    import jax

    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    with contextlib.suppress(OSError):  # no writable home: then every start compiles
        folder = base / "ldpol" / "jax"
        folder.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def early_facts(source: Source) -> dict[str, Any]:
    """Return what the page can be told before JAX has started."""
    found = {
        "name": source.name,
        "opening": elsewhere.opening(source.archive, source.stated)
        if source.model is None and source.archive
        else None,
        "films": list(source.films),
        **source.facts,
    }
    return found | {"map": map_of(source.arrays)} if source.arrays else found
