"""An OpenAI-compatible HTTP server that refuses every field it does not know, in front of a llama-server.

Run with the llama-server's address; the keys of both are in UPSTREAM_KEY and FRONT_KEY. It prints its own address.
"""

import json
import os
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KNOWN = {"model", "messages", "max_tokens", "temperature", "top_p", "stop", "seed"}
KNOWN_OF_A_MESSAGE = {"role", "content"}


class Handler(BaseHTTPRequestHandler):
    """Answers /v1/models and /v1/chat/completions, and nothing else."""

    def reply(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def refuse(self, status: int, words: str) -> None:
        self.reply(status, json.dumps({"error": {"message": words}}).encode())

    def hand_on(self, body: bytes | None) -> None:
        headers = {"Authorization": f"Bearer {os.environ['UPSTREAM_KEY']}", "Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(sys.argv[1] + self.path, body, headers)) as answer:
            self.reply(200, answer.read())

    def do_GET(self) -> None:
        self.hand_on(None) if self.path == "/v1/models" else self.refuse(404, "no such path")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        asked = json.loads(body)
        unknown = {*asked} - KNOWN | {key for message in asked["messages"] for key in message} - KNOWN_OF_A_MESSAGE
        if self.headers["Authorization"] != f"Bearer {os.environ['FRONT_KEY']}":
            self.refuse(401, "wrong key")
        elif self.path != "/v1/chat/completions" or unknown:
            self.refuse(400, f"unknown fields {sorted(unknown)}")
        else:
            self.hand_on(body)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
