"""The illustration: its numbers against the library, its words, its figure, and its page in use."""

import base64
import json
import math
import re

import pytest
import torch
from experiments import browser as browsers
from hypothesis import given
from hypothesis import strategies as st
from scenarios import one_thread

import bsam
from bsam import relaxation
from bsam.experiments.illustration import illustrate
from bsam.experiments.illustration.curves import curves, expected, relaxed
from bsam.experiments.illustration.lookup import MOST_POINTS, lookup
from bsam.experiments.illustration.numbers import numbers
from bsam.experiments.illustration.ranges import ranges
from bsam.experiments.illustration.words import lines, number, rows, sentences
from bsam.relaxation.named import NAMED, find

EXPRESSION = "log(1+exp(-theta)) + 0.1*theta**2"
STEP = "where(theta<0.3, 1, 0)"


@pytest.fixture(scope="module", autouse=True)
def quiet():
    with one_thread():
        yield


def known(text, mean=0.5, sd=0.7):
    return lookup(find(text), mean, sd, ranges(mean, sd))


# ------------------------------------------------------------------ numbers


def test_numbers_of_the_logistic_loss():
    """Its relaxation is known in closed form."""
    found = numbers(find("logistic"), 0.5, 0.7)
    far = math.hypot(0.5, 0.7)
    assert found["expected_loss"]["value"] == pytest.approx(0.529053, abs=1e-6)
    assert found["relaxed_loss"]["value"] == pytest.approx(0.532928, abs=1e-6)
    assert found["gap"] == pytest.approx(0.532928 - 0.529053, abs=2e-6)
    worst = found["worst_case"]
    assert worst["attained"]
    assert worst["atoms"] == pytest.approx([-far, far], abs=1e-2)
    assert worst["weights"] == pytest.approx([0.5 - 0.25 / far, 0.5 + 0.25 / far], abs=1e-2)
    assert found["paraboloid"]["linear"] == pytest.approx(-0.5, abs=1e-3)
    assert found["paraboloid"]["quadratic"] == pytest.approx(math.tanh(far / 2) / (4 * far), 1e-3)
    (point,) = found["max_loss"]["maximizers"]
    assert point - 0.5 == pytest.approx(-0.49 / (1 + math.exp(point)), abs=1e-4)
    assert found["sam_radius"] == pytest.approx(0.5 - point, abs=1e-4)
    assert found["version"] == bsam.__version__
    assert found["arguments"] == {
        "loss": "logistic", "expression": "log(1 + exp(-theta))", "mean": 0.5, "sd": 0.7,
    }  # fmt: skip


@pytest.mark.parametrize("text", ["absolute", "double-well", "waves", "dome", STEP])
def test_curves_are_those_of_the_library(text):
    loss, shown = find(text), ranges(0.5, 0.7)
    half, once, twice = curves(loss, known(text), shown, 0.7)
    assert [each["sd"] for each in (half, once, twice)] == pytest.approx([0.35, 0.7, 1.4])
    assert (once["mean"][0], once["mean"][-1]) == shown.mean
    for place in (7, 33):
        for curve in (half, twice):
            moments = curve["mean"][place], curve["sd"] ** 2
            bayes = relaxation.expected_loss(loss, *moments)
            assert curve["expected_loss"][place] == pytest.approx(bayes, abs=1e-3)
            worst = relaxation.relaxed_loss(loss, *moments)
            assert curve["relaxed_loss"][place] == pytest.approx(worst, abs=1e-3)
    for curve in (half, once, twice):
        pairs = zip(curve["expected_loss"], curve["relaxed_loss"], strict=True)
        assert all(bayes <= worst + 1e-3 for bayes, worst in pairs)


def test_what_is_infinite():
    assert relaxed(find("quartic"), known("quartic"), 0.5, 0.7) == math.inf
    assert expected(find("quartic"), 0.0, 2.0) == pytest.approx(48.0)
    assert expected(find("exp(theta**2)"), 0.0, 1.0) == math.inf
    assert expected(find("-exp(theta**2)"), 0.0, 1.0) == -math.inf


@pytest.mark.parametrize(
    ("text", "limit"),
    [("logistic", 0.0), ("quadratic", 0.5), ("waves", 0.1), ("-2*theta**2", -2.0)],
)
def test_growth(text, limit):
    assert known(text).growth == pytest.approx(limit, abs=1e-9)


