"""Training what the package ships: the tiny CLIP and the paper trunk, again from their seed.

They stand for two things, so they have two teachers. The tiny CLIP stands for a model that read the
web, where heads are often hidden: a share of its objects is torn. The paper trunk stands for
ImageNet, which was not chosen so: its teacher is a tiny CLIP that never saw a torn object. In
CLIP-ES's place the trunk's teacher finds heads; in the trunk's place the torn tiny CLIP would give
plain CAM the bodies that SC-CAM is there to find. Both cards say what was seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from wsss_kit.checks import chosen_device
from wsss_kit.clip import FrozenCLIP, load_clip
from wsss_kit.commands.runs import run_folder
from wsss_kit.evaluation import CONSTANTS, CRF_RULES, POWERS, sweep_background
from wsss_kit.files import load_model, save_model
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.paperworld import PaperWorld
from wsss_kit.paperworld.pretrain import Pretraining
from wsss_kit.paperworld.trunk import train_trunk
from wsss_kit.paperworld.world import TORN
from wsss_kit.pipeline import Pipeline
from wsss_kit.prompts import Prompts
from wsss_kit.training import progress

ZERO_SHOT = {"cutouts": 0.98, "out_of_context": 0.98, "backgrounds": 0.94}
"""Least accuracy of a tiny CLIP that is chosen, on held-out pictures, see `zero_shot_accuracy`."""
_SQUARINGS = (0, 1)  # a walk of one step, and the published one of two


def train_paper_clip(
    out: str | Path = "data/runs/paper",
    *,
    steps: int = 8000,
    fall: float = 0.2,
    seed: int = 0,
    workers: int = 1,
    device: str = "cpu",
    torn: float = TORN["web"],
) -> Path:
    """Train the tiny CLIP, resumably, and choose what its affinity is made of and walks.

    Args:
        out: folder of checkpoints, log, weights and card.
        steps: of 128 images.
        fall: last share of the steps, over which the learning rate falls.
        seed: of weights and world.
        workers: processes that draw images.
        device: ``"cpu"``, ``"cuda"`` or ``"mps"``.
        torn: how often an object of the images has lost its signature part; 0 for a teacher of
            the paper trunk.

    Returns:
        The path of the weights.
    """
    device = str(chosen_device(device))
    with run_folder(out) as folder:
        run = Pretraining(
            folder, steps=steps, fall=fall, seed=seed, workers=workers, device=device, torn=torn
        )
        path = run.run(progress=partial(progress, what="paper-clip")).export(folder / "tiny_clip")
        return write_affinity(path)


def choose_paper_clip(
    candidates: Sequence[str | Path], out: str | Path = "data/runs/paper"
) -> Path:
    """Choose, of several trained tiny CLIPs, the one whose maps on ``val`` are best.

    Equally trained towers differ by points, so several are trained and one is chosen, by the mean
    of `AffinityScore`. One that has not learned to tell pictures apart (``ZERO_SHOT``) cannot be.
    The card gets all of their figures, for what was chosen among several is a little too good on
    ``val``.

    Args:
        candidates: weights that `train_paper_clip` wrote.
        out: folder of the chosen weights and card.

    Returns:
        The path of the chosen weights.

    Raises:
        ValueError: if there is no candidate, one was not measured in the same way, none reaches
            ``ZERO_SHOT``, or ``out`` is in use.
        FileNotFoundError: if a candidate is missing.
    """
    if not candidates:
        raise ValueError("no candidates given, expected the weights of at least one tiny CLIP")
    loaded = [load_model(path) for path in candidates]
    for path, (_, card) in zip(candidates, loaded, strict=True):
        how = card.get("attention", {}).get("chosen_on")
        if how is None or how != loaded[0][1]["attention"]["chosen_on"]:
            raise ValueError(
                f"{path} was measured on {how or 'nothing'}, expected the same for all candidates; "
                "measure it by write_affinity, as the training command does"
            )
    figures = [_figures_of(card) for _, card in loaded]
    able = [i for i, found in enumerate(figures) if _is_able(found["zero_shot"])]
    if not able:
        bars = ", ".join(f"{name} {100 * least:.0f} %" for name, least in ZERO_SHOT.items())
        raise ValueError(f"no candidate reaches {bars} zero-shot; train longer (--steps)")
    best = max(able, key=lambda i: sum(figures[i]["mean_iou"].values()))
    tensors, card = loaded[best]
    card["chosen"] = {"on": card["attention"]["chosen_on"], "among": figures}
    with run_folder(out) as folder:
        return save_model(folder / "tiny_clip", tensors, card)


def _is_able(zero_shot: Mapping[str, float]) -> bool:
    return all(zero_shot[name] >= least for name, least in ZERO_SHOT.items())


def _chosen_scores(card: Mapping[str, Any]) -> dict[str, float]:
    found = card["attention"]
    return found["mean_iou"][f"squarings {found['squarings']}, layers {found['layers']}"]


def _figures_of(card: Mapping[str, Any]) -> dict[str, Any]:
    """What tells one tiny CLIP from others: how it was trained and what came of it."""
    zero_shot = {k: v for k, v in card["zero_shot"].items() if k != "pictures_drawn"}
    return {
        "seed": card["training"]["seed"],
        "torn": card["data"].get("torn", 0.0),
        "pictures": card["data"]["pictures"],
        "steps_averaged": card["training"].get("steps_averaged", 0),
        "attention_layers": card["attention"]["layers"],
        "walk_squarings": card["attention"]["squarings"],
        "mean_iou": _chosen_scores(card),
        "zero_shot": {name: round(value, 4) for name, value in zero_shot.items()},
    }


def train_paper_trunk(
    out: str | Path = "data/runs/paper",
    *,
    teacher: str | Path | None = None,
    steps: int = 800,
    seed: int = 0,
    workers: int = 1,
) -> Path:
    """Train the paper trunk on a tiny CLIP's patches.

    Args:
        out: folder of the weights and the card.
        teacher: weights of the tiny CLIP; None for the package's.
        steps: of 64 images.
        seed: of weights and world.
        workers: processes that draw images.

    Returns:
        The path of the weights.
    """
    with run_folder(out) as folder:
        return train_trunk(
            folder / "paper_trunk",
            teacher=teacher,
            steps=steps,
            seed=seed,
            workers=workers,
            progress=partial(progress, what="paper-trunk"),
        )


class AffinityScore(NamedTuple):
    """mIoU in [0, 1] on ``val``, each under its best background rule.

    Args:
        maps: of the refined maps as they are.
        crf: of the refined maps after the dense CRF.
    """

    maps: float
    crf: float

    @property
    def mean(self) -> float:
        """Of both: what an affinity and a tower are chosen by, for maps are used either way."""
        return (self.maps + self.crf) / 2


def score_affinity(
    clip: FrozenCLIP, *, n_images: int = 100, shown: bool = True
) -> dict[tuple[int, int], AffinityScore]:
    """CLIP-ES on PaperWorld's ``val``, by what its affinity is made of and how far it walks.

    Args:
        clip: a tiny CLIP.
        n_images: pictures of ``val``.
        shown: whether to show progress bars.

    Returns:
        (squarings of the transition, last layers that attention is averaged over) -> mIoU without
        and with the dense CRF.
    """
    val = PaperWorld(n_images, split="val")
    scores = {}
    for squarings, n_layers in product(_SQUARINGS, range(1, 1 + len(clip.blocks))):
        options = {"n_layers": n_layers, "squarings": squarings}
        method = CLIPES(clip, prompts=Prompts.paper(), **options).fit()
        found = [
            sweep_background(
                Pipeline(method, crf=crf),
                val,
                val.masks,
                rules=rules,
                shown=shown,
                what=f"{2**squarings} steps, the last {n_layers} layers",
            )
            for rules, crf in ((CONSTANTS + POWERS, False), (CRF_RULES, True))
        ]
        scores[squarings, n_layers] = AffinityScore(*(max(swept.values()) for swept in found))
    return scores


def write_affinity(path: str | Path, *, n_images: int = 100, shown: bool = True) -> Path:
    """Measure `score_affinity` for a saved tiny CLIP and put the best into its card."""
    scores = score_affinity(
        load_clip("paper", weights=path, device="cpu"), n_images=n_images, shown=shown
    )
    squarings, layers = max(scores, key=lambda key: scores[key].mean)
    rows = {
        f"squarings {squared}, layers {n}": {
            "maps": round(found.maps, 3),
            "crf": round(found.crf, 3),
        }
        for (squared, n), found in scores.items()
    }
    tensors, card = load_model(path)
    card["attention"] = {
        "layers": layers,
        "squarings": squarings,
        "chosen_on": f"PaperWorld seed 0, val, {n_images} pictures: CLIP-ES (reference), mean of "
        "the mIoU without and with the dense CRF, the best background rule of each",
        "mean_iou": rows,
    }
    return save_model(path, tensors, card)
