"""Image files of every sort to tensors: RGB in [0, 1], masks of class ids."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from wsss_kit.classes import IGNORE_INDEX, palette

EXIF_ORIENTATION = 0x0112
_STAMP = "made from"  # key of a text in the file of a mask


def import_decoders() -> None:
    """Import what Pillow and `np.unique` load at their first use; threads must not import modules.

    Call it before threads read images or masks: two threads that import parts of one library at
    the same time can end in a deadlock.
    """
    import numpy.ma  # noqa: F401

    Image.init()


def read_image(path: str | Path | bytes, *, called: str = "the image") -> Tensor:
    """Read an image of any common format as RGB.

    EXIF rotation is applied, as every viewer does. Transparent images are laid over white. Grey
    images get three equal channels. 16-bit grey keeps its depth; Pillow itself reads 16-bit
    colour at 8 bits. 32-bit integer and float images carry no range, so the smallest of 0..255,
    0..65535, 0..2^31 - 1 (integers) or 0..1, 0..255, 0..65535 (floats) that holds the values is
    taken. Of an animation the first frame is read. Colour profiles are ignored.

    Args:
        path: PNG, JPEG, TIFF, BMP, GIF, WebP or whatever else Pillow opens; or what such a file
            holds, as bytes.
        called: what messages call the image where bytes were given.

    Returns:
        (3, H, W) float32, RGB in [0, 1].

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it does not decode, is cut short, has more pixels than Pillow lets through,
            or holds negative or non-finite values.

    Example:
        A 16-bit grey image is scaled, not clipped at 255:

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "scan.png"
        ...     Image.fromarray(np.array([[0, 32896, 65535]], np.uint16)).save(file)
        ...     image = read_image(file)
        >>> image.shape, [round(value, 3) for value in image[0, 0].tolist()]
        (torch.Size([3, 1, 3]), [0.0, 0.502, 1.0])
    """
    content, path = (path, Path(called)) if isinstance(path, bytes) else (None, Path(path))
    opened = _open(path, content)
    is_16_bit = opened.mode.startswith("I;16") or opened.format == "PNG"
    image = _decode(opened, path)
    if image.mode == "F" or image.mode.startswith("I"):
        grey = _unit_grey(image, path, is_16_bit=is_16_bit)
        return torch.from_numpy(grey).expand(3, -1, -1).clone()  # (3, H, W)
    if image.mode == "LAB":
        raise ValueError(f"{path} is a LAB image, expected RGB, grey or CMYK; save it as RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba)
    rgb = torch.from_numpy(np.array(image.convert("RGB")))  # (H, W, 3) uint8
    return rgb.permute(2, 0, 1).contiguous().float().div_(255)  # (3, H, W)


def read_mask(path: str | Path) -> Tensor:
    """Read a mask of class ids: 0 background, c + 1 for class c, 255 ignored.

    Of a palette image the indices are taken, whatever its colours; of a grey one the grey
    values, at any bit depth. A colour image is decoded by ``wsss_kit.classes.palette``, PASCAL
    VOC's colours, and must hold no other.

    Args:
        path: a PNG, or another format that keeps values exactly.

    Returns:
        (H, W) int64.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it does not decode, is a JPEG (which alters ids), is of a kind that holds no
            ids, or has a colour outside the palette.

    Example:
        Black and white in the palette, yet the indices 0 and 15 come out:

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "mask.png"
        ...     mask = Image.fromarray(np.array([[0, 15]], np.uint8), mode="P")
        ...     mask.putpalette([0] * 45 + [255] * 3)
        ...     mask.save(file)
        ...     read_mask(file).tolist()
        [[0, 15]]
    """
    path = Path(path)
    opened: Any = _open(path)
    if opened.format in ("JPEG", "MPO"):
        raise ValueError(f"mask {path} is a JPEG, which alters class ids; save masks as PNG")
    # Pillow stretches 2-bit and 4-bit grey to 0..255 by a factor, which is undone for ids
    steps, raw_mode = {"L;2": 85, "L;4": 17}, opened.tile[0][3] if opened.tile else None
    step = steps.get(raw_mode, 1) if isinstance(raw_mode, str) else 1
    image = _decode(opened, path)
    if image.mode in ("LA", "PA"):
        image = image.getchannel(0)
    if image.mode in ("1", "L", "P", "I") or image.mode.startswith("I;16"):
        return torch.from_numpy(np.asarray(image).astype(np.int64) // step)
    if image.mode in ("RGB", "RGBA"):
        return torch.from_numpy(_ids_of_colours(np.asarray(image.convert("RGB")), path))
    raise ValueError(f"mask {path} has mode {image.mode}, expected a palette or grey 8-bit PNG")


def read_mask_of(image: str | Path, path: str | Path, *, n_classes: int) -> Tensor:
    """Read the mask of an image and check it against the image's size and the class list.

    Args:
        image: the file of the image.
        path: the mask file.
        n_classes: C; values 0 to C and 255 are allowed.

    Returns:
        (H, W) int64.

    Raises:
        FileNotFoundError: if either file is missing.
        ValueError: if the mask is of another size than the image, or has another value.

    Example:
        Class 2 of two is value 2; with one class it is out of range:

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     image, mask = Path(folder) / "a.jpg", Path(folder) / "a.png"
        ...     Image.new("RGB", (2, 1)).save(image)
        ...     Image.new("L", (2, 1), 2).save(mask)
        ...     read_mask_of(image, mask, n_classes=2).tolist()
        [[2, 2]]
    """
    mask = read_mask(path)
    check_mask(mask, path, image_size(image), n_classes, f"its image {image}")
    return mask


def check_mask(
    mask: Tensor, path: str | Path, size: tuple[int, int], n_classes: int, image: str
) -> None:
    """Raise an error unless a mask has the size of its image, and values 0 to C or 255.

    Args:
        mask: (H, W) int64.
        path: where it came from, for messages.
        size: of the image, (H, W).
        n_classes: how many there are, C.
        image: what messages call the image.
    """
    (h, w), (H, W) = mask.shape, size
    if (h, w) != (H, W):
        problem = f"{h}x{w} pixels (H x W) but {image} is {H}x{W}, EXIF rotation counted"
        raise ValueError(f"mask {path} is {problem}; draw the mask on the image again")
    outside = mask[((mask < 0) | (mask > n_classes)) & (mask != IGNORE_INDEX)].unique()
    if len(outside):
        problem = f"mask {path} has values {outside[:5].tolist()}"
        expected = f"0 or 1 to {n_classes} (class c is c + 1) or {IGNORE_INDEX} (ignored)"
        raise ValueError(f"{problem}, expected {expected}; check the class list")


def mask_png(mask: Tensor | np.ndarray, stamp: str = "") -> bytes:
    """Encode a mask as a palette PNG with PASCAL VOC's colours; `read_mask` reads it.

    Args:
        mask: (H, W) integers from 0 to 255.
        stamp: says what the mask was made from; `stamp_of` reads it again.

    Raises:
        ValueError: if it has another shape or another value.

    Example:
        >>> mask_png(np.array([[0, 255]]))[1:4]
        b'PNG'
        >>> mask_png(np.array([[256]]))
        Traceback (most recent call last):
        ValueError: a mask has shape (1, 1) of 256 to 256, expected (H, W) of 0 to 255
    """
    values = np.asarray(mask.cpu() if isinstance(mask, Tensor) else mask)
    if values.ndim != 2 or not values.size or values.min() < 0 or values.max() > 255:
        span = f"{values.min()} to {values.max()}" if values.size else "none"
        raise ValueError(f"a mask has shape {values.shape} of {span}, expected (H, W) of 0 to 255")
    image = Image.fromarray(values.astype(np.uint8))
    image.putpalette(palette().ravel().tolist())
    written, texts = io.BytesIO(), PngInfo()
    if stamp:
        texts.add_text(_STAMP, stamp)
    image.save(written, "PNG", pnginfo=texts)
    return written.getvalue()


def stamp_of(path: Path) -> str | None:
    """Return the stamp of a mask's file, "" if it has none; None where there is no whole PNG."""
    try:
        with Image.open(path) as image:
            image.verify()
            return image.info.get(_STAMP, "")
    except Exception:  # decoders raise whatever they like on damaged files
        return None


