"use strict";
// How to ask: sliders with a "free" tick, a sentence, and the dials of the sampler.

const Controls = (() => {
  const byId = id => document.getElementById(id);
  let facts = null, changed = () => {}, sliders = [], dials = {};

  function element(tag, fields = {}, ...children) {
    const made = Object.assign(document.createElement(tag), fields);
    made.append(...children);
    return made;
  }

  // A slider whose tick leaves its value free; `set` shows a value, null being free. It stands at `start` until then.
  function slider(name, low, high, digits, put, { word = "free", usual = "any", start = (low + high) / 2 } = {}) {
    const range = element("input", { type: "range", min: low, max: high, step: (high - low) / 200 });
    range.value = start;
    const output = element("output"), tick = element("input", { type: "checkbox" });
    range.setAttribute("aria-label", name);
    tick.setAttribute("aria-label", `${name}: ${word}`);
    const row = element("div", { className: "slider" }, element("span", { textContent: name }), range, output,
      element("label", {}, tick, ` ${word}`));
    const set = value => {
      tick.checked = value === null;
      row.classList.toggle("free", value === null);
      if (value !== null) range.value = value;
      output.textContent = value === null ? usual : Number(value).toFixed(digits);
    };
    range.oninput = () => { set(Number(range.value)); put(Number(range.value), false); };
    range.onchange = () => put(Number(range.value), true);
    tick.onchange = () => { const value = tick.checked ? null : Number(range.value); set(value); put(value, true); };
    return { row, set, enable: on => { range.disabled = tick.disabled = !on; } };
  }

  function begin(found, onChange) {
    facts = found; changed = onChange;
    const { map, model } = facts, put = (place, value, settled) => { place(value); changed(settled); };
    sliders = map.names.map((name, m) => slider(name, map.low[m], map.high[m], 2,
      (value, settled) => put(v => { State.state.wish.measures[m] = v; }, value, settled)));
    byId("sliders").replaceChildren(...sliders.map(one => one.row));
    byId("more").hidden = !model || Api.exported;
    byId("speech").hidden = !model || !model.speaks;
    if (!model) return;
    dials.quality = slider("fitness rank", 0, 1, 2,
      (value, settled) => put(v => { State.state.wish.quality = v; }, value, settled), { start: 1 });
    dials.guidance = slider("guidance", 0, 8, 1,
      (value, settled) => put(v => { State.state.guidance = v; }, value, settled), { word: "usual", usual: "usual", start: model.guidance });
    const seed = element("input", { type: "number", min: 0, max: 2 ** 31 - 5, step: 1, id: "seed" });
    seed.onchange = () => { State.state.seed = Math.min(2 ** 31 - 5, Math.max(0, Math.round(seed.value) || 0)); changed(true); };
    const again = element("button", { type: "button", textContent: "Four others", id: "again" });
    again.onclick = () => { State.state.seed = (State.state.seed + 1) % (2 ** 31 - 5); changed(true); };
    const steps = element("select", { id: "steps" });
    steps.append(new Option(`${model.steps}, as trained`, ""));
    for (const count of [2, 4, 8, 16, 32]) if (count !== model.steps) steps.append(new Option(count, count));
    steps.onchange = () => { State.state.steps = steps.value ? Number(steps.value) : null; changed(true); };
    const sources = element("select", { id: "sources" });
    sources.append(new Option("verified draws", "yes"), new Option("diffusion", "no"));
    sources.onchange = () => { State.state.verified = sources.value === "yes"; changed(true); };
    const dial = (name, ...parts) => element("div", { className: "dial" }, element("label", { textContent: name, htmlFor: parts[0].id }), ...parts);
    const stepping = dial("sampler steps", steps);
    byId("dials").replaceChildren(dials.quality.row, dial("seed", seed, again),
      ...(model.verified && model.diffuses ? [dial("answer from", sources)] : []), dials.guidance.row, stepping);
    Object.assign(dials, { seed, steps, sources, ofDiffusion: [dials.guidance.row, stepping] });
    byId("speech").onsubmit = event => { event.preventDefault(); say(byId("text").value); };
    chips(facts.examples || []);
  }

  function chips(examples) {
    const said = facts.exported_texts || examples;
    byId("chips").replaceChildren(...said.map(text => {
      const chip = element("button", { type: "button", textContent: text });
      chip.onclick = () => say(text);
      return chip;
    }));
    byId("text").closest(".row").hidden = Api.exported;
  }

  // Ask for a sentence and nothing else.
  function say(text) {
    const told = text.trim();
    State.state.wish = { ...State.blank(), text: told || null };
    show();
    changed(true);
  }

  // Show the state in all controls.
  function show() {
    const { wish, seed, guidance, steps, verified } = State.state;
    sliders.forEach((one, m) => one.set(wish.measures[m]));
    if (!facts.model) return;
    dials.quality.set(wish.quality);
    dials.guidance.set(guidance);
    dials.seed.value = seed;
    dials.steps.value = steps ?? "";
    dials.sources.value = verified ? "yes" : "no";
    for (const row of dials.ofDiffusion) row.hidden = Boolean(facts.model.verified && verified);
    if (document.activeElement !== byId("text")) byId("text").value = wish.text || "";
  }

  // What was understood, and whether it came true: `holds` may still be unknown.
  function understood(answer, holds) {
    const host = byId("understood");
    host.replaceChildren();
    for (const note of answer.notes) host.append(element("p", { className: "hint", textContent: note }));
    if (!answer.understood.length) {
      if (answer.request.wish.text) host.append(element("p", { className: "hint", textContent: "Nothing was understood for sure." }));
      return;
    }
    const sure = answer.understood.filter(one => one.probability >= 0.5);
    const came = holds && sure.filter(one => holds[answer.understood.indexOf(one)]).length;
    host.append(element("p", { className: "hint", textContent: "Understood, with probabilities" + (holds ? `; ${came} of ${sure.length} came true in ten episodes` : "") }));
    answer.understood.forEach((one, i) => {
      const faint = one.probability < 0.5, held = holds && holds[i];
      const mark = element("span", { textContent: !holds || faint ? "·" : held ? "✓" : "✗", className: !holds || faint ? "" : held ? "good" : "bad" });
      if (holds && !faint) mark.setAttribute("aria-label", held ? "holds" : "does not hold");
      const bar = element("i");
      bar.style.width = `${Math.round(one.probability * 100)}%`;
      host.append(element("div", { className: `claim${faint ? " faint" : ""}` }, mark, element("span", { textContent: one.text.replaceAll(">=", "≥").replaceAll("<=", "≤") }),
        element("span", { textContent: `${Math.round(one.probability * 100)} %` }), bar));
    });
  }

  return { begin, show, understood, say, chips, element };
})();
