"""Signals: noted first, raised where nothing is half done; a second one ends the process at once."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from erase import signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_waits_for_the_next_check(number, code, capfd):
    before = signal.getsignal(number)
    with signals.graceful():
        signals.check()
        os.kill(os.getpid(), number)
        assert signals.stopping()
        with pytest.raises(signals.Interrupted) as stop:
            signals.check()
    assert stop.value.code == code
    assert "finishing this step" in capfd.readouterr().err
    assert not signals.stopping()
    assert signal.getsignal(number) is before


def test_an_echo_of_the_same_signal_is_no_second_one(monkeypatch):
    monkeypatch.setattr(signals, "TOGETHER", 60.0)
    with signals.graceful():
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(signals.Interrupted):
            signals.check()


def test_a_second_signal_ends_at_once():
    script = """if True:
        import os, signal, time
        from erase import signals
        with signals.graceful():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(signals.TOGETHER + 0.1)
            os.kill(os.getpid(), signal.SIGTERM)
            print("not reached", flush=True)
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (143, "")
    assert "stopped at once" in done.stderr


def test_outside_the_main_thread_nothing_is_changed():
    seen = []

    def work():
        with signals.graceful():
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals.graceful():
            os.kill(os.getpid(), signal.SIGINT)
            signals.check()
    finally:
        signal.signal(signal.SIGINT, before)
