"""Every sort of image and mask a user brings."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from wsss_kit.classes import palette
from wsss_kit.data.images import EXIF_ORIENTATION, image_size, read_image, read_mask


def write_png(path, values, *, depth, colour_type):
    """A PNG of any bit depth, byte by byte; Pillow cannot write 16-bit colour or 4-bit grey."""
    if depth == 16:
        lines = [row.astype(">u2").tobytes() for row in values]
    else:
        bits = np.unpackbits(values.astype(np.uint8)[..., None], axis=-1)[..., -depth:]
        lines = [np.packbits(row).tobytes() for row in bits]
    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + line for line in lines))
    chunks = b""
    for variant, data in ((b"IHDR", header), (b"IDAT", body), (b"IEND", b"")):
        crc = struct.pack(">I", zlib.crc32(variant + data))
        chunks += struct.pack(">I", len(data)) + variant + data + crc
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def pixels(path):
    """(H, W, 3) list in 0..255, rounded."""
    image = read_image(path)
    assert image.dtype == torch.float32 and image.shape[0] == 3 and image.is_contiguous()
    return (image * 255).round().int().permute(1, 2, 0).tolist()


MODES = [
    ("1", 1, [255, 255, 255]),
    ("L", 51, [51, 51, 51]),
    ("LA", (0, 51), [204, 204, 204]),
    ("RGB", (10, 20, 30), [10, 20, 30]),
    ("RGBA", (255, 0, 0, 0), [255, 255, 255]),
    ("RGBA", (255, 0, 0, 51), [255, 204, 204]),
    ("CMYK", (0, 255, 255, 0), [255, 0, 0]),
    ("I;16", 32896, [128, 128, 128]),
]


@pytest.mark.parametrize(("mode", "colour", "expected"), MODES)
def test_modes(tmp_path, mode, colour, expected):
    path = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
    Image.new(mode, (1, 1), colour).save(path)  # one pixel is an image too
    assert pixels(path) == [[expected]]


def test_cmyk_jpeg(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    red = read_image(tmp_path / "a.jpg").mean((1, 2))
    assert torch.allclose(red, torch.tensor([1.0, 0.0, 0.0]), atol=0.02)


def test_palette_with_and_without_transparency(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "see_through.png", transparency=1)
    assert pixels(tmp_path / "plain.png") == [[[255, 0, 0], [0, 255, 0]]]
    assert pixels(str(tmp_path / "see_through.png")) == [[[255, 0, 0], [255, 255, 255]]]


def test_sixteen_bit_grey_keeps_its_depth_and_colour_its_values(tmp_path):
    grey = np.array([[0, 1, 1000, 65535]])
    write_png(tmp_path / "grey.png", grey, depth=16, colour_type=0)
    expected = torch.tensor(grey[0] / 65535, dtype=torch.float32)
    assert torch.equal(read_image(tmp_path / "grey.png")[1, 0], expected)
    colour = np.array([[[65535, 32896, 257]]])
    write_png(tmp_path / "colour.png", colour, depth=16, colour_type=2)
    assert pixels(tmp_path / "colour.png") == [[[255, 128, 1]]]


OF_32_BIT = [
    (np.array([[0, 51]], np.int32), 51 / 255),
    (np.array([[0, 6553]], np.int32), 6553 / 65535),
    (np.array([[0, 2**30]], np.int32), 2**30 / (2**31 - 1)),
    (np.array([[0, 0.2]], np.float32), 0.2),
    (np.array([[0, 1.0000001]], np.float32), 1.0),
    (np.array([[0, 51]], np.float32), 51 / 255),
    (np.array([[0, 6553]], np.float32), 6553 / 65535),
]


@pytest.mark.parametrize(("values", "expected"), OF_32_BIT)
def test_32_bit_takes_the_smallest_range_that_holds_it(tmp_path, values, expected):
    Image.fromarray(values).save(tmp_path / "a.tiff")
    assert read_image(tmp_path / "a.tiff")[2, 0].tolist() == pytest.approx([0, expected])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path, orientation):
    """Orientation as the standard words it: where row 0 and column 0 of the file belong."""
    upright = np.arange(6).reshape(2, 3) * 40
    kept = [upright, upright[:, ::-1], upright[::-1, ::-1], upright[::-1]]
    turned = [upright.T, upright.T[::-1], upright.T[::-1, ::-1], upright.T[:, ::-1]]
    stored = [*kept, *turned][orientation - 1]
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    path = tmp_path / "phone.png"
    Image.fromarray(np.ascontiguousarray(stored).astype(np.uint8)).save(path, exif=exif)
    seen = (read_image(path)[0] * 255).round().int()
    assert seen.tolist() == upright.tolist()
    assert image_size(path) == (2, 3)
    assert read_mask(path).tolist() == upright.tolist()


def test_damaged_exif_is_no_reason_to_lose_an_image(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("RGB", (5, 4)).save(path, exif=b"Exif\0\0notatiffatall")
    assert read_image(path).shape == (3, 4, 5) and image_size(path) == (4, 5)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF"])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_truncated_is_an_error_and_never_half_an_image(tmp_path, kind):
    rng = np.random.default_rng(0)
    path = tmp_path / f"cut.{kind.lower()}"
    Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(path, kind)
    assert read_image(path).shape == (3, 24, 32)
    whole = path.read_bytes()
    for share in (0.1, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ValueError, match=r"cut\.\w+ (does not decode|is damaged or cut short)"):
            read_image(path)


IDS = np.array([[0, 1, 20], [255, 7, 0]], np.uint8)


@pytest.mark.parametrize("mode", ["palette", "shuffled palette", "L", "LA", "I;16", "RGB", "RGBA"])
def test_masks_of_every_kind(tmp_path, mode):
    path = tmp_path / "mask.png"
    image = Image.fromarray(IDS.astype(np.uint16) if mode == "I;16" else IDS)
    if "palette" in mode:
        colours = palette() if mode == "palette" else palette()[::-1]
        image.putpalette(np.ascontiguousarray(colours).tobytes())
    elif mode == "LA":
        image = image.convert("LA")
    elif mode.startswith("RGB"):
        image = Image.fromarray(palette()[IDS]).convert(mode)
    image.save(path)
    mask = read_mask(path)
    assert mask.dtype == torch.int64 and mask.tolist() == IDS.tolist()


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_masks_of_few_bits_keep_their_ids(tmp_path, depth):
    """Pillow stretches 4-bit grey to 0..255, so that id 1 would read as 17."""
    ids = np.arange(2**depth)[None]
    write_png(tmp_path / "grey.png", ids, depth=depth, colour_type=0)
    assert read_mask(tmp_path / "grey.png").tolist() == ids.tolist()


ODD_COLOURS = np.array([[[1, 2, 3], [0, 0, 0]]], np.uint8)
HTML = b"<!DOCTYPE html><html>404</html>"
ODD = [(f"{value}.tiff", np.array([[0, value]], np.float32)) for value in (-1, np.nan, np.inf, 1e9)]
BAD = [
    (read_image, "gone.jpg", None, r"there is no image .*gone\.jpg; check"),
    (read_image, "a", "folder", "is a folder, expected an image"),
    (read_image, "a.jpg", b"", r"a\.jpg does not decode as an image: 0 bytes .*export it again"),
    (image_size, "a.jpg", HTML, r"a\.jpg does not decode as an image: 31 bytes .*export it again"),
    (read_image, "a.tiff", Image.new("LAB", (2, 2)), "LAB image, expected RGB.*save it as RGB"),
    *((read_image, *odd, r"\(mode F\) has values from .*rescale it") for odd in ODD),
    (read_mask, "gone.png", None, r"there is no image .*gone\.png"),
    (read_mask, "a.jpg", IDS, r"a\.jpg is a JPEG, which alters class ids"),
    (read_mask, "a.tiff", IDS.astype(np.float32), "has mode F, expected a palette or grey"),
    (read_mask, "a.png", ODD_COLOURS, r"a\.png has 1 colours outside .*\(1, 2, 3\).*as a palette"),
]


@pytest.mark.parametrize(("read", "name", "content", "message"), BAD)
def test_what_is_no_image_or_mask(tmp_path, read, name, content, message):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.mkdir()
    elif content is not None:
        image = content if isinstance(content, Image.Image) else Image.fromarray(content)
        image.save(path)
    with pytest.raises(FileNotFoundError if content is None else ValueError, match=message):
        read(path)


@pytest.mark.parametrize("read", [read_image, read_mask, image_size])
def test_an_image_too_large_to_trust_is_named_as_such(tmp_path, monkeypatch, read):
    Image.new("L", (40, 30)).save(tmp_path / "big.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # Pillow refuses twice as many
    with pytest.raises(ValueError, match=r"big\.png is a huge image .*MAX_IMAGE_PIXELS"):
        read(tmp_path / "big.png")
