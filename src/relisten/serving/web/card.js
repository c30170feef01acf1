// A question and its answers: the reasoning as it is written, each segment in its place, the choice that was read.

const NUM_COLOURS = 6;
const TAG = /<(\w+)>((?:(?!<\1>)[^])*?)<\/\1>/g;
const NUMBER = String.raw`\s{0,8}([0-9]{1,9}(?:\.[0-9]{1,9})?)\s{0,8}`;
const TIMES = new RegExp(`^${NUMBER},${NUMBER}$`), BAND = new RegExp(`^${NUMBER},${NUMBER},${NUMBER},${NUMBER}$`);
const FINISHES = {
  length: "The limit on new tokens was reached, so the answer was forced.",
  listens: "The limit on listens was reached, so the answer was forced.",
  context: "The model's context was full, so the answer was forced.",
  repetition: "The model repeated itself, so its text was cut there and the answer was forced.",
};

// Characters that could steer the page's text direction are shown as such.
const plain = (text) => text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");

export const element = (name, className = "", text = "") => {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = plain(text);
  return made;
};

// How a segment was heard: "" for a plain crop.
export const way = ({ operation, band }) => band ? `${Math.round(band[0])}–${Math.round(band[1])}\u2009Hz` : operation && operation !== "seg" ? operation : "";

// The text cut at its tags: strings, {start, end, heard, operation, band} and {refused, reason}.
export const pieces = (text, segments, refusals) => {
  const found = [], heard = [...segments], refused = [...refusals];
  let position = 0;
  for (const match of text.matchAll(TAG)) {
    const times = (match[1] === "band" ? BAND : TIMES).exec(match[2]);
    if (!times && !refused.some((one) => one.text === match[0].slice(0, 80))) { continue; }
    if (match.index > position) { found.push(text.slice(position, match.index)); }
    position = match.index + match[0].length;
    const [start, end] = times ? [Number(times[1]), Number(times[2])] : [0, 0];
    const at = refused.findIndex((one) => one.text === match[0].slice(0, 80));
    if (times && heard.length && Math.abs(heard[0].start - start) < 0.02 && heard[0].end <= end + 0.02) {
      const { start, end, operation, band } = heard.shift();
      found.push({ start, end, operation, band, heard: true });
    } else if (at >= 0) {
      found.push({ refused: match[0], reason: refused.splice(0, at + 1)[at].reason });
    } else if (start < end) {
      found.push({ start, end, heard: false });
    } else {
      found.push(match[0]);
    }
  }
  if (position < text.length) { found.push(text.slice(position)); }
  return found;
};

export class Take {
  text = "";
  answer = "";
  segments = [];
  refusals = [];
  told = null;

  constructor(format, stretch, alone, on) {
    this.format = format;
    this.stretch = stretch;
    this.offset = stretch?.[0] ?? 0;
    this.on = on;
    this.element = element("div", "take");
    const head = element("h3", "", format);
    if (!alone) {
      const show = element("button", "link", "show on the waveform");
      show.type = "button";
      show.addEventListener("click", () => on.show(this));
      head.append(show);
    }
    this.reasoning = element("div", "reasoning writing");
    this.verdict = element("div", "verdict");
    this.notice = element("p", "notice");
    this.notice.setAttribute("role", "note");
    this.notice.hidden = true;
    this.element.append(head, this.reasoning, this.notice, this.verdict);
  }

  // The segments in the order of the text, in seconds of the whole recording.
  get drawn() {
    return pieces(this.text, this.segments, this.refusals).filter((piece) => piece.end !== undefined)
      .map((piece) => ({ ...piece, start: piece.start + this.offset, end: piece.end + this.offset, stretch: this.stretch }));
  }

