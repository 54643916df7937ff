"""Chat templates run in a process of their own, with limits of time and memory.

A chat template is a program by whoever made the model. Jinja's sandbox, which transformers uses, keeps it from files
and from Python's insides, but not from a loop without end or a text of 100 GB. The process is forked once, so that it
has nothing to import, holds no file of ours open, and is asked for one chat after the other.
"""

import json
import mmap
import multiprocessing
import os
import random
import re
import resource
import signal
import time
from datetime import datetime
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from files.input_errors import reason_of

if TYPE_CHECKING:  # importing transformers takes seconds, and only the caller's tokenizer needs it
    from transformers import PreTrainedTokenizerBase

WORK_SECONDS = 2  # of processor time for one chat, which takes milliseconds; a loaded machine does not count
# What each further chat adds to what is left of that: a template may not take the whole of it again and again.
SECONDS_PER_CHAT = 0.05
WAIT_SECONDS = 300  # by the clock, for the case that the process neither works nor ends
MEMORY_BYTES = 1 << 30  # beyond what the process has when it begins
MOST_ADDRESSES = 1 << 56  # bytes: no processor gives one process more
# A text may have so many times the characters of the chat and its tools as JSON, and so many of the template's own. It
# is tokenised without limits, for every question and more than once, so it must stay near to what was asked. Of the
# templates that come with llama.cpp the longest writes 5,700 characters around one letter; tools are indented at most.
TIMES_THE_CHAT, OWN_CHARACTERS = 4, 1 << 15
# A template that writes the date, or draws something, would give other texts tomorrow: a run that goes on after a kill
# would be made of two. So it is always this day, and every chat is drawn alike.
TODAY, DRAWN_BY = datetime(2026, 1, 1), 0
# How Python writes what has no text of its own, such as a function of Jinja's: by its address, another one each time.
ADDRESS = re.compile(r"0x[0-9a-f]{8,}", re.IGNORECASE)
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # a terminal obeys some, and texts are looked at there


class TemplateFailure(Exception):
    """A chat template that fails; its text is one line. `endless`: by more time or memory than a chat needs."""

    def __init__(self, reason: str, endless: bool = False) -> None:
        super().__init__(reason)
        self.endless = endless


class _Renderer:
    """The process that renders, and the pipe to it. `owner` is the process that may ask it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, other_end = context.Pipe()
        self.process = context.Process(target=_serve, args=(other_end,), daemon=True)
        self.process.start()
        other_end.close()
        self.owner = os.getpid()

    def ask(self, request: dict) -> dict:
        """Return the process's answer. Raises TemplateFailure when there is none within the limits."""
        try:
            self.pipe.send_bytes(json.dumps(request).encode())
            if self.pipe.poll(WAIT_SECONDS):
                return json.loads(self.pipe.recv_bytes())
        except (EOFError, OSError):  # how a pipe says that the other end has gone
            pass
        self.process.kill()
        self.process.join()
        code = self.process.exitcode or 0
        if code in (-signal.SIGPROF, -signal.SIGKILL):
            raise TemplateFailure(f"no end after {WORK_SECONDS} s of work", endless=True)
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise TemplateFailure(f"an end of its process by {how}", endless=True)


_renderers: list[_Renderer] = []  # one at most: of this process


def render_template(template: str, chat: list[dict], **options: Any) -> str:
    """Render a chat as transformers does, in a process with limits. Raises TemplateFailure.

    options: those of transformers' render_jinja_template, and what else the template may ask for.
    """
    if _renderers and (_renderers[0].owner != os.getpid() or not _renderers[0].process.is_alive()):
        _renderers.clear()  # of the process that forked this one, or ended by a template
    if not _renderers:
        _renderers.append(_Renderer())
    answer = _renderers[0].ask({"template": template, "chat": chat, "options": options})
    if "failure" in answer:
        raise TemplateFailure(answer["failure"], answer["endless"])
    return answer["text"]


def render_chat(tokenizer: "PreTrainedTokenizerBase", chat: list[dict], **options: Any) -> str:
    """Render a chat by a tokenizer's own template, as its apply_chat_template does. Raises TemplateFailure."""
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:  # several templates, and none is the default
        raise TemplateFailure(reason_of(error)) from error
    return render_template(template, chat, **{**tokenizer.special_tokens_map, **options})


def _serve(pipe: Connection) -> None:
    """Render what is asked, in the new process, until the pipe is closed."""
    # A lock or a pipe of the parent must not outlive it here.
    nothing, kept = os.open(os.devnull, os.O_RDWR), pipe.fileno()
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.closerange(3, kept)
    os.closerange(kept + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end closes the pipe
    for ending in (signal.SIGPROF, signal.SIGTERM):
        signal.signal(ending, signal.SIG_DFL)
    from transformers.utils import chat_template_utils

    vars(chat_template_utils)["datetime"] = SimpleNamespace(now=lambda: TODAY)  # of its strftime_now
    os.environ["TZ"] = "UTC"  # the seconds of that day begin elsewhere in other zones
    time.tzset()
    _limit_memory()
    left: float = WORK_SECONDS
    try:
        while True:
            request = json.loads(pipe.recv_bytes())
            signal.setitimer(signal.ITIMER_PROF, left)  # its signal ends even what never returns to Python
            answer = _answer(chat_template_utils.render_jinja_template, request)
            left = min(WORK_SECONDS, signal.setitimer(signal.ITIMER_PROF, 0)[0] + SECONDS_PER_CHAT)
            pipe.send_bytes(json.dumps(answer).encode())
    except (EOFError, OSError):
        os._exit(0)


def _limit_memory() -> None:
    """Limit the addresses of this process to what it has and MEMORY_BYTES."""
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    # What it has is the least limit that leaves room for one page more. /proc would tell it, and is not always there.
    too_little, enough = 0, MOST_ADDRESSES if most == resource.RLIM_INFINITY else most
    while enough - too_little > MEMORY_BYTES >> 6:
        tried = (too_little + enough) // 2
        resource.setrlimit(resource.RLIMIT_AS, (tried, most))
        try:
            mmap.mmap(-1, mmap.PAGESIZE).close()
            enough = tried
        except (OSError, MemoryError):
            too_little = tried
    limit = enough + MEMORY_BYTES if most == resource.RLIM_INFINITY else min(enough + MEMORY_BYTES, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _answer(render: Any, request: dict) -> dict:
    random.seed(DRAWN_BY)
    try:
        texts = render([request["chat"]], chat_template=request["template"], **request["options"])[0]
    except MemoryError:
        return {"failure": f"more than {MEMORY_BYTES >> 30} GiB of memory taken", "endless": True}
    except Exception as error:  # a template is a program: it can fail in any way
        # Jinja's sandbox refuses a range of more than 100,000 numbers, which llama-server would make.
        return {"failure": reason_of(error), "endless": isinstance(error, OverflowError | RecursionError)}
    asked = json.dumps([request["chat"], request["options"].get("tools")])
    if len(texts[0]) > TIMES_THE_CHAT * len(asked) + OWN_CHARACTERS:
        return {"failure": f"a text of {len(texts[0])} characters for a chat of {len(asked)}", "endless": True}
    if any(found not in asked + request["template"] for found in ADDRESS.findall(texts[0])):
        return {"failure": "a text with an address of this process's memory, another one each time", "endless": True}
    if signs := [sign for sign in sorted({*CONTROL.findall(texts[0])}) if json.dumps(sign)[1:-1] not in asked]:
        return {"failure": f"a text with the control character {signs[0]!r}, which no chat has", "endless": False}
    return {"text": texts[0]}
