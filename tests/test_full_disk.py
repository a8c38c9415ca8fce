"""Everything that is written, on a disk that is full: a message, the old file as it was, nothing half written."""

import errno
import gc
import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from matplotlib.figure import Figure

import tfprune as tfp
from tfprune import experiments, export, files, plots, training

NUMBERS = np.random.default_rng(0).random((400, 500))


@pytest.fixture(scope="module")
def net():
    """1.5 MB of weights."""
    model = keras.Sequential([keras.Input((300,)), keras.layers.Dense(1200, name="hidden"), keras.layers.Dense(3)])
    model.compile("sgd", loss="mse")
    return model


def record():
    return experiments.MaskedOutputs(settings={}, points=NUMBERS, masks=NUMBERS, outputs=NUMBERS)


def liveness():
    values = {"activation/hidden": [NUMBERS]}
    return training.LivenessRecord(groups={"hidden": 400}, settings={}, step=[0], epoch=[0], loss=[1.0], values=values)


def pixels(size, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (size, size, 3), np.uint8)


def figure(size):
    own = Figure(figsize=(size / 100, size / 100))
    own.add_axes((0, 0, 1, 1)).imshow(pixels(size))
    return own


def sweep(net, path, size):
    data = np.ones((2, 300), "float32"), np.ones((2, 3), "float32")
    tfp.sweep(net, data, np.ones((200, 1200)), loss="mse", save_to=path, progress=False)


def keras_file(net, path, size):
    with files.atomic_write(path) as temporary:
        net.save(temporary)


def text_file(net, path, size):
    with files.atomic_write(path) as temporary:
        temporary.write_text("x" * 2_000_000)


WRITERS = {
    "text.txt": text_file,
    "values.npz": lambda net, path, size: tfp.LayerValues({"hidden": NUMBERS}).save(path),
    "record.npz": lambda net, path, size: record().save(path),
    "liveness.npz": lambda net, path, size: liveness().save(path),
    "sweep.npz": sweep,
    "figure.png": lambda net, path, size: plots.save_figure(figure(size), path),
    "colours.png": lambda net, path, size: plots.save_figure(figure(size), path, num_colours=200),
    "film.gif": lambda net, path, size: plots.save_animation(
        [pixels(size // 2 + 4, seed) for seed in range(4)], path, pictures_per_second=4
    ),
    "net.keras": keras_file,
    "net.tflite": lambda net, path, size: export.tflite(net, path),
    "net": lambda net, path, size: export.saved_model(net, path),
}
MESSAGE = r"\[Errno 28\] Cannot write '.*{}': No space left on device. Nothing was left half written.*Free space there"
writers = pytest.mark.parametrize(("name", "write"), WRITERS.items(), ids=list(WRITERS))


@writers
def test_refused_at_the_end(monkeypatch, tmp_path, net, name, write):
    """Where the file is all but there."""

    def refuse(temporary, path):
        assert temporary.exists()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / name
    write(net, path, 40)
    before = path.stat()
    monkeypatch.setattr(files, "_replace", refuse)
    if name == "sweep.npz":
        # A state that is there would be gone on from.
        before, path = None, tmp_path / "other.npz"
    with pytest.raises(OSError, match=MESSAGE.format(path.name)) as caught:
        write(net, path, 40)
    assert caught.value.errno == errno.ENOSPC
    assert sorted(own.name for own in tmp_path.iterdir()) == [name]
    assert before is None or (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # HDF5 cannot close what it cannot write.
@writers
def test_refused_on_the_way(small_disk, net, name, write):
    """By a disk of 1 MB."""
    (small_disk / name).write_text("old")
    if name == "net":
        (small_disk / name).unlink()
    if name == "sweep.npz":
        (small_disk / name).unlink()
    with pytest.raises(OSError, match=MESSAGE.format(name)):
        write(net, small_disk / name, 1200)
    gc.collect()
    left = [own.name for own in small_disk.iterdir()]
    assert left == ([] if name in ("net", "sweep.npz") else [name])
    assert not left or (small_disk / name).read_text() == "old"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (OSError(errno.EDQUOT, "quota"), errno.EDQUOT),
        (OSError(errno.EROFS, "read only"), errno.EROFS),
        (OSError(errno.EIO, "broken"), errno.EIO),
        (OSError(errno.ENOENT, "no such file"), None),
        (OSError("No space left on device"), errno.ENOSPC),
        (OSError("Can't write data (errno = 28, error message = 'No space left on device')"), errno.ENOSPC),
        (RuntimeError("Unable to flush: Disk quota exceeded"), errno.EDQUOT),
        (tf.errors.ResourceExhaustedError(None, None, "a/variables; No space left on device"), errno.ENOSPC),
        (ValueError("wrong shape"), None),
    ],
)
def test_what_counts_as_a_refusal(tmp_path, error, code):
    assert files.disk_refusal(error) == code
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OSError if code else type(error)) as caught, files.atomic_write(path) as temporary:
        temporary.write_text("half")
        raise error
    assert (caught.value is error) == (code is None)
    assert code is None or (caught.value.errno == code and os.strerror(code) in str(caught.value))
    assert path.read_text() == "old" and [own.name for own in tmp_path.iterdir()] == ["a.txt"]


def test_a_probe_of_a_full_disk_leaves_nothing(monkeypatch, tmp_path):
    written = files.Path.write_bytes

    def half(self, content):
        written(self, b"")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.Path, "write_bytes", half)
    with pytest.raises(ValueError, match="cannot be written to: No space left on device. Choose another folder"):
        files.check_writable_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []
