# %% [markdown]
# # 01 Image-level labels
#
# "There is a boat in this image" takes a person a second or two. Outlining the boat takes minutes. Weak supervision lives on that difference, and pays for it: this notebook looks at what such a label says, and measures what it leaves open.
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
# **Needs.** No network, no GPU, no other notebook, nothing to train. **Time.** Less than half a minute of computing on a laptop's CPU; a GPU is not used; 30 minutes of reading.
#
# <details><summary><b>Plan for the teacher, 40 minutes</b></summary>
#
# | Minutes | What | How |
# | --- | --- | --- |
# | 0 to 8 | The contact sheet | the class guesses the rule: when does an image get the label "boat"? |
# | 8 to 14 | Two doors | who may open the second one, and when? |
# | 14 to 24 | The dial | first let them draw the heat map they expect at 0.1 and at 0.85 |
# | 24 to 28 | The splits | what has CLIP been told that the classifier has not? |
# | 28 to 40 | Exercises 1 and 2 | 1 in pairs; its answer is the bridge to notebook 02 |
#
# </details>

# %%
import csv
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from PIL import Image

from wsss_kit import PAPER_CLASSES, PaperWorld, load_folder, load_folder_masks
from wsss_kit.notebook_data import open_data
from wsss_kit.paperworld.words import HOME, STUFF
from wsss_kit.plot import new_figure, show_masks, show_samples

# %%
DATA = "paper"  # or "voc", "folder"

# %% [markdown]
# ## What is given
#
# A data set is a sequence of samples. A sample has a name, an image and one 0 or 1 for each class.

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
# Three cows and one cow give the same label. Neither number, nor place, nor size is in it. The captions under the images say more, in words; in the paper world they come by a door of their own (`world.captions`), and only CLIP learns from them.
#
# ## What is *not* given
#
# Masks come by a second door and carry the names of the images. That a method cannot cheat is then a matter of types: there is no field it could read. Ground truth is opened twice in these notebooks, on `val` to choose one number and on `test` to score.

# %%
assert not hasattr(sample, "mask")
shown = data.val[:2]
show_masks(shown, {"by the other door": data.val_masks}, data.classes)

# %% [markdown]
# How large is the gap? Bearman et al. (*What's the Point*, ECCV 2016) report about 20 seconds an image for the labels of all 20 VOC classes and about 240 for full masks.
#
# ## How often, and with what?
#
# The first thing to do with any labels: count them. Then count pairs, because a classifier cannot separate two classes that only ever come together.

# %%
labels = torch.stack([s.labels for s in data.train])  # (M, C)
counts = pd.Series(labels.sum(0).int().numpy(), index=data.classes, name="images")
classes_per_image = pd.Series(labels.sum(1).int().numpy()).value_counts().sort_index()
print(f"{len(labels)} images; classes in an image -> images: {classes_per_image.to_dict()}")
counts.sort_values(ascending=False)

# %%
together = pd.DataFrame((labels.T @ labels).int().numpy(), index=data.classes, columns=data.classes)
figure = new_figure(
    0.5 * len(together) + 2,
    0.4 * len(together) + 1.2,
    alt="Heat map: images in which the class of the row and the class of the column are both present.",
)
ax = figure.subplots()
annotate = len(together) <= 10
sns.heatmap(together, annot=annotate, fmt="d", cmap="cividis", square=True, ax=ax)
ax.set(title="images with both classes")
figure

# %% [markdown]
# On the diagonal stand the counts themselves. Here any two classes may meet; in VOC you will find that `person` meets nearly everything.
#
# ## The background that comes along
#
# Something else comes together with a class, and no label names it: its surroundings. Boats float on water, trains run on rails. In the paper world each class has one **home** among twelve kinds of background, and a dial, `cooccurrence`, says how often an object stands there. For photographs nobody knows the dial's position; here we can turn it and look through the `stuff` door, a map of background kinds that no method may open.


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
figure = new_figure(
    11,
    2.9,
    alt="Three heat maps of class by background kind at the dial settings 0.1, 0.5 and 0.85. "
    "The diagonal of home backgrounds grows with the dial.",
)
axes = figure.subplots(1, 3, sharey=True)
for ax, (dial, shares) in zip(axes, tables.items(), strict=True):
    last = ax is axes[-1]
    sns.heatmap(shares, vmin=0, vmax=0.7, cmap="cividis", square=True, cbar=False, ax=ax)
    ax.set_title(f"cooccurrence {dial}")
figure.colorbar(axes[-1].collections[0], ax=axes, label="share of background pixels", shrink=0.7)
figure

# %%
home = {
    dial: [shares.loc[name, HOME[name]] for name in PAPER_CLASSES]
    for dial, shares in tables.items()
}
home = pd.DataFrame(home, index=pd.Index(PAPER_CLASSES, name="home of"))
home.loc["mean"] = home.mean()
home.columns.name = "cooccurrence"
(100 * home).round(0).astype(int)

