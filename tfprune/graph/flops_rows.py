"""Rows of the table of floating-point operations.

The convention is that of TensorFlow's profiler: a multiply-add is two operations, an addition, a multiplication or a
comparison is one, a softmax five per number; moving, padding and looking up numbers is free, and so is an activation
function.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from keras import layers

from tfprune.graph.equations import product_letters
from tfprune.graph.flops_table import Call, flops_row_of, register_flops
from tfprune.graph.rows_ops import operations
from tfprune.graph.rows_shape import layer_classes
from tfprune.layers import RECURRENT, ONLSTMCell
from tfprune.layers.opened import HeldWeight, SizedArray, WithMask

_SOFTMAX = 5
"""Operations per number of a softmax: two to shift, one to exponentiate, two to normalize."""

_FREE = layer_classes(
    *["InputLayer", "Flatten", "Reshape", "Permute", "RepeatVector", "Concatenate", "Masking", "Embedding"],
    *[f"{kind}{rank}D" for kind in ("ZeroPadding", "Cropping", "UpSampling") for rank in (1, 2, 3)],
    *["CenterCrop", "Identity", "ActivityRegularization", "Activation", "ReLU", "LeakyReLU", "ELU"],
    *["Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"],
    *["GaussianDropout", "GaussianNoise", "AlphaDropout"],
)
_FREE_OPERATIONS = operations(
    *["Reshape", "Ravel", "Transpose", "Swapaxes", "Moveaxis", "ExpandDims", "Squeeze", "Flip", "Split", "GetItem"],
    *["Concatenate", "Copy", "Cast", "StopGradient", "Where", "Clip", "Relu", "Relu6", "Sigmoid", "Softplus"],
    *["Softsign", "Silu", "LogSigmoid", "LeakyRelu", "HardSigmoid", "HardSilu", "Elu", "Selu", "Gelu", "Celu"],
    *[
        "Stack",
        "Unstack",
        "Hstack",
        "Vstack",
        "Append",
        "Repeat",
        "Tile",
        "Roll",
        "Take",
        "Pad",
        "BroadcastTo",
        "Slice",
    ],
    *["OneHot", "ZerosLike", "OnesLike", "FullLike"],
    *["Tanh", "TanhShrink", "HardTanh", "HardShrink", "SoftShrink", "Threshold", "SparsePlus", "SparseSigmoid"],
)


@register_flops(*_FREE, *_FREE_OPERATIONS, HeldWeight, SizedArray, WithMask)
def free(call: Call) -> float:
    """Moves numbers, or applies an activation function."""
    return 0


def one_per_number(call: Call) -> float:
    """What is counted for a class without a row."""
    return sum(prod(shape) for shape in call.outputs)


def _bias(call: Call, variable) -> int:
    return prod(call.outputs[0]) if variable is not None else 0


@register_flops(layers.Dense)
def dense(call: Call) -> float:
    """A sum over the units that enter for each number that leaves."""
    layer = call.operation
    rows = call.weight(layer.kernel)[0]
    return 2 * prod(call.outputs[0]) * rows + _bias(call, layer.bias) + _activation(call, call.outputs[0])


def _activation(call: Call, shape) -> int:
    name = getattr(getattr(call.operation, "activation", None), "__name__", "")
    return _SOFTMAX * prod(shape) if name == "softmax" else 0


@register_flops(layers.EinsumDense)
def einsum_dense(call: Call) -> float:
    """Every combination of letters is one multiply-add; letters of both operands count once."""
    layer = call.operation
    source, letters = layer.equation.replace(" ", "").split("->")[0].split(",")
    kernel = call.weight(layer.kernel)
    shared = prod(length for letter, length in zip(letters, kernel, strict=True) if letter in source)
    return 2 * prod(kernel) * prod(call.inputs[0]) // shared + _bias(call, layer.bias)


def _positions(layer, shape) -> int:
    """Returns the number of spatial positions."""
    return prod(shape[1:-1] if layer.data_format == "channels_last" else shape[2:])


@register_flops(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def convolution(call: Call) -> float:
    """The whole kernel at every position that leaves."""
    layer = call.operation
    return 2 * _positions(layer, call.outputs[0]) * prod(call.weight(layer.kernel)) + _bias(call, layer.bias)


@register_flops(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def transposed_convolution(call: Call) -> float:
    """Every position that enters meets the whole kernel."""
    layer = call.operation
    return 2 * _positions(layer, call.inputs[0]) * prod(call.weight(layer.kernel)) + _bias(call, layer.bias)


@register_flops(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def depthwise_convolution(call: Call) -> float:
    """The same: its kernel has one slice per channel."""
    return convolution(call)


@register_flops(layers.SeparableConv1D, layers.SeparableConv2D)
def separable_convolution(call: Call) -> float:
    """Both kernels at every position that leaves."""
    layer = call.operation
    kernels = prod(call.weight(layer.depthwise_kernel)) + prod(call.weight(layer.pointwise_kernel))
    return 2 * _positions(layer, call.outputs[0]) * kernels + _bias(call, layer.bias)


@register_flops(*layer_classes("ReversibleEmbedding"))
def reversible_embedding(call: Call) -> float:
    """Looking up is free; the reverse is a product with the table."""
    entered, left = call.inputs[0], call.outputs[0]
    return 2 * prod(entered) * left[-1] if len(entered) == len(left) else 0


# Numbers per unit and time step that a cell adds and multiplies besides its kernels and biases.
_CELL_ARITHMETIC = {layers.SimpleRNNCell: 0, layers.GRUCell: 5, layers.LSTMCell: 4, ONLSTMCell: 11}


@register_flops(*RECURRENT)
def recurrent(call: Call) -> float:
    """Both kernels at every time step."""
    if type(call.operation.cell) not in _CELL_ARITHMETIC:
        return one_per_number(call)
    return _one_direction(call, call.operation)


def _one_direction(call: Call, layer) -> int:
    cell = layer.cell
    kernel, recurrent_kernel = call.weight(cell.kernel), call.weight(cell.recurrent_kernel)
    bias = prod(call.weight(cell.bias)) if cell.bias is not None else 0
    # What the two kernels give is added up.
    step = 2 * (prod(kernel) + prod(recurrent_kernel)) + kernel[1] + bias
    step += _CELL_ARITHMETIC[type(cell)] * recurrent_kernel[0]
    if type(cell) is ONLSTMCell:
        # Two softmaxes over the levels, and their sums as products with zeros and ones.
        step += 2 * cell.num_levels * (_SOFTMAX + 2 * recurrent_kernel[0])
    return call.inputs[0][1] * step


@register_flops(layers.Bidirectional)
def bidirectional(call: Call) -> float:
    """Both directions, and their merging."""
    layer = call.operation
    cells = [getattr(direction, "cell", None) for direction in (layer.forward_layer, layer.backward_layer)]
    if any(type(cell) not in _CELL_ARITHMETIC for cell in cells):
        return one_per_number(call)
    merged = prod(call.outputs[0]) if layer.merge_mode in ("sum", "ave", "mul") else 0
    return _one_direction(call, layer.forward_layer) + _one_direction(call, layer.backward_layer) + merged


@register_flops(layers.TimeDistributed)
def time_distributed(call: Call) -> float:
    """The inner layer at every time step."""
    inner = call.operation.layer
    row = flops_row_of(inner) or one_per_number
    without_time = [tuple((shape[0], *shape[2:]) for shape in shapes) for shapes in (call.inputs, call.outputs)]
    return call.inputs[0][1] * row(replace(call, operation=inner, inputs=without_time[0], outputs=without_time[1]))


@register_flops(*layer_classes("MultiHeadAttention", "GroupQueryAttention"))
def multi_head_attention(call: Call) -> float:
    """Projections, the scores of every query and key, their softmax, the weighted sums of the values."""
    layer = call.operation
    query, value = call.argument("query", 0), call.argument("value", 1)
    key = call.argument("key", 2) or value
    num_queries, num_keys = prod(query[1:-1]), prod(value[1:-1])
    total = 0
    for tokens, projection in (
        (num_queries, layer._query_dense),
        (prod(key[1:-1]), layer._key_dense),
        (num_keys, layer._value_dense),
        (num_queries, layer._output_dense),
        (num_queries, getattr(layer, "_gate_dense", None)),
    ):
        if projection is not None:
            total += tokens * (2 * prod(call.weight(projection.kernel)) + _length(call.weight(projection.bias)))
    _, heads, key_width = call.weight(layer._query_dense.kernel)[-3:]
    value_width = call.weight(layer._value_dense.kernel)[-1]
    scores = heads * num_queries * num_keys
    return total + scores * (2 * key_width + 2 * value_width + _SOFTMAX) + num_queries * heads * key_width


def _length(shape) -> int:
    return prod(shape) if shape else 0


@register_flops(layers.Attention, layers.AdditiveAttention)
def attention(call: Call) -> float:
    """Scores, their softmax, weighted sums; additive scores need an addition, a product and a sum per number."""
    query, value = call.inputs[0], call.inputs[1]
    scores = prod(query[:-1]) * value[-2]
    per_score = 3 * query[-1] if isinstance(call.operation, layers.AdditiveAttention) else 2 * query[-1]
    return scores * (per_score + _SOFTMAX + 2 * value[-1])


@register_flops(layers.Dot)
def dot(call: Call) -> float:
    """A sum over the common axis for each number that leaves."""
    axes = call.operation.axes
    axis = axes if isinstance(axes, int) else axes[0]
    return 2 * prod(call.outputs[0]) * call.inputs[0][axis]


@register_flops(*operations("Einsum", "Matmul", "Dot", "Inner", "Tensordot"))
def product(call: Call) -> float:
    """Every combination of letters is a multiplication for each operand after the first, and an addition if it sums."""
    arguments = [*call.node.arguments.args, *call.node.arguments.kwargs.values()]
    shapes, entering = [], iter(call.inputs)
    for value in arguments:
        if any(value is tensor for tensor in call.node.input_tensors):
            shapes.append((next(entering), True))
        elif hasattr(value, "shape"):
            shapes.append((tuple(value.shape), False))
    found = product_letters(call.operation, [len(shape) for shape, _ in shapes])
    if found is None:
        return one_per_number(call)
    lengths: dict[str, int] = {}
    # What a constant is cut to, the tensors say.
    for (shape, _), part in sorted(zip(shapes, found[0], strict=True), key=lambda own: own[0][1]):
        lengths.update(
            {letter: own for letter, own in zip(part, shape, strict=True) if own != 1 or letter not in lengths}
        )
    sums = any(letter not in found[1] for letter in lengths)
    return (len(shapes) - 1 + sums) * prod(lengths.values())


@register_flops(*operations("DotProductAttention"))
def dot_product_attention(call: Call) -> float:
    """Scores of every query and key, their softmax, the weighted sums of the values."""
    (batch, queries, heads, width), key, value = call.inputs[:3]
    return batch * heads * queries * key[1] * (2 * width + 2 * value[3] + _SOFTMAX)


@register_flops(layers.Add, layers.Subtract, layers.Multiply, layers.Maximum, layers.Minimum)
def merge(call: Call) -> float:
    """One operation for each tensor after the first."""
    return (len(call.inputs) - 1) * prod(call.outputs[0])


@register_flops(layers.Average)
def average(call: Call) -> float:
    """A sum and a division."""
    return len(call.inputs) * prod(call.outputs[0])


@register_flops(layers.BatchNormalization)
def batch_normalization(call: Call) -> float:
    """One factor and one summand per number; finding them takes four operations per channel."""
    channels = call.outputs[0][call.operation.axis]
    return 2 * prod(call.outputs[0]) + 4 * channels


@register_flops(layers.Rescaling, layers.Normalization)
def affine_per_number(call: Call) -> float:
    """A factor and a summand per number."""
    return 2 * prod(call.outputs[0])


@register_flops(*layer_classes("LayerNormalization", "GroupNormalization"), *operations("LayerNorm"))
def centred_norm(call: Call) -> float:
    """Per number: the mean, the deviation squared and summed, the shift and scale, the gain and bias."""
    return 8 * prod(call.outputs[0])


@register_flops(*layer_classes("RMSNormalization", "UnitNormalization"), *operations("RMSNorm", "Normalize"))
def norm(call: Call) -> float:
    """Per number: a square, a sum, one or two factors."""
    scaled = getattr(call.operation, "scale", None) is not None or len(call.inputs) > 1
    return (4 if scaled else 3) * prod(call.outputs[0])


@register_flops(layers.PReLU)
def prelu(call: Call) -> float:
    """A comparison, a product and a sum per number."""
    return 3 * prod(call.outputs[0])


@register_flops(layers.Softmax, *operations("Softmax", "LogSoftmax"))
def softmax(call: Call) -> float:
    """Shift, exponential, sum, division."""
    return _SOFTMAX * prod(call.outputs[0])


@register_flops(*layer_classes(*[f"{kind}Pooling{rank}D" for kind in ("Max", "Average") for rank in (1, 2, 3)]))
def pooling(call: Call) -> float:
    """As many operations as the window has places, for each number that leaves."""
    return prod(call.operation.pool_size) * prod(call.outputs[0])


@register_flops(
    *layer_classes(*[f"Global{kind}Pooling{rank}D" for kind in ("Max", "Average") for rank in (1, 2, 3)]),
    *layer_classes(*[f"Adaptive{kind}Pooling{rank}D" for kind in ("Max", "Average") for rank in (1, 2, 3)]),
    *operations("Mean", "Sum", "Max", "Min", "Amax", "Amin", "Prod", "Any", "All"),
)
def reduction(call: Call) -> float:
    """One operation for each number that enters."""
    return prod(call.inputs[0])


@register_flops(*operations("Var", "Std", "Logsumexp", "Moments"))
def reduction_in_two_passes(call: Call) -> float:
    """Two reductions, and what is done to each number between them."""
    return 4 * prod(call.inputs[0])