@pytest.mark.parametrize("text", [*NAMED, STEP, "0.5*sin(9*theta)"])
def test_lines_between_points_stand_for_the_loss(text):
    table, loss = known(text), find(text)
    assert (table.theta.diff() > 0).all()
    assert table.loss.isfinite().all()
    assert len(table.theta) <= MOST_POINTS
    seen = (table.theta >= -4.4) & (table.theta <= 4.9)
    shares = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)[:, None]
    theta = table.theta[:-1] + shares * table.theta.diff()
    off = loss(theta[..., None]) - (table.loss[:-1] + shares * table.loss.diff())
    size = (off.abs() * table.theta.diff()).sum(0)[seen[:-1]].sum()
    assert size / 3 < 1e-3 * (table.loss[seen].max() - table.loss[seen].min())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("log(theta)", "here: is -inf at theta = 0: "),
        ("1/theta", "here: is inf at theta = 0: must be a number everywhere, finite between -4.4"),
        ("exp(theta)/(1 + exp(theta))", "use what is, such as log(1 + theta**2)"),
    ],
)
def test_losses_that_are_no_number_somewhere(text, words):
    with pytest.raises(ValueError, match=r"^here: is ") as caught:
        lookup(find(text), 0.5, 0.7, ranges(0.5, 0.7), "here")
    assert words in str(caught.value)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e3))
def test_sliders_hold_what_was_asked_for(mean, sd):
    shown = ranges(mean, sd)
    assert shown.view[0] < shown.mean[0] < mean < shown.mean[1] < shown.view[1]
    assert 0.05 * sd < shown.sd[0] < 0.2 * sd
    assert 0.5 * sd < shown.sd[1] < 4 * sd
    for value, low, step in (
        (mean, shown.mean[0], shown.mean_step),
        (sd, *shown.sd[:1], shown.sd_step),
    ):
        turns = (value - low) / step
        assert turns == pytest.approx(round(turns), abs=1e-6 * max(1.0, abs(mean) / step))
        assert turns < 400


# ------------------------------------------------------------------ words


def said(text, mean=0.5, sd=0.7):
    return " ".join(sentences(numbers(find(text), mean, sd)))


def test_what_is_said():
    assert "has the same average under all of them" in said("logistic")
    assert "relaxation is exact here" in said("quadratic")
    assert "mass escapes to infinity" in said("dome")
    assert "grows faster than any parabola" in said("quartic")
    assert "relaxed loss is infinite" in said("quartic")
    assert "largest loss is infinite" in said("quadratic", sd=1.2)
    assert "largest loss is infinite" not in said("quadratic", sd=0.7)
    assert "average loss is infinite" in said("exp(theta**2)", sd=1.0)


@pytest.mark.parametrize(
    ("text", "mean", "sd", "exact"),
    [
        ("1e-9*abs(theta)", 0.5, 0.7, False),
        ("logistic", 0.5, 1e-3, False),
        ("logistic", -3.0, 0.1, False),
        ("quadratic", 0.5, 1e-3, False),  # cannot be told
        ("theta", 0.5, 0.7, True),
        ("5", 0.5, 0.7, True),
    ],
)
def test_exact_is_judged_by_the_cost_of_the_noise(text, mean, sd, exact):
    assert ("is exact here, up to rounding" in said(text, mean, sd)) == exact
    assert ("is one of many" in said(text, mean, sd)) == exact


@pytest.mark.parametrize("text", ["quartic", "theta**3", "exp(theta)"])
def test_what_no_deviation_makes_finite(text):
    assert "largest loss is infinite" in said(text)
    assert "smaller --sd" not in said(text)
    printed = " ".join(lines(numbers(find(text), 0.5, 0.7)))
    for words in ("in brackets", "touches it", "how far away"):
        assert words not in printed


def test_atoms_that_are_close_are_shown_as_one():
    found = {row.key: row.text for row in rows(numbers(find("logistic"), -3.0, 0.1))}
    assert re.fullmatch(r"-3\.001\d \(0\.9997\), 2\.99\d\d \(0\.00028\)", found["atoms"])
    found = {row.key: row.text for row in rows(numbers(find("1e-9*abs(theta)"), 0.5, 0.7))}
    assert found["expected"] == "6.95238e-10"
    assert found["gap"].startswith("1.6")


