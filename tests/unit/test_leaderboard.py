"""Boards and files from rows, with what goes wrong planted: ties, single seeds, missing cells, NaN, failures."""

from __future__ import annotations

import csv
import io
import json
import random
from html.parser import HTMLParser

import pytest

from conformance.errors import UsageError
from reports.leaderboard.boards import make_boards
from reports.leaderboard.charts import chart, thinned, ticks
from reports.leaderboard.command import leaderboard
from reports.leaderboard.document import as_json, document
from reports.leaderboard.figures import drawable, settings, styles, suites
from reports.leaderboard.overall import make_overall
from reports.leaderboard.published import published
from reports.leaderboard.text import as_csv, markdown
from reports.rows import Latency
from tests.unit.made_rows import history, row, rows, write


def seeds(method, *values, **changes):
    """A row a seed, each with the dense figure 1."""
    return [row(method, seed, value, dense=1.0, **changes) for seed, value in enumerate(values)]


def only_board(made):
    (board,) = make_boards(made).boards
    return board


def entry(board, method):
    (found,) = [one for one in board.entries if one.contestant.method == method]
    return found


def content(made):
    boards = make_boards(made)
    return document(boards, make_overall(boards.boards))


# -- one board ------------------------------------------------------------------------------------


def test_ranks_spread_and_retained_of_a_board():
    board = only_board(seeds("l1", 0.90, 0.92, 0.94) + seeds("l2", 0.80, 0.83, 0.83) + seeds("random", 0.5, 0.5, 0.5))
    assert [one.contestant.method for one in board.entries] == ["l1", "l2", "random"]
    assert [one.places["D3"].rank for one in board.entries] == [1, 2, 3]
    assert entry(board, "l1").mean == pytest.approx(0.92)
    assert entry(board, "l1").std == pytest.approx(0.02)
    assert entry(board, "l1").retained_mean == pytest.approx(0.92)
    assert entry(board, "l2").over_random.mean == pytest.approx(0.32)
    assert entry(board, "random").over_random is None
    assert board.state == ""


def test_ties_share_a_rank():
    board = only_board(seeds("l1", 0.9, 0.8, 0.9) + seeds("l2", 0.8, 0.9, 0.9) + seeds("random", 0.1, 0.1, 0.1))
    assert [(one.places["D3"].rank, one.places["D3"].shared) for one in board.entries] == [(1, 2), (1, 2), (3, 1)]


def test_few_seeds_are_provisional_and_not_ranked():
    board = only_board(seeds("l1", 0.9) + seeds("l2", 0.1, 0.1))
    assert board.state == "provisional: 2 seeds"
    assert [one.state for one in board.entries] == ["provisional: 1 seed", "provisional: 2 seeds"]
    assert all(one.places == {} for one in board.entries)
    board = only_board(seeds("l1", 0.9) + seeds("l2", 0.1, 0.1, 0.1))
    assert board.state == ""
    assert [one.contestant.method for one in board.entries] == ["l2", "l1"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"status": "FAILED", "value": None, "verdict": ""}, "1 failed of 4"),
        ({"verdict": "different"}, "1 different of 4"),
        ({"verdict": "unsupported"}, "1 unsupported of 4"),
        ({"verdict": "masks do not hold"}, "1 masks do not hold of 4"),
        ({"verdict": ""}, "1 no verdict of 4"),
        ({"value": float("nan")}, "1 without a figure of 4"),
        ({"value": float("inf")}, "1 without a figure of 4"),
        ({"value": None}, "1 without a figure of 4"),
    ],
)
def test_one_bad_row_takes_the_rank(changes, why):
    # Three good seeds would be enough for a rank, were it not for the fourth.
    bad_row = row("l1", 3, **{"value": 0.99} | changes)
    made = [*seeds("l1", 0.9, 0.9, 0.9), bad_row, *seeds("l2", 0.5, 0.5, 0.5)]
    board = only_board(made)
    bad = entry(board, "l1")
    assert bad.trouble == why
    assert bad.state == f"not ranked: {why}"
    assert bad.places == bad.on_front == {}
    assert bad.over_random is None
    assert entry(board, "l2").places["D3"].high == 1
    assert board.entries[-1] is bad
    assert as_json(content(made))  # NaN never gets into the files


