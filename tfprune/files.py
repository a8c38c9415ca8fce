"""Files that are written whole or not at all, and the facts of a run that belong beside its results."""

import contextlib
import errno
import importlib.metadata
import os
import platform
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

# What a disk answers that is full, over the user's quota, not to be written to, or broken.
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path beside `path` and renames it to `path` on success.

    A reader sees the old file or the new one, never half of one. Whatever goes wrong inside the block (an interrupt
    too), the temporary file is deleted and an older file at `path` stays as it was. What is written may also be a
    folder, as a SavedModel is. The temporary name ends as `path` does, since Keras and Matplotlib read the format from
    the ending.

    Args:
        path: where the finished file shall lie. Its folder must exist.

    Yields:
        The temporary path, at which nothing exists yet.

    Raises:
        ValueError: if the folder does not exist, or if the block has written nothing.
        OSError: if the disk is full or refuses the file, whatever the block raises then; nothing is left half written.

    Example:
        >>> with atomic_write("result.txt") as temporary:  # doctest: +SKIP
        ...     temporary.write_text("done")
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"Cannot write {str(path)!r}: the folder {str(path.parent)!r} does not exist. Make it first.")
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    try:
        yield temporary
        if not temporary.exists():
            raise ValueError(f"Nothing was written for {str(path)!r}: write to the path that atomic_write gives.")
        _replace(temporary, path)
    except Exception as error:
        code = disk_refusal(error)
        if code is None:
            raise
        raise OSError(
            code,
            f"Cannot write {str(path)!r}: {os.strerror(code)}. Nothing was left half written, and an older file of "
            "that name is as it was. Free space there, or write to another folder",
        ) from error
    finally:
        _delete(temporary)


def disk_refusal(error: BaseException) -> int | None:
    """Returns what a disk has refused a write for (`errno.ENOSPC` and the like), or None for any other error.

    Libraries that write by code of their own (HDF5, TensorFlow) raise errors of their own, whose text tells the reason.

    Args:
        error: whatever a write has raised.

    Example:
        >>> disk_refusal(OSError(errno.ENOSPC, "full")) == errno.ENOSPC, disk_refusal(ValueError("wrong shape"))
        (True, None)
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in _REFUSALS else None
    text = str(error)
    return next((code for code in _REFUSALS[:2] if os.strerror(code) in text), None)


def _replace(temporary: Path, path: Path) -> None:
    """Renames `temporary` to `path`. A folder cannot be renamed over another, so an old one steps aside first."""
    if not path.is_dir():
        os.replace(temporary, path)
        return
    if not temporary.is_dir():
        raise ValueError(f"Cannot write the file {str(path)!r}: a folder of that name exists. Choose another name.")
    old = temporary.with_name(temporary.name + ".old")
    os.replace(path, old)
    try:
        os.replace(temporary, path)
    except OSError:
        os.replace(old, path)
        raise
    _delete(old)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_writable_folder(path: str | os.PathLike) -> Path:
    """Makes the folder where it does not exist and makes sure that files can be written there.

    Call it before long work, so that the work is not lost at its end.

    Args:
        path: the folder that results shall go to.

    Returns:
        The folder as a `Path`.

    Raises:
        ValueError: if it cannot be made, is a file, or cannot be written to.
    """
    folder = Path(path)
    probe = folder / f".{uuid.uuid4().hex[:8]}.probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Permission bits do not tell the whole truth (read-only mounts, a full disk), so a file is really written.
        try:
            probe.write_bytes(b"\0")
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(
            f"The output folder {str(folder)!r} cannot be written to: {error.strerror or error}. "
            "Choose another folder or change its permissions."
        ) from error
    return folder


def run_information() -> dict[str, str]:
    """Returns the versions that a result depends on, to be saved beside it.

    Returns:
        Versions by name: tfprune, keras, tensorflow, numpy, python.
    """
    try:
        own_version = importlib.metadata.version("tfprune")
    except importlib.metadata.PackageNotFoundError:
        own_version = "not installed"
    return {
        "tfprune": own_version,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
