# %% [markdown]
# # 02 Class activation maps
#
# A classifier learns *which* classes are in an image. Its last layer is linear, so we can compute *where* in the image the score of a class comes from: this is the class activation map. This notebook trains a classifier, rebuilds the map in a few lines and measures where it is bright. It finds that a correct prediction may rest on the background instead of the object.
#
# ```text
# images (B,3,H,W) ─┐
#                   ├─► features ─► CAMs ─► refinement ─► pseudo masks ─► segmenter ─► IoU, errors
# labels (B,C)     ─┘                ▲
#                                    └── you are here
# ```
#
# **Goals.** You can (1) derive the map from the classifier and rebuild it, (2) measure what a map covers, (3) explain what co-occurrence does to it, (4) choose the background threshold without fooling yourself.
#
# **Needs.** No network, no GPU, no other notebook; it helps to know 01. **Time.** About 1 minute of computing on a laptop's CPU, half of it training; GPU not measured; 45 minutes of reading. **Words.** [glossary.md](glossary.md)
#
# <details><summary><b>Plan for the teacher, 60 minutes</b></summary>
#
# | Minutes | What | How |
# | --- | --- | --- |
# | 0 to 8 | Classifier | which layers are trained here and which are not? which baseline is fair? |
# | 8 to 20 | Hand cell | derive the map at the board: swap the two sums |
# | 20 to 28 | Threshold | vote for a threshold by eye, then show the one chosen on `val` |
# | 28 to 42 | Where the map is bright; co-occurrence | collect predictions before you run the tables |
# | 42 to 48 | Scales and flips | what gain do you expect, and what does it cost? |
# | 48 to 60 | Exercises 1 and 3 | 1 alone, 3 in pairs: predict its table first |
#
# </details>

# %%
import copy
from functools import partial

import pandas as pd
import torch
from torch.nn.functional import interpolate

from wsss_kit import (
    CAM,
    PAPER_CLASSES,
    PaperWorld,
    best_rule,
    cam_maps,
    class_activation_maps,
    evaluate,
    predict_masks,
    sweep_background,
)
from wsss_kit.evaluation import CONSTANTS
from wsss_kit.notebook_data import open_data, train_cam
from wsss_kit.paperworld.words import HOME, STUFF
from wsss_kit.plot import show_cams, show_curves

# %%
DATA = "paper"  # or "voc", "folder"

# %% [markdown]
# ## A classifier
#
# A backbone turns images into features (B, D, h, w). Their mean over the cells, one vector per image, goes through a linear head without bias. The backbone was trained before, on other images and without our labels. It is **frozen**: only the head learns. So the features are computed once and training takes seconds.
#
# Why not train the backbone too? A few hundred labelled images are too few to train a backbone from random weights. Exercise 3 tries it. So all CAM papers start from ImageNet weights. They also go on training the backbone; we do not. This gives a clean comparison: two classifiers of this notebook have the same features and differ only in the weights of their heads.
#
# For PaperWorld the backbone is a small one. It was trained on the split `web`, without torn objects, to imitate the image features of a tiny CLIP. With `"voc"` and `"folder"` it is a ResNet-50 with ImageNet weights (downloaded once). The sections marked *PaperWorld* are then skipped, because they need maps of object parts and kinds of background, which no photograph has.

# %%
data = open_data(DATA, n_train=500, n_val=80, n_test=100)
cam = train_cam(data)
print("loss, every tenth epoch:", [round(loss, 3) for loss in cam.losses_[9::10]])

# %%
truth = torch.stack([s.labels for s in data.test]) > 0  # (M, C)
logits = torch.cat([cam.predict(s.image[None]) for s in data.test])  # (M, C)
said = logits > 0
print(f"answers that are right: {100 * (said == truth).float().mean():.0f} %")
print(f"always saying no would be right in {100 * (~truth).float().mean():.0f} %")
print(f"classes present that it names: {100 * said[truth].float().mean():.0f} %")
print(f"named classes that are present: {100 * truth[said].float().mean():.0f} %")

