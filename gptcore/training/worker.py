"""One process of a team: `python -m gptcore.training.worker JOB`, started by torchrun, told by `launch`.

It speaks to the process that launched it over a socket, one JSON object a line: who it is, then progress, lines to
say, and how it ended. The socket's end is its own end: a killed launcher leaves no worker behind.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

from gptcore.durable import locked
from gptcore.training.bound import die_with
from gptcore.work import Interrupted, Outcome

PATIENCE = timedelta(hours=2)
"""How long a process waits for the others: longer than an evaluation, shorter than a night."""


class Launcher:
    """The socket to the process that launched this one."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(f"\0{address}")

    def tell(self, **message: Any) -> None:
        """Send a message."""
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def listen(self, receive: Callable[[int], None]) -> None:
        """From now on signals arrive at `receive`; when the launcher is gone this process ends where it stands."""

        def wait() -> None:
            with self._socket.makefile("rb") as lines:
                for line in lines:
                    receive(int(json.loads(line)["signal"]))
            os._exit(1)

        threading.Thread(target=wait, daemon=True).start()


def main(job_file: str) -> None:
    """Do the job, and tell how it ended."""
    die_with(os.getppid())
    job = json.loads(Path(job_file).read_bytes())
    launcher = Launcher(job["address"])
    launcher.tell(hello=int(os.environ["RANK"]))
    signums: list[int] = []  # what arrives before there is a workspace to give it to
    deliver = [signums.append]
    launcher.listen(lambda signum: deliver[0](signum))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher's to hear
    signal.signal(signal.SIGTERM, lambda signum, _: deliver[0](signum))
    try:
        outcome = _run(job, launcher, signums, deliver)
        launcher.tell(results=outcome.results, metrics=outcome.metrics, notes=outcome.notes)
    except Interrupted as interrupted:
        launcher.tell(interrupted=interrupted.signum)
    except Exception as error:
        told: dict[str, Any] = {"error": type(error).__name__, "message": str(error)}
        if isinstance(error, OSError):
            told |= {"errno": error.errno, "message": error.strerror or str(error), "path": error.filename}
        launcher.tell(**told, trace=traceback.format_exc())
        os._exit(1)
    os._exit(0)  # the others may be gone already: nothing to say goodbye to


def _run(job: dict[str, Any], launcher: Launcher, signums: list[int], deliver: list[Callable[[int], None]]) -> Outcome:
    import torch
    import torch.distributed as dist

    from gptcore.config import Runtime
    from gptcore.hardware import resolve_device
    from gptcore.training.team import Member
    from gptcore.training.teams import team_like

    runtime = Runtime.model_validate(job["runtime"])
    directory = Path(job["directory"])
    local_rank = int(os.environ["LOCAL_RANK"])
    # The first waits until no process of a launch that was killed can still write.
    with locked(directory / "scratch" / "writer.lock") if local_rank == 0 else nullcontext():
        gpu = resolve_device(runtime) == "cuda"
        if gpu:
            torch.cuda.set_device(local_rank)
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=PATIENCE)
        team = team_like(job["parallel"])
        work = Member(directory, {name: Path(path) for name, path in job["inputs"].items()}, runtime, team=team)
        if team.writes:
            work.on_progress = lambda done, total, unit, **shown: launcher.tell(progress=[done, total, unit, shown])
            work.on_say = lambda line: launcher.tell(say=line)
        deliver[0] = work.receive
        for signum in signums:
            work.receive(signum)
        outcome = _stage(job, work)
        work.metrics.close()
        return outcome


def _stage(job: dict[str, Any], work: Any) -> Outcome:
    """The very function that one process would run."""
    from gptcore.config import Finetune, Model, Pretrain, Skill

    given = job["given"]
    if job["stage"] == "pretrain":
        from gptcore.training.pretrain import pretrain

        return pretrain(Model.model_validate(given["model"]), Pretrain.model_validate(given["config"]), work)
    from gptcore.training.finetune import finetune

    return finetune(Finetune.model_validate(given["config"]), Skill.model_validate(given["skill"]), work)


if __name__ == "__main__":
    main(sys.argv[1])
