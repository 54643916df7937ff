"""What a C library prints past Python is dropped, and only that."""

import ctypes

from files.silence import silent_stdout


def test_only_what_is_printed_meanwhile_is_dropped(capfd):
    c = ctypes.CDLL(None)
    c.printf(b"before\n")
    with silent_stdout():
        c.printf(b"meanwhile, in C\n")
        print("meanwhile, in Python", flush=True)
    c.printf(b"after\n")
    c.fflush(None)
    assert capfd.readouterr().out.split() == ["before", "after"]
