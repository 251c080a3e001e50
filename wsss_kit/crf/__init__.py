"""Giving scores the image's edges back: the dense CRF, and PAMR, its light alternative."""

from wsss_kit.crf.dense import IRN_CRF, PSA_CRF, crf_of_present, dense_crf, reference_crf_images
from wsss_kit.crf.pixel_adaptive import pamr
