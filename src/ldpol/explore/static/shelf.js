"use strict";
// What was seen so far: a picture of each answer, to go back to, or to pin and compare.

const Shelf = (() => {
  const MOST = 40;
  const byId = id => document.getElementById(id);
  let entries = [], pinned = [], onBack = () => {};

  function begin(back) {
    onBack = back;
    byId("compare").onclick = () => {
      if (pinned.length === 2) onBack(null, pinned);
    };
    render();
  }

  // Keep an answer with what was asked for; `one` is the film that was shown large.
  function add(saved, one, label) {
    const old = entries.findIndex(entry => State.same(entry.saved, saved));
    const entry = old >= 0 ? entries.splice(old, 1)[0] : { saved, one, label };
    entries.unshift(entry);
    const spare = entries.filter(other => !pinned.includes(other));
    if (entries.length > MOST) entries = entries.filter(other => other !== spare[spare.length - 1]);
    render();
  }

  function pin(entry) {
    pinned = pinned.includes(entry) ? pinned.filter(other => other !== entry) : [...pinned, entry].slice(-2);
    render();
  }

  function render() {
    const host = byId("shelf");
    byId("compare").disabled = pinned.length < 2;
    if (!entries.length) {
      host.replaceChildren(Controls.element("p", { className: "hint", textContent: "Every policy that you look at is kept here." }));
      return;
    }
    host.replaceChildren(...entries.map((entry, i) => {
      const canvas = document.createElement("canvas"), held = pinned.includes(entry);
      const button = Controls.element("button", { type: "button", className: "seen" }, canvas,
        Controls.element("span", {}, Controls.element("small", { textContent: entry.label })));
      button.setAttribute("aria-current", i === 0);
      button.onclick = () => onBack(entry.saved, null);
      const tack = Controls.element("button", { type: "button", className: "pin", textContent: held ? "pinned" : "pin" });
      tack.setAttribute("aria-pressed", held);
      tack.onclick = () => pin(entry);
      const frame = Controls.element("div", { className: "frame" }, button, tack);
      requestAnimationFrame(() => {
        Stage.fit(canvas);
        Body.draw(canvas, [{ film: entry.one.reel }], entry.one.reel.length * 0.45,
          { ...Stage.eye, turn: 0.35, tilt: 0.12, trail: 0, plain: true, scale: canvas.height * 0.5 });
      });
      return frame;
    }));
  }

  return { begin, add, render };
})();
