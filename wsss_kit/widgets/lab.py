"""PromptLab: change the prompts of CLIP-ES, and see what each word does."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
import numpy as np
import traitlets
from torch import Tensor

from wsss_kit.classes import Sample
from wsss_kit.evaluation import BackgroundRule
from wsss_kit.methods.clip_es import CLIPES, OpenedPicture
from wsss_kit.plot import overlay, show_words
from wsss_kit.plot.canvas import picture_array
from wsss_kit.plot.regions import fitted_picture, painted_claims
from wsss_kit.prompts import Prompts
from wsss_kit.prompts.checks import checked_words
from wsss_kit.prompts.ranking import WordTally
from wsss_kit.widgets import words as lists
from wsss_kit.widgets.instrument import NARROW, WIDTH, Instrument, Slices, column, row
from wsss_kit.widgets.screens import Bars, Swipe
from wsss_kit.widgets.stages import Pictures
from wsss_kit.widgets.words import FIELDS, History, WordBoxes, edited, unknown_in, with_backgrounds

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

BOX = (300, 300)
"""Height and width of the image on the screen."""
VIEWS = ("map", "competition")
PANELS = ("words", "IoU", "leave one out")
COMPARES = ("picture", "start words", "last words")


class PromptLab(Instrument):
    """Class names, synonyms, background words and template in text boxes, their maps beside them.

    An image is opened once, see `CLIPES.open`; from then on an edit costs milliseconds. Numbers
    over all images are computed when their panel is shown, piece by piece, and an edit on the way
    begins them anew. These images choose words: report on others.

    Args:
        method: a `CLIPES`; its prompts are what the lab begins with.
        samples: a few images with image-level labels, all of which stay open; those without any
            label are left out.
        masks: name to (H, W) ground truth; without masks there is sharpness and no IoU.
        rule: the background rule that makes masks of maps, chosen on other images.

    Attributes:
        prompts: what is asked, without regard to ``off``; set it, or `edit` a part of it.
        off: background words that are switched off.
        picture, class_name: whose map is shown.
        view: ``"map"``, or ``"competition"``: which word claims each cell.
        panel: ``"words"`` (what CLIP believes of the image), ``"IoU"`` (of each class) or
            ``"leave one out"`` (what each word is worth).
        compare: what is left of the handle, one of ``COMPARES``.
        unknown: words among those asked that this model never read.
        screen, bars: the `Swipe` and the `Bars`.
        words, problem: what is shown and what went wrong, in words.

    Raises:
        ValueError: if no image has a label, or labels and classes do not fit.

    Example:
        >>> from wsss_kit.clip import load_clip
        >>> from wsss_kit.paperworld import PaperWorld
        >>> world = PaperWorld(3)
        >>> method = CLIPES(load_clip("paper", device="cpu"), prompts=Prompts.paper())
        >>> lab = PromptLab(method, world, world.masks)
        >>> lab.edit("backgrounds", "grass, sky, zebra")
        >>> lab.unknown, len(lab.bars.rows)
        (('zebra',), 4)
        >>> lab.undo()
        >>> lab.prompts == method.prompts
        True
    """

    prompts = traitlets.Instance(Prompts)
    off = traitlets.Tuple()
    picture = traitlets.Unicode()
    class_name = traitlets.Unicode()
    view = traitlets.Unicode("map")
    panel = traitlets.Unicode("words")
    compare = traitlets.Unicode("picture")
    unknown = traitlets.Tuple()
    _KIND = "lab"
    _STATE = ("prompts", "off", "picture", "class_name", "view", "panel", "compare", "opacity")

    def __init__(
        self,
        method: CLIPES,
        samples: Sequence[Sample],
        masks: Mapping[str, Tensor] | None = None,
        *,
        rule: BackgroundRule | None = None,
    ) -> None:
        self._samples = Pictures(samples)
        n = len(method.prompts.classes)
        if not self._samples or any(len(own) != n for own in self._samples.labels.values()):
            raise ValueError(
                f"{len(self._samples)} of {len(samples)} pictures have a label, for {n} classes of "
                "the prompts; expected at least one, with a label for every class"
            )
        self.method, self.start = method, method.prompts
        self.rule = BackgroundRule(threshold=0.4) if rule is None else rule
        self._masks = {} if masks is None else masks
        self._opened: dict[str, OpenedPicture] = {}
        self._history, self._slices = History(), Slices()
        self._at_start: pd.DataFrame | None = None
        first = next(iter(self._samples.values()))
        self._index = int(first.labels.nonzero()[0])
        name = method.prompts.classes[self._index]
        super().__init__(prompts=method.prompts, picture=first.name, class_name=name)
        self.screen = Swipe(BOX[1], BOX[0])
        press = partial(self._answer, self._pressed)
        self.bars = Bars(290, BOX[0] - 34, press, styles=lists.STYLES)
        right = column([self._buttons("panel", ""), self.bars], 290)
        left = column(self._left(), WIDTH - BOX[1] - 290 - 16)
        self._boxes = WordBoxes(partial(self._answer, self.edit))
        self._begin([row([left, self.screen, right]), *self._boxes.rows])

    def _left(self) -> list[widgets.Widget]:
        """Build the controls beside the image."""
        look = {"style": NARROW, "layout": {"width": "auto", "max_width": "100%"}}
        self._file = widgets.Text("my_prompts.json", description="file", **look)
        self._load = self._file_button("Load", ".json", self._load_file, "84px")
        actions = {"Undo": self.undo, "Redo": self.redo, "Start": self._back_to_start}
        return [
            self._dropdown("picture"),
            self._dropdown("class_name", "class"),
            self._buttons("view", "show"),
            self._dropdown("compare"),
            self._slider("opacity", 0, 1, 0.05),
            widgets.HBox([self._button(name, action) for name, action in actions.items()]),
            self._file,
            widgets.HBox([self._button("Save", self._save), self._load]),
        ]

    def _choices(self) -> dict[str, Sequence[str]]:
        choices = {"picture": list(self._samples), "class_name": self._present(self.prompts)}
        return choices | {"view": VIEWS, "panel": PANELS, "compare": COMPARES}

    @traitlets.validate("prompts", "off")
    def _fit(self, proposal: Any) -> Any:
        check = {"prompts": self._checked_prompts, "off": self._checked_off}
        try:
            return check[proposal["trait"].name](proposal["value"])
        except ValueError as error:
            raise traitlets.TraitError(str(error)) from error

    def _checked_prompts(self, prompts: Prompts) -> Prompts:
        n = len(self.start.classes)
        if len(prompts.classes) != n:
            raise ValueError(
                f"the prompts have {len(prompts.classes)} classes, expected {n}: one for each "
                "label of the pictures; rename classes rather than adding or removing any"
            )
        return prompts

    def _checked_off(self, off: Sequence[str]) -> tuple[str, ...]:
        words = self.prompts.backgrounds
        off = checked_words(tuple(off), "off", among=words) if off else ()
        if len(off) == len(words):
            raise ValueError(
                f"all {len(words)} background words would be off, expected one at least: a class "
                "alone has nothing to compete with, and its map would be empty"
            )
        return off

    @property
    def asked(self) -> Prompts:
        """Prompts without the words that are off."""
        on = [word for word in self.prompts.backgrounds if word not in self.off]
        return with_backgrounds(self.prompts, on) if self.off else self.prompts

    def _present(self, prompts: Prompts) -> list[str]:
        """List the names that these prompts give to the classes of the image."""
        labels = self._samples.labels[self.picture].tolist()
        return [name for name, on in zip(prompts.classes, labels, strict=True) if on]

    def edit(self, field: str, text: str) -> None:
        """Change a part of the prompts, as its text box does.

        Args:
            field: ``"name"`` or ``"synonyms"`` of the class shown, ``"template"``,
                ``"backgrounds"``.
            text: words with commas between them, templates with bars.

        Raises:
            ValueError: if there is no such field, or the words do not go together.
        """
        if field not in FIELDS:
            raise ValueError(f"there is no field {field!r}, expected one of {', '.join(FIELDS)}")
        self._become(edited(self.prompts, field, text, index=self._index))

    def undo(self) -> None:
        """Take the last edit back.

        Raises:
            ValueError: if nothing was edited.
        """
        self._become(self._history.step("undo", self.prompts), remember=False)

    def redo(self) -> None:
        """Make an undone edit again.

        Raises:
            ValueError: if nothing was undone since the last edit.
        """
        self._become(self._history.step("redo", self.prompts), remember=False)

    def _back_to_start(self) -> None:
        with self._answering():
            self.off = ()
            self._become(self.start)

    def save(self, path: str) -> None:
        """Write what is asked as JSON, without the words that are off; `load` reads it."""
        self.asked.to_json(path)

    def load(self, path_or_text: Any) -> None:
        """Take over prompts from a file or a text that `Prompts.to_json` wrote.

        Raises:
            ValueError: if it is none, or has another number of classes.
            FileNotFoundError: if there is no such file.
        """
        self._become(Prompts.from_json(path_or_text))

    def _save(self) -> None:
        self.save(self._file.value)
        self.words = f"Saved as {self._file.value}."

    def _load_file(self, name: str, content: bytes) -> None:
        self._file.value = name
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{name} is no text ({error.reason} at byte {error.start}), expected JSON as the "
                "lab saves it"
            ) from error
        self.load(text)

    def _become(self, prompts: Prompts, *, remember: bool = True) -> None:
        """Take over other prompts, from wherever they come."""
        self._checked_prompts(prompts)
        before = self.prompts
        with self._answering():
            self.prompts = prompts
            if remember and prompts != before:
                self._history.remember(before)
            self._settle_and_show()

    def _pressed(self, name: str) -> None:
        """Switch a word whose bar was pressed, or go to a class."""
        if name in self.prompts.backgrounds:
            rest = tuple(word for word in self.off if word != name)
            self.off = rest if name in self.off else (*self.off, name)
        elif name in self.prompts.classes:
            self._go_to(name)
        self._settle_and_show()

    def _go_to(self, name: str) -> None:
        """Show a class, on an image that has it."""
        c = self.prompts.classes.index(name)
        if not self._samples.labels[self.picture][c]:
            with_it = [n for n, labels in self._samples.labels.items() if labels[c]]
            if not with_it:
                raise ValueError(f"none of the {len(self._samples)} pictures has {name!r}")
            self.picture = with_it[0]
        self.class_name, self._index = name, c

    def _settle(self, change: Any) -> None:
        if change is not None and change.name == "prompts" and change.old is not None:
            self._history.remember(change.old)
        here = self._present(self.prompts)
        if change is not None and change.name == "class_name":
            self._index = self.prompts.classes.index(self.class_name)
        name = self.prompts.classes[self._index]
        self.class_name = name if name in here else here[0]
        self._index = self.prompts.classes.index(self.class_name)
        words = self.prompts.backgrounds
        off = tuple(word for word in self.off if word in words)
        self.off = off if len(off) < len(words) else ()

    def _follow(self) -> None:
        super()._follow()
        self._boxes.fill(self.prompts, self._index)

    def _open(self, name: str) -> OpenedPicture:
        """Open an image once, ready for any words."""
        if name not in self._opened:
            sample = self._samples[name]
            self._opened[name] = self.method.open(sample.image, sample.labels).prepare()
        return self._opened[name]

    def _show(self) -> None:
        self._slices.stop()
        asked = self.asked
        used = [self.prompts.classes.index(name) for name in self._present(self.prompts)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # unknown words are said on the panel
            after, probs = self._painted(asked)
            before = self._compared()
        self.screen.show(*before, after, f"{self.view}, {self.class_name}, these words")
        self.unknown = tuple(unknown_in(asked, self.method.clip.unknown_words, used))
        self.words = self._in_words(asked, probs)
        self.bars.chosen = self.class_name
        if self.panel == "words":
            names, words = self._present(asked), self.prompts.backgrounds
            self.bars.show(**lists.probability_bars(names, words, asked.backgrounds, probs))
        else:
            self._slices.start(self._watched(self._score(asked, self.panel)))

    def finish(self) -> PromptLab:
        """Compute the numbers of the panel now, instead of piece by piece.

        Returns:
            Itself.
        """
        self._slices.finish()
        return self

    def _painted(self, prompts: Prompts) -> tuple[np.ndarray, Tensor]:
        """Paint the view of the image with some prompts, (h, w, 3); probabilities (T,)."""
        sample, opened = self._samples[self.picture], self._open(self.picture)
        names = self._present(prompts)
        image = picture_array(sample.image)
        found = opened.maps(prompts, classes=names)
        if self.view == "competition":
            claims = opened.claims(prompts, classes=names).argmax(0).cpu()
            words = [*names, *prompts.backgrounds]
            return painted_claims(image, claims, words, max(BOX), self.opacity), found.probs.cpu()
        c = names.index(prompts.classes[self._index])
        cam = found.full_size(image.shape[:2])[c].cpu()
        return overlay(fitted_picture(image, BOX), cam, alpha=self.opacity), found.probs.cpu()

    def _compared(self) -> tuple[np.ndarray, str]:
        """Return the image left of the handle, and its name."""
        last = self._history.past[-1] if self._history.past else self.start
        earlier = {"start words": self.start, "last words": last}
        if self.compare in earlier:
            return self._painted(earlier[self.compare])[0], f"{self.view}, {self.compare}"
        image = picture_array(self._samples[self.picture].image)
        return fitted_picture(image, BOX), f"picture {self.picture}"

    def _in_words(self, asked: Prompts, probs: Tensor) -> str:
        names = self._present(asked)
        p = 100 * float(probs[names.index(self.class_name)])
        rival = int(probs[len(names) :].argmax())
        believed = 100 * float(probs[len(names) + rival])
        return (
            f"{self.picture}: {self.class_name} {p:.1f} %; of the background words "
            f"{asked.backgrounds[rival]} is strongest, {believed:.1f} %."
        )

    def words_html(self) -> str:
        """Return the words, and which of the prompts' words the model never read."""
        if not self.unknown:
            return escape(self.words)
        return (
            f"{escape(self.words)} <b>This CLIP never read: {escape(', '.join(self.unknown))}.</b> "
            "Words it does not know all mean the same to it, so a picture says nothing about them."
        )

    def _score(self, asked: Prompts, panel: str) -> Iterator[None]:
        """Compute the numbers of a panel, image by image; show them at the end."""
        words = asked.backgrounds if panel == "leave one out" else ()
        if self._at_start is None and panel == "IoU":
            tally = WordTally(self.start, rule=self.rule)
            yield from self._added(tally, "start words")
            self._at_start = tally.per_class()
        tally = WordTally(asked, words, rule=self.rule)
        yield from self._added(tally, panel)
        if panel == "leave one out":
            self.bars.show(**lists.worth_bars(tally.changes(), self.prompts))
        else:
            table = tally.per_class()
            names = dict(zip(self.start.classes, self.prompts.classes, strict=True))
            start = self._at_start.rename(index=names)
            means = lists.scores_in_words(table, start)
            self.words = f"{self.words} {len(self._samples)} pictures, {self.rule}: {means}"
            self.bars.show(**lists.score_bars(table, start))
        self._say()

    def _added(self, tally: WordTally, what: str) -> Iterator[None]:
        n = len(self._samples)
        for i, (name, sample) in enumerate(self._samples.items(), 1):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                tally.add(sample, self._open(name), self._masks.get(name))
            self.bars.title = f"{what}: {i} of {n} pictures"
            yield

    def still(self) -> Figure:
        """Draw the map, who claims which cell and what CLIP believes, as a figure."""
        sample, opened, asked = self._samples[self.picture], self._open(self.picture), self.asked
        names = self._present(asked)
        maps = opened.maps(asked, classes=names)
        cam = maps.full_size(sample.image.shape[1:])[names.index(self.class_name)].cpu()
        claims = opened.claims(asked, classes=names).argmax(0).cpu()
        named = sample._replace(name=f"{self.class_name}, {asked.templates[0]!r}")
        return show_words(named, cam, claims, maps.probs.cpu(), [*names, *asked.backgrounds])
