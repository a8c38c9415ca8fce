"""Backbones of keras_hub, small ones of each family, half of the units of every group removed: docs/transformers.md.

`python benchmarks/backbones.py` prints the table, `--write` puts it into the file (needs `tfprune[hub]`).
"""

import argparse
import os
import sys
import time
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from keras import tree

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from hub_nets import BACKBONES, difference, half_of_feed_forward, inputs_of, moved  # noqa: E402

import tfprune as tfp  # noqa: E402

FILE = Path(__file__).parents[1] / "docs" / "transformers.md"
HEAD = """# The backbones of keras_hub, half of the units of every group removed

Small ones of each family, built from numbers alone (two layers of width 32 with 4 heads and 48 feed-forward units,
where the family has such), with random weights. A layer of keras_hub is made of layers; it is opened, so that its units
are found like those of any other layer. Groups: *feed-forward* (48 units each), *heads* (as many units as heads; of
grouped queries a key-value head with its queries), *inside heads* (channels of keys with queries, or of values),
*width* (the stream that blocks add to), *other*. *Blocks* are the residual branches that can go. Left:
`keep_top(weight_norm, 0.5, uniform=True)` of all groups. Form: where the result lives, see `remove`; in brackets where
half of the feed-forward units alone go, and where the last half of the layers goes (`keep_layers`), which a constructor
can mostly say. The difference is the largest one between a removed and the masked model's outputs, of the three cuts,
relative to the largest output, float32. Made by `python benchmarks/backbones.py --write`.

| family | feed-forward | heads | inside heads | width | other | blocks | parameters | left | form | difference |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---|---:|
"""
KINDS = ("feed-forward", "heads", "inside heads", "width", "other")
REASONS = {
    "XLNet": "its table of positions is reshaped across the samples: what it computes hangs on the size of the batch",
    "StableDiffusion3": "its diffuser is called with timesteps of another rank than it was built for",
}


def kind_of(group):
    """Returns which kind of units a group of one of these nets is."""
    if group.size == 48:
        return "feed-forward"
    if any(part in group.name for part in ("attention", "attn", "mha")):
        return "heads" if group.size in (2, 4) else "inside heads"
    return "width" if len(group.members) > 3 or (group.size == 32 and "embedding" in group.name) else "other"


def row_of(name):
    """Returns the row of a family in the table."""
    model = moved(BACKBONES[name]())
    x = inputs_of(model)
    graph = tfp.unit_groups(model)
    if not len(graph):
        return _refused(name, REASONS.get(name) or next(iter(graph.walls.values())))
    counts = [sum(kind_of(group) == kind for group in graph.values()) for kind in KINDS]
    counts.append(len(graph.blocks))
    masks = [tfp.keep_top(tfp.saliency.weight_norm(model), 0.5, uniform=True), half_of_feed_forward(graph)]
    if len(graph.layers_of_blocks) > 1:
        last = {graph.blocks_name: -np.arange(len(graph.blocks), dtype=float)}
        masks.append(tfp.keep_layers(model, last, len(graph.layers_of_blocks) // 2))
    masked = tfp.with_on_nodes(model, [*graph, *([graph.blocks_name] if graph.blocks else [])])
    everything = {name: np.ones(size, bool) for name, size in graph.sizes_with_blocks.items()}
    forms, found, left = [], 0.0, 0
    for mask in filter(len, masks):
        off = masked([*tree.flatten(x), graph.on_nodes({**everything, **mask})], training=False)
        small = tfp.remove(model, mask)
        found = max(found, difference(small(x, training=False), off))
        left = left or small.count_params()
        forms.append(form_of(small))
    form = forms[0] + (f" ({', '.join(forms[1:])})" if len(set(forms)) > 1 else "")
    cells = [*(str(count or "") for count in counts), f"{model.count_params():,}", f"{left:,}"]
    return f"| {name} | {' | '.join(cells)} | {form} | {found:.2g} |"


def form_of(model):
    try:
        return tfp.form_of(model).name
    except ValueError:  # A model of layers that are all known.
        return "plain"


def _refused(name, reason):
    return f"| {name} | not read: {reason} | | | | | | | | | |"


def table(names, say=print):
    rows = []
    for name in names:
        start = time.perf_counter()
        try:
            rows.append(row_of(name))
        except Exception as error:
            if name not in REASONS:
                raise
            rows.append(_refused(name, REASONS[name]))
            say(f"{type(error).__name__}: {error}"[:200])
        say(f"{rows[-1]}  {time.perf_counter() - start:.1f} s")
    return HEAD + "\n".join(rows) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="puts the table of all families into docs/transformers.md")
    parser.add_argument("names", nargs="*", help="families, instead of all")
    options = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = table(options.names or BACKBONES, lambda line: print(line, flush=True))
    if options.write and not options.names:
        FILE.write_text(text)


if __name__ == "__main__":
    main()
