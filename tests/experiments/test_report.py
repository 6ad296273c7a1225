"""The page: its numbers against plain computation, its words, and how it is in a browser."""

import base64
import copy
import csv
import io
import itertools
import json
import math
import re
import time
from html.parser import HTMLParser

import numpy as np
import pytest
from experiments import browser as browsers
from scenarios import one_thread
from short_runs import carried_out, short

import bsam
from bsam import metrics
from bsam.experiments import comparison, report, runs
from bsam.experiments.data import digits
from bsam.experiments.report import (
    details,
    examples,
    facts,
    page,
    variances,
    verdict,
)
from bsam.experiments.report.scales import Scale
from bsam.experiments.results import write_json

METHODS = ("SGD", "SAM", "bSAM")
SEEDS = (0, 1)
HOSTILE = '<img src=x onerror="alert(1)">&\'</script>'


@pytest.fixture(scope="module", autouse=True)
def quiet():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    recipes = [short(method, seed) for method in METHODS for seed in SEEDS]
    return carried_out(tmp_path_factory.mktemp("runs"), recipes)


@pytest.fixture(scope="module")
def results(finished):
    return comparison.results(finished, "bsam compare digits", runs.environment("cpu"))


def of(finished, method):
    return [run for run in finished if run.recipe.method == method]


def failing(run):
    """The run as it would be had it diverged."""
    return run._replace(arrays={}, evaluation={"failed": "the loss is nan"})


def compared(finished, command="bsam compare digits"):
    return comparison.results(finished, command, {"torch": "2"})


def with_verdicts(results, verdicts):
    """The results of three seeds with these verdicts, by label, on all test sets."""
    changed = copy.deepcopy(results) | {"seeds": [0, 1, 2]}
    for entry in changed["entries"]:
        word = verdicts.get(entry["label"], "tie")
        for gap in entry["differences"].values():
            low = {"tie": -0.1, "better": -0.2, "worse": 0.1}[word]
            gap |= {"mean": low + 0.05, "low": low, "high": low + 0.1, "verdict": word}
    return changed


# ------------------------------------------------------------------ the numbers of the plots


def test_reliability_is_what_counting_gives(finished):
    probs, labels = details.pooled(of(finished, "SAM"), "noise", "turned 30")
    assert probs.shape == (2 * 719, 10)
    bins = details.reliability(probs, labels)
    error = 0.0
    for number in range(15):
        inside = [
            (p.max(), p.argmax() == label)
            for p, label in zip(probs, labels, strict=True)
            if number / 15 < p.max() <= (number + 1) / 15
        ]
        assert bins.count[number] == len(inside)
        if inside:
            confidence, accuracy = np.mean([c for c, _ in inside]), np.mean([r for _, r in inside])
            assert bins.confidence[number] == pytest.approx(confidence)
            assert bins.accuracy[number] == pytest.approx(accuracy)
            error += len(inside) / len(probs) * abs(confidence - accuracy)
        else:
            assert math.isnan(bins.confidence[number])
    assert bins.error == pytest.approx(error)
    edge = details.reliability(np.array([[0.6, 0.4]]), np.array([0]))
    assert edge.count[8] == 1  # (8/15, 9/15]


def test_risks_are_error_rates_of_the_most_confident(finished):
    probs, labels = details.pooled(of(finished, "SGD"), "weights", "clean")
    wrong = (probs.argmax(1) != labels)[np.argsort(-probs.max(1))]
    for coverage, risk in zip(details.COVERAGES, details.risks(probs, labels), strict=True):
        kept = wrong[: round(coverage * len(wrong))]
        assert risk == pytest.approx(kept.mean(), abs=1e-9)
    assert details.risks(probs, labels)[-1] == pytest.approx(1 - metrics.accuracy(probs, labels))


def test_entropy_has_two_parts(finished):
    whole = details.entropies(of(finished, "bSAM"), "samples", runs.UNKNOWN)
    log_probs = np.concatenate(
        [run.arrays["samples/unknown/log_probs"] for run in of(finished, "bSAM")]
    ).astype(float)
    total = -(np.exp(log_probs) * log_probs).sum(1)
    np.testing.assert_allclose(whole.total, total, atol=1e-5)
    np.testing.assert_allclose(whole.aleatoric + whole.epistemic, whole.total, atol=1e-5)
    assert (whole.epistemic >= 0.0).all()
    assert whole.epistemic.max() > 1e-4


