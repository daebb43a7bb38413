"use strict";
// The page: what is shown of the data, and what the reader can choose.

const DATA = JSON.parse(document.getElementById("data").textContent);
const CONTROLLERS = [...new Set(DATA.cells.map((cell) => cell.controller))];
const indexOf = (name) => CONTROLLERS.indexOf(name);
const DONE = DATA.cells.filter((cell) => cell.stages.prune);
const STAGES = { prune: "as pruned", finetune: "fine-tuned", scratch: "same shape, from scratch" };
const stagesThere = Object.keys(STAGES).filter((stage) => DONE.some((cell) => cell.stages[stage]));
const UNITS = DATA.problems.map(unitOf);
function goalText(goal, unit) {
  if (goal.kind === "budget") return `MACs budget ${percent(goal.value, 0)}`;
  return unit.limits(goal.value) ? `tolerance ${unit.number(goal.value)} ${unit.differences}` : "any drop";
}
const problemText = (problem) => `${problem.model} on ${problem.data}`;
const goalKey = (cell) => `${cell.goal.kind}|${cell.goal.value}`;
const hidden = new Set();
const choice = {
  problem: 0, split: DATA.kind === "run" ? "control" : "test", stage: stagesThere.includes("finetune") ? "finetune" : "prune", goal: null, seed: null,
  sort: null, descending: true,
};
const redraws = [];

function section(id, title, note) {
  const node = put(document.getElementById("page"), "section", { id });
  put(node, "h2", {}, title);
  if (note) put(node, "p", { class: "note" }, note);
  return node;
}

// A part that is drawn again when a choice or the width of the window changes.
function drawn(holder, draw) {
  const area = put(holder, "div", {});
  const again = () => { area.replaceChildren(); draw(area, Math.max(240, area.clientWidth)); };
  redraws.push(again);
  again();
}
// A panel for each item. All are there before the first is drawn, since their number decides how wide they are.
function panels(area, kind, items, draw) {
  const holder = put(area, "div", { class: kind });
  const made = items.map((item) => [put(holder, "div", {}), item]);
  for (const [panel, item] of made) draw(panel, item, Math.max(240, panel.clientWidth));
}
const redraw = () => redraws.forEach((again) => again());

function chooser(holder, label, options, key) {
  if (options.length < 2) return;
  const select = put(put(holder, "label", {}, `${label} `), "select", {
    onchange: (event) => { choice[key] = options[Number(event.target.value)].value; settle(); redraw(); },
  });
  options.forEach((option, i) => put(select, "option", { value: i, selected: option.value === choice[key] }, option.text));
}

const here = () => DONE.filter((cell) => cell.problem === choice.problem);
const visible = (cells) => cells.filter((cell) => !hidden.has(cell.controller));
const seeds = () => [...new Set(here().map((cell) => cell.seed))].sort((a, b) => a - b);
const goals = () => [...new Map(here().map((cell) => [goalKey(cell), cell.goal])).entries()];

// Choices that no longer fit the problem chosen fall back to the first that does.
function settle() {
  if (!seeds().includes(choice.seed)) choice.seed = seeds()[0] ?? null;
  if (!goals().some(([key]) => key === choice.goal)) choice.goal = goals()[0]?.[0] ?? null;
}

function legend(holder) {
  if (CONTROLLERS.length < 2) return;
  const list = put(holder, "ul", { class: "legend", "aria-label": "controllers; press to hide or show" });
  for (const name of CONTROLLERS) {
    const button = put(put(list, "li", {}), "button", {
      type: "button", "data-controller": name, "aria-pressed": "true",
      onclick: () => {
        hidden.has(name) ? hidden.delete(name) : hidden.add(name);
        document.querySelectorAll("[data-controller]").forEach((node) => node.setAttribute("aria-pressed", String(!hidden.has(node.dataset.controller))));
        redraw();
      },
    });
    const svg = put(button, "svg", { width: 16, height: 16, viewBox: "-8 -8 16 16", "aria-hidden": "true" });
    mark(svg, indexOf(name), 0, 0, 5.5);
    button.append(name);
  }
}

function describe(cell, stage) {
  const figures = cell.stages[stage], unit = UNITS[cell.problem];
  return `${cell.controller}, seed ${cell.seed}, ${goalText(cell.goal, unit)}\n`
    + ["test", "control"].filter((split) => `${split}_score` in figures).map((split) => `${split} ${unit.text(figures[`${split}_score`])}`).join(", ") + "\n"
    + `${percent(cell.macs_left, 1)} of the MACs, ${count(figures.parameters)} parameters`;
}

