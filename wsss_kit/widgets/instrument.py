"""What the instruments share: state in traits, controls that follow it, errors where one looks."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Callable, Container, Iterator, Sequence
from functools import lru_cache, partial
from html import escape
from typing import Any

import ipywidgets as widgets
import traitlets

from wsss_kit.checks import check_samples
from wsss_kit.classes import Sample
from wsss_kit.data.datasets import ByName
from wsss_kit.prompts.checks import expected_one_of
from wsss_kit.widgets.screens import FileButton

WIDTH = 880  # pixels; fits JupyterLab with its file list on a screen of 1366x768
NARROW = {"description_width": "80px"}
_TEXT = "line-height:1.35;padding:2px 0"
_CHOSEN = ("picture", "method", "class_name", "stage", "rule", "compare", "view", "panel")
"""Traits of any instrument that have one of several values."""
_RANGES = {"opacity": (0, 1), "threshold": (0, 1), "power": (0.5, 10)}


class Images(ByName):
    """Samples by their names; the last few read are kept.

    Args:
        samples: images with image-level labels. Where labels are known without decoding, as in
            `LazySamples`, none is decoded before it is asked for.
        among: names that count; None for those of images with a label.

    Attributes:
        labels: name to (C,) of 0 and 1.

    Example:
        >>> from wsss_kit.paperworld import PaperWorld
        >>> images = Images(PaperWorld(2))
        >>> list(images), images["val_0_000001"].name
        (['val_0_000000', 'val_0_000001'], 'val_0_000001')
    """

    def __init__(self, samples: Sequence[Sample], among: Container[str] | None = None) -> None:
        check_samples(samples)
        if hasattr(samples, "image_labels") and hasattr(samples, "names"):
            known = dict(zip(samples.names, samples.image_labels(), strict=True))
        else:
            known = {sample.name: sample.labels for sample in samples}
        places = {name: place for place, name in enumerate(known)}
        named = [
            n for n, labels in known.items() if (labels.any() if among is None else n in among)
        ]
        self._names = self.labels = {name: known[name] for name in named}
        self._read = lru_cache(16)(lambda name: samples[places[name]])

    def __getitem__(self, name: str) -> Sample:
        return self._read(name)


class Slices:
    """Work, a piece at a time, so that a reader's next wish comes between two pieces.

    Starting other work drops what is left of the old: of fast typing only the last text is read.
    Where no event loop runs, as in a script or a test, all of it is done at once.

    Args:
        failed: called with the error that ends a work.

    Example:
        >>> read = []
        >>> async def type_fast():
        ...     slices = Slices(failed=print)
        ...     for text in ("g", "gr", "grass"):
        ...         slices.start(map(read.append, [text]), pause=0.01)
        ...     await asyncio.sleep(0.05)
        >>> asyncio.run(type_fast())
        >>> read
        ['grass']
    """

    def __init__(self, failed: Callable[[Exception], Any]) -> None:
        self._work: Iterator[Any] | None = None
        self._failed = failed
        self.lock = threading.RLock()  # a cell may finish what a control began

    def start(self, work: Iterator[Any], pause: float = 0.001) -> None:
        """Begin with this work after a pause in seconds."""
        self._work = work
        try:
            self._task = asyncio.get_running_loop().create_task(self._go_on(work, pause))
        except RuntimeError:
            self.finish()

    async def _go_on(self, work: Iterator[Any], pause: float) -> None:
        await asyncio.sleep(pause)
        while self._work is work:
            self._step()
            await asyncio.sleep(0.001)

    def finish(self) -> None:
        """Do what is left now."""
        while self._work is not None:
            self._step()

    def stop(self) -> None:
        """Drop what is left."""
        self._work = None

    def _step(self) -> None:
        with self.lock:
            work = self._work
            if work is None:
                return
            try:
                ended = next(work, self) is self
            except Exception as error:
                ended = True
                self._failed(error)
            if ended and self._work is work:
                self._work = None


class Instrument(widgets.VBox):
    """A panel whose state is a handful of traits; controls and images follow them.

    A change of a trait, by a reader's hand or by a line of code, settles what depends on it and
    shows the result before the line ends. What goes wrong on the way is in ``problem`` and on the
    panel, never in a log.

    A subclass names its ``_KIND`` and ``_STATE`` and ends its ``__init__`` with `_begin`. It has
    ``_choices()``, trait to what it may be now; ``_settle(change)``, which brings the rest of the
    state in line (with None at the start); ``_show()``, which puts the state on the screen; and
    ``still()``, a figure for paper and pages without a kernel.
    """

    picture = traitlets.Unicode(help="name of the image that is shown")
    class_name = traitlets.Unicode()
    compare = traitlets.Unicode("picture", help="what is left of the handle")
    words = traitlets.Unicode(help="what is shown, in words")
    problem = traitlets.Unicode(help="why the last wish could not be met; empty if it could")
    opacity = traitlets.Float(0.6, help="weight of maps and masks over the image")
    _KIND = ""
    _STATE: tuple[str, ...] = ()
    _choices: Callable[[], dict[str, Sequence[str]]]
    _settle: Callable[..., None]
    _show: Callable[[], None]
    still: Callable[[], Any]

    def __init__(self, **state: Any) -> None:
        self._controls: dict[str, Any] = {}  # trait to the control that shows it
        # a kernel may answer controls in a thread of their own while a cell runs
        self._slices, self._trouble = Slices(self._failed), ""
        self._answers_in: int | None = None
        super().__init__(**state)

    def _begin(self, children: Sequence[widgets.Widget]) -> None:
        """Show the first state below the given rows, and listen from now on."""
        looks = {"tooltip": "", "layout": {"margin": "0 4px", "width": "auto"}}
        self._said, self._warned = widgets.HTML(**looks), widgets.HTML(**looks)
        self.children = [*children, self._said, self._warned]
        self.layout.width = f"{WIDTH}px"
        self.add_class("wsss-instrument").add_class(f"wsss-{self._KIND}")
        self.observe(self._heard, self._STATE)
        self._answer(self._settle_and_show)

    @traitlets.validate(*_CHOSEN)
    def _one_of(self, proposal: Any) -> str:
        trait, value = proposal["trait"].name, proposal["value"]
        options = self._choices()[trait]
        if value not in options:
            raise traitlets.TraitError(f"{trait} is {value!r}, {expected_one_of(value, options)}")
        return value

    @traitlets.validate(*_RANGES)
    def _in_range(self, proposal: Any) -> float:
        """Return a slider's value without its noise (0.30000000000000004), inside its range."""
        low, high = _RANGES[name := proposal["trait"].name]
        if proposal["value"] != proposal["value"]:
            raise traitlets.TraitError(f"{name} is nan, expected {low} to {high}")
        return min(high, max(low, round(proposal["value"], 6)))

    @property
    def _busy(self) -> bool:
        """Whether a change is being answered by this thread; it is heard of its own changes too."""
        return self._answers_in == threading.get_ident()

    def _heard(self, change: Any) -> None:
        if not self._busy:
            self._answer(self._settle_and_show, change)

    def _settle_and_show(self, change: Any = None) -> None:
        self._settle(change)
        self._show()

    def _change(self, trait: str, value: Any) -> None:
        """Set a trait inside of an answer, which is not heard."""
        setattr(self, trait, value)
        self._settle_and_show()

    def _answer(self, action: Callable[..., Any], *arguments: Any) -> None:
        """Do what a reader asks for; show what goes wrong, and bring the controls in line."""
        with self._slices.lock:
            if self._busy:  # inside of another answer, which shows what goes wrong
                action(*arguments)
                return
            self._answers_in, self._trouble = threading.get_ident(), ""
            try:
                action(*arguments)
            except Exception as error:  # whatever it is, the reader is to see it
                self._trouble = in_words(error)
            finally:
                self._follow()
                self._answers_in = None
            self._say()

    def _failed(self, error: Exception) -> None:
        """Show the error of what has no caller who could see it."""
        self._trouble = in_words(error)
        self._say()

    def finish(self) -> Instrument:
        """Compute the rest of the numbers now, instead of piece by piece.

        Returns:
            Itself.
        """
        self._slices.finish()
        return self

    def _say(self) -> None:
        """Put the words on the panel, and the problem of the last wish if there is one."""
        self.problem = problem = self._trouble
        self._said.value = f'<div aria-live="polite" style="{_TEXT}">{self.words_html()}</div>'
        alert = f'<div role="alert" style="{_TEXT};font-weight:600">⚠ {escape(problem)}</div>'
        self._warned.value = alert if problem else ""

    def words_html(self) -> str:
        """Return the words as HTML; a legend may go with them."""
        return escape(self.words)

    def _control(
        self,
        trait: str,
        widget: type = widgets.Dropdown,
        label: str | None = None,
        width: str = "auto",
        **options: Any,
    ) -> widgets.Widget:
        """Build a control whose value is tied to a trait, both ways."""
        label = trait if label is None else label
        control = widget(**look(label, width), **options)
        control.tooltip = label or trait  # without one, a page says "null"
        self._controls[trait] = control

        def moved(change: Any) -> None:
            if not self._busy:
                try:
                    setattr(self, trait, change.new)
                except traitlets.TraitError as error:
                    self._failed(error)
                    self._follow()

        control.observe(moved, "value")
        return control

    def _follow(self) -> None:
        """Put the traits' values, and what they may be, into their controls."""
        choices = self._choices()
        for trait, control in self._controls.items():
            value = getattr(self, trait)
            if value not in choices.get(trait, [value]):
                continue  # a change of another thread waits to be settled
            if trait in choices and tuple(control.options) != tuple(choices[trait]):
                control.options = tuple(choices[trait])
                if isinstance(control, widgets.ToggleButtons):
                    control.tooltips = control.options
            if isinstance(control, widgets.FloatSlider):  # or the page would round, and answer
                value = round(round(value / control.step) * control.step, 6)
            if control.value != value:
                control.value = value

    def _slider(self, trait: str, step: float, width: str = "auto") -> widgets.Widget:
        low, high = _RANGES[trait]
        limits = {"min": low, "max": high, "step": step, "value": getattr(self, trait)}
        return self._control(trait, widgets.FloatSlider, width=width, **limits)

    def _buttons(self, trait: str, label: str | None = None) -> widgets.Widget:
        """Build labelled buttons of which one is down."""
        buttons: Any = self._control(trait, widgets.ToggleButtons, label)
        buttons.style.button_width = "auto"
        buttons.layout.width = buttons.layout.max_width = None  # the label stays beside them
        return buttons

    def _button(self, label: str, action: Callable[[], Any]) -> widgets.Button:
        button = widgets.Button(description=label, tooltip=label, layout={"width": "84px"})
        button.on_click(lambda _: self._answer(action))
        return button

    def _file_button(
        self, label: str, accept: str, take: Callable[[str, bytes], Any], width: str = "auto"
    ) -> FileButton:
        """Build a button that opens files; ``take`` gets the name and content of each."""
        take_it, layout = partial(self._answer, take), {"width": width}
        return FileButton(label, accept, take_it, self._failed, layout=layout)

    def close(self) -> None:
        """Take the panel off every page and let go of what it holds, images and all."""
        waiting = list(self.children)
        while waiting:
            part = waiting.pop()
            waiting += getattr(part, "children", ())
            part.close()
        super().close()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """Return the live panel, and the still for saved notebooks and pages without a kernel."""
        bundle = super()._repr_mimebundle_(**options)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        still, alt = self.still()._repr_mimebundle_()
        still["image/jpeg"] = base64.b64encode(still["image/jpeg"]).decode()
        return {**(data or {}), **still}, {**metadata, **alt}


def in_words(error: Exception) -> str:
    """Return the message of an error; its type as well where that says more."""
    known = isinstance(error, (ValueError, RuntimeError, OSError, traitlets.TraitError))
    return str(error) if known else f"{type(error).__name__}: {error}"


def column(children: Sequence[widgets.Widget], width: int) -> widgets.VBox:
    """Place controls below each other."""
    return widgets.VBox(list(children), layout={"width": f"{width}px", "flex": "0 0 auto"})


def row(children: Sequence[widgets.Widget]) -> widgets.HBox:
    """Place columns beside each other."""
    return widgets.HBox(list(children), layout={"align_items": "flex-start", "grid_gap": "8px"})


def look(label: str, width: str = "auto") -> dict[str, Any]:
    """Return how controls with a label look, as arguments of a widget."""
    layout = {"width": width, "max_width": "100%"}
    return {"description": label, "style": NARROW, "layout": layout}
