"""Data sets: shapes, ranges, class shares, fixed splits, and the messages for files that do not fit."""

import doctest

import numpy as np
import pytest
import tensorflow as tf

from tfprune import datasets


@pytest.fixture
def plain_arrays(generator):
    def images(num_images, shape):
        return generator.integers(0, 256, (num_images, *shape), dtype=np.uint8)

    def make(shape):
        return {
            "x_train": images(5, shape),
            "y_train": np.array([3, 1, 4, 1, 5], np.uint8),
            "x_test": images(2, shape),
            "y_test": np.array([9, 2], np.uint8),
        }

    return make


@pytest.fixture
def jpeg_arrays(generator):
    """Images of one colour each, which survive JPEG almost unchanged, and the arrays that hold them."""
    colours = generator.integers(30, 226, (5, 3))
    encoded = [tf.io.encode_jpeg(np.full((32, 32, 3), colour, np.uint8), quality=100).numpy() for colour in colours]
    arrays = {}
    for part, chosen in (("train", slice(0, 3)), ("test", slice(3, 5))):
        arrays[f"jpeg_{part}"] = np.frombuffer(b"".join(encoded[chosen]), np.uint8)
        arrays[f"offset_{part}"] = np.cumsum([0] + [len(image) for image in encoded[chosen]])
        arrays[f"y_{part}"] = np.arange(len(encoded[chosen]), dtype=np.uint8)
    return colours, arrays


@pytest.mark.parametrize(("as_published", "share_outside"), [(False, 0.5), (True, 1 - np.pi / 4 * np.sqrt(2 / np.pi))])
def test_circle_labels_follow_the_radius(as_published, share_outside):
    x, y = datasets.circle(100_000, 0, as_published=as_published)
    radius = datasets.circle_radius(as_published=as_published)
    assert x.dtype == np.float32 and x.shape == (100_000, 2) and y.shape == (100_000,)
    assert np.abs(x).max() <= 1.0
    np.testing.assert_array_equal(y, np.linalg.norm(x.astype(np.float64), axis=1) > radius)
    assert y.mean() == pytest.approx(share_outside, abs=0.005)


def test_circle_listing_compares_the_squared_distance():
    x, y = datasets.circle(1000, 3, as_published=True)
    np.testing.assert_array_equal(y, np.sum(x.astype(np.float64) ** 2, axis=1) > np.sqrt(2 / np.pi))