# %% [markdown]
# The table gives percent of background pixels that are home. The homes are the first eight columns of the heat maps, so a bright diagonal means: *who sees the background knows the class*. At 0.85, the setting of `train`, `val` and `test`, a classifier that learned "water" instead of "boat" would hardly ever be told that it is wrong, because labels do not say which pixels they mean. Exercise 1 builds that classifier.
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
# The first three are three samples of the same world: what is chosen on one holds on the other. `web` is what a language model learns from: objects elsewhere, backgrounds with no object and a caption that names them. So CLIP has met water without a boat, and the word for it. That is the knowledge CLIP-ES brings; it is not magic, it is other data. The backbone under plain CAM has learned on `web` too, with nothing torn, by imitating the image features of a CLIP that never saw a torn object either. It plays the part that ImageNet weights play for photographs: it can tell water from boats. But it has no words, and which of the two "boat" means is learned from the labels of `train`, at 0.85.

# %%
web = PaperWorld(200, split="web")
first_of_kind = {web.page(i).scene.kind: web[i] for i in reversed(range(60))}
print("from left to right:", ", ".join(first_of_kind))
show_samples(list(first_of_kind.values()), web.classes, web.captions)

# %%
torn = [web[i] for i in range(60) if any(thing.torn for thing in web.page(i).scene.things)]
show_samples(torn[:5], web.classes, web.captions)

# %% [markdown]
# Every third object on `web` has lost the part that tells its class: the head, the cab, the tail. Its caption was written by someone who knew the scene, so a cow without a head is called a cow. Real captions are like that as well, for heads are often hidden or outside of the frame. Who learns from such pairs cannot get by with heads and has to learn what the *bodies* look like; notebook 05 lives on that.

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
# In percent: of the classes present, how many have their home somewhere in the image; of the images, how many show no class; of the objects, how many are torn. The first number stays close to the dial of the split.
#
# ## Your own images
#
# A folder with images and a table `labels.csv` is a data set: `file,labels`, class names separated by `;`, nothing for an image without a class. Here we write one, as you would by hand or in a spreadsheet, and open it again.

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
# Without `classes=` the names are taken from the table and sorted, which moves the columns: fix the list where masks exist. A typing error does not pass silently:

# %%
text = (folder / "labels.csv").read_text()
(folder / "labels.csv").write_text(text.replace("cow", "cwo", 1))
try:
    load_folder(folder, classes=PAPER_CLASSES)
except ValueError as error:
    print(str(error).replace(str(folder), "mine"))
_ = (folder / "labels.csv").write_text(text)
# %% [markdown]
# Masks are optional and lie in `masks/` under the image's name: 0 background, 1 the first class, 255 not scored. Put such a folder at `data/mine` (or name it in the environment variable `WSSS_KIT_FOLDER`), set `DATA = "folder"`, and these notebooks run on it.

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
# A check that ends in a red `NotImplementedError` waits for its exercise: that is meant. Write the function, run its cell and then the check.
#
# **Exercise 1. A classifier that never looks at an object.** Write a rule that guesses the classes of an image from its `stuff` map alone: a class is there if its home covers at least a tenth of the image. How often is it right at each position of the dial?


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
correct = {}
for dial, world in worlds.items():
    guesses = torch.stack([guess_from_background(world.stuff[s.name]) for s in world])
    truth = torch.stack([s.labels for s in world])
    correct[dial] = ((guesses * truth).sum() / truth.sum()).item()
print("share of the classes present that it names, by dial:", correct)
assert correct[0.1] < correct[0.5] < correct[0.85]

# %% [markdown]
# **Exercise 2. From masks to labels.** A mask says all that a label says. Write the direction that loses information: which classes does a mask contain? (The other direction is what the rest of these notebooks is about.)


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

# %% [markdown]
# ## Recap
#
# - A sample is name, image, labels. Masks, parts, background kinds and captions stand behind other doors.
# - A label says *what*, never *where*, *how many* or *which pixels*. Whatever always comes with a class is, to a classifier, part of it.
# - How often is a property of the data: here it is a dial, in photographs it is unknown.
# - Your own images need a `labels.csv`; masks only if you want a score.
#
# ## What to open next
#
# | If you ask | open |
# | --- | --- |
# | where does a classifier look that was trained on such labels? | `02_class_activation_maps` |
# | can words part a boat from its water? | `04_clims_text_losses`, `05_clip_es_softmax_grad_cam` |
# | how are masks scored, once there are some? | `09_iou_analysis` |
#
# **Further reading.** B. Zhou et al., CVPR 2016 (CAM): localisation from labels alone. Y.-T. Chang et al., CVPR 2020 (SC-CAM): finer labels found by clustering. J. Xie et al., CVPR 2022 (CLIMS): losses against backgrounds that come along with a class. Y. Lin et al., CVPR 2023 (CLIP-ES): background words compete with the classes. A. Bearman et al., *What's the Point: Semantic Segmentation with Point Supervision*, ECCV 2016: what labels cost.
