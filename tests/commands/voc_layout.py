"""A small PASCAL VOC of two classes that can be told apart by their colour, and a smaller COCO."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from wsss_kit.classes import VOC_CLASSES, palette
from wsss_kit.paperworld import PaperWorld

OBJECT = "<object><name>{}</name></object>"
SPLITS = {"train": 2, "val": 2, "train_aug": 4, "test": 2}


def build_voc(root: Path, size: tuple[int, int] = (48, 64), splits=SPLITS) -> Path:
    """Images of a cow or a dog on grey in every split; ``test`` has neither labels nor masks."""
    sets = root / "ImageSets" / "Segmentation"
    for part in (root / "JPEGImages", root / "Annotations", root / "SegmentationClass", sets):
        part.mkdir(parents=True)
    random = np.random.default_rng(0)
    for split, n in splits.items():
        names = [f"{split}_{i}" for i in range(n)]
        (sets / f"{split}.txt").write_text("\n".join(names) + "\n")
        for i, name in enumerate(names):
            what, colour = (("cow", (200, 60, 40)), ("dog", (30, 90, 210)))[i % 2]
            pixels = random.integers(100, 140, (*size, 3)).astype(np.uint8)
            mask = np.zeros(size, np.uint8)
            mask[10:34, 12:44] = VOC_CLASSES.index(what) + 1
            pixels[mask > 0] = colour
            Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
            if split == "test":
                continue
            xml = f"<annotation>{OBJECT.format(what)}</annotation>"
            (root / "Annotations" / f"{name}.xml").write_text(xml)
            save_mask(root / "SegmentationClass" / f"{name}.png", mask)
    return root


def build_own(root: Path, world: PaperWorld) -> Path:
    """The embedded world as a reader would bring it: images of two sizes, labels and masks."""
    (root / "masks").mkdir(parents=True)
    rows = ["file,labels"]
    for number, sample in enumerate(world):
        height = 96 if number % 3 else 90
        pixels = (255 * sample.image[:, :height]).round().byte().movedim(0, -1).numpy()
        Image.fromarray(pixels).save(root / f"{sample.name}.png")
        mask = world.masks[sample.name][:height].byte().numpy()
        Image.fromarray(mask).save(root / "masks" / f"{sample.name}.png")
        names = [n for n, on in zip(world.classes, sample.labels.tolist(), strict=True) if on]
        rows.append(f"{sample.name}.png,{';'.join(names)}")
    (root / "labels.csv").write_text("\n".join(rows))
    return root


def save_mask(path: Path, mask: np.ndarray) -> None:
    """A mask as VOC's: its palette shows the classes."""
    image = Image.fromarray(mask)
    image.putpalette(palette().tobytes())
    image.save(path)


def build_coco(root: Path) -> Path:
    """Two grey images with a dog in each split."""
    (root / "annotations").mkdir(parents=True)
    size = {"height": 48, "width": 64}
    dog = {"category_id": 18, "area": 600, "segmentation": [[10, 10, 40, 10, 40, 30, 10, 30]]}
    for split in ("train", "val"):
        (root / f"{split}2014").mkdir()
        names = [f"COCO_{split}2014_{i}.jpg" for i in range(2)]
        for name in names:
            Image.new("RGB", (64, 48), (90, 90, 90)).save(root / f"{split}2014" / name)
        result = {
            "images": [{"id": i, "file_name": name, **size} for i, name in enumerate(names)],
            "annotations": [{"id": i, "image_id": i, **dog} for i in range(2)],
            "categories": [{"id": 18, "name": "dog"}],
        }
        (root / "annotations" / f"instances_{split}2014.json").write_text(json.dumps(result))
    return root
