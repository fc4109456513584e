"""A child process takes nothing but its own, cannot hang or flood its parent, and is gone when it should be."""

import asyncio
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from orchestrai.errors import PlatformError
from orchestrai.platforms import process
from orchestrai.platforms.child import Child
from orchestrai.platforms.cli_state import older

SCALE = float(os.environ.get("ORCHESTRAI_TEST_SCALE") or 0.1)
MIB = 2**20
PS = shutil.which("ps")
ENV = {"PATH": os.environ["PATH"]}

ECHO = """
import hashlib, json, os, sys
data = sys.stdin.buffer.read()
children = open(f"/proc/self/task/{os.getpid()}/children").read() if os.path.exists("/proc/self/task") else ""
said = {"argv": sys.argv[1:], "digest": hashlib.sha256(data).hexdigest(), "size": len(data), "cwd": os.getcwd(),
        "files": os.listdir(), "mode": os.stat(".").st_mode & 0o777, "env": dict(os.environ), "children": children,
        "leads": os.getpgrp() == os.getsid(0) == os.getpid()}
print(json.dumps(said))
"""
HOSTILE = (
    "--version",
    "-rf /",
    "$(touch x)",
    "`touch x`",
    "%PATH%",
    "a\nb\r\n",
    "; touch x #",
    "| touch x",
    "&& touch x",
    "> x",
    "~",
    "*",
    "\\",
    "'\"",
    "\x1b]0;x\x07",
    "\u202egnp.exe",
    "\U0010ffff",
    "@/etc/passwd",
    "/clear",
    "!ls",
    "${IFS}",
)


def python(*script):
    """Return the arguments by which Python runs a script, without its site packages."""
    return ["-I", "-S", "-c", textwrap.dedent("\n".join(script))]


async def started(script, **options):
    return await process.start(sys.executable, python(script), env=ENV, **options)


def in_group(group):
    """Return the processes of a group that still run."""
    listed = subprocess.run([PS, "-A", "-o", "pgid=,stat=,pid="], capture_output=True, text=True, check=True).stdout
    rows = [row.split() for row in listed.splitlines()]
    return [int(pid) for pgid, state, pid in rows if int(pgid) == group and not state.startswith("Z")]


def children():
    """Return the processes that this one has started, without the one that lists them."""
    listing = subprocess.Popen([PS, "-A", "-o", "ppid=,pid="], stdout=subprocess.PIPE, text=True)
    rows = [row.split() for row in listing.communicate()[0].splitlines()]
    return [int(pid) for ppid, pid in rows if int(ppid) == os.getpid() and int(pid) != listing.pid]


def until(condition, within_s=20.0):
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "not reached in time"
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = set(children())
    yield
    until(lambda: set(children()) <= before)


# What a child is given.


def test_a_prompt_is_never_an_option():
    """Hostile prompts reach stdin byte for byte; argv is what the program said, and nothing else is started."""
    count = max(30, round(300 * SCALE))
    chance = random.Random(20)
    texts = [*HOSTILE, "\0", "a\0b\0", "long " * 200_000]
    texts += ["".join(chance.choices((*HOSTILE, "\0", " ", "\n"), k=5)) for _ in range(count - len(texts))]

    async def echoed(number, text):
        name = HOSTILE[number % len(HOSTILE)]
        arguments = [*python(ECHO), "-p", f"--model={name}"]
        async with process.run(sys.executable, arguments, env=ENV) as child:
            child.write(text.encode())
            child.end_input()
            said = json.loads(await child.line())
            assert await child.exit() == 0
        assert said["argv"] == ["-p", f"--model={name}"]
        assert said["size"] == len(text.encode())
        assert said["digest"] == hashlib.sha256(text.encode()).hexdigest()
        assert (said["files"], said["children"], said["leads"]) == ([], "", True)
        assert child.input_whole

    async def all_of_them():
        for number, text in enumerate(texts):
            await echoed(number, text)

    asyncio.run(all_of_them())


@pytest.mark.parametrize("place", ["arguments", "names", "values", "binary"])
def test_a_nul_in_what_a_process_is_called_with_is_refused_unstarted(place):
    given = {
        "arguments": (sys.executable, ["--model=a\0b"], ENV),
        "names": (sys.executable, [], {"A\0": "b"}),
        "values": (sys.executable, [], {"A": "b\0"}),
        "binary": (sys.executable + "\0", [], ENV),
    }
    binary, arguments, env = given[place]
    with pytest.raises(PlatformError, match="NUL") as caught:
        asyncio.run(process.start(binary, arguments, env=env))
    assert caught.value.kind == "request"


