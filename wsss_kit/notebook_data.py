"""What ``DATA`` stands for in the notebooks: three splits, their masks, and methods that fit them.

Ground-truth masks come beside the samples, never in them: those of ``val`` choose a background
rule, those of ``test`` score.
"""

from collections import ChainMap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from wsss_kit.affinity_net import AffinityNet
from wsss_kit.checks import check_count, check_word
from wsss_kit.classes import Sample
from wsss_kit.clip import FrozenModel, load_clip
from wsss_kit.data import Dataset, LazyMasks, load_folder, open_dataset
from wsss_kit.data.datasets import TITLES, default_root
from wsss_kit.evaluation import Chosen, Protocol, Report, choose_rule, evaluate
from wsss_kit.files import expanded
from wsss_kit.masks import MapsOf
from wsss_kit.methods.cam import CAM
from wsss_kit.methods.clims import CLIMS
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.methods.sc_cam import SCCAM
from wsss_kit.paperworld import STUFF, PaperWorld
from wsss_kit.pipeline import Pipeline
from wsss_kit.segmentation import Segmenter, train_segmenter

_SPLITS = {"voc": {"val": "train, its end", "test": "val"}}
"""What a protocol calls the splits where the data set has other names."""


class OpenData(NamedTuple):
    """A data set in three parts. Samples have no masks; the masks of a split have its names only.

    Args:
        name: ``"paper"``, ``"voc"`` or ``"folder"``.
        classes: C class names.
        train: samples to learn from; their masks are not opened.
        val: samples to choose a background rule on.
        test: samples to score.
        val_masks: name to (H, W) int64.
        test_masks: name to (H, W) int64.
    """

    name: str
    classes: tuple[str, ...]
    train: Dataset
    val: Dataset
    test: Dataset
    val_masks: Mapping[str, Tensor]
    test_masks: Mapping[str, Tensor]

    def protocol(self, split: str, **stated: Any) -> Protocol:
        """Describe how a number on one of the splits was measured, in the data set's own names.

        Args:
            split: ``"val"`` or ``"test"``.
            **stated: ``background``, ``refinement`` and ``preset`` of `Protocol`.

        Example:
            >>> data = open_data("paper", n_train=1, n_val=1, n_test=1)
            >>> str(data.protocol("test", background="constant 0.3"))[:54]
            'PaperWorld test, images not counted, resolution: 96x96'
        """
        H, W = self.test[0].image.shape[1:]
        resolution = f"{H}x{W}" if self.name == "paper" else "image"
        split = _SPLITS.get(self.name, {}).get(split, split)
        return Protocol(TITLES.get(self.name, "own folder"), split, resolution=resolution, **stated)

    def evaluate(self, masks: Mapping[str, Tensor], split: str = "test", **stated: str) -> Report:
        """Score the masks of a split against its ground truth.

        The embedded world knows the kind of background of every pixel, and hands it on.

        Args:
            masks: name to (H, W) int64.
            split: ``"val"`` or ``"test"``.
            **stated: ``background``, ``refinement`` and ``preset`` of `Protocol`.

        Example:
            >>> data = open_data("paper", n_train=1, n_val=1, n_test=2)
            >>> report = data.evaluate(data.test_masks, background="true")
            >>> report.headline, report.stuff_names[0]
            ('mIoU 100.0 %, 95 % interval 100.0 to 100.0, mean of 4 values', 'water')
        """
        check_word("split", split, ("val", "test"))
        samples, target = getattr(self, split), getattr(self, f"{split}_masks")
        options: dict[str, Any] = {
            "classes": self.classes,
            "protocol": self.protocol(split, **stated),
        }
        if isinstance(samples, PaperWorld):
            options |= {"stuff": samples.stuff, "stuff_names": STUFF}
        return evaluate(masks, target, **options)

    def score(
        self,
        maps_of: Pipeline | MapsOf,
        *,
        refinement: str = "none",
        preset: str = "not stated",
        **options: Any,
    ) -> tuple[Chosen, Report]:
        """Make masks of ``test`` by the background rule that is best on ``val``, and score them.

        Args:
            maps_of: images and labels to maps.
            refinement: what came after the maps, for the protocol.
            preset: of the method, for the protocol.
            **options: ``rules``, ``refine``, ``what`` and ``shown`` of `evaluation.choose_rule`.
        """
        chosen = choose_rule(maps_of, self.val, self.val_masks, self.test, **options)
        stated = {"background": chosen.text, "refinement": refinement, "preset": preset}
        return chosen, self.evaluate(chosen.masks, **stated)