def test_rows():
    found = {row.key: row for row in rows(numbers(find("quartic"), 0.5, 0.7))}
    assert found["relaxed"].text == found["largest"].text == found["gap"].text == "infinite"
    assert found["atoms"].text == "none: mass escapes to infinity"
    assert found["parabola"].text == "none lies above"
    assert found["expected"].text == "1.517800"
    found = {row.key: row for row in rows(numbers(find("absolute"), 0.5, 0.7))}
    assert found["largest"].text == "0.745000 at theta = 0.9900"
    assert re.fullmatch(r"-0\.860\d \(0\.209\d\), 0\.860\d \(0\.790\d\)", found["atoms"].text)
    assert re.search(r"^0\.430\d+ .*\+ 0\.581\d+ theta\^2$", found["parabola"].text)


def test_lines_fit_a_terminal():
    printed = lines(numbers(find("logistic"), -1.0, 1.0), "of a classifier")
    assert printed[0] == "l(theta) = log(1 + exp(-theta))  (of a classifier)"
    assert printed[1] == "q = Gaussian with mean -1, standard deviation 1, v = 1.000000"
    assert all(len(line) <= 100 for text in printed for line in text.split("\n"))


def test_numbers_in_words():
    assert number(math.nan) == "none"
    assert number(-math.inf) == "-infinite"
    assert number(12345678.9) == "1.23457e+07"
    assert number(0.0123456789) == "0.0123457"
    assert number(0.0) == "0"


# ------------------------------------------------------------------ the folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Pages by loss, made when they are asked for."""
    made = {}

    def folder(text):
        if text not in made:
            made[text] = tmp_path_factory.mktemp("relaxation") / "new"
            illustrate(text, 0.5, 0.7, made[text])
        return made[text]

    return folder


def test_the_folder_holds_numbers_figure_and_page(folders):
    folder = folders("quartic")
    assert sorted(path.name for path in folder.iterdir()) == [
        "figure.png", "numbers.json", "page.html",
    ]  # fmt: skip
    found = json.loads((folder / "numbers.json").read_text())
    assert found["relaxed_loss"]["value"] == "inf"
    assert found["expected_loss"]["value"] == pytest.approx(1.5178, abs=1e-4)
    assert len(found["curves"]) == 3
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("text", [STEP, "dome", "5"])
def test_the_page_holds_what_it_needs(folders, text):
    page = (folders(text) / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|@import|url\((?!#)", page)
    assert re.search(r"default-src 'none'", page)
    address = re.search(
        r'download="numbers.json" href="data:application/json;base64,([^"]*)"', page
    )
    assert base64.b64decode(address[1]) == (folders(text) / "numbers.json").read_bytes()
    data = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1]
    assert len(json.loads(data)["theta"]) == len(json.loads(data)["loss"]) > 1000
    assert len(page.encode()) < 500_000
    assert "where(theta&lt;0.3, 1, 0)" in page or text != STEP


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("logistic", 0.5, 0.0), r"^--sd=0.0: must be at least 0.001.* 1000"),
        (("logistic", 0.5, -1.0), r"^--sd=-1.0: must be at least 0.001"),
        (("logistic", 0.5, math.inf), r"^--sd=inf: must be "),
        (("logistic", 0.5, 1e9), r"^--sd=1000000000.0: .*rescale theta"),
        (("logistic", math.nan, 1.0), r"^--mean=nan: must be at least -1e\+06"),
        (("THETA", 0.5, 1.0), r"^--loss=THETA: .*did you mean theta\?"),
        (("logistc", 0.5, 1.0), r"^--loss=logistc: .*did you mean logistic"),
        (("log(theta - 0.2)", 0.5, 1.0), r"^--loss=log\(theta - 0.2\): is nan at theta"),
    ],
)
def test_wrong_arguments_leave_nothing(tmp_path, arguments, words):
    with pytest.raises(ValueError, match=words):
        illustrate(*arguments, tmp_path / "new")
    assert not (tmp_path / "new").exists()


# ------------------------------------------------------------------ in a browser


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    if reason := browsers.missing():
        pytest.skip(reason)
    with browsers.browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def shown(driver, folders):
    """Open the page of a loss."""

    def show(text, **look):
        driver.get_log("browser")
        driver.get_log("performance")
        browsers.show(driver, **look)
        driver.get((folders(text) / "page.html").as_uri())
        return driver

    return show


