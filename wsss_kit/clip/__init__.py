"""A frozen CLIP, or any other model of texts and images. `load_clip` opens one."""

import importlib.util
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsss_kit.checkpoints import unread
from wsss_kit.checks import check_given, check_word, chosen_device
from wsss_kit.classes import find
from wsss_kit.clip.frozen import AUTOCAST, FrozenCLIP
from wsss_kit.clip.images import OPENAI_MEAN, OPENAI_STD, WALK_SQUARINGS, FrozenModel
from wsss_kit.clip.last_block import LastBlock
from wsss_kit.clip.towers import AnyTower, Place, Recorded
from wsss_kit.clip.vision import SIMILARITY
from wsss_kit.data.datasets import default_root

_USUAL = "ViT-B-16-quickgelu"
_EXTRA = "install it (pip install wsss_kit[hub]) and connect to the network"
URL = "https://openaipublic.azureedge.net/clip/models/"
FILES = {
    "ViT-B-16": "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f/ViT-B-16.pt",
    "ViT-B-32": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
}
"""Where OpenAI keeps them; the folder's name is the file's sha256."""


HUB = ("hf-hub:", "local-dir:")
"""Names of models with their own weights: on Hugging Face's hub, and in a folder laid out so."""


def frozen(
    model: nn.Module, tokenizer: Callable[[list[str]], Tensor] | None = None, **options: Any
) -> FrozenModel:
    """Wrap a model of open_clip's, or one built alike: see ``notebooks/backbones.md``.

    Args:
        model: with an image tower ``visual``, ``encode_text`` and ``logit_scale``.
        tokenizer: texts -> (P, T) int64.
        **options: of `FrozenModel`, and for open_clip's own ViT of `FrozenCLIP`.

    Returns:
        `FrozenCLIP` for open_clip's own ViT with class token or average pooling, `AnyTower` for
        every other.

    Raises:
        ValueError: if the image tower is of no known kind.
    """
    visual = getattr(model, "visual", None)
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
    has_pool = getattr(visual, "attn_pool", None) is not None
    if blocks is None or has_pool or not isinstance(blocks[-1].attn, nn.MultiheadAttention):
        if options.pop("autocast", None) is not None:
            raise ValueError("autocast is for open_clip's own ViT alone; leave it out")
        return AnyTower(model, tokenizer, **options)
    return FrozenCLIP(model, tokenizer, **options)


