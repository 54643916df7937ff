"use strict";
// Tables that can be sorted, filtered and saved; rows and marks that lead to each other; saved pictures; navigation.
// page.js gives the charts.

const tables = JSON.parse(document.getElementById("tables").textContent);
const TITLE_PIXELS = 30, LEGEND_PIXELS = 24, PAD_PIXELS = 10, SCALE_PIXELS = 120; // of a saved picture

function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function fileName(what, ending) {
  const title = document.querySelector("h1").textContent;
  return `${title.replace(/[^\w.-]+/g, "-")}-${what}.${ending}`;
}

// A cell that a spreadsheet reads as it is: text in quotes where it needs them, lists and objects as JSON.
function csvCell(value) {
  const text = typeof value === "object" && value !== null ? JSON.stringify(value) : String(value ?? "");
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function saveRows(rows, name, ending) {
  const heads = Object.keys(rows[0] ?? {});
  const lines = [heads, ...rows.map((row) => heads.map((head) => row[head]))];
  const csv = () => lines.map((line) => line.map(csvCell).join(",") + "\n").join("");
  const text = ending === "csv" ? csv() : JSON.stringify(rows, null, 2) + "\n";
  save(fileName(name, ending), new Blob([text], {type: ending === "csv" ? "text/csv" : "application/json"}));
}

// The first number of a cell, or what sorts last.
function numberIn(cell) {
  const value = parseFloat(cell.textContent.replace("−", "-"));
  return Number.isNaN(value) ? -Infinity : value;
}

function addSorting(table) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  for (const [column, head] of heads.entries()) {
    const button = document.createElement("button"), isWord = column === 0 || head.classList.contains("word");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const up = before ? before === "descending" : isWord; // large numbers come first, words by the alphabet
      for (const each of heads) each.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const compare = (one, other) => isWord
        ? one.cells[column].textContent.localeCompare(other.cells[column].textContent, "en", {numeric: true})
        : numberIn(one.cells[column]) - numberIn(other.cells[column]);
      body.append(...[...body.rows].sort((one, other) => up ? compare(one, other) : -compare(one, other)));
    });
  }
}

function addFilter(holder) {
  const filter = holder.querySelector("[data-filter]"), chosen = holder.querySelector("[data-choose]");
  const rows = [...holder.querySelector("tbody").rows], count = holder.querySelector(".count");
  const apply = () => {
    const words = filter.value.toLowerCase().split(/\s+/);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const isChosen = !chosen?.value || row.cells[holder.dataset.choice].textContent === chosen.value;
      row.hidden = !isChosen || !words.every((word) => text.includes(word));
    }
    const shown = rows.filter((row) => !row.hidden).length;
    count.textContent = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
  };
  filter.addEventListener("input", apply);
  chosen?.addEventListener("change", apply);
  holder.clearFilter = () => {
    filter.value = "";
    if (chosen) chosen.value = "";
    apply();
  };
}

function figuresOf(key) {
  return [...document.querySelectorAll(`[data-of="${key}"]`)];
}

function markRow(key, link) {
  const rows = [...document.querySelectorAll(`[data-table="${key}"] tr[data-link]`)];
  for (const row of rows) row.classList.toggle("chosen", row.dataset.link === link);
  for (const figure of figuresOf(key)) report.charts.get(figure.dataset.chart).show(link);
  return rows.find((row) => row.dataset.link === link);
}

// From a mark of a chart to its row of the table: shown, coloured and in focus.
report.toRow = (key, link) => {
  const row = link && markRow(key, link);
  if (!row) return;
  const holder = row.closest(".table");
  if (holder.closest("details")) holder.closest("details").open = true;
  if (row.hidden) holder.clearFilter();
  row.scrollIntoView({block: "center"});
  row.querySelector("button").focus({preventScroll: true});
};

// From a row to its mark, in every chart that has it. The focus goes to the first one where the keyboard can move on.
function toMark(key, link) {
  markRow(key, link);
  const figure = figuresOf(key)[0];
  figure.scrollIntoView({block: "center"});
  figure.querySelector(".walk")?.focus({preventScroll: true});
}

function addLinks(holder) {
  const key = holder.dataset.table;
  if (!figuresOf(key).length) return;
  for (const row of holder.querySelectorAll("tr[data-link]")) {
    const head = row.querySelector("th"), button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.title = "show in the chart";
    head.replaceChildren(button);
    button.addEventListener("click", () => toMark(key, row.dataset.link));
  }
}

// The cells of a grid as rows for a download, in the order of the grid by number.
function cellRows(figure) {
  const {rowName, columnName, first, rows: text} = figure.dataset, rows = JSON.parse(text);
  const {row, number, rank, column, link, text: sentence, ...measures} =
    report.charts.get(figure.dataset.chart).model.document.get_model_by_name("cells").data;
  return Array.from(row, (line, index) => ({
    [rowName]: rows[line], [columnName]: number[index] + Number(first), rank: rank[index] + 1,
    ...Object.fromEntries(Object.entries(measures).map(([name, values]) => [name, values[index]]))}));
}

