// Sliders, numbers, words and pictures; the numbers come from solver.js, which stands above.

const DATA = JSON.parse(document.getElementById("data").textContent);
const LOSS = new Loss({ ...DATA, growth: DATA.growth === null ? Infinity : DATA.growth });
const SLIDERS = { mean: document.getElementById("mean"), sd: document.getElementById("sd") };
const MEANS = 48; // of the curves

// ---------------------------------------------------------------------------- numbers in words

const MINUS = "\u2212";

function text(value, digits = 4) {
  if (value === Infinity) return "infinite";
  if (value === -Infinity) return `${MINUS}infinite`;
  if (Math.abs(value) < 0.1) return String(Number(value.toPrecision(digits))).replace(/-/g, MINUS);
  const small = Math.abs(value) < 1e4 ? value.toFixed(digits) : value.toPrecision(6);
  return small.replace("-", MINUS);
}

// A slider's value without the noise of adding steps.
const short = (value) => String(Number(value.toPrecision(6))).replace("-", MINUS);

// What is not resolved is told as nothing.
const clean = (value, size) => (Math.abs(value) < 1e-6 * size ? 0 : value);

const points = (list) => list.map((each) => place(each)).join(", ");

// A place on the axis of theta, with digits enough for the Gaussian's width.
function place(theta) {
  const sd = SLIDERS.sd.valueAsNumber;
  if (Math.abs(theta) < 1e-3 * sd) return "0";
  return theta.toFixed(Math.min(9, Math.max(3, 2 - Math.floor(Math.log10(sd))))).replace("-", MINUS);
}

function parabolaInWords(found, now) {
  if (!found) return "none lies above";
  const reach = Math.abs(now.mean) + now.sd;
  const sizes = [found.constant, found.linear * reach, found.quadratic * reach ** 2].map(Math.abs);
  const most = Math.max(...sizes);
  const parabola = {
    constant: clean(found.constant, most), linear: clean(found.linear * reach, most) / reach,
    quadratic: clean(found.quadratic * reach ** 2, most) / reach ** 2,
  };
  const term = (value, name) => {
    const size = text(Math.abs(value));
    return size === "0" ? "" : ` ${value < 0 ? MINUS : "+"} ${size} ${name}`;
  };
  return text(parabola.constant) + term(parabola.linear, "θ") + term(parabola.quadratic, "θ²");
}

const weight = (value) => (value < 0.01 ? text(value, 2) : text(value, 3));

// Whether the gap is next to nothing beside what the noise costs; for a straight loss, which has no
// such cost, beside how much the loss changes; and whether the table of the loss resolves that.
function exactness({ mean, sd, expected: average, relaxed: { value } }) {
  const middle = LOSS.at(mean), cost = Math.abs(average - middle);
  const change = Math.max(...[-sd, sd].map((each) => Math.abs(LOSS.at(mean + each) - middle)));
  const straight = 1e-6 * change + 1e-12 * Math.abs(middle);
  const small = value - average <= Math.max(1e-3 * cost, straight);
  return { small, exact: small && (cost <= straight || cost >= 1e-3 * EXTENT) };
}

function atomsInWords(found) {
  if (found.value === Infinity) return "none: mass escapes to infinity";
  const atoms = found.atoms.map((each) => `${place(each.theta)}\u00a0(${weight(each.weight)})`);
  return atoms.join(", ") + (found.escaping > 0 ? "; mass escapes to infinity" : "");
}

function sentences(now) {
  const said = [`Mean ${short(now.mean)}, standard deviation ${short(now.sd)}.`];
  if (now.expected === Infinity) said.push("The Gaussian’s average loss is infinite.");
  if (now.relaxed.value === Infinity) {
    said.push("The loss grows faster than any parabola: none lies above it, and the relaxed loss is infinite."
      + (now.expected === Infinity ? "" : " The expected loss is finite all the same."));
  } else if (now.relaxed.escaping > 0) {
    const share = text(now.relaxed.escaping, 3);
    said.push(`No distribution is worst: mass escapes to infinity. Ever less of it, ever farther out, carries ${share} of the variance ${text(now.sd ** 2, 3)}; the points shown carry the rest.`);
  } else if (exactness(now).exact) {
    said.push("The relaxation is exact here, up to rounding: no distribution averages more than the Gaussian. The worst distribution is one of many with these moments that average the same; the Gaussian is another.");
  } else if (exactness(now).small) {
    said.push("The gap is below what this page resolves: whether the relaxation is exact here cannot be told. The worst distribution may be one of many.");
  } else {
    const count = now.relaxed.atoms.length;
    said.push(`The worst distribution has ${count} point${count === 1 ? "" : "s"}, and averages ${text(now.relaxed.value - now.expected)} more than the Gaussian.`);
  }
  if (now.largest.value === Infinity) {
    const limit = LOSS.growth === Infinity ? "" : ` A standard deviation below ${text(Math.sqrt(0.5 / LOSS.growth), 3)} makes it finite.`;
    said.push(`The largest loss is infinite: far out the loss outgrows SAM’s penalty.${limit}`);
  } else if (now.largest.at.length > 1) {
    said.push("The largest loss is reached at more than one point: SAM has a choice here.");
  }
  return said.join(" ");
}

