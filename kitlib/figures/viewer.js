"use strict";
// The score viewer. Data stands in the page as JSON: "page" for the whole prediction, "scan-N" for each scan.
// A voxel's place in a volume (D, H, W) is z * H * W + y * W + x. `bits` holds the masks: organ k has bit k in the
// truth and bit k + 3 in the prediction. `shown` holds the chosen errors: 1 missed, 2 predicted too much.

const $ = (id) => document.getElementById(id);
const page = JSON.parse($("page").textContent);
const MISSED = [60, 220, 110], EXTRA = [190, 110, 255];
const state = { index: 0, scan: null, z: 0, y: 0, x: 0, ticket: 0, marks: [], marked: 0, crossed: -1 };

// ---------------------------------------------------------------- reading

/** Calls back with [first, last) of each run of a run-length text. */
function runs(text, use) {
  if (!text) return;
  const numbers = text.split(" ");
  for (let i = 0; i < numbers.length; i += 2) use(numbers[i] - 1, numbers[i] - 1 + +numbers[i + 1]);
}

async function block(index) {
  const id = `scan-${index}`;
  if (!$(id) && document.readyState === "loading") {
    await new Promise((done) => document.addEventListener("DOMContentLoaded", done, { once: true }));
  }
  return JSON.parse($(id).textContent);
}

function decodeMasks(scan) {
  const [depth, height, width] = scan.shape, size = height * width;
  scan.bits = new Uint8Array(depth * size);
  scan.areas = { truth: [], prediction: [], overlap: [] };
  for (let k = 0; k < 3; k++) {
    for (const [side, shift] of [["truth", k], ["prediction", k + 3]]) {
      scan.areas[side][k] = scan[side].map((texts, z) => {
        let area = 0;
        runs(texts[k], (first, last) => {
          for (let i = z * size + first; i < z * size + last; i++) scan.bits[i] |= 1 << shift;
          area += last - first;
        });
        return area;
      });
    }
    scan.areas.overlap[k] = scan.errors.map((classes, z) => {
      let missed = 0;
      for (const text of Object.values(classes[k])) {
        runs(text, (first, last) => {
          for (let i = z * size + first; i < z * size + last; i++) missed += (scan.bits[i] >> k) & 1;
        });
      }
      return scan.areas.truth[k][z] - missed;
    });
  }
}

/** Marks the voxels of the chosen errors, counts them per slice, and sums the Dice that they cost there. */
function chooseErrors() {
  const scan = state.scan, [depth, height, width] = scan.shape, size = height * width;
  scan.shown = new Uint8Array(depth * size);
  scan.counts = new Array(depth).fill(0);
  scan.losses = new Array(depth).fill(0);
  for (let z = 0; z < depth; z++) {
    for (const k of organs()) {
      let count = 0;
      for (const [number, text] of Object.entries(scan.errors[z][k])) {
        if ($("error").value && number !== $("error").value) continue;
        runs(text, (first, last) => {
          count += last - first;
          for (let i = z * size + first; i < z * size + last; i++) scan.shown[i] = (scan.bits[i] >> k) & 1 ? 1 : 2;
        });
      }
      scan.counts[z] += count;  // 1 - Dice is wrong voxels / (truth + prediction), so each error has its share of it
      if (count) scan.losses[z] += count / (scan.areas.truth[k][z] + scan.areas.prediction[k][z]);
    }
  }
}

const work = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

async function decodeImage(scan, z) {
  const image = new Image();
  image.src = "data:image/webp;base64," + scan.images[z];
  await image.decode();
  const [, height, width] = scan.shape;
  work.canvas.width = width;
  work.canvas.height = height;
  work.drawImage(image, 0, 0);
  const pixels = work.getImageData(0, 0, width, height).data;
  const first = z * height * width;
  for (let i = 0; i < height * width; i++) scan.grey[first + i] = pixels[4 * i];
  scan.loaded[z] = 1;
}

