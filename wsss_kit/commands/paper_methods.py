"""Methods of the embedded world, ready to make masks: what the demo and whole runs share."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from wsss_kit.clip import load_clip
from wsss_kit.crf import crf_of_present
from wsss_kit.evaluation.background import MapsOf, Refine
from wsss_kit.methods.base import CAMMethod
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.prompts import Prompts
from wsss_kit.recipes import cam_maps, clip_es_crf, clip_es_maps


class Ready(NamedTuple):
    """A fitted method, and how it makes masks without and with the dense CRF.

    Args:
        fitted: the method.
        maps_of: pictures and labels to maps.
        crf: the dense CRF after them.
        walk: what refined the maps already, or None.
    """

    fitted: CAMMethod
    maps_of: MapsOf
    crf: Refine = crf_of_present
    walk: str | None = None

    def refinement(self, *, crf: bool) -> str:
        """What a protocol says of the masks."""
        return ", ".join(filter(None, (self.walk, "dense CRF" if crf else None))) or "none"


def ready(method: CAMMethod) -> Ready:
    """A trained method, its maps as they are."""
    return Ready(method, partial(cam_maps, method=method))


def ready_clip_es() -> Ready:
    """CLIP-ES with the tiny CLIP, after its attention affinity."""
    method = CLIPES(load_clip("paper", device="cpu"), prompts=Prompts.paper()).fit()
    maps_of, crf = (partial(step, method=method) for step in (clip_es_maps, clip_es_crf))
    return Ready(method, maps_of, crf, "attention affinity")
