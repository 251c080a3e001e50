"""Every choice in which CLIMS's released code, its paper and this kit differ, side by side.

``reference`` is the released code of the improved version, row by row; ``paper`` has the weights,
texts and schedule of the camera-ready code as far as they are known, on the same network; ``clean``
is ours, tuned on the embedded world's ``val``.
"""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "reference": {
        "otm": 10.0,
        "btm": 24.0,
        "cbs": 1.0,
        "reg": 0.2,
        "cbs_threshold": 0.26,
        "scales": (1.0, 0.5, 1.5, 2.0),
        "flip": True,
        "epochs": 15,
        "batch_size": 16,
        "learning_rate": 2.5e-4,
        "head_factor": 10.0,
        "optimiser": "sgd",
        "momentum": 1e-4,
        "weight_decay": 1e-4,
        "trains_stem": False,
        "trains_batch_norm": True,
        "calibrated": False,
        "pixels": "imagenet",
        "side": 224,
        "align_corners": True,
        "backgrounds": "sum",
        "area": "all",
        "heavy_classes": {},
    },
    "clean": {
        "otm": 12.0,
        "btm": 6.0,
        "cbs": 6.0,
        "reg": 3.0,
        "cbs_threshold": None,
        "scales": (1.0, 0.5, 1.5, 2.0),
        "flip": True,
        "epochs": 3,
        "batch_size": 16,
        "learning_rate": 5e-4,
        "head_factor": 5.0,
        "optimiser": "adamw",
        "momentum": 0.9,
        "weight_decay": 0.01,
        "trains_stem": True,
        "trains_batch_norm": False,
        "calibrated": True,
        "pixels": "rgb",
        "side": None,
        "align_corners": False,
        "backgrounds": "pairs",
        "area": "present",
        "heavy_classes": {},
    },
}
PRESETS["paper"] = {
    **PRESETS["reference"],
    "btm": 25.0,
    "cbs": 29.5,
    "reg": 1.15,
    "cbs_threshold": None,
    "epochs": 10,
    "head_factor": 1.0,
    "pixels": "clip",
    "backgrounds": "texts",
    "heavy_classes": {"chair": 3.0, "diningtable": 3.0, "sofa": 3.0},
}
"""Preset -> choice. The loss weights are the paper's alpha, beta, gamma and delta. The others:

``momentum``: the released trainer hands weight decay to SGD's momentum, so that the real momentum
is 1e-4. ``trains_stem``: whether the first convolution learns. ``trains_batch_norm``: by batch
statistics, or as it was. ``calibrated``: whether the sigmoid is shifted so that a class's usual
maximum gives 0.88 at the start. ``pixels``: what CLIP is shown: ``"imagenet"``, images masked
and normalised by ImageNet's statistics, as released; ``"clip"``, the same by CLIP's own; ``"rgb"``,
RGB masked to black, which CLIP normalises itself. ``side``: the square that images and maps are
resized to for CLIP, None for none; ``align_corners``: how. ``backgrounds``: CBS is summed over
pairs and texts, divided by the number of ``"pairs"``, or a mean over ``"texts"`` summed over pairs.
``area``: of ``"all"`` maps or of those of classes ``"present"``. ``heavy_classes``: factor on OTM
and BTM of some classes.

Reference: the camera-ready code also puts a bottleneck between backbone and head, fine-tunes CLIP,
and does not cut cosines off; these three are not rebuilt.
"""

LOSSES = ("otm", "btm", "cbs", "reg")
