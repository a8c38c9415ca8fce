"""Data sets: shapes, ranges, class shares, fixed splits, and the messages for files that do not fit."""

import doctest
import importlib
import zipfile

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


# --- spirals


def test_spiral_arms_wind_as_they_say():
    x, y = datasets.spiral(2000, 3, turns=1.25, noise=0.0)
    assert x.dtype == np.float32 and x.shape == (2000, 2) and y.sum() == 1000
    radius, angle = np.linalg.norm(x, axis=1), np.arctan2(x[:, 1], x[:, 0])
    difference = (angle - 2 * np.pi * 1.25 * radius - np.pi * y) / (2 * np.pi)
    far = radius > 0.01
    np.testing.assert_allclose(difference[far] - np.round(difference[far]), 0.0, atol=1e-4)
    assert radius.max() <= 1.0 and np.histogram(radius, 4, (0, 1))[0].min() > 400


def test_spiral_noise_is_of_the_given_size_and_depends_on_the_seed():
    calm, noisy = (datasets.spiral(5000, 3, noise=noise)[0] for noise in (0.0, 0.1))
    assert (noisy - calm).std() == pytest.approx(0.1, rel=0.03)
    np.testing.assert_array_equal(datasets.spiral(20, 1)[0], datasets.spiral(20, 1)[0])
    assert np.abs(datasets.spiral(20, 1)[0] - datasets.spiral(20, 2)[0]).max() > 0.1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_points": 0}, ValueError, "spiral: expected num_points of at least 1"),
        ({"num_points": 1.0}, TypeError, "num_points as an integer"),
        ({"turns": 0.0}, ValueError, "turns above 0"),
        ({"noise": -0.1}, ValueError, "noise of at least 0"),
    ],
)
def test_spiral_refuses_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        datasets.spiral(**{"num_points": 4, "seed": 0} | options)


# --- tables


@pytest.mark.parametrize(
    ("name", "num_rows", "num_features", "shares"),
    [
        ("generated", 330, 11, [0.8, 0.2]),
        ("breast_cancer", 569, 30, [0.373, 0.627]),
        ("wine", 178, 13, [0.33, 0.4, 0.27]),
    ],
)
def test_tables_are_scaled_and_split(name, num_rows, num_features, shares):
    (x_train, y_train), (x_test, y_test) = datasets.tables(name, seed=2)
    assert len(x_train) + len(x_test) == num_rows and len(x_test) == round(0.2 * num_rows)
    assert x_train.dtype == np.float32 and x_train.shape[1] == num_features and y_train.dtype == np.int64
    np.testing.assert_allclose(x_train.min(axis=0), 0.0, atol=1e-6)
    np.testing.assert_allclose(x_train.max(axis=0), 1.0, atol=1e-6)
    for labels in (y_train, y_test):
        np.testing.assert_allclose(np.bincount(labels) / len(labels), shares, atol=0.02)
    (again, _), _ = datasets.tables(name, seed=2)
    np.testing.assert_array_equal(again, x_train)


def test_generated_table_can_be_learned():
    from sklearn.ensemble import RandomForestClassifier

    (x_train, y_train), (x_test, y_test) = datasets.tables()
    forest = RandomForestClassifier(100, random_state=0).fit(x_train, y_train)
    assert forest.score(x_test, y_test) > max(y_test.mean(), 1 - y_test.mean()) + 0.02


TEXT = "id,size,age,kind\n1,0.5,3,good\n2,1.5,4,bad\n3,2.5,5,good\n4,3.5,6,bad\n5,4.5,7,good\n"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_is_read(tmp_path, delimiter):
    path = tmp_path / "own.csv"
    path.write_text(TEXT.replace(",", delimiter), encoding="utf-8-sig")
    (x_train, y_train), (x_test, y_test) = datasets.tables(path, target="kind", drop=["id"], test_fraction=0.4)
    assert x_train.shape == (3, 2) and x_test.shape == (2, 2)
    # Both columns rise by the same steps, and bad comes before good.
    np.testing.assert_allclose(x_train[:, 0], x_train[:, 1], atol=1e-6)
    assert sorted(np.concatenate([y_train, y_test])) == [0, 0, 1, 1, 1]


