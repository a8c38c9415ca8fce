"""The example of ON-LSTM: its corpora and trees, what a short run leaves and says, and what it refuses."""

import gzip
import importlib
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml

from tfprune.experiments import load_grid

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SHORT = {"units": 8, "chunk_size": 2, "epochs": 1, "num_sentences": 64, "num_test": 24, "length": 18, "num_words": 20}
LINES = ["In the beginning was the word, and the word was short.", "It's a line; another: the last one!"] * 20


@pytest.fixture(scope="module")
def example():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield importlib.import_module("on_lstm")


@pytest.fixture(scope="module")
def support(example):
    return {
        name: importlib.import_module(f"support.on_lstm_{name}") for name in ("corpora", "study", "trees", "report")
    }


def words_of(folder, *more):
    flags = [f"--{part}.{key}={value}" for part in ("brackets", "text_sizes") for key, value in SHORT.items()]
    return ["--output", str(folder), *flags, *more]


@pytest.fixture(scope="module")
def folder(example, tmp_path_factory):
    """The output of one short run on brackets."""
    folder = tmp_path_factory.mktemp("on_lstm")
    example.main(words_of(folder))
    return folder


def check_run(run, net):
    result, model = run.result, keras.saving.load_model(run.folder / "model.keras")
    assert model.count_params() == result["parameters"]
    assert len(result["curve"]) == 2 and result["perplexity"] == result["curve"][1] < result["curve"][0]
    # An untrained net guesses about evenly.
    assert result["curve"][0] == pytest.approx(result["num_tokens"], rel=0.1)
    if net == "on_lstm":
        assert result["dead/chunks"] == [1, 1] and result["dead/difference"] < 1e-6
        assert result["dead/parameters"] < result["parameters"]
        assert result["dead/perplexity"] == pytest.approx(result["perplexity"], rel=1e-6)
        own = result["second/distances"]
        assert own.shape[1] == 18 and (own > 0).all() and (own < 1).all()


@pytest.mark.slow
def test_results(folder):
    runs = {run.settings["net"]: run for run in load_grid(folder / "trainings" / "brackets")}
    assert set(runs) == {"on_lstm", "lstm"}
    for net, run in runs.items():
        check_run(run, net)
    assert runs["lstm"].result["parameters"] == pytest.approx(runs["on_lstm"].result["parameters"], rel=0.1)
    assert -1.0 <= runs["on_lstm"].result["untrained/second/depth_closing"] <= 1.0
    assert sorted(path.name for path in folder.glob("*.png")) == ["depth.png", "perplexity.png", "trees.png"]
    with np.load(folder / "distances.npz") as held:
        assert held["brackets/tokens"].shape == held["brackets/depth"].shape == held["brackets/first"].shape == (24, 18)


@pytest.mark.slow
def test_second_start_trains_nothing_and_says_the_same(example, folder, monkeypatch, capsys):
    monkeypatch.setattr("tfprune.experiments.grid_workers.execute", None)
    example.main(words_of(folder))
    out = capsys.readouterr().out
    assert "whoever knows the process" in out and "without dead chunks" in out and "right-branching" in out
    assert "A tree, brackets: (" in out


@pytest.mark.slow
def test_a_text_goes_the_same_way(example, tmp_path, capsys):
    (tmp_path / "text.txt.gz").write_bytes(gzip.compress("\n".join(LINES).encode()))
    example.main(words_of(tmp_path / "out", "--text", str(tmp_path / "text.txt.gz")))
    runs = {run.settings["net"]: run for run in load_grid(tmp_path / "out" / "trainings" / "text")}
    for net in ("on_lstm", "lstm"):
        check_run(runs[net], net)
    assert 0.0 <= runs["on_lstm"].result["first/behind_mark"] <= 1.0
    assert "A tree, text: (" in capsys.readouterr().out


@pytest.mark.parametrize(("tokens", "units", "chunk"), [(17, 64, 8), (5004, 128, 8), (30, 12, 3)])
def test_equal_size(support, tokens, units, chunk):
    study = support["study"]
    sizes = study.Sizes(units=units, chunk_size=chunk)
    one = study.build("on_lstm", tokens, sizes, units).count_params()
    other = study.build("lstm", tokens, sizes, study.equal_units(tokens, sizes)).count_params()
    assert abs(one / other - 1.0) < (0.02 if units > 20 else 0.05)


