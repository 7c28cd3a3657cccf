"""Programs for PATH whose commands run in forked children, for shell scripts that call many.

A script sees what the real programs give: arguments, environment, folder, standard streams, status.
"""

import sys
from pathlib import Path

from pages import MODULES

from harness import CommandLines

CLIENT = """#!{python} -SsE
import json, os, signal, socket, sys
module, argv = {module!r}, sys.argv[1:]
if not module and argv and argv[0].endswith(".py"):
    module, *argv = argv
elif not module and argv[:1] == ["-m"] and argv[1].startswith(("fairseq_cli.", "vtlm_fairseq.cli.")):
    _, module, *argv = argv
elif not module:
    os.execv({python!r}, [{python!r}, *argv])
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.connect("\\0" + {address!r})
request = {{"module": module, "argv": argv, "cwd": os.getcwd(), "env": dict(os.environ), "timeout": 300}}
socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
child = int(server.recv(99))
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, _: os.kill(child, number))
status = int(server.recv(99))
sys.exit(status if status >= 0 else 128 - status)
"""


def write_programs(run: CommandLines, folder: Path) -> Path:
    """Write our commands, fairseq's and python into ``folder/bin``, as in a virtual environment; returns that folder.

    python starts a process where it is not given a script or the module of a command.
    """
    run.together([])  # waits until the process that forks is there
    (folder / "bin").mkdir(parents=True)
    for name, module in {**MODULES, "python": ""}.items():
        path = folder / "bin" / name
        path.write_text(CLIENT.format(python=sys.executable, module=module, address=run.forks.address))
        path.chmod(0o755)
    return folder / "bin"
