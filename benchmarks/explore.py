"""Measure the explorer in a browser: installation to first film, start cold and warm, clicks, and ten minutes of use.

    python benchmarks/explore.py --out results/explore.json          # needs chromium and the extra `e2e`
    python benchmarks/explore.py --parts start clicks

Parts that are not measured keep what the file has of them. Every part says how busy the machine was.
"""

import contextlib
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clicking import Watch, use
from common import finish, parser, say, table
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PARTS = ("fresh", "start", "clicks", "use")
CLICKS, SECONDS = 50, 600.0
STOPWATCH = """() => {
  document.addEventListener("pointerdown", () => { window.pressed = performance.now(); window.took = null; }, true);
  new MutationObserver(() => { window.took ??= performance.now() - window.pressed; })
    .observe(document.querySelector("#draws"), { childList: true });
}"""
"""From the press to the films of the answer: `took` milliseconds."""


class Server:
    """An explorer in a process of its own, and the seconds since it was asked for."""

    def __init__(self, command: Sequence[str], cache: Path, folder: Path = ROOT) -> None:
        """Start it with what JAX compiles kept in `cache`."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}/"
        own = ("JAX_COMPILATION_CACHE_DIR", "MAKEFLAGS")
        kept = {name: value for name, value in os.environ.items() if name not in own}
        line = [part.format(port=self.port) for part in command]
        self.begun = time.monotonic()
        environment = kept | {"XDG_CACHE_HOME": str(cache)}
        self.process = subprocess.Popen(
            line, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self.begun, 2)

    def ask(self, path: str = "") -> bytes:
        """Fetch a file, waiting for the server to come up."""
        while True:
            try:
                with urllib.request.urlopen(self.address + path, timeout=10) as answer:
                    return answer.read()
            except OSError:
                if self.process.poll() is not None:
                    raise RuntimeError(f"the explorer ended: {self.process.communicate()[1].decode()}") from None
                time.sleep(0.02)

    def wait(self, *parts: str) -> float:
        """Wait until parts are compiled; returns the seconds since the start."""
        while True:
            status = json.loads(self.ask("api/status"))
            if status["trouble"]:
                raise RuntimeError(status["trouble"])
            if all(status["ready"][part] for part in parts):
                return self.seconds
            time.sleep(0.05)

    def close(self) -> None:
        """Stop it and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, 15)
        self.process.communicate()


@contextlib.contextmanager
def serving(cache: Path, command: Sequence[str] = (), folder: Path = ROOT) -> Iterator[Server]:
    """Run an explorer of the package's model, or of a command."""
    usual = (sys.executable, "-m", "ldpol.explore", "--no-browser", "--port", "{port}")
    server = Server(command or usual, cache, folder)
    try:
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def browsing() -> Iterator[Page]:
    """Open a browser window."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1300, "height": 900})
        browser.close()


def milestones(server: Server, parts: Sequence[str] = ("films", "numbers", "sequences")) -> dict[str, float]:
    """Return the seconds until the page, its first film, and until parts are compiled."""
    server.ask()
    found = {"page": server.seconds}
    with browsing() as page:
        opened = time.monotonic()
        page.goto(server.address)
        page.wait_for_selector(".draw", timeout=60_000)
        found |= {"first film": server.seconds, "first film after opening": round(time.monotonic() - opened, 2)}
    return found | {f"{part} on request": server.wait(part) for part in parts}


def fresh(cache: Path) -> dict[str, float]:
    """From `git clone` of this commit through `make explore`, with nothing compiled before."""
    folder = cache / "clone"
    begun = time.monotonic()
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    with serving(cache / "empty", ("make", "explore", "ARGS=--no-browser --port {port}"), folder) as server:
        server.begun = begun
        return milestones(server, ["films"])


def start(cache: Path) -> dict[str, dict[str, float]]:
    """Start with nothing compiled before, and again."""
    found = {}
    for name in ("cold", "warm"):
        with serving(cache / "start") as server:
            found[name] = milestones(server)
    return found


def clicks(cache: Path) -> dict[str, Any]:
    """Seconds from a press on the map to the films, after the page has settled, and while it still counts episodes."""
    found = {}
    with serving(cache) as server, browsing() as page:
        server.wait("films", "numbers", "sequences")
        page.goto(server.address)
        page.wait_for_selector(".draw")
        page.evaluate(STOPWATCH)
        for name, pause in (("settled", 3.0), ("busy", 0.4)):
            rng, took = random.Random(0 if name == "settled" else 1), []
            for _ in range(CLICKS):
                page.wait_for_timeout(1000 * pause)
                box = page.locator("#maps canvas").first.bounding_box()
                assert box
                x, y = (rng.uniform(0.15, 0.95), rng.uniform(0.05, 0.85))
                page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
                while page.evaluate("window.took") is None:  # the page's own rules forbid `wait_for_function`
                    page.wait_for_timeout(20)
                took.append(page.evaluate("window.took") / 1000)
            took.sort()
            found[name] = {
                "clicks": CLICKS,
                "median": round(statistics.median(took), 3),
                "p95": round(took[int(0.95 * CLICKS)], 3),
                "longest": round(took[-1], 3),
            }
    return found


def used(cache: Path, seconds: float, seed: int) -> dict[str, Any]:
    """Use it at random."""
    with serving(cache) as server, browsing() as page:
        server.wait("films", "numbers", "sequences")
        return use(page, server.address, Watch(page, server.process.pid), seconds, seed)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    arguments.add_argument("--seconds", type=float, default=SECONDS, help="of random use")
    arguments.add_argument("--seed", type=int, default=0, help="of random use")
    arguments.add_argument("--cache", type=Path, help="folder of compiled programs for clicks and use; kept")
    options = arguments.parse_args()
    results = json.loads(options.out.read_text())["results"] if options.out and options.out.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        for part in options.parts:
            say(f"explore: {part}")
            load = os.getloadavg()[0]
            if part == "use":
                found = used(options.cache or cache / "start", options.seconds, options.seed)
            elif part == "clicks":
                found = clicks(options.cache or cache / "start")
            else:
                found = fresh(cache) if part == "fresh" else start(cache)
            results[part] = {"load": round(load, 2), "when": time.strftime("%Y-%m-%d %H:%M", time.gmtime())} | found
            table(part, ("what", "found"), [(name, json.dumps(value)) for name, value in results[part].items()])
    settings = {"model": "walker2d", "seed": options.seed, "cores": os.cpu_count()}
    finish("explore", options.out, {}, settings, results)


if __name__ == "__main__":
    main()
