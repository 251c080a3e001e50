"""A command in processes of its own, from a notebook or a program, its progress shown here."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import IO, Any

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
        **options: ``batch_size=4`` for ``--batch-size 4``; True for an option without a value,
            None and False for none at all, a tuple or list for values with commas.

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
    said: list[str] = []
    covered = 0  # width of a bar that stands where the next line goes
    try:
        for line, passes in _lines(run.stdout):
            print(
                "\r" * (covered > 0) + line.ljust(covered), end="" if passes else "\n", flush=True
            )
            covered = len(line) if passes else 0
            if not passes:
                said = [*said[-_LAST:], line]
        status = run.wait()
    except BaseException:
        _stop(run)
        raise
    finally:
        run.stdout.close()
    if status:
        raise RuntimeError(
            f"{' '.join(map(str, words))} failed with exit status {status}; it said:\n"
            + "\n".join(said)
        )


def command_of(*words: Any, processes: int = 1, **options: Any) -> list[str]:
    """The command line that `launch` runs.

    Example:
        >>> command_of("masks", "clip-es", batch_size=4, crf=True, maps=False)[1:]
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
        if value is None or value is False:
            continue
        yield f"--{name.replace('_', '-')}"
        if value is True:
            continue
        many = isinstance(value, Sequence) and not isinstance(value, str)
        yield ",".join(map(str, value)) if many else str(value)


def _lines(stream: IO[bytes]) -> Iterator[tuple[str, bool]]:
    """Lines as they come, and whether the next one takes their place, as a bar's does."""
    held = b""
    while piece := os.read(stream.fileno(), 4096):
        *whole, held = re.split(rb"(\r\n|\n|\r)", held + piece)
        for line, end in zip(whole[::2], whole[1::2], strict=True):
            if line.strip():
                yield line.decode(errors="replace").rstrip(), end == b"\r"
    if held.strip():
        yield held.decode(errors="replace").rstrip(), False


def _stop(run: subprocess.Popen) -> None:
    """Interrupt all processes of a run, and wait until they have gone."""
    for call in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if run.poll() is None:
            os.killpg(run.pid, call)
            try:
                run.wait(10)
            except subprocess.TimeoutExpired:
                continue
