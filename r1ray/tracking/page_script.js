// What all pages of r1ray share: elements, numbers, charts; page.py puts it into each.
const content = JSON.parse(document.getElementById("content").textContent);
const page = document.getElementById("page");
const SVG = "http://www.w3.org/2000/svg";

// Every piece of the run's text enters the page through here, as text.
function el(tag, props, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== null) node.setAttribute(name, value);
  }
  node.append(...children.filter(child => child !== null && child !== undefined));
  return node;
}
function svg(tag, props, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(props)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

// Numbers as people read them.
function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e12)) return value.toExponential(Math.max(digits - 2, 0)).replace("e+", "e");
  if (size >= 1e9) return (value / 1e9).toPrecision(3) + " G";
  if (size >= 1e6) return (value / 1e6).toPrecision(3) + " M";
  if (size >= 1000) return Math.round(value).toLocaleString("en-US");
  return String(Number(value.toPrecision(digits)));
}
const percent = (value, digits = 1) => value === null || value === undefined ? "–" : (100 * value).toFixed(digits) + "%";
function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 90) return number(value) + " s";
  if (value < 5400) return (value / 60).toFixed(1) + " min";
  return (value / 3600).toFixed(1) + " h";
}
function formatted(form, value) {
  return form === "percent" ? percent(value) : form === "seconds" ? seconds(value) : number(value, 4);
}