function header() {
  const page = document.getElementById("page");
  put(page, "h1", {}, DATA.kind === "run" ? problemText(DATA.problems[0]) : DATA.title);
  const failed = DATA.cells.filter((cell) => cell.status === "failed").length;
  const words = DATA.kind === "run"
    ? [`run ${DATA.title}`, `controller ${CONTROLLERS[0]}`, goalText(DATA.cells[0].goal, UNITS[0]), `seed ${DATA.cells[0].seed}`]
    : [`${CONTROLLERS.length} controllers`, DATA.problems.map(problemText).join(", "),
      `${DONE.length} of ${DATA.cells.length} cells finished${failed ? `, ${failed} failed` : ""}`];
  put(page, "p", { class: "sub" }, words.join(" · "));
  if (DATA.kind === "run" && DONE[0].verdict) put(page, "p", {}, DONE[0].verdict);
}

function tile(holder, value, label) {
  const node = put(holder, "div", { class: "tile" });
  put(node, "b", {}, value);
  put(node, "span", {}, label);
}

function tiles() {
  const holder = put(document.getElementById("page"), "div", { class: "tiles" });
  if (DATA.kind === "run") {
    const cell = DONE[0], base = DATA.problems[0], now = cell.stages.prune, unit = UNITS[0];
    tile(holder, `${(base.macs / now.macs).toFixed(2)}×`, `fewer MACs: ${count(base.macs)} → ${count(now.macs)}`);
    tile(holder, `${(base.parameters / now.parameters).toFixed(2)}×`, `fewer parameters: ${count(base.parameters)} → ${count(now.parameters)}`);
    const allowed = unit.limits(cell.goal.value) ? `; ${unit.number(cell.goal.value)} allowed` : "";
    tile(holder, unit.signed(cell.drop), `${unit.differences} of drop on control${allowed}`);
    const interval = now.test_interval;
    if (now.test_score != null) tile(holder, unit.text(now.test_score), `on test, before ${unit.text(base.test_score)}${interval ? `; 95 % interval ${unit.number(interval[0])} to ${unit.text(interval[1])}` : ""}`);
    if (cell.latency) tile(holder, `${(1000 * cell.latency.pruned).toFixed(2)} ms`, `a forward pass (${cell.latency.setting}); before ${(1000 * cell.latency.baseline).toFixed(2)} ms`);
    return;
  }
  // Nobody is called the winner above a warning that it is too close to call.
  const [rank, second] = DATA.analysis.ranks, close = DATA.analysis.settings.some((table) => table.close);
  if (rank && second && !close && second.mean_rank > rank.mean_rank) tile(holder, rank.name, `best mean rank: ${rank.mean_rank.toFixed(2)} over ${rank.blocks} blocks`);
  for (const table of DATA.analysis.settings.slice(0, 5)) {
    const row = table.rows.find((entry) => entry.merit);
    if (!row) continue;
    const where = DATA.problems.length > 1 ? `${table.model} on ${table.data}, ` : "";
    const first = table.rows.filter((entry) => entry.merit && Math.abs(entry.merit.mean - row.merit.mean) < 1e-9);
    const who = table.rows.filter((entry) => entry.merit).length < 2 ? `${row.controller}, nothing else is done`
      : first.length > 1 ? `${first.length} controllers are level` : table.close ? "too close to call" : `${row.controller} leads`;
    tile(holder, meritUnit(table).text(row.merit.mean), `${where}${goalText(table.goal, unitOf(table))}: ${who} (${table.measure})`);
  }
}

// What the controllers of a setting compete for: a test score, or the share of the MACs removed.
const meritUnit = (table) => unitOf({ metric: table.measure, percent: table.merit_percent ?? true });

function warnings() {
  const found = DATA.analysis ? DATA.analysis.warnings : [];
  if (!found.length) return;
  const node = put(document.getElementById("page"), "section", { class: "warnings", id: "warnings" });
  put(node, "h2", {}, "Too close to call");
  const show = (holder, some) => { const list = put(holder, "ul", {}); some.forEach((warning) => put(list, "li", {}, warning.text)); };
  show(node, found.slice(0, 4));
  if (found.length > 4) {
    const more = put(node, "details", {});
    put(more, "summary", {}, `${found.length - 4} more`);
    show(more, found.slice(4));
  }
}