def move(driver, **values):
    """Move sliders as a hand does, wait for the next frame, and return where they are."""
    script = """const [values, done] = arguments;
        for (const [name, value] of Object.entries(values)) {
            const slider = document.getElementById(name);
            slider.value = value;
            slider.dispatchEvent(new Event("input", {bubbles: true}));
        }
        requestAnimationFrame(() => requestAnimationFrame(() => done(
            ["mean", "sd"].map((name) => document.getElementById(name).valueAsNumber))));"""
    return driver.execute_async_script(script, values)


def cell(driver, key):
    text = driver.find_element("css selector", f'[data-key="{key}"]').text
    return text.replace("\N{MINUS SIGN}", "-")


def first_number(text):
    return math.inf if text.startswith("infinite") else float(text.split()[0])


def words(driver):
    return driver.find_element("id", "words").text


@pytest.mark.parametrize(
    "text", ["logistic", "absolute", "double-well", "waves", "dome", EXPRESSION, STEP]
)
def test_the_page_computes_what_the_library_does(shown, text):
    driver, loss = shown(text), find(text)
    before = cell(driver, "expected")
    for wanted in ({}, {"mean": -1.2, "sd": 0.7}, {"mean": 2.35, "sd": 1.55}, {"sd": 0.1}):
        mean, sd = move(driver, **wanted)
        for name, value in wanted.items():
            assert {"mean": mean, "sd": sd}[name] == pytest.approx(value)
        found = numbers(loss, mean, sd)
        for key, name in (("expected", "expected_loss"), ("relaxed", "relaxed_loss")):
            assert first_number(cell(driver, key)) == pytest.approx(found[name]["value"], abs=1e-3)
        largest = first_number(cell(driver, "largest"))
        assert largest == pytest.approx(found["max_loss"]["value"], abs=1e-3)
    assert cell(driver, "expected") != before
    assert [line for line in driver.get_log("browser") if line["level"] != "DEBUG"] == []


@pytest.mark.parametrize("text", ["logistic", "absolute", EXPRESSION])
def test_points_and_parabola_are_those_of_the_library(shown, text):
    """These losses have one worst distribution only."""
    driver = shown(text)
    mean, sd = move(driver, mean=-0.4, sd=0.9)
    found = numbers(find(text), mean, sd)
    pairs = re.findall(r"(-?[\d.]+) \(([\d.]+)\)", cell(driver, "atoms"))
    assert [float(atom) for atom, _ in pairs] == pytest.approx(
        found["worst_case"]["atoms"], abs=0.02
    )
    weights = found["worst_case"]["weights"]
    assert [float(weight) for _, weight in pairs] == pytest.approx(weights, abs=0.02)
    assert f"{len(weights)} points" in words(driver)
    constant, *_ = parts = cell(driver, "parabola").split()
    assert float(constant) == pytest.approx(found["paraboloid"]["constant"], abs=0.01)
    quadratic = float(parts[-2]) * (-1 if parts[-3] == "-" else 1)
    assert quadratic == pytest.approx(found["paraboloid"]["quadratic"], abs=0.01)
    assert float(cell(driver, "radius")) == pytest.approx(found["sam_radius"], abs=0.01)


def test_the_first_numbers_are_there_without_a_script(folders):
    page = (folders("logistic") / "page.html").read_text(encoding="utf-8")
    assert re.search(r'data-key="expected">0\.529053<', page)


def test_mass_that_escapes_is_said(shown):
    driver = shown("dome")
    assert "mass escapes to infinity" in cell(driver, "atoms")
    assert "carries 0.490 of the variance 0.490" in words(driver)
    assert "mass escapes to infinity" in driver.find_element("id", "chart-bayes").text


def test_what_is_infinite_is_said(shown):
    driver = shown("quartic")
    assert cell(driver, "relaxed") == cell(driver, "largest") == cell(driver, "gap") == "infinite"
    assert float(cell(driver, "expected")) == pytest.approx(1.5178, abs=1e-3)
    assert cell(driver, "parabola") == "none lies above"
    assert "grows faster than any parabola" in words(driver)
    assert "expected loss is finite all the same" in words(driver)
    assert "no parabola lies above" in driver.find_element("id", "chart-bayes").text
    assert "infinite" in driver.find_element("id", "chart-curves").text


def test_a_penalty_that_is_too_weak_is_said(shown):
    driver = shown("quadratic")
    assert "largest loss" not in words(driver)
    assert "exact" in words(driver)
    move(driver, sd=1.3)
    assert cell(driver, "largest") == "infinite"
    assert "A standard deviation below 1.000 makes it finite" in words(driver)
    assert float(cell(driver, "relaxed")) == pytest.approx((0.25 + 1.69) / 2, abs=1e-3)


