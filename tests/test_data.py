import doctest

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune.data
from tfprune.data import Batch, as_batches, collect

X = np.arange(21, dtype="float32").reshape(7, 3)
Y = np.arange(14, dtype="float32").reshape(7, 2)
WEIGHTS = np.arange(7, dtype="float32")


class Slices(keras.utils.PyDataset):
    """Gives rows of arrays, three at a time."""

    def __init__(self, *arrays, length=3):
        super().__init__()
        self.arrays, self.length = arrays, length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        parts = tuple(array[3 * index : 3 * index + 3] for array in self.arrays)
        return parts if len(parts) > 1 else parts[0]


class Endless(keras.utils.PyDataset):
    num_batches = None

    def __getitem__(self, index):
        return X


def dataset(structure, batch_size=3):
    return tf.data.Dataset.from_tensor_slices(structure).batch(batch_size)


def same(batch, inputs, targets=None, weights=None):
    assert len(batch.inputs) == len(inputs)
    for received, expected in zip(batch.inputs, inputs, strict=True):
        assert isinstance(received, np.ndarray)
        np.testing.assert_array_equal(received, expected)
    for received, expected in ((batch.targets, targets), (batch.weights, weights)):
        if expected is None:
            assert received is None
        else:
            np.testing.assert_array_equal(received, expected)


def test_docstring_examples():
    assert doctest.testmod(tfprune.data).failed == 0


@pytest.mark.parametrize("make", [lambda *a: a, lambda *a: dataset(a), Slices], ids=["arrays", "tf.data", "PyDataset"])
@pytest.mark.parametrize("parts", [(X,), (X, Y), (X, Y, WEIGHTS)], ids=["x", "xy", "xyw"])
def test_every_form_gives_the_same_batches_twice(dense_net, make, parts):
    batches = as_batches(make(*parts), dense_net, batch_size=3)
    for _ in range(2):
        assert [len(batch.inputs[0]) for batch in batches] == [3, 3, 1]
        same(collect(batches), [X], *parts[1:])


def test_array_alone(dense_net):
    for x in (X, tf.constant(X), [X], {"x": X}):
        batches = as_batches(x, dense_net, batch_size=4)
        assert batches.num_samples == 7
        same(next(iter(batches)), [X[:4]])
    assert as_batches(dataset(X), dense_net).num_samples is None


def test_several_inputs_in_the_order_of_the_model(two_input_net):
    left, right = X, Y
    xs = [[left, right], {"right": right, "left": left}, ([left, right],), ((left, right), WEIGHTS)]
    xs += [dataset((({"right": right, "left": left}),)), dataset(((left, right), WEIGHTS))]
    for x in xs:
        same(collect(as_batches(x, two_input_net, targets="ignore")), [left, right])


def test_targets_of_several_outputs_keep_their_structure(dense_net):
    batch = collect(as_batches((X, {"a": Y, "b": [WEIGHTS, None]}), dense_net, batch_size=2))
    assert set(batch.targets) == {"a", "b"}
    np.testing.assert_array_equal(batch.targets["a"], Y)
    np.testing.assert_array_equal(batch.targets["b"][0], WEIGHTS)
    assert batch.targets["b"][1] is None


def test_ignored_targets_are_not_checked(dense_net):
    batch = collect(as_batches((X, np.full(3, np.nan), ["text"]), dense_net, targets="ignore"))
    same(batch, [X])


def test_inputs_are_cast_as_keras_does(dense_net):
    for x in (X.astype("float64"), X.astype("int16"), dataset(X.astype("uint8"))):
        (array,) = collect(as_batches(x, dense_net)).inputs
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, X)
    model = keras.Sequential([keras.Input((2,), dtype="int32"), keras.layers.Embedding(9, 2)])
    assert collect(as_batches(np.ones((4, 2)), model)).inputs[0].dtype == np.int32


def test_last_axis_of_length_one_as_keras_does():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    same(collect(as_batches(WEIGHTS, model)), [WEIGHTS[:, None]])
    same(collect(as_batches(dataset(WEIGHTS), model)), [WEIGHTS[:, None]])
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    same(collect(as_batches(X[..., None], model)), [X])


def test_variable_axis():
    model = keras.Sequential([keras.Input((None, 3)), keras.layers.Dense(1)])
    assert collect(as_batches(np.ones((2, 5, 3)), model)).inputs[0].shape == (2, 5, 3)


