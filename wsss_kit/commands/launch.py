"""A command in processes of its own, from a notebook or a program, its progress shown here."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from wsss_kit.checks import check_count

_LAST = 30  # lines that are kept for the message of a run that fails


def launch(*words: Any, processes: int = 1, **options: Any) -> None:
    """Run ``python -m wsss_kit WORDS --OPTIONS`` in one process or several, and show its bars.

    Several processes are started by ``torchrun``; on a machine with GPUs each has one of its own.
    Interrupting the cell or the program interrupts them, and what they have written stays: the same
    call goes on, of ``train`` with ``resume=True``.

    Args:
        *words: the command and what follows it, such as ``"masks", "clip-es"``.
        processes: how many share the work; for ``masks`` and ``train``.
        **options: ``batch_size=4`` for ``--batch-size 4``, ``crf=True`` for ``--crf``,
            ``flip=False`` for ``--no-flip``; None for no option, a tuple or list for several
            values.

    Raises:
        ValueError: if ``processes`` is no count, or the command takes one process only.
        RuntimeError: if the run fails, with what it said last.
    """
    command = command_of(*words, processes=processes, **options)
    # a session of its own, so that an interrupt reaches every process once
    threads = max(1, (os.cpu_count() or 1) // processes)
    run = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={"OMP_NUM_THREADS": str(threads), **os.environ},
    )
    output = io.TextIOWrapper(run.stdout, "utf-8", "replace", newline="")  # keeps \r
    said: list[str] = []
    covered = 0  # width of a bar that stands where the next line goes
    try:
        for text in output:
            if not (line := text.rstrip()):
                continue
            passes = text.endswith("\r")  # the next line takes its place, as a bar's does
            end = "" if passes else "\n"
            print("\r" * (covered > 0) + line.ljust(covered), end=end, flush=True)
            covered = len(line) if passes else 0
            if not passes:
                said = [*said[-_LAST:], line]
        status = run.wait()
    except BaseException:
        _stop(run)
        raise
    finally:
        output.close()
    if status:
        raise RuntimeError(
            f"{' '.join(map(str, words))} failed with exit status {status}; it said:\n"
            + "\n".join(said)
        )


def command_of(*words: Any, processes: int = 1, **options: Any) -> list[str]:
    """The command line that `launch` runs.

    Example:
        >>> command_of("masks", "clip-es", batch_size=4, crf=True, clip=None)[1:]
        ['-m', 'wsss_kit', 'masks', 'clip-es', '--batch-size', '4', '--crf']
    """
    check_count("processes", processes)
    if processes > 1 and words[:1] not in (("masks",), ("train",)):
        raise ValueError(
            f"processes is {processes} for {' '.join(map(str, words[:1])) or 'no command'}, "
            "expected 1: only masks and train share their work"
        )
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone"]
        start += ["--nproc-per-node", str(processes)]
    return [*start, "-m", "wsss_kit", *map(str, words), *_flags(options)]


def _flags(options: dict[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{flag}" if value else f"--no-{flag}"
        elif value is not None:
            values = value if isinstance(value, list | tuple) else [value]
            yield from (f"--{flag}", *map(str, values))


def _stop(run: subprocess.Popen) -> None:
    """Interrupt all processes of a run, and wait until they have gone."""
    for call in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if run.poll() is None:
            os.killpg(run.pid, call)
            try:
                run.wait(10)
            except subprocess.TimeoutExpired:
                continue
