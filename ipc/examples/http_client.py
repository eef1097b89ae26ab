#!/usr/bin/env python3
"""An HTTP request with Python's own http.client over netd: http_client.py HOST PORT [PATH]"""

import http.client
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../python"))
import netd


class Connection(http.client.HTTPConnection):
    """An HTTP connection whose socket is netd's."""

    def connect(self):
        self.sock = netd.create_connection((self.host, self.port), timeout=10)


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    connection = Connection(sys.argv[1], int(sys.argv[2]))
    connection.request("GET", sys.argv[3] if len(sys.argv) == 4 else "/")
    sys.stdout.buffer.write(connection.getresponse().read())


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"http_client.py: {error}")
