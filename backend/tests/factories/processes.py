"""Test processes: a fork of the test, cheap where a new interpreter would cost a second."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Self


def fork() -> int:
    """Fork; the child must not use what the parent has open, and ends by os._exit."""
    with warnings.catch_warnings():
        # Threads of the test runner stay behind; the child makes its own spine and never waits for them.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


class Answering:
    """A process that answers one line with one line, until its `with` block ends."""

    def __init__(self, make: Callable[[], Callable[[str], str]]) -> None:
        self._make = make

    def __enter__(self) -> Self:
        from_parent, to_child = os.pipe()
        from_child, to_parent = os.pipe()
        self._child = fork()
        if not self._child:
            try:
                os.close(to_child)
                os.close(from_child)
                self._serve(from_parent, to_parent)
            finally:
                os._exit(0)
        os.close(from_parent)
        os.close(to_parent)
        self._questions, self._answers = os.fdopen(to_child, "w"), os.fdopen(from_child)
        return self

    def _serve(self, questions: int, answers: int) -> None:
        answer = self._make()
        with os.fdopen(questions) as lines, os.fdopen(answers, "w") as out:
            for line in lines:
                print(answer(line.strip()), file=out, flush=True)

    def ask(self, question: str) -> str:
        """Return the process's answer."""
        print(question, file=self._questions, flush=True)
        return self._answers.readline().strip()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._questions.close()
        self._answers.close()
        os.waitpid(self._child, 0)