def test_circle_depends_on_the_seed_alone():
    first, again, other = (datasets.circle(20, seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


@pytest.mark.parametrize(
    ("num_points", "error", "message"),
    [(0, ValueError, "num_points of at least 1, received 0"), (2.5, TypeError, "num_points as an integer")],
)
def test_circle_refuses_a_bad_number(num_points, error, message):
    with pytest.raises(error, match=message):
        datasets.circle(num_points, 0)


def test_digits_split_is_fixed_and_complete():
    (x_train, y_train), (x_test, y_test) = datasets.digits(seed=4)
    (again, _), _ = datasets.digits(seed=4)
    np.testing.assert_array_equal(x_train, again)
    assert x_train.shape == (1348, 8, 8, 1) and x_test.shape == (449, 8, 8, 1)
    assert x_train.dtype == np.float32 and x_train.min() == 0.0 and x_train.max() == 1.0
    assert np.bincount(np.concatenate([y_train, y_test])).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_digits_refuses_an_empty_part():
    with pytest.raises(ValueError, match="test_fraction between 0 and 1"):
        datasets.digits(test_fraction=1.0)


@pytest.mark.parametrize(
    ("load", "stored_shape", "shape"),
    [(datasets.mnist, (28, 28), (28, 28, 1)), (datasets.cifar10, (32, 32, 3), (32, 32, 3))],
)
def test_plain_file_is_scaled_and_split(tmp_path, plain_arrays, load, stored_shape, shape):
    arrays = plain_arrays(stored_shape)
    np.savez(tmp_path / "images.npz", **arrays)
    (x_train, y_train), (x_test, y_test) = load(tmp_path / "images.npz")
    assert x_train.shape == (5, *shape) and x_train.dtype == np.float32
    np.testing.assert_allclose(x_train.reshape(arrays["x_train"].shape) * 255.0, arrays["x_train"], atol=1e-4)
    np.testing.assert_allclose(x_test.reshape(arrays["x_test"].shape) * 255.0, arrays["x_test"], atol=1e-4)
    assert y_train.tolist() == [3, 1, 4, 1, 5] and y_test.tolist() == [9, 2]


def test_jpeg_file_is_decoded_in_order(tmp_path, jpeg_arrays):
    colours, arrays = jpeg_arrays
    np.savez(tmp_path / "images.npz", **arrays)
    (x_train, y_train), (x_test, y_test) = datasets.cifar10(tmp_path / "images.npz")
    decoded = np.concatenate([x_train, x_test])
    assert decoded.shape == (5, 32, 32, 3) and y_train.tolist() == [0, 1, 2] and y_test.tolist() == [0, 1]
    np.testing.assert_allclose(decoded.mean(axis=(1, 2)) * 255.0, colours, atol=2.0)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="absent.npz, but there is none"):
        datasets.mnist(tmp_path / "absent.npz")


def test_other_file_is_refused(tmp_path):
    (tmp_path / "images.npz").write_text("no archive")
    with pytest.raises(ValueError, match="expected an .npz file, received something else"):
        datasets.mnist(tmp_path / "images.npz")


def test_missing_array_is_named(tmp_path, plain_arrays):
    arrays = plain_arrays((28, 28))
    del arrays["y_test"]
    np.savez(tmp_path / "images.npz", **arrays)
    with pytest.raises(
        ValueError, match=r"expected the arrays .*'y_test'.*received \['x_test', 'x_train', 'y_train'\]"
    ):
        datasets.mnist(tmp_path / "images.npz")


def test_unequal_lengths_are_refused(tmp_path, plain_arrays):
    np.savez(tmp_path / "images.npz", **{**plain_arrays((28, 28)), "y_train": np.zeros(4, np.uint8)})
    with pytest.raises(ValueError, match="received 5 images and 4 labels"):
        datasets.mnist(tmp_path / "images.npz")


def test_other_image_shape_is_refused(tmp_path, plain_arrays):
    np.savez(tmp_path / "images.npz", **plain_arrays((20, 20)))
    with pytest.raises(ValueError, match=r"expected x_train of shape \(n, 28, 28, 1\), received \(5, 20, 20, 1\)"):
        datasets.mnist(tmp_path / "images.npz")


def test_broken_offsets_are_refused(tmp_path, jpeg_arrays):
    arrays = jpeg_arrays[1]
    np.savez(tmp_path / "images.npz", **{**arrays, "offset_test": arrays["offset_test"][:-1]})
    with pytest.raises(ValueError, match="expected offset_test to rise from 0"):
        datasets.cifar10(tmp_path / "images.npz")


def test_broken_jpeg_is_refused(tmp_path, jpeg_arrays):
    arrays = jpeg_arrays[1]
    np.savez(tmp_path / "images.npz", **{**arrays, "jpeg_train": np.zeros_like(arrays["jpeg_train"])})
    with pytest.raises(ValueError, match="jpeg_train holds bytes that are no JPEG"):
        datasets.cifar10(tmp_path / "images.npz")


def test_standardized_channels_have_mean_zero_and_deviation_one(generator):
    images = generator.uniform(size=(50, 4, 4, 3)).astype(np.float32) * np.array([1, 2, 3], np.float32)
    result = datasets.standardize_channels(images, images)
    np.testing.assert_allclose(result.mean(axis=(0, 1, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(result.std(axis=(0, 1, 2)), 1.0, atol=1e-5)


def test_standardize_names_constant_channels():
    reference = np.zeros((3, 2, 2, 2), np.float32)
    with pytest.raises(ValueError, match=r"channels \[0, 1\] of the reference images are constant"):
        datasets.standardize_channels(reference, reference)


def test_standardize_refuses_other_channels():
    with pytest.raises(ValueError, match="equally many channels"):
        datasets.standardize_channels(np.zeros((1, 2, 2, 3)), np.zeros((1, 2, 2, 1)))


def test_documented_numbers():
    assert doctest.testmod(datasets).failed == 0
