"use strict";
// Embeds the charts and adds what they need from the page: the colours of the theme, the choice of a grid's measure, a
// cell cursor for the keyboard, the sentence of what is under the pointer, and names beside points where there is room.
// charts.py gives the names by which models of Bokeh are found here.

// Variables of page.css by the name of a model.
const COLORS = {
  "kind-standard": "--standard", "kind-ContribDynamic": "--contrib", "kind-target-size": "--target",
  "error-standard": "--standard", "error-ContribDynamic": "--contrib", "error-target-size": "--target",
  "line": "--standard", "pruning": "--ink", "label-text": "--ink", "label-leaders": "--muted"};
// Pixels. A label is tried at each of DISTANCES from its point; on a narrow chart a far one would cross all the others.
const TIP_GAP = 14, LABEL_HEIGHT = 13, POINT_RADIUS = 7, ANGLES = 16, DISTANCES = [6, 14, 24, 36, 50, 66, 84, 104];
const NARROW = 420, NARROW_DISTANCE = 36;
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
  if ("fill_color" in glyph) glyph.fill_color = {value: color};
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
window.report = {hover(plot, found) {
  const index = found.index.indices[0];
  if (index !== undefined) showTip(found.renderer.data_source.data.text[index]);
}};

// Let the keyboard, and a tap, choose a cell of a grid; the status line says its sentence, also to a screen reader.
function walkOver(figure) {
  const {model, view} = charts.get(figure.dataset.grid);
  const find = (name) => model.document.get_model_by_name(name);
  const cells = find("cells").data, cursor = find("cursor"), columns = Number(figure.dataset.columns);
  const places = new Map(Array.from(cells.row, (row, index) => [row * columns + cells.column[index], index]));
  const scroller = figure.querySelector(".scroll"), status = figure.querySelector(".status");
  let at = 0;
  const go = (place) => {
    if (!places.has(place)) return;
    at = place;
    cursor.data = {column: [place % columns], row: [Math.floor(place / columns)]};
    status.textContent = cells.text[places.get(place)];
    // A grid may be wider than its window: scroll until the cell is in sight, right of the axis.
    const x = view.frame.x_scale.compute(place % columns);
    if (x < scroller.scrollLeft + 60) scroller.scrollLeft = x - 60;
    if (x > scroller.scrollLeft + scroller.clientWidth - 20) scroller.scrollLeft = x + 20 - scroller.clientWidth;
  };
  const row = () => Math.floor(at / columns) * columns;
  const inRow = (start) => [...places.keys()].filter((place) => place >= start && place < start + columns);
  const moves = {
    ArrowLeft: () => at === row() ? at : at - 1, ArrowRight: () => at === row() + columns - 1 ? at : at + 1,
    ArrowUp: () => at - columns, ArrowDown: () => at + columns,
    Home: row, End: () => Math.max(...inRow(row()))}; // the last row may be short
  scroller.addEventListener("focus", () => scroller.matches(":focus-visible") && go(at));
  scroller.addEventListener("keydown", (event) => {
    if (!(event.key in moves) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    tip.hidden = true;
    go(moves[event.key]());
  });
  scroller.addEventListener("click", (event) => {
    const box = view.el.getBoundingClientRect();
    const column = Math.round(view.frame.x_scale.invert(event.clientX - box.left));
    const line = Math.round(view.frame.y_scale.invert(event.clientY - box.top));
    if (column >= 0 && column < columns && line >= 0) go(line * columns + column);
  });
  for (const input of figure.querySelectorAll("fieldset.switch input")) input.addEventListener("change", () => {
    for (const each of model.renderers) {
      if (each.name?.startsWith("measure-")) each.visible = each.name === `measure-${input.value}`;
    }
    for (const each of figure.querySelectorAll(".legend")) each.hidden = each.dataset.measure !== input.value;
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
  for (const point of points) put(point, [...whiskers, ...lines]) || put(point, whiskers) || put(point, []);
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
  again();
}

async function start() {
  for (const item of JSON.parse(document.getElementById("items").textContent)) {
    const views = await Bokeh.embed.embed_item(item);
    const view = views.get_by_id(item.root_id);
    charts.set(item.target_id, {model: view.model, view});
  }
  paint();
  for (const chart of charts.values()) keepLabelsPlaced(chart);
  for (const figure of document.querySelectorAll("[data-grid]")) walkOver(figure);
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
start();
