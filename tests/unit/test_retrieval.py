"""Retrieval between pairs of texts: batches of pairs, the contrastive loss, ranks, and the corpus of docstrings."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from backends.tasks import docstrings
from backends.tasks.docstrings import COMPILED, Pair, corpus, distinct, divided, make, pair
from backends.tasks.retrieval import RetrievalTask, TokenPairs, figures, padded, ranks
from conformance.errors import UsageError
from conformance.method import together
from conformance.method.task import SPLITS, Task, parsed_options

pytest.importorskip("tokenizers")

QUERIES = ((2, 5, 3), (2, 6, 3), (2, 7, 8, 3), (2, 9, 3), (2, 10, 11, 3))
BODIES = ((2, 5, 5, 5, 3), (2, 6, 3), (2, 8, 3), (2, 9, 9, 3), (2, 10, 3))
PAIRS = TokenPairs(QUERIES, BODIES)


def small(**changes) -> RetrievalTask:
    facts = {"name": "small", "splits": dict.fromkeys(SPLITS, PAIRS), "length": 8, "padding": 0, **changes}
    return RetrievalTask(**facts)


class Bag(nn.Module):
    """The mean of its tokens' vectors: order and padding do not matter."""

    def __init__(self, width: int = 16, tokens: int = 12) -> None:
        super().__init__()
        self.table = nn.Embedding(tokens, width)
        nn.init.eye_(self.table.weight)

    def forward(self, input_ids, attention_mask):
        weight = attention_mask[:, :, None].to(self.table.weight.dtype)
        return (self.table(input_ids) * weight).sum(1) / weight.sum(1)


# -- ranks ----------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 3), min_size=5, max_size=5), min_size=5, max_size=5))
def test_ranks_count_what_is_not_lower(rows):
    expected = [sum(score >= row[place] for score in row) for place, row in enumerate(rows)]
    assert ranks(torch.tensor(rows, dtype=torch.float64)).tolist() == expected


def test_a_model_without_an_answer_finds_nothing():
    assert ranks(torch.zeros(20, 20)).tolist() == [20] * 20
    assert ranks(torch.full((20, 20), math.nan)).tolist() == [20] * 20
    assert figures(ranks(torch.full((20, 20), math.nan))) == {"mrr_at_10": 0.0, "recall_at_1": 0.0}
    scores = torch.eye(3)
    scores[0, 2] = math.nan
    assert ranks(scores).tolist() == [2, 1, 1]


def test_past_the_tenth_place_nothing_counts():
    found = figures(torch.tensor([1, 2, 10, 11]))
    assert found == {"mrr_at_10": pytest.approx((1 + 1 / 2 + 1 / 10) / 4), "recall_at_1": 0.25}


# -- batches --------------------------------------------------------------------------------------


def test_a_batch_has_query_and_body_in_every_two_rows():
    first, second = small().batches("test", 3)
    assert first.args == ()
    assert first.size == 6
    assert first.target.tolist() == [0, 0, 1, 1, 2, 2]
    assert second.target.tolist() == [3, 3, 4, 4]
    ids, mask = first.kwargs["input_ids"], first.kwargs["attention_mask"]
    assert ids.shape == mask.shape == (6, 5)
    rows = [tuple(row[keep.bool()].tolist()) for row, keep in zip(ids, mask, strict=True)]
    assert rows == [text for number in range(3) for text in (QUERIES[number], BODIES[number])]
    assert int((ids * (1 - mask)).sum()) == 0