// Charts. Those of a group are of one run and share the step under the pointer.
const HEIGHT = 150, LEFT = 46, RIGHT = 8, TOP = 8, BOTTOM = 18;
const groups = [];
function chartGroup(curves) {
  const group = {curves, charts: []};
  groups.push(group);
  return group;
}
function redraw(charts) { charts.forEach(chart => { drawChart(chart); showValues(chart, null); }); }
let pendingRedraw = 0;
addEventListener("resize", () => {
  cancelAnimationFrame(pendingRedraw);
  pendingRedraw = requestAnimationFrame(() => groups.forEach(group => redraw(group.charts)));
});
function niceStep(raw) {
  const magnitude = Math.pow(10, Math.floor(Math.log10(raw)));
  return [1, 2, 2.5, 5, 10].find(factor => factor * magnitude >= raw * 0.999) * magnitude;
}
function smooth(values) {
  const known = values.filter(value => value !== null).length;
  if (known < 40) return null;
  const radius = Math.max(4, Math.round(known / 25)), places = [];
  values.forEach((value, index) => { if (value !== null) places.push(index); });
  const result = values.map(() => null);
  // A straight line through the neighbours, read at the place itself: a plain mean would bend both ends.
  places.forEach((place, index) => {
    let n = 0, sx = 0, sy = 0, sxx = 0, sxy = 0;
    for (let k = Math.max(0, index - radius); k <= Math.min(places.length - 1, index + radius); k++) {
      const x = k - index, y = values[places[k]];
      n += 1; sx += x; sy += y; sxx += x * x; sxy += x * y;
    }
    result[place] = (sxx * sy - sx * sxy) / (n * sxx - sx * sx);
  });
  return result;
}
function pathOf(steps, values, x, y) {
  let path = "", open = false;
  const known = values.filter(value => value !== null).length, sparse = known < values.length * 0.5;
  values.forEach((value, index) => {
    if (value === null) { if (!sparse) open = false; return; }
    path += (open ? "L" : "M") + x(steps[index]).toFixed(1) + " " + y(value).toFixed(1);
    open = true;
  });
  return path;
}
function drawChart(chart) {
  const {panel, plot, series, steps} = chart, width = Math.max(plot.clientWidth, 200);
  plot.replaceChildren();
  plot.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  const parts = panel.stacked ? series.filter(line => line.metric !== "time/step_s") : [];
  const sums = steps.map((_, index) => parts.reduce((sum, line) => sum + (line.values[index] || 0), 0));
  const all = series.flatMap(line => line.values.filter(value => value !== null)).concat(sums);
  const shown = panel.stacked ? all : series.flatMap(line => line.values.filter(value => value !== null));
  let low = shown.reduce((a, b) => Math.min(a, b)), high = shown.reduce((a, b) => Math.max(a, b));
  if (panel.zero) low = Math.min(low, 0);
  if (panel.form === "percent") { low = Math.max(0, Math.min(low, high - 0.02)); high = Math.min(1, Math.max(high, low + 0.02)); }
  if (high - low < 1e-12) { const pad = Math.abs(high) * 0.5 || 1; high += pad; if (!panel.zero || low < 0) low -= pad; }
  const tick = niceStep((high - low) / 3);
  low = Math.floor(low / tick + 1e-9) * tick;
  high = Math.ceil(high / tick - 1e-9) * tick;
  const first = steps[0], last = Math.max(steps[steps.length - 1], first + 1);
  const x = step => LEFT + (width - LEFT - RIGHT) * (step - first) / (last - first);
  const y = value => HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low);
  for (let value = low; value <= high + tick / 2; value += tick) {
    plot.append(svg("path", {d: `M${LEFT} ${y(value).toFixed(1)}H${width - RIGHT}`, stroke: "var(--grid)"}));
    const round = Math.abs(value) < tick / 1e6 ? 0 : value;
    const label = panel.form === "percent" ? percent(round, Number.isInteger(Number((100 * tick).toPrecision(6))) ? 0 : tick < 1e-3 ? 2 : 1) : number(round);
    plot.append(svg("text", {x: LEFT - 6, y: y(value) + 3.5, "text-anchor": "end"}, label));
  }
  const stride = Math.max(1, niceStep((last - first) / Math.max(2, Math.floor(width / 80))));
  for (let step = Math.ceil(first / stride) * stride; step <= last; step += stride) if (Number.isInteger(step))
    plot.append(svg("text", {x: x(step), y: HEIGHT - 4, "text-anchor": x(step) > width - 20 ? "end" : "middle"}, step.toLocaleString("en-US")));
  if (panel.stacked) {
    let floor = steps.map(() => 0);
    for (const line of parts) {
      const values = smooth(line.values) || line.values, top = floor.map((value, index) => value + (values[index] || 0));
      const known = steps.map((_, index) => index).filter(index => series.some(one => one.values[index] !== null));
      const forth = known.map(index => `${x(steps[index]).toFixed(1)} ${y(top[index]).toFixed(1)}`);
      const back = known.map(index => `${x(steps[index]).toFixed(1)} ${y(floor[index]).toFixed(1)}`).reverse();
      plot.append(svg("path", {d: "M" + forth.concat(back).join("L") + "Z", fill: line.colour, "fill-opacity": 0.75}));
      floor = top;
    }
  }
  for (const line of series) {
    if (parts.includes(line)) continue;
    const smoothed = smooth(line.values), style = {fill: "none", stroke: line.colour, "stroke-linejoin": "round"};
    if (smoothed) plot.append(svg("path", {...style, d: pathOf(steps, line.values, x, y), "stroke-width": 1, "stroke-opacity": 0.3}));
    plot.append(svg("path", {...style, d: pathOf(steps, smoothed || line.values, x, y), "stroke-width": 1.8}));
    const known = line.values.filter(value => value !== null).length;
    if (line.errors) line.values.forEach((value, index) => {
      const error = line.errors[index];
      if (value !== null && error) plot.append(svg("path", {d: `M${x(steps[index]).toFixed(1)} ${y(Math.min(value + error, high)).toFixed(1)}V${y(Math.max(value - error, low)).toFixed(1)}`, stroke: line.colour, "stroke-width": 1.5, "stroke-opacity": 0.5}));
    });
    if (known <= 30) line.values.forEach((value, index) => {
      if (value !== null) plot.append(svg("circle", {cx: x(steps[index]).toFixed(1), cy: y(value).toFixed(1), r: 2.6, fill: line.colour}));
    });
  }
  chart.x = x; chart.y = y; chart.width = width;
  chart.cursor = svg("path", {stroke: "var(--faint)", "stroke-dasharray": "2 2", visibility: "hidden"});
  plot.append(chart.cursor);
}
function lastKnown(values) { for (let i = values.length - 1; i >= 0; i--) if (values[i] !== null) return i; return -1; }
function nearestKnown(values, index) {
  for (let reach = 0; reach < values.length; reach++) {
    if (index - reach >= 0 && values[index - reach] !== null) return index - reach;
    if (index + reach < values.length && values[index + reach] !== null) return index + reach;
  }
  return -1;
}
function showValues(chart, index) {
  const steps = chart.steps;
  const sparse = chart.series.every(line => line.values.filter(value => value !== null).length < steps.length * 0.5);
  const at = index === null ? null : sparse ? nearestKnown(chart.series[0].values, index) : index;
  chart.at.textContent = at === null ? "" : "step " + steps[at].toLocaleString("en-US");
  chart.series.forEach(line => { line.value.textContent = formatted(chart.panel.form, line.values[at === null ? lastKnown(line.values) : at]); });
  if (at === null) return chart.cursor.setAttribute("visibility", "hidden");
  chart.cursor.setAttribute("d", `M${chart.x(steps[at]).toFixed(1)} ${TOP}V${HEIGHT - BOTTOM}`);
  chart.cursor.setAttribute("visibility", "visible");
}
function addChart(group, panel, grid) {
  const {curves, charts} = group, steps = curves.step;
  const measured = panel.metrics.filter(([metric]) => (curves[metric] || []).some(value => value !== null));
  if (!measured.length) return;
  const series = measured.map(([metric, label], index) => ({
    metric, label, values: curves[metric], value: el("b"),
    colour: metric === "time/step_s" ? "var(--ink)" : `var(--c${index % 8})`,
    errors: metric === "eval/pass_at_1" ? curves["eval/pass_at_1_stderr"] : undefined,
  }));
  const plot = svg("svg", {role: "img", "aria-label": panel.title + " against step", preserveAspectRatio: "none"});
  const at = el("span", {class: "at"});
  const legend = el("div", {class: "legend"}, ...series.map(line => {
    const swatch = el("i"); swatch.style.background = line.colour;
    return el("span", {}, swatch, line.label ? line.label + " " : "", line.value);
  }));
  grid.append(el("div", {class: panel.stacked ? "chart wide" : "chart"}, el("div", {class: "title"}, el("b", {title: panel.title}, panel.title), at), legend, plot));
  const chart = {panel, series, plot, at, steps};
  charts.push(chart);
  redraw([chart]);
  plot.addEventListener("pointermove", event => {
    const box = plot.getBoundingClientRect(), place = (event.clientX - box.left) * chart.width / box.width;
    const share = (place - LEFT) / (chart.width - LEFT - RIGHT), step = steps[0] + share * (steps[steps.length - 1] - steps[0]);
    let best = 0;
    steps.forEach((one, index) => { if (Math.abs(one - step) < Math.abs(steps[best] - step)) best = index; });
    charts.forEach(one => showValues(one, best));
  });
  plot.addEventListener("pointerleave", () => charts.forEach(one => showValues(one, null)));
}
