"""Operations that people use in their own code: which units they leave, and that masked equals removed."""

import keras
import numpy as np
import pytest
from conftest import randomise, slow_but
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops
from nets import EARLY_KERAS, outputs_of

import tfprune
from tfprune import unit_groups
from tfprune.graph.batch import Batch, batch_of
from tfprune.graph.equations import letters_of, product_letters
from tfprune.layers.opened import HeldWeight

BATCH, LENGTH, UNITS = 3, 5, 4


def model_around(read):
    """5 x 3 -> dense 4 `one` and dense 4 `two`, without biases at zero -> `read` -> dense 2 `out`."""
    x = keras.Input((LENGTH, 3), name="x")
    one, two = (layers.Dense(UNITS, act, name=name)(x) for name, act in (("one", "sigmoid"), ("two", "tanh")))
    return randomise(keras.Model(x, layers.Dense(2, name="out")(read(one, two))))


def held(reference, *shape):
    """A weight that code reads."""
    return HeldWeight(shape, name="_".join(map(str, ("held", *shape))))(reference)


def masks_of(graph, count=3):
    """Random masks that leave every group some of its units and take some away."""
    generator = np.random.default_rng(4)
    for _ in range(count):
        mask = {}
        for name, size in graph.sizes.items():
            keep = generator.integers(1, max(size, 2))
            mask[name] = np.isin(np.arange(size), generator.permutation(size)[:keep])
        yield mask


def check(model, groups, reason=None):
    """The groups are these, the reason stands among those of the others, and masked equals removed."""
    graph = unit_groups(model)
    assert graph.sizes == groups
    reasons = [*(why for _, why in graph.fixed.values()), *graph.walls.values()]
    assert reason is None or any(reason in why for why in reasons), reasons
    if not groups:
        return
    inputs = [np.random.default_rng(5).normal(size=(BATCH, *model.inputs[0].shape[1:])).astype("float32")]
    masked, before = tfprune.with_on_nodes(model), outputs_of(model, inputs)
    for number, mask in enumerate(masks_of(graph)):
        small = tfprune.remove(model, tfprune.LayerValues(mask))
        row = graph.on_nodes(mask)
        result = outputs_of(masked, inputs, row)
        scale = max(np.abs(before).max(), 1.0)
        np.testing.assert_allclose(result, outputs_of(small, inputs), rtol=1e-5, atol=1e-5 * scale)
        assert np.abs(result - before).max() > 1e-4
        # One row for each sample, all alike: the samples lie where the masks think that they do.
        each = outputs_of(masked, inputs, np.repeat(row, BATCH, 0))
        np.testing.assert_allclose(each, result, rtol=1e-4, atol=1e-5 * scale)
        if number == 0:
            each = masked.predict([*inputs, np.repeat(row, BATCH, 0)], verbose=0)
            np.testing.assert_allclose(each.reshape(result.shape), result, rtol=1e-4, atol=1e-5 * scale)


