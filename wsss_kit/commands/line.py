"""The command line: its commands and options, read by cyclopts, and what becomes of errors.

Options come from signatures and docstrings. cyclopts was chosen over tyro and jsonargparse because
a function is told only what was given, a flag may have a value, and a converter reads ``1 0.5``
and ``1,0.5`` alike.
"""

import inspect
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from traceback import walk_tb
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from cyclopts import App, CycloptsError, Parameter, Token
from docstring_parser import parse as parse_docstring

from wsss_kit.checkpoints import CHECKPOINT
from wsss_kit.processes import LenientStream, place_in_run

_COMMANDS = {
    "demo": ("demo:demo", "every method on the embedded world, offline"),
    "download": ("download:download", "a data set into its folder below data/"),
    "check": ("download:run_check", "what is wrong with a data set, before hours of work"),
    "masks": ("masks:run_masks", "a data set to pseudo masks on disk, resumably"),
    "evaluate": ("evaluate:run_evaluate", "masks on disk against ground truth"),
    "compare": ("compare:run_compare", "which masks are better, and where they err"),
    "export": ("compare:run_export", "masks as one file for other programs"),
    "prompts search": ("prompts:run_search", "background words that are worth their place"),
    "page lab": ("prompts:run_lab", "the prompt lab as one HTML file, for any browser"),
    "baseline": ("photographs:run_baseline", "plain CAM on real photographs"),
    "reproduce": ("evaluate:run_reproduce", "the commands of a published number"),
    "bench": ("bench:run_bench", "how fast each stage of CLIP-ES is here"),
    "grade": ("grade:run_grade", "marks for the exercises of notebooks handed in"),
}
"""Each command's function, in a module of ``commands``, and its line in the list; and ``train``."""
_SHIPPED = {
    "paper-clip": "train:train_paper_clip",
    "paper-trunk": "train:train_paper_backbone",
    "paper-clims": "train:train_paper_clims",
    "paper-sc-cam": "train:train_paper_sc_cam",
}

_KINDS: dict[Any, str] = {int: "a whole number", float: "a number", json.loads: "JSON"}
_NAMES = {"sources": "--from", "images": "--pictures"}
"""Options with another name than their argument."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; errors that a user can mend are printed without a traceback."""
    words, bound = list(sys.argv[1:] if arguments is None else arguments), None
    if hasattr(sys.stdout, "reconfigure"):  # a console may lack letters of names
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.stderr is not None and not isinstance(sys.stderr, LenientStream):
        sys.stderr = LenientStream(sys.stderr)
    known = (*(name.partition(" ")[0] for name in _COMMANDS), "train")
    command = next((word for word in words[:1] if word in known), "")
    try:
        function, bound = parse(words)
        result = function(*bound.args, **bound.kwargs)
    except Exception as error:
        text = getattr(error, "msg", None) or error  # of cyclopts, what a converter has raised
        if code := _own_code(error):
            text = f"{code} failed ({type(error).__name__}: {error}); mend it"
        elif not isinstance(error, ValueError | OSError | RuntimeError | CycloptsError):
            raise
        print(f"{f'wsss_kit {command}'.rstrip()}: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nstopped; the same command {_goes_on(words, bound)}", file=sys.stderr)
        return 130
    if command == "train" and isinstance(result, Path) and place_in_run()[0] == 0:
        print(f"{result} and its card are written.")
    if command == "check" and result is not None:
        return 1 if result.errors else 0
    if command == "masks" and result is not None:
        return 1 if result.failed and not result.masks else 0  # every image failed
    if function.__name__ == "help_print" and not {"--help", "-h"} & set(words):
        return 2  # a command is missing
    return result if isinstance(result, int) else 0


def _own_code(error: Exception) -> str | None:
    """Return which ``FILE.py:FUNCTION`` made the module that an error was raised in, if one did."""
    places = (frame.f_locals.get("self") for frame, _ in walk_tb(error.__traceback__))
    return next(filter(None, (getattr(place, "own_code", None) for place in places)), None)


def parse(words: Sequence[str]) -> tuple[Callable[..., Any], inspect.BoundArguments]:
    """Read a command line: the function that it names, and the arguments that it gives.

    Raises:
        CycloptsError: for what is no command, no option or no value of one.
    """
    joined: list[str] = []
    for word in words:
        if word in ("true", "false") and joined and joined[-1].startswith("--"):
            joined[-1] += f"={word}"  # a flag takes a value with = alone
        else:
            joined.append(word)
    return build_app(*words[:1]).parse_args(joined, exit_on_error=False, print_error=False)[:2]


