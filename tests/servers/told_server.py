"""An OpenAI-compatible HTTP server that answers what it was told to; run with a JSON file of texts by their questions.

The question is one that the last message holds. Whatever is asked besides gets the text of "".
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TOLD = json.loads(Path(sys.argv[1]).read_text())


class Handler(BaseHTTPRequestHandler):
    """Answers /v1/models and chat completions."""

    def reply(self, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.reply({"data": [{"id": "models/demo"}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][-1]["content"]
        text = next((text for question, text in TOLD.items() if question and question in asked), TOLD[""])
        self.reply({"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": None})


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
