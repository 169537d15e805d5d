"""The report page: its numbers, its safety, and how it behaves in a real browser."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess

import cv2
import numpy as np
import pytest

from ppmobilenet import plots
from ppmobilenet.report import figures, gather, sections
from ppmobilenet.report import page as report
from ppmobilenet.report.advice import advise
from ppmobilenet.report.predictions import Predictions

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "<script>document.title='owned'</script>\"'&"


def predictions(count: int, names: tuple[str, ...], seed: int = 0) -> Predictions:
    """Answers of a mediocre model, right four times of five."""
    rng = np.random.default_rng(seed)
    classes, k = len(names), min(5, len(names))
    labels = rng.integers(0, classes, count)
    first = np.where(rng.random(count) < 0.8, labels, rng.integers(0, classes, count))
    answers = (first[:, None] + np.arange(k)) % classes
    scores = np.sort(rng.dirichlet(np.ones(k + 1), count)[:, :k], axis=1)[:, ::-1].astype(np.float32)
    true_scores = np.where(first == labels, scores[:, 0], scores[:, -1] * 0.5)
    paths = tuple(f"photos/{i}.jpg" for i in range(count))
    return Predictions(names, paths, labels.astype(np.int32), answers.astype(np.int32), scores, true_scores)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder where every second photo still exists."""
    root = tmp_path_factory.mktemp("root")
    (root / "photos").mkdir()
    rng = np.random.default_rng(3)
    for i in range(0, 120, 2):
        cv2.imwrite(str(root / "photos" / f"{i}.jpg"), rng.integers(0, 255, (90 + i, 120, 3), np.uint8))
    (root / "photos" / "2.jpg").write_bytes(b"not a photo")
    return root


@pytest.fixture(scope="module")
def small(photos, tmp_path_factory):
    """A full report of a small run; its folder and content."""
    names = ("shirt", "dress", f"hat {HOSTILE}", "shoes")
    suspect = {"path": "photos/0.jpg", "given": names[2], "likely": "shoes", "given_score": 0.01, "likely_score": 0.97}
    content = report.Content(
        title=f"a run {HOSTILE}",
        predictions=predictions(120, names),
        linear=predictions(120, names, seed=1),
        suspects=[suspect],
        advice=[(f"Collect more photos of {names[2]}.", None), ("Try it.", f"ppmobilenet infer -m {HOSTILE}")],
        curves=[
            {"epoch": e, "train_loss": 2 / e, "eval_top1": 1 - 0.5 / e, "eval_top5": 1.0, "lr": 0.1 / e}
            for e in range(1, 6)
        ],
        config="Global:\n  title: " + HOSTILE,
        data=[("training photos", "900")],
        times=[("training", "12 min")],
        cost={
            "model": "MobileNetV2",
            "resolution": [224, 224],
            "parameters": 3505960,
            "madds": 313619328,
            "model_bytes": 14023840,
            "peak_activation_bytes": 6021120,
            "by_kind": [{"kind": "conv 1x1", "madds_percent": 90.0}, {"kind": "fc", "madds_percent": 10.0}],
        },
        forms=[
            {"name": "inference", "precision": "fp32", "bytes": 14100000, "max_difference": 2.6e-5},
            {"name": "pdmodel-int8", "precision": "int8", "bytes": 3900000},
        ],
        latencies=[{"backend": "openvino", "threads": 2, "median_ms": 4.5}],
        activations=[{"path": "a.jpg", "text": f"shirt {HOSTILE}", "overlay": np.zeros((300, 200, 3), np.uint8)}],
    )
    folder = tmp_path_factory.mktemp("small") / "new" / "report"
    assert report.write(content, folder, photos) == folder / "report.html"
    return folder, content


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """1000 classes, 50,000 photos."""
    names = tuple(f"class number {i}, with a name of usual length" for i in range(1000))
    folder = tmp_path_factory.mktemp("big")
    report.write(report.Content("ImageNet", predictions(50_000, names)), folder)
    return folder


