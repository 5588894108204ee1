"""Execute a command that may make no sockets of IPv4 and IPv6, as RestrictAddressFamilies=AF_UNIX has it: restrict.py COMMAND…"""

import ctypes
import os
import platform
import struct
import sys

SOCKET = {"x86_64": 41, "aarch64": 198}[platform.machine()]
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERRNO, EAFNOSUPPORT = 0x7FFF0000, 0x00050000, 97
program = [
    (LOAD, 0, 0, 0),            # the system call's number
    (EQUAL, 0, 4, SOCKET),
    (LOAD, 0, 0, 16),           # its first argument
    (EQUAL, 1, 0, 2),           # AF_INET
    (EQUAL, 0, 1, 10),          # AF_INET6
    (RETURN, 0, 0, ERRNO | EAFNOSUPPORT),
    (RETURN, 0, 0, ALLOW),
]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *i) for i in program))
filter = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
prctl = ctypes.CDLL(None, use_errno=True).prctl
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter, 0, 0):
    sys.exit("prctl: " + os.strerror(ctypes.get_errno()))
os.execv(sys.argv[1], sys.argv[1:])
