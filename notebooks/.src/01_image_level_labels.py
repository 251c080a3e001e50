# %% [markdown]
# # 01 Image-level labels
#
# A person needs a second or two to say "there is a boat in this image", and minutes to outline the boat. Weak supervision uses this difference in cost. The price is information: this notebook shows what an image-level label says, and measures what it leaves open.
#
# ```text
#     ┌── you are here
#     ▼
# images (B,3,H,W) ─┐
#                   ├─► features ─► CAMs ─► refinement ─► pseudo masks ─► segmenter ─► IoU, errors
# labels (B,C)     ─┘                                                                  ▲
#     ▲                                                          ground-truth masks ───┘
#     └── you are here
# ```
#
# **Goals.** You can say (1) what a `Sample` holds and what it does not, (2) why a class and its usual background cannot be told apart from labels alone, (3) how to bring your own images.
#
# **Needs.** No network, no GPU, no other notebook, nothing to train. **Time.** Less than half a minute of computing on a laptop's CPU; a GPU is not used; 30 minutes of reading. **Words.** [glossary.md](glossary.md)
#
# <details><summary><b>Plan for the teacher, 40 minutes</b></summary>
#
# | Minutes | What | How |
# | --- | --- | --- |
# | 0 to 8 | The sample images | the students guess the rule: when does an image get the label "boat"? |
# | 8 to 14 | What is not given | who may read the masks, and when? |
# | 14 to 24 | Co-occurrence | first let the students draw the heat map they expect at 0.1 and at 0.85 |
# | 24 to 28 | The splits | what has CLIP learned that the classifier has not? |
# | 28 to 40 | Exercises 1 and 2 | 1 in pairs; its answer leads to notebook 02 |
#
# </details>

# %%
import csv
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from wsss_kit import PAPER_CLASSES, PaperWorld, load_folder, load_folder_masks
from wsss_kit.notebook_data import open_data
from wsss_kit.paperworld.words import HOME, STUFF
from wsss_kit.plot import show_heat_maps, show_masks, show_samples

# %%
DATA = "paper"  # or "voc", "folder"

# %% [markdown]
# ## What is given
#
# A data set is a sequence of samples. A sample has a name, an image and a vector of labels: 1 for each class that is in the image, 0 for each that is not.

# %%
data = open_data(DATA, n_train=300, n_val=20, n_test=20)
captions = data.train[:4].captions if DATA == "paper" else None
show_samples(data.train[:4], data.classes, captions)

# %%
sample = data.train[0]
print("fields of a Sample:", sample._fields)
print("image ", tuple(sample.image.shape), sample.image.dtype, "RGB in [0, 1]")
print("labels", dict(zip(data.classes, sample.labels.int().tolist(), strict=True)))

# %% [markdown]
# An image with three cows and an image with one cow have the same label. The label does not say how many objects there are, where they are or how large they are. The captions under the images say more. PaperWorld keeps them apart from the samples (`world.captions`), and only CLIP learns from them.
#
# ## What is *not* given
#
# Masks are loaded separately, as a mapping from the name of an image to its mask. So a method cannot cheat: a `Sample` has no field with a mask that it could read. These notebooks use ground truth twice, on `val` to choose the background rule and on `test` to score.

# %%
assert not hasattr(sample, "mask")
shown = data.val[:2]
show_masks(shown, {"ground truth": data.val_masks}, data.classes)

# %% [markdown] elsewhere="240"
# How large is the difference in cost? Bearman et al. (*What's the Point*, ECCV 2016) report about 20 seconds per image for the labels of all 20 VOC classes, and about 240 seconds for full masks.
#
# ## How often, and with what?
#
# Begin with any labels by counting them. Then count pairs of classes: a classifier cannot separate two classes that always occur together.

# %%
labels = torch.stack([s.labels for s in data.train])  # (M, C)
counts = pd.Series(labels.sum(0).int().numpy(), index=data.classes, name="images")
classes_per_image = pd.Series(labels.sum(1).int().numpy()).value_counts().sort_index()
print(f"{len(labels)} images; classes in an image -> images: {classes_per_image.to_dict()}")
counts.sort_values(ascending=False)

