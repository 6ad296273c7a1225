"use strict";
// The numbers of the page from a table of the loss; knows nothing of the page itself.
// Everything is in standard coordinates x = (theta - mean) / sd, in which the Gaussian is N(0, 1).

const FAR = 1e4; // an atom so many standard deviations out stands for mass that escapes
const REACHES = [5, 40, Infinity]; // how far out a worst distribution is looked for, in turn
const SMALL = 1e-9;

class Loss {
  // table: {theta: rising points, loss: values there, growth: lim l / theta^2, Infinity if none}
  constructor(table) {
    this.theta = Float64Array.from(table.theta);
    this.loss = Float64Array.from(table.loss);
    this.growth = table.growth;
  }

  // Values at rising points, on the lines between the points of the table.
  along(points) {
    const { theta, loss } = this, last = theta.length - 1;
    let at = 1;
    return Float64Array.from(points, (point) => {
      while (at < last && theta[at] < point) at += 1;
      const share = (point - theta[at - 1]) / (theta[at] - theta[at - 1]);
      return loss[at - 1] + Math.min(1, Math.max(0, share)) * (loss[at] - loss[at - 1]);
    });
  }

  at(point) { return this.along([point])[0]; }
}

const steps = (low, high, count) =>
  Float64Array.from({ length: count + 1 }, (_, i) => low + ((high - low) * i) / count);

// Nodes and weights of the trapezoid rule: fine for a number, coarse for a curve.
function rule(count) {
  const nodes = steps(-10, 10, count), density = nodes.map((x) => Math.exp(-x * x / 2));
  return { nodes, density, mass: density.reduce((sum, each) => sum + each, 0) };
}

const FINE = rule(16000), COARSE = rule(1000);

// E_q[l] by the trapezoid rule; infinite where the average does not end within ten deviations.
function expected(loss, mean, sd, { nodes, density, mass } = FINE) {
  const values = loss.along(nodes.map((x) => mean + sd * x));
  let sum = 0, size = 0, tails = 0;
  for (let i = 0; i < values.length; i += 1) {
    const part = density[i] * values[i];
    sum += part;
    size += Math.abs(part);
    if (Math.abs(nodes[i]) > 9) tails += Math.abs(part);
  }
  if (tails > 1e-3 * size && tails > SMALL) return Infinity * Math.sign(sum);
  return sum / mass;
}

// The worst distribution with mean 0 and variance 1 in x, by the simplex method with three rows:
//   max sum w l  such that  sum w = 1, sum w x = 0, sum w x^2 = 1, w >= 0.
// Columns are divided by 1 + x^2, so that one at infinity is (0, 0, 1) with the growth of the loss.
// Points far out come in only if they raise the value: of equally bad distributions a near one.
function worst(x, value, growth) {
  const infinity = x.length;
  const column = (j) => {
    if (j === infinity) return [0, 0, 1];
    const scale = 1 / (1 + x[j] * x[j]);
    return [scale, x[j] * scale, x[j] * x[j] * scale];
  };
  const cost = (j) => (j === infinity ? growth : value[j] / (1 + x[j] * x[j]));
  const climb = (basis, reach) => {
    for (let turn = 0; ; turn += 1) {
      const inverse = inverted(basis.map(column)), costs = basis.map(cost);
      const weights = inverse.map((row) => row[0] + row[2]);
      const dual = [0, 1, 2].map((k) => costs.reduce((sum, c, i) => sum + c * inverse[i][k], 0));
      const scale = 1 + Math.max(...costs.map(Math.abs));
      const enters = turn < 400 ? steepest(x, value, growth, dual, scale, reach) : -1;
      if (enters < 0) return { basis, weights, dual, infinity, value: dual[0] + dual[2], scale };
      const a = column(enters);
      const move = inverse.map((row) => row[0] * a[0] + row[1] * a[1] + row[2] * a[2]);
      const ratios = move.map((d, i) => (d > 1e-12 ? Math.max(weights[i], 0) / d : Infinity));
      basis = basis.map((j, i) => (i === ratios.indexOf(Math.min(...ratios)) ? enters : j));
    }
  };
  const found = [];
  for (const reach of REACHES) {
    found.push(climb(found.length ? found[found.length - 1].basis : feasible(x, column), reach));
  }
  const { value: most, scale } = found[found.length - 1];
  return found.find((each) => most - each.value <= 1e-6 * scale);
}

// Three points of the table of which some weights have mean 0 and variance 1.
function feasible(x, column) {
  const from = (bound) => Math.min(x.length - 1, Math.max(1, x.findIndex((each) => each >= bound)));
  const four = [from(-1) - 1, from(0) - 1, from(0), from(1)];
  const triples = four.map((_, i) => four.filter((__, j) => j !== i));
  const least = (triple) => Math.min(...inverted(triple.map(column)).map((row) => row[0] + row[2]));
  return triples.filter((triple) => new Set(triple).size === 3)
    .reduce((best, each) => (least(each) > least(best) ? each : best));
}

