"use strict";
// The map: elites coloured by what is known of them, what is asked for, and what was reached. One measure makes a
// strip, two a square, more a matrix of all pairs.

const MapView = (() => {
  const LAYERS = {
    elites: { label: "elites", unit: "fitness", worst: false,
      hint: "Each cell is a policy that the search found. Click, or drag, to ask for what lies there." },
    generated: { label: "generated", unit: "fitness", worst: false,
      hint: "Where policies land that the model makes for the measures of every elite, one each." },
    error: { label: "error", unit: "cells", worst: true,
      hint: "How far from each elite the policy lands that the model makes in its place." },
    steadiness: { label: "steadiness", unit: "cells", worst: true,
      hint: "How far elites land, on average, from where the one episode that stored them put them; dark is steady." },
  };
  const STOPS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
  let map = null, values = {}, panels = [], layer = "elites", heldOut = false, asked = [], reached = [], onAsk = () => {};

  // Viridis: part 0 dark, 1 bright.
  function heat(part) {
    const place = Math.min(0.9999, Math.max(0, part)) * (STOPS.length - 1), i = Math.floor(place), t = place - i;
    return `rgb(${STOPS[i].map((c, n) => Math.round(c + t * (STOPS[i + 1][n] - c))).join()})`;
  }
  const part = (value, m) => (value - map.low[m]) / (map.high[m] - map.low[m]);
  const cell = (value, m) => Math.min(map.cells[m] - 1, Math.max(0, Math.floor(part(value, m) * map.cells[m] + 1e-4)));
  const size = m => (map.high[m] - map.low[m]) / map.cells[m];

  // Distance in cells over what was asked for, NaN if something was not reached.
  function cellsBetween(one, other) {
    return Math.sqrt(one.reduce((sum, value, m) => value === null ? sum : sum + ((value - (other[m] ?? NaN)) / size(m)) ** 2, 0));
  }

  function begin(facts, ask) {
    const same = map && map.names.join() === facts.map.names.join();
    map = facts.map; onAsk = ask;
    const { reference, stored, generated } = map.elites, base = reference || stored;
    values = {};
    if (base) values.elites = { at: base.measures, value: base.fitness };
    if (generated) values.generated = { at: generated.measures, value: generated.fitness };
    if (generated && reference) values.error = { at: reference.measures,
      value: reference.measures.map((row, i) => cellsBetween(row, generated.measures[i])) };
    if (stored && reference) values.steadiness = { at: reference.measures,
      value: reference.measures.map((row, i) => cellsBetween(row, stored.measures[i])) };
    for (const one of Object.values(values)) {
      const sorted = one.value.filter(Number.isFinite).sort((a, b) => a - b);
      one.low = LAYERS.error && sorted[Math.floor(sorted.length * 0.02)] || 0;
      one.high = sorted[Math.ceil(sorted.length * 0.98) - 1] || 1;
    }
    const select = document.getElementById("layer");
    select.replaceChildren(...Object.keys(values).map(name => new Option(LAYERS[name].label, name)));
    select.disabled = !Object.keys(values).length;
    if (same) repaint(); else build(); // a canvas that is being dragged on stays
  }

  const names = m => map.names[m];

  function build() {
    const host = document.getElementById("maps"), count = map.names.length;
    const pairs = count === 1 ? [[0, null]] : [];
    for (let j = 1; j < count; j++) for (let i = 0; i < j; i++) pairs.push([i, j]);
    host.className = count > 2 ? "matrix" : "";
    host.style.gridTemplateColumns = count > 2 ? `repeat(${count - 1}, 1fr)` : "";
    panels = pairs.map(([x, y]) => {
      const canvas = document.createElement("canvas");
      canvas.tabIndex = 0;
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label",
        `map of ${names(x)}${y === null ? "" : ` and ${names(y)}`}; arrow keys move what is asked for by a cell`);
      if (count > 2) { canvas.style.gridColumn = x + 1; canvas.style.gridRow = y; }
      const panel = { x, y, canvas, hover: null };
      canvas.addEventListener("pointerdown", event => { canvas.setPointerCapture(event.pointerId); point(panel, event, false); });
      canvas.addEventListener("pointermove", event => {
        panel.hover = at(panel, event);
        if (event.buttons) point(panel, event, false); else paint();
      });
      canvas.addEventListener("pointerup", event => point(panel, event, true));
      canvas.addEventListener("pointerleave", () => { panel.hover = null; paint(); });
      canvas.addEventListener("keydown", event => key(panel, event));
      return panel;
    });
    host.replaceChildren(...panels.map(panel => panel.canvas));
    resize();
  }

  const frame = panel => {
    const { width, height } = panel.canvas, dpr = devicePixelRatio || 1, small = panels.length > 1;
    const left = (small ? 16 : 34) * dpr, below = (small ? 16 : 32) * dpr;
    return { left, top: 4 * dpr, width: width - left - 5 * dpr, height: height - below - 4 * dpr, dpr, small };
  };

  function resize() {
    for (const panel of panels) {
      const wide = panel.canvas.clientWidth || 340, tall = panel.y === null ? wide * 0.45 : wide;
      panel.canvas.style.height = `${tall}px`;
      panel.canvas.width = wide * (devicePixelRatio || 1);
      panel.canvas.height = tall * (devicePixelRatio || 1);
      panel.base = null;
    }
    paint();
  }

  // Measures at a pointer: {measure: value}.
  function at(panel, event) {
    const box = panel.canvas.getBoundingClientRect(), f = frame(panel);
    const along = ((event.clientX - box.left) * panel.canvas.width / box.width - f.left) / f.width;
    const up = 1 - ((event.clientY - box.top) * panel.canvas.height / box.height - f.top) / f.height;
    const clamp = (value, m) => map.low[m] + Math.min(1, Math.max(0, value)) * (map.high[m] - map.low[m]);
    return panel.y === null ? { [panel.x]: clamp(along, panel.x) }
      : { [panel.x]: clamp(along, panel.x), [panel.y]: clamp(up, panel.y) };
  }
  const point = (panel, event, settled) => onAsk(at(panel, event), settled);

  function key(panel, event) {
    const step = { ArrowLeft: [panel.x, -1], ArrowRight: [panel.x, 1], ArrowDown: [panel.y, -1], ArrowUp: [panel.y, 1] }[event.key];
    if (!step || step[0] === null) return;
    event.preventDefault();
    const move = {};
    for (const m of [panel.x, panel.y]) {
      if (m === null) continue;
      const now = asked[m] ?? (map.low[m] + map.high[m]) / 2;
      move[m] = Math.min(map.high[m], Math.max(map.low[m], now + (m === step[0] ? step[1] * size(m) : 0)));
    }
    onAsk(move, true);
  }

  // The cells of a panel, painted once.
  function base(panel) {
    if (panel.base) return panel.base;
    const picture = document.createElement("canvas"), pen = picture.getContext("2d"), f = frame(panel);
    picture.width = panel.canvas.width; picture.height = panel.canvas.height;
    pen.fillStyle = Body.colour("--empty");
    pen.fillRect(f.left, f.top, f.width, f.height);
    const shown = values[layer];
    if (shown) {
      const best = new Map(), wide = map.cells[panel.x], tall = panel.y === null ? 1 : map.cells[panel.y];
      const worst = LAYERS[layer].worst;
      shown.at.forEach((row, i) => {
        const value = shown.value[i];
        if (!Number.isFinite(value) || row[panel.x] === null || (panel.y !== null && row[panel.y] === null)) return;
        const place = cell(row[panel.x], panel.x) + wide * (panel.y === null ? 0 : cell(row[panel.y], panel.y));
        const before = best.get(place);
        if (before === undefined || (worst ? value < before : value > before)) best.set(place, value);
      });
      for (const [place, value] of best) {
        const i = place % wide, j = Math.floor(place / wide), share = (value - shown.low) / (shown.high - shown.low || 1);
        pen.fillStyle = heat(share);
        const x = f.left + i * f.width / wide, w = f.width / wide;
        if (panel.y === null) {
          const h = f.height * (0.06 + 0.94 * Math.min(1, Math.max(0, share)));
          pen.fillRect(x, f.top + f.height - h, w + 0.5, h);
        } else pen.fillRect(x, f.top + f.height - (j + 1) * f.height / tall, w + 0.5, f.height / tall + 0.5);
      }
    }
    if (heldOut && values.elites) {
      pen.fillStyle = "#cc2f8f";
      for (const i of map.held_out) {
        const [x, y] = spot(panel, values.elites.at[i]);
        pen.beginPath(); pen.arc(x, y, 2.2 * f.dpr, 0, 7); pen.fill();
      }
      for (const [low, high] of panel.y === null ? [] : map.boxes ?? []) {
        const [x0, y0] = spot(panel, low), [x1, y1] = spot(panel, high);
        pen.strokeStyle = "#cc2f8f"; pen.lineWidth = 1.5 * f.dpr; pen.strokeRect(x0, y1, x1 - x0, y0 - y1);
      }
    }
    pen.fillStyle = Body.colour("--soft"); pen.textAlign = "center";
    pen.font = `${(f.small ? 10.5 : 12.5) * f.dpr}px system-ui, sans-serif`;
    const edge = panel.y === null || !f.small || panel.y === map.names.length - 1;
    if (edge) pen.fillText(names(panel.x), f.left + f.width / 2, picture.height - 3 * f.dpr);
    if (panel.y !== null && (!f.small || panel.x === 0)) {
      pen.save(); pen.translate(11 * f.dpr, f.top + f.height / 2); pen.rotate(-Math.PI / 2);
      pen.fillText(names(panel.y), 0, 0); pen.restore();
    }
    if (!f.small) {
      const number = value => String(Number(value.toFixed(2)));
      [0, 0.5, 1].forEach(t => {
        const x = map.low[panel.x] + t * (map.high[panel.x] - map.low[panel.x]);
        pen.textAlign = t === 0 ? "left" : t === 1 ? "right" : "center";
        pen.fillText(t === 0.5 ? "" : number(x), f.left + t * f.width, f.top + f.height + 13 * f.dpr);
        if (panel.y === null || t === 0.5) return;
        pen.textAlign = "right";
        const y = map.low[panel.y] + t * (map.high[panel.y] - map.low[panel.y]);
        pen.fillText(number(y), f.left - 4 * f.dpr, f.top + (1 - t) * (f.height - 10 * f.dpr) + 10 * f.dpr);
      });
    }
    panel.base = picture;
    return picture;
  }

  // Where measures are on a panel; what is free or unknown is in the middle.
  function spot(panel, measures) {
    const f = frame(panel), place = m => measures[m] === null || measures[m] === undefined ? 0.5 : part(measures[m], m);
    return [f.left + place(panel.x) * f.width,
      panel.y === null ? f.top + f.height * 0.35 : f.top + (1 - place(panel.y)) * f.height];
  }

  function paint() {
    for (const panel of panels) {
      const pen = panel.canvas.getContext("2d"), f = frame(panel);
      pen.clearRect(0, 0, panel.canvas.width, panel.canvas.height);
      pen.drawImage(base(panel), 0, 0);
      const known = [panel.x, panel.y].filter(m => m !== null).map(m => asked[m] ?? null);
      // A measure that is asked for alone is a line across the map.
      if (known.some(value => value !== null) && known.some(value => value === null)) {
        const [x, y] = spot(panel, asked);
        stroke(pen, f, path => {
          if (known[0] !== null) { path.moveTo(x, f.top); path.lineTo(x, f.top + f.height); }
          else { path.moveTo(f.left, y); path.lineTo(f.left + f.width, y); }
        });
      }
      const whole = known.every(value => value !== null);
      for (const one of reached) {
        if (one.at.some(value => value === null)) continue;
        const [x, y] = spot(panel, one.at);
        if (one.main && whole) arrow(pen, f, spot(panel, asked), [x, y]);
        if (one.main && one.spread) {
          const rx = one.spread[panel.x] / (map.high[panel.x] - map.low[panel.x]) * f.width;
          const ry = panel.y === null ? 0 : one.spread[panel.y] / (map.high[panel.y] - map.low[panel.y]) * f.height;
          stroke(pen, f, path => path.ellipse(x, y, Math.max(1, rx), Math.max(1, ry), 0, 0, 7), 0.8);
        }
        dot(pen, f, x, y, one.elite ? "#8c97a6" : "#ff7a1a", one.main ? 5.5 : 3.5);
      }
      if (whole) {
        const [x, y] = spot(panel, asked), r = 6 * f.dpr;
        stroke(pen, f, path => { path.moveTo(x - r, y); path.lineTo(x + r, y); path.moveTo(x, y - r); path.lineTo(x, y + r); }, 1.6);
      }
      if (panel.hover) {
        const at = map.names.map((_, m) => panel.hover[m] ?? null), [x, y] = spot(panel, at);
        pen.strokeStyle = Body.colour("--ink"); pen.lineWidth = f.dpr; pen.globalAlpha = 0.6;
        pen.strokeRect(x - 4 * f.dpr, y - 4 * f.dpr, 8 * f.dpr, 8 * f.dpr); pen.globalAlpha = 1;
      }
    }
  }
  // White with a dark rim shows on every colour of the map.
  function stroke(pen, f, draw, thick = 1) {
    for (const [style, width] of [["rgba(0,0,0,.75)", 3.2], ["#fff", 1.6]]) {
      pen.strokeStyle = style; pen.lineWidth = width * thick * f.dpr; pen.lineCap = "round";
      pen.beginPath(); draw(pen); pen.stroke();
    }
  }
  function arrow(pen, f, [x0, y0], [x1, y1]) {
    const length = Math.hypot(x1 - x0, y1 - y0), angle = Math.atan2(y1 - y0, x1 - x0), head = Math.min(7 * f.dpr, length / 2);
    if (length < 3 * f.dpr) return;
    stroke(pen, f, path => {
      path.moveTo(x0, y0); path.lineTo(x1, y1);
      for (const turn of [2.6, -2.6]) {
        path.moveTo(x1, y1); path.lineTo(x1 + head * Math.cos(angle + turn), y1 + head * Math.sin(angle + turn));
      }
    });
  }
  function dot(pen, f, x, y, style, radius) {
    pen.beginPath(); pen.arc(x, y, radius * f.dpr, 0, 7);
    pen.fillStyle = style; pen.fill();
    pen.strokeStyle = "rgba(0,0,0,.8)"; pen.lineWidth = 1.2 * f.dpr; pen.stroke();
  }

  function legend() {
    const host = document.getElementById("legend"), shown = values[layer];
    host.replaceChildren();
    document.getElementById("map-hint").textContent = shown ? LAYERS[layer].hint : "Click, or drag, to ask for what lies there.";
    if (!shown) return;
    const bar = document.createElement("canvas"), pen = bar.getContext("2d");
    bar.width = 130; bar.height = 1;
    for (let i = 0; i < 130; i++) { pen.fillStyle = heat(i / 129); pen.fillRect(i, 0, 1, 1); }
    const digits = LAYERS[layer].unit === "cells" ? 1 : 0;
    host.append(shown.low.toFixed(digits), bar, `${shown.high.toFixed(digits)} ${LAYERS[layer].unit}`);
    if (map.held_out.length) {
      const label = document.createElement("label"), box = document.createElement("input");
      box.type = "checkbox"; box.checked = heldOut; box.id = "held-out";
      box.onchange = () => { heldOut = box.checked; panels.forEach(panel => { panel.base = null; }); paint(); };
      label.title = "elites that training never saw";
      label.append(box, " held out");
      host.append(label);
    }
  }

  function setLayer(name) {
    layer = values[name] ? name : Object.keys(values)[0] || "elites";
    document.getElementById("layer").value = layer;
    panels.forEach(panel => { panel.base = null; });
    legend(); paint();
    return layer;
  }

  // What is asked for `[M]`, and what was reached: [{at, main, elite, spread}].
  function show(wanted, found) {
    asked = wanted;
    reached = [...found].sort((one, other) => Boolean(one.main) - Boolean(other.main));
    paint();
  }

  const repaint = () => { panels.forEach(panel => { panel.base = null; }); paint(); };
  const elites = () => values.elites ? values.elites.at : [];

  return { begin, resize, setLayer, show, repaint, cellsBetween, elites, size };
})();