  add(delta) {
    this.text += delta.reasoning ?? "";
    this.answer += delta.content ?? "";
    this.segments.push(...(delta.relisten?.segments ?? []));
    this.refusals.push(...(delta.relisten?.refusals ?? []));
    this.#write();
    if (delta.content) { this.#say(this.answer, []); }
  }

  finish(told) {
    this.told = told;
    this.text = told.response.think ?? told.response.text.replace(/<answer>[^]*$/, "").replace(/^\s*<think>/, "");
    this.segments = told.segments;
    this.refusals = told.refusals;
    this.reasoning.classList.remove("writing");
    this.#write();
    const remarks = [told.notice, ...(told.warnings ?? [])].filter(Boolean);
    this.notice.textContent = plain(remarks.join(" "));
    this.notice.hidden = !remarks.length;
    const notes = [];
    if (told.answer === null) { notes.push("The model wrote none in <answer>."); }
    if (told.choice === null && this.on.choices.length && told.answer !== null) { notes.push("This is none of the choices."); }
    if (FINISHES[told.finish]) { notes.push(FINISHES[told.finish]); }
    this.#say(told.choice ?? told.answer ?? "No answer", notes);
    const heard = told.segments.length, { total } = told.seconds;
    this.verdict.append(element("p", "counts",
      `${heard} segment${heard === 1 ? "" : "s"} heard again` + (told.tokens ? ` · ${told.tokens.sampled} tokens written` : "") + (total ? ` · ${total.toFixed(1)} s` : "")));
  }

  fail(message) {
    this.reasoning.classList.remove("writing");
    const problem = element("p", "problem", message);
    problem.setAttribute("role", "alert");
    this.verdict.replaceChildren(problem);
  }

  #say(text, notes) {
    this.verdict.replaceChildren(element("p", "text", text), ...notes.map((note) => element("p", "note", note)));
  }

  #write() {
    let number = 0;
    const parts = pieces(this.text, this.segments, this.refusals).map((piece) => {
      if (typeof piece === "string") {
        const half = this.told ? -1 : piece.lastIndexOf("<");
        if (half < 0) { return element("span", "", piece); }
        const both = element("span", "", piece.slice(0, half));  // a tag that is being written
        both.append(element("span", "half", piece.slice(half)));
        return both;
      }
      if (piece.refused) {
        const refused = element("span", "refused");
        refused.append(element("s", "", piece.refused), ` (not heard: ${piece.reason})`);
        return refused;
      }
      const n = number++;
      const chip = element("button", `seg s${n % NUM_COLOURS}${piece.heard ? "" : " named"}`);
      const start = (piece.start + this.offset).toFixed(1), end = (piece.end + this.offset).toFixed(1);
      chip.type = "button";
      const how = piece.heard ? way(piece) : "";
      chip.setAttribute("aria-label", `Play segment ${n + 1}, ${start} to ${end} seconds${how && `, ${how}`}`);
      chip.append(element("b", "", String(n + 1)), `${start}–${end}\u2009s`);
      if (how) { chip.append(element("i", "", how)); }
      chip.addEventListener("click", () => this.on.hear(this, n));
      return chip;
    });
    this.reasoning.replaceChildren(...parts);
    if (this.told && !parts.length) { this.reasoning.replaceChildren(element("span", "refused", "The model wrote nothing.")); }
  }
}

// on: choices, show(take), hear(take, number), stop(), save(take), remove().
export class Card {
  constructor(asked, on) {
    this.asked = asked;
    const formats = asked.format === "compare" ? ["interleaved", "grounded", "conditioned"] : [asked.format];
    this.takes = formats.map((format) => new Take(format, asked.stretch, formats.length === 1, { choices: asked.choices, ...on }));
    this.element = element("article", "card");
    const where = asked.name + (asked.stretch ? ` · ${asked.stretch[0].toFixed(1)}–${asked.stretch[1].toFixed(1)} s of it` : "");
    this.element.append(element("p", "where", where), element("h2", "", asked.question));
    this.list = element("ul", "choices");
    this.list.setAttribute("aria-label", "Choices");
    if (asked.choices.length) { this.element.append(this.list); }
    const takes = element("div", formats.length > 1 ? "takes three" : "takes");
    takes.append(...this.takes.map((take) => take.element));
    this.actions = element("div", "actions");
    this.element.append(takes, this.actions);
    this.on = on;
    this.#choices();
    this.#action("Stop", () => on.stop());
  }

  shown(take) { this.takes.forEach((one) => one.element.classList.toggle("shown", this.takes.length > 1 && one === take)); }

  finished() {
    this.#choices();
    this.actions.replaceChildren();
    for (const take of this.takes.filter((one) => one.told)) {
      this.#action(this.takes.length > 1 ? `Save ${take.format} as a page` : "Save as a page", () => this.on.save(take));
    }
    this.#action("Remove", () => this.on.remove());
  }

  #choices() {
    // Where formats disagree, no choice is ticked: each take says its own below.
    const named = this.takes.map((take) => take.told?.choice);
    this.list.replaceChildren(...this.asked.choices.map((choice) => {
      const chosen = named.every((one) => one === choice);
      const item = element("li", chosen ? "chosen" : "", choice);
      if (chosen) { item.setAttribute("aria-current", "true"); }
      return item;
    }));
  }

  #action(name, act) {
    const button = element("button", "link", name);
    button.type = "button";
    button.addEventListener("click", act);
    this.actions.append(button);
  }
}
