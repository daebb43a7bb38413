"use strict";
// The charts. Each takes the element to draw into, its width in pixels, and plain data.

// Score against MACs: small marks are seeds, large ones their mean with its spread, the dashed line the Pareto front.
function scoreChart(holder, width, { cells, problem, unit, stage, split, limit, trail, indexOf, describe }) {
  const base = problem.macs, scale = unit.scale;
  const value = (cell) => cell.stages[stage][`${split}_score`];
  const x = (cell) => (100 * cell.stages[stage].macs) / base;
  const whole = problem[`${split}_score`];
  const all = cells.map(value).concat(whole, limit === null ? [] : [limit], trail.map((line) => line.score));
  let [low, high] = extent(all);
  const pad = Math.max((high - low) * 0.12, unit.fraction ? 0.004 : 1e-6 * Math.abs(high) || 1e-6);
  low -= pad; high += pad;
  if (unit.fraction) { low = Math.max(0, low); high = Math.min(1.002, high); }
  const frame = plot(holder, width, Math.round(Math.min(430, Math.max(280, width * 0.5))),
    { domain: [0, 105], label: "MACs left (%)" },
    { domain: [scale * low, scale * high], label: `${split} ${unit.label}` });
  const { svg, sx, sy } = frame;
  if (limit !== null) {
    put(svg, "path", { class: "limit", d: `M${frame.left},${sy(scale * limit)}H${frame.right}` });
    put(svg, "text", { class: "limit-label", x: frame.right, y: sy(scale * limit) - 5, "text-anchor": "end" }, "tolerance");
  }
  if (trail.length) {
    const i = indexOf(cells[0].controller);
    const steps = [[sx(100), sy(scale * whole)], ...trail.filter((line) => line.accepted).map((line) => [sx((100 * line.macs) / base), sy(scale * line.score)])];
    put(svg, "path", { d: path(steps), fill: "none", stroke: colour(i), "stroke-width": 1.5, opacity: 0.6 });
    for (const line of trail) {
      const node = mark(svg, i, sx((100 * line.macs) / base), sy(scale * line.score), 3.2,
        line.accepted ? {} : { fill: "var(--surface)", stroke: colour(i), "stroke-width": 1.5 });
      tip(node, `round ${line.round}${line.accepted ? "" : ", rolled back"}\n${unit.text(line.score)} at ${percent(line.macs / base, 1)} of the MACs`);
    }
  }
  const front = cells.filter((cell) => cell.front[`${stage}_${split}`]).map((cell) => [x(cell), scale * value(cell)]);
  front.sort((a, b) => a[0] - b[0] || b[1] - a[1]);
  if (front.length) {
    let d = `M${sx(front[0][0])},${sy(front[0][1])}`;
    for (const [px, py] of front.slice(1)) d += `H${sx(px)}V${sy(py)}`;
    put(svg, "path", { class: "front", d });
  }
  const groups = new Map();
  for (const cell of cells) {
    const name = `${cell.controller}|${cell.goal.kind}|${cell.goal.value}`;
    groups.set(name, [...(groups.get(name) || []), cell]);
  }
  for (const cell of cells) {
    const lone = groups.get(`${cell.controller}|${cell.goal.kind}|${cell.goal.value}`).length === 1;
    const node = mark(svg, indexOf(cell.controller), sx(x(cell)), sy(scale * value(cell)), lone ? 6 : 3.2,
      { opacity: lone ? 1 : 0.55 });
    tip(node, describe(cell, stage));
  }
  for (const members of groups.values()) {
    if (members.length < 2) continue;
    const i = indexOf(members[0].controller), values = members.map(value);
    const cx = sx(mean(members.map(x))), [bottom, top] = extent(values);
    put(svg, "line", { x1: cx, x2: cx, y1: sy(scale * bottom), y2: sy(scale * top), stroke: colour(i), "stroke-width": 1.5 });
    const node = mark(svg, i, cx, sy(scale * mean(values)), 6.5, { stroke: "var(--surface)", "stroke-width": 1.5 });
    tip(node, `${members[0].controller}, mean of ${members.length} seeds\n${unit.text(mean(values))} at `
      + `${mean(members.map(x)).toFixed(1)} % of the MACs\nfrom ${unit.number(bottom)} to ${unit.text(top)}`);
  }
  const home = put(svg, "path", { d: MARKS[3](7), transform: `translate(${sx(100)},${sy(scale * whole)})`,
    fill: "var(--surface)", stroke: "var(--ink)", "stroke-width": 2 });
  tip(home, `unpruned\n${unit.text(whole)} at ${count(base)} MACs`);
}