/** Opens a scan: its worst slice first, then the others from there outwards. */
async function open(index) {
  const ticket = ++state.ticket;
  const scan = await block(index);
  if (ticket !== state.ticket) return;
  const [depth, height, width] = scan.shape;
  Object.assign(scan, { grey: new Uint8Array(depth * height * width), loaded: new Uint8Array(depth) });
  decodeMasks(scan);
  Object.assign(state, { index, scan, marks: [], crossed: -1 });
  scan.box = zoomBox(scan);
  state.y = Math.round((scan.box[0] + scan.box[1]) / 2);
  state.x = Math.round((scan.box[2] + scan.box[3]) / 2);
  fillControls();
  chooseErrors();
  state.z = worstSlice() ?? depth >> 1;
  await decodeImage(scan, state.z);
  if (ticket !== state.ticket) return;
  redraw();
  document.documentElement.dataset.state = "first";
  document.documentElement.dataset.milliseconds = Math.round(performance.now());
  const order = [...Array(depth).keys()].sort((a, b) => Math.abs(a - state.z) - Math.abs(b - state.z));
  for (const [count, z] of order.entries()) {
    if (!scan.loaded[z]) await decodeImage(scan, z);
    if (ticket !== state.ticket) return;
    if (z === state.z || count % 24 === 23) draw();
  }
  draw();
  document.documentElement.dataset.state = "complete";
}

/** Rows, columns and slices that hold all masks, with a margin: [top, bottom, left, right, first, last). */
function zoomBox(scan) {
  const [depth, height, width] = scan.shape, box = [height, 0, width, 0, depth, 0];
  const widen = (i, first, last) => { box[i] = Math.min(box[i], first); box[i + 1] = Math.max(box[i + 1], last); };
  for (const side of ["truth", "prediction"]) scan[side].forEach((texts, z) => texts.forEach((text) => runs(text, (first, last) => {
    const y = Math.floor(first / width), x = first % width;
    widen(0, y, y + 1);
    widen(2, x, x + last - first);
    widen(4, z, z + 1);
  })));
  if (!box[1]) return [0, height, 0, width, 0, depth];
  return box.map((edge, i) => (i % 2 ? Math.min([height, width, depth][i >> 1], edge + 14) : Math.max(0, edge - 14)));
}

// ---------------------------------------------------------------- drawing

const organs = () => ($("organ").value === "" ? [0, 1, 2] : [+$("organ").value]);
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);

/** How a plane lies in the volume: first voxel, steps along its rows and columns, what part is shown, in mm. */
function plane(name) {
  const [depth, height, width] = state.scan.shape, [sz, sy, sx] = state.scan.step;
  const box = $("zoom").checked ? state.scan.box : [0, height, 0, width, 0, depth];
  if (name === "axial") {
    return { base: state.z * height * width, down: width, across: 1, rows: [box[0], box[1]], columns: [box[2], box[3]],
      mm: [sy, sx], cross: [state.y, state.x], axes: ["y", "x"] };
  }
  if (name === "coronal") {
    return { base: state.y * width, down: height * width, across: 1, rows: [box[4], box[5]], columns: [box[2], box[3]],
      mm: [sz, sx], cross: [state.z, state.x], axes: ["z", "x"] };
  }
  return { base: state.x, down: height * width, across: width, rows: [box[4], box[5]], columns: [box[0], box[1]],
    mm: [sz, sy], cross: [state.z, state.y], axes: ["z", "y"] };
}

/** Gives a canvas one pixel per pixel of the screen; returns how many of them are a CSS pixel. */
function fit(canvas, wide, high) {
  const scale = window.devicePixelRatio || 1, size = { width: Math.round(wide * scale), height: Math.round(high * scale) };
  if (canvas.width !== size.width || canvas.height !== size.height) Object.assign(canvas, size);
  return scale;
}

/** Fits a plane into its column and the height of the window. */
function fitPlane(canvas, ratio) {
  const wide = Math.min(canvas.parentElement.clientWidth, ratio * window.innerHeight * (canvas.id === "axial" ? 0.78 : 0.45));
  Object.assign(canvas.style, { width: `${wide}px`, height: `${wide / ratio}px` });
  return fit(canvas, wide, wide / ratio);
}

