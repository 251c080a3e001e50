"""Charts of analysis: heat maps of errors, curves over a parameter, points on a plane."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from wsss_kit.checks import check_count
from wsss_kit.evaluation import Report, spills
from wsss_kit.plot import canvas
from wsss_kit.plot.canvas import DISTINCT_COLOURS, NOTE_SIZE

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from wsss_kit.prompts.found import PromptSearch

LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P")

Curve = Mapping[float, float]  # from the parameter to the number, in any order


def show_confusion(report: Report) -> Figure:
    """Draw a heat map of predictions: each row is one class of the ground truth.

    Args:
        report: from `evaluate`.

    Returns:
        The figure: cells in percent of the row's pixels, the diagonal is the recall. Classes that
        are neither there nor predicted are left out.

    Example:
        >>> import torch
        >>> from wsss_kit.evaluation import Protocol, evaluate
        >>> masks = [{"a": torch.tensor([[0, 0, 1, 1]])}, {"a": torch.tensor([[0, 0, 0, 1]])}]
        >>> report = evaluate(*masks, classes=("cow",), protocol=Protocol("one image", "val"))
        >>> show_confusion(report).get_label()
        'Heat map of what each class is taken for, percent of its pixels. background: 67 \
background, 33 cow; cow: 100 cow.'
    """
    import pandas as pd

    seen = np.flatnonzero(report.matrix.sum(0) + report.matrix.sum(1))  # the others say nothing
    cells = pd.DataFrame(report.matrix, report.values, report.values).iloc[seen, seen]
    cells = 100 * cells.div(cells.sum(axis=1), axis=0)
    cells = cells.rename_axis(index="ground truth", columns="predicted")
    what = "what each class is taken for, percent of its pixels"
    return show_heat_maps({"": cells}, what, least=5, label="percent of the row", most=100)


def show_spills(report: Report) -> Figure:
    """Draw a heat map of the kinds of background that each class spills onto.

    Args:
        report: from `evaluate` with ``stuff``.

    Returns:
        The figure: cells in points of the row's union, so that they read as lost IoU.

    Raises:
        ValueError: if the report knows no kinds of background.

    Example:
        >>> import torch
        >>> from wsss_kit.evaluation import Protocol, evaluate
        >>> report = evaluate(
        ...     {"a": torch.tensor([[1, 0, 1, 1]])},
        ...     {"a": torch.tensor([[0, 0, 1, 1]])},
        ...     classes=("cow",),
        ...     protocol=Protocol("one image", "val"),
        ...     boundary=0,
        ...     stuff={"a": torch.tensor([[0, 0, 255, 255]])},
        ...     stuff_names=("grass",),
        ... )
        >>> show_spills(report).get_label()
        'Heat map of what each class spills onto, in points of its union. cow: 33 grass.'
    """
    import pandas as pd

    kinds, points = spills(report)
    cells = pd.DataFrame(points[1:], report.classes[1:], kinds)
    cells = cells.rename_axis(index="class that spilled", columns="kind of background")
    what, most = "what each class spills onto, in points of its union", np.nan_to_num(points).max()
    return show_heat_maps({"": cells}, what, label="points of the class's union", most=max(1, most))


def show_heat_maps(
    tables: Mapping[str, pd.DataFrame],
    what: str,
    *,
    label: str,
    least: float = 1,
    most: float | None = None,
    texts: pd.DataFrame | None = None,
) -> Figure:
    """Draw tables as heat maps beside each other, with the names of rows and columns.

    Cells that are NaN stay white. A single table of at most 13 rows and columns has its numbers in
    the cells. The alt text lists the cells of each row of at least ``least``, largest first.

    Args:
        tables: title -> cells; all have the same rows.
        what: what the numbers are, for the alt text.
        label: of the colours, with the unit.
        least: the size from which a cell is listed.
        most: where the colours end; None for the largest cell. They begin at 0, or, where a cell is
            negative, at minus ``most``.
        texts: what a single table has in its cells instead of its numbers; 0 is white then.

    Example:
        >>> import pandas as pd
        >>> cells = pd.DataFrame([[3, 0], [1, 2]], ["cow", "cat"], ["grass", "carpet"])
        >>> show_heat_maps({"": cells}, "images with both", label="images").get_label()
        'Heat map of images with both. cow: 3 grass; cat: 2 carpet, 1 grass.'
    """
    import seaborn as sns

    words = []
    for title, cells in tables.items():
        for name, row in cells.iterrows():
            large = row[row.abs() >= least].sort_values(key=abs, ascending=False, kind="stable")
            if len(large):
                listed = ", ".join(f"{value:.0f} {column}" for column, value in large.items())
                words.append(f"{f'{title}, ' if title else ''}{name}: {listed}")
    (rows, columns), n = cells.shape, len(tables)
    height, width = 2.5 + 0.45 * rows, 3.5 + 0.45 * columns
    height, width = (height, width) if n == 1 else (3.0, 0.3 * n * columns)
    width = width if texts is None else canvas.MAX_WIDTH
    alt = (
        f"Heat map{'s' * (n > 1)} of {what}. {'; '.join(words) or f'nothing of {least:g} or more'}."
    )
    axes = canvas.new_figure(width, height, alt=alt).subplots(1, n, sharey=True, squeeze=False)[0]
    most = max(float(np.nanmax(np.abs(t))) for t in tables.values()) if most is None else most
    is_signed = texts is not None or any((t < 0).any(axis=None) for t in tables.values())
    options: dict[str, Any] = {"vmin": -most if is_signed else 0, "vmax": most, "cbar": False}
    options |= {"cmap": "PuOr" if is_signed else "cividis"}
    if texts is not None:
        options |= {"annot": texts, "fmt": "", "annot_kws": {"size": NOTE_SIZE}}
    elif n == 1 and max(rows, columns) <= 13:  # then a cell is wide enough for a number
        options |= {"annot": cells.round() + 0.0, "fmt": ".0f", "annot_kws": {"size": NOTE_SIZE}}
    slant = (
        {"rotation": 60, "ha": "right", "rotation_mode": "anchor"} if n == 1 else {"rotation": 90}
    )
    for ax, (title, cells) in zip(axes, tables.items(), strict=True):
        sns.heatmap(cells, ax=ax, xticklabels=False, yticklabels=False, **options)
        # seaborn's own are measured at once, and a name with $ is no formula
        ax.set_xticks(np.arange(cells.shape[1]) + 0.5, cells.columns, **slant)
        ax.set_yticks(np.arange(rows) + 0.5, cells.index)
        ax.set_title(title)
    axes[0].figure.colorbar(axes[-1].collections[0], ax=axes, label=label)
    return axes[0].figure


def show_curves(
    panels: Mapping[str, Mapping[str, Curve]],
    *,
    y: str,
    marked: Mapping[str, float] | None = None,
    log: bool = False,
    columns: int = 3,
) -> Figure:
    """Draw panels of curves over one y axis; line, marker and shade tell the curves apart.

    Args:
        panels: label of a panel's x axis -> curve's name -> its points.
        y: label of the y axis.
        marked: label of an x axis -> value at which a dotted line stands, such as the one in use.
        log: whether x axes are logarithmic; all values must then be positive.
        columns: panels in a row.

    Returns:
        The figure, with one legend where there are several curves.

    Raises:
        ValueError: if there is no panel, a curve has no point, ``columns`` is no count, or an x
            is not above 0 on a logarithmic axis.

    Example:
        >>> figure = show_curves({"threshold": {"CAM": {0.1: 40.0, 0.3: 61.5}}}, y="mIoU, percent")
        >>> figure.get_label()
        'mIoU, percent against threshold. CAM: 40 at 0.1, highest 61.5 at 0.3, 61.5 at 0.3.'
    """
    from matplotlib import colormaps

    check_count("columns", columns)
    if not panels or not all(curves and all(curves.values()) for curves in panels.values()):
        raise ValueError(f"panels is {panels}, expected curves with at least one point in each")
    every = sorted({x for curves in panels.values() for curve in curves.values() for x in curve})
    if log and every[0] <= 0:
        raise ValueError(f"log is True and an x is {every[0]}, expected x above 0 on such an axis")
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    width, height = (5.5, 3.0) if columns == 1 else (3.6 * columns, 2.5)
    alt = " ".join(f"{y} against {x}. {_in_words(curves)}" for x, curves in panels.items())
    figure = canvas.new_figure(width, height * rows + 0.3 * (len(names) > 1), alt=alt)
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    shades, lines = colormaps["cividis"](np.linspace(0.1, 0.75, len(names))), {}
    for ax, (x, curves) in zip(axes.flat, panels.items(), strict=False):
        for name, curve in curves.items():
            i, points = names.index(name), zip(*sorted(curve.items()), strict=True)
            style = {"linestyle": LINES[i % len(LINES)], "marker": MARKERS[i % len(MARKERS)]}
            (lines[name],) = ax.plot(*points, color=shades[i], markersize=4, **style)
        if log:
            values = sorted(set().union(*curves.values()))
            ax.set_xscale("log")
            ax.set_xticks(values, [f"{value:g}" for value in values])
            ax.minorticks_off()
        if marked is not None and x in marked:
            ax.axvline(marked[x], linestyle=":", color="grey", linewidth=1)
        ax.set(xlabel=x, ylabel=y if ax in axes[:, 0] else None)
        ax.tick_params(labelsize=NOTE_SIZE)
        canvas.bare_axis(ax)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    if len(names) > 1:
        canvas.draw_legend(figure, lines, min(4, len(names)))
    return figure


def _in_words(curves: Mapping[str, Curve]) -> str:
    """Describe the first, the highest and the last point of each curve."""
    parts = []
    for name, curve in curves.items():
        places = (min(curve), max(curve, key=curve.__getitem__), max(curve))
        points = (f"{curve[x]:.3g} at {x:.3g}" for x in places)
        parts.append("{}: {}, highest {}, {}.".format(name, *points))
    return " ".join(parts)


def show_plane(panels: Mapping[str, tuple[Tensor, Sequence[str]]]) -> Figure:
    """Draw points on a plane, one panel for each title; colour and marker tell groups apart.

    Args:
        panels: title -> points (N, 2) and N names of groups; up to eight different names can be
            told apart by colour, more repeat with other markers.

    Returns:
        The figure, with one legend.

    Raises:
        ValueError: if there is no panel, or points and names do not fit.

    Example:
        >>> points = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
        >>> show_plane({"features of boats": (points, ["red", "wooden"])}).get_label()
        'Points on a plane. features of boats: 1 red, 1 wooden.'
    """
    if not panels:
        raise ValueError("panels is empty, expected at least one title with its points")
    alt = "Points on a plane."
    for title, (points, groups) in panels.items():
        shape = tuple(points.shape)
        if shape != (len(groups), 2) or not len(groups) or not torch.isfinite(points).all():
            problem = f"{title!r} has points of shape {shape} and {len(groups)} names"
            raise ValueError(f"{problem}, expected finite (N, 2) and N")
        counts = ", ".join(f"{n} {name}" for name, n in Counter(groups).items())
        alt += f" {title}: {counts}."
    names = list(dict.fromkeys(name for _, groups in panels.values() for name in groups))
    figure, drawn = canvas.new_figure(3.4 * len(panels), 3.5, alt=alt), {}
    axes = figure.subplots(1, len(panels), squeeze=False, subplot_kw={"xticks": (), "yticks": ()})
    for ax, (title, (points, groups)) in zip(axes[0], panels.items(), strict=True):
        for i, name in enumerate(names):
            places = points.detach().cpu().numpy()[[group == name for group in groups]]
            style = {"color": DISTINCT_COLOURS[i % len(DISTINCT_COLOURS)], "edgecolors": "black"}
            style |= {"marker": MARKERS[i % len(MARKERS)], "linewidths": 0.4}
            drawn[name] = ax.scatter(*places.T, s=22, **style)
        ax.set_title(title, fontsize=canvas.TITLE_SIZE)
    canvas.draw_legend(figure, drawn, min(6, len(names)), "lower center")
    return figure


def show_search(found: PromptSearch, *, most: int = 24) -> Figure:
    """Draw what a search of background words found: the worth of each word, and its path.

    Args:
        found: from `search_backgrounds`.
        most: words that are shown, those of both lists first, then by their gain.

    Returns:
        The figure: left points of the objective with simultaneous intervals, filled for kept words,
        and a star behind those of the best list; right the score of the list after each step.
    """
    check_count("most", most)
    words = found.words.sort_values("in best", ascending=False, kind="stable").head(most)[::-1]
    rows, kept = np.arange(len(words)), (words["status"] == "kept").to_numpy()
    gain, low, high = (words[name].to_numpy() for name in ("gain", "low", "high"))
    said = (
        f"{w} {g:+.1f} [{a:+.1f}, {b:+.1f}]"
        for w, g, a, b in zip(words.index, gain, low, high, strict=True)
    )
    alt = f"What each word is worth, in points of {found.made_by['objective']}. {'; '.join(said)}."
    path = found.path[found.path["class"] == ""]
    alt += f" The score of the list, step by step: {', '.join(f'{s:.1f}' for s in path['score'])}."
    height = max(3.0, 1.2 + 0.22 * len(words))
    left, right = canvas.new_figure(canvas.MAX_WIDTH, height, alt=alt).subplots(1, 2)
    left.errorbar(gain, rows, xerr=[gain - low, high - gain], fmt="none", color="black", capsize=2)
    for is_kept, face in ((True, "#3b6a8f"), (False, "white")):
        at = kept == is_kept
        left.plot(gain[at], rows[at], "o", color=face, markeredgecolor="black")
    left.axvline(0, color="black", linewidth=0.8)
    names = [f"{w} *" if best else w for w, best in zip(words.index, words["in best"], strict=True)]
    left.set_yticks(rows, names, fontsize=NOTE_SIZE)
    left.set(xlabel="points with the word, minus without", title="filled: kept; *: best list")
    moves = [
        f"{'-' if s == 'remove' else '+'} {w}"
        for s, w in zip(path["step"], path["word"], strict=True)
    ]
    right.plot(range(len(path)), path["score"], "o-", color="black", markersize=4)
    right.set_xticks(range(len(path)), moves, rotation=60, ha="right", fontsize=NOTE_SIZE)
    right.set(ylabel=f"{found.made_by['objective']} of the list", title="step by step")
    return right.figure


def show_word_classes(found: PromptSearch, *, most: int = 12) -> Figure:
    """Draw what each word is worth to each class, with its interval.

    Args:
        found: from `search_backgrounds`.
        most: words that are shown, those of both lists first, then by their gain.

    Returns:
        The figure: a row for each word and a column for the background and each class; points of
        IoU of the list with the word, minus without it. All its intervals hold at once. A cell
        whose interval contains 0 is white.
    """
    check_count("most", most)
    words = found.words.sort_values("in best", ascending=False, kind="stable").head(most).index
    table: Any = found.by_class.pivot(index="word", columns="class").loc[words]
    classes = list(dict.fromkeys(found.by_class["class"]))
    gain, low, high = (table[name][classes] for name in ("gain", "low", "high"))
    bounds = low.map("{:+.1f}".format) + ", " + high.map("{:+.1f}".format)
    texts = gain.map("{:+.1f}".format) + "\n[" + bounds + "]"
    proven = gain.where((low > 0) | (high < 0), 0.0).rename_axis(index=None, columns=None)
    unit = f"points of {'IoU' if len(classes) > 1 else found.made_by['objective']}"
    what = f"what each word is worth to each class, in {unit}, where the interval leaves out 0"
    options = {"label": f"{unit}, with the word minus without", "least": 0.5, "texts": texts}
    highest = max(1.0, proven.abs().to_numpy().max())
    return show_heat_maps({"": proven}, what, most=highest, **options)
