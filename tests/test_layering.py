"""Holds the order of rooms: a room imports only from rooms that stand above it."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "tfprune"
ROOT = Path(__file__).resolve().parents[1] / PACKAGE

# A folder is one room. `__init__` of the package stands below all others.
ROOMS = (
    "files",
    "ties",
    "compiling",
    "units",
    "borders",
    "arrays",
    "data",
    "schedules",
    "datasets",
    "plots",
    "layers",
    "graph",
    "cache",
    "objectives",
    "select",
    "statistics",
    "masking",
    "repair",
    "surgery",
    "export",
    "relevance",
    "distinctiveness",
    "saliency",
    "neurons",
    "training",
    "experiments",
    "cli",
    "__init__",
)


def read_modules(root=ROOT):
    """Returns `{dotted module name: source}`; a package is named by its folder, the root is `tfprune`."""
    modules = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return modules


def room_of(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imported_modules(module, source, known, is_package):
    """Returns the modules of the package that `source` imports, at any depth of its code.

    `from tfprune import units` means `tfprune.units`; `from tfprune import remove` means the package itself.
    """
    here = module.split(".")
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name.split(".")[0] == PACKAGE)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = here[: len(here) - node.level + is_package]
                base = ".".join(above + ([base] if base else []))
            if base.split(".")[0] == PACKAGE:
                for alias in node.names:
                    whole = f"{base}.{alias.name}"
                    found.add(whole if whole in known or base == PACKAGE and alias.name in ROOMS else base)
    return found


def read_imports(modules):
    packages = {module for module in modules if any(other.startswith(module + ".") for other in modules)}
    return {
        module: imported_modules(module, source, modules, module in packages or module == PACKAGE)
        for module, source in modules.items()
    }


def order_violations(modules):
    """Returns one sentence for each import that goes to a room below or to a room that the list does not know."""
    found = []
    for module, targets in read_imports(modules).items():
        room = room_of(module)
        if room not in ROOMS:
            found.append(f"{module}: the room '{room}' is not in the list of rooms")
            continue
        for target in sorted(targets):
            other = room_of(target)
            if other == room:
                continue
            if other not in ROOMS or ROOMS.index(other) > ROOMS.index(room):
                found.append(f"{module} imports {target}, but '{other}' does not stand above '{room}'")
    return found


def cycles(modules):
    """Returns the cycles among modules. A folder's `__init__` collects its modules, so they may not import it back."""
    graph = {module: targets - {module} for module, targets in read_imports(modules).items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [" -> ".join(error.args[1])]
    return []


def test_rooms_import_only_from_above():
    assert order_violations(read_modules()) == []


def test_no_cycles():
    assert cycles(read_modules()) == []


def test_all_modules_are_read():
    assert {"tfprune.files", "tfprune.units", "tfprune.data"} <= set(read_modules())


@pytest.mark.parametrize(
    "line",
    [
        "from tfprune.masking import sweep",
        "from tfprune import masking",
        "import tfprune.masking",
        "import tfprune.masking as m",
        "from .masking import sweep",
        "from . import masking",
        "def late():\n    from tfprune.masking import sweep",
        "import tfprune",
        "from tfprune import remove",
        "from tfprune.unheard_of import x",
    ],
)
def test_checker_detects_an_import_from_below(line):
    modules = {"tfprune": "", "tfprune.units": line, "tfprune.masking": ""}
    (violation,) = order_violations(modules)
    assert violation.startswith("tfprune.units imports tfprune")
    assert violation.endswith("does not stand above 'units'")


def test_checker_accepts_what_is_allowed():
    modules = {
        "tfprune": "from tfprune.units import LayerValues\nfrom .masking import sweep\nfrom . import graph",
        "tfprune.units": "import numpy as np\nfrom tfprune.files import atomic_write",
        "tfprune.masking": "from tfprune import units\nfrom .graph.rows import Row\nfrom .units import LayerValues",
        "tfprune.graph": "from .rows import Row\nfrom tfprune.graph import flops",
        "tfprune.graph.rows": "from ..units import LayerValues",
        "tfprune.graph.flops": "from . import rows\nfrom .rows import Row",
    }
    assert order_violations(modules) == []
    assert cycles(modules) == []


def test_checker_detects_an_unknown_room():
    assert order_violations({"tfprune.attic": ""}) == ["tfprune.attic: the room 'attic' is not in the list of rooms"]


def test_checker_detects_a_folder_that_imports_from_below():
    modules = {"tfprune.graph": "", "tfprune.graph.rows": "from ..surgery import remove", "tfprune.surgery": ""}
    (violation,) = order_violations(modules)
    assert violation == "tfprune.graph.rows imports tfprune.surgery, but 'surgery' does not stand above 'graph'"


@pytest.mark.parametrize(
    "modules",
    [
        {"tfprune.graph.a": "from .b import x", "tfprune.graph.b": "from tfprune.graph.a import y"},
        {"tfprune.graph": "from .a import x", "tfprune.graph.a": "from . import something"},
    ],
)
def test_checker_detects_a_cycle_inside_a_folder(modules):
    assert len(cycles(modules)) == 1
    assert order_violations(modules) == []
