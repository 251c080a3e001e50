"""Classifiers on image-level labels: backbones, and how they are trained."""

from wsss_kit.classifier.backbones import BACKBONES, build_backbone