// The point where the loss is highest above the dual parabola; infinity only where none is above.
function steepest(x, value, growth, dual, scale, reach) {
  let best = SMALL * scale, enters = -1;
  for (let j = 0; j < x.length; j += 1) {
    if (Math.abs(x[j]) > reach) continue;
    const above = (value[j] - dual[0] - x[j] * (dual[1] + x[j] * dual[2])) / (1 + x[j] * x[j]);
    if (above > best) {
      best = above;
      enters = j;
    }
  }
  const atInfinity = reach === Infinity && enters < 0 && growth - dual[2] > SMALL * scale;
  return atInfinity ? x.length : enters;
}

// The inverse of the matrix with these three columns.
function inverted([a, b, c]) {
  const cross = (p, q) => [
    p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], p[0] * q[1] - p[1] * q[0],
  ];
  const determinant = cross(b, c).reduce((sum, each, i) => sum + each * a[i], 0);
  return [cross(b, c), cross(c, a), cross(a, b)].map((row) => row.map((e) => e / determinant));
}

// -f**, its distribution and the parabola constant + linear theta + quadratic theta^2 above the loss.
function relaxed(loss, mean, sd) {
  if (loss.growth === Infinity) return { value: Infinity, atoms: [], escaping: sd * sd };
  const variance = sd * sd;
  const x = loss.theta.map((theta) => (theta - mean) / sd);
  const base = loss.at(mean); // so that a loss of any size is resolved
  const away = (each, j) => Math.abs(each - base) / (1 + x[j] * x[j]);
  const size = loss.loss.reduce((most, each, j) => Math.max(most, away(each, j)), 0) || 1;
  const { basis, weights, dual, infinity } = worst(
    x, loss.loss.map((each) => (each - base) / size), (loss.growth * variance) / size,
  );
  const found = [];
  let escaping = 0;
  basis.forEach((j, i) => {
    const far = j === infinity || Math.abs(x[j]) > FAR;
    if (far) escaping += weights[i] > 1e-6 ? weights[i] * variance : 0;
    const weight = far ? 0 : weights[i] / (1 + x[j] * x[j]);
    if (weight > 1e-7) found.push({ j, x: x[j], weight });
  });
  const [c, a, k] = [base + size * dual[0], size * dual[1], size * dual[2]];
  return {
    value: c + k,
    atoms: merged(found).map((atom) => ({ theta: mean + sd * atom.x, weight: atom.weight })),
    escaping,
    parabola: {
      constant: c - a * mean / sd + k * mean * mean / variance,
      linear: a / sd - 2 * k * mean / variance,
      quadratic: k / variance,
      at: (theta) => c + ((theta - mean) / sd) * (a + k * (theta - mean) / sd),
    },
  };
}

// Neighbours in the table that share the weight of an atom between them become that atom.
function merged(found) {
  const atoms = [];
  for (const each of found.sort((p, q) => p.x - q.x)) {
    const last = atoms[atoms.length - 1];
    if (last && (each.j - last.j < 3 || each.x - last.x < 0.04 * (1 + Math.abs(each.x)))) {
      const weight = last.weight + each.weight;
      last.x = (last.x * last.weight + each.x * each.weight) / weight;
      last.weight = weight;
      last.j = each.j;
    } else atoms.push({ ...each });
  }
  return atoms;
}

// sup over eps of l(mean + eps) - eps^2 / (2 variance), and the points mean + eps that reach it.
const NEAR = steps(-6, 6, 1200); // the table alone is coarse for a small variance

function largest(loss, mean, sd) {
  const near = NEAR.map((x) => mean + sd * x);
  const points = [...loss.theta, ...near], values = [...loss.loss, ...loss.along(near)];
  const squares = points.map((theta) => ((theta - mean) / sd) ** 2);
  const penalised = values.map((each, j) => each - squares[j] / 2);
  const best = penalised.reduce(
    (most, each, j) => (squares[j] <= FAR * FAR ? Math.max(most, each) : most), -Infinity,
  );
  const rises = penalised.some((each, j) => squares[j] > FAR * FAR && each - best > 1e-8 * squares[j]);
  if (rises || loss.growth * sd * sd > 0.5 + SMALL) return { value: Infinity, at: [] };
  const isClose = (each) => best - each < 1e-4 * Math.min(1, 1e-2 + Math.abs(best));
  const close = points.map((theta, j) => ({ x: (theta - mean) / sd, weight: penalised[j] }))
    .filter((each) => isClose(each.weight));
  return { value: best, at: peaks(close).map((at) => mean + sd * at) };
}

// The best point of each group of points that are near each other.
function peaks(close) {
  const groups = [];
  for (const each of close.sort((p, q) => p.x - q.x)) {
    const last = groups[groups.length - 1];
    if (last && each.x - last[last.length - 1].x < 0.1) last.push(each);
    else groups.push([each]);
  }
  const top = (group) => group.reduce((most, each) => (each.weight > most.weight ? each : most));
  const best = Math.max(...groups.map((group) => top(group).weight));
  return groups.map(top).filter((each) => best - each.weight < 1e-5 * (1e-2 + Math.abs(best)))
    .map((each) => each.x);
}
