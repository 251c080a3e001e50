"""Every choice in which SC-CAM's released code and this kit differ, side by side.

``reference`` is the released code row by row, on whatever backbone is given; ``clean`` is ours,
tuned on the embedded world's ``val``.
"""

from __future__ import annotations

from wsss_kit.training import columns

PRESETS = columns(
    ("reference", "clean"),
    {
        "n_subcategories": (10, 10),
        "rounds": (3, 3),
        "subcategory_weight": (5.0, 5.0),
        "features": ("picture", "own_map"),
        "unit_length": (False, True),
        "read_out": ("parent", "children"),
        "restart_each_round": (True, True),
        "starts_from": ("trunk", "classifier"),
        "xavier_heads": (True, False),
        "scales": ((1.0, 0.5, 1.5, 2.0), (1.0, 0.5, 1.5, 2.0)),
        "flip": (True, True),
        "epochs": ((31, 41, 51), 6),
        "schedule": (61, None),
        "batch_size": (16, 32),
        "learning_rate": (0.01, 0.02),
        "head_factor": (10.0, 10.0),
        "momentum": (5e-4, 0.9),
        "weight_decay": (5e-4, 5e-4),
        "fixed_batch_norm": (True, False),
        "trains_stem": (False, True),
        "trains_norms": (False, True),
        "dropout": (0.5, 0.0),
        "jitter": ((0.3, 0.3, 0.3, 0.1), None),
    },
)
"""Preset -> choice.

``features``: what is clustered: the whole ``"picture"``'s average, or the average under the class's
``"own_map"``; ``unit_length``: whether it is scaled to length 1 first. ``read_out``: whose map is
shown, the ``"parent"``'s, or of each class the largest of its ``"children"``'s. ``starts_from``:
every round begins with the ``"trunk"`` as it was before any classifier, ImageNet's in the paper,
and new heads, or with the ``"classifier"`` that gave the first features. ``xavier_heads``: how new
heads are drawn, uniformly after Xavier or from a small normal. ``epochs``: of each round, or of
all; ``schedule``: epochs after which the learning rate would be 0, None for the round's own: the
released code stops the first rounds early. ``momentum``: the released trainer hands weight decay to
SGD's momentum. ``trains_stem``: whether the backbone's ``stem`` learns, the first convolution and
in ResNet-38 the second block too; ``trains_norms``: whether the weights and biases of batch
normalisation do. ``dropout``: of the pooled features. ``jitter``: of brightness, contrast,
saturation and hue.

Reference: the released network is ResNet-38 (``SCCAM("resnet38", weights=FILE)``), whose last
blocks drop channels as well; other backbones do not.
"""

FEATURES = ("picture", "own_map")
READ_OUTS = ("parent", "children")
