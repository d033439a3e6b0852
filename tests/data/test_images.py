"""What holds for folders of images."""

import shutil
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from everlearn.data import load, load_unlabelled
from everlearn.data.images import decode

SUFFIXES = ["png", "jpg", "jpeg", "webp", "bmp", "gif", "ppm"]


def picture(seed=0, size=(6, 8), mode="RGB"):
    array = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Image.fromarray(array).convert(mode)


def folder(root, classes, count=2, suffix="png", size=(6, 8)):
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for place in range(count):
            picture(100 * number + place, size).save(root / name / f"{place}.{suffix}")
    return root


def png(width, height):
    """A PNG whose header states a size, and which has no pixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("in_memory", [True, False])
def test_folders_are_classes_in_natural_order_and_images_are_rgb(tmp_path, in_memory):
    source = load(folder(tmp_path, ["10", "9", "a"]), in_memory=in_memory)
    assert source.names == ("9", "10", "a")
    assert source.rows.resident is in_memory
    assert source.rows.column("y").tolist() == [0, 0, 1, 1, 2, 2]
    batch = source.rows.take(torch.tensor([2, 0]))
    assert batch["x"].shape == (2, 3, 6, 8)
    assert batch["x"].dtype == torch.uint8
    expected = np.asarray(picture(0)).transpose(2, 0, 1)  # "10" was written first
    assert np.array_equal(batch["x"][0].numpy(), expected)
    assert torch.equal(source.rows.column("x")[[2, 0]], batch["x"])


@pytest.mark.parametrize("suffix", [*SUFFIXES, "PNG", "JPG"])
def test_every_kind_of_image_is_read(tmp_path, suffix):
    source = load(folder(tmp_path, ["a"], suffix=suffix))
    assert source.rows.column("x").shape == (2, 3, 6, 8)
    close = source.rows.column("x")[0].float() - torch.from_numpy(np.array(picture(0))).permute(2, 0, 1)
    assert float(close.abs().mean()) < 80


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "CMYK", "LA"])
def test_every_mode_of_pixels_becomes_rgb_or_grey(tmp_path, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    (tmp_path / "a").mkdir()
    picture(mode=mode).save(tmp_path / "a" / f"1.{suffix}")
    assert load(tmp_path).rows.column("x").shape == (1, 3, 6, 8)
    assert load(tmp_path, channels=1).rows.column("x").shape == (1, 1, 6, 8)


def test_transparent_palettes_are_read_without_a_warning(tmp_path):
    (tmp_path / "a").mkdir()
    picture(mode="P").save(tmp_path / "a" / "1.png", transparency=bytes(range(256)))
    assert load(tmp_path).rows.column("x").shape == (1, 3, 6, 8)


def test_the_first_frame_of_a_moving_image_is_taken(tmp_path):
    (tmp_path / "a").mkdir()
    black, white = Image.new("RGB", (8, 6)), Image.new("RGB", (8, 6), (255, 255, 255))
    black.save(tmp_path / "a" / "1.gif", save_all=True, append_images=[white])
    assert int(load(tmp_path).rows.column("x").max()) == 0


@pytest.mark.parametrize(("size", "made"), [(4, (4, 4)), ((5, 3), (5, 3)), ((12, 16), (12, 16))])
@pytest.mark.parametrize("in_memory", [True, False])
def test_images_are_resized(tmp_path, size, made, in_memory):
    folder(tmp_path, ["a"])
    picture(9, (30, 20)).save(tmp_path / "a" / "other.png")
    x = load(tmp_path, size=size, in_memory=in_memory).rows.column("x")
    assert x.shape == (3, 3, *made)
    direct = picture(0).resize((made[1], made[0]), Image.Resampling.BILINEAR)
    assert np.array_equal(x[0].numpy(), np.asarray(direct).transpose(2, 0, 1))


def test_images_of_two_sizes_are_an_error_that_names_both_and_the_way_out(tmp_path):
    folder(tmp_path, ["a"])
    picture(9, (30, 20)).save(tmp_path / "a" / "other.png")
    with pytest.raises(ValueError, match=r"0\.png has \(6, 8\).*other\.png has \(30, 20\).*--size"):
        load(tmp_path)


def test_folders_within_a_class_belong_to_it_and_other_files_are_passed_over(tmp_path):
    folder(tmp_path, ["a", "a/deep", ".hidden"])
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "a" / "notes.txt").write_text("about")
    (tmp_path / "a" / "._0.png").write_text("about")
    source = load(tmp_path)
    assert source.names == ("a",)
    assert len(source.rows) == 4


def test_ids_stay_when_files_are_added_and_when_the_folder_moves(tmp_path):
    root = folder(tmp_path / "here", ["b", "c"])
    before = load(root)
    ids = before.rows.column("id").tolist()
    assert len(set(ids)) == 4
    folder(root, ["a"], count=3)
    picture(9).save(root / "b" / "00.png")
    moved = tmp_path / "there"
    shutil.move(root, moved)
    after = load(moved)
    later = after.rows.column("id").tolist()
    assert set(ids) <= set(later)
    for position, row in enumerate(ids):
        old, new = (
            before.rows.take(torch.tensor([position])),
            after.rows.take(torch.tensor([later.index(row)])),
        )
        assert torch.equal(old["x"], new["x"])
        assert before.names[int(old["y"])] == after.names[int(new["y"])]
    assert before.fingerprint != after.fingerprint
    assert load(moved).fingerprint == after.fingerprint


def spoil(path, how):
    whole = path.read_bytes()
    contents = {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"no image",
        "bomb": png(30_000, 30_000),
        "large": png(5_001, 5_000),
    }
    path.write_bytes(contents[how])


@pytest.mark.parametrize("how", ["cut", "empty", "text", "bomb", "large"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_a_few_broken_files_are_quarantined_and_many_are_an_error(tmp_path, how, in_memory):
    root = folder(tmp_path, ["a"], count=101)
    broken = root / "a" / "50.png"
    spoil(broken, how)
    source = load(root, in_memory=in_memory)
    assert source.quarantined == (broken,)
    assert len(source.rows) == 100
    whole = {path: decode(path, None, 3) for path in root.rglob("*.png") if path != broken}
    assert {image.numpy().tobytes() for image in source.rows.column("x")} == {
        image.numpy().tobytes() for image in whole.values()
    }
    spoil(root / "a" / "51.png", how)
    with pytest.raises(ValueError, match=r"2 of the 101 images.*1 %.*\n.*50\.png.*\n.*51\.png"):
        load(root, in_memory=in_memory)


def test_one_broken_file_in_a_hundred_is_not_less_than_one_percent(tmp_path):
    root = folder(tmp_path, ["a"], count=100)
    spoil(root / "a" / "50.png", "cut")
    with pytest.raises(ValueError, match="1 of the 100"):
        load(root)


def test_sixteen_bits_a_channel_are_refused_rather_than_clipped(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((6, 8), 40_000, np.uint16)).save(tmp_path / "a" / "1.png")
    with pytest.raises(ValueError, match="8 bits a channel"):
        load(tmp_path, channels=1)


def test_another_format_behind_the_suffix_of_an_image_is_not_opened(tmp_path):
    (tmp_path / "a").mkdir()
    picture().save(tmp_path / "a" / "1.tiff")
    (tmp_path / "a" / "1.tiff").rename(tmp_path / "a" / "1.png")
    with pytest.raises(ValueError, match="cannot identify"):
        load(tmp_path)


def test_a_file_that_breaks_after_loading_is_named_when_it_is_taken(tmp_path):
    root = folder(tmp_path, ["a"])
    rows = load(root, in_memory=False).rows
    spoil(root / "a" / "1.png", "cut")
    assert rows.take(torch.tensor([0]))["x"].shape == (1, 3, 6, 8)
    with pytest.raises(ValueError, match=r"1\.png does not decode"):
        rows.take(torch.tensor([0, 1]))


def test_lazy_rows_answer_like_any_others(tmp_path):
    rows = load(folder(tmp_path, ["a", "b"]), in_memory=False).rows
    assert rows.take(torch.tensor([], dtype=torch.int64))["x"].shape == (0, 3, 6, 8)
    with pytest.raises(IndexError):
        rows.take(torch.tensor([-1]))
    with pytest.raises(KeyError, match="colour"):
        rows.column("colour")


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (lambda root: root.mkdir(), {}, "has no folders"),
        (lambda root: folder(root, ["a", "b"], count=0), {}, r"without images: \['a', 'b'\]"),
        (
            lambda root: (folder(root, ["a"]), picture().save(root / "loose.png")),
            {},
            "beside its folders.*loose.png",
        ),
        (
            lambda root: folder(root, ["train/a", "val/a"]),
            {},
            r"\['train', 'val'\], which are no classes; load .*train",
        ),
        (lambda root: folder(root, ["a"]), {"channels": 4}, "channels must be 1"),
        (lambda root: folder(root, ["a"]), {"size": 0}, "size must be one positive number"),
        (
            lambda root: folder(root, ["a"]),
            {"target": "y"},
            "a folder of images, which takes .* no target='y'",
        ),
        (lambda root: folder(root, ["a"]), {"task": "regression"}, "no task='regression'"),
    ],
)
def test_a_bad_folder_is_an_error_that_says_what_is_wrong(tmp_path, make, options, words):
    make(tmp_path / "images")
    with pytest.raises(ValueError, match=words):
        load(tmp_path / "images", **options)


def test_without_labels_all_images_are_taken_wherever_they_lie(tmp_path):
    for place in ("a.png", "cats/b.png", "cats/old/c.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3), (9, 0, 0)).save(tmp_path / place)
    source = load_unlabelled(tmp_path)
    assert source.names == ()
    assert source.rows.take(torch.arange(3))["y"].tolist() == [-100] * 3
    assert len(set(source.rows.column("id").tolist())) == 3
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="has no images"):
        load_unlabelled(tmp_path / "none")


def test_labels_of_other_data_are_not_looked_at(tmp_path):
    np.savez(tmp_path / "rows.npz", x=np.zeros((3, 2), np.float32), y=np.arange(3))
    source = load_unlabelled(tmp_path / "rows.npz")
    assert source.rows.take(torch.arange(3))["y"].tolist() == [-100] * 3
    assert source.names == ()
