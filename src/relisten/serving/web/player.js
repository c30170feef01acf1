// The recording: waveform, spectrogram, segments, and the stretch that is asked about.

import WaveSurfer from "/web/vendor/wavesurfer.esm.js";
import Regions from "/web/vendor/regions.esm.js";
import Spectrogram from "/web/vendor/spectrogram.esm.js";
import { way } from "/web/card.js";

const $ = (id) => document.getElementById(id);
const nonce = document.querySelector("script[nonce]").nonce;
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const mixed = (name, percent) => `color-mix(in srgb, ${colour(name)} ${percent}%, transparent)`;
const NUM_COLOURS = 6;

// Mono samples at 16 kHz, as the model hears them, and their seconds. Throws where the browser cannot decode the file.
const decode = async (blob) => {
  const buffer = await new OfflineAudioContext(1, 1, 16000).decodeAudioData(await blob.arrayBuffer());
  const mono = new Float32Array(buffer.length);
  for (let channel = 0; channel < buffer.numberOfChannels; channel++) {
    buffer.getChannelData(channel).forEach((value, n) => { mono[n] += value / buffer.numberOfChannels; });
  }
  return [mono, buffer.duration];
};

export class Player {
  #wave = null;
  #regions = null;
  #spectrogram = null;
  #selection = null;
  #segments = [];
  #drawn = [];
  #playing = -1;
  #clips = new Map();  // what operations made of segments, as addresses of blobs
  #clip = null;
  onStretch = () => {};
  onProblem = () => {};
  clipOf = async () => null;  // gives the sound of a segment as an operation made it

