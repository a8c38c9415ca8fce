"""Pairs of sentences for the example of translation: files, grammar, tokens and properties."""

import gzip
import importlib
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def data():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield importlib.import_module("support.translation_data")


@pytest.fixture(scope="module")
def grammar(data):
    return importlib.import_module("support.translation_grammar")


@pytest.fixture(scope="module")
def properties(grammar):
    return importlib.import_module("support.translation_properties")


@pytest.mark.parametrize("packed", [False, True])
def test_file_of_pairs(data, tmp_path, packed):
    text = "\ufeffThe cat.\tEl gato.\n\nA dog\tUn perro\r\nThe cat.\tLa gata.\n".encode()
    path = tmp_path / "pairs.tsv.gz"
    path.write_bytes(gzip.compress(text) if packed else text)
    assert data.read_pairs(path) == [data.Pair("The cat.", "El gato."), data.Pair("A dog", "Un perro")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected at least one pair of sentences, received none: the file is empty"),
        (b"\n \n", "expected at least one pair of sentences, received none"),
        (b"a\tb\nno tab here\n", "line 2: expected a sentence, one tab and its translation, received 'no tab here'"),
        (b"a\tb\tc\n", r"line 1: expected a sentence, one tab and its translation, received 'a\\tb\\tc'"),
        (b"a\t\n", "line 1: expected a sentence, one tab"),
        ("a\tb\nañ\tb\n".encode("latin1"), "line 2: expected text in UTF-8, received the byte 0xf1 .* iconv"),
        ("a\tb\n".encode("utf-16"), "line 1: expected text in UTF-8, received the byte 0xff"),
    ],
)
def test_wrong_files(data, tmp_path, content, message):
    path = tmp_path / "pairs.tsv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        data.read_pairs(path)


def test_missing_file_and_too_few_pairs(data, tmp_path):
    with pytest.raises(ValueError, match="expected a file of pairs of sentences, but there is none"):
        data.read_pairs(tmp_path / "none.tsv")
    pairs = [data.Pair(f"word {number}", "eins zwei drei, vier") for number in range(10)]
    with pytest.raises(ValueError, match="at least 12 pairs of at most 5 words, twice num_held_out, received 10 of 10"):
        data.split(pairs, max_words=5, num_held_out=6)
    with pytest.raises(ValueError, match="received 0 of 10"):
        data.split(pairs, max_words=4, num_held_out=1)


def test_parts(data):
    pairs = [data.Pair(str(number), "x") for number in range(100)]
    parts = data.split(pairs, max_words=3, num_held_out=20)
    assert parts == data.split(pairs, max_words=3, num_held_out=20)
    assert len(parts.held_out) == 20 and set(parts.held_out).isdisjoint(parts.training)
    assert set(parts.held_out) | set(parts.training) == set(pairs)
    first, other = set(parts.share(0, 0.75)), set(parts.share(1, 0.75))
    assert len(first) == len(other) == 60 and first != other and first <= set(parts.training)
    assert set(parts.share(0, 1.0)) == set(parts.share(1, 1.0)) == set(parts.training)


def test_tokens_give_the_sentence_back(data, tmp_path):
    sentences = ["The cat (my cat) sleeps.", "¿Dónde está (el gato)?", "a-b, 12%", "el niño"]
    pairs = [data.Pair(sentence, sentence) for sentence in sentences]
    languages = data.Languages.learn(pairs, 60)
    assert 30 < len(languages.source) <= 60
    for sentence in sentences:
        numbers = languages.target.numbers(sentence)
        assert languages.target.text([*numbers, data.END, 7, 8]) == sentence
    pieces = languages.source.pieces(sentences[0])
    assert "▁(" in pieces and ")" in pieces and "".join(pieces) == "▁The▁cat▁(my▁cat)▁sleeps."
    assert languages.source.numbers("Ж")[-1] == data.UNKNOWN
    languages.save(tmp_path)
    assert data.Languages.load(tmp_path).source.numbers(sentences[1]) == languages.source.numbers(sentences[1])


def test_rows_of_a_net(data):
    pairs = [data.Pair("a b", "c"), data.Pair("b", "c d c")]
    languages = data.Languages.learn(pairs, 30)
    given, wanted = languages.teacher_forced(pairs)
    (a, b), (c, d) = languages.source.numbers("a b"), languages.target.numbers("c d")
    assert given["source"].tolist() == [[a, b, data.END], [b, data.END, data.PADDING]]
    assert given["target"].tolist() == [[data.START, c, 0, 0], [data.START, c, d, c]]
    assert wanted.tolist() == [[c, data.END, 0, 0], [c, d, c, data.END]]


