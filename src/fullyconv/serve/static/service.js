/** The service: requests, uploads, and what to do while it cannot be reached. */

const GONE = [0, 502, 504];
const PAUSES = [1000, 1000, 2000, 3000, 5000];

/** An answer that is none of success; status 0 where there was no answer. */
export class Failure extends Error {
  constructor(message, status, retryAfter = 0) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }

  get unreachable() {
    return GONE.includes(this.status);
  }
}

/** Fires "lost" when the service cannot be reached, "back" when it can again. */
export const connection = new EventTarget();
let lost = false;

export async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    lose();
    throw new Failure("the service is not reachable", 0);
  }
  if (response.ok) return response;
  const failure = failureOf(response.status, await response.text(), response.headers.get("retry-after"));
  if (failure.unreachable) lose();
  throw failure;
}

export const askJson = async (path, options) => (await ask(path, options)).json();

/** POST an image; `sent` is told the share that is on its way. Resolves to the state of the opened image. */
export function upload(file, model, sent, signal) {
  return new Promise((resolve, reject) => {
    const form = new FormData();
    form.append("model", model);
    form.append("image", file, file.name || "image");
    const request = new XMLHttpRequest();
    request.open("POST", "/images");
    request.upload.onprogress = (event) => sent(event.lengthComputable ? event.loaded / event.total : 0);
    request.onload = () => {
      if (request.status === 201) {
        resolve(JSON.parse(request.responseText));
        return;
      }
      const failure = failureOf(request.status, request.responseText, request.getResponseHeader("retry-after"));
      if (failure.unreachable) lose();
      reject(failure);
    };
    request.onerror = () => {
      lose();
      reject(new Failure("the service is not reachable", 0));
    };
    request.onabort = () => reject(new DOMException("aborted", "AbortError"));
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

function failureOf(status, text, retryAfter) {
  let message = `the service answered ${status}`;
  try {
    message = JSON.parse(text).error ?? message;
  } catch {
    // a proxy's page, not the service's words
  }
  return new Failure(message, status, Number(retryAfter) || 0);
}

/** Resolves when the service can be reached, as far as is known. */
export function reachable() {
  if (!lost) return Promise.resolve();
  return new Promise((resolve) => connection.addEventListener("back", resolve, { once: true }));
}

async function lose() {
  if (lost) return;
  lost = true;
  connection.dispatchEvent(new Event("lost"));
  for (let tries = 0; lost; tries++) {
    await pause(PAUSES[Math.min(tries, PAUSES.length - 1)]);
    try {
      const response = await fetch("/page/about", { cache: "no-store" });
      if (GONE.includes(response.status)) continue;
      lost = false;
    } catch {
      // still away
    }
  }
  connection.dispatchEvent(new Event("back"));
}

export const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
