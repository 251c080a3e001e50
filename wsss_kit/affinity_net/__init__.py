"""A learned affinity: what belongs together, from labels that are trusted, and the walk with it.

Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly
Supervised Semantic Segmentation", CVPR 2018 (PSA); SC-CAM and the CLIMS paper refine their maps so.
"""

from wsss_kit.affinity_net.neighbours import (
    PAIR_KINDS,
    balanced_pair_loss,
    feature_affinity,
    half_plane,
    inner_pairs,
    pair_kinds,
)
from wsss_kit.affinity_net.network import AffinityNet
from wsss_kit.masks import confident_seeds, labels_on_grid
