"""The page stands alone, says what the report says, and holds whatever it is given."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
import torch

from reloc.contract import PoseEstimate
from reloc.estimates import PoseEstimates
from reloc.evaluation.report import evaluate
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.scenes import LoadOptions, load_scene
from reloc.viewing.page import render, write_page
from reloc.viewing.rows import Row
from reloc.viewing.section import Section

MakeSection = Callable[..., Section]
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """What a browser makes of the text: elements, their attributes, and the text people read."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.feed(text)
        self.close()
        self.tables = [[[" ".join(c.split()) for c in r] for r in rows] for rows in self.tables]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")
        elif tag == "br":
            self.handle_data(" ")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def values(self) -> list[float]:
        """The exact numbers behind the printed ones."""
        return [float(a["value"] or "") for tag, a in self.elements if tag == "data"]


def check(text: str) -> Page:
    """Parse a page, and hold it to what every page must be."""
    page = Page(text)
    assert not page.open, f"left open: {page.open}"
    names = {tag for tag, _ in page.elements}
    assert not names & {"script", "link", "iframe", "object", "embed", "base", "foreignobject"}
    ids = Counter(a["id"] for _, a in page.elements if "id" in a)
    assert max(ids.values(), default=1) == 1
    for tag, attributes in page.elements:
        for key, value in attributes.items():
            assert not key.startswith("on"), f"{key} runs code"
            if key in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
                inside = value is not None and value.startswith(("data:image/jpeg;base64,", "#"))
                assert inside, f"<{tag} {key}={value!r}> is not in the page"
                if value and value.startswith("#"):
                    assert value[1:] in ids, f"{value} leads nowhere"
            if tag in ("path", "use", "svg", "g", "rect", "circle"):
                assert not re.search(r"\b(nan|inf)\b", (value or "").lower()), (tag, value)
    for address in re.findall(r"url\(([^)]*)\)", text):
        assert address.startswith("#") and address[1:] in ids
    assert "@import" not in text
    assert "http://" not in text and "https://" not in text
    return page


def test_a_page_of_several_methods_and_scenes(make_section: MakeSection) -> None:
    page = check(
        render(
            [
                make_section("sift"),
                make_section("thumbnail", sigma=0.2, num_declined=0, says_all=False, seed=1),
                make_section("sift", "hall", metric=False, seed=2),
            ]
        )
    )
    for expected in (
        "thumbnail on hall",
        "sift on hall",
        "room",
        "abc1234",
        "a machine",
        "synthetic",
    ):
        assert (expected in page.text) == (expected != "thumbnail on hall")
    assert "10 of 12 queries were answered." in page.text
    assert "gives no confidences, numbers of inliers or covariances" in page.text


def test_figures_are_those_of_the_report(make_section: MakeSection) -> None:
    section = make_section(num_queries=25, num_declined=3)
    report, map_ = section.report, section.map_
    assert report is not None and map_ is not None
    page = check(render([section]))
    expected = [
        report.median_position,
        report.median_rotation_deg,
        *(100 * report.recall(threshold) for threshold in report.thresholds),
        25,
        3,
        map_.provenance.seconds,
        map_.megabytes,
        float(np.median(report.query_ms)),
        float(np.percentile(report.query_ms, 95)),
    ]
    assert page.values() == expected
    heads, cells = page.tables[0][1], page.tables[0][2]
    printed = dict(zip(heads, cells[1:], strict=True))
    assert printed["cm"] == f"{100 * report.median_position:.2f}"
    assert printed["°"] == f"{report.median_rotation_deg:.2f}"
    recall = report.recall(report.thresholds[2])
    assert printed["5 cm 5°"] == f"{100 * recall:.1f}"
    assert printed["declined"] == "3"


def test_names_are_text_and_nothing_else(make_section: MakeSection) -> None:
    nasty = "<script>alert(1)</script>\"'&lt;&amp;$x_1$^-->]]>"
    sections = [
        make_section(f"m{nasty}", f"s{nasty}", query_prefix=f"q{nasty}", num_declined=1),
        make_section("other", f"s{nasty}", query_prefix=f"q{nasty}", seed=1),
    ]
    scene = sections[0].scene
    assert scene is not None
    sections[0] = replace(
        sections[0], missing=[f"lost {nasty}"], scene=replace(scene, notes=[f"note {nasty}"])
    )
    page = check(render(sections))
    for prefix in ("m", "s", "q", "lost ", "note "):
        assert prefix + nasty in page.text


