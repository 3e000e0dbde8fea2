"""One thread owns JAX; of what one page asks for while it is busy, only the latest is answered."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

CLIENTS = 16
"""Pages that may wait at a time."""


class Superseded(Exception):
    """The page has asked for something newer."""


class Busy(Exception):
    """Too many pages are waiting."""


class Worker:
    """A thread that does one job after another; each client has at most one job waiting, its latest."""

    def __init__(self, start: Callable[[], None]) -> None:
        """Start the thread; it runs `start` before any job."""
        self._waiting: OrderedDict[str, tuple[Callable[[], Any], Future[Any]]] = OrderedDict()
        self._change = threading.Condition()
        self._over = False
        self._thread = threading.Thread(target=self._run, args=(start,), name="explorer", daemon=True)
        self._thread.start()

    def submit(self, client: str, job: Callable[[], Any]) -> "Future[Any]":
        """Queue a job in place of the one that this client still has waiting, if any.

        Returns:
          The job's future; it raises `Superseded` if a newer one takes its place.

        Raises:
          Busy: if too many other clients are waiting.
        """
        future: Future[Any] = Future()
        with self._change:
            if client not in self._waiting and len(self._waiting) >= CLIENTS:
                raise Busy(f"{CLIENTS} pages are waiting for an answer; try again in a moment")
            _, older = self._waiting.pop(client, (None, None))
            self._waiting[client] = (job, future)
            self._change.notify()
        if older is not None:
            older.set_exception(Superseded("the page has asked for something newer"))
        return future

    def close(self) -> None:
        """Finish the job at hand and stop; what waits is dropped."""
        with self._change:
            self._over = True
            waiting = [future for _, future in self._waiting.values()]
            self._waiting.clear()
            self._change.notify()
        for future in waiting:
            future.set_exception(Superseded("the explorer is closing"))
        self._thread.join()

    def _run(self, start: Callable[[], None]) -> None:
        start()
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._over)
                if self._over:
                    return
                _, (job, future) = self._waiting.popitem(last=False)
            try:
                future.set_result(job())
            except Exception as error:  # whoever asked gets it
                future.set_exception(error)