# %%
together = pd.DataFrame((labels.T @ labels).int().numpy(), index=data.classes, columns=data.classes)
show_heat_maps({"": together}, "images with both classes", label="images with both classes")

# %% [markdown]
# The diagonal holds the counts of the single classes. In PaperWorld any two classes may occur together. In VOC, `person` occurs together with nearly every other class.
#
# ## Co-occurrence: a class and its usual background
#
# A class also occurs together with something that no label names: its background. Boats float on water, trains run on rails. This is **co-occurrence**: a class and a kind of background are often in the same images. A classifier that learns from image-level labels then has no reason to tell the two apart.
#
# In PaperWorld each class has a **home background**, one of twelve kinds, and the setting `cooccurrence` says how often an object stands on it. For photographs nobody knows this rate. Here we can set it, and read the kinds of background from `world.stuff`, a map that no method may use.


# %%
def background_of_classes(world):
    """Rows classes, columns background kinds: mean share of the background's pixels, 0 to 1."""
    shares = np.zeros((len(PAPER_CLASSES), len(STUFF)))
    images = np.zeros(len(PAPER_CLASSES))
    for s in world:
        kinds = world.stuff[s.name].flatten()
        share = np.bincount(kinds[kinds != 255], minlength=len(STUFF)) / (kinds != 255).sum().item()
        present = s.labels.numpy() > 0
        shares[present] += share
        images += present
    return pd.DataFrame(shares / images[:, None], index=PAPER_CLASSES, columns=STUFF)


dials = (0.1, 0.5, 0.85)
worlds = {dial: PaperWorld(200, split="train", cooccurrence=dial) for dial in dials}
tables = {dial: background_of_classes(world) for dial, world in worlds.items()}

# %%
show_heat_maps(
    {f"cooccurrence {dial}": 100 * shares for dial, shares in tables.items()},
    "class by kind of background",
    label="percent of background pixels",
    least=20,
    most=70,
)

# %%
home = {
    dial: [shares.loc[name, HOME[name]] for name in PAPER_CLASSES]
    for dial, shares in tables.items()
}
home = pd.DataFrame(home, index=pd.Index(PAPER_CLASSES, name="home of"))
home.loc["mean"] = home.mean()
home.columns.name = "cooccurrence"
(100 * home).round(0).astype(int)

# %% [markdown] elsewhere="0.15"
# The table gives the percentage of background pixels that are home background. The homes are the first eight columns of the heat maps. So a bright diagonal means that the background alone tells the class. Now take a classifier that learned "water" instead of "boat". At 0.85, the setting of `train`, `val` and `test`, its loss would hardly ever show the mistake, because labels do not say which pixels they mean. Exercise 1 builds that classifier.
#
# ## The splits, and why `web` is another
#
# | Split | For | Co-occurrence | What is in it |
# | --- | --- | --- | --- |
# | `train` | methods that train | 0.85 | scenes |
# | `val` | choosing one number | 0.85 | scenes |
# | `test` | scoring | 0.85 | scenes |
# | `web` | the tiny CLIP | 0.15 | scenes, backgrounds alone, cut-outs, close-ups, collages, some dim, with holes or with torn objects |
#
# `train`, `val` and `test` are samples of the same distribution, so a setting chosen on `val` also suits `test`. `web` is different. The tiny CLIP learns from it. There objects stand on other backgrounds, and some images have no object and a caption that names the background. So CLIP has seen water without a boat, together with the word for it. CLIP-ES uses this knowledge; it comes from other data.
#
# The backbone of plain CAM has learned on `web` too, but without captions. It was trained, on `web` images without torn objects, to imitate the image features of another CLIP, which never saw a torn object either. This backbone has the role that ImageNet weights have for photographs: its features differ between water and boats. But it knows no words. Which of the two "boat" means is learned from the labels of `train`, at a co-occurrence of 0.85.

# %%
web = PaperWorld(200, split="web")
first_of_kind = {web.page(i).scene.kind: web[i] for i in reversed(range(60))}
print("from left to right:", ", ".join(first_of_kind))
show_samples(list(first_of_kind.values()), web.classes, web.captions)

