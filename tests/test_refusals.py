"""Every public function refuses numbers, images, maps and labels that it cannot mean.

A door is one line of ``DOORS``: a call that works, and the kind of each argument that has one. All
wrong values of a kind are tried on all arguments of it, so a new door gets its siblings' tests.
"""

import inspect
import re
import reprlib
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import wsss_kit as kit
from wsss_kit import affinity, crf, evaluation, plot
from wsss_kit.affinity_net import AffinityNet
from wsss_kit.classes import PAPER_CLASSES, Sample
from wsss_kit.clip import load_clip
from wsss_kit.commands.demo import run_demo
from wsss_kit.commands.evaluate import run_reproduce
from wsss_kit.commands.photographs import run_baseline
from wsss_kit.commands.train import train_paper_backbone, train_paper_clip
from wsss_kit.evaluation import BackgroundRule, ConfusionMatrix, Protocol
from wsss_kit.methods import sc_cam
from wsss_kit.methods.cam import CAM
from wsss_kit.methods.clims import CLIMS, propose_backgrounds
from wsss_kit.methods.clip_es import CLIPES, refined_maps
from wsss_kit.notebook_data import open_data
from wsss_kit.paperworld import PaperWorld
from wsss_kit.pipeline import Pipeline
from wsss_kit.prompts import Prompts
from wsss_kit.widgets import CAMExplorer

NAN, INF = float("nan"), float("inf")
MAPS = torch.linspace(0, 1, 32).view(1, 2, 4, 4)
SCORES = torch.cat([torch.full((1, 1, 4, 4), 0.5), MAPS], 1)
IMAGES = torch.linspace(0, 1, 48).view(1, 3, 4, 4)
LABELS = torch.tensor([[1.0, 1.0]])
CELLS = torch.full((1, 16, 16), 0.1) + torch.eye(16)
MASK = torch.tensor([[0, 1], [2, 255]])
MASKS = {"a": MASK}


def odd(good: torch.Tensor, value: float) -> torch.Tensor:
    """A tensor in which one value is another."""
    bad = good.clone()
    bad.view(-1)[-1] = value
    return bad


def wrong_maps(good: torch.Tensor) -> list[Any]:
    range_left = [odd(good, value) for value in (NAN, INF, -0.01, 1.01)]
    return [*range_left, 255 * good, (255 * good).byte(), good[0], good.numpy(), good.tolist()]


def wrong_labels(good: torch.Tensor) -> list[Any]:
    values = [odd(good, value) for value in (NAN, -1, 2, 0.5, 255)]
    return [*values, good[:, :1], good.repeat(2, 1), good.numpy()]


def wrong_mask(good: torch.Tensor) -> list[Any]:
    return [good.float(), good.tolist(), None, odd(good, -1), good[:1]]


def wrong_masks(good: dict[str, torch.Tensor]) -> list[Any]:
    (name, mask), *_ = good.items()
    return [{}, [mask], mask, None, *({name: wrong} for wrong in wrong_mask(mask))]


NO_NUMBERS = ["3", True, None, [3], NAN]
WRONG: dict[str, Callable[[Any], list[Any]]] = {
    "count": lambda good: [*NO_NUMBERS, 0, -1, 1.5, INF, 2**31],
    "count from 0": lambda good: [*NO_NUMBERS, -1, 1.5, INF, 2**31],
    "seed": lambda good: [*NO_NUMBERS, -1, 1.5, INF, 2**32],
    "positive": lambda good: [*NO_NUMBERS, 0, -1, INF, -INF, 1e300],
    "not negative": lambda good: [*NO_NUMBERS, -1, INF, -INF, 1e300],
    "probability": lambda good: [*NO_NUMBERS, -0.01, 1.01, INF, 40],
    "counts": lambda good: ["12", 3, None, (), (0, 1), (1.5,), ("2",), (True,), (NAN,)],
    "count or counts": lambda good: ["3", True, None, NAN, 0, 1.5, (), (0, 1), (1.5,), ("2",)],
    "factors": lambda good: ["12", 3.0, None, (), (0.0, 1), ("2",), (True,), (NAN,), (1e9,)],
    "range": lambda good: ["ab", 4, (), (4,), (0, 4), (8, 4), (4, 4.5), (4, 4, 4)],
    "size": lambda good: ["44", 4, None, (), (4,), (0, 4), (4, -1), (4, 4.0), (4, 4, 4)],
    "word of a list": lambda good: ["other", "", None, 3],
    "unit maps": wrong_maps,
    "maps": lambda good: [good[0], (255 * good).byte(), good.numpy(), good.tolist(), None],
    "labels": wrong_labels,
    "masks": wrong_masks,
    "names": lambda good: ["cow", 3, None, (), ("cow", "cow")],
    "words": lambda good: ["", "  ", None, 3],
    "device": lambda good: ["gpu", "cudaa", "meta", "", None, 3, "mps:x"],
    "samples": lambda good: [None, [], iter(good), good[0], [good[0].image], [("a", 1)]],
    "rules": lambda good: [(), (0.3,), ("power",), (None,)],
    "matrix": lambda good: [good[:1], good[0], good[None]],
}
"""Kind -> from a good value to the wrong ones; ``" or None"`` after a kind lets None in."""