function drawPlane(name) {
  const canvas = $(name), scan = state.scan, p = plane(name);
  const [top, bottom] = p.rows, [left, right] = p.columns, rows = bottom - top, columns = right - left;
  const scale = fitPlane(canvas, (columns * p.mm[1]) / (rows * p.mm[0]));
  const context = canvas.getContext("2d"), dy = canvas.height / rows, dx = canvas.width / columns;
  const pixels = new ImageData(columns, rows), errors = $("errors").checked;
  for (let r = 0, i = 0; r < rows; r++) {
    let at = p.base + (r + top) * p.down + left * p.across;
    for (let c = 0; c < columns; c++, i += 4, at += p.across) {
      const grey = scan.grey[at], kind = errors && scan.shown[at];
      const tint = kind ? (kind === 1 ? MISSED : EXTRA) : null;
      for (let k = 0; k < 3; k++) pixels.data[i + k] = tint ? 0.35 * grey + 0.65 * tint[k] : grey;
      pixels.data[i + 3] = 255;
    }
  }
  work.canvas.width = columns;
  work.canvas.height = rows;
  work.putImageData(pixels, 0, 0);
  context.imageSmoothingEnabled = !errors;
  context.drawImage(work.canvas, 0, 0, canvas.width, canvas.height);
  context.lineWidth = Math.max(1.2 * scale, 0.28 * Math.min(dx, dy));
  for (const k of organs()) {
    context.strokeStyle = page.organs[k].color;
    if ($("truth").checked) outline(context, 1 << k, p, dy, dx, false);
    if ($("prediction").checked) outline(context, 8 << k, p, dy, dx, true);
  }
  context.lineWidth = scale;
  context.strokeStyle = "rgba(255,255,255,.45)";
  context.setLineDash([2 * scale, 4 * scale]);
  context.beginPath();
  const y = (p.cross[0] - top + 0.5) * dy, x = (p.cross[1] - left + 0.5) * dx;
  if (name !== "axial" || state.crossed === state.z) {
    context.rect(x, -9, 0, canvas.height + 18);
    context.rect(-9, y, canvas.width + 18, 0);
  }
  context.stroke();
  context.setLineDash([]);
  drawMarks(context, p, dy, dx, scale);
}

/** Strokes the border of a mask along the edges of its pixels; dashes leave out every other two pixels. */
function outline(context, bit, p, dy, dx, dashed) {
  const bits = state.scan.bits, [top, bottom] = p.rows, [left, right] = p.columns;
  context.beginPath();
  for (let r = top; r < bottom; r++) {
    for (let c = left; c < right; c++) {
      const at = p.base + r * p.down + c * p.across;
      if (!(bits[at] & bit) || (dashed && (r + c) % 4 < 2)) continue;
      const y = (r - top) * dy, x = (c - left) * dx;
      if (r === top || !(bits[at - p.down] & bit)) { context.moveTo(x, y); context.lineTo(x + dx, y); }
      if (r === bottom - 1 || !(bits[at + p.down] & bit)) { context.moveTo(x, y + dy); context.lineTo(x + dx, y + dy); }
      if (c === left || !(bits[at - p.across] & bit)) { context.moveTo(x, y); context.lineTo(x, y + dy); }
      if (c === right - 1 || !(bits[at + p.across] & bit)) { context.moveTo(x + dx, y); context.lineTo(x + dx, y + dy); }
    }
  }
  context.stroke();
}

/** Draws the voxels of the chosen distance that lie in this plane: a dot for the farthest, a ring for its nearest. */
function drawMarks(context, p, dy, dx, scale) {
  const axis = { z: 0, y: 1, x: 2 }, away = ["z", "y", "x"].find((name) => !p.axes.includes(name));
  state.marks.forEach((voxel, i) => {
    if (voxel[axis[away]] !== state[away]) return;
    const y = (voxel[axis[p.axes[0]]] - p.rows[0] + 0.5) * dy, x = (voxel[axis[p.axes[1]]] - p.columns[0] + 0.5) * dx;
    context.lineWidth = 2.5 * scale;
    context.strokeStyle = "#fff";
    context.beginPath();
    context.arc(x, y, 5 * scale, 0, 7);
    if (i === 0) { context.fillStyle = "#fff"; context.fill(); }
    context.stroke();
  });
}