def test_exact_is_said_where_it_is_only(shown):
    driver = shown("logistic")
    move(driver, mean=-3.0, sd=0.1)
    assert "exact" not in words(driver)
    driver = shown("1e-9*abs(theta)")
    assert "exact" not in words(driver)
    assert first_number(cell(driver, "relaxed").replace("\N{MINUS SIGN}", "-")) == pytest.approx(
        8.6e-10, rel=1e-2
    )


def test_explanations_fit_what_is_infinite(shown):
    driver = shown("quartic")
    for words_ in ("in brackets", "touches it", "how far away", "bar at the mean"):
        assert words_ not in driver.find_element("id", "main").text
    driver = shown("logistic")
    for words_ in ("in brackets", "touches it", "how far away", "bar at the mean"):
        assert words_ in driver.find_element("id", "main").text


def test_the_keyboard_moves_the_sliders_and_the_pictures(shown):
    from selenium.webdriver.common.keys import Keys

    driver = shown("logistic")
    for name, label in (("mean", "mean m"), ("sd", "standard deviation √v")):
        slider = driver.find_element("id", name)
        assert slider.accessible_name == label
        assert slider.aria_role == "slider"
        pictures = ["chart-bayes", "chart-sam", "chart-curves"]
        before = [driver.find_element("id", each).get_attribute("innerHTML") for each in pictures]
        shows = driver.find_element("id", f"{name}-now").text
        slider.send_keys(Keys.ARROW_RIGHT)
        move(driver)
        after = [driver.find_element("id", each).get_attribute("innerHTML") for each in pictures]
        assert all(one != other for one, other in zip(before, after, strict=True))
        assert float(driver.find_element("id", f"{name}-now").text) == pytest.approx(
            float(shows) + 0.05
        )
    assert words(driver).startswith("Mean 0.55, standard deviation 0.75.")
    assert slider.value_of_css_property("outline-style") == "solid"


def test_nothing_is_asked_of_a_network(shown):
    driver = shown("logistic")
    move(driver, mean=0.0)
    sent = [
        json.loads(line["message"])["message"]["params"]
        for line in driver.get_log("performance")
        if '"Network.requestWillBeSent"' in line["message"]
    ]
    asked = {each["request"]["url"] for each in sent}
    assert {url for url in asked if not url.startswith("data:")} == {driver.current_url}


@pytest.mark.parametrize("text", ["double-well", "0.001*(" + " + ".join(["theta"] * 40) + ")"])
@pytest.mark.parametrize("width", [360, 768, 1400])
def test_the_page_never_scrolls_sideways(shown, text, width):
    driver = shown(text, width=width)
    for mean in (-3.0, 0.5):
        move(driver, mean=mean, sd=2.0)
        script = "const e = document.documentElement; return [e.scrollWidth, e.clientWidth]"
        wide, there = driver.execute_script(script)
        assert wide <= there <= width
        script = """return [...document.querySelectorAll(".chart svg")].map((svg) => {
            const inside = [...svg.querySelectorAll("text")].map((e) => e.getBoundingClientRect());
            const own = svg.getBoundingClientRect();
            return inside.every((box) => box.left >= own.left - 1 && box.right <= own.right + 1
                && box.top >= own.top - 1 && box.bottom <= own.bottom + 1); })"""
        assert driver.execute_script(script) == [True, True, True]


def test_pictures_follow_the_width_of_the_window(shown):
    driver = shown("logistic", width=1400)
    script = "return document.querySelector('#chart-bayes svg').viewBox.baseVal.width"
    wide = driver.execute_script(script)
    browsers.show(driver, width=360)
    move(driver)
    assert driver.execute_script(script) < wide


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(shown, scheme):
    driver = shown("double-well", scheme=scheme)
    found = browsers.contrasts_of_text(driver)
    assert len(found) > 60
    assert min(found)[0] >= 4.5, min(found)


def test_every_picture_has_a_name_and_a_caption(shown):
    driver = shown("logistic")
    pictures = driver.find_elements("css selector", ".chart")
    assert len(pictures) == 3
    for picture in pictures:
        name = picture.find_element("tag name", "svg").get_attribute("aria-label")
        assert re.search(r"\d", name)
        caption = picture.find_element("xpath", "following-sibling::p")
        assert len(caption.text) > 100
