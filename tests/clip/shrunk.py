"""open_clip's models with fewer and narrower layers, so that all of them can be tried."""

import copy
from typing import Any

import open_clip
import timm
from open_clip import factory

_TEXT = {"layers": 1, "width": 64, "heads": 2, "vocab_size": 49408}
_DEPTHS = {"depths": (1, 1, 1, 1)}


def shrunk_config(name: str) -> dict[str, Any]:
    """Return a model's configuration with few and narrow layers."""
    config = copy.deepcopy(open_clip.get_model_config(name))
    vision, text = config["vision_cfg"], config["text_cfg"]
    config["embed_dim"] = 64
    if "hf_model_name" not in text:
        text |= _TEXT
    if "multimodal_cfg" in config:
        config["multimodal_cfg"] |= _TEXT
    if isinstance(vision.get("layers"), list):
        vision |= {"layers": [1, 1, 1, 1], "width": 16}
    elif "timm_model_name" not in vision:
        heads = 2 * vision.get("head_width", 64)
        vision |= {"layers": 2, "width": heads, "mlp_ratio": 2.0}
    return config


def shrunk_trunk(name: str, **options: Any) -> Any:
    """Create a network of timm with few layers: ``timm.create_model`` for the tests."""
    kind = name.split("_")[0]
    if kind == "convnext":
        options |= _DEPTHS | {"dims": (16, 32, 64, 128)}
    elif kind == "swin":
        options |= _DEPTHS | {"embed_dim": 32, "num_heads": (1, 2, 4, 8)}
    elif kind == "fastvit":
        n = 5 if name.split(".")[0] in ("fastvit_mci3", "fastvit_mci4") else 4
        options |= {"layers": (1,) * n}
    else:
        options |= {"depth": 2}
    return CREATE(name, **options)


CREATE = timm.create_model


def shrink(monkeypatch: Any, name: str) -> None:
    """Let open_clip build a model by this name that is small."""
    monkeypatch.setitem(factory._MODEL_CONFIGS, name, shrunk_config(name))
    monkeypatch.setattr("timm.create_model", shrunk_trunk)
