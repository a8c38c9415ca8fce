"""What a user meets: every public name is described, says what it returns, and costs little to import."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
import warnings
from pathlib import Path

import keras
import pytest

import tfprune


def _documented_modules():
    """The package and its rooms, and rooms within them, that say by `__all__` what is meant for others."""
    found = {"tfprune": tfprune}
    for info in pkgutil.walk_packages(tfprune.__path__, "tfprune."):
        if info.ispkg:
            found[info.name] = importlib.import_module(info.name)
    # Modules that are reached as attributes of the package or of a room.
    for module in list(found.values()):
        for name in getattr(module, "__all__", ()):
            if inspect.ismodule(getattr(module, name)):
                found[getattr(module, name).__name__] = getattr(module, name)
    return found


MODULES = _documented_modules()


def _public(module):
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    for name in names:
        value = getattr(module, name)
        if (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__.startswith("tfprune"):
            yield name, value


PUBLIC = {f"{value.__module__}.{name}": value for module in MODULES.values() for name, value in _public(module)}


def _methods(owner):
    """The public methods and properties that a class brings; those of its bases mean there what they mean here."""
    for name, value in vars(owner).items():
        if name.startswith("_"):
            continue
        if any(name in vars(base) for base in owner.__mro__[1:]):
            continue
        value = getattr(value, "__func__", value)
        value = value.fget if isinstance(value, property) else value
        if inspect.isfunction(value):
            yield name, value


def test_what_is_enumerated():
    assert {"tfprune.surgery.removal.remove", "tfprune.units.LayerValues", "tfprune.select.masks.keep_top"} <= set(
        PUBLIC
    )
    assert {"tfprune.saliency.weights.magnitude", "tfprune.relevance.rules.linear.Flat"} <= set(PUBLIC)
    assert len(PUBLIC) > 150


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_described(name):
    assert (MODULES[name].__doc__ or "").strip(), f"{name} has no docstring"
    for exported in getattr(MODULES[name], "__all__", ()):
        assert hasattr(MODULES[name], exported)


@pytest.mark.parametrize("name", PUBLIC)
def test_is_described_and_says_what_it_returns(name):
    value = PUBLIC[name]
    missing = []
    for label, one in [("", value), *(_methods(value) if inspect.isclass(value) else ())]:
        # A dataclass makes its own text of the names of its fields.
        written = (one.__doc__ or "").strip()
        if not written or inspect.isclass(one) and written.startswith(f"{one.__name__}("):
            missing.append(f"{label or name}: no docstring")
        if inspect.isfunction(one) and inspect.signature(one).return_annotation is inspect.Signature.empty:
            missing.append(f"{label or name}: no return annotation")
    assert not missing, missing


MODELS = ["remove", "remove_dead", "widen", "with_on_nodes", "zero_weights"]


@pytest.mark.parametrize("name", MODELS)
def test_what_returns_a_model_says_so(name):
    found = inspect.signature(getattr(tfprune, name), eval_str=True).return_annotation
    assert found is keras.Model


def test_import_brings_nothing_heavy_that_keras_has_not_brought():
    program = (
        "import sys, tensorflow, keras; before = set(sys.modules); import tfprune;"
        "print(*sorted(set(sys.modules) - before))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "tfprune.surgery.removal" in found
    heavy = ["sklearn", "matplotlib.pyplot", "scipy.stats", "scipy.optimize", "scipy.cluster", "scipy.spatial"]
    heavy += ["jinja2", "pandas", "distributed", "dask", "submitit", "filelock", "rich.live", "rich.progress"]
    assert not [name for name in found if any(name == own or name.startswith(own + ".") for own in heavy)]


def _warns(category, module):
    with warnings.catch_warnings():
        # As pytest has set it from the project's settings.
        try:
            warnings.warn_explicit("old", category, "somewhere.py", 1, module=module)
        except category:
            return True
    return False


OURS = [*sorted(path.stem for path in Path(__file__).parent.rglob("*.py")), "tfprune.surgery", "tfprune", "__main__"]


@pytest.mark.parametrize("module", OURS)
def test_every_warning_about_our_own_code_is_an_error(module):
    assert _warns(DeprecationWarning, module) and _warns(FutureWarning, module) and _warns(UserWarning, module)


@pytest.mark.parametrize("module", ["matplotlib._fontconfig_pattern", "google.protobuf", "keras.src.utils", "sys"])
def test_what_one_dependency_says_about_the_next_is_none(module):
    assert not _warns(DeprecationWarning, module) and not _warns(PendingDeprecationWarning, module)
    assert _warns(UserWarning, module) and _warns(RuntimeWarning, module)
