"""A child for the tests: does what its request says."""

import os
import sys
import time

from r1ray.sandbox.server import serve


def handle(request):
    match request["do"]:
        case "echo":
            return request["value"]
        case "pid":
            return os.getpid()
        case "print":
            sys.stdout.write("noise between the messages")
            return "done"
        case "raise":
            raise ValueError("as asked")
        case "hang":
            while True:
                pass
        case "sleep":
            time.sleep(request["seconds"])
        case "power":
            return (9 ** (9**9)) % 10
        case "allocate":
            return len(bytearray(request["bytes"]))
        case "recurse":
            return handle(request)
        case "exit":
            os.write(2, b"last words")
            os._exit(3)
        case "grandchild":
            pid = os.fork()
            if pid == 0:
                time.sleep(600)
            return pid


if __name__ == "__main__":
    serve(handle)
