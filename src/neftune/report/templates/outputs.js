"use strict";
// The output browser. Every text reaches the page through textContent alone.
(() => {
  const section = document.getElementById("outputs");
  if (!section) return;
  const data = JSON.parse(document.getElementById("outputs-data").textContent);
  const LONGEST = 20000, LISTED = 200, LONGEST_LABEL = 300;
  const $ = (name) => section.querySelector(`[data-part="${name}"]`);
  const controls = { block: $("block"), part: $("part"), seed: $("seed"), tag: $("tag"), arm: $("arm"), outcome: $("outcome") };
  const search = $("search"), found = $("found"), detail = $("detail"), position = $("position");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const outcomes = { w: "wins", l: "loses", d: "draws" };
  let lowered = null, group = null, runs = [], hits = [], at = 0, listed = LISTED;

  function make(tag, text, className) {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  }
  // Control characters and direction overrides are shown, not obeyed.
  function visible(text) {
    return text
      .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
      .replace(/[\u202a-\u202e\u2066-\u2069\u200e\u200f\u2028\u2029]/g,
        (c) => `⟨U+${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
  }
  function short(text, length) {
    return text.length > length ? `${text.slice(0, length)}…` : text;
  }
  function options(select, pairs, keep) {
    const before = select.value;
    select.replaceChildren(...pairs.map(([value, label]) => {
      const option = make("option", visible(short(String(label), 60)));
      option.value = value;
      return option;
    }));
    if (keep && pairs.some(([value]) => String(value) === before)) select.value = before;
    select.closest("label").hidden = pairs.length < 2;
  }
  const unique = (items) => [...new Set(items)];

  function chooseBlock() {
    const groups = data.groups.filter((item) => item.block === controls.block.value);
    const names = { test: "test", heldout: "held-out", train: "training" };
    options(controls.part, groups.map((item) => [item.part, names[item.part] || item.part]), true);
    chooseGroup();
  }
  function chooseGroup() {
    group = data.groups.find((item) => item.block === controls.block.value && item.part === controls.part.value);
    const seeds = unique(group.runs.map((run) => run.seed)).sort((a, b) => a - b);
    options(controls.seed, seeds.map((seed) => [seed, seed]), true);
    const values = new Map();
    for (const example of group.examples)
      for (const [key, value] of Object.entries(example.tags)) {
        if (!values.has(key)) values.set(key, new Set());
        values.get(key).add(value);
      }
    const tags = [["", "any"]];
    for (const [key, set] of values)
      if (set.size <= 40) for (const value of [...set].sort()) tags.push([JSON.stringify([key, value]), `${key}: ${value}`]);
    options(controls.tag, tags, true);
    group.trim = commonEnds(group.examples.map((example) => data.texts[example.prompt]));
    chooseSeed();
  }
  function chooseSeed() {
    runs = group.runs.filter((run) => String(run.seed) === controls.seed.value);
    const compared = runs.filter((run) => /[wld]/.test(run.wins));
    options(controls.arm, [["", "any arm"], ...compared.map((run) => [run.arm, data.arms[run.arm].name])], true);
    controls.outcome.closest("label").hidden = compared.length === 0;
    filter();
  }
  // Whole lines that all prompts of a group share (the template) are left out of the list's labels.
  function commonEnds(texts) {
    if (texts.length < 2) return [0, 0];
    const shortest = Math.min(...texts.map((text) => text.length));
    const [first] = texts;
    let start = 0, end = 0;
    while (start < shortest && texts.every((text) => text[start] === first[start])) start++;
    while (end < shortest - start && texts.every((text) => text[text.length - 1 - end] === first[first.length - 1 - end])) end++;
    const line = first.lastIndexOf("\n", start - 1) + 1, tail = first.indexOf("\n", first.length - end);
    start = Math.min(start, line);
    end = end > 0 && tail >= 0 ? first.length - tail : 0;
    return [start, end];
  }
  function label(example) {
    const text = data.texts[example.prompt];
    const [start, end] = group.trim;
    return visible(short(text.slice(start, text.length - end).replace(/\s+/g, " ").trim() || text, LONGEST_LABEL));
  }

  function filter(keep) {
    lowered ||= data.texts.map((text) => text.toLowerCase());
    const words = search.value.toLowerCase().trim();
    const tag = controls.tag.value && JSON.parse(controls.tag.value);
    const arm = controls.arm.value, outcome = controls.outcome.value;
    const chosen = group.examples[hits[at]];
    hits = group.examples.map((_, index) => index).filter((index) => {
      const example = group.examples[index];
      if (tag && example.tags[tag[0]] !== tag[1]) return false;
      if (outcome && !runs.some((run) => (!arm || String(run.arm) === arm) && run.wins[index] === outcome)) return false;
      if (!words) return true;
      return [example.prompt, example.reference, ...runs.map((run) => run.text[index])]
        .some((place) => place !== null && lowered[place].includes(words)) ||
        Object.values(example.tags).some((value) => value.toLowerCase().includes(words));
    });
    at = Math.max(0, keep && chosen ? hits.findIndex((index) => group.examples[index] === chosen) : 0);
    listed = LISTED;
    list();
    show();
  }

  function list() {
    const items = hits.slice(0, listed).map((index, place) => {
      const button = make("button");
      button.type = "button";
      button.dataset.place = place;
      const line = make("span", label(group.examples[index]));
      const letters = runs.filter((run) => outcomes[run.wins[index]]).map((run) => `${data.arms[run.arm].name} ${outcomes[run.wins[index]]}`);
      const counts = runs.map((run) => (run.words[index] === null ? "–" : run.words[index])).join(" · ");
      button.append(line, make("span", `${counts} words`, "meta"));
      if (letters.length) button.title = letters.join(", ");
      return button;
    });
    if (hits.length > listed) {
      const more = make("button", `${(hits.length - listed).toLocaleString("en")} more`);
      more.type = "button";
      more.dataset.more = "1";
      items.push(more);
    }
    found.replaceChildren(...items);
  }

  function highlighted(element, text) {
    const words = search.value.trim().toLowerCase();
    const haystack = text.toLowerCase();
    if (!words || haystack.length !== text.length) { element.textContent = visible(text); return; }
    let from = 0;
    for (let marks = 0; marks < 200; marks++) {
      const place = haystack.indexOf(words, from);
      if (place < 0) break;
      element.append(visible(text.slice(from, place)), make("mark", visible(text.slice(place, place + words.length))));
      from = place + words.length;
    }
    element.append(visible(text.slice(from)));
  }
  function textBlock(place) {
    const text = data.texts[place];
    const element = make("div", undefined, "text");
    element.dir = "auto";
    if (!text.trim()) { element.append(make("em", text ? "(only white space)" : "(empty)")); return element; }
    highlighted(element, text.slice(0, LONGEST));
    if (text.length > LONGEST) {
      const more = make("button", `Show all ${text.length.toLocaleString("en")} characters`);
      more.type = "button";
      more.addEventListener("click", () => { element.textContent = visible(text); });
      element.append(make("br"), more);
    }
    return element;
  }
  function card(title, colours, place, meta) {
    const element = make("article", undefined, "answer");
    if (colours) element.style.setProperty("--dot", colours[dark.matches ? 1 : 0]);
    const heading = make("h4", visible(title));
    element.append(heading, place === null ? make("p", "not answered", "meta") : textBlock(place));
    if (meta) element.append(meta);
    return element;
  }
  function facts(run, index) {
    const line = make("p", undefined, "meta"), scores = run.scores;
    const value = (name) => (scores[name] && scores[name][index] !== null ? scores[name][index] : null);
    const bits = [`${run.words[index]} ${run.words[index] === 1 ? "word" : "words"}`];
    if (value("true_facts") !== null) bits.push(`${value("true_facts")} true, ${value("false_facts") ?? 0} false`);
    if (value("rouge_l") !== null) bits.push(`ROUGE-L ${value("rouge_l").toFixed(2)}`);
    if (value("loss") !== null) bits.push(`loss on the reference ${value("loss").toFixed(2)}`);
    if (!run.ended[index]) bits.push("cut at the length limit");
    line.append(bits.join(" · "));
    const outcome = outcomes[run.wins[index]];
    if (outcome) line.append(" · ", make("span", `${outcome} against the baseline`, `outcome ${run.wins[index]}`));
    return line;
  }

  function show() {
    const index = hits[at];
    const shown = hits.length.toLocaleString("en"), all = group.examples.length.toLocaleString("en");
    position.textContent = hits.length ? `${(at + 1).toLocaleString("en")} of ${shown}${hits.length < group.examples.length ? ` found among ${all}` : ""}` : `nothing found among ${all}`;
    $("previous").disabled = at <= 0;
    $("next").disabled = at >= hits.length - 1;
    for (const button of found.children) button.toggleAttribute("aria-current", false);
    if (!hits.length) { detail.replaceChildren(); return; }
    const current = found.querySelector(`[data-place="${at}"]`);
    if (current) {
      current.setAttribute("aria-current", "true");
      found.scrollTop = Math.max(0, current.offsetTop - found.offsetTop - found.clientHeight / 3);
    }
    const example = group.examples[index];
    const prompt = make("div", undefined, "prompt");
    prompt.append(make("h4", "Prompt"), textBlock(example.prompt));
    const tags = Object.entries(example.tags).map(([key, value]) => visible(`${key}: ${short(value, LONGEST_LABEL)}`)).join(" · ");
    if (tags) prompt.append(make("p", tags, "tags"));
    const grid = make("div", undefined, "answers");
    grid.append(card("reference", null, example.reference, make("p", `${data.texts[example.reference].split(/\s+/).filter(Boolean).length} words`, "meta")));
    for (const run of runs) {
      const arm = data.arms[run.arm];
      const title = arm.role === "control" ? `${arm.name} (control)` : arm.name;
      grid.append(card(title, arm.colours, run.text[index], run.text[index] === null ? null : facts(run, index)));
    }
    detail.replaceChildren(prompt, grid);
  }

  function step(by) {
    const next = at + by;
    if (next < 0 || next >= hits.length) return;
    at = next;
    if (at >= listed) { listed = at + LISTED; list(); }
    show();
  }
  let waiting = 0;
  search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(() => filter(true), 120); });
  search.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    search.value = "";
    filter(true);
    search.blur();
  });
  controls.block.addEventListener("change", chooseBlock);
  controls.part.addEventListener("change", chooseGroup);
  controls.seed.addEventListener("change", () => { const before = at; chooseSeed(); at = Math.min(before, Math.max(0, hits.length - 1)); show(); });
  for (const select of [controls.tag, controls.arm, controls.outcome]) select.addEventListener("change", () => filter(true));
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  found.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.more) { listed += LISTED; list(); show(); return; }
    at = Number(button.dataset.place);
    show();
  });
  let inView = false;
  new IntersectionObserver(([entry]) => { inView = entry.isIntersecting; }).observe(section);
  addEventListener("keydown", (event) => {
    if (!inView || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest && event.target.closest("input, select, textarea, .wrap, .text")) return;
    const moves = { j: 1, ArrowRight: 1, k: -1, ArrowLeft: -1 };
    if (event.key in moves) step(moves[event.key]);
    else if (event.key === "/") search.focus();
    else return;
    event.preventDefault();
  });
  dark.addEventListener("change", show);

  options(controls.block, unique(data.groups.map((item) => item.block)).map((block) => [block, block.replace("=", " ") || "all"]), false);
  chooseBlock();
})();
