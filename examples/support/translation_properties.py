"""Properties of sentences that neurons may stand for, read from the Spanish text alone, so also of a translation."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence

import numpy as np
from support.translation_grammar import (
    NOUN_TOKEN,
    PLURAL_ARTICLES,
    SINGULAR_ARTICLES,
    TENSE_PATTERN,
    VERB_TOKEN,
    gender_of,
)

NONE = "none"


def _every_token(pieces: Sequence[str], value: str) -> list[str]:
    return [value] * len(pieces)


@dataclasses.dataclass(frozen=True)
class Property:
    """What can be read from a sentence.

    Attributes:
        name: Such as tense.
        source: The value that control starts from.
        target: The value that it is to bring about.
        label: Takes a sentence, gives the value, or ``NONE`` where it has none.
        published: Success rate of the slides' source for it, 0 to 1; None where it has none.
        tokens: Takes the tokens of a source and the value of the sentence, gives the value that each token stands for,
            or ``NONE``; by default each token stands for that of its sentence.
    """

    name: str
    source: str
    target: str
    label: Callable[[str], str]
    published: float | None = None
    tokens: Callable[[Sequence[str], str], list[str]] = _every_token

    def labels(self, sentences: Sequence[str]) -> np.ndarray:
        """The value of each sentence."""
        return np.array([self.label(sentence) for sentence in sentences])


def _words(sentence: str) -> list[str]:
    return re.findall(r"\w+", sentence.lower())


def _parentheses(sentence: str) -> str:
    return "with" if re.search(r"\(.*\)", sentence) else "without"


def _grammar_tense(sentence: str) -> str:
    found = TENSE_PATTERN.search(sentence)
    return NONE if found is None else next(name for name, ending in found.groupdict().items() if ending is not None)


def _grammar_number(sentence: str) -> str:
    first = (_words(sentence) or [""])[0]
    return "singular" if first in SINGULAR_ARTICLES else "plural" if first in PLURAL_ARTICLES else NONE


def _grammar_gender(sentence: str) -> str:
    words = _words(sentence)
    return gender_of(words[1]) or NONE if len(words) > 1 else NONE


_ARTICLES = {
    "el": ("singular", "masculine"),
    "la": ("singular", "feminine"),
    "los": ("plural", "masculine"),
    "las": ("plural", "feminine"),
}


def _first_article(sentence: str, which: int) -> str:
    return next((_ARTICLES[word][which] for word in _words(sentence) if word in _ARTICLES), NONE)


_INFINITIVE = re.compile(r"[^\W\d_]{2,}(ar|er|ir)(se|lo|la|los|las)?")
_NO_INFINITIVES = re.compile(r"cadáver|carácter|cter|cualquier|lugar|mujer|plóter|póster|primer|tercer|ayer")
_IMPERATIVE = re.compile(
    r"(agregue|ajuste|arrastre|añada|configure|cree|defina|edite|elija|elimine|emplee|escoja|escriba|especifique|"
    r"establezca|haga|indique|introduzca|mueva|presione|proporcione|pulse|seleccione|use|utilice)"
)


def _verb_form(sentence: str) -> str:
    first = (_words(sentence) or [""])[0]
    if _IMPERATIVE.fullmatch(first):
        return "imperative"
    return "infinitive" if _INFINITIVE.fullmatch(first) and not _NO_INFINITIVES.fullmatch(first) else NONE


def inside_parentheses(pieces: Sequence[str]) -> list[bool]:
    """Whether each token stands between parentheses; the parentheses themselves do."""
    inside, found = False, []
    for piece in pieces:
        inside = inside or "(" in piece
        found.append(inside)
        if ")" in piece:
            inside = False
    return found


def _verb_tokens(pieces: Sequence[str], value: str) -> list[str]:
    return [value if VERB_TOKEN.fullmatch(piece) else NONE for piece in pieces]


def _subject_token(pieces: Sequence[str], value: str) -> list[str]:
    nouns = [place for place, piece in enumerate(pieces) if NOUN_TOKEN.fullmatch(piece)]
    return [value if place in nouns[:1] else NONE for place in range(len(pieces))]


def _first_tokens(number: int) -> Callable[[Sequence[str], str], list[str]]:
    return lambda pieces, value: [value if place < number else NONE for place in range(len(pieces))]


def _tokens_between(pieces: Sequence[str], value: str) -> list[str]:
    # Only where there are parentheses do the tokens outside tell them from those between.
    if value != "with":
        return [NONE] * len(pieces)
    return ["with" if inside else "without" for inside in inside_parentheses(pieces)]


# The published success rates are of tense as past and present, number, and gender, on other texts.
GRAMMAR = (
    Property("tense", "present", "past", _grammar_tense, 0.67, _verb_tokens),
    Property("number", "singular", "plural", _grammar_number, 0.37, _subject_token),
    Property("gender", "masculine", "feminine", _grammar_gender, 0.21, _subject_token),
    Property("parentheses", "with", "without", _parentheses, None, _tokens_between),
)
TEXT = (
    Property("verb form", "infinitive", "imperative", _verb_form, 0.67, _first_tokens(2)),
    Property("number", "singular", "plural", lambda sentence: _first_article(sentence, 0), 0.37),
    Property("gender", "masculine", "feminine", lambda sentence: _first_article(sentence, 1), 0.21),
    Property("parentheses", "with", "without", _parentheses, None, _tokens_between),
)
