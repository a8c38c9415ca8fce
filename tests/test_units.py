import copy
import doctest
import pickle
from collections.abc import Mapping

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tfprune.units
from tfprune.units import LayerValues, check_like, describe_unknown


@pytest.fixture
def scores():
    return LayerValues({"b/conv": np.arange(6, dtype="float32").reshape(2, 3), "a": np.array([7.0], "float32")})


def any_values():
    arrays = hnp.arrays(
        st.sampled_from(["bool", "uint8", "int64", "float16", "float32", "float64"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    )
    return st.dictionaries(st.text(min_size=1), arrays, max_size=4).map(LayerValues)


def test_docstring_examples():
    assert doctest.testmod(tfprune.units).failed == 0


def test_mapping_in_the_given_order(scores):
    assert isinstance(scores, Mapping)
    assert scores.names == tuple(scores) == ("b/conv", "a")
    assert scores.shapes == {"b/conv": (2, 3), "a": (1,)}
    assert len(scores) == 2
    assert scores.size == 7
    assert "a" in scores and "c" not in scores
    assert scores.flat.tolist() == [0, 1, 2, 3, 4, 5, 7]
    assert scores["b/conv"][1].tolist() == [3, 4, 5]


def test_nothing_can_be_written(scores):
    for array in (scores.flat, scores["a"]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
        with pytest.raises(ValueError, match="cannot set WRITEABLE"):
            scores["a"].setflags(write=True)
    with pytest.raises(TypeError, match="does not support item assignment"):
        scores["a"] = 1
    with pytest.raises(AttributeError):
        scores.flat = 1


def test_arrays_are_copied():
    source = np.ones(3)
    values = LayerValues({"a": source, "b": [1]})
    source[:] = 5
    assert values["a"].tolist() == [1, 1, 1]
    assert source.flags.writeable


def test_flat_has_the_common_dtype_and_arrays_keep_theirs():
    values = LayerValues({"mask": [True, False], "count": np.array([3], "int32"), "mean": np.array([0.5], "float32")})
    assert values.flat.dtype == np.result_type("bool", "int32", "float32")
    assert values.flat.tolist() == [1, 0, 3, 0.5]
    assert [array.dtype.name for array in values.values()] == ["bool", "int32", "float32"]
    assert not values["mask"].flags.writeable
    assert LayerValues({}).flat.shape == (0,)


def test_tensors_are_read():
    assert LayerValues({"a": tf.constant([1.0, 2.0])})["a"].tolist() == [1, 2]


def test_map(scores):
    mask = scores.map(lambda array: array > 2)
    assert mask.names == scores.names
    assert mask.flat.tolist() == [False, False, False, True, True, True, True]
    assert scores.map(np.sum).shapes == {"b/conv": (), "a": ()}


@given(any_values())
def test_flat_and_back(values):
    back = LayerValues.from_flat(values.flat, values)
    assert back.shapes == values.shapes
    assert np.array_equal(back.flat, values.flat, equal_nan=values.flat.dtype.kind == "f")
    assert back == LayerValues.from_flat(values.flat, values.shapes)


@given(any_values())
def test_copies_are_equal_with_equal_hashes(values):
    for twin in (LayerValues(dict(values)), pickle.loads(pickle.dumps(values)), copy.deepcopy(values)):
        assert twin == values
        assert hash(twin) == hash(values)
    assert not pickle.loads(pickle.dumps(values)).flat.flags.writeable


def test_from_flat_with_lengths():
    values = LayerValues.from_flat(np.arange(3), {"a": np.int64(1), "b": 2})
    assert values == LayerValues({"a": np.array([0]), "b": np.array([1, 2])})


def test_equality_is_by_value():
    def of(array, dtype="float32", name="a"):
        return LayerValues({name: np.array(array, dtype)})

    assert of([1, np.nan]) == of([1, np.nan])
    assert of([-0.0]) == of([0.0]) and hash(of([-0.0])) == hash(of([0.0]))
    assert of([1.0], ">f4") == of([1.0], "<f4")
    different = [of([2.0]), of([1.0], "float64"), of([1.0], name="b"), of([[1.0]]), of([1.0, 1.0]), LayerValues({})]
    assert all(of([1.0]) != other for other in different)
    assert LayerValues({"a": [1], "b": [2]}) != LayerValues({"b": [2], "a": [1]})
    assert of([1.0]) != {"a": np.array([1.0], "float32")}
    assert len({of([1.0]), of([1.0]), of([2.0])}) == 2


def test_repr():
    values = LayerValues({"conv": np.array([[0.0, 1.0], [2.0, 3.0]]), "none": np.zeros(0), "on": [True]})
    assert repr(values).splitlines() == [
        "LayerValues: 3 names, 5 values",
        "  name  shape   dtype      min  mean  max",
        "  conv  (2, 2)  float64      0   1.5    3",
        "  none  (0,)    float64      -     -    -",
        "  on    (1,)    bool     1 / 1",
    ]
    assert repr(LayerValues({"a": [True, False, True]})).splitlines() == [
        "LayerValues: 1 name, 3 values",
        "  name  shape  dtype  true / total",
        "  a     (3,)   bool          2 / 3",
    ]
    assert repr(LayerValues({})) == "LayerValues: 0 names, 0 values"
    assert "-inf   nan  inf" in repr(LayerValues({"a": [np.inf, -np.inf]}))


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([1, 2], TypeError, "expects a mapping of names to arrays, received list"),
        ({1: [1.0]}, TypeError, "Names are strings, received 1 of type int"),
        ({"": [1.0]}, ValueError, "A name is empty"),
        ({"a": ["x"]}, TypeError, "'a' have the dtype <U1, expected bool, integers or floats"),
        ({"a": [None]}, TypeError, "dtype object"),
        ({"a": [1j]}, TypeError, "dtype complex128"),
        ({"a": [[1], [2, 3]]}, ValueError, "The values of 'a' are no array"),
    ],
)
def test_constructor_borders(values, error, message):
    with pytest.raises(error, match=message):
        LayerValues(values)


@pytest.mark.parametrize(
    ("flat", "like", "error", "message"),
    [
        (
            np.zeros(4),
            {"a": 2, "b": 1},
            ValueError,
            r"expects the shape \(3,\), received \(4,\). The names need: a 2, b 1",
        ),
        (np.zeros((3, 1)), {"a": 3}, ValueError, r"received \(3, 1\)"),
        (np.zeros(1), {}, ValueError, r"expects the shape \(0,\), received \(1,\). The names need: nothing"),
        (["x"], {"a": 1}, TypeError, "dtype <U1"),
        (np.zeros(3), [3], TypeError, "`like` expects LayerValues or a mapping of names to shapes or lengths"),
        (np.zeros(3), {"a": "3"}, TypeError, "expects a shape or a length for 'a', received '3'"),
        (np.zeros(3), {"a": (-1,)}, TypeError, "expects a shape or a length for 'a'"),
    ],
)
def test_from_flat_borders(flat, like, error, message):
    with pytest.raises(error, match=message):
        LayerValues.from_flat(flat, like)


def test_unknown_name(scores):
    with pytest.raises(KeyError, match="did you mean 'b/conv'.*Known names: b/conv, a"):
        scores["b/con"]


AWKWARD = ("z/conv", "../up", "file", "a b", "0", "ä\x00\n", "tfprune.LayerValues", "\ud800")


def test_save_and_load(tmp_path):
    values = LayerValues({name: np.full((index, 2), index / 3) for index, name in enumerate(AWKWARD)})
    path = tmp_path / "values.npz"
    values.save(path)
    assert LayerValues.load(path) == values
    assert [file.name for file in tmp_path.iterdir()] == ["values.npz"]


@given(any_values())
def test_save_and_load_anything(tmp_path_factory, values):
    path = str(tmp_path_factory.mktemp("values") / "no_suffix")
    values.save(path)
    assert LayerValues.load(path) == values


def test_load_borders(tmp_path, scores):
    with pytest.raises(FileNotFoundError):
        LayerValues.load(tmp_path / "absent.npz")
    with pytest.raises(ValueError, match="folder '.*absent' does not exist"):
        scores.save(tmp_path / "absent" / "a.npz")
    path = tmp_path / "a.npz"

    def refuses(message="is no file of LayerValues, or is damaged"):
        with pytest.raises(ValueError, match=message):
            LayerValues.load(path)

    np.savez(path, a=np.ones(3))
    refuses()
    with open(path, "wb") as file:
        np.save(file, np.ones(3))
    refuses()
    path.write_bytes(b"")
    refuses()
    path.write_text("not a zip file")
    refuses()
    scores.save(path)
    path.write_bytes(path.read_bytes()[:-40])
    refuses()
    np.savez(path, **{"tfprune.LayerValues": np.frombuffer(b'{"version": 9}', np.uint8)})
    refuses("its format is 9, expected 1")


SIZES = {"first": 2, "second": 3}
GOOD = {"second": [True] * 3, "first": [True, False]}


def test_check_like_orders_by_the_groups():
    checked = check_like(GOOD, SIZES, "mask", boolean=True)
    assert checked == LayerValues({"first": [True, False], "second": [True] * 3})
    assert check_like({"second": [1, 2, 3]}, SIZES, "scores", partial=True).names == ("second",)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"frist": [True] * 2}, ValueError, r"mask has unknown groups. Unknown: 'frist' \(did you mean 'first'\?\)"),
        ({"first": [True] * 2}, ValueError, "The mask lacks the groups 'second'. Expected .*: first, second"),
        (GOOD | {"first": [True] * 3}, ValueError, r"mask of group 'first' expects the shape \(2,\).*received \(3,\)"),
        (GOOD | {"first": [1.0, 0.0]}, TypeError, "mask of group 'first' expects the dtype bool .* received float64"),
        ([True], TypeError, "mask: expected LayerValues, or a mapping.*received list"),
    ],
)
def test_check_like_borders(values, error, message):
    with pytest.raises(error, match=message):
        check_like(values, SIZES, "mask", boolean=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_check_like_refuses_values_that_are_not_finite(bad):
    with pytest.raises(ValueError, match=f"scores of group 'first' expects finite values, received {bad} for unit 1"):
        check_like({"first": [0.0, bad]}, {"first": 2}, "scores")


def test_describe_unknown():
    assert describe_unknown(["x"], []) == "Unknown: 'x'. Known names: none."
