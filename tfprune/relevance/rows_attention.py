"""Rows of the table: attention, with heads and without. Its weights are gates, taken as given; the values take all."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras import layers, ops

from tfprune.relevance.arithmetic import where
from tfprune.relevance.steps import Trace, Value
from tfprune.relevance.table import register, row_of

# The score of a position that may not be looked at, as in Keras.
_NEVER = -1e9


@register(layers.MultiHeadAttention, layers.GroupQueryAttention)
def attention(
    trace: Trace,
    query: Value,
    value: Value,
    key: Value | None = None,
    query_mask: Any = None,
    value_mask: Any = None,
    key_mask: Any = None,
    attention_mask: Any = None,
    return_attention_scores: bool = False,
    training: Any = None,
    use_causal_mask: bool = False,
) -> Any:
    """The weights of attention are gates, taken as given; the values take all."""
    layer = trace.layer
    key = value if key is None else key
    masks = {
        "query_mask": query.mask if query_mask is None else query_mask,
        "value_mask": value.mask if value_mask is None else value_mask,
        "key_mask": key.mask if key_mask is None else key_mask,
    }
    allowed = layer._compute_attention_mask(
        query.tensor, value.tensor, **masks, attention_mask=attention_mask, use_causal_mask=use_causal_mask
    )
    queries = _projected(trace, layer._query_dense, "query", query)
    keys = _projected(trace, layer._key_dense, "key", key)
    heads = _projected(trace, layer._value_dense, "value", value)
    if len(queries.shape) != 4:
        raise TypeError("attention over several axes is not known.")
    if isinstance(layer, layers.GroupQueryAttention):
        repeats = layer.num_repeats
        keys, heads = (trace.move(lambda x: ops.repeat(x, repeats, axis=2), each) for each in (keys, heads))
    scale = queries.shape[-1] ** -0.5
    scores = trace.product(lambda q, k: scale * tf.einsum("btnh,bsnh->bnts", q, k), queries, keys)
    if allowed is not None:
        allowed = tf.cast(allowed, "bool")[:, None]
        scores = trace.move(lambda x: where(allowed, x, _NEVER), scores)
    weights = trace.softmax(scores, -1)
    result = trace.product(lambda w, v: tf.einsum("bnts,bsnh->btnh", w, v), weights, heads, signal=1)
    if getattr(layer, "_gate_dense", None) is not None:
        result = trace.product(tf.multiply, result, _projected(trace, layer._gate_dense, "gate", query), signal=0)
    output = _projected(trace, layer._output_dense, "attention_output", result)
    return [output, weights] if return_attention_scores else output


def _projected(trace: Trace, dense: Any, slot: str, value: Value) -> Value:
    return row_of(dense)(trace.inner(dense, slot), value)


@register(layers.Attention, layers.AdditiveAttention)
def attention_without_heads(
    trace: Trace,
    inputs: list[Value],
    mask: Any = None,
    training: Any = None,
    return_attention_scores: bool = False,
    use_causal_mask: bool = False,
) -> Any:
    query, value = inputs[:2]
    key = inputs[2] if len(inputs) > 2 else value
    masks = [each.mask for each in inputs] if mask is None else list(mask)
    scores = _scores(trace, query, key)
    allowed = _allowed(scores, masks[1], use_causal_mask)
    if allowed is not None:
        # As Keras has it: where nothing may be looked at, all positions weigh the same.
        scores = trace.move(lambda x: tf.where(allowed, x, x + tf.cast(_NEVER, x.dtype)), scores)
    weights = trace.softmax(scores, -1)
    result = trace.product(tf.matmul, weights, value, signal=1)
    if masks[0] is not None:
        asked = tf.cast(masks[0], "bool")[..., None]
        result = trace.move(lambda x: where(asked, x, 0.0), result)
    return [result, weights] if return_attention_scores else result


def _scores(trace: Trace, query: Value, key: Value) -> Value:
    """How well each query fits each key, `(samples, queries, keys)`."""
    layer = trace.layer
    additive = isinstance(layer, layers.AdditiveAttention)
    if not additive and layer.score_mode == "dot":
        scores = trace.product(lambda q, k: tf.matmul(q, k, transpose_b=True), query, key)
        return scores if layer.scale is None else trace.linear(tf.multiply, scores, weights=[layer.scale])
    apart = trace.move(lambda q: q[:, :, None], query), trace.move(lambda k: k[:, None], key)
    both = trace.linear(tf.add, *apart)
    if layer.scale is not None and not additive:
        both = trace.linear(tf.multiply, both, weights=[layer.scale])
    fits = trace.nonlinearity(tf.tanh, both)
    if not additive:
        return trace.linear(lambda x, w: w * tf.reduce_sum(x, axis=-1), fits, weights=[layer.concat_score_weight])
    if layer.scale is None:
        return trace.linear(lambda x: tf.reduce_sum(x, axis=-1), fits)
    return trace.linear(lambda x, w: tf.reduce_sum(x * w, axis=-1), fits, weights=[layer.scale])


def _allowed(scores: Value, value_mask: Any, causal: bool) -> Any:
    """Returns which positions each query may look at, `(samples or 1, queries or 1, keys)`, or None for all."""
    allowed = None if value_mask is None else tf.cast(value_mask, "bool")[:, None]
    if causal:
        rows, columns = tf.shape(scores.tensor)[1], tf.shape(scores.tensor)[2]
        past = tf.range(rows)[:, None] >= tf.range(columns)[None]
        allowed = past[None] if allowed is None else allowed & past[None]
    return allowed
