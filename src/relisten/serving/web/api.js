// Talks to the server: OpenAI's chat form with streaming, and what relisten adds to it.

export class ApiError extends Error {}

let askForKey = async () => null;
export const onKey = (ask) => { askForKey = ask; };

const headers = () => {
  const key = sessionStorage.getItem("relisten-key");
  return { "Content-Type": "application/json", ...(key ? { Authorization: "Bearer " + key } : {}) };
};

// A response whose status is 2xx. After 401 the reader is asked for the key, and the request is sent again.
const request = async (path, body, signal) => {
  const method = body === undefined ? "GET" : "POST";
  let response;
  for (;;) {
    try {
      response = await fetch(path, { method, headers: headers(), signal, body: body && JSON.stringify(body) });
    } catch (error) {
      if (error.name === "AbortError") { throw error; }
      throw new ApiError("The server cannot be reached. Is it still running?");
    }
    if (response.status !== 401) { break; }
    const key = await askForKey();
    if (!key) { throw new ApiError("This server answers only with its key."); }
    sessionStorage.setItem("relisten-key", key);
  }
  if (!response.ok) {
    const text = await response.text();
    let message = text.slice(0, 200) || `status ${response.status}`;
    try { message = JSON.parse(text).error.message; } catch { /* not from relisten: a proxy's own words */ }
    const again = response.headers.get("Retry-After");
    throw new ApiError(message + (again ? ` (try again in ${again} s)` : ""));
  }
  return response;
};

export const models = async () => (await (await request("/v1/models")).json()).data[0];
export const examples = async () => (await (await request("/v1/relisten/examples")).json()).data;
export const exampleAudio = async (number) => (await request(`/v1/relisten/examples/${number}`)).blob();
export const savedPage = async (asked, answer) => (await request("/v1/relisten/page", { request: asked, answer })).blob();

// The recording as the model hears it, for what this browser cannot decode.
export const decoded = async (blob) =>
  (await request("/v1/relisten/recording", { input_audio: { data: await base64(blob) } })).blob();

// A segment as an operation made it, as the model heard it.
export const clip = async (blob, { start, end, operation, band, stretch }) => {
  const offset = stretch?.[0] ?? 0;
  const asked = { segment: [Math.max(0, start - offset), end - offset], operation, band, stretch: stretch ?? undefined };
  return (await request("/v1/relisten/clip", { input_audio: { data: await base64(blob) }, ...asked })).blob();
};

export const base64 = (blob) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
  reader.onerror = () => reject(new ApiError("The file cannot be read."));
  reader.readAsDataURL(blob);
});

export const chat = (model, question, sound, own) => ({
  model,
  messages: [{ role: "user", content: [
    { type: "input_audio", input_audio: { data: sound, format: "wav" } },
    { type: "text", text: question },
  ] }],
  relisten: own,
});

// Calls `heard` with each delta as it comes. Returns the field `relisten` of the finished answer.
export const ask = async (body, signal, heard) => {
  const response = await request("/v1/chat/completions", { ...body, stream: true }, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "", whole = null;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) { break; }
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: {")) { continue; }
      const data = JSON.parse(event.slice(6));
      if (data.error) { throw new ApiError(data.error.message); }
      for (const choice of data.choices) {
        if (choice.finish_reason) { whole = choice.delta.relisten; } else { heard(choice.delta); }
      }
    }
  }
  if (!whole) { throw new ApiError("The connection broke off before the answer was finished."); }
  return whole;
};
