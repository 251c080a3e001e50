"""Work that waits its turn: typing is answered when it pauses, long work goes on in slices.

Where an event loop runs, as in a notebook's kernel, callbacks wait in it. Where none does, as in a
script or a test, everything is done at once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any


class Debounced:
    """Calls a function once its caller has paused; each call forgets the one before.

    Args:
        function: what is called, with the arguments of the last call.
        seconds: how long a pause is.

    Example:
        >>> said = []
        >>> async def type_fast():
        ...     shout = Debounced(said.append, 0.01)
        ...     for text in ("g", "gr", "grass"):
        ...         shout(text)
        ...     await asyncio.sleep(0.05)
        >>> asyncio.run(type_fast())
        >>> said
        ['grass']
    """

    def __init__(self, function: Callable[..., Any], seconds: float = 0.35) -> None:
        self._function, self._seconds = function, seconds
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self, *arguments: Any) -> None:
        """Call the function after the pause, or now where no event loop runs."""
        self.forget()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._function(*arguments)
            return
        self._timer = loop.call_later(self._seconds, self._function, *arguments)

    def forget(self) -> None:
        """Let a call that is still waiting go."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Slices:
    """Long work, a piece at a time, so that a reader's next wish comes between two pieces.

    Starting other work drops what is left of the old.

    Example:
        >>> done = []
        >>> def count():
        ...     for i in range(3):
        ...         done.append(i)
        ...         yield
        >>> Slices().start(count())
        >>> done
        [0, 1, 2]
    """

    def __init__(self) -> None:
        self._work: Iterator[Any] | None = None
        self._turn = threading.RLock()  # a cell may finish what a control began
        self._pause = Debounced(self._go_on, 0.001)

    def start(self, work: Iterator[Any]) -> None:
        """Begin with this work, and finish it where no event loop runs."""
        self._work = work
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            while self._work is work:
                self._step()
            return
        self._pause()

    def finish(self) -> None:
        """Do what is left now."""
        self._pause.forget()
        while self._work is not None:
            self._step()

    def stop(self) -> None:
        """Drop what is left."""
        self._work = None
        self._pause.forget()

    def _go_on(self) -> None:
        self._step()
        if self._work is not None:
            self._pause()

    def _step(self) -> None:
        with self._turn:
            work = self._work
            if work is None:
                return
            try:
                next(work)
            except StopIteration:
                if self._work is work:
                    self._work = None
            except BaseException:
                self._work = None
                raise
