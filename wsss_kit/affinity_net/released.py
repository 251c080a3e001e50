"""Reading the affinities that were released: PSA's ``res38_aff.pth`` and IRN's ``res50_irn.pth``.

SC-CAM's authors refine with PSA's own file; the released CLIMS trains one like IRN's. Only names
are translated here, nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from wsss_kit.classifier.resnet38 import from_released

PSA = {"backbone": "resnet38", "radius": 5, "levels": 3, "channels": (64, 128, 256)}
IRN = {
    "backbone": "resnet50",
    "radius": 5,
    "kind": "boundary",
    "levels": 5,
    "channels": 32,
    "pad_to": 512,
}
"""Arguments of `AffinityNet` for the two networks, as they walk: IRN learns with radius 10."""

_PSA_LEVELS = ("f8_3", "f8_4", "f8_5")


def translated(state: Mapping[str, Tensor]) -> tuple[dict, dict[str, Tensor]] | None:
    """What network a released file is of, and its weights under the names of `AffinityNet`.

    Args:
        state: as the ``.pth`` holds it. Of IRN's network the displacement branch is left out: it
            tells instances apart and changes no semantic mask.

    Returns:
        (``PSA`` or ``IRN``, weights), or None for any other file.
    """
    if "f9.weight" in state:
        return PSA, _from_psa(state)
    if "fc_edge6.weight" in state:
        return IRN, _from_irn(state)
    return None


def _from_psa(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    heads = {f"{name}.weight": f"project.each.{n}.weight" for n, name in enumerate(_PSA_LEVELS)}
    heads["f9.weight"] = "project.joined.weight"
    trunk = from_released({key: value for key, value in state.items() if key not in heads})
    found = {new: state[old] for old, new in heads.items() if old in state}
    return found | {f"trunk.{key}": value for key, value in trunk.items()}


def _from_irn(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for key, value in state.items():
        first, *rest = key.split(".")
        if first == "resnet50" and rest[0] != "fc":
            stem = {"conv1": "stem.0", "bn1": "stem.1"}.get(rest[0], rest[0])
            renamed[".".join(["trunk", stem, *rest[1:]])] = value
        elif first == "fc_edge6":
            renamed[".".join(["project", "joined", *rest])] = value
        elif first.startswith("fc_edge"):
            level = int(first.removeprefix("fc_edge")) - 1
            renamed[".".join(["project", "each", str(level), *rest])] = value
    return renamed
