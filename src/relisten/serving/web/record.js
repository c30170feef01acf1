// The microphone. A recording is handed over when the reader stops it.

const MOST = 600;  // seconds

export const recorder = (button, done, fail) => {
  let running = null, timer = 0;
  const stop = () => { running?.stop(); };
  button.addEventListener("click", async () => {
    if (running) { stop(); return; }
    if (!navigator.mediaDevices?.getUserMedia) {
      fail("The browser gives the microphone only to pages at https:// or on this machine (http://127.0.0.1).");
      return;
    }
    let stream;
    try { stream = await navigator.mediaDevices.getUserMedia({ audio: true }); } catch (error) {
      fail(error.name === "NotAllowedError" ? "The microphone was not allowed." : "There is no microphone that can be used.");
      return;
    }
    const started = Date.now(), pieces = [];
    running = new MediaRecorder(stream);
    running.ondataavailable = (event) => pieces.push(event.data);
    running.onstop = () => {
      clearInterval(timer);
      stream.getTracks().forEach((track) => track.stop());
      button.textContent = "Record";
      button.classList.remove("recording");
      button.setAttribute("aria-pressed", "false");
      const type = running.mimeType;
      running = null;
      done(new Blob(pieces, { type }));
    };
    running.start();
    button.classList.add("recording");
    button.setAttribute("aria-pressed", "true");
    const tick = () => {
      const seconds = Math.floor((Date.now() - started) / 1000);
      button.textContent = `Stop (${seconds} s)`;
      if (seconds >= MOST) { stop(); }
    };
    tick();
    timer = setInterval(tick, 250);
  });
};
