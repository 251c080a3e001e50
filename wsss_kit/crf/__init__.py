"""Giving scores the image's edges back: the dense CRF, and PAMR, its light alternative."""

from wsss_kit.crf.dense import (
    IRN_CRF,
    PSA_CRF,
    crf_of_present,
    dense_crf,
    pamr,
    reference_crf_images,
)