ONE, BOTH, SEPARATE = {"one": UNITS}, {"one": UNITS}, {"one": UNITS, "two": UNITS}
PRODUCTS = {
    "scores": (lambda a, b: ops.einsum("blc,bmc->blm", a, b), BOTH),
    "outer": (lambda a, b: ops.reshape(ops.einsum("blc,bld->bldc", a, b), (-1, LENGTH, UNITS * UNITS)), {"two": UNITS}),
    "met": (lambda a, b: ops.einsum("blc,blc->blc", a, b), BOTH),
    "ellipsis": (lambda a, b: ops.einsum("...c,...c->...", a, b)[..., None], BOTH),
    "summed": (lambda a, b: ops.einsum("blc,bld->bld", a, b), SEPARATE),
    "no arrow": (lambda a, b: ops.expand_dims(ops.sum(ops.einsum("blc,bmc", a, b), axis=(0, 1)), 0) + a, ONE),
    "constant": (lambda a, b: ops.einsum("blc,cd->bld", a, np.arange(8.0, dtype="float32").reshape(4, 2)), ONE),
    "kernel": (lambda a, b: ops.einsum("blc,cd->bld", a, held(a, UNITS, 3)), {"one": 4, "held_4_3": 3}),
    "kernel in front": (lambda a, b: ops.einsum("cd,blc->bld", held(a, UNITS, 3), a), {"one": 4, "held_4_3": 3}),
    "matmul": (lambda a, b: ops.matmul(ops.matmul(a, ops.transpose(b, (0, 2, 1))), b), {"two": UNITS}),
    "matmul of another rank": (lambda a, b: ops.matmul(a, held(a, UNITS, 3)), {"one": 4, "held_4_3": 3}),
    "matmul with an array": (lambda a, b: a @ np.arange(8.0, dtype="float32").reshape(4, 2), ONE),
    "matmul with a vector": (lambda a, b: ops.matmul(a, held(a, UNITS))[..., None], ONE),
    "dot": (lambda a, b: ops.dot(a, held(a, UNITS, 3)), {"one": 4, "held_4_3": 3}),
    "tensordot": (lambda a, b: ops.tensordot(a, held(a, 3, UNITS), axes=[[2], [1]]), ONE),
    "scale and shift": (lambda a, b: a * held(a, UNITS) + np.ones((1, 1, UNITS), "float32"), ONE),
}
MOVES = {
    "stack": (lambda a, b: ops.sum(ops.stack([a, b], axis=2), axis=2), BOTH),
    "stack at the end": (lambda a, b: ops.reshape(ops.stack([a, b], axis=-1), (-1, LENGTH, 2 * UNITS)), BOTH),
    "unstack": (lambda a, b: ops.unstack(a, LENGTH, 1)[0] * ops.unstack(b, LENGTH, 1)[2], BOTH),
    "split": (lambda a, b: ops.split(a, 2, axis=-1)[0] * ops.split(a, 2, axis=-1)[1], {"one": 2}),
    "moveaxis": (lambda a, b: ops.matmul(ops.moveaxis(a, -1, 1), b), {"two": UNITS}),
    "repeat": (lambda a, b: ops.repeat(a, 2, axis=-1), ONE),
    "repeat of positions": (lambda a, b: ops.repeat(a, 2, axis=1), ONE),
    "tile": (lambda a, b: ops.tile(a, (1, 1, 2)), ONE),
    "roll": (lambda a, b: ops.roll(a, 1, axis=1), ONE),
    "take": (lambda a, b: ops.take(a, np.array([3, 1, 1]), axis=-1), {"one": 2, "one#2": 2}),
    "take of positions": (lambda a, b: ops.take(a, [0, 2], axis=1), ONE),
    "slice": (lambda a, b: ops.slice(a, (0, 0, 1), (BATCH, LENGTH, 2)), {"one": 2, "one#2": 2}),
    "pad": (lambda a, b: ops.pad(a, ((0, 0), (1, 0), (1, 2))), ONE),
    "broadcast_to": (lambda a, b: ops.broadcast_to(a[:, :, None], (BATCH, LENGTH, 2, UNITS)), ONE),
    "logical": (lambda a, b: ops.where(ops.logical_xor(a > 0.5, b > 0.1), a, -b), BOTH),
    "patches": (lambda a, b: ops.image.extract_patches(a[:, :4, None] + ops.zeros((1, 4, 2, 4)), (2, 2)), ONE),
}
STATISTICS = {
    "mean": (lambda a, b: a * ops.mean(a * a, axis=-1, keepdims=True), ONE),
    "mean of all": (lambda a, b: a * ops.mean(a, axis=(1, 2))[:, None, None], ONE),
    "variance": (lambda a, b: (a - ops.mean(a, -1, keepdims=True)) * ops.rsqrt(ops.var(a, -1, keepdims=True) + 1), ONE),
    "deviation": (lambda a, b: a / (1 + ops.std(b, axis=-1, keepdims=True)), SEPARATE),
    "moments": (lambda a, b: a - ops.moments(a, axes=[-1], keepdims=True)[0], ONE),
    "largest": (lambda a, b: a + ops.max(b, axis=-1, keepdims=True), SEPARATE),
    "smallest": (lambda a, b: a + ops.min(b, axis=-1, keepdims=True), SEPARATE),
    "logsumexp": (lambda a, b: a + ops.logsumexp(9 * b, axis=(-1,), keepdims=True), SEPARATE),
    "softmax": (lambda a, b: ops.softmax(9 * b, axis=-1), {"two": UNITS}),
    "norm": (lambda a, b: a / (1 + ops.norm(a, axis=-1, keepdims=True)), ONE),
    "normalize": (lambda a, b: ops.normalize(a, axis=-1), ONE),
    "cumsum": (lambda a, b: ops.cumsum(a, axis=-1), ONE),
    "cumsum of positions": (lambda a, b: ops.cumsum(a, axis=1), ONE),
    "rms": (lambda a, b: ops.rms_normalization(a, held(a, UNITS)), ONE),
    "repeated": (lambda a, b: ops.mean(ops.repeat(a, 2, axis=-1), axis=-1, keepdims=True) * a, ONE),
    "joined": (lambda a, b: ops.mean(ops.concatenate([a, b], axis=-1), axis=-1, keepdims=True) + a, SEPARATE),
    "padded": (lambda a, b: ops.mean(ops.pad(a, ((0, 0), (0, 0), (1, 0))), axis=-1, keepdims=True), ONE),
}
KEPT = {
    "sort": (lambda a, b: ops.sort(a, axis=-1), "put in order"),
    "roll of units": (lambda a, b: ops.roll(a, 1, axis=-1), "its units are shifted"),
    "unstack of units": (lambda a, b: ops.unstack(a, axis=-1)[1], "picked by number"),
    "diagonal": (lambda a, b: ops.einsum("bcc->bc", ops.einsum("blc,bld->bcd", a, b)), "cannot be read"),
    "reflected": (lambda a, b: ops.pad(a, ((0, 0), (0, 0), (1, 1)), mode="reflect"), "repeated"),
    "stretched": (lambda a, b: ops.einsum("blc,blc->bl", a[..., :1], b)[..., None], "stretched"),
    "places": (lambda a, b: ops.cast(ops.top_k(a, 2)[1], "float32"), None),
    "largest place": (lambda a, b: ops.cast(ops.argmax(a, axis=-1), "float32")[..., None], "picked by number"),
}


