"""The digest of the code that measures: what changes it, and what does not."""

import pytest
from test_layering import ROOT, SOURCE, imported, modules, plant, room

from ldpol.experiments import method

WRITTEN = '''"""What it is for."""

LIMIT = 3


def double(x: float) -> float:
    """Return twice x."""
    return 2 * x  # by hand
'''


@pytest.fixture
def package(tmp_path):
    return plant(tmp_path, {"core.py": WRITTEN, "report/page.py": "TITLE = 'ldpol'\n"})


def digest(package):
    return method.digest(package, beside=("report",))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("by hand", "by heart"),
        ("What it is for.", "What is it for?"),
        ("\n\n\ndef", "\ndef"),
        ("Return twice x.", "2x"),
    ],
)
def test_words_change_nothing(package, old, new):
    before = digest(package)
    (package / "core.py").write_text(WRITTEN.replace(old, new, 1))
    assert (package / "core.py").read_text() != WRITTEN and digest(package) == before


@pytest.mark.parametrize(("old", "new"), [("LIMIT = 3", "LIMIT = 4"), ("2 * x", "2.5 * x"), ("x: float", "x: int")])
def test_code_changes_it(package, old, new):
    before = digest(package)
    (package / "core.py").write_text(WRITTEN.replace(old, new, 1))
    assert digest(package) != before


def test_names_of_files_count_and_what_lies_beside_does_not(package):
    before = digest(package)
    (package / "report" / "page.py").write_text("TITLE = 'other'\n")
    assert digest(package) == before
    (package / "core.py").rename(package / "heart.py")
    assert digest(package) != before


def test_this_package():
    """Nothing that counts imports what does not."""
    assert method.digest() == method.digest() and len(method.digest()) == 64
    files = modules(SOURCE)
    assert set(method.BESIDE) < {room(name) for name in files}
    counted = {name: path for name, path in files.items() if room(name) not in method.BESIDE}
    used = {target for name, path in counted.items() for target in imported(name, path, set(files))}
    assert f"{ROOT}.distillation.reader" in used  # what is written in a sentence decides whether its claims hold
    assert {target for target in used if target.split(".")[0] == ROOT and room(target) in method.BESIDE} == set()
