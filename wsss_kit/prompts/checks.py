"""Checks of words, templates and keys, and their error messages."""

import difflib
import re
import reprlib
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from torch import Tensor

from wsss_kit.checks import check_samples
from wsss_kit.classes import Sample, labels_of

Value = TypeVar("Value")
N_SHOWN = 8


def expected_one_of(name: Any, names: Collection[str]) -> str:
    """Write the part of an error message that lists what was expected.

    Args:
        name: what arrived.
        names: what was expected; eight of them are shown.

    Returns:
        The names and the closest one, if one is close.

    Example:
        >>> expected_one_of("Catt", ["dog", "cat"]), expected_one_of(None, ["dog"])
        ("expected one of 'dog', 'cat'; closest: 'cat'", "expected one of 'dog'")
    """
    shown = [repr(candidate) for candidate in names]
    shown = [*shown[:N_SHOWN], "..."] if len(shown) > N_SHOWN else shown
    return f"expected one of {', '.join(shown)}{closest(str(name), names)}"


def closest(name: str, names: Iterable[str]) -> str:
    """Return the end of a message: the name that was probably meant, or nothing.

    Args:
        name: what arrived.
        names: what would have been right.

    Returns:
        ``"; closest: 'cat'"`` or an empty string.

    Example:
        >>> closest("Catt", ["dog", "cat"]), closest("x", ["dog", "cat"])
        ("; closest: 'cat'", '')
    """
    by_lower = {candidate.lower(): candidate for candidate in names}
    matches = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f"; closest: {by_lower[matches[0]]!r}" if matches else ""


def checked_words(value: Any, what: str, *, among: Sequence[str] | None = None) -> tuple[str, ...]:
    """Check a list of different words.

    Args:
        value: a list of words or phrases; a string is no list.
        what: what the list is called in a message.
        among: the words that may be in it; any by default.

    Returns:
        The words as a tuple.

    Raises:
        ValueError: if it is no list, is empty, or has an entry that is no word, comes twice or is
            not among the others.

    Example:
        CLIP reads lower case only, so these two would be one:

        >>> checked_words(["Cat", "cat"], "classes")
        Traceback (most recent call last):
        ValueError: classes has 'Cat' and 'cat', expected different words, upper and lower case \
aside; remove one
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"{what} is {reprlib.repr(value)}, expected a list such as ['cat']")
    if not value:
        raise ValueError(f"{what} is empty, expected at least one word; add one")
    first: dict[str, str] = {}
    for word in value:
        if not isinstance(word, str) or not word or word != word.strip():
            raise ValueError(f"{what} has {reprlib.repr(word)}, expected text, no spaces around it")
        hidden = [sign for sign in word if unicodedata.category(sign) in _HIDDEN]
        for sign in [sign for sign in hidden if sign not in f" \t{_JOINERS}"]:
            name = f"U+{ord(sign):04X} ({unicodedata.name(sign, 'a control character')})"
            raise ValueError(f"{what} has {word!a} with {name}, expected letters; type it anew")
        if (look := _look_of(word)) in first:
            advice = "expected different words, upper and lower case aside; remove one"
            if first[look].casefold() != word.casefold():
                advice = "which are written alike, expected different words; type both the same way"
            raise ValueError(f"{what} has {first[look]!r} and {word!r}, {advice}")
        if among is not None:
            check_known([word], f"{what} has", among)
        first[look] = word
    return tuple(value)


def check_places(given: Sequence[str], classes: Sequence[str], what: str) -> list[str]:
    """Raise an error unless prompts have a class for each label; it may have another name.

    Args:
        given: class names of the prompts.
        classes: of the labels, in their order.
        what: the prompts, for the message.

    Returns:
        The other names, as ``"tiger for cat"``.

    Raises:
        ValueError: if there are more or fewer, or a class stands where the labels have another.

    Example:
        >>> check_places(["tiger", "dog"], ["cat", "dog"], "the prompts")
        ['tiger for cat']
        >>> check_places(["dog", "cat"], ["cat", "dog"], "the prompts")
        Traceback (most recent call last):
        ValueError: class 0 of the prompts is 'dog', expected 'cat' or a new name; keep the \
classes' order
    """
    if len(given) != len(classes):
        expected = f"expected {len(classes)}, one for each label of the images"
        raise ValueError(f"{what} have {len(given)} classes, {expected}; rename classes instead")
    places = {name: place for place, name in enumerate(classes)}
    for place, name in enumerate(given):
        if places.get(name, place) != place:
            expected = f"expected {classes[place]!r} or a new name; keep the classes' order"
            raise ValueError(f"class {place} of {what} is {name!r}, {expected}")
    pairs = zip(given, classes, strict=True)
    return [f"{own} for {name}" for own, name in pairs if own != name]


_HIDDEN = ("Cc", "Cf", "Zl", "Zp", "Zs")
"""Unicode's categories of signs that are not seen, and of spaces."""
_JOINERS = "\u200c\u200d"
"""Those that join or part letters in some scripts."""
_TWINS = str.maketrans("авекмнорстухіјѕԁԛԝαβεηικμνορτυχ", "abekmhopctyxijsdqwabenikmvoptux")
"""Cyrillic and Greek small letters to the Latin ones that look like them."""