class Door(NamedTuple):
    """One public callable: what it is called with, and the kinds of its arguments."""

    call: Callable[..., Any]
    good: dict[str, Any]
    kinds: dict[str, str]


COUNT, FROM_0, POSITIVE, WORD = "count", "count from 0", "positive", "word of a list"
UNIT, SHARE, NOT_NEGATIVE, FACTORS = "unit maps", "probability", "not negative", "factors"
WORLD = PaperWorld(2)


def alike(value: Any, kind: str | None, names: str) -> dict[str, tuple[Any, str | None]]:
    return dict.fromkeys(names.split(), (value, kind))


USUAL: dict[str, tuple[Any, str | None]] = {
    **alike(1, COUNT, "n k columns epochs limit accumulate steps rounds restarts"),
    **alike(2, COUNT, "batch_size n_classes n_subcategories n_layers radius levels most round_to"),
    **alike(4, COUNT, "n_train n_val n_test max_cells n_images"),
    **alike(8, COUNT, "stride sinkhorn"),
    **alike(64, COUNT, "crop size pad_to"),
    **{"seed": (0, "seed"), "workers": (0, FROM_0)},
    **alike(1, FROM_0, "iterations squarings boundary n_bootstrap width"),
    **alike(1, POSITIVE, "spatial_std bilateral_xy_std bilateral_rgb_std"),
    **alike(2.0, POSITIVE, "power background_power walk_power"),
    **alike(1e-4, POSITIVE, "learning_rate tolerance eps"),
    **alike(1.0, NOT_NEGATIVE, "spatial_weight bilateral_weight otm btm cbs reg weight_decay"),
    **alike(1.0, NOT_NEGATIVE, "subcategory_weight"),
    **alike(0.3, SHARE, "threshold box_threshold cooccurrence torn fall background"),
    **alike(0.9, SHARE, "alpha min_confidence cbs_threshold least predicted_255"),
    **{"images": (IMAGES, UNIT), "scores": (SCORES, UNIT), "cams": (MAPS, UNIT)},
    **{"maps": (MAPS, "maps"), "labels": (LABELS, "labels"), "samples": (WORLD, "samples")},
    **{"scales": ((1.0,), FACTORS), "dilations": ((1,), "counts"), "device": ("cpu", "device")},
    **{"long_side": ((32, 48), "range"), "preset": ("clean", WORD), "cmap": ("viridis", WORD)},
    **{"name": ("paper", WORD), "template": ("a {}", WORD), "unary": ("soft", WORD)},
    **alike("max", WORD, "fuse"),
    **{"split": ("val", WORD), "prompts": (Prompts.paper(), None)},
    **{"rule": (BackgroundRule(power=1), None), "rules": ((BackgroundRule(power=1),), "rules")},
    **alike(False, None, "progress shown"),
}
"""Arguments that mean the same everywhere: a good value, and its kind; None if it is not varied."""


def door(call: Callable[..., Any], usual: str, *given: Any, **own: Any) -> Door:
    """A door.

    Args:
        call: what is called.
        usual: names of arguments in ``USUAL``; those that end with ``?`` may be None as well.
        given: its first arguments, which are not varied.
        own: other arguments, as in ``USUAL``.
    """
    arguments = {}
    for name in usual.split():
        value, kind = USUAL[name.rstrip("?")]
        arguments[name.rstrip("?")] = value, optional(kind) if name.endswith("?") else kind
    arguments |= own
    kinds = {name: kind for name, (_, kind) in arguments.items() if kind is not None}
    good = {name: value for name, (value, _) in arguments.items()}
    return Door(partial(call, *given), good, kinds)


def optional(kind: str) -> str:
    return f"{kind} or None"


