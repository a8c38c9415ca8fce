"""Find, erase and control neurons of a net that translates (Bau et al. 2019, Dalvi et al. 2019).

    python examples/translation_neurons.py --pairs en_es.tsv.gz [--workers 2]
    python examples/translation_neurons.py --quick true

Three nets learn to translate, each from its own share of the pairs: an encoder and a decoder of LSTM layers with
attention. ``--pairs`` names a file with a sentence, a tab and its translation on each line; without it, a small grammar
writes the pairs. Each training lies in a folder of its own; a second start goes on where the first ended.
``--help`` lists all settings.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import keras
from rich.console import Console
from support.settings import read_settings, save_settings
from support.translation_data import Languages
from support.translation_decoding import Translator
from support.translation_model import CHECKPOINT, load_parts, train
from support.translation_properties import GRAMMAR, TEXT
from support.translation_report import (
    control_table,
    draw_control,
    draw_erasing,
    draw_texts,
    erasing_table,
    summary,
    training_table,
)
from support.translation_study import Nets, control, erase, rank

from tfprune import experiments
from tfprune.files import atomic_write, check_writable_folder

_COUNTS = (
    "num_pairs",
    "max_words",
    "num_held_out",
    "units",
    "num_layers",
    "epochs",
    "batch_size",
    "num_erasing",
    "num_control",
    "repeats",
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is learnt, and what is measured of it.

    Attributes:
        pairs: File of pairs of sentences, plain or .gz; without it, sentences of a grammar.
        num_pairs: How many sentences the grammar writes; a file is read whole.
        max_words: Longer sentences are left out; marks of punctuation count.
        num_held_out: Pairs that no net learns from.
        num_tokens: At most so many tokens of each language.
        seeds: One net each.
        share: Each net learns from its own random share of the other pairs; 1 for the same ones.
        units: Units of every layer.
        num_layers: LSTM layers of the encoder, and of the decoder.
        dropout: Chance of each number between layers.
        epochs: Length of a training.
        batch_size: Pairs of a step.
        learning_rate: Of Adam at the start; it falls to nothing along half a cosine.
        output: Where everything goes; output/translation or output/translation_grammar by default.
        workers: Trainings at the same time, each in a process; 0 makes one after the other in this process.
        num_erasing: Sentences that BLEU is measured on as neurons are erased.
        num_control: Sentences of a property that are translated under control, at most.
        repeats: Random orders of erasing.
        zs: Where the best neuron of a property is held, in standard deviations from its mean.
        betas: Multiples of the difference of class means that the best neurons are shifted by.
        shifted_share: Share of the neurons that are shifted.
        quick: Small nets on sentences of the grammar, a look and not a result.
    """

    pairs: Path | None = None
    num_pairs: int = 10000
    max_words: int = 10
    num_held_out: int = 1500
    num_tokens: int = 4000
    seeds: tuple[int, ...] = (0, 1, 2)
    share: float = 0.75
    units: int = 500
    num_layers: int = 2
    dropout: float = 0.2
    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 0.002
    output: Path | None = None
    workers: int = 0
    num_erasing: int = 300
    num_control: int = 100
    repeats: int = 3
    zs: tuple[float, ...] = (-10.0, -5.0, -3.0, -1.0, 1.0, 3.0, 5.0, 10.0)
    betas: tuple[float, ...] = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
    shifted_share: float = 0.1
    quick: bool = False

    def __post_init__(self):
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, received {getattr(self, name)}")
        for name in ("share", "shifted_share"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"expected {name} above 0 and at most 1, received {getattr(self, name)}")
        if len(set(self.seeds)) < max(2, len(self.seeds)):
            raise ValueError(f"expected at least two different seeds, received {list(self.seeds)}")
        if self.workers < 0:
            raise ValueError(f"expected workers of at least 0, received {self.workers}")

    def shortened(self) -> Settings:
        """Small nets, few sentences."""
        return dataclasses.replace(
            self,
            pairs=None,
            num_pairs=4000,
            max_words=20,
            num_held_out=500,
            units=64,
            epochs=4,
            batch_size=32,
            learning_rate=0.02,
            dropout=0.0,
            num_erasing=60,
            num_control=30,
            repeats=1,
            zs=(-5.0, -2.0, 2.0, 5.0),
            betas=(1.0, 2.0, 4.0),
        )