@pytest.mark.parametrize("metric", [True, False])
def test_every_query_declined(make_section: MakeSection, metric: bool) -> None:
    page = check(render([make_section(num_declined=12, metric=metric)]))
    assert "0 of 12 queries were answered." in page.text
    assert "The median error is ∞" in page.text
    assert "Every query was declined" in page.text
    assert "from the true pose, as there is no estimate" in page.text


@pytest.mark.parametrize("num_declined", [0, 1])
def test_one_query(make_section: MakeSection, num_declined: int) -> None:
    page = check(render([make_section(num_queries=1, num_declined=num_declined)]))
    assert f"{1 - num_declined} of 1 queries were answered." in page.text


def test_exact_answers(make_section: MakeSection) -> None:
    """Errors of zero have no place on a logarithmic axis, and must not make one of NaN."""
    page = check(render([make_section(sigma=0.0, num_declined=0)]))
    assert page.values()[0] == pytest.approx(0.0, abs=1e-12)


def test_a_scene_without_scale_prints_no_metres(make_section: MakeSection) -> None:
    page = check(render([make_section(metric=False)]))
    assert "units" in page.text
    assert not re.search(r"\d (cm|m)\b", page.text)
    assert "cm" not in page.tables[0][1]


def test_rows_alone_make_tables_and_say_so(make_section: MakeSection) -> None:
    whole = make_section()
    page = check(render([Section(whole.row)]))
    assert page.values() == check(render([whole])).values()
    assert "there are no pictures" in page.text
    assert not any(tag == "img" for tag, _ in page.elements)


@pytest.mark.parametrize("lost", ["scene", "estimates", "map_", "report"])
def test_a_page_without(make_section: MakeSection, lost: str) -> None:
    page = check(render([replace(make_section(), **{lost: None})]))
    assert ("there are no pictures" in page.text) == (lost != "map_")
    assert ("max_keypoints = 2000" in page.text) == (lost != "map_")


def test_a_failed_run_keeps_its_reason(make_section: MakeSection) -> None:
    failed = Row.from_json(
        {
            "method": "orb",
            "scene": "../room --split hard",
            "scene_words": "../room --split hard",
            "failed": "reloc map: out of memory",
        }
    )
    other = make_section()
    other = replace(other, row=replace(other.row, scene_words="../room --split hard"))
    page = check(render([other, Section(failed)]))
    assert "The run failed: reloc map: out of memory" in page.text
    row = next(cells for cells in page.tables[0] if cells[0] == "orb")
    assert set(row[1:]) == {"–"}


def test_one_query_of_many_does_not_vanish(make_section: MakeSection) -> None:
    row = make_section().row
    recalls = (replace(row.recalls[0], percent=100 * 4999 / 5000),)
    page = check(render([Section(replace(row, n_queries=5000, recalls=recalls))]))
    assert "99.98" in page.tables[0][2]


def test_the_best_of_each_column_is_marked(make_section: MakeSection) -> None:
    text = render([make_section("good"), make_section("bad", sigma=0.3, num_declined=0, seed=1)])
    rows = re.findall(r"<tr><th scope=\"row\">.*?</tr>", text, flags=re.S)
    good, bad = (re.findall(r"<td.*?</td>", row, flags=re.S) for row in rows[:2])
    assert ["<strong>" in cell for cell in good[:2]] == [True, True]
    assert ["<strong>" in cell for cell in bad[:2]] == [False, False]


def test_a_failed_run_does_not_decide_the_unit(make_section: MakeSection) -> None:
    failed = Row.from_json({"method": "orb", "scene": "room", "failed": "out of memory"})
    page = check(render([Section(failed), make_section(metric=False)]))
    assert page.tables[0][1][0] == "units" and "no metric scale" in page.text


def test_a_scene_whose_mapping_views_are_gone(make_section: MakeSection) -> None:
    section = make_section(num_queries=3, num_declined=1)
    assert section.scene is not None
    page = check(render([replace(section, scene=replace(section.scene, mapping=[]))]))
    assert "2 of 3 queries were answered." in page.text


def test_seeds_tell_runs_apart(make_section: MakeSection) -> None:
    page = check(render([make_section(seed=0), make_section(seed=1)]))
    assert "sift, seed 0 on room" in page.text and "sift, seed 1 on room" in page.text


