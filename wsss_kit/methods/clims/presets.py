"""Every choice in which CLIMS's released code, its paper and this kit differ, side by side.

``reference`` is the released code of the improved version, row by row; ``paper`` has the weights,
texts and schedule of the camera-ready code as far as they are known, on the same network; ``clean``
is ours, tuned on the embedded world's ``val``.
"""

from __future__ import annotations

from wsss_kit.training import columns

_SCALES = (1.0, 0.5, 1.5, 2.0)
_HEAVY = {"chair": 3.0, "diningtable": 3.0, "sofa": 3.0}
PRESETS = columns(
    ("reference", "clean", "paper"),
    {
        "otm": (10.0, 12.0, 10.0),
        "btm": (24.0, 6.0, 25.0),
        "cbs": (1.0, 6.0, 29.5),
        "reg": (0.2, 3.0, 1.15),
        "cbs_threshold": (0.26, None, None),
        "scales": (_SCALES, _SCALES, _SCALES),
        "flip": (True, True, True),
        "epochs": (15, 3, 10),
        "batch_size": (16, 16, 16),
        "learning_rate": (2.5e-4, 5e-4, 2.5e-4),
        "head_factor": (10.0, 5.0, 1.0),
        "optimiser": ("sgd", "adamw", "sgd"),
        "momentum": (1e-4, 0.9, 1e-4),
        "weight_decay": (1e-4, 0.01, 1e-4),
        "trains_stem": (False, True, False),
        "trains_batch_norm": (True, False, True),
        "calibrated": (False, True, False),
        "pixels": ("imagenet", "rgb", "clip"),
        "side": (224, None, 224),
        "align_corners": (True, False, True),
        "backgrounds": ("sum", "pairs", "texts"),
        "area": ("all", "present", "all"),
        "heavy_classes": ({}, {}, _HEAVY),
    },
)
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