/** Area of each organ along the scan: filled for the truth, a line for the prediction; bars where each has masks. */
function drawCurves() {
  const canvas = $("curves"), scan = state.scan, depth = scan.shape[0], scale = fit(canvas, canvas.clientWidth, canvas.clientHeight);
  const context = canvas.getContext("2d"), chosen = organs(), tall = canvas.height / chosen.length;
  const step = canvas.width / depth, bar = 4 * scale;
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.font = `${12 * scale}px system-ui, sans-serif`;
  chosen.forEach((k, row) => {
    const base = (row + 1) * tall - 4 * bar, room = tall - 6 * bar;
    const top = Math.max(1, ...scan.areas.truth[k], ...scan.areas.prediction[k]);
    const x = (z) => (z + 0.5) * step, y = (value) => base - (room * value) / top;
    const line = (values, at) => { context.beginPath(); values.forEach((value, z) => context.lineTo(x(z), at(value))); };
    context.fillStyle = context.strokeStyle = page.organs[k].color;
    line(scan.areas.truth[k], y);
    context.lineTo(x(depth - 1), base);
    context.lineTo(x(0), base);
    context.globalAlpha = 0.35;
    context.fill();
    context.globalAlpha = 1;
    context.lineWidth = 2 * scale;
    context.setLineDash([5 * scale, 3 * scale]);
    line(scan.areas.prediction[k], y);
    context.stroke();
    context.setLineDash([]);
    for (let z = 0; z < depth; z++) {
      if (scan.areas.truth[k][z]) context.fillRect(z * step, base + bar / 2, step + 0.5, bar);
      context.globalAlpha = 0.6;
      if (scan.areas.prediction[k][z]) context.fillRect(z * step, base + 2 * bar, step * 0.7, bar);
      context.globalAlpha = 1;
    }
    context.strokeStyle = context.fillStyle = color("--ink");
    if (scan.presence) {
      context.lineWidth = scale;
      line(scan.presence[k], (value) => base - room * value);
      context.stroke();
    }
    context.fillText(page.organs[k].label, 3 * scale, base - room + 10 * scale);
  });
  context.strokeStyle = color("--accent");
  context.lineWidth = 2 * scale;
  context.strokeRect((state.z + 0.5) * step, 0, 0, canvas.height);
}

let asked = false;
/** Draws everything before the next frame, once. */
function draw() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    for (const name of ["axial", "coronal", "sagittal"]) drawPlane(name);
    drawCurves();
  });
}

// ---------------------------------------------------------------- words

const share = (value) => (value === null ? "–" : value.toFixed(3));
const number = (value) => value.toLocaleString("en-US");
const points = (value) => value.toFixed(4);
const entry = (color, text) => `<span class="name"><span class="swatch" style="background:${color}"></span>${text}</span>`;
const named = (k) => entry(page.organs[k].color, page.organs[k].label);
const errorButton = (error) => `<button type="button" data-error="${error}">${page.errors[error]}</button>`;
const escaped = (text) => text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);

function dice(k, z) {
  const { truth, prediction, overlap } = state.scan.areas, total = truth[k][z] + prediction[k][z];
  return total ? (2 * overlap[k][z]) / total : null;
}

/** The slice where the chosen errors cost the chosen organs the most Dice, then the most voxels; none: undefined. */
function worstSlice() {
  const { counts, losses } = state.scan, costs = losses.map((loss, z) => loss + counts[z] * 1e-6), most = Math.max(...costs);
  return most ? costs.indexOf(most) : undefined;
}

/** The organ whose distance is largest among the chosen ones that have a pair of voxels. */
function worstOrgan() {
  return organs().filter((k) => state.scan.organs[k].pair)
    .sort((a, b) => state.scan.organs[b].distance - state.scan.organs[a].distance)[0];
}