def test_the_environment_is_built_from_nothing(monkeypatch):
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "CLAUDECODE", "LD_PRELOAD", "NODE_OPTIONS"):
        monkeypatch.setenv(name, "canary-0123456789")
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", "/somewhere")
    env = process.environment(["CLAUDE_CONFIG_DIR", "NOT_SET"], {"X": "1"})

    async def said():
        async with process.run(sys.executable, python(ECHO), env=env) as child:
            child.end_input()
            return json.loads(await child.line())

    found = asyncio.run(said())
    assert "canary" not in json.dumps(found)
    assert set(found["env"]) <= {*process.PASSED_ON, "CLAUDE_CONFIG_DIR", "X", "LC_CTYPE"}  # Python sets the last one
    assert (found["env"]["CLAUDE_CONFIG_DIR"], found["env"]["X"]) == ("/somewhere", "1")


def test_no_value_of_an_environment_shows_in_its_repr():
    env = process.environment(values={"TOKEN": "canary-0123456789"})
    assert "TOKEN" in repr(env)
    assert "canary" not in f"{env} {env!r} {[env]}"


def test_its_folder_is_empty_private_and_removed_with_it():
    async def said():
        async with process.run(sys.executable, python(ECHO), env=ENV) as child:
            child.end_input()
            return json.loads(await child.line())

    found = asyncio.run(said())
    assert (found["files"], found["mode"]) == ([], 0o700)
    assert not Path(found["cwd"]).exists()


def test_only_an_absolute_binary_that_can_be_started_is_started(tmp_path):
    plain = tmp_path / "no_program"
    plain.write_text("text")
    for binary, kind in (("cat", "request"), (str(tmp_path / "nothing"), "connection"), (str(plain), "connection")):
        with pytest.raises(PlatformError) as caught:
            asyncio.run(process.start(binary, env=ENV))
        assert caught.value.kind == kind
        assert not caught.value.may_be_billed


def test_a_program_is_found_in_absolute_folders_of_path_alone(monkeypatch, tmp_path):
    program = tmp_path / "orchestrai-test-program"
    program.write_text("#!/bin/sh\necho program 10.2.3-beta4\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", os.pathsep.join([".", "", "/nowhere"]))
    assert process.find_binary("orchestrai-test-program") is None
    monkeypatch.setenv("PATH", os.pathsep.join([".", str(tmp_path)]))
    assert process.find_binary("orchestrai-test-program") == str(program)
    assert process.version(str(program)) == "10.2.3-beta4"


def test_a_version_is_asked_once_while_the_program_stays_the_same(tmp_path):
    count, program = tmp_path / "count", tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho x >> {count}\necho 1.2.3\n")
    program.chmod(0o755)
    assert [process.version(str(program)) for _ in range(3)] == ["1.2.3"] * 3
    assert count.read_text() == "x\n"
    program.write_text(f"#!/bin/sh\necho x >> {count}\necho 'now 1.2.4!'\n")
    assert process.version(str(program)) == "1.2.4"
    assert process.version(str(tmp_path / "none")) is None


def test_a_program_that_answers_too_late_has_not_answered():
    asked = process.ask("/bin/sleep", ["60"], env=ENV, timeout_s=0.2)
    assert asked.code is None
    assert b"0.2 s" in asked.stderr


def test_a_question_can_be_asked_beside_a_running_loop():
    async def asked():
        return process.ask("/bin/echo", ["hello"], env=ENV)

    assert asyncio.run(asked()) == process.Asked(0, b"hello")


@pytest.mark.parametrize(
    ("version", "least", "is_older"),
    [
        ("2.1.9", "2.1.10", True),
        ("2.1.197", "2.1.100", False),
        ("0.58.0-nightly.99", "0.58.0", False),
        ("1", "1.0.1", True),
    ],
)
def test_versions_are_compared_by_their_numbers(version, least, is_older):
    assert older(version, least) is is_older


# What it cannot do.


