"use strict";
// The stage: films on one clock, the chosen one large beside the nearest elite, all draws small below.

const Stage = (() => {
  const byId = id => document.getElementById(id);
  const eye = { turn: 0.35, tilt: 0.12, scale: 150, trail: 1 };
  let facts = null, cast = [], main = [], clock = 0, playing = true, before = 0, length = 1, onPick = () => {};
  const extra = new Set();

  const dpr = () => devicePixelRatio || 1;
  function fit(canvas) {
    const wide = Math.round(canvas.clientWidth * dpr()), tall = Math.round(canvas.clientHeight * dpr());
    if (wide && tall && (canvas.width !== wide || canvas.height !== tall)) { canvas.width = wide; canvas.height = tall; }
  }

  function begin(found, pick) {
    facts = found; onPick = pick;
    setPlaying(!matchMedia("(prefers-reduced-motion: reduce)").matches);
    byId("play").onclick = () => setPlaying(!playing);
    byId("time").oninput = event => { clock = event.target.value / 1000 * length; setPlaying(false); };
    Body.turnable(byId("view"), eye);
    requestAnimationFrame(step);
  }

  function setPlaying(now) {
    playing = now;
    byId("play").textContent = playing ? "Pause" : "Play";
  }

  // Show an answer: `films` with `.reel` decoded; `which` is the one shown large, beside the elite if there is one.
  function show(films, which) {
    cast = films;
    choose(which);
    clock = 0;
    const host = byId("draws");
    host.replaceChildren(...films.map((one, i) => {
      const button = document.createElement("button"), label = document.createElement("span"), canvas = document.createElement("canvas");
      button.type = "button"; button.className = "draw";
      button.setAttribute("aria-pressed", i === which);
      label.innerHTML = "<b></b><br><small></small>";
      const solo = one.role === "elite" && !films.some(other => other.role === "generated");
      label.querySelector("b").textContent = one.role !== "elite" ? `Draw ${i + 1}` : solo && i ? `Elite, ${i + 1}. nearest` : "Nearest elite";
      label.querySelector("b").className = one.role;
      button.append(canvas, label);
      button.onclick = () => onPick(i);
      one.canvas = canvas; one.note = label.querySelector("small");
      return button;
    }));
    for (const one of films) note(one);
  }

  const numbers = values => values.map(value => value === null ? "–" : value.toFixed(2)).join(" / ");
  // What a policy reached, and whether it fell, in few words.
  function told(one) {
    const found = one.numbers, fell = found ? (found.fell ? `fell in ${found.fell} of ${found.episodes}` : "never fell")
      : one.fell ? "fell" : "";
    return [numbers(found ? found.mean : one.reached), fell].filter(Boolean).join(" · ");
  }

  function note(one) {
    if (!one.note) return;
    const source = facts.model?.verified && one.role === "generated" && (one.verified ? "verified draw" : "diffusion");
    one.note.textContent = [told(one), source].filter(Boolean).join(" · ");
  }

  function choose(which) {
    const chosen = cast[which] || cast[0], elite = cast.find(one => one.role === "elite");
    main = [{ one: chosen, film: chosen.reel, ghost: chosen.role === "elite" && chosen !== cast[0], lane: 0 }];
    if (elite && elite !== chosen) main.push({ one: elite, film: elite.reel, ghost: true, lane: 1.1 });
    measureLength();
    for (const [i, button] of [...byId("draws").children].entries()) button.setAttribute("aria-pressed", i === which);
  }

  // Two films that were pinned, side by side.
  function compare(one, other) {
    main = [{ one, film: one.reel, ghost: false, lane: 0 }, { one: other, film: other.reel, ghost: true, lane: 1.1 }];
    clock = 0;
    measureLength();
  }

  function measureLength() {
    length = Math.max(0.1, ...[...main.map(actor => actor.film), ...cast.map(one => one.reel)].map(film => film.length));
    const gait = byId("gait"), rows = main.reduce((sum, actor) => sum + actor.film.sums.length, 0);
    gait.style.height = `${rows * 19 + (main.length - 1) * 8 + 4}px`;
  }

  function step(now) {
    const speed = Number(byId("speed").value), passed = Math.min(0.1, (now - before) / 1000) * speed;
    before = now;
    if (playing) {
      clock += passed;
      if (clock > length + 0.7) clock = 0;
    }
    if (main.length) {
      const view = byId("view");
      fit(view);
      const scale = Math.min(view.height * 0.5, view.width * 0.25);
      const project = Body.draw(view, main, clock, { ...eye, scale });
      beyond(view, project);
      for (const one of cast) {
        if (!one.canvas || !one.canvas.isConnected) continue;
        fit(one.canvas);
        Body.draw(one.canvas, [{ film: one.reel, ghost: one.role === "elite" && cast[0] !== one }], clock,
          { ...eye, trail: 0, plain: true, scale: one.canvas.height * 0.5 });
      }
      gait();
      byId("time").value = Math.min(1000, clock / length * 1000);
    }
    for (const draw of extra) draw(passed, playing);
    requestAnimationFrame(step);
  }

  // Says where the second body is once it has left the picture.
  function beyond(view, project) {
    if (main.length < 2) return;
    const x = Body.middle(main[1].film, clock), ahead = x - Body.middle(main[0].film, clock);
    const [place] = project(x, main[1].lane, 1);
    if (place > 0 && place < view.width) return;
    const pen = view.getContext("2d"), left = place <= 0, font = 13 * dpr();
    pen.font = `${font}px system-ui, sans-serif`; pen.textAlign = left ? "left" : "right"; pen.fillStyle = Body.colour("--soft");
    const text = `${Math.abs(ahead).toFixed(1)} m ${left ? "behind" : "ahead"}`, who = main[1].one.role === "elite" ? "elite" : "other";
    pen.fillText(left ? `◀ ${who} ${text}` : `${who} ${text} ▶`, left ? font : view.width - font, font * 1.8);
  }

  // Contacts of each foot over time, with what they amount to so far.
  function gait() {
    const canvas = byId("gait"), pen = canvas.getContext("2d"), d = dpr();
    fit(canvas);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    const left = Math.min(118 * d, canvas.width * 0.27), right = Math.min(104 * d, canvas.width * 0.24), wide = canvas.width - left - right;
    let y = 2 * d;
    pen.font = `${12.5 * d}px system-ui, sans-serif`;
    for (const { film, ghost } of main) {
      const [frame] = Body.frameAt(film, clock), over = clock >= film.length;
      film.sums.forEach((_, m) => {
        pen.textAlign = "left"; pen.fillStyle = Body.colour(ghost ? "--soft" : "--ink");
        pen.fillText(facts.map.names[m], 0, y + 12 * d, left - 6 * d);
        pen.fillStyle = Body.colour("--sky"); pen.fillRect(left, y + 1 * d, wide * film.length / length, 13 * d);
        pen.fillStyle = Body.colour({ 0: "--first", 1: "--second" }[facts.feet?.[m]] || "--bar");
        pen.globalAlpha = ghost ? 0.45 : 0.95;
        for (let k = 0; k < film.frames; k++) {
          const share = Body.lately(film, m, k), from = k ? film.seconds[k - 1] : 0;
          if (share > 0) pen.fillRect(left + wide * from / length, y + 1 * d, wide * (film.seconds[k] - from) / length * share + 0.4, 13 * d);
        }
        pen.globalAlpha = 1; pen.fillStyle = Body.colour(ghost ? "--soft" : "--ink"); pen.textAlign = "right";
        pen.fillText(`${Body.soFar(film, m, frame).toFixed(2)} ${over ? "in all" : "so far"}`, canvas.width, y + 12 * d);
        y += 19 * d;
      });
      y += 8 * d;
    }
    const x = left + wide * Math.min(1, clock / length);
    pen.fillStyle = Body.colour("--ink"); pen.fillRect(x - d / 2, 0, d, canvas.height);
  }

  return { begin, show, choose, compare, note, fit, eye, extra, numbers, told, toggle: () => setPlaying(!playing) };
})();
