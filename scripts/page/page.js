"use strict";
// Embeds the charts and adds what they need from the page: the colours of the theme, the choice of a grid's measure and
// order, a cell cursor for the keyboard, zoom by buttons, the sentence of what is under the pointer, a ring around the
// mark of a chosen row, and names beside points where there is room. Tables: page.tables.js.
// charts.py and grids.py give the names by which models of Bokeh are found here.

// Variables of page.css by the name of a model.
const COLORS = {
  "kind-standard": "--standard", "kind-ContribDynamic": "--contrib", "kind-target-size": "--target",
  "kind-padded": "--padded", "error-padded": "--padded",
  "error-standard": "--standard", "error-ContribDynamic": "--contrib", "error-target-size": "--target",
  "line": "--standard", "pruning": "--ink", "zero": "--ink", "chosen-ring": "--ink",
  "label-text": "--ink", "label-leaders": "--muted"};
// Pixels. A label is tried at each of DISTANCES from its point; on a narrow chart a far one would cross all the others.
const TIP_GAP = 14, LABEL_HEIGHT = 13, POINT_RADIUS = 7, ANGLES = 16, DISTANCES = [6, 14, 24, 36, 50, 66, 84, 104];
const NARROW = 420, NARROW_DISTANCE = 36;
const CLICK_PIXELS = 5, REACH_PIXELS = 16; // a drag is no click; a finger is wide
const LEAST_MARK = 2, MOST_MARK = 8;
const charts = new Map();
const tip = document.getElementById("tip");
let pointer = {x: 0, y: 0};

// Bokeh draws on a canvas, which knows no var() and no light-dark(): the browser computes the colour on some element.
function themeColor(name) {
  tip.style.outlineColor = `var(${name})`;
  return getComputedStyle(tip).outlineColor;
}

function paintModel(model) {
  const [ink, muted, line] = ["--ink", "--muted", "--line"].map(themeColor);
  if (model.type === "Grid") model.grid_line_color = line;
  if (["LinearAxis", "LogAxis"].includes(model.type)) {
    model.setv({axis_label_text_color: muted, major_label_text_color: ink, axis_label_text_font_style: "normal"});
    for (const part of ["axis_line_color", "major_tick_line_color", "minor_tick_line_color"]) {
      if (model[part] !== null) model[part] = line; // null: this axis shows none
    }
  }
  const color = COLORS[model.name] && themeColor(COLORS[model.name]), glyph = model.glyph;
  if (!color || !glyph) return;
  if ("text_color" in glyph) glyph.text_color = {value: color};
  if ("line_color" in glyph) glyph.line_color = {value: color};
  if ("fill_color" in glyph && model.name !== "chosen-ring") glyph.fill_color = {value: color};
}

function paint() {
  for (const {model} of charts.values()) for (const each of [...model.references()]) paintModel(each);
}

