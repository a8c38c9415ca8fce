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
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from support.settings import read_settings, save_settings
from support.translation_data import Languages
from support.translation_model import load_parts, train

from tfprune import experiments
from tfprune.files import check_writable_folder


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
        quick: Small nets on sentences of the grammar, a look and not a result.
    """

    pairs: Path | None = None
    num_pairs: int = 10000
    max_words: int = 10
    num_held_out: int = 2000
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
    quick: bool = False

    def __post_init__(self):
        for name in ("num_pairs", "max_words", "num_held_out", "units", "num_layers", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, received {getattr(self, name)}")
        if not 0.0 < self.share <= 1.0:
            raise ValueError(f"expected a share above 0 and at most 1, received {self.share}")
        if len(set(self.seeds)) < max(2, len(self.seeds)):
            raise ValueError(f"expected at least two different seeds, received {list(self.seeds)}")
        if self.workers < 0:
            raise ValueError(f"expected workers of at least 0, received {self.workers}")


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


def main(arguments: Sequence[str] | None = None) -> None:
    settings = read_settings(Settings, arguments, description=__doc__.split("\n")[0])
    name = "translation_grammar" if settings.pairs is None else "translation"
    folder = check_writable_folder(settings.output or Path("output") / name)
    parts = load_parts(**task(settings))
    save_settings(settings, folder)
    if not (folder / "tokens_target.json").is_file():
        Languages.learn(parts.training, settings.num_tokens).save(folder)
    trainings = train_all(settings, folder)
    console = Console(width=150)
    console.print(trainings)


if __name__ == "__main__":
    main()
