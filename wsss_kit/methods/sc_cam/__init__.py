"""SC-CAM: classes found to have sub-categories, and a CAM that is asked about these too.

Chang et al., "Weakly-Supervised Semantic Segmentation via Sub-category Exploration", CVPR 2020.
"""

from wsss_kit.methods.sc_cam.clusters import Clusters, kmeans, subcategory_labels
from wsss_kit.methods.sc_cam.features import class_features
from wsss_kit.methods.sc_cam.method import SCCAM
from wsss_kit.methods.sc_cam.presets import PRESETS

__all__ = ["PRESETS", "SCCAM", "Clusters", "class_features", "kmeans", "subcategory_labels"]