ROWS = [*PRODUCTS, *MOVES, *STATISTICS]


@pytest.mark.parametrize("name", slow_but(ROWS[::2], ROWS))
def test_what_passes_and_what_ends(name):
    if EARLY_KERAS and name in ("slice", "matmul with a vector", "rms"):
        pytest.skip("this Keras has no such operation, or tells another shape than it computes")
    read, groups = {**PRODUCTS, **MOVES, **STATISTICS}[name]
    check(model_around(read), groups)


@pytest.mark.parametrize("name", KEPT)
def test_what_stays(name):
    read, reason = KEPT[name]
    model = model_around(read)
    graph = unit_groups(model)
    assert graph.sizes.get("one", 0) < UNITS and (reason is None or reason in str(graph.fixed) + str(graph.walls))


def heads_of(x, heads, name, width=4):
    """Channels parted into heads, in front of the positions."""
    h = layers.Dense(heads * width, name=name)(x)
    return ops.transpose(ops.reshape(h, (-1, LENGTH, heads, width)), (0, 2, 1, 3))


def attended(q, k, v, heads, width=4):
    scores = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) / width**0.5, axis=-1)
    return ops.reshape(ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3)), (-1, LENGTH, heads * width))


def net_of(read):
    x = keras.Input((LENGTH, 6), name="x")
    return randomise(keras.Model(x, layers.Dense(2, name="out")(read(x))))


def rotated(h, width=4):
    """Channel i and i + width / 2 turn together, by angles that are those of all heads."""
    one, other = ops.split(h, 2, axis=-1)
    angles = np.arange(LENGTH * width, dtype="float32").reshape(1, 1, LENGTH, width) / 9
    return h * np.cos(angles) + ops.reshape(ops.stack([-other, one], axis=-2), (-1, 3, LENGTH, width)) * np.sin(angles)


def grouped(x):
    k, v = (ops.repeat(heads_of(x, 2, name), 2, axis=1) for name in ("key", "value"))
    return attended(heads_of(x, 4, "query"), k, v, 4)


def fused(x):
    """One kernel makes query, key and value."""
    parts = ops.reshape(layers.Dense(3 * 3 * 4, name="qkv")(x), (-1, LENGTH, 3, 3, 4))
    return attended(*(ops.transpose(own, (0, 2, 1, 3)) for own in ops.unstack(parts, 3, axis=2)), 3)


