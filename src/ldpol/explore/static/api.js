"use strict";
// Where answers come from: the server of this page or, in an exported page, the files beside it.

const Api = (() => {
  const client = Math.random().toString(36).slice(2, 12);

  class Problem extends Error {
    constructor(message, code) { super(message); this.code = code; }
  }

  const silent = () => { throw new Problem("the explorer does not answer; is it still running?", 0); };

  async function get(path) {
    const response = await fetch(path).catch(silent);
    if (!response.ok) throw new Problem("the explorer does not answer", response.status);
    return response.json();
  }

  async function post(path, body, lane = "") {
    const response = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ ...body, client: client + lane }) }).catch(silent);
    if (!response.ok) {
      const { error } = await response.json().catch(() => ({}));
      throw new Problem(error || `something went wrong (${response.status})`, response.status);
    }
    if (response.status === 204) throw new Problem("", 409); // something newer was asked for
    return response;
  }

  const live = {
    facts: () => get("api/facts"),
    status: () => get("api/status"),
    draw: async request => (await post("api/draw", request)).json(),
    numbers: async (request, which) => (await post("api/numbers", { ...request, which })).json(),
    sequence: async (wishes, seed) => (await post("api/sequence", { wishes, seed }, "-sequence")).json(),
    policy: async (request, which) => (await post("api/policy", { ...request, which }, "-save")).blob(),
    page: async (request, which) => (await post("api/page", { ...request, which }, "-save")).blob(),
  };

  // An exported page: `EXPORTED` holds facts and what was asked for beforehand; answers are scripts, because a page
  // opened from a disk may not fetch.
  const loaded = new Map();
  function load(index) {
    if (!loaded.has(index)) {
      loaded.set(index, new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = `cells/${index}.js`;
        script.onload = () => resolve(Api.cells[index]);
        script.onerror = () => reject(new Problem("a file of this page is missing", 0));
        document.head.append(script);
      }));
    }
    return loaded.get(index);
  }
  // Which of the wishes that were asked for beforehand comes nearest to one: the same sentence first of all.
  function nearest(beforehand, wish, { low, high }) {
    let best = 0, least = Infinity;
    beforehand.forEach((one, index) => {
      let distance = (one.text || null) === (wish.text || null) ? 0 : 1e6;
      wish.measures.forEach((value, m) => {
        const other = one.measures[m];
        if (value !== null && other !== null) distance += ((value - other) / (high[m] - low[m])) ** 2;
        else if (value !== other) distance += 1;
      });
      if (distance < least) [best, least] = [index, distance];
    });
    return best;
  }
  const exported = {
    facts: async () => EXPORTED.facts,
    status: async () => ({ ready: { films: true, numbers: true, sequences: false }, doing: "", trouble: null }),
    draw: ({ wish }) => load(nearest(EXPORTED.asked, wish, EXPORTED.facts.map)),
  };

  // Runs one at a time; of what is asked for meanwhile, only the latest.
  function latest(run) {
    let busy = false, next = null;
    return async function ask(...what) {
      if (busy) { next = what; return; }
      busy = true;
      try { await run(...what); } finally {
        busy = false;
        if (next) { const then = next; next = null; ask(...then); }
      }
    };
  }

  return { ...(EXPORTED ? exported : live), exported: Boolean(EXPORTED), latest, nearest, Problem, cells: {} };
})();
