"""``python -m wsss_kit masks``: a data set and a method to a folder of pseudo masks."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor, nn

from wsss_kit.affinity_net import AffinityNet
from wsss_kit.backbones import BACKBONES
from wsss_kit.checkpoints import fingerprint_weights
from wsss_kit.checks import (
    check_count,
    check_device,
    check_given,
    check_probability,
    check_word,
    chosen_device,
)
from wsss_kit.clip import FrozenModel, load_clip
from wsss_kit.commands import (
    MANIFEST,
    Written,
    backbone_named,
    clip_named,
    run_folder,
    usual_batch,
)
from wsss_kit.commands.generate import write_masks
from wsss_kit.data import Dataset, LazySamples, open_dataset
from wsss_kit.data.export import EXPORTS, export_masks
from wsss_kit.files import (
    call_function,
    digest_of,
    digest_of_code,
    is_saved,
    load_model,
    weights_path,
)
from wsss_kit.masks import BackgroundRule
from wsss_kit.methods.base import CAMMethod
from wsss_kit.methods.cam import CAM
from wsss_kit.methods.clims import CLIMS
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.methods.sc_cam import SCCAM
from wsss_kit.pipeline import Pipeline
from wsss_kit.processes import own_device, place_in_run, usual_workers
from wsss_kit.segmentation import Segmenter

_KINDS = {"CAM": CAM, "SC-CAM": SCCAM, "CLIMS": CLIMS, "segmenter": Segmenter}
_SHIPPED = {"sc-cam": "SC-CAM", "clims": "CLIMS"}
"""With weights for the embedded world in the package."""


def run_masks(
    method: str | Path,
    /,
    out: str | Path,
    *,
    data: str = "voc",
    root: str | Path | None = None,
    split: str | None = None,
    clip: str | None = None,
    clip_weights: str | Path | None = None,
    prompts: str | Path | None = None,
    precision: str | None = None,
    affinity: str | Path | None = None,
    affinity_backbone: str | None = None,
    backbone: str | None = None,
    scales: Sequence[float] | None = None,
    flip: bool = False,
    fuse: str | None = None,
    threshold: float | None = None,
    power: float | None = None,
    crf: bool = False,
    min_confidence: float | None = None,
    maps: bool = False,
    export: str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    limit: int | None = None,
    device: str = "auto",
) -> Written:
    """Write pseudo masks of a data set; a second call goes on where the first was stopped.

    Under ``torchrun`` the processes share the batches, each on its own GPU where there are some:
    ``torchrun --nproc-per-node 8 -m wsss_kit masks ...`` writes the same files as one process.

    Args:
        method: ``"clip-es"``, or the path of a CAM, SC-CAM, CLIMS or segmenter that was saved; with
            ``data="paper"`` also ``"sc-cam"`` or ``"clims"`` for the weights of the package; or
            ``FILE.py:CLASS``, a `CAMMethod` of your own that is made without arguments.
        out: folder to write into.
        data: ``"voc"``, ``"coco"``, ``"pets"``, ``"folder"`` or ``"paper"`` (the embedded world).
        root: folder of the data set; None for the one that `download` writes.
        split: None for ``train_aug`` of VOC, ``train`` or ``trainval``.
        clip: of CLIP-ES: open_clip's name; None for ViT-B/16, or the tiny one with ``"paper"``.
        clip_weights: of CLIP-ES: a file, or None for OpenAI's.
        prompts: of CLIP-ES: a file of `Prompts.to_json`; None for the papers' prompts.
        precision: of CLIP-ES: ``"float32"``, ``"half"`` (float16), or ``"auto"``, which None stands
            for: half on CUDA, as the authors run it, and float32 elsewhere.
        affinity: of a CAM, SC-CAM or CLIMS: a saved `AffinityNet` that the maps walk with. With
            ``power`` the background walks along, as PSA and SC-CAM have it; with ``threshold`` it
            joins afterwards, as IRN and CLIMS have it. ``"none"`` leaves out CLIP-ES's own walk.
        affinity_backbone: of a learned affinity: ``FILE.py:FUNCTION`` of its own backbone; of
            CLIP-ES: another model that gives the affinity, ``timm:NAME``, open_clip's name or
            ``FILE.py:FUNCTION``.
        backbone: ``FILE.py:FUNCTION``, where the saved method has a backbone of one's own, and its
            affinity perhaps too.
        scales: of a segmenter: sizes of the image that it predicts at.
        flip: of a segmenter: whether it predicts mirror images too.
        fuse: of a segmenter: ``"mean"`` or ``"max"`` over these.
        threshold: constant background; None for the published one of the method, as ``power``.
        power: of the background (1 - max)^power, instead of ``threshold``.
        crf: whether the dense CRF of the method follows.
        min_confidence: below it pixels become 255; masks that are scored keep every pixel.
        maps: whether soft maps are kept too.
        export: ``"coco-rle"`` or ``"label-studio"``: a file of all masks in the end.
        batch_size: images of equal size that go through together; for CLIP-ES of equal size in
            whole patches. None for 32 on CUDA and 1 elsewhere.
        workers: processes that read images; None for up to 8 beside a GPU and none on a CPU.
        limit: only the first so many images.
        device: ``"cpu"``, ``"cuda"``, ``"mps"``, or ``"auto"`` for CUDA where there is one.

    Returns:
        The masks, and the images that have none with the reason.

    Raises:
        ValueError: if a number is out of its range, both rules are given, or the folder holds
            masks that were made otherwise.
        FileNotFoundError: if the data or the method is not there.
    """
    check_given(partial(check_word, known=EXPORTS), export=export)
    of_maps = {"threshold": threshold, "power": power, "min_confidence": min_confidence}
    of_maps |= {"maps": maps or None, "affinity": affinity}
    views: dict[str, Any] = {"scales": scales, "flip": flip or None, "fuse": fuse}
    views = {name: value for name, value in views.items() if value is not None}
    check_given(check_probability, min_confidence=min_confidence)
    rule = None
    if threshold is not None or power is not None:
        rule = BackgroundRule(threshold, power)
    check_given(check_count, batch_size=batch_size)
    check_given(partial(check_count, least=0), workers=workers)
    check_device(device)
    of_clip = {"clip": clip, "clip_weights": clip_weights, "prompts": prompts}
    of_clip["precision"] = precision
    if method == "clip-es":
        of_clip["affinity_backbone"] = affinity_backbone
    of_clip = {name: value for name, value in of_clip.items() if value is not None}
    others = ["backbone"] * (backbone is not None) if method == "clip-es" else [*of_clip]
    if others or (backbone is not None and method in _SHIPPED):
        name = others[0] if others else "backbone"
        raise ValueError(f"{method} takes no {name.replace('_', '-')}; leave it out")
    if affinity_backbone is not None and (affinity is None) != (method == "clip-es"):
        problem = "affinity_backbone belongs to an affinity, and the masks walk with none"
        raise ValueError(f"{problem}; leave it out, or ask for an affinity")
    samples = open_dataset(data, root, split, limit=limit)
    (rank, world), device = place_in_run(), own_device(device)
    network = backbone_named(backbone)
    fitted, title = _open(method, data, samples, of_clip, network, device)
    made_by: Any = {"data": data, "split": samples.split or "all", "classes": [*samples.classes]}
    made_by |= {"method": title, "min_confidence": min_confidence}
    if isinstance(fitted, CLIPES):
        prompts = digest_of(fitted.prompts.to_json().encode())
        made_by |= {"weights": fingerprint_weights(fitted.clip.model), "prompts": prompts}
        if fitted.affinity_backbone is not None:
            made_by["second weights"] = fingerprint_weights(fitted.affinity_backbone.model)
        made_by["precision"] = str(fitted.clip.dtype).removeprefix("torch.")
    else:
        made_by["weights"] = fingerprint_weights(fitted)
        made_by["options"] = {name: getattr(fitted, name) for name in fitted.OPTIONS}
    of_user = {"backbone": backbone, "affinity_backbone": affinity_backbone}
    for name, text in {**of_user, "method code": str(method), "data code": data}.items():
        if text is not None and ".py:" in text:  # the code counts as well as the weights
            made_by[name] = digest_of_code(text)
    if isinstance(fitted, Segmenter):
        for name in [name for name, value in of_maps.items() if value is not None]:
            raise ValueError(f"a segmenter has no maps, so it takes no {name}; leave it out")
        if isinstance(samples, LazySamples):  # nobody has the labels of VOC's test
            samples = samples.without_labels()

        def recipe(images: Tensor, labels: Tensor) -> Tensor:
            return fitted.predict(images, crf=crf, **views)

        made_by |= {"background": "learned", "refinement": "dense CRF" if crf else "none", **views}
    else:
        for name in views:
            raise ValueError(f"{name} belongs to a segmenter, and {title} is none; leave it out")
        walk = "own" if affinity is None else None
        if affinity is not None and not fitted.brings_affinity:
            # CLIMS's copy of IRN does not pad images to 512 pixels, which IRN's file stands for
            released = Path(affinity).suffix == ".pth"
            options = {"pad_to": None} if released and isinstance(fitted, CLIMS) else {}
            if (own := affinity_backbone or backbone) is not None:
                if not (released or load_model(affinity)[1].get("backbone") in BACKBONES):
                    options["backbone"] = backbone_named(own)  # beside the method's
                elif affinity_backbone is not None:
                    problem = f"{affinity} names its backbone, and affinity_backbone is given"
                    raise ValueError(f"{problem}; leave it out")
            walk = AffinityNet.load(affinity, device=device, **options)
            made_by["affinity"] = f"{weights_path(affinity).stem}, {fingerprint_weights(walk)}"
        elif affinity not in (None, "none"):
            problem = f"clip-es walks with CLIP's attention, and affinity is {affinity}"
            raise ValueError(f"{problem}; expected none; recipes.clip_es_maps takes a learned one")
        options = {"background": rule, "crf": crf, "min_confidence": min_confidence}
        options["box_threshold"] = 0.7 if data == "coco" else 0.4  # of CLIP-ES, as published
        recipe = Pipeline(fitted, affinity=walk, **options)
        made_by |= {"preset": fitted.preset, "background": str(recipe.rule)}
        made_by |= {"refinement": recipe.refinement}
    options: dict[str, Any] = {"maps": maps, "batch_size": batch_size or usual_batch(device)}
    options["workers"] = usual_workers(chosen_device(device)) if workers is None else workers
    options |= {"rank": rank, "world": world, "shown": rank == 0}
    with run_folder(out) as folder:
        written = write_masks(samples, recipe, folder, made_by=made_by, **options)
        if world == 1 or (folder / MANIFEST).is_file():  # of several processes the last one
            print(f"{out} holds {len(written.masks)} masks (masks/, manifest.json).")
            failed = list(written.failed.items())
            if failed:
                print(f"{len(failed)} images have none:")
            for name, reason in failed[:10]:
                print(f"  {name}: {reason}")
            if len(failed) > 10:
                print(f"  and {len(failed) - 10} more")
        if export is not None and not place_in_run()[0] and (folder / MANIFEST).is_file():
            file_of: Any = getattr(samples, "path", None)
            names = () if file_of is None else written.masks
            files = {n: PurePosixPath(n).with_name(file_of(n).name).as_posix() for n in names}
            options = {"to": export, "files": files or None}
            export_masks(written.masks, samples.classes, folder / f"{export}.json", **options)
        return written


def _open(
    method: str | Path,
    data: str,
    samples: Dataset,
    of_clip: Mapping[str, Any],
    backbone: nn.Module | None,
    device: str,
) -> tuple[CAMMethod | Segmenter, str]:
    """Load the method; return also its name for the protocol."""
    if method == "clip-es":
        named = of_clip.get("clip"), of_clip.get("clip_weights")
        options = {"device": device, "precision": of_clip.get("precision", "auto")}
        loaded, called = clip_named(data, *named, usual="ViT-B-16-quickgelu", **options)
        prompts, other = samples.prompts("clip_es", of_clip.get("prompts")), None
        if (name := of_clip.get("affinity_backbone")) is not None:
            other = _second_encoder(name, device)
        return CLIPES(loaded, prompts=prompts, affinity_backbone=other).fit(), f"CLIP-ES, {called}"
    if ".py:" in str(method):
        fitted = call_function(str(method))
        if not isinstance(fitted, CAMMethod):
            raise ValueError(f"{method} made {type(fitted).__name__}, expected a CAMMethod")
        return fitted.to(chosen_device(device)).eval(), type(fitted).__name__
    if data == "paper" and method in _SHIPPED:
        fitted = _KINDS[_SHIPPED[method]].load("paper", device=device)
        return fitted, f"{_SHIPPED[method]}, weights of the package"
    if Path(method).name == str(method) and not Path(method).suffix and not is_saved(method):
        known = "expected clip-es, FILE.py:CLASS, or the path of a method that was saved"
        raise FileNotFoundError(f"{weights_path(method)} is missing; {known}")
    _, card = load_model(method)
    check_word("the method of the file", str(card.get("method")), _KINDS)
    given: Any = {} if backbone is None else {"backbone": backbone}
    if not given and (own := card.get("backbone")) not in (None, *BACKBONES):
        problem = f"{method} has a backbone of one's own, {own}"
        raise ValueError(f"{problem}; give --backbone FILE.py:FUNCTION that makes it")
    fitted = _KINDS[card["method"]].load(method, device=device, **given)
    known = fitted.classes if isinstance(fitted, Segmenter) else fitted.classes_
    if tuple(known) != tuple(samples.classes):
        first, other = ", ".join(known[:3]), ", ".join(samples.classes[:3])
        problem = f"{method} knows {first}, … and {data} has {other}, …"
        raise ValueError(f"{problem}; expected the same classes")
    return fitted, f"{card['method']}, {weights_path(method).name}"


def _second_encoder(name: str, device: str) -> FrozenModel | nn.Module:
    """Load another model that gives CLIP-ES the affinity."""
    if ".py:" in name:
        return call_function(name)
    if not name.startswith("timm:"):
        return load_clip(name, weights=None if name == "paper" else "openai", device=device)
    import timm

    try:
        return timm.create_model(name.removeprefix("timm:"), pretrained=True)
    except Exception as error:  # of timm, of the hub, of the network
        advice = "check the name and the network, or load a file of weights in FILE.py:FUNCTION"
        raise RuntimeError(f"{name} could not be opened ({error}); {advice}") from error