def test_padding_is_the_tokenizers():
    found = padded([(4,), (5, 6, 7)], 9)
    assert found["input_ids"].tolist() == [[4, 9, 9], [5, 6, 7]]
    assert found["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]


def test_the_order_depends_on_seed_and_epoch_alone():
    task = small()

    def order(seed, epoch=0):
        return [batch.target.tolist() for batch in task.batches("train", 2, seed=seed, epoch=epoch)]

    state = torch.get_rng_state()
    assert order(0) == order(0)
    assert len({str(order(seed, epoch)) for seed in range(4) for epoch in range(4)}) > 8
    assert torch.equal(torch.get_rng_state(), state)
    assert all(len(row) == 4 for row in order(0))
    assert len(order(0)) == 2  # the fifth pair fills no batch


@pytest.mark.parametrize(("size", "seed", "message"), [(0, None, "at least one"), (6, 0, "larger than the split")])
def test_sizes_that_cannot_be(size, seed, message):
    with pytest.raises(UsageError, match=message):
        list(small().batches("train", size, seed=seed))


def test_processes_that_share_a_batch_have_whole_pairs(monkeypatch):
    task, model = small(), Bag()
    (batch,) = task.batches("train", 4, seed=0)
    monkeypatch.setattr(together, "world", lambda: 2)
    shares = []
    for process in range(2):
        monkeypatch.setattr(together, "rank", lambda process=process: process)
        shares.append(together.share(batch))
    assert torch.cat([share.target for share in shares]).tolist() == batch.target.tolist()
    for share in shares:
        assert share.size == 4
        assert torch.isfinite(task.loss(model(**share.kwargs), share.target))


def test_the_digest_follows_texts_and_settings():
    other = TokenPairs(QUERIES, BODIES[::-1])
    tasks = [
        small(),
        small(padding=1),
        small(length=9),
        small(temperature=0.1),
        small(splits=dict.fromkeys(SPLITS, other)),
    ]
    assert len({task.digest for task in tasks}) == len(tasks)
    assert small(name="another").digest == small().digest


# -- the loss -------------------------------------------------------------------------------------


def by_hand(rows: torch.Tensor, temperature: float) -> float:
    """The loss from its definition, pair by pair."""
    queries, bodies = rows[::2].tolist(), rows[1::2].tolist()

    def cosine(one, other):
        norms = math.hypot(*one) * math.hypot(*other)
        return sum(x * y for x, y in zip(one, other, strict=True)) / norms / temperature

    total = 0.0
    for number in range(len(queries)):
        own = math.exp(cosine(queries[number], bodies[number]))
        total -= math.log(own / sum(math.exp(cosine(queries[number], body)) for body in bodies))
        total -= math.log(own / sum(math.exp(cosine(query, bodies[number])) for query in queries))
    return total / 2 / len(queries)


@given(st.integers(0, 2**31), st.integers(1, 5), st.sampled_from([0.05, 0.5]))
def test_the_loss_is_its_definition(seed, pairs, temperature):
    rows = torch.randn(2 * pairs, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = small(temperature=temperature).loss(rows, torch.arange(pairs).repeat_interleave(2))
    assert float(found) == pytest.approx(by_hand(rows, temperature), rel=1e-9, abs=1e-12)


def test_the_loss_has_a_gradient_and_no_scale():
    task, target = small(temperature=0.5), torch.arange(3).repeat_interleave(2)
    rows = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda output: task.loss(output, target), (rows,))
    rows = rows.detach()
    assert float(task.loss(rows * 7, target)) == pytest.approx(float(task.loss(rows, target)))


def test_half_precision_is_widened_before_cosines():
    task, target = small(), torch.arange(4).repeat_interleave(2)
    rows = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = task.loss(rows, target)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(task.loss(rows.float(), target)), rel=1e-6)


@pytest.mark.parametrize(
    ("output", "target", "message"),
    [
        ({"x": 1}, [0, 0], "of type dict, no tensor"),
        (torch.zeros(2, 3, dtype=torch.int64), [0, 0], "no tensor of embeddings"),
        (torch.zeros(2, 3, 4), [0, 0], r"has the shape \(2, 3, 4\), not 2 vectors"),
        (torch.zeros(3, 4), [0, 0], "not 2 vectors"),
        (torch.zeros(4, 4), [0, 1, 0, 1], "in every two rows"),
        (torch.zeros(3, 4), [0, 0, 1], "in every two rows"),
    ],
)
def test_what_the_loss_does_not_judge(output, target, message):
    with pytest.raises(UsageError, match=message):
        small().loss(output, torch.tensor(target))


# -- evaluation -----------------------------------------------------------------------------------


def test_a_model_is_ranked_and_left_as_it_was():
    task, model = small(), Bag()
    assert isinstance(task, Task)
    model.table.training = False
    state = torch.get_rng_state()
    # Each query shares its token with its own body alone, but for the start and the end that all have.
    assert task.evaluate(model) == {"mrr_at_10": 1.0, "recall_at_1": 1.0}
    assert (model.training, model.table.training) == (True, False)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("size", [1, 2, 256])
