"""An HTTP server that starts as llama-server does and fails as it does; run with a file that counts its requests.

What it answers stands in the question: "parser" the parser's error, "busy" another HTTP 500 twice and then an answer,
"broken" another HTTP 500 for ever.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# llama-server's own words, as the damaged model of test_eval_faults.py gets them.
PARSER = "The model produced output that does not match the expected peg-gemma4 format"
ANSWER = {"choices": [{"message": {"content": "The answer is (A)."}, "finish_reason": "stop"}]}


class Handler(BaseHTTPRequestHandler):
    """Answers /health and chat completions."""

    def reply(self, status: int, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.reply(200, {"status": "ok"})

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][-1]["content"]
        word = next(word for word in ("parser", "busy", "broken") if word in question)
        counts = Path(sys.argv[1])
        asked = counts.read_text().split() if counts.exists() else []  # in a file: the server is restarted
        counts.write_text(" ".join([*asked, word]))
        if word == "busy" and asked.count(word) == 2:
            self.reply(200, ANSWER)
        else:
            message = PARSER if word == "parser" else "Compute error."
            self.reply(500, {"error": {"code": 500, "message": message, "type": "server_error"}})


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