// Means with their intervals, a row for each controller, best on top.
function intervalChart(holder, width, { rows, unit, indexOf, label }) {
  const shown = rows.filter((row) => row.interval);
  const bounds = shown.flatMap(({ interval }) => [interval.mean, interval.low ?? interval.mean, interval.high ?? interval.mean]);
  const within = (value) => (unit.fraction ? Math.max(0, Math.min(1, value)) : value); // an interval of few seeds can leave what is possible
  const [low, high] = extent(bounds.map(within)), pad = (high - low || 0.01) * 0.08;
  const names = Math.min(130, Math.max(...shown.map((row) => 7.2 * row.name.length)) + 14), line = 30;
  const x = { domain: [unit.scale * (low - pad), unit.scale * (high + pad)], label };
  const height = 62 + line * shown.length;
  const svg = put(holder, "svg", { class: "chart", width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
  const sx = linear(x.domain, [names, width - 14]), bottom = height - 44;
  const { ticks, step } = niceTicks(...x.domain, Math.max(2, Math.round((width - names) / 90)));
  for (const tick of ticks) {
    put(svg, "line", { class: "grid", x1: sx(tick), x2: sx(tick), y1: 6, y2: bottom });
    put(svg, "text", { x: sx(tick), y: bottom + 17, "text-anchor": "middle" }, tick.toFixed(decimals(step)));
  }
  put(svg, "text", { class: "title", x: (names + width) / 2, y: height - 6, "text-anchor": "middle" }, label);
  shown.forEach((row, number) => {
    const y = 20 + number * line, i = indexOf(row.name), { mean: middle, low: from, high: to, n } = row.interval;
    put(svg, "text", { class: "value", x: names - 12, y: y + 4, "text-anchor": "end" }, shorten(row.name, 18));
    if (from !== null) {
      put(svg, "line", { x1: sx(unit.scale * within(from)), x2: sx(unit.scale * within(to)), y1: y, y2: y, stroke: colour(i), "stroke-width": 3, "stroke-linecap": "round", opacity: 0.45 });
    }
    const node = mark(svg, i, sx(unit.scale * middle), y, 6);
    const spread = from === null ? "one seed, no interval" : `95 % interval ${unit.number(from)} to ${unit.text(to)}, ${n} seeds`;
    tip(node, `${row.name}\n${unit.text(middle)}\n${spread}`);
  });
}

const shorten = (text, length) => (text.length > length ? `…${text.slice(1 - length)}` : text);

// Lines over the rounds. A line is { name, index, points: [{ x, y, hollow, text }] }.
function lineChart(holder, width, { lines, xLabel, yLabel, limits = [], height = 260 }) {
  const all = lines.flatMap((line) => line.points);
  const xs = all.map((point) => point.x), last = Math.max(1, ...xs), first = Math.min(1, ...xs);
  let [low, high] = extent(all.map((point) => point.y).concat(limits.map((limit) => limit.y), 0));
  const pad = (high - low || 1) * 0.1;
  const { step } = niceTicks(first, Math.max(last, first + 1), Math.max(2, Math.round(width / 60)));
  const whole = Math.max(1, Math.ceil(step)), ticks = [];
  for (let tick = first; tick <= last; tick += whole) ticks.push(tick);
  const frame = plot(holder, width, height, { domain: [first - 0.3, last + 0.3], label: xLabel, ticks, format: String },
    { domain: [low - pad, high + pad], label: yLabel });
  const { svg, sx, sy } = frame;
  put(svg, "line", { class: "axis", x1: frame.left, x2: frame.right, y1: sy(0), y2: sy(0) });
  for (const limit of limits) {
    put(svg, "path", { class: "limit", d: `M${frame.left},${sy(limit.y)}H${frame.right}` });
    put(svg, "text", { class: "limit-label", x: frame.left + 4, y: sy(limit.y) - 5 }, limit.text);
  }
  for (const line of lines) {
    put(svg, "path", { d: path(line.points.map((p) => [sx(p.x), sy(p.y)])), fill: "none", stroke: colour(line.index), "stroke-width": 2, "stroke-linejoin": "round", opacity: 0.85 });
    for (const point of line.points) {
      const paint = point.hollow ? { fill: "var(--surface)", stroke: colour(line.index), "stroke-width": 1.8 } : {};
      tip(mark(svg, line.index, sx(point.x), sy(point.y), 4, paint), `${line.name}\n${point.text}`);
    }
  }
}

// Widths before and after, a bar for each group; by doublings, so that narrow layers are seen beside wide ones.
function widthChart(holder, width, { layers, index }) {
  const largest = Math.max(...layers.map((layer) => layer.before)), room = layers.length <= Math.floor((width - 50) / 30);
  const labels = room ? Math.min(90, Math.max(...layers.map((layer) => layer.name.length)) * 6.4 * 0.8 + 12) : 24;
  const height = 165 + labels;
  const svg = put(holder, "svg", { class: "chart", width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
  const left = 42, bottom = height - labels, scale = linear([-1, Math.ceil(Math.log2(largest))], [bottom, 24]);
  const sy = (filters) => (filters ? scale(Math.log2(filters)) : bottom);
  const every = Math.max(1, Math.ceil(Math.log2(largest) / 5));
  for (let power = 0; power <= Math.ceil(Math.log2(largest)); power += every) {
    put(svg, "line", { class: "grid", x1: left, x2: width, y1: sy(2 ** power), y2: sy(2 ** power) });
    put(svg, "text", { x: left - 6, y: sy(2 ** power) + 4, "text-anchor": "end" }, String(2 ** power));
  }
  put(svg, "text", { class: "title", x: 0, y: 11 }, "filters (each line is a doubling)".replace("a doubling", every > 1 ? `${2 ** every}×` : "a doubling"));
  const step = (width - left) / layers.length, bar = Math.max(2, Math.min(34, step - 2));
  layers.forEach((layer, number) => {
    const x = left + step * number + (step - bar) / 2;
    put(svg, "rect", { x, y: sy(layer.before), width: bar, height: bottom - sy(layer.before), fill: "var(--line)", rx: 1 });
    put(svg, "rect", { x, y: sy(layer.after), width: bar, height: bottom - sy(layer.after), fill: colour(index), rx: 1 });
    const hit = put(svg, "rect", { class: "hit", x: left + step * number, y: 0, width: step, height: bottom });
    tip(hit, `${layer.name}\n${layer.before} → ${layer.after} filters (${Math.round(100 * (1 - layer.after / layer.before))} % removed)`);
    if (room) {
      put(svg, "text", { x: 0, y: 0, "text-anchor": "end", transform: `translate(${x + bar / 2 + 4},${bottom + 10}) rotate(-40)` }, shorten(layer.name, 15));
    }
  });
  if (!room) put(svg, "text", { x: (left + width) / 2, y: height - 6, "text-anchor": "middle" }, `${layers.length} groups, first to last`);
}

// Drop of every group at every rate; the stronger the colour, the worse.
function heatChart(holder, width, { groups, rates, scores, baseline, unit }) {
  const names = Math.min(width * 0.34, Math.max(...groups.map((name) => name.length)) * 6.6 + 10);
  const size = (width - names) / rates.length, row = groups.length > 40 ? 13 : 22;
  const height = 52 + row * groups.length;
  const svg = put(holder, "svg", { class: "chart", width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
  const worst = Math.max(unit.fraction ? 0.01 : 1e-9, ...scores.flat().map((score) => baseline - score));
  put(svg, "text", { class: "title", x: names - 8, y: 14, "text-anchor": "end" }, "group");
  put(svg, "text", { class: "title", x: (names + width) / 2, y: height - 6, "text-anchor": "middle" }, `share of the group's filters removed; in the cells the drop (${unit.differences})`);
  rates.forEach((rate, j) => {
    if (size >= 34 || j % Math.ceil(34 / size) === 0) put(svg, "text", { x: names + size * (j + 0.5), y: 14, "text-anchor": "middle" }, `${Math.round(100 * rate)} %`);
  });
  groups.forEach((group, i) => {
    const y = 22 + row * i;
    put(svg, "text", { x: names - 8, y: y + row / 2 + 4, "text-anchor": "end", "font-size": row < 16 ? 10 : null }, shorten(group, Math.floor(names / 6.6)));
    rates.forEach((rate, j) => {
      const drop = baseline - scores[i][j], share = Math.max(0, Math.min(1, drop / worst));
      const strength = Math.round(100 * Math.sqrt(share));
      const cell = put(svg, "rect", { x: names + size * j + 1, y: y + 1, width: Math.max(1, size - 2), height: row - 2, rx: 2,
        style: `fill: color-mix(in oklab, var(--heat) ${strength}%, var(--page))` });
      tip(cell, `${group} at ${Math.round(100 * rate)} %\ndrop ${unit.difference(drop)}`);
      if (size > 46 && row >= 20) {
        put(svg, "text", { x: names + size * (j + 0.5), y: y + row / 2 + 4, "text-anchor": "middle", "pointer-events": "none",
          style: strength > 62 ? "fill: var(--surface)" : "fill: var(--ink)" }, unit.fraction ? (100 * drop).toFixed(1) : unit.number(drop));
      }
    });
  });
}

// Named terms as bars to either side of zero. `rows` are { name, index, terms: { term: value } }.
function termChart(holder, width, { rows }) {
  const terms = [...new Set(rows.flatMap((row) => Object.keys(row.terms)))];
  const lines = rows.flatMap((row) => terms.filter((term) => term in row.terms).map((term, k) => ({ ...row, term, head: k === 0, value: row.terms[term] })));
  const names = Math.min(220, width * 0.4), line = 24, height = 44 + line * lines.length;
  const svg = put(holder, "svg", { class: "chart", width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
  let [low, high] = extent(lines.map((entry) => entry.value).concat(0));
  const sx = linear([low, high === low ? low + 1 : high], [names + 50, width - 50]);
  lines.forEach((entry, number) => {
    const y = 6 + line * number, from = sx(Math.min(0, entry.value)), to = sx(Math.max(0, entry.value));
    put(svg, "text", { class: "value", x: names - 8, y: y + 15, "text-anchor": "end" }, shorten(terms.length > 1 ? `${entry.name}: ${entry.term}` : entry.name, Math.floor(names / 6.6)));
    const bar = put(svg, "rect", { x: from, y: y + 3, width: Math.max(1, to - from), height: line - 8, fill: colour(entry.index), rx: 2 });
    tip(bar, `${entry.name}\n${entry.term} ${entry.value.toFixed(4)}`);
    const left = entry.value < 0;
    put(svg, "text", { x: left ? from - 5 : to + 5, y: y + 15, "text-anchor": left ? "end" : "start" }, entry.value.toFixed(3));
  });
  put(svg, "line", { class: "axis", x1: sx(0), x2: sx(0), y1: 2, y2: height - 34 });
  put(svg, "text", { class: "title", x: (names + width) / 2, y: height - 8, "text-anchor": "middle" }, "reward");
}
