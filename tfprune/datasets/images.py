"""Images: scikit-learn's digits, MNIST and CIFAR-10. Float32 in [0, 1] with a channel axis."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np

Split = tuple[np.ndarray, np.ndarray]

PLAIN_KEYS = ("x_train", "y_train", "x_test", "y_test")
JPEG_KEYS = ("jpeg_train", "offset_train", "y_train", "jpeg_test", "offset_test", "y_test")


def digits(*, test_fraction: float = 0.25, seed: int = 0) -> tuple[Split, Split]:
    """The 1797 handwritten 8 x 8 digits that come with scikit-learn, split into a training and a test part.

    Args:
        test_fraction: Fraction of the images in the test part, between 0 and 1 (both excluded).
        seed: Seed of the shuffling before the split.

    Returns:
        ``(x_train, y_train), (x_test, y_test)``; images float32 of shape ``(n, 8, 8, 1)`` in [0, 1].

    Raises:
        ValueError: If ``test_fraction`` leaves one of the two parts empty.

    Example:
        >>> (x_train, y_train), (x_test, y_test) = digits()
        >>> x_train.shape, x_test.shape
        ((1348, 8, 8, 1), (449, 8, 8, 1))

    Reference:
        Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI.
    """
    # scikit-learn takes about a second to import, which users of the other data sets need not pay.
    from sklearn.datasets import load_digits

    bundled = load_digits()
    num_images = len(bundled.target)
    num_test = round(num_images * test_fraction)
    if not 0 < num_test < num_images:
        raise ValueError(
            f"digits: expected test_fraction between 0 and 1 so that both parts of the {num_images} images "
            f"hold at least one, received {test_fraction}."
        )
    order = np.random.default_rng(seed).permutation(num_images)
    x = (bundled.images[order] / 16.0).astype(np.float32)[..., np.newaxis]
    y = bundled.target[order].astype(np.int64)
    return (x[num_test:], y[num_test:]), (x[:num_test], y[:num_test])


def mnist(path: str | os.PathLike | None = None) -> tuple[Split, Split]:
    """MNIST: 60,000 training and 10,000 test images of handwritten digits.

    Args:
        path: An ``.npz`` file with ``x_train``, ``y_train``, ``x_test`` and ``y_test``; ``None`` asks
            ``keras.datasets.mnist``, which downloads the file once.

    Returns:
        ``(x_train, y_train), (x_test, y_test)``; images float32 of shape ``(n, 28, 28, 1)`` in [0, 1].

    Raises:
        ValueError: If the file does not exist, lacks an array, or holds arrays that do not fit each other.

    Reference:
        LeCun, Bottou, Bengio and Haffner (1998), Gradient-based learning applied to document recognition.
    """
    if path is None:
        import keras

        (x_train, y_train), (x_test, y_test) = keras.datasets.mnist.load_data()
        arrays = dict(zip(PLAIN_KEYS, (x_train, y_train, x_test, y_test), strict=True))
    else:
        arrays = _read_arrays(path, PLAIN_KEYS)
    return tuple(_image_split(arrays, part, image_shape=(28, 28, 1), where="mnist") for part in ("train", "test"))


def cifar10(path: str | os.PathLike | None = None) -> tuple[Split, Split]:
    """CIFAR-10: 50,000 training and 10,000 test colour images of ten kinds of object.

    Args:
        path: An ``.npz`` file, either with the decoded arrays ``x_train``, ``y_train``, ``x_test``, ``y_test`` or
            with JPEG bytes: image ``i`` is ``jpeg_train[offset_train[i]:offset_train[i + 1]]``, its label
            ``y_train[i]``, and likewise with ``_test``. ``None`` asks ``keras.datasets.cifar10``, which downloads
            the images once.

    Returns:
        ``(x_train, y_train), (x_test, y_test)``; images float32 of shape ``(n, 32, 32, 3)`` in [0, 1].

    Raises:
        ValueError: If the file does not exist, lacks an array, or holds arrays that do not fit each other.

    Reference:
        Krizhevsky (2009), Learning Multiple Layers of Features from Tiny Images.
    """
    if path is None:
        import keras

        (x_train, y_train), (x_test, y_test) = keras.datasets.cifar10.load_data()
        arrays = dict(zip(PLAIN_KEYS, (x_train, y_train, x_test, y_test), strict=True))
    else:
        arrays = _read_arrays(path, PLAIN_KEYS, JPEG_KEYS)
    if "jpeg_train" in arrays:
        for part in ("train", "test"):
            arrays[f"x_{part}"] = _decode_jpegs(arrays[f"jpeg_{part}"], arrays[f"offset_{part}"], part, path)
    return tuple(_image_split(arrays, part, image_shape=(32, 32, 3), where="cifar10") for part in ("train", "test"))


def standardize_channels(images: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Shift and scale each channel by the mean and standard deviation that it has in the reference images.

    Args:
        images: Images of shape ``(n, height, width, channels)``.
        reference: The images that give mean and standard deviation, as a rule the training images, of shape
            ``(m, height, width, channels)``.

    Returns:
        float32 of the shape of ``images``.

    Raises:
        ValueError: If the numbers of channels differ or a channel of the reference is constant.

    Example:
        >>> images = np.array([0.0, 1.0]).reshape(2, 1, 1, 1)
        >>> standardize_channels(images, images).ravel().tolist()
        [-1.0, 1.0]
    """
    if images.ndim != 4 or reference.ndim != 4 or images.shape[-1] != reference.shape[-1]:
        raise ValueError(
            "standardize_channels: expected two arrays (n, height, width, channels) with equally many channels, "
            f"received shapes {images.shape} and {reference.shape}."
        )
    mean = reference.mean(axis=(0, 1, 2), dtype=np.float64)
    deviation = reference.std(axis=(0, 1, 2), dtype=np.float64)
    if np.any(deviation == 0.0):
        constant = np.flatnonzero(deviation == 0.0).tolist()
        raise ValueError(f"standardize_channels: channels {constant} of the reference images are constant; drop them.")
    return (images - mean.astype(np.float32)) / deviation.astype(np.float32)


