from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

from orchestrai.ledger.lock import SignOfLife, WriteLock, is_alive

HOLD = """
import sys, time
from pathlib import Path
from orchestrai.ledger.lock import SignOfLife
life = SignOfLife(Path(sys.argv[1]), "other")
print("ready", flush=True)
time.sleep(600)
"""


def test_an_owner_is_alive_until_its_process_is_gone_however_it_ends(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    assert is_alive(tmp_path, "other")
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not is_alive(tmp_path, "other")


def test_an_owner_that_never_was_is_not_alive(tmp_path):
    assert not is_alive(tmp_path, "nobody")


def test_our_own_sign_of_life_holds_until_we_close_it(tmp_path):
    life = SignOfLife(tmp_path, "me")
    assert is_alive(tmp_path, "me")
    life.close()
    assert not is_alive(tmp_path, "me")


def test_threads_of_one_process_take_the_write_lock_one_after_another(tmp_path):
    lock = WriteLock(tmp_path / "lock")
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(200):
            with lock:
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lock.close()
    assert most == 1
