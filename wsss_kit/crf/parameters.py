"""What the papers give the dense CRF, where it is not the default."""

from __future__ import annotations

from typing import Any

PSA_CRF: dict[str, Any] = {
    "spatial_std": 3,
    "bilateral_weight": 10,
    "bilateral_xy_std": 80,
    "bilateral_rgb_std": 13,
}
"""Of PSA and SC-CAM: ``crf_of_present(scores, images, labels, **PSA_CRF)``."""
IRN_CRF: dict[str, Any] = {
    "spatial_std": 3,
    "bilateral_weight": 10,
    "bilateral_xy_std": 50,
    "bilateral_rgb_std": 5,
    "unary": "hard",
}
"""Of the labels that IRN and CLIMS learn their boundary from; the masks of CLIMS' first code went
through it once more with ``iterations=1``."""