# %%
torn = [web[i] for i in range(60) if any(thing.torn for thing in web.page(i).scene.things)]
show_samples(torn[:5], web.classes, web.captions)

# %% [markdown]
# About every third object on `web` is **torn**: it has lost the part that tells its class, such as the head, the cab or the tail. Its caption still names the class, because captions are written from the description of the scene. Real captions do this too, for heads are often hidden or outside the frame. A model that learns from such pairs has to learn what *bodies* look like as well; notebook 05 uses this.

# %%
splits = {split: PaperWorld(200, split=split) for split in ("train", "val", "test", "web")}
rows = {}
for split, world in splits.items():
    at_home, objects, empty = 0, 0, 0
    things = [thing for i in range(len(world)) for thing in world.page(i).scene.things]
    for s in world:
        kinds = set(world.stuff[s.name].unique().tolist())
        names = [PAPER_CLASSES[c] for c in s.labels.nonzero().flatten().tolist()]
        at_home += sum(STUFF.index(HOME[name]) in kinds for name in names)
        objects += len(names)
        empty += not names
    rows[split] = {
        "home is in the image": at_home / objects,
        "no class at all": empty / len(world),
        "torn": sum(thing.torn for thing in things) / len(things),
    }
(100 * pd.DataFrame(rows).T).round(0).astype(int)

# %% [markdown]
# All in percent. First column: of the classes present, how many have their home background somewhere in the image. Second: of the images, how many show no class. Third: of the objects, how many are torn. The first number stays close to the `cooccurrence` of the split.
#
# ## Your own images
#
# A folder with images and a table `labels.csv` is a data set. The table has the columns `file,labels`. Class names are separated by `;`, and an image without a class has no name there. Here we write such a folder, as you would by hand or in a spreadsheet, and load it again.

# %%
folder = Path(tempfile.mkdtemp()) / "mine"
(folder / "masks").mkdir(parents=True)
world = PaperWorld(10, split="val")
with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
    table = csv.writer(file)
    table.writerow(["file", "labels"])
    for s in world:
        pixels = (255 * s.image).round().byte().movedim(0, -1).numpy()  # (H, W, 3)
        Image.fromarray(pixels).save(folder / f"{s.name}.png")
        names = [PAPER_CLASSES[c] for c in s.labels.nonzero().flatten().tolist()]
        table.writerow([f"{s.name}.png", ";".join(names)])
print("\n".join((folder / "labels.csv").read_text().splitlines()[:4]))

# %%
mine = load_folder(folder, classes=PAPER_CLASSES)
assert len(mine) == len(world)
for ours, theirs in zip(mine, world, strict=True):
    assert torch.equal(ours.labels, theirs.labels)
    assert torch.allclose(ours.image, theirs.image, atol=1e-6)
print(mine, "in the order of the table:", mine.names[:3])

# %% [markdown]
# Without `classes=` the names are taken from the table and sorted by name. Then a new class moves the columns, so pass `classes=` if you have masks. A typing error raises an error:

# %%
text = (folder / "labels.csv").read_text()
(folder / "labels.csv").write_text(text.replace("cow", "cwo", 1))
try:
    load_folder(folder, classes=PAPER_CLASSES)
except ValueError as error:
    print(str(error).replace(str(folder), "mine"))
_ = (folder / "labels.csv").write_text(text)
# %% [markdown]
# Masks are optional. They are in `masks/` under the image's name: 0 is background, 1 the first class, 255 is ignored. Put such a folder at `data/mine` (or name it in the environment variable `WSSS_KIT_FOLDER`) and set `DATA = "folder"`. Then these notebooks run on it.

# %%
for s in world:
    Image.fromarray(world.masks[s.name].byte().numpy()).save(folder / "masks" / f"{s.name}.png")
masks = load_folder_masks(folder, classes=PAPER_CLASSES)
assert all(torch.equal(masks[s.name], world.masks[s.name]) for s in world)
own = open_data("folder", root=folder, classes=PAPER_CLASSES)
print({part: len(getattr(own, part)) for part in ("train", "val", "test")}, "images a split")