function scores() {
  if (!DONE.length) return;
  const node = section("scores", "Score against MACs",
    DATA.kind === "run"
      ? "Up and left is better. The hollow diamond is the unpruned network, the small marks are the rounds."
      : "Every network that came out. Up and left is better; the dashed line joins those that no other one beats. Small marks are seeds, large ones their mean. The hollow diamond is the unpruned network.");
  legend(node);
  drawn(node, (area, width) => {
    const problem = DATA.problems[choice.problem], unit = UNITS[choice.problem];
    const cells = visible(here()).filter((cell) => cell.stages[choice.stage]);
    const tolerances = [...new Set(here().filter((cell) => cell.goal.kind === "tolerance").map((cell) => cell.goal.value))].filter(unit.limits);
    const limit = choice.split === "control" && tolerances.length === 1 ? problem.control_score - tolerances[0] : null;
    if (!cells.length) { put(area, "p", { class: "note" }, "Nothing to show with this choice."); return; }
    const trail = DATA.kind === "run" && choice.split === "control" ? cells[0].rounds : [];
    scoreChart(area, width, { cells, problem, unit, stage: choice.stage, split: choice.split, limit, trail, indexOf, describe });
  });
  const controls = put(node, "div", { class: "controls" });
  chooser(controls, "network", DATA.problems.map((problem, i) => ({ value: i, text: problemText(problem) })), "problem");
  chooser(controls, "score on", ["test", "control"].filter((split) => `${split}_score` in DATA.problems[0]).map((split) => ({ value: split, text: split })), "split");
  chooser(controls, "networks", stagesThere.map((stage) => ({ value: stage, text: STAGES[stage] })), "stage");
}

function standings() {
  if (!DATA.analysis || !DONE.length) return;
  const node = section("standings", "Which schedule leads",
    `Mean over the seeds with its 95 % interval. At a budget the test score counts, at a tolerance the share of MACs removed. Differences are seed by seed against ${DATA.analysis.baseline}.`);
  drawn(node, (area, width) => {
    const problem = DATA.problems[choice.problem];
    const tables = DATA.analysis.settings.filter((entry) => entry.model === problem.model && entry.data === problem.data);
    panels(area, "panels wide", tables, (panel, found, room) => {
      put(panel, "h3", {}, goalText(found.goal, UNITS[choice.problem]));
      const rows = found.rows.filter((row) => row.merit && !hidden.has(row.controller)).map((row) => ({ name: row.controller, interval: row.merit }));
      if (rows.length) intervalChart(panel, room, { rows, indexOf, unit: meritUnit(found), label: meritUnit(found).label });
      standingsTable(panel, found);
    });
  });
  const ranks = DATA.analysis.ranks;
  if (ranks.length && ranks[0].blocks > 1) {
    put(node, "h3", {}, "Ranks over everything");
    table(node, ["controller", "mean rank", "first in", "blocks"], ranks.map((row) => [row.name, row.mean_rank.toFixed(2), row.firsts, row.blocks]));
  }
}

// Whether a cell of a setting is still to come.
const awaited = (found, controller) => DATA.cells.some((cell) => cell.controller === controller && cell.status === "running"
  && cell.goal.kind === found.goal.kind && cell.goal.value === found.goal.value
  && DATA.problems[cell.problem].model === found.model && DATA.problems[cell.problem].data === found.data);

function standingsTable(holder, found) {
  const unit = meritUnit(found);
  const spread = (interval) => (interval.low === null ? "" : ` ± ${unit.number(interval.high - interval.mean)}`);
  const rows = found.rows.map((row) => {
    const against = row.against_baseline;
    return [
      row.controller,
      row.merit ? `${unit.number(row.merit.mean)}${spread(row.merit)}` : row.unmet ? "goal not met" : awaited(found, row.controller) ? "running" : "failed",
      !against || row.controller === DATA.analysis.baseline ? "–" : `${unit.signed(against.difference.mean)}${spread(against.difference)}`,
      row.macs_left ? percent(row.macs_left.mean, 1) : "–",
      row.evaluations ? count(row.evaluations.mean) : "–",
      row.images_trained ? count(row.images_trained.mean) : "–",
      row.time.seconds ? duration(row.time.seconds.mean) : "–",
    ];
  });
  table(holder, ["controller", unit.fraction ? "mean (%)" : "mean", `vs ${DATA.analysis.baseline}`, "MACs left", "evaluations", "images trained", "time"], rows);
  if (found.proxy && found.proxy.spearman !== null) {
    put(holder, "p", { class: "note" }, `Rank correlation of the score before and after fine-tuning: ${found.proxy.spearman.toFixed(2)} over ${found.proxy.n} networks.`);
  }
}

