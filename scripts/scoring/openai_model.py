"""What an OpenAI-compatible server serves, and a chat completion in the fields that every such server knows.

Such a server tells the name of its models and nothing of their weights. So each one has to list the same model, and to
write the same few tokens as the first one. Of the checkpoint that is named as evaluated, the name alone is checked.
"""

import asyncio
from dataclasses import dataclass

from files.input_errors import InputError
from files.json_records import sha256_json
from scoring.served_model import CHECK_SECONDS, PROBE
from scoring.server_pool import NO_ANSWER, NO_COMPLETION, AskedServer, ServerPool

FIELDS = ("max_tokens", "temperature", "top_p", "stop", "seed")
PROBE_TOKENS = 8


def openai_body(body: dict, model: str) -> dict:
    """Return a chat completion of lm-eval's in standard fields: servers may refuse others."""
    messages = [{"role": message["role"], "content": message["content"]} for message in body["messages"]]
    return {"model": model, "messages": messages, **{key: body[key] for key in FIELDS if key in body}}


@dataclass
class OpenAiModel:
    """The model that all servers have to serve. name: as given; model, written: as the first server has them."""

    name: str
    model: str | None = None
    written: str | None = None

    async def check(self, pool: ServerPool, server: AskedServer) -> None:
        """Raise InputError, which names the server, when it cannot be asked or serves another model than the first."""
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                served = [entry["id"] for entry in (await pool.request(server, "/v1/models"))["data"]]
                model = next((one for one in served if self.name in (one, one.rsplit("/", 1)[-1])), served[0])
                asked = {"messages": [{"role": "user", "content": PROBE}], "max_tokens": PROBE_TOKENS, "temperature": 0}
                reply = await pool.request(server, "/v1/chat/completions", openai_body(asked | {"seed": 1}, model))
                written = sha256_json(reply["choices"][0]["message"])
        except TimeoutError as error:
            raise InputError(server.name, f"an answer within {CHECK_SECONDS} s", "none") from error
        except (*NO_ANSWER, *NO_COMPLETION) as error:
            found = str(error) or type(error).__name__
            raise InputError(server.name, "an OpenAI-compatible server that answers", found) from error
        if self.name not in (model, model.rsplit("/", 1)[-1]):
            found = ", ".join(map(repr, served))[:200]
            raise InputError(server.name, f"a model {self.name}", found, "serve it by that name, then the same command")
        self.model, self.written = self.model or model, self.written or written
        if model != self.model:
            raise InputError(server.name, f"the model {self.model} of the first server", repr(model))
        if written != self.written:
            raise InputError(server.name, "the words of the first server", "others", "another model, or other hardware")
        server.worded = lambda body: openai_body(body, model)
