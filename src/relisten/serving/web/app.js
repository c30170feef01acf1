// The page: choose a recording, ask, watch the model listen.

import * as api from "/web/api.js";
import * as store from "/web/store.js";
import { Card, element } from "/web/card.js";
import { Player } from "/web/player.js";
import { recorder } from "/web/record.js";

document.documentElement.classList.add("js");
const $ = (id) => document.getElementById(id);
const player = new Player();
let model = null;
let current = null;  // {id, name, blob}
let stretch = null;  // [start, end] in seconds, or null for the whole recording
let shown = null;  // the take whose segments are drawn

const newId = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

const problem = (message) => {
  $("problem").textContent = message ?? "";
  $("problem").hidden = !message;
};

// Runs something that may fail; what went wrong is told on the page.
const telling = (work) => async (...given) => {
  problem();
  try { await work(...given); } catch (error) {
    if (error.name === "AbortError") { return; }
    if (!(error instanceof api.ApiError)) { console.error(error); }
    problem(error.message || String(error));
  }
};

api.onKey(() => new Promise((resolve) => {
  $("key").value = "";
  $("keys").addEventListener("close", () => resolve($("key").value), { once: true });
  $("keys").showModal();
}));

// the recording

const use = async (recording) => {
  if (!recording.blob.size) { throw new api.ApiError(`${recording.name}: the file is empty.`); }
  if (model && recording.blob.size > model.relisten.max_bytes) {
    const most = (model.relisten.max_bytes / 1e6).toFixed(0);
    throw new api.ApiError(`${recording.name}: the file is larger than ${most} MB, which this server does not accept.`);
  }
  current = null;
  $("form").hidden = true;
  $("name").textContent = recording.name;
  try {
    if (recording.convert) { throw new Error("its length is not known to the browser"); }
    await player.load(recording.blob);
  } catch {
    try { await player.load(await api.decoded(recording.blob)); } catch (error) {
      $("player").hidden = true;
      throw error;
    }
  }
  current = recording;
  shown = null;
  choose(null);
  $("form").hidden = false;
};

const useFile = telling(async (file) => {
  if (!file) { return; }
  await use({ id: newId(), name: file.name, blob: file });
  $("question").focus();
});

const choose = (given) => {
  const [from, to] = given ?? [0, 0];
  stretch = to - from > 0.05 ? [Math.max(0, from), Math.min(to, player.duration)] : null;
  $("from").value = stretch ? stretch[0].toFixed(1) : "";
  $("to").value = stretch ? stretch[1].toFixed(1) : "";
  $("from").max = $("to").max = player.duration.toFixed(1);
};
player.onStretch = choose;
player.onProblem = (error) => problem(error.message || String(error));
player.clipOf = (segment) => api.clip(current.blob, segment);

const typed = () => {
  const from = Number($("from").value || 0), to = Number($("to").value || player.duration);
  choose($("from").value || $("to").value ? [from, to] : null);
  player.select(stretch);
};

// asking

const showTake = (card, take) => {
  shown = take;
  document.querySelectorAll(".take.shown").forEach((one) => one.classList.remove("shown"));
  card.shown(take);
  player.show(take.drawn);
};

// A card whose recording is `recording`. Its buttons first bring that recording back, if another one is drawn.
const makeCard = (recording, asked, kept, control) => {
  const bring = async (take) => {
    if (current?.id !== recording.id) { await use(recording); }
    if (shown !== take) { showTake(card, take); }
  };
  const card = new Card(asked, {
    show: telling(bring),
    hear: telling(async (take, number) => { await bring(take); await player.hear(number); }),
    stop: () => control?.abort(),
    save: telling(async (take) => {
      const page = await api.savedPage(await body(recording, asked, take.format), take.told);
      const link = element("a");
      link.href = URL.createObjectURL(page);
      link.download = `${asked.name.replace(/\.[^.]*$/, "").replace(/[^\p{L}\p{N} _-]/gu, "_") || "answer"}.html`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    }),
    remove: telling(async () => { card.element.remove(); if (kept.id) { await store.forget(kept); await listHistory(); } }),
  });
  return card;
};

const body = async (recording, asked, format) => {
  const own = { choices: asked.choices, format, name: asked.name, only_choices: Boolean(asked.only), trace: true };
  if (asked.stretch) { own.stretch = asked.stretch; }
  return api.chat(model.id, asked.question, await api.base64(recording.blob), own);
};