// The shapes of page.css, on a canvas; `middle` is their height.
function drawShape(pen, shape, left, middle) {
  const is = (name) => shape.classList.contains(name), corners = {
    diamond: [[10, -6], [14, 0], [10, 6], [6, 0]], triangle: [[10, -6], [16, 5], [4, 5]],
    square: [[5, -5], [15, -5], [15, 5], [5, 5]],
    cut: [[9, -7], [12, -7], [12, 7], [9, 7]]};
  pen.fillStyle = pen.strokeStyle = getComputedStyle(shape).color;
  pen.lineWidth = 2;
  pen.setLineDash(is("dots") ? [2, 3] : []);
  pen.beginPath();
  if (is("circle")) pen.arc(left + 10, middle, 5.5, 0, 2 * Math.PI);
  for (const [x, y] of Object.entries(corners).find(([name]) => is(name))?.[1] ?? []) pen.lineTo(left + x, middle + y);
  if (is("line") || is("dots")) {
    pen.moveTo(left, middle);
    pen.lineTo(left + 20, middle);
    pen.stroke();
  } else pen.fill();
}

function drawLegend(pen, legend, top) {
  let left = PAD_PIXELS;
  for (const part of legend.children) {
    if (part.hidden) continue;
    const swatch = part.querySelector(".swatch"), mark = part.querySelector("b"), shape = part.querySelector(".shape");
    if (part.dataset.stops) {
      const stops = part.dataset.stops.split(" "), fill = pen.createLinearGradient(left, 0, left + SCALE_PIXELS, 0);
      stops.forEach((color, place) => fill.addColorStop(place / (stops.length - 1), color));
      pen.fillStyle = fill;
      pen.fillRect(left, top + 4, SCALE_PIXELS, 12);
      left += SCALE_PIXELS + PAD_PIXELS;
      continue;
    }
    if (swatch) {
      pen.fillStyle = getComputedStyle(swatch).backgroundColor;
      pen.fillRect(left, top + 4, 12, 12);
      left += 16;
    }
    if (shape) {
      drawShape(pen, shape, left, top + 10);
      left += 26;
    }
    const words = part.textContent.trim(), sign = mark?.textContent ?? "";
    pen.fillStyle = mark ? getComputedStyle(mark).color : report.themeColor("--ink");
    pen.fillText(sign, left, top + 15);
    pen.fillStyle = report.themeColor("--ink");
    pen.fillText(words.slice(sign.length), left + pen.measureText(sign).width, top + 15);
    left += pen.measureText(words).width + 2 * PAD_PIXELS;
  }
}

// A picture of a chart as it is seen, with the model's name, the title and the legend, which are no part of the canvas.
function savePicture(figure) {
  const layer = report.charts.get(figure.dataset.chart).view.export("png"), ratio = devicePixelRatio;
  const legend = figure.querySelector(".legend:not([hidden])"), top = TITLE_PIXELS + (legend ? LEGEND_PIXELS : 0);
  const picture = document.createElement("canvas"), pen = picture.getContext("2d");
  picture.width = layer.canvas.width;
  picture.height = layer.canvas.height + top * ratio;
  pen.fillStyle = report.themeColor("--panel");
  pen.fillRect(0, 0, picture.width, picture.height);
  pen.drawImage(layer.canvas, 0, top * ratio);
  pen.scale(ratio, ratio);
  pen.fillStyle = report.themeColor("--ink");
  pen.font = "600 15px system-ui, sans-serif";
  const [name, title] = [document.querySelector("h1"), figure.querySelector("figcaption")];
  pen.fillText(`${name.textContent}: ${title.textContent}`, PAD_PIXELS, 20);
  pen.font = "13px system-ui, sans-serif";
  if (legend) drawLegend(pen, legend, TITLE_PIXELS);
  picture.toBlob((blob) => save(fileName(figure.dataset.chart, "png"), blob));
}

report.setUpTables = () => {
  for (const holder of document.querySelectorAll("[data-table]")) {
    const table = holder.querySelector("table"), key = holder.dataset.table;
    holder.querySelector(".tools").hidden = false;
    addLinks(holder);
    if (table.tBodies[0].rows.length > 2) addSorting(table);
    if (holder.querySelector("[data-filter]")) addFilter(holder);
    for (const button of holder.querySelectorAll("[data-save]")) {
      button.addEventListener("click", () => saveRows(tables[key], key, button.dataset.save));
    }
  }
  for (const figure of document.querySelectorAll("[data-chart]")) {
    for (const button of figure.querySelectorAll("[data-save]")) button.addEventListener("click", () => {
      if (button.dataset.save === "png") savePicture(figure);
      else saveRows(cellRows(figure), figure.dataset.chart, button.dataset.save);
    });
  }
};

// Which section is read: the last one whose head has passed under the navigation.
const menu = document.getElementById("menu"), links = [...document.querySelectorAll("#links a")];
function showPlace() {
  const top = (link) => document.querySelector(link.hash).getBoundingClientRect().top;
  const passed = links.filter((link) => top(link) < innerHeight / 3);
  const here = passed.at(-1) ?? links[0];
  for (const link of links) link.toggleAttribute("aria-current", link === here);
  here.setAttribute("aria-current", "location");
  menu.querySelector("span").textContent = here.textContent;
}
function setMenu(open) { menu.setAttribute("aria-expanded", String(open)); }
menu.hidden = false;
menu.addEventListener("click", () => setMenu(menu.getAttribute("aria-expanded") === "false"));
for (const link of links) link.addEventListener("click", () => setMenu(false));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && menu.getAttribute("aria-expanded") === "true") {
    setMenu(false);
    menu.focus();
  }
});
addEventListener("scroll", showPlace, {passive: true});
showPlace();
