"""The explorer in a real browser: Debian's chromium driven by playwright, on toy models; no request may leave."""

import shutil
import threading
import time
from urllib.parse import urlparse

import pytest
from explored import make_run

from ldpol.explore import export, source
from ldpol.explore.app import create_app, names_of
from ldpol.explore.explorer import Explorer
from ldpol.explore.stage import Stage

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra `e2e` (pip install ldpol[e2e])")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt-get install chromium)"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]
expect = playwright.expect
expect.set_options(timeout=60_000)
INK = """canvas => {
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data, seen = new Set();
  for (let i = 0; i < pixels.length; i += 4) {
    if (pixels[i + 3]) seen.add(pixels[i] << 16 | pixels[i + 1] << 8 | pixels[i + 2]);
  }
  return seen.size;
}"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return {measures: make_run(tmp_path_factory.mktemp(f"run{measures}"), measures) for measures in (1, 2, 4)}


@pytest.fixture(scope="module")
def serve(toy):
    """Serve a source and return its address."""
    from werkzeug.serving import make_server

    opened = []

    def start(what):
        explorer = Explorer(what, Stage)
        # The port is known once the socket is bound, and so are the names that are answered.
        server = make_server("127.0.0.1", 0, None, threaded=True)
        server.app = create_app(explorer, names_of("127.0.0.1", server.server_port))
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        opened.append((server, explorer, thread))
        return f"http://127.0.0.1:{server.server_port}/", explorer

    yield start
    for server, explorer, thread in opened:
        server.shutdown()
        thread.join()
        server.server_close()
        explorer.close()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page on which an outside request, an error of a script or a message on the console fails the test."""
    context = browser.new_context(viewport={"width": 1300, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    troubles = []

    def only_here(route):
        address = urlparse(route.request.url)
        if address.hostname == "127.0.0.1" or address.scheme in ("file", "data", "blob"):
            route.continue_()
        else:
            troubles.append(f"outside request: {route.request.url}")
            route.abort()

    context.route("**/*", only_here)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda message: troubles.append(message.text) if message.type in ("error", "warning") else None)
    yield page
    context.close()
    assert troubles == []


@pytest.fixture(scope="module")
def address(serve, runs):
    """Where the explorer of two measures is, once everything is compiled."""
    found, explorer = serve(source.open_model(str(runs[2])))
    while not all(explorer.ready.values()):
        assert explorer.trouble is None, explorer.trouble
        time.sleep(0.05)
    return found


def click_map(page, x, y, panel=0):
    """Click the map where measures are `x` and `y`, in [0, 1]."""
    canvas = page.locator("#maps canvas").nth(panel)
    canvas.scroll_into_view_if_needed()
    box, small = canvas.bounding_box(), page.locator("#maps canvas").count() > 1
    left, below = (16, 16) if small else (34, 32)
    across = box["x"] + left + x * (box["width"] - left - 5)
    page.mouse.click(across, box["y"] + 4 + (1 - y) * (box["height"] - below - 4))


def wait_for_numbers(page):
    expect(page.locator("#readout")).to_contain_text("of 10 episodes")


def readout(page):
    """Rows of the table under the map by their first cell."""
    rows = page.locator("#readout tr").all()
    return {row.locator("th").first.inner_text(): row.locator("td").all_inner_texts() for row in rows[1:]}


def test_a_cell_is_clicked(page, address):
    page.goto(address)
    page.wait_for_selector(".draw")
    assert page.locator(".draw").count() == 5
    click_map(page, 0.25, 0.75)
    expect(page.locator("#caption")).to_contain_text("left 0.25")
    wait_for_numbers(page)
    rows = readout(page)
    assert float(rows["left"][0]) == pytest.approx(0.25, abs=0.01)
    assert float(rows["right"][0]) == pytest.approx(0.75, abs=0.01)
    mean, spread = rows["left"][1].split(" ± ")
    assert 0 <= float(mean) <= 1 and float(spread) >= 0 and rows["error"][1].endswith("cells")
    for canvas in ("#view", "#gait", "#maps canvas", ".draw canvas >> nth=3"):
        assert page.locator(canvas).first.evaluate(INK) > 4, f"{canvas} is blank"
    assert f"left {0.25:.2f}" in page.locator("#shelf .seen").first.inner_text()
    assert 'ldpol.load("' in page.locator("#code").inner_text()


def test_the_film_runs_and_stops(page, address):
    page.goto(address)
    page.wait_for_selector(".draw")
    value = "Number(document.querySelector('#time').value)"
    before = page.evaluate(value)
    page.wait_for_timeout(300)
    assert page.evaluate(value) != before
    page.click("#play")
    assert page.inner_text("#play") == "Play"
    still = page.evaluate(value)
    page.wait_for_timeout(200)
    assert page.evaluate(value) == still
    page.locator(".draw").nth(2).click()
    assert page.locator(".draw").nth(2).get_attribute("aria-pressed") == "true"
    assert page.evaluate("location.hash").endswith("film=2")


def test_a_sentence(page, address):
    page.goto(address)
    page.wait_for_selector(".draw")
    page.fill("#text", "walk slowly on the left leg")
    page.press("#text", "Enter")
    page.wait_for_selector(".claim")
    wait_for_numbers(page)
    marks = page.locator(".claim:not(.faint) span:first-child").all_inner_texts()
    assert set(marks) <= {"✓", "✗"} and "%" in page.inner_text(".claim >> nth=0")


def test_a_sequence_and_the_same_page_again(page, address):
    page.goto(address)
    page.wait_for_selector(".draw")
    for x, y in ((0.2, 0.8), (0.8, 0.2)):
        click_map(page, x, y)
        expect(page.locator("#caption")).to_contain_text(f"left {x:.2f}")
        page.click("#add")
    page.click("#run")
    page.wait_for_selector(".way")
    assert page.locator(".way").count() == 3 and page.locator(".way .marks span").count() == 6
    assert page.locator(".way canvas").first.evaluate(INK) > 4
    wait_for_numbers(page)
    rows, asked, code = readout(page), page.locator("#wishes li").all_inner_texts(), page.inner_text("#code")
    page.reload()
    page.wait_for_selector(".draw")
    wait_for_numbers(page)
    assert readout(page) == rows and page.inner_text("#code") == code
    assert page.locator("#wishes li").all_inner_texts() == asked


def test_free_measures_and_the_keyboard(page, address):
    page.goto(address)
    page.wait_for_selector(".draw")
    click_map(page, 0.5, 0.5)
    expect(page.locator("#caption")).to_contain_text("left 0.5")
    page.locator("#sliders input[type=checkbox]").nth(1).check()
    expect(page.locator("#caption")).not_to_contain_text("right")
    assert readout(page)["right"][0] == "any"
    page.locator("#maps canvas").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#caption")).to_contain_text("left 0.75")
    page.go_back()
    expect(page.locator("#caption")).to_contain_text("left 0.5")


def test_pins_are_compared_and_things_are_saved(page, address, tmp_path):
    page.goto(address)
    page.wait_for_selector(".draw")
    for x in (0.1, 0.9):
        click_map(page, x, 0.5)
        expect(page.locator("#shelf")).to_contain_text(f"left {x:.2f}")
        page.locator(".pin").first.click()
    page.click("#compare")
    assert "two pinned" in page.inner_text("#caption")
    with page.expect_download() as saved:
        page.click("#save-policy")
    assert saved.value.suggested_filename == "policy.npz"
    with page.expect_download() as saved:
        page.click("#save-film")
    saved.value.save_as(tmp_path / "film.html")
    page.goto((tmp_path / "film.html").as_uri())
    expect(page.locator("#time")).not_to_have_attribute("max", "0")
    assert page.locator("#view").evaluate(INK) > 4


@pytest.mark.parametrize(("measures", "maps"), [(1, 1), (4, 6)])
def test_other_numbers_of_measures(page, serve, runs, measures, maps):
    found, _ = serve(source.open_model(str(runs[measures])))
    page.goto(found)
    page.wait_for_selector(".draw")
    assert page.locator("#maps canvas").count() == maps and page.locator(".slider").count() >= measures
    assert not page.locator("#speech").is_visible()
    click_map(page, 0.25, 0.75)
    expect(page.locator("#caption")).to_contain_text("left 0.2")
    wait_for_numbers(page)
    free = [name for name, cells in readout(page).items() if cells[0] == "any"]
    assert free == ["fitness"] if measures == 1 else free == ["over", "under", "fitness"]


def test_an_archive_alone(page, serve, runs):
    found, _ = serve(source.open_archive(str(runs[2])))
    page.goto(found)
    page.wait_for_selector(".draw")
    click_map(page, 0.25, 0.75)
    expect(page.locator("#caption")).to_contain_text("An elite")
    wait_for_numbers(page)
    assert page.locator(".draw").count() == 5 and not page.locator("#sequence-card").is_visible()
    assert "archive.load" in page.inner_text("#code")


def test_an_exported_page_needs_no_server(page, toy, runs, tmp_path):
    export.write(Stage(source.open_model(str(runs[2]))), tmp_path / "site", 8)
    page.goto((tmp_path / "site" / "index.html").as_uri())
    page.wait_for_selector(".draw")
    click_map(page, 0.9, 0.1)
    wait_for_numbers(page)
    first = page.inner_text("#caption")
    click_map(page, 0.1, 0.9)
    expect(page.locator("#caption")).not_to_have_text(first)
    wait_for_numbers(page)
    assert page.locator("#view").evaluate(INK) > 4 and not page.locator("#save-policy").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1600])
def test_nothing_sticks_out(browser, address, scheme, width):
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector(".draw")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.inner_text("#play") == "Play"  # nothing moves unasked
    context.close()