const run = async (recording, asked) => {
  const control = new AbortController(), kept = {};
  const card = makeCard(recording, asked, kept, control);
  $("answers").prepend(card.element);
  showTake(card, card.takes[0]);
  await Promise.all(card.takes.map(async (take) => {
    try {
      const told = await api.ask(await body(recording, asked, take.format), control.signal, (delta) => {
        take.add(delta);
        if (shown === take && current?.id === recording.id) { player.show(take.drawn); }
      });
      take.finish(told);
      if (shown === take && current?.id === recording.id) { player.show(take.drawn); }
    } catch (error) {
      if (error.name !== "AbortError" && !(error instanceof api.ApiError)) { console.error(error); }
      take.fail(error.name === "AbortError" ? "Stopped." : error.message || String(error));
    }
  }));
  card.finished();
  const takes = card.takes.filter((take) => take.told).map(({ format, told }) => ({ format, told }));
  if (takes.length) {
    Object.assign(kept, { id: newId(), recording: recording.id, created: Date.now(), asked, takes });
    await store.keep(recording, kept);
    await listHistory();
  }
};

// the history

const openAgain = telling(async (kept) => {
  const recording = await store.recording(kept.recording);
  if (!recording) { throw new api.ApiError("The recording of this question is no longer in this browser."); }
  await use(recording);
  const card = makeCard(recording, kept.asked, kept, null);
  card.takes.forEach((take) => {
    const told = kept.takes.find((one) => one.format === take.format)?.told;
    if (told) { take.finish(told); } else { take.fail("This answer was not finished."); }
  });
  card.finished();
  $("answers").prepend(card.element);
  showTake(card, card.takes[0]);
  $("question").value = kept.asked.question;
  $("choices").value = kept.asked.choices.join("\n");
  $("only").checked = Boolean(kept.asked.only);
  $("format").value = kept.asked.format;
  player.select(kept.asked.stretch);
  choose(kept.asked.stretch);
  card.element.scrollIntoView({ block: "nearest" });
});

const listHistory = async () => {
  const all = await store.answers();
  $("past").hidden = !all.length;
  $("history").replaceChildren(...all.map((kept) => {
    const item = element("li"), open = element("button", "open"), away = element("button", "link", "delete");
    open.type = away.type = "button";
    const said = kept.takes.map(({ told }) => told.choice ?? told.answer ?? "no answer").join(" / ");
    open.append(element("b", "", kept.asked.question), element("small", "", `${said} · ${kept.asked.name} · ${new Date(kept.created).toLocaleString()}`));
    open.addEventListener("click", () => openAgain(kept));
    away.setAttribute("aria-label", `Delete: ${kept.asked.question}`);
    away.addEventListener("click", telling(async () => { await store.forget(kept); await listHistory(); }));
    item.append(open, away);
    return item;
  }));
};

// wiring

$("file").addEventListener("change", () => { useFile($("file").files[0]); $("file").value = ""; });
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragenter" || name === "dragover");
    if (name === "drop") { useFile(event.dataTransfer.files[0]); }
  });
}
recorder($("record"), telling(async (blob) => {
  await use({ id: newId(), name: `microphone ${new Date().toLocaleTimeString()}`, blob, convert: true });
}), problem);
$("from").addEventListener("change", typed);
$("to").addEventListener("change", typed);
$("whole").addEventListener("click", () => { choose(null); player.select(null); });
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const choices = $("choices").value.split("\n").map((line) => line.trim()).filter(Boolean);
  const asked = {
    name: current.name, question: $("question").value.trim(), choices, only: $("only").checked, format: $("format").value,
    stretch,
  };
  telling(run)(current, asked);
});
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); $("form").requestSubmit(); }
});
$("forget").addEventListener("click", telling(async () => { await store.forgetAll(); await listHistory(); }));

telling(async () => {
  await listHistory();
  model = await api.models();
  $("model").textContent = model.id;
  const { about, defaults } = model.relisten;
  $("about").textContent = about ? `${model.id} answers. It knows only ${about}.` : `${model.id} answers.`;
  $("format").value = defaults.format;
  $("only").checked = defaults.only_choices;
  const offered = await api.examples();
  $("examples").append(...offered.map((example, n) => {
    const option = element("option", "", `${example.name}: ${example.question}`);
    option.value = n;
    return option;
  }));
  $("examples").addEventListener("change", telling(async () => {
    const number = $("examples").value;
    if (number === "") { return; }
    const example = offered[number];
    await use({ id: `example-${example.name}`, name: example.name, blob: await api.exampleAudio(number) });
    $("question").value = example.question;
    $("choices").value = example.choices.join("\n");
  }));
})();
