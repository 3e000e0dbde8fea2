"use strict";
// What is asked for, and where it is kept: in the address of the page.

const State = (() => {
  let facts = null;
  const state = { wish: null, seed: 0, guidance: null, steps: null, verified: true, which: 0, layer: "", sequence: [] };

  const short = value => String(Number(value.toFixed(4)));

  // Again once the model is ready: only then do the facts say what it can do.
  function begin(found) {
    facts = found;
    state.wish ??= blank();
  }
  const blank = () => ({ measures: facts.map.names.map(() => null), quality: null, text: null });

  const copy = wish => ({ ...wish, measures: [...wish.measures] });

  // A wish in one line of an address: "0.2,*;q0.9;t walk slowly".
  function pack(wish) {
    const parts = [wish.measures.map(value => value === null ? "*" : short(value)).join(",")];
    if (wish.quality !== null) parts.push(`q${short(wish.quality)}`);
    if (wish.text) parts.push(`t${wish.text}`);
    return parts.join(";");
  }
  function unpack(line) {
    const wish = blank(), [measures, ...rest] = line.split(";");
    measures.split(",").slice(0, wish.measures.length).forEach((part, m) => {
      const value = Number(part);
      if (part !== "*" && part !== "" && Number.isFinite(value)) {
        wish.measures[m] = Math.min(facts.map.high[m], Math.max(facts.map.low[m], value));
      }
    });
    const quality = rest.find(part => /^q[\d.]+$/.test(part)), text = rest.findIndex(part => part[0] === "t");
    if (quality) wish.quality = Math.min(1, Number(quality.slice(1)));
    if (text >= 0) wish.text = rest.slice(text).join(";").slice(1, 301) || null;
    return wish;
  }

  function address() {
    const fields = new URLSearchParams({ ask: pack(state.wish) });
    if (state.seed) fields.set("seed", state.seed);
    if (state.guidance !== null) fields.set("guidance", short(state.guidance));
    if (state.steps !== null) fields.set("steps", state.steps);
    if (!state.verified) fields.set("verified", "no");
    if (state.which) fields.set("film", state.which);
    if (state.layer) fields.set("layer", state.layer);
    state.sequence.forEach(wish => fields.append("then", pack(wish)));
    return `#${fields}`;
  }

  // Take over what an address says; false if it says nothing.
  function read(hash) {
    const fields = new URLSearchParams(hash.slice(1));
    const number = (name, low, high) => {
      const value = Number(fields.get(name));
      return fields.get(name) === null || !Number.isFinite(value) ? null : Math.min(high, Math.max(low, value));
    };
    state.sequence = fields.getAll("then").slice(0, 6).map(unpack);
    state.layer = fields.get("layer") || "";
    if (!fields.has("ask")) return false;
    state.wish = unpack(fields.get("ask"));
    state.seed = Math.round(number("seed", 0, 2 ** 31 - 5) || 0);
    state.guidance = number("guidance", 0, 8);
    const steps = number("steps", 2, 32);
    state.steps = [2, 4, 8, 16, 32].includes(steps) ? steps : null;
    state.verified = fields.get("verified") !== "no";
    state.which = Math.round(number("film", 0, 4) || 0);
    return true;
  }

  // A settled request is a step to go back to; a drag is not.
  function remember(settled) {
    const now = address();
    if (now === location.hash) return;
    if (settled && location.hash) history.pushState(null, "", now); else history.replaceState(null, "", now);
  }

  const request = () => ({ wish: copy(state.wish), seed: state.seed, guidance: state.guidance,
    steps: state.steps, verified: state.verified });
  const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

  // A wish in few words.
  function words(wish) {
    const given = wish.measures.map((value, m) => value === null ? null : `${facts.map.names[m]} ${value.toFixed(2)}`)
      .filter(Boolean);
    if (wish.text) given.unshift(`“${wish.text}”`);
    if (wish.quality !== null) given.push(`fitness rank ${wish.quality.toFixed(2)}`);
    return given.join(", ") || "anything";
  }

  const quoted = text => JSON.stringify(text);
  function python(answer) {
    const { wish, seed, guidance, steps, verified } = answer.request, one = answer.films[state.which] || answer.films[0];
    const evaluate = (apply, what) => `evaluate = jax.jit(lambda policies, keys: rollout.rollout_batch(task, ${apply}, policies, keys, episodes=10))\n`
      + `score = evaluate(${what}, jax.random.key(0)[None])\nprint(score.measures.mean((0, 1)), score.fitness.mean())`;
    if (facts.opening) {
      return `${facts.opening}\npolicies = ldpol.archive.take(elites, [${one.row ?? 0}]).policies\n\n`
        + evaluate("elites.network.apply", "policies");
    }
    const how = [];
    if (wish.measures.some(value => value !== null)) {
      how.push(`jnp.array([${wish.measures.map(v => v === null ? "jnp.nan" : short(v)).join(", ")}])`);
    }
    if (wish.quality !== null) how.push(`quality=${short(wish.quality)}`);
    if (wish.text) how.push(`text=model.read([${quoted(wish.text)}])[0]`);
    if (!verified || !facts.model.verified) {
      if (guidance !== null) how.push(`guidance=${short(guidance)}`);
      else if (wish.text) how.push("guidance=model.text_guidance");
      if (steps !== null) how.push(`steps=${steps}`);
    }
    if (!verified) how.push("verified=False");
    const draws = answer.films.filter(other => other.role === "generated").length, which = one.role === "generated" ? state.which : 0;
    return `import jax, jax.numpy as jnp\n\nimport ldpol\nfrom ldpol import rollout\nfrom ldpol.sample import make_task\n\n`
      + `model = ldpol.load(${quoted(facts.name)})\n`
      + `policies, _ = model.sample_set(${["jax.random.key(" + seed + ")", draws, ...how].join(", ")})\n`
      + `policy = jax.tree.map(lambda leaf: leaf[${which}], policies)  # draw ${which + 1}\n\ntask = make_task(model)\n`
      + evaluate("model.apply", "jax.tree.map(lambda leaf: leaf[None], policy)");
  }

  return { state, begin, blank, copy, read, remember, request, same, words, python };
})();
