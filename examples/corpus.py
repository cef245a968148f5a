"""Texts for the tiny model, generated from small grammars written for this project.

`pretraining_lines` mixes sentences about fields and gardens, the same as three-part verse, and lines of invented
words (which keep the model from being certain about words that it has never seen); `sea_haiku` is the fine-tuning
text: three short lines about ships and the sea, joined by " / ". The two domains share function words and little
else, so that a fine-tune has something to learn. Everything is a pure function of (count, seed). Called by
examples/pretrain.py.
"""

import random
from collections.abc import Iterator, Sequence

ADJECTIVES = ("old", "small", "green", "quiet", "wet", "tall", "pale", "warm", "cold", "bright", "dark", "soft")
ANIMALS = ("fox", "hare", "owl", "heron", "bee", "mole", "wren", "toad", "deer", "crow", "moth", "snail")
PLANTS = ("oak", "fern", "rose", "birch", "clover", "apple tree", "hedge", "moss", "willow", "barley", "thistle", "pine")
PLACES = ("meadow", "orchard", "garden", "valley", "hill", "stream", "pond", "field", "wood", "lane")
VERBS = ("waits", "sleeps", "listens", "hides", "rests", "wanders", "sings", "turns")
GROWING = ("grows", "bends", "shines", "opens", "leans", "drips")
SEASONS = ("spring", "summer", "autumn", "winter")
TIMES = ("at dawn", "at noon", "at night", "in the evening", "after the rain", "before the frost")
WEATHER = ("rain", "snow", "mist", "wind", "sun", "frost", "thunder", "dew")
PREPOSITIONS = ("near", "under", "behind", "above", "beside", "in")

GARDEN_TEMPLATES = (
    "The {adj} {animal} {verb} {prep} the {plant}.",
    "In {season} the {plant} {grow} {prep} the {place}.",
    "{Time} the {animal} {verb}, and the {adj} {plant} {grow}.",
    "A {adj} {place} in {season}: {weather} and {weather2}.",
    "When the {weather} comes, the {animal} {verb} {prep} the {adj} {place}.",
    "The {weather} is {adj}, and every {animal} {verb}.",
    "Who {verb} {prep} the {place} {time}? The {adj} {animal}.",
    "No {animal} {verb} {time}; only the {weather} and the {plant}.",
)

VERSE_TEMPLATES = (
    "{adj} {weather} falls / the {animal} {verb} {prep} the {place} / {plant} in {season}",
    "{weather} on the {place} / a {adj} {animal} {verb} / no {plant} {grow}",
    "{adj} {plant} / the {animal} of the {place} {verb} / {weather}, then {weather2}",
)
ONSETS = ("b", "br", "c", "cr", "d", "f", "g", "gr", "h", "k", "l", "m", "n", "p", "r", "s", "sh", "st", "t", "w", "y")
VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "ee", "oa", "ow")
CODAS = ("", "b", "ck", "d", "f", "ft", "k", "l", "m", "n", "nd", "p", "r", "rs", "s", "st", "t", "ves")
FUNCTION_WORDS = ("the", "a", "of", "and", "with", "that", "on", "no", "then", "in", "/", "to")

SHIPS = ("ship", "brig", "boat", "raft", "hull", "yawl")
GEAR = ("sails", "ropes", "oars", "masts", "nets", "bells")
CREW = ("cook", "mate", "pilot", "captain", "boy")
SWELL = ("black", "salt", "grey", "heavy", "endless")
SOUNDS = ("creak", "sway", "groan", "rattle")
FAR = ("harbour", "lighthouse", "island", "coast", "reef")

HAIKU_TEMPLATES = (
    ("{swell} waves roll", "the {gear} of the {ship} {sound}", "no {far} tonight"),
    ("{gear} {sound} on deck", "the {crew} calls the {far}", "{swell} waves reply"),
    ("far {far} light", "the {crew} of the {ship} wakes", "{gear} {sound}, then still"),
    ("{swell} tide below", "a {ship} with {gear} that {sound}", "the {crew} steers home"),
)


def _pick(rng: random.Random, words: Sequence[str]) -> str:
    # Built on random() alone: it is the one generator output that Python keeps the same between versions.
    return words[int(rng.random() * len(words))]


def _invented_word(rng: random.Random) -> str:
    syllables = 1 + int(rng.random() * 2)
    return "".join(_pick(rng, ONSETS) + _pick(rng, VOWELS) + _pick(rng, CODAS) for _ in range(syllables))


def _invented_line(rng: random.Random) -> str:
    words = range(3 + int(rng.random() * 5))
    return " ".join(_pick(rng, FUNCTION_WORDS) if rng.random() < 0.4 else _invented_word(rng) for _ in words)


def pretraining_lines(count: int, seed: int) -> Iterator[str]:
    """Yields `count` lines of the pretraining text: two parts sentences, one part verse, two parts invented words."""
    rng = random.Random(seed)
    for _ in range(count):
        kind = int(rng.random() * 5)
        if kind >= 3:
            yield _invented_line(rng)
            continue
        time = _pick(rng, TIMES)
        yield _pick(rng, VERSE_TEMPLATES if kind == 2 else GARDEN_TEMPLATES).format(
            adj=_pick(rng, ADJECTIVES), animal=_pick(rng, ANIMALS), plant=_pick(rng, PLANTS),
            place=_pick(rng, PLACES), verb=_pick(rng, VERBS), grow=_pick(rng, GROWING),
            season=_pick(rng, SEASONS), time=time, Time=time.capitalize(), weather=_pick(rng, WEATHER),
            weather2=_pick(rng, WEATHER), prep=_pick(rng, PREPOSITIONS),
        )


def sea_haiku(count: int, seed: int) -> list[str]:
    """`count` different three-line poems of the fine-tuning domain."""
    rng = random.Random(seed)
    poems: dict[str, None] = {}
    while len(poems) < count:
        poem = " / ".join(HAIKU_TEMPLATES[int(rng.random() * len(HAIKU_TEMPLATES))]).format(
            swell=_pick(rng, SWELL), gear=_pick(rng, GEAR), ship=_pick(rng, SHIPS), sound=_pick(rng, SOUNDS),
            far=_pick(rng, FAR), crew=_pick(rng, CREW),
        )
        poems[poem] = None
    return list(poems)
