"""Typed settings of an example: defaults in a dataclass, a YAML file over them, the command line over both.

A settings class is a frozen dataclass; what its docstring says of each field is what ``--help`` prints. Values are
checked against the types and never evaluated. Flags take their value in words, ``--quick true``, and lists are written
as in YAML, ``--seeds [0,1,2]``.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import TypeVar

import jsonargparse
import yaml

from tfprune.files import atomic_write, check_writable_folder, run_information

AnySettings = TypeVar("AnySettings")


def read_settings(
    kind: type[AnySettings], arguments: Sequence[str] | None = None, *, description: str | None = None
) -> AnySettings:
    """Settings of one start of an example.

    Args:
        kind: A frozen dataclass whose fields all have a type, a default and a line in the docstring.
        arguments: Words of the command line; ``None`` takes those of the process. ``--config FILE`` reads a YAML file;
            what stands after it goes over it.
        description: What ``--help`` says of the example.

    Returns:
        The settings.

    Raises:
        TypeError: If ``kind`` is no frozen dataclass.
        SystemExit: If a name is unknown or a value has the wrong type; the message is printed, as argparse does.
    """
    if not dataclasses.is_dataclass(kind) or not kind.__dataclass_params__.frozen:
        raise TypeError(f"read_settings: expected a frozen dataclass, received {kind!r}; use @dataclass(frozen=True).")
    parser = jsonargparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file of settings")
    parser.add_class_arguments(kind, as_group=False)
    # A list of smaller dataclasses is made here too.
    values = parser.instantiate(parser.parse_args(arguments))
    try:
        return kind(**{field.name: values[field.name] for field in dataclasses.fields(kind)})
    # What a settings class itself refuses is told like every other wrong value.
    except ValueError as error:
        parser.error(str(error))


def save_settings(settings: object, folder: str | os.PathLike) -> None:
    """Writes ``settings.yaml``, which ``--config`` takes, and ``versions.yaml`` into the folder of the results.

    Args:
        settings: What :func:`read_settings` gave.
        folder: Where the results go; made where it does not exist.

    Raises:
        ValueError: If the folder cannot be written to.
    """
    folder = check_writable_folder(folder)
    # Paths become text and tuples become lists, which every reader of YAML knows.
    values = json.loads(json.dumps(dataclasses.asdict(settings), default=os.fspath))
    for name, content in (("settings", values), ("versions", run_information())):
        with atomic_write(folder / f"{name}.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