function table(holder, heads, rows) {
  const node = put(put(holder, "div", { class: "scroll" }), "table", {});
  const line = put(put(node, "thead", {}), "tr", {});
  heads.forEach((head, i) => put(line, "th", { class: i ? null : "text", scope: "col" }, head));
  const body = put(node, "tbody", {});
  for (const row of rows) {
    const tr = put(body, "tr", {});
    row.forEach((value, i) => {
      const td = put(tr, "td", { class: i ? null : "text" });
      if (!i && indexOf(value) >= 0) put(td, "span", { class: "swatch", style: `background: ${colour(indexOf(value))}` });
      td.append(String(value));
    });
  }
}

function drops() {
  if (!DONE.some((cell) => cell.rounds.length)) return;
  const node = section("drops", "Drop over the rounds",
    "Drop of the control score after each round; hollow marks were outside the tolerance and rolled back.");
  legend(node);
  drawn(node, (area) => {
    const there = goals().map(([key, goal]) => ({ goal, cells: visible(here()).filter((cell) => goalKey(cell) === key && cell.rounds.length) }));
    panels(area, "panels", there.filter(({ cells }) => cells.length), (panel, { goal, cells }, room) => {
      const base = DATA.problems[choice.problem].macs, unit = UNITS[choice.problem];
      if (DATA.kind !== "run") put(panel, "h3", {}, goalText(goal, unit));
      const lines = cells.map((cell) => ({
        name: `${cell.controller}, seed ${cell.seed}`, index: indexOf(cell.controller),
        points: cell.rounds.map((line) => ({
          x: line.round, y: unit.scale * line.drop, hollow: !line.accepted,
          text: `round ${line.round}: drop ${unit.difference(line.drop)} at ${percent(line.macs / base, 1)} of the MACs${line.accepted ? "" : ", outside the tolerance"}`,
        })),
      }));
      const limits = goal.kind === "tolerance" && unit.limits(goal.value) ? [{ y: unit.scale * goal.value, text: "tolerance" }] : [];
      lineChart(panel, room, { lines, limits, xLabel: "round", yLabel: `drop (${unit.differences})` });
    });
  });
  if (DATA.kind === "run") roundsTable(node);
}

// A run's rounds, with what its rule noted of how a step was chosen, as far as it did.
function roundsTable(node) {
  const lines = DONE[0].rounds;
  const unit = UNITS[0], base = DATA.problems[0].macs, plain = (value) => String(Number(value.toPrecision(3)));
  const all = [
    ["round", "round", String], [unit.label, "score", unit.number], [`drop (${unit.differences})`, "drop", unit.signed], ["MACs left", "macs", (value) => percent(value / base, 1)],
    ["slack", "slack", unit.number], ["healing expected", "healing_predicted", plain], ["healing seen", "healing", plain],
    ["bound by", "bound_by", String], ["epochs", "epochs", plain], ["epochs left", "epochs_left", plain],
    ["", "accepted", (value) => (value ? "" : "rolled back")],
  ];
  const shown = all.filter(([, key]) => lines.some((line) => line[key] !== undefined && line[key] !== null));
  table(node, shown.map(([head]) => head), lines.map((line) => shown.map(([, key, text]) => (line[key] === undefined || line[key] === null ? "–" : text(line[key])))));
}

function chosenCells() {
  return visible(here()).filter((cell) => cell.seed === choice.seed && goalKey(cell) === choice.goal);
}

function pickers(node) {
  drawn(node, (area) => {
    const controls = put(area, "div", { class: "controls" });
    chooser(controls, "goal", goals().map(([key, goal]) => ({ value: key, text: goalText(goal, UNITS[choice.problem]) })), "goal");
    chooser(controls, "seed", seeds().map((seed) => ({ value: seed, text: String(seed) })), "seed");
  });
}

function widths() {
  if (!DONE.some((cell) => cell.widths.length)) return;
  const node = section("widths", "Filters per group", "Pale bars before, coloured bars after pruning; the scale goes by doublings, so that narrow layers are seen.");
  drawn(node, (area) => panels(area, "panels", chosenCells(), (panel, cell, room) => {
    put(panel, "h3", {}, `${cell.controller}: ${percent(cell.macs_left, 1)} of the MACs`);
    widthChart(panel, room, { layers: cell.widths, index: indexOf(cell.controller) });
  }));
  pickers(node);
}