@cache
def small_cam() -> CAM:
    cam = CAM("paper", scales=(1.0,), flip=False, device="cpu", weights="web")
    return cam.fit(WORLD, train_backbone=False, epochs=1, progress=False)


@cache
def small_segmenter() -> kit.Segmenter:
    options = {"epochs": 1, "device": "cpu", "progress": False}
    return kit.train_segmenter(WORLD, WORLD.masks, **options)


@cache
def small_net() -> AffinityNet:
    return AffinityNet(device="cpu", channels=4)


@cache
def clip() -> kit.FrozenCLIP:
    return load_clip("paper", device="cpu")


@cache
def small_clip_es() -> CLIPES:
    return CLIPES(clip(), prompts=Prompts.paper()).fit()


def all_maps(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return labels[:, :, None, None].expand(*labels.shape, *images.shape[-2:]).float()


def batch() -> dict[str, Any]:
    samples = list(WORLD)
    return {
        "images": (torch.stack([sample.image for sample in samples]), UNIT),
        "labels": (torch.stack([sample.labels for sample in samples]), "labels"),
    }


def report() -> evaluation.Report:
    options = {"classes": ("a", "b"), "protocol": Protocol("d", "val"), "n_bootstrap": 2}
    return evaluation.evaluate(MASKS, MASKS, **options)


CRF = "spatial_weight bilateral_weight spatial_std bilateral_xy_std bilateral_rgb_std"
CRF += " iterations unary scores images"
PAMR = "iterations dilations scores images"
WALK = "walk_power? squarings"
NETWORK = "stride? scales? preset device"
FIT = "epochs? batch_size? learning_rate? seed crop? progress"
SURE = "threshold? min_confidence?"
WALKED = {"scores": (MAPS, "maps")}


def fit(method: Any, usual: str = "", **own: Any) -> Door:
    return door(method.fit, f"samples {FIT} long_side? {usual}", **own)


def recipe(call: Callable[..., Any], method: Any, usual: str = "", **own: Any) -> Door:
    """A door of a recipe: a method's maps or masks of a batch."""
    return door(call, usual, **batch(), method=(method, None), **own)


def walked(call: Callable[..., Any], method: Any, usual: str = "") -> Door:
    """The same with a random walk."""
    return recipe(call, method, f"{WALK} {usual}", affinity_net=(small_net(), None))


DOORS: dict[str, Callable[[], Door]] = {
    # maps
    "class_activation_maps": lambda: door(
        kit.class_activation_maps, "", features=(MAPS, "maps"), weight=(torch.ones(3, 2), None)
    ),
    "normalize_cams": lambda: door(
        kit.normalize_cams, "eps", cams=(MAPS, "maps"), over=("map", WORD)
    ),
    "upsample": lambda: door(kit.upsample, "maps", size=((8, 8), "size")),
    "multi_scale": lambda: door(
        partial(kit.multi_scale, lambda view: view, IMAGES, flip=True), "scales stride? round_to"
    ),
    # affinity
    "transition_matrix": lambda: door(
        affinity.transition_matrix, "power squarings", CELLS, sinkhorn=(1, FROM_0)
    ),
    "random_walk": lambda: door(affinity.random_walk, "", **WALKED, transition=(CELLS, None)),
    "balanced_walk": lambda: door(
        partial(affinity.balanced_walk, affinity=CELLS), "squarings sinkhorn", **WALKED
    ),
    "BalancedWalk": lambda: door(affinity.BalancedWalk, "sinkhorn", CELLS),
    "BalancedWalk.__call__": lambda: door(affinity.BalancedWalk(CELLS), "squarings", **WALKED),
    "box_masks": lambda: door(affinity.box_masks, "cams threshold"),
    # masks
    "add_background, constant": lambda: door(kit.add_background, "cams threshold"),
    "add_background, power": lambda: door(kit.add_background, "cams power"),
    "scores_to_masks": lambda: door(kit.scores_to_masks, "scores labels min_confidence?"),
    "BackgroundRule, constant": lambda: door(BackgroundRule, "threshold"),
    "BackgroundRule, power": lambda: door(BackgroundRule, "power"),
    # refinement
    "dense_crf": lambda: door(kit.dense_crf, CRF),
    "crf_of_present": lambda: door(kit.crf_of_present, f"labels {CRF}"),
    "pamr": lambda: door(kit.pamr, PAMR),
    "crf_of_present, pamr": lambda: door(
        kit.crf_of_present, f"labels {PAMR}", refine=(kit.pamr, None)
    ),
    "reference_crf_images": lambda: door(crf.reference_crf_images, "images"),
    # methods and recipes
    "CAM": lambda: door(CAM, NETWORK, "paper"),
    "CAM.fit": lambda: fit(CAM("paper", preset="clean", device="cpu")),
    "CAM.predict": lambda: door(small_cam().predict, "", images=batch()["images"]),
    "CLIMS": lambda: door(
        partial(CLIMS, None, "paper", prompts=Prompts.paper(method="clims")),
        f"otm? btm? cbs? reg? cbs_threshold? {NETWORK}",
    ),
    "CLIMS.fit": lambda: fit(
        CLIMS(clip(), small_cam(), prompts=Prompts.paper(method="clims"), preset="clean"),
        "accumulate?",
    ),
    "SCCAM": lambda: door(
        partial(sc_cam.SCCAM, "paper"),
        f"n_subcategories? rounds? subcategory_weight? {NETWORK}",
        **{"features": ("picture", optional(WORD)), "read_out": ("parent", optional(WORD))},
    ),
    "SCCAM.fit": lambda: fit(
        sc_cam.SCCAM(small_cam(), preset="clean", n_subcategories=2, rounds=1), epochs=(1, None)
    ),
    "open_dataset": lambda: door(kit.open_dataset, "", "paper", limit=(2, "count or None")),
    "Pipeline": lambda: door(
        Pipeline, f"background? box_threshold min_confidence? {WALK}", small_cam()
    ),
    "sc_cam_masks": lambda: recipe(kit.sc_cam_masks, small_cam(), "threshold min_confidence?"),
    "sc_cam_masks, walked": lambda: walked(
        kit.sc_cam_masks, small_cam(), "background_power min_confidence?"
    ),
    "kmeans": lambda: door(
        sc_cam.kmeans, "k restarts tolerance seed", torch.rand(6, 2), iterations=(3, COUNT)
    ),
    "subcategory_labels": lambda: door(
        sc_cam.subcategory_labels, "labels k seed", torch.rand(1, 2, 3), engine=("torch", WORD)
    ),
    "agreement": lambda: door(
        sc_cam.agreement, "n_classes", first=(LABELS, "labels"), second=(LABELS, None)
    ),
    "exemplars": lambda: door(
        sc_cam.exemplars, "n_classes n", torch.rand(1, 2, 3), subcategories=(LABELS, "labels")
    ),
    "plane": lambda: door(sc_cam.plane, "seed", torch.rand(4, 3), how=("pca", WORD)),
    "name_subcategories": lambda: door(
        partial(sc_cam.name_subcategories, clip(), small_cam()),
        "samples template threshold shown",
        **{"subcategories": batch()["labels"], "words": (("red", "wooden"), "words")},
    ),
    "load_clip": lambda: door(
        kit.load_clip,
        "name device",
        **{"dtype": ("float32", WORD), "autocast": ("bfloat16", optional(WORD))},
    ),
    "FrozenCLIP": lambda: door(kit.FrozenCLIP, "max_cells", clip().model),
    "propose_backgrounds": lambda: door(
        propose_backgrounds, "samples prompts template? most least shown", clip()
    ),
    "clims_masks": lambda: recipe(kit.clims_masks, small_cam(), SURE),
    "clims_masks, walked": lambda: walked(kit.clims_masks, small_cam(), SURE),
    "CLIPES": lambda: door(
        partial(CLIPES, clip(), prompts=Prompts.paper()),
        "preset scales? n_layers? squarings?",
        **{"target": ("softmax", WORD), "similarity": ("values", optional(WORD))},
    ),
    "refined_maps": lambda: door(
        partial(refined_maps, clip(), IMAGES[0], torch.eye(128)[:1], torch.eye(128)[1:3]),
        "preset box_threshold",
    ),
    "cam_maps": lambda: recipe(kit.cam_maps, small_cam()),
    "cam_masks": lambda: recipe(kit.cam_masks, small_cam(), "threshold"),
    "cam_masks, walked": lambda: walked(kit.cam_masks, small_cam(), "background_power"),
    "clims_masks, crf": lambda: recipe(kit.clims_masks, small_cam(), SURE, crf=(True, None)),
    "clip_es_maps": lambda: recipe(kit.clip_es_maps, small_clip_es(), "box_threshold"),
    "clip_es_maps, walked": lambda: walked(kit.clip_es_maps, small_clip_es()),
    "clip_es_masks, walked": lambda: walked(kit.clip_es_masks, small_clip_es()),
    "clip_es_masks": lambda: recipe(
        kit.clip_es_masks, small_clip_es(), "box_threshold power min_confidence?"
    ),
    # evaluation
    "ConfusionMatrix": lambda: door(ConfusionMatrix, "n_classes"),
    "compare_reports": lambda: door(kit.compare_reports, "n_bootstrap seed", report(), report()),
    "rank_reports": lambda: door(
        evaluation.rank_reports, "n_bootstrap seed", {"first": report(), "second": report()}
    ),
    "judge": lambda: door(
        partial(evaluation.judge, classes=("a", "b"), protocol=Protocol("d", "val")),
        "n_bootstrap seed",
        {"first": MASKS, "second": MASKS},
        MASKS,
    ),
    "error_sources": lambda: door(
        evaluation.error_sources, "", report(), least=(0.5, NOT_NEGATIVE)
    ),
    "evaluate": lambda: door(
        partial(kit.evaluate, protocol=Protocol("d", "val")),
        "n_bootstrap seed boundary?",
        **{"predicted": (MASKS, "masks"), "target": (MASKS, "masks")},
        **{"classes": (("a", "b"), "names"), "scored": (("a",), optional("names"))},
    ),
    "boundary_band": lambda: door(evaluation.boundary_band, "width?", MASK),
    "error_map": lambda: door(evaluation.error_map, "boundary?", MASK, MASK),
    "error_shares": lambda: door(
        evaluation.error_shares, "", **alike(np.ones((3, 3), int), "matrix", "inside outside")
    ),
    "Protocol": lambda: door(
        Protocol, "n_images? stride predicted_255", **alike("x", "words", "data split background")
    ),
    "predict_masks": lambda: door(kit.predict_masks, "samples rule batch_size shown", all_maps),
    "sweep_background": lambda: door(
        kit.sweep_background, "rules batch_size shown", all_maps, WORLD, WORLD.masks
    ),
    # doors of data and the commands behind them
    "PaperWorld": lambda: door(PaperWorld, "n size split seed cooccurrence? torn?"),
    "open_data": lambda: door(open_data, "name n_train n_val n_test"),
    # figures
    "class_colours": lambda: door(plot.class_colours, "", n_classes=(3, FROM_0)),
    "overlay": lambda: door(plot.overlay, "alpha cmap", IMAGES[0], MAPS[0, 0]),
    "show_samples": lambda: door(
        plot.show_samples, "columns", [Sample("a", IMAGES[0], LABELS[0])], ("a", "b")
    ),
    "show_cams": lambda: door(plot.show_cams, "labels alpha cmap", IMAGES, MAPS, ("a", "b")),
    "show_masks": lambda: door(
        partial(plot.show_masks, colours=np.zeros((3, 3))),
        "alpha",
        *(IMAGES[..., :2, :2], {"truth": [MASK]}, ("a", "b")),
    ),
    "show_curves": lambda: door(
        plot.show_curves, "columns", {"x": {"a": {0.5: 1.0}}}, y=("y", None)
    ),
    "new_figure": lambda: door(
        plot.new_figure, "", **alike(1.0, POSITIVE, "width height"), alt=("Nothing.", "words")
    ),
    "AffinityNet": lambda: door(
        partial(AffinityNet, device="cpu"),
        "radius seed stride? levels pad_to?",
        **{"channels": ((4, 8), "count or counts"), "kind": ("boundary", WORD)},
    ),
    "AffinityNet.fit": lambda: door(small_net().fit, f"{FIT} weight_decay?", WORLD, WORLD.masks),
    "train_segmenter": lambda: door(
        partial(kit.train_segmenter, masks=WORLD.masks),
        f"samples {FIT} weight_decay? accumulate? scales? device",
        **{"loss": ("plain", optional(WORD)), "preset": ("small", optional(WORD))},
        **{"network": ("small", WORD), "crop": (48, COUNT)},
    ),
    "train_segmenter, steps": lambda: door(
        partial(kit.train_segmenter, WORLD, WORLD.masks, batch_size=2),
        "progress",
        iterations=(1, optional(COUNT)),
    ),
    "Segmenter.predict": lambda: door(small_segmenter().predict, "scales fuse", **batch()),
    "Segmenter.probs": lambda: door(
        small_segmenter().probs, "scales fuse", images=batch()["images"]
    ),
    "show_errors": lambda: door(
        plot.show_errors, "columns", IMAGES[..., :2, :2], [MASK], [MASK], report()
    ),
    "CAMExplorer": lambda: door(
        CAMExplorer, "threshold", {"CLIP-ES": small_clip_es()}, WORLD, None, PAPER_CLASSES
    ),
}

COMMANDS: dict[str, Callable[[Any], Door]] = {
    "run_demo": lambda out: door(run_demo, "seed n_train n_val n_test", out),
    "run_baseline": lambda out: door(
        partial(run_baseline, "paper", seeds=(0,), out=out), "threshold limit?"
    ),
    "run_reproduce": lambda out: door(
        partial(run_reproduce, "paper/clip-es", out=out / "row"),
        "seed limit?",
        iterations=(2, optional(COUNT)),
    ),
    "train_paper_clip": lambda out: door(
        train_paper_clip, "steps seed workers fall torn", out / "clip"
    ),
    "train_paper_backbone": lambda out: door(
        train_paper_backbone, "steps seed workers", out / "trunk"
    ),
}


def wrong_values(kind: str, good: Any) -> list[Any]:
    name, _, none_is_right = kind.partition(" or ")
    return [value for value in WRONG[name](good) if value is not None or not none_is_right]


@pytest.mark.filterwarnings("ignore:every loss of AffinityNet was 0")  # two images hold no pair
@pytest.mark.parametrize("name", DOORS)
def test_a_call_works_and_every_wrong_value_is_refused_in_words(name):
    tried = DOORS[name]()
    tried.call(**tried.good)
    _refuses_all(tried)


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_refuse_before_they_write(name, tmp_path):
    _refuses_all(COMMANDS[name](tmp_path / "out"))
    written = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert set(written) <= {".lock"}


def _refuses_all(tried: Door) -> None:
    """Every wrong value is refused by a ValueError that says what was expected."""
    failures = []
    for argument, variant in tried.kinds.items():
        for value in wrong_values(variant, tried.good[argument]):
            result = _answer(lambda arg=argument, v=value: tried.call(**{**tried.good, arg: v}))
            if result is not None:
                failures.append(f"{argument}={reprlib.repr(value)}: {result}")
    assert not failures, "\n".join(failures)


def _answer(call: Callable[[], Any]) -> str | None:
    """What is wrong with the answer to a wrong value; None for a refusal in words."""
    try:
        call()
    except ValueError as error:
        good = type(error) is ValueError and re.search(
            "expected|give|needs|there are|predict", str(error)
        )
        return None if good else f"says {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "let in"


NUMBERS = re.compile(r"\b(int|float)\b")
WITHOUT_CHECK = {
    "any whole number outside the classes": "ConfusionMatrix.ignore_index",
    "read from a card": "FrozenCLIP.window FrozenCLIP.attention_layers FrozenCLIP.walk_squarings",
    "of the model's own preprocessing": "FrozenModel.mean FrozenModel.std",
    "made by compare_reports": "Comparison.difference Comparison.interval Comparison.better "
    "Comparison.worse Judgement.ranks",
    "made by choose_rule": "Chosen.swept",
    "of evaluate": "stuff_counts.shape image_counts.n_values count_pairs.n_classes "
    "count_pairs.ignore_index only_counted.n_values",
    "made by agree": "Agreement.images",
    "made by evaluate": "Report.mean_iou Report.interval Report.image_iou",
    "read from the package": "Published.value Published.n_images",
    "tested in evaluation/test_background.py": "best_rule.swept",
    "tested in data/test_benchmarks.py": "load_coco.limit load_pets.limit load_voc.limit",
    "has to fit the tokens, and of the model": "softmax_grad_cam.grid softmax_grad_cam.logit_scale",
    "tested in plot": "frame_cell.cell frame_cell.grid show_search.most show_word_classes.most",
    "any numbers": "show_curves.panels show_curves.marked show_heat_maps.least show_heat_maps.most",
}


def test_no_public_number_is_forgotten():
    """Whatever takes a number is in the table, or in the list of those that have no range."""
    known = {f"{name.split(',')[0]}.{a}" for name, make in DOORS.items() for a in make().kinds}
    known.update(" ".join(WITHOUT_CHECK.values()).split())
    doors = {
        name: value
        for module in (kit, evaluation, plot, crf, affinity)
        for name, value in vars(module).items()
        if getattr(value, "__module__", "").startswith(module.__name__)
        and callable(value)
        and not name.startswith("_")
    }
    assert len(doors) > 50
    numbers = {
        f"{name}.{argument}"
        for name, call in doors.items()
        for argument, parameter in inspect.signature(call).parameters.items()
        if NUMBERS.search(str(parameter.annotation))
    }
    assert not numbers - known
