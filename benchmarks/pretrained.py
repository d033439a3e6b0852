"""How new classes come to a pretrained transformer: the numbers that the pages of l2p and coda quote.

    python benchmarks/pretrained.py                      a table in the terminal, and JSON
    python benchmarks/pretrained.py --docs docs/methods  the same, and the tables of the pages anew

scikit-learn's 1,797 digits, an image as eight tokens, for two encoder layers of width 32 and the mean of what they make
of the tokens. The transformer is trained on the digits 0 to 4, the same for all methods of a seed; then 5, 6 and 7
arrive, then 8 and 9, and no old row is kept. With a new head, as in the papers of these methods, 5 to 9 are told apart
by one that knows nothing yet; with the head kept, it grows, and all ten are. Fixed: Adam, batches of 16, 20 epochs for
0 to 4 (learning rate 0.003) and 10 for each arrival, a new optimizer for each, the split into 1,400 training and 397
test rows.

The learning rate of a method is the best of a grid on the arrivals as they are, with a fifth of their training rows in
the place of the test, and a seed that the table does not use; of equals, the lowest. No test row is looked at.
"""

import argparse
import json
import platform
import re
import statistics
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from everlearn import Chain, Experience, Learner, Method
from everlearn.data import Columns, Subset
from everlearn.methods import CODA, L2P, NCM, Freeze, GrowHead, LoRA, Naive
from everlearn.streams import by_class

KNOWN, ARRIVALS = (0, 1, 2, 3, 4), ((5, 6, 7), (8, 9))
SEEDS, CHOOSING = range(3), 100
RATES = (0.001, 0.003, 0.01)

METHODS: dict[str, Callable[[int], Method]] = {
    "naive": lambda _: Naive(),
    "freeze": lambda _: Freeze(),
    "lora": lambda seed: LoRA(8, 16, seed=seed),
    "l2p": lambda seed: L2P(seed=seed),
    "l2p, mask=False": lambda seed: L2P(mask=False, seed=seed),
    "coda": lambda seed: CODA(seed=seed),
    "coda, mask=False": lambda seed: CODA(mask=False, seed=seed),
    "ncm": lambda _: NCM(),
}
SETTINGS = {
    "new head": {"5 to 7": (5, 6, 7), "8 and 9": (8, 9), "5 to 9": range(5, 10)},
    "head kept": {"all ten": range(10)},
}
"""The digits that an accuracy is about; the last one of a setting is what a learning rate is chosen by."""
Accuracy = dict[str, float]
Row = dict[str, Any]
"""The learning rate of a method in a setting, and its accuracies with each seed."""


class Transformer(nn.Module):
    """The rows of an image as tokens."""

    def __init__(self, outputs: int, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.place = nn.Parameter(torch.randn(8, width) * 0.1)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, 0.1, batch_first=True, norm_first=True) for _ in range(2)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x.view(-1, 8, 8)) + self.place
        for block in self.blocks:
            h = block(h)
        logits: Tensor = self.head(self.norm(h).mean(1))
        return logits


