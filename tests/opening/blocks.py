"""Small nets of layers that are made of layers, and subclassed models, each written anew as people write them.

Most have no `get_config`. Every net says what its inputs are for a batch and a length, and groups that it must have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from conftest import randomise
from keras import layers, ops

from tfprune import LayerValues

VOCABULARY, LENGTH = 11, 6


@dataclass(frozen=True)
class Net:
    """A net of the table.

    Attributes:
        build: makes the model, weights not yet random.
        inputs: makes the inputs for a batch and a length, as the model takes them.
        groups: names of groups that it must have.
        open_length: whether the model takes other lengths than `LENGTH`.
        tolerance: relative difference that the precision of the net allows.
        forms: forms in which a cut of it can be; the first is the one that "auto" takes.
        whole: groups that no form can cut, because a table in code meets their units.
    """

    build: Callable[[], keras.Model]
    inputs: Callable[[int, int], Any]
    groups: tuple[str, ...]
    open_length: bool = False
    tolerance: float = 1e-5
    forms: tuple[str, ...] = ("copy",)
    whole: tuple[str, ...] = ()


NETS: dict[str, Net] = {}


def net(inputs: Callable[[int, int], Any], *groups: str, **facts: Any) -> Callable:
    """Puts a builder into the table, under its name."""

    def keep(build: Callable[[], keras.Model]) -> Callable[[], keras.Model]:
        NETS[build.__name__] = Net(build, inputs, groups, **facts)
        return build

    return keep


def made(name: str) -> keras.Model:
    """Builds a net of the table, with random weights."""
    model = NETS[name].build()
    # A subclassed model is built by a call on data.
    if not model.built or not hasattr(model, "_nodes_by_depth"):
        model(tensors(NETS[name].inputs(2, LENGTH)))
    return randomise(model)


def tensors(structure: Any) -> Any:
    """Returns a structure of arrays as one of tensors."""
    return keras.tree.map_structure(ops.convert_to_tensor, structure)


def of_numbers(*shape: int) -> Callable[[int, int], Any]:
    """Inputs of normal numbers of a fixed shape."""
    return lambda batch, length: np.random.default_rng(batch).normal(size=(batch, *shape)).astype("float32")


def of_steps(*shape: int) -> Callable[[int, int], Any]:
    """Inputs of normal numbers whose first axis is the length."""
    return lambda batch, length: of_numbers(length, *shape)(batch, length)


def of_tokens(batch: int, length: int) -> Any:
    """Tokens, some rows padded by zeros at the end."""
    tokens = np.random.default_rng(batch).integers(1, VOCABULARY, (batch, length)).astype("int32")
    tokens[0, length - 2 :] = 0
    return tokens


def head(x: Any, units: int = 2, name: str = "out") -> Any:
    return layers.Dense(units, name=name)(x)


# Transformers -----------------------------------------------------------------------------------------------------


class TransformerBlock(layers.Layer):
    """The one of keras.io: attention and feed-forward, each with a dropout, a sum and a norm."""

    def __init__(self, embed_dim, num_heads, ff_dim, rate=0.1, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.att = layers.MultiHeadAttention(num_heads=num_heads, key_dim=embed_dim, name="att")
        self.ffn = keras.Sequential(
            [layers.Dense(ff_dim, activation="relu", name="wide"), layers.Dense(embed_dim, name="narrow")], name="ffn"
        )
        self.layernorm1 = layers.LayerNormalization(epsilon=1e-6, name="norm_1")
        self.layernorm2 = layers.LayerNormalization(epsilon=1e-6, name="norm_2")
        self.dropout1 = layers.Dropout(rate)
        self.dropout2 = layers.Dropout(rate)

    def call(self, inputs, training=None):
        attended = self.att(inputs, inputs)
        attended = self.dropout1(attended, training=training)
        out1 = self.layernorm1(inputs + attended)
        fed = self.ffn(out1)
        fed = self.dropout2(fed, training=training)
        return self.layernorm2(out1 + fed)


class TokenAndPositionEmbedding(layers.Layer):
    """The one of keras.io, positions by `arange` over the length."""

    def __init__(self, maxlen, vocab_size, embed_dim, **kwargs):
        super().__init__(**kwargs)
        self.token_emb = layers.Embedding(vocab_size, embed_dim, mask_zero=True, name="tokens")
        self.pos_emb = layers.Embedding(maxlen, embed_dim, name="positions")

    def compute_mask(self, x, mask=None):
        return self.token_emb.compute_mask(x)

    def call(self, x):
        positions = ops.arange(0, ops.shape(x)[-1], 1)
        return self.token_emb(x) + self.pos_emb(positions)


@net(of_tokens, "block/ffn/wide", "block/att/heads")
def text_classification():
    inputs = keras.Input((LENGTH,), dtype="int32", name="words")
    x = TokenAndPositionEmbedding(LENGTH, VOCABULARY, 8, name="embed")(inputs)
    x = TransformerBlock(8, 2, 12, name="block")(x)
    x = layers.GlobalAveragePooling1D(name="mean")(x)
    return keras.Model(inputs, head(layers.Dropout(0.1)(x)), name="text_classification")


@net(of_tokens, "block/ffn/wide", "block/att/heads", open_length=True)
def text_of_any_length():
    inputs = keras.Input((None,), dtype="int32", name="words")
    x = TokenAndPositionEmbedding(32, VOCABULARY, 8, name="embed")(inputs)
    x = TransformerBlock(8, 2, 12, name="block")(x)
    x = layers.GlobalAveragePooling1D(name="mean")(x)
    return keras.Model(inputs, head(x), name="text_of_any_length")


class Patches(layers.Layer):
    """Cuts an image into patches by reshapes."""

    def __init__(self, patch_size, **kwargs):
        super().__init__(**kwargs)
        self.patch_size = patch_size

    def call(self, images):
        batch, height, width, channels = ops.shape(images)
        rows, columns, side = height // self.patch_size, width // self.patch_size, self.patch_size
        x = ops.reshape(images, (batch, rows, side, columns, side, channels))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (batch, rows * columns, side * side * channels))


class PatchEncoder(layers.Layer):
    """Projects patches, puts a class token before them and adds learned positions."""

    def __init__(self, num_patches, width, **kwargs):
        super().__init__(**kwargs)
        self.num_patches, self.width = num_patches, width
        self.projection = layers.Dense(units=width, name="projection")
        self.position_embedding = layers.Embedding(input_dim=num_patches + 1, output_dim=width, name="positions")

    def build(self, input_shape):
        self.class_token = self.add_weight(shape=(1, 1, self.width), initializer="zeros", name="class_token")
        self.projection.build(input_shape)

    def call(self, patch):
        tokens = ops.broadcast_to(self.class_token, (ops.shape(patch)[0], 1, self.width))
        x = ops.concatenate([tokens, self.projection(patch)], axis=1)
        positions = ops.expand_dims(ops.arange(start=0, stop=self.num_patches + 1, step=1), axis=0)
        return x + self.position_embedding(positions)


@net(of_numbers(8, 8, 2), "mlp", "attention/heads", forms=("layers", "copy"))
def vision_transformer():
    inputs = keras.Input((8, 8, 2), name="image")
    x = PatchEncoder(4, 8, name="encoder")(Patches(4, name="patches")(inputs))
    x1 = layers.LayerNormalization()(x)
    x2 = layers.Add()([layers.MultiHeadAttention(2, 4, name="attention")(x1, x1), x])
    x3 = layers.Dense(12, activation="gelu", name="mlp")(layers.LayerNormalization()(x2))
    x = layers.Add()([layers.Dense(8)(x3), x2])
    x = layers.LayerNormalization()(x)[:, 0]
    return keras.Model(inputs, head(x), name="vision_transformer")


class SinusoidalEncoding(layers.Layer):
    """Adds sines and cosines, a table made in the constructor by NumPy."""

    def __init__(self, max_length, depth, **kwargs):
        super().__init__(**kwargs)
        angles = np.arange(max_length)[:, None] / 10000 ** (np.arange(depth // 2)[None] / (depth // 2))
        self.table = ops.convert_to_tensor(np.concatenate([np.sin(angles), np.cos(angles)], -1).astype("float32"))

    def call(self, x):
        return x * ops.sqrt(ops.cast(ops.shape(x)[-1], x.dtype)) + self.table[None, : ops.shape(x)[1], :]


class EncoderLayer(layers.Layer):
    """Attention and feed-forward in layers of their own, as in the tutorial on translation."""

    class FeedForward(layers.Layer):
        """Two kernels, a sum and a norm."""

        def __init__(self, d_model, dff, **kwargs):
            super().__init__(**kwargs)
            self.seq = keras.Sequential(
                [layers.Dense(dff, activation="relu", name="wide"), layers.Dense(d_model, name="narrow")], name="seq"
            )
            self.add = layers.Add()
            self.layer_norm = layers.LayerNormalization()

        def call(self, x):
            return self.layer_norm(self.add([x, self.seq(x)]))

    class SelfAttention(layers.Layer):
        """Attention with keyword arguments; causal or not."""

        def __init__(self, causal=False, **kwargs):
            super().__init__(name="attend")
            self.causal = causal
            self.mha = layers.MultiHeadAttention(**kwargs, name="mha")
            self.layernorm = layers.LayerNormalization()
            self.add = layers.Add()

        def call(self, x):
            attended = self.mha(query=x, value=x, key=x, use_causal_mask=self.causal)
            return self.layernorm(self.add([x, attended]))

    def __init__(self, *, d_model, num_heads, dff, causal=False, **kwargs):
        super().__init__(**kwargs)
        self.self_attention = self.SelfAttention(causal, num_heads=num_heads, key_dim=4)
        self.ffn = self.FeedForward(d_model, dff, name="feed")

    def call(self, x):
        return self.ffn(self.self_attention(x))


@net(of_steps(3), "enc_0/feed/seq/wide", "enc_1/attend/mha/heads", open_length=True, forms=("layers", "copy"))
def sinusoidal_encoder():
    inputs = keras.Input((None, 3), name="steps")
    x = SinusoidalEncoding(64, 8, name="positions")(layers.Dense(8, name="project")(inputs))
    for number in range(2):
        x = EncoderLayer(d_model=8, num_heads=2, dff=10, causal=number == 1, name=f"enc_{number}")(x)
    return keras.Model(inputs, head(x), name="sinusoidal_encoder")


class Decoder(keras.Model):
    """A subclassed model that gives an embedding's table once more, to score the next token."""

    def __init__(self, width=8, depth=2):
        super().__init__(name="decoder")
        self.embedding = layers.Embedding(VOCABULARY, width, name="embedding")
        self.positions = layers.Embedding(32, width, name="positions")
        self.blocks = [
            EncoderLayer(d_model=width, num_heads=2, dff=10, causal=True, name=f"b{k}") for k in range(depth)
        ]
        self.norm = layers.LayerNormalization(name="final")

    def call(self, tokens):
        length = ops.shape(tokens)[1]
        x = self.embedding(tokens) + self.positions(ops.arange(length))[None]
        for block in self.blocks:
            x = block(x)
        return ops.matmul(self.norm(x), ops.transpose(self.embedding.embeddings))


