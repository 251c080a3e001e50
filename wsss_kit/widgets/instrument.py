"""What the instruments share: state in traits, controls that follow it, errors where one looks."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
import traitlets

from wsss_kit.plot.canvas import alt_text, jpeg_bytes
from wsss_kit.prompts.checks import expected_one_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 880
"""Pixels of an instrument: fits JupyterLab with its file list on a screen of 1366x768."""
_GAP = 8  # pixels between columns
_TEXT = "line-height:1.35;padding:2px 0"
_NARROW = {"description_width": "80px"}


class Instrument(widgets.VBox):
    """A panel whose state is a handful of traits; controls and pictures follow them.

    A change of a trait, by a reader's hand or by a line of code, settles what depends on it and
    shows the result before the line ends. What goes wrong on the way is in ``problem`` and on the
    panel, never in a log.

    A subclass names its ``_KIND`` and ``_STATE``, calls `_begin` at the end of its ``__init__``,
    and has `_settle`, `_show` and `still`.
    """

    words = traitlets.Unicode(help="what is shown, in words")
    problem = traitlets.Unicode(help="why the last wish could not be met; empty if it could")
    opacity = traitlets.Float(0.6, help="weight of maps and masks over the picture")
    _KIND = ""
    _STATE: tuple[str, ...] = ()

    def _begin(self, children: Sequence[widgets.Widget]) -> None:
        """Show the first state below the given rows, and listen from now on."""
        self._said = widgets.HTML(layout={"margin": "0 4px", "width": "auto"})
        self._warned = widgets.HTML(layout={"margin": "0 4px", "width": "auto"})
        self.children = [*children, self._said, self._warned]
        self.layout.width = f"{WIDTH}px"
        self.add_class("wsss-instrument").add_class(f"wsss-{self._KIND}")
        self.observe(self._heard, self._STATE)
        with self._answering():
            self._settle(None)
            self._show()

    def __init__(self, **state: Any) -> None:
        self._bound: list[tuple[widgets.Widget, str]] = []
        # a kernel may answer controls in a thread of their own while a cell runs
        self._lock, self._answers_in, self._trouble = threading.RLock(), None, ""
        super().__init__(**state)

    @traitlets.validate("opacity")
    def _weight(self, proposal: Any) -> float:
        return between(proposal["value"], 0, 1)

    def _settle(self, change: Any) -> None:
        """Bring the rest of the state in line with a change, None at the start."""

    def _show(self) -> None:
        """Put the state on the screen."""
        raise NotImplementedError

    def still(self) -> Figure:
        """What is shown now, as a figure for paper and pages without a kernel."""
        raise NotImplementedError

    @property
    def _busy(self) -> bool:
        """Whether a change is being answered by this thread; it is heard of its own changes too."""
        return self._answers_in == threading.get_ident()

    def _heard(self, change: Any) -> None:
        if not self._busy:
            with self._answering():
                self._settle(change)
                self._show()

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Collect what goes wrong and bring the controls in line at the end."""
        with self._lock:
            outermost, said = not self._busy, ""
            if outermost:
                self._answers_in, self._trouble = threading.get_ident(), ""
            try:
                yield
            except Exception as error:  # whatever it is, the reader is to see it
                if not outermost:
                    raise
                said = in_words(error)
            finally:
                if outermost:
                    self._follow()
                    self._answers_in = None
            if outermost:
                self._say(said or self._trouble)

    def _watched(self, work: Iterator[Any]) -> Iterator[None]:
        """Long work whose errors are shown: it has no caller who could see them."""
        while True:
            with self._lock:
                try:
                    next(work)
                except StopIteration:
                    return
                except Exception as error:
                    self._trouble = in_words(error)
                    self._say(self._trouble)
                    return
            yield

    def _say(self, problem: str = "") -> None:
        """Put the words on the panel, and a problem if there is one."""
        self.problem = problem
        self._said.value = f'<div aria-live="polite" style="{_TEXT}">{self.words_html()}</div>'
        alert = f'<div role="alert" style="{_TEXT};font-weight:600">⚠ {escape(problem)}</div>'
        self._warned.value = alert if problem else ""

    def words_html(self) -> str:
        """The words as HTML; a legend may go with them."""
        return escape(self.words)

    def _bind(self, control: widgets.Widget, trait: str) -> widgets.Widget:
        """Tie a control's value to a trait, both ways."""
        self._bound.append((control, trait))

        def moved(change: Any) -> None:
            if not self._busy:
                try:
                    setattr(self, trait, change.new)
                except traitlets.TraitError as error:
                    with self._answering():
                        raise ValueError(str(error)) from error

        control.observe(moved, "value")
        return control

    def _follow(self) -> None:
        """Put the traits' values into their controls."""
        for control, trait in self._bound:
            value = getattr(self, trait)
            if control.value != value:
                control.value = value

    def _on_click(self, button: widgets.Button, action: Callable[[], Any]) -> widgets.Button:
        """Have a button do something whose errors are shown."""

        def pressed(_: object) -> None:
            with self._answering():
                action()

        button.on_click(pressed)
        return button

    def _check_among(self, trait: str, value: str, names: Sequence[str]) -> str:
        """Refuse a value of a trait that is none of those it may have now.

        Raises:
            TraitError: with those that would have been right.
        """
        if value not in names:
            raise traitlets.TraitError(f"{trait} is {value!r}, {expected_one_of(value, names)}")
        return value

    def close(self) -> None:
        """Take the panel off every page and let go of what it holds, pictures and all."""
        waiting = list(self.children)
        while waiting:
            part = waiting.pop()
            waiting += getattr(part, "children", ())
            part.close()
        super().close()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The live panel, and the still for saved notebooks and pages without a kernel."""
        bundle = super()._repr_mimebundle_(**options)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        figure = self.still()
        picture = base64.b64encode(jpeg_bytes(figure)).decode()
        kept = {**data, "image/jpeg": picture, "text/plain": alt_text(figure)}
        return kept, {**metadata, "image/jpeg": {"alt": alt_text(figure)}}


def between(value: float, low: float, high: float) -> float:
    """A slider's value without its noise (0.30000000000000004), inside its range.

    Example:
        >>> between(0.1 + 0.2, 0, 1), between(7, 0, 1)
        (0.3, 1)
    """
    return min(high, max(low, round(value, 6)))


def in_words(error: Exception) -> str:
    """What an error says; its type as well where that says more."""
    known = isinstance(error, (ValueError, RuntimeError, OSError, traitlets.TraitError))
    return str(error) if known else f"{type(error).__name__}: {error}"


def offer(control: widgets.Widget, options: Sequence[Any]) -> None:
    """Give a control other options if they are other."""
    if tuple(control.options) != tuple(options):
        control.options = tuple(options)


def dropdown(description: str, options: Sequence[Any] = (), **more: Any) -> widgets.Dropdown:
    """A labelled dropdown as wide as the controls' column."""
    return widgets.Dropdown(options=options, description=description, **_look(more))


