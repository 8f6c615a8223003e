"""nginx and HAProxy as Debian ships them, in front of replicas of attnd, on free ports."""

import atexit
import http.client
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time

NGINX = pathlib.Path("/etc/nginx/nginx.conf")
HAPROXY = pathlib.Path("/etc/haproxy/haproxy.cfg")
NAME = "attnd"  # of the upstream; nginx makes it the Host that the daemon sees


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _nginx_command(ports, listen, where):
    """Debian's file; sites-enabled is ours, and what lies under /var and /run is in `where`. The
    limit of 1 MB for bodies is nginx' own answer and goes."""
    servers = "".join(f"server 127.0.0.1:{port};" for port in ports)
    paths = "".join(f"{kind}_temp_path {where}/{kind};"
                    for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    site = (f"{paths} upstream {NAME} {{ {servers} }} server {{ listen 127.0.0.1:{listen}; "
            f"client_max_body_size 0; location / {{ proxy_pass http://{NAME}; }} }}")
    text = NGINX.read_text()
    for old, new in (("include /etc/nginx/sites-enabled/*;", site),
                     ("pid /run/nginx.pid;", f"pid {where}/nginx.pid;"),
                     ("error_log /var/log/nginx/error.log;", f"error_log {where}/error.log;"),
                     ("access_log /var/log/nginx/access.log;", "access_log off;")):
        text = text.replace(old, new)
    if os.getuid() != 0:
        text = text.replace("user www-data;", "")
    (where / "nginx.conf").write_text(text)
    return ["nginx", "-e", f"{where}/error.log", "-c", f"{where}/nginx.conf", "-g", "daemon off;"]


def _haproxy_command(ports, listen, where):
    """Debian's section of defaults; its global one is about logging and users."""
    text = HAPROXY.read_text()
    servers = "".join(f"    server s{i} 127.0.0.1:{port}\n" for i, port in enumerate(ports))
    (where / "haproxy.cfg").write_text(
        "global\n\n" + text[text.index("\ndefaults") :].replace("log\tglobal", "") +
        f"\nlisten {NAME}\n    bind 127.0.0.1:{listen}\n{servers}")
    return ["haproxy", "-db", "-q", "-f", str(where / "haproxy.cfg")]


_COMMANDS = {"nginx": _nginx_command, "haproxy": _haproxy_command}


class Proxy:
    """As a context: answers on .port until the end of it."""

    def __init__(self, kind, daemons):
        self.kind, self._ports = kind, [daemon.port for daemon in daemons]

    def __enter__(self):
        self._where = pathlib.Path(tempfile.mkdtemp(prefix="attnd-proxy-"))
        self._where.chmod(0o755)  # nginx' workers are another user's
        for _ in range(5):  # the port may be taken between the look and the start
            self.port = _free_port()
            command = _COMMANDS[self.kind](self._ports, self.port, self._where)
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL,
                                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            atexit.register(self._process.kill)
            if self._answers():
                return self
        raise RuntimeError(f"{self.kind} does not start: {self._process.stderr.read().decode()}")

    def _answers(self):
        for _ in range(200):
            if self._process.poll() is not None:
                return False
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                    return True
            except OSError:
                time.sleep(0.02)
        return False

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait(30)
        self._process.stderr.close()
        shutil.rmtree(self._where, ignore_errors=True)

    def connection(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