def test_shares_count_everything():
    edges = np.array([0.0, 0.5, 1.0])
    values = np.array([-1.0, 0.2, 0.5, 1.0, 7.0])
    assert details.shares(values, edges) == pytest.approx([0.4, 0.6])


@pytest.mark.parametrize("name", ["clean", "turned 30"])
def test_draws_are_measured_like_any_prediction(finished, name):
    own = of(finished, "bSAM")
    curve = details.by_draws(own, "samples", name)
    assert [each.count for each in curve] == [1, 2, 3]
    for each in curve:
        place = name if each.count == 3 else f"{name}/{each.count}"
        probs = [np.exp(run.arrays[f"samples/{place}/log_probs"].astype(float)) for run in own]
        probs = [p / p.sum(1, keepdims=True) for p in probs]
        labels = [run.arrays["labels"] for run in own]
        nll = [-np.log(p[np.arange(len(y)), y]).mean() for p, y in zip(probs, labels, strict=True)]
        assert each.nll["mean"] == pytest.approx(np.mean(nll))
        assert each.nll["standard_error"] == pytest.approx(np.std(nll, ddof=1) / 2**0.5)
        both = metrics.expected_calibration_error(np.concatenate(probs), np.concatenate(labels))
        assert each.ece["mean"] == pytest.approx(both)


def test_draws_of_runs_that_differ_in_their_number_leave_out_the_last(finished):
    one, other = of(finished, "bSAM")
    other = other._replace(recipe=other.recipe._replace(num_samples=5))
    assert [each.count for each in details.by_draws([one, other], "samples", "clean")] == [1, 2]


def test_s_is_the_precision_divided_by_n(finished):
    found = variances.learned(finished)
    recipe = of(finished, "bSAM")[0].recipe
    assert found.seeds == [0, 1]
    assert found.start == 1.0
    assert found.floor == recipe.settings["damping"] + recipe.settings["weight_decay"]
    assert [(layer.name, len(layer.s)) for layer in found.layers] == [
        ("1", 2 * (64 * 64 + 64)), ("3", 2 * (64 * 10 + 10)),
    ]  # fmt: skip
    posterior = bsam.GaussianPosterior.load(
        of(finished, "bSAM")[0].folder / "posterior.safetensors"
    )
    first = (posterior.precision["1.weight"] / (718 * recipe.settings["data_factor"])).ravel()
    np.testing.assert_allclose(found.layers[0].s[: len(first)], first, rtol=1e-6)
    assert variances.share_near(np.array([1.0, 1.005, 1.2, 0.5]), 1.0) == 0.5
    assert variances.learned(of(finished, "SGD")) is None


def test_examples_are_the_extremes_and_have_the_right_image(finished):
    run = of(finished, "SGD")[0]
    probs, labels = details.pooled([run], "weights", "clean")
    wrong = examples.sure_but_wrong(probs, labels, 6)
    mistakes = probs[probs.argmax(1) != labels].max(1)
    assert [each.confidence for each in wrong] == sorted(mistakes, reverse=True)[:6]
    assert all(each.label != each.predicted for each in wrong)
    unsure = examples.least_sure(probs, labels, 6)
    assert [each.confidence for each in unsure] == sorted(probs.max(1))[:6]
    images = examples.images_of(run)
    part = digits(run.recipe.seed).test
    assert part.labels[wrong[0].row] == wrong[0].label
    image = pytest.importorskip("PIL.Image")
    address = examples.png(images[wrong[0].row]).removeprefix("data:image/png;base64,")
    with image.open(io.BytesIO(base64.b64decode(address))) as opened:
        pixels = np.asarray(opened) / 255.0
    np.testing.assert_allclose(pixels, part.images[wrong[0].row], atol=1 / 255)


def test_images_of_another_split_are_not_shown(finished):
    run = finished[0]
    other = run._replace(arrays=run.arrays | {"labels": run.arrays["labels"][::-1]})
    assert examples.images_of(other) is None


def test_scales_have_round_ticks_inside():
    assert Scale(0.0, 1.0, 0, 100).ticks() == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert Scale(0.09, 9.0, 0, 100, "log").ticks() == pytest.approx([0.1, 0.2, 0.5, 1, 2, 5])
    assert Scale(0.0, 1.0, 0, 100, "sqrt")(0.25) == 50.0
    assert Scale(0.0, 1.0, 0, 100)(7.0) == 100.0