# %% [markdown]
# The second line is the baseline: most classes are absent from most images, so a classifier that always says no is right in most cases. Compare the first line with it. The last two lines, recall and precision, tell more.
#
# ## From the classifier to the map
#
# With features $F_k(x, y)$ and weights $w^c_k$ the score of class $c$ is
#
# $$S_c = \sum_k w^c_k \frac{1}{hw} \sum_{x,y} F_k(x, y) = \frac{1}{hw} \sum_{x,y} \underbrace{\sum_k w^c_k F_k(x, y)}_{M_c(x, y)}$$
#
# The two sums may be swapped, and $M_c$ is the class activation map (Zhou et al., Eq. 2): **the score is the mean of the map**. Nothing in this is approximate. The maps that we show are then post-processed: negative values are set to 0, the map of the flipped image is added, absent classes are set to 0, and each map is divided by its maximum.

# %%
images = torch.stack([s.image for s in data.test[:1]])  # (1, 3, H, W)
labels = torch.stack([s.labels for s in data.test[:1]])  # (1, C)
weight, device = cam.head_.detach(), cam.head_.device

# by hand
with torch.no_grad():
    total = 0
    for mirrored in (False, True):
        view = images.flip(-1) if mirrored else images
        features = cam.backbone_(view.to(device))  # (B, D, h, w)
        maps = (features[:, None] * weight[None, :, :, None, None]).sum(2)  # (B, C, h, w)
        maps = maps.clamp(min=0)
        total = total + (maps.flip(-1) if mirrored else maps)
    size = [-(-side // 4) for side in images.shape[-2:]]  # the package answers at a quarter
    total = interpolate(total, size, mode="bilinear") * labels.to(device)[:, :, None, None]
    by_hand = total / (total.amax((2, 3), keepdim=True) + 1e-5)

assert torch.allclose(by_hand.cpu(), cam(images, labels).cams, atol=1e-5)

# %%
with torch.no_grad():
    raw = class_activation_maps(cam.backbone_(images.to(device)), weight)  # (1, C, h, w)
assert torch.allclose(raw.mean((2, 3)).cpu(), cam.predict(images), atol=1e-4)
print("mean of the raw map = logit:", raw.mean((2, 3))[labels > 0].cpu().numpy().round(2))

# %% [markdown]
# What does it look like?

# %%
maps_of = partial(cam_maps, method=cam)  # (B, 3, H, W), (B, C) -> (B, C, H, W) in [0, 1]
shown = data.test[:3]
show_cams(list(shown), [maps_of(s.image[None], s.labels[None])[0] for s in shown], data.classes)

# %% [markdown]
# ## The threshold
#
# A pixel becomes background where no map exceeds a threshold. Papers report CAMs at their *best* threshold, found on the same images that are scored; the released scripts do so too. This makes the score a little too high. We choose the threshold on `val` and score on `test`.

# %%
swept = sweep_background(maps_of, data.val, data.val_masks, rules=CONSTANTS)
rule = best_rule(swept)
threshold = "background threshold"
points = {r.threshold: 100 * miou for r, miou in swept.items()}
show_curves(
    {threshold: {"CAM": points}}, y="mIoU on val, percent", marked={threshold: rule.threshold}
)

# %%
report = evaluate(
    predict_masks(maps_of, data.test, rule),
    data.test_masks,
    classes=data.classes,
    protocol=data.protocol(
        "test",
        background=f"{rule}, chosen on {len(data.val)} val images",
        refinement="none",
        preset=cam.preset,
    ),
)
report

# %% [markdown]
# The curve has a peak inside the sweep and falls on both sides. Below the best threshold the masks include background; above it they lose parts of the object. The best threshold depends on the method and the data. Whether it is near 0.5 has no meaning.
#
# ## Why not all of the object?
#
# The usual answer: a classifier needs only what separates the classes, such as the cow's head and not its flank, so the map covers **parts**. PaperWorld is built to test this. Each object has a *body*, in a style that four classes share, and one *signature part* (a head, a cab, a tail) that only its class has. `world.parts` says which pixel belongs to which. There is a second possible cause: the **home background** of notebook 01. It also separates the classes, and it is larger.
#
# *PaperWorld.* For each map of a class that is present, we ask three questions about each region of the image. How much of the region exceeds half of the map's maximum (*bright*)? Which share of the map's sum is in it (*mass*)? Which share of the image is it (*area*)? In a constant map, the mass of every region equals its area.
#
# **Predict first:** which region holds the largest share of the mass? Which holds the most for its area?


# %%
def where_it_looks(method, world, level=0.5):
    """Means over all maps of present classes, in percent; rows regions, columns questions."""
    sums = {}
    for s in world:
        maps = cam_maps(s.image[None], s.labels[None], method=method)[0]  # (C, H, W)
        parts, stuff, mask = world.parts[s.name], world.stuff[s.name], world.masks[s.name]
        for c in s.labels.nonzero().flatten().tolist():
            own, home = mask == c + 1, stuff == STUFF.index(HOME[PAPER_CLASSES[c]])
            regions = {
                "signature part": own & (parts == 2),
                "body": own & (parts == 1),
                "home background": home,
                "other background": (mask == 0) & ~home,
            }
            for name, region in regions.items():
                row = {
                    "bright": (maps[c] > level)[region].float().mean().item(),  # nan if empty
                    "mass": (maps[c][region].sum() / maps[c].sum().clamp(min=1e-9)).item(),
                    "area": region.float().mean().item(),
                }
                sums.setdefault(name, []).append(row)
    return pd.DataFrame({name: 100 * pd.DataFrame(rows).mean() for name, rows in sums.items()}).T


# %% tags=["predict"]
looks = {}
if DATA == "paper":
    looks["trained at 0.85"] = where_it_looks(cam, data.test)
pd.concat(looks, axis=1).round(1) if looks else None

# %%
if DATA == "paper":
    bright, mass, area = (looks["trained at 0.85"][name] for name in ("bright", "mass", "area"))
    gap = bright["signature part"] - bright["body"]
    print(f"the signature part is bright more often than the body by {gap:+.0f} points")
    print("mass divided by area:", (mass / area).round(1).to_dict())

# %% [markdown]
# Three results.
#
# - **Parts.** Nearly all of the signature part is bright, and clearly less of the body: four classes share its style, so it separates the classes less. This is the usual answer. SC-CAM's sub-categories and the random walk with an affinity are meant to add the missing body.
# - **Background.** Home background is bright much more often than other background. Because it is large, it holds a large share of the map's mass. No label names it; it is there through co-occurrence.
# - **The object comes first.** Mass divided by area is larger on the object than on any background. So the map does mark the object, but it also marks home background.
#
# A caution: a part of the map beside the object is only blur. A cell of the features sees more than its own pixels, and home background is nearest to the object. The next section tests the co-occurrence without looking at maps.
#
# ## What co-occurrence does
#
# *PaperWorld.* We train the same head on the same backbone with the same number of images, but at a `cooccurrence` of 0.3 instead of 0.85: only 30 percent of the objects stand on their home background. Where are the maps bright then, on the same test images?
#
# **Predict first**, then run the cell.

# %% tags=["predict"]
if DATA == "paper":
    other = data._replace(train=PaperWorld(len(data.train), split="train", cooccurrence=0.3))
    cam_low = train_cam(other)
    looks["trained at 0.3"] = where_it_looks(cam_low, data.test)
pd.concat(looks, axis=1).round(1) if looks else None

# %% [markdown]
# Does co-occurrence change the predictions? We test both classifiers on images where most objects stand on their home background (0.85, as in `test`) and on images where none does (0.0). *Best guess*: is the class with the highest score present? *Named without being there*: in the 0.0 images, how often is an absent class predicted? We count this separately where its home background is in the image (water without a boat) and where it is not.
#
# **Predict first:** which of the four numbers will differ between the two classifiers?


# %%
def best_guess_right(method, world):
    """Percent of the images in which the class with the highest logit is present."""
    present = torch.stack([s.labels for s in world])  # (M, C)
    guess = torch.cat([method.predict(s.image[None]) for s in world]).argmax(1)  # (M,)
    return 100 * present[torch.arange(len(guess)), guess].mean().item()


def named_without(method, world):
    """Percent of absent classes that are named: with their home in sight, and without."""
    absent = torch.stack([s.labels for s in world]) == 0  # (M, C)
    said = torch.cat([method.predict(s.image[None]) for s in world]) > 0  # (M, C)
    kinds = [set(world.stuff[s.name].unique().tolist()) for s in world]
    homes = [STUFF.index(HOME[name]) for name in PAPER_CLASSES]
    in_sight = torch.tensor([[home in seen for home in homes] for seen in kinds])  # (M, C)
    return [100 * said[absent & seen].float().mean().item() for seen in (in_sight, ~in_sight)]


# %% tags=["predict"]
rows = {}
if DATA == "paper":
    away = PaperWorld(len(data.test), split="test", cooccurrence=0.0)
    for name, method in {"trained at 0.85": cam, "trained at 0.3": cam_low}.items():
        with_home, without_home = named_without(method, away)
        rows[name] = {
            "best guess right, test at 0.85": best_guess_right(method, data.test),
            "best guess right, test at 0.0": best_guess_right(method, away),
            "named without being there, home in sight": with_home,
            "named without being there, home not in sight": without_home,
        }
    chance = 100 * torch.stack([s.labels for s in away]).mean().item()
    print(f"best guess right by chance, test at 0.0: {chance:.0f}")
pd.DataFrame(rows).round(1)

# %% [markdown]
# And the masks, scored on the same `test` images, each with its own threshold chosen on `val`:

# %%
if DATA == "paper":
    maps_low = partial(cam_maps, method=cam_low)
    low, report_low = data.score(maps_low, rules=CONSTANTS, preset=cam_low.preset)
    for name, scored in {"trained at 0.85": report, "trained at 0.3": report_low}.items():
        print(f"{name}: {scored.headline}\n    {scored.protocol}")

# %% [markdown]
# Three points.
#
# - **Correct predictions, different causes.** With home background (0.85) both classifiers predict equally well, so a test on such images cannot tell them apart. Without it (0.0) the best guesses hardly differ: 97 and 100 % are right, three images of 100. The false predictions do differ. Where only the home background of a class is present, the classifier trained at 0.85 predicts the class in 15 % of the cases, the one trained at 0.3 in 4 %. It says "boat" where there is only water.
# - **The map shows the cause.** The features are the same. The head trained at 0.85 gives more weight to the features of home background: 46 % of its maps' mass lies there, against 41 % for the head trained at 0.3. Its masks have a lower mIoU. How certain the difference is, the two intervals do not say: both were scored on the same images, and notebook 09 compares such numbers in pairs. Each classifier was trained once.
# - **Parts remain.** Co-occurrence hardly changes the gap between signature part and body. A classifier that cannot use the background does not cover more of the object.
#
# The two trainings differ only in `cooccurrence`, so it causes the difference. For photographs there is no such setting, and the effect is seen only if someone has drawn masks.
#
# SC-CAM (notebook 03), CLIMS (notebook 04) and CLIP-ES (notebook 05) are three answers: sub-categories, losses from text that suppress the background, and background prompts that compete with the classes.

# %%
far = {}
if DATA == "paper":
    for s in (s for s in data.test if s.labels.sum() == 1):
        c = int(s.labels.argmax())
        both = [cam_maps(s.image[None], s.labels[None], method=m)[0, c] for m in (cam, cam_low)]
        named = s._replace(name=PAPER_CLASSES[c])
        far[s.name] = ((both[0] - both[1]).abs().mean().item(), named, torch.stack(both))
best = {}  # of each class, the image in which the two differ most
for _, example, both in sorted(far.values(), key=lambda found: -found[0]):
    best.setdefault(example.name, (example, both))
examples, maps = zip(*list(best.values())[:3], strict=True) if best else ((), ())
dials = ("trained at 0.85", "trained at 0.3")
show_cams(examples, maps, dials, torch.ones(len(maps), 2)) if best else None

# %% [markdown]
# These images have one class each. For three classes they are the images in which the two maps *differ most*. They show what the effect looks like, not how often it happens; the tables show that.
#
# ## Several scales and the mirror image
#
# A map has few cells, and other sizes of the image give other cells. The papers sum the maps of 0.5, 1, 1.5 and 2 times the size, each also flipped. `scales` and `flip` are used only when maps are computed, so one trained classifier serves all variants. The cost is time: the number of cells grows with the square of the scale.

# %%
variants = {
    "one scale": ((1.0,), False),
    "one scale, mirrored": ((1.0,), True),
    "0.5, 1, 1.5, 2, mirrored": ((0.5, 1.0, 1.5, 2.0), True),
}
few, gains = data.val[:32], {}
for name, (scales, flip) in variants.items():
    method = copy.copy(cam)
    method.scales, method.flip = scales, flip
    swept = sweep_background(partial(cam_maps, method=method), few, data.val_masks, rules=CONSTANTS)
    gains[name] = {
        "best rule on val": str(best_rule(swept)),
        "mIoU there, %": 100 * max(swept.values()),
    }
print(f"{len(few)} images of", data.protocol("val", background="best", preset=cam.preset))
print("chosen and scored on the same images: for comparing the rows, not for reporting")
pd.DataFrame(gains).T

# %% [markdown]
# The map of a larger image is finer; the map of a smaller one covers more context. In their sum, the random errors of each count less. With so few images, a difference of one point of mIoU is within the noise. No sum of scales can change what the classifier has learned: if it uses water, it uses water at all four scales.
#
# ## Exercises
#
# A check that ends in a red `NotImplementedError` waits for its exercise; this is intended. Write the function, run its cell and then the check.
#
# **Exercise 1. The logit is in the map.** Take the raw map of a class, before it is clamped or scaled. How much of the logit comes from the cells inside a region? Return the part of the logit that these cells give. The parts of a region and of its complement add up to the logit.


# %%
def logit_from(raw_map, region):
    """(h, w) raw map, (h, w) bool region -> 0-d tensor: the part of the logit from these cells."""
    raise NotImplementedError("the logit is the sum over all cells, divided by their number")


# %% tags=["solution"]
def logit_from(raw_map, region):
    """(h, w) raw map, (h, w) bool region -> 0-d tensor: the part of the logit from these cells."""
    return raw_map[region].sum() / raw_map.numel()


# %% tags=["check"]
assert logit_from(torch.tensor([[4.0, 8.0]]), torch.tensor([[True, False]])) == 2
c = int(labels[0].argmax())
half = torch.zeros(raw.shape[-2:], dtype=torch.bool)
half[: half.shape[0] // 2] = True
upper, lower = (logit_from(raw[0, c].cpu(), region) for region in (half, ~half))
assert torch.allclose(upper + lower, cam.predict(images)[0, c], atol=1e-4)
print(f"upper half {upper:.2f}, lower half {lower:.2f}")
print("passed")

# %% [markdown]
# **Exercise 2. The pointing game.** This score needs no threshold: does the brightest pixel of a map lie on its class? Write the test for one map.


# %%
def points_at_it(cam_of_class, mask, value):
    """(H, W) map, (H, W) int64 mask, a mask value -> bool: has the brightest pixel that value?"""
    raise NotImplementedError("look the place of the maximum up in the mask; .item()")


# %% tags=["solution"]
def points_at_it(cam_of_class, mask, value):
    """(H, W) map, (H, W) int64 mask, a mask value -> bool: has the brightest pixel that value?"""
    return mask.flatten()[cam_of_class.argmax()].item() == value


# %% tags=["check"]
assert points_at_it(torch.tensor([[0.1, 0.9]]), torch.tensor([[0, 3]]), 3) is True
assert points_at_it(torch.tensor([[0.9, 0.1]]), torch.tensor([[0, 3]]), 3) is False
hits = []
for s in data.test:
    maps = maps_of(s.image[None], s.labels[None])[0]
    for c in s.labels.nonzero().flatten().tolist():
        hits.append(points_at_it(maps[c], data.test_masks[s.name], c + 1))
print(f"{100 * sum(hits) / len(hits):.0f} % of {len(hits)} maps point at their class")
print("passed")

# %% [markdown]
# **Exercise 3. A backbone from random weights.** Build a `CAM` on the paper backbone with random weights (the default), preset `"clean"` and one scale. Train the *whole* network for 2 epochs with a batch size of 8. Before you run the check: will its best guesses be right on home background (0.85)? On other backgrounds (0.0)? Where will its maps be bright?


# %%
def trained_from_nothing(samples):
    """Samples -> a fitted CAM whose backbone began with random weights."""
    raise NotImplementedError(
        'CAM("paper", ...).fit(..., epochs=2, batch_size=8); without train_backbone=False'
    )


# %% tags=["solution"]
def trained_from_nothing(samples):
    """Samples -> a fitted CAM whose backbone began with random weights."""
    cam = CAM("paper", preset="clean", scales=(1.0,))
    return cam.fit(samples, epochs=2, batch_size=8)


# %% tags=["check"]
beginner = trained_from_nothing(PaperWorld(300, split="train"))
assert beginner.weights is None and len(beginner.losses_) == 2
assert beginner.losses_[1] < beginner.losses_[0], "it learns"
if DATA == "paper":
    for where, world in {"0.85": data.test, "0.0": away}.items():
        print(f"best guess right, test at {where}: {best_guess_right(beginner, world):.0f} %")
    table = where_it_looks(beginner, data.test)
    object_mass = table.loc[["signature part", "body"], "mass"].sum()
    assert table.loc["home background", "mass"] > object_mass, "it looks at home"
    print(table.round(1))
print("passed")

# %% [markdown]
# If you like, use more images and epochs (`epochs=12` on 600 images takes a minute or two). Does longer training alone move the maps to the objects?
#
# ## Recap
#
# - The map is the classifier's score before the mean over the cells. Nothing is estimated.
# - A map shows which cells *raised the score*: first the part that separates the class from others, then background that co-occurs with the class, and less the parts that several classes share. This can be measured only where there is ground truth.
# - Two classifiers with the same predictions may use different features, and give different masks.
# - The threshold has to be chosen; choose it on `val`.
#
# ## What to open next
#
# | If you ask | open |
# | --- | --- |
# | do sub-categories give a larger map? | `03_sc_cam_subcategories` |
# | can a CLIP move the map off the background? | `04_clims_text_losses` |
# | what can that CLIP do without any training? | `05_clip_es_softmax_grad_cam` |
# | how can a map be spread over the whole object? | `06_affinity_and_random_walk` |
#
# **Further reading.** B. Zhou et al., *Learning Deep Features for Discriminative Localization*, CVPR 2016: the score is Eq. 1, the map Eq. 2. J. Ahn et al., *Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations*, CVPR 2019 (IRN): the scales and the training that later papers share. Three later methods: Y.-T. Chang et al., CVPR 2020 (SC-CAM); J. Xie et al., CVPR 2022 (CLIMS); Y. Lin et al., CVPR 2023 (CLIP-ES). J. Zhang et al., *Top-down Neural Attention by Excitation Backprop*, ECCV 2016: the pointing game.