function showTip(text) {
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = pointer.x + TIP_GAP + box.width > innerWidth ? pointer.x - TIP_GAP - box.width : pointer.x + TIP_GAP;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, Math.min(pointer.y + TIP_GAP, innerHeight - box.height - 4))}px`;
}

// Bokeh calls this for what lies under the pointer. Its own tooltips are HTML of its own style, and cover the cell.
window.report = {charts, themeColor, hover(plot, found) {
  const index = found.index.indices[0];
  if (index !== undefined) showTip(found.renderer.data_source.data.text[index]);
}};

// Call with the place in a chart of every click or tap that is not the end of a drag.
function onClick(element, chart, call) {
  let down = {x: 0, y: 0};
  element.addEventListener("pointerdown", (event) => { down = {x: event.clientX, y: event.clientY}; }, true);
  element.addEventListener("click", (event) => {
    if (Math.hypot(event.clientX - down.x, event.clientY - down.y) > CLICK_PIXELS) return;
    const box = chart.view.el.getBoundingClientRect();
    call(event.clientX - box.left, event.clientY - box.top);
  });
}

// Set one axis to `factor` times its length (0: all of it), around the pixel `at`, within its whole.
function zoomAxis(range, whole, scale, factor, at) {
  const [from, to] = whole.map((value) => scale.compute(value));
  const [start, end] = [range.start, range.end].map((value) => scale.compute(value));
  const length = (end - start) * factor;
  if (!factor || Math.abs(length) >= Math.abs(to - from)) {
    range.setv({start: whole[0], end: whole[1]});
    return;
  }
  const wanted = (at ?? (start + end) / 2) - length / 2, limits = [from, to - length].sort((a, b) => a - b);
  const first = Math.min(Math.max(wanted, limits[0]), limits[1]);
  range.setv({start: scale.invert(first), end: scale.invert(first + length)});
}

// Around the chosen cell or mark, where there is one in sight.
function zoom({model, view, whole}, factor) {
  const {x_scale: across, y_scale: up} = view.frame, find = (name) => model.document.get_model_by_name(name);
  const cell = find("cursor")?.data, ring = find("chosen")?.data;
  const [x, y] = [cell?.column[0] ?? ring?.x[0], cell?.row[0] ?? ring?.y[0]];
  const seen = x !== undefined && inRange(model.x_range, x) && inRange(model.y_range, y);
  zoomAxis(model.x_range, whole.x, across, factor, seen ? across.compute(x) : null);
  zoomAxis(model.y_range, whole.y, up, factor, seen ? up.compute(y) : null);
}

function inRange(range, value) {
  return value >= Math.min(range.start, range.end) && value <= Math.max(range.start, range.end);
}

// Move an axis that shows a part of its whole, until it shows the cell.
function follow(range, cell) {
  const [low, high] = [Math.min(range.start, range.end), Math.max(range.start, range.end)];
  const move = cell - 0.5 < low ? cell - 0.5 - low : cell + 0.5 > high ? cell + 0.5 - high : 0;
  if (move) range.setv({start: range.start + move, end: range.end + move});
}

// Let the keyboard, and a tap, choose a cell of a grid; the status line says its sentence, also to a screen reader.
function walkOver(figure) {
  const chart = charts.get(figure.dataset.grid), {model, view} = chart;
  const find = (name) => model.document.get_model_by_name(name);
  const cells = find("cells"), cursor = find("cursor"), columns = Number(figure.dataset.columns);
  const walker = figure.querySelector(".walk"), status = figure.querySelector(".status");
  let places = new Map(), at = 0;
  const findPlaces = () => {
    const {row, column} = cells.data;
    places = new Map(Array.from(row, (line, index) => [line * columns + column[index], index]));
  };
  const go = (place) => {
    if (!places.has(place)) return;
    at = place;
    cursor.data = {column: [place % columns], row: [Math.floor(place / columns)]};
    status.textContent = cells.data.text[places.get(place)];
    follow(model.x_range, place % columns);
    follow(model.y_range, Math.floor(place / columns));
  };
  chart.show = (link) => {
    for (const [place, index] of places) if (cells.data.link[index] === link) go(place);
  };
  const row = () => Math.floor(at / columns) * columns;
  const inRow = (start) => [...places.keys()].filter((place) => place >= start && place < start + columns);
  const moves = {
    ArrowLeft: () => at === row() ? at : at - 1, ArrowRight: () => at === row() + columns - 1 ? at : at + 1,
    ArrowUp: () => at - columns, ArrowDown: () => at + columns,
    Home: row, End: () => Math.max(...inRow(row()))}; // the last row may be short
  walker.addEventListener("focus", () => walker.matches(":focus-visible") && go(at));
  walker.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (!(event.key in moves) && event.key !== "Enter") return;
    event.preventDefault(); // Enter, too: it would press the button of the row that has the focus by then
    if (event.key === "Enter") return window.report.toRow(figure.dataset.of, cells.data.link[places.get(at)]);
    tip.hidden = true;
    go(moves[event.key]());
  });
  onClick(walker, chart, (x, y) => {
    const column = Math.round(view.frame.x_scale.invert(x)), line = Math.round(view.frame.y_scale.invert(y));
    if (column < 0 || column >= columns || line < 0 || !places.has(line * columns + column)) return;
    go(line * columns + column);
    window.report.toRow(figure.dataset.of, cells.data.link[places.get(at)]);
  });
  for (const input of figure.querySelectorAll("fieldset.switch input")) input.addEventListener("change", () => {
    if (input.name.endsWith("-order")) {
      const chosen = cursor.data.column.length ? places.get(at) : undefined;
      setOrder(figure, model, input.value);
      findPlaces();
      if (chosen !== undefined) go(cells.data.row[chosen] * columns + cells.data.column[chosen]);
    } else setMeasure(figure, model, input.value);
  });
  findPlaces();
  keepMarksSmall(model, columns);
}

function setMeasure(figure, model, measure) {
  for (const each of model.renderers) {
    if (each.name?.startsWith("measure-")) each.visible = each.name === `measure-${measure}`;
  }
  for (const each of figure.querySelectorAll(".legend")) each.hidden = each.dataset.measure !== measure;
}

// Put the columns of a grid in the order of ranks or of numbers. The cut, and what it tells, hold for ranks alone.
function setOrder(figure, model, order) {
  const byRank = order === "rank", {first, rankName, columnName, columns} = figure.dataset;
  for (const each of model.renderers) {
    const source = each.data_source;
    if (source?.data[order]) source.data = {...source.data, column: source.data[order]};
    if (each.name === "cut") each.visible = byRank;
    if (each.name?.endsWith("-told")) each.visible = !byRank;
  }
  const start = byRank ? 1 : Number(first);
  const names = Array.from({length: Number(columns)}, (_, place) => [place, String(place + start)]);
  model.below[0].setv({axis_label: byRank ? rankName : columnName, major_label_overrides: new Map(names)});
  for (const each of figure.querySelectorAll("[data-order]")) each.hidden = each.dataset.order !== order;
}

// Marks as wide as cells at most: on a narrow screen they would cover their neighbours.
function keepMarksSmall(model, columns) {
  const fit = () => {
    const share = Math.abs(model.x_range.end - model.x_range.start);
    const size = Math.min(MOST_MARK, Math.max(LEAST_MARK, model.inner_width / share - 2));
    for (const each of model.renderers) {
      if (each.name?.startsWith("mark-")) each.glyph.setv({size: {value: size}});
    }
  };
  model.properties.inner_width.change.connect(fit);
  model.x_range.change.connect(fit);
  fit();
}

// Marks of a chart of points by the rows of its table: a click goes to the row, a row's button to its mark.
function linkPoints(figure) {
  const chart = charts.get(figure.dataset.chart), {model, view} = chart;
  const ring = model.document.get_model_by_name("chosen"), marks = [];
  for (const {glyph, data_source: source} of model.renderers) {
    if (!source.data.link || marks.some((mark) => mark.source === source)) continue;
    const [x, y] = source.data.kld ? ["size", "kld"] : ["value", "place"];
    Array.from(source.data.link, (link, index) => marks.push({
      source, link, x: source.data[x][index], y: source.data[y][index]}));
  }
  chart.show = (link) => {
    const found = marks.filter((mark) => mark.link === link);
    ring.data = {x: found.map((mark) => mark.x), y: found.map((mark) => mark.y)};
  };
  onClick(figure.querySelector(".canvas"), chart, (x, y) => {
    const {x_scale: across, y_scale: up} = view.frame;
    const away = marks.map((mark) => Math.hypot(across.compute(mark.x) - x, up.compute(mark.y) - y));
    const least = Math.min(...away);
    if (least <= REACH_PIXELS) window.report.toRow(figure.dataset.of, marks[away.indexOf(least)].link);
  });
}

function overlaps(one, other) {
  return one[0] < other[2] && one[2] > other[0] && one[1] < other[3] && one[3] > other[1];
}

// Every place to try for a label: boxes around a point, nearest first, and at one distance those on the right first,
// where a name is looked for.
function* placesAround(x, y, width) {
  for (const distance of DISTANCES) for (let step = 0; step < ANGLES; step++) {
    const angle = (step % 2 ? -1 : 1) * Math.ceil(step / 2) * 2 * Math.PI / ANGLES, reach = POINT_RADIUS + distance;
    const left = x + Math.cos(angle) * (reach + width / 2) - width / 2;
    const top = y - Math.sin(angle) * (reach + LABEL_HEIGHT / 2) - LABEL_HEIGHT / 2;
    const middle = [left + width / 2, top + LABEL_HEIGHT / 2];
    yield {distance, middle, box: [left, top, left + width, top + LABEL_HEIGHT]};
  }
}

// Where a line from a point meets the box of its label, and the small boxes along it that nothing may cover.
function leader(x, y, box) {
  const end = [Math.min(Math.max(x, box[0]), box[2]), Math.min(Math.max(y, box[1]), box[3])];
  const share = (step) => (step + 1) / 13;
  const along = Array.from({length: 12}, (_, step) => [x + (end[0] - x) * share(step), y + (end[1] - y) * share(step)]);
  const outside = along.filter(([a, b]) => Math.hypot(a - x, b - y) > POINT_RADIUS + 2); // of the point's own marker
  return {end, boxes: outside.map(([a, b]) => [a - 1, b - 1, a + 1, b + 1])};
}

// Small boxes along the drawn lines, which labels keep off where they can.
function linesOf(find, width, x, y) {
  const boxes = [];
  for (const name of ["line", "pruning"]) {
    const data = find(name)?.data_source.data;
    for (let i = 0; data && i + 1 < data.x.length; i++) {
      const [x0, y0, x1, y1] = [x(data.x[i]), y(data.y[i]), x(data.x[i + 1]), y(data.y[i + 1])];
      const steps = Math.ceil(Math.hypot(x1 - x0, y1 - y0) / 6) || 1;
      for (let step = 0; step <= steps; step++) {
        const [a, b] = [x0 + (x1 - x0) * step / steps, y0 + (y1 - y0) * step / steps];
        if (a >= 0 && a <= width) boxes.push([a - 2, b - 2, a + 2, b + 2]);
      }
    }
  }
  return boxes;
}

function placeLabels({model}) {
  const find = (name) => model.document.get_model_by_name(name);
  const {size, kld, low, high, label} = find("anchors").data;
  const {inner_width: width, inner_height: height, x_range: across, y_range: up} = model;
  const x = (value) => width * Math.log(value / across.start) / Math.log(across.end / across.start);
  const y = (value) => height * (1 - Math.log(value / up.start) / Math.log(up.end / up.start));
  const sizeAt = (px) => across.start * (across.end / across.start) ** (px / width);
  const lossAt = (py) => up.start * (up.end / up.start) ** (1 - py / height);
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = "11px sans-serif";
  const widthOf = (text) => pen.measureText(text).width + 6;
  const points = Array.from(label, (text, i) => ({text, x: x(size[i]), y: y(kld[i]), width: widthOf(text)}));
  // What a label may not cover: markers and the labels already placed; lines to these; then whiskers and drawn lines.
  const taken = points.map((p) => [p.x - POINT_RADIUS, p.y - POINT_RADIUS, p.x + POINT_RADIUS, p.y + POINT_RADIUS]);
  const whiskers = points.map((p, i) => [p.x - 3, y(high[i]) - 2, p.x + 3, y(low[i]) + 2]);
  const lines = linesOf(find, width, x, y), crossed = [];
  const labels = {x: [], y: [], label: []}, leaders = {x0: [], y0: [], x1: [], y1: []};
  const put = (point, avoided) => {
    for (const {distance, middle, box} of placesAround(point.x, point.y, point.width)) {
      if (width < NARROW && distance > NARROW_DISTANCE) break;
      const far = distance > DISTANCES[0], line = leader(point.x, point.y, box); // a label beside its point has no line
      if (box[0] < 0 || box[1] < 0 || box[2] > width || box[3] > height) continue;
      if ([...taken, ...crossed, ...avoided].some((other) => overlaps(box, other))) continue;
      const texts = taken.slice(points.length);
      if (far && line.boxes.some((part) => texts.some((other) => overlaps(part, other)))) continue;
      taken.push(box);
      labels.x.push(sizeAt(middle[0])), labels.y.push(lossAt(middle[1])), labels.label.push(point.text);
      if (!far) return true;
      crossed.push(...line.boxes);
      leaders.x0.push(sizeAt(point.x)), leaders.y0.push(lossAt(point.y));
      leaders.x1.push(sizeAt(line.end[0])), leaders.y1.push(lossAt(line.end[1]));
      return true;
    }
    return false;
  };
  // A label that finds no place clear of everything may cover drawn lines, then whiskers. One that still finds none is
  // left out; its file is in the table.
  const seen = points.filter((p) => p.x >= 0 && p.x <= width && p.y >= 0 && p.y <= height); // all, unless zoomed
  for (const point of seen) put(point, [...whiskers, ...lines]) || put(point, whiskers) || put(point, []);
  find("labels").data = labels;
  find("leaders").data = leaders;
}

function keepLabelsPlaced(chart) {
  if (!chart.model.document.get_model_by_name("anchors")) return;
  let waiting = 0;
  const again = () => {
    const {below, left, inner_width: width, inner_height: height} = chart.model;
    for (const axis of [...below, ...left]) {
      axis.ticker.desired_num_ticks = Math.max(2, Math.floor(axis === below[0] ? width / 90 : height / 60));
    }
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => placeLabels(chart));
  };
  for (const part of ["inner_width", "inner_height"]) chart.model.properties[part].change.connect(again);
  for (const range of [chart.model.x_range, chart.model.y_range]) range.change.connect(again);
  again();
}

async function start() {
  for (const item of JSON.parse(document.getElementById("items").textContent)) {
    const views = await Bokeh.embed.embed_item(item);
    const view = views.get_by_id(item.root_id);
    const {x_range: x, y_range: y} = view.model;
    charts.set(item.target_id, {model: view.model, view, whole: {x: [x.start, x.end], y: [y.start, y.end]}});
    // Bokeh lets the keyboard stop on its canvas, where it can do nothing: the page's own grids and buttons can.
    view.canvas_view.events_el.tabIndex = -1;
    // A finger that drags scrolls the page; for zoom it has the buttons.
    if (matchMedia("(pointer: coarse)").matches) view.model.toolbar.active_drag = null;
  }
  paint();
  for (const chart of charts.values()) keepLabelsPlaced(chart);
  for (const figure of document.querySelectorAll("[data-chart]")) {
    if (figure.dataset.grid) walkOver(figure); else linkPoints(figure);
    for (const button of figure.querySelectorAll("[data-zoom]")) {
      button.addEventListener("click", () => zoom(charts.get(figure.dataset.chart), Number(button.dataset.zoom)));
    }
  }
  window.report.setUpTables();
  document.documentElement.dataset.ready = "yes";
}

// In the capture phase, so before Bokeh: the tip goes, and comes back where Bokeh finds something under the pointer.
document.addEventListener("pointermove", (event) => {
  pointer = {x: event.clientX, y: event.clientY};
  tip.hidden = true;
}, true);
document.addEventListener("scroll", () => { tip.hidden = true; }, true);
document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
for (const input of document.querySelectorAll("input[name=theme]")) input.addEventListener("change", () => {
  document.documentElement.style.colorScheme = input.value;
  paint();
});
addEventListener("load", start); // when page.tables.js is there, too
