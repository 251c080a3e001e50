"""A learned affinity: what belongs together, from labels that are trusted, and the walk with it.

Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly
Supervised Semantic Segmentation", CVPR 2018 (PSA); SC-CAM and the CLIMS paper refine their maps so.
"""

from wsss_kit.affinity_net.confident import (
    IRN_THRESHOLDS,
    PSA_POWERS,
    confident_labels,
    confident_seeds,
    labels_on_grid,
)
from wsss_kit.affinity_net.neighbours import (
    PAIR_KINDS,
    balanced_pair_loss,
    boundary_affinity,
    dense,
    feature_affinity,
    half_plane,
    pair_kinds,
    windowed_walk,
)
from wsss_kit.affinity_net.network import AffinityNet
