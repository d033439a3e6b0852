"""Unsupervised adaptation on digits: the pairs of TLlib's table, and MNIST to MNIST-M of Ganin et al. arXiv:1505.07818.

TLlib's table (in its documentation at commit 07be169) has one run for each number, of 50,000 steps of 128 + 128 rows
and at the epoch that the labels of the target choose. Ours are 2,000 steps of 32 + 32 rows, a minute or two of a core:
so nothing is claimed about its numbers, which stand in the notes. That adaptation helps, without a look at any label,
is what the orderings are for. Rows named long take 10,000 steps of 64 + 64, a quarter of an hour. All rows of a pair
share net, optimizer and steps; methods have the settings of TLlib, where it has some.
"""

from dataclasses import replace

from everlearn.bench.adapted import Adapted
from everlearn.bench.row import Row
from everlearn.bench.verdict import Ordering

TABLE, PAPER = "TLlib, its table of digits", "Ganin et al. 2016"
M2U = Adapted(f"{TABLE}: MNIST to USPS", "mnist-usps", "lenet")
U2M = Adapted(f"{TABLE}: USPS to MNIST", "usps-mnist", "lenet", lr=0.1, looks=4)
M2M = Adapted(f"{PAPER}: MNIST to MNIST-M", "mnist-mnistm", "dann", weight_decay=0.0, looks=4)
LONG = replace(M2M, source=f"{PAPER}: MNIST to MNIST-M, 10,000 steps", steps=10_000, batch_size=64)

CHOSEN = "theirs, at the epoch that target labels choose: "
OTHERS = "the photographs are of CIFAR-100, not of BSDS500, so nothing is claimed about the number; theirs: "
CONTROL = "the control: the same batches, and nothing aligned"
METHODS = {
    "dann": "dann:hidden=256",
    "cdan": "cdan:hidden=256,entropy=false",
    "cdan-e": "cdan:hidden=256",
    "bsp": "bsp+cdan:hidden=256,entropy=false",
    "adda": "adda:hidden=256",
    "mcd": "mcd",
    "mdd": "mdd:hidden=256",
    "wdgrl": "wdgrl:trade_off=0.1",
    "dan": "dan:trade_off=5",
    "jan": "jan:trade_off=5",
    "coral": "coral:trade_off=100",
    "afn": "afn",
    "mcc": "mcc",
}
"""By the names in rows. DAN and JAN of TLlib add up five kernels, where ours take their mean. Second nets have layers
of 256 units, as many as there are features, and not of 1,024: a matter of time.
"""
THEIRS = {
    "source": (82.1, 74.6),
    "dann": (91.7, 95.2),
    "adda": (94.5, 98.3),
    "bsp": (95.7, 97.8),
    "dan": (86.0, 89.5),
    "jan": (84.0, 86.8),
    "cdan": (96.0, 97.7),
    "mcd": (94.1, 97.6),
    "afn": (88.6, 97.2),
    "mdd": (94.8, 97.8),
    "mcc": (95.1, 94.6),
}
"""MNIST to USPS, and USPS to MNIST."""


def _pair(prefix: str, protocol: Adapted, place: int) -> tuple[Row, ...]:
    """All methods on a pair of TLlib's table."""
    rows = [
        _row(f"{prefix}-source", replace(protocol, seen=False), "naive", _theirs("source", place)),
        _row(f"{prefix}-seen", protocol, "naive", CONTROL),
    ]
    for name, method in METHODS.items():
        mine = replace(protocol, before=500) if name == "adda" else protocol
        rows.append(_row(f"{prefix}-{name}", mine, method, _theirs(name, place)))
    return tuple(rows)


def _row(name: str, protocol: Adapted, method: str, note: str, seeds: int = 5) -> Row:
    seconds = 100 if protocol.steps == 2000 else 900
    return Row(name, protocol, method, {}, seeds, seconds, note, page="transfer")


def _theirs(name: str, place: int) -> str:
    return f"{CHOSEN}{THEIRS[name][place]}" if name in THEIRS else ""


COLOURED = (
    _row("m2mm-source", replace(M2M, seen=False), "naive", f"{OTHERS}52.25", 3),
    _row("m2mm-seen", M2M, "naive", CONTROL, 3),
    _row("m2mm-dann", M2M, "dann:hidden=100,tap=features.6", f"{OTHERS}76.66", 3),
    *(_row(f"m2mm-{name}", M2M, METHODS[name], "", 3) for name in ("cdan-e", "mcc", "dan", "coral")),
    _row("m2mm-long-source", replace(LONG, seen=False), "naive", f"{OTHERS}52.25", 3),
    _row("m2mm-long-seen", LONG, "naive", CONTROL, 3),
    _row("m2mm-long-dann", LONG, "dann:hidden=100,tap=features.6", f"{OTHERS}76.66", 3),
)
ROWS = (*_pair("m2u", M2U, 0), *_pair("u2m", U2M, 1), *COLOURED)
ORDERINGS = (
    *(
        Ordering(f"{pair}-{name}", f"{pair}-{bound}", by, "target", TABLE)
        for pair in ("m2u", "u2m")
        for name, by in (("dann", 5.0), ("cdan", 5.0), ("mcc", 5.0), ("dan", 0.0))
        for bound in ("source", "seen")
    ),
    Ordering("m2mm-dann", "m2mm-source", 10.0, "target", PAPER),
    *(Ordering("m2mm-long-dann", f"m2mm-long-{bound}", 20.0, "target", PAPER) for bound in ("source", "seen")),
)
