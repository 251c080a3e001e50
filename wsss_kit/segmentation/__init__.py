"""From pseudo masks to a network that needs no label: training, prediction, the papers' recipes."""

from wsss_kit.segmentation.networks import balanced_cross_entropy, confident_cross_entropy
from wsss_kit.segmentation.segmenter import PRESETS, Segmenter, train_segmenter