@net(of_tokens, "b0/feed/seq/wide", "b1/attend/mha/heads", open_length=True)
def tied_decoder():
    return Decoder()


class WindowAttention(layers.Layer):
    """Shifted windows over a line: roll, cut into windows, attend by hand with biases of places, roll back."""

    def __init__(self, dim, window, shift, heads, **kwargs):
        super().__init__(**kwargs)
        self.dim, self.window, self.shift, self.heads = dim, window, shift, heads
        self.qkv = layers.Dense(dim * 3, name="qkv")
        self.proj = layers.Dense(dim, name="proj")

    def build(self, input_shape):
        self.bias = self.add_weight(shape=(self.heads, self.window, self.window), initializer="zeros", name="bias")
        self.qkv.build(input_shape)
        self.proj.build((*input_shape[:-1], self.dim))

    def call(self, x):
        batch, length, _ = x.shape
        x = ops.roll(x, -self.shift, axis=1)
        qkv = ops.reshape(self.qkv(x), (-1, length // self.window, self.window, 3, self.heads, self.dim // self.heads))
        q, k, v = (ops.transpose(qkv[:, :, :, n], (0, 1, 3, 2, 4)) for n in range(3))
        scores = ops.matmul(q, ops.swapaxes(k, -1, -2)) * (self.dim // self.heads) ** -0.5 + self.bias
        x = ops.matmul(ops.softmax(scores), v)
        x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4)), (-1, length, self.dim))
        return ops.roll(self.proj(x), self.shift, axis=1)