def test_main_methods_leave_out_twice_the_epochs_where_the_other_is_there():
    def entries(*methods):
        return [{"label": name, "method": name, "way": "weights"} for name in methods]

    labels = [each["label"] for each in details.main(entries("SGD", "SGD-2x", "Adam-2x"))]
    assert labels == ["SGD", "Adam-2x"]


# ------------------------------------------------------------------ the verdict


def test_the_verdict_names_by_what_the_intervals_say(results):
    changed = with_verdicts(results, {"SGD": "worse", "SAM, noise": "better"})
    assert verdict.headline(changed) == (
        "On clean digits and on digits turned by 30° bSAM has a lower NLL than SGD, a higher one "
        "than SAM with noise, and ties with SGD with temperature, SAM and SAM with temperature."
    )
    assert verdict.headline(with_verdicts(results, {})) == (
        "On clean digits and on digits turned by 30° bSAM ties with all 5 others."
    )
    assert "bSAM at the mean" in verdict.full(changed)[0]
    assert len(verdict.full(changed)) == 5
    changed["entries"][0]["differences"]["NLL turned 30"]["verdict"] = "tie"
    assert "; on digits turned by 30° it has a higher NLL than" in verdict.headline(changed)


def test_few_seeds_are_no_evidence(finished, results):
    assert verdict.headline(results).startswith("2 seeds: no evidence")
    text = page.page(finished, results)
    assert "no evidence, which takes at least 3" in text
    assert "? no evidence" in text


def test_nothing_is_held_against_others_where_bsam_failed(finished):
    broken = [failing(run) if run.recipe.method == "bSAM" else run for run in finished]
    broken = compared(broken) | {"seeds": [0, 1, 2]}
    assert "has an infinite NLL, since a run failed" in verdict.headline(broken)
    for entry in broken["entries"]:
        word = verdict.verdict(broken["entries"], entry, "NLL clean")
        assert word == ("reference" if entry["label"] == "bSAM" else "bSAM failed")


def test_a_verdict_in_words(results):
    changed = with_verdicts(results, {"SGD": "better"})
    sgd = next(each for each in changed["entries"] if each["label"] == "SGD")
    assert verdict.in_words(sgd, "clean", "digits", "better") == (
        "SGD on clean digits: NLL lower than bSAM's by 0.150 on average; the difference's 95 % "
        "interval, \N{MINUS SIGN}0.200 to \N{MINUS SIGN}0.100, leaves out 0: better."
    )


def test_versions_that_differ_between_runs_are_said(finished, results, tmp_path):
    write_json(tmp_path / "environment.json", {"torch": "1.0", "commit": "another"})
    other = finished[1]._replace(folder=tmp_path)
    said = {fact.term: fact.text for fact in facts.facts([finished[0], other], results)}
    assert "runs differ in bsam, commit, torch, device" in said["Made with"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", said["Runs finished"])


# ------------------------------------------------------------------ the page


class Parsed(HTMLParser):
    """Elements by name with their attributes, whether they close, and text."""

    VOID = ("meta", "link", "img", "br", "col")

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), [name for name, _ in self.open]))
        if tag not in self.VOID:
            self.open.append((tag, attributes))

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), [name for name, _ in self.open]))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag, inside=None):
        return [
            a for t, a, around in self.elements if t == tag and (not inside or inside in around)
        ]


@pytest.fixture(scope="module")
def text(finished, results):
    return page.page(finished, results)


