"""Environments that crash, hang or cannot be made; in a module that spawned workers can import."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from stepcredit.errors import InputError
from stepcredit.tasks.environment import Observation


class Diary:
    """Answers with all that it has been told; does what some words say."""

    def reset(self, problem):
        if problem.answer == "no begin":
            raise ValueError("cannot begin")
        self.told = [problem.prompt_id]
        return Observation(f"hello {problem.prompt_id}")

    def step(self, reply):
        if reply == "raise":
            raise KeyError("lost page")
        if reply == "hang":
            time.sleep(600)
        if reply == "exit":
            os._exit(3)
        if reply == "slow":
            time.sleep(0.6)
        if reply == "threads":
            return Observation(os.environ.get("OMP_NUM_THREADS", ""))
        if reply == "pid":
            return Observation(str(os.getpid()))
        if reply == "self":
            return Observation(str(id(self)))
        self.told.append(reply)
        return Observation(" ".join(self.told), reward=0.25, done=reply == "end")

    def close(self):
        pass


class BadlyClosed(Diary):
    def close(self):
        raise OSError("cannot close")


def no_extra():
    raise InputError("needs the package castle; pip install castle", "task")


def no_luck():
    raise ZeroDivisionError("no luck")


class Recorded(Diary):
    """Writes down that it was made and closed."""

    def __init__(self, path):
        self.path = path
        self.note("made")

    def note(self, word):
        with Path(self.path).open("a") as file:
            file.write(f"{word}\n")

    def close(self):
        self.note("closed")


@dataclass
class Recording:
    """A task that makes these."""

    path: str

    def environment(self):
        return Recorded(self.path)


@dataclass
class OnlyIn:
    """Can be unpickled in the process that made it alone."""

    pid: int

    def __setstate__(self, state):
        if state["pid"] != os.getpid():
            raise ModuleNotFoundError("no castle here")

    def environment(self):
        return Diary()


@dataclass
class Deadly:
    """Kills the process that it is unpickled in."""

    pid: int

    def __setstate__(self, state):
        if state["pid"] != os.getpid():
            os._exit(7)

    def environment(self):
        return Diary()
