"""The command line: ``python -m wsss_kit COMMAND``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsss_kit.commands.arguments import METHODS, TAKES, build_parser, read_options, takes_no
from wsss_kit.processes import place_in_run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; errors that a user can mend are printed without a traceback."""
    parser = build_parser()
    options, more = parser.parse_known_args(arguments)
    learns = options.command == "train" and options.what in METHODS
    if more and not learns:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    if options.command == "train":
        options.out = options.out or Path("data/runs") / (options.what if learns else "paper")
    try:
        if learns:
            return _train_method(options, more) or 0
        return _COMMANDS[options.command](options) or 0
    except (ValueError, OSError, RuntimeError) as error:
        print(f"wsss_kit {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        from wsss_kit.checkpoints import CHECKPOINT

        first = {"paper-clims": "cam", "paper-sc-cam": "sc-cam-training"}
        written = first.get(getattr(options, "what", ""), CHECKPOINT)
        resumes = options.command == "train" and options.what not in ("paper-trunk", "choose-clip")
        again = "begins again"
        if resumes and (options.out / f"{written}.safetensors").exists():
            again = f"{'with --resume ' * learns}goes on from the last checkpoint"
        if options.command in ("download", "masks", "reproduce"):
            again = "goes on from what is written"
        print(f"\nstopped; the same command {again}", file=sys.stderr)
        return 130


def _demo(options: argparse.Namespace) -> None:
    from wsss_kit.commands.demo import run_demo
    from wsss_kit.commands.own_pictures import run_own_pictures

    own = {name: getattr(options, name) for name in ("classes", "clip", "limit")}
    if options.pictures is None:
        given = [name for name, value in own.items() if value is not None]
        if given:
            raise ValueError(f"--{given[0]} goes with --pictures FOLDER; leave it out, or add that")
        run_demo(options.out, seed=options.seed)
        return
    if options.classes is not None:
        own["classes"] = [name.strip() for name in options.classes.split(",") if name.strip()]
    run_own_pictures(options.pictures, options.out, **{k: v for k, v in own.items() if v})


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


def _bench(options: argparse.Namespace) -> None:
    from wsss_kit.commands.bench import run_bench

    run_bench(
        options.out,
        model=options.model,
        size=tuple(options.size),
        rounds=options.rounds,
        threads=options.threads,
        device=options.device or "auto",
    )


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """What was said, for a function that takes it by the same names."""
    given = {name: value for name, value in vars(options).items() if name != "command"}
    if "device" in given:
        given["device"] = given["device"] or "auto"
    return given


def _download(options: argparse.Namespace) -> None:
    from wsss_kit.commands.download import download

    given = _given(options)
    download(given.pop("name"), given.pop("out"), **given)


def _check(options: argparse.Namespace) -> int:
    from wsss_kit.commands.check import run_check

    return 1 if run_check(**_given(options)).errors else 0


def _evaluate(options: argparse.Namespace) -> None:
    from wsss_kit.commands.evaluate import run_evaluate

    given = _given(options)
    given["scored"] = options.scored.split(",") if options.scored else None
    run_evaluate(**given)


def _masks(options: argparse.Namespace) -> None:
    from wsss_kit.commands.generate import MANIFEST
    from wsss_kit.commands.masks import run_masks, said

    written = run_masks(**_given(options))
    if place_in_run()[1] == 1 or (options.out / MANIFEST).is_file():  # the last one says it
        print(said(written, options.out))


def _reproduce(options: argparse.Namespace) -> int:
    from wsss_kit.commands.reproduce import rows_text, run_reproduce

    if options.name is None:
        print(rows_text())
        return 0
    return run_reproduce(**{**_given(options), "run": main if options.run else None})


def _train(options: argparse.Namespace) -> None:
    from wsss_kit.commands import train, train_methods

    given = {k: v for k, v in vars(options).items() if v is not None}
    for own in ("command", "what", "out"):
        del given[own]
    foreign = [name for name in given if name not in TAKES[options.what]]
    if foreign:
        raise ValueError(takes_no(options.what, foreign[0], TAKES[options.what]))
    if options.what == "choose-clip":
        path = train.choose_paper_clip(given.get("candidates", ()), options.out)
    else:
        trainings = {
            "paper-clip": train.train_paper_clip,
            "paper-trunk": train.train_paper_trunk,
            "paper-clims": train_methods.train_paper_clims,
            "paper-sc-cam": train_methods.train_paper_sc_cam,
        }
        path = trainings[options.what](options.out, **given)
    print(f"{path} and its card {path.with_suffix('.json').name} are written.")


def _train_method(options: argparse.Namespace, more: Sequence[str]) -> None:
    from wsss_kit.commands.train_method import train_method

    given = {k: v for k, v in vars(options).items() if v is not None}
    del given["command"]
    what, out = given.pop("what"), given.pop("out")
    path = train_method(what, out, **given, **read_options(more))
    if place_in_run()[0] == 0:
        print(f"{path}, its card and config.json are written.")


_COMMANDS = {
    "demo": _demo,
    "baseline": _baseline,
    "download": _download,
    "check": _check,
    "masks": _masks,
    "evaluate": _evaluate,
    "reproduce": _reproduce,
    "train": _train,
    "bench": _bench,
}

if __name__ == "__main__":
    sys.exit(main())