class WindowBlock(layers.Layer):
    """Norm, shifted windows, norm, feed-forward, with paths dropped by random numbers of Keras."""

    def __init__(self, dim, shift, **kwargs):
        super().__init__(**kwargs)
        self.norm1, self.norm2 = layers.LayerNormalization(), layers.LayerNormalization()
        self.attn = WindowAttention(dim, 3, shift, 2, name="attn")
        self.mlp = keras.Sequential(
            [layers.Dense(2 * dim, "gelu", name="up"), layers.Dense(dim, name="down")], name="mlp"
        )
        self.drop_path = DropPath(0.2, name="drop_path")

    def call(self, x, training=None):
        x = x + self.drop_path(self.attn(self.norm1(x)), training=training)
        return x + self.drop_path(self.mlp(self.norm2(x)), training=training)


class DropPath(layers.Layer):
    """Drops whole samples of a branch in training, by random numbers of Keras."""

    def __init__(self, rate, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.seed_generator = keras.random.SeedGenerator(1337)

    def call(self, x, training=None):
        if not training or self.rate == 0.0:
            return x
        shape = (ops.shape(x)[0],) + (1,) * (len(x.shape) - 1)
        keep = ops.floor(1 - self.rate + keras.random.uniform(shape, seed=self.seed_generator))
        return x / (1 - self.rate) * keep


@net(
    of_numbers(6, 4),
    "swin_0/mlp/up",
    "swin_1/mlp/up",
    whole=("swin_0/attn/qkv", "swin_1/attn/qkv"),
    forms=("copy", "plain"),
)
def shifted_windows():
    inputs = keras.Input((6, 4), name="line")
    x = inputs
    for number, shift in enumerate((0, 1)):
        x = WindowBlock(4, shift, name=f"swin_{number}")(x)
    return keras.Model(inputs, head(layers.GlobalAveragePooling1D()(x)), name="shifted_windows")


class MixerBlock(layers.Layer):
    """Mixes along patches, then along channels."""

    def __init__(self, num_patches, hidden, **kwargs):
        super().__init__(**kwargs)
        self.mlp1 = keras.Sequential(
            [layers.Dense(7, "gelu", name="tokens_up"), layers.Dense(num_patches)], name="mlp1"
        )
        self.mlp2 = keras.Sequential([layers.Dense(9, "gelu", name="channels_up"), layers.Dense(hidden)], name="mlp2")
        self.normalize = layers.LayerNormalization(epsilon=1e-6)

    def build(self, input_shape):
        return super().build(input_shape)

    def call(self, inputs):
        x = self.normalize(inputs)
        channels = ops.transpose(x, axes=(0, 2, 1))
        patches = ops.transpose(self.mlp1(channels), axes=(0, 2, 1))
        x = patches + inputs
        return x + self.mlp2(self.normalize(x))


@net(of_numbers(6, 4), "mixer/mlp1/tokens_up", "mixer/mlp2/channels_up", forms=("plain", "copy"))
def mlp_mixer():
    inputs = keras.Input((6, 4), name="patches")
    x = MixerBlock(6, 4, name="mixer")(inputs)
    return keras.Model(inputs, head(layers.GlobalAveragePooling1D()(x)), name="mlp_mixer")


class Perceiver(keras.Model):
    """A learned array of latents attends to the inputs; the same block again and again."""

    def __init__(self):
        super().__init__(name="perceiver")
        self.project = layers.Dense(6, name="project")
        self.cross = layers.MultiHeadAttention(2, 3, name="cross")
        self.query = layers.LayerNormalization(name="query_norm")
        self.ffn = keras.Sequential([layers.Dense(10, "gelu", name="up"), layers.Dense(6, name="down")], name="ffn")
        self.classify = layers.Dense(2, name="classify")

    def build(self, input_shape):
        self.latents = self.add_weight(shape=(4, 6), initializer="random_normal", name="latents")
        super().build(input_shape)

    def call(self, inputs):
        data = self.project(inputs)
        latents = ops.repeat(ops.expand_dims(self.latents, 0), ops.shape(inputs)[0], axis=0)
        for _ in range(2):
            latents = latents + self.cross(self.query(latents), data)
            latents = latents + self.ffn(latents)
        return self.classify(ops.mean(latents, axis=1))


@net(of_steps(3), "ffn/up", "project", open_length=True)
def perceiver():
    return Perceiver()


# Feed-forward kinds -----------------------------------------------------------------------------------------------


class SwiGLU(layers.Layer):
    """A gated feed-forward block, its three kernels as weights of its own where `raw`."""

    def __init__(self, width, hidden, **kwargs):
        super().__init__(**kwargs)
        self.gate = layers.Dense(hidden, use_bias=False, name="gate")
        self.up = layers.Dense(hidden, use_bias=False, name="up")
        self.down = layers.Dense(width, use_bias=False, name="down")

    def call(self, x):
        return self.down(ops.silu(self.gate(x)) * self.up(x))


class RMSNorm(layers.Layer):
    """A norm written by hand, scale as the left operand."""

    def build(self, input_shape):
        self.scale = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="scale")

    def call(self, x):
        return self.scale * (x * ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + 1e-6))


@net(of_steps(4), "glu/gate", open_length=True, forms=("layers", "copy", "plain"))
def gated_feed_forward():
    inputs = keras.Input((None, 4), name="steps")
    x = inputs + SwiGLU(4, 10, name="glu")(RMSNorm(name="norm")(inputs))
    return keras.Model(inputs, head(x), name="gated_feed_forward")


