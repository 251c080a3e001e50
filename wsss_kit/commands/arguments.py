"""Options of the command line, read from signatures and docstrings by cyclopts.

cyclopts was chosen over tyro and jsonargparse because a function is told only what was given, a
flag may have a value, and a converter reads ``1 0.5`` and ``1,0.5`` alike.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from cyclopts import Parameter, Token
from docstring_parser import parse

_KINDS = {int: "a whole number", float: "a number", json.loads: "JSON"}
_NAMES = {"sources": "--from", "images": "--pictures"}
"""Options with another name than their argument."""


def as_command(
    run: Callable[..., Any], *described: Callable[..., Any], only: Sequence[str] | None = None
) -> Callable[..., Any]:
    """Wrap a function for cyclopts: positional-only arguments stay so, all others become options.

    Args:
        run: called with what the command line gives, and nothing else.
        *described: functions and classes whose signatures and docstrings say which options there
            are, the first of a name counts; none for ``run`` itself.
        only: names of the options; None for all arguments.
    """
    described = described or (run,)
    options: dict[str, inspect.Parameter] = {}
    for each in described:
        hints = get_type_hints(each.__init__ if inspect.isclass(each) else each)
        texts = {p.arg_name: p.description for p in parse(inspect.getdoc(each)).params}
        for name, argument in inspect.signature(each).parameters.items():
            if argument.kind is argument.VAR_KEYWORD or not (only is None or name in only):
                continue
            stays = argument.kind is argument.POSITIONAL_ONLY
            kind = argument.kind if stays else argument.KEYWORD_ONLY
            annotation = _annotation(name, hints[name], texts.get(name, ""))
            options.setdefault(name, argument.replace(kind=kind, annotation=annotation))

    def command(*arguments: Any, **given: Any) -> Any:
        return run(*arguments, **given)

    command.__signature__ = inspect.Signature(list(options.values()))
    command.__doc__ = parse(inspect.getdoc(described[0])).description
    return command


def _annotation(name: str, hint: Any, text: str) -> Any:
    """Return the type that cyclopts reads a value by: one that text can be, of a union's types."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    flag = _NAMES.get(name, f"--{name.replace('_', '-')}")
    option = partial(Parameter, name=_NAMES.get(name), help=text)
    for kind in kinds:
        if get_origin(kind) in (tuple, Sequence):
            item = get_args(kind)[0]
            read = partial(_read_list, flag=flag, of=item, single=item in kinds)
            shown = item if item in _KINDS else str
            return Annotated[
                list[shown], option(converter=read, consume_multiple=True, negative=())
            ]
        if get_origin(kind) is Mapping:
            return Annotated[str, option(converter=partial(_read, flag=flag, of=json.loads))]
    for kind in (int, float):
        if kind in kinds:
            return Annotated[kind, option(converter=partial(_read, flag=flag, of=kind))]
    return Annotated[bool if bool in kinds else str, option()]


def _read(_: Any, tokens: Sequence[Token], *, flag: str, of: Callable[[str], Any]) -> Any:
    return _value(tokens[0].value, flag, of)


def _read_list(_: Any, tokens: Sequence[Token], *, flag: str, of: Any, single: bool) -> Any:
    """Read ``1 0.5`` and ``1,0.5``; ``single`` if one value is no list. Paths may hold commas."""
    words = [token.value for token in tokens]
    if of is str or of in _KINDS:
        words = [part.strip() for word in words for part in word.split(",") if part.strip()]
    values = [_value(word, flag, of) if of in _KINDS else word for word in words]
    return values[0] if single and len(values) == 1 else values


def _value(text: str, flag: str, of: Callable[[str], Any]) -> Any:
    try:
        value = of(text)
    except ValueError:
        value = math.nan
    if value != value or value in (math.inf, -math.inf):
        raise ValueError(f"{flag} is {text!r}, expected {_KINDS[of]}")
    return value