SICK = {
    "ignores SIGTERM": "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(99)",
    "forks": """
        import os, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for _ in range(3): os.fork()
        print(1, flush=True)
        time.sleep(99)
    """,
    "prints 1 GB": """
        import sys
        line = b"x" * 65535 + b"\\n"
        for _ in range(16384): sys.stdout.buffer.write(line)
    """,
    "prints 1 GB in one line": """
        import sys
        for _ in range(16384): sys.stdout.buffer.write(b"x" * 65536)
    """,
    "prints 1 GB of errors": """
        import sys
        for _ in range(16384): sys.stderr.buffer.write(b"x" * 65535 + b"\\n")
    """,
    "prints nothing": "import time; time.sleep(99)",
    "closes early": "import os, time; os.close(0); os.close(1); os.close(2); time.sleep(99)",
    "ends early": "pass",
    "half a character": "import sys, time; sys.stdout.buffer.write(b'\\xf0\\x9f\\n\\xc3'); sys.stdout.flush(); time.sleep(99)",
}


@pytest.mark.parametrize("illness", SICK)
def test_cancelling_ends_a_sick_child_and_all_it_forked(illness):
    """Whatever it does, its group is gone, memory stays bounded and the cancellation passes."""
    groups = []

    async def reads():
        async with process.run(sys.executable, python(SICK[illness]), env=ENV) as child:
            groups.append(child.pid)
            child.write(b"x" * MIB)
            await asyncio.sleep(3_600) if illness == "prints nothing" else await child.line()
            await asyncio.sleep(3_600)

    async def cancelled():
        task = asyncio.create_task(reads())
        await asyncio.sleep(0.2)
        begun = time.monotonic()
        task.cancel()
        with pytest.raises((asyncio.CancelledError, PlatformError)):
            await task
        return time.monotonic() - begun

    before = memory()
    assert asyncio.run(cancelled()) < 20  # 2 s of grace and what a busy machine adds; never its own end after 99 s
    assert memory() - before < 64 * MIB
    until(lambda: not in_group(groups[0]))


@pytest.mark.parametrize("illness", ["prints 1 GB", "prints 1 GB in one line", "prints 1 GB of errors"])
def test_a_flood_is_a_typed_error_and_fits_into_bounded_memory(illness):
    async def reads():
        async with process.run(sys.executable, python(SICK[illness]), env=ENV) as child:
            async for _ in child.lines():
                pass

    before = memory()
    with pytest.raises(PlatformError, match="printed more than") as caught:
        asyncio.run(reads())
    assert (caught.value.kind, caught.value.may_be_billed) == ("reply", True)
    assert memory() - before < 64 * MIB + process.LARGEST_OUTPUT


def test_a_child_whose_lines_nobody_reads_waits():
    async def unread():
        async with process.run(sys.executable, python(SICK["prints 1 GB"]), env=ENV) as child:
            await asyncio.sleep(0.5)
            assert child.running
            assert len(child._lines) < 2 * MIB
            first = await child.line()
            assert first == b"x" * 65535

    asyncio.run(unread())


def test_a_child_that_closes_early_ends_its_lines_and_shows_that_its_input_was_cut():
    async def reads():
        async with process.run(sys.executable, python(SICK["closes early"]), env=ENV) as child:
            child.write(b"x" * 4 * MIB)
            child.end_input()
            assert [line async for line in child.lines()] == []
            assert not child.input_whole
            assert child.running

    asyncio.run(reads())


def test_half_a_character_is_handed_over_as_bytes():
    async def reads():
        child = await started(SICK["half a character"].replace("time.sleep(99)", ""))
        try:
            return [line async for line in child.lines()]
        finally:
            await child.close()

    assert asyncio.run(reads()) == [b"\xf0\x9f", b"\xc3"]


def test_the_wall_clock_ends_a_child_that_says_nothing():
    async def waits(wait):
        async with process.run(sys.executable, python(SICK["prints nothing"]), env=ENV, timeout_s=0.3) as child:
            await wait(child)

    for wait in (Child.line, Child.exit):
        with pytest.raises(PlatformError) as caught:
            asyncio.run(waits(wait))
        assert (caught.value.kind, caught.value.may_be_billed) == ("timeout", True)


def test_what_a_child_forked_ends_with_it():
    """Its own end is enough: nobody has to kill the rest, and a pipe held open by the rest holds up nobody."""
    script = """
        import os, time
        if os.fork():
            print("parent", flush=True)
        else:
            time.sleep(99)
    """

    async def reads():
        async with process.run(sys.executable, python(script), env=ENV) as child:
            assert [line async for line in child.lines()] == [b"parent"]
            assert await child.exit() == 0
            until(lambda: not in_group(child.pid))

    asyncio.run(reads())