def open_data(
    name: str = "paper",
    *,
    n_train: int = 400,
    n_val: int = 60,
    n_test: int = 80,
    root: str | Path | None = None,
    classes: Sequence[str] | None = None,
) -> OpenData:
    """Open one of the three data sets of the notebooks.

    ``"paper"`` is the embedded world, splits of its own. ``"voc"`` trains and chooses on VOC's
    ``train`` (``val`` here is its end) and scores on VOC's ``val``, because VOC keeps the masks of
    its ``test``. ``"folder"`` is your own: of the images with a mask, one in five goes to
    ``test`` and one in five to ``val``; without ``masks/``, of all images, and nothing can be
    scored.

    Args:
        name: ``"paper"``, ``"voc"`` or ``"folder"``.
        n_train: at most so many images of ``train``.
        n_val: of ``val``.
        n_test: of ``test``.
        root: of ``"voc"`` or ``"folder"``; None for `data.datasets.default_root`.
        classes: of ``"folder"``, in the order of its mask values; by default the sorted names of
            its table.

    Returns:
        The data.

    Raises:
        ValueError: for another name, a number below 1, or a split without an image.
        FileNotFoundError: if the data is not there, with the layout that was expected.

    Example:
        The masks have the names of their split and no others:

        >>> data = open_data("paper", n_train=4, n_val=2, n_test=1)
        >>> len(data.train), sorted(data.val_masks), data.test[0].name
        (4, ['val_0_000000', 'val_0_000001'], 'test_0_000000')
    """
    sizes = {"train": n_train, "val": n_val, "test": n_test}
    for split, size in sizes.items():
        check_count(f"n_{split}", size)
    check_word("DATA", name, ("paper", "voc", "folder"))
    if name == "paper":
        train, val, test = (open_dataset(name, split=part, limit=n) for part, n in sizes.items())
        return OpenData(name, train.classes, train, val, test, val.open_masks(), test.open_masks())
    root = default_root(name) if root is None else expanded(root)
    if name == "voc":
        learned = open_dataset("voc", root, "train")
        test = open_dataset("voc", root, "val", limit=n_test)
        first = max(0, len(learned) - n_val)
        parts = [learned[: min(first, n_train)], learned[first:], test]
        both: Any = learned.open_masks(), test.open_masks()
        truth = ChainMap(*both)
    else:
        samples = load_folder(root, classes=classes)
        try:
            truth = samples.open_masks()
        except FileNotFoundError:
            truth = {}
        scored = [each for each in samples.names if each in truth] or samples.names
        test_names, val_names = scored[0::5], scored[1::5]
        held_out = {*test_names, *val_names}
        train_names = [each for each in samples.names if each not in held_out]
        chosen = (train_names[:n_train], val_names[:n_val], test_names[:n_test])
        parts = [samples.pick(names) for names in chosen]
    for split, part in zip(sizes, parts, strict=True):
        if not len(part):
            expected = "at least 3 images, and 2 with a mask where there is a folder masks/"
            raise ValueError(f"{root} leaves no image for {split}; expected {expected}")
    known = ([each for each in part.names if each in truth] for part in parts[1:])
    read, (train, val, test) = truth.__getitem__, parts
    masks = (LazyMasks(names, read=read, folder=root / "masks") for names in known)
    return OpenData(name, train.classes, train, val, test, *masks)


def train_cam(
    data: OpenData, *, backbone: str | nn.Module | None = None, weights: str | Path | None = None
) -> CAM:
    """Train plain CAM on the ``train`` of a data set, in seconds on a laptop.

    A linear head on a backbone that stays as it is: the paper backbone that comes with the package,
    or a ResNet-50 with ImageNet weights that torchvision downloads once. Without a network give
    another backbone.

    Args:
        data: from `open_data`.
        backbone: another backbone, by name or a module with weights of its own.
        weights: of a named one; for photographs without a network a file, such as
            ``train_cam(data, backbone="resnet18", weights="resnet18.pth")``.

    Returns:
        The fitted method, one scale, preset ``"clean"``.

    Raises:
        RuntimeError: if ImageNet's weights cannot be downloaded.
    """
    if data.name == "paper" and backbone is None:
        backbone, weights = "paper", weights or "web"
    backbone, weights = _usual_backbone(data, backbone, weights)
    cam = CAM(backbone, weights=weights, preset="clean", scales=(1.0,))
    return cam.fit(data.train, train_backbone=False)


def make_clip_es(data: OpenData) -> CLIPES:
    """Make CLIP-ES for a data set, its phrases encoded.

    The embedded world has the tiny CLIP, other data OpenAI's ViT-B/16, which open_clip downloads
    once.
    """
    clip = _usual_clip(data, "ViT-B-16-quickgelu")
    return CLIPES(clip, prompts=data.train.prompts()).fit()


