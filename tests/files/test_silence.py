"""What a C library prints past Python is dropped, and only that."""

import ctypes
import os

from files.silence import silent_stdout


def test_only_what_is_printed_meanwhile_is_dropped(capfd):
    c = ctypes.CDLL(None)
    c.printf(b"before\n")
    with silent_stdout():
        c.printf(b"meanwhile, in C\n")
        os.write(1, b"meanwhile, past every buffer\n")
    c.printf(b"after\n")
    c.fflush(None)
    assert capfd.readouterr().out.split() == ["before", "after"]
