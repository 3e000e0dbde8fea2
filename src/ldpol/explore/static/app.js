"use strict";
// Puts it together: what is asked for goes to `Api`, answers go to the stage, the map and the rest.

const App = (() => {
  const byId = id => document.getElementById(id);
  let facts = null, ready = {}, answer = null, films = [], settledTimer = 0, comparing = false;

  function complain(problem) {
    if (problem.code === 409 || !problem.message) return;
    const host = byId("problem");
    host.textContent = problem.message;
    host.hidden = false;
    clearTimeout(complain.timer);
    complain.timer = setTimeout(() => { host.hidden = true; }, 7000);
    if (!(problem instanceof Api.Problem)) throw problem; // a mistake of the page's own: the console has to say where
  }

  // Asking: while something is dragged only films are fetched; numbers follow once it has settled.
  const fetchFilms = Api.latest(async request => {
    try { await present(await Api.draw(request)); } catch (problem) { complain(problem); }
  });

  function ask(settled) {
    Controls.show();
    State.remember(settled);
    mark();
    clearTimeout(settledTimer);
    if (ready.films) fetchFilms(State.request());
    else if (facts.films.length) {
      // While the model starts, the nearest of the stored films stands in.
      const stored = facts.films[Api.nearest(facts.films.map(one => one.request.wish), State.state.wish, facts.map)];
      if (stored !== answer) present(stored);
    } else byId("caption").textContent = "One moment: the model is still starting.";
  }

  async function present(found) {
    const reels = await Promise.all(found.films.map(one => Body.decode(one.film)));
    answer = found; comparing = false;
    films = found.films.map((one, i) => ({ ...one, reel: reels[i] }));
    State.state.which = Math.min(State.state.which, films.length - 1);
    Stage.show(films, State.state.which);
    describe();
    clearTimeout(settledTimer);
    settledTimer = setTimeout(settle, 250);
  }

  async function settle() {
    const mine = answer, saved = { request: mine.request, which: State.state.which }, one = films[State.state.which];
    const who = one.role === "elite" ? (facts.model ? ", nearest elite" : "") : saved.which ? `, draw ${saved.which + 1}` : "";
    Shelf.add(saved, one, State.words(mine.request.wish) + who);
    if (!ready.numbers) return;
    const order = [State.state.which, ...films.keys()].filter((which, i, all) => all.indexOf(which) === i);
    for (const which of order) {
      if (answer !== mine || !films[which]) return;
      if (films[which].numbers) continue;
      try {
        const found = await Api.numbers(mine.request, which);
        if (answer !== mine) return;
        films[which].numbers = found;
        Stage.note(films[which]);
        describe();
      } catch (problem) { complain(problem); return; }
    }
  }

  // The words and numbers about what is shown.
  function describe() {
    const one = films[State.state.which] || films[0], wish = answer.request.wish, caption = byId("caption");
    const elite = films.find(other => other.role === "elite");
    caption.replaceChildren();
    const span = (text, className) => Controls.element("span", { textContent: text, className });
    if (one.role === "generated") {
      caption.append(span("A policy that the model made", "generated"), ` for ${State.words(wish)}`,
        ...(elite ? [", beside ", span("the nearest elite", "elite"), " of the archive"] : []), ". ");
    } else caption.append(span("An elite", "elite"), ` of the archive, near ${State.words(wish)}. `);
    caption.append(one.numbers ? verdict(one, wish) : one.fell ? "It fell here." : "");
    const holds = one.numbers ? one.numbers.holds : null;
    Controls.understood(answer, holds && holds.length ? holds : null);
    table(one, wish);
    mark();
    byId("code").textContent = State.python(answer);
    byId("copy").disabled = false;
    byId("save-policy").disabled = byId("save-film").disabled = !ready.films;
    if (one.numbers) byId("said").textContent = caption.textContent;
  }

  function verdict(one, wish) {
    const { numbers } = one, parts = [];
    if (wish.measures.some(value => value !== null)) {
      parts.push(`In ten episodes it lands ${MapView.cellsBetween(wish.measures, numbers.mean).toFixed(1)} cells from what was asked`);
    } else parts.push("In ten episodes");
    parts.push(numbers.fell ? `falls in ${numbers.fell} of them` : "never falls");
    return parts.length === 2 && parts[0].endsWith("episodes") ? `${parts.join(" it ")}.` : `${parts.join(" and ")}.`;
  }

  function table(one, wish) {
    const body = byId("readout").tBodies[0], { names } = facts.map, row = (...cells) => Controls.element("tr", {},
      ...cells.map((cell, i) => Controls.element(i && cells !== head ? "td" : "th", { textContent: cell })));
    const head = ["", "asked", "reached"], found = one.numbers;
    const reached = found ? found.mean : one.reached;
    const with_ = (value, spread) => value === null || value === undefined ? "–" : value.toFixed(2) + (found ? ` ± ${spread.toFixed(2)}` : "");
    const rows = names.map((name, m) => row(name, wish.measures[m] === null ? "any" : wish.measures[m].toFixed(2),
      with_(reached[m], found?.spread[m])));
    rows.push(row("fitness", wish.quality === null ? "any" : `rank ${wish.quality.toFixed(2)}`,
      found ? `${found.fitness[0].toFixed(0)} ± ${found.fitness[1].toFixed(0)}` : one.fitness?.toFixed(0) ?? "–"));
    if (wish.measures.some(value => value !== null)) {
      const error = MapView.cellsBetween(wish.measures, reached);
      rows.push(row("error", "", Number.isFinite(error) ? `${error.toFixed(1)} cells` : "–"));
    }
    rows.push(row("fell", "", found ? `${found.fell} of ${found.episodes} episodes` : one.fell ? "yes" : "no"));
    body.replaceChildren(row(...head), ...rows);
    for (const cell of body.rows[0].cells) cell.scope = "col";
    const label = Controls.element("caption", { className: "visually-hidden", textContent: found ? "mean ± standard deviation of ten episodes" : "this one episode" });
    byId("readout").querySelector("caption")?.remove();
    byId("readout").prepend(label);
    byId("readout").title = label.textContent;
  }

  // The marks on the map.
  function mark() {
    const current = answer && State.same(answer.request.wish, State.state.wish) ? films : [];
    MapView.show(State.state.wish.measures, current.map((one, i) => ({ at: one.numbers ? one.numbers.mean : one.reached,
      spread: one.numbers?.spread, elite: one.role === "elite", main: i === State.state.which })));
  }

  function pick(which) {
    State.state.which = which;
    State.remember(false);
    if (!comparing) Stage.choose(which); else Stage.show(films, which);
    comparing = false;
    describe();
    clearTimeout(settledTimer);
    settledTimer = setTimeout(settle, 250);
  }

  function surprise() {
    const elites = MapView.elites(), { map } = facts;
    const measures = elites.length ? elites[Math.floor(Math.random() * elites.length)]
      : map.names.map((_, m) => map.low[m] + Math.random() * (map.high[m] - map.low[m]));
    State.state.wish = { ...State.blank(), measures: measures.map(value => Number(value.toFixed(2))) };
    State.state.seed = Math.floor(Math.random() * 1e6);
    State.state.which = 0;
    ask(true);
  }

  function neighbour() {
    const { map } = facts, one = films[State.state.which];
    const from = State.state.wish.measures.map((value, m) => value ?? one?.reached[m] ?? (map.low[m] + map.high[m]) / 2);
    const direction = from.map(() => Math.random() - 0.5), norm = Math.hypot(...direction) || 1;
    const measures = from.map((value, m) => Math.min(map.high[m], Math.max(map.low[m], value + 2.5 * MapView.size(m) * direction[m] / norm)));
    State.state.wish = { ...State.blank(), measures: measures.map(value => Number(value.toFixed(3))) };
    ask(true);
  }

  async function save(fetchIt, name) {
    try {
      const link = Controls.element("a", { href: URL.createObjectURL(await fetchIt(answer.request, State.state.which)), download: name });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    } catch (problem) { complain(problem); }
  }

  function back(saved, pair) {
    if (pair) {
      comparing = true;
      Stage.compare(...pair.map(entry => entry.one));
      const told = ({ one, label }) => `${label} (${Stage.told(one)})`;
      byId("caption").textContent = `The two pinned policies. In colour: ${told(pair[0])}. In grey: ${told(pair[1])}.`;
      return;
    }
    const { request, which } = saved;
    Object.assign(State.state, { ...request, wish: State.copy(request.wish), which });
    ask(true);
  }

  function keyboard() {
    document.addEventListener("keydown", event => {
      if (event.target.closest("input, select, textarea, button, canvas, summary") && event.key !== "Escape") return;
      if (event.key === " ") { event.preventDefault(); Stage.toggle(); }
      else if (event.key === "r") surprise();
      else if (event.key === "n") neighbour();
      else if (/^[1-5]$/.test(event.key) && films[event.key - 1]) pick(event.key - 1);
      else if (event.key === "Escape") document.activeElement.blur();
    });
  }

  function settings(first) {
    const about = byId("about"), count = facts.map.elites.reference?.measures.length || facts.map.elites.stored?.measures.length || 0;
    byId("name").textContent = facts.task || facts.name;
    document.title = `${facts.task || facts.name} – ldpol explorer`;
    about.textContent = !facts.model ? `${count} elites` : `${Math.round(facts.model.bytes / 1000)} kB of model`
      + (count ? ` in place of ${count} policies` : "");
    MapView.begin(facts, (measures, settled) => {
      const { wish } = State.state;
      for (const [m, value] of Object.entries(measures)) wish.measures[m] = Number(value.toFixed(4));
      wish.text = null;
      ask(settled);
    });
    if (first) Stage.begin(facts, pick);
    Controls.begin(facts, ask);
    Sequence.begin(facts, () => State.remember(false));
    State.state.layer = MapView.setLayer(State.state.layer);
    if (State.state.layer === "elites") State.state.layer = "";
    byId("layer").onchange = event => { State.state.layer = MapView.setLayer(event.target.value); State.remember(false); };
  }

  async function watch() {
    for (;;) {
      let status;
      try { status = await Api.status(); } catch (problem) { status = { ready, doing: "", trouble: problem.message }; }
      const host = byId("status"), over = Object.values(status.ready).every(Boolean);
      host.classList.toggle("working", !over && !status.trouble && !Api.exported);
      host.textContent = status.trouble ? status.trouble : over || Api.exported ? "" : status.ready.films
        ? `ready; still ${status.doing}` : `warming up: ${status.doing}, ${Math.round(status.seconds)} s`;
      const films_now = status.ready.films && !ready.films, numbers_now = status.ready.numbers && !ready.numbers && answer;
      ready = status.ready;
      Sequence.setReady(Boolean(ready.sequences));
      if (films_now) { await warm(); byId("save-policy").disabled = byId("save-film").disabled = !answer; }
      else if (numbers_now && !films.every(one => one.numbers)) settle();
      if (over || Api.exported || status.trouble) return;
      await new Promise(done => setTimeout(done, ready.films ? 1000 : 400));
    }
  }

  // The model can answer now: facts are complete, and what the address asks for, or the person did, can be had.
  async function warm() {
    facts = await Api.facts();
    if (State.state.wish) State.begin(facts); else start();
    const kept = { ...State.state };
    settings(false);
    Object.assign(State.state, { wish: kept.wish });
    Controls.show(); Sequence.render();
    if (!answer || !State.same(answer.request.wish, State.state.wish) || facts.films.length) ask(false);
  }

  function start() {
    State.begin(facts);
    State.read(location.hash);
    settings(true);
    Shelf.begin(back);
    byId("surprise").onclick = surprise;
    byId("neighbour").onclick = neighbour;
    byId("copy").onclick = async () => { await navigator.clipboard.writeText(byId("code").textContent); byId("copy").textContent = "Copied"; setTimeout(() => { byId("copy").textContent = "Copy"; }, 1500); };
    byId("save-policy").onclick = () => save(Api.policy, "policy.npz");
    byId("save-film").onclick = () => save(Api.page, "film.html");
    byId("save-policy").hidden = byId("save-film").hidden = Api.exported;
    window.addEventListener("popstate", () => { if (State.read(location.hash)) { Sequence.render(); ask(false); } });
    window.addEventListener("resize", () => { MapView.resize(); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => MapView.repaint());
    keyboard();
  }

  async function begin() {
    try { facts = await Api.facts(); } catch (problem) { complain(problem); return; }
    if (facts.map) {
      const named = location.hash.includes("ask=");
      start();
      Controls.show();
      if (facts.films.length && !named) {
        const first = facts.films[0];
        State.state.wish = State.copy(first.request.wish);
        State.state.seed = first.request.seed;
        Controls.show();
        await present(first);
      }
    }
    watch();
  }
  begin();
  return { complain };
})();
