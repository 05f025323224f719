"""The data sets: read from files as they are published, split, shuffled, augmented and judged."""

from __future__ import annotations

import gzip
import hashlib
import struct
import tarfile
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cifar_files import write_cifar
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from backends.tasks import cifar, fashion_mnist, files
from backends.tasks.files import Published, fetch
from backends.tasks.images import Augmentation, ImageTask, Pixels, Scaling, image_task
from backends.tasks.splits import split, stratified
from conformance.errors import UsageError
from conformance.method.task import SPLITS, Task, load_task

torch.set_num_threads(1)

needs_torchvision = pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is missing")
needs_debian = pytest.mark.skipif(
    not fashion_mnist.DEBIAN.is_dir(), reason="the Debian package dataset-fashion-mnist is not installed"
)


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """No data set of this machine is found: neither a cache, nor a variable, nor a Debian package."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CONFORMANCE_DATA", raising=False)


@pytest.fixture
def no_debian(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "none")


def pixels(count: int, classes: int = 10, shape: tuple[int, ...] = (3, 9, 7)) -> Pixels:
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(256, (count, *shape), dtype=torch.uint8, generator=generator)
    return Pixels(images, torch.arange(count) % classes)


def made(augmentation: Augmentation | None = None, classes: int = 10, **limits: int) -> ImageTask:
    scaling = Scaling(255.0, (0.5, 0.4, 0.3), (0.25, 0.5, 1.0))
    return image_task(
        "made", pixels(100, classes), pixels(40, classes), scaling, classes=classes, augmentation=augmentation, **limits
    )


def bytes_of(task: Task, split: str = "train", size: int = 8, **how) -> str:
    digest = hashlib.sha256()
    for batch in task.batches(split, size, **how):
        digest.update(batch.args[0].numpy().tobytes() + batch.target.numpy().tobytes())
    return digest.hexdigest()


# -- splits ---------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.data())
def test_a_stratified_draw_keeps_the_shares(labels, data):
    labels = torch.tensor(labels)
    count = data.draw(st.integers(0, len(labels)))
    drawn = stratified(labels, count, "words")
    assert len(drawn) == count
    assert drawn.tolist() == sorted(set(drawn.tolist()))
    shares = torch.bincount(labels[drawn], minlength=5)
    exact = torch.bincount(labels, minlength=5).double() * count / len(labels)
    assert bool(((shares - exact).abs() < 1).all())
    assert torch.equal(drawn, stratified(labels, count, "words"))


def test_other_words_draw_other_samples():
    labels = torch.zeros(100, dtype=torch.int64)
    assert not torch.equal(stratified(labels, 50, "a"), stratified(labels, 50, "b"))


@given(st.integers(1, 40), st.integers(0, 10), st.integers(1, 20))
def test_no_sample_is_in_two_splits(train, validation, test):
    training, testing = torch.arange(50) % 3, torch.arange(20) % 3
    found = split("made", training, testing, train=train, validation=validation, test=test)
    assert [len(found[part]) for part in SPLITS] == [train, validation, test]
    assert not set(found["train"].tolist()) & set(found["validation"].tolist())
    alone = split("made", training, testing, train=None, validation=validation, test=None)
    assert torch.equal(found["validation"], alone["validation"])
    assert sorted([*alone["train"].tolist(), *alone["validation"].tolist()]) == list(range(50))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"train": 91}, "the task made has 90 samples for train, 91 were asked for"),
        ({"validation": -1}, "100 samples for validation, -1 were asked for"),
        ({"test": 41}, "40 samples for test, 41"),
        ({"validation": 100}, "the task made would have no samples for train"),
        ({"test": 0}, "the task made would have no samples for test"),
    ],
)
def test_impossible_limits(limits, message):
    with pytest.raises(UsageError, match=message):
        made(**limits)


def test_validation_is_taken_off_the_training_data():
    training, testing = pixels(100), pixels(40)
    task = made()
    rows = {name: {image.numpy().tobytes() for image in part.images} for name, part in task.splits.items()}
    assert rows["train"] | rows["validation"] == {image.numpy().tobytes() for image in training.images}
    assert rows["test"] == {image.numpy().tobytes() for image in testing.images}
    assert not rows["train"] & rows["validation"]


# -- batches --------------------------------------------------------------------------------------


def test_without_a_seed_all_samples_come_in_file_order():
    task = made(Augmentation(2, mirror=True))
    found = list(task.batches("test", 16))
    assert [batch.size for batch in found] == [16, 16, 8]
    whole = torch.cat([batch.args[0] for batch in found])
    expected = torch.empty_like(whole)
    for channel, (mean, deviation) in enumerate([(0.5, 0.25), (0.4, 0.5), (0.3, 1.0)]):
        expected[:, channel] = (task.splits["test"].images[:, channel] / 255 - mean) / deviation
    torch.testing.assert_close(whole, expected)
    assert whole.dtype == torch.float32
    assert torch.equal(torch.cat([batch.target for batch in found]), task.splits["test"].labels)


def test_with_a_seed_a_last_batch_that_is_not_full_is_left_out():
    task = made()
    assert [batch.size for batch in task.batches("train", 40, seed=0)] == [40, 40]
    seen = [label for batch in task.batches("train", 45, seed=0) for label in batch.target.tolist()]
    assert sorted(seen) == sorted(task.splits["train"].labels.tolist())


@pytest.mark.parametrize("augmentation", [None, Augmentation(2, mirror=True)])
def test_seed_and_epoch_decide_everything(augmentation):
    task = made(augmentation)
    torch.manual_seed(1)
    first = bytes_of(task, seed=3, epoch=2)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert bytes_of(made(augmentation), seed=3, epoch=2) == first
    assert torch.equal(torch.get_rng_state(), state)
    others = {bytes_of(task, seed=3, epoch=1), bytes_of(task, seed=2, epoch=3), bytes_of(task), first}
    assert len(others) == 4


def test_the_batch_size_changes_no_sample():
    task = made(Augmentation(2, mirror=True))
    small, large = (torch.cat([b.args[0] for b in task.batches("train", size, seed=0)]) for size in (9, 30))
    assert torch.equal(small, large)


@pytest.mark.parametrize(("size", "message"), [(0, "at least one sample"), (91, "a batch of 91 is larger than .* 90")])
def test_impossible_batch_sizes(size, message):
    with pytest.raises(UsageError, match=message):
        next(made().batches("train", size, seed=0))


@given(st.integers(0, 3), st.booleans(), st.integers(0, 2**31))
def test_an_augmented_image_is_a_window_of_the_padded_one(pad, mirror, seed):
    images = pixels(5).images
    draws = torch.rand(5, 3, generator=torch.Generator().manual_seed(seed))
    out = Augmentation(pad, mirror)(images, draws)
    for image, cut, draw in zip(images, out, draws, strict=True):
        padded = np.pad(image.numpy(), ((0, 0), (pad, pad), (pad, pad)))
        top, left = int(draw[0] * (2 * pad + 1)), int(draw[1] * (2 * pad + 1))
        window = padded[:, top : top + 9, left : left + 7]
        assert np.array_equal(cut.numpy(), window[:, :, ::-1] if mirror and draw[2] < 0.5 else window)


def test_augmentation_reaches_all_corners():
    draws = torch.tensor([[0.0, 0.0, 0.9], [0.999, 0.999, 0.9]])
    images = torch.ones(2, 1, 4, 4, dtype=torch.uint8)
    out = Augmentation(1, mirror=False)(images, draws)[:, 0]
    assert out[0, 0].sum() == out[0, :, 0].sum() == out[1, -1].sum() == out[1, :, -1].sum() == 0
    assert int(out.sum()) == 18


def test_the_digest_says_what_was_read_and_how():
    digests = [
        made().digest,
        made(train=50).digest,
        made(validation=3).digest,
        made(Augmentation(1, mirror=False)).digest,
        made(classes=20).digest,
    ]
    assert len(set(digests)) == len(digests)
    assert made().digest == digests[0]
    same = made()
    same.splits["test"].images[0, 0, 0, 0] += 1
    assert same.digest != digests[0]


# -- loss and metrics -----------------------------------------------------------------------------


class Constant(nn.Module):
    """Gives the same logits for every sample; draws random numbers, and can break."""

    def __init__(self, logits: torch.Tensor, broken: bool = False) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.drop, self.broken = nn.Dropout(), broken

    def forward(self, x):
        assert not self.training
        assert not torch.is_grad_enabled()
        torch.rand(3)
        if self.broken:
            raise RuntimeError("broken")
        return self.logits.expand(len(x), -1)


def test_metrics_are_means_over_samples():
    task = made(classes=20)
    logits = torch.arange(20.0) / 10
    found = task.evaluate(Constant(logits), "test", size=7)
    labels = task.splits["test"].labels
    assert found["accuracy"] == pytest.approx((labels == 19).double().mean())
    assert found["top5"] == pytest.approx((labels >= 15).double().mean())
    assert found["loss"] == pytest.approx(float(-logits.double().log_softmax(0)[labels].mean()))
    assert task.metric in found
    assert set(made().evaluate(Constant(torch.zeros(10)))) == {"accuracy", "loss"}


@pytest.mark.parametrize("broken", [False, True])
def test_evaluate_leaves_the_model_and_the_generators_alone(broken):
    model = Constant(torch.zeros(10), broken)
    model.train()
    model.drop.eval()
    state = torch.get_rng_state()
    if broken:
        with pytest.raises(RuntimeError, match="broken"):
            made().evaluate(model)
    else:
        made().evaluate(model)
    assert (model.training, model.drop.training) == (True, False)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()


def test_evaluate_takes_models_in_float64():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 9 * 7, 10)).double()
    assert 0 <= made().evaluate(model)["accuracy"] <= 1


def test_an_empty_split_cannot_be_evaluated():
    with pytest.raises(UsageError, match="no validation samples"):
        made(validation=0).evaluate(Constant(torch.zeros(10)), "validation")


def test_the_loss_is_that_of_logits_wherever_they_are():
    task, target = made(), torch.tensor([1, 2])
    logits = torch.randn(2, 10, requires_grad=True)
    loss = task.loss(SimpleNamespace(logits=logits), target)
    assert torch.equal(loss, nn.functional.cross_entropy(logits, target))
    loss.backward()
    assert logits.grad is not None
    with pytest.raises(UsageError, match="of type dict"):
        task.loss({"out": logits}, target)
    with pytest.raises(UsageError, match=r"the shape \(2, 11\), not \(2, 10\)"):
        task.loss(torch.zeros(2, 11), target)


# -- digits ---------------------------------------------------------------------------------------


def test_digits():
    task = load_task("digits")
    assert isinstance(task, Task)
    assert (task.shape, task.classes, [task.count(part) for part in SPLITS]) == ((1, 8, 8), 10, [1294, 143, 360])
    from sklearn.datasets import load_digits

    ours = torch.cat([part.images.flatten(1) for part in task.splits.values()]).tolist()
    assert sorted(ours) == sorted(load_digits().data.astype(int).tolist())
    scaled = torch.cat([batch.args[0] for batch in task.batches("train", 500)])
    assert float(scaled.mean()) == pytest.approx(0, abs=0.01)
    assert float(scaled.std()) == pytest.approx(1, abs=0.01)
    shares = torch.bincount(task.splits["test"].labels)
    assert int(shares.max() - shares.min()) <= 2
    # Results on other splits cannot be compared: whoever changes them changes this line.
    assert task.digest == "215ec3c99f71530801f09fc4e4fbd26cecb5f7fc01c3e5af3b12509ee8ff2942"


def test_a_subset_of_digits_has_its_own_name_and_digest():
    task = load_task("digits?train=500&test=100")
    assert task.name == "digits?train=500&test=100"
    assert [task.count(part) for part in SPLITS] == [500, 143, 100]
    assert task.digest != load_task("digits").digest
    assert task.digest == load_task(task.name).digest


# -- Fashion-MNIST --------------------------------------------------------------------------------


def idx(values: np.ndarray) -> bytes:
    return bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def write_fashion(folder: Path, *, zipped: bool = True, train: int = 40, test: int = 20) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for part, count in (("train", train), ("t10k", test)):
        contents = {
            f"{part}-images-idx3-ubyte": random.integers(256, size=(count, 28, 28), dtype=np.uint8),
            f"{part}-labels-idx1-ubyte": (np.arange(count) % 10).astype(np.uint8),
        }
        for name, values in contents.items():
            file = folder / (f"{name}.gz" if zipped else name)
            file.write_bytes(gzip.compress(idx(values)) if zipped else idx(values))
    return folder


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("inner", ["", "FashionMNIST/raw"])
def test_fashion_mnist_is_read_from_idx_files(tmp_path, zipped, inner, no_debian):
    write_fashion(tmp_path / "data" / inner, zipped=zipped)
    task = load_task("fashion-mnist?validation=10", tmp_path / "data")
    assert (task.shape, task.classes, [task.count(part) for part in SPLITS]) == ((1, 28, 28), 10, [30, 10, 20])
    random = np.random.default_rng(0)
    random.integers(256, size=(40, 28, 28), dtype=np.uint8)
    expected = random.integers(256, size=(20, 28, 28), dtype=np.uint8)
    assert np.array_equal(task.splits["test"].images[:, 0].numpy(), expected)
    assert task.splits["test"].labels.tolist() == [*range(10)] * 2


@pytest.mark.parametrize("way", ["variable", "cache"])
def test_fashion_mnist_is_found_without_a_folder(tmp_path, monkeypatch, way, no_debian):
    place = tmp_path / "there" if way == "variable" else files.cache()
    write_fashion(place)
    monkeypatch.setenv("CONFORMANCE_DATA", str(place) if way == "variable" else "")
    assert load_task("fashion-mnist").count("test") == 20


def test_the_error_for_missing_data_says_where_and_how(tmp_path, monkeypatch, no_debian):
    (tmp_path / "given").mkdir()
    monkeypatch.setenv("CONFORMANCE_DATA", str(tmp_path / "variable"))
    with pytest.raises(UsageError) as caught:
        load_task("fashion-mnist", tmp_path / "given")
    said = str(caught.value)
    for place in (tmp_path / "given", tmp_path / "variable", files.cache(), fashion_mnist.DEBIAN):
        assert str(place) in said
    for way in ("(1) apt-get install dataset-fashion-mnist", "$CONFORMANCE_DATA", "fashion-mnist?download=true"):
        assert way in said


def test_a_folder_that_does_not_exist_is_no_reason_to_look_elsewhere(tmp_path):
    with pytest.raises(UsageError, match="there is no folder"):
        load_task("fashion-mnist", tmp_path / "typo")


LABELS = "train-labels-idx1-ubyte.gz"
IMAGES = "train-images-idx3-ubyte.gz"


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (IMAGES, lambda data: data[: len(data) // 2], "cannot be read: EOFError"),
        (IMAGES, lambda data: b"words", "cannot be read: BadGzipFile"),
        (IMAGES, lambda data: data[:30] + bytes(100) + data[130:], "cannot be read"),
        (IMAGES, lambda data: gzip.compress(gzip.decompress(data)[:-1]), "31359 values .* says 40 x 28 x 28"),
        (IMAGES, lambda data: gzip.compress(gzip.decompress(data) + b"0"), "31361 values .* says 40 x 28 x 28"),
        (IMAGES, lambda data: gzip.compress(b"\0\0\x08"), "no idx file"),
        (IMAGES, lambda data: gzip.compress(b"\0\0\x0d\x03" + gzip.decompress(data)[4:]), "no idx file of unsigned"),
        (LABELS, lambda data: gzip.compress(idx(np.zeros((40, 2), np.uint8))), "no idx file .* in 1 dimensions"),
        (LABELS, lambda data: gzip.compress(idx(np.zeros(39, np.uint8))), "40 images, .* has 39 labels"),
        (LABELS, lambda data: gzip.compress(idx(np.full(40, 10, np.uint8))), "labels above 9"),
    ],
)
def test_damaged_idx_files(tmp_path, name, damage, message, no_debian):
    file = write_fashion(tmp_path / "data") / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UsageError, match=message):
        load_task("fashion-mnist", tmp_path / "data")


def test_half_of_the_files_is_not_the_data_set(tmp_path, no_debian):
    (write_fashion(tmp_path / "data") / LABELS).unlink()
    with pytest.raises(UsageError, match="which is not in"):
        load_task("fashion-mnist", tmp_path / "data")


def test_fashion_mnist_is_downloaded_where_the_folder_is(tmp_path, monkeypatch, no_debian):
    site = write_fashion(tmp_path / "site")
    monkeypatch.setattr(fashion_mnist, "SITE", site.as_uri())
    monkeypatch.setattr(fashion_mnist, "FILES", {name: files.md5(site / f"{name}.gz") for name in fashion_mnist.FILES})
    (tmp_path / "data").mkdir()
    task = load_task("fashion-mnist?download=true", tmp_path / "data")
    assert task.name == "fashion-mnist"
    for file in site.iterdir():
        file.unlink()
    assert load_task("fashion-mnist?download=true", tmp_path / "data").digest == task.digest


@needs_debian
def test_the_real_fashion_mnist():
    task = load_task("fashion-mnist")
    assert [task.count(part) for part in SPLITS] == [54000, 6000, 10000]
    for part in SPLITS:
        assert len(set(torch.bincount(task.splits[part].labels).tolist())) == 1
    assert task.digest == "7de9bdd2e00d7691c6210bfa45fd996e272b379eef44942bd83243ff4cf50d09"
    images = task.splits["train"].images.float() / 255
    assert float(images.mean()) == pytest.approx(fashion_mnist.SCALING.mean[0], abs=0.001)
    assert float(images.std()) == pytest.approx(fashion_mnist.SCALING.deviation[0], abs=0.001)


# -- downloads ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "md5", "message"),
    [
        ("{}/file", "0" * 32, "has the MD5 [0-9a-f]{32}, not the published 0{32}: not kept"),
        ("{}/missing", "0" * 32, "could not be downloaded"),
    ],
)
def test_a_failed_download_leaves_nothing(tmp_path, url, md5, message):
    (tmp_path / "file").write_bytes(b"data")
    with pytest.raises(UsageError, match=message):
        fetch(Published(url.format(tmp_path.as_uri()), md5), tmp_path / "target")
    assert list((tmp_path / "target").iterdir()) == []


def test_a_download_into_a_file_is_an_error(tmp_path):
    (tmp_path / "file").write_bytes(b"data")
    with pytest.raises(UsageError, match="could not be downloaded into"):
        fetch(Published(f"{tmp_path.as_uri()}/file", "0" * 32), tmp_path / "file")


# -- CIFAR ----------------------------------------------------------------------------------------

LAYOUTS = [cifar.CIFAR10, cifar.CIFAR100]
layouts = pytest.mark.parametrize("layout", LAYOUTS, ids=[layout.name for layout in LAYOUTS])


@layouts
@pytest.mark.parametrize("packed", [False, True])
def test_cifar_is_read_from_the_binary_version(tmp_path, layout, packed):
    place = write_cifar(tmp_path / "site", layout)
    folder = tmp_path / "site"
    if packed:
        folder = tmp_path / "packed"
        folder.mkdir()
        with tarfile.open(folder / layout.archive.name, "w:gz") as archive:
            archive.add(place, layout.folder)
    task = load_task(layout.name, folder)
    total = 100 * len(layout.training)
    assert (task.shape, task.classes) == ((3, 32, 32), layout.classes)
    assert [task.count(part) for part in SPLITS] == [total - total // 10, total // 10, 100]
    raw = np.frombuffer((place / layout.testing).read_bytes(), np.uint8).reshape(100, -1)
    assert np.array_equal(task.splits["test"].images.flatten(1).numpy(), raw[:, layout.labels :])
    assert task.splits["test"].labels.tolist() == [number % layout.classes for number in range(100)]
    assert task.augmentation == Augmentation(4, mirror=True)
    assert load_task(layout.name, place).digest == task.digest


@layouts
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "no number of records"),
        (lambda data: b"", "has 0 bytes"),
        (lambda data: bytes([200] * 2) + data[2:], "has the class 200, above"),
    ],
)
def test_damaged_cifar(tmp_path, layout, damage, message):
    file = write_cifar(tmp_path, layout) / layout.testing
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UsageError, match=message):
        load_task(layout.name, tmp_path)


@layouts
def test_a_damaged_archive(tmp_path, layout):
    with tarfile.open(tmp_path / layout.archive.name, "w:gz") as archive:
        archive.add(
            write_cifar(tmp_path / "site", layout) / layout.training[0], f"{layout.folder}/{layout.training[0]}"
        )
    with pytest.raises(UsageError, match="cannot be read: KeyError"):
        load_task(layout.name, tmp_path)
    data = (tmp_path / layout.archive.name).read_bytes()
    (tmp_path / layout.archive.name).write_bytes(data[: len(data) // 2])
    with pytest.raises(UsageError, match="cannot be read"):
        load_task(layout.name, tmp_path)


@layouts
def test_the_pickled_version_is_not_loaded(tmp_path, layout):
    (tmp_path / layout.pickled).mkdir()
    for folder in (tmp_path, tmp_path / layout.pickled):
        with pytest.raises(UsageError, match="nothing pickled is loaded") as caught:
            load_task(layout.name, folder)
        assert layout.archive.url in str(caught.value)


@layouts
def test_cifar_is_downloaded_as_an_archive(tmp_path, monkeypatch, layout):
    from dataclasses import replace

    site = tmp_path / "site"
    place = write_cifar(site, layout)
    with tarfile.open(site / layout.archive.name, "w:gz") as archive:
        archive.add(place, layout.folder)
    there = Published(f"{site.as_uri()}/{layout.archive.name}", files.md5(site / layout.archive.name))
    monkeypatch.setattr(cifar, layout.name.upper(), replace(layout, archive=there))
    task = load_task(f"{layout.name}?download=true&test=50")
    assert (task.name, task.count("test")) == (f"{layout.name}?test=50", 50)
    assert [file.name for file in files.cache().iterdir()] == [layout.archive.name]


# -- image folders --------------------------------------------------------------------------------


def write_folder(folder: Path, train: int = 10, val: int = 2, classes: int = 3) -> Path:
    from PIL import Image

    random = np.random.default_rng(0)
    for part, count in (("train", train), ("val", val)):
        for label in range(classes):
            place = folder / part / f"class{label}"
            place.mkdir(parents=True)
            for number in range(count):
                size = (int(random.integers(20, 60)), int(random.integers(20, 60)))
                image = Image.fromarray(random.integers(256, size=(*size, 3), dtype=np.uint8))
                kind = ("JPEG", "png")[number % 2]
                (image.convert("L") if number == 1 else image).save(place / f"{number}.{kind}")
    return folder


@pytest.mark.zoo
@needs_torchvision
class TestImageFolder:
    def test_images_are_read_when_asked_for(self, tmp_path):
        task = load_task("imagenet?side=24&validation=6", write_folder(tmp_path))
        assert isinstance(task, Task)
        assert (task.shape, task.classes) == ((3, 24, 24), 3)
        assert [task.count(part) for part in SPLITS] == [24, 6, 6]
        found = list(task.batches("test", 4))
        assert [tuple(batch.args[0].shape) for batch in found] == [(4, 3, 24, 24), (2, 3, 24, 24)]
        assert torch.cat([batch.target for batch in found]).tolist() == [0, 0, 1, 1, 2, 2]
        assert [batch.size for batch in task.batches("train", 9, seed=0)] == [9, 9]

    def test_the_default_is_224_pixels(self, tmp_path):
        task = load_task("imagenet", write_folder(tmp_path, classes=2))
        assert task.name == "imagenet"
        assert next(task.batches("test", 1)).args[0].shape == (1, 3, 224, 224)

    def test_seed_and_epoch_decide_everything(self, tmp_path):
        write_folder(tmp_path)
        one, four = (load_task(f"imagenet?side=16&workers={workers}", tmp_path) for workers in (1, 4))
        assert one.name == four.name
        first = bytes_of(one, seed=0, epoch=0)
        assert bytes_of(four, seed=0, epoch=0) == first
        assert len({first, bytes_of(one, seed=0, epoch=1), bytes_of(one, seed=1, epoch=0), bytes_of(one)}) == 4
        state = torch.get_rng_state()
        bytes_of(one, seed=0)
        assert torch.equal(torch.get_rng_state(), state)

    def test_the_middle_is_tested(self, tmp_path):
        from PIL import Image

        from backends.tasks.imagenet import tested

        pixels = np.zeros((32, 64, 3), np.uint8)
        pixels[:, 16:48] = 200
        assert int(tested(Image.fromarray(pixels), 28).min()) > 190

    @given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**31))
    def test_a_random_part_lies_in_the_image(self, height, width, seed):
        from backends.tasks.imagenet import random_part

        top, left, high, wide = random_part(height, width, torch.Generator().manual_seed(seed))
        assert min(top, left) >= 0
        assert min(high, wide) >= 1
        assert top + high <= height
        assert left + wide <= width

    def test_random_parts_are_spread(self):
        from backends.tasks.imagenet import random_part

        generator = torch.Generator().manual_seed(0)
        parts = np.array([random_part(200, 200, generator) for _ in range(2000)], dtype=float)
        areas, ratios = parts[:, 2] * parts[:, 3] / 40000, parts[:, 3] / parts[:, 2]
        assert 0.07 < areas.min() < 0.1
        assert 0.95 < areas.max() <= 1
        assert 0.73 < ratios.min() < 0.77
        assert 1.3 < ratios.max() < 1.36

    @pytest.mark.parametrize("shape", [(1, 300), (300, 1)])
    def test_of_an_image_too_long_the_middle_is_taken(self, shape):
        from backends.tasks.imagenet import random_part

        top, left, high, wide = random_part(*shape, torch.Generator().manual_seed(0))
        assert max(high, wide) <= 2
        assert abs(top - (shape[0] - high) // 2) + abs(left - (shape[1] - wide) // 2) == 0

    def test_a_broken_image_is_named(self, tmp_path):
        (write_folder(tmp_path) / "val" / "class1" / "0.JPEG").write_bytes(b"words")
        task = load_task("imagenet?side=8", tmp_path)
        with pytest.raises(UsageError, match=r"class1/0\.JPEG cannot be read as an image"):
            list(task.batches("test", 2))

    def test_a_cut_off_image_is_named(self, tmp_path):
        file = write_folder(tmp_path) / "val" / "class0" / "0.JPEG"
        file.write_bytes(file.read_bytes()[:-200])
        with pytest.raises(UsageError, match=r"0\.JPEG cannot be read as an image"):
            list(load_task("imagenet?side=8", tmp_path).batches("test", 2))

    def test_folders_that_do_not_fit(self, tmp_path):
        import shutil

        with pytest.raises(UsageError, match="which is not in"):
            load_task("imagenet", tmp_path)
        write_folder(tmp_path)
        shutil.rmtree(tmp_path / "val" / "class2")
        with pytest.raises(UsageError, match="only one of them has class2"):
            load_task("imagenet", tmp_path)
        (tmp_path / "val" / "class2").mkdir()
        with pytest.raises(UsageError, match="class2"):
            load_task("imagenet", tmp_path)

    @pytest.mark.parametrize("option", ["side=0", "workers=0"])
    def test_options_that_cannot_be(self, tmp_path, option):
        with pytest.raises(UsageError, match="positive"):
            load_task(f"imagenet?{option}", write_folder(tmp_path, classes=1))

    def test_the_digest_follows_the_files(self, tmp_path):
        write_folder(tmp_path)
        first = load_task("imagenet", tmp_path).digest
        assert load_task("imagenet?train=9", tmp_path).digest != first
        assert load_task("imagenet?side=32", tmp_path).digest != first
        with (tmp_path / "val" / "class1" / "0.JPEG").open("ab") as file:
            file.write(b"0")
        assert load_task("imagenet", tmp_path).digest != first
