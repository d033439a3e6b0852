"""Models of transformers, for images and for texts, learn, are saved and are opened."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transfer.opened import BERT, VIT, alike, needs_transformers, rows, sgd

from everlearn import Learner
from everlearn.data import Columns
from everlearn.methods import Naive
from everlearn.models import LoadError
from everlearn.streams import Experience
from everlearn.transfer import ImagePreprocessing, TextPreprocessing, choose, open_base


@needs_transformers
def test_an_image_model_of_transformers_learns_and_is_saved(tmp_path):
    base = open_base(VIT, classes=["ant", "bee"])
    assert base.preprocessing == ImagePreprocessing((16, 16), None, "bilinear", (0.5,) * 3, (0.5,) * 3)
    assert base.features(rows()).column("x").shape == (6, 16)
    learner = Learner(base.module, Naive(), objective=base.objective, optimizer=sgd, view=base.view(), batch_size=3)
    learner.learn(Experience(0, rows(), rows(), (0, 1)))
    assert base.module.config.id2label == {0: "ant", 1: "bee"}
    base.save(tmp_path / "vit.safetensors")
    again = open_base(str(tmp_path / "vit.safetensors"))
    batch = rows().take(torch.arange(3))
    assert torch.equal(again.logits(batch), base.logits(batch))
    assert (again.classes, again.preprocessing) == (base.classes, base.preprocessing)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A folder with a text model and its tokenizer, as `save_pretrained` writes it."""
    open_base(VIT)  # so that transformers is imported in the one right way
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    words = [padding := "[PAD]", unknown := "[UNK]", "good", "bad", "film", "book", "the"]
    tokenizer = Tokenizer(WordLevel({word: row for row, word in enumerate(words)}, unk_token=unknown))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=padding, unk_token=unknown, model_max_length=5)
    base = open_base(BERT, classes=["negative", "positive"])
    folder = tmp_path_factory.mktemp("bert")
    base.module.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder, base.module.state_dict()


TEXTS = ["the good film", "bad", "the book the book the book", "unknown words"]


@needs_transformers
def test_a_text_model_of_transformers_comes_with_its_tokenizer_its_weights_and_its_labels(bert):
    folder, state = bert
    base = open_base(f"hf:{folder}")
    assert alike(base.module, state)
    assert (base.kind, base.classes, base.weights) == ("text", ("negative", "positive"), str(folder))
    assert (base.report.coverage, base.report.head) == (1, "'classifier', loaded")
    seen = base.view()({"text": TEXTS, "y": torch.tensor([1, 0, 0, 0])})
    assert seen["input_ids"].tolist() == [[6, 2, 4, 0, 0], [3, 0, 0, 0, 0], [6, 5, 6, 5, 6], [1, 1, 0, 0, 0]]
    assert seen["attention_mask"].sum(1).tolist() == [3, 1, 5, 2]
    assert "text" not in seen
    assert torch.equal(seen["y"], torch.tensor([1, 0, 0, 0]))


@needs_transformers
def test_a_text_learns_and_is_answered_alike_alone_and_in_company(bert, tmp_path):
    base = open_base(f"hf:{bert[0]}")
    texts = Columns(text=TEXTS, y=torch.tensor([1, 0, 0, 1]))
    learner = Learner(base.module, Naive(), objective=base.objective, optimizer=sgd, view=base.view(), batch_size=2)
    learner.learn(Experience(0, texts, texts, (0, 1)))
    together = base.logits({"text": TEXTS})
    alone = torch.cat([base.logits({"text": [text]}) for text in TEXTS])
    assert torch.allclose(together, alone, atol=1e-5)
    features = base.features(texts)
    assert features.column("x").shape == (4, 16)
    base.save(tmp_path / "bert.safetensors")
    again = open_base(str(tmp_path / "bert.safetensors"))  # the folder is not needed any more
    assert torch.equal(again.logits({"text": TEXTS}), together)
    assert again.preprocessing == base.preprocessing