  constructor() {
    $("play").addEventListener("click", () => this.toggle());
    $("spectrogram").addEventListener("change", () => this.#drawSpectrogram());
    $("player").addEventListener("keydown", (event) => this.#key(event));
    document.addEventListener("keydown", (event) => {
      if (event.target === document.body) { this.#key(event); }
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#paint());
  }

  get duration() { return this.#wave?.getDuration() ?? 0; }

  // Draw a recording. Throws where the browser cannot decode it.
  async load(blob) {
    const [samples, duration] = await decode(blob);
    this.#silence();
    this.#clips.forEach((address) => URL.revokeObjectURL(address));
    this.#clips.clear();
    this.#wave?.destroy();
    this.#selection = this.#spectrogram = null;
    this.#segments = [];
    this.#drawn = [];
    $("tabs").replaceChildren();
    $("player").hidden = false;
    this.#regions = Regions.create();
    this.#wave = WaveSurfer.create({
      container: $("wave"), height: 120, cspNonce: nonce, plugins: [this.#regions], barWidth: 2, barGap: 1.5,
      barRadius: 2, normalize: true, cursorWidth: 2, ...this.#colours(),
    });
    const wave = this.#wave;
    wave.on("timeupdate", (now) => {
      $("now").textContent = now.toFixed(1);
      const on = this.#segments[this.#playing];
      if (on && !this.#clip && (now >= on.end || now < on.start - 0.3)) { this.#mark(-1); }
    });
    wave.on("play", () => this.#button(true));
    wave.on("pause", () => {
      this.#button(false);
      if (!this.#clip) { this.#mark(-1); }
    });
    await new Promise((resolve, reject) => {
      wave.on("error", reject);  // an element that cannot play the file says so here alone
      wave.loadBlob(blob, [samples], duration).then(resolve, reject);
    });
    $("length").textContent = wave.getDuration().toFixed(1);
    this.#axis();
    this.#regions.enableDragSelection({ color: mixed("--ink", 12) }, 4);
    this.#regions.on("region-created", (region) => {
      if (region.id.startsWith("segment-")) { return; }
      this.#selection?.remove();
      this.#selection = region;
      this.onStretch([region.start, region.end]);
    });
    this.#regions.on("region-updated", (region) => {
      if (region === this.#selection) { this.onStretch([region.start, region.end]); }
    });
    this.#regions.on("region-clicked", (region, event) => {
      event.stopPropagation();
      if (region === this.#selection) { wave.play(region.start, region.end); } else { this.hear(Number(region.id.slice(8))); }
    });
    if ($("spectrogram").checked) { this.#drawSpectrogram(); }
  }

  // The stretch that is asked about, [start, end] in seconds; null for all of the recording.
  select(stretch) {
    this.#selection?.remove();
    this.#selection = null;
    if (stretch && this.#wave) {
      this.#regions.addRegion({ id: "stretch", start: stretch[0], end: stretch[1], color: mixed("--ink", 12) });
    }
  }

  // Segments [{start, end, heard}], of which those that are new light up.
  show(segments) {
    const old = this.#segments.map((segment) => JSON.stringify(segment));
    if (segments.length === old.length && segments.every((segment, n) => JSON.stringify(segment) === old[n])) { return; }
    this.#segments = segments;
    this.#drawn.forEach((region) => region.remove());
    this.#drawn = segments.map((segment, n) => this.#regions.addRegion({
      id: `segment-${n}`, start: segment.start, end: Math.min(segment.end, this.duration), drag: false, resize: false,
      color: this.#tint(n, segment.heard ? 20 : 7),
    }));
    this.#tabs();
    segments.forEach((segment, n) => {
      if (JSON.stringify(segment) !== old[n]) { this.#flash(n); }
    });
  }

  // Play a segment by its number, counted from 0.
  async hear(number) {
    const segment = this.#segments[number];
    if (!segment) { return; }
    this.#silence();
    if (segment.heard && (segment.operation ?? "seg") !== "seg") {
      await this.#hearClip(segment, number);
      return;
    }
    this.#wave.play(segment.start, Math.min(segment.end, this.duration));
    this.#mark(number);
  }

  // A segment plays as an operation made it: slower, louder, some of its frequencies.
  async #hearClip(segment, number) {
    const key = JSON.stringify(segment), clip = new Audio();
    this.#clip = clip;
    this.#wave.pause();
    this.#wave.setTime(segment.start);
    this.#mark(number);
    try {
      if (!this.#clips.has(key)) { this.#clips.set(key, URL.createObjectURL(await this.clipOf(segment))); }
      if (this.#clip !== clip) { return; }  // another one was asked for meanwhile
      clip.src = this.#clips.get(key);
      clip.addEventListener("ended", () => this.#silence());
      await clip.play();
    } catch (error) {
      this.#silence();
      if (error.name !== "AbortError") { this.onProblem(error); }
    }
  }

  #silence() {
    if (!this.#clip) { return; }
    this.#clip.pause();
    this.#clip = null;
    this.#mark(-1);
  }

  toggle() {
    this.#silence();
    this.#mark(-1);
    this.#wave?.playPause();
  }

  pause() {
    this.#silence();
    this.#wave?.pause();
  }

  #key(event) {
    if (!this.#wave || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) { return; }
    if (/^[1-9]$/.test(event.key)) {
      this.hear(Number(event.key) - 1);
    } else if (event.key === " " && !event.target.matches("button")) {
      event.preventDefault();
      this.toggle();
    } else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      event.preventDefault();
      this.#wave.skip(event.key === "ArrowLeft" ? -0.5 : 0.5);
    } else if (event.key === "Escape") {
      this.pause();
    }
  }

  #button(on) {
    $("play").classList.toggle("on", on);
    $("play").setAttribute("aria-label", on ? "Pause" : "Play");
  }

  #mark(number) {
    if (number === this.#playing) { return; }
    this.#playing = number;
    this.#drawn.forEach((region, n) => region.setOptions({ color: this.#tint(n, n === number ? 40 : this.#segments[n].heard ? 20 : 7) }));
    [...$("tabs").children].forEach((tab, n) => tab.classList.toggle("active", n === number));
  }

  #tint(number, percent) { return mixed(`--s${number % NUM_COLOURS}`, percent); }

  #flash(number) {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) { return; }
    const frames = [{ backgroundColor: this.#tint(number, 75) }, {}];
    this.#drawn[number].element?.animate(frames, { duration: 1400, easing: "ease-out" });
    $("tabs").children[number]?.animate([{ transform: "translateY(-8px)", opacity: 0 }, {}], { duration: 300, easing: "ease-out" });
  }

  // Numbered buttons over the waveform, in as many rows as are needed so that none covers another.
  #tabs() {
    const ends = [];
    const tabs = this.#segments.map((segment, n) => {
      const tab = document.createElement("button");
      const start = Math.min(segment.start, 0.965 * this.duration);
      let lane = ends.findIndex((end) => end <= start);
      if (lane < 0) { lane = ends.length; }
      ends[lane] = Math.max(segment.end, start + 0.035 * this.duration);
      tab.type = "button";
      tab.className = `tab s${n % NUM_COLOURS}${segment.heard ? "" : " named"}`;
      tab.textContent = n + 1;
      tab.style.left = `min(${100 * segment.start / this.duration}%, calc(100% - 22px))`;
      tab.style.width = `${100 * (Math.min(segment.end, this.duration) - segment.start) / this.duration}%`;
      tab.style.top = `${26 * lane}px`;
      tab.setAttribute("aria-label", `Play segment ${n + 1}, ${segment.start.toFixed(1)} to ${segment.end.toFixed(1)} seconds${segment.heard && way(segment) ? `, ${way(segment)}` : ""}`);
      tab.addEventListener("click", () => this.hear(n));
      return tab;
    });
    $("tabs").style.setProperty("--lanes", ends.length);
    $("tabs").replaceChildren(...tabs);
  }

  #axis() {
    const power = 10 ** Math.floor(Math.log10(this.duration / 8));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= this.duration / 8);
    const ticks = [];
    for (let n = 0; n * step < 0.975 * this.duration; n++) {
      const tick = document.createElement("span");
      tick.textContent = Number((n * step).toPrecision(6)) + (n ? " s" : "");
      tick.style.left = `${100 * n * step / this.duration}%`;
      ticks.push(tick);
    }
    $("axis").replaceChildren(...ticks);
  }

  #drawSpectrogram() {
    if (!this.#wave) { return; }
    this.#spectrogram?.destroy();
    this.#spectrogram = null;
    if ($("spectrogram").checked) {
      // Ink that becomes denser with the level, on whatever the page's ground is.
      const [red, green, blue] = colour("--ink").match(/[0-9a-f]{2}/gi).map((pair) => parseInt(pair, 16) / 255);
      const colorMap = Array.from({ length: 256 }, (_, level) => [red, green, blue, level / 255]);
      this.#spectrogram = this.#wave.registerPlugin(Spectrogram.create({
        rendering: "windowed", useWebWorker: false, height: 140, scale: "mel", labels: true, frequencyMax: 8000,
        fftSamples: 512, colorMap, labelsColor: colour("--ink"), labelsHzColor: colour("--ink"),
        labelsBackground: mixed("--card", 70),
      }));
    }
  }

  #colours() {
    return { waveColor: colour("--wave"), progressColor: colour("--soft"), cursorColor: colour("--ink") };
  }

  #paint() {
    this.#wave?.setOptions(this.#colours());
    this.#drawSpectrogram();
    this.#drawn.forEach((region, n) => region.setOptions({ color: this.#tint(n, this.#segments[n].heard ? 20 : 7) }));
  }
}
