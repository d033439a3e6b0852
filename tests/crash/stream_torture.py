"""A service that is killed with SIGKILL again and again, and always goes on.

python stream_torture.py FOLDER SOURCE KILLS SEED: SOURCE is "file", or the address of a stream in Redis, which is
filled first. The parent imports everything once and forks; each child goes on with the service, and the parent kills it
at a random time. A service that comes to the end of its stream before its time is followed by another one. Prints how
often one was killed, and how many there were.
"""

import json
import random
import sys
from pathlib import Path

from killing import kill_often

from everlearn.checkpoint import terminating
from everlearn.online.drift import Drift
from everlearn.online.making import make_online
from everlearn.online.opening import begin_service, resume_service
from everlearn.online.settings import make_settings

ROWS = 240


def messages(seed: int = 0) -> list[dict[str, object]]:
    """Rows of three classes and their labels, later; one in ten comes twice, and all are a bit out of order."""
    chance = random.Random(seed)
    sent = []
    for number in range(ROWS):
        label = chance.choice("abc")
        centre = "abc".index(label) - 1 + 0.5 * (number > ROWS // 2)
        row = {"x": chance.gauss(centre, 0.4), "z": chance.gauss(-centre, 0.4), "day": chance.choice(("mon", "tue"))}
        named = {"id": f"r{number}", "time": 1e9 + number}
        for message, late in ((named | row, 0.0), (named | {"label": label}, chance.uniform(0, 25))):
            times = 1 + (chance.random() < 0.1)
            sent += [(number + late + chance.uniform(0, 4), message) for _ in range(times)]
    return [message for _, message in sorted(sent, key=lambda pair: pair[0])]


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


def go_on(folder: Path, source: str, out: str) -> None:
    """What `everlearn stream` and `everlearn resume` do."""
    there = (folder / out / "config.json").is_file()
    asked = make_settings(settings(folder, source, out))
    service = resume_service(folder / out, print) if there else begin_service(asked)
    with terminating():
        for moment in service.steps():
            if moment.idle and service.tally.records >= len(messages()):  # what is not a file has no end
                break
    service.save()


def prepare(folder: Path, source: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "stream.jsonl"
    path.write_text("".join(json.dumps(message) + "\n" for message in messages()))
    if source == "file":
        return str(path)
    from redis import Redis

    address, _, name = source.rpartition("/")
    with Redis.from_url(address) as server:
        for message in messages():
            server.xadd(name, {"body": json.dumps(message)})
    return source


def main(folder: Path, source: str, kills: int, seed: int) -> None:
    source = prepare(folder, source)
    make_online(), Drift()  # what they import, no child has to import again
    kill_often(lambda out: go_on(folder, source, out), kills, seed)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