def task(settings: Settings) -> dict:
    """The settings that say what there is to translate."""
    pairs = None if settings.pairs is None else str(settings.pairs.resolve())
    return {"pairs": pairs} | {name: getattr(settings, name) for name in ("num_pairs", "max_words", "num_held_out")}


def train_all(settings: Settings, folder: Path) -> experiments.GridResults:
    """Makes what trainings are missing."""
    names = ("share", "units", "num_layers", "dropout", "epochs", "batch_size", "learning_rate")
    in_process = concurrent.futures.ThreadPoolExecutor(1) if settings.workers == 0 else contextlib.nullcontext()
    with in_process as executor:
        return experiments.grid(
            train,
            {"seed": list(settings.seeds)},
            executor,
            folder=folder / "trainings",
            fixed=task(settings) | {name: getattr(settings, name) for name in names},
            pass_folder=True,
            num_workers=settings.workers or None,
        )


def load_nets(settings: Settings, folder: Path, trainings: experiments.GridResults) -> Nets:
    """The trained nets and what they have not seen."""
    languages = Languages.load(folder)
    parts = load_parts(**task(settings))
    longest = max(len(languages.target.numbers(pair.target)) for pair in parts.held_out)
    return Nets(
        [keras.models.load_model(run.folder / CHECKPOINT, compile=False) for run in trainings],
        languages,
        # Room for a translation that takes more words than the true one.
        Translator(languages, longest + 5),
        parts.held_out,
        f"encoder_{settings.num_layers}",
    )


def study(settings: Settings, folder: Path, trainings: experiments.GridResults, console: Console) -> None:
    """Ranks, erases and controls, prints the tables and draws the pictures."""
    nets = load_nets(settings, folder, trainings)
    histories = {run.settings["seed"]: run.result for run in trainings}
    bleu = nets.bleu(settings.num_erasing)
    console.print(training_table(histories, bleu))
    properties = GRAMMAR if settings.pairs is None else TEXT
    rankings = rank(nets, properties[0])
    console.print(
        f"The first two nets share {len(rankings.directions)} directions, similarity {rankings.similarity:.2f}."
    )
    curves = erase(nets, rankings, settings.num_erasing, settings.repeats)
    console.print(erasing_table(curves, nets.layer))
    draw_erasing(curves, nets.layer, folder)
    findings = [
        control(
            nets,
            wanted,
            num_sentences=settings.num_control,
            zs=settings.zs,
            betas=settings.betas,
            share=settings.shifted_share,
        )
        for wanted in properties
    ]
    console.print(control_table(findings))
    draw_control(findings, folder)
    draw_texts(nets, findings, folder)
    with atomic_write(folder / "results.json") as temporary:
        told = summary(histories, bleu, rankings, curves, findings)
        temporary.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    settings = read_settings(Settings, arguments, description=__doc__.split("\n")[0])
    if settings.quick:
        settings = settings.shortened()
    name = "translation_grammar" if settings.pairs is None else "translation"
    folder = check_writable_folder(settings.output or Path("output") / name)
    parts = load_parts(**task(settings))
    save_settings(settings, folder)
    if not (folder / "tokens_target.json").is_file():
        Languages.learn(parts.training, settings.num_tokens).save(folder)
    trainings = train_all(settings, folder)
    console = Console(width=170)
    study(settings, folder, trainings, console)
    console.print(f"Nets, records, settings and pictures are in {folder}.")


if __name__ == "__main__":
    main()