def _from_open_clip(name: str, weights: str | Path | None, **options: Any) -> FrozenModel:
    """Build a model of open_clip's by name, with random weights where none are given.

    Raises:
        ValueError: for an unknown name, the wrong activation, or a damaged or foreign file.
        FileNotFoundError: if the weights are neither a tag nor a file.
        RuntimeError: if they cannot be downloaded, with the file that is missing and its place.
    """
    import open_clip

    if isinstance(name, str) and name.startswith(HUB):
        if weights is not None:
            raise ValueError(f"{name} brings its weights, and weights is {weights}; leave them out")
        return _from_hub(name, **options)
    if name not in open_clip.list_models():
        expected = f"'paper', hf-hub:ORG/MODEL, or one of open_clip.list_models(), as {_USUAL!r}"
        raise ValueError(f"name is {name!r}, expected {expected}")
    config: Any = open_clip.get_model_config(name)
    text = config["text_cfg"]
    if "hf_model_name" in text and importlib.util.find_spec("transformers") is None:
        problem = f"{name} has the text tower {text['hf_model_name']}, of the package transformers"
        raise ValueError(f"{problem}; {_EXTRA}, or use a model without, such as {_USUAL}")
    file = default_root("weights") / f"{name.removesuffix('-quickgelu')}.pt"
    if weights == "openai" and file.is_file():
        weights = file
    tags = open_clip.list_pretrained_tags_by_model(name)
    is_ours = weights is None or str(weights) in tags
    if not is_ours and not Path(weights).is_file():
        problem = f"weights is {str(weights)!r}: neither a file nor a tag of {name}"
        raise FileNotFoundError(f"{problem} (its tags: {', '.join(tags) or 'none'})")
    scripted = None if is_ours else _of_archive(Path(weights))
    if not is_ours and f"{name}-quickgelu" in open_clip.list_models():
        problem = f"{weights} does not say its activation, and {name} has the plain GELU"
        if scripted:
            raise ValueError(f"{problem}; OpenAI's weights need {name}-quickgelu")
        advice = f"weights trained with QuickGELU, as OpenAI's, need {name}-quickgelu"
        warnings.warn(f"{problem}; {advice}", stacklevel=3)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*QuickGELU.*")
        try:
            source = None if weights is None or scripted else str(weights)
            with _no_long_wait(weights if is_ours else None), _quiet_of_random(bool(scripted)):
                model = open_clip.create_model(name, source)
            if scripted:
                model.load_state_dict(scripted)
        except UserWarning as warning:
            problem = f"{name} with {weights!r} would run with the wrong activation ({warning})"
            raise ValueError(f"{problem}; use {name}-quickgelu") from warning
        except Exception as error:  # every reader of weights has its own exceptions
            if isinstance(error, ModuleNotFoundError) or "pip install" in str(error):
                problem = f"{name} needs a package that is no part of the kit ({error})"
                raise ValueError(f"{problem}; install it, or use {_USUAL}") from error
            if is_ours:
                advice = "name a file of weights (weights=FILE, --clip-weights FILE)"
                if weights == "openai":
                    known = f" ({URL}{FILES[file.stem]})" if file.stem in FILES else ""
                    advice = f"put {file.name}{known} there as {file.absolute()}, or {advice}"
                raise RuntimeError(
                    f"the weights {weights} of {name} could not be fetched ({error}); where there "
                    f"is no network, {advice}. The embedded world needs none"
                ) from error
            if "weights_only" in str(error):
                raise ValueError(f"{weights} {unread(error)}") from error
            problem = f"{weights} does not hold the weights of {name} ({error})"
            raise ValueError(f"{problem}; it is truncated or of another model") from error
    return _wrapped(model, name, **options)


def _from_hub(name: str, **options: Any) -> FrozenModel:
    import open_clip

    try:
        with _no_long_wait(name if name.startswith(HUB[0]) else None):
            model = open_clip.create_model(name)
    except Exception as error:  # of the network, of a folder's files, of a model's parts
        advice = "check the name, or the files of the folder (open_clip_config.json and weights)"
        raise RuntimeError(f"{name} could not be opened ({error}); {advice}") from error
    return _wrapped(model, name, **options)


def _wrapped(model: Any, name: str, **options: Any) -> FrozenModel:
    """Wrap a model with its own statistics and tokenizer; one from a hub comes when it is used."""
    import open_clip

    options |= {"mean": model.visual.image_mean, "std": model.visual.image_std}
    text = (open_clip.get_model_config(name) or {}).get("text_cfg", {})
    of_hub = name.startswith(HUB) or "hf_tokenizer_name" in text
    tokenizer = (lambda texts: _hub_tokenizer(name)(texts)) if of_hub else None
    try:
        return frozen(model, tokenizer or open_clip.get_tokenizer(name), **options)
    except ValueError as error:
        problem = f"{name} cannot be used: {error}"
        raise ValueError(f"{problem}; use another, such as {_USUAL}") from error


@lru_cache(maxsize=4)
def _hub_tokenizer(name: str) -> Callable[[list[str]], Tensor]:
    import open_clip

    try:
        with _no_long_wait(name):
            return open_clip.get_tokenizer(name)
    except Exception as error:  # the package, or the network
        problem = f"the tokenizer of {name} comes from transformers and a download ({error})"
        raise RuntimeError(
            f"{problem}; {_EXTRA}, or give embeddings of texts, give_texts"
        ) from error


@contextmanager
def _no_long_wait(weights: str | Path | None) -> Iterator[None]:
    """Let a download fail at once if its host cannot be reached; huggingface_hub tries for 47 s."""
    constants: Any = import_module("huggingface_hub.constants")
    requests = import_module("requests")
    before = constants.HF_HUB_OFFLINE
    try:
        if weights is not None and not before:
            requests.head(constants.ENDPOINT, timeout=10)
    except requests.RequestException:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def _quiet_of_random(wanted: bool) -> Iterator[None]:
    """Let open_clip not say that weights are random, where others follow."""
    log, quiet = logging.getLogger(), lambda record: "randomly" not in record.getMessage()
    if wanted:
        log.addFilter(quiet)
    try:
        yield
    finally:
        log.removeFilter(quiet)