def slider(
    description: str, value: float, low: float, high: float, step: float, **more: Any
) -> Any:
    """A labelled slider as wide as the controls' column."""
    limits = {"min": low, "max": high, "step": step}
    return widgets.FloatSlider(value, description=description, **limits, **_look(more))


def choice(description: str, options: Sequence[Any], **more: Any) -> widgets.ToggleButtons:
    """Labelled buttons of which one is down."""
    style = {**_NARROW, "button_width": "auto"}
    return widgets.ToggleButtons(options=options, description=description, style=style, **more)


def text_box(description: str, value: str = "", **more: Any) -> widgets.Text:
    """A labelled line of text that reports every key; debounce what follows."""
    return widgets.Text(value, description=description, **_look(more))


def column(children: Sequence[widgets.Widget], width: int) -> widgets.VBox:
    """Controls below each other."""
    return widgets.VBox(list(children), layout={"width": f"{width}px", "flex": "0 0 auto"})


def row(children: Sequence[widgets.Widget]) -> widgets.HBox:
    """Columns beside each other."""
    return widgets.HBox(
        list(children), layout={"align_items": "flex-start", "grid_gap": f"{_GAP}px"}
    )


def _look(more: dict[str, Any]) -> dict[str, Any]:
    return {"style": _NARROW, "layout": {"width": "auto", "max_width": "100%"}, **more}
