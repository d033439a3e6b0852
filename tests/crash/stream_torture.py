"""A service that is killed with SIGKILL again and again, and always goes on.

python stream_torture.py FOLDER SOURCE RECORDS KILLS SEED: SOURCE, a file or the address of a stream, holds so many
records. The parent imports everything once and forks; each child goes on with the service, and the parent kills it at a
random time. A service that comes to the end of its stream before its time is followed by another one. Prints how often
one was killed, and how many there were.
"""

import sys
from pathlib import Path

from killing import kill_often

from everlearn.online.drift import Drift
from everlearn.online.making import make_online
from everlearn.online.opening import begin_service, resume_service
from everlearn.online.settings import make_settings
from everlearn.streams.opening import open_feed


def settings(folder: Path, source: str, out: str) -> dict[str, object]:
    return {
        "source": source,
        "label": "label",
        "out": str(folder / out),
        "model": "mlp:hidden=16x16,dropout=0.2",
        "method": "er:memory=50,count=8",
        "optimizer": "adam:lr=0.003",
        "reactions": "boost:steps=50",
        "cooldown": 100,
        "window": 100,
        "batch_size": 2,
        "capacity": 200,
        "predictions": True,
        "checkpoint_rows": 12,
        "checkpoint_seconds": 0.0,
    }


def go_on(folder: Path, source: str, records: int, out: str) -> None:
    """What `everlearn stream` and `everlearn resume` do."""
    there = (folder / out / "config.json").is_file()
    asked = make_settings(settings(folder, source, out))
    service = resume_service(folder / out, print) if there else begin_service(asked)
    for moment in service.steps():
        if moment.idle and moment.records >= records:  # what is not a file has no end
            break
    service.save()


def main(folder: Path, source: str, records: int, kills: int, seed: int) -> None:
    make_online(), Drift(), open_feed(source)  # what they import, no child has to import again
    kill_often(lambda out: go_on(folder, source, records, out), kills, seed)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
