"""The border itself: calls that do not fit, warnings that point at the user, names, sources that raise."""

import contextlib
import doctest
import inspect
import pickle
import typing
import warnings

import keras
import pytest

import tfprune as tfp
from tfprune import borders, compiling, saliency


@pytest.mark.parametrize("module", [borders, compiling])
def test_docstring_examples(module):
    assert doctest.testmod(module, extraglobs={"tf": __import__("tensorflow")}).failed == 0


def test_a_public_function_is_still_itself():
    for function in (saliency.weight_norm, tfp.remove, tfp.sweep):
        plain = inspect.unwrap(function)
        assert plain is not function and inspect.signature(function) == inspect.signature(plain)
        assert pickle.loads(pickle.dumps(function)) is function
        assert function.__doc__ == plain.__doc__ and typing.get_type_hints(function)["return"] is not None


def test_open_functions_take_any_name():
    @borders.public
    def run(model, data, *, seed, **options):
        return options

    assert run("net", "x", seed=1, layers="hidden") == {"layers": "hidden"}
    with pytest.raises(TypeError, match=r"run: expected at most 2 values by position \(model, data\), received 3"):
        run("net", "x", "y", seed=1)
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'seed'"):
        run("net", "x")


def test_warnings_point_at_the_line_of_the_user():
    with pytest.warns(DeprecationWarning, match="old") as caught, contextlib.ExitStack():
        borders.warn("old", DeprecationWarning)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "layers: expected a name or several, received 3 of type int. Names are text"),
        (["a", 3], "received 3 of type int"),
        (keras.layers.Dense(2, name="a"), r"received <Dense name=a.*Give the layer's name: layers=\['a'\]"),
        ([None], "received None of type NoneType"),
    ],
)
def test_names_that_are_none(given, message):
    with pytest.raises(TypeError, match=message):
        borders.names_of(given, "layers")


def test_numbered_batches_keep_notes_that_are_there():
    def source():
        yield 1
        error = KeyError("page")
        error.__notes__ = ["mine"]
        raise error

    batches = borders.numbered(source(), "Data")
    assert next(batches) == 1
    with pytest.raises(KeyError, match="page") as caught:
        next(batches)
    assert caught.value.__notes__ == [
        "mine",
        "Data, batch 1: this was raised by the data themselves, while they were read.",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(borders.numbered([1, 2], "Data")) == [1, 2]