def test_data_need_classes_rank_anew():
    made = seeds("l1", 0.5, 0.5, 0.5) + seeds("taylor", 0.7, 0.7, 0.7, data_need="D2")
    made += seeds("hesso", 0.9, 0.9, 0.9, data_need="D3") + seeds("odd", 0.95, 0.95, 0.95, data_need="")
    board = only_board(made)
    assert {level: place.rank for level, place in entry(board, "l1").places.items()} == {
        "D0": 1, "D1": 1, "D2": 2, "D3": 4,
    }  # fmt: skip
    assert set(entry(board, "taylor").places) == {"D2", "D3"}
    assert set(entry(board, "odd").places) == {"D3"}


def test_divisions_suites_and_budgets_are_apart():
    made = seeds("l1", 0.5, 0.6, 0.7) + seeds("l1", 0.9, 0.9, 0.9, division="open", recipe={"lr": 1.0})
    made += seeds("l1", 0.4, 0.4, 0.4, budget="macs=0.75") + seeds("l1", 0.3, 0.3, 0.3, suite="other")
    boards = make_boards(made).boards
    assert [(b.setting.suite, b.setting.division, b.budget) for b in boards] == [
        ("other", "closed", "macs=0.5"), ("small", "closed", "macs=0.5"), ("small", "closed", "macs=0.75"),
        ("small", "open", "macs=0.5"),
    ]  # fmt: skip
    assert all(len(b.entries) == 1 for b in boards)


def test_options_and_open_recipes_make_contestants_of_their_own():
    made = seeds("l1", 0.5, 0.5, 0.5) + seeds("l1", 0.6, 0.6, 0.6, options={"ranking": "local"})
    labels = [one.contestant.label for one in only_board(made).entries]
    assert labels == ["l1 (ranking=local)", "l1"]
    made = seeds("l1", 0.5, division="open", recipe={"lr": 1}) + seeds("l1", 0.6, division="open", recipe={"lr": 2})
    made = [one.model_copy(update={"key": str(number)}) for number, one in enumerate(made)]
    labels = [one.contestant.label for one in only_board(made).entries]
    assert len(set(labels)) == 2
    assert all(label.startswith("l1 (recipe ") for label in labels)


def test_the_newest_row_counts_whatever_the_order():
    old = row("l1", 0, 0.1)
    new = old.model_copy(update={"value": 0.9, "finished": "2026-02-01T00:00:00"})
    other = new.model_copy(update={"key": "another", "value": 0.8, "finished": "2026-03-01T00:00:00"})
    for order in ([old, new, other], [other, new, old], [new, old, other, other]):
        made = make_boards(order)
        assert made.boards[0].entries[0].values == {0: 0.8}
        assert made.replaced == len(order) - 1


@pytest.mark.parametrize("key", ["../x", "a/b", "", "a.b", ".hidden", "a b"])
def test_a_key_that_is_no_file_name_is_refused(key):
    with pytest.raises(UsageError, match="is no key"):
        make_boards([row("l1").model_copy(update={"key": key})])


def test_the_dense_figure_comes_from_rows_that_know_it():
    trained = row("hesso", 0, 0.9, dense=0.1, training="trained")
    assert only_board([trained]).dense == {}
    assert only_board([trained.model_copy(update={"recipe": {"dense_epochs": 5}})]).dense == {0: 0.1}
    assert only_board([trained, row("l1", 0, 0.8, dense=0.95)]).dense == {0: 0.95}
    own = row("dense", 0, 0.96, dense=None)
    board = only_board([trained, row("l1", 0, 0.8, dense=0.95), own])
    assert board.dense == {0: 0.96}
    assert {one.contestant.method for one in board.entries} == {"hesso", "l1"}


def test_retained_is_taken_seed_by_seed():
    made = [row("l1", seed, value, dense=dense) for seed, (value, dense) in enumerate([(0.5, 1.0), (0.6, 0.8)])]
    assert only_board(made).entries[0].retained_mean == pytest.approx((0.5 + 0.75) / 2)


