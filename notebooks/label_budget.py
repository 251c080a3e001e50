"""Draw the label-budget curve: how many masks are worth as much as image-level labels?

    python notebooks/label_budget.py                  # 800 images, seeds 0 and 1
    python notebooks/label_budget.py --limit 40       # a trial, which says nothing

The small segmenter of the kit learns from the ground-truth masks of 5, 10, 25, 50 and 100 % of the
``train`` images of the embedded world, and from pseudo masks of all of them, which CLIMS (or
CLIP-ES, ``--methods``) makes from image-level labels (with the dense CRF and the background rules
of the rows ``paper/...`` of ``python -m wsss_kit reproduce``). Ground truth enters training here on
purpose: it is the supervised ceiling. All segmenters are scored on the same ``test`` images as in
the README: the mean of an image and its mirror image, no labels, no CRF after the segmenter.

All segmenters train for the same number of optimisation steps, ``--passes`` times as many as a pass
over ALL images has. A small budget sees its images more often, so it is not punished by fewer
steps. The default is short: two seeds take eight minutes on two cores. ``--passes 10 --batch-size
16`` is the training of the README's table, and its numbers are higher; the number of masks may then
be another one. A seed fixes the segmenter's new weights, the order of the images and which images
have a mask; a larger budget contains the smaller ones of its seed.

The number of masks is where the curve first reaches the score of a weak method, by linear
interpolation in the logarithm of the number. Outside of the budgets the statement says "fewer than"
or "more than". Intervals come from a paired bootstrap over the test images: every resample has the
same images for all segmenters, and averages over the seeds. They say nothing about other seeds or
other worlds.

``--out`` holds table.csv, differences.csv, curve.png and one file for each trained segmenter. A run
that was stopped goes on where it was; a segmenter is trained again if its protocol has changed.
"""

import argparse
import json
import multiprocessing
import re
import textwrap
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from wsss_kit import PaperWorld, Protocol, __version__, evaluate, train_segmenter
from wsss_kit.checkpoints import fingerprint, fingerprint_masks
from wsss_kit.commands import read_masks, run_folder
from wsss_kit.commands.masks import run_masks
from wsss_kit.evaluation import published
from wsss_kit.evaluation.confusion import bootstrap_mean_iou, interval_of
from wsss_kit.files import write_whole
from wsss_kit.plot.canvas import NOTE_SIZE, save_figure
from wsss_kit.plot.charts import show_curves

SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)
WEAK = {"CLIMS": "clims", "CLIP-ES": "clip-es"}
N_TEST, N_BOOTSTRAP = 200, 2000
MASKS = "ground-truth masks"


def make_pseudo_masks(method: str, limit: int, out: Path) -> None:
    """Write the pseudo masks of the first ``limit`` train images, (H, W) each, to ``out``."""
    commands = " ".join(published(f"paper/{WEAK[method]}").commands)
    threshold = float(re.search(r"--threshold (\S+) --crf", commands)[1])
    options = {"threshold": threshold, "crf": True, "limit": limit, "device": "cpu"}
    run_masks(WEAK[method], out, data="paper", **options)


def train_row(
    source: str, n: int, seed: int, limit: int, steps: tuple[int, int], out: Path
) -> dict:
    """Train and score one segmenter, or read its file if the protocol there is the same.

    Args:
        source: ``MASKS``, or one of ``WEAK``.
        n: number of images with a mask.
        seed: of the segmenter and of the choice of images.
        limit: number of train images.
        steps: number of optimisation steps, and images a step.
        out: folder of the run.

    Returns:
        ``protocol``, ``mean_iou`` in [0, 1], and ``intersections`` and ``unions``, (N, S) pixels of
        each test image and class.
    """
    world = PaperWorld(limit, split="train")
    order = torch.randperm(limit, generator=torch.Generator().manual_seed(seed))
    samples = [world[i] for i in order[:n].sort().values.tolist()]
    masks = world.masks if source == MASKS else read_masks(out / f"{source} masks").masks
    masks = {sample.name: masks[sample.name] for sample in samples}
    test = PaperWorld(min(N_TEST, limit), split="test")
    options = dict(zip(("iterations", "batch_size"), steps, strict=True))
    protocol = {"kit": __version__, "source": source, "seed": seed, "n_test": len(test), **options}
    protocol |= {"images": fingerprint(samples), "masks": fingerprint_masks(masks)}
    path = out / "rows" / f"{source}, {n} of {limit} images, {steps[0]} steps, seed {seed}.json"
    if path.exists() and (row := json.loads(path.read_text()))["protocol"] == protocol:
        return row
    segmenter = train_segmenter(samples, masks, seed=seed, device="cpu", progress=False, **options)
    predicted = segmenter.predict_all(test, flip=True, shown=False)
    stated = {"background": "learned", "refinement": "none", "preset": f"small, {source}"}
    stated = Protocol("PaperWorld", "test", resolution="96x96", **stated)
    report = evaluate(predicted, test.masks, classes=test.classes, protocol=stated, n_bootstrap=0)
    row = {"protocol": protocol, "report": str(report.protocol), "mean_iou": report.mean_iou}
    row |= {"intersections": report.intersections.tolist(), "unions": report.unions.tolist()}
    write_whole(path, json.dumps(row))
    print(f"{path.stem}: mIoU {100 * report.mean_iou:.1f} %", flush=True)
    return row