def test_splits_tell_scenes_apart(make_section: MakeSection) -> None:
    easy, hard = make_section(), make_section(seed=1)
    hard = replace(hard, row=replace(hard.row, scene_words="/data/room --split hard"))
    page = check(render([easy, hard]))
    assert "sift on room --split hard" in page.text and "/data" not in page.text


def test_the_same_run_makes_the_same_page(make_section: MakeSection) -> None:
    assert render([make_section()]) == render([make_section()])


def test_drawing_leaves_matplotlib_as_it_was(make_section: MakeSection) -> None:
    before, backend = dict(matplotlib.rcParams), matplotlib.get_backend(auto_select=False)
    render([make_section()])
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.get_backend(auto_select=False) == backend


def test_the_page_is_one_file_in_a_new_folder(make_section: MakeSection, tmp_path: Path) -> None:
    page = write_page([make_section()], tmp_path / "report")
    assert [entry.name for entry in (tmp_path / "report").iterdir()] == [page.name]
    with pytest.raises(InputError, match="exists"):
        write_page([make_section()], tmp_path / "report")


def test_a_page_that_fails_leaves_nothing(make_section: MakeSection, tmp_path: Path) -> None:
    section = make_section()
    assert section.scene is not None and section.report is not None
    broken = replace(section, scene=replace(section.scene, queries=[]))
    with pytest.raises(KeyError):
        write_page([broken], tmp_path / "report")
    assert not list(tmp_path.iterdir())


def test_an_image_that_cannot_be_read_is_told(make_section: MakeSection) -> None:
    def fail() -> None:
        raise InputError("walk/1.jpg is cut short: copy it again")

    section = make_section(num_queries=1, num_declined=0)
    scene = section.scene
    assert scene is not None
    lost = [replace(view, image_reader=fail) for view in scene.queries]
    page = check(render([replace(section, scene=replace(scene, queries=lost))]))
    assert "walk/1.jpg is cut short: copy it again" in page.text
    assert sum(tag == "img" for tag, _ in page.elements) == 1


def test_a_scene_that_can_be_rendered_is(make_section: MakeSection) -> None:
    section = make_section(num_queries=1, num_declined=0)
    assert section.scene is not None and section.estimates is not None
    seen: list[Rigid3d] = []

    def render_red(camera: object, cam_from_world: Rigid3d) -> torch.Tensor:
        seen.append(cam_from_world)
        return torch.tensor([200, 10, 10], dtype=torch.uint8)[:, None, None].expand(3, 24, 32)

    page = check(render([replace(section, scene=replace(section.scene, render=render_red))]))
    assert "rendered at the estimate" in page.text
    assert seen == [section.estimates["query 0"].cam_from_world]
    picture = pictures(page)[-1]
    np.testing.assert_allclose(picture.mean((0, 1)), [200, 10, 10], atol=4)


def pictures(page: Page) -> list[np.ndarray]:
    """The images of a page, (H, W, 3) RGB."""
    found = []
    for tag, attributes in page.elements:
        if tag == "img":
            content = base64.b64decode((attributes["src"] or "").partition(",")[2])
            image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
            size = int(attributes["width"] or 0), int(attributes["height"] or 0)
            assert (image.shape[1], image.shape[0]) == size
            found.append(image)
    return found


@pytest.mark.data
def test_real_kitchen(shared_data: Path) -> None:
    """The picture beside a query is of the place that the estimate says."""
    scene = load_scene(shared_data / "7scenes" / "redkitchen", LoadOptions())
    answers = {view.name: PoseEstimate(view.cam_from_world) for view in scene.queries}
    estimates = PoseEstimates(answers, "truth", scene.name, scene.ground_truth)
    report = evaluate(estimates, scene)
    row = Row.from_json(report.row())
    page = check(render([Section(row, report, scene, estimates)]))
    shown = pictures(page)
    assert all(image.shape == (360, 480, 3) for image in shown)
    # Neighbours of this video look alike; a mapping view from elsewhere does not.
    for query, near in zip(shown[::2], shown[1::2], strict=True):
        alike = np.corrcoef(_thumbnail(query), _thumbnail(near))[0, 1]
        assert alike > 0.5, "the mapping view shows something else"


def _thumbnail(image_HW3: np.ndarray) -> np.ndarray:
    return cv2.resize(image_HW3, (8, 6), interpolation=cv2.INTER_AREA).astype(float).ravel()