def timed(ratio, batch=1):
    return Latency(batch=batch, turns=3, dense_p50=1, dense_p90=1, subnet_p50=1, subnet_p90=1, ratio=ratio,
                   ratio_low=ratio - 0.1, ratio_high=ratio + 0.1, throughput=1)  # fmt: skip


def test_fronts_within_a_board_and_over_budgets():
    made = seeds("small", 0.8, 0.8, 0.8, macs=(100, 20)) + seeds("worse", 0.7, 0.7, 0.7, macs=(100, 30))
    made += seeds("big", 0.9, 0.9, 0.9, macs=(100, 60), latency=(timed(2.0),))
    made += seeds("better", 0.95, 0.95, 0.95, macs=(100, 50), budget="macs=0.4")
    first, second = make_boards(made).boards
    assert entry(second, "small").on_front["macs"]
    assert not entry(second, "worse").on_front["macs"]
    assert entry(second, "big").on_front == {"macs": True, "params": True, "latency": True}
    assert not entry(second, "big").all_front["macs"]
    assert entry(first, "better").all_front["macs"]
    assert entry(second, "big").kept["latency"] == pytest.approx(0.5)
    assert "latency" not in entry(second, "small").kept


def test_a_share_that_only_some_seeds_have_is_not_shown():
    made = [*seeds("l1", 0.9, 0.9), row("l1", 2, 0.9, macs=None, memory=(4, 2), latency=(timed(2),))]
    kept = only_board(made).entries[0].kept
    assert set(kept) == {"params"}


def test_latencies_are_compared_at_a_batch_all_have():
    made = seeds("l1", 0.9, 0.9, 0.9, latency=(timed(2, 1), timed(3, 8)))
    board = only_board(made + seeds("l2", 0.8, 0.8, 0.8, latency=(timed(4, 8),)))
    assert board.batch == 8
    assert entry(board, "l1").speedup.mean == pytest.approx(3)
    board = only_board(made + seeds("l2", 0.8, 0.8, 0.8, latency=(timed(4, 16),)))
    assert board.batch is None
    assert entry(board, "l1").speedup is None
    assert any("share no batch size" in note for note in board.notes)


def test_what_must_be_known_before_comparing_is_noted():
    made = seeds("l1", 0.9, recipe={"lr": 1}, hardware={"cpu": "a"}, latency=(timed(2),))
    made += seeds("l2", 0.9, recipe={"lr": 2}, hardware={"cpu": "b"}, latency=(timed(2),), training="none")
    notes = " ".join(only_board(made).notes)
    assert "different recipes" in notes
    assert "different hardware" in notes
    assert "different training: finetuned, none" in notes
    assert only_board(seeds("l1", 0.9)).notes == ()


def test_the_same_epochs_spread_in_other_ways_are_no_other_recipe():
    made = seeds("l1", 0.9, recipe={"lr": 1, "epochs": 0, "finetune_epochs": 4, "finetune_lr": 1})
    made += seeds("hesso", 0.9, recipe={"lr": 1, "epochs": 4, "finetune_epochs": 0, "finetune_lr": None})
    assert only_board(made).notes == ()


def test_the_suite_s_caption_stands_above_its_boards(tmp_path):
    made = seeds("l1", 0.9, 0.8, 0.7, caption="half of the usual width")
    site = build(tmp_path, made)
    assert "half of the usual width" in read(site / "index.html").text
    assert "half of the usual width" in (site / "leaderboard.md").read_text(encoding="utf-8")


# -- over a suite ---------------------------------------------------------------------------------


def test_the_overall_board_is_the_mean_over_cells_of_seeds():
    made = seeds("l1", 0.9, 0.8, 0.7) + seeds("l1", 0.5, 0.6, 0.7, budget="macs=0.75")
    made += seeds("l2", 0.1, 0.1, 0.1) + seeds("l2", 0.1, 0.1, 0.1, budget="macs=0.75")
    made += seeds("taylor", 1.0, 1.0, 1.0)
    (overall,) = make_overall(make_boards(made).boards)
    assert len(overall.cells) == 2
    first, second, third = overall.standings
    assert first.values == pytest.approx({0: 0.7, 1: 0.7, 2: 0.7})
    assert (first.places["D3"].rank, second.places["D3"].rank) == (1, 2)
    assert third.contestant.method == "taylor"
    assert third.state == "incomplete"
    assert third.places == {}
    assert third.mean == pytest.approx(1.0)
    assert third.missing == ("handmade:conv-net / digits / macs=0.75 (no run)",)


