"""The command line: ``python -m wsss_kit demo | baseline | train``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m wsss_kit",
        description="A tutorial and analysis kit for weakly supervised semantic segmentation.",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    demo = commands.add_parser("demo", help="both methods on the embedded world, offline")
    demo.add_argument("--out", type=Path, default=Path("data/runs/demo"), help="folder to write to")
    demo.add_argument("--seed", type=int, default=0)

    baseline = commands.add_parser("baseline", help="plain CAM on real photographs")
    baseline.add_argument("--data", choices=("voc", "folder"), default="voc")
    baseline.add_argument("--root", type=Path, default=Path("data/VOC2012"))
    baseline.add_argument(
        "--backbone",
        default="resnet50",
        help="resnet18, resnet34, resnet50, or FILE.py:FUNCTION that returns a module",
    )
    baseline.add_argument("--weights", help="of a named ResNet: imagenet or a local file")
    baseline.add_argument("--seeds", type=int, default=3, help="how many heads to train")
    baseline.add_argument("--threshold", type=float, default=0.25, help="constant background")
    baseline.add_argument("--scored", help="classes that count, with commas; default all")
    baseline.add_argument("--limit", type=int, help="use only the first pictures of each split")
    baseline.add_argument("--crf", action="store_true", help="refine by the dense CRF")
    baseline.add_argument("--out", type=Path, default=Path("data/runs/baseline"))

    train = commands.add_parser("train", help="train what the package ships")
    train.add_argument("what", choices=("paper-clip", "choose-clip", "paper-trunk"))
    train.add_argument("--steps", type=int, help="of 128 pictures (CLIP) or 64 (trunk)")
    train.add_argument("--fall", type=float, default=0.2, help="last share of steps, rate falling")
    train.add_argument("--out", type=Path, default=Path("data/runs/paper"))
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--workers", type=int, default=1, help="processes that draw pictures")
    train.add_argument("--device", default="cpu")
    train.add_argument(
        "--torn", type=float, help="of paper-clip: share of objects without signature part"
    )
    train.add_argument(
        "--candidates", type=Path, nargs="+", default=(), help="of choose-clip: weights to compare"
    )
    train.add_argument(
        "--teacher",
        type=Path,
        help="of paper-trunk: weights of a tiny CLIP (the package's trunk had one of --torn 0)",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; errors that a user can mend are printed without a traceback."""
    options = _parser().parse_args(arguments)
    try:
        _COMMANDS[options.command](options)
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        print(f"wsss_kit {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def _demo(options: argparse.Namespace) -> None:
    from wsss_kit.commands.demo import run_demo

    run_demo(options.out, seed=options.seed)


def _baseline(options: argparse.Namespace) -> None:
    from wsss_kit.commands.baseline import run_baseline

    run_baseline(
        options.data,
        options.root,
        backbone=options.backbone,
        weights=options.weights,
        seeds=range(options.seeds),
        threshold=options.threshold,
        scored=options.scored.split(",") if options.scored else None,
        limit=options.limit,
        crf=options.crf,
        out=options.out,
    )


def _train(options: argparse.Namespace) -> None:
    from wsss_kit.commands.train import choose_paper_clip, train_paper_clip, train_paper_trunk

    given = {"seed": options.seed, "workers": options.workers}
    if options.steps:
        given["steps"] = options.steps
    if options.what == "paper-trunk":
        path = train_paper_trunk(options.out, teacher=options.teacher, **given)
    elif options.what == "choose-clip":
        path = choose_paper_clip(options.candidates, options.out)
    else:
        if options.torn is not None:
            given["torn"] = options.torn
        path = train_paper_clip(options.out, fall=options.fall, device=options.device, **given)
    print(f"{path} and its card {path.with_suffix('.json').name} are written.")


_COMMANDS = {"demo": _demo, "baseline": _baseline, "train": _train}

if __name__ == "__main__":
    sys.exit(main())
