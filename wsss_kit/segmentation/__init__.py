"""From pseudo masks to a network that needs no label: training, prediction, the papers' recipes."""

from wsss_kit.segmentation.networks import (
    NETWORKS,
    balanced_cross_entropy,
    build_network,
    confident_cross_entropy,
    multi_scale_loss,
)
from wsss_kit.segmentation.segmenter import Segmenter
from wsss_kit.segmentation.train import PRESETS, train_segmenter
