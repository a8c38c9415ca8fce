"""The study of a causal language model: trained, cut in depth and width by several scores, repaired, trained again."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from support.language_corpora import Corpus, load

import tfprune as tfp
from tfprune import LayerValues
from tfprune.graph import count_parameters

KINDS = ("feed-forward", "heads", "width", "blocks", "layers")
SCORES = {
    **dict.fromkeys(KINDS[:3], ("random", "weight_norm", "activation_std", "on_nodes_gradient", "least_squares")),
    **dict.fromkeys(KINDS[3:], ("on_nodes_gradient", "loss_change")),
}
"""The scores that say something of each kind of units, the last one always taken."""
BEST = {kind: scores[-1] for kind, scores in SCORES.items()}
"""The score with which each kind is trained again, and generates."""
NETS = ("llama", "gpt2")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large the net and the corpus are, and how long it learns.

    Attributes:
        num_layers: Layers of the transformer.
        num_heads: Heads of attention in each.
        hidden_dim: Width of the residual stream, a multiple of twice the heads.
        intermediate_dim: Units of each feed-forward part.
        num_tokens: Tokens to choose from at most.
        length: Tokens of a row.
        num_sentences: Sentences of the corpus, of which a twentieth is held out.
        epochs: Times through the training rows.
        batch_size: Rows of a step.
        learning_rate: Of AdamW; it rises for a tenth of the steps and falls by cosine.
        steps_after: Steps of the short training of what was cut.
        num_scored: Training rows that scores and repairs look at.
        num_tested: Held-out rows that perplexity is measured on at most.
    """

    num_layers: int = 3
    num_heads: int = 4
    hidden_dim: int = 40
    intermediate_dim: int = 64
    num_tokens: int = 400
    length: int = 32
    num_sentences: int = 2000
    epochs: int = 4
    batch_size: int = 32
    learning_rate: float = 4e-3
    steps_after: int = 15
    num_scored: int = 64
    num_tested: int = 48

    def check(self) -> None:
        """Raises ValueError if a size is none."""
        for field in dataclasses.fields(self):
            if getattr(self, field.name) <= 0:
                raise ValueError(f"{field.name}: expected more than 0, received {getattr(self, field.name)}.")
        if self.hidden_dim % (2 * self.num_heads):
            raise ValueError(
                f"hidden_dim: expected a multiple of {2 * self.num_heads}, twice the heads, received {self.hidden_dim}."
            )


def corpus_of(text: str | None, encoding: str, sizes: Sizes) -> Corpus:
    """The corpus of a study."""
    return load(text, encoding, sizes.num_sentences, sizes.num_tokens, sizes.length)


def build(net: str, num_tokens: int, sizes: Sizes) -> keras.Model:
    """A causal language model of keras_hub with random weights."""
    import keras_hub

    shared = {
        "vocabulary_size": num_tokens,
        "num_layers": sizes.num_layers,
        "hidden_dim": sizes.hidden_dim,
        "intermediate_dim": sizes.intermediate_dim,
    }
    if net == "gpt2":
        backbone = keras_hub.models.GPT2Backbone(
            num_heads=sizes.num_heads, max_sequence_length=2 * sizes.length, dropout=0.1, **shared
        )
        return keras_hub.models.GPT2CausalLM(backbone)
    heads = {"num_query_heads": sizes.num_heads, "num_key_value_heads": sizes.num_heads}
    return keras_hub.models.LlamaCausalLM(keras_hub.models.LlamaBackbone(**heads, **shared))