def resample_scores(rows: Sequence[Mapping]) -> np.ndarray:
    """Compute the mean mIoU of the rows of several seeds, of the test set and of its resamples.

    Returns:
        (1 + R,) percent, the whole test set first; resample r has the same images for all rows.
    """
    scores = []
    for row in rows:
        counts = np.array(row["intersections"]), np.array(row["unions"])
        resampled = bootstrap_mean_iou(*counts, n_bootstrap=N_BOOTSTRAP)
        scores.append(np.concatenate([[row["mean_iou"]], resampled]))
    return 100 * np.mean(scores, 0)


def compute_worth(weak: np.ndarray, curve: np.ndarray, budgets: Sequence[int]) -> np.ndarray:
    """Compute the number of masks at which the curve first reaches a score.

    Args:
        weak: (R,) scores.
        curve: (R, K) scores of the budgets.
        budgets: K numbers of masks, ascending; between two of them the curve is linear in the
            logarithm of the number.

    Returns:
        (R,) numbers of masks; 0 below the smallest budget, infinity above all.
    """
    reached = curve >= weak[:, None]
    rows, high = np.arange(len(weak)), reached.argmax(1)
    low = np.maximum(high - 1, 0)
    rise = curve[rows, high] - curve[rows, low]
    share = (weak - curve[rows, low]) / np.where(rise > 0, rise, 1)
    logs = np.log(budgets)
    worth = np.exp(logs[low] + share * (logs[high] - logs[low]))
    worth = np.where(weak < curve[:, 0], 0, worth)
    return np.where(reached.any(1), worth, np.inf)


def write_number(worth: float, budgets: Sequence[int]) -> str:
    """Write one number of masks; in words where it is outside the budgets."""
    if worth == 0:
        return f"fewer than {budgets[0]}"
    return f"more than {budgets[-1]}" if np.isinf(worth) else f"{worth:.0f}"


def write_worth(worth: np.ndarray, budgets: Sequence[int]) -> str:
    """Write (1 + R,) numbers of masks as the first with the 95 % interval of the others."""
    bounds = np.quantile(worth[1:], (0.025, 0.975), method="inverted_cdf")  # bounds may be infinite
    n, low, high = (write_number(x, budgets) for x in (worth[0], *bounds))
    return f"{n} masks, 95 % interval [{low}, {high}]"


def draw_curve(scores: Mapping, worth: float, statement: str) -> Figure:
    """Draw the curve with a line for each weak method; bands are 95 % intervals in percent.

    Args:
        scores: (source, number of images) to (1 + R,) percent.
        worth: number of masks of the statement.
        statement: title of the figure.
    """
    budgets = [n for source, n in scores if source == MASKS]
    n_images, label = budgets[-1], "training images with a ground-truth mask"
    curves = {MASKS: {n: scores[MASKS, n][0] for n in budgets}}
    methods = [source for source, _ in scores if source != MASKS]
    for method in methods:
        name = f"{method}, labels of {n_images} images"
        curves[name] = dict.fromkeys((budgets[0], n_images), scores[method, n_images][0])
    marked = {label: worth} if 0 < worth < np.inf else None
    figure = show_curves({label: curves}, y="mIoU on test, percent", marked=marked, log=True)
    ax = figure.axes[0]
    ax.set_title(textwrap.fill(f"{statement}. Bands: 95 % intervals.", 100), fontsize=NOTE_SIZE)
    figure.set_size_inches(7.5, 4.5)
    drawn = [[(MASKS, n) for n in budgets], *([(m, n_images)] * len(budgets) for m in methods)]
    for line, points in zip(ax.lines, drawn, strict=False):  # the last line is the dotted one
        band = np.array([interval_of(scores[point][1:]) for point in points])
        ax.fill_between(budgets, *band.T, color=line.get_color(), alpha=0.15, linewidth=0)
    return figure