_OF_ARCHIVE = ("input_resolution", "context_length", "vocab_size", "attn_mask")
"""What an archive holds beside weights."""


def _of_archive(file: Path) -> dict[str, Tensor] | None:
    """Read the weights of a TorchScript archive, as OpenAI hands out models; None for others."""
    if not zipfile.is_zipfile(file):
        return None
    with zipfile.ZipFile(file) as packed:
        if not any(name.endswith("/constants.pkl") for name in packed.namelist()):
            return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch, that archives will end
        state = torch.jit.load(file, map_location="cpu").state_dict()
    return {name: values.float() for name, values in state.items() if name not in _OF_ARCHIVE}


PRECISIONS = ("float32", "half", "auto")


@torch.inference_mode(False)  # what is loaded serves trainings too
def load_clip(
    name: str = "paper",
    *,
    weights: str | Path | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    autocast: str | torch.dtype | None = None,
    precision: str | None = None,
) -> FrozenModel:
    """Load a frozen CLIP, or another model that embeds images and texts in one space, by name.

    Args:
        name: ``"paper"`` for the tiny CLIP of the embedded world, which comes with the package;
            ``"hf-hub:ORG/MODEL"`` or ``"local-dir:FOLDER"`` for open_clip's models elsewhere; any
            other name is one of open_clip's, for example ``"ViT-B-16-quickgelu"``.
        weights: open_clip's tag (``"openai"``; downloads once, where OpenAI's own file is not in
            ``data/weights``) or a local file; None for the tiny
            CLIP's own weights, and for random weights with an open_clip name.
        device: ``"auto"`` takes CUDA where there is one.
        dtype: ``"auto"`` is float32; or a torch dtype or its name.
        autocast: dtype of the products in all blocks but the last, ``"bfloat16"`` or
            ``"float16"``, or None for that of the weights; see `FrozenCLIP`.
        precision: instead of ``dtype``: ``"float32"``, ``"half"`` for float16 weights and products
            beside sums in float32, or ``"auto"``, which is half on CUDA and float32 elsewhere.
            `AnyTower` runs in float32.

    Returns:
        The model in evaluation mode, without gradients, see `frozen`.

    Raises:
        ValueError: if the name is unknown, if weights need another activation than the name has
            (QuickGELU), if a weights file is damaged or of another architecture, if the device
            is not there or the precision unknown.
        FileNotFoundError: if a weights file is not there.
        RuntimeError: if weights cannot be downloaded.
    """
    device = chosen_device(device)
    check_given(partial(check_word, known=PRECISIONS), precision=precision)
    number_type = torch.float32 if dtype == "auto" else _number_type(dtype)
    if number_type not in (*AUTOCAST, torch.float64):
        raise ValueError(f"dtype is {dtype!r}, expected auto, float32, bfloat16, float16, float64")
    build = find("clip", name) if name == "paper" else partial(_from_open_clip, name)
    with torch.random.fork_rng(devices=[]):
        clip = build(weights, autocast=_number_type(autocast))
    clip.name = "the tiny CLIP" if name == "paper" else name
    is_half = precision == "half" or number_type in (torch.float16, torch.bfloat16)
    if is_half and isinstance(clip, AnyTower):
        asked = f"precision is {precision!r}" if precision else f"dtype is {dtype!r}"
        problem = f"{asked}, and the maps of {name} are differentiated in float32"
        raise ValueError(f"{problem}; expected 'float32' or 'auto'")
    if precision is not None and not isinstance(clip, AnyTower):
        is_half = precision == "half" or (precision == "auto" and device.type == "cuda")
        number_type = torch.float16 if is_half else torch.float32
    return clip.to(device=device, dtype=number_type)


def _number_type(name: Any) -> Any:
    """Look up a dtype by its name; return anything else unchanged."""
    return getattr(torch, name, name) if isinstance(name, str) else name