def test_the_page_is_written_whole(finished, results, tmp_path, text):
    report.write_page(finished, results, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == text
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_every_plot_has_a_name_and_a_table(text):
    parsed = Parsed(text)
    plots = [each for each in parsed.all("svg") if each.get("role") == "img"]
    assert len(plots) > 10
    for svg in parsed.all("svg"):
        named = svg.get("role") == "img" and len(svg["aria-label"]) > 20
        assert named or svg.get("aria-hidden") == "true"
    assert all(re.search(r"\d", svg["aria-label"]) for svg in plots)
    assert len(parsed.all("table", inside="details")) == len(plots)
    assert all(each["alt"] for each in parsed.all("img"))
    figures = re.findall(r"<figure.*?</figure>", text, re.DOTALL)
    for figure in figures:
        assert figure.count('role="img"') == figure.count("<table>")


def test_nothing_is_loaded_from_anywhere(text):
    assert not re.search(r"https?://", text)
    for _, attributes, _ in Parsed(text).elements:
        for name in ("src", "href", "srcset", "data", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert not re.search(r"@import|url\(", text)


def test_headings_go_down_one_by_one(text):
    parsed = Parsed(text)
    levels = [int(tag[1]) for tag, _, _ in parsed.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    names = [attributes["id"] for _, attributes, _ in parsed.elements if "id" in attributes]
    assert len(names) == len(set(names))
    targets = [a["href"][1:] for a in parsed.all("a") if a["href"].startswith("#")]
    assert set(targets) <= set(names)
    assert parsed.all("html")[0]["lang"] == "en"


def decoded(text, name):
    address = next(a["href"] for a in Parsed(text).all("a") if a.get("download") == name)
    return base64.b64decode(address.partition("base64,")[2])


def test_downloads_carry_the_results(text, results, tmp_path):
    write_json(tmp_path / "results.json", results)
    assert decoded(text, "results.json") == (tmp_path / "results.json").read_bytes()
    rows = list(csv.DictReader(io.StringIO(decoded(text, "results.csv").decode())))
    assert len(rows) == len(results["entries"])
    for row in rows:
        entry = next(each for each in results["entries"] if each["label"] == row["label"])
        for key, measure in entry["measures"].items():
            assert float(row[f"{key} mean"]) == measure["mean"]
            assert float(row[f"{key} standard error"]) == measure["standard_error"]
        for key, gap in entry["differences"].items():
            assert float(row[f"{key} minus bSAM's: mean"]) == gap["mean"]
            assert row[f"{key} minus bSAM's: verdict"] == gap["verdict"]


def test_the_same_page_comes_from_results_read_back(finished, tmp_path):
    broken = [failing(finished[0]), *finished[1:]]
    results = compared(broken)
    write_json(tmp_path / "results.json", results)
    again = json.loads((tmp_path / "results.json").read_text())
    assert page.page(broken, again) == page.page(broken, results)


def test_the_table_shows_the_results(text, results):
    cell = next(each for each in results["entries"] if each["label"] == "SAM")["measures"]
    for key, decimals, scale in (("NLL noise", 3, 1), ("accuracy clean", 1, 100), ("AURC", 4, 1)):
        mean, error = (cell[key][part] * scale for part in ("mean", "standard_error"))
        assert f">{mean:.{decimals}f} ± {error:.{decimals}f}<" in text


@pytest.mark.parametrize(
    "chosen",
    [("SGD", "SAM"), ("bSAM",), ("bSAM", "SAM"), ("SGD",)],
    ids="-".join,
)
def test_any_methods_make_a_page(finished, chosen):
    some = [run for run in finished if run.recipe.method in chosen]
    text = page.page(some, compared(some))
    Parsed(text)
    assert ("What bSAM learned of s" in text) == ("bSAM" in chosen)
    assert ("Without runs of bSAM" in text) == ("bSAM" not in chosen)
    assert "nan" not in re.sub(r"base64,[\w+/=]*", "", text)


def test_one_seed_makes_a_page(finished):
    some = [run for run in finished if run.recipe.seed == 0]
    text = page.page(some, compared(some))
    assert "1 seed: no evidence" in text.replace("1 seed (0)", "")
    assert "± \N{EN DASH}" not in text


@pytest.mark.parametrize("which", [[0], [0, 1], [4], [4, 5], range(6)], ids=str)
def test_failed_runs_make_a_page(finished, which):
    broken = [failing(run) if i in which else run for i, run in enumerate(finished)]
    text = page.page(broken, compared(broken))
    Parsed(text)
    method = broken[which[0]].recipe.method
    assert f"{method}, seed {broken[which[0]].recipe.seed}: the loss is nan" in text
    assert "run failed" in text or "runs failed" in text
    assert "∞" in text
    assert ">nan" not in text


def test_seeds_that_a_method_lacks_are_said(finished):
    some = [run for run in finished if (run.recipe.method, run.recipe.seed) != ("SGD", 1)]
    assert "1 of 2 seeds" in page.page(some, compared(some))


def test_hostile_text_stays_text(finished, results):
    hostile = copy.deepcopy(results) | {"command": HOSTILE, "environment": {"torch": HOSTILE}}
    for entry in hostile["entries"]:
        if entry["label"] != "bSAM":
            entry["label"] = f"{entry['label']}{HOSTILE}"
    broken = [*finished, failing(finished[0])._replace(evaluation={"failed": HOSTILE})]
    text = page.page(broken, hostile)
    parsed = Parsed(text)
    assert "<img src=x" not in text
    assert len(parsed.all("script")) == 1
    assert all(attributes["src"].startswith("data:") for attributes in parsed.all("img"))
    assert HOSTILE in "".join(parsed.text)
    assert any(HOSTILE in each.get("aria-label", "") for each in parsed.all("svg"))


def test_nine_methods_and_twenty_seeds_fit(finished):
    """All ways of SAM and bSAM under nine names: what is drawn most often, as often as can be."""
    names = ("SGD", "SGD-2x", "Adam", "Adam-2x", "SAM", "SAM-Adam", "IVON", "IVON-2x", "bSAM")
    many = []
    for number, name in enumerate(names):
        like = {"IVON": "bSAM", "bSAM": "bSAM", "SAM": "SAM"}.get(name.removesuffix("-2x"), "SGD")
        for seed in range(20):
            run = of(finished, like)[(seed + number) % 2]
            many.append(run._replace(recipe=run.recipe._replace(method=name, seed=seed)))
    some = compared([run for run in many if run.recipe.seed < 2])
    some["rows"] = some["rows"] * 10
    some["seeds"] = list(range(20))
    began = time.perf_counter()
    text = page.page(many, some)
    assert len(text.encode()) < 1_500_000
    assert time.perf_counter() - began < 20.0


# ------------------------------------------------------------------ in a browser


@pytest.fixture(scope="module")
def shown(finished, tmp_path_factory):
    """A browser with a page that has a verdict of each kind and a failed run."""
    if reason := browsers.missing():
        pytest.skip(reason)
    broken = [failing(finished[2]), *(run for i, run in enumerate(finished) if i != 2)]
    results = with_verdicts(compared(broken), {"SGD": "worse", "SGD, temperature": "better"})
    folder = tmp_path_factory.mktemp("page")
    report.write_page(broken, results, folder / "report.html")
    with browsers.browser(tmp_path_factory.mktemp("profile")) as driver:
        browsers.show(driver)
        driver.get((folder / "report.html").as_uri())
        yield driver, results


def console(driver):
    return [line for line in driver.get_log("browser") if line["level"] != "DEBUG"]


def column(driver, number):
    script = """return [...document.querySelectorAll("#table tbody tr")]
        .map((row) => row.cells[arguments[0]].dataset.sort)"""
    return driver.execute_script(script, number)


def direction(driver, number):
    script = """return document.querySelector(`th[data-column="${arguments[0]}"]`).ariaSort"""
    return driver.execute_script(script, number)


def button(driver, number):
    return driver.find_element("css selector", f'th[data-column="{number}"] button')


def numbers(texts):
    return [math.inf if text in ("", "inf") else float(text) for text in texts]


def test_it_opens_without_errors_or_requests(shown):
    driver, _ = shown
    assert console(driver) == []
    sent = [
        json.loads(line["message"])["message"]["params"]
        for line in driver.get_log("performance")
        if '"Network.requestWillBeSent"' in line["message"]
    ]
    # The empty tab before it is made of requests too.
    asked = [each["request"]["url"] for each in sent if each["documentURL"].endswith("report.html")]
    assert driver.current_url in asked
    assert {url for url in asked if not url.startswith("data:")} == {driver.current_url}


def test_a_click_sorts_by_number_with_infinity_last(shown):
    driver, results = shown
    before = column(driver, 1)
    assert math.inf in numbers(before)
    button(driver, 1).click()
    rising = numbers(column(driver, 1))
    assert rising == sorted(rising)
    assert rising != numbers(before)
    assert direction(driver, 1) == "ascending"
    means = [entry["measures"]["NLL clean"]["mean"] for entry in results["entries"]]
    assert rising == sorted(means)
    button(driver, 1).click()
    falling = numbers(column(driver, 1))
    finite = [value for value in falling if math.isfinite(value)]
    assert falling == sorted(finite, reverse=True) + [math.inf] * (len(falling) - len(finite))
    assert direction(driver, 1) == "descending"


def test_numbers_are_sorted_as_numbers(shown):
    """As text 1000 would come before 44."""
    driver, _ = shown
    script = """document.querySelectorAll("#table tbody tr").forEach((row, i) => {
        row.cells[13].dataset.sort = [44, 1000, 9][i % 3]; })"""
    kept = column(driver, 13)
    driver.execute_script(script)
    button(driver, 13).click()
    assert numbers(column(driver, 13)) == sorted(numbers(column(driver, 13)))
    assert len(kept) == 7


def test_the_keyboard_sorts(shown):
    from selenium.webdriver.common.keys import Keys

    driver, _ = shown
    button(driver, 0).send_keys(Keys.ENTER)
    assert column(driver, 0) == sorted(column(driver, 0), key=str.lower)
    assert direction(driver, 0) == "ascending"
    assert [direction(driver, number) for number in (1, 13)] == ["none", "none"]
    button(driver, 2).send_keys(Keys.SPACE)
    assert numbers(column(driver, 2)) == sorted(numbers(column(driver, 2)))


def test_verdicts_are_read_by_keyboard(shown):
    from selenium.webdriver.common.keys import Keys

    driver, _ = shown
    stops = driver.find_elements("css selector", '.verdict[tabindex="0"]')
    assert len(stops) == 1
    stops[0].send_keys(Keys.ARROW_RIGHT)
    active = driver.switch_to.active_element
    readout = driver.find_element("id", "readout").text
    assert active.get_attribute("data-says") == readout
    assert " on digits turned by 15°: " in readout
    active.send_keys(Keys.ARROW_DOWN)
    assert driver.find_element("id", "readout").text != readout
    assert driver.switch_to.active_element.value_of_css_property("outline-style") == "solid"


@pytest.mark.parametrize("width", [360, 768, 1400, 1600])
def test_the_page_never_scrolls_sideways(shown, width):
    driver, _ = shown
    browsers.show(driver, width=width)
    for opened in (False, True):
        script = """for (const each of document.querySelectorAll("details"))
            each.open = arguments[0];
            const e = document.documentElement; return [e.scrollWidth, e.clientWidth]"""
        wide, there = driver.execute_script(script, opened)
        assert wide <= there <= width


def test_on_a_phone_the_table_scrolls_and_its_names_stay(shown):
    driver, _ = shown
    browsers.show(driver, width=360)
    script = """const box = document.querySelector("#table").parentElement;
        const name = document.querySelector("#table tbody .name");
        const before = name.getBoundingClientRect().left; box.scrollLeft = 200;
        return [box.scrollLeft, name.getBoundingClientRect().left - before]"""
    assert driver.execute_script(script) == [200, 0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(shown, scheme):
    driver, _ = shown
    browsers.show(driver, scheme=scheme)
    found = browsers.contrasts_of_text(driver)
    assert len(found) > 500
    assert min(found)[0] >= 4.5, min(found)


def test_lines_stand_out_from_their_ground(shown):
    driver, _ = shown
    grounds = set()
    for scheme in ("light", "dark"):
        browsers.show(driver, scheme=scheme)
        script = """const root = getComputedStyle(document.documentElement);
            return ["--bg", ...[0, 1, 2, 3, 4, 5].map((i) => `--k${i}`)]
                .map((name) => root.getPropertyValue(name))"""
        ground, *colors = driver.execute_script(script)
        grounds.add(ground)
        assert min(browsers.contrast(color, ground) for color in colors) >= 3.0
    assert len(grounds) == 2


def test_dark_changes_page_and_plots(shown):
    driver, _ = shown
    seen = []
    for scheme in ("light", "dark"):
        browsers.show(driver, scheme=scheme)
        script = """return [[document.body, "backgroundColor"], [document.body, "color"],
            [document.querySelector(".plot .line"), "stroke"],
            [document.querySelector(".plot text"), "fill"]]
            .map(([element, name]) => getComputedStyle(element)[name])"""
        seen.append(driver.execute_script(script))
    assert all(light != dark for light, dark in zip(*seen, strict=True))


def test_links_in_the_browser_hold_the_results(shown, tmp_path):
    driver, results = shown
    write_json(tmp_path / "results.json", results)
    script = """return atob(
        document.querySelector('a[download="results.json"]').href.split("base64,")[1])"""
    text = driver.execute_script(script).encode("latin-1").decode()
    assert json.loads(text) == json.loads((tmp_path / "results.json").read_text())


def test_a_click_downloads_the_results(shown, tmp_path):
    driver, results = shown
    behaviour = {"behavior": "allow", "downloadPath": str(tmp_path)}
    driver.execute_cdp_cmd("Page.setDownloadBehavior", behaviour)
    driver.find_element("css selector", 'a[download="results.json"]').click()
    deadline = time.monotonic() + 10.0
    while not (tmp_path / "results.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    write_json(tmp_path / "expected.json", results)
    expected = (tmp_path / "expected.json").read_bytes()
    assert (tmp_path / "results.json").read_bytes() == expected
    assert console(driver) == []
