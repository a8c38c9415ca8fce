"""The ordered neurons LSTM as a layer, and its master gates as a measure of syntactic distance."""

from __future__ import annotations

from typing import Any, NamedTuple

from keras import layers, ops, regularizers

from tfprune.layers.masks import package
from tfprune.layers.on_lstm_cell import ONLSTMCell
from tfprune.layers.steps import initial_states, recurrence


class MasterGates(NamedTuple):
    """The master gates of an `ONLSTM` at every step.

    Attributes:
        forget: the master forget gate, shape `(batch, steps, num_levels)`.
        input: the master input gate, of the same shape.
    """

    forget: Any
    input: Any

    @property
    def forget_distance(self) -> Any:
        """How much each step erases: one minus the mean of the forget gate, `(batch, steps)`, from 0 to 1.

        The tree of a sentence is read from it: the larger the distance before a word, the higher up lies the border.
        """
        return 1.0 - ops.mean(self.forget, axis=-1)

    @property
    def input_distance(self) -> Any:
        """How much each step writes: the mean of the input gate, `(batch, steps)`, from 0 to 1."""
        return ops.mean(self.input, axis=-1)


@package
class ONLSTM(layers.RNN):
    r"""LSTM whose units stand in an order: what lives long lies behind what is soon forgotten.

    Use it for sequences with a hierarchy, such as sentences; its master gates tell where parts begin and end. The units
    are chunks of `chunk_size`, and chunk k has level k. With the softmax p over the levels, and x and h read by all:

        master forget gate  f~_k = sum of p_f over levels up to k,
        master input gate   i~_k = sum of p_i over levels above k ("paper"), or from k on ("reverse"),
        w = f~ i~,  f^ = f w + (f~ - w),  i^ = i w + (i~ - w),
        c = f^ c_before + i^ tanh(candidate),  h = o tanh(c),

    where a chunk's master gates count for all its units. In the paper's form nothing ever enters the last chunk: its
    input gate is exactly zero, so that with an initial state of zeros its units stay zero, and `remove_dead` takes it
    out. In the reverse form, as in a widespread version for Keras, the first input gate is one and the last one is
    above zero.

    Removal is by chunks: a unit of `unit_groups` is one chunk, in the group `name/chunks`. A chunk that goes takes its
    units along, and keeps its level: the master gates are softmaxes over all `num_levels` of the hierarchy, gone chunks
    or not, so that those that stay compute what they did. Two columns are all that is left of it. Chunks that `widen`
    adds share levels that are there, for the same reason.

    DropConnect drops single recurrent weights, the same ones at all steps of a batch, and scales those that stay by
    `1 / (1 - dropconnect)`, so that the kernel is used as it is outside training. The authors' program does not scale
    in training, and multiplies the kernel by `1 - dropconnect` outside: its kernel, multiplied so, is the one here.

    The columns of `kernel`, `recurrent_kernel` and `bias` are those of i~ and f~ (`num_levels` each), output,
    candidate, i and f (`units` each, chunk by chunk).

    Args:
        units: the number of units.
        chunk_size: how many units share one entry of the master gates; it divides `units`.
        dropconnect: share of the recurrent weights that are dropped in training, from 0 to below 1.
        master_input: "paper" or "reverse", as above.
        return_sequences: whether to return every h, or the last one.
        return_state: whether to return the last h and c, too.
        go_backwards: whether to go through the steps from the last one to the first.
        stateful: whether a batch starts from the states at which the one before ended.
        unroll: whether to unroll the loop over the steps.
        zero_output_for_mask: whether the output of a masked step is zero, and not the last one.
        activity_regularizer: a penalty on the output.
        **kwargs: as for `keras.layers.LSTM`: `activation`, `recurrent_activation`, `use_bias`, initializers,
            regularizers and constraints of `kernel_`, `recurrent_` and `bias_`, `dropout` on the inputs,
            `recurrent_dropout` on h (both as one mask for all gates), `seed`; for a layer of which chunks were removed
            or added `num_levels` and `levels`, the level of every chunk; and what any layer takes.

    Call arguments:
        sequences: shape `(batch, steps, features)`.
        mask: shape `(batch, steps)` of bool; at a masked step the states stay what they were.
        training: whether dropout and DropConnect act.
        initial_state: `[h, c]`, each of shape `(batch, units)`; zeros if none are given.

    Raises:
        TypeError: if a size or level is no whole number.
        ValueError: if `chunk_size` does not divide `units`, a rate lies outside `[0, 1)`, `master_input` is unknown, or
            the levels do not fit.

    Example:
        >>> layer = ONLSTM(6, chunk_size=2, kernel_initializer="zeros")
        >>> x = np.ones((4, 7, 3), "float32")
        >>> layer(x).shape
        TensorShape([4, 6])

        With weights of zero all levels have the same share, a third:

        >>> gates = layer.master_gates(x)
        >>> print(gates.forget[0, 0].numpy().round(3), gates.input[0, 0].numpy().round(3))
        [0.333 0.667 1.   ] [0.667 0.333 0.   ]
        >>> print(f"{gates.forget_distance[0, 0]:.3f}")
        0.333

    Reference: Y. Shen, S. Tan, A. Sordoni, A. Courville (2019), "Ordered neurons: integrating tree structures into
    recurrent neural networks", equations 1 to 13; DropConnect on recurrent weights by S. Merity, N. S. Keskar,
    R. Socher (2017), "Regularizing and optimizing LSTM language models", section 2.
    """

    def __init__(
        self,
        units: int,
        chunk_size: int,
        dropconnect: float = 0.0,
        master_input: str = "paper",
        *,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        zero_output_for_mask: bool = False,
        activity_regularizer: Any = None,
        **kwargs,
    ):
        # Both are the layer's and the cell's.
        shared = {name: kwargs[name] for name in ("dtype", "trainable") if name in kwargs}
        own = {"name": kwargs.pop("name")} if "name" in kwargs else {}
        cell = ONLSTMCell(units, chunk_size, dropconnect, master_input, name="on_lstm_cell", **kwargs)
        super().__init__(
            cell,
            return_sequences=return_sequences,
            return_state=return_state,
            go_backwards=go_backwards,
            stateful=stateful,
            unroll=unroll,
            zero_output_for_mask=zero_output_for_mask,
            activity_regularizer=activity_regularizer,
            **own,
            **shared,
        )
        self.input_spec = layers.InputSpec(ndim=3)

    @property
    def units(self) -> int:
        """The number of units."""
        return self.cell.units

    @property
    def chunk_size(self) -> int:
        """The number of units in a chunk."""
        return self.cell.chunk_size

    @property
    def levels(self) -> tuple[int, ...]:
        """The level of every chunk."""
        return self.cell.levels

    @property
    def num_levels(self) -> int:
        """The number of entries in a master gate: the chunks that the layer was made with."""
        return self.cell.num_levels

    def master_gates(self, sequences: Any, initial_state: Any = None, mask: Any = None) -> MasterGates:
        """Runs through sequences and returns both master gates at every step.

        Args:
            sequences: what the layer reads, shape `(batch, steps, features)`. Within a model that is what the layer
                before it gives: `keras.Model(model.inputs, model.get_layer("embedding").output)(x)`.
            initial_state: as in the layer's call.
            mask: as in the layer's call; where a step is masked, the gates of the last one are given again.

        Returns:
            The gates, in the order in which the layer goes through the steps. Those of all `num_levels` levels, of
            removed chunks too, as the distances count all.

        Raises:
            ValueError: if the sequences have another rank or width.
        """
        sequences = ops.convert_to_tensor(sequences, dtype=self.compute_dtype)
        if not self.built:
            self.build(tuple(sequences.shape))
        width = self.cell.kernel.shape[0]
        if len(sequences.shape) != 3 or sequences.shape[-1] != width:
            raise ValueError(
                f"sequences: {self.name!r} expects shape (batch, steps, {width}), received {tuple(sequences.shape)}."
            )

        def step(inputs: Any, states: list[Any]) -> tuple[Any, Any]:
            return self.cell(inputs, states, training=False, return_master_gates=True)

        states = initial_states(self, sequences, initial_state)
        _, gates, _ = recurrence(self, sequences, states, mask, step, return_all_outputs=True)
        return MasterGates(forget=gates[:, :, 1], input=gates[:, :, 0])

    def get_config(self):
        whole, cell = super().get_config(), self.cell.get_config()
        del whole["cell"]
        whole["activity_regularizer"] = regularizers.serialize(self.activity_regularizer)
        return {**cell, **whole}

    @classmethod
    def from_config(cls, config):
        return cls(**config)
