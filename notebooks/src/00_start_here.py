# %% [markdown]
# # 00 Start here
#
# A network that colours every pixel of an image usually learns from people who coloured every pixel. **Weakly supervised** segmentation learns from less: from labels that say only *what* is in an image, not *where*. This notebook shows one image, two methods and one honest table.
#
# ```text
# images (B,3,H,W) ─┐
#                   ├─► features ─► CAMs ─► refinement ─► pseudo masks ─► segmenter ─► IoU, errors
# labels (B,C)     ─┘
#        └─────────────── you are here: all of it once, quickly ───────────────────────────┘
# ```
#
# **Goals.** You can say (1) what goes in and what comes out, (2) how plain CAM and CLIP-ES differ, (3) which number turns a map into a mask and where it may be chosen.
#
# **Needs.** No network, no GPU, no other notebook. **Time.** Half a minute of computing on a laptop's CPU, GPU not measured; 30 minutes of reading and playing.
#
# <details><summary><b>Plan for the teacher, 45 minutes</b></summary>
#
# | Minutes | What | How |
# | --- | --- | --- |
# | 0 to 5 | Why weak labels | the explorer at stage `map`, then the contact sheet; who would draw the masks? |
# | 5 to 15 | Two methods, one image | run to the maps; let the class say which map belongs to which idea |
# | 15 to 25 | The threshold | the explorer, in pairs: find the best threshold by eye, then read what `val` says |
# | 25 to 32 | The table | which classes differ? what does the protocol line say? |
# | 32 to 45 | Exercises 1 and 2 | alone, then compare |
#
# </details>

# %%
from functools import partial

import pandas as pd
import torch

from wsss_kit import (
    best_rule,
    cam_maps,
    clip_es_maps,
    evaluate,
    predict_masks,
    sweep_background,
)
from wsss_kit.notebook_data import make_clip_es, open_data, train_cam
from wsss_kit.plot import iou_bars, show_cams, show_masks, show_samples
from wsss_kit.widgets import CAMExplorer

# %%
DATA = "paper"  # or "voc", "folder"

# %% [markdown]
# `"paper"` is a world of cut paper that comes with the kit: drawn from a seed, so it needs no download, and known to the last pixel, so every claim can be checked. `"voc"` opens PASCAL VOC 2012 (`data/README.md` says how to get it) and `"folder"` your own images in `data/mine` (notebook 01 shows the layout). With these two, the weights of a ResNet-50 and of CLIP ViT-B/16 are downloaded once.

# %%
data = open_data(DATA, n_train=400, n_val=40, n_test=60)
cam = train_cam(data)  # plain CAM
clip_es = make_clip_es(data)  # CLIP-ES

explorer = CAMExplorer(
    {"CAM": cam, "CLIP-ES": clip_es}, data.test[:8], data.test_masks, data.classes
)
explorer

# %% [markdown]
# This is all of it at once; the notebook takes it apart. Choose an image, a method and a **stage**: the *map* of a class, the map *refined*, *scores* with a background among them, the *mask*, and where it is *wrong*. Drag the handle on the image (or use the arrow keys on it) to see what is underneath. An image of yours can be dropped on it: the tiny networks know paper only, so with `DATA = "paper"` expect them to be as lost as you would be among theirs.
#
# The controls live as long as the notebook runs; a saved notebook keeps the still below the cell. Whatever they do, a line of code does as well: `explorer.stage = "mask"`.

# %%
first = data.test[:6]
captions = first.captions if DATA == "paper" else None
show_samples(first, data.classes, captions)

# %% [markdown]
# Above each image stand its image-level labels: **all** that the methods may know. There is no field for a mask in a `Sample`.
#
# ## Two methods
#
# **Plain CAM** (Zhou et al., CVPR 2016) trains a classifier on images and labels and asks which cells of its last features raised the score of a class. Here that classifier is one linear layer on a backbone that has seen other images before and stays as it is, so training takes seconds. **CLIP-ES** (Lin et al., CVPR 2023) trains nothing here: a CLIP that has read captions compares the classes of the image with a list of background words, and its attention spreads the answer. For the paper world backbone and CLIP are small ones, inside the package.