def main() -> None:
    """Train what is missing, and write the tables, the figure and the statements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of the trainings")
    parser.add_argument("--methods", nargs="+", choices=WEAK, default=["CLIMS"], metavar="METHOD")
    parser.add_argument("--limit", type=int, default=800, help="train images, at least 20")
    parser.add_argument("--passes", type=float, default=1.25, help="over all images")
    parser.add_argument("--batch-size", type=int, default=8, help="images a step")
    parser.add_argument("--processes", type=int, default=2, help="of one thread each")
    parser.add_argument("--out", type=Path, default=Path("data/runs/label_budget"))
    given = parser.parse_args()
    if given.limit < 20 or given.passes <= 0 or given.batch_size < 2:
        parser.error("expected --limit of 20, --passes above 0 and --batch-size of 2, or more")
    steps = int(np.ceil(given.passes * given.limit / given.batch_size)), given.batch_size
    budgets = [round(share * given.limit) for share in SHARES]
    sources = [*((MASKS, n) for n in budgets), *((method, given.limit) for method in given.methods)]
    tasks = [(source, n, seed) for seed in given.seeds for source, n in sources]
    spawn = multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)
    with run_folder(given.out) as out, ProcessPoolExecutor(given.processes, *spawn) as pool:
        for method in given.methods:
            pool.submit(make_pseudo_masks, method, given.limit, out / f"{method} masks").result()
        trained = [pool.submit(train_row, *t, given.limit, steps, out) for t in tasks]
        rows = {task: each.result() for task, each in zip(tasks, trained, strict=True)}
    iou = {task: 100 * row["mean_iou"] for task, row in rows.items()}
    scores = {each: resample_scores([rows[(*each, k)] for k in given.seeds]) for each in sources}
    curve = np.stack([scores[MASKS, n] for n in budgets], 1)  # (1 + R, K)
    table, differences, worth, statements = [], [], {}, []
    for (source, n), values in scores.items():
        line = {"trained on": source, "images": n}
        line |= {f"seed {k}": iou[source, n, k] for k in given.seeds}
        low, high = interval_of(values[1:])
        table.append(line | {"mean": values[0], "low": low, "high": high})
    for method in given.methods:
        values = scores[method, given.limit]
        worth[method] = compute_worth(values, curve, budgets)
        weak = np.array([iou[method, given.limit, k] for k in given.seeds])
        of_seeds = np.array([[iou[MASKS, n, k] for n in budgets] for k in given.seeds])
        of_seeds = [write_number(x, budgets) for x in compute_worth(weak, of_seeds, budgets)]
        number = f"{write_worth(worth[method], budgets)}; of each seed alone {', '.join(of_seeds)}"
        number += f"; {steps[0]} steps of {steps[1]} images"
        statements.append(f"image-level labels ({method}) are worth {number}")
        for n, of_masks in zip(budgets, curve.T, strict=True):
            low, high = interval_of((values - of_masks)[1:])
            line = {"labels of all": method, "minus masks": n, "points": (values - of_masks)[0]}
            differences.append(line | {"low": low, "high": high})
    for name, lines in {"table": table, "differences": differences}.items():
        frame = pd.DataFrame(lines).round(2)
        write_whole(out / f"{name}.csv", frame.to_csv(index=False))
        print(f"\n{name}, mIoU in percent\n{frame.to_string(index=False)}")
    save_figure(draw_curve(scores, worth[given.methods[0]][0], statements[0]), out / "curve.png")
    print("", *statements, sep="\n")
    if any(interval_of(gaps[1:])[1] < 0 for gaps in np.diff(curve).T):  # 0 is outside
        print("The curve falls between two budgets: train longer (--passes), or with more seeds.")


if __name__ == "__main__":
    main()
