"""Photograph the explorer, for docs/explore.md; needs chromium and the extra `e2e`.

    python docs/screenshot.py --out docs/explore.png
    python docs/screenshot.py --out dark.png --dark --width 390       # other looks, to be looked at

It asks for measures of the package's model, waits until every policy has played its ten episodes, and stops the films
where they are at a moment that shows both walkers.
"""

import argparse
import shutil
import threading
import time
from pathlib import Path

from playwright.sync_api import expect, sync_playwright
from werkzeug.serving import make_server

from ldpol.explore.app import create_app, names_of
from ldpol.explore.explorer import Explorer
from ldpol.explore.source import open_model

ASKED, MOMENT = "#ask=0.3%2C0.8", 1.3
"""What the address asks for, and the second of the film."""


def photograph(address: str, out: Path, width: int, height: int, dark: bool, whole: bool) -> None:
    """Write a picture of the page at an address."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
        )
        page.goto(f"{address}{ASKED}")
        page.wait_for_selector(".draw", timeout=300_000)
        for note in page.locator(".draw small").all():
            expect(note).to_contain_text("fell", timeout=300_000)
        page.evaluate(
            f"""() => {{ const time = document.querySelector("#time");
            time.value = {1000 * MOMENT / 4}; time.dispatchEvent(new Event("input")); }}"""
        )
        page.wait_for_timeout(300)
        page.screenshot(path=out, full_page=whole)
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="walker2d")
    parser.add_argument("--width", type=int, default=1300)
    parser.add_argument("--height", type=int, default=1000)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--whole", action="store_true", help="the whole page, not what a window shows")
    options = parser.parse_args()
    explorer = Explorer(open_model(options.model))
    server = make_server("127.0.0.1", 0, None, threaded=True)  # type: ignore[arg-type]
    server.app = create_app(explorer, names_of("127.0.0.1", server.server_port))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while not explorer.ready["numbers"]:
        if explorer.trouble:
            raise SystemExit(explorer.trouble)
        time.sleep(0.2)
    photograph(
        f"http://127.0.0.1:{server.server_port}/",
        options.out,
        options.width,
        options.height,
        options.dark,
        options.whole,
    )
    server.shutdown()
    explorer.close()


if __name__ == "__main__":
    main()
