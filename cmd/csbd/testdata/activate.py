"""Pass sockets to a command as systemd does: activate.py TYPE PATH [TYPE PATH…] -- COMMAND…

TYPE is stream or dgram. The sockets get mode 0600, which the command must not change.
"""

import os
import socket
import sys

split = sys.argv.index("--")
specs, command = sys.argv[1:split], sys.argv[split + 1:]
sockets = []
for kind, path in zip(specs[::2], specs[1::2]):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM if kind == "stream" else socket.SOCK_DGRAM)
    s.bind(path)
    os.chmod(path, 0o600)
    if kind == "stream":
        s.listen()
    sockets.append(s)
# First out of the way, then to 3 and up.
high = [os.dup2(s.fileno(), 100 + i) for i, s in enumerate(sockets)]
for i, fd in enumerate(high):
    os.dup2(fd, 3 + i, inheritable=True)
os.environ.update(LISTEN_FDS=str(len(high)), LISTEN_PID=str(os.getpid()))
os.closerange(3 + len(high), 200)
os.execv(command[0], command)