def build_app(command: str = "") -> App:
    """Build the parser. Only the module of ``command`` is imported, the others take seconds."""
    about = "A tutorial and analysis kit for weakly supervised semantic segmentation."
    app = App("python -m wsss_kit", help=about, help_format="rst", version_flags=())
    for full, (where, text) in _COMMANDS.items():
        first, _, name = full.rpartition(" ")
        group = App(first, help=text) if first else app
        if command == (first or name):
            group.command(as_command(_load(where)), name=name)
        else:
            group.command(lambda: None, name=name, help=text)
        if first:
            app.command(group)
    train = App("train", help="train a method on a data set, or what the package ships")
    if command == "train":
        from wsss_kit.commands.train_method import METHODS

        for what in METHODS:
            train.command(training_of(what), name=what)
        for what, where in _SHIPPED.items():
            train.command(as_command(_load(where)), name=what)
    app.command(train)
    return app


def _load(where: str) -> Callable[..., Any]:
    module, _, name = where.partition(":")
    function = getattr(import_module(f"wsss_kit.commands.{module}"), name)
    try:
        if "wsss_kit.plot" in sys.modules:  # it draws in the end
            import_module("matplotlib")
    except ValueError as error:
        problem = f"the environment variable MPLBACKEND is {os.environ.get('MPLBACKEND')!r}"
        raise ValueError(f"{problem} ({error}); set it to agg, or unset it") from error
    return function


def _goes_on(words: Sequence[str], bound: inspect.BoundArguments | None) -> str:
    """Return where the same command goes on from after it was stopped."""
    if words[0] in ("download", "masks", "reproduce"):
        return "goes on from what is written"
    if words[0] == "train" and bound and words[1] != "paper-trunk":
        bound.apply_defaults()
        folder = Path(bound.arguments["out"] or f"data/runs/{words[1]}")
        first = {"paper-clims": "cam", "paper-sc-cam": "sc-cam-training"}
        if (folder / f"{first.get(words[1], CHECKPOINT)}.safetensors").exists():
            resume = "" if words[1] in _SHIPPED else "with --resume "
            return f"{resume}goes on from the last checkpoint"
    return "begins again"


def training_of(what: str) -> Callable[..., Path]:
    """Return `train_method` of one method for the command line, with all of its options."""
    from wsss_kit.commands.train_method import called_by, options_of, train_method

    names, called = ["out", "resume", "device", *options_of(what)], called_by(what)
    command = as_command(partial(train_method, what), train_method, *called, only=names)
    about = (inspect.getdoc(called[0]) or "").partition("\n")[0]
    command.__doc__ = f"{about}\n\n{(inspect.getdoc(train_method) or '').partition('Args:')[0]}"
    return command


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
        texts = {p.arg_name: p.description for p in parse_docstring(inspect.getdoc(each)).params}
        for name, argument in inspect.signature(each).parameters.items():
            if argument.kind is argument.VAR_KEYWORD or not (only is None or name in only):
                continue
            stays = argument.kind is argument.POSITIONAL_ONLY
            parameter_kind = argument.kind if stays else argument.KEYWORD_ONLY
            flag = name.upper() if stays else _NAMES.get(name, f"--{name.replace('_', '-')}")
            annotation = _annotation(name, flag, hints[name], texts.get(name) or "")
            options.setdefault(name, argument.replace(kind=parameter_kind, annotation=annotation))

    def command(*arguments: Any, **given: Any) -> Any:
        return run(*arguments, **given)

    vars(command)["__signature__"] = inspect.Signature(list(options.values()))
    command.__doc__ = parse_docstring(inspect.getdoc(described[0])).description
    return command


def _annotation(name: str, flag: str, hint: Any, text: str) -> Any:
    """Return the type that cyclopts reads a value by: one that text can be, of a union's types."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    option = partial(Parameter, name=_NAMES.get(name), help=text)
    for each in kinds:
        if get_origin(each) in (tuple, Sequence):
            item = get_args(each)[0]
            read = partial(_read, flag=flag, of=item, many=True, single=item in kinds)
            of: Any = item if item in _KINDS else str
            return Annotated[list[of], option(converter=read, consume_multiple=True, negative=())]
        if get_origin(each) is Mapping:
            return Annotated[str, option(converter=partial(_read, flag=flag, of=json.loads))]
    for each in (int, float):
        if each in kinds:
            return Annotated[each, option(converter=partial(_read, flag=flag, of=each))]
    read = None if bool in kinds else partial(_read, flag=flag, of=str)
    return Annotated[bool if bool in kinds else str, option(converter=read)]


def _read(
    _: Any, tokens: Sequence[Token], *, flag: str, of: Any, many: bool = False, single: bool = True
) -> Any:
    """Read a value, or a list as ``1 0.5`` or ``1,0.5``; paths and JSON may hold commas.

    Args:
        tokens: the words of the option.
        flag: the option, for messages.
        of: type of a value, or what converts it.
        many: whether there may be several values.
        single: whether one value is no list.
    """
    words = [token.value for token in tokens]
    if of not in _KINDS and not all(words):
        raise ValueError(f"{flag} is '', expected a name or a path; . is the working folder")
    if many and (of is str or of in _KINDS):
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