class RawDense(layers.Layer):
    """A kernel and a bias read in operations, made in `build`."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), initializer="glorot_uniform", name="kernel")
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias")

    def call(self, x):
        return ops.matmul(x, self.kernel) + self.bias


class RawMLP(layers.Layer):
    """Two of them, one with the operator."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.one = RawDense(7, name="one")
        self.two = RawDense(3, name="two")

    def call(self, x):
        return self.two(ops.relu(self.one(x)))


@net(of_numbers(4), "raw/one/kernel", forms=("copy", "plain"))
def raw_weights():
    inputs = keras.Input((4,), name="x")
    return keras.Model(inputs, head(layers.ReLU()(RawMLP(name="raw")(inputs))), name="raw_weights")


class FeatureCross(layers.Layer):
    """x0 * (W x + b) + x, W of low rank."""

    def __init__(self, rank, **kwargs):
        super().__init__(**kwargs)
        self.rank = rank

    def build(self, input_shape):
        self.down = layers.Dense(self.rank, use_bias=False, name="down")
        self.up = layers.Dense(input_shape[-1], name="up")
        self.down.build(input_shape)
        self.up.build((*input_shape[:-1], self.rank))

    def call(self, x0, x=None):
        if x is None:
            x = x0
        return x0 * self.up(self.down(x)) + x


@net(of_numbers(5), "cross_0/down", "cross_1/down", "deep", forms=("layers", "plain", "copy"))
def deep_and_cross():
    inputs = keras.Input((5,), name="features")
    x = FeatureCross(4, name="cross_0")(inputs)
    x = FeatureCross(3, name="cross_1")(inputs, x)
    x = layers.Dense(6, "relu", name="deep")(x)
    return keras.Model(inputs, head(x), name="deep_and_cross")


class TwoTowers(keras.Model):
    """Two embeddings in a dictionary, a tower each, their dot product."""

    def __init__(self):
        super().__init__(name="two_towers")
        self.tables = {name: layers.Embedding(VOCABULARY, 5, name=f"{name}_table") for name in ("user", "item")}
        self.towers = {
            name: keras.Sequential([layers.Dense(8, "relu", name="wide"), layers.Dense(4, name="narrow")], name=name)
            for name in ("user", "item")
        }

    def call(self, inputs):
        user, item = (self.towers[name](self.tables[name](inputs[name])) for name in ("user", "item"))
        return ops.sum(user * item, axis=-1, keepdims=True)


def of_ids(batch: int, length: int) -> dict:
    generator = np.random.default_rng(batch)
    return {name: generator.integers(0, VOCABULARY, (batch,)).astype("int32") for name in ("user", "item")}


@net(of_ids, "user/wide", "item/wide", "user_table", "item_table", forms=("plain", "copy"))
def two_towers():
    return TwoTowers()


# Convolutions -----------------------------------------------------------------------------------------------------


class SqueezeExcite(layers.Layer):
    """Scales channels by what their means say."""

    def __init__(self, channels, reduced, **kwargs):
        super().__init__(**kwargs)
        self.squeeze = layers.GlobalAveragePooling2D(keepdims=True)
        self.reduce = layers.Conv2D(reduced, 1, activation="relu", name="reduce")
        self.expand = layers.Conv2D(channels, 1, activation="sigmoid", name="expand")

    def call(self, x):
        return x * self.expand(self.reduce(self.squeeze(x)))


@net(of_numbers(5, 5, 2), "se/reduce", "stem", forms=("layers", "plain", "copy"))
def squeeze_excite():
    inputs = keras.Input((5, 5, 2), name="image")
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="stem")(inputs)
    x = SqueezeExcite(6, 4, name="se")(x)
    return keras.Model(inputs, head(layers.GlobalAveragePooling2D()(x)), name="squeeze_excite")


class ResidualBlock(layers.Layer):
    """Two convolutions with norms that are told of training, a shortcut where the width changes."""

    def __init__(self, filters, shortcut, **kwargs):
        super().__init__(**kwargs)
        self.conv1 = layers.Conv2D(filters, 3, padding="same", use_bias=False, name="conv1")
        self.bn1 = layers.BatchNormalization(name="bn1")
        self.conv2 = layers.Conv2D(filters, 3, padding="same", use_bias=False, name="conv2")
        self.bn2 = layers.BatchNormalization(name="bn2")
        self.project = layers.Conv2D(filters, 1, name="project") if shortcut else None

    def call(self, inputs, training=False):
        x = ops.relu(self.bn1(self.conv1(inputs), training=training))
        x = self.bn2(self.conv2(x), training=training)
        return ops.relu(x + (inputs if self.project is None else self.project(inputs)))


@net(of_numbers(5, 5, 2), "res_0/conv1", "res_1/conv1", forms=("layers", "plain", "copy"))
def residual():
    inputs = keras.Input((5, 5, 2), name="image")
    x = ResidualBlock(6, True, name="res_0")(inputs)
    x = ResidualBlock(6, False, name="res_1")(x)
    return keras.Model(inputs, head(layers.GlobalMaxPooling2D()(x)), name="residual")


class RepeatedToken(layers.Layer):
    """A class token that is repeated for each sample, as k3im does it."""

    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]), initializer="random_normal", name="token")

    def call(self, x):
        return ops.concatenate([ops.repeat(self.token, ops.shape(x)[0], axis=0), x], axis=1)


class Windows(layers.Layer):
    """A feed-forward part inside windows of a picture, reshaped there and back by sizes alone, added to what came."""

    def __init__(self, window, **kwargs):
        super().__init__(**kwargs)
        self.window = window
        self.up, self.down = layers.Dense(7, "relu", name="up"), None

    def build(self, shape):
        self.sizes = shape[1:]
        self.down = layers.Dense(shape[-1], name="down")
        self.up.build((*shape[:-1], shape[-1]))
        self.down.build((*shape[:-1], 7))

    def call(self, x):
        (height, width, channels), own = self.sizes, self.window
        y = ops.reshape(x, (-1, height // own, own, width // own, own, channels))
        y = ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, own * own, channels))
        y = ops.reshape(self.down(self.up(y)), (-1, height // own, width // own, own, own, channels))
        return x + ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, height, width, channels))