def image_size(path: str | Path) -> tuple[int, int]:
    """Return the size that ``read_image`` would give, without decoding more than it must.

    Args:
        path: an image file.

    Returns:
        (H, W) in pixels, after EXIF rotation.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it does not decode.

    Example:
        EXIF orientation 6 lies on its side:

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "phone.jpg"
        ...     exif = Image.Exif()
        ...     exif[EXIF_ORIENTATION] = 6
        ...     Image.new("RGB", (40, 30)).save(file, exif=exif)
        ...     image_size(file)
        (40, 30)
    """
    path = Path(path)
    image = _open(path)
    with _whole(image, path):  # a PNG may keep its EXIF behind the pixels
        is_turned = image.getexif().get(EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    return image.size if is_turned else image.size[::-1]


def _open(path: Path, content: bytes | None = None) -> Image.Image:
    """Open an image: its header is read and its pixels are not yet decoded."""
    try:
        data = path.read_bytes() if content is None else content
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no image {path}; check the name and its case") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder, expected an image file") from None
    try:
        return Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        advice = "make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS"
        raise ValueError(f"{path} is a huge image ({error}); {advice}") from error
    except Exception as error:  # decoders raise whatever they like on damaged files
        problem = f"{len(data)} bytes that begin with {data[:12]!r}; copy or export it again"
        raise ValueError(f"{path} does not decode as an image: {problem}") from error


