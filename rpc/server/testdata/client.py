"""A client of csbd in a few lines: python3 client.py SOCKET"""

import json
import socket
import sys

with socket.socket(socket.AF_UNIX) as s:
    s.connect(sys.argv[1])
    for i, word in enumerate(["zero", "one", "two"]):
        request = {"jsonrpc": "2.0", "id": i, "method": "execute",
                   "params": {"code": f"print({word!r})", "limits": {"timeout": "30s"}}}
        s.sendall(json.dumps(request).encode() + b"\n")
    s.shutdown(socket.SHUT_WR)
    answers = [json.loads(line) for line in s.makefile("rb")]

for a in sorted(answers, key=lambda a: a["id"]):
    print(a["id"], a["result"]["stdout"], end="")
