"use strict";
// Drawing primitives: elements, scales, axes, markers, the tooltip. Text only ever enters as text nodes.

const SVG = "http://www.w3.org/2000/svg";
const SERIES = 10;

function put(parent, name, attributes, ...children) {
  const svg = parent && parent.namespaceURI === SVG;
  const node = svg || name === "svg" ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  for (const child of children) node.append(child);
  if (parent) parent.append(node);
  return node;
}

const colour = (index) => `var(--s${index % SERIES})`;

// Shapes tell controllers apart where colours do not, whether by eye or by number.
const MARKS = [
  (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0Z`,
  (r) => `M${-r * 0.9},${-r * 0.9}h${1.8 * r}v${1.8 * r}h${-1.8 * r}Z`,
  (r) => `M0,${-r * 1.15}L${r * 1.1},${r * 0.85}H${-r * 1.1}Z`,
  (r) => `M0,${-r * 1.25}L${r * 1.25},0L0,${r * 1.25}L${-r * 1.25},0Z`,
  (r) => `M0,${r * 1.15}L${r * 1.1},${-r * 0.85}H${-r * 1.1}Z`,
  (r) => { const a = r * 0.42, b = r * 1.15; return `M${-a},${-b}H${a}V${-a}H${b}V${a}H${a}V${b}H${-a}V${a}H${-b}V${-a}H${-a}Z`; },
  (r) => { const a = r * 0.55, b = r * 1.1; return `M${-a},${-b}H${a}L${b},0L${a},${b}H${-a}L${-b},0Z`; },
];

function mark(parent, index, x, y, size, attributes) {
  return put(parent, "path", {
    d: MARKS[index % MARKS.length](size), transform: `translate(${x},${y})`, fill: colour(index), ...attributes,
  });
}

function extent(values) {
  const finite = values.filter((value) => Number.isFinite(value));
  return finite.length ? [Math.min(...finite), Math.max(...finite)] : [0, 1];
}

function niceStep(span, count) {
  const raw = span / Math.max(count, 1);
  const power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((step) => step >= raw * 0.7);
}

function niceTicks(low, high, count) {
  if (high <= low) high = low + 1;
  const step = niceStep(high - low, count), ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(i * step);
  return { ticks, step };
}

function linear(domain, range) {
  const span = domain[1] - domain[0] || 1;
  return (value) => range[0] + ((value - domain[0]) / span) * (range[1] - range[0]);
}

// As many decimals as it takes to write every multiple of a step.
function decimals(step) {
  let digits = 0;
  while (digits < 6 && Math.abs(step * 10 ** digits - Math.round(step * 10 ** digits)) > 1e-6) digits++;
  return digits;
}

// A plot with axes. `x` and `y` are { domain, label, format?, ticks? }; returns the canvas and its scales.
function plot(holder, width, height, x, y, margin) {
  margin = { top: 26, right: 14, bottom: 42, left: 46, ...margin };
  const svg = put(holder, "svg", { class: "chart", width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
  const right = width - margin.right, bottom = height - margin.bottom;
  const sx = linear(x.domain, [margin.left, right]), sy = linear(y.domain, [bottom, margin.top]);
  const axisY = niceTicks(...y.domain, Math.max(3, Math.round((bottom - margin.top) / 48)));
  for (const tick of axisY.ticks) {
    put(svg, "line", { class: "grid", x1: margin.left, x2: right, y1: sy(tick), y2: sy(tick) });
    put(svg, "text", { x: margin.left - 6, y: sy(tick) + 4, "text-anchor": "end" }, (y.format || ((v) => v.toFixed(decimals(axisY.step))))(tick));
  }
  const axisX = x.ticks ? { ticks: x.ticks, step: 1 } : niceTicks(...x.domain, Math.max(2, Math.round((right - margin.left) / 80)));
  put(svg, "line", { class: "axis", x1: margin.left, x2: right, y1: bottom, y2: bottom });
  for (const tick of axisX.ticks) {
    put(svg, "line", { class: "axis", x1: sx(tick), x2: sx(tick), y1: bottom, y2: bottom + 4 });
    put(svg, "text", { x: sx(tick), y: bottom + 17, "text-anchor": "middle" }, (x.format || ((v) => v.toFixed(decimals(axisX.step))))(tick));
  }
  put(svg, "text", { class: "title", x: (margin.left + right) / 2, y: height - 6, "text-anchor": "middle" }, x.label);
  put(svg, "text", { class: "title", x: 0, y: 11 }, y.label);
  return { svg, sx, sy, left: margin.left, right, top: margin.top, bottom };
}

const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)},${y.toFixed(1)}`).join("");

function tip(node, text) {
  const box = document.getElementById("tip");
  const show = (event) => {
    box.textContent = text;
    const [w, h] = [box.offsetWidth, box.offsetHeight];
    const x = Math.min(event.clientX + 14, window.innerWidth - w - 8);
    const y = event.clientY + h + 24 > window.innerHeight ? event.clientY - h - 12 : event.clientY + 16;
    box.style.left = `${Math.max(8, x)}px`;
    box.style.top = `${Math.max(8, y)}px`;
    box.style.visibility = "visible";
  };
  node.addEventListener("pointerenter", show);
  node.addEventListener("pointermove", show);
  node.addEventListener("pointerdown", show);
  node.addEventListener("pointerleave", () => { box.style.visibility = "hidden"; });
  node.setAttribute("aria-label", text);
  return node;
}

// Numbers in words.
const percent = (value, digits = 2) => `${(100 * value).toFixed(digits)}\u00a0%`;
// How scores of a metric are written: fractions in percent, anything else (dB, errors) as it is, by its own name.
function unitOf({ metric = "score", percent: fraction = true }) {
  const scale = fraction ? 100 : 1, differences = fraction ? "points" : metric;
  const number = (value) => (fraction ? (100 * value).toFixed(2) : String(Number(value.toPrecision(4))));
  const signed = (value) => `${value >= 0 ? "+" : "−"}${number(Math.abs(value))}`;
  return {
    fraction, scale, differences, number, signed, label: fraction ? `${metric} (%)` : metric,
    text: (value) => (fraction ? `${number(value)} %` : `${metric} ${number(value)}`),
    difference: (value) => `${signed(value)} ${differences}`,
    limits: (tolerance) => !(fraction && tolerance >= 1), // nothing drops by more than all of it
  };
}
function count(value) {
  for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(value) >= size) return `${(value / size).toPrecision(3)} ${unit}`;
  }
  return String(Math.round(value));
}
function duration(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
}
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