def inputs_and_targets(rows: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What the net reads, and what it is to say at every place."""
    return {"token_ids": rows[:, :-1], "padding_mask": np.ones_like(rows[:, :-1])}, rows[:, 1:]


def compile_for(model: keras.Model, learning_rate: float, num_steps: int) -> None:
    """Compiles a net for so many steps."""
    warm = max(1, num_steps // 10)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, num_steps - warm), alpha=0.05, warmup_target=learning_rate, warmup_steps=warm
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=0.01, clipnorm=1.0)
    if hasattr(model, "generate"):
        model.compile(optimizer=optimizer, loss=LOSS, weighted_metrics=[], jit_compile=False, sampler="greedy")
    else:
        model.compile(optimizer=optimizer, loss=LOSS, jit_compile=False)


def train(
    seed: int, *, net: str, text: str | None, encoding: str, sizes: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """Trains one net and keeps it in `folder/model.keras`.

    Returns:
        Parameters, tokens, perplexity of the held-out rows after every epoch.
    """
    sizes = Sizes(**sizes)
    corpus = corpus_of(text, encoding, sizes)
    keras.utils.set_random_seed(seed)
    model = build(net, corpus.num_tokens, sizes)
    x, y = inputs_and_targets(corpus.training)
    compile_for(model, sizes.learning_rate, sizes.epochs * -(-len(y) // sizes.batch_size))
    curve = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: curve.append(perplexity(model, corpus, sizes))
    )
    model.fit(x, y, batch_size=sizes.batch_size, epochs=sizes.epochs, verbose=0, callbacks=[watch])
    model.save(folder / "model.keras")
    return {"parameters": model.count_params(), "num_tokens": corpus.num_tokens, "curve": curve}


def perplexity(model: keras.Model, corpus: Corpus, sizes: Sizes) -> float:
    """The perplexity of the held-out rows."""
    x, y = inputs_and_targets(corpus.held_out[: sizes.num_tested])

    @tf.function(reduce_retracing=True)
    def losses(x: Any, y: Any) -> Any:
        return tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(x, training=False)))

    total = 0.0
    for start in range(0, len(y), sizes.batch_size):
        rows = slice(start, start + sizes.batch_size)
        total += float(losses({name: tf.constant(own[rows]) for name, own in x.items()}, tf.constant(y[rows])))
    return math.exp(min(total / y.size, 50.0))


# Cutting --------------------------------------------------------------------------------------------------------------


def groups_of(graph: tfp.UnitGraph, kind: str, sizes: Sizes) -> list[str]:
    """The names of the groups of one kind."""
    if kind in ("blocks", "layers"):
        return [graph.blocks_name]
    if kind == "width":
        return [name for name, group in graph.items() if any("embedding" in own.name for own in group.members)][:1]
    inside = [name for name in graph if "transformer_layer" in name]
    if kind == "heads":
        return [name for name in inside if "attention" in name and graph[name].size == sizes.num_heads]
    return [name for name in inside if "feedforward" in name]


def scores_of(model: keras.Model, kind: str, score: str, corpus: Corpus, sizes: Sizes, seed: int) -> LayerValues:
    """Scores of the units of one kind."""
    groups = groups_of(tfp.unit_groups(model), kind, sizes)
    data = inputs_and_targets(corpus.training[: sizes.num_scored])
    options: dict[str, Any] = {"layers": groups}
    if score == "random":
        return tfp.saliency.random(model, seed=seed, **options)
    if score in ("on_nodes_gradient", "loss_change"):
        options["loss"] = LOSS
    return getattr(tfp.saliency, score)(model, None if score == "weight_norm" else data, **options)


def mask_of(model: keras.Model, kind: str, scores: LayerValues, share: float) -> LayerValues | None:
    """The mask that takes a share of the units of a kind; None where that would be none, or all layers."""
    if kind == "layers":
        layers = len(tfp.unit_groups(model).layers_of_blocks)
        gone = int(layers * share)
        return tfp.keep_layers(model, scores, layers - gone) if 0 < gone < layers else None
    mask = tfp.keep_top(scores, share, uniform=kind in ("feed-forward", "heads"))
    return None if mask.flat.all() else mask


def trained(study: dict[str, Any], seed: int) -> tuple[keras.Model, Corpus, Sizes]:
    """The trained net of a seed, what it has learned from, and their sizes."""
    sizes = Sizes(**study["sizes"])
    return read(study["models"][str(seed)]), corpus_of(study["text"], study["encoding"], sizes), sizes


def cut(kind: str, score: str, seed: int, *, study: dict[str, Any], shares: list[float]) -> dict[str, Any]:
    """Cuts one kind of units by one score at every share, without training.

    Args:
        kind: One of `KINDS`.
        score: One of its `SCORES`.
        seed: Of the training, and of random scores.
        study: Text, encoding and sizes of the trainings, and "models", the files of the trained nets by seed.
        shares: What fraction of the units goes.

    Returns:
        For each share, None where nothing goes: parameters, and perplexity with the repairs "zero", which is that of
        the masked net, and "least_squares".
    """
    whole, corpus, sizes = trained(study, seed)
    graph, scores = tfp.unit_groups(whole), scores_of(whole, kind, score, corpus, sizes, seed)
    masks = [mask_of(whole, kind, scores, share) for share in shares]
    swept = tfp.sweep(
        whole,
        inputs_and_targets(corpus.held_out[: sizes.num_tested]),
        [mask for mask in masks if mask is not None],
        layers=groups_of(graph, kind, sizes),
        loss=LOSS,
        gradients=False,
        progress=False,
    )
    losses, found = iter(swept.losses.tolist()), []
    for mask in masks:
        if mask is None:
            found.append(None)
            continue
        own = {"parameters": count_parameters(graph, mask), "zero": math.exp(min(next(losses), 50.0))}
        found.append(own | {"least_squares": perplexity(removed(whole, mask, corpus, sizes), corpus, sizes)})
    return {"cuts": found}


def removed(whole: keras.Model, mask: LayerValues, corpus: Corpus, sizes: Sizes) -> keras.Model:
    """The smaller net, repaired by least squares."""
    data = inputs_and_targets(corpus.training[: sizes.num_scored])[0]
    with warnings.catch_warnings():
        # Of rows of many tokens few are enough; the table of tokens is read by no kernel that could be fitted.
        warnings.filterwarnings("ignore", message=".*(below 300 it may lose|have a form that no repair knows)")
        return tfp.remove(whole, mask, repair="least_squares", data=data)


def again(kind: str, seed: int, *, study: dict[str, Any], shares: list[float]) -> dict[str, Any]:
    """Cuts one kind of units, by least squares or, blocks and layers, by loss change, repairs and trains a little.

    Args: as for `cut`.

    Returns:
        For each share, None where nothing goes: parameters, the form of the net, and its perplexity.
    """
    whole, corpus, sizes = trained(study, seed)
    scores = scores_of(whole, kind, BEST[kind], corpus, sizes, seed)
    found = []
    for share in shares:
        mask = mask_of(whole, kind, scores, share)
        if mask is None:
            found.append(None)
            continue
        small = removed(whole, mask, corpus, sizes)
        own = {"parameters": small.count_params(), "form": tfp.form_of(small).name}
        found.append(own | {"trained": train_again(small, corpus, sizes)})
    return {"cuts": found}


def train_again(model: keras.Model, corpus: Corpus, sizes: Sizes) -> float:
    """Trains a cut net for a few steps; returns its perplexity."""
    keras.utils.set_random_seed(0)
    compile_for(model, sizes.learning_rate / 4, sizes.steps_after)
    generator = np.random.default_rng(0)
    order = generator.integers(0, len(corpus.training), sizes.steps_after * sizes.batch_size)
    x, y = inputs_and_targets(corpus.training[order])
    model.fit(x, y, batch_size=sizes.batch_size, epochs=1, shuffle=False, verbose=0)
    return perplexity(model, corpus, sizes)


@functools.lru_cache(maxsize=1)
def read(path: str) -> keras.Model:
    """A trained net; read once for all that is cut from it."""
    import keras_hub  # noqa: F401  (its classes must be known)

    return keras.saving.load_model(path, compile=False)


# Looking into it ------------------------------------------------------------------------------------------------------


def look(seed: int, *, study: dict[str, Any], share: float) -> dict[str, Any]:
    """What each head and each block is worth, and what generating costs before and after.

    Returns:
        "heads" `(layers, heads)` and "blocks" `(layers, 2)`, the change of the held-out loss when one is off; for the
        whole net, and without a share of feed-forward units, of layers and of both, which keep the class: parameters,
        tokens per second, bytes of the weights and of the cache of a sequence, and what it says to the prompts.
    """
    whole, corpus, sizes = trained(study, seed)
    graph = tfp.unit_groups(whole)
    data = inputs_and_targets(corpus.held_out[: sizes.num_tested])
    heads = tfp.saliency.loss_change(whole, data, layers=groups_of(graph, "heads", sizes), loss=LOSS)
    blocks = tfp.saliency.loss_change(whole, data, layers=graph.blocks_name, loss=LOSS)[graph.blocks_name]
    result = {"heads": np.stack(list(heads.values())), "blocks": blocks.reshape(sizes.num_layers, -1)}
    said = {"whole": speed(whole, corpus, sizes)}
    masks = {}
    for kind in ("feed-forward", "layers"):
        mask = mask_of(whole, kind, scores_of(whole, kind, BEST[kind], corpus, sizes, seed), share)
        masks |= {kind: mask} if mask is not None else {}
    if len(masks) == 2:
        masks["feed-forward and layers"] = LayerValues({**masks["feed-forward"], **masks["layers"]})
    for kind, mask in masks.items():
        small = removed(whole, mask, corpus, sizes)
        train_again(small, corpus, sizes)
        said[kind] = speed(small, corpus, sizes)
    return result | {"said": said}


def speed(model: keras.Model, corpus: Corpus, sizes: Sizes, repeats: int = 3) -> dict[str, Any]:
    """Generates from the prompts; the median speed of so many times."""
    compile_for(model, sizes.learning_rate, 1)
    rows = [corpus.ids(prompt)[: sizes.length // 2] for prompt in corpus.prompts]
    tokens = np.zeros((len(rows), sizes.length), "int32")
    known = np.zeros_like(tokens)
    for number, row in enumerate(rows):
        tokens[number, : len(row)], known[number, : len(row)] = row, 1
    given = {"token_ids": tokens, "padding_mask": known}
    outputs = model.generate(given, stop_token_ids=None)
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        model.generate(given, stop_token_ids=None)
        seconds.append(time.perf_counter() - begin)
    new = int(tokens.size - known.sum())
    backbone = model.backbone
    heads = getattr(backbone, "num_key_value_heads", None) or backbone.num_heads
    width = sizes.hidden_dim // sizes.num_heads
    return {
        "parameters": model.count_params(),
        "tokens_per_second": new / float(np.median(seconds)),
        "weight_bytes": int(sum(np.prod(own.shape) * 4 for own in model.weights)),
        "cache_bytes": int(2 * backbone.num_layers * heads * width * sizes.length * 4),
        "texts": [corpus.text(row) for row in np.asarray(outputs["token_ids"])],
        "perplexity": perplexity(model, corpus, sizes),
    }
