"""Command line: dispatches to the commands and reports errors as one line."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple, NoReturn

from stepcredit.errors import InputError, one_line, quoted
from stepcredit.files import is_full, why_not_written
from stepcredit.settings import resembling
from stepcredit.version import __version__


class Command(NamedTuple):
    """CLI command: its help line, and the function in a module of `stepcredit.commands` that parses flags and runs
    it."""

    help: str
    module: str
    function: str = "run"

    def run(self, arguments: list[str]) -> int:
        """Parses the flags and runs the command; returns the exit code."""
        module = importlib.import_module(f"stepcredit.commands.{self.module}")
        code: int = getattr(module, self.function)(arguments)
        return code


COMMANDS: dict[str, Command] = {
    "quickstart": Command(
        "collect, train and evaluate on a built-in task: CPU, no network, two to five minutes", "quickstart"
    ),
    "import": Command("logs of scored responses → episodes", "logs", "import_"),
    "inspect": Command("summary of a folder of episodes", "inspect"),
    "collect": Command("sample and grade responses; resumes automatically", "collect"),
    "grade": Command("responses and gold answers → verdicts and rewards; resumes automatically", "logs", "grade"),
    "train": Command("train a policy, and a value model, on episodes; resumes automatically", "train"),
    "estimate": Command("memory and time of a training run, before it is started", "estimate"),
    "evaluate": Command("measure the accuracy of a policy, with standard errors and token costs", "evaluate"),
    "generate": Command("responses to your own prompts, with V per step; resumes automatically", "generate"),
    "credit": Command("where responses went wrong: V of every token and step, as a page", "credit"),
    "compare": Command("all methods on the same episodes; resumes automatically", "experiments", "compare"),
    "iterate": Command("train in rounds: collect, train, evaluate; resumes automatically", "experiments", "iterate"),
    "reproduce": Command(
        "run a recipe, from pretrained weights to its table of results; resumes automatically",
        "experiments",
        "reproduce",
    ),
    "alfworld": Command("build ALFWorld games (build), or play demonstrations (demonstrate)", "alfworld"),
    "view": Command("training curves, results and credit pages of a folder, live in the browser", "pages", "view"),
    "push": Command("a trained policy and value model to the hub, with a model card", "push"),
    "report": Command("result files → one self-contained HTML page", "pages", "report"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `stepcredit`. Exit codes: 0 success, 1 unexpected error, 2 bad input, 130 interrupted, 143
    terminated."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"stepcredit {__version__}")
        return 0
    if not sys.stderr.isatty():  # no download bars in a log
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    with _ended_by_signals(), _log_on_stderr():
        return _exit_code(arguments)


def console() -> NoReturn:
    """The `stepcredit` script: ends the process with the exit code of `main`. Outside of a command, while modules are
    loaded and when the process ends, an interrupt ends it at once."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        code = main()
    except KeyboardInterrupt as interrupt:  # a second one, while the first is told
        code = 143 if isinstance(interrupt, Terminated) else 130
    sys.exit(code)


def _exit_code(arguments: list[str]) -> int:
    """Runs a command and reports errors as one line; returns the exit code."""
    try:
        return _command(arguments[0]).run(arguments[1:])
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (InputError, OSError) as error:
        _say(f"error: {_told(error)}")
        return 2
    except Terminated:
        _say("terminated")
        return 143
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    except Exception as error:
        if os.environ.get("STEPCREDIT_TRACEBACK"):
            raise
        _say(f"unexpected error: {type(error).__name__}: {error}; STEPCREDIT_TRACEBACK=1 shows where; please report it")
        return 1


def _say(line: str) -> None:
    print(f"stepcredit: {one_line(line)}", file=sys.stderr)


def _told(error: Exception) -> str:
    """Returns the message of an error; for errors of the operating system, file and reason, and what to do where a disk
    is full."""
    if isinstance(error, OSError) and error.strerror:
        reason = why_not_written(error) if is_full(error) else error.strerror
        return ": ".join(str(part) for part in (error.filename, reason) if part is not None)
    return str(error)


class Terminated(KeyboardInterrupt):
    """Termination by SIGTERM, as sent by schedulers; cleanup is the same as for an interrupt."""


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Context manager in which SIGTERM raises `Terminated`, and SIGINT `KeyboardInterrupt` where it is not ignored; no
    effect outside the main thread."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    def send_again(dropped: sys.UnraisableHookArgs) -> None:
        """Python drops what is raised in destructors and callbacks of weak references: once more, a little later."""
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            number = signal.SIGTERM if issubclass(dropped.exc_type, Terminated) else signal.SIGINT
            threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
        else:
            previous_hook(dropped)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handled = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, signal.SIG_DFL):
        handled.append(signal.SIGINT)
    before = {number: signal.signal(number, end) for number in handled}
    previous_hook, sys.unraisablehook = sys.unraisablehook, send_again
    try:
        yield
    finally:
        sys.unraisablehook = previous_hook
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _log_on_stderr() -> Iterator[None]:
    """Context manager in which the package's log, such as what training decides at run time, goes to standard error."""
    logger, handler = logging.getLogger("stepcredit"), logging.StreamHandler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _command(name: str) -> Command:
    if name not in COMMANDS:
        hint = resembling(name, COMMANDS) or "; see stepcredit --help"
        raise InputError(f"unknown command {quoted(name)}{hint}")
    return COMMANDS[name]


def _overview() -> str:
    lines = [f"  {name:<11} {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "stepcredit: offline reinforcement learning for multi-step reasoning.",
            "",
            "usage: stepcredit COMMAND [--config file.yaml] [--flag value …]",
            "",
            *lines,
            "",
            "Every command explains itself: stepcredit COMMAND --help. Start with: stepcredit quickstart",
        ]
    )


if __name__ == "__main__":
    console()