@needs_transformers
@pytest.mark.parametrize(("kind", "room"), [("bert", 8), ("roberta", 7), ("gpt2", 8), ("distilbert", 8)])
def test_a_text_is_cut_where_the_positions_of_the_model_end(kind, room, bert, tmp_path):
    from transformers import AutoTokenizer

    sizes = {
        "gpt2": "n_positions=8, n_embd=16, n_layer=1, n_head=2",
        "distilbert": "max_position_embeddings=8, dim=16, n_layers=1, n_heads=2, hidden_dim=16",
    }
    own = sizes.get(kind, "max_position_embeddings=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2")
    ids = "vocab_size=12, pad_token_id=0, bos_token_id=1, eos_token_id=1"
    open_base(f"hf:{kind}({ids}, {own})").module.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(bert[0])
    tokenizer.model_max_length = 10**30  # as tokenizers of one's own say
    tokenizer.save_pretrained(tmp_path)
    base = open_base(f"hf:{tmp_path}")
    assert base.preprocessing.max_length == room
    assert base.logits({"text": ["the book " * 20, "the"]}).isfinite().all()


@needs_transformers
def test_a_folder_with_a_body_alone_has_a_new_head_and_the_report_says_so(bert, tmp_path, capfd):
    state = {name: value for name, value in bert[1].items() if not name.startswith("classifier")}
    for file in bert[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    base = open_base(f"hf:{tmp_path}")
    assert (base.report.head, base.report.coverage, base.classes) == ("'classifier', left as it is", 1, None)
    assert capfd.readouterr() == ("", "")  # there is one report
    save_file({"other": torch.zeros(3)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(LoadError, match="fills too little"):
        open_base(f"hf:{tmp_path}")


@needs_transformers
def test_weights_of_a_folder_are_its_own_in_pickles_too_and_nothing_in_them_is_run(bert, tmp_path):
    for file in bert[0].iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match="is no model that save_pretrained wrote"):
        open_base(f"hf:{tmp_path}", "default")
    torch.save(bert[1], tmp_path / "pytorch_model.bin")
    base = open_base(f"hf:{tmp_path}")
    assert alike(base.module, bert[1])
    assert base.weights == str(tmp_path)
    torch.save(bert[1] | {"more": Path("anywhere")}, tmp_path / "pytorch_model.bin")
    for _ in range(2):  # also beside the tensors of something else
        with pytest.raises(LoadError, match="holds Python objects, which would have to run: 'pathlib"):
            open_base(f"hf:{tmp_path}")
        save_file({"other": torch.zeros(3)}, tmp_path / "adapter.safetensors")


@needs_transformers
def test_the_head_is_not_in_the_body_though_that_is_registered_behind_it():
    small = "vocab_size=50,hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=24,num_labels=3"
    for name in ("roberta", "xlm-roberta"):
        assert open_base(f"hf:{name}({small})").head == "classifier.out_proj"


@needs_transformers
def test_texts_without_a_tokenizer_say_what_is_missing(bert):
    base = open_base(BERT)
    assert base.preprocessing is None
    with pytest.raises(ValueError, match=r"has no tokenizer; save the one that it was trained with .* preprocessing="):
        base.view()
    with pytest.raises(ValueError, match="has no tokenizer"):
        choose(Columns(text=TEXTS, y=torch.tensor([0, 0, 1, 1])), [base], scores=["logme"])
    with pytest.raises(ValueError, match="cannot be read"):
        TextPreprocessing("{}", 8).view()({"text": ["a"]})
    with pytest.raises(ValueError, match="no list of texts 'text'; it has the columns"):
        open_base(f"hf:{bert[0]}").view()({"x": torch.zeros(1)})
    with pytest.raises(ValueError, match="texts have no augmentations"):
        open_base(f"hf:{bert[0]}").view(["flip"])
