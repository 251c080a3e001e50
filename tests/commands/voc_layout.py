"""A small PASCAL VOC of two classes that can be told apart by their colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from wsss_kit.classes import VOC_CLASSES, palette

OBJECT = "<object><name>{}</name></object>"
SPLITS = {"train": 2, "val": 2, "train_aug": 4, "test": 2}


def build_voc(root: Path, size: tuple[int, int] = (48, 64)) -> Path:
    """Images of a cow or a dog on grey in every split; ``test`` has neither labels nor masks."""
    sets = root / "ImageSets" / "Segmentation"
    for part in (root / "JPEGImages", root / "Annotations", root / "SegmentationClass", sets):
        part.mkdir(parents=True)
    random = np.random.default_rng(0)
    for split, n in SPLITS.items():
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
            drawn = Image.fromarray(mask)
            drawn.putpalette(palette().tobytes())
            drawn.save(root / "SegmentationClass" / f"{name}.png")
    return root