@net(of_numbers(4, 4, 3), "first", "windows/up", forms=("copy",))
def windows_and_token():
    inputs = keras.Input((4, 4, 3), name="image")
    x = Windows(2, name="windows")(layers.Dense(6, name="first")(inputs))
    x = ops.image.resize(x, (2, 2), interpolation="bilinear")
    x = layers.Reshape((4, 6))(x)
    x = RepeatedToken(name="token")(x)
    x = layers.Dense(5, "gelu", name="behind")(x)
    return keras.Model(inputs, head(layers.Flatten()(x)), name="windows_and_token")


class LastStep(layers.Layer):
    """As in keras-tcn: a Lambda whose function holds the layer around it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.one, self.two = layers.Conv1D(8, 3, padding="causal", name="one"), layers.Conv1D(6, 3, name="two")
        self.place = -1
        self.pick = layers.Lambda(lambda t: t[:, self.place, :], name="pick")

    def call(self, x):
        return self.pick(self.two(ops.relu(self.one(x))))


@net(of_steps(3), "last_step/one", forms=("plain", "copy"))
def last_step():
    inputs = keras.Input((LENGTH, 3), name="steps")
    return keras.Model(inputs, head(LastStep(name="last_step")(inputs)), name="last_step")


class RepVGG(layers.Layer):
    """Three branches, each with a norm, added before the activation."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.branches = {
            "dense": [layers.Conv2D(filters, 3, padding="same", use_bias=False), layers.BatchNormalization()],
            "point": [layers.Conv2D(filters, 1, padding="same", use_bias=False), layers.BatchNormalization()],
            "none": [layers.BatchNormalization()],
        }

    def call(self, x, training=None):
        total = 0
        for branch in self.branches.values():
            y = x
            for layer in branch:
                y = layer(y, training=training) if isinstance(layer, layers.BatchNormalization) else layer(y)
            total = total + y
        return ops.relu(total)


@net(of_numbers(4, 4, 2), "stem", forms=("layers", "plain", "copy"))
def multi_branch():
    inputs = keras.Input((4, 4, 2), name="image")
    x = layers.Conv2D(5, 1, name="stem")(inputs)
    x = RepVGG(5, name="rep")(x)
    return keras.Model(inputs, head(layers.Flatten()(x)), name="multi_branch")


