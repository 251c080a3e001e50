"""The kit against the golden figures of the released code of CLIMS, SC-CAM, PSA, IRN and DeepLab.

Run from the project's root: python tests/golden/compare_released.py [FOLDER ...]; without folders ``released`` beside
it. It prints a line a comparison and exits 1 if any differs. It calls internal functions where there is no public one:
when these move, move the calls, not the tolerances.
"""
import os, sys, json, zlib, tempfile
os.environ["OMP_NUM_THREADS"] = "1"
import numpy as np, torch
from torch import nn
from torch.nn import functional as F
torch.set_num_threads(1)
HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "released"); sys.path.insert(0, os.getcwd())
G = sys.argv[1:] or [HERE]; TMP = tempfile.mkdtemp(); bad = []
def find(name): return next(f"{d}/{name}" for d in [*G, HERE] if os.path.exists(f"{d}/{name}"))
from wsss_kit.classes import Sample, VOC_CLASSES
from wsss_kit.clip import FrozenCLIP
from wsss_kit.prompts import Prompts
def files(stem): return [f"{d}/{f}" for d in G for f in sorted(os.listdir(d)) if f.startswith(stem) and f.endswith(".npz")]
def read(p): z = np.load(p); return {k: z[k] for k in z.files}
T = torch.from_numpy
def say(name, a, b, tol, allowed=""):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape: bad.append(name); print(f"FAIL {name}: shapes {a.shape} {b.shape}"); return
    d, s = np.abs(a - b).max(), np.abs(b).max()
    if not d <= tol * max(s, 1e-12) and not allowed: bad.append(name)
    print(f"{'ok  ' if d <= tol * max(s, 1e-12) else allowed or 'FAIL'} {name:58s} max|d| {d:.1e} rel {d / max(s, 1e-12):.1e}")
def seeded(name, shape): return np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF).standard_normal(shape).astype(np.float32)
def recipe(state):
    out = {}
    for k, v in state.items():
        if "num_batches" in k: out[k] = torch.zeros((), dtype=torch.long); continue
        z = T(seeded(k, tuple(v.shape)))
        out[k] = z * (2 / (v.shape[1] * v.shape[2] * v.shape[3])) ** 0.5 if v.ndim == 4 else (0.2 * z).exp() if k.endswith("running_var") else 0.1 * z if k.endswith("running_mean") else 1 + 0.1 * z if k.endswith("weight") else 0.1 * z
    return out
mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
class Small(nn.Module):
    def __init__(self, second, w=None):
        super().__init__(); self.out_channels = 16
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 7, 4, 3, bias=False), nn.BatchNorm2d(8)); self.body = nn.Sequential(nn.Conv2d(8, 16, 3, second, 1, bias=False), nn.BatchNorm2d(16))
        if w: self.load_state_dict({k: T(v) for k, v in w.items()})
    def forward(self, x): return F.softplus(self.body(torch.tanh(self.stem((x - mean) / std))))
def clip_of(path):
    from open_clip.model import CLIP
    z = read(path); c = json.loads(str(z["config"])); m = CLIP(**c)
    m.load_state_dict({k[2:]: T(v.astype(np.float32)) for k, v in z.items() if k.startswith("w.")}, strict=False)
    texts, tok = list(z["texts"]), T(z["tokens"]).long()
    p = Prompts.voc(method="clims"); assert p.class_texts() + p.background_texts() == texts
    return FrozenCLIP(m, lambda ts: tok[[texts.index(t) for t in ts]]), p
from wsss_kit.methods.clims import PRESETS, CLIMS
from wsss_kit.methods.clims.losses import Judge
from wsss_kit.engine import optimiser_of, rate_factor
from wsss_kit.methods.base import Learner
from wsss_kit.views import augment
def steps_of(network, recipe, falls, batches):
    """Train as `engine.fit` does, on given batches: learning rates and losses of every step."""
    network.recipe = recipe; opt = optimiser_of(network, recipe); rates, losses = [], []
    for step, tensors in enumerate(batches):
        network.train()
        for g in opt.param_groups: g["lr"] = rate_factor(step, falls, recipe) * g["peak"]
        rates.append([g["lr"] for g in opt.param_groups]); opt.zero_grad(); f = network.loss(*tensors); f["total"].backward(); opt.step()
        losses.append({k: v.item() for k, v in f.items()})
    return rates, losses