def test_fixed_batch_size():
    model = keras.Sequential([keras.Input(batch_shape=(4, 3)), keras.layers.Dense(1)])
    assert len(list(as_batches(np.ones((8, 3)), model, batch_size=4))) == 2
    with pytest.raises(ValueError, match="takes batches of exactly 4 samples, received 7 samples and batch_size=4"):
        as_batches(X, model, batch_size=4)
    with pytest.raises(ValueError, match="Data, batch 1: .* exactly 4 samples, received 3. .*drop_remainder"):
        list(as_batches(dataset(X, 4), model))


def test_collect_takes_the_first_samples(dense_net):
    batches = as_batches((X, Y), dense_net, batch_size=3)
    same(collect(batches, limit=4), [X[:4]], Y[:4])
    same(collect(batches, limit=99), [X], Y)
    inputs, targets, weights = collect(batches, limit=1)
    assert isinstance(collect(batches), Batch) and len(inputs[0]) == len(targets) == 1 and weights is None


def spoilt(value, index, array=X):
    array = np.array(array)
    array[index] = value
    return array


def test_large_arrays_are_searched_in_pieces(dense_net, monkeypatch):
    monkeypatch.setattr(tfprune.arrays, "_VALUES_AT_ONCE", 6)
    with pytest.raises(ValueError, match=r"NaN in input 'x' at index \(5, 2\)"):
        as_batches(spoilt(np.nan, (5, 2)), dense_net)


ARRAY_BORDERS = [
    (None, TypeError, "`data` is None"),
    ((row for row in X), TypeError, "is a generator, which can be read only once.*from_generator"),
    (iter(dataset(X)), TypeError, "can be read only once"),
    (X[:0], ValueError, "Data: empty, there are no samples"),
    ((X, Y[:5]), ValueError, "numbers of samples differ: input 'x' 7, targets 5"),
    ((X, Y, WEIGHTS[:1]), ValueError, "input 'x' 7, targets 7, weights 1"),
    (spoilt(np.nan, (4, 1)), ValueError, r"Data: NaN in input 'x' at index \(4, 1\). Remove or replace"),
    (spoilt(-np.inf, (0, 0)), ValueError, r"-inf \(not finite as float32\) in input 'x' at index \(0, 0\)"),
    (spoilt(1e300, (0, 0), X.astype("float64")), ValueError, r"1e\+300 \(not finite as float32\) in input 'x'"),
    ((X, spoilt(np.nan, (6, 1), Y)), ValueError, r"NaN in the targets at index \(6, 1\)"),
    ((X, Y, spoilt(np.inf, 2, WEIGHTS)), ValueError, r"inf .* in the weights at index \(2,\)"),
    (
        [X, X],
        ValueError,
        r"one array for each input of the model \('x'\), received 2. A list stands for several inputs",
    ),
    (X.tolist(), ValueError, "received 7. A list stands for several inputs; for one array use np.asarray"),
    ((X, Y, WEIGHTS, X), ValueError, "a tuple is .*, received 4 entries. Give several inputs as a list"),
    ({"y": X}, ValueError, "names that no input of the model has. Unknown: 'y'.*Known names: x"),
    ({}, ValueError, "the dict lacks the inputs 'x'"),
    (X[:, :2], ValueError, r"input 'x' expects the shape \(samples, 3\), received \(7, 2\)"),
    (X[0], ValueError, r"received \(3,\). This is a single sample; .*x\[np.newaxis\]"),
    (np.ones((2, 2, 3)), ValueError, r"received \(2, 2, 3\)"),
    (np.array([["a"] * 3]), TypeError, "input 'x' has the dtype <U1, expected numbers"),
    (np.array([[None] * 3]), TypeError, "dtype object"),
    ("text", TypeError, "dtype <U4"),
    ([[[1.0], [2.0, 3.0]]], TypeError, "input 'x' cannot be read as an array"),
    ((X, [0, 1]), ValueError, "as the targets, received a single number. A list stands for several arrays"),
    (tf.ragged.constant([[1.0], [2.0, 3.0]]), TypeError, r"is a RaggedTensor, expected a dense array. .*to_tensor\(\)"),
    (tf.sparse.from_dense(X), TypeError, r"is a SparseTensor, .*tf.sparse.to_dense"),
]


@pytest.mark.parametrize(("data", "error", "message"), ARRAY_BORDERS, ids=[border[2] for border in ARRAY_BORDERS])
def test_array_borders(dense_net, data, error, message):
    with pytest.raises(error, match=message):
        as_batches(data, dense_net)


def test_two_inputs_given_as_a_tuple(two_input_net):
    for data in ((X, Y), dataset((X, Y))):
        with pytest.raises(
            ValueError,
            match=r"each input of the model \('left', 'right'\), received 1. A tuple is .*as a list: \[x1, x2\]",
        ):
            as_batches(data, two_input_net)
    with pytest.raises(ValueError, match="the dict lacks the inputs 'right'"):
        as_batches({"left": X}, two_input_net)
    with pytest.raises(ValueError, match=r"'lefd' \(did you mean 'left'\?\)"):
        as_batches({"lefd": X, "right": Y}, two_input_net)
    with pytest.raises(ValueError, match="differ: input 'left' 7, input 'right' 3"):
        as_batches([X, Y[:3]], two_input_net)


