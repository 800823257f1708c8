"""Worker programs in several processes over gloo, with a watchdog."""

import os
import socket
import subprocess
import sys
from pathlib import Path

SUPPORT = Path(__file__).parent
# What a test waits for at most.
WATCHDOG = 240.0


def environment(**more):
    """The environment of a worker: one thread, and the modules of this folder."""
    paths = os.pathsep.join(filter(None, [str(SUPPORT), os.environ.get("PYTHONPATH")]))
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **threads, "PYTHONPATH": paths, **more}


def torchrun(count, worker, *arguments, watchdog=WATCHDOG):
    """Run a worker program under torchrun; the test fails with its output unless it ends well."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    with subprocess.Popen(
        [sys.executable, *launch, str(worker), *map(str, arguments)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=watchdog)
        finally:
            process.kill()
    assert process.returncode == 0, output


def processes(count, worker, folder, *arguments):
    """Start a worker program in processes that nobody watches over, and return them.

    torchrun would end them all when one ends, whether or not they would have found out. What each
    says is in FOLDER/said-RANK.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    started = []
    for rank in range(count):
        own = {key: str(value) for key, value in world.items()} | {"MASTER_ADDR": "127.0.0.1"}
        own |= dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank))
        with (folder / f"said-{rank}").open("w") as said:
            command = [sys.executable, str(worker), str(folder), *map(str, arguments)]
            started.append(
                subprocess.Popen(command, env=environment(**own), stdout=said, stderr=said)
            )
    return started