def make_clims(data: OpenData, cam: CAM, **weights: float) -> CLIMS:
    """Make a CLIMS that starts from a fitted CAM; call its ``fit(data.train, ...)``.

    The tiny CLIP and ``"clean"`` for the embedded world, else OpenAI's ViT-B/32 and ``"reference"``
    as released.

    Args:
        data: from `open_data`.
        cam: what it starts from.
        **weights: of the losses (``otm``, ``btm``, ``cbs``, ``reg``) where they differ from the
            preset's; 0 switches one off.
    """
    options: Any = {"preset": "clean", "scales": (1.0,)} if data.name == "paper" else {}
    clip = _usual_clip(data, "ViT-B-32-quickgelu")
    return CLIMS(clip, cam, prompts=data.train.prompts("clims"), **options, **weights)


def make_sc_cam(data: OpenData, cam: CAM | None = None, **options: Any) -> SCCAM:
    """Make an SC-CAM; call its ``fit(data.train, ...)``.

    ``"clean"`` with three sub-categories a class for the embedded world, else ``"reference"`` with
    ten, as released.

    Args:
        data: from `open_data`.
        cam: what gives the first features; None for a classifier that its ``fit`` trains.
        **options: arguments of `SCCAM` where they are to be others.
    """
    if data.name == "paper":
        options = {"preset": "clean", "scales": (1.0,), "n_subcategories": 3, **options}
    if cam is not None:
        return SCCAM(cam, **options)
    backbone, weights = _usual_backbone(data, None, None)
    return SCCAM(backbone or "paper", weights=weights or "web", **options)


def train_affinity_net(
    data: OpenData,
    learned: Sequence[Sample],
    seeds: Mapping[str, Tensor],
    *,
    backbone: str | nn.Module | None = None,
    weights: str | Path | None = None,
) -> AffinityNet:
    """Train an affinity on confident labels, in a minute on a laptop.

    On the paper backbone; for photographs on a ResNet-50 at stride 8 with ImageNet's weights, which
    torchvision downloads once, and on crops. Without a network give another backbone.

    Args:
        data: from `open_data`.
        learned: images, such as a part of ``data.train``.
        seeds: of `affinity_net.confident_seeds`, one for each of them.
        backbone: another backbone, by name or a module with weights of its own.
        weights: of a named one.

    Raises:
        RuntimeError: if ImageNet's weights cannot be downloaded.
    """
    if data.name == "paper":
        return AffinityNet(backbone, weights=weights, preset="clean").fit(learned, seeds)
    backbone, weights = _usual_backbone(data, backbone, weights)
    stride = 8 if isinstance(backbone, str) else None
    net = AffinityNet(backbone, weights=weights, stride=stride)
    options = {"epochs": 3, "batch_size": 8, "learning_rate": 1e-4, "crop": 320}
    return net.fit(learned, seeds, fixes_norms=True, **options)


def teach_segmenter(
    data: OpenData,
    learned: Sequence[Sample],
    masks: Mapping[str, Tensor],
    *,
    taught_by: str,
    epochs: int = 8,
    backbone: str | nn.Module | None = None,
    weights: str | Path | None = None,
) -> Segmenter:
    """Train a segmenter on masks, in minutes on a laptop.

    The small one on the paper backbone; for photographs a DeepLabV2 on a ResNet-50 with ImageNet's
    weights, which torchvision downloads once, with the balanced loss. Without a network give
    another backbone.

    Args:
        data: from `open_data`.
        learned: images, such as a part of ``data.train``.
        masks: of each of them, name to (H, W) int64; 255 teaches nothing.
        taught_by: what the masks are, in words.
        epochs: passes over the images.
        backbone: another backbone, by name or a module with weights of its own.
        weights: of a named one.

    Raises:
        RuntimeError: if ImageNet's weights cannot be downloaded.
    """
    backbone, weights = _usual_backbone(data, backbone, weights)
    options: Any = {} if data.name == "paper" else {"network": "deeplab_v2", "loss": "balanced"}
    options |= {"backbone": backbone, "weights": weights, "taught_by": taught_by}
    return train_segmenter(learned, masks, epochs=epochs, **options)


def _usual_clip(data: OpenData, name: str) -> FrozenModel:
    """Load the tiny CLIP for the embedded world, else one of OpenAI's."""
    return load_clip("paper") if data.name == "paper" else load_clip(name, weights="openai")


def _usual_backbone(
    data: OpenData, backbone: str | nn.Module | None, weights: str | Path | None
) -> tuple[Any, str | Path | None]:
    """Return a backbone and its weights; for photographs by default those of ImageNet."""
    if backbone is None and data.name != "paper":
        return "resnet50", weights or "imagenet"
    return backbone, weights