def one_operation(x):
    q, k, v = (ops.transpose(heads_of(x, 3, name), (0, 2, 1, 3)) for name in ("query", "key", "value"))
    return ops.reshape(ops.dot_product_attention(q, k, v), (-1, LENGTH, 12))


def multi_query(x):
    """All queries read one key and one value."""
    q, (k, v) = heads_of(x, 3, "query"), (layers.Dense(4, name=name)(x) for name in ("key", "value"))
    scores = ops.softmax(ops.einsum("bhqd,bkd->bhqk", q, k), axis=-1)
    return ops.reshape(ops.einsum("bhqk,bkd->bqhd", scores, v), (-1, LENGTH, 12))


def residual(x):
    """A stream between norms written by hand, and a gated feed-forward."""
    h = layers.Dense(6, name="stream")(x)
    normed = h * ops.rsqrt(ops.mean(ops.power(h, 2), axis=-1, keepdims=True) + 1e-3) * held(x, 6)
    gate, up = (layers.Dense(8, name=name)(normed) for name in ("gate", "up"))
    h = h + layers.Dense(6, name="down")(ops.silu(gate) * up)
    mean = ops.mean(h, axis=-1, keepdims=True)
    return (h - mean) / ops.sqrt(ops.mean(ops.square(h - mean), axis=-1, keepdims=True) + 1e-3)


def experts(x, scores_first=True):
    """A router gives every token to the best two of four experts, whose kernels are one weight; tokens are in a row."""
    h = ops.reshape(x, (-1, 6))
    scores = layers.Dense(4, name="router")(h)
    shares, places = ops.top_k(ops.softmax(scores, axis=-1) if scores_first else scores, 2)
    shares = shares / ops.sum(shares, axis=-1, keepdims=True) if scores_first else ops.softmax(shares, axis=-1)
    weights = ops.sum(ops.one_hot(places, 4) * shares[..., None], axis=1)
    made = ops.einsum("tc,ecf->etf", h, held(x, 4, 6, 5))
    mixed = ops.sum(made * ops.transpose(weights)[..., None], axis=0)
    return ops.reshape(mixed, (-1, LENGTH, 5))