# %% [markdown]
# ## Exercises
#
# A check that ends in a red `NotImplementedError` waits for its exercise; this is intended. Write the function, run its cell and then the check.
#
# **Exercise 1. A classifier that never looks at an object.** Write a rule that predicts the classes of an image from its `stuff` map alone: a class is present if its home background covers at least a tenth of the image. How many of the classes present does it find at each co-occurrence?


# %%
def guess_from_background(stuff):
    """(H, W) indices into STUFF, 255 on objects -> (C,) float32 of 0 and 1."""
    raise NotImplementedError("one comparison for the home of each class")


# %% tags=["solution"]
def guess_from_background(stuff):
    """(H, W) indices into STUFF, 255 on objects -> (C,) float32 of 0 and 1."""
    share = [(stuff == STUFF.index(HOME[name])).float().mean() for name in PAPER_CLASSES]
    return (torch.stack(share) >= 0.1).float()


# %% tags=["check"]
kinds = torch.full((10, 10), STUFF.index("bricks"))
kinds[:2], kinds[2, :5] = STUFF.index(HOME["boat"]), STUFF.index(HOME["camel"])  # 20 % and 5 %
assert guess_from_background(kinds).tolist() == [float(name == "boat") for name in PAPER_CLASSES]
correct = {}
for dial, world in worlds.items():
    guesses = torch.stack([guess_from_background(world.stuff[s.name]) for s in world])
    truth = torch.stack([s.labels for s in world])
    correct[dial] = ((guesses * truth).sum() / truth.sum()).item()
print("share of the classes present that it finds, by co-occurrence:", correct)
assert correct[0.1] < correct[0.5] < correct[0.85]
print("passed")

# %% [markdown]
# **Exercise 2. From masks to labels.** A mask contains everything that a label says. Write this direction, which loses information: which classes does a mask contain? (The other direction is the subject of the next notebooks.)


# %%
def labels_from_mask(mask, n_classes):
    """(H, W) int64 of 0, 1 to C and 255 -> (C,) float32 of 0 and 1."""
    raise NotImplementedError("class c is value c + 1; 0 and 255 are no classes")


# %% tags=["solution"]
def labels_from_mask(mask, n_classes):
    """(H, W) int64 of 0, 1 to C and 255 -> (C,) float32 of 0 and 1."""
    return torch.isin(torch.arange(1, n_classes + 1), mask).float()


# %% tags=["check"]
assert labels_from_mask(torch.tensor([[0, 2], [255, 2]]), 3).tolist() == [0, 1, 0]
world = worlds[0.85][:50]
for s in world:
    assert torch.equal(labels_from_mask(world.masks[s.name], len(PAPER_CLASSES)), s.labels)
print("passed")

# %% [markdown]
# ## Recap
#
# - A sample is name, image, labels. Masks, parts, kinds of background and captions are stored apart from it.
# - A label says *which* class, never *where*, *how many* or *which pixels*. A background that always occurs together with a class is, to a classifier, part of the class.
# - The co-occurrence is a property of the data. In PaperWorld it is a setting; in photographs it is unknown.
# - Your own images need a `labels.csv`; they need masks only for a score.
#
# ## What to open next
#
# | If you ask | open |
# | --- | --- |
# | where does a classifier look if it was trained on such labels? | `02_class_activation_maps` |
# | can text separate a boat from the water around it? | `04_clims_text_losses`, `05_clip_es_softmax_grad_cam` |
# | how are masks scored? | `09_iou_analysis` |
#
# **Further reading.** B. Zhou et al., CVPR 2016 (CAM): localisation from labels alone. Y.-T. Chang et al., CVPR 2020 (SC-CAM): sub-category labels found by clustering. J. Xie et al., CVPR 2022 (CLIMS): a loss that suppresses co-occurring background. Y. Lin et al., CVPR 2023 (CLIP-ES): background prompts compete with the classes. A. Bearman et al., *What's the Point: Semantic Segmentation with Point Supervision*, ECCV 2016: the cost of labels and masks.
