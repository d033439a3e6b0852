"""A method in the Hugging Face Trainer: a small BERT learns to tell new topics apart, and keeps the old ones.

python examples/huggingface_host.py [EPOCHS]
"""

import sys
from tempfile import TemporaryDirectory

import torch

from everlearn import Memory
from everlearn.batch import take
from everlearn.data import Columns
from everlearn.hosts.huggingface import Continual  # first: it mends a torchvision that was made for another torch
from everlearn.methods import Replay
from everlearn.streams import by_class

# isort: split
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

TOPICS, WORDS = 6, 10


def sentences() -> Columns:
    """Rows of eight words, most of them of the row's topic; no model or data has to be fetched."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % TOPICS
    of_topic = labels[:, None] * WORDS + torch.randint(WORDS, (600, 8), generator=random)
    of_any = torch.randint(TOPICS * WORDS, (600, 8), generator=random)
    words = of_topic.where(torch.rand(600, 8, generator=random) < 0.8, of_any)
    return Columns(input_ids=words, labels=labels, y=labels, id=torch.arange(600))


def main(epochs: int) -> None:
    rows, method = sentences(), Replay(Memory(60), count=16)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(vocab_size=TOPICS * WORDS, num_labels=TOPICS, **size))
    with TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=epochs, per_device_train_batch_size=16, learning_rate=2e-3, use_cpu=True,
            remove_unused_columns=False, save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True,
            dataloader_pin_memory=False,
        )  # fmt: skip
        for experience in by_class(rows, rows, [(0, 1), (2, 3), (4, 5)]):
            batch = experience.train.take(torch.arange(len(experience.train)))
            each = (take(batch, slice(place, place + 1)) for place in range(len(experience.train)))
            items = [{name: column[0] for name, column in row.items() if name != "y"} for row in each]
            trainer = Continual(model, arguments, train_dataset=items, method=method)
            trainer.experience = experience
            trainer.train()
    model.eval()
    with torch.no_grad():
        answers = model(input_ids=rows.column("input_ids")).logits.argmax(1)
    print(f"{(answers == rows.column('y')).float().mean():.1%} of the rows of all topics")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