def test_the_page_states_the_result_and_every_section(small):
    page = (small[0] / "report.html").read_text()
    table = small[1].predictions
    assert f"<strong>{100 * table.correct.mean():.1f} %</strong> of 120 photos right" in page
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert headings == [
        "How good is it?", "What to do next", "Labels to check", "Confusion", "Photos", "Where it looked",
        "Learning curves", "Classes", "Calibration", "Data", "Time", "Cost", "Package", "Configuration",
    ]  # fmt: skip
    behind = page[page.index('<details id="more">') :]
    assert [h for h in headings if f">{h}</h2>" in behind] == headings[6:]
    low, high = (f"{100 * bound:.1f}" for bound in figures.interval(int(table.correct.sum()), 120))
    assert page.count(f"{low} to {high} %") >= 2
    assert "train_loss" not in re.sub(r"<pre>.*?</pre>", "", page, flags=re.S) and "eval_top" not in page
    assert "among the best" not in page  # of four classes five answers are always right
    assert page.count('<svg class="plot"') == 3 + 2 + 1 + 1
    assert "2.6e-05" in page and "not compared" in page
    assert "looks like <b>shoes</b> (97.0 % sure)" in page
    assert "photo not found" in page and "data:image/jpeg;base64," in page


def test_what_is_missing_leaves_its_section_out():
    page = report.render(report.Content("empty"), lambda path: None)
    assert "<section" not in page and "Nothing was evaluated" in page


def test_the_figures_are_there_as_json_and_csv(small):
    folder, content = small
    found = json.loads((folder / "report.json").read_text())
    assert found["summary"]["top1"] == pytest.approx(content.predictions.correct.mean())
    assert len(found["per_class"]) == 4 and sum(n for _, _, n in found["confusion"]) == 120
    assert found["data"] == {"training photos": "900"} and len(found["curves"]) == 5
    assert (folder / "per_class.csv").read_text().startswith("class,name,support,")
    assert sum(int(line.rsplit(",", 1)[1]) for line in (folder / "confusion.csv").read_text().splitlines()[1:]) == 120


def test_names_from_outside_stay_text(small, photos):
    page = (small[0] / "report.html").read_text()
    assert "<script>document.title" not in page
    assert page.count("<script") == 2 and page.count("</script>") == 2
    many = tuple(f"{HOSTILE}</script>{i}" for i in range(sections.READABLE + 1))
    page = report.render(report.Content("x", predictions(60, many)), lambda path: None)
    assert page.count("</script>") == 2
    data = re.search(r'id="matrix-data">(.*?)</script>', page, re.S)[1]
    assert json.loads(data)["names"] == list(many)


def test_a_file_name_that_is_no_utf_8(tmp_path):
    table = predictions(3, ("a", "b"))
    table = dataclasses.replace(table, paths=("photos/\udcff.jpg",) * 3)
    report.write(report.Content("odd", table), tmp_path)
    assert "\\udcff.jpg" in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "report.json").read_text())["least_certain"][0]["path"] == "photos/\udcff.jpg"
    assert Predictions.load(table.save(tmp_path / "p.npz")).paths == table.paths


def test_the_page_asks_for_nothing_outside(small, big):
    for folder in (small[0], big):
        page = (folder / "report.html").read_text()
        assert "default-src 'none'" in page
        assert not re.search(r"(?:src|href)=(?![\"'](?:data:|#))", page)
        assert "url(" not in page and "@import" not in page


def test_1000_classes_and_50000_photos_stay_under_5_megabytes(big):
    assert (big / "report.html").stat().st_size < 5_000_000