def test_missing_targets(dense_net):
    for data in (X, (X,), (X, None), (X, None, WEIGHTS), dataset(X)):
        with pytest.raises(ValueError, match=r"targets are needed here, but there are none. Give \(x, y\)"):
            as_batches(data, dense_net, targets="required")
    with pytest.raises(ValueError, match="Data, batch 0: targets are needed"):
        list(as_batches(Slices(X), dense_net, targets="required"))


DATASET_BORDERS = [
    (tf.data.Dataset.from_tensor_slices(X), "not batched: .* shape .3,. for input 'x'. Batch it: dataset.batch"),
    (dataset(X).repeat(), r"never ends. Take a part of it: dataset.take"),
    (dataset(X).take(0), "the dataset has no batch"),
    (Endless(), "PyDataset never ends. Give it a number of batches"),
    (Slices(X, length=0), "the PyDataset has no batch"),
]


@pytest.mark.parametrize(("data", "message"), DATASET_BORDERS)
def test_dataset_borders_before_any_work(dense_net, data, message):
    with pytest.raises(ValueError, match=message):
        as_batches(data, dense_net)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((spoilt(np.nan, (4, 2)),), r"Data, batch 1: NaN in input 'x' at index \(1, 2\)"),
        ((X, spoilt(np.inf, (6, 0), Y)), r"Data, batch 2: inf .* in the targets at index \(0, 0\)"),
        ((X[:, :2],), r"Data, batch 0: input 'x' expects the shape \(samples, 3\), received \(3, 2\)"),
    ],
)
def test_stream_borders_name_the_batch(dense_net, arrays, message):
    for data in (dataset(arrays), Slices(*arrays)):
        with pytest.raises(ValueError, match=message):
            list(as_batches(data, dense_net))


def test_stream_borders(dense_net):
    with pytest.raises(ValueError, match="Data, batch 1: the numbers of samples differ: input 'x' 3, targets 1"):
        list(as_batches(Slices(X, Y[:4]), dense_net))
    with pytest.raises(ValueError, match="empty: the dataset gave no batch"):
        list(as_batches(dataset(X).filter(lambda x: False), dense_net))
    unknown = tf.data.Dataset.from_generator(lambda: iter(X), output_types="float32")
    with pytest.raises(ValueError, match="batch 0: .*This is a single sample"):
        list(as_batches(unknown, dense_net))


def test_unbatched_images(conv_same_net):
    images = tf.data.Dataset.from_tensor_slices(np.ones((2, 8, 8, 2), "float32"))
    with pytest.raises(ValueError, match="not batched"):
        as_batches(images, conv_same_net)
    assert collect(as_batches(images.batch(2), conv_same_net)).inputs[0].shape == (2, 8, 8, 2)


def test_unbatched_numbers():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="not batched"):
        as_batches(tf.data.Dataset.from_tensor_slices(np.ones((4, 1))), model)


class Subclassed(keras.Model):
    def call(self, x):
        return x


def test_model_borders():
    for model in (Subclassed(), keras.Sequential([keras.layers.Dense(1)])):
        with pytest.raises(ValueError, match="has no known inputs: it is not built yet, or is a subclass"):
            as_batches(X, model)
    with pytest.raises(TypeError, match="`model` expects a keras.Model, received str"):
        as_batches(X, "model")


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, True, None])
def test_batch_size_borders(dense_net, batch_size):
    with pytest.raises(ValueError, match="`batch_size` expects a positive integer, received"):
        as_batches(X, dense_net, batch_size=batch_size)


def test_option_borders(dense_net):
    with pytest.raises(ValueError, match="`targets` expects one of 'optional', 'required', 'ignore', received 'no'"):
        as_batches(X, dense_net, targets="no")
    with pytest.raises(ValueError, match="`limit` expects a positive integer, received 0"):
        collect(as_batches(X, dense_net), limit=0)
    with pytest.raises(ValueError, match="There is no batch to collect"):
        collect([])


def test_samples_of_several_shapes_are_no_one_array():
    batches = [Batch([np.zeros((2, 5))], None, None), Batch([np.zeros((2, 4))], None, None)]
    with pytest.raises(ValueError, match=r"samples of several shapes, \[\(5,\)\] and \[\(4,\)\].*Pad them"):
        collect(batches)
