"""What every public function says of a call that does not fit its signature, and warnings that name the caller."""

from __future__ import annotations

import builtins
import contextlib
import functools
import inspect
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ParamSpec, TypeVar

import tensorflow as tf

from tfprune.units import describe_unknown

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_DATA = ("data", "x", "points")


def public(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Decorates a public function so that a call with too many values or an unknown name says how to mend it.

    Raises:
        TypeError: by the decorated function, if more values come by position than it takes, or a name is unknown.

    Example:
        >>> @public
        ... def score(model, data=None, *, layers=None):
        ...     return 1.0
        >>> score("net", "x", "y")
        Traceback (most recent call last):
        TypeError: score: expected at most 2 values by position (model, data), received 3. Inputs and targets are one \
value: data=(x, y). Everything else goes by name: layers.
    """
    code, parameters = function.__code__, inspect.signature(function).parameters
    positional = code.co_varnames[: code.co_argcount]
    by_name = [name for name, own in parameters.items() if own.kind is own.KEYWORD_ONLY]
    is_open = any(own.kind is own.VAR_KEYWORD for own in parameters.values())

    @functools.wraps(function)
    def checked(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        if len(args) > len(positional):
            pair = next(
                (f" Inputs and targets are one value: {name}=(x, y)." for name in _DATA if name in positional), ""
            )
            others = f" Everything else goes by name: {', '.join(by_name)}." if by_name else ""
            raise TypeError(
                f"{function.__name__}: expected at most {len(positional)} values by position "
                f"({', '.join(positional)}), received {len(args)}.{pair}{others}"
            )
        unknown = [] if is_open else [name for name in kwargs if name not in parameters]
        if unknown:
            raise TypeError(f"{function.__name__}: no such arguments. {describe_unknown(unknown, parameters)}")
        return function(*args, **kwargs)

    return checked


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warns at the line that called the package, however deep inside it the reason was found.

    Args:
        message: what the user should know.
        category: the class of the warning.
    """
    # The outermost frame of the package: between it and this one lie frames of others, such as contextlib or Keras.
    level, outermost, frame = 1, 1, sys._getframe(1)
    while frame is not None:
        level += 1
        if frame.f_code.co_filename.startswith(_PACKAGE):
            outermost = level
        frame = frame.f_back
    warnings.warn(message, category, stacklevel=outermost + 1)


def in_one_line(error: BaseException, most: int = 160) -> str:
    """Returns the message of an error without line breaks and colours, and not too much of it."""
    message = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
    return message if len(message) <= most else message[: most - 3] + "..."


def names_of(given: Any, what: str) -> list[str]:
    """Returns names as a list; what is given may be one name or several.

    Args:
        given: a name, or an iterable of names.
        what: the argument that holds them, for messages, such as "layers".

    Raises:
        TypeError: if something else is given, such as the layer itself.

    Example:
        >>> names_of("conv", "layers"), names_of(("conv", "dense"), "layers")
        (['conv'], ['conv', 'dense'])
    """
    names = [given] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    for name in names:
        if isinstance(name, str):
            continue
        own = getattr(name, "name", None)
        mend = f"Give the layer's name: {what}=[{own!r}]." if isinstance(own, str) else "Names are text."
        raise TypeError(
            f"{what}: expected a name or several, received {name!r} of type {type(name).__name__}. {mend} "
            "tfprune.unit_groups(model) lists the groups."
        )
    return names


def numbered(batches: Iterable, where: str) -> Iterator:
    """Yields the batches of somebody's data; whatever their source raises comes through and says at which batch.

    Args:
        batches: the source, such as a `tf.data.Dataset`.
        where: what it is, for messages, such as "Data".

    Raises:
        Exception: what the source raises, of its own class, with the number of the batch (from 0). Where the source ran
            inside TensorFlow, which keeps the text alone: the built-in exception of that name, or RuntimeError.
    """
    source, number = iter(batches), 0
    while True:
        try:
            batch = next(source)
        except StopIteration:
            return
        except tf.errors.OpError as error:
            raise _raised_inside(error, f"{where}, batch {number}") from None
        except Exception as error:
            _add_note(error, f"{where}, batch {number}: this was raised by the data themselves, while they were read.")
            raise
        yield batch
        number += 1


def _raised_inside(error: tf.errors.OpError, where: str) -> Exception:
    """Returns the exception that user code raised inside TensorFlow, as far as the message tells."""
    text = error.message.partition("}} ")[2] if error.message.startswith("{{") else error.message
    said = re.split(r"\n|\t? \[\[", text, maxsplit=1)[0].strip()
    places = re.findall(r'File "(.+?)", line (\d+)', text)
    place = f" ({places[-1][0]}, line {places[-1][1]})" if places else ""
    name, _, rest = said.partition(": ")
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        with contextlib.suppress(TypeError):
            return kind(f"{where}: the dataset raised this: {rest}{place}")
    return RuntimeError(f"{where}: the dataset raised {said}{place}")


def _add_note(error: Exception, note: str) -> None:
    if hasattr(error, "add_note"):
        error.add_note(note)
    else:
        # Python 3.10 shows no notes; whoever looks for them finds them in the same place.
        error.__notes__ = [*getattr(error, "__notes__", ()), note]