def _decode(opened: Image.Image, path: Path) -> Image.Image:
    """Decode the pixels, upright."""
    with _whole(opened, path):
        opened.load()
        return ImageOps.exif_transpose(opened)


@contextmanager
def _whole(opened: Image.Image, path: Path) -> Iterator[None]:
    """Raise one error for whatever a decoder raises on a damaged file."""
    try:
        yield
    except Exception as error:
        problem = f"{path} is damaged or cut short ({error})"
        promised = "a {0} of {2}x{1} pixels".format(opened.format, *opened.size)
        raise ValueError(f"{problem}: its header promises {promised}; copy it again") from error


def _unit_grey(image: Image.Image, path: Path, *, is_16_bit: bool) -> np.ndarray:
    """Scale 16-bit, 32-bit integer or float grey to (H, W) float32 in [0, 1]."""
    values = np.asarray(image).astype(np.float64)
    low, high = values.min(), values.max()
    ranges = (1, 255, 65535) if image.mode == "F" else (255, 65535, 2**31 - 1)
    ranges = (65535,) if is_16_bit else ranges
    # an image may pass the end of its range a little, as after resizing
    scale = next((top for top in ranges if 0 <= low and high <= top * 1.001), None)
    if scale is None:  # and for NaN
        problem = f"{path} (mode {image.mode}) has values from {low:g} to {high:g}"
        raise ValueError(f"{problem}, expected 0 to one of {ranges}; rescale it to 8 bits")
    return (values / scale).clip(max=1).astype(np.float32)


def _ids_of_colours(rgb: np.ndarray, path: Path) -> np.ndarray:
    """Return (H, W) int64 ids of a (H, W, 3) uint8 image in VOC's colours."""
    weights = np.array([1 << 16, 1 << 8, 1])
    known = palette() @ weights  # (256,) one number a colour
    codes, where = np.unique(rgb @ weights, return_inverse=True)
    strange = codes[~np.isin(codes, known)]
    if len(strange):
        problem = f"colour mask {path} has {len(strange)} colours outside PASCAL VOC's palette"
        first = tuple(int(strange[0]).to_bytes(3, "big"))
        raise ValueError(f"{problem}, first RGB {first}; save the mask as a palette or grey PNG")
    order = known.argsort()
    return order[known[order].searchsorted(codes)][where].reshape(rgb.shape[:2])
