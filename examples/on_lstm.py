"""Ordered neurons: an ON-LSTM and an LSTM of equal size as language models, and what the master gates know of trees.

    python examples/on_lstm.py                                                  # generated brackets, three minutes
    python examples/on_lstm.py --text book.txt --encoding latin-1
    python examples/on_lstm.py --config examples/settings/on_lstm.yaml --text book.txt.gz            # under an hour

The brackets come from a process whose probabilities are known, so that perplexity has a floor and every token a depth.
A text has one sentence to a line and may be packed by gzip. Each training lies in a folder of its own; a second start
goes on where the first ended. ``--help`` lists all settings.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from support import on_lstm_report as report
from support.on_lstm_corpora import Corpus, read_text
from support.on_lstm_study import Sizes, load, train
from support.on_lstm_trees import tree_of, written
from support.settings import read_settings, save_settings

from tfprune import experiments
from tfprune.files import atomic_write, check_writable_folder


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is trained.

    Attributes:
        seeds: One training of each net for each.
        brackets: How large nets and corpus are for the generated brackets, and how long they learn.
        text_sizes: The same for a text.
        text: File of a text, one sentence to a line; without it there are the brackets alone.
        encoding: Encoding of the text.
        output: Folder of records and pictures.
        workers: Trainings at the same time, each in a process; 0 makes one after the other in this process.
    """

    seeds: list[int] = dataclasses.field(default_factory=lambda: [0])
    brackets: Sizes = dataclasses.field(default_factory=Sizes)
    text_sizes: Sizes = dataclasses.field(
        default_factory=lambda: Sizes(units=128, dropout=0.2, learning_rate=0.012, epochs=3, length=32)
    )
    text: Path | None = None
    encoding: str = "utf-8"
    output: str = "output/on_lstm"
    workers: int = 0

    def __post_init__(self):
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: expected at least one, all different, received {self.seeds}.")
        if self.workers < 0:
            raise ValueError(f"workers: expected at least 0, received {self.workers}.")
        for sizes in (self.brackets, self.text_sizes):
            sizes.check()
        if self.text is not None:
            read_text(self.text, self.encoding)

    @property
    def sizes(self) -> dict[str, Sizes]:
        """The sizes by corpus."""
        return {"brackets": self.brackets} | ({"text": self.text_sizes} if self.text is not None else {})


def train_all(settings: Settings, corpus: str, folder: Path) -> experiments.GridResults:
    """Makes what trainings are missing."""
    in_process = concurrent.futures.ThreadPoolExecutor(1) if settings.workers == 0 else contextlib.nullcontext()
    fixed = {"corpus": corpus, "text": None, "encoding": None, "sizes": dataclasses.asdict(settings.sizes[corpus])}
    if corpus == "text":
        fixed |= {"text": str(settings.text.resolve()), "encoding": settings.encoding}
    with in_process as executor:
        return experiments.grid(
            train,
            {"seed": settings.seeds, "net": list(report.NETS)},
            executor,
            folder=folder / "trainings" / corpus,
            fixed=fixed,
            pass_folder=True,
            num_workers=settings.workers or None,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    settings = read_settings(Settings, arguments, description=__doc__.split("\n")[0])
    folder = check_writable_folder(settings.output)
    save_settings(settings, folder)
    path = None if settings.text is None else str(settings.text)
    held = {corpus: load(corpus, path, settings.encoding, sizes) for corpus, sizes in settings.sizes.items()}
    found = {corpus: train_all(settings, corpus, folder) for corpus in held}
    console = Console(width=120)
    for corpus, own in held.items():
        show(found[corpus], corpus, own, console)
    report.draw_curves(found, held, folder / "perplexity.png")
    first = {corpus: runs[0] for corpus in held if (runs := report.of(found[corpus], "on_lstm"))}
    if "brackets" in first:
        report.draw_depth(first["brackets"], held["brackets"], folder / "depth.png")
    if first:
        report.draw_trees(first, held, folder / "trees.png")
        save_distances(first, held, folder)
    console.print(f"Records, settings and pictures are in {folder}.")


def show(results: experiments.GridResults, corpus: str, held: Corpus, console: Console) -> None:
    console.print(report.perplexity_table(results, corpus, held))
    runs = report.of(results, "on_lstm")
    if runs:
        console.print(report.dead_table(runs, corpus))
        console.print(report.gates_table(runs, corpus, held))
        tokens, own = report.one_tree(runs[0], held)
        console.print(f"A tree, {corpus}: {written(tree_of(own), tokens)}\n", markup=False, highlight=False)


def save_distances(first: dict[str, dict], held: dict[str, Corpus], folder: Path) -> None:
    """Tokens, depths and distances of the first test sentences, for pictures of one's own."""
    arrays = {}
    for corpus, result in first.items():
        count = len(result["second/distances"])
        arrays[f"{corpus}/tokens"] = np.array(held[corpus].vocabulary)[held[corpus].test[:count]]
        arrays |= {f"{corpus}/{layer}": result[f"{layer}/distances"] for layer in ("first", "second")}
        if held[corpus].depth is not None:
            arrays[f"{corpus}/depth"] = held[corpus].depth[:count]
    with atomic_write(folder / "distances.npz") as temporary:
        np.savez_compressed(temporary, **arrays)


if __name__ == "__main__":
    main()