def test_a_cell_nobody_can_have_is_left_out_and_said():
    made = seeds("l1", 0.9, 0.8, 0.7) + seeds("l1", 0.5, verdict="unsupported", model="timm:odd")
    made += seeds("random", 0.5, 0.5, 0.5) + seeds("random", 0.5, 0.5, 0.5, model="timm:odd")
    (overall,) = make_overall(make_boards(made).boards)
    assert overall.left_out == ("timm:odd / digits / macs=0.5",)
    assert [one.state for one in overall.standings] == ["ranked", "ranked"]


def test_overall_boards_are_ranked_by_the_seeds_all_cells_share():
    made = seeds("l1", 0.9, 0.8, 0.7) + [row("l1", seed, 0.5, 1.0, budget="macs=0.75") for seed in (1, 2, 3)]
    (overall,) = make_overall(make_boards(made).boards)
    assert overall.standings[0].state == "provisional: 2 seeds"
    assert sorted(overall.standings[0].values) == [1, 2]


def test_masks_and_groups_have_overall_boards_of_their_own():
    made = seeds("l1", 0.9, 0.8, 0.7) + seeds("ticket", 0.9, 0.9, 0.9, budget="weights=0.9", granularity="weight",
                                              verdict="masks hold")  # fmt: skip
    overall = make_overall(make_boards(made).boards)
    assert [(one.granularity, len(one.cells), one.standings[0].state) for one in overall] == [
        ("group", 1, "ranked"), ("weight", 1, "ranked"),
    ]  # fmt: skip


def test_a_failed_row_that_says_nothing_of_itself_still_counts_as_missing():
    made = seeds("l1", 0.9, 0.8, 0.7) + seeds("l2", 0.9, 0.8, 0.7)
    made += seeds("l1", 0.9, 0.8, 0.7, budget="macs=0.75")
    made += [row("l2", 0, None, budget="macs=0.75", status="FAILED", verdict="", granularity="", data_need="")]
    (overall,) = make_overall(make_boards(made).boards)
    (l2,) = [one for one in overall.standings if one.contestant.method == "l2"]
    assert l2.missing == ("handmade:conv-net / digits / macs=0.75 (1 failed of 1)",)


# -- files ----------------------------------------------------------------------------------------


