"use strict";
(() => {
  let playing = null;
  let stopAt = 0;
  let pressed = null;
  const stop = () => {
    if (playing) { playing.pause(); }
    if (pressed) { pressed.classList.remove("active"); }
    playing = pressed = null;
  };
  const watch = (audio) => {
    if (audio !== playing) { return; }
    if (audio.ended || audio.currentTime >= stopAt) { stop(); return; }
    requestAnimationFrame(() => watch(audio));
  };
  // Seeking within a data: address fails in some browsers; the same bytes as a blob can be sought anywhere.
  const ready = (audio) => {
    if (audio.src.startsWith("data:")) {
      const [head, body] = audio.src.split(",");
      const bytes = Uint8Array.from(atob(body), (c) => c.charCodeAt(0));
      audio.src = URL.createObjectURL(new Blob([bytes], { type: head.slice(5).split(";")[0] }));
    }
    return audio;
  };
  for (const button of document.querySelectorAll("button[data-sound]")) {
    button.addEventListener("click", () => {
      const again = button === pressed;
      stop();
      if (again) { return; }
      playing = ready(document.getElementById(button.dataset.sound));
      stopAt = Number(button.dataset.end);
      pressed = button;
      button.classList.add("active");
      playing.currentTime = Number(button.dataset.start);
      playing.play();
      watch(playing);
    });
  }
})();