function show(now) {
  const radius = now.largest.at.length ? Math.abs(now.largest.at[0] - now.mean) : NaN;
  const finite = Number.isFinite(now.relaxed.value) && Number.isFinite(now.expected);
  const at = now.largest.at.length > 4 ? "at many points" : `at ${points(now.largest.at)}`;
  const values = {
    expected: text(clean(now.expected, EXTENT)),
    relaxed: text(clean(now.relaxed.value, EXTENT)),
    gap: finite ? text(clean(Math.max(0, now.relaxed.value - now.expected), EXTENT)) : "infinite",
    atoms: atomsInWords(now.relaxed),
    parabola: parabolaInWords(now.relaxed.parabola, now),
    largest: text(clean(now.largest.value, EXTENT)) + (now.largest.at.length ? ` ${at}` : ""),
    radius: Number.isNaN(radius) ? "none" : text(clean(radius, now.sd), 3),
  };
  const there = {
    relaxed: Number.isFinite(now.relaxed.value), gap: finite, parabola: Boolean(now.relaxed.parabola),
    atoms: now.relaxed.atoms.length > 0, largest: Number.isFinite(now.largest.value),
    radius: !Number.isNaN(radius),
  };
  for (const [key, is] of Object.entries(there)) {
    document.querySelectorAll(`[data-there=${key}]`).forEach((each) => { each.hidden = !is; });
    document.querySelectorAll(`[data-otherwise=${key}]`).forEach((each) => { each.hidden = is; });
  }
  for (const [key, value] of Object.entries(values)) {
    document.querySelector(`[data-key=${key}]`).textContent = value;
  }
  document.getElementById("words").textContent = sentences(now);
}

// ---------------------------------------------------------------------------- drawing

// A plot of the size that its place has on the screen, so that its words are not stretched.
class Plot {
  constructor(place, x, y, bottom = 34) {
    this.place = document.getElementById(place);
    this.width = Math.max(260, this.place.clientWidth);
    this.height = Math.round(Math.min(420, Math.max(270, this.width * 0.62)));
    this.box = { left: 46, right: this.width - 12, top: 12, bottom: this.height - bottom };
    this.xEnds = x;
    this.yEnds = y;
    this.parts = [];
    this.clip = `clip-${place}`;
  }

  x(value) {
    const { left, right } = this.box, [low, high] = this.xEnds;
    return left + ((right - left) * (value - low)) / (high - low);
  }

  y(value) {
    const { top, bottom } = this.box, [low, high] = this.yEnds;
    return bottom - ((bottom - top) * Math.max(-2, Math.min(3, (value - low) / (high - low))));
  }

  add(part) { this.parts.push(part); }

  words(x, y, words, classes) { this.add(`<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" class="${classes}">${words}</text>`); }

  axes(floor = this.height - 34, label = "θ") {
    for (const value of ticks(...this.yEnds, 5)) {
      const at = this.y(value).toFixed(1);
      this.add(`<path class="grid" d="M${this.box.left},${at}H${this.box.right}"/>`);
      this.words(this.box.left - 6, Number(at) + 4, short(value), "end");
    }
    for (const value of ticks(...this.xEnds, this.width < 400 ? 5 : 9)) {
      const at = this.x(value);
      this.add(`<path class="axis" d="M${at.toFixed(1)},${floor}v4"/>`);
      if (at < this.box.right - 18) this.words(at, floor + 17, short(value), "middle");
    }
    this.add(`<path class="axis" d="M${this.box.left},${floor}H${this.box.right}"/>`);
    this.words(this.box.right, floor + 17, label, "end");
  }

  line(curve, classes) {
    const path = curve.filter(([, y]) => Number.isFinite(y))
      .map(([x, y]) => `${this.x(x).toFixed(1)},${this.y(y).toFixed(1)}`);
    if (path.length) this.add(`<path class="line ${classes}" clip-path="url(#${this.clip})" d="M${path.join("L")}"/>`);
  }