/** The present slice in words: areas, Dice and errors of each organ. */
function describe() {
  const scan = state.scan, z = state.z;
  return organs().map((k) => {
    const value = dice(k, z), label = named(k);
    if (value === null) return `<div>${label}: not on slice ${scan.numbers[z]}</div>`;
    const wrong = Object.entries(scan.errors[z][k]).map(([error, text]) => {
      let count = 0;
      runs(text, (first, last) => { count += last - first; });
      return `${page.errors[error]}, ${number(count)} px`;
    });
    return `<div>${label} on slice ${scan.numbers[z]}: Dice ${value.toFixed(2)}, truth ${number(scan.areas.truth[k][z])} px, `
      + `prediction ${number(scan.areas.prediction[k][z])} px. ${wrong.length ? "Errors: " + wrong.join("; ") : "No error"}.</div>`;
  }).join("");
}

function fillPage() {
  const lost = 1 - page.score, count = page.scans.length;
  $("summary").textContent = `${page.name ? page.name + ": " : ""}host score ${points(page.score)} `
    + `(our estimate of the leaderboard's score; higher is better), ${points(lost)} points lost over ${page.all} scans`
    + (count < page.all ? `; the ${count} scans that lose most are shown.` : ".");
  $("notice").textContent = page.notice;
  const most = Math.max(1e-9, ...page.scans.map((scan) => scan.lost));
  $("scans").innerHTML = page.scans.map((scan, i) => `<li><button type="button" data-scan="${i}">`
    + `<span>${i + 1}. ${escaped(scan.name)}</span><span>${points(scan.lost)}</span>`
    + `<span class="bar" style="width:${(100 * Math.max(0, scan.lost)) / most}%"></span></button></li>`).join("");
  $("ledger").querySelector("tbody").innerHTML = page.points.map(([error, values]) => {
    const k = values.indexOf(Math.max(...values)), sum = values.reduce((a, b) => a + b);
    return `<tr><td>${errorButton(error)}<td>${points(sum)}<td>${named(k)} ${points(values[k])}</tr>`;
  }).join("");
  $("organ").innerHTML = '<option value="">all</option>'
    + page.organs.map((organ, k) => `<option value="${k}">${organ.label}</option>`).join("");
  $("legend").innerHTML = page.organs.map((organ, k) => named(k)).join(" ");
  $("legend-errors").innerHTML = entry(`rgb(${MISSED})`, "missed") + " " + entry(`rgb(${EXTRA})`, "predicted too much");
}

function fillControls() {
  const scan = state.scan, [depth] = scan.shape;
  $("scan-name").textContent = `${state.index + 1}. ${scan.name}: ${points(page.scans[state.index].lost)} points lost`;
  $("slice").max = depth - 1;
  for (const button of $("scans").querySelectorAll("button")) {
    button.setAttribute("aria-current", String(+button.dataset.scan === state.index));
  }
  const kinds = {};
  scan.errors.forEach((classes, z) => classes.forEach((texts) => {
    for (const [error, text] of Object.entries(texts)) {
      const kind = (kinds[error] ??= { voxels: 0, slices: new Set() });
      runs(text, (first, last) => { kind.voxels += last - first; });
      kind.slices.add(z);
    }
  }));
  const ranked = Object.keys(kinds).sort((a, b) => (scan.points[b] ?? 0) - (scan.points[a] ?? 0));
  const chosen = $("error").value, others = page.points.map(([e]) => String(e)).filter((e) => !kinds[e]);
  $("error").innerHTML = '<option value="">all</option>'
    + ranked.map((e) => `<option value="${e}">${page.errors[e]}</option>`).join("")
    + others.map((e) => `<option value="${e}">${page.errors[e]} (not in this scan)</option>`).join("");
  $("error").value = chosen;
  $("classes").tBodies[0].innerHTML = ranked.map((e) => `<tr><td>${errorButton(e)}`
    + `<td>${points(scan.points[e] ?? 0)}<td>${number(kinds[e].voxels)}<td>${kinds[e].slices.size}</tr>`).join("");
  $("distances").tBodies[0].innerHTML = scan.organs.map((organ, k) => {
    const ends = organ.pair ? organ.pair.voxels.map(([z], i) =>
      `<button type="button" data-organ="${k}" data-end="${i}" aria-label="${page.organs[k].label}: go to the `
      + `${i ? "nearest voxel in the other mask" : "farthest voxel, in the " + organ.pair.in}, slice ${scan.numbers[z]}">`
      + `${scan.numbers[z]}</button>${i ? "" : " " + organ.pair.in}`)
      : [organ.distance === null ? "not in this scan" : `${scan.areas.truth[k].some(Boolean) ? "prediction" : "truth"} is empty`, ""];
    return `<tr><th scope="row">${named(k)}<td>${points(organ.lost)}<td>${share(organ.dice)}`
      + `<td>${share(organ.distance)}<td>${ends[0]}<td>${ends[1]}</tr>`;
  }).join("");
  $("curves-caption").textContent = "Area along the scan: filled truth, dashed prediction. Bars below: slices with a mask, "
    + "truth above prediction." + (scan.presence ? " Thin line: presence, the probability that 12 pixels reach." : "");
}