def test_figures_do_not_depend_on_the_batches(size):
    model = Bag()
    with torch.no_grad():
        model.table.weight.copy_(torch.randn(12, 16, generator=torch.Generator().manual_seed(1)))
    vectors = [[model(**padded([text], 0))[0].detach() for text in texts] for texts in (QUERIES, BODIES)]
    places = []
    for number, query in enumerate(vectors[0]):
        scores = [float(torch.cosine_similarity(query, body, dim=0)) for body in vectors[1]]
        places.append(sorted(scores, reverse=True).index(scores[number]) + 1)
    found = small().evaluate(model, size=size)
    assert found["mrr_at_10"] == pytest.approx(sum(1 / place for place in places) / len(places))
    assert found["mrr_at_10"] < 1


def test_an_empty_split_has_no_figures():
    with pytest.raises(UsageError, match="has no validation samples"):
        small(splits={**dict.fromkeys(SPLITS, PAIRS), "validation": TokenPairs((), ())}).evaluate(Bag(), "validation")


# -- docstrings -----------------------------------------------------------------------------------

WORDS = "one two three four five six seven eight"
SOURCE = f'''"""What this module is for.

{WORDS} of the module."""
raise SystemExit("nothing of it is run")

class Shape:
    """A shape on a plane.

    Shape {WORDS} of the class."""

    def area(self):
        """How large it is.

        How large it is. {WORDS} of the area(), subarea."""

        async def inner():
            """A function in another one.

            {WORDS}

            of the inner function."""

    if True:
        def corner(self):
            """No body here."""
'''


@pytest.fixture
def library(tmp_path):
    (tmp_path / "single.py").write_text(SOURCE)
    package = tmp_path / "package"
    for folder in (package / "deep", package / "tests", package / "test"):
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(f'"""In a folder of {folder.name}.\n\n{WORDS} {folder.name}"""')
    (package / "z.py").write_text(f'"""The last file there.\n\n{WORDS} z"""')
    return tmp_path


def test_sources_are_parsed_and_not_run(library):
    assert list(corpus(library, ["single"])) == [
        Pair("single", "What this module is for.", f"{WORDS} of the module."),
        Pair("single.Shape", "A shape on a plane.", f"{WORDS} of the class."),
        Pair("single.Shape.area", "How large it is.", f"{WORDS} of the (), subarea."),
        Pair("single.Shape.area.inner", "A function in another one.", f"{WORDS} of the function."),
    ]


def test_a_package_is_walked_without_its_tests(library):
    assert [one.name for one in corpus(library, ["package"])] == ["package.deep", "package.z"]


def test_sources_that_are_missing_or_damaged(library):
    with pytest.raises(UsageError, match="has no source of other"):
        list(corpus(library, ["single", "other"]))
    (library / "broken.py").write_text("def")
    with pytest.raises(UsageError, match=r"broken\.py cannot be parsed: SyntaxError"):
        list(corpus(library, ["broken"]))


@pytest.mark.parametrize(
    "docstring",
    [
        "",
        "Only a summary that is long enough.",
        f"Two words\n\n{WORDS}",
        f"{'word ' * 41}\n\n{WORDS}",
        f"find(text, start) and three words\n\n{WORDS}",
        "A summary of five words\n\none two three four five six seven",
        "A summary of five words\n\none two three four five six seven find find",
    ],
)
def test_what_is_no_pair(docstring):
    assert pair("module.find", docstring) is None


def test_texts_are_told_apart_in_either_case():
    pairs = [
        Pair("a", "Some", "body"),
        Pair("b", "SOME", "other"),
        Pair("c", "New", "Body"),
        Pair("d", "More", "OTHER"),
    ]
    assert [one.name for one in distinct(pairs)] == ["a"]


@given(st.lists(st.text("abc", min_size=1, max_size=4), unique=True), st.data())
def test_a_pair_stays_in_its_split(names, data):
    pairs = [Pair(name, name, name) for name in names]
    whole = divided(pairs)
    assert sorted(one.name for part in whole.values() for one in part) == sorted(names)
    some = data.draw(st.permutations([one for one in pairs if data.draw(st.booleans())]))
    for part, found in divided(some).items():
        assert found == [one for one in whole[part] if one in some]


