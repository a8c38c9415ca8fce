"""Find, erase and control neurons of a net that translates (Bau et al. 2019, Dalvi et al. 2019).

    python examples/translation_neurons.py [--quick true]
    python examples/translation_neurons.py --pairs en_es.tsv.gz [--workers 2]

Three nets learn to translate, each from its own share of the pairs: an encoder and a decoder of LSTM layers with
attention. ``--pairs`` names a file with a sentence, a tab and its translation on each line; without it, a small grammar
writes the pairs, and small nets learn them in some three minutes. Each training lies in a folder of its own; a second
start goes on where the first ended. ``--help`` lists all settings.
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

# What a setting is that is left open: for a file of pairs, and for sentences of the grammar.
_OPEN = {
    "max_words": (10, 20),
    "num_held_out": (1500, 500),
    "units": (500, 128),
    "dropout": (0.2, 0.0),
    "epochs": (10, 6),
    "batch_size": (64, 32),
    "learning_rate": (0.002, 0.008),
    "num_erasing": (300, 100),
    "num_control": (100, 50),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is learnt, and what is measured of it; what is left open depends on the pairs.

    Attributes:
        pairs: File of pairs of sentences, plain or .gz; without it, sentences of a grammar.
        num_pairs: How many sentences the grammar writes; a file is read whole.
        max_words: Longer sentences are left out; marks of punctuation count. 10 of a file.
        num_held_out: Pairs that no net learns from. 1500 of a file, 500 of the grammar.
        num_tokens: At most so many tokens of each language.
        seeds: One net each.
        share: Each net learns from its own random share of the other pairs; 1 for the same ones.
        units: Units of every layer. 500 for a file, 128 for the grammar.
        num_layers: LSTM layers of the encoder, and of the decoder.
        dropout: Chance of each number between layers. 0.2 for a file, 0 for the grammar.
        epochs: Length of a training. 10 for a file, 6 for the grammar.
        batch_size: Pairs of a step. 64 of a file, 32 of the grammar.
        learning_rate: Of Adam at the start; it falls to nothing along half a cosine. 0.002 for a file, 0.008 for the
            grammar.
        output: Where everything goes; output/translation or output/translation_grammar by default.
        workers: Trainings at the same time, each in a process; 0 makes one after the other in this process.
        num_erasing: Sentences that BLEU is measured on as neurons are erased. 300 of a file, 100 of the grammar.
        num_control: Sentences of a property that are translated under control, at most. 100 of a file, 50 of the
            grammar.
        repeats: Random orders of erasing.
        zs: Where the best neuron of a property is held, in standard deviations from its mean.
        betas: Multiples of the difference of class means that the best neurons are shifted by.
        shifted_share: Share of the neurons that are shifted.
        quick: Tiny nets that have hardly learnt, a look at tables and pictures and not a result.
    """

    pairs: Path | None = None
    num_pairs: int = 4000
    max_words: int | None = None
    num_held_out: int | None = None
    num_tokens: int = 4000
    seeds: tuple[int, ...] = (0, 1, 2)
    share: float = 0.75
    units: int | None = None
    num_layers: int = 2
    dropout: float | None = None
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    output: Path | None = None
    workers: int = 0
    num_erasing: int | None = None
    num_control: int | None = None
    repeats: int = 3
    zs: tuple[float, ...] = (-8.0, -5.0, -3.0, -1.0, 1.0, 3.0, 5.0, 8.0)
    betas: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
    shifted_share: float = 0.1
    quick: bool = False

    def __post_init__(self):
        counts = ("num_pairs", "max_words", "num_held_out", "num_tokens", "units", "num_layers", "epochs", "batch_size")
        for name in (*counts, "num_erasing", "num_control", "repeats"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"expected {name} of at least 1, received {value}")
        for name in ("share", "shifted_share"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"expected {name} above 0 and at most 1, received {getattr(self, name)}")
        if len(set(self.seeds)) < max(2, len(self.seeds)):
            raise ValueError(f"expected at least two different seeds, received {list(self.seeds)}")
        if not self.zs or not self.betas:
            raise ValueError("expected at least one of zs and one of betas")
        if self.workers < 0:
            raise ValueError(f"expected workers of at least 0, received {self.workers}")

    def filled(self) -> Settings:
        """The same with a value wherever it was left open."""
        place = 0 if self.pairs is not None else 1
        return dataclasses.replace(
            self, **{name: values[place] for name, values in _OPEN.items() if getattr(self, name) is None}
        )

    def shortened(self) -> Settings:
        """Two tiny nets, few sentences and doses."""
        tiny = {"pairs": None, "num_pairs": 400, "num_held_out": 100, "seeds": self.seeds[:2], "units": 24, "epochs": 1}
        few = {"num_erasing": 8, "num_control": 8, "repeats": 1, "zs": (3.0,), "betas": (2.0,)}
        return dataclasses.replace(self, **tiny, **few)


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
    doses = {"zs": settings.zs, "betas": settings.betas, "share": settings.shifted_share}
    findings = [control(nets, wanted, num_sentences=settings.num_control, **doses) for wanted in properties]
    for wanted, found in zip(properties, findings, strict=True):
        if found is None:
            console.print(f"{wanted.name}: no translation of the net says {wanted.source} where it should.")
    findings = [found for found in findings if found is not None]
    console.print(control_table(findings))
    if findings:
        draw_control(findings, folder)
        draw_texts(nets, findings, folder)
    with atomic_write(folder / "results.json") as temporary:
        told = summary(histories, bleu, rankings, curves, findings)
        temporary.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    settings = read_settings(Settings, arguments, description=__doc__.split("\n")[0])
    settings = (settings.shortened() if settings.quick else settings).filled()
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