def _read_arrays(path: str | os.PathLike, *alternatives: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Arrays of an npz file that holds all names of at least one alternative."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"Expected an .npz file at {path}, but there is none; give the path of one, or path=None.")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: expected an .npz file, received something else; write one with numpy.savez.")
    with np.load(path, allow_pickle=False) as archive:
        for names in alternatives:
            if set(names) <= set(archive.files):
                return {name: archive[name] for name in names}
        expected = " or ".join(str(list(names)) for names in alternatives)
        raise ValueError(f"{path}: expected the arrays {expected}, received {sorted(archive.files)}.")


def _image_split(arrays: dict[str, np.ndarray], part: str, *, image_shape: tuple[int, ...], where: str) -> Split:
    """Images in [0, 1] of shape (n, *image_shape) and labels (n,), checked against each other."""
    images, labels = arrays[f"x_{part}"], np.asarray(arrays[f"y_{part}"]).reshape(-1)
    if images.ndim == len(image_shape) and image_shape[-1] == 1:
        images = images[..., np.newaxis]
    if images.shape[1:] != image_shape:
        raise ValueError(f"{where}: expected x_{part} of shape (n, {str(image_shape)[1:]}, received {images.shape}.")
    if len(images) == 0 or len(images) != len(labels):
        raise ValueError(
            f"{where}: expected as many labels in y_{part} as images in x_{part}, and at least one; "
            f"received {len(images)} images and {len(labels)} labels."
        )
    scale = np.float32(255.0) if np.issubdtype(images.dtype, np.integer) else np.float32(1.0)
    return images.astype(np.float32) / scale, labels.astype(np.int64)


def _decode_jpegs(stream: np.ndarray, offsets: np.ndarray, part: str, path: str | os.PathLike) -> np.ndarray:
    """Decode the images of one byte stream into uint8 (n, 32, 32, 3)."""
    import tensorflow as tf

    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != len(stream) or np.any(np.diff(offsets) <= 0):
        raise ValueError(
            f"{path}: expected offset_{part} to rise from 0 to the {len(stream)} bytes of jpeg_{part}, one step per "
            f"image; received {len(offsets)} offsets from {offsets[:1].tolist()} to {offsets[-1:].tolist()}."
        )
    content = stream.tobytes()
    images = [content[start:end] for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
    decoded = tf.data.Dataset.from_tensor_slices(images).map(
        lambda image: tf.io.decode_jpeg(image, channels=3), num_parallel_calls=tf.data.AUTOTUNE
    )
    try:
        return np.concatenate([batch.numpy() for batch in decoded.batch(500)])
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(
            f"{path}: jpeg_{part} holds bytes that are no JPEG, or images of unequal sizes; write the file again."
        ) from error
