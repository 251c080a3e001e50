"""PromptLab: change the prompts of CLIP-ES, and see what each word does."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets
from torch import Tensor

from wsss_kit.classes import Sample
from wsss_kit.evaluation import BackgroundRule
from wsss_kit.evaluation.prompt_ranking import WordTally
from wsss_kit.methods.clip_es import CLIPES, OpenedImage
from wsss_kit.plot import canvas, overlay
from wsss_kit.plot.figures import name_bars
from wsss_kit.plot.regions import fitted_image, paint_claims
from wsss_kit.prompts import Prompts
from wsss_kit.prompts.search import Search
from wsss_kit.widgets import screens
from wsss_kit.widgets.instrument import WIDTH, Images, column, row
from wsss_kit.widgets.words import PromptEditor

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from wsss_kit.prompts.found import PromptSearch

BOX = (300, 300)  # height and width of the image on the screen
VIEWS = ("map", "competition")
PANELS = ("words", "IoU", "leave one out", "search")
COMPARES = ("picture", "start words", "last words")


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Leave out warnings of unknown words, which stand on the panel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _is_drawn(name: str) -> bool:
    """Return whether an image is called as those of `PaperWorld` are."""
    return re.fullmatch(r"[a-z]+_\d+_\d{6}", name) is not None


class PromptLab(PromptEditor):
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
        view: ``"map"``, or ``"competition"``: the most probable word of each cell.
        panel: ``"words"`` (what CLIP believes of the image), ``"IoU"`` (of each class) or
            ``"leave one out"`` (what each word is worth), ``"search"`` (which words are worth
            their place, with intervals; another panel stops it).
        compare: what is left of the handle, one of ``COMPARES``.
        found: the result of the last search, or None.
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

    view = traitlets.Unicode("map")
    panel = traitlets.Unicode("words")
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
        self._samples = Images(samples)
        n = len(method.prompts.classes)
        if not self._samples or any(len(labels) != n for labels in self._samples.labels.values()):
            counts = f"{len(self._samples)} of {len(samples)} images have a label"
            raise ValueError(f"{counts}, expected some, with {n} labels for the prompts' classes")
        self.method = method
        self.rule = BackgroundRule(threshold=0.4) if rule is None else rule
        self._masks = {} if masks is None else masks
        self._opened: dict[str, OpenedImage] = {}
        self._at_start: pd.DataFrame | None = None
        self.found: PromptSearch | None = None
        first = next(iter(self._samples.values()))
        super().__init__(method.prompts, int(first.labels.nonzero()[0]), picture=first.name)
        self.screen = screens.Swipe(BOX[1], BOX[0])
        press = partial(self._answer, self._pressed)
        self.bars = screens.Bars(290, BOX[0] - 34, press, screens.STYLES)
        right = column([self._buttons("panel", ""), self.bars], 290)
        controls = [
            self._control("picture"),
            self._control("class_name", label="class"),
            self._buttons("view", "show"),
            self._control("compare"),
            self._slider("opacity", 0.05),
            *self._file_controls(),
        ]
        left = column(controls, WIDTH - BOX[1] - 290 - 16)
        *line, backgrounds = self._boxes.values()
        backgrounds.rows = 2
        self._begin([row([left, self.screen, right]), row(line), backgrounds])

    def _choices(self) -> dict[str, Sequence[str]]:
        of_images = {"picture": list(self._samples), "class_name": self._present(self.prompts)}
        return {**of_images, "view": VIEWS, "panel": PANELS, "compare": COMPARES}

    def _present(self, prompts: Prompts) -> list[str]:
        """List the names that these prompts give to the classes of the image."""
        labels = self._samples.labels[self.picture].tolist()
        return [name for name, on in zip(prompts.classes, labels, strict=True) if on]

    def _pressed(self, name: str) -> None:
        """Switch a word whose bar was pressed, or show a class, on an image that has it."""
        if name in self.prompts.backgrounds:
            rest = tuple(word for word in self.off if word != name)
            self.off = rest if name in self.off else (*self.off, name)
        elif name in self.prompts.classes:
            c, labels = self.prompts.classes.index(name), self._samples.labels
            with_it = [image for image in labels if labels[image][c]]
            if not with_it:
                raise ValueError(f"none of the {len(labels)} images has {name!r}")
            self.picture = self.picture if self.picture in with_it else with_it[0]
            self.class_name, self._index = name, c
        self._settle_and_show()

    def _settle(self, change: Any) -> None:
        changed = "" if change is None else change.name
        if changed == "prompts":
            self._remember(change.old)
        here = self._present(self.prompts)
        name = self.class_name if changed == "class_name" else self.prompts.classes[self._index]
        self.class_name = name if name in here else here[0]
        self._index = self.prompts.classes.index(self.class_name)
        off = tuple(word for word in self.off if word in self.prompts.backgrounds)
        self.off = off if len(off) < len(self.prompts.backgrounds) else ()

    def _open(self, name: str) -> OpenedImage:
        """Open an image once, ready for any words."""
        if name not in self._opened:
            sample = self._samples[name]
            self._opened[name] = self.method.open(sample.image, sample.labels).prepare()
        return self._opened[name]

    def _show(self) -> None:
        self._slices.stop()
        prompts = self.asked
        after, probs = self._painted(prompts, self.view)
        name = f"{self.view}, {self.class_name}, these words"
        self.screen.show(*self._compared(), after, name)
        self.unknown = self._unknown_words(prompts)
        self.words = self._in_words(prompts, probs)
        self.bars.chosen = self.class_name
        if self.panel == "words":
            names, words = self._present(prompts), self.prompts.backgrounds
            self.bars.show(**screens.probability_bars(names, words, prompts.backgrounds, probs))
        else:
            self._slices.start(self._score(prompts, self.panel))

    @_no_warnings()
    def _painted(self, prompts: Prompts, view: str) -> tuple[np.ndarray, Tensor]:
        """Paint a view of the image with some prompts, (h, w, 3); probabilities (T,)."""
        sample, opened = self._samples[self.picture], self._open(self.picture)
        names, large = self._present(prompts), fitted_image(canvas.image_array(sample.image), BOX)
        output = opened.maps(prompts, classes=names)
        if view == "competition":
            words = [*names, *prompts.backgrounds]
            large = paint_claims(large, self._claims(prompts), words, self.opacity)
        else:
            c = names.index(prompts.classes[self._index])
            H, W = sample.image.shape[1:]
            cam = output.full_size((H, W))[c].cpu()
            large = overlay(large, cam, alpha=self.opacity)
        return large, output.probs.cpu()

    @_no_warnings()
    def _claims(self, prompts: Prompts) -> Tensor:
        """Return the most probable prompt of each cell, the classes present first, (h, w)."""
        opened, names = self._open(self.picture), self._present(prompts)
        return opened.claims(prompts, classes=names).argmax(0).cpu()

    def _compared(self) -> tuple[np.ndarray, str]:
        """Return the image left of the handle, and its name."""
        earlier = {"start words": self.start, "last words": [self.start, *self._past][-1]}
        if self.compare in earlier:
            pixels, _ = self._painted(earlier[self.compare], self.view)
            return pixels, f"{self.view}, {self.compare}"
        image = canvas.image_array(self._samples[self.picture].image)
        return fitted_image(image, BOX), f"image {self.picture}"

    def _in_words(self, prompts: Prompts, probs: Tensor) -> str:
        names = self._present(prompts)
        p, rivals = probs[names.index(self.class_name)], probs[len(names) :]
        strongest = f"{prompts.backgrounds[rivals.argmax()]} is strongest, {100 * rivals.max():.1f}"
        head = f"{self.picture}: {self.class_name} {100 * p:.1f} %"
        said = f"{head}; of the background words {strongest} %."
        if hasattr(self.method.clip.tokenizer, "unknown") and not _is_drawn(self.picture):
            said += " This CLIP knows only drawings of the embedded world: on a photograph its"
            said += " answers mean nothing."
        return said

    def _unknown_words(self, prompts: Prompts) -> tuple[str, ...]:
        """List words of the classes present, the backgrounds and the templates never read."""
        texts = [prompts.phrases[prompts.classes.index(name)] for name in self._present(prompts)]
        texts += [*prompts.backgrounds, *(each.replace("{}", " ") for each in prompts.templates)]
        unknown = self.method.clip.unknown_words
        return tuple(dict.fromkeys(word for text in texts for word in unknown(text)))

    def words_html(self) -> str:
        """Return the words, and which of the prompts' words the model never read."""
        if not self.unknown:
            return escape(self.words)
        unknown = f"<b>This CLIP never read: {escape(', '.join(self.unknown))}.</b>"
        return f"{escape(self.words)} {unknown} Words it does not know all mean the same to it."

    def _score(self, prompts: Prompts, panel: str) -> Iterator[None]:
        """Compute the numbers of a panel, image by image; show them at the end."""
        if panel == "leave one out":
            tally = yield from self._tallied(panel, prompts, prompts.backgrounds)
            self.bars.show(**screens.worth_bars(tally.changes(), self.prompts.backgrounds))
        elif panel == "search":
            found = self.found = yield from self._searched(prompts)
            self.words = f"{self.words} {found.made_by['images']} images: {found}"
            self.bars.show(**screens.search_bars(found))
        else:
            if self._at_start is None:
                tally = yield from self._tallied("start words", self.start)
                self._at_start = tally.per_class()
            tally = yield from self._tallied(panel, prompts)
            names = dict(zip(self.start.classes, self.prompts.classes, strict=True))
            tables = tally.per_class(), self._at_start.rename(index=names)
            means = screens.scores_in_words(*tables)
            self.words = f"{self.words} {len(self._samples)} images, {self.rule}: {means}"
            self.bars.show(**screens.score_bars(*tables))
        self._say()

    def _tallied(
        self, what: str, prompts: Prompts, words: Sequence[str] = ()
    ) -> Generator[None, None, WordTally]:
        """Score prompts on all images, one by one."""
        tally, n = WordTally(prompts, words, rule=self.rule), len(self._samples)
        for i, (name, sample) in enumerate(self._samples.items(), 1):
            with _no_warnings():
                tally.add(sample, self._open(name), self._masks.get(name))
            self.bars.title = f"{what}: {i} of {n} images"
            yield
        return tally

    def _searched(self, prompts: Prompts) -> Generator[None, None, PromptSearch]:
        """Search among all background words, those that are off as well, step by step."""
        method = copy.copy(self.method)
        method.prompts = prompts
        objective = "mIoU" if self._masks else "agreement"
        words = self.prompts.backgrounds
        # mIoU needs a mask of each image
        names = [name for name in self._samples if name in self._masks or not self._masks]
        with _no_warnings():
            search = Search(method.fit(), words, objective=objective, rule=self.rule, most=4)
        for i, name in enumerate(names, 1):
            with _no_warnings():
                search.scores.add(self._samples[name], self._masks.get(name))
            self.bars.title = f"search: {i} of {len(names)} images"
            yield
        for step in search.steps():
            self.bars.title = f"search: {step['step']} {step['word']}, {step['score']:.1f}"
            yield
        return search.result()

    def still(self) -> Figure:
        """Draw the map, the most probable word of each cell and what CLIP answers, as a figure."""
        prompts = self.asked
        words = [*self._present(prompts), *prompts.backgrounds]
        claims = self._claims(prompts).flatten().bincount(minlength=len(words))
        (cam, probs), (cells, _) = (self._painted(prompts, view) for view in VIEWS)
        order = probs.argsort(descending=True).tolist()[:16]
        shares = zip(words, 100 * claims / claims.sum(), strict=True)
        claimed = ", ".join(f"{word} {share:.0f} %" for word, share in shares if share > 0)
        believed = ", ".join(f"{words[t]} {100 * probs[t]:.0f} %" for t in order[:3])
        name = f"{self.class_name}, {prompts.templates[0]!r}"
        alt = f"{name}: map, cells by their most probable word ({claimed}), "
        alt += f"probabilities: {believed}."
        height = 0.9 + max(2.4, 0.2 * len(order))
        figure = canvas.new_figure(canvas.MAX_WIDTH, height, alt=alt)
        *shown, ax = figure.subplots(1, 3, width_ratios=[1, 1, 1.2])
        canvas.draw_panel(shown[0], cam, "map")
        canvas.draw_panel(shown[1], cells, "competition")
        ax.barh(range(len(order)), 100 * probs[order].numpy(), color="#777", edgecolor="black")
        name_bars(ax, [words[t] for t in order], "probability in percent")
        figure.suptitle(name, fontsize=canvas.TITLE_SIZE)
        return figure
