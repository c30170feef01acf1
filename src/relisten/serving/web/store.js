// The history: recordings and answers in this browser's own database. Nothing of it leaves the browser.

const MOST = 50;  // answers that are kept

const open = () => new Promise((resolve, reject) => {
  const request = indexedDB.open("relisten", 1);
  request.onupgradeneeded = () => {
    request.result.createObjectStore("recordings", { keyPath: "id" });
    request.result.createObjectStore("answers", { keyPath: "id" });
  };
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

// Run `work` on both stores in one transaction. A browser without a database (private windows) keeps nothing.
const transact = async (mode, work) => {
  let database;
  try { database = await open(); } catch { return undefined; }
  try {
    return await new Promise((resolve, reject) => {
      const transaction = database.transaction(["recordings", "answers"], mode);
      const result = work(transaction.objectStore("recordings"), transaction.objectStore("answers"));
      transaction.oncomplete = () => resolve(result?.result);
      transaction.onerror = transaction.onabort = () => reject(transaction.error);
    });
  } catch { return undefined; } finally { database.close(); }
};

export const answers = async () =>
  ((await transact("readonly", (_, kept) => kept.getAll())) ?? []).sort((a, b) => b.created - a.created);

export const recording = (id) => transact("readonly", (recordings) => recordings.get(id));

export const keep = async (recording, answer) => {
  const { id, name, blob } = recording;
  await transact("readwrite", (recordings, kept) => { recordings.put({ id, name, blob }); kept.put(answer); });
  for (const old of (await answers()).slice(MOST)) { await forget(old); }
};

export const forget = async (answer) => {
  const others = (await answers()).filter((other) => other.id !== answer.id);
  await transact("readwrite", (recordings, kept) => {
    kept.delete(answer.id);
    if (!others.some((other) => other.recording === answer.recording)) { recordings.delete(answer.recording); }
  });
};

export const forgetAll = () => transact("readwrite", (recordings, kept) => { recordings.clear(); kept.clear(); });
