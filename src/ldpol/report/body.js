"use strict";
// Films of bodies made of capsules: decoding and drawing. The film page and the explorer share this file.

const Body = (() => {
  // Okabe-Ito colours: the first side (right, back) vermilion, the second (left, front) blue.
  const PAINT = {
    bright: { "-1": [40, 22, 62], 0: [23, 82, 52], 1: [203, 78, 46] },
    ghost: { "-1": [220, 6, 64], 0: [23, 26, 66], 1: [203, 24, 64] },
  };

  // What `encode_film` wrote, as {frames, seconds, places, reward, touched, ...}; asynchronous because inflating is.
  async function decode(film) {
    const raw = Uint8Array.from(atob(film.data), c => c.charCodeAt(0));
    const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate"));
    const view = new DataView(await new Response(stream).arrayBuffer());
    const capsules = film.radii.length, rows = 6 * capsules + 1 + film.measures;
    const frames = view.byteLength / 2 / rows;
    const places = new Float32Array(frames * 6 * capsules), reward = new Float32Array(frames);
    const sums = Array.from({ length: film.measures }, () => new Float32Array(frames));
    for (let row = 0; row < rows; row++) {
      for (let k = 0, level = 0; k < frames; k++) {
        level += view.getInt16(2 * (row * frames + k), true);
        if (row < 6 * capsules) places[k * 6 * capsules + row] = level * film.units.place;
        else if (row === 6 * capsules) reward[k] = level * film.units.reward;
        else sums[row - 6 * capsules - 1][k] = level * film.units.measure;
      }
    }
    const steps = Array.from({ length: frames }, (_, k) => k < frames - 1 ? k * film.stride + 1 : film.steps);
    return { capsules, frames, places, reward, sums, steps, radii: film.radii, sides: film.sides,
      seconds: steps.map(step => step * film.dt), length: film.steps * film.dt };
  }

  // The last picture at or before a time, and how far the next one is on its way: [k, part].
  function frameAt(film, time) {
    let low = 0, high = film.frames - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (film.seconds[middle] <= time) low = middle; else high = middle - 1;
    }
    if (low === film.frames - 1) return [low, 0];
    const part = (time - film.seconds[low]) / (film.seconds[low + 1] - film.seconds[low]);
    return [low, Math.min(1, Math.max(0, part))];
  }

  // Coordinate i of the film at a time, between two pictures.
  function reader(film, time) {
    const [k, part] = frameAt(film, time), per = 6 * film.capsules, next = Math.min(k + 1, film.frames - 1);
    return i => film.places[k * per + i] * (1 - part) + film.places[next * per + i] * part;
  }

  // Mean of a measure up to picture k, and its share of the steps since the picture before.
  const soFar = (film, m, k) => film.sums[m][k] / film.steps[k];
  const lately = (film, m, k) => k ? (film.sums[m][k] - film.sums[m][k - 1]) / (film.steps[k] - film.steps[k - 1])
    : film.sums[m][0];

  // Where the middle of the body is along x.
  function middle(film, time) {
    const at = reader(film, time);
    let sum = 0;
    for (let g = 0; g < film.capsules; g++) sum += at(6 * g) + at(6 * g + 3);
    return sum / (2 * film.capsules);
  }

  // How high it reaches.
  function top(film, time) {
    const at = reader(film, time);
    let most = 0;
    for (let g = 0; g < film.capsules; g++) most = Math.max(most, film.radii[g] + Math.max(at(6 * g + 2), at(6 * g + 5)));
    return most;
  }

  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // A picture of bodies on the ground. `actors`: [{film, ghost, lane}]; `eye`: {turn, tilt, scale, trail, plain}: angles,
  // pixels a metre, seconds of trail, and whether there is no room for words. The camera follows the first actor.
  function draw(canvas, actors, time, eye) {
    const pen = canvas.getContext("2d"), { width, height } = canvas, { turn, tilt, scale } = eye;
    const camera = middle(actors[0].film, time), ground = height * 0.84, upright = scale * Math.cos(tilt);
    const floor = ground + Math.max(0, upright * top(actors[0].film, time) - 0.97 * ground); // sinks when it leaps
    const reach = width / scale / Math.max(0.4, Math.cos(turn)) / 2 + 1, unit = scale / 190;
    // Orthographic: x to the right, z up, turned about z by `turn` and tipped by `tilt`.
    const project = (x, y, z) => {
      x -= camera;
      const side = x * Math.cos(turn) + y * Math.sin(turn), deep = -x * Math.sin(turn) + y * Math.cos(turn);
      return [width / 2 + scale * side, floor - scale * (z * Math.cos(tilt) + deep * Math.sin(tilt)), deep];
    };
    const line = (a, b, style, thick) => {
      pen.strokeStyle = style; pen.lineWidth = thick; pen.lineCap = "round";
      pen.beginPath(); pen.moveTo(a[0], a[1]); pen.lineTo(b[0] + 0.01, b[1]); pen.stroke();
    };
    const lanes = actors.map(actor => actor.lane || 0), near = Math.min(...lanes) - 0.9, far = Math.max(...lanes) + 0.9;
    pen.clearRect(0, 0, width, height);
    const thin = colour("--line"), font = Math.max(11, 20 * Math.min(1, unit));
    pen.font = `${font}px system-ui, sans-serif`; pen.textAlign = "center"; pen.fillStyle = colour("--soft");
    const sparse = scale < 55 ? 5 : scale < 90 ? 2 : 1;
    for (let metre = Math.ceil(camera - reach); metre <= camera + reach; metre++) {
      line(project(metre, near, 0), project(metre, far, 0), thin, 2 * unit);
      const label = project(metre, near, 0);
      if (!eye.plain && metre % sparse === 0) pen.fillText(`${metre} m`, label[0], label[1] + font * 1.25);
    }
    for (const y of [near, far]) line(project(camera - reach, y, 0), project(camera + reach, y, 0), thin, 2 * unit);
    const parts = [];
    actors.forEach(({ film, ghost, lane = 0 }) => {
      const at = reader(film, time), paint = ghost ? PAINT.ghost : PAINT.bright;
      if (eye.trail) trail(film, time, lane, ghost);
      for (let g = 0; g < film.capsules; g++) {
        const p = [0, 1, 2, 3, 4, 5].map(i => at(6 * g + i));
        const a = project(p[0], p[1] + lane, p[2]), b = project(p[3], p[4] + lane, p[5]), radius = film.radii[g] * scale;
        line(project(p[0], p[1] + lane, 0), project(p[3], p[4] + lane, 0), thin, 1.6 * radius);
        parts.push([a, b, radius, a[2] + b[2], g, paint[film.sides[g]]]);
      }
    });
    parts.sort((one, other) => other[3] - one[3] || one[4] - other[4]);
    for (const [a, b, radius, , , [hue, full, light]] of parts) {
      line(a, b, `hsl(${hue} ${full}% ${light - 17}%)`, 2 * radius + Math.max(1, 3 * unit));
      line(a, b, `hsl(${hue} ${full}% ${light}%)`, Math.max(1, 2 * radius - 2 * unit));
    }
    function trail(film, time, lane, ghost) {
      pen.strokeStyle = ghost ? colour("--soft") : colour("--mark"); pen.globalAlpha = 0.45; pen.lineWidth = 2 * unit;
      pen.beginPath();
      for (let back = eye.trail; back >= 0; back -= 0.04) {
        if (time - back < 0) continue;
        const at = reader(film, time - back), mean = i => (at(i) + at(i + 3)) / 2;
        const [x, y] = project(mean(0), mean(1) + lane, mean(2));
        pen.lineTo(x, y);
      }
      pen.stroke(); pen.globalAlpha = 1;
    }
    return project;
  }

  // Drag to turn the view.
  function turnable(canvas, eye, changed = () => {}) {
    canvas.addEventListener("pointerdown", event => canvas.setPointerCapture(event.pointerId));
    canvas.addEventListener("pointermove", event => {
      if (!event.buttons) return;
      eye.turn = Math.min(1.2, Math.max(-1.2, eye.turn - event.movementX / 200));
      eye.tilt = Math.min(1.4, Math.max(0, eye.tilt + event.movementY / 200));
      changed();
    });
  }

  return { decode, frameAt, soFar, lately, middle, colour, draw, turnable, PAINT };
})();
