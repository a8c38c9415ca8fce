"""Attention up to its output projection, and its stand-in in a masked model."""

from __future__ import annotations

import inspect
from typing import Any

import keras
from keras import ops
from keras.src import backend

from tfprune.layers.masks import along, package
from tfprune.layers.twins import Twin


def attended_heads(
    layer: keras.layers.Layer,
    query: Any,
    value: Any,
    key: Any = None,
    on_nodes: Any = None,
    *,
    training: Any = None,
    return_attention_scores: bool = False,
    **masks: Any,
) -> tuple[Any, Any]:
    """Runs a MultiHeadAttention or GroupQueryAttention up to its output projection.

    Args:
        layer: the attention layer.
        query: shape `(batch, targets, width)`.
        value: shape `(batch, sources, width)`.
        key: like value, or None for the value.
        on_nodes: which heads are on, `(batch or 1, heads)`, or None for all.
        training: as in the layer's call.
        return_attention_scores: as in the layer's call.
        **masks: the mask arguments of the layer's call.

    Returns:
        What the output projection reads, `(batch, targets, heads, size)`, and the attention scores or None.
    """
    key = value if key is None else key
    for tensor in (query, value, key):
        # As the layer itself does: from here on the masks are in the arguments.
        backend.set_keras_mask(tensor, None)
    allowed = layer._compute_attention_mask(query, value, **masks)
    queries, keys, heads = layer._query_dense(query), layer._key_dense(key), layer._value_dense(value)
    if on_nodes is not None:
        heads = heads * along(on_nodes, 2, len(heads.shape), heads.dtype)
    options = {"attention_mask": allowed, "training": training}
    if isinstance(layer, keras.layers.GroupQueryAttention):
        keys, heads = (ops.repeat(x, layer.num_repeats, axis=2) for x in (keys, heads))
    if "return_attention_scores" in inspect.signature(layer._compute_attention).parameters:
        options["return_attention_scores"] = return_attention_scores
    else:
        # GroupQueryAttention, and in Keras 3.8 MultiHeadAttention too, note it on themselves.
        layer._return_attention_scores = return_attention_scores
    output, scores = layer._compute_attention(queries, keys, heads, **options)
    gate = getattr(layer, "_gate_dense", None)
    return (output if gate is None else output * gate(query)), scores


@package
class MaskedMultiHeadAttention(Twin):
    """MultiHeadAttention or GroupQueryAttention with heads off: the value of a head is masked, which is exact.

    Attention is linear in the value, so a head whose value is zero adds nothing to the output.
    """

    def call(
        self,
        query,
        value,
        key=None,
        query_mask=None,
        value_mask=None,
        key_mask=None,
        attention_mask=None,
        return_attention_scores=False,
        training=None,
        use_causal_mask=False,
        on_nodes=None,
    ):
        output, scores = attended_heads(
            self.layer,
            query,
            value,
            key,
            on_nodes[0],
            training=training,
            return_attention_scores=return_attention_scores,
            query_mask=query_mask,
            value_mask=value_mask,
            key_mask=key_mask,
            attention_mask=attention_mask,
            use_causal_mask=use_causal_mask,
        )
        output = self.layer._output_dense(output)
        return (output, scores) if return_attention_scores else output