@cache
def stream(setting: str, *, choosing: bool) -> list[Experience]:
    """What is known and the two arrivals, with positions for a new head or the old one; `choosing` sees no test row."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    x, y = torch.tensor(data.data / 16, dtype=torch.float32)[order], torch.tensor(data.target)[order]
    if setting == "new head":
        y = (y - 5) % 10  # 5 to 9 come first
    train, test = Columns(x=x[:1400], y=y[:1400]), Columns(x=x[1400:], y=y[1400:])
    if choosing:
        fifth = torch.arange(len(train)) % 5 == 0
        train, test = (Subset(train, part.nonzero().flatten()) for part in (~fifth, fifth))  # type: ignore[assignment]
    return by_class(train, test, [[position(setting, c) for c in group] for group in (KNOWN, *ARRIVALS)])


def position(setting: str, digit: int) -> int:
    return (digit - 5) % 10 if setting == "new head" else digit


@cache
def pretrained(seed: int, *, choosing: bool) -> nn.Module:
    """The transformer that knows the first five digits."""
    torch.manual_seed(seed)
    model = Transformer(outputs=5)
    learner = Learner(model, optimizer=partial(torch.optim.Adam, lr=0.003), epochs=20, batch_size=16, seed=seed)
    learner.learn(stream("head kept", choosing=choosing)[0])
    return model


def learned(setting: str, name: str, rate: float, seed: int, *, choosing: bool = False) -> Accuracy:
    """The accuracies, in percent, after the last arrival."""
    known, *arrivals = stream(setting, choosing=choosing)
    model = deepcopy(pretrained(seed, choosing=choosing))
    torch.manual_seed(seed)
    if setting == "new head":
        model.head = nn.Linear(32, 3)
    learner = Learner(
        model,
        Chain(GrowHead(), METHODS[name](seed)),
        optimizer=partial(torch.optim.Adam, lr=rate),
        epochs=10,
        batch_size=16,
        seed=seed,
        fresh_optimizer=True,
    )
    if setting == "head kept":
        learner.remember(known)
    for experience in arrivals:
        learner.learn(experience)
    asked = (known, *arrivals) if setting == "head kept" else arrivals
    found = {c: counts for each in asked for c, counts in learner.evaluate(each.test).by_class.items()}
    accuracy = {}
    for part, digits in SETTINGS[setting].items():
        right, rows = (sum(found[str(position(setting, digit))][k] for digit in digits) for k in (0, 1))
        accuracy[part] = 100 * right / rows
    return accuracy


def chosen(setting: str, name: str) -> float:
    """The learning rate of a method; 0 for one that has none."""
    if METHODS[name](0).own_answers:
        return 0.0
    *_, last = SETTINGS[setting]
    return max(RATES, key=lambda rate: learned(setting, name, rate, CHOOSING, choosing=True)[last])


def versions() -> str:
    """What the last digits depend on."""
    names = ("torch", "scikit-learn")
    return ", ".join(f"{name} {version(name)}" for name in names) + f", Python {platform.python_version()}, CPU"


def table(runs: dict[str, dict[str, Row]]) -> str:
    """As Markdown."""
    parts = [(setting, part) for setting, each in SETTINGS.items() for part in each]
    lines = [f"| method | {' | '.join(f'{setting}: {part}, %' for setting, part in parts)} | learning rates |"]
    lines.append("|---|" + "---:|" * (len(parts) + 1))
    for name, row in runs.items():
        cells = []
        for setting, part in parts:
            values = [each[part] for each in row[setting]["accuracy"]]
            cells.append(f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}")
        rates = ", ".join(f"{each['rate']:g}" for each in row.values() if each["rate"])
        lines.append(f"| {name} | {' | '.join(cells)} | {rates} |")
    today = datetime.now(UTC).date()
    caption = (
        f"Mean ± standard deviation over {len(SEEDS)} seeds. `python benchmarks/pretrained.py`, {today}; {versions()}."
    )
    return "\n".join(lines) + f"\n\n{caption}"


def main() -> None:
    """Measures, prints, and writes."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "pretrained.json")
    options.add_argument("--docs", type=Path, help="the folder of the pages whose tables are written anew")
    given = options.parse_args()
    torch.set_num_threads(1)  # the same bits, whatever else the machine does
    runs: dict[str, dict[str, Row]] = {}
    for name in METHODS:
        runs[name] = {}
        for setting in SETTINGS:
            rate = chosen(setting, name)
            runs[name][setting] = {"rate": rate, "accuracy": [learned(setting, name, rate, seed) for seed in SEEDS]}
            print(name, setting, runs[name][setting], flush=True)
    print(table(runs))
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps({"versions": versions(), "seeds": list(SEEDS), **runs}, indent=1) + "\n")
    for page in sorted(given.docs.glob("*.md")) if given.docs else ():
        text, marks = page.read_text(encoding="utf-8"), r"(<!-- pretrained -->\n).*?(<!-- end of pretrained -->)"
        page.write_text(re.sub(marks, rf"\1\n{table(runs)}\n\n\2", text, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main()
