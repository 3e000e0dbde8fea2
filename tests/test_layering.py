"""The architecture as a test: imports run downward only, Brax stays behind the tasks, files stay short."""

import ast
import graphlib
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "ldpol"
ROOT = "ldpol"
LONGEST = 400
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("settings", "types"),
    ("lanes", "probes"),
    ("tasks", "networks", "measures", "regions", "keys"),
    ("network_reader",),
    ("storage", "precision", "rollout", "models"),
    ("session", "film", "train_loop"),
    ("hooks",),
    ("archive", "keeping", "traits"),
    ("player",),
    ("reference", "search"),
    ("model",),
    ("language",),
    ("generator_settings", "generator_requests", "generator_export"),
    ("generator",),
    ("generator_file",),
    ("distillation", "planning"),
    ("baselines",),
    ("evaluation",),
    ("study",),
    ("report",),
    (ROOT,),  # the re-exports: for users and entry points, not for the modules below
    ("experiments",),
    ("sample",),
    ("explore",),
)
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}


def modules(source: Path) -> dict[str, Path]:
    """Dotted module name -> file, for every module under `source`."""
    names = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        names[".".join((ROOT, *(parts[:-1] if parts[-1] == "__init__" else parts)))] = path
    return names


def imported(name: str, path: Path, known: set[str]) -> set[str]:
    """Every module that a file imports, anywhere in it; `from package import module` counts as the module."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                member = f"{base}.{alias.name}"
                found.add(member if member in known else base)
    return found


def room(name: str) -> str:
    """The file or folder directly under `ldpol` that a module lives in."""
    return name.split(".")[1] if "." in name else ROOT


def import_problems(source: Path) -> list[str]:
    """Upward imports, modules without a layer, strangers that import Brax, and one cycle if there is any."""
    files = modules(source)
    problems, graph = [], {}
    for name, path in files.items():
        targets = imported(name, path, set(files))
        if name != f"{ROOT}.tasks.locomotion" and any(target.split(".")[0] == "brax" for target in targets):
            problems.append(f"{name} imports brax; only {ROOT}.tasks.locomotion may")
        if name == ROOT:
            continue
        if room(name) not in RANK:
            problems.append(f"{name} has no layer; give {room(name)!r} one")
            continue
        graph[name] = {target for target in targets if target.split(".")[0] == ROOT}
        for target in sorted(graph[name]):
            if room(target) not in RANK:
                problems.append(f"{name} imports {target}, which has no layer")
            elif RANK[room(target)] > RANK[room(name)]:
                problems.append(f"{name} imports {target}, which lies above it")
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        problems.append("circular import: " + " -> ".join(reversed(error.args[1])))
    return problems


def plant(root: Path, files: dict[str, str]) -> Path:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def test_imports_run_downward():
    assert modules(SOURCE), f"no modules found under {SOURCE}"
    assert import_problems(SOURCE) == []


def test_files_are_short():
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules(SOURCE).items()}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_checker_accepts_a_sound_tree(tmp_path):
    files = {
        "__init__.py": "from ldpol.experiments import train\n",
        "types.py": "import jax\n",
        "tasks/__init__.py": "from ldpol.tasks.locomotion import make_task\n",
        "tasks/locomotion.py": "from brax import envs\nfrom ldpol.types import Array\n",
        "rollout.py": "from . import tasks\n",
        "model/__init__.py": "from ldpol.model.denoiser import UNet\n",
        "model/denoiser.py": "from ..types import Array\n",
        "model/diffusion.py": "from .denoiser import UNet\n",
        "experiments/train.py": "import ldpol\nfrom ldpol import model\n",
    }
    assert import_problems(plant(tmp_path, files)) == []


def test_checker_catches_an_upward_import(tmp_path):
    files = {
        "types.py": "def late():\n    from ldpol.tasks import Task\n",
        "tasks.py": "from . import rollout\n",
        "rollout.py": "",
        "model/__init__.py": "",
        "model/denoiser.py": "from ..report.page import write\n",
        "report/page.py": "from ldpol import load\n",
        "__init__.py": "",
    }
    assert import_problems(plant(tmp_path, files)) == [
        "ldpol.model.denoiser imports ldpol.report.page, which lies above it",
        "ldpol.report.page imports ldpol, which lies above it",
        "ldpol.tasks imports ldpol.rollout, which lies above it",
        "ldpol.types imports ldpol.tasks, which lies above it",
    ]


def test_checker_catches_a_cycle(tmp_path):
    files = {
        "model/__init__.py": "",
        "model/denoiser.py": "from ldpol.model import diffusion\n",
        "model/diffusion.py": "from .sampler import sample\n",
        "model/sampler.py": "import ldpol.model.denoiser\n",
    }
    (problem,) = import_problems(plant(tmp_path, files))
    assert problem.startswith("circular import: ")
    assert all(name in problem for name in ("ldpol.model.denoiser", "ldpol.model.diffusion", "ldpol.model.sampler"))


def test_checker_catches_brax_and_rooms_without_a_layer(tmp_path):
    files = {"rollout.py": "import brax.envs as envs\n", "helpers.py": ""}
    assert import_problems(plant(tmp_path, files)) == [
        "ldpol.helpers has no layer; give 'helpers' one",
        "ldpol.rollout imports brax; only ldpol.tasks.locomotion may",
    ]
