"""Environments in workers: equal to those in this process, and what happens when they crash, hang or are killed."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import zlib
from collections import Counter

import pytest

from broken_environments import BadlyClosed, Deadly, Diary, OnlyIn, Recording, no_extra, no_luck
from stepcredit.errors import InputError
from stepcredit.rollouts.environment_workers import EnvironmentWorkers
from stepcredit.rollouts.local_environments import LocalEnvironments
from stepcredit.tasks.environment import Crash, Observation
from stepcredit.tasks.fetch import Fetch
from stepcredit.tasks.task import Problem


def problem(name, answer=""):
    return Problem(name, [{"role": "user", "content": "go"}], answer)


def named(worker, workers, count):
    """Problems that go to one worker."""
    names = (f"p{k}" for k in range(1000))
    return [problem(n) for n in names if zlib.crc32(n.encode()) % workers == worker][:count]


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(params=["local", "workers"])
def environments(request):
    made = LocalEnvironments(Diary) if request.param == "local" else EnvironmentWorkers(Diary, 2, 60.0)
    with made:
        yield made


def test_workers_answer_as_this_process_does():
    games = Fetch().problems("train", 9, seed=3)
    replies = ["open a", "open b", "take", "open c", "take", "jump", "open d", "take", "open e", "open f", "bring"]
    told = []
    with LocalEnvironments(Fetch().environment) as local, EnvironmentWorkers(Fetch().environment, 3) as workers:
        for wave in (games[:5], games[5:]):
            for many in (local, workers):
                heard = [many.reset(dict(enumerate(wave)))]
                for k, reply in enumerate(replies):
                    heard.append(many.step({n: reply for n in range(len(wave)) if (n + k) % 3}))
                told.append(heard)
    assert told[0] == told[1]
    assert told[2] == told[3]
    assert list(told[0][1]) == [1, 2, 4]
    assert len({o.text for o in told[0][0].values()}) > 1
    assert {o.text for answers in told[0] for o in answers.values()} >= {"empty", "a coin"}


class Careless(Diary):
    """An environment that answers what it should not."""

    def step(self, reply):
        return {"nothing": None, "reward": Observation("x", None), "function": Observation(lambda: 0)}[reply]


def test_what_is_no_answer_crashes_that_conversation():
    with EnvironmentWorkers(Careless, 1, 60.0) as environments:  # here the tests check types themselves
        environments.reset({k: problem(f"p{k}") for k in range(4)})
        answers = environments.step({0: "nothing", 1: "reward", 2: "function"})
        assert answers == {
            0: Crash("TypeError: an environment answers with an Observation, not with NoneType"),
            1: Crash("TypeError: reward of an Observation is NoneType"),
            2: Crash("TypeError: text of an Observation is function"),
        }
        assert environments.reset({3: problem("q")}) == {3: Observation("hello q")}


def test_conversations_keep_their_state_while_others_go_on(environments):
    assert environments.reset({k: problem(f"p{k}") for k in range(6)})[4] == Observation("hello p4")
    environments.step({4: "one"})
    environments.step(dict.fromkeys([0, 1, 2, 3, 5], "x"))
    environments.reset({2: problem("q")})
    answers = environments.step({5: "y", 4: "end", 2: "z"})
    assert list(answers) == [5, 4, 2]
    assert answers == {
        4: Observation("p4 one end", 0.25, True),
        5: Observation("p5 x y", 0.25),
        2: Observation("q z", 0.25),
    }
    assert environments.reset({}) == environments.step({}) == {}


def test_an_exception_crashes_one_conversation(environments):
    environments.reset({k: problem(f"p{k}") for k in range(6)})
    answers = environments.step({k: "raise" if k == 3 else "on" for k in range(6)})
    assert answers.pop(3) == Crash("KeyError: 'lost page'")
    assert answers == {k: Observation(f"p{k} on", 0.25) for k in answers}
    assert environments.step({3: "on"}) == {3: Crash("KeyError: 'lost page'")}
    answers = environments.reset({3: problem("p3"), 4: problem("bad", "no begin")})
    assert answers == {3: Observation("hello p3"), 4: Crash("ValueError: cannot begin")}
    assert environments.step({3: "on", 0: "off"}) == {3: Observation("p3 on", 0.25), 0: Observation("p0 on off", 0.25)}


def test_a_step_of_what_was_never_begun_is_a_crash(environments):
    assert environments.step({7: "on"}) == {7: Crash("this conversation was never begun")}


@pytest.mark.parametrize("make", [LocalEnvironments, lambda make: EnvironmentWorkers(make, 2, 60.0)])
def test_what_cannot_be_made(make):
    with make(no_luck) as unlucky:
        assert unlucky.reset({0: problem("p0")}) == {0: Crash("ZeroDivisionError: no luck")}
        assert unlucky.step({0: "on"}) == {0: Crash("ZeroDivisionError: no luck")}
    with make(no_extra) as lacking:
        for _ in range(2):
            with pytest.raises(InputError, match="needs the package castle") as caught:
                lacking.reset({k: problem(f"p{k}") for k in range(4)})
            assert caught.value.where == "task"
        assert lacking.step({0: "on"}) == {0: Crash("this conversation was never begun")}


def test_a_crash_while_closing_is_told_too():
    environments = LocalEnvironments(BadlyClosed)
    environments.reset({0: problem("p0"), 1: problem("p1")})
    assert environments.step({0: "raise"}) == {
        0: Crash("KeyError: 'lost page'; and when closed, OSError: cannot close")
    }
    with pytest.raises(OSError, match="cannot close"):
        environments.close()
    environments.close()


@pytest.mark.parametrize("make", [LocalEnvironments, lambda make: EnvironmentWorkers(make, 2, 60.0)])
def test_environments_are_reused_and_closed(make, tmp_path):
    path = tmp_path / "notes"
    with make(Recording(str(path)).environment) as many:
        many.reset(dict(enumerate(named(0, 2, 4))))
        many.reset(dict(enumerate(named(0, 2, 4))))
        assert Counter(path.read_text().split()) == {"made": 4}
        many.step({1: "raise"})
        assert Counter(path.read_text().split()) == {"made": 4, "closed": 1}
        many.step({1: "on"})
        many.reset({1: named(0, 2, 1)[0]})
        assert Counter(path.read_text().split()) == {"made": 5, "closed": 1}
    assert Counter(path.read_text().split()) == {"made": 5, "closed": 5}


def test_what_left_a_worker_is_taken_by_others(tmp_path):
    path = tmp_path / "notes"
    here, there = named(0, 2, 5), named(1, 2, 5)
    with EnvironmentWorkers(Recording(str(path)).environment, 2, 60.0) as workers:
        workers.reset({0: here[0], 1: here[1]})
        workers.reset({0: there[0]})
        assert Counter(path.read_text().split()) == {"made": 3}
        workers.reset({5: here[2]})
        assert Counter(path.read_text().split()) == {"made": 3}
        assert workers.step({0: "x", 1: "y", 5: "z"})[1] == Observation(f"{here[1].prompt_id} y", 0.25)


def test_equal_prompts_meet_in_one_worker():
    with EnvironmentWorkers(Diary, 2, 60.0) as workers:
        workers.reset({k: problem(f"p{k % 6}") for k in range(12)})
        pids = {k: int(o.text) for k, o in workers.step(dict.fromkeys(range(12), "pid")).items()}
        assert len(set(pids.values())) == 2
        assert set(pids.values()) == set(workers.pids)
        assert all(pids[k] == pids[k % 6] for k in pids)
        assert os.getpid() not in pids.values()


@pytest.mark.parametrize("asked_at_once", [True, False])
def test_a_killed_worker(asked_at_once):
    games = dict(enumerate(named(0, 2, 3) + named(1, 2, 2)))
    with EnvironmentWorkers(Diary, 2, 60.0) as workers:
        workers.reset(games)
        pid = int(workers.step({0: "pid"})[0].text)
        os.kill(pid, signal.SIGKILL)
        if not asked_at_once:
            time.sleep(0.5)
        killed = Crash("the environment's worker was killed by signal 9")
        assert workers.step({0: "on", 1: "on", 3: "on"}) == {
            0: killed,
            1: killed,
            3: Observation(f"{games[3].prompt_id} on", 0.25),
        }
        assert workers.step({2: "on", 1: "on"}) == {2: killed, 1: killed}
        assert workers.reset({1: games[1]}) == {1: Observation(f"hello {games[1].prompt_id}")}
        assert workers.step({1: "on", 2: "on", 4: "on"}) == {
            1: Observation(f"{games[1].prompt_id} on", 0.25),
            2: killed,
            4: Observation(f"{games[4].prompt_id} on", 0.25),
        }
        assert not is_running(pid)
        assert len(set(workers.pids)) == 2


def test_a_worker_that_died_while_idle_costs_no_reset():
    with EnvironmentWorkers(Diary, 1, 60.0) as workers:
        os.kill(workers.pids[0], signal.SIGKILL)
        time.sleep(0.5)
        assert workers.reset({0: problem("p0")}) == {0: Observation("hello p0")}


def test_answers_given_before_a_worker_ended_count():
    with EnvironmentWorkers(Diary, 1, 60.0) as workers:
        workers.reset({k: problem(f"p{k}") for k in range(3)})
        ended = Crash("the environment's worker ended with code 3")
        assert workers.step({0: "on", 1: "exit", 2: "on"}) == {0: Observation("p0 on", 0.25), 1: ended, 2: ended}
        assert workers.step({0: "on"}) == {0: ended}


def test_an_environment_that_hangs():
    games = dict(enumerate(named(0, 2, 2) + named(1, 2, 2)))
    with EnvironmentWorkers(Diary, 2, seconds=3.0) as workers:
        workers.reset(games)
        pids = set(workers.pids)
        start = time.monotonic()
        answers = workers.step({0: "on", 1: "hang", 2: "on"})
        spent = time.monotonic() - start
        late = Crash("the environment did not answer within 3 seconds")
        assert answers == {
            0: Observation(f"{games[0].prompt_id} on", 0.25),
            1: late,
            2: Observation(f"{games[2].prompt_id} on", 0.25),
        }
        assert 3.0 <= spent < 30.0
        assert workers.step({0: "on"}) == {0: late}
        assert len(set(workers.pids) & pids) == 1
        assert workers.reset({1: games[1]}) == {1: Observation(f"hello {games[1].prompt_id}")}
        assert workers.step({1: "on", 3: "on"})[1] == Observation(f"{games[1].prompt_id} on", 0.25)


def test_the_time_is_for_each_answer():
    with EnvironmentWorkers(Diary, 1, seconds=3.0) as workers:
        workers.reset({k: problem(f"p{k}") for k in range(8)})
        answers = workers.step(dict.fromkeys(range(8), "slow"))
        assert answers == {k: Observation(f"p{k} slow", 0.25) for k in range(8)}


def test_workers_run_beside_each_other():
    games = dict(enumerate(named(0, 2, 2) + named(1, 2, 2)))
    with EnvironmentWorkers(Diary, 2, 60.0) as workers:
        workers.reset(games)
        start = time.monotonic()
        workers.step(dict.fromkeys(games, "slow"))
        assert time.monotonic() - start < 4 * 0.6


def test_an_interrupted_call_leaves_no_stale_answers(monkeypatch):
    from stepcredit.rollouts import environment_workers

    with EnvironmentWorkers(Diary, 1, 60.0) as workers:
        workers.reset({0: problem("p0")})

        def interrupted(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(environment_workers, "wait", interrupted)
            with pytest.raises(KeyboardInterrupt):
                workers.step({0: "one"})
        assert workers.step({0: "two"}) == {0: Crash("the call was interrupted")}
        workers.reset({0: problem("p0")})
        assert workers.step({0: "three"}) == {0: Observation("p0 three", 0.25)}


def test_no_process_is_left():
    before = set(multiprocessing.active_children())
    workers = EnvironmentWorkers(Diary, 3, 60.0)
    pids = workers.pids
    assert len(set(pids)) == 3
    assert all(is_running(pid) for pid in pids)
    workers.close()
    workers.close()
    assert not any(is_running(pid) for pid in pids)
    assert set(multiprocessing.active_children()) == before
    with pytest.raises(RuntimeError, match="closed"):
        workers.reset({0: problem("p0")})


def test_closing_waits_for_nobody_who_hangs(monkeypatch):
    from stepcredit.rollouts import environment_workers

    monkeypatch.setattr(environment_workers, "GRACE", 0.5)
    with EnvironmentWorkers(Diary, 1, 60.0) as workers:
        workers.reset({0: problem("p0")})
        [pid] = workers.pids
        os.kill(pid, signal.SIGSTOP)
    assert not is_running(pid)


@pytest.mark.parametrize("hangs", [False, True])
def test_workers_end_with_their_parent(hangs):
    """Killed, without a chance to tell them; they do not listen to SIGINT."""
    code = (
        "import os, signal, time\n"
        "from broken_environments import Diary\n"
        "from stepcredit.rollouts.environment_workers import EnvironmentWorkers\n"
        "from stepcredit.tasks.task import Problem\n"
        "import threading\n"
        "w = EnvironmentWorkers(Diary, 1)\n"
        "w.reset({0: Problem('p', 'p', '')})\n"
        "os.kill(w.pids[0], signal.SIGINT)\n"
        "assert w.step({0: 'on'})[0].text == 'p on'\n"
        "print(w.pids[0], flush=True)\n"
        f"threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGKILL)).start()\n"
        f"w.step({{0: 'hang'}}) if {hangs} else time.sleep(60)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_path(), check=False)
    assert found.returncode == -signal.SIGKILL, found.stderr
    pid = int(found.stdout)
    end = time.monotonic() + 30
    while is_running(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_running(pid)


def test_a_worker_whose_parent_dies_before_it_has_started_says_nothing():
    code = (
        "import sys\n"
        "from multiprocessing import get_context\n"
        "from broken_environments import Diary\n"
        "from stepcredit.rollouts.environment_process import serve\n"
        "ours, theirs = get_context('spawn').Pipe()\n"
        "ours.send(Diary)\n"
        "ours.close()\n"
        "worker = get_context('spawn').Process(target=serve, args=(theirs,))\n"
        "worker.start()\n"
        "worker.join()\n"
        "sys.exit(worker.exitcode)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_path(), check=False)
    assert (found.returncode, found.stderr) == (0, "")


def _path():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Diary(), "make: cannot be sent to worker processes"),
        (OnlyIn(os.getpid()).environment, "environment: .*ModuleNotFoundError: no castle here"),
        (Deadly(os.getpid()).environment, "environment: .*does not start.*ended with code 7"),
    ],
)
def test_workers_that_cannot_start(make, match):
    before = set(multiprocessing.active_children())
    with pytest.raises(InputError, match=match):
        EnvironmentWorkers(make, 2)
    assert set(multiprocessing.active_children()) == before


def test_a_worker_that_cannot_be_started_again(monkeypatch):
    from stepcredit.rollouts import environment_process

    with EnvironmentWorkers(Diary, 1, 60.0) as workers:
        workers.reset({0: problem("p0")})
        with monkeypatch.context() as patch:
            patch.setattr(environment_process, "serve", print)
            answers = workers.step({0: "exit"})
            assert answers == {0: Crash("the environment's worker ended with code 3")}
            [crash] = workers.reset({0: problem("p0")}).values()
            assert "does not start: the environment's worker ended with code 0" in crash.reason
        assert isinstance(workers.reset({0: problem("p0")})[0], Crash | Observation)
        assert workers.reset({0: problem("p0")}) == {0: Observation("hello p0")}


@pytest.mark.parametrize(("count", "seconds", "field"), [(0, 1.0, "workers"), (1, 0.0, "seconds")])
def test_impossible_numbers(count, seconds, field):
    with pytest.raises(InputError) as caught:
        EnvironmentWorkers(Diary, count, seconds)
    assert caught.value.where == field


@pytest.mark.parametrize(("set_to", "found"), [(None, "1"), ("3", "3")])
def test_threads_of_a_worker(monkeypatch, set_to, found):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if set_to is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", set_to)
    with EnvironmentWorkers(Diary, 1, 60.0) as workers:
        workers.reset({0: problem("p0")})
        assert workers.step({0: "threads"})[0].text == found


def test_workers_load_no_torch():
    code = (
        "import stepcredit.rollouts.environment_workers, stepcredit.tasks.fetch, sys\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=_path())
