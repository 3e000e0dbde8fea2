"""Random use of the explorer: clicks, drags, sliders, sentences, sequences, drawn from a seed; and what goes wrong."""

import random
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Error, Locator, Page

MOVES = ("walk", "run", "hop", "move backwards", "stand still", "move forward", "jump", "levitate")
HOW = (
    "",
    "slowly",
    "fast",
    "on the left leg",
    "with many steps",
    "leaning forward",
    "with the body held low",
    "purple",
)
STEPS = ("", "2", "16")
BUTTONS = "#surprise, #neighbour, .draw, .seen, .pin, #compare, #play, summary, #again"
USABLE = """selector => [...document.querySelectorAll(selector)]
  .flatMap((one, i) => one.checkVisibility() && !one.disabled ? [i] : [])"""
ENDED = re.compile("ERR_ABORTED")
"""What the browser says of a request whose page was left."""


class Watch:
    """What goes wrong on a page, and how much memory its server holds."""

    def __init__(self, page: Page, process: int) -> None:
        """Listen to a page; `process` serves it."""
        self.process, self.troubles, self.refused, self.answers = process, Counter[str](), Counter[str](), 0
        page.on("pageerror", lambda error: self.troubles.update([f"page: {error}"[:200]]))
        page.on("requestfailed", lambda request: self._failed(request.url, request.failure or ""))
        page.on("response", lambda response: self._answered(response))

    def _failed(self, url: str, why: str) -> None:
        if not ENDED.search(why):
            self.troubles.update([f"request: {why} {url}"[:200]])

    def _answered(self, response: Any) -> None:
        self.answers += 1
        if response.status == 400:  # such as a sentence that says nothing: a message on the page
            self.refused.update(["400"])
        elif response.status > 400:
            self.troubles.update([f"answer: {response.status} {response.url}"[:200]])

    def megabytes(self) -> float:
        """Return the server's resident memory."""
        status = Path(f"/proc/{self.process}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


class Hand:
    """Does something at random on the page."""

    def __init__(self, page: Page, seed: int) -> None:
        self.page, self.rng = page, random.Random(seed)
        self.wishes = {
            self.click_map: 10, self.drag_map: 5, self.slide: 6, self.free: 3, self.speak: 4, self.chip: 2,
            self.sequence: 3, self.dial: 2, self.save: 1, self.back: 1, self.look: 3, self.press: 8, self.keys: 3,
        }  # fmt: skip

    def act(self) -> str:
        """Do one thing; returns its name."""
        action: Callable[[], None] = self.rng.choices(list(self.wishes), list(self.wishes.values()))[0]
        action()
        return action.__name__

    def one_of(self, selector: str) -> Locator | None:
        # Chosen in the page: asking each of a hundred elements from here takes seconds.
        found = self.page.evaluate(USABLE, selector)
        return self.page.locator(selector).nth(self.rng.choice(found)) if found else None

    def place(self, selector: str) -> tuple[float, float]:
        canvas = self.page.locator(selector).first
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        assert box
        return box["x"] + self.rng.random() * box["width"], box["y"] + self.rng.random() * box["height"]

    def click_map(self) -> None:
        self.page.mouse.click(*self.place("#maps canvas"))

    def drag_map(self) -> None:
        x, y = self.place("#maps canvas")
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        for _ in range(self.rng.randint(2, 12)):
            self.page.mouse.move(x := x + self.rng.uniform(-40, 40), y := y + self.rng.uniform(-40, 40))
            self.page.wait_for_timeout(self.rng.randint(5, 120))
        self.page.mouse.up()

    def slide(self) -> None:
        slider = self.one_of("#sliders input[type=range], #dials input[type=range]")
        if slider:
            slider.focus()
            for _ in range(self.rng.randint(1, 20)):
                self.page.keyboard.press(self.rng.choice(("ArrowLeft", "ArrowRight", "PageUp", "PageDown")))

    def free(self) -> None:
        tick = self.one_of("#sliders input[type=checkbox], #dials input[type=checkbox], #held-out")
        if tick:
            tick.click()

    def speak(self) -> None:
        self.page.fill("#text", f"{self.rng.choice(MOVES)} {self.rng.choice(HOW)}")
        self.page.press("#text", "Enter")

    def chip(self) -> None:
        self.press("#chips button")

    def press(
        self, selector: str = "#surprise, #neighbour, .draw, .seen, .pin, #compare, #play, summary, #again"
    ) -> None:
        button = self.one_of(selector)
        if button:
            button.click()

    def sequence(self) -> None:
        self.press("#add, #add-random, #wishes button, #run, #run")

    def dial(self) -> None:
        self.page.select_option("#layer", index=self.rng.randrange(4))
        self.page.select_option("#speed", index=self.rng.randrange(4))
        if self.page.locator("#steps").is_visible():
            self.page.select_option("#steps", self.rng.choice(STEPS))
            self.page.select_option("#sources", self.rng.choice(("yes", "no")))
            self.page.fill("#seed", str(self.rng.randrange(1000)))
            self.page.press("#seed", "Tab")

    def save(self) -> None:
        button = self.one_of("#save-policy, #save-film")
        if button:
            with self.page.expect_download():
                button.click()

    def back(self) -> None:
        self.rng.choice((self.page.go_back, self.page.go_forward, self.page.reload))()
        self.page.wait_for_selector(".draw")

    def look(self) -> None:
        self.page.set_viewport_size({"width": self.rng.choice((360, 800, 1300, 1600)), "height": 900})
        self.page.emulate_media(color_scheme=self.rng.choice(("light", "dark")))
        self.page.mouse.move(*self.place("#view"))
        self.page.mouse.down()
        self.page.mouse.move(*self.place("#view"))
        self.page.mouse.up()

    def keys(self) -> None:
        self.page.locator("#maps canvas").first.focus()
        for _ in range(self.rng.randint(1, 6)):
            self.page.keyboard.press(self.rng.choice(("ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight")))
        self.page.mouse.click(2, 2)
        self.page.keyboard.press(self.rng.choice(("r", "n", " ", "1", "3", "5")))


def warm_up(page: Page) -> None:
    """Ask once for every number of steps: each is a program, which stays in memory from then on."""
    page.locator("#more summary").click()
    for source in ("no", "yes"):
        page.select_option("#sources", source)
        for steps in reversed(STEPS):
            with page.expect_response(re.compile("api/draw"), timeout=120_000):
                page.select_option("#steps", steps)
    page.locator("#more summary").click()


def use(page: Page, address: str, watch: Watch, seconds: float, seed: int) -> dict[str, Any]:
    """Use the explorer for some time.

    Returns:
      What was done and what went wrong; the server's memory in MB, as means of tenths of the time; and by how much the
      last tenth is above the second, the first one being for warming up.
    """
    page.set_default_timeout(30_000)
    page.goto(address)
    page.wait_for_selector(".draw")
    warm_up(page)
    hand, done, memory, begun = Hand(page, seed), Counter[str](), [[] for _ in range(10)], time.monotonic()
    while (passed := time.monotonic() - begun) < seconds:
        try:
            done[hand.act()] += 1
        except (Error, AssertionError) as error:
            watch.troubles.update([f"action: {error}"[:300]])
        page.wait_for_timeout(hand.rng.choice((20, 100, 400, 1200)))
        memory[int(10 * passed / seconds)].append(watch.megabytes())
    means = [round(statistics.mean(part), 1) for part in memory if part]
    return {
        "seconds": round(time.monotonic() - begun, 1),
        "actions": dict(done.most_common()),
        "answers": watch.answers,
        "refused with a message": sum(watch.refused.values()),
        "troubles": dict(watch.troubles),
        "megabytes": means,
        "growth": round(means[-1] / means[1] - 1, 3),
    }