def write_xlsx(path, rows):
    """A workbook as spreadsheets write it: texts in a table of their own, empty cells left out."""
    main, links = "http://schemas.openxmlformats.org/spreadsheetml/2006/main", "http://schemas.openxmlformats.org"
    texts = sorted({cell for row in rows for cell in row if isinstance(cell, str)})

    def cell(column, line, value):
        place = f'r="{chr(65 + column)}{line}"'
        return (
            f'<c {place} t="s"><v>{texts.index(value)}</v></c>'
            if isinstance(value, str)
            else f"<c {place}><v>{value}</v></c>"
        )

    lines = [
        f'<row r="{n}">{"".join(cell(k, n, value) for k, value in enumerate(row) if value is not None)}</row>'
        for n, row in enumerate(rows, 1)
    ]
    parts = {
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{links}/officeDocument/2006/relationships">'
        '<sheets><sheet name="first" sheetId="1" r:id="rId7"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{links}/package/2006/relationships">'
        '<Relationship Id="rId7" Target="worksheets/sheet1.xml"/></Relationships>',
        "xl/sharedStrings.xml": f'<sst xmlns="{main}">{"".join(f"<si><t>{text}</t></si>" for text in texts)}</sst>',
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{"".join(lines)}</sheetData></worksheet>',
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name, text)


def test_xlsx_gives_what_csv_gives(tmp_path):
    rows = [line.split(",") for line in TEXT.splitlines()]
    write_xlsx(tmp_path / "own.xlsx", [rows[0], *([float(a), float(b), float(c), kind] for a, b, c, kind in rows[1:])])
    (tmp_path / "own.csv").write_text(TEXT)
    found, expected = (datasets.tables(tmp_path / name, target="kind") for name in ("own.xlsx", "own.csv"))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def test_empty_cell_of_a_sheet_is_told(tmp_path):
    write_xlsx(tmp_path / "own.xlsx", [["a", "b", "kind"], [1.0, None, "x"], [2.0, 3.0, "y"]])
    with pytest.raises(ValueError, match="number in column 'b' of row 2, received ''"):
        datasets.tables(tmp_path / "own.xlsx", target="kind")


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (TEXT, {}, "a file needs target=.*Columns: id, size, age, kind"),
        (TEXT, {"target": "kinds"}, "no such column.*'kinds' .did you mean 'kind'"),
        (TEXT, {"target": "kind", "drop": ["ages"]}, "no such column.*'ages'"),
        (TEXT.replace("2.5", "big"), {"target": "kind"}, "expected a number in column 'size' of row 4, received 'big'"),
        (TEXT.replace("2.5", ""), {"target": "kind"}, "expected a number in column 'size' of row 4, received ''"),
        (TEXT.replace("2.5", "inf"), {"target": "kind"}, "expected a number in column 'size'"),
        (TEXT.replace("bad", "good"), {"target": "kind"}, "'kind' holds one class only, 'good'"),
        (TEXT.replace("5,good", "5,"), {"target": "kind"}, "row 4 has no value in the target column"),
        (TEXT.replace("age", "size"), {"target": "kind"}, "'size' appear more than once"),
        (TEXT.replace("5,good", "5,good,1"), {"target": "kind"}, "row 4 has 5 cells, but there are 4 columns"),
        ("a,b\n", {"target": "a"}, "at least one row below"),
        ("", {"target": "a"}, "at least one row below"),
        ("kind\na\nb\n", {"target": "kind"}, "no column is left"),
    ],
)
def test_csv_that_does_not_fit_is_refused(tmp_path, text, options, message):
    (tmp_path / "own.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        datasets.tables(tmp_path / "own.csv", **options)


def test_other_tables_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected one of 'generated', 'breast_cancer', 'wine'"):
        datasets.tables("whine")
    with pytest.raises(ValueError, match="target and drop are for files"):
        datasets.tables("wine", target="class")
    with pytest.raises(ValueError, match="test_fraction between 0 and 1"):
        datasets.tables(test_fraction=0.0)
    (tmp_path / "own.xlsx").write_text("no archive")
    with pytest.raises(ValueError, match="expected an XLSX file"):
        datasets.tables(tmp_path / "own.xlsx", target="a")
    (tmp_path / "own.csv").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ValueError, match="CSV file in UTF-8"):
        datasets.tables(tmp_path / "own.csv", target="a")


@pytest.mark.parametrize("name", ["points", "images", "tables"])
def test_documented_numbers(name):
    module = importlib.import_module(f"tfprune.datasets.{name}")
    assert doctest.testmod(module).failed == 0