ATTENTION = {
    "heads": (lambda x: attended(*(heads_of(x, 3, name) for name in ("query", "key", "value")), 3), {"key": 3}),
    "rotated heads": (
        lambda x: attended(
            rotated(heads_of(x, 3, "query")), rotated(heads_of(x, 3, "key")), heads_of(x, 3, "value"), 3
        ),
        {"key": 3},
    ),
    "grouped queries": (grouped, {"key": 2}),
    "fused": (fused, {"qkv": 3}),
    "one operation": (one_operation, {"query": 3}),
    "multi-query": (multi_query, {"query": 3}),
    "residual": (residual, {"stream": 6, "gate": 8}),
    "experts": (experts, {"router": 4, "held_4_6_5": 5}),
    "experts by their scores": (lambda x: experts(x, scores_first=False), {"router": 4, "held_4_6_5": 5}),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_and_experts_written_by_hand(name):
    read, groups = ATTENTION[name]
    check(net_of(read), groups)


def test_weights_alone_take_no_mask():
    """There are no samples that a mask could have a row for."""
    model = model_around(lambda a, b: a + ops.matmul(held(a, 3, UNITS), held(a, UNITS, UNITS))[0:1, :])
    assert unit_groups(model).fixed["held_3_4"] == (4, "matmul: it sums over them where there is no batch axis")
    check(model, ONE)


def test_a_mean_takes_fractions():
    """Half a unit counts half: the mean of the weights 1, 1/2, 0 and 1."""
    x = keras.Input((3,), name="x")
    h = layers.Dense(UNITS, "sigmoid", name="one")(x)
    model = randomise(keras.Model(x, layers.Dense(2, name="out")(ops.mean(h, axis=-1, keepdims=True))))
    inputs, row = np.ones((2, 3), "float32"), np.array([[1.0, 0.5, 0.0, 1.0]], "float32")
    numbers = np.asarray(model.get_layer("one")(inputs), "float64")
    expected = np.asarray(model.get_layer("out")((numbers @ row[0] / row.sum())[:, None]))
    np.testing.assert_allclose(tfprune.with_on_nodes(model)([inputs, row]), expected, rtol=1e-5)


@st.composite
def equations(draw):
    """An equation of two operands over b (samples), l and the units c and d, each letter at most once in an operand."""
    first = draw(st.permutations(["l", "c"]))
    second = draw(st.sampled_from([["d"], ["l", "d"], ["c"], ["l", "c"], ["c", "d"]]).flatmap(st.permutations))
    left = draw(st.sampled_from(sorted({*first, *second}))) if draw(st.booleans()) else ""
    target = draw(st.permutations(sorted({*first, *second} - {left})))
    return f"b{''.join(first)},b{''.join(second)}->b{''.join(target)}"


@settings(max_examples=15)
@given(equation=equations())
def test_any_equation_of_two(equation):
    lengths = {"l": LENGTH, "c": UNITS, "d": 3}
    parts, target = letters_of(equation, [len(part) for part in equation.split("->")[0].split(",")])
    x = keras.Input((LENGTH, 3), name="x")
    given = []
    for number, part in enumerate(parts):
        units = [letter for letter in part if letter in "cd"]
        h = layers.Dense(int(np.prod([lengths[own] for own in units])), "sigmoid", name=f"made_{number}")(x)
        if "l" not in part:
            h = ops.mean(h, axis=1)
        order = ["b", *(["l"] if "l" in part else []), *units]
        if len(units) > 1:
            h = ops.mean(layers.EinsumDense("bx,xcd->bcd", output_shape=(UNITS, 3), name="both")(h)[:, None], axis=1)
        given.append(ops.transpose(h, [order.index(letter) for letter in part]))
    result = ops.einsum(equation, *given)
    last = target.index("d" if "d" in target else "c" if "c" in target else "l")
    result = ops.moveaxis(result, last, -1)
    model = randomise(keras.Model(x, layers.Dense(2, name="out")(result)))
    graph = unit_groups(model)
    assert not graph.walls
    check(model, graph.sizes)


def test_letters():
    assert letters_of("...ij, ...jk -> ...ik", [4, 3]) == (["ABij", "Bjk"], "ABik")
    assert letters_of("ba", [2]) == (["ba"], "ab")
    with pytest.raises(ValueError, match="is for 2 operands, received 1"):
        letters_of("ij,jk->ik", [2])
    with pytest.raises(ValueError, match="does not fit operands of the ranks"):
        letters_of("ij,jk->ik", [2, 3])
    x = keras.Input((3, 4), batch_size=2)
    product = ops.matmul(x, np.ones(4, "float32"))._keras_history.operation
    assert product_letters(product, [3, 1]) == (["Aik", "k"], "Ai")


def test_where_the_samples_lie():
    x = keras.Input((None, 4), name="x")
    cases = [
        (ops.transpose(x, (1, 0, 2)), Batch(1)),
        (ops.swapaxes(x, 0, 2), Batch(2)),
        (ops.moveaxis(x, 0, -1), Batch(2)),
        (ops.reshape(x, (-1, 4)), Batch(0, True)),
        (ops.expand_dims(x, 0), Batch(1)),
        (ops.stack([x, x]), Batch(1)),
        (ops.transpose(x, (1, 0, 2))[0], Batch(0)),
        (x[0], None),
        (ops.mean(x, axis=0), None),
        (ops.sum(ops.transpose(x, (1, 0, 2)), axis=0), Batch(0)),
        (ops.einsum("bld,dc->lbc", x, np.ones((4, 2), "float32")), Batch(1)),
        (ops.repeat(x, 2, axis=0), Batch(0, True)),
        (ops.tile(x, (2, 1, 1)), None),
        (held(x, 4, 3), None),
        (x + held(x, 4), Batch(0)),
        (ops.matmul(held(x, 3, 5), held(x, 5, 2)), None),
    ]
    for tensor, expected in cases:
        assert batch_of(tensor, {}) == expected, tensor._keras_history.operation.name


def test_operations_of_products():
    """A multiplication and an addition for each combination of letters, also behind a cut."""
    x = keras.Input((LENGTH, 3), batch_size=1, name="x")
    h = layers.Dense(UNITS, use_bias=False, name="one")(x)
    model = keras.Model(x, ops.einsum("blc,cd->bld", h, np.ones((UNITS, 7), "float32")))
    assert tfprune.graph.count_flops(unit_groups(model)) == 2 * LENGTH * (3 * UNITS + UNITS * 7)