function pictures() {
  if (!DATA.pictures) return;
  const node = section("pictures", "Before and after", DATA.pictures.caption);
  put(put(node, "div", { class: "scroll" }), "img", { class: "picture", src: DATA.pictures.image, alt: `Control images before and after pruning: ${DATA.pictures.caption}` });
}

function sensitivity() {
  if (!DATA.sensitivity) return;
  const node = section("sensitivity", "Sensitivity", "Drop when this share of one group's filters goes and the others stay; the stronger the colour, the worse.");
  drawn(node, (area, width) => heatChart(area, width, { ...DATA.sensitivity, unit: UNITS[0] ?? unitOf({}) }));
}

function rewards() {
  if (!DONE.some((cell) => cell.rounds.some((line) => Object.keys(line.reward_terms || {}).length))) return;
  const node = section("rewards", "Reward terms", DATA.kind === "run"
    ? "What each round paid, by term."
    : "What the episode paid in all, by term: their sum is the return a trained agent maximises.");
  drawn(node, (area, width) => {
    if (DATA.kind === "run") {
      const lines = DONE[0].rounds, terms = [...new Set(lines.flatMap((line) => Object.keys(line.reward_terms)))];
      const list = put(area, "ul", { class: "legend" });
      terms.forEach((term, i) => {
        const item = put(put(list, "li", {}), "span", { class: "controls", style: "margin: 0" });
        mark(put(item, "svg", { width: 16, height: 16, viewBox: "-8 -8 16 16" }), i, 0, 0, 5.5);
        item.append(term);
      });
      lineChart(area, width, {
        lines: terms.map((term, i) => ({ name: term, index: i, points: lines.filter((line) => term in line.reward_terms).map((line) => ({
          x: line.round, y: line.reward_terms[term], hollow: false, text: `round ${line.round}: ${line.reward_terms[term].toFixed(4)}` })) })),
        xLabel: "round", yLabel: "reward",
      });
      return;
    }
    const rows = chosenCells().map((cell) => {
      const terms = {};
      for (const line of cell.rounds) for (const [term, value] of Object.entries(line.reward_terms || {})) terms[term] = (terms[term] || 0) + value;
      return { name: cell.controller, index: indexOf(cell.controller), terms };
    }).filter((row) => Object.keys(row.terms).length);
    if (rows.length) termChart(area, width, { rows });
    else put(area, "p", { class: "note" }, "None were recorded for this choice.");
  });
  if (DATA.kind !== "run") pickers(node);
}

function columns() {
  const figure = (stage, key) => (cell) => cell.stages[stage]?.[key] ?? null;
  const problem = (cell) => DATA.problems[cell.problem], unit = (cell) => UNITS[cell.problem];
  const score = (value, cell) => unit(cell).number(value);
  const parallel = DONE.some((cell) => cell.latency?.parallel);
  const all = [
    ["controller", (cell) => cell.controller, String],
    ["network", (cell) => (DATA.kind === "run" ? null : problemText(problem(cell))), String],
    ["goal", (cell) => cell.goal.value, (value, cell) => goalText(cell.goal, unit(cell))],
    ["seed", (cell) => cell.seed, String],
    ["test", figure("prune", "test_score"), score],
    ["control", figure("prune", "control_score"), score],
    ["drop", (cell) => cell.drop ?? null, (value, cell) => unit(cell).signed(value)],
    ["fine-tuned test", figure("finetune", "test_score"), score],
    ["from scratch test", figure("scratch", "test_score"), score],
    ["MACs", figure("prune", "macs"), count],
    ["MACs left", (cell) => cell.macs_left ?? null, (value) => percent(value, 1)],
    ["parameters", figure("prune", "parameters"), count],
    ["latency", (cell) => cell.latency?.pruned ?? null, (value, cell) => `${cell.latency.parallel ? "~" : ""}${(1000 * value).toFixed(2)} ms`, !parallel],
    ["evaluations", (cell) => cell.spent.evaluations ?? null, count],
    ["images evaluated", (cell) => cell.spent.images_evaluated ?? null, count],
    ["images trained", (cell) => cell.spent.images_trained ?? null, count],
    ["time", (cell) => cell.seconds, duration],
    ["result", (cell) => cell.error?.message ?? cell.stopped ?? cell.status, String],
  ];
  return all.filter(([, value]) => DATA.cells.some((cell) => value(cell) !== null))
    .map(([name, value, text, sortable = true]) => ({ name, value, sortable, text: (found, cell) => (text.length > 1 ? text(found, cell) : text(found)) }));
}

