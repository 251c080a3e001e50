"""SC-CAM: classes found to have sub-categories, and a CAM that is asked about these too.

Chang et al., "Weakly-Supervised Semantic Segmentation via Sub-category Exploration", CVPR 2020.
"""

from wsss_kit.methods.sc_cam.clusters import class_features, kmeans, subcategory_labels
from wsss_kit.methods.sc_cam.look import (
    agreement,
    exemplars,
    listed,
    name_subcategories,
    plane,
    purity,
    stability,
)
from wsss_kit.methods.sc_cam.method import SCCAM
from wsss_kit.methods.sc_cam.train import PRESETS