def built(method, trunk, head):
    method.__dict__["backbone"] = trunk; method.backbone_ = trunk; method.head_ = nn.Parameter(head); method.classes_, method.losses_ = VOC_CLASSES, []
    return method
for p in files("clims_losses"):
    z = read(p); name = os.path.basename(p)
    clip, prompts = clip_of(find("clims_clip_raw.npz" if "raw" in p else "clims_clip.npz"))
    leaf = T(z["logits"].astype(np.float32)).requires_grad_(); v = PRESETS["reference"]
    f = Judge(clip, prompts, v).losses(T(z["images"]).float() / 255, leaf.sigmoid(), T(z["labels"]).float())
    tot = sum(v[k] * f[k] for k in ("otm", "btm", "cbs", "reg")); tot.backward()
    for k in ("otm", "btm", "cbs", "reg"): say(f"{name} {k}", f[k].item(), z[k], 1e-5)
    say(f"{name} total", tot.item(), z["total"], 1e-5); say(f"{name} gradient", leaf.grad, z["grad_logits"], 1e-4)
for p in files("clims_training"):
    z = read(p); clip, prompts = clip_of(find("clims_clip.npz"))
    trunk = Small(4, {k[6:]: v for k, v in z.items() if k.startswith("start.") and k != "start.head"})
    clims = built(CLIMS(clip, trunk, prompts=prompts), trunk, T(z["start.head"].copy())); clims.bias_ = nn.Parameter(torch.zeros(20))
    v = clims.values(learning_rate=float(z["learning_rate"])); clims.judge_ = Judge(clip, prompts, v)
    batches = [(torch.stack([(T(z["images"][i]).flip(-1) if s else T(z["images"][i])) for i, s in zip(o, fl)]).float() / 255, T(z["labels"][o]).float()) for o, fl in zip(z["order"].reshape(6, 3), z["flips"].reshape(6, 3))]
    rates, losses = steps_of(clims, v, 6, batches); losses = [[f[k] for k in ("otm", "btm", "cbs", "reg", "total")] for f in losses]; head = clims.head_
    say("clims_training rates", rates, z["rates"], 1e-9); say("clims_training losses of 6 steps", losses, z["losses"], 1e-5); say("clims_training head after", head.detach(), z["end.head"], 1e-5)
    for k in ("stem.0.weight", "stem.1.running_var", "body.0.weight", "body.1.weight", "body.1.running_mean"): say(f"clims_training {k} after", trunk.state_dict()[k], z["end." + k], 1e-5)
from wsss_kit.files import save_model
from wsss_kit.methods.cam import CAM
from wsss_kit.methods.sc_cam import SCCAM
from wsss_kit.recipes import cam_maps, sc_cam_masks
def cam_of(z, second, what=CAM):
    t = Small(second, {k[2:]: v for k, v in z.items() if k.startswith("w.")})
    card = dict(method="CAM", version=2, backbone="Small", weights=None, stride=None, scales=None, flip=None, preset="reference", classes=list(VOC_CLASSES), losses=[])
    save_model(TMP + "/chk", {"head": T(z["head"]), **{"backbone." + k: v for k, v in t.state_dict().items()}}, card)
    if what is SCCAM: return built(SCCAM(t), t, T(z["head"])).eval()
    return CAM.load(TMP + "/chk.safetensors", backbone=t)
for p in files("clims_inference"):
    z = read(p); cam = cam_of(z, 4); x = T(z["image"]).permute(2, 0, 1)[None].float() / 255; l = torch.zeros(1, 20); l[0, z["keys"]] = 1
    say(os.path.basename(p) + " cam, stride 4", cam(x, l).cams[0, z["keys"]], z["cam"], 1e-4); say(os.path.basename(p) + " high_res", cam_maps(x, l, method=cam)[0, z["keys"]], z["high_res"], 1e-4)
for p in files("clims_augment"):
    z = read(p); x = T(z["image"]).permute(2, 0, 1).float() / 255
    n = (augment(x, torch.Generator().manual_seed(0), crop=40, long_side=None) - mean) / std; black = (0 - mean) / std
    say("clims_augment: pixels of the mean colour beyond the picture", (n == 0).all(0).sum().item(), (z["crop"] == 0).all(-1).sum(), 0); say("clims_augment: black pixels", (n == black).all(0).sum().item(), 0, 0)