def test_brackets_follow_their_probabilities(support):
    """Depths are counted anew; the floor is what the process says of the tokens that came."""
    corpora = support["corpora"]
    held = corpora.brackets(30, 200, 30, seed=1)
    assert held.vocabulary[:3] == ("<pad>", "<start>", "<end>") and len(held.vocabulary) == 17
    total, count = 0.0, 0
    for row, depth in zip(held.test, held.depth, strict=True):
        stack, last = [], "<start>"
        tokens = held.tokens(row)
        assert tokens[0] == "<start>" and len(tokens) >= 2
        for place, token in enumerate(tokens[1:], start=1):
            chances = corpora._next(stack, empty=last in (*corpora.OPENING, "<start>"))
            assert sum(chances.values()) == pytest.approx(1.0)
            total, count, last = total - np.log(chances[token]), count + 1, token
            if token in corpora.OPENING:
                stack.append(corpora.OPENING.index(token))
            elif token in corpora.CLOSING:
                assert corpora.CLOSING[stack.pop()] == token
            assert depth[place] == len(stack) <= corpora.MOST_DEPTH
    assert held.floor == pytest.approx(np.exp(total / count), rel=1e-9)


def test_a_text_is_cut_into_words_and_marks(support, tmp_path):
    corpora = support["corpora"]
    (tmp_path / "text.txt").write_text("\n".join(LINES))
    held = corpora.text(tmp_path / "text.txt", "utf-8", 100, 8, None, seed=0)
    assert len(held.training) == 36 and len(held.test) == 4 and held.depth is held.floor is None
    sentences = {" ".join(held.tokens(row)) for row in held.training}
    assert sentences == {"<start> in the beginning was the word ,", "<start> it's a line ; another : the"}
    few = corpora.text(tmp_path / "text.txt", "utf-8", 1, 8, 20, seed=0)
    assert few.vocabulary[3:] == ("<unknown>", "the") and len(few.training) + len(few.test) == 20


def test_trees(support):
    trees, corpora = support["trees"], support["corpora"]
    tree = trees.tree_of([0.1, 0.5, 0.2, 0.9, 0.3, 0.4])
    assert trees.written(tree, "abcdef") == "((a (b c)) (d (e f)))"
    assert trees.spans_of(tree) == {(0, 5), (0, 2), (1, 2), (3, 5), (4, 5)}
    assert trees.tree_of([0.3]) == 0 and trees.spans_of(0) == set()
    assert trees.tree_of([1.0, 1.0, 1.0]) == (0, (1, 2))
    true = corpora.true_spans(list("a(b[c])d(e"))
    assert true == {(1, 6), (3, 5)}
    assert trees.recall([{(1, 6), (0, 2)}], [true]) == 0.5


def test_a_mark_before_a_word_is_told_by_rank(support):
    kinds = np.array([["<start>", "a", ",", "b", "c", ".", "d", "<end>"]])
    told = support["study"]._after_punctuation(np.array([[0, 0.1, 0.0, 0.9, 0.2, 0, 0.8, 1.0]]), kinds, kinds != "")
    # Both words behind a mark, b and d, lie above c; a stands behind the start.
    assert told == {"behind_mark": 1.0}


def test_settings_of_the_full_run(example):
    path = EXAMPLES / "settings" / "on_lstm.yaml"
    settings = example.read_settings(example.Settings, ["--config", str(path)])
    assert settings.seeds == [0, 1, 2] and settings.text_sizes.num_sentences == 31102
    assert list(settings.sizes) == ["brackets"] and yaml.safe_load(path.read_text())["text_sizes"]["units"] == 128


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        (None, [], "there is no file"),
        (b"", [], "is empty"),
        (b"\n \n", [], "is empty"),
        (
            "Le caf\u00e9 est ferm\u00e9.\n".encode("latin-1"),
            [],
            "is not in utf-8: byte 0xe9 at place 6. Say which it is",
        ),
        (b"one line\n", ["--encoding", "no-such"], "'no-such' is no encoding that Python knows"),
        (gzip.compress(b"one line\n" * 40, mtime=0)[:30], [], "cannot be unpacked"),
        (b"one line\n", ["--seeds", "[1,1]"], "seeds: expected at least one, all different"),
        (b"one line\n", ["--workers", "-1"], "workers: expected at least 0, received -1"),
        (b"one line\n", ["--brackets.chunk_size", "7"], "chunk_size: 7 does not divide the 64 units"),
        (b"one line\n", ["--brackets.epochs", "0"], "epochs: expected a number of at least 1, received 0"),
    ],
)
def test_what_is_refused(example, tmp_path, capsys, content, flags, message):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit, match="2"):
        example.main(["--output", str(tmp_path / "out"), "--text", str(path), *flags])
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_text_of_few_lines_is_refused(example, tmp_path):
    (tmp_path / "text.txt").write_text("one line\n\n... --- \n")
    with pytest.raises(ValueError, match="holds 2 lines with words; expected one sentence to a line, 10 or more"):
        example.main(words_of(tmp_path / "out", "--text", str(tmp_path / "text.txt")))
