"""SC-CAM: classes found to have sub-categories, and a CAM that is asked about these too.

Chang et al., "Weakly-Supervised Semantic Segmentation via Sub-category Exploration", CVPR 2020.
"""

from wsss_kit.methods.sc_cam.clusters import Clusters, kmeans, subcategory_labels

__all__ = ["Clusters", "kmeans", "subcategory_labels"]