  vertical(x, from, to, classes) {
    this.add(`<path class="${classes}" d="M${this.x(x).toFixed(1)},${from.toFixed(1)}V${to.toFixed(1)}"/>`);
  }

  // A circle, if it is inside the picture.
  circle(x, y, radius, classes) {
    const at = this.y(y);
    if (!this.holds(x) || at < this.box.top - 6 || at > this.box.bottom + 6) return;
    this.add(`<circle class="${classes}" cx="${this.x(x).toFixed(1)}" cy="${at.toFixed(1)}" r="${radius}"/>`);
  }

  holds(x) { return x >= this.xEnds[0] && x <= this.xEnds[1]; }

  render(name) {
    const { left, right, top, bottom } = this.box;
    this.place.innerHTML = `<svg role="img" aria-label="${name}" viewBox="0 0 ${this.width} ${this.height}">
      <clipPath id="${this.clip}"><rect x="${left}" y="${top}" width="${right - left}" height="${bottom - top}"/></clipPath>
      ${this.parts.join("")}</svg>`;
  }
}

function ticks(low, high, most) {
  const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
  const found = [];
  for (let k = Math.ceil(low / step); k * step <= high + 1e-9 * step; k += 1) found.push(k * step);
  return found;
}

const VIEW = steps(...DATA.view, 600);
const LOSS_IN_VIEW = Array.from(LOSS.along(VIEW), (value, i) => [VIEW[i], value]);

// Heights that show the loss in the middle of the view, and some room above.
const HEIGHTS = (() => {
  const [low, high] = DATA.view, middle = (low + high) / 2, part = 0.33 * (high - low);
  const values = LOSS_IN_VIEW.filter(([x]) => Math.abs(x - middle) <= part).map(([, y]) => y);
  const least = Math.min(...values), most = Math.max(...values);
  const extent = most - least || Math.max(1, Math.abs(most));
  return [least - 0.08 * extent, most + 0.35 * extent];
})();

// How much the loss changes in view.
const EXTENT = (() => {
  const values = LOSS_IN_VIEW.map(([, y]) => y).sort((p, q) => p - q);
  return values[Math.floor(0.9 * values.length)] - values[0] || Math.abs(values[0]);
})();

function drawBayes(now) {
  const plot = new Plot("chart-bayes", DATA.view, HEIGHTS);
  const floor = plot.height - 34, band = Math.round(0.27 * plot.height), head = floor - band;
  plot.box.bottom = head - 14;
  plot.axes(floor);
  const parabola = now.relaxed.parabola;
  if (parabola) plot.line(Array.from(VIEW, (x) => [x, parabola.at(x)]), "parabola");
  plot.line(LOSS_IN_VIEW, "loss");
  const top = floor - 0.62 * band;
  const bell = Array.from(VIEW, (x) => {
    const z = (x - now.mean) / now.sd;
    return `${plot.x(x).toFixed(1)},${(floor - (floor - top) * Math.exp(-z * z / 2)).toFixed(1)}`;
  });
  plot.add(`<path class="area" d="M${plot.box.left},${floor}L${bell.join("L")}L${plot.box.right},${floor}Z"/>`);
  let outside = 0;
  for (const atom of now.relaxed.atoms) {
    if (!plot.holds(atom.theta)) { outside += 1; continue; }
    const height = Math.max(3, atom.weight * band);
    const touch = Math.max(plot.box.top, Math.min(plot.box.bottom, plot.y(LOSS.at(atom.theta))));
    plot.vertical(atom.theta, floor - height, touch, "touch");
    plot.vertical(atom.theta, floor, floor - height, "stem");
    plot.circle(atom.theta, LOSS.at(atom.theta), 5, "ring parabola");
  }
  const notes = [];
  if (now.relaxed.value === Infinity) notes.push("no parabola lies above this loss");
  else if (now.relaxed.escaping > 0) notes.push("← mass escapes to infinity →");
  if (outside) notes.push(`${outside} of the points outside the picture`);
  const leftward = plot.x(now.mean) > (plot.box.left + plot.box.right) / 2; // where there is room
  notes.forEach((note, i) => plot.words(
    leftward ? plot.box.left : plot.box.right, head + 4 + 15 * i, note, leftward ? "value" : "value end",
  ));
  plot.render(`The loss with a parabola above it, touching it at ${now.relaxed.atoms.length} points, and the Gaussian of mean ${short(now.mean)}`);
}

