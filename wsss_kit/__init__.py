"""A tutorial and analysis kit for weakly supervised semantic segmentation.

Images and image-level labels go in; class activation maps, pseudo masks and honest IoU come out.
The public names below stand in the order of that line.
"""

from wsss_kit.affinity_net import AffinityNet
from wsss_kit.cam import (
    class_activation_maps,
    multi_scale,
    normalize_cams,
    softmax_grad_cam,
    upsample,
)
from wsss_kit.classes import COCO_CLASSES, IGNORE_INDEX, PAPER_CLASSES, VOC_CLASSES, Sample
from wsss_kit.clip import FrozenCLIP, load_clip
from wsss_kit.crf import crf_of_present, dense_crf, pamr
from wsss_kit.data import (
    load_coco,
    load_coco_masks,
    load_folder,
    load_folder_masks,
    load_pets,
    load_pets_masks,
    load_voc,
    load_voc_masks,
    open_dataset,
)
from wsss_kit.evaluation import (
    BackgroundRule,
    ConfusionMatrix,
    Protocol,
    Report,
    best_rule,
    compare_reports,
    evaluate,
    judge,
    predict_masks,
    sweep_background,
)
from wsss_kit.masks import add_background, scores_to_masks
from wsss_kit.methods.base import CAMMethod, MethodOutput
from wsss_kit.methods.cam import CAM
from wsss_kit.methods.clims import CLIMS
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.methods.sc_cam import SCCAM
from wsss_kit.paperworld import PaperWorld
from wsss_kit.pipeline import Pipeline
from wsss_kit.prompts import Prompts
from wsss_kit.recipes import (
    cam_maps,
    cam_masks,
    clims_masks,
    clip_es_maps,
    clip_es_masks,
    sc_cam_masks,
)
from wsss_kit.segmentation import Segmenter, train_segmenter

__version__ = "0.3.0"

__all__ = [
    "CAM",
    "CLIMS",
    "CLIPES",
    "COCO_CLASSES",
    "IGNORE_INDEX",
    "PAPER_CLASSES",
    "SCCAM",
    "VOC_CLASSES",
    "AffinityNet",
    "BackgroundRule",
    "CAMMethod",
    "ConfusionMatrix",
    "FrozenCLIP",
    "MethodOutput",
    "PaperWorld",
    "Pipeline",
    "Prompts",
    "Protocol",
    "Report",
    "Sample",
    "Segmenter",
    "add_background",
    "best_rule",
    "cam_maps",
    "cam_masks",
    "class_activation_maps",
    "clims_masks",
    "clip_es_maps",
    "clip_es_masks",
    "compare_reports",
    "crf_of_present",
    "dense_crf",
    "evaluate",
    "judge",
    "load_clip",
    "load_coco",
    "load_coco_masks",
    "load_folder",
    "load_folder_masks",
    "load_pets",
    "load_pets_masks",
    "load_voc",
    "load_voc_masks",
    "multi_scale",
    "normalize_cams",
    "open_dataset",
    "pamr",
    "predict_masks",
    "sc_cam_masks",
    "scores_to_masks",
    "softmax_grad_cam",
    "sweep_background",
    "train_segmenter",
    "upsample",
]