/** What dot and ring are, and on which slices. */
function describeMarks() {
  if (!state.marks.length) return "";
  const [farthest, nearest] = state.marks.map(([z]) => state.scan.numbers[z]), { label } = page.organs[state.marked];
  return `<span class="name"><span class="swatch dot"></span>farthest voxel of ${label}, slice ${farthest}</span> `
    + `<span class="name"><span class="swatch ring"></span>nearest in the other mask, slice ${nearest}</span>`;
}

/** Brings controls, words and pictures to the present state. */
function redraw() {
  const scan = state.scan, error = $("error").value, place = `${state.z + 1} of ${scan.shape[0]}`;
  $("slice").value = state.z;
  $("number").textContent = scan.numbers[state.z] === state.z + 1 ? place : `${scan.numbers[state.z]} (${place})`;
  $("slice").setAttribute("aria-valuetext", `slice ${scan.numbers[state.z]}`);
  const missing = error && worstSlice() === undefined;
  $("here").innerHTML = (missing ? `<div>"${page.errors[error]}" is not in this scan, for the chosen organs.</div>` : "") + describe();
  $("axial").setAttribute("aria-label", `Axial plane of ${scan.name}, slice ${scan.numbers[state.z]}`);
  $("worst-voxel").disabled = worstOrgan() === undefined;
  $("worst-slice").disabled = worstSlice() === undefined;
  $("filters").firstElementChild.textContent =
    `Show and filter (organ: ${$("organ").selectedOptions[0].text}; error: ${$("error").selectedOptions[0].text})`;
  for (const span of document.querySelectorAll(".which")) span.textContent = error ? "this" : "an";
  $("worst-of").textContent = error ? " for this error" : "";
  for (const button of document.querySelectorAll("[data-error]")) {
    button.setAttribute("aria-pressed", String(button.dataset.error === error));
  }
  $("legend-errors").hidden = !$("errors").checked;
  $("legend-marks").innerHTML = describeMarks();
  const others = scan.counts.filter((count, z) => count && z !== state.z).length;
  $("next-error").disabled = $("previous-error").disabled = !others;
  if (!scan.loaded[state.z]) decodeImage(scan, state.z).then(draw);
  draw();
}

// ---------------------------------------------------------------- moving

function goTo(z) {
  state.z = Math.max(0, Math.min(state.scan.shape[0] - 1, z));
  redraw();
}

function goToVoxel(k, end) {
  const { voxels } = state.scan.organs[k].pair;
  [state.z, state.y, state.x] = voxels[end];
  Object.assign(state, { marks: voxels, marked: k, crossed: state.z });
  redraw();
}

function goToError(direction) {
  const { counts } = state.scan, depth = counts.length;
  for (let i = 1; i < depth; i++) {
    const z = (state.z + direction * i + depth) % depth;
    if (counts[z]) return goTo(z);
  }
}

function goToScan(index) {
  if (index >= 0 && index < page.scans.length && index !== state.index) open(index);
}

function flip(id) {
  $(id).checked = !$(id).checked;
  redraw();
}

