"""How the papers train their DeepLabV2, and how the small one of the embedded world is trained."""

from __future__ import annotations

from typing import Any

Recipe = dict[str, Any]

_DEEPLAB: Recipe = {
    "optimiser": "sgd",
    "learning_rate": 2.5e-4,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "batch_size": 5,
    "accumulate": 2,
    "epochs": None,
    "iterations": 20_000,
    "decay_every": 10,
    "crop": 321,
    "scales": (0.5, 0.75, 1.0, 1.25, 1.5),
    "loss": "plain",
    "loss_scales": (0.75, 0.5),
    "full_size": False,
    "fixes_norms": True,
}
PRESETS: dict[str, Recipe] = {
    "small": {
        "optimiser": "adamw",
        "learning_rate": 2e-3,
        "momentum": 0.9,
        "weight_decay": 0.01,
        "batch_size": 16,
        "accumulate": 1,
        "epochs": 8,
        "iterations": None,
        "decay_every": 1,
        "crop": None,
        "scales": (),
        "loss": "plain",
        "loss_scales": (),
        "full_size": True,
        "fixes_norms": False,
    },
    "deeplab": _DEEPLAB,
    "clims_coco": _DEEPLAB,
    "clims_imagenet": {
        **_DEEPLAB,
        "batch_size": 10,
        "iterations": 30_000,
        "scales": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0),
        "loss": "balanced",
    },
    "clip_es_imagenet": {**_DEEPLAB, "learning_rate": 2e-4},
    "clip_es_coco": {**_DEEPLAB, "learning_rate": 2.5e-5},
}
"""``accumulate``: batches whose gradients are added for one step. ``iterations``: steps; or
``epochs``, passes over the pictures. ``decay_every``: steps between two changes of the rate, which
falls by a polynomial of power 0.9. ``crop``, ``scales``: see `views.random_view`. ``loss``: one of
`losses.LOSSES`. ``loss_scales``: see `multi_scale_loss`. ``full_size``: whether logits are enlarged
to the mask for the loss, or the mask brought to their grid. ``fixes_norms``: whether batch
normalisation keeps its statistics.

``deeplab`` is the PyTorch code that CLIMS and CLIP-ES train with (and CLIMS' own from COCO's
weights); the others differ as their papers or authors say."""
