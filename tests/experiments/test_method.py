"""The digest of the code that measures: what changes it, and what does not."""

import pytest

from ldpol.experiments import method

WRITTEN = '''"""What it is for."""

LIMIT = 3


def double(x: float) -> float:
    """Return twice x."""
    return 2 * x  # by hand
'''


@pytest.fixture
def package(tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "core.py").write_text(WRITTEN)
    (tmp_path / "report" / "page.py").write_text("TITLE = 'ldpol'\n")
    return tmp_path


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


def test_this_package(tmp_path):
    assert method.digest() == method.digest() and len(method.digest()) == 64