# %%
methods = {
    "CAM": partial(cam_maps, method=cam),
    "CLIP-ES": partial(clip_es_maps, method=clip_es),
}
print("loss, every tenth epoch:", [round(loss, 3) for loss in cam.losses_[9::10]])

# %% [markdown]
# ## One image
#
# Both methods have the same form: images (B, 3, H, W) and labels (B, C) go in, one map per class (B, C, H, W) in [0, 1] comes out. We take the first image with two classes, if there is one.

# %%
sample = next((s for s in data.test if s.labels.sum() == 2), data.test[0])
maps = {
    name: maps_of(sample.image[None], sample.labels[None])[0]  # (C, H, W)
    for name, maps_of in methods.items()
}
rows = [sample._replace(name=name) for name in methods]  # the same image, named by the method
show_cams(rows, list(maps.values()), data.classes)

# %% [markdown]
# Look for three things: does the map lie on the object or beside it? Does it cover all of it? Do the maps of the two classes keep apart?
#
# ## From maps to a mask
#
# A map is not a mask. One number decides where background begins, and it differs from method to method. Choosing it needs ground truth, so we choose it on `val` and score on `test`. A constant threshold `b` says "background unless a map exceeds `b`"; the power rule gives background the score `(1 - max)^p`.

# %%
rules = {
    name: best_rule(sweep_background(maps_of, data.val, data.val_masks))
    for name, maps_of in methods.items()
}
print("chosen on val:", {name: str(rule) for name, rule in rules.items()})

# %%
masks = {name: predict_masks(methods[name], data.test, rules[name]) for name in methods}
show_masks([sample], {**masks, "ground truth": data.test_masks}, data.classes)

# %% [markdown]
# ## Try it: the threshold
#
# The threshold touches only the last step, so the maps are computed once and the image answers at once. Go back to the explorer, choose the stage `mask`, move the threshold and find the best by eye; or let a line of code move it. Does your eye agree with `val`?

# %%
explorer.stage = "mask"
for threshold in (0.1, 0.3, 0.5, 0.7):
    explorer.threshold = threshold
    print(explorer.words)

# %% [markdown]
# ## One table
#
# **IoU** of a class is the overlap of predicted and true pixels divided by their union, summed over all images first. mIoU is the mean over the classes and background. The interval says how much of it hangs on this choice of images.

# %%
refinement = {"CAM": "none", "CLIP-ES": "attention affinity"}
preset = {"CAM": cam.preset, "CLIP-ES": clip_es.preset}
reports = {
    name: evaluate(
        masks[name],
        data.test_masks,
        classes=data.classes,
        protocol=data.protocol(
            "test",
            background=f"{rules[name]}, chosen on {len(data.val)} val images",
            refinement=refinement[name],
            preset=preset[name],
        ),
    )
    for name in methods
}
table = pd.DataFrame({name: 100 * report.to_frame()["iou"] for name, report in reports.items()})
table.loc["mean"] = table.mean()
for name, report in reports.items():
    print(f"{name}: {report.headline}\n    {report.protocol}")
table.round(1)

# %%
iou_bars(reports)

# %%
better = table["CLIP-ES"] > table["CAM"]
print(f"CLIP-ES is ahead in {better[:-1].sum()} of {len(better) - 1} rows, mean not counted")
print("largest difference:", (table["CLIP-ES"] - table["CAM"]).abs()[:-1].idxmax())

# %% [markdown]
# Read the protocol before you compare two numbers: split, number of images, background rule, refinement. Two numbers compare only where these agree. And mind what each has seen: the classifier a few hundred labelled images, CLIP many more with captions. The table says how these two run *here*, not which paper is better.
#
# The table also raises the question that the next notebooks answer: why does a classifier that names the classes well (notebook 02 measures it) miss half of an object and light up what lies beside it?
#
# ## Exercises
#
# A check that ends in a red `NotImplementedError` waits for its exercise: that is meant. Write the function, run its cell and then the check.
#
# **Exercise 1. A threshold by hand.** Write the constant rule without the package: a pixel takes the class with the largest map if that map exceeds the threshold, else 0. Class `c` is value `c + 1`.


