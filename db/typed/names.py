"""Names of tables, types, columns and labels → names that Python takes, each of them once."""

from __future__ import annotations

import keyword
import re
import unicodedata
from collections.abc import Iterable

# Only what no rule below gives; a team has its own in invoke.yaml.
_SINGULAR = {
    "people": "person",
    "men": "man",
    "women": "woman",
    "children": "child",
    "feet": "foot",
    "teeth": "tooth",
    "mice": "mouse",
    "criteria": "criterion",
    "indices": "index",
    "matrices": "matrix",
    "vertices": "vertex",
    "analyses": "analysis",
    "hypotheses": "hypothesis",
    "movies": "movie",
    "cookies": "cookie",
    "ties": "tie",
    "shoes": "shoe",
    "leaves": "leaf",
    "lives": "life",
    "shelves": "shelf",
    "halves": "half",
    "quizzes": "quiz",
    "buses": "bus",
    "gases": "gas",
    "aliases": "alias",
    "atlases": "atlas",
    "canvases": "canvas",
    "biases": "bias",
    "caches": "cache",
    "headaches": "headache",
    "news": "news",
    "series": "series",
    "species": "species",
    "lens": "lens",
}
_RULES = (
    (re.compile(r"(?i)(?<=ss|us|is|as)$"), ""),  # is one already
    (re.compile(r"(?i)(?<=[a-z])ies$"), "y"),
    (re.compile(r"(?i)(?<=tatus|virus|bonus|ampus|ensus|focus)es$"), ""),
    (re.compile(r"(?i)(?<=ss|zz|ch|sh)es$|(?<=[xo])es$"), ""),
    (re.compile(r"(?i)s$"), ""),
)
_LAST_WORD = re.compile(r"([A-Z]+s?|[A-Z]?[^\W\d_A-Z]+)(?=[\W\d_]*$)")


def singular(word: str) -> str:
    """Return an English plural's singular; a word that is none, as it is."""
    known = _SINGULAR.get(word.lower())
    if known:
        return known.capitalize() if word[:1].isupper() else known
    for ending, instead in _RULES:
        if ending.search(word):
            return ending.sub(instead, word)
    return word


def of_class(*parts: str, plural: bool = False) -> str:
    """Return a class's name: `billing`, `order_lines` → BillingOrderLine, if they are `plural`."""
    *schema, name = parts
    if plural:
        name = _LAST_WORD.sub(lambda found: singular(found[0]), name, count=1)
    words = [word for part in (*schema, name) for word in re.split(r"[\W_]+", part) if word]
    return _taken_by_python("".join(word[:1].upper() + word[1:] for word in words), "Table")


def of_function(class_name: str) -> str:
    """Return the name in small letters: OrderLine → order_line."""
    return re.sub(r"(?<=[^\W_A-Z])(?=[A-Z])", "_", class_name).lower()


def of_member(label: str) -> str:
    """Return an enum's member for a label: `in progress` → IN_PROGRESS."""
    words = [word for word in re.split(r"[\W_]+", label) if word]
    return _taken_by_python("_".join(words).upper(), "VALUE_") if words else "EMPTY"


def of_attribute(column: str, refused: Iterable[str] = ()) -> str:
    """Return the attribute for a column whose own name cannot be one, or is `refused`."""
    name = _taken_by_python(re.sub(r"\W", "_", column).strip("_"), "column_")
    return f"{name}_" if name in refused else name


def is_attribute(name: str) -> bool:
    """Return whether an attribute of a class can have that name, in any Python."""
    return is_name(name) and name != "self" and not name.startswith("__")


def is_name(name: str) -> bool:
    """Return whether Python reads the name as itself: it takes ﬁ for fi."""
    plain = unicodedata.normalize("NFKC", name) == name
    return plain and name.isidentifier() and not keyword.iskeyword(name)


def _taken_by_python(name: str, before: str) -> str:
    name = unicodedata.normalize("NFKC", name)
    if keyword.iskeyword(name) or name == "self":
        return f"{name}_"
    if is_name(name):
        return name
    kept = re.sub(r"\W", "", name, flags=re.ASCII)
    return before + (kept or "1") if not kept[:1].isalpha() else kept


class Names:
    """The names of a scope, each given out once."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)

    def take(self, name: str, sign: str = "") -> str:
        """Return the name, or, if it is taken, the first with a number, or `sign`s, behind it."""
        free, number = name, 2
        while free in self._taken:
            free = f"{free}{sign}" if sign else f"{name}{number}"
            number += 1
        self._taken.add(free)
        return free

    def taken(self, name: str) -> bool:
        return name in self._taken