def build(folder, made, **options):
    source = write(folder, made)
    leaderboard([source], folder / "site", **{"runs": None, "title": "Board", "pictures": False} | options)
    return folder / "site"


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_rows_give_the_same_bytes_in_any_order(tmp_path):
    pytest.importorskip("matplotlib")
    made = rows(seeds=3, budgets=(0.5,))
    shuffled = random.Random(0).sample(made, len(made))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = files(build(tmp_path / "a", made, pictures=True))
    lines = "".join(json.dumps(one.model_dump(mode="json")) + "\n" for one in shuffled)
    (tmp_path / "b" / "one.jsonl").write_text(lines[: len(lines) // 2].rpartition("\n")[0] + "\n")
    (tmp_path / "b" / "two.jsonl").write_text(lines)
    sources = [tmp_path / "b" / "two.jsonl", tmp_path / "b" / "one.jsonl"]
    leaderboard(sources, tmp_path / "b" / "site", None, "Board", True)
    second = files(tmp_path / "b" / "site")
    replaced = {name for name in first if first[name] != second[name]}
    # Only the count of rows that were given twice differs.
    assert replaced <= {"leaderboard.json", "index.html"}
    assert first.keys() == second.keys()
    leaderboard(sources[:1], tmp_path / "b" / "site", None, "Board", True)
    assert files(tmp_path / "b" / "site") == first
    assert any(name.endswith(".png") for name in first)


def test_files_of_an_earlier_leaderboard_go_and_others_stay(tmp_path):
    site = build(tmp_path, rows(seeds=3, budgets=(0.5,)))
    (site / "mine.txt").write_text("kept")
    (site / "runs" / "mine.html").write_text("kept")
    outside = tmp_path / "outside.html"
    outside.write_text("kept")
    listed = json.loads((site / "files.json").read_text())
    (site / "files.json").write_text(json.dumps([*listed, "../outside.html", "runs/../../outside.html", 7]))
    build(tmp_path, seeds("l1", 0.9))
    assert len(list((site / "runs").iterdir())) == 2
    assert (site / "mine.txt").exists()
    assert outside.exists()


class Reader(HTMLParser):
    """Every tag is closed where it should be; what is fetched, and the text outside scripts."""

    EMPTY = frozenset({"meta", "link", "input", "line", "path", "br"})

    def __init__(self):
        super().__init__()
        self.open, self.fetched, self.wrong, self.text = [], [], [], []

    def handle_starttag(self, tag, attributes):
        if tag not in self.EMPTY:
            self.open.append(tag)
        for name, value in attributes:
            if (name in ("src", "srcset") or (name == "href" and tag == "link")) and not value.startswith("data:"):
                self.fetched.append((tag, value))

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append((tag, self.getpos()))

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)


def read(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert reader.wrong == []
    assert reader.open == []
    shared = ["../style.css", "../theme.js"] if path.parent.name == "runs" else []  # hundreds of pages share them
    assert [value for _, value in reader.fetched] == shared
    assert all((path.parent / value).is_file() for value in shared)
    return reader


def test_pages_are_whole_and_fetch_nothing(tmp_path):
    made = rows(seeds=3, budgets=(0.5,))
    history(tmp_path / made[0].key)
    site = build(tmp_path, made)
    pages = sorted(site.rglob("*.html"))
    assert len(pages) == 2 + len(made)
    for page in pages:
        read(page)
        links = [part.split('"')[0] for part in page.read_text(encoding="utf-8").split('href="')[1:]]
        for link in links:
            if not link.startswith(("data:", "https:", "#")):
                assert (page.parent / link).is_file(), f"{page}: {link}"


def test_names_and_errors_are_shown_and_not_run(tmp_path):
    evil = '</script><script>alert(1)</script><img src=x onerror="alert(2)">'
    made = [
        one.model_copy(update={"method": evil, "model": evil, "paper": evil, "recipe": {evil: evil}, "status": "OK"})
        for one in seeds("x", 0.9, 0.8, 0.7)
    ]
    made.append(row("l1", 0, None, status="FAILED", error=evil, verdict=""))
    site = build(tmp_path, made)
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "<script>alert" not in text
        assert "<img" not in text
        read(page)
    assert "<script>" not in (site / "leaderboard.md").read_text(encoding="utf-8")


def test_a_run_page_shows_curves_plan_and_error(tmp_path):
    made = seeds("l1", 0.9, 0.8)
    made.append(row("l1", 2, None, status="FAILED", error="out of memory", verdict=""))
    history(tmp_path / made[0].key)
    (tmp_path / made[1].key).mkdir()
    (tmp_path / made[1].key / "plan.json").write_text("{}")
    site = build(tmp_path, made)
    assert (site / "runs" / f"{made[0].key}.html").read_text().count("<figure") == 3
    assert "can be read" in (site / "runs" / f"{made[1].key}.html").read_text()
    assert "out of memory" in (site / "runs" / f"{made[2].key}.html").read_text()


def test_a_run_page_shows_the_plan_of_a_real_run(tmp_path):
    from conformance.cli.app import main

    one = row("l2", 0, 0.9)
    line = ["prune", "handmade:conv-bn-relu", "--method", "l2", "--budget", "groups=0.5"]
    assert main([*line, "--output", str(tmp_path / "kept" / one.key)]) == 0
    site = build(tmp_path, [one], runs=[tmp_path / "kept"])
    text = (site / "runs" / f"{one.key}.html").read_text()
    assert "Plan" in text
    assert "50.0%" in text


def test_csv_has_a_line_an_entry_and_no_formulas():
    made = rows(seeds=3, budgets=(0.5,))
    made += seeds("=HYPERLINK(1)", 0.5, 0.5, 0.5)
    found = list(csv.DictReader(io.StringIO(as_csv(content(made)))))
    assert len(found) == sum(len(board["entries"]) for board in content(made)["boards"])
    assert {line["method"] for line in found} >= {"l1", "random", "'=HYPERLINK(1)"}
    l2 = next(line for line in found if line["method"] == "l2" and line["state"] == "ranked")
    assert int(l2["rank"]) >= 1
    assert float(l2["macs_kept"]) < 0.51


def test_markdown_shows_what_is_not_ranked():
    text = markdown(content(rows(seeds=3, budgets=(0.5,))), "A | title")
    assert "A \\| title" in text
    assert "not ranked: 1 failed of 3" in text
    assert "dense (baseline)" in text
    assert "provisional: 2 seeds" in text


def test_pictures_only_of_what_conforms():
    made = content([*seeds("l1", 0.9), *seeds("l1", 0.9, model="timm:odd", verdict="different")])
    assert len(settings(made)) == 2
    assert len(drawable(made)) == 1
    assert not suites(made)


def test_a_suite_of_several_models_has_a_picture_of_all():
    made = content(
        [
            *seeds("l1", 0.9),
            *seeds("l1", 0.8, model="timm:odd"),
            *seeds("l1", 0.9, model="timm:wrong", verdict="different"),
            *seeds("l1", 0.9, division="open"),
        ]
    )
    ((name, all_of),) = suites(made).items()
    assert "-closed-" in name
    assert sorted(boards[0]["model"] for boards in all_of) == ["handmade:conv-net", "timm:odd"]


def test_a_method_looks_the_same_in_every_picture():
    made = content([*seeds("l1", 0.9), *seeds("random", 0.8), *seeds("l2", 0.7, model="timm:odd", verdict="different")])
    style = styles(made)
    labels = {entry["label"] for board in made["boards"] for entry in board["entries"]}
    assert labels == set(style)
    assert len(set(style.values())) == len(labels) == 3
    assert style["random"][0] == "#7a7a7a"


def test_no_rows_are_said(tmp_path):
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(UsageError, match="there is no row"):
        leaderboard([tmp_path / "rows.jsonl"], tmp_path / "site", None, "Board", False)
    assert not (tmp_path / "site").exists()


# -- charts and published figures -----------------------------------------------------------------


def test_long_lines_become_means_of_neighbours():
    line = [(step, float(step)) for step in range(1000)]
    short = thinned(line)
    assert len(short) <= 240
    assert sum(value for _, value in short) / len(short) == pytest.approx(499.5, abs=1)
    assert short[-1][0] == 999
    assert thinned(line[:7]) == line[:7]


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0], [0.0, 0.0], [1e-9, 3e5], [float("nan"), 1.0]])
def test_any_line_has_a_chart_inside_its_frame(values):
    found = chart("x", list(enumerate(values)))
    numbers = [float(word) for word in found.path.removeprefix("M").replace("h2", "").replace("L", " ").split()]
    assert all(found.left <= x <= found.right for x in numbers[::2])
    assert all(found.top <= y <= found.bottom for y in numbers[1::2])
    assert chart("x", [(0, float("nan"))]) is None


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.93, 0.97), (-3, 1200), (0, 399), (1e-7, 2e-7)])
def test_ticks_are_few_and_inside(low, high):
    found = ticks(low, high, 4)
    assert 1 < len(found) <= 5
    assert all(low - 1e-9 * (high - low) <= tick <= high + 1e-9 * (high - low) for tick in found)


def test_published_figures_are_whole_and_have_sources():
    found = published()
    assert len(found.tables) >= 8
    for table in found.tables:
        assert found.sources[table.source].url.startswith("https://")
        assert all(len(line.cells) == len(table.budgets) for line in table.rows)
        cells = [cell for line in table.rows for cell in line.cells]
        assert sum(cell is None for cell in cells) == len(table.left_out)
        assert all(0 < cell.value < 100 for cell in cells if cell)
        assert len({line.method for line in table.rows}) == len(table.rows)


def test_published_figures_are_never_on_a_board(tmp_path):
    site = build(tmp_path, rows(seeds=3, budgets=(0.5,)))
    assert "GroupLASSO" in (site / "published.html").read_text()
    for name in ("index.html", "leaderboard.csv", "leaderboard.json", "leaderboard.md"):
        assert "GroupLASSO" not in (site / name).read_text()
