import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from neftune.errors import MissingExtraError, StoreError
from neftune.report import page
from neftune.report.embed import json_for_script, script_hash
from neftune.report.evidence import gather
from neftune.report.outputs import outputs_payload
from neftune.report.page import write_report
from tests.report.odd_studies import ODD
from tests.synthetic import make_study

VOID = {"meta", "link", "br", "input", "img"}


class Structure(HTMLParser):
    """What a strict reader sees: balanced tags, ids, headings, tables, texts of scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)


@pytest.fixture(scope="module")
def html(study, tmp_path_factory) -> str:
    return write_report(study, tmp_path_factory.mktemp("report") / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def structure(html) -> Structure:
    return Structure(html)


def test_the_verdict_comes_first(html, evidence):
    said = evidence.verdict.sentence.partition(":")[0]
    assert html.index(said, html.index("<body>")) < html.index('id="main"')


def test_tags_are_balanced_and_ids_unique(structure):
    assert structure.open == []
    assert len(structure.ids) == len(set(structure.ids))


def test_every_table_has_a_caption_and_headed_columns(structure):
    names = [tag for tag, _ in structure.tags]
    assert names.count("table") == names.count("caption") == names.count("thead") > 8
    assert all(attrs.get("scope") for tag, attrs in structure.tags if tag == "th")


def test_links_in_the_page_lead_somewhere(structure):
    targets = [attrs["href"][1:] for tag, attrs in structure.tags if tag == "a" and attrs["href"].startswith("#")]
    assert len(targets) > 8
    assert set(targets) <= set(structure.ids)


def test_nothing_is_loaded_and_only_our_scripts_run(html, structure):
    loading = [attrs for _, attrs in structure.tags if attrs.get("src")]
    assert loading == []
    assert [attrs["href"] for tag, attrs in structure.tags if tag == "link"] == ["data:,"]
    policy = next(attrs["content"] for _, attrs in structure.tags if attrs.get("http-equiv"))
    run = [text for attrs, text in structure.scripts if attrs.get("type") is None]
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]
    assert [script_hash(text) for text in run] == re.findall(r"'sha256-[^']+'", policy)


def test_every_plot_has_its_data(structure):
    payload = next(text for attrs, text in structure.scripts if attrs.get("id") == "figures-data")
    plots = [attrs["id"] for _, attrs in structure.tags if attrs.get("class") == "plot"]
    assert set(plots) == set(json.loads(payload)["panels"])


def test_without_outputs_the_file_is_at_most_6_mb(study, html):
    outputs = json_for_script(outputs_payload(gather(study).overview))
    assert len(html.encode()) - len(outputs.encode()) < 6e6


@pytest.mark.parametrize("odd", list(ODD))
def test_any_study_renders(odd, tmp_path):
    structure = Structure(write_report(ODD[odd](), tmp_path / "report.html").read_text(encoding="utf-8"))
    assert structure.open == []
    assert len(structure.ids) == len(set(structure.ids))


def test_hostile_texts_add_no_element(tmp_path):
    study = make_study(hostile=True, failed=[("nsr=0.3", "world=0", 1)])
    html = write_report(study, tmp_path / "report.html").read_text(encoding="utf-8")
    tags = [tag for tag, _ in Structure(html).tags]
    assert tags.count("img") == 0
    assert tags.count("h1") == 1
    assert tags.count("script") == 5
    assert "&lt;script&gt;alert" in html
    assert "<script>alert" not in html


def test_the_sections_keep_their_order(structure):
    wanted = [
        "effects",
        "dose",
        "stages",
        "wins",
        "runs",
        "losses",
        "overfitting",
        "noise",
        "outputs",
        "paper",
        "limits",
        "provenance",
    ]
    assert [attrs["id"] for tag, attrs in structure.tags if tag == "section"] == wanted


def test_how_to_reproduce_is_a_recipe_that_reads_back(study, structure, tmp_path):
    from neftune.recipe import read_recipe
    from neftune.report.overview import Overview
    from neftune.report.provenance import command_text, recipe_text

    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_text(Overview(study)), encoding="utf-8")
    assert read_recipe(path).model_dump(mode="json") == study.recipe
    assert command_text(Overview(study)).endswith("neftune study recipe.yaml\n")


def test_the_same_study_gives_the_same_page(study, html):
    assert page.render(gather(study)) == html


def test_a_report_that_cannot_be_written_leaves_the_old_one(study, tmp_path):
    path = tmp_path / "missing" / "report.html"
    with pytest.raises(StoreError, match="must be writable"):
        write_report(study, path)


def test_a_report_appears_whole_and_leaves_nothing_beside_it(study, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")
    monkeypatch.setattr(Path, "replace", _no_space)
    with pytest.raises(StoreError, match="No space left"):
        write_report(study, path)
    assert path.read_text() == "old"
    assert [left.name for left in tmp_path.iterdir()] == ["report.html"]


def _no_space(*_):
    raise OSError(28, "No space left on device")


def test_a_missing_extra_is_one_line(monkeypatch):
    page.plotly_source.cache_clear()
    monkeypatch.setattr(page.importlib.resources, "files", _no_module)
    with pytest.raises(MissingExtraError, match=r"pip install 'neftune\[report\]'"):
        page.plotly_source()
    page.plotly_source.cache_clear()


def _no_module(name):
    raise ModuleNotFoundError(name)