class TCNBlock(layers.Layer):
    """Dilated causal convolutions, made in a loop in `build`."""

    def __init__(self, filters, dilation, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.dilation = filters, dilation

    def build(self, input_shape):
        self.stack = []
        for number in range(2):
            self.stack.append(
                layers.Conv1D(self.filters, 2, dilation_rate=self.dilation, padding="causal", name=f"conv_{number}")
            )
            self.stack.append(layers.Activation("relu"))
            self.stack.append(layers.SpatialDropout1D(0.1))
        self.shape_match = layers.Conv1D(self.filters, 1, padding="same", name="match")
        shape = input_shape
        for layer in self.stack:
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
        self.shape_match.build(input_shape)

    def call(self, inputs, training=None):
        x = inputs
        for layer in self.stack:
            x = layer(x, training=training) if isinstance(layer, layers.SpatialDropout1D) else layer(x)
        return ops.relu(x + self.shape_match(inputs)), x


@net(of_steps(3), "tcn_1/conv_0", "tcn_2/conv_0", open_length=True, forms=("plain",))
def temporal_convolutions():
    inputs = keras.Input((None, 3), name="series")
    x, first = TCNBlock(5, 1, name="tcn_1")(inputs)
    x, second = TCNBlock(5, 2, name="tcn_2")(x)
    return keras.Model(inputs, head(first + second), name="temporal_convolutions")


# Ways of holding and calling layers ----------------------------------------------------------------------------------


class Holder(layers.Layer):
    """Layers in a list, a dictionary, a tuple and a Sequential, all called in a loop."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.listed = [layers.Dense(5, "relu", name=f"listed_{k}") for k in range(2)]
        self.named = {"a": layers.Dense(4, "tanh", name="named_a"), "b": layers.Dense(4, name="named_b")}
        self.pair = (layers.Dense(4, name="pair_0"), layers.Dense(3, name="pair_1"))
        self.inner = keras.Sequential([layers.Dense(6, "relu", name="inside"), layers.Dense(4)], name="inner")

    def call(self, x):
        for layer in self.listed:
            x = layer(x)
        x = self.named["a"](x) * self.named["b"](x)
        return self.pair[1](ops.relu(self.pair[0](x) + self.inner(x)))


@net(
    of_numbers(4), "holder/listed_0", "holder/named_a", "holder/pair_0", "holder/inner/inside", forms=("plain", "copy")
)
def holder():
    inputs = keras.Input((4,), name="x")
    return keras.Model(inputs, head(layers.Activation("tanh")(Holder(name="holder")(inputs))), name="holder")


class Inner(layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(units, name="dense")

    def call(self, x):
        return ops.tanh(self.dense(x))


class Middle(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inners = [Inner(5, name="first"), Inner(4, name="second")]

    def call(self, x):
        for inner in self.inners:
            x = inner(x)
        return x


class Outer(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.middle = Middle(name="middle")
        self.last = layers.Dense(3, name="last")

    def call(self, x):
        return self.last(self.middle(x))


@net(of_numbers(4), "outer/middle/first/dense", "outer/middle/second/dense", "outer/last", forms=("plain", "copy"))
def blocks_in_blocks():
    inputs = keras.Input((4,), name="x")
    return keras.Model(inputs, head(layers.ReLU()(Outer(name="outer")(inputs))), name="blocks_in_blocks")


@net(of_numbers(4), "shared/middle/first/dense", forms=("plain", "copy"))
def block_called_twice():
    inputs = keras.Input((4,), name="x")
    block = Outer(name="shared")
    scaled = layers.Rescaling(2.0)(inputs)
    x = layers.Concatenate()([block(inputs), block(scaled)])
    return keras.Model(inputs, head(layers.ReLU()(x)), name="block_called_twice")


class Gatherer(layers.Layer):
    """A dictionary of tensors in, a tuple out, one of them nothing; a keyword argument that it is given and one not."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.left = layers.Dense(5, "relu", name="left")
        self.right = layers.Dense(5, "relu", name="right")
        self.mix = layers.Dense(4, name="mix")

    def call(self, inputs, scale=1.0, return_scores=False, training=None):
        joined = self.left(inputs["left"]) * scale + self.right(inputs["right"])
        scores = ops.softmax(joined) if return_scores else None
        return self.mix(joined), scores, {"sum": joined}


class Several(keras.Model):
    """Gives the sides to a block, keyword arguments beside them, and takes its outputs apart."""

    def __init__(self):
        super().__init__(name="several")
        self.gather = Gatherer(name="gather")
        self.main, self.side = layers.Dense(2, name="main"), layers.Dense(1, name="side")

    def call(self, inputs):
        mixed, nothing, more = self.gather(inputs, scale=0.5)
        assert nothing is None
        return {"main": self.main(ops.relu(mixed)), "side": self.side(more["sum"])}


def of_sides(batch: int, length: int) -> dict:
    return {"left": of_numbers(3)(batch, length), "right": of_numbers(2)(batch, length)}


@net(of_sides, "gather/mix", "gather/left", forms=("plain", "copy"))
def several_in_and_out():
    return Several()


class Pair(layers.Layer):
    """A list in, a list out."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.one, self.two = layers.Dense(4, "relu", name="one"), layers.Dense(4, "tanh", name="two")
        self.lower = layers.Dense(3, name="lower")

    def call(self, pair):
        one, two = pair
        return [self.lower(self.one(one)), self.lower(self.two(two))]


@net(lambda b, n: [of_numbers(3)(b, n), of_numbers(2)(b + 1, n)[:b]], "pair/one", "pair/lower", forms=("plain", "copy"))
def lists_in_and_out():
    inputs = [keras.Input((3,), name="one_in"), keras.Input((2,), name="two_in")]
    one, two = Pair(name="pair")(inputs)
    return keras.Model(inputs, [head(one), head(two, 1, "out_2")], name="lists_in_and_out")


@keras.saving.register_keras_serializable(package="opening")
class ConfiguredBlock(layers.Layer):
    """A block whose constructor and configuration say all."""

    def __init__(self, hidden_dim, output_dim, **kwargs):
        super().__init__(**kwargs)
        self.hidden_dim, self.output_dim = hidden_dim, output_dim
        self.hidden = layers.Dense(hidden_dim, "relu", name="hidden")
        self.back = layers.Dense(output_dim, name="back")

    def build(self, input_shape):
        self.hidden.build(input_shape)
        self.back.build((*input_shape[:-1], self.hidden_dim))
        super().build(input_shape)

    def call(self, x):
        return x + self.back(self.hidden(x))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config() | {"hidden_dim": self.hidden_dim, "output_dim": self.output_dim}


@net(of_numbers(4), "conf_0/hidden", "conf_1/hidden", forms=("layers", "plain", "copy"))
def configured_blocks():
    inputs = keras.Input((4,), name="x")
    x = ConfiguredBlock(9, 4, name="conf_0")(inputs)
    x = ConfiguredBlock(7, 4, name="conf_1")(x)
    return keras.Model(inputs, head(x), name="configured_blocks")


@keras.saving.register_keras_serializable(package="opening")
class ConfiguredModel(keras.Model):
    """A subclassed model whose constructor says its shape: one width for both blocks."""

    def __init__(self, hidden_dim, depth=2, **kwargs):
        super().__init__(**kwargs)
        self.hidden_dim, self.depth = hidden_dim, depth
        self.blocks = [ConfiguredBlock(hidden_dim, 4, name=f"block_{k}") for k in range(depth)]
        self.out = layers.Dense(2, name="out")

    def build(self, input_shape):
        for block in self.blocks:
            block.build(input_shape)
        self.out.build(input_shape)
        super().build(input_shape)

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return self.out(x)

    def get_config(self):
        return {"name": self.name, "hidden_dim": self.hidden_dim, "depth": self.depth}


@net(of_numbers(4), "block_0/hidden", "block_1/hidden", forms=("class", "plain", "copy"))
def configured_model():
    return ConfiguredModel(8, name="configured_model")


# Subclassed models ----------------------------------------------------------------------------------------------------


class Recurrent(keras.Model):
    """Recurrent layers that give states on, a nested functional model and an unbuilt Sequential."""

    def __init__(self):
        super().__init__(name="recurrent")
        self.encoder = layers.LSTM(5, return_state=True, name="encoder")
        self.decoder = layers.LSTM(5, return_sequences=True, name="decoder")
        start = keras.Input((None, 5))
        hidden = layers.Dense(6, "relu", name="hidden")(start)
        self.top = keras.Model(start, layers.Dense(4, name="top_out")(hidden), name="top")
        self.tail = keras.Sequential(name="tail")
        self.tail.add(layers.Dense(5, "tanh", name="bend"))
        self.tail.add(layers.Dense(2, name="last"))

    def call(self, inputs):
        _, state, cell = self.encoder(inputs)
        x = self.decoder(inputs, initial_state=[state, cell])
        return self.tail(self.top(x))


@net(of_steps(3), "encoder", "top/hidden", "tail/bend", open_length=True, forms=("plain", "copy"))
def subclassed_recurrent():
    return Recurrent()


class Loops(keras.Model):
    """Lists of layers in lists, one layer several times, told of training."""

    def __init__(self):
        super().__init__(name="loops")
        self.stages = [
            [layers.Dense(6, name=f"d{k}"), layers.BatchNormalization(name=f"n{k}"), layers.Dropout(0.3)]
            for k in range(2)
        ]
        self.again = layers.Dense(6, "tanh", name="again")
        self.classifier = layers.Dense(2, name="classifier")

    def call(self, x, training=None):
        for dense, norm, drop in self.stages:
            x = drop(keras.activations.relu(norm(dense(x), training=training)), training=training)
        for _ in range(3):
            x = self.again(x)
        return self.classifier(x)


@net(of_numbers(4), "d0", "d1", forms=("plain", "copy"))
def subclassed_loops():
    return Loops()


class AutoEncoder(keras.Model):
    """Two Sequential models of convolutions, as in the tutorial; two outputs in a dictionary."""

    def __init__(self):
        super().__init__(name="autoencoder")
        self.encoder = keras.Sequential(
            [
                layers.Conv2D(5, 3, activation="relu", padding="same", strides=2, name="down_0"),
                layers.Conv2D(4, 3, activation="relu", padding="same", name="down_1"),
            ],
            name="encoder",
        )
        self.decoder = keras.Sequential(
            [
                layers.Conv2DTranspose(4, 3, strides=2, activation="relu", padding="same", name="up_0"),
                layers.Conv2D(1, 3, padding="same", name="up_1"),
            ],
            name="decoder",
        )

    def call(self, x):
        code = self.encoder(x)
        return {"picture": self.decoder(code), "size": ops.mean(code, axis=(1, 2, 3), keepdims=False)}


@net(of_numbers(4, 4, 1), "encoder/down_0", "decoder/up_0", forms=("plain", "copy"))
def autoencoder():
    return AutoEncoder()


# Precision, frozen layers, layers that stay shut ----------------------------------------------------------------------


def with_policy(policy: str, build: Callable[[], keras.Model]) -> keras.Model:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        return build()
    finally:
        keras.config.set_dtype_policy(before)


@net(of_numbers(8, 8, 2), "mlp", "attention/heads", tolerance=3e-2, forms=("layers", "copy"))
def half_precision():
    return with_policy("mixed_float16", vision_transformer)


@net(of_tokens, "block/ffn/wide", tolerance=0.15)
def brain_precision():
    return with_policy("mixed_bfloat16", text_classification)


@net(of_numbers(4), "shared/middle/second/dense", forms=("plain", "copy"))
def frozen_inside():
    model = block_called_twice()
    model.get_layer("shared").middle.inners[0].trainable = False
    return model


class LowRank(layers.Layer):
    """A block whose first dense layer carries LoRA weights."""

    def __init__(self, quantised=False, **kwargs):
        super().__init__(**kwargs)
        self.quantised = quantised
        self.one, self.two = layers.Dense(6, "relu", name="one"), layers.Dense(5, "relu", name="two")

    def build(self, input_shape):
        self.one.build(input_shape)
        self.two.build((*input_shape[:-1], 6))
        if self.quantised:
            self.one.quantize("int8")
        else:
            self.one.enable_lora(2)

    def call(self, x):
        return self.two(self.one(x))


def low_rank(quantised: bool = False) -> keras.Model:
    """A net with a block in which one layer is refused."""
    inputs = keras.Input((4,), name="x")
    return keras.Model(inputs, head(LowRank(quantised, name="low")(inputs)), name="low_rank")


class OldTower(keras.Model):
    """Takes a dictionary, any length, in half precision: words beside numbers, by TensorFlow's functions."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.words = layers.Embedding(VOCABULARY, 6, name="words")
        self.wide, self.narrow = layers.Dense(9, "relu", name="wide"), layers.Dense(6, name="narrow")
        self.out = layers.Dense(2, dtype="float32", name="out")

    def call(self, inputs, training=False):
        x = self.words(inputs["tokens"])
        x += tf.cast(inputs["scale"], x.dtype)[:, tf.newaxis, :]
        steps = tf.shape(x)[1]
        x = tf.reshape(self.narrow(self.wide(x)), tf.stack([-1, steps, 6])) + x
        if training:
            x = tf.nn.dropout(x, 0.1)
        return self.out(tf.concat([tf.reduce_max(x, axis=1), tf.math.reduce_mean(x, 1)], axis=-1))


@net(
    lambda batch, length: {"tokens": of_tokens(batch, length), "scale": of_numbers(6)(batch, length)},
    "tower/wide",
    open_length=True,
    tolerance=0.15,
    forms=("copy",),
)
def tensorflow_of_any_length():
    inputs = {"tokens": keras.Input((None,), dtype="int32", name="tokens"), "scale": keras.Input((6,), name="scale")}

    def build():
        return keras.Model(inputs, OldTower(name="tower")(inputs), name="tensorflow_of_any_length")

    return with_policy("mixed_float16", build)


class Rows(layers.Layer):
    """Sub-layers between which something stands that cannot be followed."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.one, self.two = layers.Dense(5, "relu", name="one"), layers.Dense(6, "tanh", name="two")
        self.own = OwnRows(name="own")

    def call(self, x):
        return self.two(self.own(self.one(x)))


class OwnRows(layers.Layer):
    def call(self, x):
        return tf.map_fn(lambda row: row * tf.reduce_max(row), x)


@net(of_numbers(4), "rows/two", "first", forms=("plain", "copy"))
def with_a_shut_layer():
    inputs = keras.Input((4,), name="x")
    x = Rows(name="rows")(layers.Dense(5, "relu", name="first")(inputs))
    return keras.Model(inputs, head(x), name="with_a_shut_layer")


# Looking at nets -----------------------------------------------------------------------------------------------------


def flat(outputs):
    """All numbers of a structure of outputs, in float64."""
    arrays = [ops.convert_to_numpy(ops.cast(own, "float32")) for own in keras.tree.flatten(outputs)]
    return np.concatenate([own.reshape(len(own), -1) for own in arrays], -1).astype("float64")


def outputs_of(model, inputs):
    return flat(model(tensors(inputs), training=False))


def masked_outputs(masked, inputs, row):
    """The outputs of a masked model at a row of on_nodes."""
    given = [*keras.tree.flatten(tensors(inputs)), ops.convert_to_tensor(np.atleast_2d(row).astype("float32"))]
    return flat(masked(given, training=False))


def difference(one, other):
    return np.abs(one - other).max() / np.abs(one).max()


def mask_of(name, graph, seed=3, keep=0.6):
    """A mask that takes units from every group of a net of the table that can lose some."""
    return mask_of_graph(graph, seed, keep, NETS[name].whole)


def mask_of_graph(graph, seed=3, keep=0.6, whole=()):
    """A mask that takes units from every group but some."""
    generator = np.random.default_rng(seed)
    mask = {
        group: np.isin(np.arange(size), generator.permutation(size)[: max(1, int(keep * size))])
        for group, size in graph.sizes.items()
        if group not in whole
    }
    return LayerValues(mask)


# Code written with TensorFlow's functions -----------------------------------------------------------------------------


class OldTransformerBlock(layers.Layer):
    """Attention written by hand with TensorFlow's functions, as in tutorials before Keras 3."""

    def __init__(self, width, heads, wide, **kwargs):
        super().__init__(**kwargs)
        self.width, self.heads = width, heads
        self.query, self.key = layers.Dense(width, name="query"), layers.Dense(width, name="key")
        self.value, self.combine = layers.Dense(width, name="value"), layers.Dense(width, name="combine")
        self.up, self.down = layers.Dense(wide, name="up"), layers.Dense(width, name="down")
        self.norms = [layers.LayerNormalization(name=f"norm_{k}") for k in range(2)]

    def separated(self, x, batch):
        x = tf.reshape(x, (batch, -1, self.heads, self.width // self.heads))
        return tf.transpose(x, perm=[0, 2, 1, 3])

    def call(self, inputs, training=None):
        batch = tf.shape(inputs)[0]
        q, k, v = (self.separated(own(inputs), batch) for own in (self.query, self.key, self.value))
        score = tf.matmul(q, k, transpose_b=True) / tf.math.sqrt(tf.cast(tf.shape(k)[-1], tf.float32))
        attended = tf.transpose(tf.matmul(tf.nn.softmax(score, axis=-1), v), perm=[0, 2, 1, 3])
        x = self.norms[0](inputs + self.combine(tf.reshape(attended, (batch, -1, self.width))))
        if training:
            x = tf.nn.dropout(x, 0.1)
        return self.norms[1](x + self.down(tf.nn.gelu(self.up(x))))


class OldEncoder(layers.Layer):
    """Patches, a class token and positions, with `tf.image`, `tf.range`, `tf.broadcast_to` and a raw weight."""

    def __init__(self, patch, width, **kwargs):
        super().__init__(**kwargs)
        self.patch, self.width = patch, width
        self.project = layers.Dense(width, name="project")
        self.places = layers.Embedding(5, width, name="places")

    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, self.width), initializer="random_normal", name="token")
        super().build(shape)

    def call(self, images):
        own = [1, self.patch, self.patch, 1]
        patches = tf.image.extract_patches(images, sizes=own, strides=own, rates=[1, 1, 1, 1], padding="VALID")
        patches = tf.reshape(patches, [tf.shape(images)[0], -1, patches.shape[-1]])
        token = tf.broadcast_to(self.token, [tf.shape(images)[0], 1, self.width])
        x = tf.concat([token, self.project(patches)], axis=1)
        return x + self.places(tf.range(start=0, limit=5, delta=1))


@net(of_numbers(4, 4, 2), "block/up", "block/key", forms=("layers", "copy"))
def tensorflow_transformer():
    images = keras.Input((4, 4, 2), name="images")
    x = OldTransformerBlock(8, 2, 7, name="block")(OldEncoder(2, 8, name="encoder")(images))
    x = layers.Lambda(lambda t: tf.reduce_mean(t, axis=1), name="mean")(x)
    return keras.Model(images, head(x), name="tensorflow_transformer")


@net(of_numbers(4, 4, 2), "first", forms=("layers", "plain", "copy"))
def lambdas():
    images = keras.Input((4, 4, 2), name="images")
    x = layers.Conv2D(6, 3, padding="same", name="first")(images)
    x = layers.Lambda(lambda t: tf.nn.leaky_relu(t) * 0.5, name="leaky")(x)
    y = layers.Conv2D(6, 3, padding="same", name="second")(x)
    x = layers.Lambda(lambda pair: tf.add(pair[0], ops.tanh(pair[1])), name="sum")([x, y])
    x = layers.Lambda(lambda t: t * tf.constant(1.5), name="scaled")(x)
    x = layers.Lambda(tf.nn.relu, name="relu")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(images, head(x), name="lambdas")


@net(of_numbers(3, 3, 2), "features", forms=("layers", "plain", "copy"))
def finer_pictures():
    """Channels become places, as nets do that make pictures finer."""
    images = keras.Input((3, 3, 2), name="images")
    x = layers.Conv2D(5, 3, padding="same", activation="relu", name="features")(images)
    x = layers.Conv2D(8, 3, padding="same", name="channels")(x)
    x = layers.Lambda(lambda t: tf.nn.depth_to_space(t, 2), name="finer")(x)
    x = layers.Lambda(lambda t: tf.concat([t, -t], axis=-1), output_shape=(6, 6, 4), name="both")(x)
    return keras.Model(images, head(x), name="finer_pictures")


class Distance(keras.Model):
    """A subclassed model of two inputs, by TensorFlow's functions alone."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.one, self.two = layers.Dense(6, "relu", name="one"), layers.Dense(5, name="two")

    def call(self, inputs):
        a, b = (self.two(self.one(own)) for own in inputs)
        squares = tf.math.squared_difference(tf.nn.l2_normalize(a, -1), tf.math.l2_normalize(b, axis=-1))
        return tf.sqrt(tf.reduce_sum(squares, axis=1, keepdims=True) + 1e-6)


@net(
    lambda batch, length: [of_numbers(4)(batch, length), np.cos(of_numbers(4)(batch, length))],
    "one",
    forms=("plain", "copy"),
)
def distance_of_two():
    return Distance(name="distance_of_two")