# %%
def mask_by_hand(maps, threshold):
    """(C, H, W) in [0, 1] -> (H, W) int64 with 0 for background and c + 1 for class c."""
    raise NotImplementedError("compare the largest map of each pixel with the threshold")


# %% tags=["solution"]
def mask_by_hand(maps, threshold):
    """(C, H, W) in [0, 1] -> (H, W) int64 with 0 for background and c + 1 for class c."""
    best, c = maps.max(0)
    return torch.where(best > threshold, c + 1, 0)


# %% tags=["check"]
tiny = torch.tensor([[[0.9, 0.2]], [[0.3, 0.25]]])  # two classes, one row of two pixels
assert mask_by_hand(tiny, 0.5).tolist() == [[1, 0]]
assert mask_by_hand(tiny, 0.1).tolist() == [[1, 2]]

# %% [markdown]
# **Exercise 2. IoU by hand.** Compute the IoU of one class over several images: sum overlaps and unions over all images, *then* divide.


# %%
def iou_by_hand(predicted, target, value):
    """Mappings name -> (H, W) int64 and a mask value -> IoU in [0, 1], over target's images."""
    raise NotImplementedError("two sums over the images, one division")


# %% tags=["solution"]
def iou_by_hand(predicted, target, value):
    """Mappings name -> (H, W) int64 and a mask value -> IoU in [0, 1], over target's images."""
    overlap = union = 0
    for name, truth in target.items():
        counted = truth != 255
        ours, theirs = (predicted[name] == value) & counted, (truth == value) & counted
        overlap += (ours & theirs).sum().item()
        union += (ours | theirs).sum().item()
    return overlap / union


# %% tags=["check"]
for value in (0, int(sample.labels.argmax()) + 1):
    by_hand = iou_by_hand(masks["CLIP-ES"], data.test_masks, value)
    assert abs(by_hand - reports["CLIP-ES"].iou[value]) < 1e-9, (value, by_hand)

# %% [markdown]
# ## Recap
#
# - Labels in, maps out, masks after one chosen number, IoU at the end. Ground truth entered twice: on `val` to choose that number, on `test` to score.
# - Plain CAM learns its classes from these images and labels; CLIP-ES brings what it learned from captions and needs background words.
# - A number travels with its protocol.
#
# ## What to open next
#
# | If you ask | open |
# | --- | --- |
# | what do image-level labels tell, and what not? | `01_image_level_labels` |
# | where does a CAM come from, and why does it miss? | `02_class_activation_maps` |
# | how does a finer question make a map larger? | `03_sc_cam_subcategories` |
# | how does language take a map off the background? | `04_clims_text_losses` |
# | why background words and a softmax? | `05_clip_es_softmax_grad_cam` |
# | how does brightness flow from the sure cells to the others? | `06_affinity_and_random_walk` |
# | how do blobs become outlines? | `07_background_and_crf` |
# | who knows the labels at test time? | `08_train_a_segmenter` |
# | is one number better than another, and why? | `09_iou_analysis` |
#
# `notebooks/papers.md` leads from each idea of the papers to its function and its cell.
#
# **Further reading.** B. Zhou et al., *Learning Deep Features for Discriminative Localization*, CVPR 2016: CAM is its Eq. 2. Y. Lin et al., *CLIP is Also an Efficient Segmenter*, CVPR 2023 (CLIP-ES): softmax Grad-CAM is Eq. 4 to 6. Y.-T. Chang et al., *Weakly-Supervised Semantic Segmentation via Sub-category Exploration*, CVPR 2020 (SC-CAM). J. Xie et al., *CLIMS: Cross Language Image Matching for Weakly Supervised Semantic Segmentation*, CVPR 2022.
