"""One step of the ordered neurons LSTM: its master gates, and the chunks of units that they open and close."""

from __future__ import annotations

import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np
from keras import activations, constraints, initializers, layers, ops, random, regularizers
from keras.src import backend
from keras.src.layers.rnn.dropout_rnn_cell import DropoutRNNCell

from tfprune.layers.masks import package

MASTER_INPUTS = ("paper", "reverse")


@package
class ONLSTMCell(layers.Layer, DropoutRNNCell):
    """The cell of `ONLSTM`: one step. Arguments, equations and the order of the weights' columns are described there.

    Call arguments:
        inputs: shape `(batch, features)`.
        states: `[h, c]`, each of shape `(batch, units)`.
        training: whether dropout and DropConnect act.
        return_master_gates: whether to give out the master gates of all levels, input and forget gate, in place of h;
            shape `(batch, 2, num_levels)`.

    Raises:
        TypeError: if a size or level is no whole number.
        ValueError: if `chunk_size` does not divide `units`, a rate lies outside `[0, 1)`, `master_input` is unknown, or
            the levels do not fit.

    Example:
        >>> cell = ONLSTMCell(6, chunk_size=2)
        >>> h, (h_again, c) = cell(np.ones((4, 3), "float32"), cell.get_initial_state(4))
        >>> h.shape, cell.num_levels, tuple(cell.kernel.shape)
        (TensorShape([4, 6]), 3, (3, 30))

    Reference: Y. Shen, S. Tan, A. Sordoni, A. Courville (2019), "Ordered neurons: integrating tree structures into
    recurrent neural networks", equations 1 to 13.
    """

    def __init__(
        self,
        units: int,
        chunk_size: int,
        dropconnect: float = 0.0,
        master_input: str = "paper",
        *,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        num_levels: int | None = None,
        levels: Iterable[int] | None = None,
        seed: int | None = None,
        **kwargs,
    ):
        _check_sizes(units, chunk_size)
        _check_rates(dropconnect=dropconnect, dropout=dropout, recurrent_dropout=recurrent_dropout)
        if master_input not in MASTER_INPUTS:
            raise ValueError(f"master_input: expected 'paper' or 'reverse', received {master_input!r}.")
        super().__init__(**kwargs)
        self.units = units
        self.chunk_size = chunk_size
        self.dropconnect = dropconnect
        self.master_input = master_input
        self.num_levels, self.levels = _checked_levels(units // chunk_size, num_levels, levels)
        self.activation = activations.get(activation)
        self.recurrent_activation = activations.get(recurrent_activation)
        self.use_bias = use_bias
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.recurrent_initializer = initializers.get(recurrent_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.recurrent_regularizer = regularizers.get(recurrent_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.recurrent_constraint = constraints.get(recurrent_constraint)
        self.bias_constraint = constraints.get(bias_constraint)
        self.dropout = dropout
        self.recurrent_dropout = recurrent_dropout
        self.seed = seed
        self.seed_generator = random.SeedGenerator(seed=seed)
        self.state_size = [units, units]
        self.output_size = units
        self._connected_kernel = None

    def build(self, input_shape):
        columns = 2 * self.num_levels + 4 * self.units
        self.kernel = self._add("kernel", (input_shape[-1], columns))
        self.recurrent_kernel = self._add("recurrent_kernel", (self.units, columns))
        self.bias = self._add("bias", (columns,)) if self.use_bias else None

    def _add(self, name: str, shape: tuple[int, ...]) -> Any:
        kind = name.removesuffix("_kernel")
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=getattr(self, f"{kind}_initializer"),
            regularizer=getattr(self, f"{kind}_regularizer"),
            constraint=getattr(self, f"{kind}_constraint"),
        )

    def call(self, inputs, states, training=False, return_master_gates=False):
        h, c = states
        read = self._read(inputs, h, training)
        ends = np.cumsum([self.num_levels, self.num_levels, self.units, self.units]).tolist()
        *masters, output, candidate, gates = ops.split(read, ends, axis=-1)
        # Not by ops.softmax, which warns of a single level.
        shares = [backend.nn.softmax(master, axis=-1) for master in masters]
        # One number for every unit: sums of shares are cheaper taken once more than spread over a chunk.
        input_level, forget_level = self._master_gates(shares, np.repeat(self.levels, self.chunk_size))
        i, f = ops.split(self.recurrent_activation(gates), 2, axis=-1)
        overlap = forget_level * input_level
        forget = f * overlap + (forget_level - overlap)
        enter = i * overlap + (input_level - overlap)
        c = forget * c + enter * self.activation(candidate)
        h = self.recurrent_activation(output) * self.activation(c)
        if return_master_gates:
            return ops.stack(self._master_gates(shares, range(self.num_levels)), axis=1), [h, c]
        return h, [h, c]

    def _read(self, inputs: Any, h: Any, training: Any) -> Any:
        """Returns what all gates read, before any activation, `(batch, 2 num_levels + 4 units)`."""
        recurrent_kernel = self.recurrent_kernel
        if training:
            if self.dropout > 0:
                inputs = inputs * self.get_dropout_mask(inputs)
            if self.recurrent_dropout > 0:
                h = h * self.get_recurrent_dropout_mask(h)
            if self.dropconnect > 0:
                recurrent_kernel = self.get_connected_kernel()
        read = ops.matmul(inputs, self.kernel) + ops.matmul(h, recurrent_kernel)
        return read if self.bias is None else read + self.bias

    def level_sums(self, levels: Iterable[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Returns what sums the shares of the levels up to the master gates, as matrices of zeros and ones.

        What comes behind a level is summed, and not taken from one: so the paper's input gate is exactly zero at the
        last level, and not only up to rounding.

        Args:
            levels: the levels whose gates are wanted; None for those of the chunks.

        Returns:
            For the master input gate and the master forget gate, each `(num_levels, levels)`.
        """
        level, own = np.arange(self.num_levels)[:, None], np.asarray(self.levels if levels is None else levels)
        behind = level > own if self.master_input == "paper" else level >= own
        return behind.astype("float32"), (level <= own).astype("float32")

    def _master_gates(self, shares: list[Any], levels: Iterable[int]) -> list[Any]:
        """Returns the master input gate and the master forget gate at some levels, each `(batch, levels)`."""
        pairs = zip(shares, self.level_sums(levels), strict=True)
        return [ops.matmul(own, ops.convert_to_tensor(sums, dtype=own.dtype)) for own, sums in pairs]

    def get_connected_kernel(self) -> Any:
        """Returns the recurrent kernel with the connections that this batch drops at zero, the others scaled up."""
        if self._connected_kernel is None:
            kernel = ops.cast(self.recurrent_kernel, self.compute_dtype)
            kept = random.dropout(ops.ones_like(kernel), self.dropconnect, seed=self.seed_generator)
            self._connected_kernel = kernel * kept
        return self._connected_kernel

    def get_dropout_mask(self, step_input: Any) -> Any:
        """Returns the mask of the inputs; as Keras asks for it before the first step, connections are drawn here too.

        Drawn within the loop over the steps they would be others at every step.
        """
        if self.dropconnect > 0:
            self.get_connected_kernel()
        return super().get_dropout_mask(step_input)

    def reset_dropout_mask(self) -> None:
        """Forgets what was drawn for the batch."""
        self._connected_kernel = None
        super().reset_dropout_mask()

    def get_initial_state(self, batch_size: Any = None) -> list[Any]:
        """Returns states of zeros."""
        return [ops.zeros((batch_size, size), dtype=self.compute_dtype) for size in self.state_size]

    def get_config(self):
        names = ("units", "chunk_size", "dropconnect", "master_input", "use_bias", "dropout", "recurrent_dropout")
        config = {name: getattr(self, name) for name in (*names, "num_levels", "seed")}
        config["levels"] = list(self.levels)
        for name in ("activation", "recurrent_activation"):
            config[name] = activations.serialize(getattr(self, name))
        for kind in ("kernel", "recurrent", "bias"):
            for suffix, family in _FAMILIES.items():
                config[f"{kind}_{suffix}"] = family.serialize(getattr(self, f"{kind}_{suffix}"))
        return {**super().get_config(), **config}


_FAMILIES = {"initializer": initializers, "regularizer": regularizers, "constraint": constraints}


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _check_sizes(units: Any, chunk_size: Any) -> None:
    for name, size in (("units", units), ("chunk_size", chunk_size)):
        if not _is_whole(size):
            raise TypeError(f"{name}: expected a whole number, received {size!r}.")
        if size < 1:
            raise ValueError(f"{name}: expected a whole number of at least 1, received {size}.")
    if units % chunk_size:
        divisors = [size for size in range(1, units + 1) if units % size == 0]
        near = sorted(divisors, key=lambda size: abs(size - chunk_size))[:2]
        raise ValueError(
            f"chunk_size: {chunk_size} does not divide the {units} units, and all chunks are equally large. Near it "
            f"{' and '.join(map(str, sorted(near)))} do."
        )


def _check_rates(**rates: Any) -> None:
    for name, rate in rates.items():
        if isinstance(rate, bool) or not isinstance(rate, numbers.Real) or not 0 <= rate < 1:
            raise ValueError(f"{name}: expected a share from 0 to below 1, received {rate!r}.")


def _checked_levels(num_chunks: int, num_levels: Any, levels: Any) -> tuple[int, tuple[int, ...]]:
    """Returns how many levels there are, and that of every chunk."""
    if num_levels is None:
        num_levels = num_chunks
    levels = tuple(range(num_chunks)) if levels is None else tuple(levels)
    if not _is_whole(num_levels) or not all(map(_is_whole, levels)):
        raise TypeError(f"num_levels, levels: expected whole numbers, received {num_levels!r} and {list(levels)!r}.")
    rises = all(one < other for one, other in zip(levels, levels[1:], strict=False))
    if len(levels) != num_chunks or not rises or levels[0] < 0 or levels[-1] >= num_levels:
        raise ValueError(
            f"levels: expected one level for each of the {num_chunks} chunks, rising from 0 or more to less than "
            f"num_levels = {num_levels}; received {list(levels)}."
        )
    return int(num_levels), tuple(int(level) for level in levels)
