"""PASCAL VOC 2012, and any data set in its folder layout and with its 20 classes."""

from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from torch import Tensor

from wsss_kit.classes import IGNORE_INDEX, VOC_CLASSES
from wsss_kit.data.datasets import ImageFiles, LazyMasks, LazySamples
from wsss_kit.prompts.checks import closest


def load_voc(
    root: str | Path = "data/VOC2012", split: str = "train", *, limit: int | None = None
) -> LazySamples:
    """Open the images of PASCAL VOC 2012 with image-level labels.

    The labels are every ``<object>`` of ``Annotations/``, difficult ones included, as published
    work does. Where there is no ``Annotations/``, they are the classes present in the masks. An
    image with no object stays in, with labels all zero.

    Args:
        root: the folder that holds ``JPEGImages/``, or the one above ``VOC2012/`` or
            ``VOCdevkit/VOC2012/``.
        split: a file of ``ImageSets/Segmentation/`` without ``.txt``: ``"train"`` (1,464
            images), ``"val"`` (1,449), or your own ``"train_aug"`` (10,582).
        limit: only the first so many images.

    Returns:
        A lazy sequence of ``Sample`` with ``.classes``, ``.split`` and ``.names``; ``labels`` is
        (20,) float32.

    Raises:
        FileNotFoundError: if the layout or the split is not there; on reading an item, if its
            image or annotation is not.
        ValueError: if the split or the limit is empty; on reading an item, if its image does not
            decode or its annotation names an unknown class.

    Example:
        A missing folder is answered with the layout that was expected:

        >>> load_voc("nowhere")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        FileNotFoundError: no VOC layout in nowhere; expected
          nowhere/
            JPEGImages/2007_000032.jpg
        ...
    """
    voc = _VOC(root, split)
    if voc.annotations is None and not voc.mask_folders:
        problem = f"{voc.root} has neither Annotations/ nor masks to take labels from"
        raise voc.not_found(problem, voc.root)
    return voc.open_samples(limit)


def load_voc_masks(root: str | Path = "data/VOC2012", split: str = "train") -> LazyMasks:
    """Open the ground-truth masks of PASCAL VOC 2012, for evaluation only.

    ``SegmentationClassAug/`` goes before ``SegmentationClass/`` where both hold a mask.

    Args:
        root: as for ``load_voc``.
        split: as for ``load_voc``.

    Returns:
        A lazy mapping name to (H, W) int64: 0 background, 1 to 20, 255 ignored.

    Raises:
        FileNotFoundError: if the layout, the split or all masks are missing; on reading an item,
            if its mask is.
        ValueError: on reading an item, if its mask does not decode, has another size than its
            image or a value that is no class.

    Example:
        >>> load_voc_masks("nowhere", "val")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        FileNotFoundError: no VOC layout in nowhere; expected
        ...
    """
    return _VOC(root, split).open_masks()


class _VOC(ImageFiles):
    """The files of one VOC folder by image id; labels are read once and kept."""

    LAYOUT = """
  {root}/
    JPEGImages/2007_000032.jpg
    ImageSets/Segmentation/train.txt     one image id a line
    Annotations/2007_000032.xml          labels; without it they come from the masks
    SegmentationClassAug/2007_000032.png or SegmentationClass/: masks
data/README.md says where to get VOC 2012 and how to unpack it."""
    classes = VOC_CLASSES

    def __init__(self, root: str | Path, split: str) -> None:
        root = Path(root).expanduser()
        places = (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012")
        needed = ("JPEGImages", "ImageSets/Segmentation")
        folders = [place for place in places if all((place / part).is_dir() for part in needed)]
        if not folders:
            raise self.not_found(f"no VOC layout in {root}", root)
        self.root = folders[0]
        xml = self.root / "Annotations"
        self.annotations = xml if next(xml.glob("*.xml"), None) else None
        masks = (self.root / part for part in ("SegmentationClassAug", "SegmentationClass"))
        self.mask_folders = [folder for folder in masks if folder.is_dir()]
        self.split, self.names = split, self._read_split(split)
        self._present: dict[str, set[int]] = {}

    def _read_split(self, split: str) -> list[str]:
        """Read the ids of a split file: bare, or as paths with a mask path behind."""
        folder = self.root / "ImageSets" / "Segmentation"
        if not isinstance(split, str):
            raise ValueError(f"split is {split!r}, expected a name such as 'train'")
        file = folder / f"{split}.txt"
        if not file.is_file():
            splits = sorted(path.stem for path in folder.glob("*.txt"))
            known = f"the splits there are: {', '.join(splits) or 'none'}{closest(split, splits)}"
            raise FileNotFoundError(f"there is no split {split!r} in {folder}; {known}")
        lines = file.read_text(encoding="utf-8-sig").splitlines()
        paths = [PurePosixPath(line.split()[0]) for line in lines if line.strip()]
        suffixes = (".jpg", ".jpeg", ".png")
        ids = (path.stem if path.suffix.lower() in suffixes else path.name for path in paths)
        names = list(dict.fromkeys(ids))
        if not names:
            raise ValueError(f"split file {file} is empty, expected one image id a line")
        return names

    def path(self, name: str) -> Path:
        return self.root / "JPEGImages" / f"{name}.jpg"

    def open_masks(self) -> LazyMasks:
        if not self.mask_folders:
            needed = "neither SegmentationClassAug/ nor SegmentationClass/"
            raise self.not_found(f"{self.root} has no masks: {needed}", self.root)
        return LazyMasks(self.names, read=self.mask, folder=self.mask_folders[0])

    def mask(self, name: str) -> Tensor:
        files = [folder / f"{name}.png" for folder in self.mask_folders]
        for file in files:
            if file.is_file():
                return self.read_mask(name, file)
        expected = f"{' or '.join(map(str, files))}; train_aug needs SegmentationClassAug/"
        raise FileNotFoundError(f"image {name} has no mask, expected {expected}")

    def present(self, name: str) -> set[int]:
        if name not in self._present:
            if self.annotations is None:
                values = set(self.mask(name).unique().tolist()) - {0, IGNORE_INDEX}
                self._present[name] = {value - 1 for value in values}
            else:
                self._present[name] = self._of_xml(name)
        return self._present[name]

    def _of_xml(self, name: str) -> set[int]:
        file = self.annotations / f"{name}.xml"
        if not file.is_file():
            expected = f"{file}, or no Annotations/ to have labels from the masks"
            raise FileNotFoundError(f"image {name} has no annotation, expected {expected}")
        try:
            tree = ElementTree.parse(file)
        except ElementTree.ParseError as error:
            raise ValueError(f"{file} is no whole XML ({error}); unpack it again") from error
        present = set()
        for item in tree.iterfind("object"):  # not the parts inside a person
            label = (item.findtext("name") or "").strip()
            if label not in VOC_CLASSES:
                hint = f"{closest(label, VOC_CLASSES)}; for classes of your own use load_folder"
                raise ValueError(f"{file} names an object {label!r}, no class of VOC{hint}")
            present.add(VOC_CLASSES.index(label))
        return present
