"""CLIMS: a CAM that CLIP teaches what an object is and what only comes with it.

Xie et al., "CLIMS: Cross Language Image Matching for Weakly Supervised Semantic Segmentation",
CVPR 2022.
"""

from wsss_kit.methods.clims.losses import (
    area_loss,
    background_text_loss,
    cooccurrence_loss,
    object_text_loss,
)
from wsss_kit.methods.clims.method import CLIMS, PRESETS, propose_backgrounds