for p in files("sc_cam_inference"):
    z = read(p); cam = cam_of(z, 2, SCCAM); x = T(z["image"]).permute(2, 0, 1)[None].float() / 255; l = torch.zeros(1, 20); l[0, z["keys"]] = 1
    say(os.path.basename(p) + " maps at the picture's size", cam_maps(x, l, method=cam)[0, z["keys"]], z["maps"], 1e-4)
    print("     mask pixels that differ", float((sc_cam_masks(x, l, method=cam)[0].numpy() != np.array([0, *(z["keys"] + 1)])[np.searchsorted([0, *(z["keys"] + 1)], z["mask"])]).mean()))
    with torch.no_grad(): say(os.path.basename(p) + " feature", cam.backbone_(x).mean((2, 3))[0], z["feature"], 1e-5)
from wsss_kit.methods.sc_cam import subcategory_labels
for p in files("sc_cam_clusters"):
    z = read(p); say("sc_cam_clusters sub-categories", subcategory_labels(T(z["features"]), T(z["labels"]).float(), k=10), z["subcategories"], 0)
for p in files("sc_cam_round"):
    z = read(p); trunk = Small(2, {k[6:]: v for k, v in z.items() if k.startswith("start.") and "head" not in k})
    sc = built(SCCAM(trunk), trunk, T(z["start.head"].copy())); sc.k_, sc.rounds_ = 3, []; sc.sub_head_ = nn.Parameter(T(z["start.sub_head"].copy())); v = {**sc.values(), "dropout": 0.0}
    batches = [(T(z["images"][o]).float() / 255, T(z["labels"][o]).float(), T(z["subcategories"][o]).float()) for o in z["order"].reshape(6, 3)]
    rates, losses = steps_of(sc, v, 2 * v["schedule"], batches); losses = [[f["parent"], f["sub"]] for f in losses]; head, sub = sc.head_, sc.sub_head_
    say("sc_cam_round rates", rates, z["rates"], 1e-9); say("sc_cam_round losses", losses, z["losses"], 1e-5); say("sc_cam_round head", head.detach(), z["end.head"], 1e-5); say("sc_cam_round sub_head", sub.detach(), z["end.sub_head"], 1e-5)
    for k in ("stem.0.weight", "body.0.weight", "body.1.weight"): say("sc_cam_round " + k, trunk.state_dict()[k], z["end." + k], 1e-5)
from wsss_kit.affinity_net import AffinityNet, pair_kinds, balanced_pair_loss, half_plane, inner_pairs, confident_seeds, labels_on_grid
from wsss_kit.masks import PSA_POWERS
from wsss_kit.affinity_net.neighbours import boundary_affinity, dense
from wsss_kit.affinity_net.pairs import Projection
from wsss_kit.affinity import transition_matrix, random_walk
for p in files("psa_affinity"):
    z = read(p); name = os.path.basename(p)[:-4]; h, w = z["grid"]
    proj = Projection((512, 1024, 4096), (64, 128, 256), "features")
    with torch.no_grad():
        for i, n in enumerate(("f8_3", "f8_4", "f8_5")):
            wt = proj.each[i].weight; wt.copy_(T(seeded(n + ".weight", tuple(wt.shape))) * 0.3 * (2 / wt.shape[1]) ** .5)
        wt = proj.joined.weight; wt.copy_(T(seeded("f9.weight", tuple(wt.shape))) * 0.2 * (2 / wt.shape[1]) ** .5)
        levels = [T(np.abs(seeded(f"{name}.{k}", (1, c, h, w)))) * torch.linspace(0.2, 1.5, int(w)) for k, c in (("conv4", 512), ("conv5", 1024), ("conv6", 4096))]
        from wsss_kit.affinity_net import feature_affinity
        off = half_plane(5); btw = feature_affinity(proj(levels), off)
    order = [off.index(tuple(int(i) for i in o)) for o in z["offsets"]]
    say(name + " affinity of the authors' pairs", btw[0, order, : h - 4, 4: w - 4].reshape(34, -1), z["affinity"], 1e-5)
    btw = inner_pairs(btw, off); D = dense(btw, off); say(name + " neighbours of each cell", (D[0] > 0).sum(0), z["neighbours_of_each"], 0)
    say(name + " walk", random_walk(T(z["scores"])[None], transition_matrix(D, power=8, squarings=8))[0], z["walked"], 1e-4)
    if "loss" in z: say(name + " loss", balanced_pair_loss(btw, inner_pairs(pair_kinds(T(z["labels"]).long()[None], off), off, none=-1)), z["loss"], 1e-5)
