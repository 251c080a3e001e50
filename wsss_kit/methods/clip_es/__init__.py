"""CLIP-ES: softmax Grad-CAM and class-aware attention affinity of a frozen CLIP, no training.

Lin et al., "CLIP is Also an Efficient Segmenter", CVPR 2023.
"""

from wsss_kit.methods.clip_es.method import CLIPES, TARGETS
from wsss_kit.methods.clip_es.opened import PRESETS, OpenedImage, refined_maps