def test_curves_are_read_from_csv(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,train_loss,eval_top1,note\n1,2.5,,started\n2,1.25,0.5,\n")
    assert gather.read_curves(path) == [
        {"epoch": 1, "train_loss": 2.5},
        {"epoch": 2, "train_loss": 1.25, "eval_top1": 0.5},
    ]


def test_axes_end_where_the_data_does():
    svg = plots.chart(
        [plots.Line("a", [(1, 81.2), (12, 86.4)])], "t", plots.Axis("epoch", counts=True), plots.Axis("%")
    )
    left, right = (float(x) for x in re.findall(r'cx="([\d.]+)"', svg))
    frame = re.search(r'd="M(\d+) (\d+)V([\d.]+)H([\d.]+)"', svg)
    assert (left, right) == (float(frame[1]), float(frame[4]))
    written = [float(text) for text in re.findall(r'text-anchor="(?:middle|end)">([\d.]+)<', svg)]
    assert written and all(1 <= v <= 12 or 81.2 <= v <= 86.4 for v in written)


def test_advice_names_what_is_weak_and_the_next_command():
    names = ("coat", "skirt", "hat")
    labels = np.array([0] * 40 + [1] * 12 + [2] * 40)
    answers = labels.copy()
    answers[40:47] = 0
    scores = np.eye(3, dtype=np.float32)[answers] * 0.8 + 0.1
    table = Predictions(
        names, tuple(map(str, labels)), labels, np.argsort(-scores, axis=1), -np.sort(-scores, axis=1),
        scores[np.arange(92), labels],
    )  # fmt: skip
    better = dataclasses.replace(table, classes=labels[:, None])
    said = advise(table, better, [{}] * 3, [{"train_top1": 0.95}, {"train_top1": 1.0}], folder="output/run")
    text = " ".join(sentence for sentence, _ in said)
    assert "Look at the 3 photos" in text
    assert "Collect more photos of skirt: 5 of 12 right, the others taken for coat." in text
    assert "photos of hat" not in text and "photos of coat" not in text
    assert "Have 20 photos or more to judge skirt by" in text and "12 of skirt say only that 19 to 68 %" in text
    assert "It knows 100 % of its training photos" not in text  # 92 % of those held out is not much less
    assert "A linear classifier" in text
    assert said[-1][1] == "ppmobilenet export -c output/run"


def test_charts_survive_odd_numbers():
    for points in ([(1, 5)], [(1, 0.0), (2, 0.0)], [(0, -3), (1e9, 4)], []):
        svg = plots.chart([plots.Line("a", points)], "t", plots.Axis("x"), plots.Axis("y"))
        assert "nan" not in svg and "inf" not in svg.replace("information", "")
    one_x = [plots.Line("a", [(3, 1), (3, 2)])]
    assert "nan" not in plots.chart(one_x, "t", plots.Axis("x", log=True), plots.Axis("y"))


# -- a real browser ----------------------------------------------------------------------------------------------------

PROBE = """<script>addEventListener("load", () => {
  const images = [...document.images], wide = document.documentElement;
  const timing = performance.getEntriesByType("navigation")[0];
  const sort = document.querySelector("#classes th:nth-child(2) button");
  sort.click(); const down = sort.parentElement.getAttribute("aria-sort");
  sort.click(); const up = sort.parentElement.getAttribute("aria-sort");
  const canvas = document.getElementById("matrix");
  let said = "";
  if (canvas) {
    canvas.focus();
    canvas.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowDown"}));
    said = document.getElementById("matrix-says").textContent;
  }
  document.title = JSON.stringify({
    images: images.length, loaded: images.filter(i => i.complete && i.naturalWidth > 0).length,
    named: images.filter(i => i.alt).length, width: wide.scrollWidth, window: innerWidth, sorts: [down, up], said,
    dark: getComputedStyle(document.body).backgroundColor, ready: timing.domComplete,
  });
});</script></body>"""


def browse(page, tmp_path, width: int, dark: bool = False) -> dict:
    """Open a page in headless Chromium; what the probe found, and the lines of the console."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text().replace("</body>", PROBE))
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},900", "--enable-logging=stderr", "--virtual-time-budget=4000",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
    ]  # fmt: skip
    done = subprocess.run(
        [CHROMIUM, *flags, "--dump-dom", probed.as_uri()], capture_output=True, text=True, timeout=120
    )
    title = re.search(r"<title>(\{.*?\})</title>", done.stdout, re.S)
    assert title, done.stderr[-2000:]
    text = title[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">")
    return {**json.loads(text), "console": [line for line in done.stderr.splitlines() if "CONSOLE" in line]}


@pytest.mark.parametrize("width", [500, 1400])
@pytest.mark.parametrize("kind", ["small", "big"])
def test_in_chromium(kind, width, request, tmp_path):
    """No console error, every picture loads and has a text, nothing is wider than the window, tables sort."""
    folder = request.getfixturevalue(kind)
    page = (folder[0] if kind == "small" else folder) / "report.html"
    found = browse(page, tmp_path, width, dark=width == 500)
    assert found["console"] == []
    assert found["loaded"] == found["images"] == found["named"]
    assert (found["images"] > 5) == (kind == "small")
    assert found["width"] <= found["window"]
    assert found["sorts"] == ["descending", "ascending"]
    assert found["dark"] == ("rgb(16, 19, 23)" if width == 500 else "rgb(246, 247, 249)")
    if kind == "big":
        assert re.match(r"\d+ of \d+ photos of class number \d+, .* were taken for class number", found["said"])