from functools import partial
from wsss_kit.crf import crf_of_present, PSA_CRF, IRN_CRF
for stem, crf, how in (("psa_labels", PSA_CRF, dict(powers=PSA_POWERS)), ("irn_labels", IRN_CRF, dict(thresholds=(0.3, 0.1)))):
    for p in files(stem):
        z = read(p); H, W = z["image"].shape[1:]; full = torch.zeros(1, 20, H, W); full[0, z["keys"]] = T(z["maps"]); lab = torch.zeros(20); lab[z["keys"]] = 1
        s = confident_seeds(lambda i, l: full, [Sample("x", T(z["image"]).float() / 255, lab)], refine=partial(crf_of_present, **crf), shown=False, **how)["x"]
        say(os.path.basename(p) + " labels", s, z["labels"], 0)
        if "cells" in z: print("     cells that differ", float((labels_on_grid(s[None], (H // 8, W // 8), 20)[0].numpy() != z["cells"]).mean()))
for p in files("irn_walk"):
    z = read(p); off = half_plane(5); e = T(z["boundary"]); s = (T(z["maps"]) * (1 - e))[None]; say(os.path.basename(p) + " walk", random_walk(s, transition_matrix(dense(boundary_affinity(e[None], off), off), power=10, squarings=8))[0], z["walked"], 3e-4)
for p in files("irn_pairs"):
    z = read(p); off = half_plane(10); b = boundary_affinity(T(z["boundary"]), off); k = inner_pairs(pair_kinds(T(z["labels"]).long(), off), off, none=-1)
    order = [off.index(tuple(int(i) for i in o)) for o in z["offsets"]]
    say("irn_pairs affinity", b[0, order, : 32 - 9, 9: 32 - 9].reshape(152, -1)[::8], z["affinity_of_first"], 1e-6); say("irn_pairs loss", balanced_pair_loss(b, k), z["loss"], 1e-5)
    print("     pairs: authors", z["counts"], "kit", [int((k == i).sum()) for i in range(3)])
if files("irn_boundary"):
    net = AffinityNet("resnet50", kind="boundary", levels=5, channels=32, radius=5, pad_to=512, device="cpu")
    # a file in IRN's names, from the recipe
    names = {}
    for k, v in net.state_dict().items():
        n = k.replace("trunk.stem.0.", "resnet50.conv1.").replace("trunk.stem.1.", "resnet50.bn1.").replace("trunk.layer", "resnet50.layer").replace("project.joined.", "fc_edge6.")
        if n.startswith("project.each."): a, b, i, r = n.split(".", 3); n = f"fc_edge{int(i) + 1}.{r}"
        names[n] = v
    st = recipe(names); st["fc_edge6.weight"] = 0.6 * st["fc_edge6.weight"]; torch.save(st, TMP + "/chk.pth"); net, clims_net = AffinityNet.load(TMP + "/chk.pth", device="cpu"), AffinityNet.load(TMP + "/chk.pth", pad_to=None, device="cpu")
    for p in files("irn_boundary"):
        z = read(p); x = T(z["image"])[None].float() / 255; say(os.path.basename(p) + " as IRN (512)", net.boundaries(x)[0], z["boundary_irn"], 1e-4); say(os.path.basename(p) + " as CLIMS, load(pad_to=None)", clims_net.boundaries(x)[0], z["boundary_clims"], 1e-4)
from wsss_kit.segmentation import Segmenter, PRESETS as DP
from wsss_kit.segmentation.networks import LOSSES, build_network, multi_scale_loss
def nearest(m, size): return F.interpolate(m[:, None].float(), size=tuple(size), mode="nearest-exact")[:, 0].long()
for p in files("deeplab_loss"):
    z = read(p); x = T(z["images"]).float() / 255; m = T(z["masks"]).long()
    for kind in ("plain", "balanced"):
        c = nn.Sequential(nn.Conv2d(3, 8, 7, 4, 3), nn.Tanh(), nn.Conv2d(8, 8, 3, 2, 1), nn.Tanh(), nn.Conv2d(8, 21, 3, 1, 1)); c.load_state_dict({k[4:]: T(v) for k, v in z.items() if k.startswith("w.c.")})
        L = multi_scale_loss(c, x, m, loss=LOSSES[kind], scales=DP["deeplab"]["loss_scales"]); L.backward(); say(f"{os.path.basename(p)} {kind}", L.item(), z[kind], 1e-5); say(f"{os.path.basename(p)} {kind} gradient", c[4].weight.grad, z[f"{kind}.grad.c.4.weight"], 1e-4)
    say(os.path.basename(p) + " masks on the grids", np.concatenate([nearest(m, z[f"masks_{i}"].shape[1:]).numpy().ravel() for i in range(4)]), np.concatenate([z[f"masks_{i}"].ravel() for i in range(4)]), 0)
    with torch.no_grad(): pr = Segmenter(c, [f"c{i}" for i in range(20)], network="x").eval().probs(x[:1], scales=(1.0, .75, .5), fuse="max")[0, :, ::4, ::4]
    say(os.path.basename(p) + " probabilities of a test", pr, z["test_probabilities_every_4"], 1e-4)
for p in files("deeplab_schedule"):
    z = read(p); v = {**DP["deeplab"], "network": None}; kit = Segmenter(build_network("deeplab_v2", 21), [f"c{i}" for i in range(20)], network="deeplab_v2", preset="deeplab"); o = optimiser_of(kit, v)
    r = [[rate_factor(step, 200, v) * g["peak"] for g in o.param_groups] for step in range(200)]
    say("deeplab_schedule rates", r, z["rates"], 1e-9); say("deeplab_schedule parameters in the groups", [len(g["params"]) for g in o.param_groups], [len(v) for v in json.loads(str(z["groups"])).values()], 0); say("deeplab_schedule weight decay", [g["weight_decay"] for g in o.param_groups], z["weight_decay"], 0)
if files("deeplab_logits"):
    kit = build_network("deeplab_v2", 21).eval(); inv = {"conv1": "reduce.conv", "bn1": "reduce.bn", "conv2": "conv3x3.conv", "bn2": "conv3x3.bn", "conv3": "increase.conv", "bn3": "increase.bn", "downsample.0": "shortcut.conv", "downsample.1": "shortcut.bn"}; names = {}
    for k, v in kit.state_dict().items():
        if k.startswith("branches"): n = f"aspp.c{k.split('.')[1]}.{k.split('.')[2]}"
        elif k.startswith("trunk.stem.0"): n = "layer1.conv1.conv.weight"
        elif k.startswith("trunk.stem.1"): n = "layer1.conv1.bn." + k.split(".")[-1]
        else:
            _, l, b, *r = k.split("."); part = ".".join(r[:-1]); n = f"layer{int(l[5]) + 1}.block{int(b) + 1}.{inv[part]}.{r[-1]}"
        names[n] = (k, v)
    st = recipe({n: v for n, (k, v) in names.items()}); kit.load_state_dict({k: (0.3 * st[n] if "increase.bn.weight" in n else st[n]) for n, (k, v) in names.items()})
    for p in files("deeplab_logits"):
        z = read(p)
        with torch.no_grad(): say(os.path.basename(p) + " logits", kit(T(z["normalised"]) * kit.trunk.std + kit.trunk.mean)[0], z["logits"], 1e-4, allowed="D10")
if files("resnet38"):
    from wsss_kit.backbones import ResNet38Backbone, from_released
    import re
    trunk = ResNet38Backbone(); rel = {}
    names = {"norm1": "bn_branch2a", "conv1": "conv_branch2a", "norm2": "bn_branch2b1", "conv2": "conv_branch2b1", "norm3": "bn_branch2b2", "conv3": "conv_branch2b2", "skip": "conv_branch1"}
    for k, v in trunk.state_dict().items():
        a = k.split("."); a = a[1:] if a[0] in ("stem", "body") else a
        rel[".".join(["bn7" if a[0] == "norm" else a[0], *[names.get(x, x) for x in a[1:]]])] = v
    st = recipe(rel)
    for k in st:
        if (k.endswith("conv_branch2b1.weight") and not k.startswith(("b6", "b7"))) or k.endswith("conv_branch2b2.weight"): st[k] = 0.5 * st[k]
    trunk.load_state_dict(from_released(st)); trunk.eval()
    for p in files("resnet38"):
        z = read(p)
        with torch.no_grad(): a, b, c = trunk.levels(T(z["image"]).float() / 255)
        say(os.path.basename(p) + " conv4", a[0, ::8], z["conv4_every_8"], 1e-5); say(os.path.basename(p) + " conv5", b[0, ::16], z["conv5_every_16"], 1e-5); say(os.path.basename(p) + " conv6", c[0, ::64], z["conv6_every_64"], 1e-5)

print(len(bad), "differ:", "; ".join(bad)); sys.exit(int(bool(bad)))