function drawSam(now) {
  const plot = new Plot("chart-sam", DATA.view, HEIGHTS);
  plot.axes();
  plot.vertical(now.mean, plot.box.bottom, plot.box.top, "mean");
  const { value, at } = now.largest;
  if (value !== Infinity) {
    const penalty = Array.from(VIEW, (x) => [x, value + (x - now.mean) ** 2 / (2 * now.sd ** 2)]);
    plot.line(penalty, "penalty");
  }
  plot.line(LOSS_IN_VIEW, "loss");
  plot.circle(now.mean, LOSS.at(now.mean), 4, "dot loss");
  if (at.length <= 4) at.forEach((theta) => plot.circle(theta, LOSS.at(theta), 5, "ring penalty"));
  const side = plot.x(now.mean) < plot.width / 2 ? 1 : -1;
  plot.words(plot.x(now.mean) + 6 * side, plot.box.bottom - 6, "m", side > 0 ? "value" : "value end");
  if (value === Infinity) plot.words((plot.box.left + plot.box.right) / 2, plot.box.top + 14, "no height of this parabola is above the loss", "middle value");
  plot.render(`The loss, and SAM’s parabola around the mean ${short(now.mean)}: largest loss ${text(value)}`);
}

// ---------------------------------------------------------------------------- the curves

let curves = { sd: NaN, all: [] };

function curvesOf(sd) {
  if (curves.sd === sd) return curves.all;
  const means = steps(...DATA.mean, MEANS);
  curves = { sd, all: [sd / 2, sd, 2 * sd].map((each) => ({
    sd: each,
    expected: Array.from(means, (mean) => [mean, expected(LOSS, mean, each, COARSE)]),
    relaxed: Array.from(means, (mean) => [mean, relaxed(LOSS, mean, each).value]),
  })) };
  return curves.all;
}

function drawCurves(now) {
  const all = curvesOf(now.sd);
  const seen = [HEIGHTS[0], ...all.flatMap((each) => [...each.expected, ...each.relaxed].map(([, y]) => y))]
    .filter(Number.isFinite).sort((a, b) => a - b);
  const most = Math.max(HEIGHTS[1], seen[Math.floor(0.9 * (seen.length - 1))]);
  const least = Math.min(HEIGHTS[0], seen[Math.floor(0.05 * (seen.length - 1))]);
  const plot = new Plot("chart-curves", DATA.mean, [least, most + 0.03 * (most - least)]);
  plot.axes(undefined, "m");
  plot.vertical(now.mean, plot.box.bottom, plot.box.top, "mean");
  plot.line(LOSS_IN_VIEW.filter(([x]) => plot.holds(x)), "loss");
  all.forEach((each, k) => {
    plot.line(each.expected, `k${k} dashed`);
    plot.line(each.relaxed, `k${k}`);
    document.getElementById(`curve-${k}`).textContent = `standard deviation ${short(each.sd)}`;
  });
  const height = (value) => Math.max(plot.box.top, plot.y(value));
  if (Number.isFinite(now.relaxed.value) && Number.isFinite(now.expected)) {
    plot.vertical(now.mean, height(now.expected), height(now.relaxed.value), "gap k1");
    plot.circle(now.mean, now.relaxed.value, 4.5, "dot k1");
  } else if (now.relaxed.value === Infinity) {
    plot.words((plot.box.left + plot.box.right) / 2, plot.box.top + 14, "the relaxed loss is infinite everywhere", "middle value");
  }
  plot.circle(now.mean, now.expected, 4.5, "ring k1");
  plot.render(`Expected and relaxed loss against the mean: ${text(now.expected)} and ${text(now.relaxed.value)} at mean ${short(now.mean)}`);
}

// ---------------------------------------------------------------------------- what moves

function update() {
  const mean = SLIDERS.mean.valueAsNumber, sd = SLIDERS.sd.valueAsNumber;
  const now = {
    mean, sd, expected: expected(LOSS, mean, sd), relaxed: relaxed(LOSS, mean, sd),
    largest: largest(LOSS, mean, sd),
  };
  for (const [name, slider] of Object.entries(SLIDERS)) {
    document.getElementById(`${name}-now`).textContent = short(slider.valueAsNumber);
  }
  show(now);
  drawBayes(now);
  drawSam(now);
  drawCurves(now);
}

let waiting = false;

function soon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; update(); });
}

for (const slider of Object.values(SLIDERS)) slider.addEventListener("input", soon);
addEventListener("resize", soon);
document.querySelector(".controls").addEventListener("submit", (event) => event.preventDefault());
update();
