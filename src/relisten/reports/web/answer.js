"use strict";
(() => {
  document.documentElement.classList.add("js");
  const audio = document.getElementById("audio");
  const seek = document.getElementById("seek");
  const play = document.getElementById("play");
  const now = document.getElementById("now");
  let stopAt = null;

  // Seeking within a data: address fails in some browsers; the same bytes as a blob can be sought anywhere.
  const [head, body] = audio.src.split(",");
  const bytes = Uint8Array.from(atob(body), (c) => c.charCodeAt(0));
  audio.src = URL.createObjectURL(new Blob([bytes], { type: head.slice(5).split(";")[0] }));

  // What an operation made of a segment is a sound of its own.
  let clip = null;
  const silence = () => { if (clip) { clip.pause(); clip.currentTime = 0; clip = null; } };

  const mark = (number) => {
    for (const element of document.querySelectorAll("[data-n]")) {
      element.classList.toggle("active", element.dataset.n === number);
    }
  };
  const draw = () => {
    seek.value = audio.currentTime;
    seek.setAttribute("aria-valuetext", audio.currentTime.toFixed(1) + " seconds");
    now.textContent = audio.currentTime.toFixed(1);
  };
  const frame = () => {
    if (stopAt !== null && audio.currentTime >= stopAt) { audio.pause(); }
    draw();
    if (!audio.paused) { requestAnimationFrame(frame); }
  };
  const hear = (button) => {
    silence();
    const made = button.dataset.clip && document.getElementById(button.dataset.clip);
    if (made) {
      audio.pause();
      clip = made;
      mark(button.dataset.n);
      made.onended = () => { clip = null; mark(null); };
      made.play();
      return;
    }
    stopAt = Number(button.dataset.end);
    audio.currentTime = Number(button.dataset.start);
    mark(button.dataset.n);
    audio.play();
  };
  const toggle = () => {
    silence();
    stopAt = null;
    if (audio.paused) { audio.play(); } else { audio.pause(); }
  };

  audio.addEventListener("play", () => { play.classList.add("on"); play.setAttribute("aria-label", "Pause"); frame(); });
  audio.addEventListener("pause", () => {
    play.classList.remove("on");
    play.setAttribute("aria-label", "Play");
    mark(null);
    stopAt = null;
    draw();
  });
  audio.addEventListener("seeked", draw);
  play.addEventListener("click", toggle);
  seek.addEventListener("input", () => { stopAt = null; mark(null); audio.currentTime = Number(seek.value); });
  for (const button of document.querySelectorAll("button[data-start]")) {
    button.addEventListener("click", () => hear(button));
    button.addEventListener("mouseenter", () => { if (audio.paused) { mark(button.dataset.n); } });
    button.addEventListener("mouseleave", () => { if (audio.paused) { mark(null); } });
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) { return; }
    const button = /^[1-9]$/.test(event.key) && document.querySelector('button[data-n="' + (event.key - 1) + '"]');
    if (button) {
      hear(button);
    } else if (event.key === "Escape") {
      silence();
      mark(null);
      audio.pause();
    } else if (event.key === " " && (event.target === document.body || event.target === seek)) {
      event.preventDefault();
      toggle();
    }
  });
})();
