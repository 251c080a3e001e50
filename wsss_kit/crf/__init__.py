"""Giving scores the picture's edges back: the dense CRF, and PAMR, its light alternative."""

from wsss_kit.crf.dense import crf_of_present, dense_crf, reference_crf_images
from wsss_kit.crf.pamr import pamr

__all__ = ["crf_of_present", "dense_crf", "pamr", "reference_crf_images"]
