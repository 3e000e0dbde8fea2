"use strict";
// Several behaviours in one episode: wishes on a time line, played in up to three ways on one clock.

const Sequence = (() => {
  const byId = id => document.getElementById(id);
  const MOST = 6, WAYS = {
    blind: ["Blind samples", "one sample a wish, whatever the body is doing"],
    nearest: ["Nearest elites", "the archive's elite for each wish"],
    best: ["Best of 8 samples", "each played ahead from where the body stands"],
  };
  let facts = null, ways = [], clock = 0, length = 1, changed = () => {}, ready = false, asking = false;

  function begin(found, onChange) {
    facts = found; changed = onChange;
    byId("sequence-card").hidden = !facts.model || Api.exported;
    byId("add").onclick = () => add(State.copy(State.state.wish));
    byId("add-random").onclick = () => {
      const elites = MapView.elites(), wish = State.blank();
      if (elites.length) wish.measures = elites[Math.floor(Math.random() * elites.length)].map(value => Number(value.toFixed(2)));
      add(wish);
    };
    byId("run").onclick = run;
    Stage.extra.add(draw);
    render();
  }

  function add(wish) {
    if (State.state.sequence.length < MOST) State.state.sequence.push(wish);
    render(); changed();
  }

  function move(from, by) {
    const list = State.state.sequence, [one] = list.splice(from, 1);
    if (by !== null) list.splice(Math.min(list.length, Math.max(0, from + by)), 0, one);
    render(); changed();
  }

  function render() {
    const list = State.state.sequence, button = (text, label, act) => {
      const made = Controls.element("button", { type: "button", textContent: text, onclick: act });
      made.setAttribute("aria-label", label);
      return made;
    };
    byId("wishes").replaceChildren(...list.map((wish, i) => Controls.element("li", {},
      Controls.element("span", { textContent: State.words(wish) }),
      button("‹", `wish ${i + 1}: earlier`, () => move(i, -1)), button("›", `wish ${i + 1}: later`, () => move(i, 1)),
      button("×", `wish ${i + 1}: remove`, () => move(i, null)))));
    if (list.length < 2) {
      byId("wishes").append(Controls.element("li", { className: "empty",
        textContent: list.length ? "one more, and it can run" : "put two to six wishes here; each lasts about a second" }));
    }
    byId("add").disabled = byId("add-random").disabled = list.length >= MOST;
    byId("run").disabled = list.length < 2 || !ready || asking;
    byId("run").textContent = ready ? "Run" : "Run (compiling)";
    byId("run").hidden = false;
  }

  function setReady(now) {
    if (ready !== now) { ready = now; render(); }
  }

  async function run() {
    asking = true; render();
    try {
      const wishes = State.state.sequence.map(State.copy), answer = await Api.sequence(wishes, State.state.seed);
      ways = await Promise.all(answer.ways.map(async one => ({ ...one, reel: await Body.decode(one.film) })));
      length = facts.segment * wishes.length;
      clock = 0;
      byId("ways").replaceChildren(...ways.map(one => build(one, wishes)));
    } catch (problem) { App.complain(problem); }
    asking = false; render();
  }

  function build(one, wishes) {
    const [name, note] = WAYS[one.way], host = Controls.element("div", { className: "way" });
    one.canvas = document.createElement("canvas");
    one.canvas.setAttribute("role", "img");
    one.canvas.setAttribute("aria-label", `film: ${name}`);
    const whole = one.reel.length > length - facts.segment * 0.02;
    const says = Controls.element("p", {}, Controls.element("b", { textContent: name }), ` · ${note} · `,
      Controls.element("span", { className: whole ? "good" : "bad", textContent: whole ? "stayed up" : `fell after ${one.reel.length.toFixed(1)} s` }));
    one.marks = Controls.element("div", { className: "marks" }, ...wishes.map((wish, i) => {
      const reached = one.reached[i], given = wish.measures.some(value => value !== null);
      const away = reached && given ? MapView.cellsBetween(wish.measures, reached) : null;
      const mark = Controls.element("span", { textContent: !reached ? "–" : away === null ? Stage.numbers(reached) : `${away.toFixed(1)} cells` });
      mark.title = `asked for ${State.words(wish)}; ${reached ? `reached ${Stage.numbers(reached)}` : "never got there"}`;
      return mark;
    }));
    host.append(one.canvas, says, one.marks);
    return host;
  }

  // Called by the stage's clock.
  function draw(passed, playing) {
    if (!ways.length) return;
    if (playing) { clock += passed; if (clock > length + 0.7) clock = 0; }
    const now = Math.min(Math.floor(clock / facts.segment), State.state.sequence.length - 1);
    [...byId("wishes").children].forEach((item, i) => item.classList.toggle("now", i === now));
    for (const one of ways) {
      if (!one.canvas.isConnected) continue;
      Stage.fit(one.canvas);
      Body.draw(one.canvas, [{ film: one.reel, ghost: one.way === "nearest" }], clock, { ...Stage.eye, scale: one.canvas.height * 0.5 });
      [...one.marks.children].forEach((mark, i) => mark.classList.toggle("now", i === now));
    }
  }

  return { begin, render, run, setReady };
})();