def _look_of(word: str) -> str:
    r"""Return what a word looks like, upper and lower case aside.

    Example:
        >>> _look_of("Cafe\u0301") == _look_of("caf\u00e9"), _look_of("c\u0430t")
        (True, 'cat')
    """
    shown = "".join(sign for sign in word if sign not in _JOINERS)
    return unicodedata.normalize("NFKC", shown).casefold().translate(_TWINS)


def checked_phrase(value: Any, what: str) -> str:
    """Check one phrase, or join several by commas.

    Example:
        >>> checked_phrase(["people", "human"], "synonyms of 'person'")
        'people,human'
    """
    return ",".join(checked_words([value] if isinstance(value, str) else value, what))


def checked_by_class(
    value: Any, what: str, classes: Sequence[str], check: Callable[[Any, str], Value]
) -> Mapping[str, Value]:
    """Check a mapping of class names and each of its values.

    Args:
        value: a mapping, or None for an empty one.
        what: what the mapping is called in a message.
        classes: the names that may be its keys.
        check: makes a value of the result from a value and what it is called.

    Returns:
        A read-only mapping in the order of ``classes``.

    Raises:
        ValueError: if it is no mapping, has a key that is no class, or a check fails.

    Example:
        >>> dict(checked_by_class({"dog": ["a"], "cat": "b"}, "it", ["cat", "dog"], checked_phrase))
        {'cat': 'b', 'dog': 'a'}
    """
    value = {} if value is None else value
    if not isinstance(value, Mapping):
        raise ValueError(f"{what} is {reprlib.repr(value)}, expected a mapping from class names")
    check_known(value, f"{what} has the class", classes)
    named = [name for name in classes if name in value]
    return MappingProxyType({name: check(value[name], f"{what} of {name!r}") for name in named})


def labels_for(samples: Sequence[Sample], classes: Sequence[str]) -> Tensor:
    """Stack the (M, C) labels of samples and check that they are of these classes.

    Raises:
        ValueError: if there are no samples, or labels and classes differ in number.
    """
    check_samples(samples)
    labels = labels_of(samples)
    if labels.shape[1] != len(classes):
        problem = f"{labels.shape[1]} labels and the prompts {len(classes)} classes"
        raise ValueError(f"the samples have {problem}; expected one label a class")
    return labels


def one_template(value: Any) -> str:
    """Check that a text has exactly one ``{}`` for a phrase.

    Example:
        >>> one_template("a photo of a {0}")
        Traceback (most recent call last):
        ValueError: template is 'a photo of a {0}', expected text with exactly one {} for the \
phrase, such as 'a photo of a {}'
    """
    right = isinstance(value, str) and "{}" in value and len(re.findall("[{}]", value)) == 2
    if not right:
        expected = "text with exactly one {} for the phrase, such as 'a photo of a {}'"
        raise ValueError(f"template is {value!r}, expected {expected}")
    return value


def checked_template(value: Any) -> str | tuple[str, ...]:
    """Check templates; return one as text, several as a tuple.

    Example:
        >>> checked_template(["a {}"]), checked_template(["a {}", "one {}"])
        ('a {}', ('a {}', 'one {}'))
    """
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        return one_template(value)
    templates = tuple(map(one_template, value))
    return templates[0] if len(templates) == 1 else templates


def check_known(names: Iterable[Any], what: str, known: Collection[str]) -> None:
    """Raise `ValueError` for the first of ``names`` that is not known; ``what`` begins it."""
    for name in names:
        if name not in known:
            right = expected_one_of(name, known)
            raise ValueError(f"{what} {name!r}, {right}; correct it")


def check_keys(values: Any, known: Sequence[str], *, required: Sequence[str] = ()) -> None:
    """Raise `ValueError` unless all keys are known and the required ones are there.

    Example:
        >>> check_keys({"clases": ["cat"]}, ["classes", "template"])
        Traceback (most recent call last):
        ValueError: unknown key 'clases', expected one of 'classes', 'template'; closest: \
'classes'; correct it
    """
    if not isinstance(values, Mapping):
        expected = f"an object with the keys {', '.join(known)}, as to_json writes it"
        raise ValueError(f"{reprlib.repr(values)} arrived, expected {expected}")
    check_known(values, "unknown key", known)
    missing = [key for key in required if key not in values]
    if missing:
        raise ValueError(f"no {', no '.join(missing)}; expected {', '.join(required)}; add it")
