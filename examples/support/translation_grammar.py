"""A small grammar of English and Spanish sentences, whose tense, number, gender and parentheses are known exactly.

A sentence says who did what: "the new teachers (with the cat) painted a red house." becomes "las maestras nuevas (con
el gato) pintaron una casa roja." Adjectives change their place, and articles, adjectives and verbs their form.
"""

from __future__ import annotations

import re

import numpy as np
from support.translation_data import Pair

GENDERS = ("masculine", "feminine")
TENSES = ("past", "present", "future")

# English, Spanish, gender; the plural of both ends on s.
_NOUNS = [
    ("cat", "gato", 0),
    ("dog", "perro", 0),
    ("boy", "niño", 0),
    ("book", "libro", 0),
    ("garden", "huerto", 0),
    ("knife", "cuchillo", 0),
    ("teacher", "maestra", 1),
    ("girl", "niña", 1),
    ("house", "casa", 1),
    ("table", "mesa", 1),
    ("letter", "carta", 1),
    ("door", "puerta", 1),
]
_ENGLISH_PLURALS = {"knife": "knives"}
# English, Spanish without its ending.
_ADJECTIVES = [
    ("red", "roj"),
    ("long", "larg"),
    ("new", "nuev"),
    ("white", "blanc"),
    ("small", "pequeñ"),
    ("clean", "limpi"),
]
_VERBS = [
    ("paint", "pint"),
    ("wash", "lav"),
    ("want", "dese"),
    ("visit", "visit"),
    ("follow", "acompañ"),
]
# By number: English; then Spanish by gender.
_ARTICLES = [
    (("the", "the"), (("el", "los"), ("la", "las"))),
    (("a", "some"), (("un", "unos"), ("una", "unas"))),
    (("this", "these"), (("este", "estos"), ("esta", "estas"))),
    (("my", "my"), (("mi", "mis"), ("mi", "mis"))),
]
_PREPOSITIONS = [("with", "con"), ("without", "sin"), ("near", "junto a")]
# Spanish endings by tense and number.
_ENDINGS = (("ó", "aron"), ("a", "an"), ("ará", "arán"))


def generated_pairs(num_pairs: int, seed: int = 0) -> list[Pair]:
    """Different random sentences of the grammar with their translations."""
    random = np.random.default_rng([seed, 2])
    pairs: dict[str, Pair] = {}
    while len(pairs) < num_pairs:
        pair = _sentence(random)
        pairs.setdefault(pair.source, pair)
    return list(pairs.values())


def _pick(random: np.random.Generator, rows: list) -> tuple:
    return rows[random.integers(len(rows))]


def _plural(noun: str) -> str:
    return _ENGLISH_PLURALS.get(noun, f"{noun}s")


def _noun_phrase(random: np.random.Generator, plural: int, adjective_chance: float) -> Pair:
    english, spanish, gender = _pick(random, _NOUNS)
    articles, spanish_articles = _pick(random, _ARTICLES)
    noun = _plural(english) if plural else english
    source, target = [articles[plural]], [spanish_articles[gender][plural], spanish + "s" * plural]
    if random.random() < adjective_chance:
        adjective, stem = _pick(random, _ADJECTIVES)
        source.append(adjective)
        target.append(stem + "oa"[gender] + "s" * plural)
    return Pair(" ".join([*source, noun]), " ".join(target))


def _verb(random: np.random.Generator, plural: int) -> Pair:
    english, stem = _pick(random, _VERBS)
    tense = random.integers(len(TENSES))
    # "wash" takes an e before the s.
    present = english if plural else english + ("es" if english.endswith("sh") else "s")
    forms = (f"{english}ed", present, f"will {english}")
    return Pair(forms[tense], stem + _ENDINGS[tense][plural])


def _sentence(random: np.random.Generator) -> Pair:
    plural = int(random.integers(2))
    parts = [
        _noun_phrase(random, plural, 0.5),
        _verb(random, plural),
        _noun_phrase(random, int(random.integers(2)), 0.4),
    ]
    if random.random() < 0.4:
        preposition = _pick(random, _PREPOSITIONS)
        phrase = _noun_phrase(random, int(random.integers(2)), 0.0)
        aside = Pair(f"({preposition[0]} {phrase.source})", f"({preposition[1]} {phrase.target})")
        parts.insert(1 if random.random() < 0.5 else 3, aside)
    return Pair(*(" ".join(getattr(part, side) for part in parts) + "." for side in ("source", "target")))


def _articles_of(plural: int) -> frozenset[str]:
    return frozenset(forms[gender][plural] for _, forms in _ARTICLES for gender in range(len(GENDERS)))


SINGULAR_ARTICLES, PLURAL_ARTICLES = _articles_of(0), _articles_of(1)
_STEMS = "|".join(stem for _, stem in _VERBS)
_GROUPS = "|".join(f"(?P<{tense}>{'|'.join(forms)})" for tense, forms in zip(TENSES, _ENDINGS, strict=True))
# Finds the verb of a Spanish sentence; the group that matches is its tense.
TENSE_PATTERN = re.compile(rf"\b(?:{_STEMS})(?:{_GROUPS})\b")
# Tokens of English nouns and verbs, where words are whole tokens.
NOUN_TOKEN = re.compile(rf"▁(?:{'|'.join(_plural(noun) + '|' + noun for noun, _, _ in _NOUNS)})")
VERB_TOKEN = re.compile(rf"▁(?:will|(?:{'|'.join(verb for verb, _ in _VERBS)})(?:s|es|ed)?)")
_GENDER_OF = {spanish: GENDERS[gender] for _, spanish, gender in _NOUNS}


def gender_of(noun: str) -> str | None:
    """Gender of a Spanish noun of the grammar, singular or plural; None if it has no such noun."""
    return _GENDER_OF.get(noun) or _GENDER_OF.get(noun.removesuffix("s"))
