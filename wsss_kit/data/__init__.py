"""Data sets: one function opens the samples, another the ground-truth masks.

``load_voc``, ``load_coco``, ``load_pets`` and ``load_folder`` give images with image-level labels
and never a mask. Masks come from the function of the same name with ``_masks``, which only an
evaluation calls. Everything is lazy: a file is read when its item is asked for.
"""

from wsss_kit.data.benchmarks import load_coco, load_coco_masks, load_voc, load_voc_masks
from wsss_kit.data.datasets import Dataset, LazyMasks, LazySamples, open_dataset
from wsss_kit.data.folder import load_folder, load_folder_masks
from wsss_kit.data.images import read_image, read_mask
from wsss_kit.data.pets import load_pets, load_pets_masks