const KEYS = {
  ArrowLeft: () => goTo(state.z - 1), ArrowUp: () => goTo(state.z - 1),
  ArrowRight: () => goTo(state.z + 1), ArrowDown: () => goTo(state.z + 1),
  PageUp: () => goTo(state.z - 10), PageDown: () => goTo(state.z + 10),
  Home: () => goTo(0), End: () => goTo(state.scan.shape[0] - 1),
  t: () => flip("truth"), p: () => flip("prediction"), e: () => flip("errors"), z: () => flip("zoom"),
  n: () => goToError(1), w: () => goTo(worstSlice() ?? state.z),
  v: () => worstOrgan() !== undefined && goToVoxel(worstOrgan(), 0),
  ",": () => goToScan(state.index - 1), ".": () => goToScan(state.index + 1),
};

/** Whether a key means something to the element that has the focus: all keys in text, arrows in a select or slider. */
function keeps(element, key) {
  if (element.matches("textarea, input:not([type=checkbox], [type=range])")) return true;
  return key.length > 1 && element.matches("select, [type=range]");
}

function listen() {
  document.addEventListener("keydown", (event) => {
    const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act || !state.scan || event.ctrlKey || event.altKey || event.metaKey || keeps(event.target, event.key)) return;
    event.preventDefault();
    act();
  });
  $("slice").addEventListener("input", () => goTo(+$("slice").value));
  for (const id of ["truth", "prediction", "errors", "zoom"]) $(id).addEventListener("change", redraw);
  for (const id of ["organ", "error"]) {
    $(id).addEventListener("change", () => {
      if (id === "error" && $("error").value) $("errors").checked = true;
      chooseErrors();
      redraw();
    });
  }
  $("next-error").addEventListener("click", () => goToError(1));
  $("previous-error").addEventListener("click", () => goToError(-1));
  $("worst-slice").addEventListener("click", KEYS.w);
  $("worst-voxel").addEventListener("click", KEYS.v);
  document.addEventListener("click", ({ target }) => {
    const { scan, organ, end, error } = target.closest("button")?.dataset ?? {};
    if (scan !== undefined) goToScan(+scan);
    if (organ !== undefined) goToVoxel(+organ, +end);
    if (organ ?? error) document.querySelector(".slider").scrollIntoView({ block: "nearest" });
    if (error !== undefined) { $("error").value = error; $("error").dispatchEvent(new Event("change")); goToError(1); }
  });

  let turned = 0;
  $("axial").addEventListener("wheel", (event) => {
    event.preventDefault();
    turned += event.deltaMode ? event.deltaY * 30 : event.deltaY;
    if (Math.abs(turned) < 30) return;
    goTo(state.z + Math.sign(turned));
    turned = 0;
  }, { passive: false });

  let start = null;
  $("axial").addEventListener("pointerdown", (event) => { start = { x: event.clientX, z: state.z, moved: false }; });
  $("axial").addEventListener("pointermove", (event) => {
    if (!start || event.pointerType === "mouse") return;
    const steps = Math.trunc((event.clientX - start.x) / 10);
    if (steps) start.moved = true;
    if (start.moved) goTo(start.z + steps);
  });
  window.addEventListener("pointercancel", () => { start = null; });
  window.addEventListener("pointerup", () => setTimeout(() => { start = null; }));
  for (const name of ["axial", "coronal", "sagittal"]) {
    $(name).addEventListener("click", (event) => {
      if (start?.moved) return;
      const p = plane(name), box = $(name).getBoundingClientRect();
      const along = (part, size, [first, last]) => Math.max(first, Math.min(last - 1, first + Math.floor((part / size) * (last - first))));
      state[p.axes[0]] = along(event.clientY - box.top, box.height, p.rows);
      state[p.axes[1]] = along(event.clientX - box.left, box.width, p.columns);
      state.crossed = state.z;
      redraw();
    });
  }
  $("curves").addEventListener("click", (event) => {
    const box = $("curves").getBoundingClientRect();
    goTo(Math.floor(((event.clientX - box.left) / box.width) * state.scan.shape[0]));
  });
  narrow.addEventListener("change", fold);
  window.addEventListener("resize", () => state.scan && draw());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => state.scan && draw());
}

const narrow = matchMedia("(max-width: 760px)");
/** Folds the filters on a phone, where the picture matters more. */
function fold() {
  $("filters").open = !narrow.matches;
}

fillPage();
fold();
listen();
if (page.scans.length) open(0);