def test_output_is_counted_anew_with_every_write():
    script = """
        import sys
        for line in sys.stdin:
            print("x" * 700_000, flush=True)
    """

    async def reads():
        async with process.run(sys.executable, python(script), env=ENV, largest=MIB) as child:
            for _ in range(5):
                child.write(b"go\n")
                assert len(await child.line()) == 700_000

    asyncio.run(reads())


def test_a_second_cancellation_kills_at_once():
    async def stubborn(ready):
        async with process.run(sys.executable, python(SICK["ignores SIGTERM"]), env=ENV) as child:
            ready.set_result(child.pid)
            await child.line()
            await asyncio.sleep(3_600)

    async def twice():
        ready = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(stubborn(ready))
        pid = await ready
        await asyncio.sleep(0.3)
        task.cancel()
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return pid

    pid = asyncio.run(twice())
    until(lambda: not in_group(pid))


def test_closing_twice_is_closing_once():
    async def closed():
        child = await started("print(1)")
        await child.close()
        await child.close()
        assert not child.running

    asyncio.run(closed())


# When its parent dies.


PARENT = """
    import asyncio, os, sys, time
    from orchestrai.platforms import process
    async def main():
        child = await process.start("/bin/sh", ["-c", "trap '' TERM; sleep 99 & sleep 98; sleep 97"], env={})
        forked = os.fork() if "fork" in sys.argv else None
        if forked == 0:
            time.sleep(99)
        print(child.pid, forked or 0, flush=True)
        await asyncio.sleep(0 if "leave" in sys.argv else 99)
        if "leave" in sys.argv:
            os._exit(3)
    asyncio.run(main())
"""


@pytest.mark.parametrize("end", ["kill", "term", "leave", "fork"])
def test_children_end_when_their_parent_dies(end):
    """However it dies, and also while a fork of it lives on."""
    parent = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(PARENT), end], stdout=subprocess.PIPE, text=True
    )
    try:
        group, forked = map(int, parent.stdout.readline().split())
        if end != "leave":
            assert in_group(group)
            os.kill(parent.pid, signal.SIGTERM if end == "term" else signal.SIGKILL)
        parent.wait(20)
        until(lambda: not in_group(group))
        if forked:
            os.kill(forked, signal.SIGKILL)  # it was there
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()


def test_a_forked_process_does_not_end_the_children_of_its_parent():
    script = """
        import asyncio, os
        from orchestrai.platforms import process
        async def main():
            child = await process.start("/bin/cat", env={})
            forked = os.fork()
            if forked == 0:
                child.kill()
                try:
                    child.close().send(None)  # by hand: the loop is the parent's
                except StopIteration:
                    os._exit(0)
                os._exit(1)
            assert os.waitpid(forked, 0)[1] == 0
            child.write(b"still here\\n")
            print((await child.line()).decode())
            await child.close()
        asyncio.run(main())
    """
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == ("still here\n", "", 0)


def test_the_guard_is_replaced_when_somebody_kills_it():
    async def replaced():
        async with process.run("/bin/sleep", ["99"], env=ENV) as first:
            guard = next(pid for pid in children() if pid != first.pid)
            os.kill(guard, signal.SIGKILL)
            until(lambda: "Z" in state(guard))
            async with process.run("/bin/sleep", ["99"], env=ENV) as second:  # notices it
                assert guard not in children()
            async with process.run("/bin/sleep", ["99"], env=ENV) as second:
                assert len(set(children()) - {first.pid, second.pid}) == 1

    asyncio.run(replaced())


def state(pid):
    return subprocess.run([PS, "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout


# How many at once.


def test_places_follow_the_free_memory():
    gib = 2**30
    assert process.places(8 * gib, gib, 16, reserve=gib) == 7
    assert process.places(100 * gib, gib, 16) == 16
    assert process.places(0, gib, 16) == 1
    assert process.places(gib, gib, 16, reserve=4 * gib) == 1
    assert process.places(None, gib, 16) == 2
    assert process.places(None, gib, 1) == 1


def test_free_memory_is_told_and_plausible():
    free = process.free_memory()
    assert free is not None
    assert 0 <= free < 2**50


def memory():
    """Return the memory of this process [bytes]."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