def test_shares_of_the_splits():
    found = divided(Pair(str(number), "", "") for number in range(10000))
    assert [round(len(found[part]) / 1000) for part in SPLITS] == [7, 1, 2]


def test_compiled_modules_have_their_own_docstrings_only(monkeypatch):
    monkeypatch.setattr(sys, "foreign", lambda: None, raising=False)
    sys.foreign.__doc__ = f"Put here by somebody.\n\n{WORDS}"
    names = {name for module in COMPILED for name, _ in docstrings._compiled(module)}
    assert {"builtins.str.split", "itertools.chain", "math.comb", "sys.exc_info", "time.sleep"} <= names
    assert "sys.foreign" not in names
    assert all(name.partition(".")[0] in {module.__name__ for module in COMPILED} for name in names)


@pytest.fixture
def tokenizer(tmp_path):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS.split()]
    made = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, "[UNK]"))
    made.pre_tokenizer = Whitespace()
    made.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    made.enable_padding(length=50)  # as published ones come: it is not to be used
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def hundred(monkeypatch):
    pairs = [Pair(str(number), f"one {'two ' * number}", f"three {'four ' * number}") for number in range(100)]
    monkeypatch.setattr(docstrings, "corpus", lambda: iter(pairs))


def test_a_task_is_made_of_tokens(tokenizer, hundred):
    task = make(tokenizer, length=6)
    assert isinstance(task, Task)
    assert (task.name, task.shape, task.classes, task.padding) == ("docstrings?length=6", (6,), 0, 0)
    assert sum(task.count(part) for part in SPLITS) == 100
    texts = [text for part in task.splits.values() for text in part.queries]
    assert {len(text) for text in texts} == {3, 4, 5, 6}
    assert all((text[0], text[1], text[-1]) == (2, 4, 3) for text in texts)
    assert make(tokenizer).digest != task.digest


def test_limits_take_the_first_of_a_split(tokenizer, hundred):
    whole = make(tokenizer)
    some = make(tokenizer, **parsed_options("docstrings", "train=20&validation=0&test=5", make))
    assert some.name == "docstrings?train=20&validation=0&test=5"
    assert [some.count(part) for part in SPLITS] == [20, 0, 5]
    assert some.splits["train"].queries == whole.splits["train"].queries[:20]
    for options, message in (({"train": 500}, "samples for train, 500"), ({"test": 0}, "no samples for test")):
        with pytest.raises(UsageError, match=message):
            make(tokenizer, **options)
    with pytest.raises(UsageError, match="at least 4 tokens"):
        make(tokenizer, length=3)


def test_tokenizers_that_cannot_be(tmp_path, tokenizer, hundred):
    with pytest.raises(UsageError, match=r"tokenizer\.json is no tokenizer that can be read: FileNotFoundError"):
        make(tmp_path)
    text = (tokenizer / "tokenizer.json").read_text()
    (tokenizer / "tokenizer.json").write_text(text.replace("[PAD]", "[FILL]"))
    with pytest.raises(UsageError, match=r"no token \[PAD\]"):
        make(tokenizer)
    (tokenizer / "tokenizer.json").write_text(text[:100])
    with pytest.raises(UsageError, match="is no tokenizer that can be read"):
        make(tokenizer)


def test_without_a_tokenizer_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "backends.minilm_zoo", None)
    with pytest.raises(UsageError, match=r"the task docstrings has no tokenizer: .*; or give a folder"):
        make()


def test_the_standard_library_has_enough():
    before = set(sys.modules)
    found = distinct(corpus())
    assert {name.partition(".")[0] for name in set(sys.modules) - before} <= set(sys.stdlib_module_names)
    assert not {"antigravity", "this", "tkinter"} & (set(sys.modules) - before)
    sizes = [len(divided(found)[part]) for part in SPLITS]
    assert sizes[0] > 1200
    assert min(sizes) > 150
    if sys.version_info[:2] == (3, 11):
        assert sizes == pytest.approx([1427, 186, 397], rel=0.03)