function everything() {
  // What is the same in every cell is said once, above, and not in a column.
  const all = columns(), first = DATA.cells[0];
  const same = DATA.kind === "run" ? [] : all.filter(({ name, value }) => ["network", "goal", "seed"].includes(name) && DATA.cells.every((cell) => value(cell) === value(first)));
  const shown = all.filter((column) => !same.includes(column));
  const common = same.map(({ name, value, text }) => `${name} ${text(value(first), first)}`).join(", ");
  const settings = [...new Set(DONE.filter((cell) => cell.latency).map((cell) => cell.latency.setting))];
  const node = section("cells", DATA.kind === "run" ? "Figures" : "Every cell", (UNITS.every((unit) => unit.fraction) ? "Scores in %." : "")
    + (DATA.kind === "run" ? "" : ` Press a heading to sort.${common ? ` In all of them: ${common}.` : ""}`)
    + (settings.length ? ` Latency: ${settings.join("; ")}.` : "")
    + (DONE.some((cell) => cell.latency?.parallel) ? " ~ was measured while other cells ran beside it, and is not ranked." : ""));
  drawn(node, (area) => {
    const grid = put(put(area, "div", { class: "scroll" }), "table", { id: "table" });
    const heads = put(put(grid, "thead", {}), "tr", {});
    for (const column of shown) {
      const sorted = choice.sort === column.name;
      const th = put(heads, "th", { scope: "col", class: isText(column) ? "text" : null, "aria-sort": sorted ? (choice.descending ? "descending" : "ascending") : "none" });
      if (!column.sortable) { th.append(column.name); continue; }
      put(th, "button", { type: "button", onclick: () => {
        choice.descending = choice.sort === column.name ? !choice.descending : !isText(column);
        choice.sort = column.name;
        redraw();
        [...document.querySelectorAll("#table th button")].find((button) => button.textContent === column.name).focus();
      } }, column.name);
    }
    const body = put(grid, "tbody", {});
    for (const cell of sortedCells(shown)) {
      const tr = put(body, "tr", { class: cell.status === "failed" ? "failed" : null });
      for (const column of shown) {
        const value = column.value(cell);
        const td = put(tr, "td", { class: column.name === "result" ? "text wrap" : isText(column) ? "text" : null });
        if (column.name === "controller") put(td, "span", { class: "swatch", style: `background: ${colour(indexOf(value))}` });
        const said = value === null ? "–" : column.text(value, cell);
        td.append(isText(column) ? said.replace(/[:/_-]/g, "$&\u200b") : said); // where a long name may break
      }
    }
  });
}
const isText = (column) => ["controller", "network", "goal", "result"].includes(column.name);

function sortedCells(shown) {
  const column = shown.find((entry) => entry.name === choice.sort);
  if (!column) return DATA.cells;
  const order = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
  const cells = DATA.cells.map((cell) => [column.value(cell), cell]);
  return cells.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null); // what is missing stays at the end
    return choice.descending ? order(b, a) : order(a, b);
  }).map(([, cell]) => cell);
}

function origin() {
  const node = section("commands", "How this was made");
  for (const command of DATA.commands) put(node, "pre", {}, command);
  const controls = put(node, "div", { class: "controls" });
  put(controls, "button", { type: "button", id: "download", onclick: () => {
    const url = URL.createObjectURL(new Blob([JSON.stringify(DATA, null, 2)], { type: "application/json" }));
    put(null, "a", { href: url, download: `${DATA.title}.json` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  } }, "Download the data as JSON");
  const versions = Object.entries(DATA.versions).map(([name, version]) => `${name} ${version}`).join(" · ");
  put(document.getElementById("page"), "footer", {}, versions);
}

put(document.body, "div", { id: "tip", role: "status" });
settle();
[header, tiles, warnings, scores, pictures, standings, drops, widths, sensitivity, rewards, everything, origin].forEach((part) => part());
// On paper everything is to be read: what is folded opens.
window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((node) => { node.open = true; }));
let pending = 0, lastWidth = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth === lastWidth) return;
  lastWidth = window.innerWidth;
  clearTimeout(pending);
  pending = setTimeout(redraw, 120);
});
