"""The seconds in which a command imports: Ctrl-C ends it at once, and nothing looks for garbage."""

import gc
import signal
import sys
from pathlib import Path


def is_command() -> bool:
    """Tell whether this process is one of our commands, and no other program that imports a room."""
    started = getattr(sys.modules["__main__"], "__file__", None)
    return started is not None and Path(started).resolve().is_relative_to(Path(__file__).resolve().parents[1])


IS_COMMAND = is_command()
# Nothing is open yet that needs tidying up, and an exception in the midst of an import would print a stack. `run` turns
# Ctrl-C into KeyboardInterrupt again. Where it is ignored (nohup), it stays so, and pytest keeps its own handler.
if INTERRUPTIBLE := IS_COMMAND and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
# All that is imported stays. With torch and transformers, a quarter of the time went into going through it again and
# again for what could be freed.
if IS_COMMAND:
    gc.disable()


def collect_garbage_again() -> None:
    """Free what nobody can reach from now on; what was imported is not looked at again."""
    if IS_COMMAND:
        gc.freeze()
        gc.enable()
