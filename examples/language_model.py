"""A small language model of keras_hub, cut in depth and in width: what its heads, units and blocks are worth.

    python examples/language_model.py                                           # generated sentences, three minutes
    python examples/language_model.py --text book.txt --encoding latin-1
    python examples/language_model.py --config examples/settings/language_model.yaml --text book.txt.gz  # under an hour

Needs keras_hub: ``pip install "tfprune[hub,examples]"``. A Llama or a GPT-2 with random weights learns a text; then
feed-forward units, heads, the width of the residual stream, single blocks and whole layers are cut by several scores,
repaired, and trained for a few steps. A text has one sentence to a line and may be packed by gzip. Everything lies in
folders of its own; a second start goes on where the first ended. ``--help`` lists all settings.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from support import language_report as report
from support.language_study import BEST, KINDS, NETS, SCORES, Sizes, again, corpus_of, cut, look, train
from support.on_lstm_corpora import read_text
from support.settings import read_settings, save_settings

from tfprune import experiments
from tfprune.files import check_writable_folder


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is trained and cut.

    Attributes:
        net: llama or gpt2.
        seeds: One training for each.
        sizes: How large net and corpus are, and how long it learns.
        shares: What fractions of the units go.
        kinds: What is cut.
        scores: By what units are chosen, beside least squares; blocks and layers by gradient and loss change.
        share_said: The fraction without which the nets generate text.
        text: File of a text, one sentence to a line; without it sentences are generated.
        encoding: Encoding of the text.
        output: Folder of records and pictures.
        workers: Runs at the same time, each in a process; 0 makes one after the other in this process.
    """

    net: str = "llama"
    seeds: list[int] = dataclasses.field(default_factory=lambda: [0])
    sizes: Sizes = dataclasses.field(default_factory=Sizes)
    shares: list[float] = dataclasses.field(default_factory=lambda: [0.5])
    kinds: list[str] = dataclasses.field(default_factory=lambda: list(KINDS))
    scores: list[str] = dataclasses.field(default_factory=lambda: ["on_nodes_gradient"])
    share_said: float = 0.5
    text: Path | None = None
    encoding: str = "utf-8"
    output: str = "output/language_model"
    workers: int = 0

    def __post_init__(self):
        if self.net not in NETS:
            raise ValueError(f"net: expected one of {', '.join(NETS)}, received {self.net!r}.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: expected at least one, all different, received {self.seeds}.")
        if not self.shares or not all(0 < share < 1 for share in (*self.shares, self.share_said)):
            raise ValueError(f"shares: expected fractions between 0 and 1, received {self.shares}.")
        if not self.kinds or not set(self.kinds) <= set(KINDS):
            raise ValueError(f"kinds: expected some of {', '.join(KINDS)}, received {self.kinds}.")
        if not set(self.scores) <= set(SCORES["heads"]):
            raise ValueError(f"scores: expected some of {', '.join(SCORES['heads'])}, received {self.scores}.")
        if self.workers < 0:
            raise ValueError(f"workers: expected at least 0, received {self.workers}.")
        self.sizes.check()
        if self.text is not None:
            read_text(self.text, self.encoding)

    def scores_of(self, kind: str) -> list[str]:
        """The scores of one kind of units."""
        return [own for own in SCORES[kind] if own in self.scores or own == BEST[kind]]


def main(arguments: Sequence[str] | None = None) -> None:
    settings = read_settings(Settings, arguments, description=__doc__.split("\n")[0])
    if importlib.util.find_spec("keras_hub") is None:
        raise SystemExit('language_model: keras_hub is not installed. Install it: pip install "tfprune[hub,examples]"')
    folder = check_writable_folder(settings.output)
    save_settings(settings, folder)
    console = Console(width=120)
    fixed = {
        "net": settings.net,
        "text": None if settings.text is None else str(settings.text.resolve()),
        "encoding": settings.encoding,
        "sizes": dataclasses.asdict(settings.sizes),
    }
    corpus = corpus_of(fixed["text"], settings.encoding, settings.sizes)
    in_process = concurrent.futures.ThreadPoolExecutor(1) if settings.workers == 0 else contextlib.nullcontext()
    with in_process as executor:

        def grid(function: Callable, what: str, settings_of: Any, **more: Any) -> experiments.GridResults:
            own = {"folder": folder / what, "num_workers": settings.workers or None}
            return experiments.grid(function, settings_of, executor, **own, **more)

        seeds = {"seed": settings.seeds}
        trained = grid(train, "trainings", seeds, fixed=fixed, pass_folder=True)
        console.print(report.training_table(trained))
        study = fixed | {"models": {str(run.seed): str((run.folder / "model.keras").resolve()) for run in trained}}
        cutting = {"study": study, "shares": settings.shares}
        every = [{"kind": [kind], "score": settings.scores_of(kind), **seeds} for kind in settings.kinds]
        cuts = grid(cut, "cuts", every, fixed=cutting)
        after = grid(again, "trained_again", {"kind": settings.kinds, **seeds}, fixed=cutting)
        looks = grid(look, "looks", seeds, fixed={"study": study, "share": settings.share_said})
    whole = [run.result["curve"][-1] for run in trained]
    for kind in settings.kinds:
        console.print(report.cut_table(cuts, after, kind, settings.shares, report.spread(whole)))
    if len(looks):
        seen = [run.result for run in looks]
        console.print(report.speed_table(seen, settings.share_said))
        console.print(report.texts_table(seen[0]["said"], corpus.prompts))
        report.draw_map(seen[0]["heads"], seen[0]["blocks"], folder / "heads_and_blocks.png")
    report.draw_curves(cuts, after, settings.kinds, settings.shares, float(np.mean(whole)), folder / "perplexity.png")
    console.print(f"Records, settings and pictures are in {folder}.")


if __name__ == "__main__":
    main()