def test_sentences_of_the_grammar(grammar, properties):
    pairs = grammar.generated_pairs(600, seed=3)
    assert pairs == grammar.generated_pairs(600, seed=3) and pairs != grammar.generated_pairs(600, seed=4)
    assert len({pair.source for pair in pairs}) == 600
    tense, number, gender, parentheses = properties.GRAMMAR
    for pair in pairs:
        words = re.findall(r"\w+", pair.source)
        past = any(word.endswith("ed") and word != "red" for word in words)
        assert tense.label(pair.target) == ("future" if "will" in words else "past" if past else "present")
        assert number.label(pair.target) in ("singular", "plural") and gender.label(pair.target) in grammar.GENDERS
        assert (parentheses.label(pair.target) == "with") == ("(" in pair.source)
        if words[0] in ("a", "this", "some", "these"):
            assert number.label(pair.target) == ("singular" if words[0] in ("a", "this") else "plural")
    for wanted in properties.GRAMMAR:
        counts = Counter(wanted.labels([pair.target for pair in pairs]).tolist())
        assert min(counts[wanted.source], counts[wanted.target]) > 100


def test_known_translations(grammar):
    found = {pair.source: pair.target for pair in grammar.generated_pairs(4000)}
    # Adjectives follow their noun and agree with it, as articles do; the verb agrees with its subject.
    source = next(own for own in found if own.split()[1:3] == ["red", "houses"])
    words = found[source].split()
    assert words[0] in ("las", "unas", "estas", "mis") and words[1:3] == ["casas", "rojas"]
    source = next(own for own in found if own.split()[1:3] == ["knives", "washed"])
    assert found[source].split()[1:3] == ["cuchillos", "lavaron"]


@pytest.mark.parametrize(
    ("name", "sentence", "label"),
    [
        ("verb form", "Seleccione el color.", "imperative"),
        ("verb form", "Mostrar la ubicación", "infinitive"),
        ("verb form", "¿Guardarlo?", "infinitive"),
        ("verb form", "Cualquier cosa", "none"),
        ("verb form", "(", "none"),
        ("number", "Abre las capas de la imagen", "plural"),
        ("gender", "Abre las capas del libro", "feminine"),
        ("gender", "Nada", "none"),
        ("parentheses", "Borrar (todo)", "with"),
        ("parentheses", "Borrar ) todo (", "without"),
    ],
)
def test_properties_of_text(properties, name, sentence, label):
    (wanted,) = [own for own in properties.TEXT if own.name == name]
    assert wanted.label(sentence) == label
    assert wanted.labels([sentence, "xyz"]).tolist() == [label, "without" if name == "parentheses" else "none"]


@pytest.mark.parametrize(
    ("name", "sentence", "label"),
    [
        ("tense", "las casas pintaron el gato.", "past"),
        ("tense", "la casa pintará el gato.", "future"),
        ("tense", "la casa pinta.", "present"),
        ("tense", "la casa", "none"),
        ("number", "", "none"),
        ("gender", "las", "none"),
        ("gender", "las casas", "feminine"),
        ("gender", "el libro rojo", "masculine"),
        ("gender", "el rojo libro", "none"),
    ],
)
def test_properties_of_the_grammar(properties, name, sentence, label):
    (wanted,) = [own for own in properties.GRAMMAR if own.name == name]
    assert wanted.label(sentence) == label


def test_inside_parentheses(properties):
    pieces = ["▁a", "▁(", "b", ")", "▁c", "▁(", "d"]
    assert properties.inside_parentheses(pieces) == [False, True, True, True, False, True, True]
    assert np.sum(properties.inside_parentheses(["a", ")"])) == 0


def test_tokens_that_stand_for_a_property(properties):
    tense, number, gender, parentheses = properties.GRAMMAR
    pieces = ["▁the", "▁red", "▁cat", "▁(", "with", "▁a", "▁dog", ")", "▁washes", "▁the", "▁house", "."]
    assert [place for place, own in enumerate(tense.tokens(pieces, "present")) if own == "present"] == [8]
    for wanted in (number, gender):
        assert [place for place, own in enumerate(wanted.tokens(pieces, "x")) if own == "x"] == [2]
    assert number.tokens(["▁some", "▁knives"], "plural") == ["none", "plural"]
    assert parentheses.tokens(pieces, "with") == ["without"] * 3 + ["with"] * 5 + ["without"] * 4
    assert set(parentheses.tokens(pieces, "without")) == {"none"}
    assert properties.TEXT[0].tokens(pieces[:3], "infinitive") == ["infinitive", "infinitive", "none"]
    assert properties.TEXT[1].tokens(pieces, "plural") == ["plural"] * 12
