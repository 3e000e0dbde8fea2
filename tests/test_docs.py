"""The pages: tables are those of the result files, links lead somewhere, the README stays short."""

import ast
import importlib
import importlib.util
import re

import pytest
from conftest import ROOT

SPEC = importlib.util.spec_from_file_location("render", ROOT / "docs" / "render.py")
assert SPEC and SPEC.loader
render = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(render)
COMING: set[str] = set()
"""Names that are still to come."""
PAGES = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in render.pages()}


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_those_of_the_results(page):
    assert render.render(PAGES[page]) == PAGES[page], "run: python docs/render.py"


def test_every_table_is_on_a_page():
    shown = {name for text in PAGES.values() for _, name, _ in render.MARKED.findall(text)}
    assert shown == set(render.TABLES)


def test_a_table_by_hand():
    """The first row of the README's table, from the numbers of the five seeds."""
    runs = render.read("demo-walker2d")["runs"]
    covered = [run["coverage_ratio"] for run in runs]
    assert len(covered) == 5
    middle = sum(covered) / 5
    half = 2.776445 * (sum((value - middle) ** 2 for value in covered) / 4 / 5) ** 0.5
    row = next(line for line in render.summary().splitlines() if line.startswith("| generated, all"))
    assert row.split("|")[3].strip() == f"{middle:.3f} ± {half:.3f}"


def test_a_changed_number_is_noticed():
    page = f"before\n<!-- table: ranks -->\n\n{render.ranks()}\n<!-- end -->\nafter\n"
    changed = page.replace(" ± ", " ± 9", 1)
    assert changed != page and render.render(changed) == page


def test_bad_markers():
    with pytest.raises(ValueError, match="no table is called 'nothing'; there are summary"):
        render.render("<!-- table: nothing -->\n<!-- end -->\n")
    with pytest.raises(ValueError, match="marker has no end"):
        render.render("<!-- table: summary -->\n")


def anchors(text):
    """Names of a page's headings as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)|src=\"([^\"]+)\"", PAGES[page]):
        path, _, heading = next(filter(None, target)).partition("#")
        if "://" in path:
            continue
        file = ROOT / page if not path else (ROOT / page).parent / path
        assert file.exists(), path
        if heading:
            assert heading in anchors(file.read_text(encoding="utf-8")), target


def test_code_names_what_exists():
    """Every `ldpol.x` of a page's Python, and every import from it."""
    import ldpol

    for page, text in PAGES.items():
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            tree = ast.parse(block)
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and str(node.module).startswith("ldpol"):
                    module = importlib.import_module(str(node.module))
                    for alias in node.names:
                        name = f"{node.module}.{alias.name}"
                        assert hasattr(module, alias.name) or importlib.util.find_spec(name), (page, name)
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ldpol":
                    assert hasattr(ldpol, node.attr) or node.attr in COMING, (page, node.attr)


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 150
